//! Whole configurations, as an operator writes them.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use proptest::prelude::*;
use serde::Deserialize;
use tempfile::TempDir;

use super::*;

/// A folder with `agent.toml` and, if given, fragments.
fn folder(main: &str, drop_ins: &[(&str, &str)]) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("agent.toml");
    fs::write(&file, main).unwrap();
    if !drop_ins.is_empty() {
        fs::create_dir(folder.path().join("agent.d")).unwrap();
    }
    for (name, text) in drop_ins {
        fs::write(folder.path().join("agent.d").join(name), text).unwrap();
    }
    (folder, file)
}

fn good(main: &str) -> Settings {
    let (_folder, file) = folder(main, &[]);
    load(Some(&file)).unwrap().settings
}

/// The error without the name of the temporary folder.
fn bad(main: &str) -> String {
    let (folder, file) = folder(main, &[]);
    let error = load(Some(&file)).expect_err(main).to_string();
    let prefix = format!("{}/", folder.path().display());
    error.strip_prefix(&prefix).expect(&error).to_owned()
}

#[test]
fn an_empty_file_gives_the_defaults() {
    assert_eq!(good(""), Settings::default());
    assert_eq!(
        Settings::default().status_socket(),
        Path::new("/run/vpn-node/status.sock")
    );
}

#[test]
fn the_default_file_may_be_missing_an_explicit_one_not() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("none.toml");
    assert!(files::read(&file, false).unwrap().is_none());
    let error = load(Some(&file)).unwrap_err();
    assert!(matches!(error, ConfigError::Missing { .. }), "{error}");
}

#[test]
fn every_key_is_taken() {
    let settings = good(
        r#"
        state_dir = "/s"
        runtime_dir = "/r"
        log_level = "debug"
        location = "Zürich, rack 4"
        [controller]
        urls = ["https://a.example:8443/", "https://[::1]:1"]
        ca_file = "/ca.pem"
        proxy = "http://user:hidden@proxy:3128"
        [wireguard]
        enabled = false
        socket_dir = "/w"
        kernel = false
        poll_s = 7
        [ledger]
        max_bytes = 33554432
        [metrics]
        disks = ["/", "/srv"]
        [update]
        enabled = false
        repository = "https://releases.example/vpn-node/"
        min_rate = 1000
        max_bytes = 2097152
        "#,
    );
    assert_eq!(settings.log_level, LogLevel::Debug);
    assert_eq!(
        settings.controller.urls.as_deref(),
        Some(
            &[
                "https://a.example:8443".to_owned(),
                "https://[::1]:1".to_owned()
            ][..]
        )
    );
    assert_eq!(settings.wireguard.poll, Duration::from_secs(7));
    assert!(!settings.wireguard.enabled && !settings.wireguard.kernel);
    assert_eq!(settings.ledger.max_bytes, 32 << 20);
    assert_eq!(settings.metrics.disks.len(), 2);
    let update = UpdateSettings {
        enabled: false,
        repository: Some("https://releases.example/vpn-node".to_owned()),
        min_rate: 1000,
        max_bytes: 2 << 20,
    };
    assert_eq!(settings.update, update);
    assert!(!format!("{settings:?}").contains("hidden"));
    let proxy = settings.controller.proxy.unwrap();
    assert_eq!(proxy.expose(), "http://user:hidden@proxy:3128");
}

#[test]
fn unknown_keys_name_file_line_and_the_nearest() {
    assert_eq!(
        bad("[wireguard]\npol_s = 3\n"),
        "agent.toml:2: unknown key \"pol_s\" in [wireguard]; did you mean \"poll_s\"?"
    );
    assert_eq!(
        bad("[wiregard]\npoll_s = 3\n"),
        "agent.toml:1: unknown section [wiregard]; did you mean [wireguard]?"
    );
    assert_eq!(
        bad("\npoll_s = 3\n"),
        "agent.toml:2: unknown key \"poll_s\" at the top level; it belongs in [wireguard]"
    );
    assert_eq!(
        bad("[ledger]\n\nlog_level = \"info\"\n"),
        "agent.toml:3: unknown key \"log_level\" in [ledger]; it belongs at the top of the file, \
         before the first section"
    );
    assert_eq!(
        bad("[softether]\n"),
        "agent.toml:1: unknown section [softether]; there are [controller], [wireguard], \
         [openvpn], [strongswan], [ocserv], [ledger], [metrics], [update]"
    );
    assert_eq!(
        bad("\"\\u001b[2J\" = 1\n"),
        "agent.toml:1: unknown key \"\\u{1b}[2J\" at the top level; remove it \
         (vpn-node-agent.toml(5) lists all keys)"
    );
}

