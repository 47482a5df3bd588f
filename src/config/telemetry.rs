//! The configuration of traces and metrics.

use std::fmt;
use std::str::FromStr;

use clap::Args;
use serde::Deserialize;
use zako_telemetry::{Headers, OtlpOptions, Protocol, Ratio};

use super::layers::from_text;
use super::{Layers, Origin, Setting};
use crate::failure::Failure;
use crate::quantity::Period;

/// The keys of traces and metrics: flags of `zako serve`, and the table `[telemetry]` of
/// `zako.toml`, which the other verbs read too.
#[derive(Args, Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub(crate) struct TelemetryKeys {
    /// Send traces (and metrics) to this collector by OTLP: http://HOST:4317 by gRPC, any
    /// other port by HTTP. The standard OTEL_* variables do it too, and go before zako.toml
    /// [env: ZAKO_TELEMETRY_ENDPOINT] [default: none]
    #[arg(
        id = "telemetry_endpoint",
        long = "telemetry-endpoint",
        value_name = "URL",
        help_heading = "Telemetry"
    )]
    #[serde(deserialize_with = "from_text")]
    pub(crate) endpoint: Option<Given<String>>,

    /// How to talk to the collector: grpc or http/protobuf
    /// [env: ZAKO_TELEMETRY_PROTOCOL] [default: none]
    #[arg(
        id = "telemetry_protocol",
        long = "telemetry-protocol",
        value_name = "NAME",
        help_heading = "Telemetry"
    )]
    #[serde(deserialize_with = "from_text")]
    pub(crate) protocol: Option<Given<Protocol>>,

    /// The longest that an export may take
    /// [env: ZAKO_TELEMETRY_TIMEOUT] [default: none]
    #[arg(
        id = "telemetry_timeout",
        long = "telemetry-timeout",
        value_name = "TIME",
        help_heading = "Telemetry"
    )]
    #[serde(deserialize_with = "from_text")]
    pub(crate) timeout: Option<Given<Period>>,

    /// What this process is called in traces and metrics
    /// [env: ZAKO_TELEMETRY_SERVICE_NAME] [default: none]
    #[arg(
        id = "telemetry_service_name",
        long = "telemetry-service-name",
        value_name = "NAME",
        help_heading = "Telemetry"
    )]
    #[serde(deserialize_with = "from_text")]
    pub(crate) service_name: Option<Given<String>>,

    /// The share of traces that are recorded, 0 to 1, of those that no caller decided on:
    /// 0.01 for one in a hundred [env: ZAKO_TELEMETRY_SAMPLE] [default: none]
    #[arg(
        id = "telemetry_sample",
        long = "telemetry-sample",
        value_name = "RATIO",
        help_heading = "Telemetry"
    )]
    #[serde(deserialize_with = "from_text")]
    pub(crate) sample: Option<Given<Ratio>>,

    /// Sent with every export, name=value,…: a secret, so no flag
    #[arg(skip)]
    #[serde(deserialize_with = "from_text")]
    pub(crate) headers: Option<Hidden>,

    /// What to log, as --log says
    #[arg(skip)]
    pub(crate) log: Option<String>,
}

/// What may be absent: `none`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Given<T>(pub(crate) Option<T>);

/// Headers, which are never shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Hidden(pub(crate) Headers);

/// What is configured of traces and metrics.
#[derive(Clone, Debug)]
pub(crate) struct TelemetryConfig {
    pub(crate) endpoint: Setting<Given<String>>,
    pub(crate) protocol: Setting<Given<Protocol>>,
    pub(crate) timeout: Setting<Given<Period>>,
    pub(crate) service_name: Setting<Given<String>>,
    pub(crate) sample: Setting<Given<Ratio>>,
    pub(crate) headers: Setting<Hidden>,
    pub(crate) log: Option<String>,
}

impl TelemetryConfig {
    /// The flags' names: a variable is named for its flag.
    pub(super) const KEYS: &[&str] = &[
        "telemetry-endpoint",
        "telemetry-protocol",
        "telemetry-timeout",
        "telemetry-service-name",
        "telemetry-sample",
        "telemetry-headers",
    ];

