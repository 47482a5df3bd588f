//! The command by itself: usage, configuration, hash, completions, doctor.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod zako_process;

use std::io::Read;

use zako_process::{Home, noise};

const HELLO: &str = "ea8f163db38682925e4491c5e58d4bb3506ef8c14eb78a86e908c5624a67200f/5";

#[test]
fn hash_prints_digest_and_path_in_order() {
    let home = Home::new();
    home.write("tree/b", "hello");
    home.write("tree/a/deep", "");
    let big = noise(1, 9 << 20);
    home.write("big", &big);
    let text = home.run(["hash", "tree", "big"]).ok();
    let lines: Vec<_> = text.lines().collect();
    let empty = zako_digest::Digest::EMPTY;
    let big = zako_digest::hash::bytes(&big);
    assert_eq!(
        lines,
        [
            format!("{empty}  tree/a/deep"),
            format!("{HELLO}  tree/b"),
            format!("{big}  big"),
        ]
    );
    let json = home.run(["hash", "--json", "big"]).json();
    assert_eq!(json[0]["digest"], big.to_string());
    assert_eq!(json[0]["path"], "big");
}

#[test]
fn hash_reads_stdin() {
    let home = Home::new();
    assert_eq!(
        home.run_with(["hash", "-"], b"hello").ok(),
        format!("{HELLO}  -\n")
    );
    let big = noise(2, 10_000_001);
    let said = home.run_with(["hash", "-"], &big).ok();
    assert_eq!(said, format!("{}  -\n", zako_digest::hash::bytes(&big)));
}

#[test]
fn hash_goes_on_past_what_it_cannot_read() {
    let home = Home::new();
    home.write("there", "hello");
    let said = home.run(["hash", "absent", "there"]);
    assert!(said.fails(3).contains("absent"), "{said}");
    assert_eq!(said.text(), format!("{HELLO}  there\n"));
    let said = home.run(["hash", "--json", "absent"]);
    let error: serde_json::Value = serde_json::from_str(said.fails(3)).unwrap();
    assert_eq!(error["exit_code"], 3);
}

#[test]
fn a_closed_pipe_ends_it_quietly() {
    let home = Home::new();
    for at in 0..3000 {
        home.write(&format!("tree/{at}"), [0]);
    }
    let mut child = home.command(["hash", "tree"]).spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let mut some = [0; 10];
    stdout.read_exact(&mut some).unwrap();
    drop(stdout);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(141));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");

    let mut child = home.command(["completions", "bash"]).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(!String::from_utf8_lossy(&output.stderr).contains("panicked"));
}

#[test]
fn usage_errors_are_2_and_help_is_0() {
    let home = Home::new();
    home.run(["frobnicate"]).fails(2);
    home.run(["hash"]).fails(2);
    home.run::<&str>([]).fails(2);
    home.run(["serve", "--max-size", "lots"]).fails(2);
    let said = home.run(["serve", "--json", "--max-size", "lots"]);
    let error: serde_json::Value = serde_json::from_str(said.fails(2)).unwrap();
    assert!(
        error["error"]
            .as_str()
            .unwrap()
            .contains("\"lots\" is not a size"),
        "{said}"
    );
    let help = home.run(["--help"]).ok();
    assert!(help.contains("141"), "{help}");
    assert!(home.run(["--version"]).ok().starts_with("zako "));
    for verb in [
        "serve",
        "put",
        "get",
        "has",
        "hash",
        "stat",
        "rm",
        "verify",
        "gc",
        "doctor",
        "demo",
        "completions",
    ] {
        assert!(help.contains(&format!("\n  {verb} ")), "{verb}: {help}");
        home.run([verb, "--help"]).ok();
    }
}

#[test]
fn completions_for_every_shell() {
    let home = Home::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = home.run(["completions", shell]).ok();
        assert!(script.contains("completions"), "{shell}");
    }
    home.run(["completions", "cmd"]).fails(2);
}

