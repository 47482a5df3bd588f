//! Moving many blobs between files and a store.
