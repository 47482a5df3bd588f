//! The configuration of the server and its store.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde::Deserialize;
use zako_core::server::ListenAddr;
use zako_rdma::memory::Pages;

use super::choices::{
    ActionUpdatesChoice, DataDir, DurabilityChoice, MaintenanceChoice, VerifyChoice,
};
use super::layers::from_text;
use super::{Layers, PortChoice, RdmaChoice, Setting, TrustedNetworks};
use crate::failure::Failure;
use crate::quantity::{MaxSize, Period, Rate, Size};

/// The server's keys: flags, and the table `[server]` of `zako.toml`.
#[derive(Args, Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub(crate) struct ServerKeys {
    /// Where to listen: ADDR:PORT (port 0 takes a free one) or unix:/PATH
    /// [env: ZAKO_LISTEN] [default: 127.0.0.1:7420]
    #[arg(long, value_name = "ADDR:PORT")]
    #[serde(deserialize_with = "from_text")]
    pub(crate) listen: Option<ListenAddr>,

    /// Where build tools find the HTTP cache: ADDR:PORT or unix:/PATH; auto (the port
    /// after that of --listen; none beside port 0 or a Unix socket); or off
    /// [env: ZAKO_HTTP] [default: auto]
    #[arg(long, value_name = "ADDR:PORT")]
    #[serde(deserialize_with = "from_text")]
    pub(crate) http: Option<PortChoice>,

    /// The folder of the store [env: ZAKO_DATA] [default: the platform's data folder]
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,

    /// The most disk to use: a size, or a share of the free disk
    /// [env: ZAKO_MAX_SIZE] [default: 80%]
    #[arg(long, value_name = "SIZE|PERCENT%")]
    #[serde(deserialize_with = "from_text")]
    pub(crate) max_size: Option<MaxSize>,

    /// When a blob counts as stored: immediate (it is on disk), a time like 100ms
    /// (it will be by then), or none [env: ZAKO_DURABILITY] [default: immediate]
    #[arg(long, value_name = "MODE", help_heading = "Store")]
    #[serde(deserialize_with = "from_text")]
    pub(crate) durability: Option<DurabilityChoice>,

    /// Which reads re-hash a blob: never, first, always
    /// [env: ZAKO_VERIFY_ON_READ] [default: first]
    #[arg(long, value_name = "WHEN", help_heading = "Store")]
    #[serde(deserialize_with = "from_text")]
    pub(crate) verify_on_read: Option<VerifyChoice>,

    /// For how long a blob that a client was told of is not evicted; up to a minute longer
    /// [env: ZAKO_LEASE] [default: 1h]
    #[arg(long, value_name = "TIME", help_heading = "Store")]
    #[serde(deserialize_with = "from_text")]
    pub(crate) lease: Option<Period>,

    /// For how long an interrupted upload can be resumed
    /// [env: ZAKO_PARTIAL_TTL] [default: 1day]
    #[arg(long, value_name = "TIME", help_heading = "Store")]
    #[serde(deserialize_with = "from_text")]
    pub(crate) partial_ttl: Option<Period>,

    /// How fast the store is re-hashed in the background: bytes a second, or off
    /// [env: ZAKO_SCRUB_RATE] [default: off]
    #[arg(long, value_name = "RATE", help_heading = "Store")]
    #[serde(deserialize_with = "from_text")]
    pub(crate) scrub_rate: Option<Rate>,

    /// Whether bytes move under one-time tokens only
    /// [env: ZAKO_REQUIRE_TOKEN] [default: true]
    #[arg(long, value_name = "BOOL", help_heading = "Access")]
    pub(crate) require_token: Option<bool>,

    /// Whether build tools may use this server: the Remote Execution API's cache beside
    /// the own services, and the HTTP cache. They need no tokens
    /// [env: ZAKO_BUILD_TOOLS] [default: true]
    #[arg(long, value_name = "BOOL", help_heading = "Access")]
    pub(crate) build_tools: Option<bool>,

    /// What becomes of the action results that build tools store: allow, refuse (they
    /// are told), drop (they are not) [env: ZAKO_ACTION_UPDATES] [default: allow]
    #[arg(long, value_name = "HOW", help_heading = "Access")]
    #[serde(deserialize_with = "from_text")]
    pub(crate) action_updates: Option<ActionUpdatesChoice>,

    /// How long an unused token is good [env: ZAKO_TOKEN_TTL] [default: 30s]
    #[arg(long, value_name = "TIME", help_heading = "Access")]
    #[serde(deserialize_with = "from_text")]
    pub(crate) token_ttl: Option<Period>,

    /// Who may verify the store and collect garbage: loopback, anyone, nobody. Where callers
    /// have roles (the table access of zako.toml), admins may, unless it is nobody
    /// [env: ZAKO_MAINTENANCE] [default: loopback]
    #[arg(long, value_name = "WHO", help_heading = "Access")]
    #[serde(deserialize_with = "from_text")]
    pub(crate) maintenance: Option<MaintenanceChoice>,

    /// When a transport session without traffic ends
    /// [env: ZAKO_SESSION_IDLE] [default: 5m]
    #[arg(long, value_name = "TIME", help_heading = "Limits")]
    #[serde(deserialize_with = "from_text")]
    pub(crate) session_idle: Option<Period>,

    /// When an upload that sends nothing is parked
    /// [env: ZAKO_UPLOAD_IDLE_TIMEOUT] [default: 1m]
    #[arg(long, value_name = "TIME", help_heading = "Limits")]
    #[serde(deserialize_with = "from_text")]
    pub(crate) upload_idle_timeout: Option<Period>,

    /// How long a shutdown goes on serving after it said that it is not ready any more, so
    /// that a load balancer hears of it before it is refused
    /// [env: ZAKO_DRAIN_DELAY] [default: 0s]
    #[arg(long, value_name = "TIME", help_heading = "Limits")]
    #[serde(deserialize_with = "from_text")]
    pub(crate) drain_delay: Option<Period>,

    /// How long a shutdown waits for what is in flight, before it is parked
    /// [env: ZAKO_DRAIN_TIMEOUT] [default: 30s]
    #[arg(long, value_name = "TIME", help_heading = "Limits")]
    #[serde(deserialize_with = "from_text")]
    pub(crate) drain_timeout: Option<Period>,

    /// Whether to offer RDMA to clients of the networks of --rdma-trust, and on which
    /// device: auto (the best one, if there is one), off, or `DEVICE[:PORT[:GID_INDEX]]`
    /// as `zako rdma devices` lists them [env: ZAKO_RDMA] [default: auto]
    #[arg(long, value_name = "DEVICE", help_heading = "RDMA")]
    #[serde(deserialize_with = "from_text")]
    pub(crate) rdma: Option<RdmaChoice>,

    /// A network whose clients are offered RDMA, such as 10.20.0.0/16; can be given
    /// several times; without one there is no RDMA. WARNING: what moves over RDMA is
    /// neither encrypted nor authenticated. Name only networks in which you trust
    /// everyone who can send or see packets [env: ZAKO_RDMA_TRUST] [default: none]
    #[arg(long, value_name = "NETWORK", help_heading = "RDMA")]
    pub(crate) rdma_trust: Option<Vec<TrustedNetworks>>,

    /// The most memory that RDMA may pin for all clients together
    /// [env: ZAKO_RDMA_MEMORY] [default: 1GiB]
    #[arg(long, value_name = "SIZE", help_heading = "RDMA")]
    #[serde(deserialize_with = "from_text")]
    pub(crate) rdma_memory: Option<Size>,

    /// The most clients that may use RDMA at once
    /// [env: ZAKO_RDMA_SESSIONS] [default: 64]
    #[arg(long, value_name = "N", help_heading = "RDMA")]
    pub(crate) rdma_sessions: Option<NonZeroUsize>,

    /// What the memory of RDMA is made of: plain pages, huge ones (sysctl
    /// vm.nr_hugepages), or tmpfs; plain ones where the others can't be had
    /// [env: ZAKO_RDMA_PAGES] [default: plain]
    #[arg(long, value_name = "KIND", help_heading = "RDMA")]
    #[serde(deserialize_with = "from_text")]
    pub(crate) rdma_pages: Option<Pages>,
}

