//! `cargo xtask demo`: the product end to end on one machine, in about a minute and a half.
//!
//! A host is enrolled with one pasted string, proves itself, sends heartbeats; a WireGuard client
//! comes, stays while the agent is killed and while releases come and go ([`updates`]), and goes
//! because its device is revoked. Everything is told by the programs' own output. Without the right to make namespaces the WireGuard part is skipped, and said so.

mod rootless;
mod updates;

use std::path::PathBuf;
use std::process::ExitCode;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use self::updates::Releases;
use crate::apt::{self, need};
use crate::build;
use crate::lab::fleet::{AGENT, Fleet, column};
use crate::lab::installed::child_of;
use crate::lab::machine::{self, Machine};
use crate::lab::story::Story;
use crate::lab::tunnel::{self, Tunnel};
use crate::lab::{Lab, record};
use crate::shell;

/// Seconds between heartbeats here (30 in production): so that a short demo shows several.
const HEARTBEAT_S: u32 = 2;
/// WireGuard is looked at every second here (5 in production), for the same reason.
const QUICK_POLL: &str = "[wireguard]\npoll_s = 1\n";
/// What the product promises within seconds, on a machine that may be busy compiling.
const SECONDS: Duration = Duration::from_secs(30);

const NEEDS: [apt::Need; 4] = [
    need("ip", "iproute2"),
    need("nsenter", "util-linux"),
    need("ping", "iputils-ping"),
    need("wg", "wireguard-tools"),
];

/// Arguments of `cargo xtask demo`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Leave everything running at the end, and say how to look around
    #[arg(long)]
    keep: bool,
    /// End what an earlier `--keep` left running
    #[arg(long, conflicts_with = "keep")]
    stop: bool,
    /// Take the programs from this folder instead of building them
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,
    /// Do not install Debian packages, even as root
    #[arg(long)]
    no_install: bool,
}

/// The whole demo.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    shell::catch_signals()?;
    if options.stop {
        return Ok(stop());
    }
    if options.programs.is_none() {
        anstream::println!("building the programs (a first build takes minutes)");
    }
    let programs = build::programs(options.programs.as_deref(), false)?;
    rootless::become_root_of_a_namespace(options, &programs)?;
    let without_tunnel = obstacle(!options.no_install)?;

    let mut lab = Lab::open()?;
    let machine = match &without_tunnel {
        None => Machine::boot(&mut lab, "vpn-host")?,
        Some(_) => Machine::Here,
    };
    let story = Story::begin();
    let prepared = Releases::prepare(&lab, &programs);
    let fleet = Fleet::new(&lab, programs, machine, HEARTBEAT_S, QUICK_POLL)?;

    let (enrolled_in, releases) = enrol_the_host(&story, &mut lab, &fleet, prepared)?;
    let server = show_the_verdict(&story, &mut lab, &fleet)?;
    let mut tunnel = None;
    let connections = match without_tunnel {
        None => {
            let client = watch_a_client(&story, &mut lab, &fleet, &server)?;
            let updated = updates::tell(&story, &mut lab, &fleet, &releases, &server)?;
            same_connection(&story, &fleet, &server, &client.connection)?;
            revoke_the_client(&story, &mut lab, &fleet, &server, &client)?;
            tunnel = Some(client.tunnel);
            format!("1 connection start+end, 0 lost; {updated}")
        }
        Some(why) => {
            let updated = updates::tell(&story, &mut lab, &fleet, &releases, &server)?;
            format!("WireGuard part skipped: {why}; {updated}")
        }
    };
    let heartbeats = show_heartbeats(&story, &mut lab, &fleet)?;
    story.say("vpn-node status");
    story.quote(&fleet.host.status()?);
    anstream::println!(
        "demo: ok — enrolled in {} ms, {heartbeats} heartbeats, {connections}, {} s",
        enrolled_in.as_millis(),
        story.elapsed().as_secs()
    );
    if options.keep {
        if let Some(tunnel) = &mut tunnel {
            tunnel.come_again()?;
            let what = "the client's next connection";
            wait_for_connection(&mut lab, &fleet, &server, what, |row| {
                column(row, "client_identity") == tunnel.client_key()
            })?;
        }
        say_how_to_look_around(&lab, &fleet, tunnel.as_ref());
        lab.keep()?;
    }
    Ok(ExitCode::SUCCESS)
}

