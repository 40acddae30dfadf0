//! What holds `/`, from `/proc/self/mountinfo` (proc_pid_mountinfo(5)).

use std::path::Path;

use crate::host::bounded;

/// Some 10,000 mounts; `/` is among the first.
const MAX_MOUNTINFO: usize = 1024 * 1024;

#[derive(Debug, PartialEq, Eq)]
pub(super) struct RootMount {
    pub(super) major: u32,
    pub(super) minor: u32,
    pub(super) fs_type: Vec<u8>,
    pub(super) source: Vec<u8>,
}

pub(super) fn root(proc: &Path) -> Option<RootMount> {
    parse(&bounded::read_prefix(&proc.join("self/mountinfo"), MAX_MOUNTINFO).ok()?)
}

/// The last mount at `/`: it hides those before it.
fn parse(text: &[u8]) -> Option<RootMount> {
    text.split(|byte| *byte == b'\n')
        .filter_map(line)
        .next_back()
}

/// `27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw`
fn line(line: &[u8]) -> Option<RootMount> {
    let mut fields = line.split(|byte| *byte == b' ');
    let device = std::str::from_utf8(fields.nth(2)?).ok()?;
    let (major, minor) = device.split_once(':')?;
    if fields.nth(1)? != b"/" {
        return None;
    }
    let mut after = fields.skip_while(|field| *field != b"-").skip(1);
    Some(RootMount {
        major: major.parse().ok()?,
        minor: minor.parse().ok()?,
        fs_type: after.next()?.to_vec(),
        source: after.next()?.to_vec(),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_last_mount_at_the_root_wins() {
        let text = b"22 27 0:21 / /proc rw - proc proc rw\n\
            1 1 0:2 / / rw - rootfs rootfs rw\n\
            27 1 254:0 /sub / rw,relatime shared:1 master:2 - ext4 /dev/vda rw\n\
            23 27 8:17 / /srv/a rw - ext4 /dev/sdb1 rw\n";
        let root = parse(text).unwrap();
        assert_eq!((root.major, root.minor), (254, 0));
        assert_eq!(
            (&root.fs_type[..], &root.source[..]),
            (&b"ext4"[..], &b"/dev/vda"[..])
        );
    }

    #[test]
    fn damaged_lines_are_left_out() {
        for text in [
            "",
            "27 1 254:0 / /",
            "27 1 254 / / rw - ext4 /dev/vda",
            "27 1 x:y / / rw - a b",
        ] {
            assert_eq!(parse(text.as_bytes()), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "([0-9:/ \n-]|[a-z]|\\PC){0,200}") {
            let _ = parse(text.as_bytes());
        }
    }
}
