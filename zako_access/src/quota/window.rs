//! Bytes of the last day.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Hours that count: the one that runs and those before it.
const HOURS: u64 = 24;

const HOUR: u64 = 3600;

/// Bytes by hour, the last 24.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Window {
    /// Hours since 1970 and their bytes, in order.
    hours: Vec<(u64, u64)>,
}

impl Window {
    /// Adds bytes, if with them there are at most `most`.
    ///
    /// # Errors
    /// How long it takes until there are fewer by so many, if that can be.
    pub(super) fn add(
        &mut self,
        seconds: u64,
        bytes: u64,
        most: u64,
    ) -> Result<(), Option<Duration>> {
        self.forget(seconds);
        let sum = self.sum();
        let over = sum.saturating_add(bytes).saturating_sub(most);
        if over > 0 {
            return Err(self.until_freed(seconds, over));
        }
        let hour = seconds / HOUR;
        match self.hours.last_mut() {
            // A clock that was set back goes on with the hour that it had.
            Some((last, sum)) if *last >= hour => *sum += bytes,
            _ => self.hours.push((hour, bytes)),
        }
        Ok(())
    }

    /// Takes back bytes that were added lately.
    pub(super) fn remove(&mut self, mut bytes: u64) {
        for (_, sum) in self.hours.iter_mut().rev() {
            let taken = bytes.min(*sum);
            *sum -= taken;
            bytes -= taken;
        }
    }

    /// Whether nothing counts.
    pub(super) fn is_empty(&mut self, seconds: u64) -> bool {
        self.forget(seconds);
        self.sum() == 0
    }

    fn sum(&self) -> u64 {
        self.hours.iter().map(|(_, bytes)| bytes).sum()
    }

    fn forget(&mut self, seconds: u64) {
        let hour = seconds / HOUR;
        self.hours.retain(|(then, _)| then + HOURS > hour);
    }

    fn until_freed(&self, seconds: u64, over: u64) -> Option<Duration> {
        let mut freed = 0;
        for (hour, bytes) in &self.hours {
            freed += bytes;
            if freed >= over {
                let then = (hour + HOURS) * HOUR;
                return Some(Duration::from_secs(then.saturating_sub(seconds)));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 24 * HOUR;

    #[test]
    fn a_day_later_there_is_room_again() {
        let mut window = Window::default();
        let noon = 500_000 * HOUR;
        window.add(noon, 60, 100).unwrap();
        window.add(noon + HOUR, 30, 100).unwrap();
        let full = window.add(noon + 2 * HOUR, 11, 100).unwrap_err();
        assert_eq!(full, Some(Duration::from_secs(22 * HOUR)));
        let fuller = window.add(noon + 2 * HOUR, 71, 100).unwrap_err();
        assert_eq!(fuller, Some(Duration::from_secs(23 * HOUR)));
        assert_eq!(window.add(noon, 101, 100), Err(None));
        window.add(noon + 2 * HOUR, 10, 100).unwrap();
        window.remove(25);
        window.add(noon + 2 * HOUR, 25, 100).unwrap();
        assert!(window.add(noon + DAY - 1, 1, 100).is_err());
        window.add(noon + DAY, 60, 100).unwrap();
        assert!(!window.is_empty(noon + DAY));
        assert!(window.is_empty(noon + 2 * DAY));
    }

    #[test]
    fn a_clock_that_is_set_back_frees_nothing() {
        let mut window = Window::default();
        window.add(10 * DAY, 100, 100).unwrap();
        assert!(window.add(9 * DAY, 1, 100).is_err());
    }
}
