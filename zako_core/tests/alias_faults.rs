//! The table of aliases on disks that are full, fail, write half or don't sync, and with
//! logs that were damaged.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod alias_support;
#[allow(dead_code, reason = "other tests use the rest")]
mod sim;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use alias_support::{TestClock, alias, key};
use proptest::prelude::*;
use sim::{Call, EIO, ENOSPC, Fault, SimFs};
use zako_core::alias::{Alias, AliasKey, AliasOptions, AliasTable};
use zako_core::cas::{ErrorKind, Result};
use zako_core::store::Durability;

const DIR: &str = "/aliases";
const LOG: &str = "/aliases/aliases.log";
const HEADER: usize = 64;
const RECORD: usize = 96;

async fn open_with(fs: &SimFs, durability: Durability) -> Result<AliasTable> {
    let mut options = AliasOptions::default();
    options.backend = Arc::new(fs.clone());
    options.clock = Arc::new(TestClock::default());
    options.durability = durability;
    AliasTable::open(DIR, options).await
}

async fn open(fs: &SimFs) -> Result<AliasTable> {
    open_with(fs, Durability::Immediate).await
}

fn some(numbers: std::ops::Range<u64>) -> Vec<(AliasKey, Alias)> {
    numbers.map(|number| (key(number), alias(number))).collect()
}

fn fail(fs: &SimFs, call: Call, path: &'static str, after: u64, times: u64) {
    let errno = if call == Call::Write { ENOSPC } else { EIO };
    fs.fail(Fault {
        call,
        path,
        after,
        times,
        errno,
    });
}

fn is_there(table: &AliasTable, numbers: std::ops::Range<u64>) -> bool {
    numbers
        .into_iter()
        .all(|number| table.find(&key(number)) == Some(alias(number)))
}

/// What the table says, also after it is closed and after the power is lost.
async fn stays(table: AliasTable, fs: &SimFs, check: impl Fn(&AliasTable)) {
    check(&table);
    for seed in 0..4 {
        let after = fs.restart(seed);
        check(&open(&after).await.unwrap());
    }
    table.close().await.unwrap();
    let table = open(fs).await.unwrap();
    check(&table);
    table.close().await.unwrap();
}

#[tokio::test]
async fn a_full_disk_refuses_and_keeps_what_is_there() {
    let fs = SimFs::new();
    let table = open(&fs).await.unwrap();
    table.insert(some(0..10)).await.unwrap();
    fail(&fs, Call::Write, LOG, 0, 1);
    let error = table.insert(some(10..20)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace);
    fail(&fs, Call::Write, LOG, 0, 1);
    let error = table.remove(vec![key(1)]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace);
    assert_eq!(table.len(), 10);
    fs.heal();
    table.insert(some(20..30)).await.unwrap();
    stays(table, &fs, |table| {
        assert!(is_there(table, 0..10) && is_there(table, 20..30));
        assert_eq!(table.len(), 20);
        assert_eq!(table.damaged(), 0);
    })
    .await;
}

#[tokio::test]
async fn a_disk_with_room_for_records_alone_takes_them() {
    for half in [false, true] {
        let fs = SimFs::new();
        let table = open(&fs).await.unwrap();
        // The zeros ahead of the records: none of them, or some that stay.
        if half {
            fail(&fs, Call::ShortWrite, LOG, 1, 1);
        }
        fail(&fs, Call::Write, LOG, if half { 2 } else { 1 }, 2);
        table.insert(some(0..10)).await.unwrap();
        fs.heal();
        table.insert(some(10..20)).await.unwrap();
        stays(table, &fs, |table| {
            assert!(is_there(table, 0..20));
            assert_eq!(table.damaged(), 0);
        })
        .await;
    }
}

#[tokio::test]
async fn a_write_that_takes_half_is_finished() {
    let fs = SimFs::new();
    let table = open(&fs).await.unwrap();
    fail(&fs, Call::ShortWrite, LOG, 0, 3);
    table.insert(some(0..100)).await.unwrap();
    stays(table, &fs, |table| assert!(is_there(table, 0..100))).await;
}

