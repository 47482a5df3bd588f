//! An opened device, and protection domains in it.
//!
//! This file has `unsafe` code: it calls libibverbs. The proofs rest on this: a pointer
//! in one of these types came from libibverbs, which keeps what it points to until the
//! `drop` of that type. libibverbs may be called from all threads at once.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_int};
use std::fmt;
use std::io;
use std::net::Ipv6Addr;
use std::ptr::NonNull;
use std::sync::Arc;

use ibverbs_sys::{
    IBV_GID_TYPE_IB, IBV_GID_TYPE_ROCE_V1, IBV_GID_TYPE_ROCE_V2, IBV_LINK_LAYER_ETHERNET,
    IBV_TRANSPORT_IWARP, ibv_context, ibv_context_ops, ibv_device, ibv_device_attr, ibv_gid_entry,
    ibv_pd, ibv_port_attr, ibv_port_state,
};

use super::status::{checked, refused};
use super::symbols::{Verbs, verbs};
use crate::devices::{Gid, GidKind, LinkLayer, Port, PortState};
use crate::fabric::{FabricError, FailureKind, Result};

/// The devices of the machine, to open them.
pub(super) struct DeviceList {
    verbs: &'static Verbs,
    first: NonNull<*mut ibv_device>,
    len: usize,
}

/// An opened device.
pub(super) struct Context {
    verbs: &'static Verbs,
    pointer: NonNull<ibv_context>,
    name: String,
}

/// What keys of memory and queue pairs must share to work together.
pub(super) struct ProtectionDomain {
    pointer: NonNull<ibv_pd>,
    context: Arc<Context>,
}

// SAFETY: libibverbs may be called from any thread.
unsafe impl Send for Context {}
// SAFETY: libibverbs locks what its functions share.
unsafe impl Sync for Context {}
// SAFETY: as for `Context`.
unsafe impl Send for ProtectionDomain {}
// SAFETY: as for `Context`.
unsafe impl Sync for ProtectionDomain {}

impl DeviceList {
    /// Asks for it.
    ///
    /// # Errors
    /// [`FailureKind::Unavailable`] if there is no library or no support in the kernel.
    pub(super) fn new() -> Result<Self> {
        let verbs = verbs()?;
        let mut len: c_int = 0;
        // SAFETY: `len` is where the number goes.
        let first = unsafe { (verbs.ibv_get_device_list)(&raw mut len) };
        let first = NonNull::new(first).ok_or_else(|| {
            FabricError::new(
                FailureKind::Unavailable,
                format!(
                    "the kernel tells no RDMA devices ({}): is the driver of a card loaded, and \
                     the module ib_uverbs?",
                    io::Error::last_os_error()
                ),
            )
        })?;
        Ok(Self {
            verbs,
            first,
            len: usize::try_from(len).unwrap_or(0),
        })
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    fn device(&self, at: usize) -> *mut ibv_device {
        assert!(at < self.len, "device {at} of {}", self.len);
        // SAFETY: the list has `len` entries.
        unsafe { *self.first.as_ptr().add(at) }
    }

    /// The name of one.
    pub(super) fn name(&self, at: usize) -> String {
        // SAFETY: devices in the list are valid as long as the list, and so are their
        // names, which end with a zero.
        let name = unsafe { CStr::from_ptr((self.verbs.ibv_get_device_name)(self.device(at))) };
        name.to_string_lossy().into_owned()
    }

    /// Whether one is of iWARP.
    pub(super) fn is_iwarp(&self, at: usize) -> bool {
        // SAFETY: devices in the list are valid as long as the list.
        unsafe { (*self.device(at)).transport_type == IBV_TRANSPORT_IWARP }
    }

    /// Opens one.
    pub(super) fn open(&self, at: usize) -> Result<Arc<Context>> {
        let name = self.name(at);
        // SAFETY: devices in the list are valid as long as the list; a context isn't bound
        // to it.
        let pointer = unsafe { (self.verbs.ibv_open_device)(self.device(at)) };
        let pointer = NonNull::new(pointer).ok_or_else(|| {
            let error = io::Error::last_os_error();
            FabricError::new(
                FailureKind::Unavailable,
                format!("{name} can't be opened (/dev/infiniband/uverbs*): {error}"),
            )
        })?;
        Ok(Arc::new(Context {
            verbs: self.verbs,
            pointer,
            name,
        }))
    }
}

impl Drop for DeviceList {
    fn drop(&mut self) {
        // SAFETY: the list is libibverbs', and nothing of it is kept.
        unsafe { (self.verbs.ibv_free_device_list)(self.first.as_ptr()) };
    }
}

impl Context {
    pub(super) fn verbs(&self) -> &'static Verbs {
        self.verbs
    }

