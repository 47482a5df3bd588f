//! The one error type of this crate.

use std::error::Error;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::Digest;

/// The result of this crate's operations.
pub type Result<T, E = CasError> = std::result::Result<T, E>;

/// What went wrong, with the blob and the file it concerns.
///
/// Cheap to clone, so that one failure can be told to all who wait for it. What a
/// caller can act on is its [`kind`](Self::kind).
#[derive(Clone)]
pub struct CasError(Arc<Inner>);

#[derive(Clone)]
struct Inner {
    kind: ErrorKind,
    message: String,
    digest: Option<Digest>,
    path: Option<PathBuf>,
    held: Option<u64>,
    retry_after: Option<Duration>,
    source: Option<Arc<dyn Error + Send + Sync>>,
}

/// The kinds of errors, by what a caller can do about them.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The blob is absent: store it, or do without.
    NotFound,
    /// The blob is present: nothing need be sent.
    AlreadyExists,
    /// The blob doesn't have that range.
    InvalidRange,
    /// The bytes are not those of the digest, or not as many.
    Mismatch,
    /// An upload can't be resumed at that offset; [`CasError::held`] tells at which.
    NotHeld,
    /// The bytes of an earlier, interrupted upload turned out damaged and were
    /// dropped: begin again at 0.
    Stale,
    /// A request makes no sense as it is.
    InvalidArgument,
    /// No room, or a limit is reached; [`CasError::retry_after`] may tell when to
    /// try again.
    NoSpace,
    /// The bytes of the blob are damaged; it is in quarantine now.
    Corrupt,
    /// The store is in use by another process.
    Locked,
    /// The store's format is not known to this version.
    Format,
    /// The token is missing, unknown, expired or used up: negotiate again.
    Unauthenticated,
    /// The token doesn't allow this.
    PermissionDenied,
    /// One end's certificate doesn't show what the other wants to see.
    Untrusted,
    /// The server and the client have no road in common, or don't offer this.
    Unsupported,
    /// The far side can't be reached, or went away: try again.
    Unavailable,
    /// It took too long.
    Timeout,
    /// The store is shut down.
    Closed,
    /// An input or output error of this machine.
    Io,
    /// The far side broke the protocol, or this side has a bug.
    Internal,
}

impl CasError {
    /// An error of this kind, with a text for a person.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Arc::new(Inner {
            kind,
            message: message.into(),
            digest: None,
            path: None,
            held: None,
            retry_after: None,
            source: None,
        }))
    }

    /// The blob is absent.
    pub fn not_found(digest: Digest) -> Self {
        Self::new(ErrorKind::NotFound, "the blob is not here").with_digest(digest)
    }

    /// The blob is present.
    pub fn already_exists(digest: Digest) -> Self {
        Self::new(ErrorKind::AlreadyExists, "the blob is already here").with_digest(digest)
    }

    /// The bytes given under `expected` are those of `actual`.
    pub fn mismatch(expected: Digest, actual: Digest) -> Self {
        Self::new(
            ErrorKind::Mismatch,
            format!("the bytes are those of {actual}"),
        )
        .with_digest(expected)
    }

    /// An upload can't go on at `offset`, since only `held` bytes are here.
    pub fn not_held(digest: Digest, offset: u64, held: u64) -> Self {
        Self::new(
            ErrorKind::NotHeld,
            format!("the upload can't go on at {offset}: {held} bytes are held"),
        )
        .with_digest(digest)
        .with_held(held)
    }

    /// An I/O error at `path`, while doing what `message` says. A full disk or
    /// quota becomes [`ErrorKind::NoSpace`].
    pub fn io(message: impl Into<String>, path: &Path, error: io::Error) -> Self {
        let kind = match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::NoSpace,
            _ => ErrorKind::Io,
        };
        Self::new(kind, message).with_path(path).with_source(error)
    }

    /// Names the blob that it concerns.
    #[must_use]
    pub fn with_digest(self, digest: Digest) -> Self {
        self.amend(|inner| inner.digest = Some(digest))
    }

    /// Names the file that it concerns.
    #[must_use]
    pub fn with_path(self, path: &Path) -> Self {
        self.amend(|inner| inner.path = Some(path.to_owned()))
    }

    /// Tells how many bytes of the upload are held.
    #[must_use]
    pub fn with_held(self, held: u64) -> Self {
        self.amend(|inner| inner.held = Some(held))
    }

    /// Tells when another try makes sense.
    #[must_use]
    pub fn with_retry_after(self, retry_after: Duration) -> Self {
        self.amend(|inner| inner.retry_after = Some(retry_after))
    }

    /// Adds the error behind it.
    #[must_use]
    pub fn with_source(self, source: impl Error + Send + Sync + 'static) -> Self {
        self.amend(|inner| inner.source = Some(Arc::new(source)))
    }

    /// What a caller can act on.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The text for a person, without blob, path and source.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The blob it concerns.
    pub fn digest(&self) -> Option<Digest> {
        self.0.digest
    }

    /// The file it concerns.
    pub fn path(&self) -> Option<&Path> {
        self.0.path.as_deref()
    }

    /// How many bytes of the upload are held.
    pub fn held(&self) -> Option<u64> {
        self.0.held
    }

    /// When another try makes sense.
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// The error directly behind it, of which its text tells too.
    pub(crate) fn cause(&self) -> Option<&(dyn Error + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }

    /// Whether the blob is absent.
    pub fn is_not_found(&self) -> bool {
        self.kind() == ErrorKind::NotFound
    }

    /// Whether the blob is present already.
    pub fn is_already_exists(&self) -> bool {
        self.kind() == ErrorKind::AlreadyExists
    }

    /// Whether the same call may succeed when tried again later.
    pub fn is_transient(&self) -> bool {
        matches!(
            self.kind(),
            ErrorKind::Unavailable | ErrorKind::Timeout | ErrorKind::Stale
        ) || self.retry_after().is_some()
    }

    fn amend(mut self, change: impl FnOnce(&mut Inner)) -> Self {
        change(Arc::make_mut(&mut self.0));
        self
    }
}

impl fmt::Display for CasError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)?;
        if let Some(digest) = &self.0.digest {
            write!(f, " (blob {digest})")?;
        }
        if let Some(path) = &self.0.path {
            write!(f, " at {}", path.display())?;
        }
        if let Some(source) = &self.0.source {
            write!(f, ": {source}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for CasError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CasError({:?}: {self})", self.kind())
    }
}

impl Error for CasError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        // The text already has the direct source's; a reporter that walks the
        // chain goes on behind it.
        self.0.source.as_deref().and_then(Error::source)
    }
}
