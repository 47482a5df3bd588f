//! Ending well: what runs ends or is parked, and nothing new begins.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod wire_harness;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::net::{TcpStream, UnixStream};
use tokio::sync::mpsc;
use wire_harness::message::{bytes_in, chunk, framed, metadata, number};
use wire_harness::{
    Client, DETAILS, DOWNLOAD, MapCas, NEGOTIATE, Running, UPLOAD, code, pattern, until,
};
use zako_core::cas::{GcReport, Maintain, Result, Usage, VerifyReport, VerifyScope};
use zako_core::server::{ListenAddr, Server, ServerOptions};
use zako_digest::hash;

/// Longer than any test may take: what ends before it did not wait for it.
const NEVER: Duration = Duration::from_secs(3600);

fn draining(drain: Duration) -> ServerOptions {
    let mut options = ServerOptions::default();
    options.drain_timeout = drain;
    options
}

async fn ended(server: Running) {
    tokio::time::timeout(Duration::from_secs(60), server.ended())
        .await
        .expect("the server ends");
}

#[tokio::test]
async fn idle_connections_hold_nothing_up() {
    let mut server = Running::start(draining(NEVER)).await;
    let digest = server.cas.insert(&pattern(10));
    let client = server.session().await;
    client
        .download(metadata(&digest, 0, None))
        .await
        .expect(code::OK);
    let _silent = server.client().await;
    server.stop();
    ended(server).await;
}

#[tokio::test]
async fn a_running_download_ends_and_no_new_connection_begins() {
    let mut server = Running::start(draining(NEVER)).await;
    let data = pattern(5_000_000);
    let digest = server.cas.insert(&data);
    let mut client = Client::with_windows(server.addr, 65_535, 65_535).await;
    client.token = Some(client.negotiate().await);
    let mut call = client.call(DOWNLOAD, &[]).await;
    call.send(framed(metadata(&digest, 0, None)).into(), true)
        .await;
    let head = (&mut call.response).await.unwrap();
    assert_eq!(head.status(), 200);
    let mut body = head.into_body();
    let mut came = body.data().await.unwrap().unwrap().len();
    body.flow_control().release_capacity(came).unwrap();

    let addr = server.addr;
    server.stop();
    while TcpStream::connect(addr).await.is_ok() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    while let Some(piece) = body.data().await {
        let piece = piece.unwrap();
        came += piece.len();
        body.flow_control().release_capacity(piece.len()).unwrap();
    }
    assert!(came > data.len());
    let trailers = body.trailers().await.unwrap().unwrap();
    assert_eq!(trailers["grpc-status"], "0");
    ended(server).await;
}

#[tokio::test]
async fn who_has_just_connected_has_its_first_call_answered() {
    let mut options = draining(NEVER);
    options.first_call_timeout = NEVER;
    options.handshake_timeout = NEVER;
    let mut server = Running::start(options).await;
    let client = server.client().await;
    // Connections are accepted in turn: that one has been when a later one is answered.
    let later = server.session().await;
    let addr = server.addr;
    server.stop();
    while TcpStream::connect(addr).await.is_ok() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    drop(later);
    let health = client.unary("/grpc.health.v1.Health/Check", b"").await;
    health.expect(code::OK);
    ended(server).await;
}

#[tokio::test]
async fn open_ended_calls_hold_nothing_up() {
    let mut server = Running::start(draining(NEVER)).await;
    let client = server.client().await;
    let mut negotiation = client.call(NEGOTIATE, &[]).await;
    negotiation.send(framed(b"").into(), false).await;
    let mut watch = client.call("/grpc.health.v1.Health/Watch", &[]).await;
    watch.send(framed(b"").into(), true).await;
    let mut bodies = Vec::new();
    for call in [&mut negotiation, &mut watch] {
        let head = (&mut call.response).await.unwrap();
        let mut body = head.into_body();
        let first = body.data().await.unwrap().unwrap();
        body.flow_control().release_capacity(first.len()).unwrap();
        bodies.push(body);
    }
    server.stop();
    ended(server).await;
    for mut body in bodies {
        while let Some(piece) = body.data().await {
            piece.unwrap();
        }
        let trailers = body.trailers().await.unwrap().unwrap();
        assert_eq!(trailers["grpc-status"], code::UNAVAILABLE.to_string());
    }
}

/// A store whose verification takes a while to end.
#[derive(Debug, Default)]
struct Slow(AtomicBool);

#[async_trait::async_trait]
impl Maintain for Slow {
    async fn usage(&self) -> Result<Usage> {
        Ok(Usage::default())
    }

    async fn verify(
        &self,
        _: VerifyScope,
        progress: mpsc::Sender<VerifyReport>,
    ) -> Result<VerifyReport> {
        progress.send(VerifyReport::default()).await.unwrap();
        progress.closed().await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        self.0.store(true, Ordering::Relaxed);
        Ok(VerifyReport::default())
    }

    async fn collect_garbage(&self) -> Result<GcReport> {
        Ok(GcReport::default())
    }
}

