//! A client of zako's own protocol.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use futures::{StreamExt, stream};
use rand::Rng;
use tokio::time::Instant;
use zako_core::cas::{Cas, CasError, CasExt, ErrorKind, Lease, Maintain};
use zako_core::client::{Client, ClientOptions, RetryPolicy};
use zako_core::{BlobRange, Digest};

use crate::blobs::{Content, Fate};
use crate::site::Moment;
use crate::worker::Worker;

type Outcome<T> = Result<T, CasError>;

pub(crate) async fn run(mut worker: Worker) -> Worker {
    let mut options = ClientOptions::default();
    options.retry = RetryPolicy::NEVER;
    let mut due = Instant::now();
    let mut client = None;
    while worker.turn(&mut due).await {
        let moment = worker.site.calm().await;
        let client = match &client {
            Some(client) => client,
            None => {
                let url = format!("http://{}", worker.site.grpc()).parse().unwrap();
                match Client::connect(&url, options.clone()).await {
                    Ok(connected) => client.insert(connected),
                    Err(error) => {
                        worker.excuse(moment, false, error);
                        continue;
                    }
                }
            }
        };
        worker.native(client).await;
    }
    worker
}

impl Worker {
    async fn native(&mut self, client: &Client) {
        let at = self.any_own();
        match self.rng.random_range(0..40) {
            0..=7 => self.put(client, at).await,
            8..=10 => self.put_many(client).await,
            11 | 12 => self.stream(client, at).await,
            13..=15 => self.interrupt(client, at).await,
            16..=18 => self.resume(client).await,
            19..=23 => self.get(client, at).await,
            24..=26 => self.get_part(client, at).await,
            27 | 28 => self.get_many(client).await,
            29..=31 => self.negotiate(client).await,
            32 => self.stat(client, at).await,
            33..=35 => self.delete(client, at).await,
            36 => self.never_stored(client).await,
            37 if self.rng.random_range(0..10) == 0 => self.collect(client).await,
            _ => self.shared(client).await,
        }
    }

    /// An error that may be.
    #[track_caller]
    fn failed(&self, moment: Moment, error: CasError) {
        // What an upload was to go on with was dropped meanwhile, to make room or for its age.
        if matches!(error.kind(), ErrorKind::Stale | ErrorKind::NotHeld) {
            self.log.count("held no more", 1);
            return;
        }
        self.excuse(moment, error.kind() == ErrorKind::NoSpace, error);
    }

    fn stored(&mut self, moment: Moment, at: usize, before: Fate, outcome: Outcome<()>) {
        let acknowledged = outcome.is_ok();
        self.own[at].end(before, Fate::Present, acknowledged);
        if let Err(error) = outcome {
            self.failed(moment, error);
        }
    }

    async fn put(&mut self, client: &Client, at: usize) {
        let Content { digest, data, .. } = self.own[at].content.clone();
        let moment = self.begin("put", digest).await;
        let before = self.own[at].begin();
        let outcome = client.put(&digest, data).await;
        self.stored(moment, at, before, outcome.map(drop));
    }

    async fn put_many(&mut self, client: &Client) {
        let some = self.some_own(16);
        let moment = self.begin("put batch", &some).await;
        let before: Vec<Fate> = some.iter().map(|at| self.own[*at].begin()).collect();
        let contents = some.iter().map(|at| &self.own[*at].content);
        let blobs = contents.map(|content| (content.digest, content.data.clone()));
        let outcomes = client.put_batch(blobs.collect()).await;
        assert_eq!(outcomes.len(), some.len());
        for ((at, before), outcome) in some.into_iter().zip(before).zip(outcomes) {
            self.stored(moment, at, before, outcome.map(drop));
        }
    }

    /// Stores step by step, from where an earlier upload was interrupted.
    async fn stream(&mut self, client: &Client, at: usize) {
        let Content { digest, data, .. } = self.own[at].content.clone();
        let moment = self.begin("stream", digest).await;
        let before = self.own[at].begin();
        let steps: Vec<Outcome<Bytes>> = data
            .chunks(64 << 10)
            .map(|step| Ok(data.slice_ref(step)))
            .collect();
        let outcome = client.store(&digest, stream::iter(steps)).await;
        self.stored(moment, at, before, outcome.map(drop));
    }

