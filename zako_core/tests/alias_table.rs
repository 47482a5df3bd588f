//! The table of aliases: what it tells, before and after it is opened again.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod alias_support;
#[allow(dead_code, reason = "other tests use the rest")]
mod sim;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use alias_support::{TestClock, alias, key};
use proptest::prelude::*;
use sim::SimFs;
use zako_core::alias::{Alias, AliasKey, AliasOptions, AliasTable};
use zako_core::cas::{Cas, CasExt, ErrorKind};
use zako_core::store::{Durability, LocalStore, MemoryStore, StoreOptions};

const DIR: &str = "/aliases";

fn options(fs: &SimFs, clock: &TestClock) -> AliasOptions {
    let mut options = AliasOptions::default();
    options.backend = Arc::new(fs.clone());
    options.clock = Arc::new(clock.clone());
    options
}

async fn open(fs: &SimFs) -> AliasTable {
    let options = options(fs, &TestClock::default());
    AliasTable::open(DIR, options).await.unwrap()
}

fn some(numbers: std::ops::Range<u64>) -> Vec<(AliasKey, Alias)> {
    numbers.map(|number| (key(number), alias(number))).collect()
}

#[tokio::test]
async fn what_is_inserted_is_found_until_it_is_removed() {
    let fs = SimFs::new();
    let table = open(&fs).await;
    assert!(table.is_empty());
    assert_eq!(table.find(&key(1)), None);
    table.insert(some(0..100)).await.unwrap();
    assert_eq!(table.len(), 100);
    let removed = table.remove(vec![key(5), key(100), key(5)]).await.unwrap();
    assert_eq!(removed, [true, false, false]);
    for _ in 0..2 {
        let table = {
            table.close().await.ok();
            open(&fs).await
        };
        assert_eq!(table.len(), 99);
        let keys: Vec<AliasKey> = (0..101).map(key).collect();
        let mut found = Vec::new();
        table.find_many(&keys, &mut found);
        for (number, found) in (0..).zip(found) {
            let expected = (number < 100 && number != 5).then(|| alias(number));
            assert_eq!(found, expected, "{number}");
            assert_eq!(table.find(&key(number)), expected, "{number}");
        }
        table.close().await.unwrap();
    }
}

#[tokio::test]
async fn the_last_writer_wins() {
    let fs = SimFs::new();
    let table = open(&fs).await;
    let twice = vec![(key(1), alias(1)), (key(1), alias(2)), (key(1), alias(3))];
    table.insert(twice).await.unwrap();
    assert_eq!(table.find(&key(1)), Some(alias(3)));
    table.insert(vec![(key(1), alias(4))]).await.unwrap();
    table.close().await.unwrap();
    let table = open(&fs).await;
    assert_eq!(table.find(&key(1)), Some(alias(4)));
    assert_eq!(table.len(), 1);
}

#[tokio::test]
async fn what_is_there_is_not_written_again() {
    let fs = SimFs::new();
    let table = open(&fs).await;
    table.insert(some(0..10)).await.unwrap();
    let before = table.disk_bytes();
    table.insert(some(0..10)).await.unwrap();
    table.remove(vec![key(10)]).await.unwrap();
    assert_eq!(table.disk_bytes(), before);
    table.insert(some(5..11)).await.unwrap();
    assert_eq!(table.disk_bytes(), before + 96);
    table.close().await.unwrap();
    assert_eq!(fs.bytes_below(Path::new(DIR)), before + 96);
}

#[tokio::test]
async fn an_alias_expires() {
    let (fs, clock) = (SimFs::new(), TestClock::default());
    clock.set(1000);
    let open = || AliasTable::open(DIR, options(&fs, &clock));
    let table = open().await.unwrap();
    let until = |number, expires| {
        let alias = Alias {
            expires: Some(expires),
            ..alias(number)
        };
        (key(number), alias)
    };
    let never = until(4, u64::MAX);
    let aliases = vec![until(1, 1001), until(2, 1003), until(3, 0), never];
    table.insert(aliases).await.unwrap();
    assert_eq!(table.find(&key(1)), Some(until(1, 1001).1));
    assert_eq!(table.find(&key(3)), None);
    assert_eq!(table.find(&key(4)), Some(alias(4)));
    clock.set(1001);
    assert_eq!(table.find(&key(1)), None);
    let mut found = Vec::new();
    table.find_many(&[key(1), key(2), key(3)], &mut found);
    assert_eq!(found, [None, Some(until(2, 1003).1), None]);
    assert_eq!(table.remove(vec![key(1)]).await.unwrap(), [false]);
    table.compact().await.unwrap();
    assert_eq!(table.len(), 2);
    // One that names another blob and expires doesn't bring the first one back.
    table.insert(vec![(key(2), alias(5))]).await.unwrap();
    table.insert(vec![until(2, 1002)]).await.unwrap();
    table.close().await.unwrap();
    clock.set(1002);
    let table = open().await.unwrap();
    assert_eq!(table.find(&key(2)), None);
    assert_eq!(table.len(), 1);
}

