//! The content of a request's body, which may be compressed.

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_RANGE};
use http::request::Parts;
use http::{HeaderValue, StatusCode};

use super::body::RequestBody;
use super::memory::{Memory, Share};
use super::refusal::Refusal;
use crate::compression::{Decompressor, Window};

/// What a body consists of once it is decompressed.
pub(super) struct Content {
    pub(super) body: RequestBody,
    zstd: Option<Zstd>,
}

struct Zstd {
    /// Set up when the first bytes tell what memory that takes.
    decompressor: Option<(Decompressor, Share)>,
    windows: Memory,
    /// What came and is not decompressed.
    input: Bytes,
}

impl Content {
    /// A body that is taken as it comes.
    pub(super) fn new(body: RequestBody) -> Self {
        Self { body, zstd: None }
    }

    /// Takes the body for what the head says of it.
    ///
    /// # Errors
    /// It has an encoding that is not known here, or is a part of something.
    pub(super) fn read_as(&mut self, head: &Parts, windows: &Memory) -> Result<(), Refusal> {
        if head.headers.contains_key(CONTENT_RANGE) {
            let text = "a PUT stores all of a resource, not a range of it";
            return Err(Refusal::bad(text));
        }
        let mut codings = head.headers.get_all(CONTENT_ENCODING).iter();
        self.zstd = match (codings.next().map(HeaderValue::as_bytes), codings.next()) {
            (None, _) => None,
            (Some(coding), None) if coding.eq_ignore_ascii_case(b"identity") => None,
            (Some(coding), None) if coding.eq_ignore_ascii_case(b"zstd") => {
                Some(Zstd::new(windows))
            }
            (Some(coding), _) => {
                let coding = String::from_utf8_lossy(coding);
                let text = format!("bodies come as they are or by zstd once, not by {coding:?}");
                return Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, text));
            }
        };
        Ok(())
    }

    /// Its length in bytes, if that is known.
    pub(super) fn length(&self) -> Option<u64> {
        match self.zstd {
            None => self.body.length(),
            Some(_) => None,
        }
    }

    /// The next bytes; `None` at the end.
    ///
    /// # Errors
    /// As [`RequestBody::next`]; also if they can't be decompressed.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Refusal> {
        let Some(zstd) = &mut self.zstd else {
            return self.body.next().await;
        };
        loop {
            let data = zstd.step().await?;
            if !data.is_empty() {
                return Ok(Some(data));
            }
            match self.body.next().await? {
                Some(data) => zstd.input = data,
                None if !zstd.is_within() => return Ok(None),
                None => return Err(Refusal::bad("the zstd body ends within a frame")),
            }
        }
    }
}

impl Zstd {
    fn new(windows: &Memory) -> Self {
        Self {
            decompressor: None,
            windows: windows.clone(),
            input: Bytes::new(),
        }
    }

    /// What is in the bytes that came; nothing if more have to come.
    async fn step(&mut self) -> Result<Bytes, Refusal> {
        let wrong =
            |error| Refusal::bad(format!("the body can't be decompressed by zstd: {error}"));
        let (decompressor, _) = match &mut self.decompressor {
            Some(decompressor) => decompressor,
            None if self.input.is_empty() => return Ok(Bytes::new()),
            unset @ None => {
                let window = Window::of(&self.input);
                let share = self.windows.share(window.memory(u64::MAX)).await?;
                let decompressor = Decompressor::new(window).map_err(wrong)?;
                unset.insert((decompressor, share))
            }
        };
        decompressor.step(&mut self.input).map_err(wrong)
    }

    fn is_within(&self) -> bool {
        let set = self.decompressor.as_ref();
        set.is_some_and(|(decompressor, _)| decompressor.is_within())
    }
}
