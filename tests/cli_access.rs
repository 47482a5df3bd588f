//! Tokens from their making to their use, and that they are in no log.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod zako_process;

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use jsonwebtoken::jwk::{Jwk, JwkSet};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode, get_current_timestamp};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use zako_process::{Home, Server};
use zako_protobuf::cas::GetTransportDetailsRequest;
use zako_protobuf::cas::content_addressable_storage_client::ContentAddressableStorageClient;
use zako_protobuf::store::StatRequest;
use zako_protobuf::store::store_client::StoreClient;

const DENIED: i32 = 9;
const USAGE: i32 = 2;

/// How long something may take to be said before a test gives it up.
const HUNG: Duration = Duration::from_secs(120);

#[test]
fn a_token_opens_what_its_role_allows() {
    let mut home = Home::new();
    let (writer, of_writer) = home.token("ci", "write");
    let (reader, of_reader) = home.token("people", "read");
    home.write("zako.toml", format!("{of_writer}\n{of_reader}"));
    home.write("writer", format!("{writer}\n"));
    home.write("reader", &reader);
    home.write("file", "content");
    let server = Server::start(&home, &[]);
    let url = server.url();
    let run = |home: &Home, args: &[&str]| {
        let server = ["--server", &url];
        home.run(args.iter().chain(&server).copied().collect::<Vec<_>>())
    };
    let said = run(&home, &["put", "file"]);
    assert!(said.fails(DENIED).contains("--token-file"), "{said}");
    let text = run(&home, &["put", "file", "--token-file", "writer"]).ok();
    let digest = text.split_whitespace().next().unwrap();
    run(&home, &["has", digest, "--token-file", "reader"]).ok();
    let said = run(&home, &["rm", digest, "--token-file", "reader"]);
    assert!(
        said.fails(DENIED)
            .contains("\"people\" has not the role write"),
        "{said}"
    );
    let said = run(&home, &["gc", "--token-file", "writer"]);
    assert!(said.fails(DENIED).contains("the role admin"), "{said}");

    home.set("ZAKO_TOKEN", &reader);
    assert_eq!(run(&home, &["get", digest]).ok(), "content");
    run(&home, &["put", "file", "--token-file", "writer"]).ok();
    let said = run(&home, &["doctor"]);
    assert!(!said.to_string().contains(&reader), "{said}");
    let token = said.text();
    let token = token
        .lines()
        .find(|line| line.trim_start().starts_with("token "));
    assert!(token.unwrap().contains("set"), "{said}");
    home.set("ZAKO_TOKEN", "not the token");
    let said = run(&home, &["has", digest]);
    assert!(!said.fails(DENIED).contains("not the token"), "{said}");
}

#[test]
fn hashes_are_made_of_tokens_that_exist() {
    let home = Home::new();
    let (token, config) = home.token("ci", "read");
    let said = home.run_with(["access", "token", "ci", "--hash"], token.as_bytes());
    let text = said.ok();
    assert!(
        text.contains(config.trim_end()) && !text.contains(&token),
        "{text}"
    );
    home.run_with(["access", "token", "--hash"], b" \n")
        .fails(USAGE);
    home.run(["access", "token", "anonymous"]).fails(USAGE);
}

#[test]
fn what_is_wrong_with_the_configuration_is_pointed_at() {
    let home = Home::new();
    let hash = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
    let identity = "[[access.identity]]\nname = \"a\"\n";
    for (text, parts) in [
        (
            format!("{identity}roles = \"all\"\n"),
            &["line 3", "no role"][..],
        ),
        (
            format!("{identity}roles = {{ a = \"all\" }}\n"),
            &["line 3", "no role"],
        ),
        (
            format!("{identity}token-sha256 = \"zako_1\"\n"),
            &["line 3", "--hash"],
        ),
        (
            format!("{identity}certificate = \"o:x\"\n"),
            &["line 3", "cn:NAME"],
        ),
        (
            format!("{identity}tokens = \"x\"\n"),
            &["line 3", "unknown field"],
        ),
        (format!("{identity}roles = \"read\"\n"), &["could be known"]),
        (
            format!("{identity}roles = \"read\"\ntoken-sha256 = [\"{hash}\", \"{hash}\"]\n"),
            &["the same token"],
        ),
        (
            format!("{identity}roles = \"read\"\nsubject = \"x\"\n"),
            &["[access.jwt]"],
        ),
        (
            "[access.jwt]\njwks = \"keys\"\nissuer = \"i\"\naudience = \"a\"\n".to_owned(),
            &["keys"],
        ),
        (
            "[access.jwt]\njwks = \"keys\"\nissuer = \"i\"\nalgorithms = \"HS256\"\n".to_owned(),
            &["line 4", "HS256"],
        ),
        (
            "access.anonymous = \"all\"\n".to_owned(),
            &["line 1", "no role"],
        ),
    ] {
        home.write("zako.toml", &text);
        let said = home.run(["serve", "--listen", "127.0.0.1:0", "--data", "data"]);
        assert!(said.code != Some(0), "{text}\n{said}");
        for part in parts {
            assert!(said.stderr.contains(part), "{text}\n{said}");
        }
        assert!(!said.stderr.contains("zako_1"), "{said}");
    }
}

