//! `docs/releases.md`, table "Metadata": no code is left out. (That its tests exist, the tests of
//! the whole repository check.)

use std::fs;
use std::path::Path;

use vpn_node_release::code::MetadataCode;

#[test]
fn the_table_of_metadata_has_a_row_for_every_code() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/releases.md");
    let document = fs::read_to_string(path).unwrap();
    let section = document.split_once("\n## Metadata\n").unwrap().1;
    let section = section.split("\n## ").next().unwrap();
    for code in MetadataCode::ALL {
        let word = format!("`{code}`");
        assert!(section.contains(&word), "no row has the code {word}");
    }
}