#[test]
fn wrong_types_and_ranges_say_what_is_allowed() {
    assert_eq!(
        bad("[wireguard]\npoll_s = \"fast\"\n"),
        "agent.toml:2: [wireguard] poll_s: invalid type: string \"fast\"; allowed \
         is a whole number of seconds from 1 to 60"
    );
    assert_eq!(
        bad("[wireguard]\npoll_s = 0\n"),
        "agent.toml:2: [wireguard] poll_s: 0 is out of range; allowed is a whole number of \
         seconds from 1 to 60"
    );
    assert_eq!(
        bad("wireguard = 3\n"),
        "agent.toml:1: wireguard: invalid type: integer `3`; allowed is a section in square \
         brackets"
    );
    for text in [
        "state_dir = \"relative\"",
        "state_dir = \"/a\\u0000b\"",
        "log_level = \"loud\"",
        "location = \"\"",
        "location = \"a\\nb\"",
        "[controller]\nurls = []",
        "[controller]\nurls = [\"http://plain.example\"]",
        "[controller]\nurls = [\"https://u:p@a.example\"]",
        "[controller]\nurls = [\"https://a.example/?q\"]",
        "[controller]\nurls = [\"https://\"]",
        "[controller]\nurls = [\"https://a.example\\n.b\"]",
        "[controller]\nurls = [1]",
        "[controller]\nproxy = \"socks5://a\"",
        "[ledger]\nmax_bytes = 1024",
        "[ledger]\nmax_bytes = 99999999999999999999999",
        "[ledger]\nmax_bytes = -1",
        "[metrics]\ndisks = [\"x\"]",
        "[update]\nrepository = \"http://plain.example\"",
        "[update]\nmin_rate = 0",
        "[update]\nmax_bytes = 1000",
    ] {
        let error = bad(text);
        assert!(error.contains("; allowed is "), "{text}: {error}");
    }
    let long = format!("runtime_dir = \"/{}\"", "x".repeat(100));
    assert!(bad(&long).contains("unix(7)"));
}

#[test]
fn a_password_is_in_no_error() {
    for text in [
        "[controller]\nproxy = \"ftp://u:hidden@h\"",
        "[controller]\nproxy = \"http://u:hidden@\"",
        "[controller]\nurls = [\"https://u:hidden@a.example\"]",
        "[controller]\nurls = [\"http://u:hidden@a.example\"]",
        "[controller]\nurls = [\"https://u:hidden@a.example \"]",
        "[controller]\nurls = [\"https://u:hid#hidden@a.example\"]",
        "[controller]\nurls = [\"https://u:hidden@\"]",
        "[controller]\nurls = [\"u:hidden@a.example\"]",
        "[controller]\nurls = [\"u:hidden@a://example\"]",
        "[controller]\nurls = \"https://u:hidden@a.example\"",
        "[controller]\nurls = \"https://u:hidden, expected @a.example\"",
        "[controller]\nproxy = 7\nurls = \"https://u:hidden@a.example\"",
        "[update]\nrepository = \"http://u:hidden@a.example\"",
    ] {
        assert!(!bad(text).contains("hidden"), "{}", bad(text));
    }
    // What is left names the place all the same.
    assert_eq!(
        bad("[controller]\nurls = [\"https://u:hidden@a.example /\"]"),
        "agent.toml:2: [controller] urls: \"https://***@a.example /\" holds white space; allowed \
         is a list of 1 to 8 URLs like \"https://controller.example:8443\""
    );
    // The URL standard takes all of these for the same.
    for proxy in [
        "http://u:hidden@h:1",
        "http:u:hidden@h:1",
        "http:/u:hidden@h:1",
    ] {
        let shown = good(&format!("[controller]\nproxy = {proxy:?}")).controller;
        let shown = format!("{} {shown:?}", shown.proxy.as_ref().unwrap());
        assert!(!shown.contains("hidden"), "{shown}");
    }
}

#[test]
fn broken_toml_names_the_line() {
    let error = bad("state_dir = \"/a\"\nlocation = \n");
    assert!(
        error.starts_with("agent.toml:2: not valid TOML: "),
        "{error}"
    );
    for unquoted in ["log_level = info\n", "location = Frankfurt\n"] {
        let error = bad(unquoted);
        assert!(
            error.ends_with("a text needs quotes: key = \"value\""),
            "{error}"
        );
    }
    assert!(!error.contains("quotes"), "{error}");
    assert!(
        bad("a = 1\na = 2\n").starts_with("agent.toml:2: "),
        "duplicate"
    );
}