fn enrol_the_host(
    story: &Story,
    lab: &mut Lab,
    fleet: &Fleet,
    prepared: JoinHandle<Result<Releases>>,
) -> Result<(Duration, Releases)> {
    fleet.init_controller()?;
    fleet.start_controller(lab)?;
    story.say(&format!("the controller listens on {}", fleet.url()));
    let token = fleet.create_token()?.text;
    story.say(&format!(
        "an operator made a registration token of {} characters",
        token.len()
    ));
    let start = Instant::now();
    fleet.host.enroll(&token)?;
    let took = start.elapsed();
    story.say(&format!(
        "the host is enrolled: one string by standard input, {} ms",
        took.as_millis()
    ));
    let releases = updates::install(story, fleet, prepared)?;
    // Under the plain supervisor, as in a container: systemd's part is played by it.
    lab.start(AGENT, fleet.host.supervise())?;
    Ok((took, releases))
}

/// Waits until the controller has verified the host. Returns the server's id.
fn show_the_verdict(story: &Story, lab: &mut Lab, fleet: &Fleet) -> Result<String> {
    let rows = || fleet.rows(&["server", "list"], "servers");
    let server = lab.wait_for(
        "the enrolled host in the controller's list",
        SECONDS,
        || Ok(rows()?.first().map(|row| column(row, "server_id"))),
    )?;
    let verified = lab.wait_for(
        "the controller's verdict `verified` on the host",
        SECONDS,
        || {
            Ok(rows()?
                .into_iter()
                .find(|row| column(row, "verdict") == "verified"))
        },
    )?;
    wait_for_heartbeats(lab, fleet, 1)?;
    story.say(&format!(
        "the controller says: {} is {} and {}, its hardware {} (version {}, server {server})",
        column(&verified, "hostname"),
        column(&verified, "status"),
        column(&verified, "verdict"),
        column(&verified, "hardware_verification_status"),
        column(&verified, "version"),
    ));
    Ok(server)
}

/// A client with its connection.
struct Client {
    tunnel: Tunnel,
    connection: String,
}

/// One WireGuard client comes, and outlives a crash of the agent.
fn watch_a_client(story: &Story, lab: &mut Lab, fleet: &Fleet, server: &str) -> Result<Client> {
    let tunnel = Tunnel::open(lab, fleet.machine)?;
    story.say(&format!(
        "a WireGuard server ({}) and a client are up",
        tunnel.kind()
    ));
    story.say(&format!(
        "the client pings through the tunnel: {}",
        tunnel.ping()?
    ));

    let started = wait_for_connection(
        lab,
        fleet,
        server,
        "the start of the client's connection",
        |row| column(row, "client_ip").contains(tunnel::CLIENT_ADDRESS) && !has_ended(row),
    )?;
    let connection = column(&started, "connection_id");
    story.say("the controller has the start:");
    quote_connection(story, &started);

    let supervisor = lab.pid(AGENT).context("no supervisor runs")?;
    let agent = Pid::from_raw(child_of(supervisor)?);
    kill(agent, Signal::SIGKILL).context("cannot kill the agent")?;
    story.say("the agent is killed (kill -9); its supervisor starts it again");
    let before = heartbeats(fleet)?.len();
    wait_for_heartbeats(lab, fleet, before + 2)?;
    same_connection(story, fleet, server, &connection)?;
    Ok(Client { tunnel, connection })
}

