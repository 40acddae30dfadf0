//! Every change that the updater makes on disk.
//!
//! Files and links are replaced as a whole (temporary name, fsync, rename, fsync of the directory),
//! so a power cut leaves the old or the new. All of them pass [`Gate::before`]: tests refuse there
//! (a full disk, a power cut at this very step); on a host nobody stands in it.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::fcntl::OFlag;
use nix::unistd::geteuid;
use vpn_node_release::code::UpdaterCode;

use crate::clock::new_id;
use crate::error::{UpdateError, at};

/// Stands before every change.
pub trait Gate: Send + Sync {
    /// `doing` is a verb ("write", "rename"), `path` what is changed.
    ///
    /// # Errors
    /// Whatever the caller shall meet instead of the change.
    fn before(&self, doing: &'static str, path: &Path) -> io::Result<()>;
}

/// The way to the disk.
#[derive(Clone, Default)]
pub struct Disk {
    gate: Option<Arc<dyn Gate>>,
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Disk").finish_non_exhaustive()
    }
}

impl Disk {
    /// With somebody before every change.
    #[must_use]
    pub fn with_gate(gate: Arc<dyn Gate>) -> Self {
        Self { gate: Some(gate) }
    }

    /// Only asks the gate, for changes that another module makes.
    ///
    /// # Errors
    /// The gate's.
    pub(crate) fn ask(&self, doing: &'static str, path: &Path) -> io::Result<()> {
        let gate = self.gate.as_ref();
        gate.map_or(Ok(()), |gate| gate.before(doing, path))
    }

    /// Asks the gate, then does it; the error names `doing` and `path`.
    pub(crate) fn change<T>(
        &self,
        doing: &'static str,
        path: &Path,
        change: impl FnOnce() -> io::Result<T>,
    ) -> Result<T, UpdateError> {
        self.ask(doing, path)
            .and_then(|()| change())
            .map_err(at(doing, path))
    }

    /// Replaces the content of `path`; durable on return. `mode` holds from the first instant.
    ///
    /// # Errors
    /// What the system refused; the old content stays.
    pub fn replace(&self, path: &Path, bytes: &[u8], mode: u32) -> Result<(), UpdateError> {
        self.replace_by(path, |temp| {
            let file = self.write_new(temp, bytes, mode)?;
            self.change("sync", temp, || file.sync_all())
        })
    }

    /// As [`Self::replace`], and the file belongs to `owner` (user, group) afterwards. For files in
    /// a directory of that user, who may have put anything in the way.
    ///
    /// # Errors
    /// What the system refused; the old content stays, unless it is a directory.
    pub fn replace_owned(
        &self,
        path: &Path,
        bytes: &[u8],
        mode: u32,
        owner: (u32, u32),
    ) -> Result<(), UpdateError> {
        self.make_way(&beside(path))?;
        self.make_way(path)?;
        self.replace_by(path, |temp| {
            let file = self.write_new(temp, bytes, mode)?;
            if geteuid().is_root() {
                fchown(&file, Some(owner.0), Some(owner.1)).map_err(at("change owner of", temp))?;
            }
            self.change("sync", temp, || file.sync_all())
        })
    }

    /// Removes what has this name in a directory of somebody else's, whatever it is.
    ///
    /// # Errors
    /// What the system refused.
    pub fn remove_others(&self, path: &Path) -> Result<(), UpdateError> {
        self.make_way(path)?;
        self.remove_file(path)
    }

    /// Moves a directory aside. Its owner may have made it so deep that it cannot be removed, so
    /// that is only tried.
    fn make_way(&self, path: &Path) -> Result<(), UpdateError> {
        if !fs::symlink_metadata(path).is_ok_and(|meta| meta.is_dir()) {
            return Ok(());
        }
        let id = new_id().map_err(at("move away", path))?;
        let aside = path.with_file_name(format!(".{id}.aside"));
        self.rename(path, &aside)?;
        let _ = self.remove_tree(&aside);
        Ok(())
    }

    fn replace_by(
        &self,
        path: &Path,
        write: impl FnOnce(&Path) -> Result<(), UpdateError>,
    ) -> Result<(), UpdateError> {
        let temp = beside(path);
        self.remove_file(&temp)?;
        let written =
            write(&temp).and_then(|()| self.change("replace", path, || fs::rename(&temp, path)));
        if written.is_err() {
            // Best effort: a later call removes it too.
            let _ = self.remove_file(&temp);
        }
        written?;
        self.sync_dir(parent(path))
    }

