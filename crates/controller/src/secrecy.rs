//! Keeps this process's memory, with the fleet's keys and new tokens, out of core dumps and away
//! from other processes of the same user.

use std::io;

use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};

/// From here on the kernel writes no core dump of this process, whatever `core_pattern` says, and
/// nobody but root can trace it or read its memory and environment in `/proc`
/// (PR_SET_DUMPABLE(2const), proc_pid(5)).
///
/// # Errors
/// When the kernel, or a sandbox, refuses.
pub(crate) fn forbid_dumps() -> io::Result<()> {
    prctl::set_dumpable(false)?;
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    Ok(())
}
