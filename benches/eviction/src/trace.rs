//! Requests, and traces of others read from files.

use std::path::Path;

use crate::keys::{KeyMap, KeySet};

/// Somebody wants a blob; what is not there is stored then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Seconds since some moment.
    pub time: u32,
    pub key: u64,
    /// Bytes.
    pub size: u64,
}

/// What a trace is like.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Summary {
    pub requests: u64,
    pub bytes: u64,
    pub blobs: u64,
    /// Of all blobs, each once.
    pub unique_bytes: u64,
    /// Of the blobs, those that are wanted once only.
    pub once: u64,
}

impl Summary {
    pub fn of(trace: &[Request]) -> Self {
        let mut summary = Self::default();
        let (mut seen, mut again) = (KeySet::default(), KeySet::default());
        for request in trace {
            summary.requests += 1;
            summary.bytes += request.size;
            if seen.insert(request.key) {
                summary.blobs += 1;
                summary.unique_bytes += request.size;
            } else {
                again.insert(request.key);
            }
        }
        summary.once = summary.blobs - again.len() as u64;
        summary
    }
}

/// Reads a trace: `.csv` with lines `time,key,size` (others are skipped), anything
/// else as libCacheSim's oracleGeneral, 24 bytes a request.
pub fn read(path: &Path) -> std::io::Result<Vec<Request>> {
    let mut trace = if path.extension().is_some_and(|end| end == "csv") {
        let text = std::fs::read_to_string(path)?;
        text.lines().filter_map(line).collect()
    } else {
        oracle_general(&std::fs::read(path)?)
    };
    same_sizes(&mut trace);
    Ok(trace)
}

fn line(line: &str) -> Option<Request> {
    let mut fields = line.split(',').map(str::trim);
    let time: f64 = fields.next()?.parse().ok()?;
    let key = fields.next()?;
    Some(Request {
        time: time as u32,
        key: key.parse().unwrap_or_else(|_| named(key)),
        size: fields.next()?.parse().ok()?,
    })
}

/// FNV-1a.
fn named(key: &str) -> u64 {
    key.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    })
}

/// Records of `u32` time, `u64` key, `u32` size and `i64` next access.
fn oracle_general(bytes: &[u8]) -> Vec<Request> {
    let number = |bytes: &[u8]| {
        bytes
            .iter()
            .rev()
            .fold(0u64, |number, byte| number << 8 | u64::from(*byte))
    };
    bytes
        .chunks_exact(24)
        .map(|record| Request {
            time: number(&record[0..4]) as u32,
            key: number(&record[4..12]),
            size: number(&record[12..16]),
        })
        .collect()
}

/// A blob under a content address has one size: that of its first request.
fn same_sizes(trace: &mut [Request]) {
    let mut sizes = KeyMap::default();
    for request in trace {
        request.size = *sizes.entry(request.key).or_insert(request.size);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_and_others_skipped() {
        assert_eq!(line("time,key,size"), None);
        let read = line("7.9, 12 ,300");
        let expected = Request {
            time: 7,
            key: 12,
            size: 300,
        };
        assert_eq!(read, Some(expected));
        assert_eq!(line("1,a,2").map(|it| it.key), Some(named("a")));
    }

    #[test]
    fn records_are_read() {
        let mut bytes = vec![0; 24];
        bytes[0] = 5;
        bytes[5] = 1;
        bytes[12] = 9;
        bytes.push(1);
        let expected = Request {
            time: 5,
            key: 256,
            size: 9,
        };
        assert_eq!(oracle_general(&bytes), [expected]);
    }

    #[test]
    fn what_is_wanted_once_is_counted() {
        let at = |key, size| Request { time: 0, key, size };
        let summary = Summary::of(&[at(1, 10), at(2, 5), at(1, 10)]);
        let expected = Summary {
            requests: 3,
            bytes: 25,
            blobs: 2,
            unique_bytes: 15,
            once: 1,
        };
        assert_eq!(summary, expected);
    }
}
