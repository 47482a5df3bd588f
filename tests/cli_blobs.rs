//! Blobs and trees through a server and back.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod zako_process;

use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};

use zako_digest::hash;
use zako_process::{Home, Server, listing, noise};

/// A home whose verbs find its server.
fn served(more: &[&str]) -> (Home, Server) {
    let mut home = Home::new();
    let server = Server::start(&home, more);
    home.set("ZAKO_SERVER", server.url());
    (home, server)
}

fn first_word(text: &str) -> &str {
    text.split_whitespace().next().unwrap()
}

#[test]
fn files_come_back_as_they_went() {
    let (home, _server) = served(&[]);
    let sizes = [0, 1, 1000, 65_536, 262_145, 1 << 20, (5 << 20) + 7];
    for (seed, size) in sizes.into_iter().enumerate() {
        home.write(&format!("tree/{seed}"), noise(seed as u64, size));
    }
    let listed = home.run(["put", "tree"]).ok();
    assert_eq!(listed.lines().count(), sizes.len());
    assert_eq!(listed, home.run(["hash", "tree"]).ok());
    for (line, size) in listed.lines().zip(sizes) {
        let (digest, path) = line.split_once("  ").unwrap();
        let content = std::fs::read(home.path(path)).unwrap();
        assert_eq!(content.len(), size);
        home.run(["get", digest, "-o", "back"]).ok();
        assert_eq!(std::fs::read(home.path("back")).unwrap(), content, "{path}");
        let said = home.run(["get", digest]);
        said.ok();
        assert_eq!(said.stdout, content, "{path}");
    }
    // Once more, nothing need be sent, and the same is printed.
    assert_eq!(home.run(["put", "tree"]).ok(), listed);
}

#[test]
fn put_tells_each_path_of_equal_files() {
    let (home, _server) = served(&[]);
    for path in ["tree/a", "tree/b", "c"] {
        home.write(path, "same");
    }
    let records = home.run(["put", "--json", "tree", "c"]).json();
    let paths: Vec<_> = records
        .iter()
        .map(|record| record["path"].as_str().unwrap())
        .collect();
    assert_eq!(paths, ["tree/a", "tree/b", "c"]);
    let digest = hash::bytes(b"same").to_string();
    assert!(records.iter().all(|record| record["digest"] == digest));
}

#[test]
fn stdin_and_stdout() {
    let (home, _server) = served(&[]);
    for size in [0, 10, 20 << 20] {
        let content = noise(3, size);
        let said = home.run_with(["put", "-"], &content);
        let digest = hash::bytes(&content);
        assert_eq!(said.ok(), format!("{digest}  -\n"));
        let said = home.run(["get", &digest.to_string(), "-o", "-"]);
        said.ok();
        assert!(said.stdout == content);
    }
}

#[test]
fn ranges() {
    let (home, _server) = served(&[]);
    let content = noise(4, 3 << 20);
    home.write("file", &content);
    let listed = home.run(["put", "file"]).ok();
    let digest = first_word(&listed);
    for (range, bytes) in [
        ("0..10", 0..10),
        ("1000000..2000001", 1_000_000..2_000_001),
        ("3145700..", 3_145_700..3 << 20),
        ("..5", 0..5),
        ("7..7", 7..7),
    ] {
        let said = home.run(["get", digest, "--range", range]);
        said.ok();
        assert!(said.stdout == content[bytes], "{range}");
    }
    home.run(["get", digest, "--range", "0..3145729"]).fails(2);
    home.run(["get", digest, "--range", "9..3"]).fails(2);
    home.run(["get", digest, "--range", "0..9", "-o", "part"])
        .ok();
    assert_eq!(std::fs::read(home.path("part")).unwrap(), content[..9]);
}

