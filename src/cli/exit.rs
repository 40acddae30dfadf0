//! The exit codes of `vpn-node`, which monitors rely on.

/// How the command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// It did what was asked; for `healthcheck`: the agent is well.
    Ok = 0,
    /// It failed; for `healthcheck`: the agent is unhealthy; for `config check`: it is not good;
    /// for `gate status`: the gate is closed.
    Failed = 1,
    /// The command line is wrong.
    Usage = 2,
    /// The agent is not running or does not answer; for `gate status`: systemd does not.
    Unreachable = 3,
    /// This host is not enrolled.
    NotEnrolled = 4,
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}
