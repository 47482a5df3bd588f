//! Downloads that go from a file to the socket.
//!
//! The store here gives other bytes to who reads its steps, so that it shows which way
//! they came.
#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::field_reassign_with_default,
    missing_docs
)]

mod open_files;
mod wire_harness;

use std::fs::File;
use std::io::{IoSliceMut, Write};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::{ReadWriteFlags, preadv2};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::oneshot;
use wire_harness::message::{framed, metadata};
use wire_harness::{Client, DOWNLOAD, MapCas, Running, code};
use zako_core::Digest;
use zako_core::server::{ListenAddr, Server, ServerOptions};

const LENGTH: usize = 3_000_001;

/// The payload of a message, if not set otherwise.
const MESSAGE: usize = 256 * 1024;

struct Stored {
    cas: Arc<MapCas>,
    file: Arc<File>,
    digest: Digest,
    data: Vec<u8>,
}

impl Stored {
    fn new() -> Self {
        // No two places have the same 8 bytes.
        let mut data: Vec<u8> = (0..LENGTH as u64 / 8 + 1)
            .flat_map(|at| at.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes())
            .collect();
        data.truncate(LENGTH);
        let mut file = file();
        file.write_all(&data).unwrap();
        let file = Arc::new(file);
        let mut cas = MapCas::default();
        cas.file = Some(Arc::clone(&file));
        let digest = cas.insert(&data.clone().into());
        Self {
            cas: Arc::new(cas),
            file,
            digest,
            data,
        }
    }

    async fn serve(&self, options: ServerOptions) -> Running {
        Running::over(Arc::clone(&self.cas), options).await
    }
}

/// A file that may be sent as it is: not every file system that temporary files may be on
/// tells what is cached (overlayfs doesn't), and memory always does.
fn file() -> File {
    let file = tempfile::tempfile().unwrap();
    let mut byte = [0];
    let mut buffers = [IoSliceMut::new(&mut byte)];
    match preadv2(&file, &mut buffers, 0, ReadWriteFlags::NOWAIT) {
        Ok(_) => file,
        Err(_) => memfd_create("stored", MemfdFlags::CLOEXEC).unwrap().into(),
    }
}

/// What comes of a range: its last message is read.
fn mixed(data: &[u8], message: usize) -> Vec<u8> {
    let filed = data.len().saturating_sub(1) / message * message;
    [&data[..filed], &inverted(&data[filed..])].concat()
}

fn inverted(data: &[u8]) -> Vec<u8> {
    data.iter().map(|byte| !byte).collect()
}

#[tokio::test]
async fn all_ranges_come_from_the_file_whatever_the_windows_and_messages_are() {
    let stored = Stored::new();
    for message in [256 * 1024, 100_001, 131_072] {
        let mut options = ServerOptions::default();
        options.download_message_bytes = message;
        let server = stored.serve(options).await;
        for (stream, connection) in [(1 << 24, 1 << 26), (65_535, 70_000), (1 << 18, 65_535)] {
            let mut client = Client::with_windows(server.addr, stream, connection).await;
            client.token = Some(client.negotiate().await);
            for (start, length) in [(0, LENGTH), (1, 300_000), (LENGTH - 5, 5), (7, 1), (9, 0)] {
                let asked = metadata(&stored.digest, start as u64, Some(length as u64));
                let answer = client.download(asked).await;
                let came = answer.expect(code::OK).data();
                assert!(
                    came == mixed(&stored.data[start..start + length], message),
                    "{start} {length}"
                );
            }
        }
    }
}

#[tokio::test]
async fn streams_of_a_connection_get_their_own_bytes() {
    let stored = Stored::new();
    let server = stored.serve(ServerOptions::default()).await;
    let client = server.session().await;
    let starts = [0usize, 1_000_003, 2_000_005, 2_999_999];
    let answers = starts.map(|start| client.download(metadata(&stored.digest, start as u64, None)));
    for (start, answer) in starts
        .into_iter()
        .zip(futures::future::join_all(answers).await)
    {
        assert!(answer.expect(code::OK).data() == mixed(&stored.data[start..], MESSAGE));
    }
}