/// A server whose log goes into a file.
struct Logged {
    child: Child,
    log: PathBuf,
    grpc: String,
    http: String,
}

/// Who issues JWTs with one key.
struct Issuer {
    key: EncodingKey,
    id: &'static str,
}

impl Issuer {
    fn new(id: &'static str) -> Self {
        let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let key = EncodingKey::from_ec_pem(pair.serialize_pem().as_bytes()).unwrap();
        Self { key, id }
    }

    /// A good token, shown as a header's value.
    fn bearer(&self) -> String {
        let mut header = Header::new(Algorithm::ES256);
        header.kid = Some(self.id.to_owned());
        let exp = get_current_timestamp() + 3600;
        let claims = json!({"sub": "s", "iss": "i", "aud": "a", "exp": exp});
        format!("Bearer {}", encode(&header, &claims, &self.key).unwrap())
    }

    /// A file with the public keys of these, of which nobody sees a half.
    fn publish(home: &Home, issuers: &[&Self]) {
        let jwk = |issuer: &&Self| {
            let mut jwk = Jwk::from_encoding_key(&issuer.key, Algorithm::ES256).unwrap();
            jwk.common.key_id = Some(issuer.id.to_owned());
            jwk
        };
        let keys = issuers.iter().map(jwk).collect();
        let next = home.write("next", serde_json::to_vec(&JwkSet { keys }).unwrap());
        std::fs::rename(next, home.path("keys")).unwrap();
    }
}

impl Logged {
    fn start(home: &Home, level: &str) -> Self {
        let mut command = home.command([
            "serve",
            "--log",
            level,
            "--listen",
            "127.0.0.1:0",
            "--http",
            "127.0.0.1:0",
            "--data",
            "data",
            "--json",
        ]);
        let log = home.path("log");
        let file = File::create(&log).unwrap();
        let mut child = command.stderr(Stdio::from(file)).spawn().unwrap();
        let mut line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        stdout.read_line(&mut line).unwrap();
        let ready: Value = serde_json::from_str(&line).unwrap();
        let addr = |name: &str| ready[name].as_str().unwrap().to_owned();
        Self {
            child,
            log,
            grpc: addr("grpc"),
            http: addr("http"),
        }
    }

