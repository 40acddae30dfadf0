//! The status socket of a real agent in its sandbox: it still knows who asks (SO_PEERCRED).

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};

use crate::container::machine::Machine;
use crate::container::units::STABLE;
use crate::shell;

const ANSWERS_WITHIN: Duration = Duration::from_secs(60);
/// Asks the socket as it is, without our own program in between.
const ASK: &str = r#"
import socket
s = socket.socket(socket.AF_UNIX)
s.connect("/run/vpn-node/status.sock")
s.sendall(b'{"v":1,"get":"health"}\n')
print(s.makefile().readline())
"#;

/// Starts the agent, and asks it as root, as its own user, as a member of its group and as others.
pub(super) fn tells_askers_apart(machine: &Machine) -> Result<String> {
    let started = machine.run(&["systemctl", "start", STABLE])?;
    ensure!(
        started.status.success(),
        "the agent does not start: {}",
        started.stderr
    );
    for (who, user, group, scope) in [
        ("root", "root", "root", "full"),
        ("the agent's user", "vpn-node", "vpn-node", "full"),
        ("a member of the group", "games", "vpn-node", "full"),
        ("others", "games", "games", "public"),
    ] {
        let said = ask(machine, user, group)?;
        let right = said.contains(&format!("\"scope\":\"{scope}\""));
        ensure!(right, "{who} should get the scope {scope}, and got: {said}");
    }
    machine.must(&["systemctl", "stop", STABLE])?;
    Ok("the status socket tells root, its user and its group from others".to_owned())
}

fn ask(machine: &Machine, user: &str, group: &str) -> Result<String> {
    let (user, group) = (format!("--reuid={user}"), format!("--regid={group}"));
    let words = [
        "setpriv",
        &user,
        &group,
        "--clear-groups",
        "python3",
        "-c",
        ASK,
    ];
    let end = Instant::now() + ANSWERS_WITHIN;
    loop {
        let output = machine.run(&words)?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        if Instant::now() >= end {
            bail!("the status socket does not answer: {}", output.stderr);
        }
        shell::pause(Duration::from_millis(200))?;
    }
}
