//! A build tool with the server as its cache, over the Remote Execution API.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::time::Instant;

use rand::Rng;
use tokio::time::Instant as Due;
use tonic::{Code, Status};
use zako_reapi::digest::{DigestFunction, RemoteDigest};

use crate::Blob;
use crate::blobs::Fate;
use crate::client::{BuildTool, is_full};
use crate::site::Moment;
use crate::worker::Worker;

/// Results of actions, and the blobs that they name.
type Actions = HashMap<RemoteDigest, Vec<RemoteDigest>>;

pub(crate) async fn run(mut worker: Worker) -> Worker {
    let mut due = Due::now();
    let mut actions = Actions::new();
    let mut connected: Option<(u64, BuildTool)> = None;
    while worker.turn(&mut due).await {
        let moment = worker.site.calm().await;
        let life = connected.take().filter(|(life, _)| *life == moment.life);
        let mut tool = match life {
            Some((_, tool)) => tool,
            None => match BuildTool::connect(worker.site.grpc()).await {
                Ok(tool) => tool,
                Err(error) => {
                    worker.excuse(moment, false, error);
                    continue;
                }
            },
        };
        worker.build(&mut tool, &mut actions).await;
        connected = Some((moment.life, tool));
    }
    worker
}

impl Worker {
    async fn build(&mut self, tool: &mut BuildTool, actions: &mut Actions) {
        let at = self.any_own();
        match self.rng.random_range(0..20) {
            0..=4 => self.write(tool, at).await,
            5 | 6 => self.update_many(tool).await,
            7 | 8 => self.write_half(tool, at).await,
            9..=11 => self.read(tool, at).await,
            12..=14 => self.find_missing(tool).await,
            15 | 16 => self.act(tool, actions).await,
            17 | 18 => self.result(tool, actions).await,
            // Cleaned away, and never built again. With room it must stay.
            _ if self.site.evicts => self.replace(at),
            _ => self.write_shared(tool).await,
        }
    }

    fn blob(&self, at: usize) -> Blob {
        Blob {
            digest: self.own[at].content.remote,
            data: self.own[at].content.data.clone(),
        }
    }

    #[track_caller]
    fn told(&self, moment: Moment, status: Status) {
        // What it went on with was dropped meanwhile, to make room or for its age.
        if status.code() == Code::Aborted {
            self.log.count("held no more", 1);
            return;
        }
        self.excuse(moment, is_full(&status), status);
    }

    async fn write(&mut self, tool: &mut BuildTool, at: usize) {
        let blob = self.blob(at);
        let moment = self.begin("write", blob.digest).await;
        let before = self.own[at].begin();
        let outcome = tool.write(&blob).await;
        self.own[at].end(before, Fate::Present, outcome.is_ok());
        if let Err(status) = outcome {
            self.told(moment, status);
        }
    }

    async fn update_many(&mut self, tool: &mut BuildTool) {
        let mut some = self.some_own(10);
        some.retain(|at| self.own[*at].content.data.len() < 400_000);
        let moment = self.begin("batch update", &some).await;
        let before: Vec<Fate> = some.iter().map(|at| self.own[*at].begin()).collect();
        let blobs: Vec<Blob> = some.iter().map(|at| self.blob(*at)).collect();
        let blobs: Vec<&Blob> = blobs.iter().collect();
        match tool.batch(&blobs).await {
            Ok(stored) => {
                assert!(self.site.evicts || stored.len() == some.len());
                for (at, before) in some.into_iter().zip(before) {
                    let acknowledged = stored.contains(&self.own[at].content.remote);
                    self.own[at].end(before, Fate::Present, acknowledged);
                }
            }
            Err(status) => self.told(moment, status),
        }
    }

    async fn write_half(&mut self, tool: &mut BuildTool, at: usize) {
        let blob = self.blob(at);
        let moment = self.begin("write half", blob.digest).await;
        if let Err(status) = tool.interrupt(&blob, &mut self.rng).await {
            self.told(moment, status);
        }
    }

