//! Stores that earlier versions wrote are opened, read back and gone on with.
//!
//! `golden/format-N` was written by `examples/golden.rs` of the version that had format
//! N; no later one touches it.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[path = "golden/contents.rs"]
mod contents;

use std::fs;
use std::path::{Path, PathBuf};

use contents::{
    Entry, LARGE_FROM, MANIFEST, MAX_BYTES, SEGMENT_BYTES, STORE, alias_key, noise, upload_key,
};
use tempfile::TempDir;
use zako_core::alias::{Alias, AliasOptions, AliasTable};
use zako_core::cas::{
    Cas, CasExt, ErrorKind, Location, Maintain, NoWitness, StagedSize, Staging, Stored, VerifyScope,
};
use zako_core::store::{Formats, LocalStore, StoreOptions};
use zako_digest::hash;

/// A copy of a golden store.
struct Golden {
    dir: TempDir,
    entries: Vec<Entry>,
}

impl Golden {
    fn of(format: u32) -> Self {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/golden")
            .join(format!("format-{format}"));
        let manifest = fs::read_to_string(golden.join(MANIFEST)).unwrap();
        let dir = tempfile::tempdir().unwrap();
        copy(&golden.join(STORE), &dir.path().join(STORE));
        Self {
            dir,
            entries: manifest.lines().map(|line| line.parse().unwrap()).collect(),
        }
    }

    fn store(&self) -> PathBuf {
        self.dir.path().join(STORE)
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &to),
            false => drop(fs::copy(entry.path(), to).unwrap()),
        }
    }
}

async fn open(folder: &Path) -> LocalStore {
    let mut options = StoreOptions::default();
    options.max_bytes = Some(MAX_BYTES);
    options.segment_bytes = Some(SEGMENT_BYTES);
    options.large_from = Some(LARGE_FROM);
    loop {
        match LocalStore::open(folder, options.clone()).await {
            // Its last user may still be finishing what it had begun.
            Err(error) if error.kind() == ErrorKind::Locked => tokio::task::yield_now().await,
            outcome => return outcome.unwrap(),
        }
    }
}

/// All that the manifest tells is as it says.
async fn check(store: &LocalStore, table: &AliasTable, entries: &[Entry]) {
    for entry in entries {
        match *entry {
            Entry::Blob { seed, length } => {
                let data = noise(seed, length);
                let digest = hash::bytes(&data);
                let found = store.fetch_bytes(&digest).await;
                assert!(found.unwrap() == data, "{entry}");
            }
            Entry::Deleted { seed, length } | Entry::Quarantined { seed, length } => {
                let digest = hash::bytes(&noise(seed, length));
                assert!(!store.contains(&digest).await.unwrap(), "{entry}");
            }
            Entry::Partial { seed, length, held } => {
                let digest = hash::bytes(&noise(seed, length));
                assert_eq!(store.held(&digest).await.unwrap(), held, "{entry}");
            }
            Entry::Staged { seed, held, .. } => {
                let staged = store.staged(&upload_key(seed)).await;
                assert_eq!(staged.unwrap(), held, "{entry}");
            }
            Entry::Alias {
                number,
                seed,
                length,
            } => {
                let digest = hash::bytes(&noise(seed, length));
                let found = table.find(&alias_key(number)).map(|alias| alias.digest);
                assert_eq!(found, Some(digest), "{entry}");
            }
            Entry::Removed { number } => {
                assert_eq!(table.find(&alias_key(number)), None, "{entry}");
            }
        }
    }
    let count = |of: fn(&Entry) -> bool| entries.iter().filter(|entry| of(entry)).count() as u64;
    let usage = store.usage().await.unwrap();
    let blobs = count(|entry| matches!(entry, Entry::Blob { .. }));
    let quarantined = count(|entry| matches!(entry, Entry::Quarantined { .. }));
    assert_eq!((usage.blobs, usage.quarantined_blobs), (blobs, quarantined));
}

