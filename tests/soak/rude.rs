//! Clients that are slow, vanish, or make no sense. They are told nothing that is
//! checked: what they leave behind is.

use std::time::Duration;

use futures::StreamExt;
use rand::{Rng, RngCore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;
use zako_core::BlobRange;
use zako_core::cas::Cas;
use zako_core::client::{Client, ClientOptions, RetryPolicy};

use crate::blobs::Content;
use crate::worker::Worker;

pub(crate) async fn run(mut worker: Worker) -> Worker {
    let mut due = Instant::now();
    while worker.turn(&mut due).await {
        match worker.rng.random_range(0..6) {
            0 => worker.noise().await,
            1 => worker.half_a_head().await,
            2 => worker.half_a_body().await,
            3 => worker.read_slowly().await,
            4 => worker.vanish_while_reading().await,
            _ => worker.vanish_while_writing().await,
        }
    }
    worker
}

impl Worker {
    /// What they meet is their own affair.
    async fn rude(&self, work: impl Future<Output = std::io::Result<()>>) {
        let most = Duration::from_secs(10);
        let met = tokio::time::timeout(most, work).await;
        if !matches!(met, Ok(Ok(()))) {
            self.log.count("rude clients that were cut off", 1);
        }
    }

    async fn noise(&mut self) {
        let mut bytes = vec![0; self.rng.random_range(1..5_000)];
        self.rng.fill_bytes(&mut bytes);
        self.begin("noise", bytes.len()).await;
        let address = match self.rng.random() {
            true => self.site.grpc(),
            false => self.site.http(),
        };
        let work = async {
            let mut stream = TcpStream::connect(address).await?;
            stream.write_all(&bytes).await
        };
        self.rude(work).await;
    }

    /// Leaves in the middle of what every client says first.
    async fn half_a_head(&mut self) {
        self.begin("half a head", ()).await;
        let work = async {
            let mut grpc = TcpStream::connect(self.site.grpc()).await?;
            grpc.write_all(b"PRI * HTTP/2.0\r\n\r\nSM").await?;
            let mut http = TcpStream::connect(self.site.http()).await?;
            http.write_all(b"GET /cas/0123 HT").await?;
            tokio::time::sleep(Duration::from_millis(200)).await;
            Ok(())
        };
        self.rude(work).await;
    }

    async fn half_a_body(&mut self) {
        let content = Content::new(self.rng.random(), 0);
        self.begin("half a body", content.remote).await;
        let path = content.remote.hex();
        let length = content.data.len();
        let head =
            format!("PUT /cas/{path} HTTP/1.1\r\nhost: zako\r\ncontent-length: {length}\r\n\r\n");
        let half = self.rng.random_range(0..length);
        let work = async {
            let mut stream = TcpStream::connect(self.site.http()).await?;
            stream.write_all(head.as_bytes()).await?;
            stream.write_all(&content.data[..half]).await
        };
        self.rude(work).await;
    }

    /// A few bytes at a time, and not to the end.
    async fn read_slowly(&mut self) {
        let at = self.rng.random_range(0..self.shared.len());
        let content = &self.shared[at].content;
        self.begin("read slowly", content.digest).await;
        let hash = content.digest.hash();
        let work = async {
            let mut stream = TcpStream::connect(self.site.http()).await?;
            let head = format!("GET /cas/blake3/{hash} HTTP/1.1\r\nhost: zako\r\n\r\n");
            stream.write_all(head.as_bytes()).await?;
            let mut few = [0; 512];
            for _ in 0..20 {
                if stream.read(&mut few).await? == 0 {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            Ok(())
        };
        self.rude(work).await;
    }

    async fn client(&self) -> std::io::Result<Client> {
        let mut options = ClientOptions::default();
        options.retry = RetryPolicy::NEVER;
        let url = format!("http://{}", self.site.grpc()).parse();
        let url = url.map_err(std::io::Error::other)?;
        let client = Client::connect(&url, options).await;
        client.map_err(std::io::Error::other)
    }

    async fn vanish_while_reading(&mut self) {
        let at = self.rng.random_range(0..self.shared.len());
        let digest = self.shared[at].content.digest;
        self.begin("vanish while reading", digest).await;
        let work = async {
            let client = self.client().await?;
            let blob = client.fetch(&digest, BlobRange::FULL).await;
            let mut blob = blob.map_err(std::io::Error::other)?;
            blob.next().await;
            Ok(())
        };
        self.rude(work).await;
    }

    /// Leaves an upload of what nobody ever goes on with.
    async fn vanish_while_writing(&mut self) {
        let content = Content::new(self.rng.random(), 0);
        self.begin("vanish while writing", content.digest).await;
        let half = content.data.len() / 2;
        let work = async {
            let client = self.client().await?;
            let writer = client.writer(&content.digest, 0).await;
            let mut writer = writer.map_err(std::io::Error::other)?;
            let wrote = writer.write(content.data.slice(..half)).await;
            wrote.map_err(std::io::Error::other)
        };
        self.rude(work).await;
    }
}
