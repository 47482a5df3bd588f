//! The stores: on local disk, in memory, and one in front of another.
