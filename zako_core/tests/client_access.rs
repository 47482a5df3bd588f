//! A client shows who it is with each call, by gRPC and over RDMA, and a server that changes
//! its mind is obeyed on what is open.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod rdma_support;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use rdma_support::{Running, any_port, noise, options, quick, session};
use zako_core::access::{Authorizer, Credentials, Identity, Rights, Role, Secret};
use zako_core::cas::{Cas, CasError, CasExt, ErrorKind, Lease, Maintain, Result};
use zako_core::client::{Client, ClientOptions, TransportChoice};
use zako_core::server::{RdmaOptions, Server, ServerOptions};
use zako_core::store::MemoryStore;
use zako_rdma::soft::{Faults, SoftNetwork};

/// Knows tokens by their names, until that is changed.
#[derive(Debug, Default)]
struct Known {
    rights: Mutex<HashMap<String, Rights>>,
    generation: AtomicU64,
}

impl Known {
    fn set(&self, name: &str, rights: Rights) {
        self.rights.lock().unwrap().insert(name.to_owned(), rights);
        self.generation.fetch_add(1, Ordering::SeqCst);
    }
}

impl Authorizer for Known {
    fn identify(&self, credentials: &Credentials<'_>) -> Result<Identity> {
        let shown = credentials.authorization.unwrap_or_default();
        let name = std::str::from_utf8(shown).unwrap_or_default();
        let name = name.strip_prefix("Bearer ").unwrap_or_default();
        match self.rights.lock().unwrap().get(name) {
            Some(rights) => Ok(Identity::new(name, rights.clone())),
            None => Err(CasError::new(ErrorKind::Unauthenticated, "who?")),
        }
    }

    fn generation(&self) -> u64 {
        self.generation.load(Ordering::SeqCst)
    }
}

async fn server(known: &Arc<Known>, network: &SoftNetwork) -> Running {
    let cas = Arc::new(MemoryStore::new(64 << 20));
    let mut rdma = RdmaOptions::new(network.fabric(), vec!["127.0.0.0/8".parse().unwrap()]);
    rdma.session = session();
    let server = Server::new(cas, ServerOptions::default());
    let server = server.with_rdma(rdma).with_authorizer(known.clone());
    Running::run(server, &any_port()).await
}

fn showing(name: &str, mut options: ClientOptions) -> ClientOptions {
    options.token = Some(Secret::new(name));
    options
}

#[tokio::test]
async fn each_call_of_a_client_shows_its_token_and_names_its_namespace() {
    let known = Arc::new(Known::default());
    known.set("a", Rights::default().with("main", Role::Write));
    let server = server(&known, &SoftNetwork::new(7, Faults::default())).await;
    let nobody = Client::connect(&server.url, quick()).await.unwrap_err();
    assert_eq!(nobody.kind(), ErrorKind::Unauthenticated);
    let elsewhere = Client::connect(&server.url, showing("a", quick())).await;
    assert_eq!(elsewhere.unwrap_err().kind(), ErrorKind::PermissionDenied);
    let mut options = showing("a", quick());
    "main".clone_into(&mut options.namespace);
    let client = Client::connect(&server.url, options).await.unwrap();
    let data = noise(1, 3 << 20);
    let (digest, _) = client.put_bytes(data.clone()).await.unwrap();
    let (small, _) = client.put_bytes("small").await.unwrap();
    assert_eq!(client.fetch_bytes(&digest).await.unwrap(), data);
    assert_eq!(client.fetch_bytes(&small).await.unwrap(), "small");
    let missing = client.missing(&[digest, small], Lease::Default).await;
    assert!(missing.unwrap().is_empty());
    assert!(client.delete(&small).await.unwrap());
    client.status().await.unwrap();
    let error = client.collect_garbage().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    assert!(error.message().contains("admin"), "{error}");
}

#[tokio::test]
async fn a_reader_reads_and_is_told_that_it_may_not_write() {
    let known = Arc::new(Known::default());
    known.set("w", Rights::everywhere(Role::Write));
    known.set("r", Rights::everywhere(Role::Read));
    let server = server(&known, &SoftNetwork::new(7, Faults::default())).await;
    let writer = Client::connect(&server.url, showing("w", quick())).await;
    let (digest, _) = writer.unwrap().put_bytes("content").await.unwrap();
    let reader = Client::connect(&server.url, showing("r", quick())).await;
    let reader = reader.unwrap();
    assert_eq!(reader.fetch_bytes(&digest).await.unwrap(), "content");
    for size in [5, 2 << 20] {
        let error = reader.put_bytes(noise(2, size)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
    }
}

#[tokio::test]
async fn a_session_over_rdma_ends_with_its_identitys_role() {
    let known = Arc::new(Known::default());
    known.set("a", Rights::everywhere(Role::Write));
    let network = SoftNetwork::new(7, Faults::default());
    let server = server(&known, &network).await;
    let mut options = showing("a", options());
    options.transport = TransportChoice::Rdma;
    let client = Client::connect_over(&server.url, options, network.fabric()).await;
    let client = client.unwrap();
    let data = noise(1, 1 << 20);
    let (digest, _) = client.put_bytes(data.clone()).await.unwrap();
    assert_eq!(client.fetch_bytes(&digest).await.unwrap(), data);
    assert!(client.roads().rdma.transfers >= 2);

    known.set("a", Rights::everywhere(Role::Read));
    assert_eq!(client.fetch_bytes(&digest).await.unwrap(), data);
    let error = client.put_bytes(noise(2, 1 << 20)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
    known.set("a", Rights::default());
    let error = client.fetch_bytes(&digest).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
}