#[test]
fn unknown_keys_of_the_file_are_pointed_at() {
    let home = Home::new();
    home.write(
        "zako.toml",
        "[server]\nlisten = \"127.0.0.1:0\"\nmaxsize = \"1G\"\n",
    );
    let said = home.run(["doctor"]);
    let text = said.fails(2);
    assert!(text.contains("zako.toml"), "{text}");
    assert!(text.contains("line 3, column 1"), "{text}");
    assert!(text.contains("maxsize"), "{text}");
    home.run(["doctor", "--config", "absent.toml"]).fails(3);
}

#[test]
fn doctor_tells_where_values_come_from() {
    let mut home = Home::new();
    home.write(
        "etc/zako.toml",
        "[server]\ndata = \"store\"\nlease = \"2h\"\nmax-size = \"1GiB\"\n",
    );
    home.set("ZAKO_CONFIG", "etc/zako.toml");
    home.set("ZAKO_LEASE", "3h");
    home.set("ZAKO_LISTN", "127.0.0.1:1");
    let said = home.run(["doctor", "--json", "--token-ttl", "5s"]);
    let records = said.json();
    let setting = |name: &str| {
        let record = records.iter().find(|record| record["setting"] == name);
        let record = record.unwrap_or_else(|| panic!("{name}: {said}"));
        let text = |key: &str| record[key].as_str().unwrap().to_owned();
        (text("value"), text("from"))
    };
    assert_eq!(setting("file").0, "etc/zako.toml");
    assert_eq!(
        setting("data"),
        ("etc/store".into(), "etc/zako.toml".into())
    );
    assert_eq!(setting("lease"), ("3h".into(), "ZAKO_LEASE".into()));
    assert_eq!(setting("token-ttl"), ("5s".into(), "flag".into()));
    assert_eq!(
        setting("max-size"),
        ("1.0 GiB".into(), "etc/zako.toml".into())
    );
    assert_eq!(
        setting("durability"),
        ("immediate".into(), "default".into())
    );
    let check = records.iter().find(|record| record["check"] == "variables");
    let check = check.unwrap();
    assert_eq!(check["state"], "warning");
    assert!(check["found"].as_str().unwrap().contains("ZAKO_LISTN"));
}

#[test]
fn the_readme_lists_every_setting_and_exit_code() {
    let readme = include_str!("../README.md");
    let home = Home::new();
    let mut settings = 0;
    for record in home.run(["doctor", "--json"]).json() {
        let Some(key) = record["setting"].as_str().filter(|key| *key != "file") else {
            continue;
        };
        if key == "token" {
            // A secret has no flag and no key: the process list and files show them.
            assert!(readme.contains("`ZAKO_TOKEN`"));
            continue;
        }
        settings += 1;
        let variable = format!("ZAKO_{}", key.to_uppercase().replace('-', "_"));
        let default = record["value"].as_str().unwrap();
        let row = readme
            .lines()
            .find(|line| line.starts_with(&format!("| `{key}` |")))
            .unwrap_or_else(|| panic!("{key}"));
        assert!(row.contains(&format!("`--{key}`")), "{row}");
        assert!(row.contains(&format!("`{variable}`")), "{row}");
        assert!(
            key == "data" || row.contains(&format!("`{default}`")),
            "{default}: {row}"
        );
    }
    assert_eq!(settings, 28);
    let help = home.run(["--help"]).ok();
    let (_, codes) = help.split_once("Exit codes:\n").unwrap();
    for line in codes.lines().take_while(|line| line.starts_with("  ")) {
        let code = line.split_whitespace().next().unwrap();
        assert!(readme.contains(&format!("\n| {code} | ")), "{code}");
    }
}

#[test]
fn doctor_fails_when_something_is_broken() {
    let home = Home::new();
    home.write("file", "");
    let said = home.run(["doctor", "--data", "file"]);
    assert!(said.fails(1).contains("data folder"), "{said}");
    assert!(said.text().contains("is not a folder"), "{said}");
}

#[test]
fn a_bad_variable_is_named() {
    let mut home = Home::new();
    home.set("ZAKO_MAX_SIZE", "much");
    let said = home.run(["doctor"]);
    let text = said.fails(2);
    assert!(
        text.contains("ZAKO_MAX_SIZE") && text.contains("\"much\""),
        "{text}"
    );
    home.set("ZAKO_LOG", "zako=nope");
    assert!(home.run(["hash", "-"]).fails(2).contains("ZAKO_LOG"));
}
