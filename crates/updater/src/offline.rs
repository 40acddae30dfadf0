//! A release in one file, which root brought here: laid out in the work directory, believed no
//! more than what the agent downloads.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use vpn_node_release::code::UpdaterCode;
use vpn_node_release::offline::{OfflineError, read};

use crate::disk::Disk;
use crate::error::{UpdateError, at};
use crate::layout::Layout;
use crate::preflight;

/// Lays out `file`, and gives the directory with `metadata/` and `targets/`.
///
/// # Errors
/// It is no such file, is damaged, or there is no room.
pub fn lay_out(layout: &Layout, disk: &Disk, file: &Path) -> Result<PathBuf, UpdateError> {
    let from = open(file)?;
    let size = from.metadata().map_err(at("look at", file))?.len();
    disk.remove_tree(&layout.work())?;
    disk.create_dir(&layout.work(), 0o700)?;
    preflight::check_room(&[(layout.work(), size)])?;
    let place = layout.work().join("offline");
    disk.create_dir(&place, 0o700)?;
    let laid = read(io::BufReader::new(from), |path, bytes| {
        let to = place.join(path.as_str());
        disk.ask("write", &to)?;
        let folder = to.parent().unwrap_or(&place);
        std::fs::create_dir_all(folder)?;
        let mut to = File::create_new(&to)?;
        io::copy(bytes, &mut to).map(drop)
    });
    match laid {
        Ok(()) => Ok(place),
        Err(OfflineError::Io(error)) => Err(UpdateError::io("unpack", file, &error)),
        Err(malformed) => Err(refused(file, &malformed.to_string())),
    }
}

/// Opens `file`, without waiting for the other end of a FIFO.
///
/// # Errors
/// It is not there, cannot be read, or is no regular file.
pub fn open(file: &Path) -> Result<File, UpdateError> {
    let from = OpenOptions::new()
        .read(true)
        .custom_flags(OFlag::O_NONBLOCK.bits())
        .open(file)
        .map_err(at("open", file))?;
    let meta = from.metadata().map_err(at("look at", file))?;
    if !meta.is_file() {
        return Err(refused(file, "it is not a regular file"));
    }
    Ok(from)
}

fn refused(file: &Path, why: &str) -> UpdateError {
    UpdateError::refused(
        UpdaterCode::OfflineInvalid,
        format!("{}: {why}", file.display()),
    )
}

#[cfg(test)]
mod tests {
    use vpn_node_release::offline::Writer;

    use super::*;

    #[test]
    fn it_is_laid_out_as_it_was_packed_and_nothing_else_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        std::fs::create_dir_all(layout.state()).unwrap();
        let mut writer = Writer::new(Vec::new());
        for path in [
            "metadata/timestamp.json",
            "targets/vpn-node/1.5.0/x.tar.zst",
        ] {
            writer.file(path, 4, &b"text"[..]).unwrap();
        }
        let bytes = writer.finish().unwrap();
        let file = dir.path().join("release.vpn-node");
        std::fs::write(&file, &bytes).unwrap();
        let place = lay_out(&layout, &Disk::default(), &file).unwrap();
        let text = std::fs::read(place.join("targets/vpn-node/1.5.0/x.tar.zst")).unwrap();
        assert_eq!(text, b"text");

        for cut in [0, 1, 511, 512, 600, bytes.len() - 1] {
            std::fs::write(&file, &bytes[..cut]).unwrap();
            let error = lay_out(&layout, &Disk::default(), &file).unwrap_err();
            assert_eq!(error.code, "offline_invalid", "cut after {cut}");
        }
        let mut evil = bytes.clone();
        evil[..8].copy_from_slice(b"../../x/");
        std::fs::write(&file, evil).unwrap();
        let error = lay_out(&layout, &Disk::default(), &file).unwrap_err();
        assert_eq!(error.code, "offline_invalid");
        assert_eq!(
            lay_out(&layout, &Disk::default(), dir.path())
                .unwrap_err()
                .code,
            "offline_invalid"
        );
    }
}
