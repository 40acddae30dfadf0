//! Replays what the fuzzer starts from and what it once found (`fuzz/corpus`). Files named `good-…`
//! are accepted, files named `bad-…` are refused, and about the others nothing is promised but that
//! nothing panics.

#[path = "../../../fuzz/src/release.rs"]
pub mod targets;

use std::fs;
use std::path::Path;

fn replay(target: &str, accepts: impl Fn(&[u8]) -> bool) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../fuzz/corpus")
        .join(target);
    let mut good = 0;
    for file in fs::read_dir(&folder).unwrap() {
        let path = file.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let accepted = accepts(&fs::read(&path).unwrap());
        assert!(
            accepted || !name.starts_with("good-"),
            "{target}/{name} is refused"
        );
        assert!(
            !accepted || !name.starts_with("bad-"),
            "{target}/{name} is accepted"
        );
        good += usize::from(accepted);
    }
    assert!(good > 0, "nothing in {} is accepted", folder.display());
}

#[test]
fn packages() {
    replay("bundle", |data| targets::bundle(data).is_some());
}

#[test]
fn metadata() {
    replay("metadata", targets::metadata);
}

#[test]
fn handover() {
    replay("handover", targets::handover);
}