/// The write fails, and so does cutting off what it left: another log is begun.
#[tokio::test]
async fn a_torn_write_that_stays() {
    let fs = SimFs::new();
    let table = open(&fs).await.unwrap();
    table.insert(some(0..10)).await.unwrap();
    // Half is written; the other half fails, and so does cutting, twice.
    fail(&fs, Call::ShortWrite, LOG, 0, 1);
    fail(&fs, Call::Write, LOG, 1, 3);
    table.insert(some(10..20)).await.unwrap_err();
    assert_eq!(table.len(), 10);
    table.insert(some(20..30)).await.unwrap();
    stays(table, &fs, |table| {
        assert!(is_there(table, 0..10) && is_there(table, 20..30));
        assert_eq!(table.len(), 20);
    })
    .await;
}

#[tokio::test]
async fn after_a_failed_sync_another_log_is_begun() {
    for durability in [
        Durability::Immediate,
        // Acknowledged, and then not durable: it must not be lost with the log.
        Durability::Interval(Duration::ZERO),
    ] {
        let fs = SimFs::new();
        let table = open_with(&fs, durability).await.unwrap();
        table.insert(some(0..10)).await.unwrap();
        fail(&fs, Call::Sync, LOG, 0, 1);
        let failed = table.insert(some(10..20)).await;
        let kept = match durability {
            Durability::Immediate => {
                assert_eq!(failed.unwrap_err().kind(), ErrorKind::Io);
                0..10
            }
            _ => {
                failed.unwrap();
                0..20
            }
        };
        table.remove(vec![key(0)]).await.unwrap();
        table.insert(some(20..30)).await.unwrap();
        // For the interval's sake.
        table.compact().await.unwrap();
        stays(table, &fs, |table| {
            assert!(is_there(table, 1..kept.end) && is_there(table, 20..30));
            assert_eq!(table.len() as u64, kept.end - 1 + 10);
        })
        .await;
    }
}

#[tokio::test]
async fn while_no_log_can_be_begun_all_changes_fail() {
    let fs = SimFs::new();
    let table = open(&fs).await.unwrap();
    table.insert(some(0..10)).await.unwrap();
    fail(&fs, Call::Sync, LOG, 0, 1);
    fail(&fs, Call::Create, DIR, 0, u64::MAX);
    for _ in 0..3 {
        table.insert(some(10..20)).await.unwrap_err();
        table.remove(vec![key(1)]).await.unwrap_err();
        table.compact().await.unwrap_err();
        assert!(is_there(&table, 0..10));
        assert_eq!(table.len(), 10);
    }
    // What is there is there.
    table.insert(some(0..10)).await.unwrap();
    fs.heal();
    table.insert(some(20..30)).await.unwrap();
    stays(table, &fs, |table| {
        assert!(is_there(table, 0..10) && is_there(table, 20..30));
        assert_eq!(table.len(), 20);
    })
    .await;
}

#[tokio::test]
async fn a_log_that_can_not_be_written_anew_is_gone_on_with() {
    for (call, path, after) in [
        (Call::Create, "aliases.log.new", 0),
        (Call::Write, "aliases.log.new", 0),
        (Call::Write, "aliases.log.new", 1),
        (Call::Sync, "aliases.log.new", 0),
        (Call::Rename, "aliases.log", 0),
        // The folder, after the new log.
        (Call::Sync, DIR, 1),
    ] {
        let about = format!("{call:?} {path} {after}");
        let fs = SimFs::new();
        let table = open(&fs).await.unwrap();
        table.insert(some(0..10)).await.unwrap();
        table.remove(vec![key(0)]).await.unwrap();
        fail(&fs, call, path, after, 1);
        table.compact().await.expect_err(&about);
        table.insert(some(10..20)).await.unwrap();
        table.remove(vec![key(1)]).await.unwrap();
        stays(table, &fs, |table| {
            assert!(is_there(table, 2..20), "{about}");
            assert_eq!(table.len(), 18, "{about}");
        })
        .await;
        assert_eq!(fs.files_below(Path::new(DIR)), [Path::new(LOG)], "{about}");
    }
}

