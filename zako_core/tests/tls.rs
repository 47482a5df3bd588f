//! Servers and clients over TLS.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod client_support;
mod tls_support;

use std::sync::{Arc, Mutex};

use client_support::{Running, noise, quick};
use rcgen::date_time_ymd;
use tls_support::{Authority, https, refusal, serve, serve_with, wanting};
use zako_core::access::{Authorizer, Credentials, Identity, Rights, Role};
use zako_core::cas::{CasExt, ErrorKind, Result};
use zako_core::client::Client;
use zako_core::conformance;
use zako_core::server::{Server, ServerOptions};
use zako_core::store::MemoryStore;
use zako_core::tls::{ClientAuth, TlsAcceptor, TlsClientOptions, TlsServerOptions};

const ROOM: u64 = 512 << 20;

fn store() -> Arc<MemoryStore> {
    Arc::new(MemoryStore::new(ROOM))
}

/// Notes which certificates it is shown.
#[derive(Debug, Default)]
struct Witness(Mutex<Vec<Option<Vec<u8>>>>);

impl Authorizer for Witness {
    fn identify(&self, credentials: &Credentials<'_>) -> Result<Identity> {
        let shown = credentials.certificate.map(<[u8]>::to_vec);
        self.0.lock().unwrap().push(shown);
        Ok(Identity::new("any", Rights::everywhere(Role::Admin)))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_over_tls_is_a_store_like_any_other() {
    let authority = Authority::new("ours");
    let tls = TlsAcceptor::new(&authority.server()).unwrap();
    let (_server, url) = serve(store(), tls).await;
    let client = Client::connect(&url, authority.client_options())
        .await
        .unwrap();
    let made = conformance::run_all(async || Arc::new(client.clone()) as _).await;
    made.unwrap_or_else(|violations| panic!("{violations}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn large_blobs_come_through() {
    let authority = Authority::new("ours");
    let tls = TlsAcceptor::new(&authority.server()).unwrap();
    let (_server, url) = serve(store(), tls).await;
    let client = Client::connect(&url, authority.client_options())
        .await
        .unwrap();
    for length in [16 << 10, 1_000_003, 64 << 20] {
        let data = noise(length as u64, length);
        let (digest, _) = client.put_bytes(data.clone()).await.unwrap();
        assert!(client.fetch_bytes(&digest).await.unwrap() == data);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_whom_it_should_be_is_not_talked_to() {
    let (ours, other) = (Authority::new("ours"), Authority::new("other"));
    let tls = TlsAcceptor::new(&ours.server()).unwrap();
    let (_server, url) = serve(store(), tls).await;
    let error = refusal(&url, other.client_options()).await;
    assert_eq!(error.kind(), ErrorKind::Untrusted);
    assert!(error.to_string().contains("tls-ca"), "{error}");

    let mut options = ours.client_options();
    options.tls.server_name = Some("cache.example".to_owned());
    let error = refusal(&url, options).await;
    assert_eq!(error.kind(), ErrorKind::Untrusted);
    assert!(error.to_string().contains("cache.example"), "{error}");
    assert!(error.to_string().contains("tls-server-name"), "{error}");

    let named = ours.issue("cache.example").server();
    let (_server, url) = serve(store(), TlsAcceptor::new(&named).unwrap()).await;
    let error = refusal(&url, ours.client_options()).await;
    assert_eq!(error.kind(), ErrorKind::Untrusted);
    let mut options = ours.client_options();
    options.tls.server_name = Some("cache.example".to_owned());
    Client::connect(&url, options).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn times_of_certificates_count() {
    let authority = Authority::new("ours");
    let expired = authority.issue_with("127.0.0.1", |params| {
        params.not_before = date_time_ymd(2001, 1, 1);
        params.not_after = date_time_ymd(2002, 1, 1);
    });
    let early = authority.issue_with("127.0.0.1", |params| {
        params.not_before = date_time_ymd(2900, 1, 1);
        params.not_after = date_time_ymd(2901, 1, 1);
    });
    for (issued, part) in [(expired, "expired"), (early, "not valid yet")] {
        let error = TlsAcceptor::new(&issued.server()).unwrap_err();
        assert!(error.to_string().contains(part), "{error}");
        let tls = TlsAcceptor::new(&authority.server()).unwrap();
        let before = tls.validity();
        assert!(tls.replace(&issued.server()).is_err());
        assert_eq!(tls.validity(), before);
        // A client notices its own as well.
        let nowhere = "https://127.0.0.1:1".parse().unwrap();
        let error = refusal(&nowhere, authority.shown(&issued)).await;
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert!(error.to_string().contains(part), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn plaintext_and_tls_tell_each_other() {
    let authority = Authority::new("ours");
    let tls = TlsAcceptor::new(&authority.server()).unwrap();
    let (server, _) = serve(store(), tls).await;
    let error = refusal(&server.url, quick()).await;
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("use https://"), "{error}");

    let plain = Running::tcp(store()).await;
    let error = refusal(&https(&plain.url), authority.client_options()).await;
    assert!(error.to_string().contains("http://)"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clients_certificate_is_checked_and_shown_to_the_authorizer() {
    let (ours, other) = (Authority::new("ours"), Authority::new("other"));
    let known = ours.issue("builder");
    let stranger = other.issue("builder");
    for auth in [ClientAuth::Optional, ClientAuth::Required] {
        let witness = Arc::new(Witness::default());
        let server = Server::new(store(), ServerOptions::default())
            .with_authorizer(Arc::clone(&witness) as _);
        let (_server, url) = serve_with(server, wanting(&ours, auth)).await;

        let client = Client::connect(&url, ours.shown(&known)).await.unwrap();
        client.put_bytes("known").await.unwrap();
        let shown = std::mem::take(&mut *witness.0.lock().unwrap());
        assert!(!shown.is_empty());
        assert!(
            shown
                .iter()
                .all(|one| one.as_deref() == Some(&known.der[..]))
        );

        let error = refusal(&url, ours.shown(&stranger)).await;
        assert_eq!(error.kind(), ErrorKind::Untrusted, "{error}");
        assert!(error.to_string().contains("certificate"), "{error}");

        let anonymous = Client::connect(&url, ours.client_options()).await;
        match auth {
            ClientAuth::Required => {
                let error = anonymous.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Untrusted, "{error}");
                assert!(error.to_string().contains("client-cert"), "{error}");
                assert!(witness.0.lock().unwrap().is_empty());
            }
            _ => {
                anonymous.unwrap().put_bytes("anonymous").await.unwrap();
                let shown = witness.0.lock().unwrap();
                assert!(!shown.is_empty() && shown.iter().all(Option::is_none));
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cant_be_used_is_refused_at_once() {
    let authority = Authority::new("ours");
    let (one, two) = (authority.issue("a"), authority.issue("b"));
    let mixed = TlsServerOptions::new(one.certificate.clone(), two.key.clone());
    let error = TlsAcceptor::new(&mixed).unwrap_err();
    assert!(
        error.to_string().contains("not that of the certificate"),
        "{error}"
    );
    let mut nobody = one.server();
    nobody.client_auth = ClientAuth::Required;
    assert!(TlsAcceptor::new(&nobody).is_err());
    let mut options = quick();
    options.tls = TlsClientOptions::default();
    options.tls.ca = Some(b"no PEM".to_vec());
    let error = refusal(&"https://127.0.0.1:1".parse().unwrap(), options).await;
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_replaced_while_connections_live_on() {
    let (before, after) = (Authority::new("before"), Authority::new("after"));
    let tls = TlsAcceptor::new(&before.server()).unwrap();
    let (_server, url) = serve(store(), tls.clone()).await;
    let old = Client::connect(&url, before.client_options())
        .await
        .unwrap();
    let (digest, _) = old.put_bytes("kept").await.unwrap();
    tls.replace(&after.server()).unwrap();
    assert_eq!(old.fetch_bytes(&digest).await.unwrap(), "kept");
    let error = refusal(&url, before.client_options()).await;
    assert_eq!(error.kind(), ErrorKind::Untrusted);
    let new = Client::connect(&url, after.client_options()).await.unwrap();
    assert_eq!(new.fetch_bytes(&digest).await.unwrap(), "kept");
}