    /// # Errors
    /// A variable's value can't be read.
    pub(crate) fn resolve(flags: TelemetryKeys, layers: &Layers<'_>) -> Result<Self, Failure> {
        let file = layers.file().telemetry().clone();
        let [endpoint, protocol, timeout, service_name, sample, headers] = Self::KEYS else {
            return Err(Failure::usage("a key of [telemetry] is missing"));
        };
        let none = || Given(None);
        Ok(Self {
            endpoint: layers.pick(endpoint, flags.endpoint, file.endpoint, none())?,
            protocol: layers.pick(protocol, flags.protocol, file.protocol, Given(None))?,
            timeout: layers.pick(timeout, flags.timeout, file.timeout, Given(None))?,
            service_name: layers.pick(
                service_name,
                flags.service_name,
                file.service_name,
                none(),
            )?,
            sample: layers.pick(sample, flags.sample, file.sample, Given(None))?,
            headers: layers.pick(headers, flags.headers, file.headers, Hidden::default())?,
            log: file.log,
        })
    }

    /// Where telemetry goes. What the file says stands behind the standard variables.
    pub(crate) fn otlp(&self, variables: impl Fn(&str) -> bool) -> OtlpOptions {
        let told = |what: &str| {
            ["", "TRACES_", "METRICS_"]
                .iter()
                .any(|signal| variables(&format!("OTEL_EXPORTER_OTLP_{signal}{what}")))
        };
        OtlpOptions {
            endpoint: before(&self.endpoint, told("ENDPOINT")),
            protocol: before(&self.protocol, told("PROTOCOL")),
            headers: self.headers.value.0.clone(),
            timeout: before(&self.timeout, told("TIMEOUT")).map(|period| period.0),
            service_name: before(&self.service_name, variables("OTEL_SERVICE_NAME")),
        }
    }

    /// The share of traces that are recorded, likewise.
    pub(crate) fn ratio(&self, variables: impl Fn(&str) -> bool) -> Option<Ratio> {
        before(&self.sample, variables("OTEL_TRACES_SAMPLER"))
    }
}

/// The setting, unless it comes from the file and a standard variable tells it too.
fn before<T: Clone>(setting: &Setting<Given<T>>, told: bool) -> Option<T> {
    match setting.origin {
        Origin::File(_) if told => None,
        _ => setting.value.0.clone(),
    }
}

impl<T: FromStr> FromStr for Given<T> {
    type Err = T::Err;

    fn from_str(text: &str) -> Result<Self, T::Err> {
        match text {
            "none" => Ok(Self(None)),
            _ => text.parse().map(|value| Self(Some(value))),
        }
    }
}

impl<T: fmt::Display> fmt::Display for Given<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(value) => value.fmt(f),
            None => f.write_str("none"),
        }
    }
}

impl FromStr for Hidden {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse().map(Self)
    }
}

impl fmt::Display for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<hidden>")
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::ConfigFile;
    use super::*;

    fn of_file(text: &str) -> TelemetryConfig {
        let file = ConfigFile::parse(Path::new("zako.toml"), text).unwrap();
        let layers = Layers::with_variables(&file, |_| None);
        TelemetryConfig::resolve(TelemetryKeys::default(), &layers).unwrap()
    }

    #[test]
    fn the_standard_variables_go_before_the_file() {
        let config = of_file("[telemetry]\nendpoint = \"http://c:4317\"\nsample = \"0.01\"\n");
        let endpoint = config.otlp(|_| false).endpoint;
        assert_eq!(endpoint.as_deref(), Some("http://c:4317"));
        assert!(config.ratio(|_| false).is_some());
        let told = |name: &str| name == "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";
        assert_eq!(config.otlp(told).endpoint, None);
        assert_eq!(config.ratio(|name| name == "OTEL_TRACES_SAMPLER"), None);
    }

    #[test]
    fn headers_are_not_shown() {
        let config = of_file("[telemetry]\nheaders = \"authorization=s3cret\"\n");
        assert_eq!(config.headers.value.to_string(), "<hidden>");
        assert!(!format!("{config:?}").contains("s3cret"));
        assert_eq!(config.otlp(|_| false).headers.iter().count(), 1);
    }
}
