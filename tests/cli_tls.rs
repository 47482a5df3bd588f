//! TLS of real servers and clients: what it carries, whom it refuses, certificates that are
//! replaced while they serve, and where it is needed.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod zako_process;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Child;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use zako_process::{Home, noise};

/// More than any of this takes on a machine that is busy.
const LONG: Duration = Duration::from_secs(120);

/// Issues certificates.
struct Authority(Issuer<'static, KeyPair>);

/// A `zako serve`; killed when dropped.
struct Serving {
    child: Child,
    ready: String,
    log: Arc<Mutex<String>>,
}

impl Authority {
    /// With its own certificate in the file NAME.pem.
    fn new(home: &Home, name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        home.write(&format!("{name}.pem"), pem);
        Self(Issuer::new(params, key))
    }

    /// A certificate and its key in PEM, and the certificate in DER.
    fn issue(&self, name: &str, until: i32) -> (String, String, Vec<u8>) {
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.not_after = rcgen::date_time_ymd(until, 1, 1);
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let key = KeyPair::generate().unwrap();
        let made = params.signed_by(&key, &self.0).unwrap();
        (made.pem(), key.serialize_pem(), made.der().to_vec())
    }

    /// Writes FOLDER/cert.pem and FOLDER/key.pem; gives the certificate in DER.
    fn write(&self, home: &Home, folder: &str, name: &str) -> Vec<u8> {
        self.write_until(home, folder, name, 2100)
    }

    /// The same, good until this year begins.
    fn write_until(&self, home: &Home, folder: &str, name: &str, until: i32) -> Vec<u8> {
        let (certificate, key, der) = self.issue(name, until);
        home.write(&format!("{folder}/cert.pem"), certificate);
        home.write(&format!("{folder}/key.pem"), key);
        der
    }
}

impl Serving {
    fn start(home: &Home, more: &[&str]) -> Self {
        let mut command = home.command(["serve", "--log", "info", "--data", "data"]);
        let mut child = command.args(more).spawn().unwrap();
        let mut ready = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut ready)
            .unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let (said, stderr) = (Arc::clone(&log), child.stderr.take().unwrap());
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let mut said = said.lock().unwrap();
                said.push_str(&line);
                said.push('\n');
            }
        });
        assert!(ready.starts_with("zako: ready "), "{ready:?}");
        Self { child, ready, log }
    }

    /// On free ports of loopback.
    fn on_loopback(home: &Home, more: &[&str]) -> Self {
        let ports = ["--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"];
        Self::start(home, &[&ports, more].concat())
    }

    fn with_tls(home: &Home, folder: &str, more: &[&str]) -> Self {
        let (certificate, key) = (format!("{folder}/cert.pem"), format!("{folder}/key.pem"));
        let tls = ["--tls-cert", &certificate, "--tls-key", &key];
        Self::on_loopback(home, &[&tls, more].concat())
    }

    /// What stands behind `name=` in the first line.
    fn address(&self, name: &str) -> String {
        let mut words = self.ready.split_whitespace();
        let found = words.find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
        found.unwrap().to_owned()
    }

    fn url(&self) -> String {
        format!("https://{}", self.address("grpc"))
    }

    fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Waits until it has said so.
    fn says(&self, part: &str) {
        wait(|| self.log().contains(part).then_some(())).unwrap_or_else(|| {
            panic!("{part:?} is not in {}", self.log());
        });
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn wait<T>(mut until: impl FnMut() -> Option<T>) -> Option<T> {
    let began = Instant::now();
    while began.elapsed() < LONG {
        if let Some(found) = until() {
            return Some(found);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    None
}

/// A TLS connection to a server with a certificate of this authority.
fn connect(address: &str, authority: &Path) -> StreamOwned<ClientConnection, TcpStream> {
    let mut roots = RootCertStore::empty();
    let authority = CertificateDer::from_pem_file(authority).unwrap();
    roots.add(authority).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let connection = ClientConnection::new(Arc::new(config), name).unwrap();
    StreamOwned::new(connection, TcpStream::connect(address).unwrap())
}

/// The certificate that is shown there.
fn shown(address: &str, authority: &Path) -> Vec<u8> {
    let mut stream = connect(address, authority);
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock).unwrap();
    }
    stream.conn.peer_certificates().unwrap()[0].to_vec()
}

#[test]
fn blobs_move_and_the_http_cache_answers() {
    let home = Home::new();
    let authority = Authority::new(&home, "ours");
    authority.write(&home, "tls", "127.0.0.1");
    let server = Serving::with_tls(&home, "tls", &[]);
    let client = ["--server", &server.url(), "--tls-ca", "ours.pem"];
    for (name, length) in [("small", 10), ("middle", 300_000), ("large", 64 << 20)] {
        let content = noise(length as u64, length);
        home.write(name, &content);
        let said = home.run([&["put", "--json", name], &client[..]].concat());
        let digest = said.json()[0]["digest"].as_str().unwrap().to_owned();
        let back = home.run([&["get", &digest], &client[..]].concat());
        assert!(back.stdout == content, "{name}: {}", back.stderr);
    }
    for n in 0..300 {
        home.write(
            &format!("tree/{}/{n}", n % 7),
            noise(n, 1_000 + 31 * n as usize),
        );
    }
    let tree = home
        .run([&["put", "--tree", "tree"], &client[..]].concat())
        .ok();
    let digest = tree.split_whitespace().next().unwrap().to_owned();
    home.run([&["get", &digest, "-o", "restored"], &client[..]].concat())
        .ok();
    let listing = |name: &str| zako_process::listing(&home.path(name));
    assert_eq!(listing("tree"), listing("restored"));

    let content = noise(5, 3 << 20);
    let path = format!("/cas/blake3/{}", zako_digest::hash::bytes(&content).hash());
    let http = server.address("http");
    let ask = |request: &str, body: &[u8]| {
        let mut stream = connect(&http, &home.path("ours.pem"));
        let length = body.len();
        write!(
            stream,
            "{request} HTTP/1.1\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n"
        )
        .unwrap();
        stream.write_all(body).unwrap();
        stream.flush().unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let end = answer
            .windows(4)
            .position(|part| part == b"\r\n\r\n")
            .unwrap();
        (answer[9..12].to_vec(), answer.split_off(end + 4))
    };
    assert_eq!(ask(&format!("PUT {path}"), &content).0, b"201");
    let (status, body) = ask(&format!("GET {path}"), b"");
    assert!(status == b"200" && body == content);
}

#[test]
fn what_goes_wrong_is_told() {
    let home = Home::new();
    let (ours, other) = (
        Authority::new(&home, "ours"),
        Authority::new(&home, "other"),
    );
    ours.write(&home, "tls", "127.0.0.1");
    ours.write(&home, "named", "cache.example");
    other.write(&home, "stranger", "builder");
    home.write("file", "content");
    let put =
        |url: &str, more: &[&str]| home.run([&["put", "file", "--server", url], more].concat());
    let server = Serving::with_tls(&home, "tls", &[]);
    let url = server.url();
    put(&url, &["--tls-ca", "ours.pem"]).ok();
    let said = put(&url, &["--tls-ca", "other.pem"]);
    assert!(said.fails(9).contains("tls-ca"), "{said}");
    let said = put(&url, &[]);
    assert!(!said.fails(said.code.unwrap()).is_empty());
    assert!(matches!(said.code, Some(2 | 9)), "{said}");
    let said = put(&url, &["--tls-ca", "absent.pem"]);
    assert!(said.fails(3).contains("absent.pem"), "{said}");
    let said = put(&url, &["--tls-ca", "file"]);
    assert!(said.fails(2).contains("PEM"), "{said}");
    let said = put(
        &url,
        &["--tls-ca", "ours.pem", "--client-cert", "tls/cert.pem"],
    );
    assert!(said.fails(2).contains("--client-key"), "{said}");
    let said = put(&url.replace("https", "http"), &[]);
    assert!(said.fails(8).contains("https://"), "{said}");
    drop(server);

    let server = Serving::with_tls(&home, "named", &[]);
    let ca = ["--tls-ca", "ours.pem"];
    let said = put(&server.url(), &ca);
    assert!(said.fails(9).contains("--tls-server-name"), "{said}");
    put(
        &server.url(),
        &[&ca[..], &["--tls-server-name", "cache.example"]].concat(),
    )
    .ok();
    drop(server);

    ours.write(&home, "builder", "builder");
    let server = Serving::with_tls(&home, "tls", &["--tls-client-ca", "ours.pem"]);
    let said = put(&server.url(), &ca);
    assert!(said.fails(9).contains("--client-cert"), "{said}");
    let with = |folder: &str| {
        let (certificate, key) = (format!("{folder}/cert.pem"), format!("{folder}/key.pem"));
        put(
            &server.url(),
            &[
                &ca[..],
                &["--client-cert", &certificate, "--client-key", &key],
            ]
            .concat(),
        )
    };
    with("builder").ok();
    assert!(with("stranger").fails(9).contains("certificate"));
    drop(server);

    let optional = [
        "--tls-client-ca",
        "ours.pem",
        "--tls-client-auth",
        "optional",
    ];
    let server = Serving::with_tls(&home, "tls", &optional);
    put(&server.url(), &ca).ok();
}

#[test]
fn a_server_says_what_is_wrong_with_its_files() {
    let home = Home::new();
    let authority = Authority::new(&home, "ours");
    authority.write(&home, "one", "127.0.0.1");
    authority.write(&home, "two", "127.0.0.1");
    let mut old = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
    old.not_before = rcgen::date_time_ymd(2001, 1, 1);
    old.not_after = rcgen::date_time_ymd(2002, 1, 1);
    let key = KeyPair::generate().unwrap();
    let expired = old.signed_by(&key, &authority.0).unwrap();
    home.write("old/cert.pem", expired.pem());
    home.write("old/key.pem", key.serialize_pem());
    for (certificate, key, code, part) in [
        (
            "one/cert.pem",
            "two/key.pem",
            2,
            "not that of the certificate",
        ),
        ("one/key.pem", "one/key.pem", 2, "no certificate"),
        ("one/cert.pem", "one/cert.pem", 2, "no private key"),
        ("old/cert.pem", "old/key.pem", 2, "expired"),
        ("gone.pem", "one/key.pem", 3, "gone.pem"),
    ] {
        let said = home.run([
            "serve",
            "--data",
            "data",
            "--tls-cert",
            certificate,
            "--tls-key",
            key,
        ]);
        assert!(said.fails(code).contains(part), "{said}");
        assert!(!home.path("data").exists(), "nothing was begun");
    }
    let said = home.run(["serve", "--data", "data", "--tls-cert", "one/cert.pem"]);
    assert!(said.fails(2).contains("--tls-key"), "{said}");
    let said = home.run(["serve", "--data", "data", "--tls-client-ca", "ours.pem"]);
    assert!(said.fails(2).contains("--tls-cert"), "{said}");

    let open = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    std::fs::set_permissions(home.path("one/key.pem"), open).unwrap();
    let server = Serving::with_tls(&home, "one", &[]);
    server.says("can read the TLS key");
    drop(server);
    let closed = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(home.path("one/key.pem"), closed).unwrap();
    let server = Serving::with_tls(&home, "one", &[]);
    assert!(!server.log().contains("can read the TLS key"));
    // What it logs is no secret.
    let key = std::fs::read_to_string(home.path("one/key.pem")).unwrap();
    let secret = key.lines().nth(1).unwrap();
    assert!(!server.log().contains(secret));
}

#[test]
fn files_are_read_again_under_load() {
    let home = Home::new();
    let authority = Authority::new(&home, "ours");
    let first = authority.write(&home, "v1", "127.0.0.1");
    let second = authority.write(&home, "v2", "127.0.0.1");
    let third = authority.write(&home, "v3", "127.0.0.1");
    // As Kubernetes mounts secrets: names that lead through one link, which is swapped.
    let point = |to: &str| {
        let link = home.path("next");
        std::os::unix::fs::symlink(to, &link).unwrap();
        std::fs::rename(link, home.path("current")).unwrap();
    };
    point("v1");
    std::fs::create_dir(home.path("mounted")).unwrap();
    for name in ["cert.pem", "key.pem"] {
        let to = format!("../current/{name}");
        std::os::unix::fs::symlink(to, home.path("mounted").join(name)).unwrap();
    }
    let server = Serving::with_tls(&home, "mounted", &[]);
    let (address, ca) = (server.address("grpc"), home.path("ours.pem"));
    assert_eq!(shown(&address, &ca), first);

    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let load = scope.spawn(|| {
            let url = server.url();
            let client = ["--server", &url, "--tls-ca", "ours.pem"];
            let mut runs = 0;
            loop {
                home.write("file", noise(runs, 200_000));
                home.run([&["put", "file"], &client[..]].concat()).ok();
                runs += 1;
                if stop.load(Ordering::Relaxed) {
                    return runs;
                }
            }
        });
        point("v2");
        let seen = wait(|| (shown(&address, &ca) == second).then_some(()));
        assert!(seen.is_some(), "{}", server.log());

        // What can't be used changes nothing, and is told.
        home.write("v2/cert.pem", "no certificate");
        server.says("NOT USED");
        assert_eq!(shown(&address, &ca), second);
        point("v3");
        let seen = wait(|| (shown(&address, &ca) == third).then_some(()));
        stop.store(true, Ordering::Relaxed);
        assert!(seen.is_some(), "{}", server.log());
        assert!(load.join().unwrap() > 0);
    });
}

