//! Where telemetry goes by OTLP: what is configured, and what the standard `OTEL_*`
//! variables say.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use zako_core::tls::{TlsClientIdentity, TlsClientOptions};

use crate::TelemetryError;

/// How variables are read: by name. An empty one counts as unset.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// What is exported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Spans.
    Traces,
    /// Metrics.
    Metrics,
}

/// How OTLP travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// `grpc`.
    Grpc,
    /// `http/protobuf`.
    HttpProtobuf,
}

/// What is sent with every export, as `name=value,…`. They carry secrets, so their
/// values are never shown.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Headers(Vec<(String, String)>);

/// What is configured; it goes before the variables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OtlpOptions {
    /// The collector, as `http://host:4317`.
    pub endpoint: Option<String>,
    /// How to talk to it.
    pub protocol: Option<Protocol>,
    /// Beside those of `OTEL_EXPORTER_OTLP_HEADERS`.
    pub headers: Headers,
    /// The longest that one export may take.
    pub timeout: Option<Duration>,
    /// What this process is called, in the place of `OTEL_SERVICE_NAME`.
    pub service_name: Option<String>,
}

/// Where one signal goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// By HTTP with the path of its signal.
    pub endpoint: String,
    /// How to talk to it.
    pub protocol: Protocol,
    /// Those that are configured; the exporter adds those of the variables.
    pub headers: Headers,
    /// The longest that one export may take.
    pub timeout: Duration,
    /// Whom to trust and what to show, of an endpoint by `https://`.
    pub tls: Option<TlsClientOptions>,
}

/// What the specification gives an export.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The port of OTLP over gRPC.
const GRPC_PORT: u16 = 4317;

/// The port of OTLP over HTTP.
const HTTP_PORT: u16 = 4318;

/// The variables of this process.
pub fn process_environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

impl Signal {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Traces => "TRACES",
            Self::Metrics => "METRICS",
        }
    }

    const fn path(self) -> &'static str {
        match self {
            Self::Traces => "v1/traces",
            Self::Metrics => "v1/metrics",
        }
    }
}

impl OtlpOptions {
    /// Where `signal` goes; `None` if nobody asks for it. It is asked for by an endpoint,
    /// configured or in a variable, or by `OTEL_TRACES_EXPORTER=otlp`; `none` there and
    /// `OTEL_SDK_DISABLED=true` switch it off.
    ///
    /// # Errors
    /// A variable or the endpoint can't be read.
    pub fn target(
        &self,
        signal: Signal,
        environment: Environment<'_>,
    ) -> Result<Option<Target>, TelemetryError> {
        let read = |name: &str| environment(name).filter(|text| !text.trim().is_empty());
        if read("OTEL_SDK_DISABLED").is_some_and(|text| text.eq_ignore_ascii_case("true")) {
            return Ok(None);
        }
        let exporter = format!("OTEL_{}_EXPORTER", signal.as_str());
        let exporters = read(&exporter);
        let listed = |name: &str| {
            let exporters = exporters.as_deref().unwrap_or_default();
            exporters.split(',').any(|one| one.trim() == name)
        };
        if exporters.is_some() && !listed("otlp") {
            // `none`, or another signal's way out, as `prometheus`.
            return Ok(None);
        }
        let variable = |what: &str| {
            let own = format!("OTEL_EXPORTER_OTLP_{}_{what}", signal.as_str());
            let general = format!("OTEL_EXPORTER_OTLP_{what}");
            match read(&own) {
                Some(text) => Some((own, text)),
                None => read(&general).map(|text| (general, text)),
            }
        };
        let told = variable("ENDPOINT");
        if self.endpoint.is_none() && told.is_none() && !listed("otlp") {
            return Ok(None);
        }
        // Only a signal's own variable names a path.
        let (endpoint, is_whole) = match (&self.endpoint, told) {
            (Some(endpoint), _) => (Some(endpoint.clone()), false),
            (None, Some((name, text))) => (Some(text), name.contains(signal.as_str())),
            (None, None) => (None, false),
        };
        let protocol = match (self.protocol, variable("PROTOCOL")) {
            (Some(protocol), _) => protocol,
            (None, Some((name, text))) => text
                .parse()
                .map_err(|error| TelemetryError::variable(&name, error))?,
            (None, None) => Protocol::by_port(endpoint.as_deref()),
        };
        let timeout = match (self.timeout, variable("TIMEOUT")) {
            (Some(timeout), _) => timeout,
            (None, Some((name, text))) => {
                let milliseconds = text.trim().parse().map_err(|_| {
                    TelemetryError::variable(&name, format!("{text:?} is no number of ms"))
                })?;
                Duration::from_millis(milliseconds)
            }
            (None, None) => TIMEOUT,
        };
        let endpoint = endpoint.unwrap_or_else(|| match protocol {
            Protocol::Grpc => format!("http://localhost:{GRPC_PORT}"),
            Protocol::HttpProtobuf => format!("http://localhost:{HTTP_PORT}"),
        });
        let endpoint = match protocol {
            Protocol::HttpProtobuf if !is_whole => {
                format!("{}/{}", endpoint.trim_end_matches('/'), signal.path())
            }
            _ => endpoint,
        };
        if !endpoint.starts_with("http://") && !endpoint.starts_with("https://") {
            return Err(TelemetryError::Endpoint(endpoint));
        }
        let tls = endpoint.starts_with("https://").then(|| tls(variable));
        Ok(Some(Target {
            tls: tls.transpose()?,
            endpoint,
            protocol,
            headers: self.headers.clone(),
            timeout,
        }))
    }
}

