//! Memory that a card knows.
//!
//! This file has `unsafe` code: it calls libibverbs. The proofs rest on this: a region
//! holds the slab, so that memory stays mapped until the card knows it no more.
#![allow(unsafe_code)]

use std::ffi::c_int;
use std::io;
use std::ptr::NonNull;
use std::sync::Arc;

use ibverbs_sys::{ibv_access_flags, ibv_mr};

use super::context::ProtectionDomain;
use super::status::{checked, refused};
use crate::fabric::{Access, FabricError, FailureKind, RemoteMemory, Result};
use crate::memory::Slab;
use crate::memory_limit::{HOW_TO_RAISE, MemoryLimit};

/// A slab that a protection domain's queue pairs may use.
pub(super) struct Region {
    pointer: NonNull<ibv_mr>,
    slab: Arc<Slab>,
    domain: Arc<ProtectionDomain>,
}

// SAFETY: libibverbs may be called from any thread.
unsafe impl Send for Region {}

impl Region {
    /// Makes a slab known, with what a peer may do in it.
    pub(super) fn new(
        domain: &Arc<ProtectionDomain>,
        slab: &Arc<Slab>,
        access: Access,
    ) -> Result<Self> {
        let verbs = domain.context().verbs();
        let address = slab.address() as *mut std::ffi::c_void;
        let flags = flags(access) | ibv_access_flags::IBV_ACCESS_LOCAL_WRITE.0;
        // SAFETY: the domain is valid, and the region holds the slab, whose memory this is.
        let pointer =
            unsafe { (verbs.ibv_reg_mr)(domain.pointer(), address, slab.bytes(), flags as c_int) };
        let pointer = NonNull::new(pointer)
            .ok_or_else(|| not_pinned(slab.bytes(), &io::Error::last_os_error()))?;
        Ok(Self {
            pointer,
            slab: Arc::clone(slab),
            domain: Arc::clone(domain),
        })
    }

    pub(super) fn slab(&self) -> &Arc<Slab> {
        &self.slab
    }

    /// The key for work of this side.
    pub(super) fn local_key(&self) -> u32 {
        // SAFETY: the region is valid, and its keys don't change.
        unsafe { (*self.pointer.as_ptr()).lkey }
    }

    /// The slab, as a peer names it.
    pub(super) fn remote(&self) -> RemoteMemory {
        RemoteMemory {
            address: self.slab.address(),
            length: self.slab.bytes() as u64,
            // SAFETY: as in `local_key`.
            key: unsafe { (*self.pointer.as_ptr()).rkey },
        }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        let verbs = self.domain.context().verbs();
        // SAFETY: the region is valid, and this is its end.
        let result = unsafe { (verbs.ibv_dereg_mr)(self.pointer.as_ptr()) };
        if let Err(error) = checked(result) {
            tracing::error!(%error, slab = ?self.slab, "a card keeps memory, which is kept for good");
            std::mem::forget((Arc::clone(&self.slab), Arc::clone(&self.domain)));
        }
    }
}

/// The flags that let a peer do this, of a region or a queue pair.
pub(super) fn flags(access: Access) -> u32 {
    let read = ibv_access_flags::IBV_ACCESS_REMOTE_READ.0;
    let write = ibv_access_flags::IBV_ACCESS_REMOTE_WRITE.0;
    match access {
        Access::Local => 0,
        Access::Read => read,
        Access::ReadWrite => read | write,
    }
}

fn not_pinned(bytes: usize, error: &io::Error) -> FabricError {
    let limit = MemoryLimit::current();
    if error.kind() == io::ErrorKind::OutOfMemory && limit.room().is_some() {
        return FabricError::new(
            FailureKind::MemoryLimit,
            format!(
                "{} KiB of memory can't be pinned, the limit for this process is {limit}; \
                 {HOW_TO_RAISE}",
                bytes / 1024
            ),
        );
    }
    refused("memory can't be made known to the card", error)
}
