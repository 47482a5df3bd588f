//! Where the bytes of an upload come from.

use bytes::Bytes;
use tonic::Status;
use zako_core::server::{Broken, bad_frame, bad_request};
use zako_core::transport::grpc::FrameError;

/// What an upload's bytes come from.
pub(super) trait Source: Send {
    /// The next bytes of the blob; `None` when the sender has ended.
    fn chunk(&mut self) -> impl Future<Output = Result<Option<Bytes>, End>> + Send;

    /// Whether the sender said that the blob is whole.
    fn finished(&self) -> bool;

    /// Says that so many bytes are held for the upload, until the source is dropped.
    fn hold(&mut self, bytes: u64) -> Result<(), Status>;

    /// Notes that it waited for the store: that time is not the sender's.
    fn waited(&mut self);

    /// Whether another upload can go on where this one ends.
    fn resumes(&self) -> bool {
        true
    }
}

/// Why an upload ends before its blob is whole, and what becomes of it.
#[derive(Debug)]
pub(super) enum End {
    /// The sender or this server went away: what came is kept for a resumption.
    Park(Status),
    /// The sender is wrong: nothing of it is kept.
    Discard(Status),
}

impl End {
    /// The sender broke a rule.
    pub(super) fn wrong(field: &str, description: impl Into<String>) -> Self {
        Self::Discard(bad_request(field, description))
    }

    pub(super) fn into_status(self) -> Status {
        match self {
            Self::Park(status) | Self::Discard(status) => status,
        }
    }
}

impl From<Broken> for End {
    fn from(broken: Broken) -> Self {
        Self::Park(broken.into())
    }
}

impl From<FrameError> for End {
    fn from(error: FrameError) -> Self {
        Self::Discard(bad_frame(error))
    }
}