    async fn read(&mut self, tool: &mut BuildTool, at: usize) {
        let length = self.own[at].content.data.len();
        let whole = self.rng.random();
        let (from, count) = if whole { (0, 0) } else { self.part(length) };
        let digest = self.own[at].content.remote;
        let moment = self.begin("read", (digest, from, count)).await;
        match tool.read(&digest, from, count).await {
            Ok(Some(found)) => {
                let count = if whole { length } else { count };
                assert_eq!(found.len(), count, "{digest}");
                self.own[at].content.check(&found, from);
                self.log.count("bytes read", count as u64);
                self.own[at].seen(&self.site, moment, true);
            }
            Ok(None) => self.own[at].seen(&self.site, moment, false),
            Err(status) => self.told(moment, status),
        }
    }

    /// Asks what is missing, and reads one of those that are leased now.
    async fn find_missing(&mut self, tool: &mut BuildTool) {
        let some = self.some_own(12);
        let moment = self.begin("find missing", &some).await;
        let digests: Vec<RemoteDigest> =
            some.iter().map(|at| self.own[*at].content.remote).collect();
        let missing = match tool.missing(&digests).await {
            Ok(missing) => missing,
            Err(status) => return self.told(moment, status),
        };
        let mut found = None;
        for (at, digest) in some.iter().zip(&digests) {
            let present = !missing.contains(digest);
            self.own[*at].negotiated(&self.site, moment, present);
            found = found.or(present.then_some(*at));
        }
        if let Some(at) = found {
            self.read(tool, at).await;
        }
    }

    async fn act(&mut self, tool: &mut BuildTool, actions: &mut Actions) {
        let of_it = |at: &usize| {
            let own = &self.own[*at];
            own.fate == Fate::Present && own.content.remote.function() == DigestFunction::Sha256
        };
        let named: Vec<usize> = (0..self.own.len()).filter(of_it).take(6).collect();
        let named: Vec<RemoteDigest> = named
            .iter()
            .map(|at| self.own[*at].content.remote)
            .collect();
        let name = format!("{} {}", self.name, self.rng.random_range(0..40));
        let action = DigestFunction::Sha256.digest(name.as_bytes());
        let moment = self.begin("update action result", action).await;
        // Until it is answered either may be there.
        actions.remove(&action);
        match tool.act(action, &named).await {
            Ok(()) => drop(actions.insert(action, named)),
            Err(status) => self.told(moment, status),
        }
    }

    async fn result(&mut self, tool: &mut BuildTool, actions: &Actions) {
        let mut known: Vec<&RemoteDigest> = actions.keys().collect();
        known.sort_unstable_by_key(|digest| digest.hex());
        if known.is_empty() {
            return;
        }
        let action = known[self.rng.random_range(0..known.len())];
        let named = &actions[action];
        let moment = self.begin("get action result", action).await;
        let found = match tool.result(action).await {
            Ok(Some(found)) => found,
            Ok(None) => {
                assert!(self.site.evicts, "the result of {action} was lost");
                return;
            }
            Err(status) => return self.told(moment, status),
        };
        assert_eq!(&found, named, "the result of {action}");
        let missing = match tool.missing(named).await {
            Ok(missing) => missing,
            Err(status) => return self.told(moment, status),
        };
        let kept = self.site.is_calm(moment) && Instant::now() < moment.began + self.site.lease;
        assert!(missing.is_empty() || !kept, "{action} names {missing:?}");
    }

    async fn write_shared(&mut self, tool: &mut BuildTool) {
        let at = self.rng.random_range(0..self.shared.len());
        let shared = self.shared.clone();
        let content = &shared[at].content;
        let blob = Blob {
            digest: RemoteDigest::of_blake3(&content.digest),
            data: content.data.clone(),
        };
        let moment = self.begin("write shared", blob.digest).await;
        match tool.write(&blob).await {
            Ok(()) => shared[at].stored.store(true, Ordering::Release),
            Err(status) => self.told(moment, status),
        }
    }
}
