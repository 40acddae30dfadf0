//! Replays what the fuzzer starts from and what it once found (`fuzz/corpus/journal`). Files named
//! `good-…` are journals, files named `bad-…` are none.

#[path = "../../../fuzz/src/updater.rs"]
pub mod targets;

use std::fs;
use std::path::Path;

#[test]
fn journals() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/journal");
    let mut good = 0;
    for file in fs::read_dir(&folder).unwrap() {
        let path = file.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let accepted = targets::journal(&fs::read(&path).unwrap()).is_some();
        assert!(accepted || !name.starts_with("good-"), "{name} is refused");
        assert!(!accepted || !name.starts_with("bad-"), "{name} is accepted");
        good += usize::from(accepted);
    }
    assert!(good > 0, "nothing in {} is a journal", folder.display());
}
