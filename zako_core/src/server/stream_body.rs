//! The answer to a call whose bytes are made on the way.

use std::convert::Infallible;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use http_body::Frame;
use http_body_util::StreamBody;
use tonic::body::Body;
use tonic::{Code, Status};

use super::transport::trailers;
use crate::transport::grpc::frame::{Framer, PayloadField};

/// Messages of at most `most` bytes of payload each, and trailers.
pub(super) fn framed(
    payloads: impl Stream<Item = Result<Bytes, Status>> + Send + 'static,
    field: PayloadField,
    most: usize,
) -> Body {
    let mut framer = Framer::new(field, most);
    let messages = payloads.map(Some).chain(futures::stream::iter([None]));
    let frames = messages.scan(false, move |ended, payload| {
        if *ended {
            return std::future::ready(None);
        }
        let frames = match payload {
            Some(Ok(mut payload)) => {
                let mut frames = Vec::new();
                while let Some(message) = framer.next_frame(&mut payload) {
                    frames.push(Frame::data(message.prefix));
                    frames.push(Frame::data(message.payload));
                }
                frames
            }
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
