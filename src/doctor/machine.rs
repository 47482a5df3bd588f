//! Variables and limits of this machine.

use rustix::process::{Resource, getrlimit};

use super::Check;
use crate::config::is_known_variable;

/// Enough for a connection and a file for each of a few thousand streams.
const WANTED_FILES: u64 = 8192;

/// `ZAKO_*` variables that mean nothing: most often a typing error.
pub(super) fn variables() -> Vec<Check> {
    let unknown: Vec<String> = std::env::vars_os()
        .filter_map(|(name, _)| name.into_string().ok())
        .filter(|name| name.starts_with("ZAKO_") && !is_known_variable(name))
        .collect();
    if unknown.is_empty() {
        return vec![Check::ok("variables", "no unknown ZAKO_* variable is set")];
    }
    vec![Check::warning(
        "variables",
        format!("not known: {}", unknown.join(", ")),
        "`zako serve --help` names the variable of every flag.",
    )]
}

/// Open files.
pub(super) fn limits() -> Vec<Check> {
    let files = getrlimit(Resource::Nofile);
    // `zako serve` raises the soft limit itself, so the hard one counts.
    let files = match files.maximum {
        Some(most) if most < WANTED_FILES => Check::warning(
            "open files",
            format!("at most {most}"),
            format!(
                "Raise the hard limit to {WANTED_FILES}: `ulimit -Hn`, or LimitNOFILE= in the systemd unit."
            ),
        ),
        most => Check::ok(
            "open files",
            format!("{} now, at most {}", shown(files.current), shown(most)),
        ),
    };
    vec![files]
}

fn shown(limit: Option<u64>) -> String {
    limit.map_or_else(|| "unlimited".to_owned(), |limit| limit.to_string())
}
