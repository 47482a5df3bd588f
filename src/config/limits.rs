//! The configuration of what callers may use of the server.

use std::collections::HashMap;
use std::num::{NonZeroU32, NonZeroU64, NonZeroUsize};
use std::time::Duration;

use clap::Args;
use serde::Deserialize;
use zako_access::{LimitTable, Limits};
use zako_core::server::ServerOptions;

use super::layers::from_text;
use super::{Layers, Setting};
use crate::failure::Failure;
use crate::quantity::{Period, Rate, Size};

/// The keys without flags, for `zako config --default`.
pub(super) const EXAMPLE: &str = "\
# What each caller may use: an identity, or an address whose callers show nothing of
# themselves. What is left out is not limited. Zako's own client makes some 4 requests for a
# blob, and one for many small ones.
#[limits.default]
#requests-per-second = 200
# Calls at once.
#streams = 64
# At least 64KiB/s.
#bytes-in-per-second = \"100MiB/s\"
#bytes-out-per-second = \"1GiB/s\"
# Of blobs that were not there before, in the last 24 hours; kept across restarts.
#stored-bytes-per-day = \"500GiB\"

# One identity's, in the place of the default ones; those named anonymous are of each address.
#[[limits.identity]]
#name = \"ci\"
#requests-per-second = 5000
";

/// Less would end calls: what waits for its turn counts as idle.
const LEAST_RATE: u64 = 64 << 10;

/// The keys of what callers may use of the server: flags of `zako serve`, and the table `[limits]` of `zako.toml`.
#[derive(Args, Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub(crate) struct LimitsKeys {
    /// The most connections at once, on each port
    /// [env: ZAKO_MAX_CONNECTIONS] [default: 4096]
    #[arg(long, value_name = "N", help_heading = "Limits")]
    pub(crate) max_connections: Option<NonZeroUsize>,

    /// The most connections at once of one address (of IPv6, of one network of 64 bits),
    /// on each port [env: ZAKO_MAX_CONNECTIONS_PER_ADDRESS] [default: 1024]
    #[arg(long, value_name = "N", help_heading = "Limits")]
    pub(crate) max_connections_per_address: Option<NonZeroUsize>,

    /// The most calls at once on a connection of gRPC
    /// [env: ZAKO_MAX_STREAMS] [default: 256]
    #[arg(long, value_name = "N", help_heading = "Limits")]
    pub(crate) max_streams: Option<NonZeroU32>,

    /// What clients of gRPC may send in all that is not read yet; a quarter of it, but 256 MiB
    /// at least, is for what was read and waits for its rest or to be stored
    /// [env: ZAKO_MAX_RECEIVE_MEMORY] [default: 1.0 GiB]
    #[arg(long, value_name = "SIZE", help_heading = "Limits")]
    #[serde(deserialize_with = "from_text")]
    pub(crate) max_receive_memory: Option<Size>,

    /// The longest headers of a call of gRPC
    /// [env: ZAKO_MAX_HEADER_BYTES] [default: 16.0 KiB]
    #[arg(long, value_name = "SIZE", help_heading = "Limits")]
    #[serde(deserialize_with = "from_text")]
    pub(crate) max_header_bytes: Option<Size>,

    /// How long a new connection of gRPC may take to begin with HTTP/2, and the head of a
    /// request to the HTTP cache to come
    /// [env: ZAKO_HANDSHAKE_TIMEOUT] [default: 10s]
    #[arg(long, value_name = "TIME", help_heading = "Limits")]
    #[serde(deserialize_with = "from_text")]
    pub(crate) handshake_timeout: Option<Period>,

    /// When a connection of gRPC without a call is closed
    /// [env: ZAKO_IDLE_TIMEOUT] [default: 10m]
    #[arg(long, value_name = "TIME", help_heading = "Limits")]
    #[serde(deserialize_with = "from_text")]
    pub(crate) idle_timeout: Option<Period>,

    /// When an answer is given up that nobody reads
    /// [env: ZAKO_ANSWER_IDLE_TIMEOUT] [default: 1m]
    #[arg(long, value_name = "TIME", help_heading = "Limits")]
    #[serde(deserialize_with = "from_text")]
    pub(crate) answer_idle_timeout: Option<Period>,

    #[arg(skip)]
    pub(crate) default: CallerKeys,

    #[arg(skip)]
    pub(crate) identity: Vec<IdentityKeys>,
}

