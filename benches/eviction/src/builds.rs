//! A made-up trace of a build cache: what a team's builds ask for over some weeks.
//!
//! A project has targets. Each has a version that changes when it, or something that
//! it is built of, is edited: the targets stand in an order, an edit changes the
//! target and some of those behind it, fewer the farther back it is in the order.
//! What a build asks for at a target is the result of its action, a small blob, and
//! the outputs, one or more; both are named after target, version and configuration.
//!
//! - The main line takes commits all day. Each is built at once by several fresh
//!   machines, which ask for all targets of their part of the graph, within minutes
//!   of each other: a burst.
//! - Branches fork from the main line, live for some days, get commits of their own,
//!   and share what they have not changed. Each of their commits is built by one
//!   machine, and by its author, who asks only for what changed and a few others.
//! - Now and then somebody builds an older commit of the main line; the farther back
//!   the less often.
//! - One-off builds have a configuration of their own (coverage, sanitizers, an
//!   experiment): all that they ask for is new, and hardly ever wanted again.
//! - Outputs have log-normal sizes; one in eight comes of linking and is larger by
//!   two orders, with a heavy (Pareto) tail.

use fastrand::Rng;

use crate::trace::Request;

/// How much is built.
#[derive(Clone, Copy, Debug)]
pub struct Team {
    pub days: u32,
    pub targets: usize,
    pub commits_a_day: u32,
    /// Machines that build each commit of the main line.
    pub shards: u32,
    pub branches: usize,
    pub branch_commits_a_day: u32,
    pub one_offs_a_day: u32,
    pub old_builds_a_day: u32,
}

impl Default for Team {
    fn default() -> Self {
        Self {
            days: 14,
            targets: 2_500,
            commits_a_day: 12,
            shards: 3,
            branches: 10,
            branch_commits_a_day: 3,
            one_offs_a_day: 2,
            old_builds_a_day: 4,
        }
    }
}

/// The version of each target at one commit.
type Versions = Vec<u32>;

struct Builds {
    team: Team,
    random: Rng,
    versions: u32,
    main: Vec<Versions>,
    trace: Vec<Request>,
}

struct Branch {
    versions: Versions,
    ends: u32,
}

#[derive(Clone, Copy)]
enum Event {
    Commit,
    BranchCommit(usize),
    OneOff,
    Old,
}

const DAY: u32 = 24 * 60 * 60;
/// The main line's configuration.
const USUAL: u64 = 0;

/// The requests of all builds, in the order of their times.
pub fn trace(team: Team, seed: u64) -> Vec<Request> {
    let mut builds = Builds {
        team,
        random: Rng::with_seed(seed),
        versions: 0,
        main: vec![vec![0; team.targets]],
        trace: Vec::new(),
    };
    let mut branches: Vec<Branch> = (0..team.branches).map(|_| builds.fork(0)).collect();
    for day in 0..team.days {
        for (time, event) in builds.events(day) {
            builds.happen(time, event, &mut branches);
        }
    }
    builds.trace.sort_by_key(|request| request.time);
    builds.trace
}

impl Builds {
    /// What happens on a day, within ten hours of it.
    fn events(&mut self, day: u32) -> Vec<(u32, Event)> {
        let team = self.team;
        let mut events = Vec::new();
        let mut add = |count, event| {
            for _ in 0..count {
                let time = day * DAY + 8 * 3600 + self.random.u32(0..10 * 3600);
                events.push((time, event));
            }
        };
        add(team.commits_a_day, Event::Commit);
        for branch in 0..team.branches {
            add(team.branch_commits_a_day, Event::BranchCommit(branch));
        }
        add(team.one_offs_a_day, Event::OneOff);
        add(team.old_builds_a_day, Event::Old);
        events.sort_by_key(|(time, _)| *time);
        events
    }

    fn happen(&mut self, time: u32, event: Event, branches: &mut [Branch]) {
        match event {
            Event::Commit => {
                let mut versions = self.head();
                self.edit(&mut versions);
                for shard in 0..self.team.shards {
                    let start = time + self.random.u32(0..120);
                    // Half of the graph is wanted by all, the rest is shared out.
                    let shards = self.team.shards;
                    self.build(start, &versions, USUAL, |target| {
                        target % 2 == 0 || (target / 2) as u32 % shards == shard
                    });
                }
                self.main.push(versions);
            }
            Event::BranchCommit(at) => {
                if branches[at].ends < time {
                    branches[at] = self.fork(time);
                }
                let before = branches[at].versions.clone();
                let mut versions = before.clone();
                self.edit(&mut versions);
                let mut random = self.random.fork();
                let mut wanted =
                    |target: usize| versions[target] != before[target] || random.u32(0..100) < 3;
                // The author first, then a machine from nothing.
                self.build(time, &versions, USUAL, &mut wanted);
                self.build(time + 600, &versions, USUAL, |_| true);
                branches[at].versions = versions;
            }
            Event::OneOff => {
                let configuration = self.random.u64(1..);
                let versions = self.head();
                self.build(time, &versions, configuration, |_| true);
                if self.random.u32(0..10) < 2 {
                    self.build(time + 1800, &versions, configuration, |_| true);
                }
            }
            Event::Old => {
                let back = exponential(&mut self.random, 30.0) as usize;
                let at = (self.main.len() - 1).saturating_sub(back);
                let versions = self.main[at].clone();
                self.build(time, &versions, USUAL, |_| true);
            }
        }
    }

