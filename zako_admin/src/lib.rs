//! The port by which operators watch a server: health, metrics and a status page.