#[test]
fn fragments_lie_over_the_file_in_the_order_of_their_names() {
    let (_folder, file) = folder(
        "log_level = \"warn\"\nlocation = \"a\"\n",
        &[
            ("20-b.toml", "location = \"c\"\n"),
            ("10-a.toml", "location = \"b\"\n[wireguard]\npoll_s = 9\n"),
            ("99-ignored.toml.bak", "nonsense"),
        ],
    );
    let effective = load(Some(&file)).unwrap();
    assert_eq!(effective.files.len(), 3);
    let settings = &effective.settings;
    assert_eq!(settings.location.as_deref(), Some("c"));
    assert_eq!(settings.log_level, LogLevel::Warn);
    assert_eq!(settings.wireguard.poll, Duration::from_secs(9));

    let shown = effective.to_toml(None);
    let line = |start: &str| shown.lines().find(|line| line.starts_with(start)).unwrap();
    assert!(line("location").ends_with("agent.d/20-b.toml:1"), "{shown}");
    assert!(line("poll_s").ends_with("agent.d/10-a.toml:3"), "{shown}");
    assert!(line("state_dir").ends_with("# default"), "{shown}");
    assert!(shown.contains("# proxy is not set"), "{shown}");
}

#[test]
fn what_is_shown_loads_to_the_same_settings() {
    let (_folder, file) = folder(
        "location = \"quote \\\" and #\"\n[controller]\nurls = [\"https://a.example\"]\n",
        &[],
    );
    let first = load(Some(&file)).unwrap();
    assert_eq!(good(&first.to_toml(None)), first.settings);
}

#[test]
fn unfit_files_are_refused() {
    let (_folder, file) = folder("", &[]);
    fs::write(&file, vec![b'#'; (1 << 20) + 1]).unwrap();
    assert!(
        load(Some(&file))
            .unwrap_err()
            .to_string()
            .contains("larger")
    );
    fs::write(&file, b"location = \"\xff\"").unwrap();
    assert!(load(Some(&file)).unwrap_err().to_string().contains("UTF-8"));
    fs::write(&file, "").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o646)).unwrap();
    assert!(load(Some(&file)).unwrap_err().to_string().contains("chmod"));
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    assert!(load(Some(&file)).is_err(), "a folder");
    fs::remove_dir(&file).unwrap();
    nix::unistd::mkfifo(&file, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert!(load(Some(&file)).is_err(), "a FIFO does not block");
}

#[test]
fn a_folder_of_fragments_that_everybody_may_write_is_refused() {
    let (folder, file) = folder("", &[("a.toml", "")]);
    let drop_ins = folder.path().join("agent.d");
    fs::set_permissions(&drop_ins, fs::Permissions::from_mode(0o777)).unwrap();
    assert!(
        load(Some(&file))
            .unwrap_err()
            .to_string()
            .contains("agent.d: can be written")
    );
}

/// The fields that serde knows, read from its own refusal of an unknown one.
fn fields_of<'de, T: Deserialize<'de>>(text: &'de str) -> BTreeSet<String> {
    let Err(error) = toml::from_str::<T>(text) else {
        panic!("the field must be unknown");
    };
    let (_, expected) = error.message().split_once("expected ").unwrap();
    let names = expected.split('`').skip(1).step_by(2);
    names.map(str::to_owned).collect()
}

#[test]
fn addresses_of_vpn_daemons_are_paths_or_ports_and_policies_are_words() {
    let (_folder, file) = folder(
        "[openvpn]\nmanagement = [\"/run/a.sock\", \"127.0.0.1:7505\", \"[::1]:7505\"]\n\
         [strongswan]\nvici = \"/run/charon.vici\"\n[ledger]\nwhen_full = \"refuse\"\n",
        &[],
    );
    let settings = load(Some(&file)).unwrap().settings;
    assert_eq!(
        settings.openvpn.management.unwrap(),
        [
            ManagementAddress::Unix("/run/a.sock".into()),
            ManagementAddress::Tcp("127.0.0.1:7505".parse().unwrap()),
            ManagementAddress::Tcp("[::1]:7505".parse().unwrap()),
        ]
    );
    assert!(settings.strongswan.expected && !settings.ocserv.expected);
    assert_eq!(settings.ledger.when_full, WhenFull::Refuse);
    assert_eq!(
        bad("[openvpn]\nmanagement = [\"localhost:7505\"]\n"),
        "agent.toml:2: [openvpn] management: \"localhost:7505\" is neither a path nor an IP \
         address with a port; allowed is a list of at most 16 absolute paths or addresses like \
         \"127.0.0.1:7505\""
    );
    assert_eq!(
        bad("[ledger]\nwhen_full = \"never\"\n"),
        "agent.toml:2: [ledger] when_full: \"never\" is no policy; allowed is one of \
         \"drop_oldest\", \"refuse\""
    );
}