#[tokio::test]
async fn a_damaged_record_is_passed_over() {
    let fs = SimFs::new();
    let table = open(&fs).await.unwrap();
    table.insert(some(0..10)).await.unwrap();
    table.close().await.unwrap();
    for at in [3, 5] {
        fs.edit(Path::new(LOG), |bytes| {
            bytes[HEADER + at * RECORD + 50] ^= 4;
        });
    }
    let table = open(&fs).await.unwrap();
    assert_eq!(table.damaged(), 2);
    assert_eq!(table.len(), 8);
    table.insert(some(3..4)).await.unwrap();
    stays(table, &fs, |table| {
        assert!(is_there(table, 0..5) && is_there(table, 6..10));
        assert_eq!(table.find(&key(5)), None);
    })
    .await;
    let table = open(&fs).await.unwrap();
    table.compact().await.unwrap();
    table.close().await.unwrap();
    assert_eq!(open(&fs).await.unwrap().damaged(), 0);
}

#[tokio::test]
async fn a_torn_tail_is_cut() {
    for torn in 1..2 * RECORD {
        let fs = SimFs::new();
        let table = open(&fs).await.unwrap();
        table.insert(some(0..10)).await.unwrap();
        table.close().await.unwrap();
        fs.edit(Path::new(LOG), |bytes| {
            bytes.truncate(HEADER + 8 * RECORD + torn);
        });
        let whole = 8 + torn / RECORD;
        let table = open(&fs).await.unwrap();
        assert_eq!(table.len(), whole, "{torn}");
        assert_eq!(table.damaged(), 0);
        assert_eq!(
            fs.bytes_below(Path::new(DIR)) as usize,
            HEADER + whole * RECORD
        );
        table.insert(some(10..12)).await.unwrap();
        stays(table, &fs, |table| {
            assert!(is_there(table, 0..whole as u64) && is_there(table, 10..12));
            assert_eq!(table.damaged(), 0);
        })
        .await;
    }
}

#[tokio::test]
async fn the_records_of_a_damaged_header_are_kept() {
    for damage in [0..8, 16..24, 60..64, 0..64] {
        let fs = SimFs::new();
        let table = open(&fs).await.unwrap();
        table.insert(some(0..10)).await.unwrap();
        table.close().await.unwrap();
        fs.edit(Path::new(LOG), |bytes| bytes[damage.clone()].fill(0xa5));
        // Opened and not changed, it is as it was.
        open(&fs).await.unwrap().close().await.unwrap();
        let table = open(&fs).await.unwrap();
        assert!(is_there(&table, 0..10), "{damage:?}");
        table.insert(some(10..20)).await.unwrap();
        stays(table, &fs, |table| {
            assert!(is_there(table, 0..20), "{damage:?}")
        })
        .await;
    }
}

#[tokio::test]
async fn another_format_is_refused() {
    let fs = SimFs::new();
    let table = open(&fs).await.unwrap();
    table.insert(some(0..10)).await.unwrap();
    table.close().await.unwrap();
    fs.edit(Path::new(LOG), |bytes| bytes[8] = 2);
    let error = open(&fs).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Format);
    assert!(error.to_string().contains("format 2"), "{error}");
    fs.edit(Path::new(LOG), |bytes| bytes[8] = 1);
    assert!(is_there(&open(&fs).await.unwrap(), 0..10));
}

/// What was damaged anywhere.
#[derive(Clone, Debug)]
enum Damage {
    Flip(usize, u8),
    Zeros(usize, usize),
    Cut(usize),
    /// The bytes from one place stand in another, too.
    Copy(usize, usize, usize),
}

