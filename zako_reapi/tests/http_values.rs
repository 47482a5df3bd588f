//! Action results and values over HTTP.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use prost::Message;
use support::http::{HttpTest, chunked, head};
use support::{random, sha256};
use zako_reapi::cache::ActionUpdates;
use zako_reapi::http::HttpOptions;
use zako_reapi::proto::reapi::action_cache_client::ActionCacheClient;
use zako_reapi::proto::reapi::{
    ActionResult, GetActionResultRequest, OutputFile, UpdateActionResultRequest,
};
use zako_reapi::{Cache, CacheOptions};

const KEY: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

async fn result_of(cache: &Cache) -> ActionResult {
    let data = random(100);
    cache.put(sha256(&data), data.clone()).await.unwrap();
    ActionResult {
        output_files: vec![OutputFile {
            path: "out".to_owned(),
            digest: Some(sha256(&data).to_wire()),
            ..OutputFile::default()
        }],
        exit_code: 3,
        ..ActionResult::default()
    }
}

#[tokio::test]
async fn an_action_result_over_http_is_the_one_over_grpc() {
    let test = HttpTest::start().await;
    let mut grpc = ActionCacheClient::new(test.server.channel.clone());
    let action = sha256(b"an action");
    let path = format!("/team/x/ac/{}", action.hex());
    let request = GetActionResultRequest {
        instance_name: "team/x".to_owned(),
        action_digest: Some(action.to_wire()),
        ..GetActionResultRequest::default()
    };
    assert_eq!(test.get(&path).await.status, 404);

    let first = result_of(test.cache()).await;
    assert_eq!(test.put(&path, &first.encode_to_vec()).await.status, 200);
    let got = grpc.get_action_result(request.clone()).await.unwrap();
    assert_eq!(got.into_inner(), first);

    let second = result_of(test.cache()).await;
    let update = UpdateActionResultRequest {
        instance_name: "team/x".to_owned(),
        action_digest: Some(action.to_wire()),
        action_result: Some(second.clone()),
        ..UpdateActionResultRequest::default()
    };
    grpc.update_action_result(update).await.unwrap();
    let answer = test.get(&path).await;
    assert_eq!(answer.status, 200);
    assert_eq!(ActionResult::decode(&*answer.body).unwrap(), second);
    let seen = test.ask("HEAD", &path, &[], b"").await;
    assert_eq!(seen.header("content-length"), answer.body.len().to_string());
    // Other instances have their own.
    assert_eq!(test.get(&format!("/ac/{}", action.hex())).await.status, 404);
}

#[tokio::test]
async fn a_result_that_names_what_is_not_here_is_none() {
    let test = HttpTest::start().await;
    let mut result = result_of(test.cache()).await;
    let absent = random(10);
    result.stdout_digest = Some(sha256(&absent).to_wire());
    let path = format!("/ac/{KEY}");
    assert_eq!(test.put(&path, &result.encode_to_vec()).await.status, 200);
    assert_eq!(test.get(&path).await.status, 404);
    test.put(&format!("/cas/{}", sha256(&absent).hex()), &absent)
        .await;
    assert_eq!(test.get(&path).await.status, 200);
}

#[tokio::test]
async fn what_is_no_action_result_comes_back_byte_for_byte() {
    let test = HttpTest::start().await;
    let mut ccache = b"\xcc\xac\x01\x00".to_vec();
    ccache.extend_from_slice(&random(300_000));
    let path = format!("/ac/{KEY}");
    for body in [
        &ccache[..],
        br#"{"exitCode":0}"#,
        b"",
        b"\x00",
        &random(5 << 20),
    ] {
        assert_eq!(test.put(&path, body).await.status, 200);
        let answer = test.get(&path).await;
        assert_eq!(answer.status, 200);
        assert!(answer.body == body);
        let kind = match body.first() {
            Some(b'{') => "application/json",
            _ => "application/octet-stream",
        };
        assert_eq!(answer.header("content-type"), kind);
    }
    // In chunks, too.
    let mut http = test.connect().await;
    http.send(head(
        "PUT",
        &path,
        &[("transfer-encoding", "chunked")],
        None,
    ))
    .await;
    http.send(chunked(&ccache, 10_000)).await;
    assert_eq!(http.answer("PUT").await.status, 200);
    assert!(test.get(&path).await.body == ccache);
    for method in ["DELETE", "POST", "MKCOL"] {
        assert_eq!(test.ask(method, &path, &[], b"").await.status, 405);
    }
    assert_eq!(test.put("/ac/12", b"x").await.status, 400);
}

#[tokio::test]
async fn results_are_bounded_and_taken_as_configured() {
    let mut options = CacheOptions::default();
    options.max_value_bytes = 3 << 20;
    options.action_updates = ActionUpdates::Refused;
    let test = HttpTest::over(Default::default(), options, HttpOptions::default()).await;
    let path = format!("/ac/{KEY}");
    let answer = test.put(&path, b"x").await;
    assert_eq!(answer.status, 403);
    assert!(answer.text().contains("read only"), "{}", answer.text());
    let long = vec![1; (3 << 20) + 1];
    assert_eq!(test.put(&path, &long).await.status, 413);
    let mut http = test.connect().await;
    http.send(head(
        "PUT",
        &path,
        &[("transfer-encoding", "chunked")],
        None,
    ))
    .await;
    http.send(chunked(&long, 1 << 20)).await;
    assert_eq!(http.answer("PUT").await.status, 413);

    let mut options = CacheOptions::default();
    options.action_updates = ActionUpdates::Dropped;
    let test = HttpTest::over(Default::default(), options, HttpOptions::default()).await;
    assert_eq!(test.put(&path, b"x").await.status, 200);
    assert_eq!(test.get(&path).await.status, 404);
}

