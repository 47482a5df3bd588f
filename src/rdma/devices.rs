//! `zako rdma devices`: the RDMA devices of this machine.

use std::fmt;

use clap::Args;
use serde::Serialize;
use zako_core::client::SessionOptions;
use zako_rdma::devices::{Candidate, Device, Gid, Port, Report};
use zako_rdma::memory_limit::MemoryLimit;

use crate::config::{DeviceChoice, Layers, RdmaChoice, Setting};
use crate::fabric::{self, Unavailable, check_memory};
use crate::failure::{Exit, Failure};
use crate::output::Output;
use crate::quantity::bytes;

/// List this machine's RDMA devices, and say which would be used and why
///
/// Shows each device's ports and addresses (GIDs) with the verdict on them, and how
/// much memory may be pinned. Exits with 8 if RDMA can't be used here: it is not
/// built in, there is no library or no device, or too little memory may be pinned.
#[derive(Args, Debug)]
pub(crate) struct DevicesArgs {
    /// Judge as if this were configured (`serve --rdma`, `put --rdma-device`)
    /// [env: ZAKO_RDMA] [default: `rdma` of the configuration, else auto]
    #[arg(value_name = "DEVICE[:PORT[:GID_INDEX]]")]
    device: Option<DeviceChoice>,
}

/// What there is and what is made of it.
#[derive(Serialize)]
struct Listing {
    /// What would be used, as flags take it.
    used: Option<String>,
    /// What each client that uses RDMA makes a server pin, and itself.
    session_bytes: u64,
    /// What the kernel has, whether or not it can be used.
    kernel_devices: Vec<String>,
    #[serde(flatten)]
    report: Report,
}

pub(crate) fn run(
    args: &DevicesArgs,
    layers: &Layers<'_>,
    output: &mut Output,
) -> Result<(), Failure> {
    let choice = configured(args, layers)?;
    let session = SessionOptions::default();
    let report = fabric::report(&choice);
    let place = fabric::place(&report);
    let mut outcome = match &report.unavailable {
        None => check_memory(&report.memory_limit, &session),
        Some(_) if !cfg!(feature = "rdma") => Err(Unavailable::NotBuiltIn),
        Some(why) if choice.is_explicit() => Err(Unavailable::NoDevice(format!("{choice}: {why}"))),
        Some(why) => Err(Unavailable::NoDevice(why.clone())),
    };
    if let (Ok(()), None) = (&outcome, &place) {
        outcome = Err(Unavailable::NoDevice("nothing can be used".to_owned()));
    }
    output.record(&Listing {
        used: place.map(|place| place.to_string()),
        session_bytes: session.pinned_bytes(),
        kernel_devices: kernel_devices(),
        report,
    })?;
    outcome.map_err(|why| match why {
        // Its advice is this verb.
        Unavailable::NoDevice(_) => Failure::new(Exit::Unsupported, why.to_string()),
        _ => why.into(),
    })
}

/// Their names, sorted; none where they can't be read.
fn kernel_devices() -> Vec<String> {
    let entries = std::fs::read_dir("/sys/class/infiniband");
    let mut names: Vec<_> = entries
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()))
        .collect();
    names.sort();
    names
}

/// The argument, or what the server would go by.
fn configured(args: &DevicesArgs, layers: &Layers<'_>) -> Result<DeviceChoice, Failure> {
    let Setting { value, .. } = layers.rdma(args.device.clone().map(RdmaChoice::On))?;
    Ok(match value {
        RdmaChoice::On(choice) => choice,
        RdmaChoice::Off => DeviceChoice::default(),
    })
}

impl fmt::Display for Listing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for device in &self.report.devices {
            self.device(f, device)?;
        }
        if !self.report.devices.is_empty() {
            writeln!(f)?;
        }
        if self.report.devices.is_empty() && !self.kernel_devices.is_empty() {
            writeln!(f, "kernel   {}", self.kernel_devices.join(", "))?;
        }
        match &self.used {
            Some(used) => writeln!(f, "used     {used}")?,
            None => writeln!(f, "used     none")?,
        }
        write!(f, "memory   ")?;
        memory(f, &self.report.memory_limit)?;
        write!(f, "; a session pins {}", bytes(self.session_bytes))
    }
}

impl Listing {
    fn device(&self, f: &mut fmt::Formatter<'_>, device: &Device) -> fmt::Result {
        let verdict = |port: Option<u8>, gid: Option<&Gid>| {
            self.report.candidates.iter().find(|candidate| {
                candidate.device == device.name
                    && candidate.port == port
                    && candidate.gid.as_ref() == gid
            })
        };
        write!(f, "{}", device.name)?;
        tell(f, verdict(None, None))?;
        let width = |port: &Port| {
            let longest = port.gids.iter().map(|gid| gid.value.to_string().len());
            longest.max().unwrap_or(0)
        };
        let width = device.ports.iter().map(width).max().unwrap_or(0);
        for port in &device.ports {
            write!(
                f,
                "  port {}  {}, {}, MTU {} of {}",
                port.number, port.state, port.link_layer, port.mtu, port.max_mtu
            )?;
            if port.lid != 0 {
                write!(f, ", LID {}", port.lid)?;
            }
            tell(f, verdict(Some(port.number), None))?;
            for gid in &port.gids {
                let verdict = verdict(Some(port.number), Some(gid));
                let mark = match verdict {
                    Some(Candidate { used: true, .. }) => '*',
                    _ => ' ',
                };
                let kind = gid.kind.to_string();
                let value = gid.value.to_string();
                let reason = verdict.map_or("", |verdict| &verdict.reason);
                let line = format!(
                    "  {mark} GID {:<3}  {kind:<10}  {value:<width$}  {reason}",
                    gid.index
                );
                writeln!(f, "{}", line.trim_end())?;
            }
        }
        Ok(())
    }
}

/// Ends a line with the verdict on all that it names, if there is one.
fn tell(f: &mut fmt::Formatter<'_>, verdict: Option<&Candidate>) -> fmt::Result {
    match verdict {
        Some(verdict) => writeln!(f, "  not used: {}", verdict.reason),
        None => writeln!(f),
    }
}

fn memory(f: &mut fmt::Formatter<'_>, limit: &MemoryLimit) -> fmt::Result {
    match limit.limit {
        None => write!(f, "unlimited")?,
        Some(most) if limit.exempt => {
            write!(
                f,
                "limit {}, not for this process (CAP_IPC_LOCK)",
                bytes(most)
            )?;
        }
        Some(most) => write!(f, "at most {}", bytes(most))?,
    }
    write!(f, "; {} pinned", bytes(limit.pinned))
}
