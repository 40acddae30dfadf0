//! The faults, one function each: it begins, the status shows it, it ends, the host heals.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::Patient;
use crate::shell;

/// How long the controller is away; ten minutes with `--full`.
const OUTAGE: Duration = Duration::from_secs(600);
const SHORT_OUTAGE: Duration = Duration::from_secs(60);
/// How long the network is bad.
const BAD_NETWORK: Duration = Duration::from_secs(120);
const SHORT_BAD_NETWORK: Duration = Duration::from_secs(45);
/// How often the agent is killed, each time as soon as it runs.
const KILLS: u32 = 10;
/// Beyond any clock that is only a little off. (A boot in 2001 is not that far off for long: systemd sets
/// the clock to the day of its own making at least.)
const WRONG_MS: i64 = 7 * 24 * 3600 * 1000;

/// All but 64 KiB of both disks.
const FILL: &str = "set -e
for folder in /var /var/lib/vpn-node; do
    free=$(df --output=avail -B1 $folder | tail -n 1)
    fallocate -l $((free - 65536)) $folder/filler
done";

/// The agent's state on a file system of its own, as on hosts with a partition for it.
const OWN_DISK: &str = "set -e
systemctl stop vpn-node-agent.service
truncate -s 96M /state.img
mke2fs -q -t ext4 -m 0 /state.img
mkdir /new-state
mount -o loop /state.img /new-state
cp -a /var/lib/vpn-node/. /new-state/
umount /new-state
echo '/state.img /var/lib/vpn-node ext4 loop 0 0' >>/etc/fstab
systemctl daemon-reload
mount /var/lib/vpn-node
systemctl start vpn-node-agent.service";

/// Before the first one.
pub(super) fn prepare(patient: &mut Patient<'_>) -> Result<()> {
    patient.vm().sh(OWN_DISK).map(drop)
}

