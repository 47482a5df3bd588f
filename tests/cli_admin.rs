//! The admin port of a server: where it is, and that it answers as long as the process
//! lives.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod zako_process;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream, UdpSocket};
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
    asked(TcpStream::connect(address).ok()?, path, None)
}

/// The status and the body of a GET on a connection, with this token.
fn asked(mut stream: TcpStream, path: &str, token: Option<&str>) -> Option<(u16, String)> {
    let address = stream.peer_addr().ok()?;
    let token = token.map(|token| format!("authorization: Bearer {token}\r\n"));
    let token = token.unwrap_or_default();
    let head =
        format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n{token}\r\n");
    stream.write_all(head.as_bytes()).ok()?;
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

/// An address of this machine that isn't loopback. Who connects from it is no neighbour, though
/// all that is sent stays here.
fn outside() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    // Sends nothing, but finds the address that would be sent from.
    socket.connect("198.51.100.1:9").ok()?;
    let ip = socket.local_addr().unwrap().ip();
    (!ip.is_loopback()).then_some(ip)
}

/// A connection from that address.
fn connect_from(ip: IpAddr, address: &str) -> TcpStream {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build();
    let stream = runtime.unwrap().block_on(async {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind((ip, 0).into()).unwrap();
        let stream = socket.connect(address.parse().unwrap()).await.unwrap();
        stream.into_std().unwrap()
    });
    stream.set_nonblocking(false).unwrap();
    stream
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

#[test]
fn operators_from_elsewhere_need_the_role_of_an_admin() {
    let Some(ip) = outside() else {
        println!("SKIPPED: this machine has no address but loopback");
        return;
    };
    let home = Home::new();
    let (admin, of_admin) = home.token("admin", "admin");
    let (writer, of_writer) = home.token("writer", "write");
    let (partly, of_partly) = home.token("partly", "admin");
    let of_partly = of_partly.replace("\"admin\"", "{ main = \"admin\" }");
    home.write("zako.toml", [of_admin, of_writer, of_partly].join("\n"));
    let ports = ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
    let server = Serving::start(&home, &ports);
    let address = server.address("admin").unwrap();
    wait_for(&address, "/readyz", 200);
    let ask =
        |path: &str, token: Option<&str>| asked(connect_from(ip, &address), path, token).unwrap();
    for (path, part) in [
        ("/metrics", "# TYPE zako_uptime_seconds gauge"),
        ("/status.json", "\"state\":\"ready\""),
        ("/", "Top peers"),
    ] {
        for (token, status) in [
            (None, 401),
            (Some("nobody's"), 401),
            (Some(&*writer), 403),
            (Some(&*partly), 403),
        ] {
            let (found, body) = ask(path, token);
            assert_eq!(found, status, "{path} {token:?}: {body}");
            assert!(!body.contains(part) && body.len() < 200, "{path}: {body}");
        }
        let (found, body) = ask(path, Some(&admin));
        assert!(
            found == 200 && body.contains(part),
            "{path}: {found} {body}"
        );
        // A neighbour shows nothing.
        let (found, body) = get(&address, path).unwrap();
        assert!(
            found == 200 && body.contains(part),
            "{path}: {found} {body}"
        );
    }
    for path in ["/healthz", "/readyz"] {
        for token in [None, Some("nobody's"), Some(&*writer), Some(&*admin)] {
            assert_eq!(ask(path, token).0, 200, "{path} {token:?}");
        }
    }
    // To learn what isn't there takes no role.
    assert_eq!(ask("/x", None).0, 404);
    drop(server);

    // Without tokens there are still two answers: nobody is asked, or everybody is an admin.
    home.write("zako.toml", "");
    for more in [&[][..], &["--anonymous", "admin"]] {
        let server = Serving::start(&home, &[&ports, more].concat());
        let address = server.address("admin").unwrap();
        let (found, body) = asked(connect_from(ip, &address), "/metrics", None).unwrap();
        assert_eq!(found, 200, "{more:?}: {body}");
    }
    let server = Serving::start(&home, &[&ports[..], &["--anonymous", "write"]].concat());
    let address = server.address("admin").unwrap();
    let (found, body) = asked(connect_from(ip, &address), "/metrics", None).unwrap();
    assert_eq!(found, 401, "{body}");
}

/// A load balancer hears of the end before anyone is refused.
#[test]
fn a_server_that_will_drain_is_not_ready_and_serves_all() {
    let home = Home::new();
    let more = [
        "--listen",
        "127.0.0.1:0",
        "--http",
        "127.0.0.1:0",
        "--admin",
        "127.0.0.1:0",
        "--drain-delay",
        "1h",
    ];
    let server = Serving::start(&home, &more);
    let [grpc, http, admin] = ["grpc", "http", "admin"].map(|name| server.address(name).unwrap());
    let url = format!("http://{grpc}");
    wait_for(&admin, "/readyz", 200);
    server.terminate();
    let reason = wait_for(&admin, "/readyz", 503);
    assert!(reason.starts_with("draining"), "{reason}");

    let (content, path) = (noise(3, 3 << 20), home.path("blob"));
    home.write("blob", &content);
    let said = home.run(["put", "--json", "--server", &url, path.to_str().unwrap()]);
    said.ok();
    let digest = said.json()[0]["digest"].as_str().unwrap().to_owned();
    let said = home.run(["get", "--server", &url, &digest]);
    assert!(said.code == Some(0) && said.stdout == content, "{said}");
    assert_eq!(get(&http, "/status").unwrap().0, 200);

    // All of that was within the delay.
    assert_eq!(get(&admin, "/readyz").unwrap().0, 503);
    assert_eq!(get(&admin, "/healthz").unwrap().0, 200);
    let status: Value = serde_json::from_str(&get(&admin, "/status.json").unwrap().1).unwrap();
    assert_eq!(status["state"], "draining");
    assert_eq!(status["store"]["blobs"], 1);
    server.terminate();
    let said = server.ended();
    assert!(said.contains("SIGTERM again"), "{said}");
}