impl Protocol {
    /// The specification's default, but for the port that is gRPC's everywhere.
    fn by_port(endpoint: Option<&str>) -> Self {
        let authority = endpoint.and_then(|text| text.split("://").nth(1));
        let authority = authority.and_then(|text| text.split('/').next());
        let port = authority.and_then(|text| text.rsplit_once(':'));
        match port.and_then(|(_, port)| port.parse::<u16>().ok()) {
            Some(GRPC_PORT) => Self::Grpc,
            _ => Self::HttpProtobuf,
        }
    }
}

impl Headers {
    /// Names and values.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (&**name, &**value))
    }
}

impl FromStr for Protocol {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.trim() {
            "grpc" => Ok(Self::Grpc),
            "http/protobuf" => Ok(Self::HttpProtobuf),
            _ => Err(format!("{text:?} is neither grpc nor http/protobuf")),
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Grpc => "grpc",
            Self::HttpProtobuf => "http/protobuf",
        })
    }
}

impl FromStr for Headers {
    type Err = String;

    /// Errors don't repeat the text.
    fn from_str(text: &str) -> Result<Self, String> {
        let pairs = text.split(',').filter(|pair| !pair.trim().is_empty());
        let pairs = pairs.map(|pair| match pair.split_once('=') {
            Some((name, value)) if !name.trim().is_empty() => {
                Ok((name.trim().to_lowercase(), value.trim().to_owned()))
            }
            _ => Err("headers are written as name=value,name=value".to_owned()),
        });
        pairs.collect::<Result<_, _>>().map(Self)
    }
}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set()
            .entries(self.0.iter().map(|(name, _)| name))
            .finish()
    }
}