#[test]
fn trees_come_back_with_modes_links_and_empty_folders() {
    let (home, _server) = served(&[]);
    for at in 0..50 {
        home.write(&format!("tree/some/deep/{at}"), format!("file {at}"));
    }
    home.write("tree/large", noise(5, 3 << 20));
    home.write("tree/nothing", "");
    std::fs::create_dir_all(home.path("tree/empty/inner")).unwrap();
    symlink("some/deep/1", home.path("tree/link")).unwrap();
    symlink("nowhere", home.path("tree/dangling")).unwrap();
    for (path, mode) in [
        ("tree/some", 0o750),
        ("tree/large", 0o700),
        ("tree/nothing", 0o444),
    ] {
        let permissions = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(home.path(path), permissions).unwrap();
    }
    let listed = home.run(["put", "--tree", "tree"]).ok();
    let digest = first_word(&listed);
    assert_eq!(listed, format!("{digest}  tree\n"));
    home.run(["get", digest, "-o", "back"]).ok();
    assert_eq!(listing(&home.path("back")), listing(&home.path("tree")));
    // The same folder has the same digest.
    assert_eq!(
        first_word(&home.run(["put", "--tree", "back"]).ok()),
        digest
    );

    // The blob itself, when asked for.
    let raw = home.run(["get", digest, "--raw"]);
    raw.ok();
    assert_eq!(hash::bytes(&raw.stdout).to_string(), digest);
    let said = home.run(["get", digest]);
    assert!(said.fails(2).contains("-o"), "{said}");
}

#[test]
fn what_is_not_there_is_3_and_leaves_nothing() {
    let (home, _server) = served(&[]);
    let absent = hash::bytes(b"absent").to_string();
    for args in [
        ["has", &absent, "--json"],
        ["stat", &absent, "--json"],
        ["rm", &absent, "--json"],
        ["verify", &absent, "--json"],
        ["get", &absent, "--json"],
    ] {
        home.run(args).fails(3);
    }
    let said = home.run(["get", &absent, "-o", "out"]);
    assert!(said.fails(3).contains(&absent), "{said}");
    assert!(!home.path("out").exists());
    home.write("out", "precious");
    home.run(["get", &absent, "-o", "out"]).fails(3);
    assert_eq!(std::fs::read(home.path("out")).unwrap(), b"precious");
    assert_eq!(
        std::fs::read_dir(home.path("")).unwrap().count(),
        2,
        "data and out"
    );

    home.write("there", "there");
    let said = home.run(["put", "absent", "there"]);
    assert!(said.fails(3).contains("absent"), "{said}");
    assert!(said.text().ends_with("  there\n"), "{said}");
}

#[test]
fn a_tree_that_lacks_a_file_is_3_and_leaves_nothing() {
    let (home, _server) = served(&[]);
    home.write("tree/a", "one");
    home.write("tree/b", "two");
    let listed = home.run(["put", "--tree", "tree"]).ok();
    home.run(["rm", &hash::bytes(b"two").to_string()]).ok();
    home.run(["get", first_word(&listed), "-o", "back"])
        .fails(3);
    assert!(!home.path("back").exists());
}

#[test]
fn has_stat_and_rm() {
    let (home, _server) = served(&[]);
    home.write("file", "content");
    let listed = home.run(["put", "file"]).ok();
    let digest = first_word(&listed);
    let absent = hash::bytes(b"absent").to_string();
    let said = home.run(["has", digest, &absent]);
    said.fails(3);
    assert_eq!(
        said.text(),
        format!("present  {digest}\nmissing  {absent}\n")
    );
    let said = home.run(["has", "--missing", digest, &absent]);
    assert_eq!(said.text(), format!("missing  {absent}\n"));

    let stat = home.run(["stat", "--json", digest]).json();
    assert_eq!(stat[0]["digest"], digest);
    assert_eq!(stat[0]["present"], true);
    assert_eq!(stat[0]["size"], 7);

    let said = home.run_with(["rm", "-"], listed.as_bytes());
    assert_eq!(said.ok(), format!("removed  {digest}\n"));
    home.run(["has", digest]).fails(3);
}

#[test]
fn verify_finds_a_flipped_bit() {
    let (home, _server) = served(&[]);
    let good = noise(6, 1000);
    let bad = noise(7, 4 << 20);
    home.write("good", &good);
    home.write("bad", &bad);
    home.run(["put", "good", "bad"]).ok();
    let flipped = listing(&home.path("data"))
        .into_iter()
        .find(|(_, _, content)| content.windows(4096).any(|window| window == &bad[..4096]));
    let (path, _, mut content) = flipped.unwrap();
    let at = content
        .windows(4096)
        .position(|window| window == &bad[..4096])
        .unwrap();
    content[at + 2_000_000] ^= 1;
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .open(home.path("data").join(path))
        .unwrap();
    file.write_all(&content).unwrap();

    let digest = hash::bytes(&bad).to_string();
    let said = home.run(["verify"]);
    assert!(said.fails(4).contains("quarantine"), "{said}");
    assert!(
        said.text().contains(&format!("corrupt     {digest}\n")),
        "{said}"
    );
    home.run(["has", &digest]).fails(3);
    home.run(["has", &hash::bytes(&good).to_string()]).ok();
    home.run(["put", "bad"]).ok();
    assert!(home.run(["verify"]).ok().contains("0 corrupt"));
}

