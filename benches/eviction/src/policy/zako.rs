//! What Zako's local store does (`zako_core/src/store/local`): whole segments go by
//! second chance, in two streams.
//!
//! Left out: leases, and with them what is passed over because much of it is leased;
//! deletes, partial uploads, and with them compaction, which finds nothing to do when
//! nothing is deleted.

use std::collections::{HashMap, VecDeque};

use super::Policy;
use crate::keys::{KeyMap, KeySet};
use crate::trace::Request;

/// What could be otherwise; the default is what the store does.
#[derive(Clone, Copy, Debug)]
pub struct Parameters {
    /// A segment is this part of the cap.
    pub segments: u64,
    /// The size of a segment in place of that, for tests.
    pub segment: Option<u64>,
    /// Blobs larger than this are units of their own; `None`: as the store does.
    pub large_from: Option<u64>,
    /// The share of the probation stream.
    pub probation_percent: u64,
    /// So many uses on probation keep a blob.
    pub kept_from: u8,
    /// A segment that has more than this to keep is passed over.
    pub passed_over_percent: u64,
    /// How many blobs that went are remembered.
    pub ghosts: usize,
    /// The bytes that those had may come to, in percent of the cap; `None`: to any number.
    pub ghosts_percent: Option<u64>,
    /// The room that the janitor keeps free, in segments.
    pub ahead: u64,
}

pub struct Zako {
    parameters: Parameters,
    cap: u64,
    segment: u64,
    large_from: u64,
    used: u64,
    moved: u64,
    blobs: KeyMap<Blob>,
    segments: HashMap<u32, Segment>,
    next_segment: u32,
    open: [Option<u32>; 2],
    queues: [VecDeque<(Unit, u64)>; 2],
    probation_bytes: u64,
    ghosts: Ghosts,
    next_tick: u32,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stream {
    Probation,
    Main,
}

#[derive(Clone, Copy)]
struct Blob {
    size: u64,
    uses: u8,
    /// `None`: a file.
    segment: Option<u32>,
}

#[derive(Default)]
struct Segment {
    keys: Vec<u64>,
    /// Where the next record begins.
    end: u64,
    length: u64,
}

#[derive(Clone, Copy)]
enum Unit {
    Segment(u32),
    File(u64),
}

#[derive(Default)]
struct Ghosts {
    order: VecDeque<(u64, u64)>,
    set: KeySet,
    /// Of those in the order.
    bytes: u64,
}

const HEADER: u64 = 64;
const OVERHEAD: u64 = 128;
const MOST_RECORDS: usize = 1 << 18;
const TICK: u32 = 30;

impl Default for Parameters {
    fn default() -> Self {
        Self {
            segments: 64,
            segment: None,
            large_from: None,
            probation_percent: 10,
            kept_from: 1,
            passed_over_percent: 50,
            ghosts: 1 << 17,
            ghosts_percent: Some(90),
            ahead: 2,
        }
    }
}

impl Zako {
    pub fn new(cap: u64, parameters: Parameters) -> Self {
        let cap = cap.max(1 << 10);
        let most = (256 << 20).min(cap / 8).max(64 << 10);
        let segment = (cap / parameters.segments).clamp(64 << 10, most);
        let segment = parameters.segment.unwrap_or(segment);
        let large_from = (1 << 20).min(segment / 4);
        Self {
            parameters,
            cap,
            segment,
            large_from: parameters.large_from.unwrap_or(large_from),
            used: 0,
            moved: 0,
            blobs: KeyMap::default(),
            segments: HashMap::new(),
            next_segment: 0,
            open: [None; 2],
            queues: [VecDeque::new(), VecDeque::new()],
            probation_bytes: 0,
            ghosts: Ghosts::default(),
            next_tick: TICK,
        }
    }

    fn has_room(&self, bytes: u64) -> bool {
        self.used + bytes <= self.cap.saturating_sub(self.segment)
    }

