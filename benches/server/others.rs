//! What other processes do meanwhile.

use std::time::{Duration, Instant};

use crate::Outcome;

/// The CPU time of other processes and of the kernel's own threads, from its making
/// on.
pub(crate) struct Others {
    start: Instant,
    ticks: u64,
}

impl Others {
    pub(crate) fn watch() -> Outcome<Self> {
        Ok(Self {
            start: Instant::now(),
            ticks: ticks()?,
        })
    }

    /// Their share of the time of all cores, 0 to 1.
    pub(crate) fn share(&self) -> Outcome<f64> {
        let cores = std::thread::available_parallelism()?.get() as f64;
        let all = self.start.elapsed().as_secs_f64() * cores;
        let used = ticks()?.saturating_sub(self.ticks) as f64;
        Ok(used / rustix::param::clock_ticks_per_second() as f64 / all)
    }
}

/// Waits until others leave nine tenths of the machine, but not longer than `most`.
pub(crate) fn wait_for_quiet(most: Duration) -> Outcome<()> {
    let start = Instant::now();
    while start.elapsed() < most {
        let others = Others::watch()?;
        std::thread::sleep(Duration::from_secs(1));
        if others.share()? < 0.1 {
            break;
        }
    }
    Ok(())
}

/// The ticks that all cores were busy, less those of this process and of the
/// children that it has waited for.
fn ticks() -> Outcome<u64> {
    let all = std::fs::read_to_string("/proc/stat")?;
    let all = all.lines().next().ok_or("/proc/stat is empty")?;
    let mut busy = 0;
    // user, nice, system, idle, iowait, irq, softirq, steal
    for (at, field) in all.split_whitespace().skip(1).take(8).enumerate() {
        if at != 3 && at != 4 {
            busy += field.parse::<u64>()?;
        }
    }
    let own = std::fs::read_to_string("/proc/self/stat")?;
    let fields = own.rsplit_once(')').ok_or("no name in stat")?.1;
    let mut used = 0;
    for field in fields.split_whitespace().skip(11).take(4) {
        used += field.parse::<u64>()?;
    }
    Ok(busy.saturating_sub(used))
}
