//! Why a session or a transfer failed.

use super::status::{Code, Status};
use crate::fabric::{FabricError, FailureKind};

/// Why a session ended.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// Nothing is wrong: one of both ends closed it.
    #[error("the RDMA session is closed")]
    Closed,
    /// The peer sent a message that can't be.
    #[error("the peer sent a malformed message: {0}")]
    Malformed(String),
    /// The peer sent a message that may not come now.
    #[error("the peer broke the protocol: {0}")]
    OutOfOrder(String),
    /// The peer ended the session with this.
    #[error("the peer ended the RDMA session: {0}")]
    Peer(Status),
    /// The card failed, or the peer's; the first error that it gave.
    #[error(transparent)]
    Fabric(#[from] FabricError),
    /// The peer's memory, or this end's, can't be read.
    #[error("the memory of the other end can't be read: {0}")]
    Unreachable(String),
    /// The control stream ended or failed.
    #[error("the control stream of the RDMA session is lost: {0}")]
    ControlLost(String),
    /// The peer took too long.
    #[error("{0}")]
    Timeout(String),
    /// A limit on sessions or pinned memory is reached.
    #[error("{0}")]
    Limit(String),
    /// The options make no sense, or this end has a bug.
    #[error("{0}")]
    Internal(String),
}

/// Why a transfer ended before its end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransferError {
    /// The peer ended it with this.
    #[error("{0}")]
    Peer(Status),
    /// The session ended.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// This end can't do that with it.
    #[error("{0}")]
    Misuse(&'static str),
}

impl SessionError {
    /// What the peer is told: the status of the control stream.
    pub fn status(&self) -> Status {
        let code = match self {
            Self::Closed => return Status::ok(0),
            Self::Malformed(_) => Code::InvalidArgument,
            Self::OutOfOrder(_) => Code::FailedPrecondition,
            Self::Peer(status) => return status.clone(),
            Self::Fabric(error) => match error.kind() {
                FailureKind::MemoryLimit | FailureKind::Resources | FailureKind::Full => {
                    Code::ResourceExhausted
                }
                FailureKind::Bounds => Code::Internal,
                _ => Code::Unavailable,
            },
            Self::Unreachable(_) | Self::ControlLost(_) => Code::Unavailable,
            Self::Timeout(_) => Code::DeadlineExceeded,
            Self::Limit(_) => Code::ResourceExhausted,
            Self::Internal(_) => Code::Internal,
        };
        Status::new(code, self.to_string())
    }

    /// Whether the peer broke the protocol.
    pub fn is_violation(&self) -> bool {
        matches!(self, Self::Malformed(_) | Self::OutOfOrder(_))
    }
}

impl TransferError {
    /// As a status.
    pub fn status(&self) -> Status {
        match self {
            Self::Peer(status) => status.clone(),
            Self::Session(error) => error.status(),
            Self::Misuse(text) => Status::new(Code::Internal, *text),
        }
    }
}