    fn free(&mut self, bytes: u64) -> bool {
        let mut left = 4 * (self.queues[0].len() + self.queues[1].len()) + 4;
        let mut rolled = false;
        while !self.has_room(bytes) {
            let Some((stream, unit)) = (left > 0).then(|| self.pop()).flatten() else {
                if rolled || left == 0 {
                    return false;
                }
                self.seal(Stream::Probation);
                self.seal(Stream::Main);
                rolled = true;
                continue;
            };
            left -= 1;
            match unit {
                Unit::Segment(id) => self.evict_segment(stream, id),
                Unit::File(key) => self.evict_file(stream, key),
            }
        }
        true
    }

    fn evict_segment(&mut self, stream: Stream, id: u32) {
        let Some(segment) = self.segments.get_mut(&id) else {
            return;
        };
        let least = match stream {
            Stream::Probation => self.parameters.kept_from,
            Stream::Main => 1,
        };
        let (keys, length) = (std::mem::take(&mut segment.keys), segment.length);
        let stays = |key: &u64| self.blobs[key].uses >= least;
        let (stay, go): (Vec<u64>, Vec<u64>) = keys.iter().copied().partition(stays);
        let staying: u64 = stay.iter().map(|key| footprint(self.blobs[key].size)).sum();
        if staying > length / 100 * self.parameters.passed_over_percent {
            for key in stay {
                self.age(key);
            }
            segment_of(&mut self.segments, id).keys = keys;
            self.push(stream, Unit::Segment(id), length);
            return;
        }
        for key in go {
            let blob = self.blobs.remove(&key);
            if stream == Stream::Probation {
                self.remember(key, blob.map_or(0, |blob| blob.size));
            }
        }
        for key in stay {
            let size = self.blobs[&key].size;
            let moved_to = self.append(Stream::Main, key, size);
            self.moved += footprint(size);
            self.age(key);
            if let Some(blob) = self.blobs.get_mut(&key) {
                blob.segment = Some(moved_to);
            }
        }
        self.segments.remove(&id);
        self.used -= length;
    }

    fn evict_file(&mut self, stream: Stream, key: u64) {
        let Blob { size, uses, .. } = self.blobs[&key];
        let least = match stream {
            Stream::Probation => self.parameters.kept_from,
            Stream::Main => 1,
        };
        if uses >= least {
            self.age(key);
            self.push(Stream::Main, Unit::File(key), size);
            return;
        }
        self.blobs.remove(&key);
        self.used -= size.next_multiple_of(4096);
        if stream == Stream::Probation {
            self.remember(key, size);
        }
    }

    fn remember(&mut self, key: u64, size: u64) {
        let percent = self.parameters.ghosts_percent;
        let bytes = percent.map_or(u64::MAX, |percent| self.cap / 100 * percent);
        self.ghosts.add(key, size, self.parameters.ghosts, bytes);
    }

    fn age(&mut self, key: u64) {
        if let Some(blob) = self.blobs.get_mut(&key) {
            blob.uses = blob.uses.saturating_sub(1);
        }
    }

    /// Adds a record; the segment that it is in.
    fn append(&mut self, stream: Stream, key: u64, size: u64) -> u32 {
        let record = footprint(size) - 48;
        if let Some(id) = self.open[stream as usize] {
            let segment = segment_of(&mut self.segments, id);
            if segment.keys.len() >= MOST_RECORDS || segment.end + record > self.segment {
                self.seal(stream);
            }
        }
        let id = self.open[stream as usize].unwrap_or_else(|| {
            self.next_segment += 1;
            self.used += OVERHEAD;
            let segment = segment_of(&mut self.segments, self.next_segment);
            (segment.end, segment.length) = (HEADER, OVERHEAD);
            self.next_segment
        });
        self.open[stream as usize] = Some(id);
        let segment = segment_of(&mut self.segments, id);
        segment.keys.push(key);
        segment.end += record;
        segment.length += footprint(size);
        self.used += footprint(size);
        id
    }