#[test]
fn an_interrupted_put_leaves_nothing() {
    let (mut home, _server) = served(&[]);
    let tmp = home.path("tmp");
    std::fs::create_dir(&tmp).unwrap();
    home.set("TMPDIR", tmp.to_str().unwrap());
    let mut child = home
        .command(["put", "-"])
        .stdin(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // More than is kept in memory; then it waits for more.
    stdin.write_all(&noise(8, 12 << 20)).unwrap();
    while std::fs::read_dir(&tmp).unwrap().next().is_none() {
        assert!(child.try_wait().unwrap().is_none());
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(std::fs::read_dir(&tmp).unwrap().next().is_none());
    drop(stdin);
}

#[test]
fn a_file_that_cannot_be_stored_does_not_keep_the_others_out() {
    let (home, _server) = served(&[]);
    home.write("tree/there", "there");
    symlink("nowhere", home.path("dangling")).unwrap();
    let said = home.run(["put", "dangling", "tree"]);
    said.fails(3);
    let digest = hash::bytes(b"there").to_string();
    assert_eq!(said.text(), format!("{digest}  tree/there\n"));
    home.run(["has", &digest]).ok();

    let said = home.run(["put", "/dev/null", "tree"]);
    assert!(said.fails(2).contains("stdin"), "{said}");
    assert_eq!(said.text(), format!("{digest}  tree/there\n"));

    let said = home.run(["put", "--tree", "tree/there", "tree"]);
    assert!(said.fails(2).contains("no folder"), "{said}");
    assert!(said.text().ends_with("  tree\n"), "{said}");
}

#[test]
fn an_end_that_comes_early_hides_nothing_that_was_before() {
    let (home, _server) = served(&["--max-size", "16MiB"]);
    home.write("there", "there");
    home.write("large", noise(9, 20 << 20));
    home.run(["put", "there"]).ok();
    symlink("nowhere", home.path("dangling")).unwrap();
    let said = home.run(["put", "dangling", "there", "large"]);
    let told = said.fails(3);
    assert!(told.contains("dangling"), "{said}");
    assert!(told.contains("large"), "{said}");
    let digest = hash::bytes(b"there").to_string();
    assert_eq!(said.text(), format!("{digest}  there\n"));
}

#[test]
fn get_follows_what_it_writes_to() {
    let (home, _server) = served(&[]);
    home.write("file", "content");
    let listed = home.run(["put", "file"]).ok();
    let digest = first_word(&listed);
    home.write("target", "old");
    symlink("target", home.path("link")).unwrap();
    home.run(["get", digest, "-o", "link"]).ok();
    assert_eq!(std::fs::read(home.path("target")).unwrap(), b"content");
    assert!(home.path("link").is_symlink());
    home.run(["get", digest, "-o", "/dev/null"]).ok();
    std::fs::create_dir(home.path("folder")).unwrap();
    assert!(
        home.run(["get", digest, "-o", "folder"])
            .fails(2)
            .contains("folder")
    );
    home.run(["get", digest, "-o", "absent/file"]).fails(3);

    // A tree goes to no place where something is.
    home.write("tree/file", "content");
    let listed = home.run(["put", "--tree", "tree"]).ok();
    let tree = first_word(&listed);
    home.run(["get", tree, "-o", "folder"]).ok();
    home.run(["get", tree, "-o", "folder"]).fails(2);
    home.run(["get", tree, "-o", "target"]).fails(2);
    assert_eq!(std::fs::read(home.path("target")).unwrap(), b"content");
}

#[test]
fn demo_goes_there_and_back() {
    let home = Home::new();
    for at in 0..30 {
        home.write(&format!("tree/{}/{at}", at % 3), noise(at, 3000));
    }
    home.write("tree/large", noise(50, 2 << 20));
    let text = home.run(["demo", "tree"]).ok();
    assert!(text.contains("31 files"), "{text}");
    let records = home.run(["demo", "--json", "tree"]).json();
    let last = records.last().unwrap();
    assert_eq!(last["identical"], true, "{last}");
    assert_eq!(last["files"], 31);
    assert_eq!(last["second_put"]["bytes_sent"], 0);
    // Nothing stays behind in the home.
    assert_eq!(std::fs::read_dir(home.path("")).unwrap().count(), 1);
}
