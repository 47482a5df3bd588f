//! `zako access token`: a token, and what the server's configuration says of it.

use std::fmt;
use std::io::{self, Read};
use std::path::Path;

use clap::Args;
use serde::Serialize;
use zako_access::{Name, Roles, TokenHash, new_token};

use crate::failure::{Exit, Failure};
use crate::output::Output;

/// Make a token, shown this once, and the lines of zako.toml that know it
///
/// The server's configuration has the token's SHA-256 only. A token is 256 random bits:
/// its hash can lie where anyone may read it.
#[derive(Args, Debug)]
pub(crate) struct TokenArgs {
    /// The identity's name
    #[arg(default_value = "someone")]
    name: Name,

    /// What it may: read, write or admin
    #[arg(long, value_name = "ROLE", default_value = "read")]
    role: Roles,

    /// Hash the token on stdin instead of making one; it is not shown
    #[arg(long)]
    hash: bool,
}

/// The longest token that is hashed, in bytes.
const LONGEST: u64 = 12 << 10;

#[derive(Serialize)]
struct Made {
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
    sha256: String,
    config: String,
}

pub(crate) fn run(args: &TokenArgs, output: &mut Output) -> Result<(), Failure> {
    let (token, hash) = match args.hash {
        true => (None, TokenHash::of(given()?.trim().as_bytes())),
        false => {
            let token = new_token().map_err(|error| {
                Failure::new(
                    Exit::Failed,
                    format!("the system gives no random numbers: {error}"),
                )
            })?;
            let hash = TokenHash::of(token.expose().as_bytes());
            (Some(token.expose().to_owned()), hash)
        }
    };
    // Without control characters, a string of JSON is one of TOML.
    let name = serde_json::Value::from(args.name.as_str());
    output.record(&Made {
        token,
        sha256: hash.to_string(),
        config: format!(
            "[[access.identity]]\nname = {name}\ntoken-sha256 = \"{hash}\"\nroles = \"{}\"\n",
            args.role
        ),
    })
}

/// The token on stdin.
fn given() -> Result<String, Failure> {
    let mut text = String::new();
    let read = io::stdin().take(LONGEST).read_to_string(&mut text);
    read.map_err(|error| Failure::io("reading the token", Path::new("stdin"), &error))?;
    match text.trim().is_empty() {
        true => Err(Failure::usage("there is no token on stdin")),
        false => Ok(text),
    }
}

impl fmt::Display for Made {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(token) = &self.token {
            writeln!(
                f,
                "# The token, for a file of the client's that only it can read (--token-file).\n\
                 # It is not shown again:\n{token}\n"
            )?;
        }
        write!(
            f,
            "# For the server's zako.toml; no secret:\n{}",
            self.config.trim_end()
        )
    }
}
