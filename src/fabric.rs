//! The RDMA devices of this machine, as far as this build and this process can use them.

use std::fmt;
use std::sync::Arc;

use zako_core::client::{Fabric, SessionOptions};
use zako_rdma::devices::{Report, Wish};
use zako_rdma::memory_limit::{HOW_TO_RAISE, MemoryLimit};

use crate::config::DeviceChoice;
use crate::failure::{Exit, Failure};
use crate::quantity::bytes;

/// A port that is open.
#[derive(Clone, Debug)]
pub(crate) struct OpenPort {
    pub(crate) fabric: Arc<dyn Fabric>,
    /// What it is: nothing is left open in it.
    pub(crate) place: DeviceChoice,
}

/// Why there is no RDMA.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Unavailable {
    NotBuiltIn,
    /// No library, no device, or none that can be used.
    NoDevice(String),
    /// Less memory may be pinned than a session needs.
    MemoryLimit {
        room: u64,
        needed: u64,
    },
}

/// What makes a build with RDMA.
const HOW_TO_BUILD: &str = "Build zako with it: `cargo install --path . --features rdma`; CONTRIBUTING.md names the packages that this takes.";

/// The devices, the limit on pinned memory, and what would be used.
#[cfg(feature = "rdma")]
pub(crate) fn report(choice: &DeviceChoice) -> Report {
    zako_rdma::verbs::report(&choice.0)
}

/// The limit on pinned memory, which is all that this build knows.
#[cfg(not(feature = "rdma"))]
pub(crate) fn report(_: &DeviceChoice) -> Report {
    Report {
        unavailable: Some(Unavailable::NotBuiltIn.to_string()),
        memory_limit: MemoryLimit::current(),
        devices: Vec::new(),
        candidates: Vec::new(),
    }
}

/// Opens the best port that goes with the choice.
///
/// # Errors
/// There is none, or sessions of `session` could not pin their memory.
#[cfg(feature = "rdma")]
pub(crate) fn open(
    choice: &DeviceChoice,
    session: &SessionOptions,
) -> Result<OpenPort, Unavailable> {
    let place = place(&zako_rdma::verbs::report(&choice.0));
    // Without a place, it fails with the verdict on each device.
    let wish = place.as_ref().unwrap_or(choice);
    let fabric = zako_rdma::verbs::VerbsFabric::open(&wish.0)
        .map_err(|error| Unavailable::NoDevice(error.to_string()))?;
    check_memory(&MemoryLimit::current(), session)?;
    Ok(OpenPort {
        fabric,
        place: wish.clone(),
    })
}

/// # Errors
/// Always: this build has no RDMA.
#[cfg(not(feature = "rdma"))]
pub(crate) fn open(_: &DeviceChoice, _: &SessionOptions) -> Result<OpenPort, Unavailable> {
    Err(Unavailable::NotBuiltIn)
}

/// What of the report would be used.
pub(crate) fn place(report: &Report) -> Option<DeviceChoice> {
    let used = report.candidates.iter().find(|candidate| candidate.used)?;
    Some(DeviceChoice(Wish {
        device: Some(used.device.clone()),
        port: used.port,
        gid_index: used.gid.map(|gid| gid.index),
    }))
}

/// # Errors
/// A session of these options could not pin its memory.
pub(crate) fn check_memory(
    limit: &MemoryLimit,
    session: &SessionOptions,
) -> Result<(), Unavailable> {
    let needed = session.pinned_bytes();
    match limit.room() {
        Some(room) if room < needed => Err(Unavailable::MemoryLimit { room, needed }),
        _ => Ok(()),
    }
}

impl Unavailable {
    /// What to do about it.
    pub(crate) fn advice(&self) -> Option<String> {
        match self {
            Self::NotBuiltIn => Some(HOW_TO_BUILD.to_owned()),
            Self::NoDevice(_) => {
                Some("`zako rdma devices` shows what this machine has.".to_owned())
            }
            Self::MemoryLimit { .. } => {
                let mut advice = HOW_TO_RAISE.to_owned();
                advice.replace_range(..1, "R");
                advice.push('.');
                Some(advice)
            }
        }
    }
}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotBuiltIn => f.write_str("RDMA is not built into this zako"),
            Self::NoDevice(why) => write!(f, "RDMA is unavailable: {why}"),
            Self::MemoryLimit { room, needed } => write!(
                f,
                "RDMA is unavailable: this process may pin {} more, and a session pins {}",
                bytes(*room),
                bytes(*needed)
            ),
        }
    }
}

impl From<Unavailable> for Failure {
    fn from(unavailable: Unavailable) -> Self {
        let failure = Self::new(Exit::Unsupported, unavailable.to_string());
        match unavailable.advice() {
            Some(advice) => failure.advise(advice),
            None => failure,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_below_a_session_is_told_with_what_raises_it() {
        let session = SessionOptions::default();
        let mut limit = MemoryLimit {
            limit: Some(session.pinned_bytes()),
            exempt: false,
            pinned: 0,
        };
        assert_eq!(check_memory(&limit, &session), Ok(()));
        limit.pinned = 4096;
        let failure = Failure::from(check_memory(&limit, &session).unwrap_err());
        assert_eq!(failure.exit(), Exit::Unsupported);
        let text = failure.to_string();
        assert!(text.contains("a session pins 24.2 MiB"), "{text}");
        assert!(
            text.contains("\n  Raise the limit with `ulimit -l"),
            "{text}"
        );
        limit.exempt = true;
        assert_eq!(check_memory(&limit, &session), Ok(()));
    }
}