#[tokio::test]
async fn a_full_table_refuses_what_is_new() {
    let (fs, clock) = (SimFs::new(), TestClock::default());
    clock.set(10);
    let mut options = options(&fs, &clock);
    options.max_aliases = 10;
    let table = AliasTable::open(DIR, options).await.unwrap();
    let mut passing = some(0..10);
    passing[0].1.expires = Some(20);
    table.insert(passing).await.unwrap();
    let full = table.insert(some(10..11)).await.unwrap_err();
    assert_eq!(full.kind(), ErrorKind::NoSpace);
    // What is there can change.
    table.insert(vec![(key(1), alias(100))]).await.unwrap();
    assert_eq!(table.find(&key(10)), None);
    // What has expired makes room, and what is removed.
    clock.set(20);
    table.insert(some(10..11)).await.unwrap();
    assert_eq!(table.find(&key(10)), Some(alias(10)));
    table.insert(some(11..12)).await.unwrap_err();
    table.remove(vec![key(1)]).await.unwrap();
    table.insert(some(11..12)).await.unwrap();
    assert_eq!(table.len(), 10);
}

#[tokio::test]
async fn a_blob_that_is_too_large_has_no_alias() {
    let table = open(&SimFs::new()).await;
    let digest = |size| {
        let digest = zako_core::Digest::new(*alias(1).digest.hash(), size);
        table.insert(vec![(key(1), Alias::new(digest))])
    };
    digest((1 << 48) - 2).await.unwrap();
    let error = digest((1 << 48) - 1).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
}

#[tokio::test]
async fn one_at_a_time_has_it() {
    let fs = SimFs::new();
    let table = open(&fs).await;
    let locked = AliasTable::open(DIR, options(&fs, &TestClock::default())).await;
    assert_eq!(locked.unwrap_err().kind(), ErrorKind::Locked);
    table.insert(some(0..1)).await.unwrap();
    table.close().await.unwrap();
    for error in [
        table.close().await.unwrap_err(),
        table.insert(some(1..2)).await.unwrap_err(),
        table.remove(vec![key(0)]).await.unwrap_err(),
        table.compact().await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Closed);
    }
    // Look-ups go on, beside whoever has it next.
    let next = open(&fs).await;
    assert_eq!(table.find(&key(0)), Some(alias(0)));
    assert_eq!(next.find(&key(0)), Some(alias(0)));
}

#[tokio::test]
async fn it_lies_in_a_stores_folder() {
    let folder = tempfile::tempdir().unwrap();
    for _ in 0..2 {
        let store = LocalStore::open(folder.path(), StoreOptions::default());
        let store = store.await.unwrap();
        let dir = folder.path().join("aliases");
        let table = AliasTable::open(dir, AliasOptions::default());
        let table = table.await.unwrap();
        table.insert(some(0..100)).await.unwrap();
        assert_eq!(table.find(&key(99)), Some(alias(99)));
        store.close().await.unwrap();
        table.close().await.unwrap();
    }
}

#[tokio::test]
async fn only_what_is_kept_is_retained() {
    let fs = SimFs::new();
    let table = open(&fs).await;
    table.insert(some(0..10_000)).await.unwrap();
    let removed = table.retain(|asked| async move {
        let kept = asked.iter().map(|(key_of, alias)| {
            assert_eq!(*key_of, key(alias.digest.size()));
            alias.digest.size() % 3 != 0
        });
        Ok(kept.collect())
    });
    assert_eq!(removed.await.unwrap(), 3334);
    assert_eq!(table.len(), 6666);
    table.close().await.unwrap();
    let table = open(&fs).await;
    assert_eq!(table.len(), 6666);
    assert_eq!(table.find(&key(3)), None);
    assert_eq!(table.find(&key(4)), Some(alias(4)));
    let wrong = table.retain(|_| async { Ok(vec![true]) }).await;
    assert_eq!(wrong.unwrap_err().kind(), ErrorKind::InvalidArgument);
    assert_eq!(table.len(), 6666);
}

