//! Which system call a thread that is followed stands at.

use std::fs;

use nix::libc::{
    O_CREAT, SYS_brk, SYS_clock_nanosleep, SYS_close, SYS_connect, SYS_fcntl, SYS_fdatasync,
    SYS_flock, SYS_fstat, SYS_fsync, SYS_futex, SYS_getdents64, SYS_getrandom, SYS_lseek, SYS_mmap,
    SYS_mprotect, SYS_munmap, SYS_newfstatat, SYS_openat, SYS_pread64, SYS_prlimit64, SYS_read,
    SYS_readlinkat, SYS_recvfrom, SYS_rt_sigaction, SYS_rt_sigprocmask, SYS_sendto, SYS_setsockopt,
    SYS_sigaltstack, SYS_socket, SYS_statx, SYS_write,
};
use nix::unistd::Pid;

/// Calls that make, move and remove no name; written content is looked at when it is synced.
const HARMLESS: [i64; 28] = [
    SYS_brk,
    SYS_clock_nanosleep,
    SYS_close,
    SYS_connect,
    SYS_fcntl,
    SYS_flock,
    SYS_fstat,
    SYS_futex,
    SYS_getdents64,
    SYS_getrandom,
    SYS_lseek,
    SYS_mmap,
    SYS_mprotect,
    SYS_munmap,
    SYS_pread64,
    SYS_prlimit64,
    SYS_read,
    SYS_readlinkat,
    SYS_recvfrom,
    SYS_rt_sigaction,
    SYS_rt_sigprocmask,
    SYS_sendto,
    SYS_setsockopt,
    SYS_sigaltstack,
    SYS_socket,
    SYS_statx,
    SYS_write,
    SYS_newfstatat,
];

/// The system call that a thread stands before or behind.
pub(super) struct Call {
    number: i64,
    arguments: [u64; 3],
}

impl Call {
    /// "Number of the call, its arguments in hex" (proc_pid_syscall(5)).
    pub(super) fn of(thread: Pid) -> Option<Self> {
        let call = fs::read_to_string(format!("/proc/{thread}/syscall")).ok()?;
        let mut words = call.split(' ');
        let number = words.next()?.parse().ok()?;
        let mut argument = || u64::from_str_radix(words.next()?.strip_prefix("0x")?, 16).ok();
        let arguments = [argument()?, argument()?, argument()?];
        Some(Self { number, arguments })
    }

    /// Its first argument: for many calls a file descriptor.
    pub(super) fn first(&self) -> u64 {
        self.arguments[0]
    }

    /// Whether it makes a file or a folder durable.
    pub(super) fn is_sync(&self) -> bool {
        self.number == SYS_fsync || self.number == SYS_fdatasync
    }

    /// Whether it changes no name: nobody needs to look. The most frequent ones of them.
    pub(super) fn is_harmless(&self) -> bool {
        let creates = self.arguments[2] & u64::from(O_CREAT.unsigned_abs()) != 0;
        HARMLESS.contains(&self.number) || self.number == SYS_openat && !creates
    }
}
