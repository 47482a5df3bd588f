//! `zako config`: the template, what is wrong in a file, what is in force.
#![allow(clippy::unwrap_used, missing_docs)]

mod zako_process;

use zako_process::Home;

#[test]
fn the_template_is_a_configuration_that_changes_nothing() {
    let home = Home::new();
    let template = home.run(["config", "--default"]).ok();
    assert!(
        template.contains("\n#listen = \"127.0.0.1:7420\"\n"),
        "{template}"
    );
    assert!(template.contains("variable ZAKO_MAX_SIZE"), "{template}");
    home.write("zako.toml", &template);
    let said = home.run(["config", "--check"]).ok();
    assert_eq!(said, "zako.toml: nothing is wrong\n");
    for shown in home.run(["config", "--show", "--json"]).json() {
        assert_eq!(shown["from"], "default", "{shown}");
    }
}

#[test]
fn all_that_is_wrong_is_shown_with_its_line() {
    let home = Home::new();
    home.write(
        "a.toml",
        "[server]\nlisen = \"127.0.0.1:1\"\nlease = \"soon\"\n\n[clyent]\n",
    );
    let said = home.run(["config", "--check", "a.toml"]);
    let stderr = said.fails(2);
    assert!(stderr.contains("a.toml: 3 faults"), "{stderr}");
    let text = said.text();
    let expected = "\
a.toml: line 2, column 1: unknown field `lisen`
2 | lisen = \"127.0.0.1:1\"
  | ^^^^^
  Did you mean `listen`?
a.toml: line 3, column 9: \"soon\" is not a length of time: write 100ms, 30s, 5m, 1h or 7d
3 | lease = \"soon\"
  |         ^^^^^^
a.toml: line 5, column 2: unknown table `clyent`
5 | [clyent]
  |  ^^^^^^
  Did you mean `client`?
";
    assert_eq!(text, expected);
    let faults = home.run(["config", "--json", "--check", "a.toml"]).json();
    let places: Vec<_> = faults
        .iter()
        .map(|fault| {
            (
                fault["line"].as_u64().unwrap(),
                fault["column"].as_u64().unwrap(),
            )
        })
        .collect();
    assert_eq!(places, [(2, 1), (3, 9), (5, 2)]);
    // Other verbs say the same before they refuse to run.
    let said = home.run(["--config", "a.toml", "has", "-"]);
    assert!(said.fails(2).contains("line 3, column 9"), "{said}");
}

#[test]
fn what_makes_no_sense_is_wrong_too() {
    let mut home = Home::new();
    home.write("file", "no folder");
    let text = "[server]\nhttp = \"127.0.0.1:1\"\nbuild-tools = false\ndata = \"file\"\n";
    home.write("etc/zako.toml", text);
    home.write("etc/file", "no folder");
    home.set("ZAKO_CONFIG", "etc/zako.toml");
    let said = home.run(["config", "--check"]);
    said.fails(2);
    let text = said.text();
    assert!(
        text.contains("line 2, column 8: the HTTP cache is to listen"),
        "{text}"
    );
    assert!(
        text.contains("line 4, column 8: etc/file is no folder"),
        "{text}"
    );
}

#[test]
fn no_file_is_told() {
    let home = Home::new();
    let said = home.run(["config", "--check"]);
    assert!(
        said.fails(3).contains("there is neither zako.toml nor"),
        "{said}"
    );
    home.run(["config", "--check", "none.toml"]).fails(3);
    home.run(["config"]).fails(2);
    home.run(["config", "--show", "--default"]).fails(2);
}

#[test]
fn what_is_in_force_is_shown_with_its_origin() {
    let mut home = Home::new();
    home.write("zako.toml", "[server]\nlease = \"2h\"\n");
    home.set("ZAKO_DURABILITY", "none");
    let shown = home.run(["config", "--show", "--json"]).json();
    let find = |key: &str| shown.iter().find(|one| one["key"] == key).unwrap();
    assert_eq!(find("lease")["value"], "2h");
    assert_eq!(find("lease")["from"], "zako.toml");
    assert_eq!(find("durability")["from"], "ZAKO_DURABILITY");
    assert_eq!(find("transport")["table"], "client");
    let text = home.run(["config", "--show"]).ok();
    assert!(text.contains("server.lease"), "{text}");
}
