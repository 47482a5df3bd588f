//! The admin port of a server: where it is, and that it answers as long as the process
//! lives.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod zako_process;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Child;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use zako_process::{Home, Ports, noise};

/// How long a state may take to come before a test gives it up.
const HUNG: Duration = Duration::from_secs(60);

/// A server; killed when dropped.
struct Serving {
    child: Child,
    ready: String,
}

impl Serving {
    fn start(home: &Home, more: &[&str]) -> Self {
        let mut command = home.command(["serve", "--log", "error", "--data", "data"]);
        let mut child = command.args(more).spawn().unwrap();
        let mut ready = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut ready)
            .unwrap();
        Self { child, ready }
    }

    /// What stands behind `name=` in the first line.
    fn address(&self, name: &str) -> Option<String> {
        let mut words = self.ready.split_whitespace();
        words.find_map(|word| Some(word.strip_prefix(name)?.strip_prefix('=')?.to_owned()))
    }

    fn terminate(&self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
    }

    /// Waits for its end; what it said on stderr.
    fn ended(mut self) -> String {
        let late = Instant::now() + HUNG;
        while self.child.try_wait().unwrap().is_none() {
            assert!(Instant::now() < late, "it hangs");
            std::thread::sleep(Duration::from_millis(5));
        }
        self.said()
    }

    fn said(&mut self) -> String {
        let mut said = String::new();
        let stderr = self.child.stderr.take();
        stderr.unwrap().read_to_string(&mut said).unwrap();
        said
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The status and the body of a GET; `None` if nobody answers.
fn get(address: &str, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(address).ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head[9..12].parse().unwrap(), body.to_owned()))
}

/// Asks until this is answered.
fn wait_for(address: &str, path: &str, status: u16) -> String {
    let late = Instant::now() + HUNG;
    loop {
        match get(address, path) {
            Some((found, body)) if found == status => return body,
            found => assert!(Instant::now() < late, "{path}: {found:?}"),
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn it_is_two_ports_behind_the_servers_and_tells_of_it() {
    let home = Home::new();
    let ports = Ports::in_a_row(3);
    let port = ports.first;
    let listen = format!("127.0.0.1:{port}");
    let server = Serving::start(&home, &["--listen", &listen]);
    let admin = server.address("admin").unwrap();
    assert_eq!(admin, format!("127.0.0.1:{}", port + 2));
    // Behind those that were there before.
    let (http, place) = (server.ready.find("http="), server.ready.find("admin="));
    assert!(http < place, "{}", server.ready);
    wait_for(&admin, "/readyz", 200);
    assert_eq!(get(&admin, "/healthz").unwrap().0, 200);
    assert!(get(&admin, "/metrics").unwrap().1.contains("# TYPE"));

    let blob = home.write("blob", noise(1, 100_000));
    let url = format!("http://{listen}");
    home.run(["put", "--server", &url, blob.to_str().unwrap()])
        .ok();
    let status: Value = serde_json::from_str(&get(&admin, "/status.json").unwrap().1).unwrap();
    assert_eq!(status["store"]["blobs"], 1);
    let page = get(&admin, "/").unwrap().1;
    assert!(
        page.contains("Top peers") && page.contains("127.0.0.1"),
        "{page}"
    );
}

#[test]
fn there_is_none_beside_a_free_port_or_a_socket_or_where_it_is_off() {
    let home = Home::new();
    for listen in ["127.0.0.1:0", "unix:socket"] {
        let server = Serving::start(&home, &["--listen", listen]);
        assert_eq!(server.address("admin"), None, "{}", server.ready);
    }
    let ports = Ports::in_a_row(3);
    let listen = format!("127.0.0.1:{}", ports.first);
    let off = Serving::start(&home, &["--listen", &listen, "--admin", "off"]);
    assert_eq!(off.address("admin"), None, "{}", off.ready);
    drop(off);
    home.write(
        "zako.toml",
        "[admin]\nlisten = \"127.0.0.1:0\"\nhost = [\"cache.example\"]\n",
    );
    let server = Serving::start(&home, &["--listen", "127.0.0.1:0"]);
    assert!(server.address("admin").is_some(), "{}", server.ready);
    drop(server);
    let server = Serving::start(&home, &["--listen", "127.0.0.1:0", "--json"]);
    let ready: Value = serde_json::from_str(&server.ready).unwrap();
    assert!(
        ready["admin"].as_str().unwrap().starts_with("127.0.0.1:"),
        "{ready}"
    );
}

#[test]
fn a_taken_address_is_an_error_only_if_it_was_asked_for() {
    let home = Home::new();
    let ports = Ports::in_a_row(3);
    let port = ports.first;
    let taken = TcpListener::bind(("127.0.0.1", port + 2)).unwrap();
    let listen = format!("127.0.0.1:{port}");
    let server = Serving::start(&home, &["--listen", &listen]);
    assert_eq!(server.address("admin"), None, "{}", server.ready);
    assert!(server.address("http").is_some(), "{}", server.ready);
    server.terminate();
    let said = server.ended();
    assert!(said.contains("NO ADMIN PORT"), "{said}");

    let addr = taken.local_addr().unwrap().to_string();
    let args = [
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--data",
        "data",
        "--admin",
        &addr,
    ];
    let said = home.run(args);
    let said = said.fails(1);
    assert!(said.contains("for the admin port"), "{said}");
}

#[test]
fn a_server_that_drains_is_healthy_and_not_ready() {
    let home = Home::new();
    let more = [
        "--listen",
        "127.0.0.1:0",
        "--http",
        "127.0.0.1:0",
        "--admin",
        "127.0.0.1:0",
    ];
    let server = Serving::start(&home, &more);
    let (admin, http) = (
        server.address("admin").unwrap(),
        server.address("http").unwrap(),
    );
    wait_for(&admin, "/readyz", 200);

    // An upload that is half there, and holds the end up.
    let (value, half) = (noise(2, 1 << 20), 1 << 19);
    let mut upload = TcpStream::connect(&http).unwrap();
    let head = format!(
        "PUT /dav/value HTTP/1.1\r\nhost: {http}\r\nexpect: 100-continue\r\n\
         content-length: {}\r\n\r\n",
        value.len()
    );
    upload.write_all(head.as_bytes()).unwrap();
    // Told when it begins to be read.
    let mut go_on = [0; 25];
    upload.read_exact(&mut go_on).unwrap();
    assert_eq!(&go_on, b"HTTP/1.1 100 Continue\r\n\r\n");
    upload.write_all(&value[..half]).unwrap();

    server.terminate();
    let reason = wait_for(&admin, "/readyz", 503);
    assert!(reason.starts_with("draining"), "{reason}");
    assert_eq!(get(&admin, "/healthz").unwrap().0, 200);
    let page = get(&admin, "/").unwrap().1;
    assert!(page.contains("pill draining"), "{page}");

    upload.write_all(&value[half..]).unwrap();
    let mut answer = [0; 12];
    upload.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 201");
    drop(upload);
    assert_eq!(server.ended(), "");
    assert!(get(&admin, "/healthz").is_none());
}
