//! What stands in `deploy/` names what a server really tells.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod metrics_support;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::PathBuf;

use metrics_support::{Measured, Scrape};
use serde_json::Value;
use zako_core::cas::CasExt;
use zako_core::store::StoreOptions;
use zako_telemetry::CATALOG;

/// Labels that Prometheus adds.
const FOREIGN_LABELS: [&str; 3] = ["instance", "job", "le"];

fn read(path: &str) -> String {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../deploy");
    std::fs::read_to_string(root.join(path)).unwrap()
}

/// What a server tells that was used by all its ways in.
async fn exercised() -> Scrape {
    let server = Measured::start(StoreOptions::default()).await;
    let client = server.client().await;
    for data in [vec![1; 1000], vec![2; 3 << 20]] {
        let (digest, _) = client.put_bytes(data).await.unwrap();
        client.fetch_bytes(&digest).await.unwrap();
    }
    assert_eq!(server.ask_http("GET", "/status", b"").await, 200);
    let http = r#"zako_requests_total{code="200",interface="http",method="GET"}"#;
    let scrape = server.scrape_when(http, 1.0).await;
    server.stop().await;
    scrape
}

/// The metrics that an expression or a file of them names, each with the labels that are
/// asked for behind it.
fn named(text: &str) -> Vec<(String, Vec<String>)> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(is_word) {
        let word = &rest[at..];
        let end = word.find(|c| !is_word(c)).unwrap_or(word.len());
        let (word, behind) = word.split_at(end);
        rest = behind;
        if !word.starts_with("zako_") && !word.starts_with("process_") {
            continue;
        }
        let selector = behind.strip_prefix('{');
        let selector = selector.and_then(|text| text.split_once('}'));
        let selector = selector.map_or("", |(inside, _)| inside);
        // Values hold no commas but in regular expressions, which we don't write so.
        let labels = selector.split(',').filter(|one| !one.trim().is_empty());
        let labels = labels.map(|one| {
            let end = one.find(['=', '!']).unwrap();
            one[..end].trim().to_owned()
        });
        found.push((word.to_owned(), labels.collect()));
    }
    found
}

/// What stands under a key, anywhere in a dashboard.
fn under<'a>(value: &'a Value, key: &str, found: &mut Vec<&'a str>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                match value {
                    Value::String(text) if name == key => found.push(text),
                    _ => under(value, key, found),
                }
            }
        }
        Value::Array(values) => values.iter().for_each(|value| under(value, key, found)),
        _ => {}
    }
}

fn check(text: &str, told: &BTreeSet<&str>) -> usize {
    let named = named(text);
    for (name, labels) in &named {
        assert!(told.contains(&**name), "no server tells {name}, in {text}");
        let metric = CATALOG.iter().find(|spec| {
            let own = spec.prometheus_name();
            let behind = name.strip_prefix(&own);
            behind.is_some_and(|behind| ["", "_bucket", "_sum", "_count"].contains(&behind))
        });
        let known = metric.unwrap().labels;
        for label in labels {
            let label = label.as_str();
            assert!(
                known.contains(&label) || FOREIGN_LABELS.contains(&label),
                "{name} has no label {label}, in {text}"
            );
        }
    }
    named.len()
}

#[tokio::test]
async fn alerts_and_dashboard_name_what_is_told() {
    let scrape = exercised().await;
    let told = scrape.names();
    for file in [
        "prometheus/zako.rules.yml",
        "prometheus/zako.rules.test.yml",
    ] {
        assert!(check(&read(file), &told) > 10, "{file}");
    }
    let dashboard: Value = serde_json::from_str(&read("grafana/zako.json")).unwrap();
    let mut expressions = Vec::new();
    under(&dashboard, "expr", &mut expressions);
    under(&dashboard, "query", &mut expressions);
    let checked: usize = expressions.iter().map(|text| check(text, &told)).sum();
    assert!(checked > 30, "{checked}");
}

#[test]
fn wrong_names_and_labels_are_found() {
    let told = BTreeSet::from(["zako_uptime_seconds", "zako_requests_total"]);
    let right = r#"sum by (x) (rate(zako_requests_total{code="OK",instance=~"$i"}[5m]))"#;
    assert_eq!(check(right, &told), 1);
    for wrong in [
        r#"zako_request_total"#,
        r#"zako_uptime_seconds{code!="OK"}"#,
    ] {
        assert!(
            std::panic::catch_unwind(|| check(wrong, &told)).is_err(),
            "{wrong}"
        );
    }
}

#[test]
fn the_table_lists_every_metric() {
    let mut table = String::new();
    for spec in CATALOG {
        let labels: Vec<_> = spec
            .labels
            .iter()
            .map(|label| format!("`{label}`"))
            .collect();
        let (name, kind) = (spec.prometheus_name(), spec.kind.as_str());
        let labels = labels.join(", ");
        writeln!(table, "| `{name}` | {kind} | {labels} | {} |", spec.help).unwrap();
    }
    let written = read("METRICS.md");
    assert!(
        written.contains(&table),
        "deploy/METRICS.md should have:\n{table}"
    );
}
