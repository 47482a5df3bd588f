//! `zako rdma probe`: whether RDMA between this machine and a server works, and how fast.

use std::fmt;
use std::time::Duration;

use clap::Args;
use serde::Serialize;
use zako_core::cas::{CasError, ErrorKind};
use zako_core::client::{Client, ClientOptions, ProbeError, ServerUrl, TransportChoice};
use zako_rdma::fabric::{FabricError, FailureKind};
use zako_rdma::memory_limit::HOW_TO_RAISE;
use zako_rdma::probe::{Exchange, Measured, ProbeOptions, ProbeReport, Road, SLOT_BYTES};
use zako_rdma::session::{Code, SessionError};

use crate::config::{ClientConfig, ClientKeys, DeviceChoice, Layers};
use crate::fabric;
use crate::failure::{Exit, Failure};
use crate::output::Output;
use crate::quantity::{Size, bytes, rate};

/// What all measurements of a probe take at most, beside their verification. A server ends
/// one after two minutes.
const TIME: Duration = Duration::from_secs(60);
/// What the exchanges of one kind and size take at most, one after the other or at once.
const PART: Duration = Duration::from_secs(1);

/// Try RDMA between this machine and a server: does it work, how fast, and how fast is gRPC
///
/// Makes three exchanges with memory that the server has for this alone: SEND (a message that
/// comes back), READ and WRITE (one-sided); each also over gRPC, on the same connection. p50
/// and p99 are of one after the other, the rate is of eight at once. All bytes are verified;
/// nothing is stored.
///
/// Exits with 0 if RDMA works, 4 if bytes came wrong, 5 if the server or its RDMA device can't
/// be reached, 6 if the server has no room for a probe, 8 if RDMA can't be used on one of
/// both machines, and 9 if the server refuses it to this one.
#[derive(Args, Debug)]
pub(crate) struct ProbeArgs {
    /// The server: http://HOST:PORT
    /// [env: ZAKO_SERVER] [default: http://127.0.0.1:7420]
    #[arg(value_name = "SERVER")]
    url: Option<ServerUrl>,

    /// Bytes of an exchange, up to 256KiB; can be given several times
    #[arg(long = "size", value_name = "SIZE", value_delimiter = ',',
          default_values = ["64", "4KiB", "256KiB"])]
    sizes: Vec<Size>,

    /// Exchanges of each kind and size, one after the other and then at once; fewer if they
    /// take longer than a second
    #[arg(long, value_name = "N", default_value_t = 200,
          value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rounds: u32,

    /// This machine's RDMA device: auto (the best one), or `DEVICE[:PORT[:GID_INDEX]]` as
    /// `zako rdma devices` lists them [env: ZAKO_RDMA_DEVICE] [default: auto]
    #[arg(long, value_name = "DEVICE")]
    rdma_device: Option<DeviceChoice>,
}

/// What came of one kind of exchange.
#[derive(Serialize)]
struct Row {
    exchange: Exchange,
    road: Road,
    size: u32,
    rounds: u64,
    p50_us: f64,
    p99_us: f64,
    bytes_per_second: u64,
    verified: bool,
    wrong: u64,
}

/// What is above the rows.
struct Head;

/// What follows from all.
#[derive(Serialize)]
struct Conclusion {
    server: String,
    device: String,
    server_gid: String,
    mtu: u16,
    works: bool,
}

pub(crate) async fn run(
    args: ProbeArgs,
    layers: &Layers<'_>,
    output: &mut Output,
) -> Result<(), Failure> {
    let options = options(&args)?;
    let keys = ClientKeys {
        server: args.url,
        rdma_device: args.rdma_device,
        ..ClientKeys::default()
    };
    let config = ClientConfig::resolve(keys, layers)?;
    let port = fabric::open(&config.rdma_device.value, &options.like_session())?;
    let url = &config.server.value;
    let mut connection = ClientOptions::default();
    // What is compared must not take the other road.
    connection.transport = TransportChoice::Grpc;
    let client = Client::connect(url, connection).await?;

    output.line(format_args!("{} → {url}", port.fabric.name()))?;
    output.flush()?;
    let mut printed = Ok(());
    let mut begun = false;
    let each = |measured: &Measured| {
        if printed.is_ok() {
            printed = print(measured, !begun, output);
            begun = true;
        }
    };
    let found = client.probe_rdma(port.fabric, &options, each).await;
    printed?;
    let report = found.map_err(failure)?;
    let wrong = wrong(&report);
    output.line("")?;
    output.record(&Conclusion {
        server: url.to_string(),
        device: report.fabric,
        server_gid: std::net::Ipv6Addr::from(report.server_gid).to_string(),
        mtu: report.mtu,
        works: wrong == 0,
    })?;
    match wrong {
        0 => Ok(()),
        _ => Err(Failure::new(
            Exit::Corrupt,
            format!("{wrong} of all exchanges brought other bytes than were sent"),
        )
        .advise(
            "Blobs are safe, as they are hashed; but keep to --transport grpc until the cards, \
             their firmware, cables and switches, and the memory of both machines are checked.",
        )),
    }
}

