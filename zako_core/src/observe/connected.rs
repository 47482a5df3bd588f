//! A connection as long as it is there.

use std::sync::Arc;

use super::{Interface, Observer};

/// Told as a connection that came, and as one that ended when this drops.
#[derive(Debug)]
pub struct Connected {
    observer: Option<Arc<dyn Observer>>,
    interface: Interface,
}

impl Connected {
    /// Tells of the connection, if anyone listens.
    pub fn new(observer: Option<Arc<dyn Observer>>, interface: Interface) -> Self {
        if let Some(observer) = &observer {
            observer.connected(interface);
        }
        Self {
            observer,
            interface,
        }
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        if let Some(observer) = &self.observer {
            observer.disconnected(self.interface);
        }
    }
}
