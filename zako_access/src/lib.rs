//! Who may do what on a server: identities, their roles, and the rates and quotas they
//! have.
//!
//! [`AccessRules`] is what an operator writes; [`AccessControl`] finds the identity behind
//! what a caller shows by it: a token, a JWT, a client's certificate, the user at the other
//! end of a Unix socket, or nothing at all.
#![forbid(unsafe_code)]

mod authorization;
mod certificate;
mod control;
mod error;
mod identities;
mod jwks;
mod jwt;
mod pattern;
pub mod quota;
mod roles;
mod rules;
mod token;

pub use certificate::CertificatePattern;
pub use control::{AccessControl, Prepared};
pub use error::AccessError;
pub use pattern::Pattern;
pub use quota::{LimitTable, Limits, Quotas};
pub use roles::Roles;
pub use rules::{AccessRules, Algorithm, IdentityRule, JwtRule, Name, OneOrMany};
pub use token::{TOKEN_PREFIX, TokenHash, new_token};
