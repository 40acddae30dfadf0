//! The single checks of `cargo xtask test`, each one function.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use super::tally::{self, Tally};
use crate::build;
use crate::shell;
use crate::torture::enroll;

/// A first build on a small machine, with all tests.
const BUILD_WITHIN: Duration = Duration::from_secs(3600);
const QUICK: Duration = Duration::from_secs(120);
const INSTALL_WITHIN: Duration = Duration::from_secs(300);

/// The highest exposure (times ten) that `systemd-analyze security` (252) may give our units.
/// By the same program: redis 1.2, chrony 3.7, openvpn-server@ 7.5, tailscaled 9.6.
const AGENT_EXPOSURE: u32 = 12;
/// CAP_NET_ADMIN and netlink sockets, and nothing else.
const WIREGUARD_EXPOSURE: u32 = 11;
/// Root without a capability.
const HARDWARE_EXPOSURE: u32 = 7;
const CONTROLLER_EXPOSURE: u32 = 11;
const GATE_EXPOSURE: u32 = 3;
/// Root, without network and with three capabilities: it replaces programs and puts state back.
const UPDATER_EXPOSURE: u32 = 14;

/// What tests find by an environment variable, and leave out without it.
pub(crate) struct Others<'a> {
    /// A Python with securesystemslib.
    pub(crate) python: Option<&'a Path>,
    /// The library of libfaketime, to be preloaded.
    pub(crate) faketime: Option<PathBuf>,
}

/// The library of libfaketime, where Debian puts it (one folder an architecture).
pub(crate) fn faketime() -> Option<PathBuf> {
    let folders = fs::read_dir("/usr/lib").ok()?;
    folders
        .filter_map(|folder| Some(folder.ok()?.path().join("faketime/libfaketimeMT.so.1")))
        .find(|library| library.exists())
}

/// A Python with securesystemslib, so that tests can let another implementation check our
/// signatures: its path, or why there is none.
pub(crate) fn prepare_python(may_install: bool) -> Result<Result<PathBuf, String>> {
    let venv = shell::repository().join("target/venv");
    let python = venv.join("bin/python3");
    if imports_securesystemslib(&python)? {
        return Ok(Ok(python));
    }
    if !may_install {
        return Ok(Err(
            "securesystemslib is not installed, and --no-install was given".to_owned(),
        ));
    }
    anstream::println!("installing securesystemslib and cryptography (pip) into target/venv");
    let mut make = Command::new("python3");
    make.args(["-m", "venv"]).arg(&venv);
    let mut install = Command::new(&python);
    install.args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
    ]);
    install.args([
        "--timeout=20",
        "--retries=1",
        "securesystemslib",
        "cryptography",
    ]);
    let made = shell::succeed(make, None, INSTALL_WITHIN)
        .and_then(|_| shell::succeed(install, None, INSTALL_WITHIN));
    shell::check_interrupted()?;
    match made {
        Ok(_) if imports_securesystemslib(&python)? => Ok(Ok(python)),
        Ok(_) => Ok(Err(
            "securesystemslib was installed but cannot be imported".to_owned()
        )),
        Err(error) => Ok(Err(format!(
            "securesystemslib cannot be installed (offline?): {}",
            shell::last_lines(format!("{error:#}").trim_end(), 1).trim()
        ))),
    }
}

fn imports_securesystemslib(python: &Path) -> Result<bool> {
    if !python.exists() {
        return Ok(false);
    }
    let mut command = Command::new(python);
    command.args(["-c", "import securesystemslib.dsse, cryptography"]);
    Ok(shell::output(command, None, QUICK)?.status.success())
}

pub(crate) fn format(tally: &mut Tally) -> Result<()> {
    check(
        tally,
        "format (cargo fmt)",
        cargo(&["fmt", "--all", "--", "--check"]),
    )
}

pub(crate) fn lints(tally: &mut Tally) -> Result<()> {
    let words = [
        "clippy",
        "--locked",
        "--workspace",
        "--all-targets",
        "--quiet",
        "--",
        "--deny=warnings",
    ];
    check(tally, "lints (cargo clippy)", cargo(&words))
}

/// All tests but doc tests; or those whose name contains `filter`, of which there must be one.
pub(crate) fn tests(tally: &mut Tally, others: &Others<'_>, filter: Option<&str>) -> Result<()> {
    let nextest = shell::find("cargo-nextest").is_some();
    let mut command = if nextest {
        cargo(&[
            "nextest",
            "run",
            "--locked",
            "--workspace",
            "--no-fail-fast",
        ])
    } else {
        anstream::println!("cargo-nextest is not installed: using cargo test, which is slower");
        cargo(&[
            "test",
            "--locked",
            "--workspace",
            "--all-targets",
            "--no-fail-fast",
        ])
    };
    command.args(filter);
    if let Some(python) = others.python {
        command.env("VPN_NODE_TEST_PYTHON", python);
    }
    if let Some(library) = &others.faketime {
        command.env("VPN_NODE_TEST_FAKETIME", library);
    }
    let name = heading("tests");
    let output = shell::tee(command, BUILD_WITHIN)?;
    let counts = if nextest {
        tally::of_nextest(&output.stderr)
    } else {
        tally::of_cargo_test(&output.stdout)
    };
    let ran_any = counts.is_some_and(|counts| counts.passed + counts.failed > 0);
    tally.tests(name, counts, output.status.success() && ran_any);
    Ok(())
}