    /// Lets the link `path` lead to `target`, in one step; durable on return.
    ///
    /// # Errors
    /// What the system refused; the old link stays.
    pub fn link(&self, path: &Path, target: &Path) -> Result<(), UpdateError> {
        let temp = beside(path);
        self.remove_file(&temp)?;
        self.change("create link", &temp, || {
            std::os::unix::fs::symlink(target, &temp)
        })?;
        self.change("replace link", path, || fs::rename(&temp, path))?;
        self.sync_dir(parent(path))
    }

    /// Removes a file or link (never what it leads to), durably; none is no error.
    ///
    /// # Errors
    /// What the system refused, a directory for example.
    pub fn remove_file(&self, path: &Path) -> Result<(), UpdateError> {
        if fs::symlink_metadata(path).is_err_and(|e| e.kind() == io::ErrorKind::NotFound) {
            return Ok(());
        }
        self.change("remove", path, || fs::remove_file(path))?;
        self.sync_dir(parent(path))
    }

    /// Removes a directory with all that is in it, following no link; none is no error.
    ///
    /// # Errors
    /// What the system refused; a part may be gone then.
    pub fn remove_tree(&self, path: &Path) -> Result<(), UpdateError> {
        match fs::symlink_metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Ok(meta) if !meta.is_dir() => return self.remove_file(path),
            _ => {}
        }
        self.change("remove", path, || fs::remove_dir_all(path))?;
        self.sync_dir(parent(path))
    }

    /// Makes a directory with exactly this mode, durably; its parent must exist.
    ///
    /// # Errors
    /// What the system refused; that something stands there already, too.
    pub fn create_dir(&self, path: &Path, mode: u32) -> Result<(), UpdateError> {
        self.change("create directory", path, || {
            fs::DirBuilder::new().mode(mode).create(path)?;
            // The umask may have taken bits away.
            fs::set_permissions(path, fs::Permissions::from_mode(mode))
        })?;
        self.sync_dir(parent(path))
    }

    /// As [`Self::create_dir`]; a directory (not a link to one) that is there already is fine.
    ///
    /// # Errors
    /// What the system refused, or something else in its place.
    pub fn ensure_dir(&self, path: &Path, mode: u32) -> Result<(), UpdateError> {
        match fs::symlink_metadata(path) {
            Ok(meta) if meta.is_dir() => Ok(()),
            Ok(_) => Err(UpdateError::failed(
                UpdaterCode::DiskError,
                format!("{} is not a directory; move it away", path.display()),
            )),
            Err(_) => self.create_dir(path, mode),
        }
    }

    /// Renames within one file system, durably.
    ///
    /// # Errors
    /// What the system refused.
    pub fn rename(&self, from: &Path, to: &Path) -> Result<(), UpdateError> {
        self.change("rename", to, || fs::rename(from, to))?;
        self.sync_dir(parent(to))?;
        self.sync_dir(parent(from))
    }

    /// Makes the names in a directory durable (fsync(2)).
    ///
    /// # Errors
    /// What the system refused.
    pub fn sync_dir(&self, dir: &Path) -> Result<(), UpdateError> {
        self.change("sync", dir, || File::open(dir)?.sync_all())
    }

    /// Opens a new file for writing; what stands there already is an error.
    ///
    /// # Errors
    /// What the system refused.
    pub(crate) fn create_file(&self, path: &Path, mode: u32) -> Result<File, UpdateError> {
        self.change("create", path, || {
            let file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(mode)
                .custom_flags(OFlag::O_NOFOLLOW.bits())
                .open(path)?;
            file.set_permissions(fs::Permissions::from_mode(mode))?;
            Ok(file)
        })
    }

    fn write_new(&self, path: &Path, bytes: &[u8], mode: u32) -> Result<File, UpdateError> {
        let mut file = self.create_file(path, mode)?;
        // In two halves, so that a test can tear it.
        let (head, tail) = bytes.split_at(bytes.len() / 2);
        self.change("write", path, || file.write_all(head))?;
        self.change("write", path, || file.write_all(tail))?;
        Ok(file)
    }
}

/// Reads a regular file of root's of at most `max` bytes; `None` when there is none.
///
/// # Errors
/// Links, special files, more bytes, or what the system said.
pub fn read_bounded(path: &Path, max: u64) -> Result<Option<Vec<u8>>, UpdateError> {
    let Some(file) = open_if_there(path)? else {
        return Ok(None);
    };
    let not_it = |what: &str| {
        UpdateError::failed(
            UpdaterCode::DiskError,
            format!("{} {what}; it is not what it should be", path.display()),
        )
    };
    if !file.metadata().map_err(at("look at", path))?.is_file() {
        return Err(not_it("is not a regular file"));
    }
    let mut bytes = Vec::new();
    file.take(max + 1)
        .read_to_end(&mut bytes)
        .map_err(at("read", path))?;
    if bytes.len() as u64 > max {
        return Err(not_it(&format!("is larger than {max} bytes")));
    }
    Ok(Some(bytes))
}

