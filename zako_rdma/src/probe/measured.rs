//! What came of some exchanges.

use std::time::Duration;

use serde::Serialize;

/// What is tried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Exchange {
    /// Two-sided: there and back.
    Send,
    /// One-sided, from the server's memory.
    Read,
    /// One-sided, to the server's memory.
    Write,
}

/// Where an exchange goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Road {
    /// RDMA.
    Rdma,
    /// The control stream: gRPC.
    Grpc,
}

/// What came of one exchange of one size on one road.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    /// What was tried.
    pub exchange: Exchange,
    /// Where.
    pub road: Road,
    /// Bytes of each.
    pub size: u32,
    /// Exchanges made, one after the other and at once.
    pub rounds: u64,
    /// Half of them took no longer, one after the other.
    pub p50: Duration,
    /// 99 of 100 of them took no longer.
    pub p99: Duration,
    /// Bytes a second, with as many at once as there are slots. Those of an echo count once.
    pub rate: f64,
    /// Exchanges whose bytes were not those that were sent.
    pub wrong: u64,
}

impl Exchange {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Send, Self::Read, Self::Write];
}

impl Road {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::Rdma, Self::Grpc];
}

impl Measured {
    /// Whether all bytes were right.
    pub fn is_right(&self) -> bool {
        self.wrong == 0
    }
}

/// The time that so many of 100 don't exceed (nearest rank); zero of none.
pub(super) fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    let rank = (sorted.len() * percent).div_ceil(100);
    let time = sorted.get(rank.saturating_sub(1));
    time.copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_by_nearest_rank() {
        let times: Vec<Duration> = (1..=200).map(Duration::from_millis).collect();
        assert_eq!(percentile(&times, 50), Duration::from_millis(100));
        assert_eq!(percentile(&times, 99), Duration::from_millis(198));
        assert_eq!(percentile(&times[..1], 50), Duration::from_millis(1));
        assert_eq!(percentile(&times[..3], 99), Duration::from_millis(3));
        assert_eq!(percentile(&[], 50), Duration::ZERO);
    }
}