/// The server's configuration.
#[derive(Clone, Debug)]
pub(crate) struct ServerConfig {
    pub(crate) listen: Setting<ListenAddr>,
    pub(crate) http: Setting<PortChoice>,
    pub(crate) data: Setting<DataDir>,
    pub(crate) max_size: Setting<MaxSize>,
    pub(crate) durability: Setting<DurabilityChoice>,
    pub(crate) verify_on_read: Setting<VerifyChoice>,
    pub(crate) lease: Setting<Period>,
    pub(crate) partial_ttl: Setting<Period>,
    pub(crate) scrub_rate: Setting<Rate>,
    pub(crate) require_token: Setting<bool>,
    pub(crate) build_tools: Setting<bool>,
    pub(crate) action_updates: Setting<ActionUpdatesChoice>,
    pub(crate) token_ttl: Setting<Period>,
    pub(crate) maintenance: Setting<MaintenanceChoice>,
    pub(crate) session_idle: Setting<Period>,
    pub(crate) upload_idle_timeout: Setting<Period>,
    pub(crate) drain_delay: Setting<Period>,
    pub(crate) drain_timeout: Setting<Period>,
    pub(crate) rdma: Setting<RdmaChoice>,
    pub(crate) rdma_trust: Setting<TrustedNetworks>,
    pub(crate) rdma_memory: Setting<Size>,
    pub(crate) rdma_sessions: Setting<NonZeroUsize>,
    pub(crate) rdma_pages: Setting<Pages>,
}

