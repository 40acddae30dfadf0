//! The status socket of a real agent in its sandbox: it still knows who asks (SO_PEERCRED).

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};

use super::System;
use crate::shell;

const AGENT: &str = "vpn-node-agent.service";
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
pub(super) fn tells_askers_apart(system: &mut impl System) -> Result<String> {
    system.must(&["systemctl", "start", AGENT])?;
    for (who, user, group, scope) in [
        ("root", "root", "root", "full"),
        ("the agent's user", "vpn-node", "vpn-node", "full"),
        ("a member of the group", "games", "vpn-node", "full"),
        ("others", "games", "games", "public"),
    ] {
        let said = ask(system, user, group)?;
        let right = said.contains(&format!("\"scope\":\"{scope}\""));
        ensure!(right, "{who} should get the scope {scope}, and got: {said}");
    }
    system.must(&["systemctl", "stop", AGENT])?;
    Ok("the status socket tells root, its user and its group from others".to_owned())
}

fn ask(system: &mut impl System, user: &str, group: &str) -> Result<String> {
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
        let output = system.run(&words)?;
        if output.well {
            return Ok(output.stdout);
        }
        if Instant::now() >= end {
            bail!("the status socket does not answer: {}", output.stderr);
        }
        shell::pause(Duration::from_millis(200))?;
    }
}
