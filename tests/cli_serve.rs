//! The server's life: ready, stop, crash, lock, limits.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod zako_process;

use std::io::{BufRead, BufReader};

use rustix::process::Signal;
use zako_process::{Home, Server, noise};

fn put(home: &Home, server: &Server, path: &str) -> String {
    let text = home.run(["put", "--server", &server.url(), path]).ok();
    text.split_whitespace().next().unwrap().to_owned()
}

#[test]
fn signals_end_it_cleanly() {
    let home = Home::new();
    home.write("file", "content");
    for signal in [Signal::TERM, Signal::INT] {
        let server = Server::start(&home, &[]);
        put(&home, &server, "file");
        assert_eq!(server.stop(signal), Some(0), "{signal:?}");
    }
}

#[test]
fn the_first_line_is_json_when_asked_for() {
    let home = Home::new();
    let mut child = home
        .command([
            "serve",
            "--json",
            "--listen",
            "127.0.0.1:0",
            "--data",
            "data",
        ])
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    let ready: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(ready["event"], "ready");
    let address: std::net::SocketAddr = ready["grpc"].as_str().unwrap().parse().unwrap();
    assert_ne!(address.port(), 0);
}

#[test]
fn what_was_stored_survives_a_kill() {
    let home = Home::new();
    for at in 0..40 {
        home.write(&format!("tree/{at}"), noise(at, 5000));
    }
    home.write("tree/large", noise(99, 6 << 20));
    let server = Server::start(&home, &[]);
    let url = server.url();
    let listed = home.run(["put", "--server", &url, "tree"]).ok();
    server.kill();
    home.run(["has", "--server", &url, "-"]).fails(5);

    let server = Server::start(&home, &[]);
    let url = server.url();
    home.run_with(["has", "--server", &url, "-"], listed.as_bytes())
        .ok();
    home.run(["verify", "--server", &url]).ok();
}

#[test]
fn a_stop_in_the_middle_of_an_upload_is_clean() {
    let home = Home::new();
    let content = noise(4, 96 << 20);
    let digest = zako_digest::hash::bytes(&content).to_string();
    home.write("large", &content);
    let server = Server::start(&home, &["--drain-timeout", "1ms"]);
    let url = server.url();
    let mut put = home
        .command(["put", "--server", &url, "large"])
        .spawn()
        .unwrap();
    let mut ended = false;
    loop {
        let stat = home
            .run(["stat", "--json", "--server", &url, &digest])
            .json();
        if stat[0]["partial_bytes"] != 0 || stat[0]["present"] == true {
            break;
        }
        // It may end between the question and this.
        assert!(!ended, "the put is over and nothing is there");
        ended = put.try_wait().unwrap().is_some();
    }
    assert_eq!(server.stop(Signal::TERM), Some(0));
    put.kill().unwrap();
    put.wait().unwrap();

    let server = Server::start(&home, &[]);
    let url = server.url();
    home.run(["put", "--server", &url, "large"]).ok();
    home.run(["get", "--server", &url, &digest, "-o", "back"])
        .ok();
    assert!(std::fs::read(home.path("back")).unwrap() == content);
    home.run(["verify", "--server", &url]).ok();
}

#[test]
fn a_store_has_one_process() {
    let home = Home::new();
    let server = Server::start(&home, &[]);
    let said = home.run(["serve", "--listen", "127.0.0.1:0", "--data", "data"]);
    said.fails(7);
    home.run(["gc", "--data", "data"]).fails(7);
    assert_eq!(server.stop(Signal::TERM), Some(0));
    home.run(["gc", "--data", "data"]).ok();
    home.run(["verify", "--data", "data"]).ok();
    home.run(["verify", "--data", "absent"]).fails(3);
    home.write("other/file", "");
    home.run(["serve", "--data", "other"]).fails(8);
    home.run(["serve", "--data", "other/file"]).fails(1);
    assert!(!home.path("absent").exists());
}

#[test]
fn a_taken_port_is_told() {
    let home = Home::new();
    let server = Server::start(&home, &[]);
    let said = home.run(["serve", "--listen", &server.address, "--data", "other"]);
    let text = said.fails(1);
    assert!(text.contains(&server.address), "{text}");
    assert!(text.contains("--listen"), "{text}");
}

#[test]
fn a_unix_socket_serves_too() {
    let home = Home::new();
    home.write("file", "content");
    let socket = format!("unix:{}", home.path("zako.sock").display());
    let server = Server::listen(&home, &socket, &[]);
    assert_eq!(server.address, socket);
    let digest = put(&home, &server, "file");
    let said = home.run(["get", "--server", &socket, &digest]);
    assert_eq!(said.ok(), "content");
    assert_eq!(server.stop(Signal::TERM), Some(0));
}

#[test]
fn no_server_and_no_rdma_have_their_codes() {
    let home = Home::new();
    let empty = zako_digest::Digest::EMPTY.to_string();
    let said = home.run(["has", "--server", "http://127.0.0.1:9", &empty]);
    let text = said.fails(5);
    assert!(text.contains("127.0.0.1:9"), "{text}");
    assert!(text.contains("zako serve"), "{text}");
    let said = home.run(["has", "--transport", "rdma", &empty]);
    if !cfg!(feature = "rdma") {
        assert!(said.fails(8).contains("not built in"), "{said}");
    }
    home.run(["has", "--transport", "pigeon", &empty]).fails(2);
    home.run(["has", "--server", "http://", &empty]).fails(2);
}

#[test]
fn variables_configure_both_ends() {
    let mut home = Home::new();
    home.write("file", "content");
    home.write("zako.toml", "[server]\nmaintenance = \"nobody\"\n");
    let server = Server::start(&home, &[]);
    home.set("ZAKO_SERVER", server.url());
    home.run(["put", "file"]).ok();
    assert!(home.run(["gc"]).fails(9).contains("maintenance"));
    home.run(["verify"]).fails(9);
}

#[test]
fn a_full_store_says_so() {
    let home = Home::new();
    home.write("large", noise(1, 48 << 20));
    home.write("small", "content");
    let server = Server::start(&home, &["--max-size", "16MiB"]);
    let url = server.url();
    let said = home.run(["put", "--server", &url, "large"]);
    assert!(said.fails(6).contains("large"), "{said}");
    home.run(["put", "--server", &url, "small"]).ok();
}

#[test]
fn doctor_reaches_the_server() {
    let home = Home::new();
    let server = Server::start(&home, &[]);
    let said = home.run([
        "doctor",
        "--json",
        "--data",
        "data",
        "--server",
        &server.url(),
    ]);
    said.ok();
    let records = said.json();
    let check = |name: &str| {
        let record = records.iter().find(|record| record["check"] == name);
        record.unwrap_or_else(|| panic!("{name}: {said}")).clone()
    };
    assert_eq!(check("server")["state"], "ok");
    let version = env!("CARGO_PKG_VERSION");
    assert!(
        check("server version")["found"]
            .as_str()
            .unwrap()
            .contains(version)
    );
    assert_eq!(check("clock")["state"], "ok");
    let lock = check("store lock");
    assert!(lock["found"].as_str().unwrap().contains("in use"), "{lock}");

    let dead = home.run(["doctor", "--data", "data", "--server", "http://127.0.0.1:9"]);
    assert!(dead.fails(1).contains("server"), "{dead}");
    // The default server is nobody's wish, so a silent one is no fault: but it may
    // be running on the machine of this test.
    drop(server);
}