/// Opens for reading, through no link and without waiting for the other end of a FIFO; `None` when
/// there is nothing.
///
/// # Errors
/// What the system said.
pub fn open_if_there(path: &Path) -> Result<Option<File>, UpdateError> {
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags((OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits())
        .open(path);
    match opened {
        Err(none) if none.kind() == io::ErrorKind::NotFound => Ok(None),
        other => Ok(Some(other.map_err(at("open", path))?)),
    }
}

/// A temporary name beside `path`. One updater runs at a time, so one name is enough.
fn beside(path: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".new");
    path.with_file_name(name)
}

fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("/"))
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Writes down what is asked, and refuses one of them.
    #[derive(Default)]
    struct Record {
        asked: Mutex<Vec<String>>,
        refuse: Option<usize>,
    }

    impl Gate for Record {
        fn before(&self, doing: &'static str, path: &Path) -> io::Result<()> {
            let mut asked = self.asked.lock().unwrap();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            asked.push(format!("{doing} {name}"));
            if self.refuse == Some(asked.len()) {
                return Err(io::ErrorKind::StorageFull.into());
            }
            Ok(())
        }
    }

    #[test]
    fn what_comes_to_its_place_is_on_disk_before_and_its_name_after() {
        let dir = tempfile::Builder::new().prefix("d").tempdir().unwrap();
        let name = dir
            .path()
            .file_name()
            .unwrap()
            .to_string_lossy()
            .into_owned();
        let record = Arc::new(Record::default());
        let disk = Disk::with_gate(record.clone());
        disk.replace(&dir.path().join("x"), b"text", 0o600).unwrap();
        let told = [
            "create .x.new".into(),
            "write .x.new".into(),
            "write .x.new".into(),
            "sync .x.new".into(),
            "replace x".into(),
            format!("sync {name}"),
        ];
        assert_eq!(*record.asked.lock().unwrap(), told);
        record.asked.lock().unwrap().clear();
        disk.link(&dir.path().join("l"), Path::new("x")).unwrap();
        let told = [
            "create link .l.new".into(),
            "replace link l".into(),
            format!("sync {name}"),
        ];
        assert_eq!(*record.asked.lock().unwrap(), told);
    }

    #[test]
    fn whatever_is_refused_leaves_the_old_content_or_the_new() {
        for refuse in 1..7 {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("x");
            Disk::default().replace(&path, b"old", 0o600).unwrap();
            let disk = Disk::with_gate(Arc::new(Record {
                refuse: Some(refuse),
                ..Record::default()
            }));
            disk.replace(&path, b"new", 0o600).unwrap_err();
            let found = fs::read(&path).unwrap();
            assert_eq!(found, if refuse < 6 { b"old" } else { b"new" }, "{refuse}");
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "{refuse}");
        }
    }

    #[test]
    fn a_link_is_removed_and_not_what_it_leads_to() {
        let dir = tempfile::tempdir().unwrap();
        let (tree, link) = (dir.path().join("tree"), dir.path().join("link"));
        fs::create_dir(&tree).unwrap();
        let disk = Disk::default();
        disk.link(&link, Path::new("tree")).unwrap();
        disk.remove_tree(&link).unwrap();
        disk.remove_tree(&link).unwrap();
        assert!(tree.is_dir());
        disk.link(&link, Path::new("tree")).unwrap();
        disk.remove_file(&link).unwrap();
        assert!(tree.is_dir() && fs::symlink_metadata(&link).is_err());
        assert_eq!(
            disk.ensure_dir(&tree.join("a/b"), 0o700).unwrap_err().code,
            "disk_error"
        );
    }

    #[test]
    fn a_file_of_root_that_is_a_link_or_too_long_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let (path, link) = (dir.path().join("x"), dir.path().join("l"));
        assert_eq!(read_bounded(&path, 3).unwrap(), None);
        fs::write(&path, "abc").unwrap();
        assert_eq!(read_bounded(&path, 3).unwrap().unwrap(), b"abc");
        assert!(read_bounded(&path, 2).is_err());
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(read_bounded(&link, 3).is_err());
        assert!(read_bounded(dir.path(), 3).is_err());
    }
}
