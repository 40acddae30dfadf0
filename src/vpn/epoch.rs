//! Which life of a daemon one talks to, told by its socket file.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;

/// A daemon that starts binds a new socket file: its inode and birth tell lives apart. Never 0.
pub(super) fn of_socket(metadata: &Metadata) -> u64 {
    let born = metadata
        .mtime()
        .wrapping_mul(1_000_000_000)
        .wrapping_add(metadata.mtime_nsec());
    (born.cast_unsigned() ^ metadata.ino().rotate_left(40)).max(1)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn one_socket_has_one_epoch_and_two_have_two() {
        let folder = tempfile::tempdir().unwrap();
        let epoch = |name: &str| of_socket(&folder.path().join(name).metadata().unwrap());
        let _first = UnixListener::bind(folder.path().join("first")).unwrap();
        let before = epoch("first");
        let _second = UnixListener::bind(folder.path().join("second")).unwrap();
        assert_eq!(epoch("first"), before);
        assert_ne!(epoch("second"), before);
        assert!(before != 0 && epoch("second") != 0);
    }
}
