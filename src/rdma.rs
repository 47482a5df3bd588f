//! `zako rdma`: what there is of RDMA, here and on the way to a server.

mod devices;
mod probe;

use clap::{Args, Subcommand};

use crate::config::Layers;
use crate::failure::Failure;
use crate::output::Output;

/// Show what there is of RDMA
#[derive(Args, Debug)]
pub(crate) struct RdmaArgs {
    #[command(subcommand)]
    verb: RdmaVerb,
}

#[derive(Debug, Subcommand)]
enum RdmaVerb {
    Devices(devices::DevicesArgs),
    Probe(probe::ProbeArgs),
}

pub(crate) async fn run(
    args: RdmaArgs,
    layers: &Layers<'_>,
    output: &mut Output,
) -> Result<(), Failure> {
    match args.verb {
        RdmaVerb::Devices(args) => devices::run(&args, layers, output),
        RdmaVerb::Probe(args) => probe::run(args, layers, output).await,
    }
}