#[tokio::test]
async fn aliases_of_blobs_that_are_gone_are_dropped() {
    let table = open(&SimFs::new()).await;
    let store = MemoryStore::new(1 << 20);
    let mut digests = Vec::new();
    for number in 0..100u64 {
        let (digest, _) = store
            .put_bytes(number.to_le_bytes().to_vec())
            .await
            .unwrap();
        let names = vec![
            (key(number), Alias::new(digest)),
            (key(1000 + number), Alias::new(digest)),
        ];
        table.insert(names).await.unwrap();
        digests.push(digest);
    }
    for digest in digests.iter().step_by(2) {
        store.delete(digest).await.unwrap();
    }
    // In a task of its own, as an owner does it.
    let retaining = tokio::spawn({
        let table = table.clone();
        async move { table.retain_stored(&store).await }
    });
    assert_eq!(retaining.await.unwrap().unwrap(), 100);
    for (number, digest) in (0..).zip(digests) {
        let expected = (number % 2 == 1).then_some(Alias::new(digest));
        assert_eq!(table.find(&key(number)), expected);
        assert_eq!(table.find(&key(1000 + number)), expected);
    }
}

#[tokio::test]
async fn what_has_expired_is_dropped_without_asking() {
    let (fs, clock) = (SimFs::new(), TestClock::default());
    let table = AliasTable::open(DIR, options(&fs, &clock)).await.unwrap();
    let mut aliases = some(0..10);
    aliases[3].1.expires = Some(5);
    table.insert(aliases).await.unwrap();
    clock.set(5);
    let removed = table.retain(|asked| async move {
        assert_eq!(asked.len(), 9);
        Ok(vec![true; 9])
    });
    assert_eq!(removed.await.unwrap(), 0);
    assert_eq!(table.len(), 9);
}

/// The blob was gone when the store was asked, and came back with its alias before that
/// was removed.
#[tokio::test]
async fn what_is_inserted_meanwhile_is_retained() {
    let table = open(&SimFs::new()).await;
    table.insert(some(0..10)).await.unwrap();
    let removed = table.retain(|asked| {
        let table = table.clone();
        async move {
            // The same, another one, and one that was removed before.
            table.remove(vec![key(3)]).await?;
            for again in [(key(1), alias(1)), (key(2), alias(20)), (key(3), alias(3))] {
                table.insert(vec![again]).await?;
            }
            Ok(vec![false; asked.len()])
        }
    });
    assert_eq!(removed.await.unwrap(), 7);
    assert_eq!(table.len(), 3);
    assert_eq!(table.find(&key(1)), Some(alias(1)));
    assert_eq!(table.find(&key(2)), Some(alias(20)));
    assert_eq!(table.find(&key(3)), Some(alias(3)));
}

