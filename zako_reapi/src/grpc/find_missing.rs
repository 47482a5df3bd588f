//! Which blobs are missing, of hundreds of thousands in one request.
//!
//! Generated code would make a string of each hash. Here a digest is read where it
//! lies, and one that is missing goes into the answer as it came.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::encoding::encode_varint;
use tonic::Status;
use zako_core::access::Role;
use zako_core::cas::Lease;
use zako_core::server::{Call, Reply, bad_frame, bad_request, to_status};
use zako_core::transport::grpc::Pieces;
use zako_core::transport::grpc::frame::HEAD_LEN;

use super::fields::{self, Value, malformed};
use super::{Refused, rights};
use crate::cache::Cache;
use crate::digest::{DigestFunction, RemoteDigest};

/// So many are looked up before others may run.
const AT_ONCE: usize = 2048;

const INSTANCE: u64 = 1;
const DIGESTS: u64 = 2;
const DIGEST_FUNCTION: u64 = 3;

/// Digests that are looked up together.
#[derive(Default)]
struct Group {
    digests: Vec<RemoteDigest>,
    /// As they came, one behind the other.
    raw: Vec<u8>,
    /// Where in `raw` each ends.
    ends: Vec<usize>,
}

/// How many blobs were there, and how many not.
#[derive(Default)]
struct Found {
    hits: u64,
    misses: u64,
}

pub(super) async fn answer(cache: &Cache, call: Call) -> Result<Reply, Refused> {
    let caller = call.caller();
    rights::check_somewhere(&caller, Role::Read)?;
    let (mut body, answering) = call.open()?;
    let limit = cache.options().max_message_bytes;
    let request = body.pieces(limit).await?;
    let mut request = request.unframed().map_err(bad_frame)?;
    if caller.matters() {
        rights::check(&caller, &instance(&mut request.share())?, Role::Read)?;
    }
    let (answer, found) = find(cache, request).await?;
    answering.looked_up(found.hits, found.misses);
    Ok(Reply::framed(answer))
}

/// The answer, with its head, and how many there were.
async fn find(cache: &Cache, mut request: Pieces) -> Result<(Bytes, Found), Status> {
    let function = function(request.share())?;
    let mut answer = BytesMut::zeroed(HEAD_LEN);
    let (mut group, mut found) = (Group::default(), Found::default());
    while let Some(field) = fields::next(&mut request)? {
        match (field.number, field.value) {
            (DIGESTS, Value::Bytes(length)) => {
                group.read(function, &mut request, length)?;
                if group.digests.len() == AT_ONCE {
                    group.look_up(cache, &mut answer, &mut found).await?;
                    tokio::task::yield_now().await;
                }
            }
            (DIGESTS, _) => return Err(malformed()),
            (_, Value::Bytes(length)) => request.advance(length),
            _ => {}
        }
    }
    group.look_up(cache, &mut answer, &mut found).await?;
    // The request is no longer than a message, and the answer not longer than it.
    let length = (answer.len() - HEAD_LEN) as u32;
    answer[1..HEAD_LEN].copy_from_slice(&length.to_be_bytes());
    Ok((answer.freeze(), found))
}

/// The instance that the request names: the last, as generated code reads it.
fn instance(request: &mut Pieces) -> Result<String, Status> {
    let mut instance = String::new();
    while let Some(field) = fields::next(request)? {
        match (field.number, field.value) {
            (INSTANCE, Value::Bytes(length)) => {
                let name = request.copy_to_bytes(length);
                let name = std::str::from_utf8(&name).map_err(|_| malformed())?;
                name.clone_into(&mut instance);
            }
            (INSTANCE, _) => return Err(malformed()),
            (_, Value::Bytes(length)) => request.advance(length),
            _ => {}
        }
    }
    Ok(instance)
}

/// The function that the request names, which stands behind the digests.
fn function(mut request: Pieces) -> Result<Option<DigestFunction>, Status> {
    let mut function = None;
    while let Some(field) = fields::next(&mut request)? {
        match (field.number, field.value) {
            (DIGEST_FUNCTION, Value::Number(number)) => {
                // As generated code reads an enum: what is longer than 32 bits is cut.
                let named = DigestFunction::of_wire(number as i32);
                function = named.map_err(|error| to_status(&error))?;
            }
            (DIGEST_FUNCTION, _) => return Err(malformed()),
            (_, Value::Bytes(length)) => request.advance(length),
            _ => {}
        }
    }
    Ok(function)
}

impl Group {
    /// Takes the next digest off the request.
    fn read(
        &mut self,
        function: Option<DigestFunction>,
        request: &mut Pieces,
        length: usize,
    ) -> Result<(), Status> {
        let begin = self.raw.len();
        if let Some(whole) = request.chunk().get(..length) {
            self.raw.extend_from_slice(whole);
            request.advance(length);
        } else {
            self.raw.extend_from_slice(&request.copy_to_bytes(length));
        }
        self.ends.push(self.raw.len());
        self.digests.push(digest(function, &self.raw[begin..])?);
        Ok(())
    }

    /// Appends those that are missing to the answer, in order.
    async fn look_up(
        &mut self,
        cache: &Cache,
        answer: &mut BytesMut,
        found: &mut Found,
    ) -> Result<(), Status> {
        let missing = cache.missing(&self.digests, Lease::Default).await;
        let missing = missing.map_err(|error| to_status(&error))?;
        found.misses += missing.len() as u64;
        found.hits += (self.digests.len() - missing.len()) as u64;
        for at in missing {
            let begin = at.checked_sub(1).map_or(0, |before| self.ends[before]);
            let raw = &self.raw[begin..self.ends[at]];
            answer.put_u8((DIGESTS as u8) << 3 | 2);
            encode_varint(raw.len() as u64, answer);
            answer.put_slice(raw);
        }
        self.digests.clear();
        self.raw.clear();
        self.ends.clear();
        Ok(())
    }
}

/// Reads a `Digest`.
fn digest(function: Option<DigestFunction>, mut message: &[u8]) -> Result<RemoteDigest, Status> {
    let (mut hash, mut size) = (&[][..], 0);
    while let Some(field) = fields::next(&mut message)? {
        match (field.number, field.value) {
            (1, Value::Bytes(length)) => (hash, message) = message.split_at(length),
            (2, Value::Number(bytes)) => size = bytes.cast_signed(),
            (1 | 2, _) => return Err(malformed()),
            (_, Value::Bytes(length)) => message.advance(length),
            _ => {}
        }
    }
    let wrong = |what: &str| bad_request("blob_digests", what);
    let hash = std::str::from_utf8(hash).map_err(|_| wrong("a hash is not UTF-8"))?;
    let size = u64::try_from(size).map_err(|_| wrong(&format!("a digest's size is {size}")))?;
    RemoteDigest::parse(function, hash, size).map_err(|error| wrong(error.message()))
}
