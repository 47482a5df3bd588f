//! What happens to sessions over RDMA.

/// A turn in the life of a session, or why there is none.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RdmaEvent {
    /// A client that could use RDMA is not offered it: from where it is, or since there
    /// are as many sessions as may be.
    NotOffered,
    /// A session was set up.
    Opened,
    /// A session could not be set up.
    SetUpFailed,
    /// A session ended well.
    Closed,
    /// A session broke.
    Failed,
}

impl RdmaEvent {
    /// A word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotOffered => "not_offered",
            Self::Opened => "opened",
            Self::SetUpFailed => "set_up_failed",
            Self::Closed => "closed",
            Self::Failed => "failed",
        }
    }

    /// Whether bytes that could move over RDMA go by gRPC after it.
    pub const fn is_fallback(self) -> bool {
        matches!(self, Self::NotOffered | Self::SetUpFailed | Self::Failed)
    }
}
