//! The messages of a probe's control stream: those of setting up, as a session has them,
//! then requests and their answers.

use bytes::Bytes;
use zako_protobuf::rdma::{self, probe_request, probe_response};

use super::{SLOT_BYTES, SLOTS};
use crate::fabric::Access;
use crate::session::message::{checked, close, malformed, ready, status};
use crate::session::wire::ended;
use crate::session::{Message, Role, SessionError};

/// The end of a probe that tries.
#[derive(Debug)]
pub enum ProbeClient {}

/// The end of a probe that has the scratch memory.
#[derive(Debug)]
pub enum ProbeServer {}

/// What a client asks for. Slots and lengths are ones that there are.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ask {
    Fill { seed: u64, length: u32 },
    Verify { seed: u64, length: u32, slots: u32 },
    Read { slot: u32, length: u32 },
    Write { slot: u32, data: Bytes },
    Echo(Bytes),
}

/// What a server answers.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Done,
    Verified { wrong: u32 },
    Data(Bytes),
}

impl Role for ProbeClient {
    const BEGINS: bool = true;
    type Incoming = rdma::ProbeResponse;
    type Outgoing = rdma::ProbeRequest;

    fn read(message: rdma::ProbeResponse) -> Result<Message, SessionError> {
        use probe_response::Message as Wire;
        Ok(match message.message.ok_or_else(|| malformed("empty"))? {
            Wire::Answer(endpoint) => Message::Hello(endpoint.try_into()?),
            Wire::Ready(ready) => ready.try_into()?,
            Wire::Checked(checked) => Message::Checked(status(checked.status)?),
            Wire::Close(close) => Message::Close(status(close.status)?),
            Wire::Done(_) | Wire::Verified(_) | Wire::Data(_) => {
                return Err(out_of_order("an answer to nothing"));
            }
        })
    }

    fn write(message: Message) -> Option<rdma::ProbeRequest> {
        use probe_request::Message as Wire;
        let message = match message {
            Message::Hello(hello) => Wire::Offer(hello.into()),
            Message::Ready(nonce) => Wire::Ready(ready(nonce)),
            Message::Checked(status) => Wire::Checked(checked(status)),
            Message::Close(status) => Wire::Close(close(status)),
            _ => return None,
        };
        Some(request(message))
    }
}

impl Role for ProbeServer {
    const BEGINS: bool = false;
    const EXPOSES: Access = Access::ReadWrite;
    type Incoming = rdma::ProbeRequest;
    type Outgoing = rdma::ProbeResponse;

    fn read(message: rdma::ProbeRequest) -> Result<Message, SessionError> {
        use probe_request::Message as Wire;
        Ok(match message.message.ok_or_else(|| malformed("empty"))? {
            Wire::Offer(endpoint) => Message::Hello(endpoint.try_into()?),
            Wire::Ready(ready) => ready.try_into()?,
            Wire::Checked(checked) => Message::Checked(status(checked.status)?),
            Wire::Close(close) => Message::Close(status(close.status)?),
            Wire::Fill(_) | Wire::Verify(_) | Wire::Read(_) | Wire::Write(_) | Wire::Echo(_) => {
                return Err(out_of_order("a request before both ends have checked"));
            }
        })
    }

    fn write(message: Message) -> Option<rdma::ProbeResponse> {
        use probe_response::Message as Wire;
        let message = match message {
            Message::Hello(hello) => Wire::Answer(hello.into()),
            Message::Ready(nonce) => Wire::Ready(ready(nonce)),
            Message::Checked(status) => Wire::Checked(checked(status)),
            Message::Close(status) => Wire::Close(close(status)),
            _ => return None,
        };
        Some(response(message))
    }
}

impl TryFrom<rdma::ProbeRequest> for Ask {
    type Error = SessionError;

    fn try_from(asked: rdma::ProbeRequest) -> Result<Self, SessionError> {
        use probe_request::Message as Wire;
        Ok(match asked.message.ok_or_else(|| malformed("empty"))? {
            Wire::Fill(fill) => Self::Fill {
                seed: fill.seed,
                length: length(fill.length)?,
            },
            Wire::Verify(verify) => Self::Verify {
                seed: verify.seed,
                length: length(verify.length)?,
                slots: match verify.slots {
                    1..=SLOTS => verify.slots,
                    _ => return Err(malformed("there are not so many slots")),
                },
            },
            Wire::Read(read) => Self::Read {
                slot: slot(read.slot)?,
                length: length(read.length)?,
            },
            Wire::Write(write) => Self::Write {
                slot: slot(write.slot)?,
                data: data(write.data)?,
            },
            Wire::Echo(echo) => Self::Echo(data(echo.data)?),
            Wire::Close(close) => return Err(ended(status(close.status)?)),
            Wire::Offer(_) | Wire::Ready(_) | Wire::Checked(_) => {
                return Err(out_of_order("a message of the beginning came again"));
            }
        })
    }
}