    pub(super) fn pointer(&self) -> *mut ibv_context {
        self.pointer.as_ptr()
    }

    /// The device's functions for posting, polling and arming.
    pub(super) fn operations(&self) -> &ibv_context_ops {
        // SAFETY: the context is valid, and its table doesn't change once it is opened.
        unsafe { &(*self.pointer.as_ptr()).ops }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// What the device can do.
    pub(super) fn device(&self) -> Result<ibv_device_attr> {
        let mut device = ibv_device_attr::default();
        // SAFETY: the context is valid; `device` is where the answer goes.
        let result = unsafe { (self.verbs.ibv_query_device)(self.pointer(), &raw mut device) };
        checked(result)
            .map_err(|error| refused(&format!("{} doesn't answer", self.name), &error))?;
        Ok(device)
    }

    /// A port as libibverbs describes it.
    pub(super) fn port_attributes(&self, number: u8) -> Result<ibv_port_attr> {
        let mut port = ibv_port_attr::default();
        // SAFETY: the context is valid. The function fills no more than the older, shorter
        // form of `ibv_port_attr`, as the inline function in the header relies on, too.
        let result =
            unsafe { (self.verbs.ibv_query_port)(self.pointer(), number, (&raw mut port).cast()) };
        checked(result).map_err(|error| {
            refused(
                &format!("{} port {number} doesn't answer", self.name),
                &error,
            )
        })?;
        Ok(port)
    }

    /// All ports with their addresses.
    pub(super) fn ports(&self) -> Result<Vec<Port>> {
        let mut ports = Vec::new();
        let mut table = 0;
        for number in 1..=self.device()?.phys_port_cnt {
            let port = self.port_attributes(number)?;
            table += usize::try_from(port.gid_tbl_len).unwrap_or(0);
            ports.push(described(number, &port));
        }
        for entry in self.gid_table(table)? {
            let Some(port) = ports
                .iter_mut()
                .find(|port| u32::from(port.number) == entry.port_num)
            else {
                continue;
            };
            // SAFETY: all forms of the union are 16 bytes without rules.
            let value = Ipv6Addr::from(unsafe { entry.gid.raw });
            if !value.is_unspecified() {
                port.gids.push(Gid {
                    index: entry.gid_index,
                    value,
                    kind: gid_kind(entry.gid_type),
                });
            }
        }
        Ok(ports)
    }

    /// The addresses of all ports; holes in the tables are left out.
    fn gid_table(&self, most: usize) -> Result<Vec<ibv_gid_entry>> {
        let mut entries = vec![ibv_gid_entry::default(); most];
        // SAFETY: the context is valid, and `entries` has room for `most` of this size.
        let found = unsafe {
            (self.verbs._ibv_query_gid_table)(
                self.pointer(),
                entries.as_mut_ptr(),
                most,
                0,
                size_of::<ibv_gid_entry>(),
            )
        };
        let found = usize::try_from(found).map_err(|_| {
            let error = i32::try_from(found.unsigned_abs())
                .map_or_else(|_| io::Error::last_os_error(), io::Error::from_raw_os_error);
            refused(&format!("{} doesn't say its GIDs", self.name), &error)
        })?;
        entries.truncate(found);
        Ok(entries)
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: what was made in the context holds it, so nothing is left of that.
        if let Err(error) = checked(unsafe { (self.verbs.ibv_close_device)(self.pointer()) }) {
            tracing::error!(%error, device = self.name, "a device could not be closed");
        }
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Context").field(&self.name).finish()
    }
}

impl ProtectionDomain {
    /// A new one.
    pub(super) fn new(context: &Arc<Context>) -> Result<Arc<Self>> {
        // SAFETY: the context is valid.
        let pointer = unsafe { (context.verbs.ibv_alloc_pd)(context.pointer()) };
        let pointer = NonNull::new(pointer).ok_or_else(|| {
            refused(
                "the card gives no protection domain",
                &io::Error::last_os_error(),
            )
        })?;
        Ok(Arc::new(Self {
            pointer,
            context: Arc::clone(context),
        }))
    }

