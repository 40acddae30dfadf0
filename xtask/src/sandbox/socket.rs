//! The status socket of a real agent in its sandbox: it still knows who asks (SO_PEERCRED). And what
//! a restart of that agent does to the WireGuard reader.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::System;
use crate::shell;

const AGENT: &str = "vpn-node-agent.service";
const READER: &str = "vpn-node-wireguard.service";
const ANSWERS_WITHIN: Duration = Duration::from_secs(60);
/// Asks the socket as it is, without our own program in between.
const ASK: &str = r#"
import socket
s = socket.socket(socket.AF_UNIX)
s.connect("/run/vpn-node/status.sock")
s.sendall(b'{"v":1,"get":"health"}\n')
print(s.makefile().readline())
"#;

/// Whoever connects starts the reader.
const KNOCK: &str = r#"
import socket
s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
s.connect("/run/vpn-node-wireguard/reader.sock")
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

/// Restarts an agent whose reader runs: the reader goes after the agent has gone, so no answer is cut
/// off, and neither waits for the other.
pub(super) fn reader_follows_the_agent(system: &mut impl System) -> Result<String> {
    system.must(&["systemctl", "start", AGENT])?;
    system.must(&["python3", "-c", KNOCK])?;
    let end = Instant::now() + ANSWERS_WITHIN;
    while moment(system, READER, "ActiveEnter")? <= moment(system, READER, "ActiveExit")? {
        ensure!(Instant::now() < end, "a question does not start {READER}");
        shell::pause(Duration::from_millis(100))?;
    }
    let began = Instant::now();
    system.must(&["systemctl", "restart", AGENT])?;
    let took = began.elapsed();
    let (agent, reader) = (
        moment(system, AGENT, "InactiveEnter")?,
        moment(system, READER, "ActiveExit")?,
    );
    ensure!(reader != 0, "a restart of the agent does not stop {READER}");
    ensure!(
        agent <= reader,
        "{READER} was stopped {} us before the agent had ended",
        reader.abs_diff(agent)
    );
    let gone = moment(system, READER, "InactiveEnter")?;
    let back = moment(system, AGENT, "InactiveExit")?;
    ensure!(
        gone <= back,
        "the agent came back before {READER} had ended"
    );
    system.must(&["systemctl", "stop", AGENT])?;
    Ok(format!(
        "a restart of the agent ends it first and the WireGuard reader then, in {:.1} s",
        took.as_secs_f64()
    ))
}

/// When a unit last entered or left a state, in microseconds since the boot; 0 is never.
fn moment(system: &mut impl System, unit: &str, event: &str) -> Result<u64> {
    let property = format!("--property={event}TimestampMonotonic");
    let said = system.must(&["systemctl", "show", "--value", &property, unit])?;
    let said = said.trim();
    said.parse()
        .with_context(|| format!("{unit}: {property}: {said:?}"))
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
