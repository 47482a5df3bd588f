//! The content of a request's body, which may be compressed.

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_RANGE};
use http::request::Parts;
use http::{HeaderValue, StatusCode};

use super::body::RequestBody;
use super::refusal::Refusal;
use crate::compression::{Decompressor, Window};

/// What a body consists of once it is decompressed.
pub(super) struct Content {
    pub(super) body: RequestBody,
    zstd: Option<Zstd>,
}

struct Zstd {
    decompressor: Decompressor,
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
    pub(super) fn read_as(&mut self, head: &Parts) -> Result<(), Refusal> {
        if head.headers.contains_key(CONTENT_RANGE) {
            let text = "a PUT stores all of a resource, not a range of it";
            return Err(Refusal::bad(text));
        }
        let mut codings = head.headers.get_all(CONTENT_ENCODING).iter();
        self.zstd = match (codings.next().map(HeaderValue::as_bytes), codings.next()) {
            (None, _) => None,
            (Some(coding), None) if coding.eq_ignore_ascii_case(b"identity") => None,
            (Some(coding), None) if coding.eq_ignore_ascii_case(b"zstd") => Some(Zstd::new()?),
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
            let data = zstd.decompressor.step(&mut zstd.input).map_err(|error| {
                Refusal::bad(format!("the body can't be decompressed by zstd: {error}"))
            })?;
            if !data.is_empty() {
                return Ok(Some(data));
            }
            match self.body.next().await? {
                Some(data) => zstd.input = data,
                None if !zstd.decompressor.is_within() => return Ok(None),
                None => return Err(Refusal::bad("the zstd body ends within a frame")),
            }
        }
    }
}

impl Zstd {
    fn new() -> Result<Self, Refusal> {
        let decompressor = Decompressor::new(Window::LARGEST).map_err(|error| {
            tracing::error!(%error, "zstd can't be set up");
            let text = "zstd can't be had just now";
            Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, text)
        })?;
        Ok(Self {
            decompressor,
            input: Bytes::new(),
        })
    }
}