/// Whatever happened to the agent, the client's connection is the row that it was.
fn same_connection(story: &Story, fleet: &Fleet, server: &str, id: &str) -> Result<()> {
    let after = only_connection(fleet, server)?;
    ensure!(
        column(&after, "connection_id") == id && !has_ended(&after),
        "the agent did not keep connection {id}; the controller now has {after}"
    );
    story.say(&format!(
        "nothing is lost: still the same connection {id}, no second row"
    ));
    Ok(())
}

/// The client's device is revoked, and its connection ends.
fn revoke_the_client(
    story: &Story,
    lab: &mut Lab,
    fleet: &Fleet,
    server: &str,
    client: &Client,
) -> Result<()> {
    let tunnel = &client.tunnel;
    story.say(&format!(
        "the client still pings through the tunnel: {}",
        tunnel.ping()?
    ));
    let device = know_the_device(story, lab, fleet, tunnel, server)?;
    let revoked = Instant::now();
    fleet.ask(&[
        "device",
        "revoke",
        &device,
        "--reason",
        "the demo's laptop was stolen",
    ])?;
    let took = revoked.elapsed();
    ensure!(
        !tunnel.has_client()?,
        "the device is revoked, and the WireGuard server still has its peer"
    );
    story.say(&format!(
        "the operator revokes the laptop: WireGuard has its peer no more after {} ms",
        took.as_millis()
    ));
    let ended = wait_for_connection(
        lab,
        fleet,
        server,
        "the end of the client's connection",
        has_ended,
    )?;
    ensure!(
        column(&ended, "connection_id") == client.connection,
        "another connection than {} ended: {ended}",
        client.connection
    );
    let reason = column(&ended, "disconnection_reason");
    ensure!(
        reason == "revoked",
        "the end was stored with the reason `{reason}` instead of `revoked`"
    );
    story.say("the controller has the end:");
    quote_connection(story, &ended);
    // The host's own report follows within a moment.
    lab.wait_for("the agent's report without connections", SECONDS, || {
        let connections = fleet.host.live_connections()?;
        Ok((connections == 0).then_some(()))
    })?;
    Ok(())
}

/// The client's WireGuard key becomes a device of a user's personal key: the connection that is up
/// already shows both. Returns the device's id.
fn know_the_device(
    story: &Story,
    lab: &mut Lab,
    fleet: &Fleet,
    tunnel: &Tunnel,
    server: &str,
) -> Result<String> {
    let made = |words: &[&str], table, id| {
        let rows = fleet.rows(words, table)?;
        let row = rows.first().with_context(|| format!("no row in {table}"))?;
        anyhow::Ok(column(row, id))
    };
    let words = ["personal-key", "create", "--user", "alice"];
    let key = made(&words, "personal_keys", "key_id")?;
    let words = ["device", "add", "--key", &key, "--name", "laptop"];
    let words = [&words[..], &["--platform", "linux"]].concat();
    let device = made(&words, "devices", "device_id")?;
    let words = ["device", "identity", "add", &device, "--wireguard"];
    fleet.ask(&[&words[..], &[tunnel.client_key()]].concat())?;
    let known = "the connection with its user and device";
    let row = wait_for_connection(lab, fleet, server, known, |row| {
        column(row, "device_id") == device
    })?;
    story.say(&format!(
        "the operator tells whose key that is: the connection is {}'s, on her laptop",
        column(&row, "user_name")
    ));
    Ok(device)
}

/// The row as it is stored, a column a line.
fn quote_connection(story: &Story, row: &Value) {
    const COLUMNS: [&str; 10] = [
        "connection_id",
        "connection_type",
        "client_ip",
        "client_identity",
        "user_name",
        "connection_start",
        "connection_end",
        "disconnection_reason",
        "end_confidence",
        "status",
    ];
    let lines = COLUMNS.map(|name| format!("{name:21} {}\n", column(row, name)));
    story.quote(&lines.concat());
}