#[tokio::test]
async fn values_live_under_free_names() {
    let test = HttpTest::start().await;
    let path = "/dav/team%20x/c/9/6/value";
    assert_eq!(test.get(path).await.status, 404);
    assert_eq!(test.ask("DELETE", path, &[], b"").await.status, 404);
    let (first, second) = (random(2000), random((3 << 20) + 1));
    assert_eq!(test.put(path, &first).await.status, 201);
    assert!(
        test.get("/dav//team x/c/9/6/value".replace(' ', "%20").as_str())
            .await
            .body
            == first
    );
    // An upload takes the place of what is there, large or small.
    for (value, status) in [(&second, 204), (&first, 204), (&second, 204)] {
        assert_eq!(test.put(path, value).await.status, status);
        let answer = test.get(path).await;
        assert_eq!(answer.status, 200);
        assert!(answer.body == *value);
    }
    let part = test.ask("GET", path, &[("range", "bytes=5-9")], b"").await;
    assert_eq!((part.status, &*part.body), (206, &second[5..10]));
    let seen = test.ask("HEAD", path, &[], b"").await;
    assert_eq!(seen.header("content-length"), second.len().to_string());
    let answer = test
        .ask("PUT", path, &[("if-none-match", "*")], &first)
        .await;
    assert_eq!(answer.status, 412);
    let mut http = test.connect().await;
    http.send(head("PUT", path, &[("transfer-encoding", "chunked")], None))
        .await;
    http.send(chunked(&second, 1 << 20)).await;
    assert_eq!(http.answer("PUT").await.status, 204);
    assert_eq!(test.ask("DELETE", path, &[], b"").await.status, 204);
    assert_eq!(test.get(path).await.status, 404);
    assert_eq!(test.put(path, b"").await.status, 201);
    let answer = test.get(path).await;
    assert_eq!((answer.status, answer.body.len()), (200, 0));
    // Nothing of this is a blob or an action result.
    test.put(&format!("/dav/cas/{KEY}"), b"x").await;
    assert_eq!(test.get(&format!("/cas/{KEY}")).await.status, 404);
}

#[tokio::test]
async fn folders_are_there_for_those_who_ask() {
    let test = HttpTest::start().await;
    let depth = [("depth", "0")];
    let all = br#"<?xml version="1.0"?><D:propfind xmlns:D="DAV:"><D:allprop/></D:propfind>"#;
    for folder in ["/dav", "/dav/", "/dav/a&b/c/"] {
        let answer = test.ask("PROPFIND", folder, &depth, all).await;
        assert_eq!(answer.status, 207);
        assert!(answer.header("content-type").starts_with("application/xml"));
        let text = answer.text();
        let path = folder.replace('&', "&amp;");
        assert!(text.contains(&format!("<D:href>{path}</D:href>")), "{text}");
        assert!(
            text.contains("<D:resourcetype><D:collection/></D:resourcetype>"),
            "{text}"
        );
        assert!(text.contains("<D:getlastmodified>"), "{text}");
    }
    for depth in ["1", "infinity"] {
        let answer = test
            .ask("PROPFIND", "/dav/a/", &[("depth", depth)], all)
            .await;
        assert_eq!(answer.status, 403);
    }
    assert_eq!(test.ask("PROPFIND", "/dav/a/", &[], b"").await.status, 403);
    assert_eq!(
        test.ask("PROPFIND", "/dav/value", &depth, all).await.status,
        404
    );
    test.put("/dav/value", b"12345").await;
    let text = test.ask("PROPFIND", "/dav/value", &depth, all).await.text();
    assert!(
        text.contains("<D:getcontentlength>5</D:getcontentlength>"),
        "{text}"
    );
    assert!(text.contains("<D:resourcetype/>"), "{text}");

    assert_eq!(test.ask("MKCOL", "/dav/new/", &[], b"").await.status, 201);
    assert_eq!(
        test.ask("MKCOL", "/dav/new/deep/", &[], b"").await.status,
        201
    );
    for there in ["/dav/", "/dav/value", "/dav/value/"] {
        assert_eq!(
            test.ask("MKCOL", there, &[], b"").await.status,
            405,
            "{there}"
        );
    }
    assert_eq!(test.ask("MKCOL", "/dav/x/", &[], b"<a/>").await.status, 415);
    assert_eq!(test.get("/dav/new/").await.status, 404);
    assert_eq!(test.put("/dav/new/", b"x").await.status, 400);
    let answer = test.ask("OPTIONS", "/dav/x", &[], b"").await;
    assert_eq!((answer.status, answer.header("dav")), (204, "1"));
    assert!(answer.header("allow").contains("PROPFIND"));
    assert_eq!(test.ask("POST", "/dav/x", &[], b"").await.status, 405);
}

#[tokio::test]
async fn the_cache_tells_of_itself() {
    let test = HttpTest::start().await;
    let answer = test.get("/").await;
    assert_eq!(answer.status, 200);
    assert!(answer.text().contains("cas/<hash>"));
    let data = random(1234);
    test.put(&format!("/cas/{}", sha256(&data).hex()), &data)
        .await;
    let answer = test.get("/status").await;
    assert_eq!(answer.header("content-type"), "application/json");
    let status: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    assert!(status["uptime_seconds"].is_u64());
    assert_eq!(status["store"]["blobs"], 1);
    assert_eq!(status["store"]["blob_bytes"], 1234);
    assert_eq!(status["store"]["durability"], "immediate");
    for path in ["/", "/status"] {
        let answer = test.put(path, b"x").await;
        assert_eq!(
            (answer.status, answer.header("allow")),
            (405, "GET, HEAD, OPTIONS")
        );
    }
}
