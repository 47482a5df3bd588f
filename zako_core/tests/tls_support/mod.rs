//! Authorities, and servers and clients with certificates of theirs.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test file uses a part of it"
)]

use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
};
use zako_core::cas::Cas;
use zako_core::client::{Client, ClientOptions, ServerUrl};
use zako_core::server::{Server, ServerOptions};
use zako_core::tls::{
    ClientAuth, TlsAcceptor, TlsClientIdentity, TlsClientOptions, TlsServerOptions,
};

use crate::client_support::{Running, any_port, quick};

/// Issues certificates.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Its own certificate.
    pub pem: String,
}

/// A certificate with its key, in PEM.
#[derive(Clone)]
pub struct Issued {
    pub certificate: String,
    pub key: String,
    pub der: Vec<u8>,
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self {
            issuer: Issuer::new(params, key),
            pem,
        }
    }

    pub fn issue(&self, name: &str) -> Issued {
        self.issue_with(name, |_| {})
    }

    pub fn issue_with(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Issued {
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let made = params.signed_by(&key, &self.issuer).unwrap();
        Issued {
            certificate: made.pem(),
            key: key.serialize_pem(),
            der: made.der().to_vec(),
        }
    }

    /// What a server of this authority shows, under the address of loopback.
    pub fn server(&self) -> TlsServerOptions {
        self.issue("127.0.0.1").server()
    }

    /// What trusts this authority, and no other.
    pub fn trusting(&self) -> TlsClientOptions {
        let mut options = TlsClientOptions::default();
        options.ca = Some(self.pem.clone().into());
        options
    }

    pub fn client_options(&self) -> ClientOptions {
        let mut options = quick();
        options.tls = self.trusting();
        options
    }

    /// Options that also show a certificate.
    pub fn shown(&self, issued: &Issued) -> ClientOptions {
        let mut options = self.client_options();
        options.tls.identity = Some(issued.identity());
        options
    }
}

impl Issued {
    pub fn server(&self) -> TlsServerOptions {
        TlsServerOptions::new(self.certificate.clone(), self.key.clone())
    }

    pub fn identity(&self) -> TlsClientIdentity {
        TlsClientIdentity::new(self.certificate.clone(), self.key.clone())
    }
}

/// A server with TLS, and its `https://` URL.
pub async fn serve(cas: Arc<dyn Cas>, tls: TlsAcceptor) -> (Running, ServerUrl) {
    serve_with(Server::new(cas, ServerOptions::default()), tls).await
}

pub async fn serve_with(server: Server, tls: TlsAcceptor) -> (Running, ServerUrl) {
    let running = Running::run(server.with_tls(tls), &any_port()).await;
    let url = https(&running.url);
    (running, url)
}

pub fn https(url: &ServerUrl) -> ServerUrl {
    url.to_string().replace("http:", "https:").parse().unwrap()
}

/// A server that wants to see certificates of this authority's.
pub fn wanting(authority: &Authority, auth: ClientAuth) -> TlsAcceptor {
    let options = authority.server();
    let options = options.with_clients(authority.pem.clone(), auth);
    TlsAcceptor::new(&options).unwrap()
}

/// Why no connection comes about.
pub async fn refusal(url: &ServerUrl, options: ClientOptions) -> zako_core::cas::CasError {
    match Client::connect(url, options).await {
        Ok(_) => panic!("{url} was connected to"),
        Err(error) => error,
    }
}