fn wait_for_connection(
    lab: &mut Lab,
    fleet: &Fleet,
    server: &str,
    what: &str,
    wanted: impl Fn(&Value) -> bool,
) -> Result<Value> {
    lab.wait_for(&format!("{what} in the controller's list"), SECONDS, || {
        Ok(connections(fleet, server)?
            .into_iter()
            .find(|row| wanted(row)))
    })
}

fn only_connection(fleet: &Fleet, server: &str) -> Result<Value> {
    let mut rows = connections(fleet, server)?;
    ensure!(
        rows.len() == 1,
        "the controller has {} connections instead of 1",
        rows.len()
    );
    rows.pop().context("no connection")
}

fn connections(fleet: &Fleet, server: &str) -> Result<Vec<Value>> {
    fleet.rows(&["connections", "list", "--server", server], "connections")
}

fn has_ended(connection: &Value) -> bool {
    !column(connection, "connection_end").is_empty()
}

/// Every stored heartbeat must carry a valid signature. Returns how many there are.
fn show_heartbeats(story: &Story, lab: &mut Lab, fleet: &Fleet) -> Result<usize> {
    wait_for_heartbeats(lab, fleet, 3)?;
    let rows = heartbeats(fleet)?;
    let invalid = rows.iter().filter(|row| !is_signed(row)).count();
    ensure!(
        invalid == 0,
        "{invalid} of {} heartbeats have no valid signature",
        rows.len()
    );
    story.say(&format!("{} heartbeats, every signature valid", rows.len()));
    Ok(rows.len())
}

fn wait_for_heartbeats(lab: &mut Lab, fleet: &Fleet, count: usize) -> Result<()> {
    let what = format!("{count} accepted heartbeats, one every {HEARTBEAT_S} s");
    lab.wait_for(&what, SECONDS, || {
        Ok((heartbeats(fleet)?.len() >= count).then_some(()))
    })
}

fn heartbeats(fleet: &Fleet) -> Result<Vec<Value>> {
    fleet.rows(&["heartbeats", "list", "--limit", "1000"], "heartbeats")
}

/// SQLite has no booleans: a column of that type may come as 1.
fn is_signed(heartbeat: &Value) -> bool {
    matches!(column(heartbeat, "signature_valid").as_str(), "true" | "1")
}

/// Why the WireGuard part cannot be shown here; nothing if it can.
fn obstacle(may_install: bool) -> Result<Option<String>> {
    if let Some(missing) = apt::provide(&NEEDS, may_install)? {
        return Ok(Some(missing));
    }
    match machine::obstacle()? {
        None => tunnel::obstacle(may_install),
        some => Ok(some),
    }
}

fn stop() -> ExitCode {
    let stopped = record::stop_kept();
    for folder in &stopped {
        anstream::println!("stopped and removed {}", folder.display());
    }
    if stopped.is_empty() {
        anstream::println!("no demo of yours is kept running");
    }
    ExitCode::SUCCESS
}

fn say_how_to_look_around(lab: &Lab, fleet: &Fleet, tunnel: Option<&Tunnel>) {
    let mut connections = fleet.controller();
    connections.args(["connections", "list"]);
    let mut status = fleet.host.cli();
    status.arg("status");
    anstream::println!(
        "\nEverything still runs, with its logs in {}",
        lab.path("logs").display()
    );
    anstream::println!("  the host:       {}", shell::show(&status));
    anstream::println!("  the controller: {}", shell::show(&connections));
    anstream::println!(
        "  its database:   sqlite3 -readonly {}/controller/*.db",
        lab.folder().display()
    );
    updates::say_how_to_go_on(fleet);
    if let Some(tunnel) = tunnel {
        anstream::println!(
            "  to try:         a client is connected whom nobody knows yet, by the WireGuard key\n                  \
             {}\n                  with the controller's command: personal-key create, device add,\n                  \
             device identity add, connections disconnect, device revoke",
            tunnel.client_key()
        );
    }
    anstream::println!("  the end:        cargo xtask demo --stop");
}
