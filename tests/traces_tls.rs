//! Traces and metrics of real processes, to collectors behind TLS.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod collector;
mod zako_process;

use std::io::Read;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use collector::Collector;
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use zako_process::{Home, Server, noise};

/// How long something may take to arrive before a test gives it up.
const LATE: Duration = Duration::from_secs(60);

/// Issues certificates.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// Takes TLS connections for a collector that speaks none. It ends with the test's process.
struct Front {
    port: u16,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        let issuer = Issuer::new(params, key);
        Self { issuer, pem }
    }

    /// A certificate and its key, in PEM.
    fn issue(&self, name: &str) -> (String, String) {
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let key = KeyPair::generate().unwrap();
        let made = params.signed_by(&key, &self.issuer).unwrap();
        (made.pem(), key.serialize_pem())
    }
}

impl Front {
    /// Speaks `protocol` only, and wants certificates of `clients` if that is given.
    fn new(ours: &Authority, protocol: &str, clients: Option<&Authority>, to: u16) -> Self {
        let (certificate, key) = ours.issue("127.0.0.1");
        let certificate = CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap();
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider));
        let builder = builder.with_safe_default_protocol_versions().unwrap();
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(authority) => {
                let mut roots = RootCertStore::empty();
                let authority = CertificateDer::from_pem_slice(authority.pem.as_bytes());
                roots.add(authority.unwrap()).unwrap();
                let roots = Arc::new(roots);
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider);
                builder.with_client_cert_verifier(verifier.build().unwrap())
            }
        };
        let mut config = builder.with_single_cert(vec![certificate], key).unwrap();
        config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            runtime.unwrap().block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                loop {
                    let (outer, _) = listener.accept().await.unwrap();
                    let acceptor = acceptor.clone();
                    tokio::spawn(async move {
                        let mut outer = acceptor.accept(outer).await?;
                        let mut inner = tokio::net::TcpStream::connect(("127.0.0.1", to)).await?;
                        tokio::io::copy_bidirectional(&mut outer, &mut inner).await
                    });
                }
            });
        });
        Self { port }
    }

    /// Has all processes of this home send there.
    fn collects(&self, home: &mut Home, protocol: &str, authority: &Authority) {
        let url = format!("https://127.0.0.1:{}", self.port);
        home.write("collectors.pem", &authority.pem);
        home.set("OTEL_EXPORTER_OTLP_ENDPOINT", url);
        home.set("OTEL_EXPORTER_OTLP_PROTOCOL", protocol);
        home.set("OTEL_EXPORTER_OTLP_CERTIFICATE", "collectors.pem");
        home.set("OTEL_EXPORTER_OTLP_HEADERS", "x-test=s3cret");
        home.set("OTEL_BSP_SCHEDULE_DELAY", "50");
    }
}

fn put(home: &mut Home) -> (Server, String) {
    let server = Server::start(home, &[]);
    home.set("ZAKO_SERVER", server.url());
    home.write("blob", noise(1, 10_000));
    let said = home.run(["put", "blob"]);
    said.ok();
    (server, said.stderr)
}

#[test]
fn spans_arrive_by_grpc_and_http() {
    let (ours, clients) = (Authority::new(), Authority::new());
    for (protocol, spoken) in [("grpc", "h2"), ("http/protobuf", "http/1.1")] {
        let collector = match protocol {
            "grpc" => Collector::grpc(),
            _ => Collector::http(),
        };
        let mut home = Home::new();
        let front = Front::new(&ours, spoken, Some(&clients), collector.port);
        front.collects(&mut home, protocol, &ours);
        home.set("OTEL_METRICS_EXPORTER", "none");
        let (certificate, key) = clients.issue("builder");
        home.write("client.pem", certificate);
        home.write("client.key", key);
        home.set("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", "client.pem");
        home.set("OTEL_EXPORTER_OTLP_CLIENT_KEY", "client.key");
        let (_server, said) = put(&mut home);
        assert_eq!(said, "", "{protocol}");
        collector.inbox.until(|spans| {
            let of = |service: &str| spans.iter().any(|span| span.service == service);
            of("zako") && of("zako-server")
        });
        let header = collector.inbox.header();
        assert_eq!(header.as_deref(), Some("s3cret"), "{protocol}");
    }
}

#[test]
fn strangers_get_no_spans_and_nothing_else_breaks() {
    let (ours, other) = (Authority::new(), Authority::new());
    for (protocol, spoken) in [("grpc", "h2"), ("http/protobuf", "http/1.1")] {
        let collector = match protocol {
            "grpc" => Collector::grpc(),
            _ => Collector::http(),
        };
        let mut home = Home::new();
        let front = Front::new(&ours, spoken, None, collector.port);
        front.collects(&mut home, protocol, &other);
        home.set("OTEL_METRICS_EXPORTER", "none");
        let (_server, said) = put(&mut home);
        assert!(said.contains("spans were lost"), "{protocol}: {said}");
        assert!(!said.contains("s3cret"), "{said}");
        assert!(collector.inbox.spans().is_empty(), "{protocol}");
    }
}

#[test]
fn metrics_go_the_same_way() {
    let ours = Authority::new();
    for (protocol, spoken, begin) in [
        ("grpc", "h2", "PRI * HTTP/2.0"),
        ("http/protobuf", "http/1.1", "POST /v1/metrics"),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (sender, came) = mpsc::channel();
        std::thread::spawn(move || {
            for connection in listener.incoming() {
                let mut head = vec![0; begin.len()];
                // A connection without a byte is none.
                if connection.unwrap().read_exact(&mut head).is_ok() {
                    let _ = sender.send(head);
                }
            }
        });
        let mut home = Home::new();
        let front = Front::new(&ours, spoken, None, port);
        front.collects(&mut home, protocol, &ours);
        home.set("OTEL_TRACES_EXPORTER", "none");
        home.set("OTEL_METRIC_EXPORT_INTERVAL", "100");
        let _server = Server::start(&home, &[]);
        let head = came.recv_timeout(LATE).unwrap();
        assert_eq!(String::from_utf8_lossy(&head), begin, "{protocol}");
    }
}
