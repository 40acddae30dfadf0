//! Every key of the configuration, in words: for error messages, `config show` and the table in
//! `docs/config.md` (a test holds the three together).

/// One key.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Its section; empty for the top level.
    pub section: &'static str,
    /// Its name.
    pub name: &'static str,
    /// What a value may be, as it reads after "allowed is".
    pub allowed: &'static str,
    /// The default in TOML, or "not set".
    pub default: &'static str,
    /// What it does.
    pub meaning: &'static str,
}

/// All keys, in the order in which people read them.
pub const KEYS: &[Key] = &[
    Key {
        section: "",
        name: "state_dir",
        allowed: "an absolute path",
        default: "\"/var/lib/vpn-node\"",
        meaning: "Where the identity key, the enrolment and the connection ledger are kept.",
    },
    Key {
        section: "",
        name: "runtime_dir",
        allowed: "an absolute path",
        default: "\"/run/vpn-node\"",
        meaning: "Where the status socket `status.sock` is made.",
    },
    Key {
        section: "",
        name: "log_level",
        allowed: "one of \"error\", \"warn\", \"info\", \"debug\", \"trace\"",
        default: "\"info\"",
        meaning: "What is logged. Only `debug` and `trace` show client addresses.",
    },
    Key {
        section: "",
        name: "location",
        allowed: "a text of 1 to 128 characters without control characters",
        default: "not set",
        meaning: "Where this host stands, in your words; reported with heartbeats.",
    },
    Key {
        section: "controller",
        name: "urls",
        allowed: "a list of 1 to 8 URLs like \"https://controller.example:8443\"",
        default: "not set",
        meaning: "Addresses of the controller, tried in turn. Not set: the one in the token.",
    },
    Key {
        section: "controller",
        name: "ca_file",
        allowed: "an absolute path",
        default: "not set",
        meaning: "Certificate authorities (PEM) to trust for the controller's TLS certificate \
                  instead of the system's.",
    },
    Key {
        section: "controller",
        name: "proxy",
        allowed: "a URL like \"http://proxy.example:3128\"",
        default: "not set",
        meaning: "HTTP proxy for all requests. It sees no personal data.",
    },
    Key {
        section: "wireguard",
        name: "enabled",
        allowed: "true or false",
        default: "true",
        meaning: "Watch WireGuard interfaces.",
    },
    Key {
        section: "wireguard",
        name: "socket_dir",
        allowed: "an absolute path",
        default: "\"/var/run/wireguard\"",
        meaning: "Where userspace WireGuard puts its control sockets.",
    },
    Key {
        section: "wireguard",
        name: "kernel",
        allowed: "true or false",
        default: "true",
        meaning: "Watch the kernel's WireGuard interfaces too.",
    },
    Key {
        section: "wireguard",
        name: "reader",
        allowed: "an absolute path, or \"\"",
        default: "\"/run/vpn-node-wireguard/reader.sock\"",
        meaning: "The socket of `vpn-node-wireguard`, which asks the kernel for the agent. \"\", or while \
                  there is no such file: the agent asks the kernel itself, which needs CAP_NET_ADMIN.",
    },
    Key {
        section: "wireguard",
        name: "poll_s",
        allowed: "a whole number of seconds from 1 to 60",
        default: "5",
        meaning: "Seconds between two looks at each interface.",
    },
    Key {
        section: "openvpn",
        name: "enabled",
        allowed: "true or false",
        default: "true",
        meaning: "Watch OpenVPN servers.",
    },
    Key {
        section: "openvpn",
        name: "management",
        allowed: "a list of at most 16 absolute paths or addresses like \"127.0.0.1:7505\"",
        default: "not set",
        meaning: "Management interfaces. Not set: those that the configurations in `/etc/openvpn` name.",
    },
    Key {
        section: "openvpn",
        name: "password_file",
        allowed: "an absolute path",
        default: "not set",
        meaning: "File with the password of the management interfaces, if they ask for one.",
    },
    Key {
        section: "openvpn",
        name: "status_files",
        allowed: "a list of at most 16 absolute paths",
        default: "not set",
        meaning: "Status files, read where no management interface answers. Not set: those of Debian's units.",
    },
    Key {
        section: "strongswan",
        name: "enabled",
        allowed: "true or false",
        default: "true",
        meaning: "Watch strongSwan.",
    },
    Key {
        section: "strongswan",
        name: "vici",
        allowed: "an absolute path",
        default: "\"/var/run/charon.vici\"",
        meaning: "The VICI socket of charon.",
    },
    Key {
        section: "ocserv",
        name: "enabled",
        allowed: "true or false",
        default: "true",
        meaning: "Watch ocserv.",
    },
    Key {
        section: "ocserv",
        name: "socket",
        allowed: "an absolute path",
        default: "\"/var/run/occtl.socket\"",
        meaning: "The control socket of ocserv.",
    },
    Key {
        section: "ledger",
        name: "max_bytes",
        allowed: "a whole number of bytes from 16777216 (16 MiB) to 1099511627776 (1 TiB)",
        default: "268435456",
        meaning: "Most bytes that unsent connection records may take on disk (256 MiB).",
    },
    Key {
        section: "ledger",
        name: "when_full",
        allowed: "one of \"drop_oldest\", \"refuse\"",
        default: "\"drop_oldest\"",
        meaning: "What gives way when that is used up: the oldest records, or the new ones. Both are reported as gaps.",
    },
    Key {
        section: "metrics",
        name: "disks",
        allowed: "a list of at most 16 absolute paths",
        default: "[\"/\"]",
        meaning: "Mount points whose use is reported.",
    },
    Key {
        section: "update",
        name: "enabled",
        allowed: "true or false",
        default: "true",
        meaning: "Fetch releases that the controller assigns or that root asks for.",
    },
    Key {
        section: "update",
        name: "repository",
        allowed: "a URL like \"https://releases.example/vpn-node\"",
        default: "not set",
        meaning: "Repository to fetch from, whatever the controller says. Not set: the one it names, or its own.",
    },
    Key {
        section: "update",
        name: "min_rate",
        allowed: "a whole number of bytes a second from 1 to 1048576",
        default: "2048",
        meaning: "A download that is slower than this over 30 seconds is given up and tried again later.",
    },
    Key {
        section: "update",
        name: "max_bytes",
        allowed: "a whole number from 1048576 (1 MiB) to 1073741824 (1 GiB)",
        default: "268435456",
        meaning: "Packages with more bytes are not fetched (256 MiB).",
    },
];

