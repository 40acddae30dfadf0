//! What the agent left for the updater, read as if a stranger had left it.
//!
//! The agent may run whatever code an attacker chose, so every name below its directory is opened
//! relative to the one above, never through a link, never waiting for a pipe, and only regular
//! files of the agent's own count. What is read once into memory, or copied into root's own
//! directory, is what is verified and used; the agent's file is never looked at a second time.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, renameat};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, unlinkat};
use vpn_node_release::code::UpdaterCode;
use vpn_node_release::handover::{MAX_FILE_BYTES, Request};

use crate::disk::Disk;
use crate::error::UpdateError;
use crate::layout::Layout;

/// The agent's wish.
const REQUEST: &str = "request.json";
/// Where it goes while it is looked at for the last time.
const ANSWERED: &str = ".request.answered";
/// A UUID in its usual spelling has so many characters.
const ID_CHARS: usize = 36;

/// The agent's directory, held open: renaming it away changes nothing any more.
#[derive(Debug)]
pub struct Incoming {
    dir: File,
    shown: String,
    owner: u32,
}

impl Incoming {
    /// Opens the directory; `None` when the agent never made one.
    ///
    /// # Errors
    /// A link or something else in its place.
    pub fn open(layout: &Layout) -> Result<Option<Self>, UpdateError> {
        // The agent's state directory lies in a directory of root's: its name can be trusted, and
        // an administrator may have made it a link to another disk. What is below cannot.
        let path = layout.agent_state();
        let state = OpenOptions::new()
            .read(true)
            .custom_flags(OFlag::O_DIRECTORY.bits())
            .open(&path);
        let mut dir = match state {
            Err(none) if none.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(crate::error::at("open", &path))?,
        };
        let mut shown = path.display().to_string();
        for name in ["updates", "incoming"] {
            shown = format!("{shown}/{name}");
            match open_below(&dir, name, OFlag::O_DIRECTORY) {
                Err(Errno::ENOENT) => return Ok(None),
                other => dir = other.map_err(|errno| not_allowed(&shown, errno))?,
            }
        }
        let owner = dir.metadata().map_err(|e| unreadable(&shown, &e))?.uid();
        Ok(Some(Self { dir, shown, owner }))
    }

    /// The agent's wish; `None` when there is none.
    ///
    /// # Errors
    /// What is there is no request: it can never be one, and should be removed.
    pub fn request(&self) -> Result<Option<Request>, UpdateError> {
        let Some(bytes) = self.read(REQUEST, MAX_FILE_BYTES)? else {
            return Ok(None);
        };
        let wrong = |why: &str| {
            UpdateError::refused(
                UpdaterCode::RequestInvalid,
                format!("{}/{REQUEST} {why}; it is ignored", self.shown),
            )
        };
        // The parser's own words could repeat what the file says, and the status is public.
        let request: Request =
            serde_json::from_slice(&bytes).map_err(|_| wrong("is not a request"))?;
        if request.format != 1 {
            return Err(wrong("is of another format than 1"));
        }
        let is_id = |c: u8| c.is_ascii_hexdigit() || c == b'-';
        if request.id.len() != ID_CHARS || !request.id.bytes().all(is_id) {
            return Err(wrong("has no UUID as its id"));
        }
        Ok(Some(request))
    }

    /// Removes the wish with this id, since it was answered. Another one, which the agent may write
    /// as soon as it reads the answer, stays: what is removed is moved aside first and looked at
    /// there.
    ///
    /// # Errors
    /// What the system refused.
    pub fn remove_request(&self, disk: &Disk, id: &str) -> Result<(), UpdateError> {
        self.ask(disk)?;
        match renameat(&self.dir, REQUEST, &self.dir, ANSWERED) {
            Err(Errno::ENOENT) => return Ok(()),
            // Something of the agent's is in the way: it hurts itself alone.
            Err(_) => return self.discard(REQUEST),
            Ok(()) => {}
        }
        let bytes = self.read(ANSWERED, MAX_FILE_BYTES).ok().flatten();
        let other = bytes
            .and_then(|bytes| serde_json::from_slice::<Request>(&bytes).ok())
            .is_some_and(|request| request.id != id);
        // If there is a still newer one, that one counts.
        let newer = self.read(REQUEST, MAX_FILE_BYTES).ok().flatten().is_some();
        if other && !newer {
            return renameat(&self.dir, ANSWERED, &self.dir, REQUEST)
                .map_err(|errno| unreadable(&self.shown, &errno.into()));
        }
        self.discard(ANSWERED)
    }

