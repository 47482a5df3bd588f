//! What came of a transfer or a session, as it is told to the peer.

use std::fmt;

use bytes::Bytes;
use zako_protobuf::rdma;

/// Texts of a peer are cut here, in bytes.
const MESSAGE_BYTES: usize = 1024;

/// Longer details are left out, in bytes.
const DETAILS_BYTES: usize = 4096;

/// What came of something: success, or why not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// A gRPC status code.
    pub code: Code,
    /// For a person.
    pub message: String,
    /// Bytes of the blob that the one who stores it holds.
    pub held: u64,
    /// An encoded `google.rpc.Status`, as gRPC sends it beside code and message.
    pub details: Bytes,
}

/// The status codes of gRPC; an unknown number is [`Code::Unknown`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(i32)]
pub enum Code {
    /// Success.
    Ok = 0,
    /// The caller gave it up.
    Cancelled = 1,
    /// Not one of the others.
    Unknown = 2,
    /// Malformed, whatever the state.
    InvalidArgument = 3,
    /// It took too long.
    DeadlineExceeded = 4,
    /// The blob is absent.
    NotFound = 5,
    /// The blob is present.
    AlreadyExists = 6,
    /// The token doesn't allow it.
    PermissionDenied = 7,
    /// No room, or a limit is reached.
    ResourceExhausted = 8,
    /// Not in this state.
    FailedPrecondition = 9,
    /// To be begun again.
    Aborted = 10,
    /// Past the end.
    OutOfRange = 11,
    /// Not spoken here.
    Unimplemented = 12,
    /// A bug or a failure on the side that says so.
    Internal = 13,
    /// Not to be had now.
    Unavailable = 14,
    /// The blob is damaged.
    DataLoss = 15,
    /// No valid token.
    Unauthenticated = 16,
}

impl Code {
    /// The code of a number.
    pub const fn from_i32(number: i32) -> Self {
        match number {
            0 => Self::Ok,
            1 => Self::Cancelled,
            3 => Self::InvalidArgument,
            4 => Self::DeadlineExceeded,
            5 => Self::NotFound,
            6 => Self::AlreadyExists,
            7 => Self::PermissionDenied,
            8 => Self::ResourceExhausted,
            9 => Self::FailedPrecondition,
            10 => Self::Aborted,
            11 => Self::OutOfRange,
            12 => Self::Unimplemented,
            13 => Self::Internal,
            14 => Self::Unavailable,
            15 => Self::DataLoss,
            16 => Self::Unauthenticated,
            _ => Self::Unknown,
        }
    }
}

impl Status {
    /// Success; `held` bytes of the blob are stored now.
    pub fn ok(held: u64) -> Self {
        Self {
            code: Code::Ok,
            message: String::new(),
            held,
            details: Bytes::new(),
        }
    }

    /// A failure.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            held: 0,
            details: Bytes::new(),
        }
    }

    /// Tells how many bytes of the blob are held.
    #[must_use]
    pub fn with_held(mut self, held: u64) -> Self {
        self.held = held;
        self
    }

    /// Adds what gRPC sends beside code and message; nothing if it is too long.
    #[must_use]
    pub fn with_details(mut self, details: &[u8]) -> Self {
        self.details = bounded(details);
        self
    }

    /// Given up by its owner.
    pub fn cancelled() -> Self {
        Self::new(Code::Cancelled, "cancelled")
    }

    /// Whether it is success.
    pub fn is_ok(&self) -> bool {
        self.code == Code::Ok
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.message.as_str() {
            "" => write!(f, "{:?}", self.code),
            message => f.write_str(message),
        }
    }
}

impl From<Status> for rdma::Status {
    fn from(status: Status) -> Self {
        Self {
            code: status.code as i32,
            message: status.message,
            held_bytes: status.held,
            details: status.details,
        }
    }
}

impl From<rdma::Status> for Status {
    fn from(status: rdma::Status) -> Self {
        let mut message = status.message;
        if message.len() > MESSAGE_BYTES {
            let cut = (0..=MESSAGE_BYTES).rev();
            let cut = cut.into_iter().find(|at| message.is_char_boundary(*at));
            message.truncate(cut.unwrap_or(0));
        }
        Self {
            code: Code::from_i32(status.code),
            message,
            held: status.held_bytes,
            details: bounded(&status.details),
        }
    }
}

/// Copied, so that they don't keep the message alive that they came in.
fn bounded(details: &[u8]) -> Bytes {
    match details.len() {
        ..=DETAILS_BYTES => Bytes::copy_from_slice(details),
        _ => Bytes::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_its_number() {
        for number in 0..=16 {
            assert_eq!(Code::from_i32(number) as i32, number);
        }
        assert_eq!(Code::from_i32(17), Code::Unknown);
        assert_eq!(Code::from_i32(-1), Code::Unknown);
    }

    #[test]
    fn a_long_text_of_a_peer_is_cut_between_characters() {
        let message = "é".repeat(MESSAGE_BYTES);
        let status = Status::from(rdma::Status {
            code: 3,
            message: format!("x{message}"),
            held_bytes: 7,
            ..rdma::Status::default()
        });
        assert_eq!(status.message.len(), MESSAGE_BYTES - 1);
        assert_eq!((status.code, status.held), (Code::InvalidArgument, 7));
    }

    #[test]
    fn details_arrive_unless_they_are_too_long() {
        let told = |length| {
            let status = rdma::Status {
                details: vec![7; length].into(),
                ..rdma::Status::default()
            };
            Status::from(status).details.len()
        };
        assert_eq!(told(DETAILS_BYTES), DETAILS_BYTES);
        assert_eq!(told(DETAILS_BYTES + 1), 0);
        let status = Status::new(Code::NotFound, "").with_details(b"why");
        assert_eq!(Status::from(rdma::Status::from(status)).details, "why");
    }
}
