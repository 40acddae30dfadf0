//! `docs/releases.md`, table "Metadata": its codes and tests exist, and no code is left out.

use std::fs;
use std::path::Path;

use vpn_node_release::code::MetadataCode;

#[test]
fn the_table_of_metadata_names_every_code_and_only_tests_that_exist() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let document = fs::read_to_string(here.join("../../docs/releases.md")).unwrap();
    let section = document.split_once("\n## Metadata\n").unwrap().1;
    let section = section.split("\n## ").next().unwrap();
    let mut sources = String::new();
    for folder in ["src", "tests/tuf"] {
        read_all(&here.join(folder), &mut sources);
    }
    let rows: Vec<&str> = section
        .lines()
        .filter(|line| line.starts_with("| "))
        .skip(1)
        .collect();
    assert!(rows.len() >= 40, "{} rows", rows.len());
    for row in rows {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").collect();
        let [_, _, _, tests] = cells[..] else {
            panic!("not four cells: {row}");
        };
        let tests: Vec<&str> = tests.split('`').skip(1).step_by(2).collect();
        assert!(!tests.is_empty(), "no test shows: {row}");
        for test in tests {
            let exists = sources.contains(&format!("fn {test}("));
            assert!(exists, "there is no test {test}");
        }
    }
    for code in MetadataCode::ALL {
        let word = format!("`{code}`");
        assert!(section.contains(&word), "no row has the code {word}");
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