/// Keys that are read when the agent starts and never again: they say where its open files are. All
/// others may change while it runs (SIGHUP).
const READ_AT_START: [&str; 2] = ["state_dir", "runtime_dir"];

impl Key {
    /// Whether a changed value needs a restart of the agent.
    #[must_use]
    pub fn needs_restart(&self) -> bool {
        self.section.is_empty() && READ_AT_START.contains(&self.name)
    }

    /// `[section] name`, or the bare name at the top level.
    #[must_use]
    pub fn title(&self) -> String {
        if self.section.is_empty() {
            self.name.to_owned()
        } else {
            format!("[{}] {}", self.section, self.name)
        }
    }
}

/// Finds a key. Panics never: `None` for an unknown one.
pub(super) fn find(section: &str, name: &str) -> Option<&'static Key> {
    KEYS.iter()
        .find(|key| key.section == section && key.name == name)
}

/// The names of the sections, without the top level.
pub(super) fn sections() -> impl Iterator<Item = &'static str> {
    let mut last = "";
    KEYS.iter().filter_map(move |key| {
        let new = key.section != last;
        last = key.section;
        new.then_some(key.section)
    })
}

/// The nearest of `known`, if one is near enough to be a slip of the finger.
pub(super) fn nearest<'a>(given: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known
        .map(|name| (strsim::damerau_levenshtein(given, name), name))
        .filter(|(distance, name)| *distance < name.len().max(4) / 2)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}