const MOST_SESSIONS: NonZeroUsize = NonZeroUsize::MIN.saturating_add(63);

impl ServerConfig {
    pub(super) const KEYS: &[&str] = &[
        "listen",
        "http",
        "data",
        "max-size",
        "durability",
        "verify-on-read",
        "lease",
        "partial-ttl",
        "scrub-rate",
        "require-token",
        "build-tools",
        "action-updates",
        "token-ttl",
        "maintenance",
        "session-idle",
        "upload-idle-timeout",
        "drain-delay",
        "drain-timeout",
        "rdma",
        "rdma-trust",
        "rdma-memory",
        "rdma-sessions",
        "rdma-pages",
    ];

    /// # Errors
    /// A variable's value can't be read, or this platform has no data folder and
    /// none is configured.
    pub(crate) fn resolve(flags: ServerKeys, layers: &Layers<'_>) -> Result<Self, Failure> {
        let file = layers.file().server().clone();
        let period = |seconds| Period(Duration::from_secs(seconds));
        let config = Self {
            listen: layers.pick("listen", flags.listen, file.listen, default_listen()?)?,
            http: layers.pick("http", flags.http, file.http, PortChoice::Auto)?,
            data: layers.pick(
                "data",
                flags.data.map(DataDir),
                file.data.map(DataDir),
                DataDir(default_data_dir()),
            )?,
            max_size: layers.pick(
                "max-size",
                flags.max_size,
                file.max_size,
                MaxSize::Percent(80),
            )?,
            durability: layers.pick(
                "durability",
                flags.durability,
                file.durability,
                DurabilityChoice::Immediate,
            )?,
            verify_on_read: layers.pick(
                "verify-on-read",
                flags.verify_on_read,
                file.verify_on_read,
                VerifyChoice::First,
            )?,
            lease: layers.pick("lease", flags.lease, file.lease, period(3600))?,
            partial_ttl: layers.pick(
                "partial-ttl",
                flags.partial_ttl,
                file.partial_ttl,
                period(24 * 3600),
            )?,
            scrub_rate: layers.pick("scrub-rate", flags.scrub_rate, file.scrub_rate, Rate::Off)?,
            require_token: layers.pick(
                "require-token",
                flags.require_token,
                file.require_token,
                true,
            )?,
            build_tools: layers.pick("build-tools", flags.build_tools, file.build_tools, true)?,
            action_updates: layers.pick(
                "action-updates",
                flags.action_updates,
                file.action_updates,
                ActionUpdatesChoice::Allow,
            )?,
            token_ttl: layers.pick("token-ttl", flags.token_ttl, file.token_ttl, period(30))?,
            maintenance: layers.pick(
                "maintenance",
                flags.maintenance,
                file.maintenance,
                MaintenanceChoice::Loopback,
            )?,
            session_idle: layers.pick(
                "session-idle",
                flags.session_idle,
                file.session_idle,
                period(300),
            )?,
            upload_idle_timeout: layers.pick(
                "upload-idle-timeout",
                flags.upload_idle_timeout,
                file.upload_idle_timeout,
                period(60),
            )?,
            drain_delay: layers.pick(
                "drain-delay",
                flags.drain_delay,
                file.drain_delay,
                period(0),
            )?,
            drain_timeout: layers.pick(
                "drain-timeout",
                flags.drain_timeout,
                file.drain_timeout,
                period(30),
            )?,
            rdma: layers.rdma(flags.rdma)?,
            rdma_trust: layers.pick(
                "rdma-trust",
                TrustedNetworks::all(flags.rdma_trust),
                TrustedNetworks::all(file.rdma_trust),
                TrustedNetworks::default(),
            )?,
            rdma_memory: layers.pick(
                "rdma-memory",
                flags.rdma_memory,
                file.rdma_memory,
                Size(1 << 30),
            )?,
            rdma_sessions: layers.pick(
                "rdma-sessions",
                flags.rdma_sessions,
                file.rdma_sessions,
                MOST_SESSIONS,
            )?,
            rdma_pages: layers.pick(
                "rdma-pages",
                flags.rdma_pages,
                file.rdma_pages,
                Pages::default(),
            )?,
        };
        if config.data.value.0.as_os_str().is_empty() {
            return Err(Failure::usage("there is no data folder for this user")
                .advise("Name one with --data DIR or ZAKO_DATA."));
        }
        Ok(config)
    }