pub(crate) fn doc_tests(tally: &mut Tally) -> Result<()> {
    let name = heading("examples in the documentation");
    let output = shell::tee(
        cargo(&["test", "--locked", "--workspace", "--doc", "--quiet"]),
        BUILD_WITHIN,
    )?;
    tally.tests(
        name,
        tally::of_cargo_test(&output.stdout),
        output.status.success(),
    );
    Ok(())
}

/// The example of `[controller] ca_file` in the shipped configuration.
const EXAMPLE_CA_FILE: &str = "/etc/vpn-node/ca.pem";
/// A certificate (PEM) to stand in its place.
const SOME_CERTIFICATE: &str = "crates/controller/tests/fixtures/tls-version-1.pem";

/// The agent's configuration as we ship it, read by the program that will read it: once as it
/// is, and once with every example in it switched on.
pub(crate) fn shipped_config(tally: &mut Tally) -> Result<()> {
    let name = "config/agent.toml (vpn-node config check)";
    let Ok(programs) = build::programs(None, false) else {
        shell::check_interrupted()?;
        tally.check(name, false);
        return Ok(());
    };
    let shipped = shell::repository().join("config/agent.toml");
    let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
    let all_on = folder.path().join("agent.toml");
    // The check reads that file, too, and no host has it at the example's place.
    let certificates = shell::repository().join(SOME_CERTIFICATE);
    let at_hand = |text: &str| text.replace(EXAMPLE_CA_FILE, &certificates.display().to_string());
    fs::read_to_string(&shipped)
        .and_then(|text| fs::write(&all_on, at_hand(&with_examples_on(&text))))
        .with_context(|| format!("cannot copy {}", shipped.display()))?;
    for (name, file) in [
        (name, &shipped),
        ("config/agent.toml, all examples on", &all_on),
    ] {
        let mut command = Command::new(&programs.cli);
        command.arg("--config").arg(file).args(["config", "check"]);
        check(tally, name, command)?;
    }
    Ok(())
}

/// Lines like `# poll_s = 5` without their `# `; prose stays a comment.
fn with_examples_on(config: &str) -> String {
    let is_example = |line: &str| {
        line.split_once(" = ")
            .is_some_and(|(key, _)| key.chars().all(|c| c.is_ascii_lowercase() || c == '_'))
    };
    let line = |line: &str| match line.strip_prefix("# ") {
        Some(example) if is_example(example) => format!("{example}\n"),
        _ => format!("{line}\n"),
    };
    config.lines().map(line).collect()
}

/// How exposed each service may be. One that is not named here may not be exposed at all.
const EXPOSURES: [(&str, u32); 9] = [
    ("vpn-node-agent.service", AGENT_EXPOSURE),
    ("vpn-node-agent-exp.service", AGENT_EXPOSURE),
    ("vpn-node-wireguard.service", WIREGUARD_EXPOSURE),
    ("vpn-node-hardware.service", HARDWARE_EXPOSURE),
    ("vpn-node-updater.service", UPDATER_EXPOSURE),
    ("vpn-node-updater-recover.service", UPDATER_EXPOSURE),
    ("vpn-node-updater-rescue.service", UPDATER_EXPOSURE),
    ("vpn-node-controller.service", CONTROLLER_EXPOSURE),
    ("vpn-node-gate.service", GATE_EXPOSURE),
];

/// All unit files that we ship: correct, and as closed as they claim to be.
pub(crate) fn shipped_units(tally: &mut Tally) -> Result<()> {
    let analyze = shell::find("systemd-analyze").is_some();
    let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
    let units = units()?;
    // Side by side, since they name each other.
    for unit in &units {
        let copy = folder.path().join(unit);
        fs::write(&copy, runnable_here(&read_unit(unit)?))
            .with_context(|| format!("cannot write {}", copy.display()))?;
    }
    let mut path = folder.path().as_os_str().to_owned();
    // The empty word at its end stands for the usual places.
    path.push(":");
    for unit in &units {
        let verify = format!("{unit} (systemd-analyze verify)");
        let security = format!("{unit} (systemd-analyze security)");
        let service = unit.ends_with(".service");
        if !analyze {
            tally.skip(&verify, "systemd-analyze is not installed");
            if service {
                tally.skip(&security, "systemd-analyze is not installed");
            }
            continue;
        }
        let mut command = Command::new("systemd-analyze");
        command.env("SYSTEMD_UNIT_PATH", &path);
        command.args(["verify", "--man=no"]);
        command.arg(folder.path().join(unit));
        verify_unit(tally, &verify, command)?;
        if service {
            let known = EXPOSURES.iter().find(|(name, _)| name == unit);
            let exposure = known.map_or(0, |(_, exposure)| *exposure);
            let mut command = Command::new("systemd-analyze");
            command.args(["security", "--no-pager", "--offline=true"]);
            command.arg(format!("--threshold={exposure}"));
            command.arg(shell::repository().join("systemd").join(unit));
            check_last_line(tally, &security, command)?;
        }
    }
    Ok(())
}