    /// Removes what is no request at all.
    ///
    /// # Errors
    /// What the system refused, for example because the agent made a full directory of it.
    pub fn remove_invalid(&self, disk: &Disk) -> Result<(), UpdateError> {
        self.ask(disk)?;
        self.discard(REQUEST)
    }

    fn ask(&self, disk: &Disk) -> Result<(), UpdateError> {
        let asked = disk.ask("remove", self.shown.as_ref());
        asked.map_err(|error| unreadable(&self.shown, &error))
    }

    fn discard(&self, name: &str) -> Result<(), UpdateError> {
        match unlinkat(&self.dir, name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            // rmdir takes an empty one. A full one stays, and no other request can come.
            Err(Errno::EISDIR | Errno::EPERM) => {
                unlinkat(&self.dir, name, UnlinkatFlags::RemoveDir)
                    .map_err(|errno| not_allowed(&format!("{}/{name}", self.shown), errno))
            }
            Err(errno) => Err(unreadable(&self.shown, &errno.into())),
        }
    }

    /// Reads a whole file of at most `limit` bytes, at a path with `/` between plain names; `None`
    /// when there is none.
    ///
    /// # Errors
    /// Links, special files, another owner's file, more than `limit` bytes.
    pub fn read(&self, path: &str, limit: u64) -> Result<Option<Vec<u8>>, UpdateError> {
        let Some(file) = self.open_file(path)? else {
            return Ok(None);
        };
        let mut bytes = Vec::new();
        let shown = || format!("{}/{path}", self.shown);
        file.take(limit.saturating_add(1))
            .read_to_end(&mut bytes)
            .map_err(|error| unreadable(&shown(), &error))?;
        if bytes.len() as u64 > limit {
            return Err(UpdateError::refused(
                UpdaterCode::IncomingTooLarge,
                format!("{} has more than {limit} bytes", shown()),
            ));
        }
        Ok(Some(bytes))
    }

    /// Opens a file for one reading; `None` when there is none.
    ///
    /// # Errors
    /// As [`Self::read`], but for the length: the reader must stop at its own limit.
    pub fn open_file(&self, path: &str) -> Result<Option<File>, UpdateError> {
        let shown = || format!("{}/{}", self.shown, path.escape_debug());
        if path.split('/').any(|name| matches!(name, "" | "." | "..")) {
            return Err(UpdateError::refused(
                UpdaterCode::IncomingUnsafe,
                format!("{} is no path below the agent's directory", shown()),
            ));
        }
        let mut names = path.split('/').peekable();
        let mut dir = None;
        while let Some(name) = names.next() {
            let kind = if names.peek().is_some() {
                OFlag::O_DIRECTORY
            } else {
                OFlag::empty()
            };
            match open_below(dir.as_ref().unwrap_or(&self.dir), name, kind) {
                Err(Errno::ENOENT) => return Ok(None),
                other => dir = Some(other.map_err(|errno| not_allowed(&shown(), errno))?),
            }
        }
        let file = dir.expect("split gives at least one name");
        let meta = file
            .metadata()
            .map_err(|error| unreadable(&shown(), &error))?;
        let what = if !meta.is_file() {
            "is not a regular file"
        } else if meta.nlink() != 1 {
            // Another name of it may be a file that the agent cannot read itself.
            "has a second name (hard link)"
        } else if meta.uid() != self.owner && meta.uid() != 0 {
            "belongs to another user than its directory"
        } else {
            return Ok(Some(file));
        };
        Err(UpdateError::refused(
            UpdaterCode::IncomingUnsafe,
            format!("{} {what}: it is not read", shown()),
        ))
    }
}

