//! What an OpenVPN configuration says about how its server can be watched.
//!
//! Reads the few directives that matter, by OpenVPN's own rules for lines (`parse_line` in
//! src/openvpn/options_parse.c), and skips inline blocks, which hold keys. Pure.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use super::super::Address;

/// Most words of a line: OpenVPN's `MAX_PARMS`.
const MAX_WORDS: usize = 16;

/// A server's configuration, as far as it matters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ServerConfig {
    /// `management`, if the agent can connect to it.
    pub(super) management: Option<Address>,
    /// The file with its password.
    pub(super) password_file: Option<PathBuf>,
    /// What another program does over the management interface, so that the agent must not.
    pub(super) claimed: Option<&'static str>,
    /// `status`
    pub(super) status: Option<PathBuf>,
    /// `dev`, when it names one interface and not only a kind.
    pub(super) interface: Option<String>,
    /// `port` or `lport`.
    pub(super) port: Option<u16>,
}

/// Reads a configuration; `None` when it is not a server's. `folder` is the daemon's working
/// directory, from which it takes relative paths.
pub(super) fn parse(text: &[u8], folder: &Path) -> Option<ServerConfig> {
    let mut config = ServerConfig {
        port: Some(1194),
        ..ServerConfig::default()
    };
    let (mut serves, mut folder) = (false, folder.to_owned());
    let mut inside: Option<Vec<u8>> = None;
    for line in text.split(|byte| *byte == b'\n') {
        if let Some(end) = &inside {
            if line.trim_ascii() == &end[..] {
                inside = None;
            }
            continue;
        }
        let words = words(line);
        let Some((name, arguments)) = words.split_first() else {
            continue;
        };
        let name = name.strip_prefix("--").unwrap_or(name);
        if let Some(block) = name.strip_prefix('<') {
            inside = Some(format!("</{block}").into_bytes());
            continue;
        }
        let first = arguments.first().map(String::as_str);
        match name {
            "server" | "server-ipv6" | "server-bridge" => serves = true,
            "mode" => serves |= first == Some("server"),
            "cd" => folder = folder.join(first.unwrap_or_default()),
            "management" => management(&mut config, arguments, &folder),
            "status" => config.status = first.map(|path| folder.join(path)),
            "dev" => config.interface = first.and_then(interface),
            "port" | "lport" => config.port = first.and_then(|port| port.parse().ok()),
            _ => {}
        }
        config.claimed = config.claimed.or_else(|| claim(name));
    }
    serves.then_some(config)
}

/// What these directives leave to the management client (openvpn(8)). `management-signal` would
/// restart the server whenever the agent ends.
fn claim(directive: &str) -> Option<&'static str> {
    match directive {
        "management-client" => Some("the start of the connection (`management-client`)"),
        "management-client-auth" => {
            Some("the authentication of clients (`management-client-auth`)")
        }
        "management-hold" => Some("its start (`management-hold`)"),
        "management-signal" => Some("its life (`management-signal`)"),
        "management-query-passwords" | "management-forget-disconnect" => Some("its passwords"),
        "management-external-key" | "management-external-cert" => Some("its private key"),
        _ => None,
    }
}

/// `management ADDRESS PORT [FILE]` or `management SOCKET unix [FILE]`.
fn management(config: &mut ServerConfig, arguments: &[String], folder: &Path) {
    let [place, port, rest @ ..] = arguments else {
        return;
    };
    config.password_file = rest
        .first()
        .filter(|file| *file != "stdin")
        .map(|file| folder.join(file));
    config.management = if port == "unix" {
        Some(Address::Unix(folder.join(place)))
    } else {
        let ip = match place.as_str() {
            "localhost" => Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            // `tunnel`: the address inside, which the daemon may change.
            place => place.parse().ok(),
        };
        ip.zip(port.parse().ok())
            .map(|(ip, port)| Address::Tcp(SocketAddr::new(ip, port)))
    };
}

/// `tun0`, but not `tun`, which stands for the next free one.
fn interface(dev: &str) -> Option<String> {
    let numbered = !matches!(dev, "tun" | "tap" | "null");
    let fits = (1..=15).contains(&dev.len()) && dev.bytes().all(|byte| byte.is_ascii_graphic());
    (numbered && fits).then(|| dev.to_owned())
}

/// The words of a line. What is no UTF-8 is replaced: such a path is not found, and said so.
fn words(line: &[u8]) -> Vec<String> {
    let line = String::from_utf8_lossy(line);
    let mut words = Vec::new();
    let mut chars = line.trim().chars().peekable();
    while words.len() < MAX_WORDS {
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        let quote = match chars.peek() {
            None | Some('#' | ';') => break,
            Some('"') => chars.next(),
            Some('\'') => chars.next(),
            Some(_) => None,
        };
        let mut word = String::new();
        while let Some(c) = chars.next() {
            match (c, quote) {
                (c, Some(quote)) if c == quote => break,
                (c, None) if c.is_whitespace() => break,
                // Backslashes mean themselves between single quotes only.
                ('\\', quote) if quote != Some('\'') => word.extend(chars.next()),
                (c, _) => word.push(c),
            }
        }
        words.push(word);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Option<ServerConfig> {
        parse(text.as_bytes(), Path::new("/etc/openvpn/server"))
    }

    #[test]
    fn a_server_with_everything() {
        let config = read(
            "# comment\nport 1195 ; inline\ndev tun3\nserver 10.8.0.0 255.255.255.0\n\
             management \"/run/my vpn.sock\" unix pw\r\n--status status.log 10\n\
             <key>\nmanagement-client-auth\n</key>\n",
        )
        .unwrap();
        assert_eq!(
            config.management,
            Some(Address::Unix("/run/my vpn.sock".into()))
        );
        assert_eq!(
            config.password_file.as_deref(),
            Some(Path::new("/etc/openvpn/server/pw"))
        );
        assert_eq!(
            config.status.as_deref(),
            Some(Path::new("/etc/openvpn/server/status.log"))
        );
        assert_eq!(config.interface.as_deref(), Some("tun3"));
        assert_eq!((config.port, config.claimed), (Some(1195), None));
    }

    #[test]
    fn addresses_of_the_management_interface() {
        let of = |line: &str| read(&format!("mode server\n{line}\n")).unwrap().management;
        let tcp = |text: &str| Some(Address::Tcp(text.parse().unwrap()));
        assert_eq!(of("management 127.0.0.1 7505"), tcp("127.0.0.1:7505"));
        assert_eq!(of("management localhost 7505 stdin"), tcp("127.0.0.1:7505"));
        assert_eq!(of("management ::1 7505"), tcp("[::1]:7505"));
        assert_eq!(of("management tunnel 7505"), None);
        assert_eq!(of("management 127.0.0.1"), None);
        assert_eq!(of("management 127.0.0.1 99999"), None);
    }

    #[test]
    fn what_belongs_to_another_program_is_left_to_it() {
        for line in [
            "management-client",
            "management-client-auth",
            "management-hold",
            "management-signal",
            "management-query-passwords",
            "management-external-key",
        ] {
            let config = read(&format!("server 10.8.0.0 255.255.255.0\n{line}\n")).unwrap();
            assert!(config.claimed.is_some(), "{line}");
        }
    }

    #[test]
    fn clients_are_no_servers_and_a_kind_is_no_interface() {
        assert_eq!(read("client\nremote vpn.example 1194\ndev tun\n"), None);
        let config = read("server-ipv6 fd00::/64\ndev tun\n").unwrap();
        assert_eq!((config.interface, config.port), (None, Some(1194)));
        assert_eq!(read("<ca>\nserver 1 2\n"), None);
    }
}
