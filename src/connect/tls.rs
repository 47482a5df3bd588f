//! What a client trusts and shows over TLS.

use std::path::Path;

use zako_core::tls::{TlsClientIdentity, TlsClientOptions};

use crate::config::{ClientConfig, FilePath};
use crate::failure::Failure;

/// The configured files' contents, where the server is spoken to by TLS.
///
/// # Errors
/// A file can't be read, or a certificate is without its key.
pub(super) fn options(config: &ClientConfig) -> Result<TlsClientOptions, Failure> {
    let mut options = TlsClientOptions::default();
    if !config.server.value.is_tls() {
        return Ok(options);
    }
    if let Some(FilePath(path)) = &config.tls_ca.value {
        options.ca = Some(read("the trusted authorities", path)?);
    }
    options.server_name = config.tls_server_name.value.clone();
    options.identity = match (&config.client_cert.value, &config.client_key.value) {
        (None, None) => None,
        (Some(FilePath(certificate)), Some(FilePath(key))) => Some(TlsClientIdentity::new(
            read("the client's certificate", certificate)?,
            read("the client's private key", key)?,
        )),
        (Some(_), None) => return Err(half("client-cert", "client-key")),
        (None, Some(_)) => return Err(half("client-key", "client-cert")),
    };
    Ok(options)
}

fn read(what: &str, path: &Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(path).map_err(|error| Failure::io(&format!("reading {what}"), path, &error))
}

fn half(there: &str, missing: &str) -> Failure {
    Failure::usage(format!("there is a {there} and no {missing}"))
        .advise(format!("Name the {missing} too, with --{missing} FILE."))
}
