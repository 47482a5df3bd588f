//! How much memory the process may pin for a card (`RLIMIT_MEMLOCK`).

use std::fmt;

use rustix::process::{Resource, getrlimit};
use serde::Serialize;

/// What makes the limit higher.
pub const HOW_TO_RAISE: &str = "raise the limit with `ulimit -l unlimited` in the shell that \
     starts it (as root, or with a line in /etc/security/limits.conf), or with \
     `LimitMEMLOCK=infinity` in its systemd unit";

/// The bit of `CAP_IPC_LOCK` in the masks of `/proc/self/status`.
const CAP_IPC_LOCK: u32 = 14;

/// What the process may pin, and what it has pinned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct MemoryLimit {
    /// Bytes; `None` is no limit.
    pub limit: Option<u64>,
    /// The limit doesn't count for this process (`CAP_IPC_LOCK`).
    pub exempt: bool,
    /// Bytes that are pinned now.
    pub pinned: u64,
}

impl MemoryLimit {
    /// That of this process, now.
    pub fn current() -> Self {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let capabilities = field(&status, "CapEff")
            .and_then(|mask| u64::from_str_radix(mask, 16).ok())
            .unwrap_or(0);
        let pinned: u64 = field(&status, "VmPin")
            .and_then(|text| text.trim_end_matches(" kB").trim().parse().ok())
            .unwrap_or(0);
        Self {
            limit: getrlimit(Resource::Memlock).current,
            exempt: capabilities & (1 << CAP_IPC_LOCK) != 0,
            pinned: pinned.saturating_mul(1024),
        }
    }

    /// Bytes that may be pinned besides, `None` if there is no limit.
    pub fn room(&self) -> Option<u64> {
        match self.limit {
            Some(limit) if !self.exempt => Some(limit.saturating_sub(self.pinned)),
            _ => None,
        }
    }
}

impl fmt::Display for MemoryLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.limit {
            None => write!(f, "unlimited")?,
            Some(bytes) => write!(f, "{} KiB", bytes / 1024)?,
        }
        if self.exempt && self.limit.is_some() {
            write!(f, ", which doesn't count here (CAP_IPC_LOCK)")?;
        }
        write!(f, "; {} KiB pinned", self.pinned / 1024)
    }
}

fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_what_the_limit_leaves() {
        let limited = MemoryLimit {
            limit: Some(8192),
            exempt: false,
            pinned: 4096,
        };
        assert_eq!(limited.room(), Some(4096));
        assert_eq!(limited.to_string(), "8 KiB; 4 KiB pinned");
        let over = MemoryLimit {
            pinned: 9000,
            ..limited
        };
        assert_eq!(over.room(), Some(0));
        let exempt = MemoryLimit {
            exempt: true,
            ..limited
        };
        assert_eq!(exempt.room(), None);
        let unlimited = MemoryLimit {
            limit: None,
            ..limited
        };
        assert_eq!(unlimited.room(), None);
    }

    #[test]
    fn fields_of_the_status_are_found() {
        let status = "Name:\tzako\nVmPin:\t      12 kB\nCapEff:\t00000000a80425fb\n";
        assert_eq!(field(status, "VmPin"), Some("12 kB"));
        assert_eq!(field(status, "CapEff"), Some("00000000a80425fb"));
        assert_eq!(field(status, "Vm"), None);
    }
}