type Plague = fn(&mut Patient<'_>) -> Result<()>;

/// In this order: what boots the host anew comes last.
pub(super) const ALL: [(&str, Plague); 9] = [
    ("an outage", outage),
    ("a bad network", bad_network),
    ("a full disk", full_disk),
    ("a read-only disk", read_only),
    ("kill -9", kill),
    ("no memory", no_memory),
    ("a clock that is changed", clock_changes),
    ("a boot in 2035", |patient| boot_in(patient, "2035")),
    ("a boot in 2001", |patient| boot_in(patient, "2001")),
];

fn outage(patient: &mut Patient<'_>) -> Result<()> {
    let length = match patient.stage.full {
        true => OUTAGE,
        false => SHORT_OUTAGE,
    };
    patient.scene.stop_controller()?;
    let began = Instant::now();
    let said = patient.shows("that the controller is away", unreachable)?;
    patient.client()?;
    shell::pause(length.saturating_sub(began.elapsed()))?;
    let status = patient.status()?;
    let state = &status["verification"]["state"];
    ensure!(
        state == "verified" || state == "grace",
        "the lease outlasts such an outage, and the host is {state}"
    );
    patient.scene.start_controller()?;
    let healed = patient.heals("an outage", Instant::now())?;
    let name = format!("{} s without the controller", length.as_secs());
    patient.note(&name, &said, healed);
    Ok(())
}

fn bad_network(patient: &mut Patient<'_>) -> Result<()> {
    let length = match patient.stage.full {
        true => BAD_NETWORK,
        false => SHORT_BAD_NETWORK,
    };
    patient
        .vm()
        .sh("tc qdisc add dev eth0 root netem loss 30% delay 5s 5s")?;
    let began = Instant::now();
    let before = patient.status()?["heartbeats"].clone();
    patient.client()?;
    shell::pause(length.saturating_sub(began.elapsed()))?;
    let said = patient.health()?;
    let during = patient.status()?["heartbeats"].clone();
    patient.vm().sh("tc qdisc delete dev eth0 root")?;
    let healed = patient.heals("a bad network", Instant::now())?;
    let count = |of: &Value, key: &str| of[key].as_i64().unwrap_or_default();
    let tried = count(&during, "attempted") - count(&before, "attempted");
    let taken = count(&during, "accepted") - count(&before, "accepted");
    ensure!(
        tried > 0,
        "no heartbeat was tried while the network was bad"
    );
    let name = format!(
        "30 % loss and 5 s of jitter for {} s, {taken} of {tried} heartbeats taken",
        length.as_secs()
    );
    patient.note(&name, &said, healed);
    Ok(())
}

fn full_disk(patient: &mut Patient<'_>) -> Result<()> {
    patient.vm().sh(FILL)?;
    patient.client()?;
    // What starts on a full disk must at least not give up.
    patient
        .vm()
        .sh("systemctl restart --no-block vpn-node-agent.service")?;
    shell::pause(Duration::from_secs(15))?;
    patient.client()?;
    let said = patient.shows("that there is no space", |status| {
        status["ledger"]["low_space_bytes"] == 0
    })?;
    patient.vm().sh("rm /var/filler /var/lib/vpn-node/filler")?;
    let healed = patient.heals("a full disk", Instant::now())?;
    patient.note("disk full", &said, healed);
    Ok(())
}

/// Twice: while the agent runs, whose records have their space already, and while it starts.
fn read_only(patient: &mut Patient<'_>) -> Result<()> {
    // As the kernel does after an error of the disk, whoever writes: of all file systems.
    patient.vm().sh("echo u >/proc/sysrq-trigger")?;
    let turned = "until ! touch /var/probe 2>/dev/null; do sleep 0.2; done";
    patient.vm().sh(turned)?;
    patient.client()?;
    let said = patient.health()?;
    patient
        .vm()
        .sh("mount -o remount,rw / && mount -o remount,rw /var/lib/vpn-node")?;
    let healed = patient.heals("a read-only disk", Instant::now())?;
    patient.note("disk read-only while the agent runs", &said, healed);

    patient.vm().sh("systemctl stop vpn-node-agent.service
         mount -o remount,ro /var/lib/vpn-node
         systemctl start --no-block vpn-node-agent.service")?;
    let mut vm = patient.vm.take().context("the host is off")?;
    let said = vm.wait_for("the journal to say why", super::SHOWS_WITHIN, |vm| {
        let look = "journalctl -b -q -o cat -u vpn-node-agent.service -n 30 \
                    | grep 'Read-only file system' | tail -n 1";
        let said = vm.sh(look)?.trim().to_owned();
        Ok((!said.is_empty()).then_some(said))
    });
    patient.vm = Some(vm);
    let said = said?;
    patient.vm().sh("mount -o remount,rw /var/lib/vpn-node")?;
    let healed = patient.heals("a start on a read-only disk", Instant::now())?;
    patient.note("disk read-only while it starts", &said, healed);
    Ok(())
}

fn kill(patient: &mut Patient<'_>) -> Result<()> {
    let restarts = restarts(patient)?;
    let script = format!(
        "for n in $(seq {KILLS}); do
             until systemctl is-active --quiet vpn-node-agent.service; do sleep 0.1; done
             systemctl kill --kill-whom=all -s KILL vpn-node-agent.service
             until ! systemctl is-active --quiet vpn-node-agent.service; do sleep 0.05; done
         done
         vpn-node healthcheck 2>&1; echo \" (exit status $?)\""
    );
    let said = patient.vm().sh_within(&script, Duration::from_secs(300))?;
    patient.client()?;
    let healed = patient.heals("kill -9", Instant::now())?;
    let again = self::restarts(patient)? - restarts;
    ensure!(
        again >= i64::from(KILLS),
        "the agent was killed {KILLS} times and started {again} times"
    );
    let name = format!("{KILLS} times kill -9");
    patient.note(&name, &said.trim().replace('\n', ""), healed);
    Ok(())
}

fn no_memory(patient: &mut Patient<'_>) -> Result<()> {
    let before = restarts(patient)?;
    let limit = |bytes: &str| {
        format!("systemctl set-property --runtime vpn-node-agent.service MemoryMax={bytes}")
    };
    patient.vm().sh(&limit("1M"))?;
    let mut vm = patient.vm.take().context("the host is off")?;
    let killed = vm.wait_for("the kernel to kill the agent", super::SHOWS_WITHIN, |vm| {
        let kills =
            vm.sh("journalctl -b -u vpn-node-agent.service -q | grep -c oom-kill || true")?;
        Ok((kills.trim() != "0").then_some(()))
    });
    patient.vm = Some(vm);
    killed?;
    let said = patient.health()?;
    // The limit that the unit has.
    patient.vm().sh(&limit("128M"))?;
    patient.client()?;
    let healed = patient.heals("no memory", Instant::now())?;
    ensure!(
        restarts(patient)? > before,
        "the agent was not started again"
    );
    patient.note("OOM kill", &said, healed);
    Ok(())
}

fn clock_changes(patient: &mut Patient<'_>) -> Result<()> {
    let mut said = Vec::new();
    for year in ["2035", "2001"] {
        patient.vm().sh(&format!("date --set={year}-06-01"))?;
        patient.client()?;
        said.push(format!("{year}: {}", lives_with_it(patient)?));
    }
    patient.vm().set_clock()?;
    let healed = patient.heals("a wrong clock", Instant::now())?;
    patient.note("clock set to 2035 and 2001", &said.join(", "), healed);
    Ok(())
}

fn boot_in(patient: &mut Patient<'_>, year: &str) -> Result<()> {
    let vm = patient.vm.take().context("the host is off")?;
    vm.power_off(&mut patient.scene.lab)?;
    patient.scene.host.clock = Some(format!("{year}-06-01T00:00:00"));
    let mut vm = patient.scene.boot(patient.stage)?;
    vm.settle()?;
    crate::vm::wireguard::serve(&mut vm)?;
    let says = vm.sh("date +%Y")?;
    patient.vm = Some(vm);
    patient.client()?;
    let said = lives_with_it(patient)?;
    patient.vm().set_clock()?;
    let healed = patient.heals("a boot with a wrong clock", Instant::now())?;
    let name = format!("booted in {year} (the system took it for {})", says.trim());
    patient.note(&name, &said, healed);
    Ok(())
}

/// With a wrong clock the host is verified and sends records as ever, and says how wrong it is.
fn lives_with_it(patient: &mut Patient<'_>) -> Result<String> {
    patient.heals("a wrong clock", Instant::now())?;
    patient.shows("how wrong the clock is", |report| {
        let offset = report["clock_offset_ms"].as_i64().unwrap_or_default();
        offset.abs() > WRONG_MS
    })?;
    let days = patient.status()?["clock_offset_ms"].as_i64();
    let days = days.unwrap_or_default() / (24 * 3600 * 1000);
    Ok(format!("verified, {days} days off"))
}

fn unreachable(report: &Value) -> bool {
    report["heartbeats"]["last_problem"] == "unreachable"
        && report["last_heartbeat"]["last_error"].is_string()
}

/// How often systemd has started the agent again by itself.
fn restarts(patient: &mut Patient<'_>) -> Result<i64> {
    let look = "systemctl show --property=NRestarts --value vpn-node-agent.service";
    let number = patient.vm().sh(look)?;
    number.trim().parse().context("systemd counts no restarts")
}