#[tokio::test]
async fn a_verification_lets_go_of_the_store_before_the_server_ends() {
    let slow = Arc::new(Slow::default());
    let any = ListenAddr::Tcp("127.0.0.1:0".parse().unwrap());
    let server = Server::new(
        Arc::new(MapCas::default()),
        draining(Duration::from_millis(1)),
    );
    let bound = server.with_maintenance(slow.clone()).bind(&any).await;
    let bound = bound.unwrap();
    let ListenAddr::Tcp(addr) = *bound.local_addr() else {
        panic!("{bound:?}")
    };
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = tokio::spawn(bound.serve(async {
        let _ = stopped.await;
    }));
    let client = Client::connect(addr).await;
    let mut call = client.call("/zako.v1.store.Store/Verify", &[]).await;
    call.send(framed(b"").into(), true).await;
    let mut body = (&mut call.response).await.unwrap().into_body();
    body.data().await.unwrap().unwrap();
    stop.send(()).unwrap();
    serving.await.unwrap().unwrap();
    assert!(slow.0.load(Ordering::Relaxed));
}

#[tokio::test]
async fn a_running_upload_may_end() {
    let mut server = Running::start(draining(NEVER)).await;
    let client = server.session().await;
    let data = pattern(2_000_000);
    let digest = hash::bytes(&data);
    let mut call = client.call(UPLOAD, &[]).await;
    let body = [
        framed(metadata(&digest, 0, None)),
        framed(chunk(&data[..10])),
    ]
    .concat();
    call.send(body.into(), false).await;
    let cas = server.cas.clone();
    until("the upload has begun", || {
        cas.counts
            .written
            .load(std::sync::atomic::Ordering::Relaxed)
            == 10
    })
    .await;
    server.stop();
    call.send(framed(chunk(&data[10..])).into(), true).await;
    call.answer().await.expect(code::OK);
    assert_eq!(cas.get(&digest), Some(data));
    ended(server).await;
}

#[tokio::test]
async fn an_upload_that_goes_on_is_parked() {
    for size in [1000, 2_000_000] {
        let mut server = Running::start(draining(Duration::from_secs(1))).await;
        let client = server.session().await;
        let data = pattern(size);
        let digest = hash::bytes(&data);
        let mut call = client.call(UPLOAD, &[]).await;
        let body = [
            framed(metadata(&digest, 0, None)),
            framed(chunk(&data[..size / 2])),
        ]
        .concat();
        call.send(body.into(), false).await;
        // What was sent before this answer has been taken in.
        let absent = hash::bytes(b"absent");
        client
            .download(metadata(&absent, 0, None))
            .await
            .expect(code::NOT_FOUND);
        let cas = server.cas.clone();
        // A small one is collected before it is written.
        if size > 1 << 20 {
            until("all of it is written", || {
                cas.counts.written.load(Ordering::Relaxed) == (size / 2) as u64
            })
            .await;
        }
        server.stop();
        call.answer().await.expect(code::UNAVAILABLE);
        ended(server).await;
        assert_eq!(cas.partial(&digest), Some(size / 2));
    }
}

#[tokio::test]
async fn a_server_that_is_dropped_parks_too() {
    let cas = Arc::new(MapCas::default());
    let any = ListenAddr::Tcp("127.0.0.1:0".parse().unwrap());
    let server = Server::new(cas.clone(), ServerOptions::default());
    let bound = server.bind(&any).await.unwrap();
    let ListenAddr::Tcp(addr) = *bound.local_addr() else {
        panic!("{bound:?}")
    };
    let serving = tokio::spawn(bound.serve(std::future::pending()));
    let mut client = Client::connect(addr).await;
    client.token = Some(client.negotiate().await);
    let data = pattern(2_000_000);
    let digest = hash::bytes(&data);
    let mut call = client.call(UPLOAD, &[]).await;
    let body = [
        framed(metadata(&digest, 0, None)),
        framed(chunk(&data[..10])),
    ]
    .concat();
    call.send(body.into(), false).await;
    until("the upload has begun", || {
        cas.counts
            .written
            .load(std::sync::atomic::Ordering::Relaxed)
            == 10
    })
    .await;
    serving.abort();
    until("the upload is parked", || cas.partial(&digest) == Some(10)).await;
}

#[tokio::test]
async fn a_unix_socket_serves_and_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("zako.sock");
    let cas = Arc::new(MapCas::default());
    let data = pattern(300_000);
    let digest = cas.insert(&data);
    let addr: ListenAddr = format!("unix:{}", path.display()).parse().unwrap();
    let server = Server::new(cas, ServerOptions::default());
    let bound = server.bind(&addr).await.unwrap();
    assert_eq!(bound.local_addr(), &addr);
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = tokio::spawn(bound.serve(async {
        let _ = stopped.await;
    }));
    let socket = UnixStream::connect(&path).await.unwrap();
    let mut client = Client::over(socket, 1 << 20, 1 << 20).await;
    let details = client.unary(DETAILS, number(1, 0)).await;
    details.expect(code::OK);
    assert!(
        bytes_in(details.message(), 1).is_empty(),
        "an address of a socket file"
    );
    client.token = Some(client.negotiate().await);
    let answer = client.download(metadata(&digest, 0, None)).await;
    assert!(answer.expect(code::OK).data() == data);
    stop.send(()).unwrap();
    serving.await.unwrap().unwrap();
    assert!(!path.exists());
}
