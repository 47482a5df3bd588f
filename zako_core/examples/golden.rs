//! Writes the golden store of this version's format: test data for all later ones.
//!
//! `cargo run -p zako_core --example golden -- zako_core/tests/golden/format-N`, by hand,
//! when the format has changed. The folder must not be there yet.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../tests/golden/contents.rs"]
mod contents;

use std::fs;
use std::path::{Path, PathBuf};

use contents::{
    Entry, LARGE_FROM, MANIFEST, MAX_BYTES, SEGMENT_BYTES, STORE, alias_key, noise, upload_key,
};
use zako_core::alias::{Alias, AliasOptions, AliasTable};
use zako_core::cas::{Cas, Maintain, NoWitness, StagedSize, Staging, VerifyScope};
use zako_core::store::{LocalStore, StoreOptions};
use zako_digest::hash;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let golden = PathBuf::from(std::env::args().nth(1).expect("the folder to be made"));
    fs::create_dir(&golden).expect("a folder that is not there yet");
    let scratch = golden.join("scratch");
    let mut options = StoreOptions::default();
    options.max_bytes = Some(MAX_BYTES);
    options.segment_bytes = Some(SEGMENT_BYTES);
    options.large_from = Some(LARGE_FROM);
    let store = LocalStore::open(&scratch, options).await.unwrap();
    let mut entries = Vec::new();
    let put = async |seed: u64, length: usize| {
        let data = noise(seed, length);
        store.put(&hash::bytes(&data), data).await.unwrap();
    };

    put(1, 0).await;
    entries.push(Entry::Blob { seed: 1, length: 0 });
    // Enough for segments that are sealed and one that is not.
    for (seed, length) in (10u64..).zip((0..36usize).map(|n| n * 137 + 1)) {
        put(seed, length).await;
        entries.push(Entry::Blob { seed, length });
    }
    for (seed, length) in [(60, 17_000), (61, 20_480), (62, 5_000), (63, 16_385)] {
        put(seed, length).await;
        entries.push(Entry::Blob { seed, length });
    }
    for (seed, length) in [(70, 3_000), (71, 18_000), (72, 900)] {
        put(seed, length).await;
        let digest = hash::bytes(&noise(seed, length));
        assert!(store.delete(&digest).await.unwrap());
        entries.push(Entry::Deleted { seed, length });
    }
    // A large blob is a file, so it is easily damaged.
    let (seed, length) = (80, 16_500);
    put(seed, length).await;
    let digest = hash::bytes(&noise(seed, length));
    let hex = digest.hash().to_string();
    let file = scratch
        .join("large")
        .join(&hex[..2])
        .join(format!("{hex}-{length}"));
    let mut damaged = noise(seed, length).to_vec();
    damaged[7] ^= 1;
    fs::write(&file, damaged).unwrap();
    let (progress, _watched) = tokio::sync::mpsc::channel(100);
    let verified = store.verify(VerifyScope::All, progress).await.unwrap();
    assert_eq!(verified.corrupt, [digest]);
    entries.push(Entry::Quarantined { seed, length });

    let (seed, length) = (90, 24_000);
    let data = noise(seed, length);
    let mut writer = store.writer(&hash::bytes(&data), 0).await.unwrap();
    writer.write(data.slice(..9_000)).await.unwrap();
    let held = writer.park().await.unwrap();
    entries.push(Entry::Partial { seed, length, held });

    let (seed, length) = (91, 26_000);
    let data = noise(seed, length);
    let size = StagedSize::Exactly(length as u64);
    let key = upload_key(seed);
    let writer = store.stage(&key, size, 0, Box::new(NoWitness)).await;
    let mut writer = writer.unwrap();
    writer.write(data.slice(..20_000)).await.unwrap();
    let held = writer.park().await.unwrap();
    entries.push(Entry::Staged { seed, length, held });

    let table = AliasTable::open(scratch.join("aliases"), AliasOptions::default())
        .await
        .unwrap();
    for number in 0..20 {
        let (seed, length) = (10 + number, number as usize * 137 + 1);
        let alias = Alias {
            digest: hash::bytes(&noise(seed, length)),
            expires: None,
        };
        table
            .insert(vec![(alias_key(number), alias)])
            .await
            .unwrap();
        if number % 5 == 4 {
            table.remove(vec![alias_key(number)]).await.unwrap();
            entries.push(Entry::Removed { number });
        } else {
            entries.push(Entry::Alias {
                number,
                seed,
                length,
            });
        }
    }

    // As a process leaves it that is killed: with a segment that is not sealed.
    copy(&scratch, &golden.join(STORE));
    let lines: Vec<String> = entries.iter().map(ToString::to_string).collect();
    fs::write(golden.join(MANIFEST), lines.join("\n") + "\n").unwrap();
    table.close().await.unwrap();
    store.close().await.unwrap();
    fs::remove_dir_all(scratch).unwrap();
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &to),
            // It says which process has the store.
            false if entry.file_name() == "lock" => {}
            false => drop(fs::copy(entry.path(), to).unwrap()),
        }
    }
}
