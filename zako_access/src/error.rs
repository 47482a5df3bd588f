//! Why rules can't be put in force.

use std::io;
use std::path::PathBuf;

/// Why rules can't be put in force.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// Two identities have one name.
    #[error("two identities are called {0:?}")]
    SameName(String),
    /// Two identities have one token, or one has it twice.
    #[error("the identities {0:?} and {1:?} have the same token")]
    SameToken(String, String),
    /// Two identities have one user.
    #[error("the identities {0:?} and {1:?} have the same user {2}")]
    SameUser(String, String, u32),
    /// An identity that nobody can show.
    #[error(
        "the identity {0:?} has no token-sha256, certificate, user or subject by which it \
         could be known"
    )]
    Unknowable(String),
    /// Subjects are those of JWTs.
    #[error("the identity {0:?} has a subject, and there is no table [access.jwt]")]
    NoJwt(String),
    /// A list in `[access.jwt]` is empty.
    #[error("{0} of [access.jwt] is empty: a token would be good that is meant for others")]
    Empty(&'static str),
    /// The keys can't be read.
    #[error("reading the keys of JWTs from {path}: {error}")]
    Keys {
        /// The file.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// The keys make no sense.
    #[error("the keys of JWTs in {path}: {why}")]
    BadKeys {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
}
