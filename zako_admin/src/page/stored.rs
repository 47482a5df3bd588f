//! What is stored, and the disk that it takes.

use maud::{Markup, html};

use super::quantity::{bytes, count, percent};
use crate::status::StoreStatus;

/// Units in the whole width of the bar.
const WIDTH: f64 = 1000.0;

/// `damaged` blobs were found since the start.
pub(super) fn stored(store: &StoreStatus, damaged: u64) -> Markup {
    let cap = store.disk_cap_bytes.max(store.disk_bytes).max(1) as f64;
    let share = store.disk_bytes as f64 / cap;
    let size = |size: u64| bytes(size as f64);
    let rest = store.reclaimable_bytes.saturating_add(store.partial_bytes);
    let parts = [
        ("one", store.disk_bytes.saturating_sub(rest)),
        ("two", store.partial_bytes),
        ("three", store.reclaimable_bytes.min(store.disk_bytes)),
    ];
    let label = format!(
        "Disk used: {} of {}, {}",
        size(store.disk_bytes),
        size(store.disk_cap_bytes),
        percent(share)
    );
    let alarm = |number: u64| (number > 0).then_some("bad");
    html! {
        p class="used" {
            strong { (size(store.disk_bytes)) " used" }
            span { (percent(share)) " of " (size(store.disk_cap_bytes)) }
        }
        svg class="bar" role="img" aria-label=(label) preserveAspectRatio="none"
            viewBox={ "0 0 " (WIDTH) " 10" } {
            @for (class, x, width) in places(&parts, cap) {
                rect class=(class) x=(x) width=(width) y="0" height="10" {}
            }
        }
        dl {
            div { dt { "Blobs" } dd { (count(store.blobs)) } }
            div { dt { "Their bytes" } dd { (size(store.blob_bytes)) } }
            div { dt { "Under a lease" } dd { (size(store.leased_bytes)) } }
            div { dt { (key("one")) "In use" } dd { (size(parts[0].1)) } }
            div { dt { (key("two")) "Partial uploads" } dd { (size(store.partial_bytes)) } }
            div { dt { (key("three")) "Reclaimable" } dd { (size(store.reclaimable_bytes)) } }
            div { dt { "Found damaged" } dd class=[alarm(damaged)] { (count(damaged)) } }
            div {
                dt { "In quarantine" }
                dd class=[alarm(store.quarantined_blobs)] { (count(store.quarantined_blobs)) }
            }
        }
    }
}

/// Where each part begins and how wide it is; what is there is seen.
fn places(parts: &[(&'static str, u64)], cap: f64) -> Vec<(&'static str, f64, f64)> {
    let mut from = 0.0;
    let present = parts.iter().filter(|(_, size)| *size > 0);
    present
        .map(|(class, size)| {
            let width = (*size as f64 / cap * WIDTH).max(3.0).min(WIDTH - from);
            let place = (*class, round(from), round(width));
            from += width;
            place
        })
        .collect()
}

fn round(number: f64) -> f64 {
    (number * 10.0).round() / 10.0
}

fn key(class: &str) -> Markup {
    html! { i class={ "key " (class) } {} }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_follow_each_other_and_none_is_too_small_to_see() {
        let places = places(&[("one", 500), ("two", 0), ("three", 1)], 1000.0);
        assert_eq!(places, [("one", 0.0, 500.0), ("three", 500.0, 3.0)]);
    }

    #[test]
    fn more_than_the_cap_stays_in_the_bar() {
        let mut store = StoreStatus::default();
        (store.disk_bytes, store.disk_cap_bytes) = (3000, 1000);
        (store.reclaimable_bytes, store.partial_bytes) = (u64::MAX, 7);
        let text = stored(&store, 0).into_string();
        assert!(text.contains("100 %"), "{text}");
    }
}