#[tokio::test(flavor = "multi_thread")]
async fn format_1_is_opened_read_and_gone_on_with() {
    let golden = Golden::of(1);
    let folder = golden.store();
    let formats = Formats::of(&folder).unwrap().unwrap();
    assert_eq!(formats.store.number(), 1);
    assert_eq!(formats.aliases.unwrap().number(), 1);
    assert_eq!(formats.refusal(), None);
    // Of everything that has a form on disk there is some.
    let sealed: Vec<bool> = fs::read_dir(folder.join("segments"))
        .unwrap()
        .map(|entry| fs::read(entry.unwrap().path()).unwrap())
        .map(|bytes| bytes[bytes.len() - 64..].starts_with(b"ZAKOFTR1"))
        .collect();
    assert!(sealed.contains(&true) && sealed.contains(&false));
    for (what, some) in [
        (
            "blobs",
            golden.entries.iter().any(
                |it| matches!(it, Entry::Blob { length, .. } if *length > LARGE_FROM as usize),
            ),
        ),
        (
            "deleted",
            golden
                .entries
                .iter()
                .any(|it| matches!(it, Entry::Deleted { .. })),
        ),
        (
            "quarantine",
            fs::read_dir(folder.join("quarantine")).unwrap().count() == 1,
        ),
        (
            "partials",
            fs::read_dir(folder.join("partial")).unwrap().count() == 2,
        ),
    ] {
        assert!(some, "{what}");
    }

    let store = open(&folder).await;
    let aliases = folder.join("aliases");
    let table = AliasTable::open(&aliases, AliasOptions::default())
        .await
        .unwrap();
    check(&store, &table, &golden.entries).await;
    let (progress, _watched) = tokio::sync::mpsc::channel(100);
    let verified = store.verify(VerifyScope::All, progress).await.unwrap();
    assert_eq!((verified.corrupt.len(), verified.missing.len()), (0, 0));

    // It is gone on with: all that is stored, resumed and deleted is there after the
    // next start, too.
    let mut entries = golden.entries.clone();
    for entry in &golden.entries {
        match *entry {
            Entry::Partial { seed, length, held } => {
                let data = noise(seed, length);
                let mut rest = store.writer(&hash::bytes(&data), held).await.unwrap();
                rest.write(data.slice(held as usize..)).await.unwrap();
                assert_eq!(rest.commit().await.unwrap(), Stored::New);
                entries.push(Entry::Blob { seed, length });
            }
            Entry::Staged { seed, length, held } => {
                let data = noise(seed, length);
                let size = StagedSize::Exactly(length as u64);
                let key = upload_key(seed);
                let rest = store.stage(&key, size, held, Box::new(NoWitness)).await;
                let mut rest = rest.unwrap();
                rest.write(data.slice(held as usize..)).await.unwrap();
                let stored = rest.commit().await.unwrap();
                assert_eq!(stored, (hash::bytes(&data), Stored::New));
                entries.push(Entry::Blob { seed, length });
            }
            _ => {}
        }
    }
    entries.retain(|it| !matches!(it, Entry::Partial { .. } | Entry::Staged { .. }));
    for (seed, length) in [(1_000, 4_000), (1_001, 40_000), (70, 3_000)] {
        let data = noise(seed, length);
        let digest = hash::bytes(&data);
        assert_eq!(store.put(&digest, data).await.unwrap(), Stored::New);
        let location = store.stat(&digest).await.unwrap().location;
        let is_large = length > LARGE_FROM as usize;
        assert_eq!(location == Location::File, is_large);
        entries.push(Entry::Blob { seed, length });
    }
    entries.retain(|it| !matches!(it, Entry::Deleted { seed: 70, .. }));
    for (seed, length) in [(12, 2 * 137 + 1), (61, 20_480)] {
        let digest = hash::bytes(&noise(seed, length));
        assert!(store.delete(&digest).await.unwrap());
        entries.retain(|it| *it != Entry::Blob { seed, length });
        entries.push(Entry::Deleted { seed, length });
    }
    let (seed, length) = (1_000, 4_000);
    let alias = Alias {
        digest: hash::bytes(&noise(seed, length)),
        expires: None,
    };
    table.insert(vec![(alias_key(100), alias)]).await.unwrap();
    entries.push(Entry::Alias {
        number: 100,
        seed,
        length,
    });
    store.collect_garbage().await.unwrap();
    check(&store, &table, &entries).await;
    table.close().await.unwrap();
    store.close().await.unwrap();
    drop((store, table));

    let store = open(&folder).await;
    let table = AliasTable::open(&aliases, AliasOptions::default())
        .await
        .unwrap();
    check(&store, &table, &entries).await;
}
