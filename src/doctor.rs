//! `zako doctor`: what is configured, reachable and limited.

mod admin;
mod machine;
mod rdma;
mod server;
mod store;
mod tables;

use std::fmt;

use clap::Args;
use serde::Serialize;

use crate::config::{
    AccessConfig, AccessKeys, AdminConfig, AdminKeys, ClientConfig, ClientKeys, ConfigFile, Layers,
    LimitsConfig, LimitsKeys, ServerConfig, ServerKeys, Setting, TlsConfig, TlsKeys,
};
use crate::failure::{Exit, Failure};
use crate::output::Output;

/// Check what is configured, reachable and limited
///
/// Give it the flags that you would give to `zako serve` or to a client verb.
/// Exits with 1 if something is broken; warnings leave 0. A server that nobody
/// configured and that doesn't answer is a warning only.
#[derive(Args, Debug)]
pub(crate) struct DoctorArgs {
    #[command(flatten)]
    client: ClientKeys,

    #[command(flatten)]
    server: ServerKeys,

    #[command(flatten)]
    admin: AdminKeys,

    #[command(flatten)]
    tls: TlsKeys,

    #[command(flatten)]
    access: AccessKeys,

    #[command(flatten)]
    limits: LimitsKeys,
}

/// What was looked at and what was found.
#[derive(Debug, Serialize)]
struct Check {
    check: &'static str,
    state: State,
    found: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Ok,
    Warning,
    Broken,
}

/// A configured value.
#[derive(Serialize)]
struct Configured {
    setting: &'static str,
    value: String,
    from: String,
}

pub(crate) async fn run(
    args: DoctorArgs,
    layers: &Layers<'_>,
    output: &mut Output,
) -> Result<(), Failure> {
    let client = ClientConfig::resolve(args.client, layers)?;
    let server = ServerConfig::resolve(args.server, layers)?;
    let admin = AdminConfig::resolve(args.admin, layers)?;
    let tls = TlsConfig::resolve(args.tls, layers)?;
    let access = AccessConfig::resolve(args.access, layers)?;
    let limits = LimitsConfig::resolve(args.limits, layers)?;

    output.line("Configuration")?;
    output.record(&config_file(layers.file()))?;
    for setting in settings(&client, &server) {
        output.record(&setting)?;
    }
    output.line("\nChecks")?;
    let mut broken = Vec::new();
    let mut tell = |check: Check| {
        if check.state == State::Broken {
            broken.push(check.check);
        }
        output.record(&check)
    };
    for check in machine::variables()
        .into_iter()
        .chain(store::checks(&server))
        .chain(machine::limits())
        .chain(rdma::checks(&client, &server))
        .chain([
            tables::tls(&tls, &server, &admin),
            tables::access(&access),
            tables::limits(&limits),
        ])
    {
        tell(check)?;
    }
    tell(admin::check(&admin, &server, &tls).await)?;
    for check in server::checks(&client).await {
        tell(check)?;
    }
    if broken.is_empty() {
        return Ok(());
    }
    Err(Failure::new(
        Exit::Failed,
        format!("broken: {}", broken.join(", ")),
    ))
}

fn config_file(file: &ConfigFile) -> Configured {
    match file.path() {
        Some(path) => Configured {
            setting: "file",
            value: path.display().to_string(),
            from: "read".to_owned(),
        },
        None => Configured {
            setting: "file",
            value: "none".to_owned(),
            from: format!(
                "looked for {}",
                ConfigFile::places()
                    .iter()
                    .map(|place| place.display().to_string())
                    .collect::<Vec<_>>()
                    .join(" and ")
            ),
        },
    }
}

fn settings(client: &ClientConfig, server: &ServerConfig) -> Vec<Configured> {
    fn shown<T: fmt::Display>(setting: &Setting<T>) -> Configured {
        Configured {
            setting: setting.key,
            value: setting.value.to_string(),
            from: setting.origin.to_string(),
        }
    }
    fn optional<T: fmt::Display>(setting: &Setting<Option<T>>) -> Configured {
        let value = setting.value.as_ref();
        Configured {
            setting: setting.key,
            value: value.map_or_else(|| "none".to_owned(), ToString::to_string),
            from: setting.origin.to_string(),
        }
    }
    vec![
        shown(&client.server),
        shown(&client.transport),
        shown(&client.rdma_device),
        optional(&client.token),
        optional(&client.token_file),
        optional(&client.namespace),
        shown(&server.listen),
        shown(&server.http),
        shown(&server.data),
        shown(&server.max_size),
        shown(&server.durability),
        shown(&server.verify_on_read),
        shown(&server.lease),
        shown(&server.partial_ttl),
        shown(&server.scrub_rate),
        shown(&server.require_token),
        shown(&server.build_tools),
        shown(&server.action_updates),
        shown(&server.token_ttl),
        shown(&server.maintenance),
        shown(&server.session_idle),
        shown(&server.upload_idle_timeout),
        shown(&server.drain_delay),
        shown(&server.drain_timeout),
        shown(&server.rdma),
        shown(&server.rdma_trust),
        shown(&server.rdma_memory),
        shown(&server.rdma_sessions),
        shown(&server.rdma_pages),
    ]
}

impl Check {
    fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self {
            check,
            state: State::Ok,
            found: found.into(),
            advice: None,
        }
    }

    fn warning(check: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self {
            check,
            state: State::Warning,
            found: found.into(),
            advice: Some(advice.into()),
        }
    }

    fn broken(check: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self {
            state: State::Broken,
            ..Self::warning(check, found, advice)
        }
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.state {
            State::Ok => "ok",
            State::Warning => "warning",
            State::Broken => "BROKEN",
        };
        write!(f, "  {state:<8} {:<16} {}", self.check, self.found)?;
        match &self.advice {
            Some(advice) => write!(f, "\n{:28}{advice}", ""),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Configured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "  {:<20} {:<32} ({})",
            self.setting, self.value, self.from
        )
    }
}