    fn seal(&mut self, stream: Stream) {
        if let Some(id) = self.open[stream as usize].take() {
            let length = self.segments[&id].length;
            self.push(stream, Unit::Segment(id), length);
        }
    }

    fn push(&mut self, stream: Stream, unit: Unit, bytes: u64) {
        self.queues[stream as usize].push_back((unit, bytes));
        if stream == Stream::Probation {
            self.probation_bytes += bytes;
        }
    }

    fn pop(&mut self) -> Option<(Stream, Unit)> {
        let share = self.cap / 100 * self.parameters.probation_percent;
        let [probation, main] = &mut self.queues;
        if self.probation_bytes > share || main.is_empty() {
            let (unit, bytes) = probation.pop_front()?;
            self.probation_bytes -= bytes;
            return Some((Stream::Probation, unit));
        }
        Some((Stream::Main, main.pop_front()?.0))
    }
}

impl Ghosts {
    fn add(&mut self, key: u64, size: u64, most: usize, bytes: u64) {
        let size = size.next_multiple_of(16);
        if size <= bytes && self.set.insert(key) {
            self.order.push_back((key, size));
            self.bytes += size;
            while (self.order.len() > most || self.bytes > bytes)
                && let Some((oldest, size)) = self.order.pop_front()
            {
                self.set.remove(&oldest);
                self.bytes -= size;
            }
        }
    }
}

impl Policy for Zako {
    fn request(&mut self, request: Request) -> bool {
        let Request { time, key, size } = request;
        if time >= self.next_tick {
            self.next_tick = time + TICK;
            self.free(self.parameters.ahead * self.segment);
        }
        if let Some(blob) = self.blobs.get_mut(&key) {
            blob.uses = (blob.uses + 1).min(3);
            return true;
        }
        let large = size > self.large_from;
        let room = match large {
            true => size.next_multiple_of(4096),
            false => footprint(size),
        };
        if room > self.cap.saturating_sub(self.segment) || !self.free(room) {
            return false;
        }
        let stream = match self.ghosts.set.remove(&key) {
            true => Stream::Main,
            false => Stream::Probation,
        };
        let segment = match large {
            true => {
                self.used += room;
                self.push(stream, Unit::File(key), size);
                None
            }
            false => Some(self.append(stream, key, size)),
        };
        let blob = Blob {
            size,
            uses: 0,
            segment,
        };
        self.blobs.insert(key, blob);
        false
    }

