//! Folders as blobs.