fn print(measured: &Measured, first: bool, output: &mut Output) -> Result<(), Failure> {
    if first {
        output.line(format_args!("\n{Head}"))?;
    }
    output.record(&Row::from(measured))?;
    // They come slowly, also through a pipe.
    output.flush()
}

fn options(args: &ProbeArgs) -> Result<ProbeOptions, Failure> {
    let size = |size: &Size| match u32::try_from(size.0) {
        Ok(length @ 1..) if length as usize <= SLOT_BYTES => Ok(length),
        _ => Err(Failure::usage(format!(
            "--size: {size} is no size of an exchange: 1 B to {} are",
            bytes(SLOT_BYTES as u64)
        ))),
    };
    let sizes = args.sizes.iter().map(size).collect::<Result<Vec<_>, _>>()?;
    let mut options = ProbeOptions::default();
    let parts = sizes.len() * Exchange::ALL.len() * Road::BOTH.len() * 2;
    options.time = PART.min(TIME / u32::try_from(parts).unwrap_or(u32::MAX));
    options.sizes = sizes;
    options.rounds = args.rounds;
    Ok(options)
}

fn wrong(report: &ProbeReport) -> u64 {
    report.measured.iter().map(|measured| measured.wrong).sum()
}

/// Why there is no answer, in terms of what can be done about it.
fn failure(error: ProbeError) -> Failure {
    match error {
        ProbeError::Refused(error) => refused(error),
        ProbeError::Rdma(error) => broken(&error),
        error => Failure::new(Exit::Failed, error.to_string()),
    }
}

fn refused(error: CasError) -> Failure {
    match error.kind() {
        ErrorKind::Unsupported => Failure::new(
            Exit::Denied,
            format!(
                "the server offers this machine no RDMA: {}",
                error.message()
            ),
        )
        .advise(
            "A server offers it with `zako serve --rdma-trust NETWORK`, over TCP, to the \
             machines of those networks; its log says why it doesn't.",
        ),
        ErrorKind::NoSpace => full(error.to_string()),
        _ => error.into(),
    }
}

fn broken(error: &SessionError) -> Failure {
    let text = error.to_string();
    match error {
        SessionError::Fabric(error) => here(error),
        SessionError::Unreachable(_) => unreachable(text),
        SessionError::Peer(status) => match status.code {
            Code::Unavailable => unreachable(text),
            Code::ResourceExhausted => full(text),
            _ => Failure::new(Exit::Failed, text),
        },
        SessionError::Limit(_) => full(text),
        SessionError::Closed => Failure::new(Exit::Unreachable, "the server has ended the probe")
            .advise("It is stopping. Try again when it runs."),
        SessionError::Timeout(_) | SessionError::ControlLost(_) => {
            Failure::new(Exit::Unreachable, text)
                .advise("Is the server running still? Its log says how the probe ended.")
        }
        _ => Failure::new(Exit::Failed, text),
    }
}

fn here(error: &FabricError) -> Failure {
    let text = error.to_string();
    match error.kind() {
        FailureKind::PeerGone | FailureKind::Address | FailureKind::NotReceiving => {
            unreachable(text)
        }
        FailureKind::MemoryLimit => Failure::new(Exit::Unsupported, text)
            .advise(format!("On this machine, {HOW_TO_RAISE}.")),
        FailureKind::RemoteAccess => Failure::new(Exit::Failed, text),
        _ => Failure::new(Exit::Unsupported, text)
            .advise("`zako rdma devices` shows what this machine has."),
    }
}

fn unreachable(text: String) -> Failure {
    Failure::new(
        Exit::Unreachable,
        format!("the server answers, but not over RDMA: {text}"),
    )
    .advise(
        "Packets of RDMA don't arrive: let UDP port 4791 (RoCE v2) through firewalls on both \
         ways, and see on both machines with `zako rdma devices` that the GIDs in use are of \
         one network (--rdma-device here, --rdma there).",
    )
}

fn full(text: String) -> Failure {
    Failure::new(Exit::NoSpace, text).advise(
        "A probe counts as a session: wait until others end, or raise --rdma-sessions and \
         --rdma-memory of the server.",
    )
}

