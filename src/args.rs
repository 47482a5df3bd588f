//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::failure::EXIT_CODES;
use crate::{
    access, completions, config, demo, doctor, gc, get, has, hash, put, rdma, rm, serve, stat,
    verify,
};

/// A content-addressed store: put files in, get them back by their digest
///
/// Values come from flags, then ZAKO_* variables, then zako.toml, then defaults.
#[derive(Debug, Parser)]
#[command(name = "zako", version, max_term_width = 100, after_long_help = EXIT_CODES)]
#[command(
    after_help = "`zako --help` lists the exit codes; `zako VERB --help` all flags of a verb."
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: GlobalArgs,

    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// Flags of all verbs.
#[derive(Args, Debug)]
pub(crate) struct GlobalArgs {
    /// Print one JSON object a line
    #[arg(long, global = true, help_heading = "Global")]
    pub(crate) json: bool,

    /// Read this configuration [env: ZAKO_CONFIG] [default: ./zako.toml, then
    /// zako.toml in the platform's configuration folder]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Global")]
    pub(crate) config: Option<PathBuf>,

    /// What to log to stderr: error, warn, info, debug (trace, in a build that is
    /// not optimised), or a filter like zako_core=debug [env: ZAKO_LOG] [default:
    /// info for serve, warn for put and get, else error]
    #[arg(long, global = true, value_name = "FILTER", help_heading = "Global")]
    pub(crate) log: Option<String>,
}

/// What to do.
#[derive(Debug, Subcommand)]
#[allow(
    clippy::large_enum_variant,
    reason = "there is one, for the life of the process"
)]
pub(crate) enum Verb {
    Serve(serve::ServeArgs),
    Put(put::PutArgs),
    Get(get::GetArgs),
    Has(has::HasArgs),
    Hash(hash::HashArgs),
    Stat(stat::StatArgs),
    Rm(rm::RmArgs),
    Verify(verify::VerifyArgs),
    Gc(gc::GcArgs),
    Rdma(rdma::RdmaArgs),
    Access(access::AccessArgs),
    Config(config::ConfigArgs),
    Doctor(doctor::DoctorArgs),
    Demo(demo::DemoArgs),
    Completions(completions::CompletionsArgs),
}
