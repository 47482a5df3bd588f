//! RDMA in the command. Most of this needs no device, and holds for builds with and without
//! feature `rdma`; the rest runs with it, where `scripts/soft-roce` says that there is one.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod zako_process;

use std::io::{BufRead, BufReader, Read};
use std::process::Stdio;

use zako_process::{Home, Said, Server, noise};

/// No machine has a device of this name.
const ABSENT: &str = "absent0";

fn object(said: &Said) -> serde_json::Value {
    let [object] = <[_; 1]>::try_from(said.json()).unwrap();
    object
}

#[test]
fn a_device_that_is_absent_is_told_with_code_8() {
    let home = Home::new();
    let said = home.run(["rdma", "devices", ABSENT]);
    said.fails(8);
    assert!(
        said.text().contains("\nused     none\n") || said.text().starts_with("used     none\n")
    );
    assert!(said.text().contains("a session pins 24.2 MiB"), "{said}");

    let said = home.run(["rdma", "devices", ABSENT, "--json"]);
    let error: serde_json::Value = serde_json::from_str(said.fails(8)).unwrap();
    assert_eq!(error["exit_code"], 8);
    let listing = object(&said);
    assert!(listing["used"].is_null(), "{said}");
    assert!(listing["unavailable"].is_string(), "{said}");
    assert!(listing["session_bytes"].as_u64().unwrap() > 1 << 20);
    assert!(listing["memory_limit"]["pinned"].is_u64(), "{said}");
    assert!(listing["devices"].is_array() && listing["candidates"].is_array());

    home.run(["rdma", "devices", "a:0"]).fails(2);
    home.run(["rdma"]).fails(2);
}

#[test]
fn a_build_without_rdma_says_how_to_get_one() {
    if cfg!(feature = "rdma") {
        return;
    }
    let home = Home::new();
    let said = home.run(["rdma", "devices"]);
    assert!(said.fails(8).contains("not built in"), "{said}");
    assert!(said.stderr.contains("--features rdma"), "{said}");
    assert_eq!(
        object(&home.run(["rdma", "devices", "--json"]))["unavailable"],
        "RDMA is not built into this zako"
    );
}

#[test]
fn a_build_with_rdma_starts_where_the_library_is_not() {
    if !cfg!(feature = "rdma") {
        return;
    }
    let mut home = Home::new();
    let listed = {
        let mut command = home.command(["--version"]);
        command
            .env("LD_TRACE_LOADED_OBJECTS", "1")
            .output()
            .unwrap()
    };
    let needed = String::from_utf8(listed.stdout).unwrap();
    assert!(needed.contains("libc.so"), "{needed}");
    assert!(!needed.contains("libibverbs"), "{needed}");

    // Found first, and no library.
    home.write("lib/libibverbs.so.1", "");
    home.set("LD_LIBRARY_PATH", home.path("lib").to_string_lossy());
    let said = home.run(["rdma", "devices"]);
    let text = said.fails(8);
    assert!(text.contains("libibverbs.so.1"), "{text}");
    assert!(text.contains("ibverbs-providers"), "{text}");
    home.write("file", "content");
    let server = Server::start(&home, &["--rdma-trust", "127.0.0.0/8"]);
    assert_eq!(server.rdma, None);
    home.run(["put", "--server", &server.url(), "file"]).ok();
    let said = home.run([
        "put",
        "--server",
        &server.url(),
        "--transport",
        "rdma",
        "file",
    ]);
    assert!(said.fails(8).contains("libibverbs.so.1"), "{said}");
}

#[test]
fn a_server_that_is_told_a_device_needs_it() {
    let mut home = Home::new();
    let serve = ["serve", "--data", "data", "--rdma", ABSENT];
    let said = home.run(serve.into_iter().chain(["--rdma-trust", "127.0.0.0/8"]));
    let text = said.fails(8);
    assert!(text.contains("absent0 (flag)"), "{text}");
    assert!(!home.path("data").exists(), "nothing was begun");

    let said = home.run(serve);
    let text = said.fails(2);
    assert!(text.contains("--rdma-trust"), "{text}");
    assert!(
        text.contains("neither encrypted nor authenticated"),
        "{text}"
    );

    home.set("ZAKO_RDMA", "off");
    home.set("ZAKO_RDMA_TRUST", "10.0.0.0/8 lan");
    let text = home.run(["serve", "--data", "data"]).fails(2).to_owned();
    assert!(
        text.contains("ZAKO_RDMA_TRUST: \"lan\" is no network"),
        "{text}"
    );
}