/// openat(2) of one name: no link, no waiting for the other end of a pipe, no terminal.
fn open_below(dir: &impl AsFd, name: &str, kind: OFlag) -> nix::Result<File> {
    let flags = OFlag::O_RDONLY
        | OFlag::O_NOFOLLOW
        | OFlag::O_NONBLOCK
        | OFlag::O_NOCTTY
        | OFlag::O_CLOEXEC
        | kind;
    openat(dir, name, flags, Mode::empty()).map(File::from)
}

/// The agent put something there that must not be.
fn not_allowed(shown: &str, errno: Errno) -> UpdateError {
    match errno {
        // ENXIO: a socket. ENOTDIR: a link or file where a directory must be.
        Errno::ELOOP | Errno::ENOTDIR | Errno::ENXIO | Errno::ENAMETOOLONG | Errno::ENOTEMPTY => {
            UpdateError::refused(
                UpdaterCode::IncomingUnsafe,
                format!("{shown} is a link or a special file, or its path is one: it is not read"),
            )
        }
        _ => unreadable(shown, &errno.into()),
    }
}

fn unreadable(shown: &str, error: &io::Error) -> UpdateError {
    UpdateError::failed(
        UpdaterCode::DiskError,
        format!("cannot read {shown}: {error}"),
    )
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;

    use super::*;

    const GOOD: &str = r#"{"format":1,"id":"6f1f0c1e-0000-4000-8000-000000000001","deployment":7,
        "version":"1.5.0","target":"vpn-node/1.5.0/linux-amd64.tar.zst"}"#;

    struct Host {
        _dir: tempfile::TempDir,
        layout: Layout,
        incoming: PathBuf,
    }

    fn host() -> Host {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        let incoming = layout.incoming();
        fs::create_dir_all(incoming.join("metadata")).unwrap();
        Host {
            _dir: dir,
            layout,
            incoming,
        }
    }

    impl Host {
        fn request(&self) -> Result<Option<Request>, UpdateError> {
            Incoming::open(&self.layout)?
                .expect("it is there")
                .request()
        }
    }

    #[test]
    fn a_request_is_read_and_removed() {
        let host = host();
        assert_eq!(host.request().unwrap(), None);
        fs::write(host.incoming.join(REQUEST), GOOD).unwrap();
        assert_eq!(host.request().unwrap().unwrap().version, "1.5.0");
        let incoming = Incoming::open(&host.layout).unwrap().unwrap();
        let disk = Disk::default();
        // The agent has asked for another thing meanwhile.
        let other = "6f1f0c1e-0000-4000-8000-000000000002";
        incoming.remove_request(&disk, other).unwrap();
        let request = host.request().unwrap().unwrap();
        incoming.remove_request(&disk, &request.id).unwrap();
        incoming.remove_request(&disk, &request.id).unwrap();
        assert_eq!(host.request().unwrap(), None);
        assert_eq!(fs::read_dir(&host.incoming).unwrap().count(), 1);
        assert!(
            Incoming::open(&Layout::new("/nonexistent"))
                .unwrap()
                .is_none()
        );
    }

    #[test]
    fn a_request_that_is_not_exactly_one_is_refused_without_repeating_it() {
        let host = host();
        for bad in [
            "",
            "{}",
            "root:$6$secret:19000:0:99999:7:::",
            &GOOD.replace("\"format\":1", "\"format\":2"),
            &GOOD.replace("\"deployment\":7", "\"secret\":7"),
            &GOOD.replace("\"deployment\":7", "\"deployment\":7,\"deployment\":8"),
            &GOOD.replace("\"deployment\":7", "\"deployment\":-7"),
            &GOOD.replace("6f1f0c1e-", "../../../"),
            &GOOD.replace("6f1f0c1e-0000", "6f1f0c1e"),
            &format!("{GOOD} x"),
        ] {
            fs::write(host.incoming.join(REQUEST), bad).unwrap();
            let error = host.request().unwrap_err();
            assert_eq!(error.code, "request_invalid", "{bad}");
            assert!(!error.sentence.contains("secret"), "{error}");
        }
    }

    #[test]
    fn a_hostile_agent_gets_no_link_pipe_or_foreign_file_read() {
        let host = host();
        let path = host.incoming.join(REQUEST);
        let outside = host.layout.root().join("shadow");
        fs::write(&outside, GOOD).unwrap();

        symlink(&outside, &path).unwrap();
        assert_eq!(host.request().unwrap_err().code, "incoming_unsafe");
        fs::remove_file(&path).unwrap();

        // Opening a pipe would wait for a writer for ever.
        nix::unistd::mkfifo(&path, Mode::S_IRWXU).unwrap();
        assert_eq!(host.request().unwrap_err().code, "incoming_unsafe");
        fs::remove_file(&path).unwrap();

        fs::hard_link(&outside, &path).unwrap();
        assert_eq!(host.request().unwrap_err().code, "incoming_unsafe");
        fs::remove_file(&path).unwrap();

        let _socket = std::os::unix::net::UnixListener::bind(&path).unwrap();
        assert_eq!(host.request().unwrap_err().code, "incoming_unsafe");
        fs::remove_file(&path).unwrap();

        fs::create_dir(&path).unwrap();
        assert_eq!(host.request().unwrap_err().code, "incoming_unsafe");
        let incoming = Incoming::open(&host.layout).unwrap().unwrap();
        incoming.remove_invalid(&Disk::default()).unwrap();

        fs::write(&path, vec![b' '; 65 * 1024]).unwrap();
        assert_eq!(host.request().unwrap_err().code, "incoming_too_large");
    }

    #[test]
    fn a_linked_directory_is_refused_wherever_it_stands() {
        let host = host();
        let outside = host.layout.root().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("1.root.json"), "{}").unwrap();
        fs::remove_dir(host.incoming.join("metadata")).unwrap();
        symlink(&outside, host.incoming.join("metadata")).unwrap();
        let incoming = Incoming::open(&host.layout).unwrap().unwrap();
        let error = incoming.read("metadata/1.root.json", 100).unwrap_err();
        assert_eq!(error.code, "incoming_unsafe");

        fs::rename(&host.incoming, host.layout.root().join("moved")).unwrap();
        symlink(host.layout.root().join("moved"), &host.incoming).unwrap();
        assert_eq!(
            Incoming::open(&host.layout).unwrap_err().code,
            "incoming_unsafe"
        );
    }

    #[test]
    fn names_stay_below_the_directory() {
        let host = host();
        let incoming = Incoming::open(&host.layout).unwrap().unwrap();
        for path in [
            "",
            "/etc/passwd",
            "..",
            "../x",
            "metadata/../../x",
            "a//b",
            ".",
        ] {
            let error = incoming.open_file(path).unwrap_err();
            assert_eq!(error.code, "incoming_unsafe", "{path}");
        }
        assert!(incoming.open_file("metadata/none.json").unwrap().is_none());
    }

    #[test]
    fn a_file_of_another_user_is_refused() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let host = host();
        std::os::unix::fs::chown(&host.incoming, Some(4242), Some(4242)).unwrap();
        let path = host.incoming.join(REQUEST);
        fs::write(&path, GOOD).unwrap();
        std::os::unix::fs::chown(&path, Some(4343), Some(4343)).unwrap();
        assert_eq!(host.request().unwrap_err().code, "incoming_unsafe");
        std::os::unix::fs::chown(&path, Some(4242), Some(4242)).unwrap();
        assert!(host.request().unwrap().is_some());
    }
}
