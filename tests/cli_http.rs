//! The HTTP cache of a server: where it is, and that it and the rest have one store.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod zako_process;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Stdio};

use zako_process::{Home, Ports, Server, noise};

/// A server with an HTTP cache; killed when dropped.
struct Serving {
    child: Child,
    ready: String,
}

impl Serving {
    fn start(home: &Home, more: &[&str]) -> Self {
        let mut command = home.command(["serve", "--log", "error", "--data", "data"]);
        let command = command.args(more).stdout(Stdio::piped());
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
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

    /// Ends it; what it said on stderr.
    fn end(mut self) -> String {
        let _ = self.child.kill();
        let _ = self.child.wait();
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

/// The status and the body of what `request` is answered with.
fn ask(address: &str, request: &str, body: &[u8]) -> (u16, Vec<u8>) {
    let mut stream = TcpStream::connect(address).unwrap();
    let length = body.len();
    let head =
        format!("{request} HTTP/1.1\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(body).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let end = answer.windows(4).position(|part| part == b"\r\n\r\n");
    let status = std::str::from_utf8(&answer[9..12]).unwrap().parse();
    (status.unwrap(), answer.split_off(end.unwrap() + 4))
}

#[test]
fn what_is_stored_over_http_is_there_for_all_and_stays() {
    let home = Home::new();
    let content = noise(1, 3 << 20);
    let digest = zako_digest::hash::bytes(&content);
    let path = format!("/cas/blake3/{}", digest.hash());
    let options = ["--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"];
    let server = Serving::start(&home, &options);
    let http = server.address("http").unwrap();
    assert_eq!(ask(&http, &format!("PUT {path}"), &content).0, 201);
    let url = format!("http://{}", server.address("grpc").unwrap());
    let said = home.run(["get", "--server", &url, &digest.to_string()]);
    assert!(said.stdout == content);
    assert_eq!(server.end(), "");

    let server = Serving::start(&home, &options);
    let http = server.address("http").unwrap();
    let (status, body) = ask(&http, &format!("GET {path}"), b"");
    assert!(status == 200 && body == content, "{status}");
    let (_, status) = ask(&http, "GET /status", b"");
    let status: serde_json::Value = serde_json::from_slice(&status).unwrap();
    assert_eq!(status["store"]["blobs"], 1);
}

#[test]
fn it_is_beside_the_servers_port_unless_it_is_told_otherwise() {
    let home = Home::new();
    let ports = Ports::in_a_row(2);
    let port = ports.first;
    let listen = format!("127.0.0.1:{port}");
    let server = Serving::start(&home, &["--listen", &listen]);
    let next = format!("127.0.0.1:{}", port + 1);
    assert_eq!(server.address("grpc"), Some(listen.clone()));
    assert_eq!(server.address("http"), Some(next.clone()));
    assert_eq!(ask(&next, "GET /", b"").0, 200);
    drop(server);
    let server = Serving::start(&home, &["--listen", &listen, "--http", "off"]);
    assert_eq!(server.address("http"), None);
    drop(server);
    let server = Serving::start(&home, &["--listen", &listen, "--build-tools", "false"]);
    assert_eq!(server.address("http"), None);
    drop(server);
    // Without a number there is none beside it.
    let server = Server::start(&home, &[]);
    assert!(!server.address.contains("http"), "{}", server.address);
}

#[test]
fn a_taken_port_ends_the_server_only_if_it_was_asked_for() {
    let home = Home::new();
    let ports = Ports::in_a_row(2);
    let port = ports.first;
    let (listen, next) = (
        format!("127.0.0.1:{port}"),
        format!("127.0.0.1:{}", port + 1),
    );
    let _taken = TcpListener::bind(&*next).unwrap();
    let server = Serving::start(&home, &["--listen", &listen]);
    assert_eq!(server.address("grpc"), Some(listen));
    assert_eq!(server.address("http"), None);
    let said = server.end();
    assert!(
        said.contains("NO HTTP CACHE") && said.contains(&next),
        "{said}"
    );

    let serve = [
        "serve",
        "--data",
        "data",
        "--listen",
        "127.0.0.1:0",
        "--http",
    ];
    let said = home.run(serve.iter().copied().chain([&*next]));
    let text = said.fails(1);
    assert!(text.contains(&next) && text.contains("--http"), "{text}");
    let said = home.run(
        serve
            .iter()
            .copied()
            .chain([&*next, "--build-tools", "false"]),
    );
    assert!(said.fails(2).contains("build-tools"), "{said}");
    home.run(serve.iter().copied().chain(["everywhere"]))
        .fails(2);
}

#[test]
fn the_first_line_is_an_object_on_request() {
    let home = Home::new();
    let server = Serving::start(
        &home,
        &["--json", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"],
    );
    let ready: serde_json::Value = serde_json::from_str(&server.ready).unwrap();
    let http: std::net::SocketAddr = ready["http"].as_str().unwrap().parse().unwrap();
    assert_ne!(http.port(), 0);
}