impl From<Ask> for rdma::ProbeRequest {
    fn from(ask: Ask) -> Self {
        use probe_request::Message as Wire;
        request(match ask {
            Ask::Fill { seed, length } => Wire::Fill(rdma::ProbeFill { seed, length }),
            Ask::Verify {
                seed,
                length,
                slots,
            } => Wire::Verify(rdma::ProbeVerify {
                seed,
                length,
                slots,
            }),
            Ask::Read { slot, length } => Wire::Read(rdma::ProbeRead { slot, length }),
            Ask::Write { slot, data } => Wire::Write(rdma::ProbeWrite { slot, data }),
            Ask::Echo(data) => Wire::Echo(rdma::ProbeEcho { data }),
        })
    }
}

impl TryFrom<rdma::ProbeResponse> for Answer {
    type Error = SessionError;

    fn try_from(answer: rdma::ProbeResponse) -> Result<Self, SessionError> {
        use probe_response::Message as Wire;
        Ok(match answer.message.ok_or_else(|| malformed("empty"))? {
            Wire::Done(_) => Self::Done,
            Wire::Verified(verified) => Self::Verified {
                wrong: verified.wrong,
            },
            Wire::Data(data) => Self::Data(data.data),
            Wire::Close(close) => return Err(ended(status(close.status)?)),
            Wire::Answer(_) | Wire::Ready(_) | Wire::Checked(_) => {
                return Err(out_of_order("a message of the beginning came again"));
            }
        })
    }
}

impl From<Answer> for rdma::ProbeResponse {
    fn from(answer: Answer) -> Self {
        use probe_response::Message as Wire;
        response(match answer {
            Answer::Done => Wire::Done(rdma::ProbeDone {}),
            Answer::Verified { wrong } => Wire::Verified(rdma::ProbeVerified { wrong }),
            Answer::Data(data) => Wire::Data(rdma::ProbeData { data }),
        })
    }
}

pub(super) fn out_of_order(what: &str) -> SessionError {
    SessionError::OutOfOrder(what.to_owned())
}

fn request(message: probe_request::Message) -> rdma::ProbeRequest {
    rdma::ProbeRequest {
        message: Some(message),
    }
}

fn response(message: probe_response::Message) -> rdma::ProbeResponse {
    rdma::ProbeResponse {
        message: Some(message),
    }
}

fn slot(slot: u32) -> Result<u32, SessionError> {
    match slot < SLOTS {
        true => Ok(slot),
        false => Err(malformed("there is no such slot")),
    }
}

fn length(length: u32) -> Result<u32, SessionError> {
    match length as usize {
        1..=SLOT_BYTES => Ok(length),
        _ => Err(malformed("no slot is so long")),
    }
}

fn data(data: Bytes) -> Result<Bytes, SessionError> {
    match data.len() {
        1..=SLOT_BYTES => Ok(data),
        _ => Err(malformed("no slot is so long")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTH: u32 = SLOT_BYTES as u32;

    #[test]
    fn what_is_asked_arrives() {
        let data = Bytes::from(vec![7; SLOT_BYTES]);
        for ask in [
            || Ask::Fill {
                seed: u64::MAX,
                length: LENGTH,
            },
            || Ask::Verify {
                seed: 1,
                length: 1,
                slots: SLOTS,
            },
            || Ask::Read {
                slot: SLOTS - 1,
                length: LENGTH,
            },
        ] {
            assert_eq!(Ask::try_from(rdma::ProbeRequest::from(ask())), Ok(ask()));
        }
        let write = Ask::Write { slot: 0, data };
        assert!(Ask::try_from(rdma::ProbeRequest::from(write)).is_ok());
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let long = Bytes::from(vec![7; SLOT_BYTES + 1]);
        let (seed, length) = (1, 1);
        for ask in [
            Ask::Fill { seed, length: 0 },
            Ask::Fill {
                seed,
                length: LENGTH + 1,
            },
            Ask::Verify {
                seed,
                length: u32::MAX,
                slots: 1,
            },
            Ask::Verify {
                seed,
                length,
                slots: 0,
            },
            Ask::Verify {
                seed,
                length,
                slots: SLOTS + 1,
            },
            Ask::Read {
                slot: SLOTS,
                length,
            },
            Ask::Read {
                slot: u32::MAX,
                length,
            },
            Ask::Read { slot: 0, length: 0 },
            Ask::Write {
                slot: 0,
                data: Bytes::new(),
            },
            Ask::Write {
                slot: 0,
                data: long.clone(),
            },
            Ask::Echo(long.clone()),
        ] {
            let what = format!("{ask:.80?}");
            let refused = Ask::try_from(rdma::ProbeRequest::from(ask));
            assert!(matches!(refused, Err(SessionError::Malformed(_))), "{what}");
        }
        let empty = rdma::ProbeRequest { message: None };
        assert!(matches!(
            Ask::try_from(empty),
            Err(SessionError::Malformed(_))
        ));
    }
}