#[test]
fn a_server_has_to_have_memory_for_a_session() {
    let home = Home::new();
    home.write(
        "zako.toml",
        "server.rdma-trust = [\"10.20.0.0/16\"]\nserver.rdma-memory = \"1MiB\"\n",
    );
    let said = home.run(["serve", "--data", "data"]);
    let text = said.fails(2);
    assert!(text.contains("1.0 MiB (zako.toml)"), "{text}");
    assert!(text.contains("a session pins 24.2 MiB"), "{text}");
}

#[test]
fn rdma_is_for_tcp() {
    let home = Home::new();
    let listen = format!("unix:{}", home.path("socket").display());
    let said = home.run([
        "serve",
        "--listen",
        &listen,
        "--rdma",
        ABSENT,
        "--rdma-trust",
        "10.0.0.0/8",
    ]);
    assert!(said.fails(2).contains("over TCP"), "{said}");
    let server = Server::listen(&home, &listen, &["--rdma-trust", "10.0.0.0/8"]);
    assert_eq!(server.rdma, None);
}

#[test]
fn without_a_trusted_network_a_server_is_silent_about_rdma() {
    let home = Home::new();
    let mut command = home.command(["serve", "--listen", "127.0.0.1:0", "--data", "data"]);
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut ready = String::new();
    let stdout = child.stdout.take().unwrap();
    BufReader::new(stdout).read_line(&mut ready).unwrap();
    child.kill().unwrap();
    let mut log = String::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut log)
        .unwrap();
    child.wait().unwrap();
    assert!(ready.starts_with("zako: ready grpc="), "{ready}");
    assert!(log.contains("serving"), "{log}");
    assert!(
        !ready.contains("rdma") && !log.contains("RDMA"),
        "{ready}{log}"
    );
}

#[test]
fn bad_values_of_the_file_are_pointed_at() {
    let home = Home::new();
    for (line, place, says) in [
        (
            "rdma = \"a:b\"",
            "line 2, column 8",
            "\"a:b\" is no RDMA device",
        ),
        (
            "rdma-trust = [\"10.0.0.0/8\", \"lan\"]",
            "line 2, column 14",
            "\"lan\" is no network",
        ),
        ("rdma-trust = \"lan\"", "line 2, column 14", "sequence"),
        (
            "rdma-memory = \"much\"",
            "line 2, column 15",
            "is not a size",
        ),
        ("rdma-sessions = 0", "line 2, column 17", "nonzero"),
        (
            "rdma-pages = \"big\"",
            "line 2, column 14",
            "plain, huge or tmpfs",
        ),
        ("rdma-device = \"a\"", "line 2, column 1", "unknown field"),
    ] {
        home.write("zako.toml", format!("[server]\n{line}\n"));
        let said = home.run(["doctor"]);
        let text = said.fails(2);
        assert!(text.contains(place), "{line}: {text}");
        assert!(text.contains(says), "{line}: {text}");
    }
    home.write("zako.toml", "[client]\nrdma-device = \"a::1\"\n");
    let said = home.run(["doctor"]);
    assert!(said.fails(2).contains("line 2, column 15"), "{said}");
}

