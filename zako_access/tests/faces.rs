//! Which role each call of each face takes, for each kind of credentials, over real sockets.
#![allow(clippy::unwrap_used)]

mod support;

use jsonwebtoken::Algorithm;
use support::issuer::{Issuer, claims, jwks};
use support::{Grpc, Servers, ask, bearer, field, identity, jwt, rules, token, with_token};
use zako_access::{AccessRules, Roles};
use zako_core::access::Role;
use zako_core::server::ServerOptions;

const HASH: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// What becomes of a call, as far as access goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// It came as far as its request is looked at.
    Allowed,
    Unauthenticated,
    Denied,
}

/// How a method is told its namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// By `zako-namespace`.
    Metadata,
    /// In the first field of its message.
    Message,
    /// In the name of what is read.
    ToRead,
    /// In the name of what is written.
    ToWrite,
}

/// What a method takes: `None` is to be anybody who is known.
type Method = (&'static str, Place, Option<Role>);

const READ: Option<Role> = Some(Role::Read);
const WRITE: Option<Role> = Some(Role::Write);
const ADMIN: Option<Role> = Some(Role::Admin);

const GRPC: [Method; 28] = {
    use Place::{Message, Metadata, ToRead, ToWrite};
    [
        (
            "zako.v1.cas.ContentAddressableStorage/NegotiateBlobs",
            Metadata,
            READ,
        ),
        (
            "zako.v1.cas.ContentAddressableStorage/GetTransportDetails",
            Metadata,
            READ,
        ),
        ("zako.v1.transport.Transport/Download", Metadata, READ),
        ("zako.v1.transport.Transport/Upload", Metadata, WRITE),
        ("zako.v1.batch.Batch/BatchDownload", Metadata, READ),
        ("zako.v1.batch.Batch/BatchUpload", Metadata, WRITE),
        ("zako.v1.store.Store/Stat", Metadata, READ),
        ("zako.v1.store.Store/Status", Metadata, READ),
        ("zako.v1.store.Store/Delete", Metadata, WRITE),
        ("zako.v1.store.Store/Verify", Metadata, ADMIN),
        ("zako.v1.store.Store/CollectGarbage", Metadata, ADMIN),
        ("zako.v1.rdma.Rdma/Session", Metadata, READ),
        ("zako.v1.rdma.Probe/Run", Metadata, READ),
        (
            "build.bazel.remote.execution.v2.Capabilities/GetCapabilities",
            Message,
            None,
        ),
        (
            "build.bazel.remote.execution.v2.ActionCache/GetActionResult",
            Message,
            READ,
        ),
        (
            "build.bazel.remote.execution.v2.ActionCache/UpdateActionResult",
            Message,
            WRITE,
        ),
        (
            "build.bazel.remote.execution.v2.ContentAddressableStorage/FindMissingBlobs",
            Message,
            READ,
        ),
        (
            "build.bazel.remote.execution.v2.ContentAddressableStorage/BatchReadBlobs",
            Message,
            READ,
        ),
        (
            "build.bazel.remote.execution.v2.ContentAddressableStorage/BatchUpdateBlobs",
            Message,
            WRITE,
        ),
        (
            "build.bazel.remote.execution.v2.ContentAddressableStorage/GetTree",
            Message,
            READ,
        ),
        (
            "build.bazel.remote.execution.v2.ContentAddressableStorage/SplitBlob",
            Message,
            READ,
        ),
        (
            "build.bazel.remote.execution.v2.ContentAddressableStorage/SpliceBlob",
            Message,
            WRITE,
        ),
        ("build.bazel.remote.asset.v1.Fetch/FetchBlob", Message, READ),
        ("build.bazel.remote.asset.v1.Push/PushBlob", Message, WRITE),
        (
            "build.bazel.remote.asset.v1.Push/PushDirectory",
            Message,
            WRITE,
        ),
        ("google.bytestream.ByteStream/Read", ToRead, READ),
        ("google.bytestream.ByteStream/Write", ToWrite, WRITE),
        (
            "google.bytestream.ByteStream/QueryWriteStatus",
            ToWrite,
            READ,
        ),
    ]
};

/// Methods and paths of the HTTP cache behind the instance.
const HTTP: [(&str, &str, Option<Role>); 9] = [
    ("GET", "cas/", READ),
    ("HEAD", "cas/", READ),
    ("PUT", "cas/", WRITE),
    ("GET", "ac/", READ),
    ("PUT", "ac/", WRITE),
    ("GET", "dav/", READ),
    ("PROPFIND", "dav/", READ),
    ("PUT", "dav/", WRITE),
    ("DELETE", "dav/", WRITE),
];

const NAMESPACES: [&str; 3] = ["", "main", "team/a"];

/// Who comes, what it shows, and what it has in each of the namespaces.
struct Who {
    name: &'static str,
    authorization: Option<String>,
    roles: [Option<Role>; 3],
    /// Its credentials are wrong.
    wrong: bool,
}

fn who(name: &'static str, authorization: Option<String>, roles: [Option<Role>; 3]) -> Who {
    Who {
        name,
        authorization,
        roles,
        wrong: false,
    }
}

fn callers(issuer: &Issuer, anonymous: Option<Role>) -> Vec<Who> {
    let mut carrying = claims("carrier");
    carrying["zako"] = "read write:main".into();
    let mut all = vec![
        who("anonymous", None, [anonymous; 3]),
        who("reader", Some(bearer(&token("reader"))), [READ; 3]),
        who("writer", Some(bearer(&token("writer"))), [WRITE; 3]),
        who("admin", Some(bearer(&token("admin"))), [ADMIN; 3]),
        who("main", Some(bearer(&token("main"))), [None, WRITE, None]),
        who("team", Some(bearer(&token("team"))), [READ, None, WRITE]),
        // user:token-of-writer
        who(
            "writer",
            Some("Basic dXNlcjp0b2tlbi1vZi13cml0ZXI=".to_owned()),
            [WRITE; 3],
        ),
        who(
            "subject",
            Some(bearer(&issuer.sign(&claims("ci/7")))),
            [None, ADMIN, None],
        ),
        who(
            "claims",
            Some(bearer(&issuer.sign(&carrying))),
            [READ, WRITE, READ],
        ),
        who(
            "no roles",
            Some(bearer(&issuer.sign(&claims("x")))),
            [None; 3],
        ),
    ];
    for wrong in [
        bearer("token-of-nobody"),
        "Basic dXNlcjp0b2tlbg==".to_owned(),
        bearer("a.b.c"),
        "Negotiate abc".to_owned(),
    ] {
        all.push(Who {
            name: "wrong",
            authorization: Some(wrong),
            roles: [None; 3],
            wrong: true,
        });
    }
    all
}

fn expected(who: &Who, at: usize, needed: Option<Role>, anonymous: Option<Role>) -> Outcome {
    let is_anonymous = who.authorization.is_none();
    if who.wrong || (is_anonymous && anonymous.is_none()) {
        return Outcome::Unauthenticated;
    }
    match needed {
        None => Outcome::Allowed,
        Some(_) if who.roles[at] >= needed => Outcome::Allowed,
        Some(_) if is_anonymous => Outcome::Unauthenticated,
        Some(_) => Outcome::Denied,
    }
}

async fn called(
    grpc: &Grpc,
    (path, place, _): Method,
    who: &Who,
    namespace: &str,
) -> (Outcome, String) {
    let mut headers = Vec::new();
    if let Some(authorization) = &who.authorization {
        headers.push(("authorization", &**authorization));
    }
    if place == Place::Metadata && !namespace.is_empty() {
        headers.push(("zako-namespace", namespace));
    }
    let slash = if namespace.is_empty() { "" } else { "/" };
    let message = match place {
        Place::Metadata => Vec::new(),
        Place::Message => field(1, namespace.as_bytes()),
        Place::ToRead => field(1, format!("{namespace}{slash}blobs/{HASH}/0").as_bytes()),
        Place::ToWrite => {
            let name = format!("{namespace}{slash}uploads/u/blobs/{HASH}/0");
            field(1, name.as_bytes())
        }
    };
    let ended = grpc.call(&format!("/{path}"), &headers, &message).await;
    let outcome = match ended.code {
        16 => Outcome::Unauthenticated,
        7 => Outcome::Denied,
        _ => Outcome::Allowed,
    };
    (outcome, ended.message)
}

async fn setup(anonymous: Option<Role>) -> (Servers, Issuer) {
    let issuer = Issuer::new(Algorithm::ES256, "one");
    let dir = tempfile::tempdir().unwrap();
    let keys = jwks(dir.path(), &[&issuer]);
    let user = rustix::process::getuid().as_raw();
    let mut rules: AccessRules = rules([
        with_token("reader", r#""read""#),
        with_token("writer", r#""write""#),
        with_token("admin", r#""admin""#),
        with_token("main", r#"{"main": "write"}"#),
        with_token("team", r#"{"*": "none", "": "read", "team/*": "write"}"#),
        identity(r#"{"name": "ci", "subject": "ci/*", "roles": {"main": "admin"}}"#),
        identity(&format!(
            r#"{{"name": "local", "user": {user}, "roles": {{"main": "write"}}}}"#
        )),
    ]);
    rules.anonymous = Roles::everywhere(anonymous);
    rules.jwt = Some(jwt(&format!(
        r#"{{"jwks": {keys:?}, "issuer": "https://issuer", "audience": ["zako", "other"]}}"#
    )));
    let mut options = ServerOptions::default();
    // Here roles alone are asked for.
    options.require_token = false;
    (Servers::start(rules, options).await, issuer)
}

#[tokio::test]
async fn each_method_of_grpc_takes_its_role_in_its_namespace() {
    for anonymous in [None, READ] {
        let (servers, issuer) = setup(anonymous).await;
        let grpc = servers.grpc().await;
        for method in GRPC {
            for who in callers(&issuer, anonymous) {
                for (at, namespace) in NAMESPACES.into_iter().enumerate() {
                    let (outcome, text) = called(&grpc, method, &who, namespace).await;
                    let expected = expected(&who, at, method.2, anonymous);
                    let name = who.name;
                    assert_eq!(outcome, expected, "{method:?} {name} {namespace:?}: {text}");
                }
            }
        }
    }
}

#[tokio::test]
async fn each_method_of_http_takes_its_role_in_its_namespace() {
    for anonymous in [None, READ] {
        let (servers, issuer) = setup(anonymous).await;
        for (method, path, needed) in HTTP {
            for who in callers(&issuer, anonymous) {
                for (at, namespace) in NAMESPACES.into_iter().enumerate() {
                    let slash = if namespace.is_empty() { "" } else { "/" };
                    let path = format!("/{namespace}{slash}{path}{HASH}");
                    let headers: Vec<_> = who
                        .authorization
                        .iter()
                        .map(|value| ("authorization", &**value))
                        .collect();
                    let (status, answer) = ask(servers.http, method, &path, &headers, b"").await;
                    let outcome = match status {
                        401 => Outcome::Unauthenticated,
                        403 => Outcome::Denied,
                        _ => Outcome::Allowed,
                    };
                    let expected = expected(&who, at, needed, anonymous);
                    let name = who.name;
                    assert_eq!(outcome, expected, "{method} {path} {name}: {answer}");
                    let asks = answer
                        .to_ascii_lowercase()
                        .contains("www-authenticate: basic");
                    assert_eq!(asks, outcome == Outcome::Unauthenticated, "{answer}");
                }
            }
        }
    }
}

#[tokio::test]
async fn users_of_unix_sockets_are_known_and_a_token_goes_before() {
    let (servers, _) = setup(None).await;
    let grpc = servers.grpc_by_unix().await;
    let upload = GRPC[3];
    let user = who("user", None, [None, WRITE, None]);
    assert_eq!(
        called(&grpc, upload, &user, "main").await.0,
        Outcome::Allowed
    );
    assert_eq!(called(&grpc, upload, &user, "").await.0, Outcome::Denied);
    let reader = who("reader", Some(bearer(&token("reader"))), [READ; 3]);
    assert_eq!(
        called(&grpc, upload, &reader, "main").await.0,
        Outcome::Denied
    );
    // By TCP nobody is anybody's user.
    let grpc = servers.grpc().await;
    assert_eq!(
        called(&grpc, upload, &user, "main").await.0,
        Outcome::Unauthenticated
    );
}

#[tokio::test]
async fn refusals_say_what_is_missing_and_who_one_is() {
    let (servers, _) = setup(READ).await;
    let grpc = servers.grpc().await;
    let main = who("main", Some(bearer(&token("main"))), [None; 3]);
    let (_, text) = called(&grpc, GRPC[10], &main, "main").await;
    for part in ["main", "admin", "it%20has%20write"] {
        let text = text.replace(' ', "%20");
        assert!(text.contains(part), "{text}");
    }
    let (status, text) = ask(servers.http, "PUT", &format!("/x/ac/{HASH}"), &[], b"").await;
    assert_eq!(status, 401);
    for part in ["anonymous", "write", "\"x\"", "it has read"] {
        assert!(text.contains(part), "{text}");
    }
}

#[tokio::test]
async fn health_and_what_http_can_do_is_told_to_everyone() {
    let (servers, _) = setup(None).await;
    let grpc = servers.grpc().await;
    for authorization in [None, Some(bearer("nobody's"))] {
        let anyone = who("anyone", authorization, [None; 3]);
        let health = ("grpc.health.v1.Health/Check", Place::Metadata, None);
        let reply = called(&grpc, health, &anyone, "").await;
        assert_eq!(reply, (Outcome::Allowed, String::new()));
    }
    assert_eq!(ask(servers.http, "OPTIONS", "/dav/", &[], b"").await.0, 204);
    assert_eq!(ask(servers.http, "GET", "/", &[], b"").await.0, 200);
    assert_eq!(ask(servers.http, "GET", "/status", &[], b"").await.0, 401);
}
