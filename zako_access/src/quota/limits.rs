//! What callers are limited to.

use std::collections::HashMap;
use std::num::{NonZeroU32, NonZeroU64};

/// The limits of one caller; `None` is no limit.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Requests a second, and at once after a rest of a second.
    pub requests_per_second: Option<NonZeroU32>,
    /// Calls at once.
    pub streams: Option<NonZeroU32>,
    /// Bytes a second to the server.
    pub bytes_in_per_second: Option<NonZeroU64>,
    /// Bytes a second from the server.
    pub bytes_out_per_second: Option<NonZeroU64>,
    /// Bytes of blobs that were not there before, in the last 24 hours.
    pub stored_bytes_per_day: Option<NonZeroU64>,
}

/// The limits of all callers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LimitTable {
    /// Of callers that have no own: each identity, each address.
    pub default: Limits,
    /// Of identities by name. Those under `anonymous` are of each address whose callers
    /// show nothing of themselves.
    pub identities: HashMap<String, Limits>,
}

impl Limits {
    /// Whether nothing is limited.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

impl LimitTable {
    /// Whether nobody is limited.
    pub fn is_empty(&self) -> bool {
        self.default.is_none() && self.identities.values().all(Limits::is_none)
    }

    /// Whether anybody is limited in what it stores.
    pub fn limits_storing(&self) -> bool {
        let mut all = self.identities.values().chain([&self.default]);
        all.any(|limits| limits.stored_bytes_per_day.is_some())
    }

    /// Those of an identity.
    pub(super) fn of(&self, name: &str) -> &Limits {
        self.identities.get(name).unwrap_or(&self.default)
    }
}
