//! Who may do what on a server: identities, their roles, and the rates and quotas they
//! have.

pub mod quota;

pub use quota::{LimitTable, Limits, Quotas};
