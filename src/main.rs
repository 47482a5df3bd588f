//! The `zako` command.
fn main() {}
