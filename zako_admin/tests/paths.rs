//! What each path answers, and to whom.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod asking;

use std::sync::Arc;

use asking::Asked;
use async_trait::async_trait;
use serde_json::Value;
use zako_admin::{AdminOptions, Fact, MetricsText, State};
use zako_core::cas::CasExt;
use zako_core::store::{LocalStore, StoreOptions};

#[derive(Debug)]
struct Text(&'static str);

#[async_trait]
impl MetricsText for Text {
    async fn render(&self) -> String {
        self.0.to_owned()
    }
}

#[tokio::test]
async fn it_is_healthy_from_the_start_and_ready_in_between() {
    let port = Asked::new().await;
    let ready = async |expected, reason: &str| {
        let health = port.get("/healthz").await;
        assert_eq!((health.status, health.body.as_str()), (200, "ok\n"));
        let answer = port.get("/readyz").await;
        assert_eq!(answer.status, expected, "{answer:?}");
        assert!(answer.body.starts_with(reason), "{answer:?}");
        let page = port.get("/").await;
        assert_eq!(page.status, 200);
        assert!(page.body.contains(&format!("pill {reason}")), "{page:?}");
    };
    ready(503, "opening").await;
    port.readiness.opening(|| Some(0.5));
    assert!(port.get("/readyz").await.body.contains("50 %"));
    port.readiness.reached(State::Ready);
    ready(200, "ready").await;
    port.readiness.reached(State::Draining);
    ready(503, "draining").await;
    port.end().await;
}

#[tokio::test]
async fn metrics_are_the_given_text() {
    let port = Asked::new().await;
    assert_eq!(port.get("/metrics").await.status, 404);
    port.handle.set_metrics(Arc::new(Text("a_total 1\n")));
    let answer = port.get("/metrics").await;
    assert_eq!((answer.status, answer.body.as_str()), (200, "a_total 1\n"));
    let kind = answer.header("content-type");
    assert_eq!(kind, Some("text/plain; version=0.0.4; charset=utf-8"));
}

#[tokio::test]
async fn the_page_and_the_json_tell_what_is_stored() {
    let folder = tempfile::tempdir().unwrap();
    let mut options = StoreOptions::default();
    options.max_bytes = Some(64 << 20);
    let store = LocalStore::open(folder.path(), options).await.unwrap();
    for number in 0..7 {
        store.put_bytes(vec![number; 1000]).await.unwrap();
    }
    let port = Asked::new().await;
    port.handle.set_store(Arc::new(store.clone()));
    port.handle.set_version("1.2.3");
    port.handle
        .set_facts(vec![Fact::new("Data folder", "/some/where")]);

    // A store that is being opened would let the caller wait.
    let page = port.get("/").await.body;
    assert!(
        page.contains("can&#39;t tell yet") || page.contains("can't tell yet"),
        "{page}"
    );

    port.readiness.reached(State::Ready);
    let page = port.get("/").await.body;
    for figure in ["version 1.2.3", "/some/where", "64 MiB", "<dd>7</dd>"] {
        assert!(page.contains(figure), "{figure}: {page}");
    }
    let answer = port.get("/status.json").await;
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let status: Value = serde_json::from_str(&answer.body).unwrap();
    assert_eq!(status["store"]["blobs"], 7);
    assert_eq!(status["store"]["blob_bytes"], 7000);
    assert_eq!(status["state"], "ready");
    assert_eq!(status["facts"][0]["value"], "/some/where");

    // It lets go, so that the store can end.
    port.handle.forget();
    let status = port.get("/status.json").await.body;
    let status: Value = serde_json::from_str(&status).unwrap();
    assert_eq!(status["store"], Value::Null);
    store.close().await.unwrap();
}

#[tokio::test]
async fn the_page_loads_itself_anew_only_as_it_offers() {
    let port = Asked::new().await;
    let anew = "http-equiv=\"refresh\"";
    assert!(port.get("/?refresh=5").await.body.contains(anew));
    for query in [
        "/",
        "/?refresh=0",
        "/?refresh=1",
        "/?refresh=5;url=http://x",
        "/?refresh=%35",
    ] {
        assert!(!port.get(query).await.body.contains(anew), "{query}");
    }
}

#[tokio::test]
async fn other_paths_and_methods_are_refused() {
    let port = Asked::new().await;
    for path in [
        "/x",
        "/healthz/",
        "//",
        "/../etc/passwd",
        "/STATUS.json",
        "/favicon.ico",
    ] {
        assert_eq!(port.get(path).await.status, 404, "{path}");
    }
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH", "BREW"] {
        for path in ["/", "/healthz", "/metrics"] {
            let answer = port.ask(method, path).await;
            assert_eq!(answer.status, 405, "{method} {path}");
            assert_eq!(answer.header("allow"), Some("get, head"));
        }
    }
}

#[tokio::test]
async fn head_is_get_without_the_body() {
    let port = Asked::new().await;
    port.handle.set_metrics(Arc::new(Text("a_total 1\n")));
    for path in ["/healthz", "/readyz", "/metrics", "/", "/status.json", "/x"] {
        let (head, get) = (port.ask("HEAD", path).await, port.get(path).await);
        assert_eq!(
            (head.status, head.body.as_str()),
            (get.status, ""),
            "{path}"
        );
        assert_eq!(head.header("content-type"), get.header("content-type"));
        assert!(head.header("content-length").unwrap() != "0", "{path}");
    }
}

#[tokio::test]
async fn browsers_may_do_no_more_than_show_it() {
    let port = Asked::new().await;
    for path in ["/", "/status.json", "/metrics", "/healthz", "/x"] {
        let answer = port.get(path).await;
        let policy = answer.header("content-security-policy").unwrap();
        assert!(policy.contains("default-src 'none'"), "{policy}");
        assert!(policy.contains("frame-ancestors 'none'"), "{policy}");
        assert!(
            !policy.contains("unsafe") && !policy.contains("script"),
            "{policy}"
        );
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        assert_eq!(answer.header("set-cookie"), None);
        assert_eq!(answer.header("access-control-allow-origin"), None);
    }
    let page = port.get("/").await.body;
    // Attributes would need the policy's leave too.
    for never in [
        "<script",
        " style=",
        "javascript:",
        "src=",
        "@import",
        "url(",
    ] {
        assert!(!page.contains(never), "{never}");
    }
}

#[tokio::test]
async fn it_answers_by_its_own_names_only() {
    let mut options = AdminOptions::default();
    options.names = vec!["cache.example".to_owned()];
    let port = Asked::with(options).await;
    let by = async |host: &str| {
        let request = format!("GET /healthz HTTP/1.1\r\n{host}\r\n");
        port.send(&request).await.unwrap().status
    };
    assert_eq!(by("host: cache.example:7422\r\n").await, 200);
    assert_eq!(by("host: localhost\r\n").await, 200);
    assert_eq!(by("host: evil.example\r\n").await, 421);
    assert_eq!(by("").await, 400);
    assert_eq!(by("host: localhost\r\nhost: evil.example\r\n").await, 400);
    let old = port.send("GET /healthz HTTP/1.0\r\n\r\n").await.unwrap();
    assert_eq!(old.status, 200);
}