/// The limits of each caller: `[limits.default]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub(crate) struct CallerKeys {
    requests_per_second: Option<NonZeroU32>,
    streams: Option<NonZeroU32>,
    #[serde(deserialize_with = "from_text")]
    bytes_in_per_second: Option<Rate>,
    #[serde(deserialize_with = "from_text")]
    bytes_out_per_second: Option<Rate>,
    #[serde(deserialize_with = "from_text")]
    stored_bytes_per_day: Option<Size>,
}

/// The limits of one identity: `[[limits.identity]]`. Those of an identity that has such a
/// table are all in it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub(crate) struct IdentityKeys {
    name: String,
    requests_per_second: Option<NonZeroU32>,
    streams: Option<NonZeroU32>,
    #[serde(deserialize_with = "from_text")]
    bytes_in_per_second: Option<Rate>,
    #[serde(deserialize_with = "from_text")]
    bytes_out_per_second: Option<Rate>,
    #[serde(deserialize_with = "from_text")]
    stored_bytes_per_day: Option<Size>,
}

/// What is configured of what callers may use of the server.
#[derive(Clone, Debug)]
pub(crate) struct LimitsConfig {
    pub(crate) max_connections: Setting<NonZeroUsize>,
    pub(crate) max_connections_per_address: Setting<NonZeroUsize>,
    pub(crate) max_streams: Setting<NonZeroU32>,
    pub(crate) max_receive_memory: Setting<Size>,
    pub(crate) max_header_bytes: Setting<Size>,
    pub(crate) handshake_timeout: Setting<Period>,
    pub(crate) idle_timeout: Setting<Period>,
    pub(crate) answer_idle_timeout: Setting<Period>,
    /// What each caller may use.
    pub(crate) callers: LimitTable,
}

impl LimitsConfig {
    /// The flags' names: a variable is named for its flag.
    pub(super) const KEYS: &[&str] = &[
        "max-connections",
        "max-connections-per-address",
        "max-streams",
        "max-receive-memory",
        "max-header-bytes",
        "handshake-timeout",
        "idle-timeout",
        "answer-idle-timeout",
    ];

    /// # Errors
    /// A variable's value can't be read, or a limit makes no sense.
    pub(crate) fn resolve(flags: LimitsKeys, layers: &Layers<'_>) -> Result<Self, Failure> {
        let file = layers.file().limits().clone();
        let own = ServerOptions::default();
        let many = |number| NonZeroUsize::new(number).unwrap_or(NonZeroUsize::MIN);
        let streams = NonZeroU32::new(own.max_streams_per_connection).unwrap_or(NonZeroU32::MIN);
        let config = Self {
            max_connections: layers.pick(
                "max-connections",
                flags.max_connections,
                file.max_connections,
                many(own.max_connections),
            )?,
            max_connections_per_address: layers.pick(
                "max-connections-per-address",
                flags.max_connections_per_address,
                file.max_connections_per_address,
                many(own.max_connections_per_address),
            )?,
            max_streams: layers.pick(
                "max-streams",
                flags.max_streams,
                file.max_streams,
                streams,
            )?,
            max_receive_memory: layers.pick(
                "max-receive-memory",
                flags.max_receive_memory,
                file.max_receive_memory,
                Size(own.max_receive_bytes),
            )?,
            max_header_bytes: layers.pick(
                "max-header-bytes",
                flags.max_header_bytes,
                file.max_header_bytes,
                Size(own.max_header_bytes.into()),
            )?,
            handshake_timeout: layers.pick(
                "handshake-timeout",
                flags.handshake_timeout,
                file.handshake_timeout,
                Period(own.handshake_timeout),
            )?,
            idle_timeout: layers.pick(
                "idle-timeout",
                flags.idle_timeout,
                file.idle_timeout,
                Period(own.connection_idle_timeout),
            )?,
            answer_idle_timeout: layers.pick(
                "answer-idle-timeout",
                flags.answer_idle_timeout,
                file.answer_idle_timeout,
                Period(own.download_idle_timeout),
            )?,
            callers: callers(&file)?,
        };
        for (key, period) in [
            ("handshake-timeout", &config.handshake_timeout),
            ("idle-timeout", &config.idle_timeout),
            ("answer-idle-timeout", &config.answer_idle_timeout),
        ] {
            if period.value.0 < Duration::from_millis(1) {
                let text = format!("{key} is 0 ({}): nobody could do anything", period.origin);
                return Err(Failure::usage(text));
            }
        }
        let headers = config.max_header_bytes.value.0;
        if !(1024..=16 << 20).contains(&headers) {
            let origin = &config.max_header_bytes.origin;
            return Err(Failure::usage(format!(
                "max-header-bytes is {headers} ({origin}): from 1KiB to 16MiB make sense"
            )));
        }
        Ok(config)
    }
}

