//! A queue pair of the Reliable Connected service.
//!
//! This file has `unsafe` code: it calls libibverbs. The proofs rest on this: the pointer
//! came from libibverbs, which keeps what it points to until `drop`; what is needed
//! longer is held.
#![allow(unsafe_code)]

use std::ffi::{c_int, c_uint};
use std::io;
use std::ptr::NonNull;
use std::sync::Arc;

use ibverbs_sys::{
    ibv_ah_attr, ibv_gid, ibv_global_route, ibv_qp, ibv_qp_attr, ibv_qp_attr_mask as attribute,
    ibv_qp_cap, ibv_qp_init_attr, ibv_qp_state, ibv_qp_type, ibv_recv_wr, ibv_send_wr, ibv_sge,
    ibv_wr_opcode,
};

use super::completion_queue::CompletionQueue;
use super::context::ProtectionDomain;
use super::status::{checked, refused};
use crate::fabric::Result;

/// A queue pair.
pub(super) struct QueuePair {
    pointer: NonNull<ibv_qp>,
    completions: Arc<CompletionQueue>,
    domain: Arc<ProtectionDomain>,
}

// SAFETY: libibverbs may be called from any thread.
unsafe impl Send for QueuePair {}

/// How to reach a peer.
pub(super) struct Route {
    pub(super) port: u8,
    pub(super) gid_index: u8,
    pub(super) peer_gid: [u8; 16],
    pub(super) peer_lid: u16,
    pub(super) peer_queue_pair: u32,
    /// The first packet sequence number that the peer sends.
    pub(super) peer_packet_sequence: u32,
    /// As verbs number it.
    pub(super) mtu: u32,
    /// READs of the peer that are answered at once.
    pub(super) reads_in: u8,
    /// What the peer may do, in flags of `region::flags`.
    pub(super) access: u32,
}

/// How packets are sent.
pub(super) struct Sending {
    pub(super) packet_sequence: u32,
    pub(super) timeout: u8,
    pub(super) retries: u8,
    pub(super) reads_out: u8,
}

/// A piece of work, as the card gets it.
pub(super) struct Element {
    pub(super) id: u64,
    pub(super) operation: Operation,
    /// Where in this machine's memory.
    pub(super) local: u64,
    pub(super) length: u32,
    pub(super) local_key: u32,
}

/// What a card can be told to do.
pub(super) enum Operation {
    Read { address: u64, key: u32 },
    Write { address: u64, key: u32 },
    Send,
    Receive,
}

/// 10.24 ms: how long a peer waits that found nothing posted to receive into.
const RECEIVER_NOT_READY: u8 = 20;
/// How often it tries again. 7 would be for ever.
const RECEIVER_NOT_READY_RETRIES: u8 = 6;

impl QueuePair {
    /// A queue pair for `depth` sends (READs and WRITEs, too) and as many receives, in
    /// state Init: it may receive, when it is connected.
    pub(super) fn new(
        domain: &Arc<ProtectionDomain>,
        completions: &Arc<CompletionQueue>,
        depth: u32,
        port: u8,
    ) -> Result<Self> {
        let mut options = ibv_qp_init_attr {
            qp_context: std::ptr::null_mut(),
            send_cq: completions.pointer(),
            recv_cq: completions.pointer(),
            srq: std::ptr::null_mut(),
            cap: ibv_qp_cap {
                max_send_wr: depth,
                max_recv_wr: depth,
                max_send_sge: 1,
                max_recv_sge: 1,
                max_inline_data: 0,
            },
            qp_type: ibv_qp_type::IBV_QPT_RC,
            sq_sig_all: 1,
        };
        let verbs = domain.context().verbs();
        // SAFETY: domain and completion queue are valid, and held by the queue pair.
        let pointer = unsafe { (verbs.ibv_create_qp)(domain.pointer(), &raw mut options) };
        let pointer = NonNull::new(pointer)
            .ok_or_else(|| refused("the card gives no queue pair", &io::Error::last_os_error()))?;
        let queue_pair = Self {
            pointer,
            completions: Arc::clone(completions),
            domain: Arc::clone(domain),
        };
        let attributes = ibv_qp_attr {
            qp_state: ibv_qp_state::IBV_QPS_INIT,
            port_num: port,
            ..ibv_qp_attr::default()
        };
        queue_pair
            .modify(
                attributes,
                attribute::IBV_QP_STATE
                    | attribute::IBV_QP_PKEY_INDEX
                    | attribute::IBV_QP_PORT
                    | attribute::IBV_QP_ACCESS_FLAGS,
            )
            .map_err(|error| refused("a queue pair doesn't become Init", &error))?;
        Ok(queue_pair)
    }

    /// Its number, 24 bits.
    pub(super) fn number(&self) -> u32 {
        // SAFETY: the queue pair is valid, and its number doesn't change.
        unsafe { (*self.pointer.as_ptr()).qp_num }
    }

