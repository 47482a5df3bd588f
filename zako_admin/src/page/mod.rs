//! The status page: one document, without a script and without anything from elsewhere.

mod chart;
mod quantity;
mod stored;
mod tables;

use std::sync::LazyLock;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use sha2::{Digest, Sha256};

use self::chart::{Chart, Line, Scale, Width};
use self::quantity::{bytes, count, long, percent, rate, seconds};
use crate::recorder::{Activity, Point, SPAN};
use crate::status::{ServerStatus, Status};

const STYLE: &str = include_str!("style.css");

/// A store's mark: stacked layers.
const ICON: &str = concat!(
    "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 24 24' aria-hidden='true'>",
    "<path fill='#1f5fd0' d='M12 2 2 7l10 5 10-5z'/>",
    "<path fill='#4f8be8' d='m2 12 10 5 10-5-3-1.500-7 3.500-7-3.500z'/>",
    "<path fill='#8fb8f5' d='m2 17 10 5 10-5-3-1.500-7 3.500-7-3.500z'/></svg>"
);

/// Spans that charts show at least: three minutes.
const LEAST_SPANS: usize = 35;

/// How often the page may load itself anew, in seconds.
const REFRESHES: [u32; 3] = [5, 15, 60];

/// What a browser may do with the page: use its own style, and show its icon.
pub(crate) static POLICY: LazyLock<String> = LazyLock::new(|| {
    let hash = STANDARD.encode(Sha256::digest(STYLE));
    format!(
        "default-src 'none'; style-src 'sha256-{hash}'; img-src data:; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'"
    )
});

/// The page. `refresh` is after how many seconds it loads itself anew, if it should.
pub(crate) fn page(status: &Status, refresh: Option<u32>) -> String {
    let refresh = refresh.filter(|seconds| REFRESHES.contains(seconds));
    let icon = format!("data:image/svg+xml,{}", ICON.replace('#', "%23"));
    let document = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                @if let Some(seconds) = refresh { meta http-equiv="refresh" content=(seconds); }
                title { "Zako: " (status.state) }
                link rel="icon" href=(icon);
                style { (PreEscaped(STYLE)) }
            }
            body {
                (header(status, refresh))
                main class="wrap" {
                    (body(status))
                }
                (footer())
            }
        }
    };
    document.into_string()
}

fn header(status: &Status, refresh: Option<u32>) -> Markup {
    html! {
        header { div class="wrap" {
            h1 { (PreEscaped(ICON)) "Zako" }
            span class={ "pill " (status.state) } { (status.state) }
            span class="about" {
                "version " (status.version) " · up " (long(status.uptime_seconds)) " · as of "
                time datetime=(status.time) { (status.time.replace('T', " ").replace('Z', " UTC")) }
            }
            nav aria-label="Reload" {
                "Reload every"
                @for seconds in REFRESHES {
                    @if refresh == Some(seconds) { strong { (long(seconds.into())) } }
                    @else { a href={ "/?refresh=" (seconds) } { (long(seconds.into())) } }
                }
                @if refresh.is_some() { a href="/" { "never" } } @else { strong { "never" } }
            }
        } }
    }
}

fn body(status: &Status) -> Markup {
    let activity = &status.activity;
    html! {
        @if let Some(reason) = &status.reason {
            p class={ "banner " (status.state) } role="status" { (reason) }
        }
        (section("stored", "Stored", match &status.store {
            Some(store) => stored::stored(store, activity.corrupt_blobs),
            None => tables::none("The store can't tell yet."),
        }))
        div class="charts" { (charts(activity)) }
        div class="pair" {
            (section("peers", "Top peers", tables::peers(activity)))
            (section("interfaces", "Interfaces", tables::interfaces(&activity.interfaces)))
        }
        div class="pair" {
            (section("evictions", "Evictions", tables::evictions(&activity.evictions)))
            (section("writes", "Small blobs written", writes(activity)))
        }
        (section("failures", "Refused and failed calls", tables::failures(&activity.failures)))
        (section("log", "Warnings and errors", events(status)))
        (section("server", "This server", server(status)))
    }
}

fn section(id: &str, title: &str, content: Markup) -> Markup {
    html! {
        section aria-labelledby=(id) {
            h2 id=(id) { (title) }
            (content)
        }
    }
}

