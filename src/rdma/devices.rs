//! `zako rdma devices`: the RDMA devices of this machine.

use clap::Args;
use zako_rdma::devices::Wish;

use crate::config::Layers;
use crate::fabric;
use crate::failure::Failure;
use crate::output::Output;

/// List this machine's RDMA devices, and say which would be used and why
#[derive(Args, Debug)]
pub(crate) struct DevicesArgs {}

pub(crate) fn run(_: &DevicesArgs, _: &Layers<'_>, output: &mut Output) -> Result<(), Failure> {
    output.record(&fabric::report(&Wish::default()))
}
