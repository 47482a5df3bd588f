//! Stores of other formats than this version's: refused with the reason, whole as they were.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod zako_process;

use std::fs;
use std::path::{Path, PathBuf};

use zako_process::{Home, listing};

const UNSUPPORTED: i32 = 8;

/// A store of format 1 in the home.
fn golden(home: &Home) -> PathBuf {
    let golden =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("zako_core/tests/golden/format-1/store");
    for (path, kind, content) in listing(&golden) {
        if kind.starts_with("file") {
            home.write(&format!("data/{}", path.display()), content);
        }
    }
    home.path("data")
}

/// Writes a number, with a right checksum behind it or not.
fn set_format(file: &Path, number: u32) {
    let mut bytes = fs::read(file).unwrap();
    bytes[8..12].copy_from_slice(&number.to_le_bytes());
    let crc = crc32fast::hash(&bytes[..60]);
    bytes[60..64].copy_from_slice(&crc.to_le_bytes());
    fs::write(file, bytes).unwrap();
}

/// What the folder has but for the lock, which every try to open it takes.
fn kept(data: &Path) -> Vec<(PathBuf, String, Vec<u8>)> {
    let mut all = listing(data);
    all.retain(|(path, ..)| !path.ends_with("lock"));
    all
}

#[test]
fn a_store_of_this_format_is_opened_and_its_format_told() {
    let mut home = Home::new();
    golden(&home);
    let said = home.run(["verify", "--data", "data"]).ok();
    assert!(said.contains("formats: store 1, aliases 1"), "{said}");
    assert!(said.contains(" 0 corrupt, 0 missing"), "{said}");
    home.set("ZAKO_DATA", "data");
    let said = home.run(["doctor"]).text();
    assert!(said.contains("store 1, aliases 1"), "{said}");
}

#[test]
fn a_newer_or_unknown_store_is_refused_and_left_as_it_is() {
    let mut home = Home::new();
    let data = golden(&home);
    let newer = "the store was written by a newer zako: it has format 2, and this one";
    let unknown = "the store has format 0, which no version of zako that was released writes";
    for (number, text) in [(2, newer), (u32::MAX, "newer zako"), (0, unknown)] {
        set_format(&data.join("zako.store"), number);
        let before = kept(&data);
        for args in [
            ["verify", "--data", "data"].as_slice(),
            &["gc", "--data", "data"],
            &["serve", "--listen", "127.0.0.1:0", "--data", "data"],
        ] {
            let said = home.run(args);
            let stderr = said.fails(UNSUPPORTED);
            assert!(stderr.contains(text), "{args:?}: {stderr}");
            assert!(stderr.contains("Use the version of zako"), "{stderr}");
        }
        assert!(kept(&data) == before, "format {number} was touched");
    }
    home.set("ZAKO_DATA", "data");
    let said = home.run(["doctor"]).text();
    assert!(said.contains(unknown), "{said}");
}

#[test]
fn a_newer_alias_table_is_refused_by_those_who_need_it() {
    let home = Home::new();
    let data = golden(&home);
    set_format(&data.join("aliases/aliases.log"), 2);
    let before = kept(&data.join("aliases"));
    let serve = ["serve", "--listen", "127.0.0.1:0", "--data", "data"];
    let said = home.run(serve);
    let text = "the alias table was written by a newer zako: it has format 2";
    assert!(said.fails(UNSUPPORTED).contains(text), "{said}");
    assert!(kept(&data.join("aliases")) == before);
    // The blobs are as well as ever.
    let said = home.run(["verify", "--data", "data"]).ok();
    assert!(said.contains(" 0 corrupt, 0 missing"), "{said}");
}

#[test]
fn a_damaged_format_file_is_no_reason_to_begin_anew() {
    let home = Home::new();
    let data = golden(&home);
    let whole = fs::read(data.join("zako.store")).unwrap();
    let mut flipped = whole.clone();
    flipped[20] ^= 1;
    let mut renamed = whole.clone();
    renamed[..8].copy_from_slice(b"ZAKOWHAT");
    for (bytes, text) in [
        (flipped, "format file is damaged"),
        (renamed, "not a store's"),
        (whole[..30].to_vec(), "too short"),
    ] {
        fs::write(data.join("zako.store"), bytes).unwrap();
        let before = kept(&data);
        let said = home.run(["verify", "--data", "data"]);
        assert!(said.fails(UNSUPPORTED).contains(text), "{said}");
        assert!(kept(&data) == before);
    }
    // Without its format file, a folder with segments is no store, and not made one.
    fs::remove_file(data.join("zako.store")).unwrap();
    let said = home.run(["serve", "--listen", "127.0.0.1:0", "--data", "data"]);
    let text = "the folder is no store and not empty";
    assert!(said.fails(UNSUPPORTED).contains(text), "{said}");
}