fn damages() -> impl Strategy<Value = Vec<Damage>> {
    let at = || 12..3000usize;
    let damage = prop_oneof![
        (at(), 1..=255u8).prop_map(|(at, bits)| Damage::Flip(at, bits)),
        (at(), 1..600usize).prop_map(|(at, length)| Damage::Zeros(at, length)),
        (0..3000usize).prop_map(Damage::Cut),
        (at(), at(), 1..400usize).prop_map(|(from, to, length)| Damage::Copy(from, to, length)),
    ];
    prop::collection::vec(damage, 1..4)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn a_log_that_is_damaged_anywhere_tells_nothing_that_never_was(damages in damages()) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let fs = SimFs::new();
            let table = open(&fs).await.unwrap();
            for round in 0..3 {
                let aliases = (0..10).map(|number| (key(number), alias(number + 100 * round)));
                table.insert(aliases.collect()).await.unwrap();
            }
            table.close().await.unwrap();
            fs.edit(Path::new(LOG), |bytes| {
                for damage in damages {
                    let end = bytes.len();
                    match damage {
                        Damage::Flip(at, bits) if at < end => bytes[at] ^= bits,
                        Damage::Zeros(at, length) if at < end => {
                            bytes[at..end.min(at + length)].fill(0);
                        }
                        Damage::Copy(from, to, length) if from.max(to) + length < end => {
                            bytes.copy_within(from..from + length, to);
                        }
                        Damage::Cut(at) => bytes.truncate(at),
                        _ => {}
                    }
                }
            });
            let table = open(&fs).await.unwrap();
            for number in 0..10 {
                if let Some(found) = table.find(&key(number)) {
                    let value = found.digest.size();
                    assert_eq!(found, alias(value));
                    assert_eq!(value % 100, number);
                }
            }
            table.insert(some(0..10)).await.unwrap();
            assert!(is_there(&table, 0..10));
            table.close().await.unwrap();
            let table = open(&fs).await.unwrap();
            assert!(is_there(&table, 0..10));
            assert_eq!(table.len(), 10);
            table.close().await.unwrap();
        });
    }
}

/// An error of the disk is no damage: nothing may be dropped for it.
#[tokio::test]
async fn a_log_that_can_not_be_read_is_left_alone() {
    let fs = SimFs::new();
    let table = open(&fs).await.unwrap();
    table.insert(some(0..10)).await.unwrap();
    table.close().await.unwrap();
    for after in 0..2 {
        fail(&fs, Call::Read, LOG, after, 1);
        assert_eq!(open(&fs).await.unwrap_err().kind(), ErrorKind::Io);
    }
    assert!(is_there(&open(&fs).await.unwrap(), 0..10));
}

/// Groups fail, heal and are compacted at random; what was acknowledged stays.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_survives_any_row_of_faults() {
    for seed in 0..100u64 {
        let fs = SimFs::new();
        let table = open(&fs).await.unwrap();
        let mut there = Vec::new();
        for round in 0..40u64 {
            let random = ((seed + 1) * (round + 7919) * 2_654_435_761) >> 7;
            let call = match random % 8 {
                0 => Call::Write,
                1 => Call::Sync,
                2 => Call::Create,
                3 => Call::Rename,
                4 => Call::ShortWrite,
                _ => Call::Read,
            };
            fail(&fs, call, DIR, random / 8 % 3, random / 64 % 4);
            let number = round % 25;
            let inserted = table.insert(some(number..number + 1)).await.is_ok();
            let expected = inserted || there.contains(&number);
            assert_eq!(is_there(&table, number..number + 1), expected);
            if inserted && !there.contains(&number) {
                there.push(number);
            }
            if random / 512 % 5 == 0 {
                let _ = table.compact().await;
            }
        }
        let after = fs.restart(seed);
        let table = open(&after).await.unwrap();
        for number in there {
            assert!(
                is_there(&table, number..number + 1),
                "seed {seed}: {number}"
            );
        }
    }
}
