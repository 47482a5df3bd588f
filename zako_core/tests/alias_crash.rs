//! The table of aliases on a disk that loses its power at any moment.
//!
//! The promise: what was acknowledged is found, and stays removed if it was removed;
//! what failed is as it was before or as it was to be; and what was found once after a
//! crash is found after the next one.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod alias_support;
#[allow(dead_code, reason = "other tests use the rest")]
mod sim;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use alias_support::{TestClock, alias, key};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sim::SimFs;
use zako_core::alias::{AliasKey, AliasOptions, AliasTable};
use zako_core::store::Durability;

const DIR: &str = "/aliases";

/// What each key may name: one thing, or several if something failed. `None` is nothing.
#[derive(Clone, Default)]
struct Model(HashMap<u64, Vec<Option<u64>>>);

impl Model {
    fn begin(&mut self, number: u64, value: Option<u64>) {
        self.0.entry(number).or_insert(vec![None]).push(value);
    }

    fn acknowledge(&mut self, number: u64, value: Option<u64>) {
        self.0.insert(number, vec![value]);
    }

    /// Checks the promise, and believes what it finds.
    fn check(&mut self, table: &AliasTable, about: &str) {
        for (number, allowed) in &mut self.0 {
            let found = table.find(&key(*number));
            let value = found.map(|found| found.digest.size());
            assert_eq!(found, value.map(alias), "{about}");
            assert!(
                allowed.contains(&value),
                "{about}: {number} is {value:?}, not one of {allowed:?}"
            );
            *allowed = vec![value];
        }
    }
}

fn options(fs: &SimFs, durability: Durability) -> AliasOptions {
    let mut options = AliasOptions::default();
    options.backend = Arc::new(fs.clone());
    options.clock = Arc::new(TestClock::default());
    options.durability = durability;
    options
}

async fn open(fs: &SimFs) -> zako_core::cas::Result<AliasTable> {
    AliasTable::open(DIR, options(fs, Durability::Immediate)).await
}

/// A few changes of keys from `first` on, one after the other, until the power is out.
async fn load(table: &AliasTable, fs: &SimFs, rng: &mut StdRng, first: u64, steps: usize) -> Model {
    let mut model = Model::default();
    for _ in 0..steps {
        let numbers: Vec<u64> = (0..rng.random_range(1..12))
            .map(|_| first + rng.random_range(0..40))
            .collect();
        let value = (!rng.random_bool(0.4)).then(|| rng.random_range(0..50));
        for number in &numbers {
            model.begin(*number, value);
        }
        let outcome = match value {
            Some(value) => {
                let aliases = numbers.iter().map(|number| (key(*number), alias(value)));
                table.insert(aliases.collect()).await
            }
            None => {
                let keys = numbers.iter().map(|number| key(*number));
                table.remove(keys.collect()).await.map(drop)
            }
        };
        if fs.is_dead() {
            break;
        }
        if outcome.is_ok() {
            for number in numbers {
                model.acknowledge(number, value);
            }
        }
        if rng.random_bool(0.1) {
            let _ = table.compact().await;
        }
    }
    model
}

/// How a life ends.
#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    PowerLoss,
    Kill,
    /// A kill leaves names and bytes that are not on disk; what is built on them meets a
    /// power loss later.
    Either,
}

impl End {
    fn of(self, fs: &SimFs, rng: &mut StdRng) -> SimFs {
        fs.power_off();
        let kill = self == Self::Kill || (self == Self::Either && rng.random());
        if kill {
            fs.after_kill()
        } else {
            fs.restart(rng.random())
        }
    }
}

#[tokio::test]
async fn power_loss_at_every_change() {
    for end in [End::PowerLoss, End::Kill, End::Either] {
        for seed in 0..3 {
            for change in 1.. {
                let about = format!("{end:?}, seed {seed}, change {change}");
                let mut fs = SimFs::new();
                fs.power_off_after(change);
                let mut rng = StdRng::seed_from_u64(seed);
                let mut model = Model::default();
                let mut is_over = false;
                if let Ok(table) = open(&fs).await {
                    model = load(&table, &fs, &mut rng, 0, 25).await;
                    is_over = !fs.is_dead();
                }
                for _ in 0..2 {
                    fs = end.of(&fs, &mut rng);
                    let table = open(&fs).await;
                    let table = table.unwrap_or_else(|error| panic!("{about}: {error}"));
                    model.check(&table, &about);
                }
                if is_over {
                    assert!(change > 30, "{about}");
                    break;
                }
            }
        }
    }
}

