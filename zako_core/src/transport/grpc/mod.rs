//! Bulk bytes over gRPC without copies.
//!
//! Generated code copies every payload into and out of its messages. The bulk
//! calls go past it: [`frame`] writes the few bytes that stand before a payload
//! and leaves the payload as it is, [`DownloadDecoder`] and [`UploadDecoder`] read
//! messages as they arrive and hand out their payload in the pieces in which it
//! came. The bytes on the wire are those of generated code.

mod decode;
mod download;
pub mod frame;
mod upload;
mod varint;

pub use decode::{DecodeLimits, FrameError};
pub use download::DownloadDecoder;
pub use upload::{UploadDecoder, UploadEvent};
