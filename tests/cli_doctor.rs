//! What `zako doctor` finds of a server's admin port and of its tables.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod zako_process;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::process::Child;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use zako_process::{Home, Said};

/// How long a state may take to come before a test gives it up.
const HUNG: Duration = Duration::from_secs(60);

/// A server; killed when dropped.
struct Serving {
    child: Child,
    admin: String,
}

impl Serving {
    fn start(home: &Home) -> Self {
        let mut command = home.command(["serve", "--json", "--data", "data", "--log", "error"]);
        let ports = ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
        let command = command.args(ports).args(["--drain-delay", "1h"]);
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        stdout.read_line(&mut line).unwrap();
        let ready: Value = serde_json::from_str(&line).unwrap();
        let admin = ready["admin"].as_str().unwrap().to_owned();
        Self { child, admin }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The state of a check and what was found.
#[track_caller]
fn check(said: &Said, name: &str) -> (String, String) {
    let records = said.json();
    let found = records.iter().find(|record| record["check"] == name);
    let found = found.unwrap_or_else(|| panic!("{name}: {said}"));
    let text = |key: &str| found[key].as_str().unwrap().to_owned();
    (text("state"), text("found"))
}

#[test]
fn it_asks_the_admin_port_that_is_configured() {
    let home = Home::new();
    let server = Serving::start(&home);
    let admin = server.admin.clone();
    home.write("zako.toml", format!("[admin]\nlisten = \"{admin}\"\n"));
    let asked = || check(&home.run(["doctor", "--json"]), "admin port");
    let wait_for = |wanted: (&str, String)| {
        let late = Instant::now() + HUNG;
        loop {
            let (state, found) = asked();
            if (&*state, &found) == (wanted.0, &wanted.1) {
                return;
            }
            assert!(Instant::now() < late, "{state}: {found}");
        }
    };
    wait_for(("ok", format!("{admin} says: ready")));
    kill_process(Pid::from_child(&server.child), Signal::TERM).unwrap();
    let draining =
        format!("{admin} says: draining: finishing what is in flight, taking nothing new");
    wait_for(("warning", draining));
    drop(server);

    let said = home.run(["doctor", "--json"]);
    let (state, found) = check(&said, "admin port");
    assert_eq!(state, "broken", "{found}");
    assert!(found.contains("doesn't answer") && found.contains(&admin));
    assert!(said.fails(1).contains("admin port"), "{said}");

    // Whose port is another's.
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = other.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for stream in other.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 1024]);
            let _ = stream.write_all(b"HTTP/1.1 404 Not Found\r\n\r\n");
        }
    });
    let said = home.run(["doctor", "--json", "--admin", &addr]);
    let (state, found) = check(&said, "admin port");
    assert_eq!(state, "broken", "{found}");
    assert!(found.contains("404"), "{found}");

    for (admin, part) in [("off", "none"), ("127.0.0.1:0", "a free port")] {
        let said = home.run(["doctor", "--json", "--admin", admin]);
        let (state, found) = check(&said, "admin port");
        assert_eq!(state, "ok", "{found}");
        assert!(found.contains(part), "{found}");
    }
}

#[test]
fn it_tells_the_state_of_the_tables() {
    let home = Home::new();
    let run = |more: &[&str]| home.run([&["doctor", "--json", "--admin", "off"], more].concat());
    let said = run(&[]);
    for (name, part) in [
        ("access", "who can connect may do everything"),
        ("limits", "callers are not limited"),
        ("tls", "none; only this machine"),
    ] {
        let (state, found) = check(&said, name);
        assert_eq!(state, "ok", "{found}");
        assert!(found.contains(part), "{found}");
    }

    let (token, of_writer) = home.token("ci", "write");
    home.write(
        "zako.toml",
        format!(
            "{of_writer}\n[access]\nanonymous = \"read\"\n[limits]\nmax-connections = 77\n\
             [limits.default]\nstreams = 4\n[[limits.identity]]\nname = \"ci\"\nstreams = 9\n\
             [tls]\ncert = \"cert.pem\"\nkey = \"key.pem\"\n"
        ),
    );
    let certificate = |days: i64| {
        let mut params = rcgen::CertificateParams::new(["x".to_owned()]).unwrap();
        let in_days = |days| std::time::SystemTime::now() + Duration::from_secs(days * 86_400);
        params.not_after = in_days(days.unsigned_abs()).into();
        let key = rcgen::KeyPair::generate().unwrap();
        home.write("cert.pem", params.self_signed(&key).unwrap().pem());
        home.write("key.pem", key.serialize_pem());
    };
    certificate(100);
    let said = run(&[]);
    assert!(!said.to_string().contains(&token), "{said}");
    let found = |name| check(&said, name);
    let ok = |text: &str| ("ok".to_owned(), text.to_owned());
    assert_eq!(
        found("access"),
        ok("1 identity, no JWTs; who shows nothing: read")
    );
    let (state, limits) = found("limits");
    assert_eq!(state, "ok");
    assert!(limits.starts_with("77 connections"), "{limits}");
    let each = "each caller is limited; 1 have limits of their own";
    assert!(limits.ends_with(each), "{limits}");
    assert_eq!(
        found("tls"),
        ok("the certificate is good for 99 days; clients need none")
    );

    certificate(5);
    let (state, found) = check(&run(&[]), "tls");
    assert_eq!(state, "warning", "{found}");
    home.write("key.pem", "no key");
    let said = run(&[]);
    assert_eq!(check(&said, "tls").0, "broken");
    assert!(said.fails(1).contains("tls"), "{said}");
    // As the server would refuse it.
    home.write("zako.toml", "");
    let said = run(&["--listen", "0.0.0.0:7420"]);
    assert_eq!(check(&said, "tls").0, "broken");
    home.write(
        "zako.toml",
        "[access.jwt]\njwks = \"absent\"\nissuer = \"i\"\naudience = \"a\"\n",
    );
    let said = run(&[]);
    assert_eq!(check(&said, "access").0, "broken");
    assert!(said.fails(1).contains("access"), "{said}");
}
