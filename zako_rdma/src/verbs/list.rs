//! What a machine has for RDMA.

use super::context::DeviceList;
use crate::devices::{Device, Report, Wish, choose};
use crate::fabric::{FabricError, FailureKind, Result};
use crate::memory_limit::MemoryLimit;

/// The devices, the limit on pinned memory, and what would be used.
pub fn report(wish: &Wish) -> Report {
    let (devices, unavailable) = match devices() {
        Ok(devices) => (devices, None),
        Err(error) => (Vec::new(), Some(error.to_string())),
    };
    let candidates = choose(&devices, wish);
    let none_used = || {
        (!candidates.iter().any(|candidate| candidate.used))
            .then(|| "no device has an address that can be used".to_owned())
    };
    Report {
        unavailable: unavailable.or_else(none_used),
        memory_limit: MemoryLimit::current(),
        devices,
        candidates,
    }
}

/// The devices, at least one.
///
/// # Errors
/// [`FailureKind::Unavailable`] if there is none, or no library.
pub(super) fn devices() -> Result<Vec<Device>> {
    let list = DeviceList::new()?;
    if list.len() == 0 {
        return Err(FabricError::new(
            FailureKind::Unavailable,
            "there is no RDMA device (as in `ls /sys/class/infiniband`), or its driver for \
             libibverbs is missing (Debian, Ubuntu: ibverbs-providers)",
        ));
    }
    let device = |at| {
        let ports = list.open(at).and_then(|context| context.ports());
        let (ports, problem) = match ports {
            Ok(ports) => (ports, None),
            Err(error) => (Vec::new(), Some(error.to_string())),
        };
        Device {
            name: list.name(at),
            iwarp: list.is_iwarp(at),
            problem,
            ports,
        }
    };
    Ok((0..list.len()).map(device).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_made_with_or_without_a_card() {
        let report = report(&Wish::default());
        assert_eq!(
            report.unavailable.is_none(),
            report.candidates.iter().any(|candidate| candidate.used),
            "{report}"
        );
    }
}