    async fn interrupt(&mut self, client: &Client, at: usize) {
        // Of small ones nothing is kept.
        let at = if self.rng.random_range(0..4) > 0 {
            at / 12 * 12
        } else {
            at
        };
        let Content { digest, data, .. } = self.own[at].content.clone();
        let moment = self.begin("interrupt", digest).await;
        let drops = self.rng.random_range(0..3) == 0;
        let half = async {
            let held = client.held(&digest).await?;
            // All of it was sent, and a full store or a kill came before its commit; or it is
            // stored, which the next look at it will tell.
            if held == digest.size() {
                return Ok(Some(0));
            }
            let mut writer = match client.writer(&digest, held).await {
                Ok(writer) => writer,
                Err(error) if error.is_already_exists() => return Ok(None),
                Err(error) => return Err(error),
            };
            let from = held as usize;
            let to = from + (data.len() - from) / 2;
            writer.write(data.slice(from..to)).await?;
            match drops {
                true => Ok(Some(0)),
                false => writer.park().await.map(Some),
            }
        };
        match half.await {
            Ok(Some(held)) => {
                assert!(held < digest.size(), "half of {digest} is all of it");
                self.own[at].parked = held;
                self.log.count("parked bytes", held);
            }
            // It may have been stored before an answer was lost.
            Ok(None) => assert_ne!(self.own[at].fate, Fate::Absent, "{digest} came back"),
            Err(error) => self.failed(moment, error),
        }
    }

    /// Goes on with an upload that was interrupted.
    async fn resume(&mut self, client: &Client) {
        let parked = |at: &usize| self.own[*at].parked > 0;
        let parked: Vec<usize> = (0..self.own.len()).filter(parked).collect();
        if parked.is_empty() {
            return;
        }
        let at = parked[self.rng.random_range(0..parked.len())];
        let Content { digest, data, .. } = self.own[at].content.clone();
        let moment = self.begin("resume", digest).await;
        let before = self.own[at].begin();
        let rest = async {
            let held = client.held(&digest).await?;
            let mut writer = match client.writer(&digest, held).await {
                Ok(writer) => writer,
                Err(error) if error.is_already_exists() => return Ok(()),
                Err(error) => return Err(error),
            };
            self.log.count("resumed bytes", held);
            writer.write(data.slice(held as usize..)).await?;
            writer.commit().await.map(drop)
        };
        let outcome = rest.await;
        self.stored(moment, at, before, outcome);
    }

    async fn get(&mut self, client: &Client, at: usize) {
        let digest = self.own[at].content.digest;
        let moment = self.begin("get", digest).await;
        let found = client.fetch_bytes(&digest).await;
        self.got(moment, at, found, 0, self.own[at].content.data.len());
    }

    async fn get_part(&mut self, client: &Client, at: usize) {
        let length = self.own[at].content.data.len();
        let (from, count) = self.part(length);
        let digest = self.own[at].content.digest;
        let moment = self.begin("get part", (digest, from, count)).await;
        let range = BlobRange::new(from as u64, count as u64);
        let found = match client.fetch(&digest, range).await {
            Ok(blob) => blob.bytes().await,
            Err(error) => Err(error),
        };
        self.got(moment, at, found, from, count);
    }

    /// What a read of `count` bytes from `from` on gave.
    #[track_caller]
    fn got(&mut self, moment: Moment, at: usize, found: Outcome<Bytes>, from: usize, count: usize) {
        match found {
            Ok(found) => {
                assert_eq!(found.len(), count, "{}", self.own[at].content.digest);
                self.own[at].content.check(&found, from);
                self.log.count("bytes read", count as u64);
                self.own[at].seen(&self.site, moment, true);
            }
            Err(error) if error.is_not_found() => self.own[at].seen(&self.site, moment, false),
            Err(error) => self.failed(moment, error),
        }
    }

