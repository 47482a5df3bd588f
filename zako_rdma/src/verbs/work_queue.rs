//! A queue pair with the memory that it may use and the work that it has.
//!
//! This file has `unsafe` code: it gives memory to a card. The proof rests on this: a
//! slot that is given is kept in `posted` until its completion, or for good.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::sync::Arc;

use ibverbs_sys::{ibv_wc, ibv_wc_status};

use super::completion_queue::CompletionQueue;
use super::posted::{Job, Kind, Posted};
use super::queue_pair::{Element, Operation, QueuePair};
use super::region::Region;
use super::status::{failure, refused};
use super::symbols::Verbs;
use crate::fabric::{Completion, FabricError, FailureKind, Result, Work};
use crate::memory::Slot;

/// Completions that are taken at once.
const BATCH: usize = 16;

/// What a card works with; fields are in the order in which they have to go.
pub(super) struct WorkQueue {
    pub(super) queue_pair: QueuePair,
    pub(super) regions: Vec<Region>,
    posted: Posted,
    pub(super) completions: Arc<CompletionQueue>,
    verbs: &'static Verbs,
    depth: u32,
    message_bytes: u32,
    state: State,
}

/// What the queue pair can do, as far as it is known here: the card finds out first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Receives may be posted.
    Init,
    /// All work may be posted.
    ReadyToSend,
    /// Nothing may.
    Failed,
}

impl WorkQueue {
    pub(super) fn new(
        queue_pair: QueuePair,
        completions: Arc<CompletionQueue>,
        verbs: &'static Verbs,
        depth: u32,
        message_bytes: u32,
    ) -> Self {
        Self {
            queue_pair,
            regions: Vec::new(),
            posted: Posted::default(),
            completions,
            verbs,
            depth,
            message_bytes,
            state: State::Init,
        }
    }

    pub(super) fn state(&self) -> State {
        self.state
    }

    pub(super) fn outstanding(&self) -> usize {
        self.posted.len()
    }

    /// The queue pair is Ready to Send.
    pub(super) fn set_ready(&mut self) {
        self.state = State::ReadyToSend;
    }

    /// Makes the card end everything.
    pub(super) fn fail(&mut self) -> Result<()> {
        self.state = State::Failed;
        self.queue_pair
            .fail()
            .map_err(|error| refused("a queue pair doesn't become Error", &error))
    }

    pub(super) fn post(&mut self, id: u64, work: Work) -> Result<(), (FabricError, Slot)> {
        let (local_key, length) = match self.checked(&work) {
            Ok(found) => found,
            Err(error) => return Err((error, work.into_slot())),
        };
        let (operation, kind) = match work {
            Work::Read { address, key, .. } => (Operation::Read { address, key }, Kind::OneSided),
            Work::Write { address, key, .. } => (Operation::Write { address, key }, Kind::OneSided),
            Work::Send { .. } => (Operation::Send, Kind::Send),
            Work::Receive { .. } => (Operation::Receive, Kind::Receive),
        };
        let slot = work.into_slot();
        let local = slot.slab().address() + slot.offset();
        let number = self.posted.insert(Job {
            id,
            slot,
            length,
            kind,
        });
        let element = Element {
            id: number,
            operation,
            local,
            length,
            local_key,
        };
        // SAFETY: the slot is that many bytes of its slab. It is in `posted`, and is only
        // taken out when the work is completed or was refused.
        let Err(error) = (unsafe { self.queue_pair.post(&element) }) else {
            return Ok(());
        };
        match self.posted.remove(number) {
            Some(job) if error.kind() == std::io::ErrorKind::OutOfMemory => {
                Err((full("the card's queue"), job.slot))
            }
            Some(job) => Err((refused("the card takes no work", &error), job.slot)),
            None => Ok(()),
        }
    }

    /// The key of the work's memory, and its length, if the work may be posted.
    fn checked(&self, work: &Work) -> Result<(u32, u32)> {
        let receives = matches!(work, Work::Receive { .. });
        match self.state {
            State::Failed => {
                return Err(FabricError::new(
                    FailureKind::Flushed,
                    "the queue pair has failed",
                ));
            }
            State::Init if !receives => {
                return Err(FabricError::new(
                    FailureKind::Device,
                    "the queue pair is not connected",
                ));
            }
            _ => {}
        }
        let posted = match receives {
            true => self.posted.receives(),
            false => self.posted.sends(),
        };
        if posted >= self.depth {
            return Err(full("as was asked for, the queue"));
        }
        let bounds = |message| Err(FabricError::new(FailureKind::Bounds, message));
        if work.length() > work.slot().len() {
            return bounds("a length is more than the slot has".to_owned());
        }
        let Ok(length) = u32::try_from(work.length()) else {
            return bounds("a slot is longer than a card can say".to_owned());
        };
        if length > self.message_bytes && !receives {
            return bounds(format!(
                "a message of {length} bytes is longer than the card's {}",
                self.message_bytes
            ));
        }
        let slab = work.slot().slab();
        let region = self
            .regions
            .iter()
            .find(|region| Arc::ptr_eq(region.slab(), slab));
        match region {
            Some(region) => Ok((region.local_key(), length)),
            None => bounds("the slot's slab is not registered here".to_owned()),
        }
    }

    /// Takes what has been completed.
    pub(super) fn poll(&mut self, completions: &mut Vec<Completion>) -> Result<()> {
        let mut batch = [ibv_wc::default(); BATCH];
        loop {
            let taken = self.completions.poll(&mut batch)?;
            let mut unknown = Ok(());
            for ended in batch.iter().take(taken) {
                match self.completion(ended) {
                    Ok(completion) => completions.push(completion),
                    // The others are good; they would be lost, and their slots with them.
                    Err(error) => unknown = Err(error),
                }
            }
            unknown?;
            if taken < BATCH {
                return Ok(());
            }
        }
    }

    fn completion(&mut self, ended: &ibv_wc) -> Result<Completion> {
        let Some(job) = self.posted.remove(ended.wr_id()) else {
            return Err(FabricError::new(
                FailureKind::Device,
                format!(
                    "the card ended work {:#x}, which it doesn't have",
                    ended.wr_id()
                ),
            ));
        };
        let status = ended
            .error()
            .map_or(ibv_wc_status::IBV_WC_SUCCESS, |(status, _)| status);
        let error = failure(
            status,
            job.kind == Kind::OneSided,
            &self.status_name(status),
        );
        if error.is_some() {
            // Work of this service that fails takes the queue pair with it.
            self.state = State::Failed;
        }
        let moved = match job.kind {
            // More than the slot would be the card's lie.
            Kind::Receive => (ended.len() as u32).min(job.length),
            Kind::OneSided | Kind::Send => job.length,
        };
        Ok(Completion {
            id: job.id,
            outcome: error.map_or(Ok(moved), Err),
            slot: job.slot,
        })
    }

    fn status_name(&self, status: ibv_wc_status::Type) -> String {
        if status == ibv_wc_status::IBV_WC_SUCCESS {
            return String::new();
        }
        // SAFETY: the function gives a text that ends with a zero and stays, for any number.
        let name = unsafe { CStr::from_ptr((self.verbs.ibv_wc_status_str)(status)) };
        name.to_string_lossy().into_owned()
    }
}

fn full(what: &str) -> FabricError {
    FabricError::new(FailureKind::Full, format!("{what} is full"))
}
