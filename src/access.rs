//! `zako access`: what it takes to know who callers are.

mod token;

use clap::{Args, Subcommand};

use crate::failure::Failure;
use crate::output::Output;

/// Make tokens by which a server knows its callers
#[derive(Args, Debug)]
pub(crate) struct AccessArgs {
    #[command(subcommand)]
    verb: AccessVerb,
}

#[derive(Debug, Subcommand)]
enum AccessVerb {
    Token(token::TokenArgs),
}

pub(crate) fn run(args: &AccessArgs, output: &mut Output) -> Result<(), Failure> {
    match &args.verb {
        AccessVerb::Token(args) => token::run(args, output),
    }
}
