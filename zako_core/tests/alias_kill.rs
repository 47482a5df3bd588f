//! `kill -9` of a process that has a table of aliases open, again and again.
//!
//! The process is this program itself, which is told by a variable what to do. It prints
//! each change before it begins it and after it is acknowledged.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod alias_support;

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use alias_support::{alias, key};
use zako_core::alias::{AliasOptions, AliasTable};

/// The folder of the table, for the process that is killed.
const FOLDER: &str = "ZAKO_ALIAS_KILL_FOLDER";
const LIVES: u64 = 5;
const KEYS: u64 = 500;

#[test]
fn what_was_acknowledged_survives_kill_9() {
    if let Some(folder) = std::env::var_os(FOLDER) {
        return change_until_killed(Path::new(&folder));
    }
    let folder = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    // What each key may name; 0 is nothing.
    let mut model: HashMap<u64, Vec<u64>> = (0..KEYS).map(|number| (number, vec![0])).collect();
    let mut acknowledged = 0;
    for life in 0..LIVES {
        let lines = kill_after(folder.path(), 30 + life * 331 % 350);
        for line in lines {
            let mut words = line.split(' ');
            let word = words.next();
            let mut number = || words.next().and_then(|word| word.parse::<u64>().ok());
            let (Some(from), Some(to), Some(value)) = (number(), number(), number()) else {
                continue;
            };
            for number in from..to {
                let number = number % KEYS;
                match word {
                    Some("begin") => model.get_mut(&number).unwrap().push(value),
                    Some("end") => {
                        model.insert(number, vec![value]);
                        acknowledged += 1;
                    }
                    _ => panic!("{line}"),
                }
            }
        }
        let table = AliasTable::open(folder.path(), AliasOptions::default());
        let table = runtime.block_on(table).unwrap();
        assert_eq!(table.damaged(), 0);
        for (number, allowed) in &mut model {
            let found = table
                .find(&key(*number))
                .map_or(0, |found| found.digest.size());
            assert!(
                allowed.contains(&found),
                "life {life}: {number}: {found}, {allowed:?}"
            );
            *allowed = vec![found];
        }
        runtime.block_on(table.close()).unwrap();
    }
    assert!(acknowledged > 500, "{acknowledged}");
}

/// Starts the process, kills it after so many lines, and gives all whole lines.
fn kill_after(folder: &Path, most: u64) -> Vec<String> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "what_was_acknowledged_survives_kill_9",
            "--nocapture",
        ])
        .env(FOLDER, folder)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut lines = Vec::new();
    let mut line = String::new();
    let mut is_killed = false;
    while output.read_line(&mut line).unwrap() > 0 {
        // One that was cut off was not said.
        if line.ends_with('\n') {
            lines.push(line.trim().to_owned());
        }
        line.clear();
        if lines.len() as u64 >= most && !is_killed {
            child.kill().unwrap();
            is_killed = true;
        }
    }
    assert!(is_killed, "it ended by itself: {:?}", lines.last());
    child.wait().unwrap();
    lines.retain(|line| line.starts_with("begin") || line.starts_with("end"));
    lines
}

fn change_until_killed(folder: &Path) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let table = AliasTable::open(folder, AliasOptions::default());
    let table = runtime.block_on(table).unwrap();
    // The log is written anew all the time, too.
    runtime.spawn({
        let table = table.clone();
        async move { while table.compact().await.is_ok() {} }
    });
    let mut random = u64::from(std::process::id());
    let say = |word: &str, from: u64, to: u64, value: u64| {
        let mut output = std::io::stdout().lock();
        writeln!(output, "{word} {from} {to} {value}").unwrap();
        output.flush().unwrap();
    };
    loop {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        let (from, value) = (random >> 33, random >> 40 & 3);
        let to = from + (random >> 20 & 7) + 1;
        let keys = (from..to).map(|number| key(number % KEYS));
        say("begin", from, to, value);
        if value == 0 {
            runtime.block_on(table.remove(keys.collect())).unwrap();
        } else {
            let aliases = keys.map(|key| (key, alias(value))).collect();
            runtime.block_on(table.insert(aliases)).unwrap();
        }
        say("end", from, to, value);
    }
}
