//! Trying out whether RDMA works between two machines, and how fast.
//!
//! A probe is set up as a [session](crate::session) is: hello, Ready, and each end READs the
//! other's nonce. But its server exposes scratch memory, which the client may READ *and* WRITE;
//! it is made for this probe, nothing is believed of it, and it goes with the probe. Then the
//! client makes three exchanges, each also over the control stream, to compare:
//!
//! | exchange | over RDMA | over the stream | what is verified |
//! | --- | --- | --- | --- |
//! | SEND | a message that the server receives and sends back | the same | what came back |
//! | READ | one-sided | a request for the bytes | what was read, against what the server filled in |
//! | WRITE | one-sided | a request with the bytes | the server compares what lies there |
//!
//! A row of the [report](ProbeReport) is made of two parts: exchanges one after the other
//! give the times, and as many at once as there are slots give the rate. Each exchange moves
//! other bytes ([`pattern`]), so what was left from the one before is not taken for right.
//!
//! Bounds: a server's probe takes [`SLOTS`] slots of [`SLOT_BYTES`] to be reached and twice as
//! many to send and receive, out of the
//! [budget](crate::session::Budget); ends after a time that its
//! caller sets; and gives up a client that leaves its answers unread.

mod measured;
mod message;
mod over_rdma;
mod over_stream;
pub mod pattern;
mod run;
mod scratch;
mod serve;

pub use measured::{Exchange, Measured, Road};
pub use message::{ProbeClient, ProbeServer};
pub use run::{ProbeOptions, ProbeReport, run};
pub use serve::serve;

/// The longest message of a probe, in bytes.
pub const SLOT_BYTES: usize = 256 << 10;
/// Exchanges at once.
pub const SLOTS: u32 = 8;

/// A message of one end is never far behind the other's.
const UNREAD: usize = 2 * SLOTS as usize;
