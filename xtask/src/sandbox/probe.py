"""Tries what a sandbox forbids, and says for each attempt whether it worked.

Runs inside of a service in the place of its program, and outside of any sandbox as the control.
Python, because it reaches every system call without a line of unsafe Rust. Prints one line:
PROBES and a JSON object from the attempt's name to "ok" or the error.
"""

import ctypes
import errno
import json
import os
import platform
import pwd
import resource
import signal
import socket
import subprocess
import sys

LIBC = ctypes.CDLL(None, use_errno=True)
# Numbers of the calls that the C library has no function for, or checks by itself first.
NUMBERS = {
    "x86_64": {"bpf": 321, "add_key": 248, "perf_event_open": 298, "init_module": 175, "clock_settime": 227},
    "aarch64": {"bpf": 280, "add_key": 217, "perf_event_open": 241, "init_module": 105, "clock_settime": 112},
}[platform.machine()]
CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWNET = 0x20000, 0x10000000, 0x40000000
CAP_SYS_ADMIN = 21


def call(function, *words, reached=()):
    """A function of the C library. An error in `reached` comes from behind the permission check,
    and so does the answer of a kernel that has no such call."""
    ctypes.set_errno(0)
    if function(*words) == -1:
        number = ctypes.get_errno()
        if number not in reached and number != errno.ENOSYS:
            raise OSError(number, os.strerror(number))


def syscall(name, *words, reached=()):
    LIBC.syscall.restype = ctypes.c_long
    call(LIBC.syscall, ctypes.c_long(NUMBERS[name]), *words, reached=reached)


def in_child(attempt):
    """What changes the process itself is tried in one of its own."""

    def run():
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(write, outcome(attempt).encode())
            os._exit(0)
        os.close(write)
        said = os.read(read, 100).decode()
        os.close(read)
        os.waitpid(child, 0)
        if said != "ok":
            raise Refused(said or "killed")

    return run


class Refused(Exception):
    """An attempt that failed, with what is to be said about it."""


def outcome(attempt):
    try:
        attempt()
        return "ok"
    except Refused as error:
        return str(error)
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error))


def read(path):
    """InaccessiblePaths= puts an empty file there, which root may open."""
    with open(path, "rb") as file:
        if not file.read(1):
            raise Refused("empty")


def write(path):
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
    os.unlink(path)


def setuid_program():
    """A set-user-ID copy of grep reads which capabilities it has."""
    words = ["/usr/local/bin/grep-as-root", "CapEff", "/proc/self/status"]
    said = subprocess.run(words, capture_output=True, text=True, check=False).stdout
    if not said or not int(said.split()[1], 16) >> CAP_SYS_ADMIN & 1:
        raise Refused("no-gain")


def setuid_file():
    """In a directory of its own: that it may write there is what makes the attempt fair."""
    path = os.path.join(own_directory(), "probe-suid")
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
    try:
        os.chmod(path, 0o4755)
    finally:
        os.unlink(path)


def own_directory():
    for name in ("STATE_DIRECTORY", "RUNTIME_DIRECTORY"):
        if name in os.environ:
            return os.environ[name].split(":")[0]
    return "/tmp"


def write_login():
    """Keys for sshd, which lets a user in whatever his shell: a session is in no sandbox."""
    try:
        home = pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:  # A user that lives as long as its service, where nobody else knows him.
        home = "/"
    keys = os.path.join(home, ".ssh-probe")
    os.mkdir(keys)
    os.rmdir(keys)


def listen_tcp():
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)


def system_bus():
    """Where logind would start a service manager without a sandbox for whoever asks."""
    with socket.socket(socket.AF_UNIX) as bus:
        bus.connect("/run/dbus/system_bus_socket")


def packet():
    socket.socket(17, socket.SOCK_RAW, 0).close()  # AF_PACKET


def core():
    """Both limits: the lower one the process may raise by itself."""
    if resource.getrlimit(resource.RLIMIT_CORE)[1] == 0:
        raise Refused("limit-0")


def mapping(first, then):
    """Memory that is writable and executable, at once or one after the other."""
    LIBC.mmap.restype = ctypes.c_void_p
    LIBC.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]
    ctypes.set_errno(0)
    place = LIBC.mmap(None, 4096, first, 0x22, -1, 0)
    if place == ctypes.c_void_p(-1).value:
        raise OSError(ctypes.get_errno(), "mmap")
    if then:
        call(LIBC.mprotect, ctypes.c_void_p(place), ctypes.c_size_t(4096), then)


