//! Progress on a terminal; nothing anywhere else.

use std::fmt::Display;
use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use zako_core::transfer::Progress;

use crate::output::{Output, note};

/// A bar on stderr that counts bytes. Hidden when stderr is no terminal or JSON is
/// asked for.
#[derive(Clone, Debug)]
pub(crate) struct Bar(ProgressBar);

impl Bar {
    /// Starts a bar. Finish it before anything is printed.
    pub(crate) fn bytes(what: &'static str, output: &Output) -> Self {
        let shown = is_shown(output);
        let target = if shown {
            ProgressDrawTarget::stderr_with_hz(10)
        } else {
            ProgressDrawTarget::hidden()
        };
        let bar = ProgressBar::with_draw_target(None, target);
        bar.set_style(style(false));
        bar.set_message(what);
        if shown {
            bar.enable_steady_tick(Duration::from_millis(200));
        }
        Self(bar)
    }

    /// A bar that is never seen.
    pub(crate) fn hidden() -> Self {
        Self(ProgressBar::hidden())
    }

    /// Shows `done` of `total` bytes; a total of 0 is not known yet.
    pub(crate) fn set(&self, done: u64, total: u64) {
        self.total(total);
        self.0.set_position(done);
    }

    /// Sets the bytes to do in all.
    pub(crate) fn total(&self, total: u64) {
        if total > 0 && self.0.length() != Some(total) {
            if self.0.length().is_none() {
                self.0.set_style(style(true));
            }
            self.0.set_length(total);
        }
    }

    /// Adds bytes done.
    pub(crate) fn add(&self, bytes: u64) {
        self.0.inc(bytes);
    }

    /// Takes the bar off the terminal.
    pub(crate) fn finish(&self) {
        self.0.finish_and_clear();
    }

    /// Says something for people, where a bar would be shown.
    pub(crate) fn note(output: &Output, line: impl Display) {
        if is_shown(output) {
            note(line);
        }
    }
}

fn is_shown(output: &Output) -> bool {
    std::io::stderr().is_terminal() && !output.json()
}

impl Progress for Bar {
    fn found(&self, _blobs: u64, bytes: u64) {
        self.total(self.0.length().unwrap_or(0) + bytes);
    }

    fn skipped(&self, _blobs: u64, bytes: u64) {
        self.add(bytes);
    }

    fn moved(&self, bytes: u64) {
        self.add(bytes);
    }
}

fn style(total_known: bool) -> ProgressStyle {
    let template = if total_known {
        "{msg} {wide_bar} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta}"
    } else {
        "{msg} {spinner} {binary_bytes} {binary_bytes_per_sec}"
    };
    // The templates above are well formed.
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}
