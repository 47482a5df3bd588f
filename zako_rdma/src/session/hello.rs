//! What an end says of itself in its offer or answer.

use bytes::Bytes;
use zako_protobuf::rdma;

use super::error::SessionError;
use super::message::{NONCE_BYTES, VERSION, malformed};
use crate::fabric::{Address, RemoteMemory};

/// One end of a session: where it is, and what the peer may read and do there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Where its queue pair is.
    pub address: Address,
    /// What the peer may READ.
    pub memory: RemoteMemory,
    /// The longest grant that it can pull.
    pub grant_bytes: u32,
    /// Transfers that it allows at once.
    pub transfers: u32,
}

impl From<Hello> for rdma::Endpoint {
    fn from(hello: Hello) -> Self {
        let Hello {
            address, memory, ..
        } = hello;
        Self {
            version: VERSION,
            queue_pair: address.queue_pair,
            gid: Bytes::copy_from_slice(&address.gid),
            lid: address.lid.into(),
            packet_sequence: address.packet_sequence,
            mtu: address.mtu.into(),
            reads_in: address.reads_in.into(),
            reads_out: address.reads_out.into(),
            memory: Some(rdma::Memory {
                address: memory.address,
                length: memory.length,
                key: memory.key,
            }),
            grant_bytes: hello.grant_bytes,
            transfers: hello.transfers,
        }
    }
}

impl TryFrom<rdma::Endpoint> for Hello {
    type Error = SessionError;

    fn try_from(endpoint: rdma::Endpoint) -> Result<Self, SessionError> {
        if endpoint.version != VERSION {
            let version = endpoint.version;
            return Err(SessionError::OutOfOrder(format!(
                "it speaks version {version}, this end {VERSION}"
            )));
        }
        let memory = endpoint
            .memory
            .ok_or_else(|| malformed("an endpoint without memory"))?;
        let memory = RemoteMemory {
            address: memory.address,
            length: memory.length,
            key: memory.key,
        };
        if memory.length < NONCE_BYTES as u64 || memory.addresses().is_none() {
            return Err(malformed("memory that can't be"));
        }
        if endpoint.grant_bytes == 0 || endpoint.transfers == 0 {
            return Err(malformed("an endpoint that transfers nothing"));
        }
        Ok(Self {
            address: Address {
                queue_pair: bits24(endpoint.queue_pair)?,
                gid: <[u8; 16]>::try_from(&endpoint.gid[..])
                    .map_err(|_| malformed("a GID is not 16 bytes"))?,
                lid: u16::try_from(endpoint.lid).map_err(|_| malformed("a LID has 16 bits"))?,
                packet_sequence: bits24(endpoint.packet_sequence)?,
                mtu: match endpoint.mtu {
                    256 => 256,
                    512 => 512,
                    1024 => 1024,
                    2048 => 2048,
                    4096 => 4096,
                    _ => return Err(malformed("an MTU that can't be")),
                },
                reads_in: reads(endpoint.reads_in)?,
                reads_out: reads(endpoint.reads_out)?,
            },
            memory,
            grant_bytes: endpoint.grant_bytes,
            transfers: endpoint.transfers,
        })
    }
}

fn bits24(number: u32) -> Result<u32, SessionError> {
    if number >> 24 != 0 {
        return Err(malformed("a number has more than 24 bits"));
    }
    Ok(number)
}

fn reads(number: u32) -> Result<u8, SessionError> {
    match u8::try_from(number) {
        Ok(0) | Err(_) => Err(malformed("READs at once are 1 to 255")),
        Ok(reads) => Ok(reads),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint() -> rdma::Endpoint {
        Hello {
            address: Address {
                queue_pair: 0xff_ffff,
                gid: [7; 16],
                lid: 3,
                packet_sequence: 0xff_fffe,
                mtu: 1024,
                reads_in: 16,
                reads_out: 255,
            },
            memory: RemoteMemory {
                address: u64::MAX - 4096,
                length: 4096,
                key: 9,
            },
            grant_bytes: 4096,
            transfers: 4,
        }
        .into()
    }

    #[test]
    fn an_endpoint_is_read_as_it_was_written() {
        let hello = Hello::try_from(endpoint()).unwrap();
        assert_eq!(rdma::Endpoint::from(hello), endpoint());
    }

    #[test]
    fn an_endpoint_that_cannot_be_is_refused() {
        type Change = fn(&mut rdma::Endpoint);
        let malformed: [Change; 15] = [
            |e| e.queue_pair = 1 << 24,
            |e| e.gid = Bytes::from_static(&[0; 15]),
            |e| e.gid = Bytes::new(),
            |e| e.lid = 1 << 16,
            |e| e.packet_sequence = u32::MAX,
            |e| e.mtu = 0,
            |e| e.mtu = 1500,
            |e| e.reads_in = 0,
            |e| e.reads_in = 256,
            |e| e.reads_out = 0,
            |e| e.memory = None,
            |e| e.memory.as_mut().unwrap().length = 63,
            |e| e.memory.as_mut().unwrap().address = u64::MAX - 4094,
            |e| e.grant_bytes = 0,
            |e| e.transfers = 0,
        ];
        for change in malformed {
            let mut endpoint = endpoint();
            change(&mut endpoint);
            let refused = Hello::try_from(endpoint.clone()).unwrap_err();
            assert!(
                matches!(refused, SessionError::Malformed(_)),
                "{refused:?} for {endpoint:?}"
            );
        }
        let mut endpoint = endpoint();
        endpoint.version = 2;
        let refused = Hello::try_from(endpoint).unwrap_err();
        assert!(matches!(refused, SessionError::OutOfOrder(_)));
    }
}
