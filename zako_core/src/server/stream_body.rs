//! The answer to a call whose bytes are made on the way.

use std::convert::Infallible;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use http_body::Frame;
use http_body_util::StreamBody;
use tonic::body::Body;
use tonic::{Code, Status};

use super::status::bad_frame;
use super::transport::trailers;
use crate::transport::grpc::frame::{self, Framer, PayloadField};

/// Messages of at most `most` bytes of payload each, and trailers.
pub(super) fn framed(
    payloads: impl Stream<Item = Result<Bytes, Status>> + Send + 'static,
    field: PayloadField,
    most: usize,
) -> Body {
    let mut framer = Framer::new(field, most);
    body(payloads, move |mut payload| {
        let mut frames = Vec::new();
        while let Some(message) = framer.next_frame(&mut payload) {
            frames.push(Frame::data(message.prefix));
            frames.push(Frame::data(message.payload));
        }
        Ok(frames)
    })
}

/// Messages that are encoded already, and trailers.
pub(super) fn messages(
    messages: impl Stream<Item = Result<Bytes, Status>> + Send + 'static,
) -> Body {
    body(messages, |message| {
        let message = frame::encoded(&message).map_err(bad_frame)?;
        Ok(vec![Frame::data(message)])
    })
}

fn body(
    items: impl Stream<Item = Result<Bytes, Status>> + Send + 'static,
    mut frames_of: impl FnMut(Bytes) -> Result<Vec<Frame<Bytes>>, Status> + Send + 'static,
) -> Body {
    let items = items.map(Some).chain(futures::stream::iter([None]));
    let frames = items.scan(false, move |ended, item| {
        if *ended {
            return std::future::ready(None);
        }
        let frames = match item.map(|item| item.and_then(&mut frames_of)) {
            Some(Ok(frames)) => frames,
            Some(Err(status)) => {
                *ended = true;
                vec![Frame::trailers(trailers(&status))]
            }
            None => vec![Frame::trailers(trailers(&Status::new(Code::Ok, "")))],
        };
        std::future::ready(Some(frames))
    });
    let frames = frames
        .flat_map(|frames| futures::stream::iter(frames.into_iter().map(Ok::<_, Infallible>)));
    Body::new(StreamBody::new(frames))
}