#[tokio::test]
async fn a_compacted_log_has_what_is_alive() {
    let fs = SimFs::new();
    let table = open(&fs).await;
    for round in 0..20u64 {
        let aliases = (0..100).map(|number| (key(number), alias(number + round)));
        table.insert(aliases.collect()).await.unwrap();
    }
    table.remove((50..100).map(key).collect()).await.unwrap();
    table.compact().await.unwrap();
    assert_eq!(table.disk_bytes(), 64 + 50 * 96);
    table.insert(some(50..51)).await.unwrap();
    table.close().await.unwrap();
    assert_eq!(fs.bytes_below(Path::new(DIR)), 64 + 51 * 96);
    let table = open(&fs).await;
    assert_eq!(table.len(), 51);
    assert_eq!(table.find(&key(49)), Some(alias(68)));
    assert_eq!(table.find(&key(50)), Some(alias(50)));
    assert_eq!(table.find(&key(51)), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_is_mostly_dead_is_written_anew_by_itself() {
    let fs = SimFs::new();
    let table = open(&fs).await;
    const KEYS: u64 = 3_000;
    for round in 0..60 {
        let aliases = (0..KEYS).map(|number| (key(number), alias(number + round)));
        table.insert(aliases.collect()).await.unwrap();
        let found = table.find(&key(round));
        assert_eq!(found, Some(alias(2 * round)));
    }
    assert!(table.disk_bytes() < 100_000 * 96, "{}", table.disk_bytes());
    table.close().await.unwrap();
    let table = open(&fs).await;
    assert_eq!(table.len() as u64, KEYS);
    for number in 0..KEYS {
        assert_eq!(table.find(&key(number)), Some(alias(number + 59)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_insert_find_and_remove_at_once() {
    let fs = SimFs::new();
    let table = open(&fs).await;
    let tasks: Vec<_> = (0..16u64)
        .map(|task| {
            let table = table.clone();
            tokio::spawn(async move {
                for round in 0..50 {
                    let own = |number: u64| key(task * 1000 + number);
                    let aliases = (0..8).map(|number| (own(number), alias(round)));
                    table.insert(aliases.collect()).await.unwrap();
                    // All write this one.
                    table
                        .insert(vec![(key(1 << 20), alias(task))])
                        .await
                        .unwrap();
                    assert_eq!(table.find(&own(3)), Some(alias(round)));
                    assert!(table.find(&key(1 << 20)).is_some());
                    let removed = table.remove(vec![own(3), own(4)]).await.unwrap();
                    assert_eq!(removed, [true, true]);
                    assert_eq!(table.find(&own(3)), None);
                    if round % 10 == task % 10 {
                        table.compact().await.unwrap();
                    }
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(table.len(), 16 * 6 + 1);
    let last = table.find(&key(1 << 20));
    table.close().await.unwrap();
    let table = open(&fs).await;
    assert_eq!(table.len(), 16 * 6 + 1);
    assert_eq!(table.find(&key(1 << 20)), last);
}

#[derive(Clone, Debug)]
enum Step {
    Insert(Vec<(u64, u64, Option<u64>)>),
    Remove(Vec<u64>),
    /// Keep those whose blob's number has no such divisor.
    Retain(u64),
    Compact,
    Reopen,
    Kill,
    Wait(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let expires = prop::option::weighted(0.3, 0..50u64);
    let insert = prop::collection::vec((0..60u64, 0..20u64, expires), 0..20);
    let step = prop_oneof![
        6 => insert.prop_map(Step::Insert),
        3 => prop::collection::vec(0..60u64, 0..10).prop_map(Step::Remove),
        1 => (2..6u64).prop_map(Step::Retain),
        1 => Just(Step::Compact),
        1 => Just(Step::Reopen),
        1 => Just(Step::Kill),
        1 => (1..10u64).prop_map(Step::Wait),
    ];
    prop::collection::vec(step, 0..40)
}

async fn follow(steps: Vec<Step>, durability: Durability) {
    let (mut fs, clock) = (SimFs::new(), TestClock::default());
    let open = |fs: &SimFs| {
        let mut options = options(fs, &clock);
        options.durability = durability;
        AliasTable::open(DIR, options)
    };
    let mut table = open(&fs).await.unwrap();
    let mut model: HashMap<u64, Alias> = HashMap::new();
    let mut now = 0;
    for step in steps {
        let is_past = |alias: &Alias| alias.expires.is_some_and(|expires| expires <= now);
        match step {
            Step::Insert(aliases) => {
                let expiring = |(number, blob, expires): (u64, u64, Option<u64>)| {
                    let expires = expires.map(|expires| expires.max(1));
                    (
                        number,
                        Alias {
                            expires,
                            ..alias(blob)
                        },
                    )
                };
                let aliases: Vec<_> = aliases.into_iter().map(expiring).collect();
                let keyed = aliases.iter().map(|(number, alias)| (key(*number), *alias));
                table.insert(keyed.collect()).await.unwrap();
                model.extend(aliases);
            }
            Step::Remove(numbers) => {
                let keys = numbers.iter().map(|number| key(*number)).collect();
                let removed = table.remove(keys).await.unwrap();
                for (number, removed) in numbers.into_iter().zip(removed) {
                    let before = model.remove(&number);
                    assert_eq!(removed, before.is_some_and(|alias| !is_past(&alias)));
                }
            }
            Step::Retain(divisor) => {
                let keep = move |alias: &Alias| !alias.digest.size().is_multiple_of(divisor);
                let keep_all = |asked: Vec<(AliasKey, Alias)>| async move {
                    Ok(asked.iter().map(|(_, alias)| keep(alias)).collect())
                };
                table.retain(keep_all).await.unwrap();
                model.retain(|_, alias| keep(alias));
            }
            Step::Compact => table.compact().await.unwrap(),
            Step::Reopen => {
                table.close().await.unwrap();
                table = open(&fs).await.unwrap();
                assert_eq!(table.damaged(), 0);
            }
            Step::Kill => {
                fs = fs.after_kill();
                table = open(&fs).await.unwrap();
                assert_eq!(table.damaged(), 0);
            }
            Step::Wait(seconds) => {
                now += seconds;
                clock.set(now);
                model.retain(|_, alias| alias.expires.is_none_or(|expires| expires > now));
            }
        }
        let keys: Vec<AliasKey> = (0..60).map(key).collect();
        let mut found = Vec::new();
        table.find_many(&keys, &mut found);
        for (number, found) in (0..60).zip(found) {
            let expected = model
                .get(&number)
                .filter(|alias| alias.expires.is_none_or(|expires| expires > now));
            assert_eq!(found.as_ref(), expected, "{number}");
            assert_eq!(table.find(&key(number)), found);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(120))]
    #[test]
    fn behaves_like_a_map(steps in steps(), durable: bool) {
        let durability = if durable { Durability::Immediate } else { Durability::None };
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(follow(steps, durability));
    }
}
