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
pub(crate) struct Bar {
    bar: ProgressBar,
    shown: bool,
}

impl Bar {
    /// Starts a bar and keeps `output`'s lines clear of it.
    pub(crate) fn bytes(what: &'static str, output: &mut Output) -> Self {
        let shown = std::io::stderr().is_terminal() && !output.json();
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
        output.around(bar.clone());
        Self { bar, shown }
    }

    /// Shows `done` of `total` bytes; a total of 0 is not known yet.
    pub(crate) fn set(&self, done: u64, total: u64) {
        self.total(total);
        self.bar.set_position(done);
    }

    /// Sets the bytes to do in all.
    pub(crate) fn total(&self, total: u64) {
        if total > 0 && self.bar.length() != Some(total) {
            if self.bar.length().is_none() {
                self.bar.set_style(style(true));
            }
            self.bar.set_length(total);
        }
    }

    /// Adds bytes done.
    pub(crate) fn add(&self, bytes: u64) {
        self.bar.inc(bytes);
    }

    /// Takes the bar off the terminal.
    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }

    /// Says something for people, where a bar would be shown.
    pub(crate) fn note(&self, line: impl Display) {
        if self.shown {
            note(line);
        }
    }
}

impl Progress for Bar {
    fn found(&self, _blobs: u64, bytes: u64) {
        self.total(self.bar.length().unwrap_or(0) + bytes);
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
