//! Where a card says what it has done, and how it wakes who waits for that.
//!
//! This file has `unsafe` code: it calls libibverbs. The proofs rest on this: a pointer
//! in one of these types came from libibverbs, which keeps what it points to until the
//! `drop` of that type; what is needed longer is held.
#![allow(unsafe_code)]

use std::ffi::c_int;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::ptr::NonNull;
use std::sync::Arc;

use ibverbs_sys::{ibv_comp_channel, ibv_cq, ibv_wc};

use super::context::Context;
use super::status::{checked, refused};
use crate::fabric::{FabricError, FailureKind, Result};

/// Becomes readable when an armed completion queue gets something.
pub(super) struct Channel {
    pointer: NonNull<ibv_comp_channel>,
    context: Arc<Context>,
}

/// Where a card puts completions.
pub(super) struct CompletionQueue {
    pointer: NonNull<ibv_cq>,
    channel: Arc<Channel>,
}

// SAFETY: libibverbs may be called from any thread.
unsafe impl Send for Channel {}
// SAFETY: libibverbs locks what its functions share.
unsafe impl Sync for Channel {}
// SAFETY: as for `Channel`.
unsafe impl Send for CompletionQueue {}
// SAFETY: as for `Channel`.
unsafe impl Sync for CompletionQueue {}

impl Channel {
    fn new(context: &Arc<Context>) -> Result<Arc<Self>> {
        // SAFETY: the context is valid.
        let pointer = unsafe { (context.verbs().ibv_create_comp_channel)(context.pointer()) };
        let pointer = NonNull::new(pointer).ok_or_else(|| {
            refused(
                "the card gives no completion channel",
                &io::Error::last_os_error(),
            )
        })?;
        let channel = Arc::new(Self {
            pointer,
            context: Arc::clone(context),
        });
        // SAFETY: the descriptor is the channel's, which is held here.
        let descriptor = unsafe { BorrowedFd::borrow_raw(channel.as_raw_fd()) };
        rustix::io::ioctl_fionbio(descriptor, true)
            .map_err(|error| refused("a completion channel can't be polled", &error.into()))?;
        Ok(channel)
    }
}

impl AsRawFd for Channel {
    fn as_raw_fd(&self) -> RawFd {
        // SAFETY: the channel is valid, and its descriptor doesn't change.
        unsafe { (*self.pointer.as_ptr()).fd }
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        // SAFETY: completion queues of the channel hold it, so there are none.
        let result =
            unsafe { (self.context.verbs().ibv_destroy_comp_channel)(self.pointer.as_ptr()) };
        if let Err(error) = checked(result) {
            tracing::error!(%error, "a completion channel could not be given back");
            std::mem::forget(Arc::clone(&self.context));
        }
    }
}

impl CompletionQueue {
    /// A queue with room for `len` completions, and a channel of its own.
    pub(super) fn new(context: &Arc<Context>, len: u32) -> Result<Arc<Self>> {
        let channel = Channel::new(context)?;
        let len = c_int::try_from(len).unwrap_or(c_int::MAX);
        // SAFETY: context and channel are valid, and held by the queue.
        let pointer = unsafe {
            (context.verbs().ibv_create_cq)(
                context.pointer(),
                len,
                std::ptr::null_mut(),
                channel.pointer.as_ptr(),
                0,
            )
        };
        let pointer = NonNull::new(pointer).ok_or_else(|| {
            refused(
                "the card gives no completion queue",
                &io::Error::last_os_error(),
            )
        })?;
        Ok(Arc::new(Self { pointer, channel }))
    }

    pub(super) fn pointer(&self) -> *mut ibv_cq {
        self.pointer.as_ptr()
    }

    pub(super) fn channel(&self) -> &Arc<Channel> {
        &self.channel
    }

    fn context(&self) -> &Context {
        &self.channel.context
    }

    /// Takes what is there, as far as `completions` has room; says how many that were.
    pub(super) fn poll(&self, completions: &mut [ibv_wc]) -> Result<usize> {
        let Some(poll) = self.context().operations().poll_cq else {
            return Err(no_such_operation("polls"));
        };
        let most = c_int::try_from(completions.len()).unwrap_or(c_int::MAX);
        // SAFETY: the queue is valid and `completions` has room for `most`.
        let taken = unsafe { poll(self.pointer(), most, completions.as_mut_ptr()) };
        usize::try_from(taken).map_err(|_| {
            FabricError::new(
                FailureKind::Device,
                format!("{}: the completion queue is broken", self.context().name()),
            )
        })
    }

    /// Makes the channel readable at the next completion. Not for those that are there:
    /// they have to be polled after this.
    pub(super) fn arm(&self) -> Result<()> {
        let Some(arm) = self.context().operations().req_notify_cq else {
            return Err(no_such_operation("arms"));
        };
        // SAFETY: the queue is valid.
        checked(unsafe { arm(self.pointer(), 0) })
            .map_err(|error| refused("a completion queue can't be armed", &error))
    }

    /// Takes the events of the channel; says whether there were any.
    pub(super) fn take_events(&self) -> Result<bool> {
        let verbs = self.context().verbs();
        let mut taken = false;
        loop {
            let mut queue = std::ptr::null_mut();
            let mut queue_context = std::ptr::null_mut();
            // SAFETY: the channel is valid; the others are where the answer goes.
            let result = unsafe {
                (verbs.ibv_get_cq_event)(
                    self.channel.pointer.as_ptr(),
                    &raw mut queue,
                    &raw mut queue_context,
                )
            };
            if result != 0 {
                let error = io::Error::last_os_error();
                match error.kind() {
                    io::ErrorKind::WouldBlock => return Ok(taken),
                    io::ErrorKind::Interrupted => continue,
                    _ => return Err(refused("a completion channel is broken", &error)),
                }
            }
            // At once, since a queue can't be destroyed before.
            // SAFETY: the event is of this queue, the only one of its channel, and is
            // acknowledged once.
            unsafe { (verbs.ibv_ack_cq_events)(self.pointer(), 1) };
            taken = true;
        }
    }
}

impl Drop for CompletionQueue {
    fn drop(&mut self) {
        // SAFETY: queue pairs of the queue hold it, so there are none; every event that
        // was taken is acknowledged.
        let result = unsafe { (self.context().verbs().ibv_destroy_cq)(self.pointer()) };
        if let Err(error) = checked(result) {
            tracing::error!(%error, "a completion queue could not be given back");
            std::mem::forget(Arc::clone(&self.channel));
        }
    }
}

fn no_such_operation(what: &str) -> FabricError {
    FabricError::new(
        FailureKind::Device,
        format!("the card's driver has no function that {what}"),
    )
}
