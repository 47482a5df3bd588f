//! Whether a server that was killed kept its promise.

use std::path::Path;

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IteratorRandom;
use zako_core::Digest;
use zako_core::cas::{Cas, CasExt, Lease, Maintain, Stored};
use zako_core::client::{Client, RemoteStat};

use crate::blobs::{Blob, Blobs, Fate, Known};
use crate::load::steps;
use crate::server_process::bytes_on_disk;
use crate::{Tally, Variant};

/// A restarted server that nobody uses yet.
pub(crate) struct Check<'a> {
    pub(crate) client: Client,
    pub(crate) data: &'a Path,
    pub(crate) blobs: &'a Blobs,
    pub(crate) variant: Variant,
    /// For messages.
    pub(crate) about: String,
}

/// What the log may take beside its records: the end of the footer of each of the
/// two segments that are open, and the entries there will be in it.
const OPEN_SEGMENTS: u64 = 2 * 64;
const FOOTER_ENTRY: u64 = 48;
const LEAST_RECORD: u64 = 64;

impl Check<'_> {
    /// Checks all that is known, and learns what was open.
    pub(crate) async fn run(&self, known: &mut Known, tally: &mut Tally, rng: &mut StdRng) {
        let about = &self.about;
        let stats = self.stats().await;
        self.figures(&stats).await;
        for stat in &stats {
            self.fate(stat, known, tally);
            let parked = known.parked(&stat.digest);
            assert!(
                stat.present || stat.partial_bytes >= parked || self.variant.evicts,
                "{about}: {parked} bytes of {} were put aside, {} are held",
                stat.digest,
                stat.partial_bytes
            );
        }
        self.read_back(&stats).await;
        // Others wait for the next life.
        let interrupted = stats
            .iter()
            .filter(|stat| !stat.present && stat.partial_bytes > 0);
        for stat in interrupted.choose_multiple(rng, 2) {
            if rng.random() {
                self.resume(stat, known, tally).await;
            }
        }
    }

    async fn stats(&self) -> Vec<RemoteStat> {
        let digests: Vec<Digest> = self.blobs.all().map(|blob| blob.digest).collect();
        self.client.stat_batch(&digests).await.unwrap()
    }

    fn fate(&self, stat: &RemoteStat, known: &mut Known, tally: &mut Tally) {
        let RemoteStat {
            digest, present, ..
        } = *stat;
        let about = &self.about;
        let fate = known.fate(&digest);
        match fate {
            Fate::Present if !present && self.variant.evicts => {
                tally.evicted += 1;
                known.set(digest, Fate::Open);
            }
            Fate::Present => assert!(present, "{about}: {digest} was lost"),
            Fate::Absent => assert!(!present, "{about}: {digest} came back"),
            Fate::Open => tally.open += 1,
        }
        if fate == Fate::Open && (present || !self.variant.evicts) {
            // Whatever it is now, it must stay; but an evicted blob may have left a
            // copy that the eviction had not come to.
            let found = if present { Fate::Present } else { Fate::Absent };
            known.set(digest, found);
        }
        if present {
            known.forget_parked(&digest);
        }
    }

    /// What is present can be read back whole.
    async fn read_back(&self, stats: &[RemoteStat]) {
        let about = &self.about;
        let present: Vec<&Blob> = self
            .blobs
            .all()
            .zip(stats)
            .filter_map(|(blob, stat)| stat.present.then_some(blob))
            .collect();
        let digests: Vec<Digest> = present.iter().map(|blob| blob.digest).collect();
        let found = self.client.fetch_batch(&digests).await;
        assert_eq!(found.len(), present.len());
        for (blob, found) in present.iter().zip(found) {
            let found = found.unwrap_or_else(|error| panic!("{about}: {error:?}"));
            assert!(found == blob.data, "{about}: {} is damaged", blob.digest);
        }
    }

    /// What the server says of its store is what is there.
    async fn figures(&self, stats: &[RemoteStat]) {
        let about = &self.about;
        let usage = self.client.usage().await.unwrap();
        let present = || stats.iter().filter(|stat| stat.present);
        let size: u64 = present().map(|stat| stat.digest.size()).sum();
        assert_eq!(
            (usage.blobs, usage.blob_bytes),
            (present().count() as u64, size),
            "{about}: {usage:?}"
        );
        let partial: u64 = stats.iter().map(|stat| stat.partial_bytes).sum();
        assert_eq!(usage.partial_bytes, partial, "{about}: {usage:?}");
        assert_eq!(usage.quarantined_blobs, 0, "{about}: {usage:?}");
        let on_disk = bytes_on_disk(self.data);
        let slack = OPEN_SEGMENTS + 2 * self.variant.segment / LEAST_RECORD * FOOTER_ENTRY;
        assert!(
            (on_disk..=on_disk + slack).contains(&usage.disk_bytes),
            "{about}: {on_disk} on disk, {usage:?}"
        );
        assert!(on_disk <= usage.disk_cap_bytes, "{about}: {usage:?}");
    }

    /// An interrupted upload goes on where it stopped.
    async fn resume(&self, stat: &RemoteStat, known: &mut Known, tally: &mut Tally) {
        let about = &self.about;
        let digest = stat.digest;
        let blob = self.blobs.all().find(|blob| blob.digest == digest).unwrap();
        let held = self.client.held(&digest).await.unwrap();
        assert_eq!(held, stat.partial_bytes, "{about}: {digest}");
        let before = known.begin(digest);
        let mut rest = self.client.writer(&digest, held).await.unwrap();
        rest.write(blob.data.slice(held as usize..)).await.unwrap();
        let stored = rest.commit().await;
        let stored = stored.unwrap_or_else(|error| panic!("{about}: {error:?}"));
        assert_eq!(stored, Stored::New, "{about}: {digest}");
        known.end(digest, before, Fate::Present, true);
        tally.resumed += 1;
        let found = self.client.fetch_bytes(&digest).await.unwrap();
        assert!(found == blob.data, "{about}: {digest} is damaged");
    }

    /// Ends all interrupted uploads and deletes all blobs: nothing is left then but
    /// what says that they are deleted.
    pub(crate) async fn empty(&self) {
        let about = &self.about;
        for blob in self.blobs.all() {
            let stored = self.client.store(&blob.digest, steps(&blob.data)).await;
            assert!(stored.is_ok() || self.variant.evicts, "{about}: {stored:?}");
        }
        let digests: Vec<Digest> = self.blobs.all().map(|blob| blob.digest).collect();
        self.client.delete_batch(&digests).await.unwrap();
        self.client.collect_garbage().await.unwrap();
        let missing = self.client.missing(&digests, Lease::None).await.unwrap();
        assert_eq!(missing, digests, "{about}");
        let usage = self.client.usage().await.unwrap();
        assert_eq!(
            (usage.blobs, usage.blob_bytes, usage.partial_bytes),
            (0, 0, 0),
            "{about}: {usage:?}"
        );
        let on_disk = bytes_on_disk(self.data);
        let tombstones = digests.len() as u64 * (LEAST_RECORD + FOOTER_ENTRY);
        assert!(
            on_disk <= 4 * tombstones,
            "{about}: {on_disk} on disk, {usage:?}"
        );
    }

    /// The files of a store that was closed cleanly and is open again: `closed`
    /// bytes were there in between.
    pub(crate) async fn exact(&self, closed: u64) {
        let usage = self.client.usage().await.unwrap();
        assert_eq!(usage.disk_bytes, closed, "{}: {usage:?}", self.about);
    }
}