#[tokio::test]
async fn more_streams_than_there_is_room_for_are_read() {
    open_files::raise_limit();
    let stored = Stored::new();
    let mut options = ServerOptions::default();
    options.download_message_bytes = 1_000;
    let server = stored.serve(options).await;
    // Each of them takes a place for what it doesn't read, until it goes on.
    let mut stalled = Vec::new();
    let mut clients = Vec::new();
    for _ in 0..300 {
        let mut client = Client::with_windows(server.addr, 300, 65_535).await;
        client.token = Some(client.negotiate().await);
        let mut call = client.call(DOWNLOAD, &[]).await;
        let asked = metadata(&stored.digest, 0, Some(2_000));
        call.send(framed(asked).into(), true).await;
        let response = (&mut call.response).await.unwrap();
        stalled.push(response.into_body());
        clients.push(client);
    }
    let (mut filed, mut read) = (0, 0);
    for mut body in stalled {
        let mut came = Vec::new();
        while let Some(piece) = body.data().await {
            let piece = piece.unwrap();
            body.flow_control().release_capacity(piece.len()).unwrap();
            came.extend_from_slice(&piece);
        }
        // A message's length and field take 8 bytes.
        let (first, second) = came.split_at(1_008);
        if first[8..] == stored.data[..1_000] {
            filed += 1;
        } else {
            assert!(first[8..] == inverted(&stored.data[..1_000]));
            read += 1;
        }
        assert!(second[8..] == inverted(&stored.data[1_000..2_000]));
    }
    assert!(filed >= 200 && read >= 40, "{filed} {read}");
    // All places are free again.
    let asked = metadata(&stored.digest, 0, Some(2_000));
    let answer = clients[0].download(asked).await;
    assert!(answer.expect(code::OK).data() == mixed(&stored.data[..2_000], 1_000));
}

#[tokio::test]
async fn a_file_that_is_cut_short_ends_the_answer_without_a_wrong_byte() {
    let stored = Stored::new();
    let server = stored.serve(ServerOptions::default()).await;
    let mut client = Client::with_windows(server.addr, 65_535, 65_535).await;
    client.token = Some(client.negotiate().await);
    let mut call = client.call(DOWNLOAD, &[]).await;
    let asked = metadata(&stored.digest, 0, None);
    call.send(framed(asked).into(), true).await;
    let mut body = (&mut call.response).await.unwrap().into_body();
    let mut came = body.data().await.unwrap().unwrap().to_vec();
    while came.len() < 65_535 {
        came.extend_from_slice(&body.data().await.unwrap().unwrap());
    }
    // The rest of the first message is framed already.
    stored.file.set_len(100_000).unwrap();
    body.flow_control().release_capacity(came.len()).unwrap();
    let broken = loop {
        match body.data().await {
            Some(Ok(piece)) => {
                body.flow_control().release_capacity(piece.len()).unwrap();
                came.extend_from_slice(&piece);
            }
            Some(Err(_)) => break true,
            None => break body.trailers().await.is_err(),
        }
    };
    assert!(broken, "{} bytes and an end", came.len());
    // The first message's length and field stand before.
    assert!(came[9..] == stored.data[..came.len() - 9]);
    // It is that connection's end alone.
    let other = server.session().await;
    let answer = other
        .download(metadata(&stored.digest, 0, Some(90_000)))
        .await;
    assert!(answer.expect(code::OK).data() == inverted(&stored.data[..90_000]));
}

#[tokio::test]
async fn unix_sockets_take_files_too() {
    let stored = Stored::new();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let bound = Server::new(stored.cas.clone(), ServerOptions::default())
        .bind(&ListenAddr::Unix(path.clone()))
        .await
        .unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let task = tokio::spawn(bound.serve(async {
        let _ = stopped.await;
    }));
    let socket = UnixStream::connect(&path).await.unwrap();
    let mut client = Client::over(socket, 1 << 24, 1 << 26).await;
    client.token = Some(client.negotiate().await);
    let answer = client.download(metadata(&stored.digest, 0, None)).await;
    assert!(answer.expect(code::OK).data() == mixed(&stored.data, MESSAGE));
    client.cut().await;
    stop.send(()).unwrap();
    task.await.unwrap().unwrap();
}

#[tokio::test]
async fn readers_that_go_away_leave_no_file_open() {
    let stored = Stored::new();
    let server = stored.serve(ServerOptions::default()).await;
    let mut client = Client::with_windows(server.addr, 65_535, 65_535).await;
    client.token = Some(client.negotiate().await);
    let mut call = client.call(DOWNLOAD, &[]).await;
    call.send(framed(metadata(&stored.digest, 0, None)).into(), true)
        .await;
    let response = (&mut call.response).await.unwrap();
    assert!(Arc::strong_count(&stored.file) > 2);
    drop(response);
    client.cut().await;
    wire_harness::until("the file is let go", || {
        Arc::strong_count(&stored.file) == 2
    })
    .await;
    drop(TcpStream::connect(server.addr).await.unwrap());
}

#[tokio::test]
async fn a_peer_that_reads_nothing_has_few_files_and_in_the_end_none() {
    let stored = Stored::new();
    let mut options = ServerOptions::default();
    options.download_idle_timeout = Duration::from_millis(500);
    let server = stored.serve(options).await;
    let mut client = Client::with_windows(server.addr, 20, 65_535).await;
    client.token = Some(client.negotiate().await);
    let mut stalled = Vec::new();
    for _ in 0..40 {
        let mut call = client.call(DOWNLOAD, &[]).await;
        let asked = metadata(&stored.digest, 0, Some(1_000_000));
        call.send(framed(asked).into(), true).await;
        stalled.push(call);
    }
    wire_harness::until("the file is let go", || {
        Arc::strong_count(&stored.file) == 2
    })
    .await;
    drop(stalled);
}
