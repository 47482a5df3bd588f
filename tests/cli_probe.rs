//! `zako rdma probe`. What works is seen over a device, where `scripts/soft-roce` says that
//! there is one and feature `rdma` is built in; the rest needs none.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod zako_process;

use zako_process::{Home, Server};

#[test]
fn without_a_device_it_says_so_before_it_looks_for_a_server() {
    let home = Home::new();
    let nobody = "http://127.0.0.1:1";
    let said = home.run(["rdma", "probe", nobody, "--rdma-device", "absent0"]);
    assert!(said.fails(8).contains("RDMA"), "{said}");
    for wrong in [
        ["--size", "0"],
        ["--size", "1MiB"],
        ["--rounds", "0"],
        ["--rdma-device", "a:0"],
    ] {
        let said = home.run(["rdma", "probe", nobody].into_iter().chain(wrong));
        assert!(said.fails(2).contains(wrong[0]), "{said}");
    }
    let help = home.run(["rdma", "probe", "--help"]);
    assert!(help.ok().contains("Exits with 0 if RDMA works"), "{help}");
}

/// The device's place and its IP address, as `scripts/soft-roce` tells them.
fn device() -> Option<(String, String)> {
    let variable = |name: &str| std::env::var(format!("ZAKO_RDMA_{name}")).ok();
    let (device, gid) = (variable("DEVICE")?, variable("GID_INDEX")?);
    let place = format!("{device}:1:{gid}");
    cfg!(feature = "rdma").then_some((place, variable("ADDRESS")?))
}

#[test]
fn over_a_device_all_is_measured_and_verified() {
    let Some((_, address)) = device() else {
        return;
    };
    let home = Home::new();
    let listen = format!("{address}:0");
    let server = Server::listen(&home, &listen, &["--rdma-trust", &address]);
    let few = ["--rounds", "10", "--size", "64,100000"];
    let probe = ["rdma", "probe", &server.url()].map(str::to_owned);
    let run = |more: &[&str]| {
        let more = few.iter().chain(more).copied().map(str::to_owned);
        home.run(probe.iter().cloned().chain(more))
    };
    let said = run(&["--json"]);
    said.ok();
    let records = said.json();
    let [rows @ .., end] = &records[..] else {
        panic!("{said}");
    };
    assert_eq!(rows.len(), 3 * 2 * 2, "{said}");
    for row in rows {
        assert_eq!(row["verified"], true, "{row}");
        assert_eq!(row["rounds"], 20, "{row}");
    }
    assert_eq!(end["works"], true, "{said}");
    let said = run(&[]);
    assert!(said.ok().contains("RDMA works between"), "{said}");
}

#[test]
fn over_a_device_it_says_what_is_in_the_way() {
    let Some((place, address)) = device() else {
        return;
    };
    let home = Home::new();
    let listen = format!("{address}:0");
    let untrusting = Server::listen(
        &home,
        &listen,
        &["--rdma", &place, "--rdma-trust", "203.0.113.0/24"],
    );
    let said = home.run(["rdma", "probe", &untrusting.url()]);
    assert!(said.fails(9).contains(&address), "{said}");
    assert!(said.stderr.contains("--rdma-trust"), "{said}");

    let other = Home::new();
    let server = Server::listen(&other, &listen, &["--rdma-trust", &address]);
    // From a link-local address, the server's can't be reached.
    let (device, _) = place.split_once(':').unwrap();
    let local = format!("{device}:1:0");
    let said = home.run(["rdma", "probe", &server.url(), "--rdma-device", &local]);
    assert!(said.fails(5).contains("4791"), "{said}");
}