    fn ask(&self, authorization: &str) -> String {
        let mut stream = TcpStream::connect(&self.http).unwrap();
        let head = format!(
            "GET /status HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: \
             {authorization}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    /// Whether it takes this for a good one.
    fn takes(&self, authorization: &str) -> bool {
        let answer = self.ask(authorization);
        let taken = answer.starts_with("HTTP/1.1 200");
        assert!(taken || answer.starts_with("HTTP/1.1 401"), "{answer}");
        taken
    }

    /// The lines that are whole.
    fn said(&self) -> String {
        let mut log = std::fs::read_to_string(&self.log).unwrap();
        log.truncate(log.rfind('\n').map_or(0, |end| end + 1));
        log
    }

    /// Waits until it has said this once more than before, and gives the line.
    fn says(&self, part: &str, before: &str) -> String {
        let count = |log: &str| log.lines().filter(|line| line.contains(part)).count();
        let late = Instant::now() + HUNG;
        loop {
            let log = self.said();
            if count(&log) > count(before) {
                let line = log.lines().rfind(|line| line.contains(part));
                return line.unwrap().to_owned();
            }
            assert!(Instant::now() < late, "{part:?} is not in {log}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn hang_up(&self) {
        kill_process(Pid::from_child(&self.child), Signal::HUP).unwrap();
    }
}

impl Drop for Logged {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_in_no_log() {
    let mut home = Home::new();
    let issuer = Issuer::new("one");
    Issuer::publish(&home, &[&issuer]);
    let key = issuer.key;
    let (token, config) = home.token("ci", "write");
    let jwt = "[access.jwt]\njwks = \"keys\"\nissuer = \"i\"\naudience = \"a\"\nroles = \"read\"\n";
    home.write("zako.toml", format!("{config}\n{jwt}"));
    home.write("file", "content");
    home.set("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1");
    home.set("OTEL_EXPORTER_OTLP_HEADERS", "x-api-key=the-collectors-key");
    let server = Logged::start(&home, "trace");

    let claims = |exp: u64| json!({"sub": "s", "iss": "i", "aud": "a", "exp": exp});
    let header = Header::new(Algorithm::ES256);
    let good = encode(&header, &claims(get_current_timestamp() + 999), &key).unwrap();
    let expired = encode(&header, &claims(1), &key).unwrap();
    let wrong = "a-token-that-nobody-has".to_owned();
    let mut secrets = vec![token.clone(), good.clone(), expired.clone(), wrong.clone()];
    secrets.push("the-collectors-key".to_owned());

    for shown in [&good, &expired, &wrong] {
        let answer = server.ask(&format!("Bearer {shown}"));
        assert_eq!(
            answer.starts_with("HTTP/1.1 200"),
            shown == &good,
            "{answer}"
        );
    }
    // user:a-token-that-nobody-has
    let basic = "dXNlcjphLXRva2VuLXRoYXQtbm9ib2R5LWhhcw==";
    assert!(
        server
            .ask(&format!("Basic {basic}"))
            .starts_with("HTTP/1.1 401")
    );
    secrets.push(basic.to_owned());

    // By generated code, to see the one-time token.
    let channel = tonic::transport::Endpoint::from_shared(format!("http://{}", server.grpc));
    let channel = channel.unwrap().connect().await.unwrap();
    for shown in [&token, &wrong, &expired] {
        let mut request = tonic::Request::new(GetTransportDetailsRequest {
            supported_protocols: vec![0],
            scope: 0,
        });
        let value = format!("Bearer {shown}").parse().unwrap();
        request.metadata_mut().insert("authorization", value);
        let mut client = ContentAddressableStorageClient::new(channel.clone());
        let details = client.get_transport_details(request).await;
        assert_eq!(details.is_ok(), shown == &token);
        let Ok(details) = details else { continue };
        let one_time = details.into_inner().auth_token;
        let mut request = tonic::Request::new(StatRequest::default());
        for (name, value) in [
            ("authorization", format!("Bearer {token}")),
            ("zako-token", one_time.clone()),
        ] {
            let value = value.parse().unwrap();
            request.metadata_mut().insert(name, value);
        }
        StoreClient::new(channel.clone())
            .stat(request)
            .await
            .unwrap();
        secrets.push(one_time);
    }

    home.set("ZAKO_TOKEN", &token);
    let url = format!("http://{}", server.grpc);
    let said = home.run(["put", "file", "--server", &url, "--log", "trace"]);
    said.ok();
    drop(server);
    let log = std::fs::read_to_string(home.path("log")).unwrap();
    // There would have been something to see.
    assert!(
        log.contains("TRACE") && log.contains("GetTransportDetails"),
        "{log}"
    );
    for (name, text) in [("the server's log", &log), ("the client's", &said.stderr)] {
        for secret in &secrets {
            let line = text.lines().find(|line| line.contains(&**secret));
            assert!(line.is_none(), "{name}: {}", line.unwrap());
        }
    }
}

#[test]
fn keys_of_an_issuer_are_read_again() {
    const CHANGED: &str = "the keys of JWTs changed and were read";
    const STAY: &str = "the keys of JWTs stay those that were read";
    const RELOADED: &str = "the configuration was read again";
    const REFUSED: &str = "the configuration was NOT reloaded";
    let home = Home::new();
    let (old, new) = (Issuer::new("old"), Issuer::new("new"));
    Issuer::publish(&home, &[&old]);
    home.write(
        "zako.toml",
        "[access.jwt]\njwks = \"keys\"\nissuer = \"i\"\naudience = \"a\"\nroles = \"read\"\n",
    );
    let server = Logged::start(&home, "info");
    let (of_old, of_new) = (old.bearer(), new.bearer());
    let taken = || (server.takes(&of_old), server.takes(&of_new));
    assert_eq!(taken(), (true, false));

    // By itself: the new key counts, and the one that is gone doesn't.
    let before = server.said();
    Issuer::publish(&home, &[&new]);
    server.says(CHANGED, &before);
    assert_eq!(taken(), (false, true));

    // What can't be read changes nothing, by itself or on a signal.
    let before = server.said();
    home.write("keys", "{\"keys\": [");
    let line = server.says(STAY, &before);
    assert!(
        line.contains("WARN") && line.contains("keys: EOF"),
        "{line}"
    );
    assert_eq!(taken(), (false, true));
    let before = server.said();
    server.hang_up();
    let line = server.says(REFUSED, &before);
    assert!(
        line.contains("ERROR") && line.contains("keys: EOF"),
        "{line}"
    );
    assert_eq!(taken(), (false, true));
    std::fs::remove_file(home.path("keys")).unwrap();
    let before = server.said();
    server.hang_up();
    server.says(REFUSED, &before);
    assert_eq!(taken(), (false, true));

    // On a signal, both.
    let before = server.said();
    Issuer::publish(&home, &[&old, &new]);
    server.hang_up();
    server.says(RELOADED, &before);
    assert_eq!(taken(), (true, true));
}
