//! Handshakes that take too long, or never come, and those beside them.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod client_support;
mod open_files;
mod tls_support;

use std::sync::Arc;
use std::time::Duration;

use client_support::any_port;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tls_support::{Authority, serve_with};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use zako_core::cas::CasExt;
use zako_core::client::{Client, ServerUrl};
use zako_core::server::{ListenAddr, Port, PortOptions, Server, ServerOptions};
use zako_core::store::MemoryStore;
use zako_core::tls::TlsAcceptor;

/// More than any of this takes on a machine that is busy.
const LONG: Duration = Duration::from_secs(60);

fn server(handshake_timeout: Duration) -> Server {
    let mut options = ServerOptions::default();
    options.handshake_timeout = handshake_timeout;
    Server::new(Arc::new(MemoryStore::new(1 << 20)), options)
}

fn address(url: &ServerUrl) -> String {
    url.to_string()["https://".len()..].to_owned()
}

/// The client's end of a handshake, with whatever it speaks inside.
fn connector(authority: &Authority, protocols: &[&str]) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    let pem = authority.pem.as_bytes();
    roots
        .add(CertificateDer::from_pem_slice(pem).unwrap())
        .unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = protocols
        .iter()
        .map(|name| name.as_bytes().to_vec())
        .collect();
    Arc::new(config).into()
}

fn loopback() -> ServerName<'static> {
    "127.0.0.1".try_into().unwrap()
}

/// Waits until the other end has closed the connection.
async fn closed(stream: &mut (impl AsyncReadExt + Unpin)) {
    let mut buffer = [0; 4096];
    let reading = async {
        // Whatever it says before.
        while let Ok(1..) = stream.read(&mut buffer).await {}
    };
    tokio::time::timeout(LONG, reading)
        .await
        .expect("it is closed");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_says_nothing_holds_up_nobody() {
    open_files::raise_limit();
    let authority = Authority::new("ours");
    let tls = TlsAcceptor::new(&authority.server()).unwrap();
    // So long that only being displaced ends them.
    let (_server, url) = serve_with(server(100 * LONG), tls).await;
    let mut silent = Vec::new();
    for _ in 0..500 {
        silent.push(TcpStream::connect(address(&url)).await.unwrap());
    }
    let client = Client::connect(&url, authority.client_options())
        .await
        .unwrap();
    client.put_bytes("among many").await.unwrap();
    closed(&mut silent[0]).await;
    // The last ones still have their time.
    let mut last = [0];
    assert!(silent[499].try_read(&mut last).is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_that_drips_is_ended_and_others_go_on() {
    let authority = Authority::new("ours");
    let tls = TlsAcceptor::new(&authority.server()).unwrap();
    let (_server, url) = serve_with(server(Duration::from_secs(6)), tls).await;
    let mut slow = TcpStream::connect(address(&url)).await.unwrap();
    let dripping = async {
        // The head of a long ClientHello, and then a byte now and then.
        slow.write_all(&[22, 3, 1, 2, 0, 1, 0, 1, 252])
            .await
            .unwrap();
        while slow.write_all(&[3]).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let ended = tokio::time::timeout(LONG, dripping);
    let others = async {
        for n in 0..20 {
            let client = Client::connect(&url, authority.client_options())
                .await
                .unwrap();
            client.put_bytes(format!("beside {n}")).await.unwrap();
        }
    };
    let (ended, ()) = tokio::join!(ended, others);
    ended.expect("it is ended");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_time_is_for_what_is_spoken_inside_too() {
    let authority = Authority::new("ours");
    let tls = TlsAcceptor::new(&authority.server()).unwrap();
    // Long for the handshake around it, on a machine that is busy.
    let (_server, url) = serve_with(server(Duration::from_secs(4)), tls).await;
    let connector = connector(&authority, &["h2"]);
    let tcp = TcpStream::connect(address(&url)).await.unwrap();
    let mut inside = connector.connect(loopback(), tcp).await.unwrap();
    inside.write_all(b"PRI * HT").await.unwrap();
    inside.flush().await.unwrap();
    closed(&mut inside).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ports_agree_on_what_is_spoken() {
    let authority = Authority::new("ours");
    let tls = TlsAcceptor::new(&authority.server()).unwrap();
    let port = Port::bind(&any_port(), PortOptions::default())
        .await
        .unwrap();
    let port = port.with_tls(tls.clone());
    let ListenAddr::Tcp(at) = *port.local_addr() else {
        panic!("a port has an address");
    };
    tokio::spawn(port.serve(std::future::pending(), async |mut connection| {
        let _ = connection.stream.write_all(b"hello").await;
        let _ = connection.stream.shutdown().await;
    }));
    for (protocols, agreed) in [
        (&["http/1.1"][..], true),
        (&["h2", "http/1.1"], true),
        (&[], true),
        (&["h2"], false),
    ] {
        let tcp = TcpStream::connect(at).await.unwrap();
        let connected = connector(&authority, protocols)
            .connect(loopback(), tcp)
            .await;
        assert_eq!(connected.is_ok(), agreed, "{protocols:?}");
        if let Ok(mut inside) = connected {
            let mut said = String::new();
            inside.read_to_string(&mut said).await.unwrap();
            assert_eq!(said, "hello");
        }
    }
    let mut plain = TcpStream::connect(at).await.unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let mut said = String::new();
    plain.read_to_string(&mut said).await.unwrap();
    assert!(
        said.starts_with("HTTP/1.1 400 ") && said.contains("https://"),
        "{said}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_are_resumed() {
    let authority = Authority::new("ours");
    let tls = TlsAcceptor::new(&authority.server()).unwrap();
    let port = Port::bind(&any_port(), PortOptions::default())
        .await
        .unwrap();
    let port = port.with_tls(tls.clone());
    let ListenAddr::Tcp(at) = *port.local_addr() else {
        panic!("a port has an address");
    };
    tokio::spawn(port.serve(std::future::pending(), async |mut connection| {
        let _ = connection.stream.write_all(b"hello").await;
        let _ = connection.stream.shutdown().await;
    }));
    let connector = connector(&authority, &["http/1.1"]);
    let kind = async || {
        let tcp = TcpStream::connect(at).await.unwrap();
        let mut inside = connector.connect(loopback(), tcp).await.unwrap();
        let mut said = String::new();
        // The tickets come with it.
        inside.read_to_string(&mut said).await.unwrap();
        inside.get_ref().1.handshake_kind().unwrap()
    };
    assert_eq!(kind().await, rustls::HandshakeKind::Full);
    assert_eq!(kind().await, rustls::HandshakeKind::Resumed);
    // Whom the server trusts may be others from now on.
    tls.replace(&authority.server()).unwrap();
    assert_eq!(kind().await, rustls::HandshakeKind::Full);
}