impl From<&Measured> for Row {
    fn from(measured: &Measured) -> Self {
        let micros = |time: Duration| time.as_secs_f64() * 1e6;
        Self {
            exchange: measured.exchange,
            road: measured.road,
            size: measured.size,
            rounds: measured.rounds,
            p50_us: micros(measured.p50),
            p99_us: micros(measured.p99),
            bytes_per_second: measured.rate as u64,
            verified: measured.is_right(),
            wrong: measured.wrong,
        }
    }
}

/// A time for a person: `12.3 µs`, `1.23 ms`.
fn time(micros: f64) -> String {
    match micros {
        ..1e3 => format!("{micros:.1} µs"),
        ..1e6 => format!("{:.2} ms", micros / 1e3),
        _ => format!("{:.2} s", micros / 1e6),
    }
}

impl fmt::Display for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = ("exchange", "road", "size", "p50", "p99", "rate", "verified");
        let (exchange, road, size, p50, p99, rate, verified) = columns;
        write!(
            f,
            "{exchange:<9} {road:<5} {size:>10} {p50:>11} {p99:>11} {rate:>14}  {verified}"
        )
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exchange = match self.exchange {
            Exchange::Send => "SEND",
            Exchange::Read => "READ",
            Exchange::Write => "WRITE",
        };
        let road = match self.road {
            Road::Rdma => "RDMA",
            Road::Grpc => "gRPC",
        };
        let (size, p50, p99) = (
            bytes(self.size.into()).to_string(),
            time(self.p50_us),
            time(self.p99_us),
        );
        let rate = rate(self.bytes_per_second, Duration::from_secs(1));
        write!(
            f,
            "{exchange:<9} {road:<5} {size:>10} {p50:>11} {p99:>11} {rate:>14}  "
        )?;
        match self.wrong {
            0 => write!(f, "{} of {}", self.rounds, self.rounds),
            wrong => write!(f, "WRONG: {wrong} of {}", self.rounds),
        }
    }
}

impl fmt::Display for Conclusion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            device,
            server,
            server_gid,
            mtu,
            works,
        } = self;
        let verdict = match works {
            true => "RDMA works",
            false => "RDMA brings WRONG BYTES",
        };
        write!(
            f,
            "{verdict} between {device} and {server} (GID {server_gid}), with packets of {mtu} bytes"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zako_rdma::session::Status;

    #[test]
    fn each_reason_has_its_code_and_says_what_to_do() {
        let fabric = |kind| ProbeError::Rdma(FabricError::new(kind, "why").into());
        let told = |code| ProbeError::Rdma(SessionError::Peer(Status::new(code, "why")));
        let refused = |kind| ProbeError::Refused(CasError::new(kind, "why"));
        for (error, exit, advice) in [
            (
                refused(ErrorKind::Unsupported),
                Exit::Denied,
                "--rdma-trust",
            ),
            (
                refused(ErrorKind::NoSpace),
                Exit::NoSpace,
                "--rdma-sessions",
            ),
            (
                refused(ErrorKind::Unavailable),
                Exit::Unreachable,
                "zako serve",
            ),
            (
                fabric(FailureKind::MemoryLimit),
                Exit::Unsupported,
                "ulimit",
            ),
            (fabric(FailureKind::Device), Exit::Unsupported, "devices"),
            (fabric(FailureKind::PeerGone), Exit::Unreachable, "4791"),
            (told(Code::Unavailable), Exit::Unreachable, "4791"),
            (
                told(Code::ResourceExhausted),
                Exit::NoSpace,
                "--rdma-memory",
            ),
            (
                ProbeError::Rdma(SessionError::Unreachable("why".to_owned())),
                Exit::Unreachable,
                "4791",
            ),
        ] {
            let failure = failure(error);
            assert_eq!(failure.exit(), exit, "{failure}");
            let text = failure.to_string();
            assert!(text.contains("why") && text.contains(advice), "{text}");
        }
    }

    #[test]
    fn rows_stand_under_their_head() {
        let mut measured = Measured {
            exchange: Exchange::Write,
            road: Road::Grpc,
            size: 256 << 10,
            rounds: 400,
            p50: Duration::from_nanos(12_340),
            p99: Duration::from_micros(1_234),
            rate: 1e9,
            wrong: 0,
        };
        let row = Row::from(&measured).to_string();
        assert_eq!(
            format!("{Head}\n{row}"),
            "exchange  road        size         p50         p99           rate  verified\n\
             WRITE     gRPC   256.0 KiB     12.3 µs     1.23 ms    953.7 MiB/s  400 of 400"
        );
        measured.wrong = 3;
        let row = Row::from(&measured).to_string();
        assert!(row.ends_with("WRONG: 3 of 400"), "{row}");
    }
}
