//! Holds the attacker table of `docs/security.md` to the tests: each row names some, and each one
//! that is named exists.

use std::fs;
use std::path::Path;

const PLACES: [&str; 7] = [
    "src",
    "tests",
    "crates/protocol",
    "crates/release",
    "crates/updater/src",
    "crates/controller/src",
    "crates/controller/tests",
];

#[test]
fn every_row_of_the_attacker_table_names_tests_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let document = fs::read_to_string(root.join("docs/security.md")).unwrap();
    let mut sources = String::new();
    for place in PLACES {
        read_all(&root.join(place), &mut sources);
    }
    let table = document
        .split_once("| attacker | gets | because | shown by |")
        .expect("the table has its head")
        .1;
    let rows: Vec<&str> = table
        .lines()
        .skip(2)
        .take_while(|line| line.starts_with('|'))
        .collect();
    assert!(rows.len() >= 20, "{} rows", rows.len());
    for row in rows {
        let shown = row.trim_end_matches('|').rsplit(" | ").next().unwrap();
        let tests: Vec<&str> = shown.split('`').skip(1).step_by(2).collect();
        assert!(!tests.is_empty(), "no test shows: {row}");
        for test in tests {
            assert!(
                sources.contains(&format!("fn {test}(")),
                "there is no test {test}"
            );
        }
    }
}

fn read_all(dir: &Path, into: &mut String) {
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if path.is_dir() {
            read_all(&path, into);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            into.push_str(&fs::read_to_string(&path).unwrap());
        }
    }
}