    /// Where the HTTP cache is, beside a server that listens on `listen`: one port behind it,
    /// unless another one is named.
    pub(crate) fn http_address(&self, listen: &ListenAddr) -> Option<ListenAddr> {
        self.http.value.address(listen, behind)
    }
}

fn default_listen() -> Result<ListenAddr, Failure> {
    "127.0.0.1:7420"
        .parse()
        .map_err(|error| Failure::usage(format!("127.0.0.1:7420: {error}")))
}

/// Empty if the platform has none for this user.
fn default_data_dir() -> PathBuf {
    directories::ProjectDirs::from("", "", "zako")
        .map(|dirs| dirs.data_local_dir().to_owned())
        .unwrap_or_default()
}

fn behind(server: SocketAddr) -> Option<SocketAddr> {
    let port = server.port().checked_add(1)?;
    Some(SocketAddr::new(server.ip(), port))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{ConfigFile, Origin};

    const FILE: &str =
        "[server]\nlisten = \"127.0.0.1:1\"\nlease = \"2h\"\nrequire-token = false\n";

    fn file() -> ConfigFile {
        ConfigFile::parse(Path::new("zako.toml"), FILE).unwrap()
    }

    #[test]
    fn flag_over_variable_over_file_over_default() {
        let file = file();
        let layers = Layers::with_variables(&file, |name| match name {
            "ZAKO_LISTEN" => Some("127.0.0.1:2".to_owned()),
            "ZAKO_MAX_SIZE" => Some("1GiB".to_owned()),
            "ZAKO_LEASE" => Some(String::new()),
            _ => None,
        });
        let flags = ServerKeys {
            max_size: Some(MaxSize::Percent(50)),
            ..ServerKeys::default()
        };
        let config = ServerConfig::resolve(flags, &layers).unwrap();
        assert_eq!(config.listen.value.to_string(), "127.0.0.1:2");
        assert_eq!(
            config.listen.origin,
            Origin::Variable("ZAKO_LISTEN".to_owned())
        );
        assert_eq!(config.max_size.value, MaxSize::Percent(50));
        assert_eq!(config.max_size.origin, Origin::Flag);
        // An empty variable is none.
        assert_eq!(config.lease.value, Period(Duration::from_secs(7200)));
        assert_eq!(config.lease.origin, Origin::File("zako.toml".into()));
        assert!(!config.require_token.value);
        assert_eq!(config.durability.origin, Origin::Default);
    }

    #[test]
    fn a_bad_variable_is_named() {
        let file = file();
        let layers = Layers::with_variables(&file, |name| {
            (name == "ZAKO_DURABILITY").then(|| "eternal".to_owned())
        });
        let failure = ServerConfig::resolve(ServerKeys::default(), &layers).unwrap_err();
        let text = failure.to_string();
        assert!(text.contains("ZAKO_DURABILITY"), "{text}");
        assert!(text.contains("\"eternal\" is not a durability"), "{text}");
    }

    #[test]
    fn the_http_cache_is_one_port_behind() {
        let beside = |listen: &str| {
            let addr = PortChoice::Auto.address(&listen.parse().unwrap(), behind);
            addr.map(|addr| addr.to_string())
        };
        assert_eq!(beside("127.0.0.1:7420").unwrap(), "127.0.0.1:7421");
        assert_eq!(beside("[::]:80").unwrap(), "[::]:81");
        assert_eq!(beside("127.0.0.1:65535"), None);
    }
}
