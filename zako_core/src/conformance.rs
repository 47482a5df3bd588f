//! The suite that checks an implementation of `Cas` against its contract.