fn charts(activity: &Activity) -> Markup {
    let series =
        |of: fn(&Point) -> Option<f64>| -> Vec<_> { activity.points.iter().map(of).collect() };
    let now = &activity.now;
    let or_none = |value: Option<f64>, text: fn(f64) -> String| value.map_or("–".to_owned(), text);
    let calls = series(|point| Some(point.calls_per_second));
    let received = series(|point| Some(point.received_bytes_per_second));
    let sent = series(|point| Some(point.sent_bytes_per_second));
    let hits = series(|point| point.hit_ratio);
    let p50 = series(|point| point.p50_seconds);
    let p99 = series(|point| point.p99_seconds);
    let per_second = |value| format!("{}/s", rate(value));
    let bytes_per_second = |value| format!("{}/s", bytes(value));
    let line = |name, points| Line { name, points };
    // As wide as there is something to see, and a few minutes at least.
    let spans = activity.points.len().max(LEAST_SPANS);
    let width = Width {
        spans,
        minutes: SPAN.as_secs() * (spans as u64 + 1) / 60,
    };
    let chart = |title, now, lines, text, scale| {
        let chart = Chart {
            title,
            now,
            lines,
            text,
            scale,
            width,
        };
        chart.markup()
    };
    html! {
        (chart(
            "Calls",
            vec![("", per_second(now.calls_per_second))],
            vec![line("", &*calls)],
            per_second,
            Scale::Decimal,
        ))
        (chart(
            "Traffic",
            vec![
                ("in", bytes_per_second(now.received_bytes_per_second)),
                ("out", bytes_per_second(now.sent_bytes_per_second)),
            ],
            vec![line("In", &*received), line("Out", &*sent)],
            bytes_per_second,
            Scale::Bytes,
        ))
        (chart(
            "Hit rate",
            vec![("of what was looked for", or_none(now.hit_ratio, percent))],
            vec![line("", &*hits)],
            percent,
            Scale::Share,
        ))
        (chart(
            "Latency of short calls",
            vec![
                ("p50", or_none(now.p50_seconds, seconds)),
                ("p99", or_none(now.p99_seconds, seconds)),
            ],
            vec![line("p50", &*p50), line("p99", &*p99)],
            seconds,
            Scale::Decimal,
        ))
    }
}

fn writes(activity: &Activity) -> Markup {
    let commits = &activity.commits;
    let or_none = |value: Option<f64>, text: fn(f64) -> String| value.map_or("–".to_owned(), text);
    html! {
        dl {
            div { dt { "Groups, last 15 min" } dd { (count(commits.recent)) } }
            div { dt { "Blobs a group" } dd { (or_none(commits.blobs_per_commit, rate)) } }
            div { dt { "Sync p50" } dd { (or_none(commits.sync_p50_seconds, seconds)) } }
            div { dt { "Sync p99" } dd { (or_none(commits.sync_p99_seconds, seconds)) } }
        }
    }
}

fn events(status: &Status) -> Markup {
    html! {
        @if status.events.is_empty() { (tables::none("The log has none.")) }
        @else {
            ol {
                @for event in &status.events { li {
                    span class={ "pill " (event.level) } { (event.level) }
                    span class="about" {
                        (tables::ago(&event.last, event.seconds_ago))
                        @if event.count > 1 { ", " (count(event.count)) " times" }
                        " · " (event.target)
                    }
                    p { (shown(&event.text)) }
                } }
            }
        }
    }
}

fn server(status: &Status) -> Markup {
    let held = |server: &ServerStatus| {
        [
            ("Connections", server.connections),
            ("Calls that run", server.calls),
            ("Uploads that run", server.uploads),
            ("Sessions", server.sessions),
            ("Tokens", server.tokens),
            ("RDMA sessions", server.rdma_sessions),
        ]
    };
    html! {
        dl {
            @for (name, number) in status.server.as_ref().map(held).into_iter().flatten() {
                div { dt { (name) } dd { (count(number as u64)) } }
            }
            @if let Some(server) = &status.server && server.rdma_sessions > 0 {
                div { dt { "Pinned for RDMA" } dd { (bytes(server.rdma_pinned_bytes as f64)) } }
            }
        }
        dl class="wide" {
            @for fact in &status.facts {
                div { dt { (fact.name) } dd { (shown(&fact.value)) } }
            }
        }
    }
}

/// Text of others, without characters that are not seen or turn the text about them around.
fn shown(text: &str) -> String {
    let is_hidden = |c: char| {
        c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}')
    };
    text.replace(is_hidden, "\u{fffd}")
}

fn footer() -> Markup {
    html! {
        footer { div class="wrap" {
            a href="/status.json" { "These figures as JSON" }
            a href="/metrics" { "Metrics" }
            a href="/readyz" { "Readiness" }
            a href="/healthz" { "Health" }
        } }
    }
}
