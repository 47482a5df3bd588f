//! What tells an interrupted upload from others.

use crate::Digest;
use crate::cas::{CasError, ErrorKind, UploadKey};

/// The name of an upload under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum UploadName {
    /// Of this blob.
    Blob(Digest),
    /// Of a blob whose digest is not known yet.
    Staged(UploadKey),
}

impl UploadName {
    /// The error, with the blob that it concerns, if that is known.
    pub(super) fn mark(&self, error: CasError) -> CasError {
        match self {
            Self::Blob(digest) => error.with_digest(*digest),
            Self::Staged(_) => error,
        }
    }

    /// The upload can't go on at `offset`, since only `held` bytes are here.
    pub(super) fn not_held(&self, offset: u64, held: u64) -> CasError {
        let text = format!("the upload can't go on at {offset}: {held} bytes are held");
        self.mark(CasError::new(ErrorKind::NotHeld, text).with_held(held))
    }

    /// More came than the `most` bytes that the upload may have.
    pub(super) fn too_long(&self, most: u64) -> CasError {
        let whose = match self {
            Self::Blob(_) => "blob's",
            Self::Staged(_) => "upload's",
        };
        let text = format!("more bytes than the {whose} {most} were given");
        self.mark(CasError::new(ErrorKind::Mismatch, text))
    }

    /// Only `bytes` came.
    pub(super) fn too_short(&self, bytes: u64) -> CasError {
        let whose = match self {
            Self::Blob(_) => "blob's",
            Self::Staged(_) => "upload's",
        };
        let text = format!("only {bytes} of the {whose} bytes were given");
        self.mark(CasError::new(ErrorKind::Mismatch, text))
    }
}

impl From<Digest> for UploadName {
    fn from(digest: Digest) -> Self {
        Self::Blob(digest)
    }
}

impl From<UploadKey> for UploadName {
    fn from(key: UploadKey) -> Self {
        Self::Staged(key)
    }
}
