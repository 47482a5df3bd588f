//! A port of a card as a fabric.

use std::sync::Arc;

use ibverbs_sys::ibv_port_state;

use super::context::{Context, DeviceList};
use super::endpoint::VerbsEndpoint;
use super::list::devices;
use crate::devices::{Candidate, Wish, choose};
use crate::fabric::{Endpoint, EndpointOptions, Fabric, FabricError, FailureKind, Limits, Result};

/// A port and an address of a card.
#[derive(Debug)]
pub struct VerbsFabric {
    name: String,
    context: Arc<Context>,
    port: u8,
    gid_index: u8,
    gid: [u8; 16],
    limits: Limits,
    depth: u32,
}

/// Where an endpoint is made, as the port is now.
pub(super) struct Place {
    pub(super) port: u8,
    pub(super) gid_index: u8,
    pub(super) gid: [u8; 16],
    pub(super) lid: u16,
    /// As verbs number it.
    pub(super) mtu: u32,
}

impl VerbsFabric {
    /// Opens the best address of the machine that goes with the wish; [`super::report`]
    /// says which that is.
    ///
    /// # Errors
    /// [`FailureKind::Unavailable`] with what is missing.
    pub fn open(wish: &Wish) -> Result<Arc<Self>> {
        let candidates = choose(&devices()?, wish);
        let used = candidates.iter().find(|candidate| candidate.used);
        let Some((candidate, port, gid)) =
            used.and_then(|used| Some((used, used.port?, used.gid?)))
        else {
            return Err(FabricError::new(
                FailureKind::Unavailable,
                format!("no RDMA device can be used: {}", verdicts(&candidates)),
            ));
        };
        let list = DeviceList::new()?;
        let Some(at) = (0..list.len()).find(|at| list.name(*at) == candidate.device) else {
            return Err(FabricError::new(
                FailureKind::Unavailable,
                format!("{} is gone", candidate.device),
            ));
        };
        let context = list.open(at)?;
        let device = context.device()?;
        let reads = |most: i32| u8::try_from(most.clamp(0, 255)).unwrap_or(u8::MAX);
        Ok(Arc::new(Self {
            name: format!("{} port {port}, {gid}", candidate.device),
            limits: Limits {
                reads_out: reads(device.max_qp_init_rd_atom),
                reads_in: reads(device.max_qp_rd_atom),
                message_bytes: context.port_attributes(port)?.max_msg_sz,
            },
            depth: u32::try_from(device.max_qp_wr.min(device.max_cqe / 2)).unwrap_or(1),
            context,
            port,
            gid_index: u8::try_from(gid.index).unwrap_or(u8::MAX),
            gid: gid.value.octets(),
        }))
    }

    pub(super) fn context(&self) -> &Arc<Context> {
        &self.context
    }

    /// The most work that a queue pair can have of each kind.
    pub(super) fn depth(&self) -> u32 {
        self.depth
    }

    /// The port as it is now.
    ///
    /// # Errors
    /// [`FailureKind::Unavailable`] if it isn't active any more.
    pub(super) fn place(&self) -> Result<Place> {
        let port = self.context.port_attributes(self.port)?;
        if port.state != ibv_port_state::IBV_PORT_ACTIVE {
            return Err(FabricError::new(
                FailureKind::Unavailable,
                format!("{} is not active any more", self.name),
            ));
        }
        Ok(Place {
            port: self.port,
            gid_index: self.gid_index,
            gid: self.gid,
            lid: port.lid,
            mtu: port.active_mtu,
        })
    }
}

impl Fabric for VerbsFabric {
    fn name(&self) -> &str {
        &self.name
    }

    fn limits(&self) -> Limits {
        self.limits
    }

    fn endpoint(&self, options: &EndpointOptions) -> Result<Box<dyn Endpoint>> {
        Ok(Box::new(VerbsEndpoint::new(self, options)?))
    }
}

fn verdicts(candidates: &[Candidate]) -> String {
    let verdicts: Vec<String> = candidates
        .iter()
        .map(|candidate| format!("{} {candidate}", candidate.device))
        .collect();
    verdicts.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_there_is_no_card_nothing_opens_and_the_error_says_why() {
        let wish = Wish {
            device: Some("no such device".to_owned()),
            ..Wish::default()
        };
        let error = VerbsFabric::open(&wish).err().map(|error| error.kind());
        assert_eq!(error, Some(FailureKind::Unavailable));
    }
}