#[test]
fn settings_have_layers() {
    let mut home = Home::new();
    home.write(
        "zako.toml",
        "[server]\nrdma = \"mlx5_0:1\"\nrdma-trust = [\"10.1.2.3/8\", \"fd00::/8\"]\n\
         rdma-sessions = 9\n[client]\nrdma-device = \"mlx5_1\"\n",
    );
    home.set("ZAKO_RDMA_MEMORY", "2GiB");
    let said = home.run(["doctor", "--json", "--rdma", "off", "--rdma-sessions", "3"]);
    let records = said.json();
    let setting = |name: &str| {
        let record = records.iter().find(|record| record["setting"] == name);
        record.unwrap_or_else(|| panic!("{name}: {said}"))["value"].clone()
    };
    assert_eq!(setting("rdma"), "off");
    assert_eq!(setting("rdma-trust"), "10.0.0.0/8, fd00::/8");
    assert_eq!(setting("rdma-memory"), "2.0 GiB");
    assert_eq!(setting("rdma-sessions"), "3");
    assert_eq!(setting("rdma-device"), "mlx5_1");
    let said = home.run([
        "doctor",
        "--json",
        "--rdma-trust",
        "1.1.1.1",
        "--rdma-trust",
        "2.2.2.2,3.3.3.3",
    ]);
    assert!(
        said.text().contains("1.1.1.1/32, 2.2.2.2/32, 3.3.3.3/32"),
        "{said}"
    );
}

#[test]
fn doctor_finds_what_is_asked_for_and_absent() {
    let home = Home::new();
    let said = home.run(["doctor", "--data", "data", "--rdma", ABSENT]);
    assert!(said.fails(1).contains("rdma"), "{said}");
    assert!(said.text().contains("--rdma-trust"), "{said}");
    let said = home.run([
        "doctor",
        "--data",
        "data",
        "--rdma-device",
        ABSENT,
        "--transport",
        "rdma",
    ]);
    assert!(said.fails(1).contains("rdma-device"), "{said}");
}

#[test]
fn clients_go_by_grpc_unless_told_otherwise() {
    let mut home = Home::new();
    let server = Server::start(&home, &[]);
    home.set("ZAKO_SERVER", server.url());
    home.set("ZAKO_RDMA_DEVICE", ABSENT);
    home.write("file", noise(1, 1 << 20));
    let put = object(&home.run(["put", "--json", "file"]));
    assert_eq!(put["transport"], "grpc");
    assert!(put["fallbacks"].is_null());
    let digest = put["digest"].as_str().unwrap();
    // Nothing has to move.
    assert!(object(&home.run(["put", "--json", "file"]))["transport"].is_null());
    let got = object(&home.run(["get", "--json", digest, "-o", "back"]));
    assert_eq!(got["transport"], "grpc");
    home.write("tree/other", noise(2, 1 << 20));
    let tree = ["put", "--tree", "--transport", "grpc", "--json", "tree"];
    assert_eq!(object(&home.run(tree))["transport"], "grpc");

    for args in [
        vec!["get", digest],
        vec!["put", "file"],
        vec!["has", digest],
    ] {
        let said = home.run(args.into_iter().chain(["--transport", "rdma"]));
        assert!(said.fails(8).contains("RDMA"), "{said}");
    }
}

#[test]
fn help_warns_that_rdma_is_in_the_clear() {
    let home = Home::new();
    let help = home.run(["serve", "--help"]).ok();
    let words: Vec<_> = help.split_whitespace().collect();
    let help = words.join(" ");
    assert!(
        help.contains("WARNING: what moves over RDMA is neither encrypted"),
        "{help}"
    );
    assert!(home.run(["--help"]).ok().contains("\n  rdma "));
    assert!(home.run(["rdma", "--help"]).ok().contains("\n  devices"));
    assert!(
        home.run(["rdma", "devices", "--help"])
            .ok()
            .contains("Exits with 8")
    );
    assert!(
        home.run(["completions", "bash"])
            .ok()
            .contains("--rdma-trust")
    );
}

/// The device's place and its IP address, as `scripts/soft-roce` tells them.
fn device() -> Option<(String, String)> {
    let variable = |name: &str| std::env::var(format!("ZAKO_RDMA_{name}")).ok();
    let (device, gid) = (variable("DEVICE")?, variable("GID_INDEX")?);
    Some((format!("{device}:1:{gid}"), variable("ADDRESS")?))
}