    fn head(&self) -> Versions {
        self.main.last().cloned().unwrap_or_default()
    }

    fn fork(&mut self, time: u32) -> Branch {
        let life = exponential(&mut self.random, 3.0 * f64::from(DAY));
        Branch {
            versions: self.head(),
            ends: time.saturating_add(life as u32),
        }
    }

    /// Edits one to four targets; later ones are edited more often.
    fn edit(&mut self, versions: &mut Versions) {
        let count = versions.len();
        for _ in 0..self.random.usize(1..=4) {
            let place = self.random.f64().powf(0.3);
            let edited = ((place * count as f64) as usize).min(count - 1);
            self.versions += 1;
            versions[edited] = self.versions;
            for version in &mut versions[edited + 1..] {
                if self.random.u32(0..100) < 30 {
                    *version = self.versions;
                }
            }
        }
    }

    /// Asks for what a build wants, over some minutes.
    fn build(
        &mut self,
        start: u32,
        versions: &Versions,
        configuration: u64,
        mut wanted: impl FnMut(usize) -> bool,
    ) {
        for (target, version) in versions.iter().enumerate() {
            if !wanted(target) {
                continue;
            }
            let time = start + (target * 600 / versions.len()) as u32;
            // The action's own: how many outputs it has does not change.
            let mut shape = Rng::with_seed(target as u64);
            let outputs = 1 + exponential(&mut shape, 1.0) as u64;
            let action = mix(mix(target as u64 + 1, u64::from(*version)), configuration);
            let size = log_normal(&mut Rng::with_seed(action), 600.0, 0.6) as u64;
            self.ask(time, mix(action, 0), size);
            for output in 1..=outputs {
                let linked = shape.u32(0..8) == 0;
                let median = log_normal(&mut shape, 12e3, 1.5);
                // Sizes change little from version to version.
                let change = log_normal(&mut Rng::with_seed(action ^ output), 1.0, 0.05);
                let factor = if linked {
                    30.0 * pareto(&mut shape, 1.2)
                } else {
                    1.0
                };
                let size = (median * change * factor).min(1e9) as u64;
                self.ask(time, mix(action, output), size);
            }
        }
    }

    fn ask(&mut self, time: u32, key: u64, size: u64) {
        let size = size.max(16);
        self.trace.push(Request { time, key, size });
    }
}

/// One name from two (splitmix64).
fn mix(a: u64, b: u64) -> u64 {
    let mut mixed = a.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ b.wrapping_add(0x632b_e59b_d9b4_e019);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

fn exponential(random: &mut Rng, mean: f64) -> f64 {
    -mean * (1.0 - random.f64()).ln()
}

/// From 1 on.
fn pareto(random: &mut Rng, alpha: f64) -> f64 {
    (1.0 - random.f64()).powf(-1.0 / alpha)
}

fn log_normal(random: &mut Rng, median: f64, sigma: f64) -> f64 {
    // Box and Muller.
    let radius = (-2.0 * (1.0 - random.f64()).ln()).sqrt();
    let normal = radius * (std::f64::consts::TAU * random.f64()).cos();
    median * (sigma * normal).exp()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::Summary;

    fn small() -> Team {
        Team {
            days: 3,
            targets: 100,
            ..Team::default()
        }
    }

    #[test]
    fn a_seed_makes_one_trace() {
        let one = trace(small(), 1);
        assert_eq!(one, trace(small(), 1));
        assert_ne!(one, trace(small(), 2));
        assert!(one.is_sorted_by_key(|request| request.time));
    }

    #[test]
    fn a_name_has_one_size() {
        let mut sizes = std::collections::HashMap::new();
        for request in trace(small(), 1) {
            assert_eq!(
                *sizes.entry(request.key).or_insert(request.size),
                request.size
            );
        }
    }

    #[test]
    fn one_off_builds_are_wanted_once() {
        let team = Team {
            commits_a_day: 0,
            branches: 0,
            old_builds_a_day: 0,
            one_offs_a_day: 1,
            days: 1,
            targets: 100,
            ..Team::default()
        };
        let summary = Summary::of(&trace(team, 3));
        assert!(summary.once == summary.blobs || summary.once == 0);
        let none = Team {
            one_offs_a_day: 0,
            ..team
        };
        assert!(trace(none, 3).is_empty());
    }
}