fn callers(file: &LimitsKeys) -> Result<LimitTable, Failure> {
    let mut identities = HashMap::new();
    for keys in &file.identity {
        if keys.name.is_empty() {
            return Err(Failure::usage("a table [[limits.identity]] has no name"));
        }
        let limits = keys.callers().limits(&format!("identity {}", keys.name))?;
        if identities.insert(keys.name.clone(), limits).is_some() {
            let text = format!("there are two tables [[limits.identity]] for {}", keys.name);
            return Err(Failure::usage(text));
        }
    }
    Ok(LimitTable {
        default: file.default.limits("default")?,
        identities,
    })
}

impl IdentityKeys {
    fn callers(&self) -> CallerKeys {
        CallerKeys {
            requests_per_second: self.requests_per_second,
            streams: self.streams,
            bytes_in_per_second: self.bytes_in_per_second,
            bytes_out_per_second: self.bytes_out_per_second,
            stored_bytes_per_day: self.stored_bytes_per_day,
        }
    }
}

impl CallerKeys {
    fn limits(&self, whose: &str) -> Result<Limits, Failure> {
        let rate = |key, rate| match rate {
            Some(Rate::BytesPerSecond(Size(bytes))) if bytes < LEAST_RATE => Err(Failure::usage(
                format!("limits of {whose}: {key} is less than 64KiB/s, at which calls would end"),
            )),
            Some(Rate::BytesPerSecond(Size(bytes))) => Ok(NonZeroU64::new(bytes)),
            Some(Rate::Off) | None => Ok(None),
        };
        let mut limits = Limits::default();
        limits.requests_per_second = self.requests_per_second;
        limits.streams = self.streams;
        limits.bytes_in_per_second = rate("bytes-in-per-second", self.bytes_in_per_second)?;
        limits.bytes_out_per_second = rate("bytes-out-per-second", self.bytes_out_per_second)?;
        limits.stored_bytes_per_day = match self.stored_bytes_per_day {
            Some(Size(0)) => {
                let text = format!("limits of {whose}: stored-bytes-per-day is 0");
                return Err(Failure::usage(text)
                    .advise("Who may store nothing has the role read (see SECURITY.md)."));
            }
            stored => stored.and_then(|Size(bytes)| NonZeroU64::new(bytes)),
        };
        Ok(limits)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::ConfigFile;

    fn resolve(text: &str) -> Result<LimitsConfig, Failure> {
        let file = ConfigFile::parse(Path::new("zako.toml"), text)?;
        let layers = Layers::with_variables(&file, |_| None);
        LimitsConfig::resolve(LimitsKeys::default(), &layers)
    }

    #[test]
    fn callers_have_the_limits_of_their_table() {
        let config = resolve(
            "[limits]\nmax-connections = 10\nidle-timeout = \"5m\"\n\
             [limits.default]\nrequests-per-second = 100\nbytes-out-per-second = \"10MiB/s\"\n\
             [[limits.identity]]\nname = \"ci\"\nstored-bytes-per-day = \"1TiB\"\n",
        )
        .unwrap();
        assert_eq!(config.max_connections.value.get(), 10);
        assert_eq!(config.idle_timeout.value, Period(Duration::from_secs(300)));
        let table = &config.callers;
        assert_eq!(table.default.requests_per_second, NonZeroU32::new(100));
        assert_eq!(
            table.default.bytes_out_per_second,
            NonZeroU64::new(10 << 20)
        );
        let ci = &table.identities["ci"];
        assert_eq!(ci.stored_bytes_per_day, NonZeroU64::new(1 << 40));
        assert_eq!(ci.requests_per_second, None);
        assert!(resolve("").unwrap().callers.is_empty());
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (text, word) in [
            ("[limits]\nmax-connections = 0\n", "nonzero"),
            ("[limits]\nidle-timeout = \"0s\"\n", "idle-timeout"),
            ("[limits]\nmax-header-bytes = \"10\"\n", "max-header-bytes"),
            (
                "[limits.default]\nbytes-in-per-second = \"1KiB/s\"\n",
                "64KiB/s",
            ),
            (
                "[limits.default]\nstored-bytes-per-day = \"0\"\n",
                "stored-bytes-per-day",
            ),
            ("[limits.default]\nrps = 1\n", "rps"),
            ("[[limits.identity]]\nstreams = 1\n", "no name"),
            (
                "[[limits.identity]]\nname = \"a\"\n[[limits.identity]]\nname = \"a\"\n",
                "two tables",
            ),
        ] {
            let failure = resolve(text).unwrap_err().to_string();
            assert!(failure.contains(word), "{text}: {failure}");
        }
    }
}
