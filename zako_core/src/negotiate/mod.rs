//! What two ends agree on before bytes move: who may move them, on which
//! connection, and how many streams at once.
//!
//! A [`Gate`] issues tokens and redeems them for sessions. A token is 256 random
//! bits that open one session on one connection, once. A session lives as long as
//! its connection, or until it idles out; its calls share a number of streams that
//! was computed when the token was issued.

mod caller;
mod clock;
mod concurrency;
mod gate;
mod peer;
mod session;
mod token;

pub use caller::Caller;
pub use clock::{Clock, ManualClock, SystemClock};
pub use concurrency::ServiceTime;
pub use gate::{Gate, GateLimits, Offer};
pub use peer::{Peer, PeerAddr, PeerIdentity};
pub use session::StreamPermit;
pub use token::{Access, Scope};