#[test]
fn on_a_device_blobs_move() {
    let Some((place, address)) = device().filter(|_| cfg!(feature = "rdma")) else {
        return;
    };
    let mut home = Home::new();
    let used = home.run(["rdma", "devices"]).ok();
    assert!(used.contains(&format!("\nused     {place}\n")), "{used}");
    let listen = format!("{address}:0");
    let more = ["--rdma-trust", &address, "--tls-allow-plaintext"];
    let server = Server::listen(&home, &listen, &more);
    assert_eq!(server.rdma.as_ref(), Some(&place));
    home.set("ZAKO_SERVER", server.url());

    let content = noise(3, (5 << 20) + 1);
    home.write("file", &content);
    let put = object(&home.run(["put", "--json", "--transport", "rdma", "file"]));
    assert_eq!(put["transport"], "rdma");
    assert!(put["fallbacks"].is_null(), "{put}");
    let digest = put["digest"].as_str().unwrap().to_owned();
    for (transport, road) in [("rdma", "rdma"), ("auto", "rdma"), ("grpc", "grpc")] {
        let said = home.run([
            "get",
            "--json",
            &digest,
            "-o",
            "back",
            "--transport",
            transport,
        ]);
        assert_eq!(object(&said)["transport"], road, "{said}");
        assert!(std::fs::read(home.path("back")).unwrap() == content);
    }
    // Small ones go by gRPC also then.
    home.write("small", "content");
    let put = object(&home.run(["put", "--json", "--transport", "rdma", "small"]));
    assert_eq!(put["transport"], "grpc");

    let doctor = home
        .run(["doctor", "--data", "other", "--rdma-trust", &address])
        .ok();
    assert!(doctor.contains("moves large blobs over rdma"), "{doctor}");
}

#[test]
fn on_a_device_a_client_that_is_not_trusted_goes_by_grpc_or_fails() {
    let Some((place, address)) = device().filter(|_| cfg!(feature = "rdma")) else {
        return;
    };
    let mut home = Home::new();
    let listen = format!("{address}:0");
    let trust = ["--rdma-trust", "203.0.113.0/24"];
    let more = [
        "--tls-allow-plaintext",
        "--rdma",
        &place,
        trust[0],
        trust[1],
    ];
    let server = Server::listen(&home, &listen, &more);
    assert_eq!(server.rdma, Some(place));
    home.set("ZAKO_SERVER", server.url());
    home.write("file", noise(4, 1 << 20));
    let said = home.run(["put", "--json", "--transport", "rdma", "file"]);
    assert!(said.fails(8).contains("RDMA"), "{said}");
    let said = home.run(["put", "--json", "file"]);
    assert_eq!(object(&said)["transport"], "grpc", "{said}");
}

#[test]
fn on_a_device_what_rdma_fails_on_goes_by_grpc_and_is_told() {
    let Some((place, address)) = device().filter(|_| cfg!(feature = "rdma")) else {
        return;
    };
    let mut home = Home::new();
    let listen = format!("{address}:0");
    let more = ["--rdma-trust", &address, "--tls-allow-plaintext"];
    let server = Server::listen(&home, &listen, &more);
    home.set("ZAKO_SERVER", server.url());
    home.write("file", noise(5, 1 << 20));
    // From a link-local address, the server's can't be reached.
    let (device, gid) = place.split_once(":1:").unwrap();
    assert_ne!(gid, "0");
    home.set("ZAKO_RDMA_DEVICE", format!("{device}:1:0"));
    let said = home.run(["put", "--json", "--transport", "rdma", "file"]);
    assert!(said.fails(8).contains("no RDMA to this server"), "{said}");
    let said = home.run(["put", "--json", "file"]);
    let put = object(&said);
    assert_eq!(put["transport"], "grpc", "{said}");
    assert_eq!(put["fallbacks"], 1, "{said}");
    let reason = put["fallback_reason"].as_str().unwrap();
    assert!(reason.contains("no RDMA to this server"), "{said}");
    assert!(said.stderr.contains("RDMA failed"), "{said}");
}