/// The metric of the certificate's end, as it is now.
fn expires(admin: &str) -> Option<f64> {
    let mut stream = TcpStream::connect(admin).unwrap();
    write!(stream, "GET /metrics HTTP/1.0\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert!(text.contains("zako_uptime_seconds "), "{text}");
    let mut values = text
        .lines()
        .filter_map(|line| line.strip_prefix("zako_tls_certificate_expires_seconds "));
    values.next().map(|value| value.parse().unwrap())
}

#[test]
fn metrics_tell_when_the_certificate_in_force_ends() {
    let home = Home::new();
    let authority = Authority::new(&home, "ours");
    authority.write_until(&home, "tls", "127.0.0.1", 2040);
    let admin = ["--admin", "127.0.0.1:0"];
    let server = Serving::with_tls(&home, "tls", &admin);
    let address = server.address("admin");
    assert_eq!(expires(&address), Some(2_208_988_800.0));

    authority.write_until(&home, "tls", "127.0.0.1", 2050);
    let renewed = wait(|| (expires(&address)? == 2_524_608_000.0).then_some(()));
    assert!(renewed.is_some(), "{}", server.log());
    // One that isn't used doesn't count.
    home.write("tls/cert.pem", "no certificate");
    server.says("NOT USED");
    assert_eq!(expires(&address), Some(2_524_608_000.0));
    drop(server);

    let server = Serving::on_loopback(&home, &admin);
    assert_eq!(expires(&server.address("admin")), None);
}

#[test]
fn other_machines_are_served_by_tls_or_by_an_explicit_wish() {
    let mut home = Home::new();
    Authority::new(&home, "ours").write(&home, "tls", "127.0.0.1");
    let loopback = ["--listen", "127.0.0.1:0"];
    for (key, more) in [
        ("listen", ["--listen", "0.0.0.0:0"]),
        ("listen", ["--listen", "[::]:0"]),
        ("http", ["--http", "0.0.0.0:0"]),
        ("admin", ["--admin", "0.0.0.0:0"]),
    ] {
        // The last of two flags would be refused.
        let listen: &[&str] = if key == "listen" { &[] } else { &loopback };
        let all = [&["serve", "--data", "data"], listen, &more].concat();
        let said = home.run(&all);
        let text = said.fails(2);
        assert!(text.contains(&format!("{key} is ")), "{text}");
        assert!(text.contains("--tls-cert"), "{text}");
        assert!(text.contains("--tls-allow-plaintext"), "{text}");
        assert!(!home.path("data").exists(), "nothing was begun");
        if more[1].starts_with("[::]") && std::net::TcpListener::bind("[::]:0").is_err() {
            println!("SKIPPED: there is no IPv6 here to listen on");
            continue;
        }
        let more = [listen, &more].concat();
        drop(Serving::start(
            &home,
            &[&more[..], &["--tls-allow-plaintext"]].concat(),
        ));
        let tls = ["--tls-cert", "tls/cert.pem", "--tls-key", "tls/key.pem"];
        drop(Serving::start(&home, &[&more[..], &tls].concat()));
        std::fs::remove_dir_all(home.path("data")).unwrap();
    }
    let socket = format!("unix:{}", home.path("socket").display());
    for listen in ["127.0.0.1:0", "127.8.7.6:0", &socket] {
        drop(Serving::start(&home, &["--listen", listen]));
    }
    home.set("ZAKO_TLS_ALLOW_PLAINTEXT", "true");
    drop(Serving::start(&home, &["--listen", "0.0.0.0:0"]));
    home.set("ZAKO_TLS_ALLOW_PLAINTEXT", "");
    home.write("zako.toml", "tls.allow-plaintext = true\n");
    drop(Serving::start(&home, &["--listen", "0.0.0.0:0"]));
}