/// The names of all units in `systemd/`.
fn units() -> Result<Vec<String>> {
    let folder = shell::repository().join("systemd");
    let listed =
        fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))?;
    let mut units = Vec::new();
    for entry in listed {
        let name = entry.context("cannot list the units")?.file_name();
        let name = name.to_string_lossy().into_owned();
        let kinds = [".service", ".socket", ".path"];
        if kinds.iter().any(|kind| name.ends_with(kind)) {
            units.push(name);
        }
    }
    units.sort();
    Ok(units)
}

fn read_unit(unit: &str) -> Result<String> {
    let file = shell::repository().join("systemd").join(unit);
    fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))
}

/// The unit with a program that exists on this machine in place of ours, which is not installed:
/// `verify` checks that too, and it is not what we ask.
fn runnable_here(unit: &str) -> String {
    let line = |line: &str| {
        let places = ["/usr/bin/vpn-node", "/opt/vpn-node/"];
        let ours = places.iter().find_map(|place| line.split_once(place));
        match ours {
            Some((before, _)) if before.starts_with("Exec") => format!("{before}/bin/true"),
            _ => line.to_owned(),
        }
    };
    unit.lines().map(line).collect::<Vec<_>>().join("\n") + "\n"
}

/// `verify` exits with success even if it ignored an unknown directive, so any word about our
/// unit is a failure.
fn verify_unit(tally: &mut Tally, name: &str, command: Command) -> Result<()> {
    heading(name);
    let output = shell::output(command, None, QUICK)?;
    let words: Vec<&str> = output
        .stderr
        .lines()
        .filter(|line| line.contains("vpn-node"))
        .collect();
    words.iter().for_each(|line| anstream::eprintln!("{line}"));
    tally.check(name, output.status.success() && words.is_empty());
    Ok(())
}

/// The short form of `cargo xtask torture enroll`.
pub(crate) fn crashes(tally: &mut Tally) -> Result<()> {
    let name = heading("crashes between token and heartbeat (cargo xtask torture enroll)");
    let Ok(programs) = build::programs(None, false) else {
        shell::check_interrupted()?;
        tally.check(name, false);
        return Ok(());
    };
    match enroll::short(&programs)? {
        Ok(held) => tally.check(name, held),
        Err(why) => tally.skip(name, &why),
    }
    Ok(())
}

/// Known vulnerabilities, licences and sources of our dependencies (deny.toml).
pub(crate) fn dependencies(tally: &mut Tally, may_compile: bool) -> Result<()> {
    let name = "dependencies (cargo-deny)";
    if shell::find("cargo-deny").is_none() && may_compile {
        heading("installing cargo-deny");
        shell::tee(cargo(&["install", "--locked", "cargo-deny"]), BUILD_WITHIN)?;
    }
    if shell::find("cargo-deny").is_none() {
        tally.skip(
            name,
            "not installed (cargo xtask test --full compiles it, which takes minutes)",
        );
        return Ok(());
    }
    check(tally, name, cargo(&["deny", "--locked", "check"]))
}

fn check(tally: &mut Tally, name: &str, command: Command) -> Result<()> {
    heading(name);
    let output = shell::tee(command, BUILD_WITHIN)?;
    tally.check(name, output.status.success());
    Ok(())
}

/// For programs that print a page to say one thing: on success only the last line is shown.
fn check_last_line(tally: &mut Tally, name: &str, command: Command) -> Result<()> {
    heading(name);
    let output = shell::output(command, None, QUICK)?;
    let shown = if output.status.success() {
        shell::last_lines(output.stdout.trim_end(), 1)
    } else {
        format!("{}{}", output.stdout, output.stderr)
    };
    anstream::println!("{}", shown.trim_end());
    tally.check(name, output.status.success());
    Ok(())
}

fn heading(name: &str) -> &str {
    anstream::println!("\n── {name}");
    name
}

fn cargo(words: &[&str]) -> Command {
    let mut command = shell::cargo();
    command.args(words);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn examples_are_switched_on_and_prose_is_not() {
        let config = "# What stands = behind\n[wireguard]\n# poll_s = 5\nenabled = true\n";
        assert_eq!(
            with_examples_on(config),
            "# What stands = behind\n[wireguard]\npoll_s = 5\nenabled = true\n"
        );
    }

    #[test]
    fn only_the_program_of_a_unit_is_replaced() {
        let unit = "[Service]\nUser=vpn-node\nExecStartPre=+/opt/vpn-node/stable/bin/vpn-node-agent --probe-hardware\n\
                    ExecStart=/usr/bin/vpn-node gate hold\nReadWritePaths=-/opt/vpn-node\n";
        assert_eq!(
            runnable_here(unit),
            "[Service]\nUser=vpn-node\nExecStartPre=+/bin/true\nExecStart=/bin/true\n\
             ReadWritePaths=-/opt/vpn-node\n"
        );
    }
}
