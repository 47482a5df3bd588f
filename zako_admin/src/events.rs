//! The last warnings and errors of the log.

use std::collections::VecDeque;
use std::fmt::{self, Write};
use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::Mutex;
use serde::Serialize;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

use crate::timestamp::rfc3339;

/// Events that are kept.
const MOST: usize = 50;

/// The longest text of one, in bytes.
const LONGEST: usize = 400;

/// Keeps the last warnings and errors, in bounded memory. Clones share them.
#[derive(Clone, Default)]
pub struct RecentEvents(Arc<Mutex<VecDeque<Recent>>>);

/// The layer that events come by.
#[derive(Clone, Debug)]
struct RecentEventsLayer(RecentEvents);

/// An event, and how often it came.
#[derive(Clone, Debug)]
struct Recent {
    level: Level,
    target: &'static str,
    text: String,
    count: u64,
    last: SystemTime,
}

/// An event for a person or a machine.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct EventRow {
    pub(crate) level: &'static str,
    pub(crate) target: &'static str,
    pub(crate) text: String,
    pub(crate) count: u64,
    pub(crate) last: String,
    #[serde(skip)]
    pub(crate) seconds_ago: u64,
}

impl RecentEvents {
    /// What tells it of events.
    pub fn layer<S>(&self) -> impl Layer<S> + Send + Sync + use<S>
    where
        S: Subscriber + for<'a> LookupSpan<'a>,
    {
        // A filter of its own: without one, every event would be made for it.
        RecentEventsLayer(self.clone()).with_filter(LevelFilter::WARN)
    }

    /// The last first.
    pub(crate) fn latest(&self) -> Vec<EventRow> {
        let now = SystemTime::now();
        let events = self.0.lock();
        let rows = events.iter().rev().map(|event| EventRow {
            level: match event.level {
                Level::ERROR => "error",
                _ => "warning",
            },
            target: event.target,
            text: event.text.clone(),
            count: event.count,
            last: rfc3339(event.last),
            seconds_ago: now.duration_since(event.last).unwrap_or_default().as_secs(),
        });
        rows.collect()
    }

    fn keep(&self, metadata: &'static Metadata<'static>, text: String, now: SystemTime) {
        let (level, target) = (*metadata.level(), metadata.target());
        let mut events = self.0.lock();
        let is_same =
            |known: &Recent| (known.level, known.target) == (level, target) && known.text == text;
        // One that repeats itself doesn't drive the others out.
        let count = match events.iter().position(is_same) {
            Some(at) => events.remove(at).map_or(0, |known| known.count),
            None => 0,
        };
        if events.len() >= MOST {
            events.pop_front();
        }
        events.push_back(Recent {
            level,
            target,
            text,
            count: count + 1,
            last: now,
        });
    }
}

impl<S: Subscriber> Layer<S> for RecentEventsLayer {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        let mut text = Text::default();
        event.record(&mut text);
        self.0.keep(metadata, text.whole(), SystemTime::now());
    }
}

/// A message with its fields behind it, as much as is kept.
#[derive(Default)]
struct Text {
    message: Bounded,
    fields: Bounded,
}

/// Text that takes no more than [`LONGEST`].
#[derive(Default)]
struct Bounded(String);

impl Text {
    fn whole(self) -> String {
        let mut whole = self.message;
        // Fails when it is full.
        let _ = whole.write_str(&self.fields.0);
        whole.0
    }
}

impl Visit for Text {
    fn record_str(&mut self, field: &Field, value: &str) {
        let _ = match field.name() {
            "message" => self.message.write_str(value),
            name => write!(self.fields, " {name}={value}"),
        };
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}

impl Write for Bounded {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = LONGEST - self.0.len();
        if text.len() <= room {
            self.0.push_str(text);
            return Ok(());
        }
        const MARK: &str = "…";
        let end = text.floor_char_boundary(room.saturating_sub(MARK.len()));
        self.0.push_str(&text[..end]);
        if self.0.len() + MARK.len() <= LONGEST {
            self.0.push_str(MARK);
        }
        Err(fmt::Error)
    }
}

impl fmt::Debug for RecentEvents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecentEvents").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    fn logged(log: impl FnOnce()) -> Vec<EventRow> {
        let events = RecentEvents::default();
        let subscriber = tracing_subscriber::registry().with(events.layer());
        tracing::subscriber::with_default(subscriber, log);
        events.latest()
    }

    #[test]
    fn warnings_and_errors_are_kept_with_their_fields() {
        let events = logged(|| {
            tracing::info!("nothing");
            tracing::warn!(peer = "10.0.0.1", count = 3, "refused");
            tracing::error!(error = %"no space", "a commit failed");
        });
        let told: Vec<_> = events
            .iter()
            .map(|event| (event.level, &*event.text))
            .collect();
        assert_eq!(
            told,
            [
                ("error", "a commit failed error=no space"),
                ("warning", "refused peer=10.0.0.1 count=3")
            ]
        );
    }

    #[test]
    fn what_repeats_itself_drives_nothing_out_and_memory_is_bounded() {
        let events = logged(|| {
            tracing::error!("rare");
            for _ in 0..10_000 {
                tracing::warn!("often");
            }
        });
        assert_eq!(events.len(), 2);
        assert_eq!((events[0].count, &*events[1].text), (10_000, "rare"));

        let events = logged(|| {
            for number in 0..1000 {
                tracing::warn!(long = "ü".repeat(10_000), "{number}");
            }
        });
        assert_eq!(events.len(), MOST);
        assert!(events[0].text.starts_with("999 long=ü"));
        assert!(events.iter().all(|event| event.text.len() <= LONGEST));
        assert!(events[0].text.ends_with('…'));
    }
}
