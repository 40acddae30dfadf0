//! The status socket of a real agent in its sandbox: it still knows who asks (SO_PEERCRED). And what
//! a restart of that agent does to the WireGuard reader.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::container::machine::Machine;
use crate::container::units::{READER, STABLE};
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

/// Whoever connects starts the reader.
const KNOCK: &str = r#"
import socket
s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
s.connect("/run/vpn-node-wireguard/reader.sock")
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

/// Restarts an agent whose reader runs: the reader goes after the agent has gone, so no answer is cut
/// off, and neither waits for the other.
pub(super) fn reader_follows_the_agent(machine: &Machine) -> Result<String> {
    machine.must(&["systemctl", "start", STABLE])?;
    machine.must(&["python3", "-c", KNOCK])?;
    let moment = |unit: &str, event: &str| -> Result<u64> {
        let property = format!("--property={event}TimestampMonotonic");
        let said = machine.must(&["systemctl", "show", "--value", &property, unit])?;
        let said = said.trim();
        said.parse()
            .with_context(|| format!("{unit}: {property}: {said:?}"))
    };
    let end = Instant::now() + ANSWERS_WITHIN;
    while moment(READER, "ActiveEnter")? == 0 {
        ensure!(Instant::now() < end, "a question does not start {READER}");
        shell::pause(Duration::from_millis(100))?;
    }
    let began = Instant::now();
    machine.must(&["systemctl", "restart", STABLE])?;
    let took = began.elapsed();
    let (agent, reader) = (
        moment(STABLE, "InactiveEnter")?,
        moment(READER, "ActiveExit")?,
    );
    ensure!(reader != 0, "a restart of the agent does not stop {READER}");
    ensure!(
        agent <= reader,
        "{READER} was stopped {} us before the agent had ended",
        reader.abs_diff(agent)
    );
    let gone = moment(READER, "InactiveEnter")?;
    let back = moment(STABLE, "InactiveExit")?;
    ensure!(
        gone <= back,
        "the agent came back before {READER} had ended"
    );
    machine.must(&["systemctl", "stop", STABLE])?;
    Ok(format!(
        "a restart of the agent ends it first and the WireGuard reader then, in {:.1} s",
        took.as_secs_f64()
    ))
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
