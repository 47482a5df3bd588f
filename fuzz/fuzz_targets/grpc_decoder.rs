//! The incremental decoders of uploads and downloads against generated code: both
//! read the same, however the bytes are cut.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use prost::Message;
use zako_core::transport::grpc::{
    DecodeLimits, DownloadDecoder, FrameError, UploadDecoder, UploadEvent,
};
use zako_protobuf::transport::upload_request::Payload;
use zako_protobuf::transport::{DownloadResponse, UploadRequest};

fuzz_target!(|data: &[u8]| {
    if let Some((step, wire)) = data.split_first() {
        let step = usize::from(*step) + 1;
        let uploaded = upload(wire, step);
        assert_eq!(uploaded, upload(wire, wire.len().max(1)), "another cut");
        judge(uploaded, upload_by_generated_code(wire), wire);
        let downloaded = download(wire, step);
        assert_eq!(downloaded, download(wire, wire.len().max(1)), "another cut");
        judge(downloaded, download_by_generated_code(wire), wire);
    }
});

/// What one side reads the other reads, but for what the decoders refuse on purpose.
fn judge<T: PartialEq + std::fmt::Debug>(
    ours: Result<T, FrameError>,
    generated: Option<T>,
    wire: &[u8],
) {
    match ours {
        Ok(read) => assert_eq!(Some(read), generated, "{wire:?}"),
        Err(FrameError::TooLong { .. }) => {}
        Err(FrameError::Malformed("a message has two payloads" | "proto3 has no groups")) => {}
        Err(error) => assert_eq!(generated, None, "{error}: {wire:?}"),
    }
}

fn upload(wire: &[u8], step: usize) -> Result<Vec<UploadEvent>, FrameError> {
    let mut decoder = UploadDecoder::new(DecodeLimits::default());
    let mut events: Vec<UploadEvent> = Vec::new();
    for piece in wire.chunks(step) {
        let mut data = Bytes::copy_from_slice(piece);
        while let Some(event) = decoder.next(&mut data)? {
            push(&mut events, event);
        }
        assert!(data.is_empty(), "bytes were left");
    }
    decoder.finish()?;
    Ok(events)
}

/// Chunks come in pieces: those that follow one another are joined.
fn push(events: &mut Vec<UploadEvent>, event: UploadEvent) {
    match (events.last_mut(), event) {
        (Some(UploadEvent::Chunk(chunk)), UploadEvent::Chunk(more)) => {
            *chunk = [&chunk[..], &more].concat().into();
        }
        (_, event) => events.push(event),
    }
}

fn download(wire: &[u8], step: usize) -> Result<Vec<u8>, FrameError> {
    let mut decoder = DownloadDecoder::new(DecodeLimits::default());
    let mut blob = Vec::new();
    for piece in wire.chunks(step) {
        let mut data = Bytes::copy_from_slice(piece);
        while let Some(piece) = decoder.next(&mut data)? {
            assert!(!piece.is_empty(), "an empty piece");
            blob.extend_from_slice(&piece);
        }
        assert!(data.is_empty(), "bytes were left");
    }
    decoder.finish()?;
    Ok(blob)
}

fn upload_by_generated_code(wire: &[u8]) -> Option<Vec<UploadEvent>> {
    let mut events = Vec::new();
    for body in bodies(wire)? {
        let event = match UploadRequest::decode(body).ok()?.payload {
            None => UploadEvent::Unset,
            Some(Payload::Metadata(metadata)) => UploadEvent::Metadata(metadata),
            Some(Payload::Chunk(chunk)) => UploadEvent::Chunk(chunk),
        };
        push(&mut events, event);
    }
    Some(events)
}

fn download_by_generated_code(wire: &[u8]) -> Option<Vec<u8>> {
    let mut blob = Vec::new();
    for body in bodies(wire)? {
        blob.extend_from_slice(&DownloadResponse::decode(body).ok()?.data);
    }
    Some(blob)
}

/// The messages of a stream; `None` if it is compressed or ends inside one.
fn bodies(mut wire: &[u8]) -> Option<Vec<&[u8]>> {
    let mut bodies = Vec::new();
    while let Some((head, rest)) = wire.split_first_chunk::<5>() {
        let [compressed, length @ ..] = *head;
        let (body, rest) = rest.split_at_checked(u32::from_be_bytes(length) as usize)?;
        if compressed != 0 {
            return None;
        }
        bodies.push(body);
        wire = rest;
    }
    wire.is_empty().then_some(bodies)
}