    pub(super) fn pointer(&self) -> *mut ibv_pd {
        self.pointer.as_ptr()
    }

    pub(super) fn context(&self) -> &Arc<Context> {
        &self.context
    }
}

impl Drop for ProtectionDomain {
    fn drop(&mut self) {
        // SAFETY: what was made in the domain holds it, so nothing is left of that.
        let result = unsafe { (self.context.verbs.ibv_dealloc_pd)(self.pointer()) };
        if let Err(error) = checked(result) {
            tracing::error!(%error, "a protection domain could not be given back");
            // The device has something in it still, so it has to stay open.
            std::mem::forget(Arc::clone(&self.context));
        }
    }
}

/// Bytes of an MTU as verbs number it; 0 if they don't.
pub(super) fn mtu_bytes(number: u32) -> u16 {
    match number {
        1..=5 => 128 << number,
        _ => 0,
    }
}

/// An MTU as verbs number it.
pub(super) fn mtu_number(bytes: u16) -> Option<u32> {
    (1..=5).find(|number| mtu_bytes(*number) == bytes)
}

/// What a port is plugged into.
pub(super) fn link_layer(port: &ibv_port_attr) -> LinkLayer {
    if u32::from(port.link_layer) == IBV_LINK_LAYER_ETHERNET {
        LinkLayer::Ethernet
    } else {
        LinkLayer::InfiniBand
    }
}

fn described(number: u8, port: &ibv_port_attr) -> Port {
    Port {
        number,
        state: match port.state {
            ibv_port_state::IBV_PORT_DOWN => PortState::Down,
            ibv_port_state::IBV_PORT_INIT => PortState::Initializing,
            ibv_port_state::IBV_PORT_ARMED => PortState::Armed,
            ibv_port_state::IBV_PORT_ACTIVE => PortState::Active,
            ibv_port_state::IBV_PORT_ACTIVE_DEFER => PortState::Deferred,
            _ => PortState::Unknown,
        },
        link_layer: link_layer(port),
        mtu: mtu_bytes(port.active_mtu),
        max_mtu: mtu_bytes(port.max_mtu),
        lid: port.lid,
        gids: Vec::new(),
    }
}

fn gid_kind(number: u32) -> GidKind {
    match number {
        IBV_GID_TYPE_IB => GidKind::InfiniBand,
        IBV_GID_TYPE_ROCE_V1 => GidKind::RoceV1,
        IBV_GID_TYPE_ROCE_V2 => GidKind::RoceV2,
        _ => GidKind::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mtus_have_numbers() {
        for bytes in [256, 512, 1024, 2048, 4096] {
            assert_eq!(mtu_number(bytes).map(mtu_bytes), Some(bytes));
        }
        assert_eq!(mtu_number(0), None);
        assert_eq!(mtu_number(1500), None);
        assert_eq!(mtu_bytes(6), 0);
    }
}
