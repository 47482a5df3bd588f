//! The bytes of a blob that is sent compressed.

use bytes::Bytes;
use tonic::Status;
use zako_core::server::bad_request;

use super::messages::Messages;
use super::source::{End, Source};
use crate::compression::{Decompressor, Window};

/// What is sent may be longer than the blob by so many bytes and as many as the blob
/// has: frames of nothing would go on forever.
const SURPLUS: u64 = 64 * 1024;

/// Decompresses what comes.
pub(super) struct Unpack {
    messages: Messages,
    size: u64,
    /// Set up when the first bytes tell what memory that takes.
    decompressor: Option<Decompressor>,
    /// What came and is not decompressed.
    input: Bytes,
}

impl Unpack {
    /// What `messages` bring of a blob of `size` bytes.
    pub(super) fn new(messages: Messages, size: u64) -> Self {
        Self {
            messages,
            size,
            decompressor: None,
            input: Bytes::new(),
        }
    }

    /// What is in the bytes that came; nothing if more have to come.
    fn step(&mut self) -> Result<Bytes, End> {
        let wrong = |error| End::wrong("data", format!("this is no zstd: {error}"));
        if let Some(decompressor) = &mut self.decompressor {
            return decompressor.step(&mut self.input).map_err(wrong);
        }
        if self.input.is_empty() {
            return Ok(Bytes::new());
        }
        let window = Window::of(&self.input);
        let memory = window.memory(self.size);
        self.messages.hold(memory).map_err(End::Park)?;
        let mut decompressor = Decompressor::new(window).map_err(wrong)?;
        let data = decompressor.step(&mut self.input).map_err(wrong);
        self.decompressor = Some(decompressor);
        data
    }

    fn is_within(&self) -> bool {
        self.decompressor
            .as_ref()
            .is_some_and(Decompressor::is_within)
    }

    /// How many bytes were sent.
    pub(super) fn sent(&self) -> u64 {
        self.messages.offset()
    }
}

impl Source for Unpack {
    async fn chunk(&mut self) -> Result<Option<Bytes>, End> {
        loop {
            let data = self.step()?;
            if !data.is_empty() {
                return Ok(Some(data));
            }
            let Some(input) = self.messages.chunk().await? else {
                if self.is_within() && self.finished() {
                    let text = "the write was finished inside a zstd frame";
                    return Err(End::wrong("data", text));
                }
                return Ok(None);
            };
            let most = self.size.saturating_mul(2).saturating_add(SURPLUS);
            if self.messages.offset() > most {
                let text = format!("more than {most} compressed bytes came");
                return Err(End::Discard(bad_request("data", text)));
            }
            self.input = input;
        }
    }

    fn finished(&self) -> bool {
        self.messages.finished()
    }

    fn hold(&mut self, bytes: u64) -> Result<(), Status> {
        self.messages.hold(bytes)
    }

    fn waited(&mut self) {
        self.messages.waited();
    }

    fn resumes(&self) -> bool {
        false
    }
}