    fn moved(&self) -> u64 {
        self.moved
    }
}

/// What a record takes, with its entry in the footer.
fn footprint(size: u64) -> u64 {
    (HEADER + size).next_multiple_of(16) + 48
}

fn segment_of(segments: &mut HashMap<u32, Segment>, id: u32) -> &mut Segment {
    segments.entry(id).or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Wants blobs of this size, a letter each; the letters of those that were there.
    fn hits(zako: &mut Zako, size: u64, letters: &str) -> String {
        let mut want = |letter: u8| {
            zako.request(Request {
                time: 0,
                key: u64::from(letter),
                size,
            })
        };
        letters
            .bytes()
            .filter(|letter| want(*letter))
            .map(char::from)
            .collect()
    }

    /// Room for ten files of a block each.
    fn files() -> Zako {
        let parameters = Parameters {
            segment: Some(4096),
            large_from: Some(0),
            ..Parameters::default()
        };
        Zako::new(11 * 4096, parameters)
    }

    /// Room for three segments of `count` records of 64 bytes each.
    fn segments(count: u64) -> Zako {
        let segment = HEADER + count * 128 + 80;
        let limit = 3 * (OVERHEAD + count * footprint(64));
        let parameters = Parameters {
            segment: Some(segment),
            large_from: Some(64),
            ..Parameters::default()
        };
        Zako::new(limit + segment, parameters)
    }

    #[test]
    fn a_file_that_was_used_outlives_a_scan() {
        let mut zako = files();
        assert_eq!(hits(&mut zako, 4096, "aabcdefghij"), "a");
        assert_eq!(hits(&mut zako, 4096, "klmnopqrst"), "");
        // What came before L went.
        assert_eq!(hits(&mut zako, 4096, "a"), "a");
        assert_eq!(hits(&mut zako, 4096, "lmnopqrst"), "lmnopqrst");
    }

    #[test]
    fn a_ghost_comes_back_to_the_main_stream() {
        let mut zako = files();
        assert_eq!(hits(&mut zako, 4096, "abcdefghijk"), "");
        assert_eq!(hits(&mut zako, 4096, "a"), "");
        assert_eq!(hits(&mut zako, 4096, "lmnopqrstuvw"), "");
        assert_eq!(hits(&mut zako, 4096, "a"), "a");
    }

    #[test]
    fn ghosts_are_bounded_by_number_and_bytes() {
        let mut ghosts = Ghosts::default();
        ghosts.add(1, 10, 2, 100);
        ghosts.add(2, 10, 2, 100);
        ghosts.add(3, 10, 2, 100);
        assert!(!ghosts.set.contains(&1) && ghosts.set.contains(&2));
        ghosts.add(4, 95, 2, 100);
        assert!(!ghosts.set.contains(&2) && !ghosts.set.contains(&3));
        assert!(ghosts.set.contains(&4));
        // More than all that is remembered.
        ghosts.add(5, 101, 2, 100);
        assert!(ghosts.set.contains(&4) && !ghosts.set.contains(&5));
    }

    #[test]
    fn a_segment_goes_and_what_was_used_is_moved() {
        let mut zako = segments(2);
        assert_eq!(hits(&mut zako, 64, "abcdef"), "");
        assert_eq!(hits(&mut zako, 64, "a"), "a");
        // G: the segment of A and B goes, A is moved. H: that of C and D goes.
        assert_eq!(hits(&mut zako, 64, "gh"), "");
        assert_eq!(zako.moved(), footprint(64));
        assert_eq!(hits(&mut zako, 64, "aefgh"), "aefgh");
        assert!(!zako.blobs.contains_key(&u64::from(b'b')));
        assert!(!zako.blobs.contains_key(&u64::from(b'c')));
    }

    #[test]
    fn a_segment_with_little_to_free_is_passed_over_once() {
        let mut zako = segments(3);
        assert_eq!(hits(&mut zako, 64, "abcdefghi"), "");
        assert_eq!(hits(&mut zako, 64, "abc"), "abc");
        // J: the segment of A, B and C is passed over, that of D, E and F goes.
        assert_eq!(hits(&mut zako, 64, "j"), "");
        assert_eq!(zako.moved(), 0);
        assert_eq!(hits(&mut zako, 64, "ghij"), "ghij");
        let held = |letter| zako.blobs.contains_key(&u64::from(letter));
        assert!(held(b'a') && !held(b'd') && !held(b'f'));
        assert_eq!(zako.blobs[&u64::from(b'a')].uses, 0);
    }

    #[test]
    fn the_room_that_is_used_stays_below_the_cap() {
        let mut random = fastrand::Rng::with_seed(1);
        let cap = 8 << 20;
        let mut zako = Zako::new(cap, Parameters::default());
        for time in 0..20_000 {
            let key = random.u64(0..3_000) * random.u64(0..2);
            zako.request(Request {
                time,
                key,
                size: key * key % 50_000,
            });
            let live: u64 = zako.segments.values().map(|it| it.length).sum();
            let files = zako.blobs.values().filter(|it| it.segment.is_none());
            let files: u64 = files.map(|it| it.size.next_multiple_of(4096)).sum();
            assert_eq!(zako.used, live + files);
            assert!(zako.used <= cap);
        }
    }
}
