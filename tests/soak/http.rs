//! A build tool with the server as its HTTP cache.

use std::collections::HashMap;

use bytes::Bytes;
use rand::{Rng, RngCore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;
use zako_reapi::digest::DigestFunction;

use crate::blobs::Fate;
use crate::site::Moment;
use crate::worker::Worker;

/// What was stored last under keys; `None` if that was not acknowledged.
type Values = HashMap<String, Option<Bytes>>;

/// An answer's status and body.
type Answer = std::io::Result<(u16, Vec<u8>)>;

const FULL: u16 = 507;

pub(crate) async fn run(mut worker: Worker) -> Worker {
    let mut due = Instant::now();
    let mut values = Values::new();
    while worker.turn(&mut due).await {
        let at = worker.any_own();
        match worker.rng.random_range(0..20) {
            0..=6 => worker.put_http(at).await,
            7..=11 => worker.get_http(at).await,
            12 | 13 => worker.head_http(at).await,
            14 | 15 => worker.put_value(&mut values).await,
            16..=18 => worker.get_value(&values).await,
            _ if worker.site.evicts => worker.replace(at),
            _ => worker.get_http(at).await,
        }
    }
    worker
}

/// One request on a connection of its own.
pub(crate) async fn ask(address: &str, request: &str, head: &str, body: &[u8]) -> Answer {
    let mut stream = TcpStream::connect(address).await?;
    let length = body.len();
    let head = format!(
        "{request} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {length}\r\n{head}\r\n"
    );
    stream.write_all(head.as_bytes()).await?;
    // An answer may come before all has been taken.
    let (mut read, mut write) = stream.split();
    let mut answer = Vec::new();
    let (sent, came) = tokio::join!(write.write_all(body), read.read_to_end(&mut answer));
    let end = answer.windows(4).position(|part| part == b"\r\n\r\n");
    let status = answer
        .get(9..12)
        .and_then(|it| std::str::from_utf8(it).ok());
    let (Some(end), Some(Ok(status))) = (end, status.map(str::parse)) else {
        sent?;
        came?;
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    };
    let head = String::from_utf8_lossy(&answer[..end]).to_ascii_lowercase();
    let mut fields = head.lines();
    let length = fields.find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
    let body = answer.split_off(end + 4);
    match length {
        Some(length) if body.len() < length && !request.starts_with("HEAD") => {
            Err(std::io::ErrorKind::UnexpectedEof.into())
        }
        _ => Ok((status, body)),
    }
}

impl Worker {
    fn path(&self, at: usize) -> String {
        let digest = self.own[at].content.remote;
        match digest.function() {
            DigestFunction::Blake3 => format!("/cas/blake3/{}", digest.hex()),
            _ => format!("/cas/{}", digest.hex()),
        }
    }

    /// Whether it was stored.
    #[track_caller]
    fn took(&self, moment: Moment, answer: Answer) -> bool {
        match answer {
            Ok((200 | 201 | 204, _)) => return true,
            Ok((status, body)) => {
                let text = String::from_utf8_lossy(&body).into_owned();
                self.excuse(moment, status == FULL, (status, text));
            }
            Err(error) => self.excuse(moment, false, error),
        }
        false
    }

    async fn put_http(&mut self, at: usize) {
        let path = self.path(at);
        let moment = self.begin("http put", &path).await;
        let before = self.own[at].begin();
        let data = self.own[at].content.data.clone();
        let answer = ask(self.site.http(), &format!("PUT {path}"), "", &data).await;
        let stored = self.took(moment, answer);
        self.own[at].end(before, Fate::Present, stored);
    }

    async fn get_http(&mut self, at: usize) {
        let path = self.path(at);
        let length = self.own[at].content.data.len();
        let range = self.rng.random::<bool>().then(|| self.part(length));
        let head = range.map(|(from, count)| {
            let last = from + count - 1;
            format!("range: bytes={from}-{last}\r\n")
        });
        let moment = self.begin("http get", (&path, range)).await;
        let head = head.unwrap_or_default();
        let (from, count) = range.unwrap_or((0, length));
        match ask(self.site.http(), &format!("GET {path}"), &head, b"").await {
            Ok((200 | 206, found)) => {
                assert_eq!(found.len(), count, "{path}");
                self.own[at].content.check(&found, from);
                self.log.count("bytes read", count as u64);
                self.own[at].seen(&self.site, moment, true);
            }
            Ok((404, _)) => self.own[at].seen(&self.site, moment, false),
            other => drop(self.took(moment, other)),
        }
    }

    async fn head_http(&mut self, at: usize) {
        let path = self.path(at);
        let moment = self.begin("http head", &path).await;
        match ask(self.site.http(), &format!("HEAD {path}"), "", b"").await {
            Ok((200, _)) => self.own[at].seen(&self.site, moment, true),
            Ok((404, _)) => self.own[at].seen(&self.site, moment, false),
            other => drop(self.took(moment, other)),
        }
    }

    /// A key of this worker's.
    fn key(&mut self) -> String {
        let name = format!("{} {}", self.name, self.rng.random_range(0..40));
        DigestFunction::Sha256.digest(name.as_bytes()).hex()
    }

    async fn put_value(&mut self, values: &mut Values) {
        let key = self.key();
        let mut value = vec![0; self.rng.random_range(1..2_000)];
        self.rng.fill_bytes(&mut value);
        // Bytes that are an action result by chance would be read as one.
        value.splice(..0, *b"\xff\xff\xff\xff opaque ");
        let moment = self.begin("http put value", &key).await;
        values.insert(key.clone(), None);
        let answer = ask(self.site.http(), &format!("PUT /ac/{key}"), "", &value).await;
        if self.took(moment, answer) {
            values.insert(key, Some(value.into()));
        }
    }

    async fn get_value(&mut self, values: &Values) {
        let key = self.key();
        let moment = self.begin("http get value", &key).await;
        match ask(self.site.http(), &format!("GET /ac/{key}"), "", b"").await {
            Ok((200, found)) => match values.get(&key) {
                Some(Some(value)) => assert!(found == *value, "the value of {key}"),
                Some(None) => {}
                None => panic!("{key} was never stored"),
            },
            Ok((404, _)) => {
                let lost = !self.site.evicts && matches!(values.get(&key), Some(Some(_)));
                assert!(!lost, "the value of {key} was lost");
            }
            other => drop(self.took(moment, other)),
        }
    }
}