    async fn get_many(&mut self, client: &Client) {
        let some = self.some_own(16);
        let moment = self.begin("get batch", &some).await;
        let digests = self.digests(&some);
        let found = client.fetch_batch(&digests).await;
        assert_eq!(found.len(), some.len());
        for (at, found) in some.into_iter().zip(found) {
            let length = self.own[at].content.data.len();
            self.got(moment, at, found, 0, length);
        }
    }

    fn digests(&self, some: &[usize]) -> Vec<Digest> {
        let digests = some.iter().map(|at| self.own[*at].content.digest);
        digests.collect()
    }

    /// Asks what is missing, and reads one of those that are leased now.
    async fn negotiate(&mut self, client: &Client) {
        let some = self.some_own(12);
        let moment = self.begin("negotiate", &some).await;
        let digests = self.digests(&some);
        let missing = match client.missing(&digests, Lease::Default).await {
            Ok(missing) => missing,
            Err(error) => return self.failed(moment, error),
        };
        let mut present = Vec::new();
        for (at, digest) in some.iter().zip(&digests) {
            let is_present = !missing.contains(digest);
            self.own[*at].negotiated(&self.site, moment, is_present);
            present.extend(is_present.then_some(*at));
        }
        if let Some(at) = present.first() {
            self.get(client, *at).await;
        }
    }

    async fn stat(&mut self, client: &Client, at: usize) {
        let digest = self.own[at].content.digest;
        let moment = self.begin("stat", digest).await;
        match client.stat_batch(&[digest]).await {
            Ok(stats) => {
                assert_eq!(stats.len(), 1);
                self.own[at].seen(&self.site, moment, stats[0].present);
            }
            Err(error) => self.failed(moment, error),
        }
    }

    async fn delete(&mut self, client: &Client, at: usize) {
        let digest = self.own[at].content.digest;
        let moment = self.begin("delete", digest).await;
        let before = self.own[at].begin();
        let outcome = client.delete(&digest).await;
        if let Ok(was_there) = outcome {
            let right = match before {
                Fate::Present => was_there || self.site.evicts,
                Fate::Absent => !was_there,
                Fate::Open => true,
            };
            assert!(right, "{digest} was {before:?}, its deletion {was_there}");
        }
        self.own[at].end(before, Fate::Absent, outcome.is_ok());
        match outcome {
            // A new one in its place, but some stay, and must stay away.
            Ok(_) if self.rng.random() => self.replace(at),
            Ok(_) => {}
            Err(error) => self.failed(moment, error),
        }
    }

    async fn never_stored(&mut self, client: &Client) {
        let content = Content::new(self.rng.random(), 5);
        let moment = self.begin("never stored", content.digest).await;
        match client.fetch_bytes(&content.digest).await {
            Ok(_) => panic!("{} was never stored", content.digest),
            Err(error) if error.is_not_found() => {}
            Err(error) => self.failed(moment, error),
        }
    }

    async fn collect(&mut self, client: &Client) {
        let moment = self.begin("collect garbage", ()).await;
        if let Err(error) = client.collect_garbage().await {
            self.failed(moment, error);
        }
    }

    /// Stores or reads what others do, too.
    async fn shared(&mut self, client: &Client) {
        let at = self.rng.random_range(0..self.shared.len());
        let shared = self.shared.clone();
        let shared = &shared[at];
        let Content { digest, data, .. } = shared.content.clone();
        if self.rng.random_range(0..3) == 0 {
            let moment = self.begin("put shared", digest).await;
            match client.put(&digest, data).await {
                Ok(_) => shared.stored.store(true, Ordering::Release),
                Err(error) => self.failed(moment, error),
            }
            return;
        }
        let stored = shared.is_stored();
        let moment = self.begin("get shared", digest).await;
        let found = async {
            let mut blob = client.fetch(&digest, BlobRange::FULL).await?;
            let mut at = 0;
            while let Some(step) = blob.next().await {
                let step = step?;
                shared.content.check(&step, at);
                at += step.len();
            }
            Ok::<_, CasError>(at)
        };
        match found.await {
            Ok(length) => assert_eq!(length, data.len()),
            Err(error) if error.is_not_found() => shared.seen(&self.site, stored, false),
            Err(error) => self.failed(moment, error),
        }
    }
}
