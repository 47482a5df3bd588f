//! The bytes of a blob that is sent compressed.

use bytes::Bytes;
use zako_core::server::bad_request;

use super::messages::Messages;
use super::source::{End, Source};
use crate::compression::Decompressor;

/// What is sent may be longer than the blob by so many bytes and as many as the blob
/// has: frames of nothing would go on forever.
const SURPLUS: u64 = 64 * 1024;

/// Decompresses what comes.
pub(super) struct Unpack {
    messages: Messages,
    decompressor: Decompressor,
    /// What came and is not decompressed.
    input: Bytes,
    /// The most that may be sent.
    most: u64,
}

impl Unpack {
    /// What `messages` bring of a blob of `size` bytes.
    pub(super) fn new(messages: Messages, size: u64) -> std::io::Result<Self> {
        Ok(Self {
            messages,
            decompressor: Decompressor::new()?,
            input: Bytes::new(),
            most: size.saturating_mul(2).saturating_add(SURPLUS),
        })
    }

    /// How many bytes were sent.
    pub(super) fn sent(&self) -> u64 {
        self.messages.offset()
    }
}

impl Source for Unpack {
    async fn chunk(&mut self) -> Result<Option<Bytes>, End> {
        loop {
            let wrong = |error| End::wrong("data", format!("this is no zstd: {error}"));
            let data = self.decompressor.step(&mut self.input).map_err(wrong)?;
            if !data.is_empty() {
                return Ok(Some(data));
            }
            let Some(input) = self.messages.chunk().await? else {
                if self.decompressor.is_within() && self.finished() {
                    let text = "the write was finished inside a zstd frame";
                    return Err(End::wrong("data", text));
                }
                return Ok(None);
            };
            if self.messages.offset() > self.most {
                let text = format!("more than {} compressed bytes came", self.most);
                return Err(End::Discard(bad_request("data", text)));
            }
            self.input = input;
        }
    }

    fn finished(&self) -> bool {
        self.messages.finished()
    }

    fn waited(&mut self) {
        self.messages.waited();
    }

    fn resumes(&self) -> bool {
        false
    }
}
