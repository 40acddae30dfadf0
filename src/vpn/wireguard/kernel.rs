//! The two ways to ask about kernel interfaces: the reader process where there is one, else the
//! kernel itself, which answers a process with CAP_NET_ADMIN.

use std::{path::Path, time::Duration};

use nix::errno::Errno;

use super::{
    error::ReadError,
    netlink::Link,
    nl_socket,
    reader_process::client,
    reading::{DeviceReading, Dump, PeerReading},
};

/// One of the ways.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kernel<'a> {
    Reader(&'a Path),
    Itself {
        /// The reader that should have been there.
        missing: Option<&'a Path>,
    },
}

impl<'a> Kernel<'a> {
    /// By the reader if its socket exists now: one that is started later is used from then on.
    pub(super) fn by(reader: Option<&'a Path>) -> Self {
        match reader {
            Some(path) if path.symlink_metadata().is_ok() => Self::Reader(path),
            missing => Self::Itself { missing },
        }
    }

    /// Interfaces of kind `wireguard` if `all`, and those with these names.
    pub(super) fn links(
        self,
        all: bool,
        names: &[&str],
        limit: Duration,
        buffer: &mut [u8],
    ) -> Result<Vec<Link>, ReadError> {
        match self {
            Self::Reader(path) => client::links(path, names, buffer).map(|mut links| {
                links.retain(|link| all || !link.wireguard);
                links
            }),
            Self::Itself { missing } => {
                nl_socket::links(all, names, limit, buffer).map_err(|e| explained(e, missing))
            }
        }
    }

    /// All peers of the interface with this index.
    pub(super) fn read(
        self,
        ifindex: u32,
        limit: Duration,
        buffer: &mut [u8],
        sink: &mut dyn FnMut(&PeerReading),
    ) -> Result<(Dump, DeviceReading), ReadError> {
        match self {
            Self::Reader(path) => client::read(path, ifindex, limit, buffer, sink),
            Self::Itself { missing } => {
                nl_socket::read(ifindex, limit, buffer, sink).map_err(|e| explained(e, missing))
            }
        }
    }

    /// Takes peers out of the interface with this index.
    pub(super) fn remove(
        self,
        ifindex: u32,
        limit: Duration,
        public_keys: &[[u8; 32]],
        buffer: &mut [u8],
    ) -> Result<(), ReadError> {
        match self {
            Self::Reader(path) => client::remove(path, ifindex, limit, public_keys, buffer),
            Self::Itself { missing } => nl_socket::remove(ifindex, limit, public_keys, buffer)
                .map_err(|e| explained(e, missing)),
        }
    }
}

/// A sandbox without netlink, or without the capability: what is missing is the reader.
fn explained(error: ReadError, missing: Option<&Path>) -> ReadError {
    let may_not = matches!(
        error,
        ReadError::Denied(_)
            | ReadError::Call {
                errno: Errno::EAFNOSUPPORT,
                ..
            }
    );
    match missing {
        Some(path) if may_not => ReadError::Reader {
            path: path.to_owned(),
            why: "it does not exist".to_owned(),
        },
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_refused_without_a_reader_says_that_the_reader_is_missing() {
        let path = Path::new("/run/reader.sock");
        let socket = |errno| ReadError::Call {
            call: "socket",
            errno,
        };
        for error in [ReadError::Denied(Errno::EPERM), socket(Errno::EAFNOSUPPORT)] {
            let said = explained(error, Some(path)).to_string();
            assert!(
                said.contains("/run/reader.sock does not answer (it does not exist)"),
                "{said}"
            );
            assert!(said.contains("connections are kept"), "{said}");
        }
        let kept = explained(socket(Errno::EMFILE), Some(path));
        assert!(matches!(kept, ReadError::Call { .. }), "{kept}");
        let kept = explained(ReadError::Denied(Errno::EPERM), None);
        assert!(matches!(kept, ReadError::Denied(_)), "{kept}");
    }
}
