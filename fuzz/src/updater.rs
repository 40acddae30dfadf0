//! What must hold for any bytes, in `crates/updater`. The fuzzer calls these functions, and so do
//! the tests that replay the corpora (`crates/updater/tests/fuzz_corpus.rs`).

use vpn_node_updater::journal::{self, Journal};
use vpn_node_updater::layout::Layout;

/// A journal on disk, as one of its two copies. Anything but a whole one is none.
pub fn journal(data: &[u8]) -> Option<Journal> {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let layout = Layout::new(folder.path());
    for path in layout.journal() {
        if let Some(above) = path.parent() {
            std::fs::create_dir_all(above).expect("a folder can be made");
        }
    }
    let [first, second] = layout.journal();
    std::fs::write(&first, data).expect("a file can be written");
    let read = journal::read(&layout);
    std::fs::rename(&first, &second).expect("a file can be renamed");
    assert_eq!(journal::read(&layout), read);
    read
}