    /// Init to Ready to Receive.
    pub(super) fn receive_from(&self, route: &Route) -> io::Result<()> {
        let attributes = ibv_qp_attr {
            qp_state: ibv_qp_state::IBV_QPS_RTR,
            path_mtu: route.mtu,
            dest_qp_num: route.peer_queue_pair,
            rq_psn: route.peer_packet_sequence,
            qp_access_flags: route.access,
            max_dest_rd_atomic: route.reads_in,
            min_rnr_timer: RECEIVER_NOT_READY,
            ah_attr: ibv_ah_attr {
                grh: ibv_global_route {
                    dgid: ibv_gid {
                        raw: route.peer_gid,
                    },
                    sgid_index: route.gid_index,
                    hop_limit: 64,
                    ..ibv_global_route::default()
                },
                dlid: route.peer_lid,
                is_global: 1,
                port_num: route.port,
                ..ibv_ah_attr::default()
            },
            ..ibv_qp_attr::default()
        };
        self.modify(
            attributes,
            attribute::IBV_QP_STATE
                | attribute::IBV_QP_AV
                | attribute::IBV_QP_PATH_MTU
                | attribute::IBV_QP_DEST_QPN
                | attribute::IBV_QP_RQ_PSN
                | attribute::IBV_QP_ACCESS_FLAGS
                | attribute::IBV_QP_MAX_DEST_RD_ATOMIC
                | attribute::IBV_QP_MIN_RNR_TIMER,
        )
    }

    /// Ready to Receive to Ready to Send.
    pub(super) fn send(&self, sending: &Sending) -> io::Result<()> {
        let attributes = ibv_qp_attr {
            qp_state: ibv_qp_state::IBV_QPS_RTS,
            sq_psn: sending.packet_sequence,
            timeout: sending.timeout,
            retry_cnt: sending.retries,
            rnr_retry: RECEIVER_NOT_READY_RETRIES,
            max_rd_atomic: sending.reads_out,
            ..ibv_qp_attr::default()
        };
        self.modify(
            attributes,
            attribute::IBV_QP_STATE
                | attribute::IBV_QP_SQ_PSN
                | attribute::IBV_QP_TIMEOUT
                | attribute::IBV_QP_RETRY_CNT
                | attribute::IBV_QP_RNR_RETRY
                | attribute::IBV_QP_MAX_QP_RD_ATOMIC,
        )
    }

    /// What the peer may do from now on, in flags of `region::flags`.
    pub(super) fn allow(&self, access: u32) -> io::Result<()> {
        let attributes = ibv_qp_attr {
            qp_access_flags: access,
            ..ibv_qp_attr::default()
        };
        self.modify(attributes, attribute::IBV_QP_ACCESS_FLAGS)
    }

    /// To Error: what is posted is flushed.
    pub(super) fn fail(&self) -> io::Result<()> {
        let attributes = ibv_qp_attr {
            qp_state: ibv_qp_state::IBV_QPS_ERR,
            ..ibv_qp_attr::default()
        };
        self.modify(attributes, attribute::IBV_QP_STATE)
    }

    fn modify(&self, mut attributes: ibv_qp_attr, mask: attribute) -> io::Result<()> {
        let verbs = self.domain.context().verbs();
        // SAFETY: the queue pair is valid; the function reads the attributes of the mask.
        checked(unsafe {
            (verbs.ibv_modify_qp)(self.pointer.as_ptr(), &raw mut attributes, mask.0 as c_int)
        })
    }

    /// Posts a piece of work.
    ///
    /// # Safety
    /// The `length` bytes at `local` must stay mapped, and nobody may use them, until the
    /// work's completion has been taken or the queue pair and the region of `local_key`
    /// have been destroyed.
    pub(super) unsafe fn post(&self, element: &Element) -> io::Result<()> {
        let operations = self.domain.context().operations();
        let mut memory = ibv_sge {
            addr: element.local,
            length: element.length,
            lkey: element.local_key,
        };
        // Some cards take an entry of no bytes for one of 2 GiB.
        let entries = c_int::from(element.length != 0);
        let (opcode, address, key) = match element.operation {
            Operation::Receive => {
                let mut request = ibv_recv_wr {
                    wr_id: element.id,
                    next: std::ptr::null_mut(),
                    sg_list: &raw mut memory,
                    num_sge: entries,
                };
                let mut refused = std::ptr::null_mut();
                let Some(post) = operations.post_recv else {
                    return Err(io::ErrorKind::Unsupported.into());
                };
                // SAFETY: queue pair and request are valid; the memory is the caller's promise.
                return checked(unsafe {
                    post(self.pointer.as_ptr(), &raw mut request, &raw mut refused)
                });
            }
            Operation::Send => (ibv_wr_opcode::IBV_WR_SEND, 0, 0),
            Operation::Read { address, key } => (ibv_wr_opcode::IBV_WR_RDMA_READ, address, key),
            Operation::Write { address, key } => (ibv_wr_opcode::IBV_WR_RDMA_WRITE, address, key),
        };
        let mut request = ibv_send_wr {
            wr_id: element.id,
            sg_list: &raw mut memory,
            num_sge: entries,
            opcode,
            send_flags: 0 as c_uint,
            ..ibv_send_wr::default()
        };
        request.wr.rdma.remote_addr = address;
        request.wr.rdma.rkey = key;
        let mut refused = std::ptr::null_mut();
        let Some(post) = operations.post_send else {
            return Err(io::ErrorKind::Unsupported.into());
        };
        // SAFETY: queue pair and request are valid; the memory is the caller's promise.
        checked(unsafe { post(self.pointer.as_ptr(), &raw mut request, &raw mut refused) })
    }
}

impl Drop for QueuePair {
    fn drop(&mut self) {
        let verbs = self.domain.context().verbs();
        // SAFETY: the queue pair is valid, and this is its end.
        let result = unsafe { (verbs.ibv_destroy_qp)(self.pointer.as_ptr()) };
        if let Err(error) = checked(result) {
            tracing::error!(%error, "a queue pair could not be given back");
            std::mem::forget((Arc::clone(&self.completions), Arc::clone(&self.domain)));
        }
    }
}
