//! The messages of a write as they arrive.

use bytes::Bytes;
use tonic::Status;
use zako_core::server::CallBody;
use zako_core::transport::grpc::{DecodeLimits, WriteDecoder, WriteEvent, WriteHead};

use super::super::resource_name::{BlobName, instance};
use super::source::{End, Source};

/// A sender that brings fewer bytes than these in the idle time is taken to be stuck.
const COUNTS: usize = 16 * 1024;

/// A stream of writes, of which the first message was read.
pub(super) struct Messages {
    body: CallBody,
    decoder: WriteDecoder,
    /// What came and is not read.
    data: Bytes,
    name: Bytes,
    /// Where the next byte belongs.
    offset: u64,
    finished: Finished,
    /// The bytes that came since the sender was last found alive.
    came: usize,
}

/// Whether the sender said that the blob is whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Finished {
    No,
    /// With this message.
    WithThis,
    Yes,
}

impl Messages {
    /// Reads up to the first message's data: the blob that it names.
    pub(super) async fn begin(
        body: CallBody,
        limits: DecodeLimits,
    ) -> Result<(BlobName, Self), End> {
        let mut messages = Self {
            body,
            decoder: WriteDecoder::new(limits),
            data: Bytes::new(),
            name: Bytes::new(),
            offset: 0,
            finished: Finished::No,
            came: 0,
        };
        let Some(WriteEvent::Head(head)) = messages.next().await? else {
            return Err(wrong_name("the write has no message"));
        };
        let name = std::str::from_utf8(&head.resource_name)
            .map_err(|_| wrong_name("the resource's name is not UTF-8"))?;
        let name = BlobName::to_write(name).map_err(|error| wrong_name(error.message()))?;
        messages.offset = u64::try_from(head.write_offset)
            .map_err(|_| wrong_offset(format!("write_offset is {}", head.write_offset)))?;
        messages.finished = Finished::by(&head);
        messages.name = head.resource_name;
        messages.body.progressed();
        Ok((name, messages))
    }

    /// The instance in which it is written.
    pub(super) fn instance(&self) -> &str {
        // It was read as UTF-8 already.
        instance(std::str::from_utf8(&self.name).unwrap_or_default())
    }

    /// Where in what is sent the next byte belongs.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    async fn next(&mut self) -> Result<Option<WriteEvent>, End> {
        loop {
            if let Some(event) = self.decoder.next(&mut self.data)? {
                return Ok(Some(event));
            }
            match self.body.next().await {
                Ok(Some(data)) => self.data = data,
                Ok(None) => {
                    self.decoder.finish()?;
                    return Ok(None);
                }
                // All is there, whatever has become of the sender.
                Err(_) if self.finished == Finished::Yes => return Ok(None),
                Err(broken) => return Err(broken.into()),
            }
        }
    }

    /// A message behind the first.
    fn follow(&mut self, head: &WriteHead) -> Result<(), End> {
        if self.finished == Finished::Yes {
            let text = "a message follows the one that finished the write";
            return Err(End::wrong("finish_write", text));
        }
        if !head.resource_name.is_empty() && head.resource_name != self.name {
            return Err(wrong_name("a later message names another resource"));
        }
        if u64::try_from(head.write_offset) != Ok(self.offset) {
            return Err(wrong_offset(format!(
                "write_offset is {} where {} follows",
                head.write_offset, self.offset
            )));
        }
        self.finished = Finished::by(head);
        Ok(())
    }

    fn take(&mut self, chunk: &Bytes) {
        self.offset = self.offset.saturating_add(chunk.len() as u64);
        self.came += chunk.len();
        if self.came >= COUNTS {
            self.came = 0;
            self.body.progressed();
        }
    }
}

impl Source for Messages {
    async fn chunk(&mut self) -> Result<Option<Bytes>, End> {
        loop {
            match self.next().await? {
                None => return Ok(None),
                Some(WriteEvent::Head(head)) => self.follow(&head)?,
                Some(WriteEvent::Data(chunk)) => {
                    self.take(&chunk);
                    return Ok(Some(chunk));
                }
                Some(WriteEvent::End) => {
                    if self.finished == Finished::WithThis {
                        self.finished = Finished::Yes;
                    }
                }
            }
        }
    }

    fn finished(&self) -> bool {
        self.finished == Finished::Yes
    }

    fn hold(&mut self, bytes: u64) -> Result<(), Status> {
        self.body.hold(bytes)
    }

    fn waited(&mut self) {
        self.body.progressed();
    }
}

impl Finished {
    fn by(head: &WriteHead) -> Self {
        match head.finish_write {
            true => Self::WithThis,
            false => Self::No,
        }
    }
}

fn wrong_name(what: &str) -> End {
    End::wrong("resource_name", what)
}

fn wrong_offset(what: String) -> End {
    End::wrong("write_offset", what)
}