def clock():
    """An invalid time: where one may set the clock, it is refused for that."""
    time = (ctypes.c_long * 2)(0, -1)
    syscall("clock_settime", 0, time, reached=(errno.EINVAL,))


def signal_others():
    """Process 1 is root's, and signal 0 does nothing."""
    os.kill(1, 0)


ATTEMPTS = {
    # What it sees.
    "read_shadow": lambda: read("/etc/shadow"),
    "read_home": lambda: read("/home/probe/file"),
    "read_others_secret": lambda: read("/var/lib/probe-secret/key"),
    "see_shared_tmp": lambda: read("/tmp/probe-file"),
    "see_processes": lambda: read("/proc/1/status"),
    "open_device": lambda: os.close(os.open("/dev/probe-device", os.O_RDONLY)),
    "read_kernel_log": lambda: call(LIBC.klogctl, 10, None, 0),
    # Where it writes.
    "write_everyones": lambda: write("/srv/everyones/probe"),
    "write_everyones_home": lambda: write("/home/everyones/probe"),
    "write_run_lock": lambda: write("/run/lock/probe"),
    "write_etc": lambda: write("/etc/probe"),
    "write_usr": lambda: write("/usr/bin/probe"),
    "write_programs": lambda: write("/opt/vpn-node/system/bin/probe"),
    "write_boot": lambda: write("/boot/probe"),
    "write_cgroup": lambda: (os.mkdir("/sys/fs/cgroup/probe"), os.rmdir("/sys/fs/cgroup/probe")),
    "open_sysctl": lambda: os.close(os.open("/proc/sys/kernel/printk", os.O_WRONLY)),
    "write_login": write_login,
    "write_own": lambda: write(os.path.join(own_directory(), "probe")),
    # Whom it speaks to.
    "unix": lambda: socket.socket(socket.AF_UNIX).close(),
    "system_bus": system_bus,
    "inet": lambda: socket.socket(socket.AF_INET).close(),
    "inet6": lambda: socket.socket(socket.AF_INET6).close(),
    "netlink": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 16).close(),
    "packet": packet,
    "listen_tcp": listen_tcp,
    # What it becomes.
    "setuid_program": setuid_program,
    "setuid_file": setuid_file,
    "change_user": in_child(lambda: os.setuid(65534)),
    "signal_others": signal_others,
    # What it asks of the kernel.
    "mount": in_child(lambda: call(LIBC.mount, b"none", b"/mnt", b"tmpfs", 0, None)),
    "unshare_mount": in_child(lambda: call(LIBC.unshare, CLONE_NEWNS)),
    "unshare_net": in_child(lambda: call(LIBC.unshare, CLONE_NEWNET)),
    "unshare_user": in_child(lambda: call(LIBC.unshare, CLONE_NEWUSER)),
    "chroot": in_child(lambda: os.chroot("/")),
    "ptrace": in_child(lambda: call(LIBC.ptrace, 0, 0, None, None)),
    "load_module": lambda: syscall("init_module", None, 0, b"", reached=(errno.ENOEXEC, errno.EFAULT)),
    # BPF_MAP_CREATE of nothing.
    "bpf": lambda: syscall("bpf", 0, ctypes.create_string_buffer(64), 64, reached=(errno.EINVAL,)),
    "add_key": lambda: syscall("add_key", b"user", b"probe", b"x", 1, -1),
    "perf": lambda: syscall("perf_event_open", None, 0, -1, -1, 0, reached=(errno.EFAULT,)),
    "realtime": in_child(lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))),
    "personality": in_child(lambda: call(LIBC.personality, 0x0008)),  # PER_LINUX32
    "set_clock": clock,
    "set_hostname": lambda: socket.sethostname(socket.gethostname()),
    "swap": lambda: call(LIBC.swapon, b"/nothing", 0, reached=(errno.ENOENT,)),
    "make_device": lambda: (os.mknod("/tmp/probe-null", 0o20600, os.makedev(1, 3)), os.unlink("/tmp/probe-null")),
    "map_writable_executable": lambda: mapping(7, 0),
    "map_then_executable": lambda: mapping(3, 5),
    "core_dump": core,
}


def notify(word):
    """sd_notify(3)."""
    path = os.environ.get("NOTIFY_SOCKET")
    if path:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.sendto(word, "\0" + path[1:] if path[0] == "@" else path)


def main():
    results = {name: outcome(attempt) for name, attempt in ATTEMPTS.items()}
    print("PROBES", json.dumps(results), flush=True)
    if "--stay" in sys.argv:
        notify(b"READY=1")
        signal.pause()


main()
