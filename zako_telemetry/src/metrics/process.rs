//! The process as the kernel sees it.

use rustix::param::page_size;
use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};

/// What the process takes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Process {
    pub(super) cpu_seconds: f64,
    pub(super) resident_bytes: Option<u64>,
    pub(super) virtual_bytes: Option<u64>,
    pub(super) open_fds: Option<u64>,
    /// `None` if there is no limit.
    pub(super) max_fds: Option<u64>,
    pub(super) threads: Option<u64>,
}

impl Process {
    /// What it takes now; what this system doesn't tell is left out.
    pub(super) fn read() -> Self {
        let (virtual_bytes, resident_bytes) = memory().unzip();
        Self {
            cpu_seconds: cpu_seconds(),
            resident_bytes,
            virtual_bytes,
            open_fds: entries("/proc/self/fd"),
            max_fds: getrlimit(Resource::Nofile).current,
            threads: entries("/proc/self/task"),
        }
    }
}

fn cpu_seconds() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Virtual and resident bytes.
fn memory() -> Option<(u64, u64)> {
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    let mut pages = text.split(' ').map_while(|word| word.parse::<u64>().ok());
    let page = page_size() as u64;
    Some((pages.next()? * page, pages.next()? * page))
}

fn entries(folder: &str) -> Option<u64> {
    Some(std::fs::read_dir(folder).ok()?.count() as u64)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_tells() {
        let process = Process::read();
        assert!(process.cpu_seconds > 0.0);
        assert!(process.resident_bytes > Some(0));
        assert!(process.virtual_bytes > process.resident_bytes);
        // Standard input, output and error, or what a test runner has for them.
        assert!(process.open_fds > Some(0));
        assert!(process.threads > Some(0));
    }
}
