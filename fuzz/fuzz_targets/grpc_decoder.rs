//! The incremental decoders of uploads, downloads and ByteStream's writes against
//! generated code: both read the same, however the bytes are cut.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use prost::Message;
use zako_core::transport::grpc::{
    DecodeLimits, DownloadDecoder, FrameError, UploadDecoder, UploadEvent, WriteDecoder,
    WriteEvent,
};
use zako_protobuf::transport::upload_request::Payload;
use zako_protobuf::transport::{DownloadResponse, UploadRequest};

/// `google.bytestream.WriteRequest`; that its name is UTF-8 is checked by who reads it.
#[derive(Clone, PartialEq, Message)]
struct WriteRequest {
    #[prost(bytes = "bytes", tag = "1")]
    resource_name: Bytes,
    #[prost(int64, tag = "2")]
    write_offset: i64,
    #[prost(bool, tag = "3")]
    finish_write: bool,
    #[prost(bytes = "bytes", tag = "10")]
    data: Bytes,
}

fuzz_target!(|data: &[u8]| {
    if let Some((step, wire)) = data.split_first() {
        let step = usize::from(*step) + 1;
        let uploaded = upload(wire, step);
        assert_eq!(uploaded, upload(wire, wire.len().max(1)), "another cut");
        judge(uploaded, upload_by_generated_code(wire), wire);
        let downloaded = download(wire, step);
        assert_eq!(downloaded, download(wire, wire.len().max(1)), "another cut");
        judge(downloaded, download_by_generated_code(wire), wire);
        let written = write(wire, step);
        assert_eq!(written, write(wire, wire.len().max(1)), "another cut");
        judge(written, write_by_generated_code(wire), wire);
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
        Err(FrameError::Malformed(
            "a message has two payloads"
            | "a message has a field twice"
            | "a field follows its message's payload"
            | "proto3 has no groups",
        )) => {}
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

fn write(wire: &[u8], step: usize) -> Result<Vec<WriteRequest>, FrameError> {
    let mut decoder = WriteDecoder::new(DecodeLimits::default());
    let mut requests: Vec<WriteRequest> = Vec::new();
    let mut ended = 0;
    for piece in wire.chunks(step) {
        let mut data = Bytes::copy_from_slice(piece);
        while let Some(event) = decoder.next(&mut data)? {
            match event {
                WriteEvent::Head(head) => {
                    assert_eq!(requests.len(), ended, "a message began in another");
                    requests.push(WriteRequest {
                        resource_name: head.resource_name,
                        write_offset: head.write_offset,
                        finish_write: head.finish_write,
                        data: Bytes::new(),
                    });
                }
                WriteEvent::Data(piece) => {
                    assert!(!piece.is_empty(), "an empty piece");
                    let request = requests.last_mut().expect("data before a head");
                    request.data = [&request.data[..], &piece].concat().into();
                }
                WriteEvent::End => ended += 1,
            }
        }
        assert!(data.is_empty(), "bytes were left");
    }
    decoder.finish()?;
    assert_eq!(requests.len(), ended, "a message has no end");
    Ok(requests)
}

fn write_by_generated_code(wire: &[u8]) -> Option<Vec<WriteRequest>> {
    let bodies = bodies(wire)?.into_iter();
    bodies.map(|body| WriteRequest::decode(body).ok()).collect()
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
