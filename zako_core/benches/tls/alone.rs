//! The TLS library without sockets: the limit.

use std::io::{BufRead, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::PrivateKeyDer;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};

use crate::Outcome;

/// Bytes that are encrypted at once.
const STEP: usize = 64 << 10;

/// Seconds for each GiB.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Alone {
    pub(crate) encrypt: f64,
    pub(crate) decrypt: f64,
    pub(crate) suite: &'static str,
}

/// One thread encrypts and decrypts so many bytes.
pub(crate) fn measure(bytes: usize) -> Outcome<Alone> {
    let (mut server, mut client) = pair()?;
    let mut wire = Vec::with_capacity(2 * STEP);
    while client.is_handshaking() || server.is_handshaking() {
        wire.clear();
        client.write_tls(&mut wire)?;
        server.read_tls(&mut &wire[..])?;
        server.process_new_packets()?;
        wire.clear();
        server.write_tls(&mut wire)?;
        client.read_tls(&mut &wire[..])?;
        client.process_new_packets()?;
    }
    let step = vec![7; STEP];
    let (mut encrypting, mut decrypting) = (Duration::ZERO, Duration::ZERO);
    for _ in 0..bytes / STEP {
        let began = Instant::now();
        wire.clear();
        let mut left = &step[..];
        while !left.is_empty() {
            let taken = server.writer().write(left)?;
            left = &left[taken..];
            server.write_tls(&mut wire)?;
        }
        let encrypted = Instant::now();
        encrypting += encrypted - began;
        let mut came = &wire[..];
        while !came.is_empty() {
            client.read_tls(&mut came)?;
            client.process_new_packets()?;
            while let Ok(given) = client.reader().into_first_chunk().map(<[u8]>::len) {
                client.reader().consume(given);
            }
        }
        decrypting += encrypted.elapsed();
    }
    let per_gib = (1u64 << 30) as f64 / bytes as f64;
    let suite = server.negotiated_cipher_suite().ok_or("no suite")?;
    Ok(Alone {
        encrypt: encrypting.as_secs_f64() * per_gib,
        decrypt: decrypting.as_secs_f64() * per_gib,
        suite: suite.suite().as_str().unwrap_or("?"),
    })
}

fn pair() -> Outcome<(ServerConnection, ClientConnection)> {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()])?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let certificate = made.cert.der().clone();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der())?;
    let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key)?;
    let mut roots = RootCertStore::empty();
    roots.add(certificate)?;
    let client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = "127.0.0.1".try_into()?;
    Ok((
        ServerConnection::new(Arc::new(server))?,
        ClientConnection::new(Arc::new(client), name)?,
    ))
}
