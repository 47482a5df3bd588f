//! One-time tokens and sessions belong to identities, and rules that change are in force at
//! once.
#![allow(clippy::unwrap_used)]

mod support;

use support::{Grpc, Servers, ask, bearer, rules, token, with_token};
use zako_access::Prepared;
use zako_core::server::ServerOptions;

const DETAILS: &str = "/zako.v1.cas.ContentAddressableStorage/GetTransportDetails";
const DOWNLOAD: &str = "/zako.v1.transport.Transport/Download";
const UPLOAD: &str = "/zako.v1.transport.Transport/Upload";
const STAT: &str = "/zako.v1.store.Store/Stat";

const UNAUTHENTICATED: i32 = 16;
const PERMISSION_DENIED: i32 = 7;
/// What empty requests are answered that may be made.
const INVALID_ARGUMENT: i32 = 3;

async fn servers() -> Servers {
    let rules = rules([
        with_token("a", r#""write""#),
        with_token("b", r#""write""#),
        with_token("reader", r#""read""#),
    ]);
    Servers::start(rules, ServerOptions::default()).await
}

/// A one-time token for this identity.
async fn offered(grpc: &Grpc, name: &str) -> String {
    let bearer = bearer(&token(name));
    // The only road: gRPC.
    let ended = grpc
        .call(DETAILS, &[("authorization", &bearer)], &[0x0a, 1, 0])
        .await;
    assert_eq!(ended.code, 0, "{}", ended.message);
    let text = String::from_utf8_lossy(&ended.body).into_owned();
    let mut words = text.split(|c: char| !c.is_ascii_hexdigit());
    words.find(|word| word.len() == 64).unwrap().to_owned()
}

async fn download(grpc: &Grpc, name: Option<&str>, one_time: Option<&str>) -> i32 {
    code(grpc, DOWNLOAD, name, one_time).await
}

async fn code(grpc: &Grpc, path: &str, name: Option<&str>, one_time: Option<&str>) -> i32 {
    let bearer = name.map(|name| bearer(&token(name)));
    let authorization = bearer.iter().map(|value| ("authorization", &**value));
    let one_time = one_time.map(|value| ("zako-token", value));
    let headers: Vec<_> = authorization.chain(one_time).collect();
    grpc.call(path, &headers, &[]).await.code
}

#[tokio::test]
async fn a_one_time_token_is_for_the_identity_that_it_was_given_to() {
    let servers = servers().await;
    let (here, there) = (servers.grpc().await, servers.grpc().await);
    let given = offered(&here, "a").await;
    for grpc in [&here, &there] {
        let other = download(grpc, Some("b"), Some(&given)).await;
        assert_eq!(other, UNAUTHENTICATED);
        let nobody = download(grpc, None, Some(&given)).await;
        assert_eq!(nobody, UNAUTHENTICATED);
    }
    // Who failed with it did not use it up.
    let own = download(&there, Some("a"), Some(&given)).await;
    assert_eq!(own, INVALID_ARGUMENT);
    assert_eq!(
        download(&here, Some("a"), Some(&given)).await,
        UNAUTHENTICATED
    );
}

#[tokio::test]
async fn a_session_is_the_identitys_that_opened_it() {
    let servers = servers().await;
    let grpc = servers.grpc().await;
    let given = offered(&grpc, "a").await;
    assert_eq!(
        download(&grpc, Some("a"), Some(&given)).await,
        INVALID_ARGUMENT
    );
    assert_eq!(download(&grpc, Some("a"), None).await, INVALID_ARGUMENT);
    // On the same connection, as behind a proxy.
    for one_time in [Some(&*given), None] {
        assert_eq!(download(&grpc, Some("b"), one_time).await, UNAUTHENTICATED);
        assert_eq!(download(&grpc, None, one_time).await, UNAUTHENTICATED);
    }
    let own = offered(&grpc, "b").await;
    assert_eq!(
        download(&grpc, Some("b"), Some(&own)).await,
        INVALID_ARGUMENT
    );
    assert_eq!(download(&grpc, Some("b"), None).await, INVALID_ARGUMENT);
    assert_eq!(download(&grpc, Some("a"), None).await, INVALID_ARGUMENT);
    assert_eq!(
        download(&grpc, Some("a"), Some(&own)).await,
        UNAUTHENTICATED
    );
}

#[tokio::test]
async fn a_one_time_token_allows_no_more_than_its_identity_may() {
    let servers = servers().await;
    let grpc = servers.grpc().await;
    let given = offered(&grpc, "reader").await;
    let reads = download(&grpc, Some("reader"), Some(&given)).await;
    assert_eq!(reads, INVALID_ARGUMENT);
    let writes = code(&grpc, UPLOAD, Some("reader"), Some(&given)).await;
    assert_eq!(writes, PERMISSION_DENIED);
    // The scope of what it was given has not grown with its role.
    let grown = rules([with_token("reader", r#""write""#)]);
    servers.control.replace(Prepared::new(grown).unwrap());
    let writes = code(&grpc, UPLOAD, Some("reader"), Some(&given)).await;
    assert_eq!(writes, PERMISSION_DENIED);
    let bearer = bearer(&token("reader"));
    // Scope: write.
    let (headers, message) = ([("authorization", &*bearer)], [0x0a, 1, 0, 0x10, 2]);
    assert_eq!(grpc.call(DETAILS, &headers, &message).await.code, 0);
}

#[tokio::test]
async fn new_rules_are_in_force_on_open_connections() {
    let servers = servers().await;
    let grpc = servers.grpc().await;
    let given = offered(&grpc, "a").await;
    assert_eq!(
        download(&grpc, Some("a"), Some(&given)).await,
        INVALID_ARGUMENT
    );
    assert_eq!(code(&grpc, STAT, Some("a"), None).await, 0);
    let authorization = bearer(&token("a"));
    let headers = [("authorization", &*authorization)];
    let put = |path| ask(servers.http, "PUT", path, &headers, b"x");
    assert_eq!(put("/dav/x").await.0, 201);

    let revoked = rules([with_token("b", r#""write""#)]);
    servers.control.replace(Prepared::new(revoked).unwrap());
    assert_eq!(code(&grpc, STAT, Some("a"), None).await, UNAUTHENTICATED);
    for one_time in [Some(&*given), None] {
        assert_eq!(download(&grpc, Some("a"), one_time).await, UNAUTHENTICATED);
    }
    assert_eq!(put("/dav/x").await.0, 401);
    assert_eq!(code(&grpc, STAT, Some("b"), None).await, 0);

    let less = rules([with_token("a", r#""read""#)]);
    servers.control.replace(Prepared::new(less).unwrap());
    assert_eq!(
        download(&grpc, Some("a"), Some(&given)).await,
        INVALID_ARGUMENT
    );
    assert_eq!(
        code(&grpc, UPLOAD, Some("a"), Some(&given)).await,
        PERMISSION_DENIED
    );
    assert_eq!(put("/dav/x").await.0, 403);
}

#[tokio::test]
async fn a_negotiation_ends_with_its_identitys_role() {
    const NEGOTIATE: &str = "/zako.v1.cas.ContentAddressableStorage/NegotiateBlobs";
    let servers = servers().await;
    let grpc = servers.grpc().await;
    let bearer = bearer(&token("a"));
    let (answer, mut send) = grpc.open(NEGOTIATE, &[("authorization", &bearer)]).await;
    let empty = || bytes::Bytes::from_static(&[0; 5]);
    send.send_data(empty(), false).unwrap();
    let mut body = answer.await.unwrap().into_body();
    assert_eq!(body.data().await.unwrap().unwrap().len(), 5);
    servers.control.replace(Prepared::new(rules([])).unwrap());
    send.send_data(empty(), false).unwrap();
    while body.data().await.is_some() {}
    let trailers = body.trailers().await.unwrap().unwrap();
    assert_eq!(trailers["grpc-status"], "16");
}

#[tokio::test]
async fn instances_have_names_of_their_own_and_share_blobs() {
    let rules = rules([
        with_token("a", r#"{"a": "write"}"#),
        with_token("b", r#"{"b": "write", "a": "read"}"#),
    ]);
    let servers = Servers::start(rules, ServerOptions::default()).await;
    let (a, b) = (bearer(&token("a")), bearer(&token("b")));
    let (a, b) = ([("authorization", &*a)], [("authorization", &*b)]);
    let http = servers.http;
    for path in [
        "dav/x",
        "ac/e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    ] {
        let (of_a, of_b) = (format!("/a/{path}"), format!("/b/{path}"));
        ask(http, "PUT", &of_a, &a, b"of a").await;
        assert_eq!(ask(http, "PUT", &of_a, &b, b"of b").await.0, 403);
        assert_eq!(ask(http, "GET", &of_b, &b, b"").await.0, 404);
        ask(http, "PUT", &of_b, &b, b"of b").await;
        assert!(ask(http, "GET", &of_a, &b, b"").await.1.ends_with("of a"));
        assert!(ask(http, "GET", &of_b, &b, b"").await.1.ends_with("of b"));
        assert_eq!(ask(http, "GET", &format!("/{path}"), &b, b"").await.0, 403);
    }
    // The SHA-256 of "of a".
    let blob = "cas/44625108b765cba608de59e81977de42deb702f776a7309f649085cbf570af1b";
    // Its bytes are there already: those of the value.
    assert_eq!(
        ask(http, "PUT", &format!("/a/{blob}"), &a, b"of a").await.0,
        200
    );
    assert_eq!(
        ask(http, "GET", &format!("/b/{blob}"), &b, b"").await.0,
        200
    );
}

#[tokio::test]
async fn hostile_authorizations_are_refused_and_the_connection_goes_on() {
    let servers = servers().await;
    let grpc = servers.grpc().await;
    let long = bearer(&"a".repeat(12_000));
    let dots = bearer(&".".repeat(9_000));
    let jwt = bearer(&format!("{0}.{0}.{0}", "eyJhbGciOiJSUzI1NiJ9".repeat(100)));
    let basic = format!("Basic {}", "YTpi".repeat(2_000));
    let cases: [&[u8]; 12] = [
        b"",
        b" ",
        b"Bearer",
        b"Bearer \xff\xfe\x80\xff",
        b"\xff\xff\xff",
        b"Basic \xff",
        b"Basic ====",
        b"Bearer a b c",
        long.as_bytes(),
        dots.as_bytes(),
        jwt.as_bytes(),
        basic.as_bytes(),
    ];
    for value in cases {
        let ended = grpc.call_raw(STAT, &[("authorization", value)], &[]).await;
        let shown: Vec<u8> = value.iter().copied().take(40).collect();
        assert_eq!(ended.unwrap().code, UNAUTHENTICATED, "{shown:?}");
    }
    let good = bearer(&token("a"));
    let twice = [("authorization", good.as_bytes()); 2];
    let ended = grpc.call_raw(STAT, &twice, &[]).await.unwrap();
    assert_eq!(ended.code, UNAUTHENTICATED);
    let many = vec![("authorization", good.as_bytes()); 100];
    let ended = grpc.call_raw(STAT, &many, &[]).await.unwrap();
    assert_eq!(ended.code, UNAUTHENTICATED);
    for namespace in [&b"\xff"[..], "a".repeat(300).as_bytes()] {
        let headers = [
            ("authorization", good.as_bytes()),
            ("zako-namespace", namespace),
        ];
        let ended = grpc.call_raw(STAT, &headers, &[]).await.unwrap();
        assert_eq!(ended.code, INVALID_ARGUMENT);
    }
    assert_eq!(code(&grpc, STAT, Some("a"), None).await, 0);
}
