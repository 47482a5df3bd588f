//! Bulk bytes over gRPC without copies.
//!
//! Generated code copies every payload into and out of its messages. The bulk
//! calls go past it: [`frame`] writes the few bytes that stand before a payload
//! and leaves the payload as it is, [`DownloadDecoder`], [`UploadDecoder`] and
//! [`WriteDecoder`] read messages as they arrive and hand out their payload in the
//! pieces in which it came. Batches are written by [`BatchWriter`], and read by
//! generated code out of [`Pieces`]. The bytes on the wire are those of generated code.

mod batch;
mod decode;
mod download;
pub mod frame;
mod pieces;
mod upload;
mod varint;
mod write;

pub use batch::BatchWriter;
pub use decode::{DecodeLimits, FrameError};
pub use download::DownloadDecoder;
pub use pieces::Pieces;
pub use upload::{UploadDecoder, UploadEvent};
pub use write::{WriteDecoder, WriteEvent, WriteHead};
