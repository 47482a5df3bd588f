//! The admin port of a server on this machine: whether it says that the server is ready.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use zako_core::server::ListenAddr;

use super::Check;
use crate::config::{AdminConfig, Origin, ServerConfig, TlsConfig};
use crate::serve::is_exposed;

const NAME: &str = "admin port";

/// The longest that an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// More than any answer of `/readyz` has, in bytes.
const LONGEST: u64 = 4096;

pub(super) async fn check(admin: &AdminConfig, server: &ServerConfig, tls: &TlsConfig) -> Check {
    let Some(addr) = admin.address(&server.listen.value) else {
        return Check::ok(NAME, "none is configured");
    };
    if matches!(&addr, ListenAddr::Tcp(addr) if addr.port() == 0) {
        return Check::ok(
            NAME,
            "takes a free port, which the server's first line tells",
        );
    }
    if is_exposed(&addr) && tls.cert.value.is_some() {
        return Check::ok(
            NAME,
            format!("{addr} speaks TLS and is not asked: curl https://{addr}/readyz"),
        );
    }
    let asked = tokio::time::timeout(PATIENCE, ask(&addr)).await;
    match asked.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
        Ok(answer) => told(&addr, &answer),
        // Nobody's wish; and a machine that has no server has no admin port.
        Err(error) if admin.listen.origin == Origin::Default => {
            Check::ok(NAME, format!("no server has one at {addr}: {error}"))
        }
        Err(error) => Check::broken(
            NAME,
            format!("{addr} doesn't answer: {error}"),
            "Start the server (zako serve), or look in its log for the admin port.",
        ),
    }
}

fn told(addr: &ListenAddr, answer: &str) -> Check {
    let status = answer.split(' ').nth(1).unwrap_or_default();
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.trim());
    match (status, body) {
        ("200", Some(body)) => Check::ok(NAME, format!("{addr} says: {body}")),
        ("503", Some(body)) => Check::warning(
            NAME,
            format!("{addr} says: {body}"),
            "The server takes calls when its store is open, until it is told to end.",
        ),
        _ => Check::broken(
            NAME,
            format!("{addr} tells no readiness: {:?}", answer.lines().next()),
            "Is it the admin port of a zako server, and of this version?",
        ),
    }
}

async fn ask(addr: &ListenAddr) -> io::Result<String> {
    match addr {
        ListenAddr::Tcp(addr) => ready(TcpStream::connect(near(*addr)).await?).await,
        ListenAddr::Unix(path) => ready(UnixStream::connect(path).await?).await,
    }
}

/// Asks over a connection.
async fn ready(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<String> {
    let request = b"GET /readyz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    stream.write_all(request).await?;
    let mut answer = Vec::new();
    stream.take(LONGEST).read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// Where to find what listens on all addresses.
fn near(mut addr: SocketAddr) -> SocketAddr {
    match addr.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => addr.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => addr.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    addr
}