/// What the variables for certificates name; `variable` gives the name and value of the one
/// that counts.
fn tls(
    variable: impl Fn(&str) -> Option<(String, String)>,
) -> Result<TlsClientOptions, TelemetryError> {
    let read = |what| match variable(what) {
        Some((name, path)) => match std::fs::read(path.trim()) {
            Ok(pem) => Ok(Some(pem)),
            Err(error) => Err(TelemetryError::variable(&name, format!("{path}: {error}"))),
        },
        None => Ok(None),
    };
    let mut options = TlsClientOptions::default();
    options.ca = read("CERTIFICATE")?;
    options.identity = match (read("CLIENT_CERTIFICATE")?, read("CLIENT_KEY")?) {
        (Some(certificate), Some(key)) => Some(TlsClientIdentity::new(certificate, key)),
        (None, None) => None,
        _ => {
            return Err(TelemetryError::variable(
                "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE",
                "it goes with OTEL_EXPORTER_OTLP_CLIENT_KEY only, and that with it",
            ));
        }
    };
    Ok(options)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(
        options: &OtlpOptions,
        variables: &[(&str, &str)],
    ) -> Result<Option<Target>, TelemetryError> {
        options.target(Signal::Traces, &|name| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn nothing_is_exported_unasked() {
        let options = OtlpOptions::default();
        assert_eq!(target(&options, &[]).unwrap(), None);
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4317");
        for off in [
            ("OTEL_SDK_DISABLED", "TRUE"),
            ("OTEL_TRACES_EXPORTER", "none"),
            ("OTEL_TRACES_EXPORTER", "console"),
        ] {
            assert_eq!(target(&options, &[endpoint, off]).unwrap(), None, "{off:?}");
        }
        assert!(target(&options, &[endpoint]).unwrap().is_some());
    }

    #[test]
    fn endpoints_by_http_get_the_signals_path() {
        let options = OtlpOptions::default();
        for (variables, wanted) in [
            (
                &[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318/")][..],
                "http://c:4318/v1/traces",
            ),
            (
                &[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://c:4318/x")],
                "http://c:4318/x",
            ),
            (
                &[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4317")],
                "http://c:4317",
            ),
            (
                &[("OTEL_TRACES_EXPORTER", "otlp")],
                "http://localhost:4318/v1/traces",
            ),
            (
                &[
                    ("OTEL_TRACES_EXPORTER", "otlp"),
                    ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "grpc"),
                ],
                "http://localhost:4317",
            ),
        ] {
            let target = target(&options, variables).unwrap().unwrap();
            assert_eq!(target.endpoint, wanted);
        }
    }

    #[test]
    fn what_is_configured_goes_first() {
        let options = OtlpOptions {
            endpoint: Some("http://mine:1".to_owned()),
            protocol: Some(Protocol::Grpc),
            timeout: Some(Duration::from_secs(1)),
            ..OtlpOptions::default()
        };
        let target = target(
            &options,
            &[
                ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://theirs:2"),
                ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
                ("OTEL_EXPORTER_OTLP_TIMEOUT", "77"),
            ],
        );
        let target = target.unwrap().unwrap();
        assert_eq!(target.endpoint, "http://mine:1");
        assert_eq!(target.protocol, Protocol::Grpc);
        assert_eq!(target.timeout, Duration::from_secs(1));
    }

    #[test]
    fn bad_variables_are_named() {
        let options = OtlpOptions::default();
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4317");
        for (name, value) in [
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
            ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "soon"),
        ] {
            let error = target(&options, &[endpoint, (name, value)]).unwrap_err();
            assert!(error.to_string().contains(name), "{error}");
        }
        let bad = ("OTEL_EXPORTER_OTLP_ENDPOINT", "c:4317");
        assert!(target(&options, &[bad]).is_err());
    }

    #[test]
    fn certificates_count_for_https_only() {
        let options = OtlpOptions::default();
        let ca = ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/nowhere/ca.pem");
        let own = ("OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE", "/nowhere/own.pem");
        let plain = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4317");
        assert_eq!(target(&options, &[plain, ca]).unwrap().unwrap().tls, None);
        let secure = ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://c:4317");
        let trusting = target(&options, &[secure]).unwrap().unwrap().tls;
        assert_eq!(trusting, Some(TlsClientOptions::default()));
        let error = target(&options, &[secure, ca]).unwrap_err().to_string();
        assert!(error.contains(ca.0) && error.contains(ca.1), "{error}");
        let error = target(&options, &[secure, ca, own]).unwrap_err();
        assert!(error.to_string().contains(own.0), "{error}");
        let half = ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "Cargo.toml");
        let error = target(&options, &[secure, half]).unwrap_err();
        assert!(error.to_string().contains("CLIENT_CERTIFICATE"), "{error}");
    }

    #[test]
    fn headers_hide_their_values() {
        let headers: Headers = "Authorization=Bearer s3cret, x=y".parse().unwrap();
        assert_eq!(format!("{headers:?}"), r#"{"authorization", "x"}"#);
        assert_eq!(headers.iter().last(), Some(("x", "y")));
        let error = "s3cret".parse::<Headers>().unwrap_err();
        assert!(!error.contains("s3cret"), "{error}");
    }
}
