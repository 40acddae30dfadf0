//! Holds the tables of `docs/releases.md` to the tests: each row names some as `path::name`, and
//! each one that is named exists in that file.

use std::fs;
use std::path::Path;

#[test]
fn every_bad_update_names_tests_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let document = fs::read_to_string(root.join("docs/releases.md")).unwrap();
    let rows = document
        .lines()
        .filter(|line| line.starts_with("| ") && !line.starts_with("| input |"));
    for row in rows {
        let shown = row.trim_end_matches('|').rsplit(" | ").next().unwrap();
        let tests: Vec<&str> = shown.split('`').skip(1).step_by(2).collect();
        assert!(!tests.is_empty(), "no test shows: {row}");
        for test in tests {
            let (path, name) = test.rsplit_once("::").expect("path::name");
            let source = fs::read_to_string(root.join(path))
                .unwrap_or_else(|error| panic!("{path} in {row}: {error}"));
            assert!(
                source.contains(&format!("fn {name}(")),
                "there is no test {test}"
            );
        }
    }
}
