//! How a session is set up.

use std::time::Duration;

use super::error::SessionError;
use crate::fabric::EndpointOptions;
use crate::memory::{PAGE, Pages};

/// How a session is set up. The smaller one of both ends' longest READs and of both ends'
/// `transfers` holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionOptions {
    /// The length of a slot in bytes.
    pub slot_bytes: usize,
    /// Slots next to each other that one READ goes over, at most.
    pub run_slots: u32,
    /// What the memory of the slots is made of.
    pub pages: Pages,
    /// Slots that the peer pulls from; one more holds the nonce.
    pub exposed_slots: u32,
    /// Slots that are pulled into and not yet taken by who pulls.
    pub pull_slots: u32,
    /// Slots that whoever took them may keep; beyond that pulled bytes are copied.
    pub lent_slots: u32,
    /// Transfers at once, at most as many as there are slots of either kind.
    pub transfers: u32,
    /// READs posted at once, at most as many as the endpoint's depth.
    pub reads: usize,
    /// How the endpoint is made.
    pub endpoint: EndpointOptions,
    /// How often completions are looked for without sleeping after the last one, while
    /// work is outstanding.
    pub polls: u32,
    /// The time for each message until both ends are ready.
    pub handshake_timeout: Duration,
    /// The time for both ends to read the other's nonce.
    pub check_timeout: Duration,
    /// The time after which a READ that is not completed is taken for lost. Found out
    /// within half as much more.
    pub read_timeout: Duration,
    /// The time that work has to end when the session does.
    pub drain_timeout: Duration,
    /// A session on which nothing moves for so long is closed, within
    /// half a `read_timeout`.
    pub idle_timeout: Option<Duration>,
}

impl Default for SessionOptions {
    fn default() -> Self {
        Self {
            slot_bytes: 256 << 10,
            run_slots: 4,
            pages: Pages::default(),
            exposed_slots: 40,
            pull_slots: 40,
            lent_slots: 16,
            transfers: 8,
            reads: 32,
            endpoint: EndpointOptions::default(),
            polls: 64,
            handshake_timeout: Duration::from_secs(5),
            check_timeout: Duration::from_secs(2),
            read_timeout: Duration::from_secs(10),
            drain_timeout: Duration::from_secs(5),
            idle_timeout: None,
        }
    }
}

impl SessionOptions {
    /// The memory that a session pins, in bytes: what the process must be allowed to.
    pub fn pinned_bytes(&self) -> u64 {
        let slot = self.slot_bytes.saturating_add(PAGE - 1) / PAGE * PAGE;
        let slots = u64::from(self.all_exposed()) + u64::from(self.all_local());
        (slot as u64).saturating_mul(slots)
    }

    /// Exposed slots with that of the nonce.
    pub(super) fn all_exposed(&self) -> u32 {
        self.exposed_slots.saturating_add(1)
    }

    /// Slots that are pulled into, with those that are lent.
    pub(super) fn all_local(&self) -> u32 {
        self.pull_slots.saturating_add(self.lent_slots)
    }

    pub(super) fn check(&self) -> Result<(), SessionError> {
        let slots = self.exposed_slots.min(self.pull_slots);
        let slots_can_be =
            self.exposed_slots < u32::MAX && self.pull_slots.checked_add(self.lent_slots).is_some();
        let length = self.slot_bytes.checked_mul(self.run_slots as usize);
        let length_can_be = length.is_some_and(|length| u32::try_from(length).is_ok());
        if !slots_can_be || !length_can_be {
            return Err(SessionError::Internal(
                "a session can't have so many or so long slots".to_owned(),
            ));
        }
        let somewhere = slots > 0 && self.slot_bytes > 0 && self.run_slots > 0;
        if !somewhere || self.transfers == 0 || self.reads == 0 {
            return Err(SessionError::Internal(
                "a session needs slots, transfers and reads".to_owned(),
            ));
        }
        Ok(())
    }

    /// The longest READ in bytes.
    pub(super) fn grant_bytes(&self) -> u32 {
        let bytes = self.slot_bytes.saturating_mul(self.run_slots as usize);
        u32::try_from(bytes).unwrap_or(u32::MAX)
    }

    /// Transfers that every slab has a slot for.
    pub(super) fn transfers(&self) -> u32 {
        self.transfers.min(self.exposed_slots).min(self.pull_slots)
    }
}
