//! Keeps this process's memory, with its keys and perhaps a token, out of core dumps and away from
//! other processes of the same user.

use std::io;

use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};

/// From here on the kernel writes no core dump of this process, whatever `core_pattern` says, and
/// nobody but root can trace it or read its memory and environment in `/proc`
/// (PR_SET_DUMPABLE(2const), proc_pid(5)). What it reads of itself stays readable to it.
///
/// # Errors
/// When the kernel, or a sandbox, refuses.
pub fn forbid_dumps() -> io::Result<()> {
    prctl::set_dumpable(false)?;
    // The same said twice, for whoever looks with ulimit(1) or at /proc/PID/limits.
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use nix::sys::resource::getrlimit;

    use super::*;

    /// It cannot be undone, so this runs itself once more.
    #[test]
    fn a_process_says_of_itself_that_it_cannot_be_dumped() {
        if std::env::var_os("VPN_NODE_TEST_NO_DUMPS").is_none() {
            let child = Command::new(std::env::current_exe().unwrap())
                .args([
                    "--exact",
                    "host::secrecy::tests::a_process_says_of_itself_that_it_cannot_be_dumped",
                ])
                .env("VPN_NODE_TEST_NO_DUMPS", "1")
                .status();
            assert!(child.unwrap().success());
            return;
        }
        assert!(prctl::get_dumpable().unwrap(), "the control");
        forbid_dumps().unwrap();
        assert!(!prctl::get_dumpable().unwrap());
        assert_eq!(getrlimit(Resource::RLIMIT_CORE).unwrap(), (0, 0));
        // What the agent reads of itself.
        for file in ["statm", "mountinfo", "net/dev", "status", "limits"] {
            std::fs::read(format!("/proc/self/{file}")).unwrap();
        }
    }
}