#[test]
fn the_list_of_keys_is_the_struct() {
    let probe = "zz = 1";
    let mut from_structs = BTreeSet::new();
    let sections: BTreeSet<String> = keys::sections().map(str::to_owned).collect();
    for name in fields_of::<fragment::Fragment>(probe) {
        if !sections.contains(&name) {
            from_structs.insert((String::new(), name));
        }
    }
    for (section, names) in [
        (
            "controller",
            fields_of::<fragment::ControllerFragment>(probe),
        ),
        ("wireguard", fields_of::<fragment::WireguardFragment>(probe)),
        ("openvpn", fields_of::<fragment::OpenvpnFragment>(probe)),
        (
            "strongswan",
            fields_of::<fragment::StrongswanFragment>(probe),
        ),
        ("ocserv", fields_of::<fragment::OcservFragment>(probe)),
        ("ledger", fields_of::<fragment::LedgerFragment>(probe)),
        ("metrics", fields_of::<fragment::MetricsFragment>(probe)),
        ("update", fields_of::<fragment::UpdateFragment>(probe)),
    ] {
        assert!(sections.contains(section));
        from_structs.extend(names.into_iter().map(|name| (section.to_owned(), name)));
    }
    let from_list: BTreeSet<_> = KEYS
        .iter()
        .map(|key| (key.section.to_owned(), key.name.to_owned()))
        .collect();
    assert_eq!(from_structs, from_list);
}

#[test]
fn the_documented_defaults_are_the_defaults() {
    let (_folder, file) = folder("", &[]);
    let shown = load(Some(&file)).unwrap().to_toml(None);
    for key in KEYS {
        let wanted = match key.default {
            "not set" => format!("# {} is not set", key.name),
            value => format!("{} = {value} ", key.name),
        };
        assert!(shown.contains(&wanted), "{wanted} in\n{shown}");
    }
}

#[test]
fn the_documentation_has_every_key() {
    let page = include_str!("../../docs/config.md");
    for key in KEYS {
        let row = format!(
            "| `{}` | {} | {} | {} |",
            key.name,
            key.allowed,
            if key.default == "not set" {
                key.default.to_owned()
            } else {
                format!("`{}`", key.default)
            },
            key.meaning
        );
        assert!(page.contains(&row), "docs/config.md lacks the row\n{row}");
    }
}

proptest! {
    #[test]
    fn no_text_panics(text in "[a-z_\\[\\]=\"{}.\n 0-9']{0,80}") {
        let _ = fragment::parse(Path::new("x"), &text);
    }

    #[test]
    fn a_number_is_taken_or_refused_by_its_range(seconds in any::<i64>()) {
        let text = format!("[wireguard]\npoll_s = {seconds}\n");
        let mut merged = merged::Merged::default();
        merged.absorb(Path::new("x"), &text, fragment::parse(Path::new("x"), &text).unwrap());
        let taken = validate::validate(merged).is_ok();
        prop_assert_eq!(taken, (1..=60).contains(&seconds));
    }
}

#[test]
fn changed_keys_are_named_and_few_of_them_need_a_restart() {
    let before = good("");
    assert_eq!(changed(&before, &before).len(), 0);
    let after = good(
        "state_dir = \"/a\"\nlocation = \"rack 7\"\n[controller]\nproxy = \"http://u:one@p:1\"\n[wireguard]\npoll_s = 7\n",
    );
    let titles = |keys: &[&Key]| keys.iter().map(|key| key.title()).collect::<Vec<_>>();
    let keys = changed(&before, &after);
    assert_eq!(
        titles(&keys),
        [
            "state_dir",
            "location",
            "[controller] proxy",
            "[wireguard] poll_s"
        ]
    );
    let restart: Vec<&Key> = keys.into_iter().filter(|key| key.needs_restart()).collect();
    assert_eq!(titles(&restart), ["state_dir"]);
    // A password that is shown nowhere counts, too.
    let other = good(
        "state_dir = \"/a\"\nlocation = \"rack 7\"\n[controller]\nproxy = \"http://u:two@p:1\"\n[wireguard]\npoll_s = 7\n",
    );
    assert_eq!(titles(&changed(&after, &other)), ["[controller] proxy"]);
    // The page says which.
    let page = include_str!("../../docs/config.md");
    let (_, applying) = page.split_once("## Applying a change").unwrap();
    let (applying, _) = applying.split_once("\n## ").unwrap();
    for key in KEYS.iter().filter(|key| key.needs_restart()) {
        assert!(
            applying.contains(&format!("`{}`", key.name)),
            "{}",
            key.name
        );
    }
}
