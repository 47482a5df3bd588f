//! The tables of the status page.

use maud::{Markup, html};

use super::quantity::{bytes, count, long};
use super::shown;
use crate::recorder::{Activity, FailureRow, InterfaceRow, PeerRow, ReasonRow};

/// Who calls most.
pub(super) fn peers(activity: &Activity) -> Markup {
    let rows = &activity.peers;
    let others = activity.other_peers;
    let has_names = rows.iter().any(|row| row.identity.is_some());
    let row = |row: &PeerRow| {
        html! {
            tr {
                th class="text" scope="row" { (shown(&row.peer)) }
                @if has_names {
                    td class="text" { (row.identity.as_deref().map_or("–".to_owned(), shown)) }
                }
                (numbers(&[row.calls]))
                (sizes(&[row.received_bytes, row.sent_bytes]))
            }
        }
    };
    html! {
        @if rows.is_empty() { (none("Nobody has called in the last minutes.")) }
        @else {
            (scrolled("Top peers", html! {
                table {
                    caption { "By bytes, over about 15 minutes; a call counts when it has ended" }
                    thead { tr {
                        th class="text" scope="col" { "Peer" }
                        @if has_names { th class="text" scope="col" { "Identity" } }
                        th scope="col" { "Calls" }
                        th scope="col" { "In" }
                        th scope="col" { "Out" }
                    } }
                    tbody {
                        @for peer in rows { (row(peer)) }
                        @if others.calls > 0 {
                            tr class="rest" {
                                th class="text" scope="row" { "all others" }
                                @if has_names { td {} }
                                (numbers(&[others.calls]))
                                (sizes(&[others.received_bytes, others.sent_bytes]))
                            }
                        }
                    }
                }
            }))
        }
    }
}

/// The ways in that were used.
pub(super) fn interfaces(rows: &[InterfaceRow]) -> Markup {
    let used = |row: &&InterfaceRow| row.calls > 0 || row.connections > 0;
    let rows: Vec<_> = rows.iter().filter(used).collect();
    html! {
        @if rows.is_empty() { (none("None has been used yet.")) }
        @else {
            (scrolled("Interfaces", html! {
                table {
                    caption { "Since the server started" }
                    thead { tr {
                        th class="text" scope="col" { "Interface" }
                        th scope="col" { "Calls" }
                        th scope="col" { "Failed" }
                        th scope="col" { "In" }
                        th scope="col" { "Out" }
                    } }
                    tbody {
                        @for row in rows { tr {
                            th class="text" scope="row" { (interface_name(row.name)) }
                            (numbers(&[row.calls, row.failed]))
                            (sizes(&[row.received_bytes, row.sent_bytes]))
                        } }
                    }
                }
            }))
        }
    }
}

/// What was given up.
pub(super) fn evictions(rows: &[ReasonRow]) -> Markup {
    html! {
        (scrolled("Evictions", html! {
            table {
                caption { "Blobs given up, and their bytes" }
                thead { tr {
                    th class="text" scope="col" { "Reason" }
                    th scope="col" { "Last 15 min" }
                    th scope="col" { "Bytes" }
                    th scope="col" { "Since start" }
                    th scope="col" { "Bytes" }
                } }
                tbody {
                    @for row in rows { tr {
                        th class="text" scope="row" { (row.reason) }
                        (numbers(&[row.recent_blobs]))
                        (sizes(&[row.recent_bytes]))
                        (numbers(&[row.blobs]))
                        (sizes(&[row.bytes]))
                    } }
                }
            }
        }))
    }
}

/// Calls that were refused or failed.
pub(super) fn failures(rows: &[FailureRow]) -> Markup {
    html! {
        @if rows.is_empty() { (none("No call was refused, and none failed.")) }
        @else {
            (scrolled("Refused and failed calls", html! {
                table {
                    caption { "Since the server started, the last first" }
                    thead { tr {
                        th class="text" scope="col" { "Call" }
                        th class="text" scope="col" { "Answer" }
                        th scope="col" { "Times" }
                        th scope="col" { "Last" }
                    } }
                    tbody {
                        @for row in rows { tr {
                            th class="text" scope="row" {
                                (shown(&row.method))
                                // The methods of gRPC tell by themselves.
                                @if !row.method.starts_with('/') {
                                    small class="rest" { " · " (interface_name(row.interface)) }
                                }
                            }
                            td class="text" { (row.code) " " (row.code_name) }
                            (numbers(&[row.count]))
                            td class="when" { (ago(&row.last, row.seconds_ago)) }
                        } }
                    }
                }
            }))
        }
    }
}

/// When something was.
pub(super) fn ago(time: &str, seconds: u64) -> Markup {
    html! {
        time datetime=(time) {
            @if seconds == 0 { "just now" } @else { (long(seconds)) " ago" }
        }
    }
}

/// That there is nothing to tell.
pub(super) fn none(text: &str) -> Markup {
    html! { p class="none" { (text) } }
}

/// A table that scrolls by itself where it is wider than its place.
fn scrolled(name: &str, table: Markup) -> Markup {
    html! { div class="scroll" role="region" tabindex="0" aria-label=(name) { (table) } }
}

fn numbers(numbers: &[u64]) -> Markup {
    html! { @for number in numbers { td class="num" { (count(*number)) } } }
}

fn sizes(sizes: &[u64]) -> Markup {
    html! { @for size in sizes { td class="num" { (bytes(*size as f64)) } } }
}

fn interface_name(name: &'static str) -> &'static str {
    match name {
        "zako" => "Zako, by gRPC",
        "reapi" => "Remote Execution API",
        "http" => "HTTP cache",
        "rdma" => "Zako, by RDMA",
        "admin" => "Admin port",
        other => other,
    }
}