async fn one_life(seed: u64, end: End) {
    const TASKS: u64 = 3;
    let mut rng = StdRng::seed_from_u64(seed);
    let mut fs = SimFs::new();
    let mut model = Model::default();
    for crash in 0..5 {
        let about = format!("{end:?}, seed {seed}, crash {crash}");
        // The power may go out while it opens, too.
        fs.power_off_after(rng.random_range(1..150));
        if let Ok(table) = open(&fs).await {
            let tasks: Vec<_> = (0..TASKS)
                .map(|task| {
                    let (table, fs) = (table.clone(), fs.clone());
                    let mut rng = StdRng::seed_from_u64(rng.random());
                    tokio::spawn(async move { load(&table, &fs, &mut rng, task * 100, 60).await })
                })
                .collect();
            for task in tasks {
                for (number, mut allowed) in task.await.unwrap().0 {
                    // It began with nothing known.
                    if allowed.first() == Some(&None) && allowed.len() > 1 {
                        allowed.extend(model.0.remove(&number).unwrap_or_default());
                    }
                    model.0.insert(number, allowed);
                }
            }
        }
        fs = end.of(&fs, &mut rng);
        let table = open(&fs).await;
        let table = table.unwrap_or_else(|error| panic!("{about}: {error}"));
        model.check(&table, &about);
        let _ = table.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn power_loss_under_load() {
    for seed in 0..50 {
        one_life(seed, End::PowerLoss).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_process() {
    for seed in 1000..1050 {
        one_life(seed, End::Kill).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_now_and_powerless_then() {
    for seed in 2000..2050 {
        one_life(seed, End::Either).await;
    }
}

/// With so many aliases that the log is written anew in several steps, between which
/// changes come.
#[tokio::test(flavor = "multi_thread")]
async fn power_loss_while_the_log_is_written_anew() {
    const MANY: u64 = 20_000;
    let base = SimFs::new();
    let table = open(&base).await.unwrap();
    let aliases = (1000..MANY).map(|number| (key(number), alias(number)));
    table.insert(aliases.collect()).await.unwrap();
    table.close().await.unwrap();
    let mut interrupted = 0;
    for change in 1..80 {
        let about = format!("change {change}");
        let mut rng = StdRng::seed_from_u64(change);
        let mut fs = base.after_kill();
        let table = open(&fs).await.unwrap();
        fs.power_off_after(change);
        let compacting = tokio::spawn({
            let table = table.clone();
            async move { while table.compact().await.is_ok() {} }
        });
        // Before and after the walk comes by.
        let mut model = load(&table, &fs, &mut rng, 980, 1000).await;
        assert!(fs.is_dead(), "{about}");
        compacting.await.unwrap();
        for number in (1040..MANY).step_by(7) {
            model.acknowledge(number, Some(number));
        }
        for number in 1000..1040 {
            // It began with those.
            if let Some(allowed) = model.0.get_mut(&number)
                && allowed.first() == Some(&None)
                && allowed.len() > 1
            {
                allowed.push(Some(number));
            } else if !model.0.contains_key(&number) {
                model.acknowledge(number, Some(number));
            }
        }
        interrupted += usize::from(fs.files_below(DIR.as_ref()).len() > 1);
        fs = End::Either.of(&fs, &mut rng);
        let table = open(&fs).await;
        let table = table.unwrap_or_else(|error| panic!("{about}: {error}"));
        model.check(&table, &about);
        assert_eq!(fs.files_below(DIR.as_ref()).len(), 1, "{about}");
    }
    assert!(interrupted > 10, "{interrupted}");
}

/// What was not durable may be lost; nothing may be there that never was.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_durable_is_lost_whole() {
    for seed in 0..60 {
        let fs = SimFs::new();
        let durability = match seed % 2 {
            0 => Durability::None,
            _ => Durability::Interval(Duration::from_secs(3600)),
        };
        let table = AliasTable::open(DIR, options(&fs, durability))
            .await
            .unwrap();
        let mut ever: HashMap<AliasKey, Vec<u64>> = HashMap::new();
        for value in 0..40u64 {
            let aliases: Vec<_> = (value..value + 10)
                .map(|number| (key(number), alias(value)))
                .collect();
            for (key, _) in &aliases {
                ever.entry(*key).or_default().push(value);
            }
            table.insert(aliases).await.unwrap();
            if seed % 4 > 1 && value == 20 {
                table.compact().await.unwrap();
            }
        }
        fs.power_off();
        let fs = fs.restart(seed);
        let table = open(&fs).await.unwrap();
        for (key, values) in ever {
            let found = table.find(&key).map(|found| found.digest.size());
            assert!(
                found.is_none_or(|found| values.contains(&found)),
                "seed {seed}"
            );
            // Compacting is durable, whatever else is.
            let compacted = values.iter().rfind(|value| **value <= 20);
            if seed % 4 > 1 && compacted.is_some() {
                assert!(found >= compacted.copied(), "seed {seed}");
            }
        }
    }
}

/// What is closed is durable, whatever the durability.
#[tokio::test]
async fn what_was_closed_is_durable() {
    for (seed, durability) in [
        (1, Durability::None),
        (2, Durability::Interval(Duration::from_secs(3600))),
    ] {
        let fs = SimFs::new();
        let table = AliasTable::open(DIR, options(&fs, durability))
            .await
            .unwrap();
        let aliases = (0..100).map(|number| (key(number), alias(number)));
        table.insert(aliases.collect()).await.unwrap();
        table.close().await.unwrap();
        fs.power_off();
        let table = open(&fs.restart(seed)).await.unwrap();
        assert_eq!(table.len(), 100);
    }
}
