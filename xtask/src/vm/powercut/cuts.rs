//! The power of one and the same host is cut again and again while it updates itself or dpkg upgrades
//! it, and each time it boots, repairs itself and is asked how it is.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::lab::fleet::column;
use crate::shell;
use crate::torture::random::Random;
use crate::vm::Stage;
use crate::vm::qemu::Vm;
use crate::vm::survivor::{DPKG_WITHIN, RELEASE, SECOND, Scene, verified};

/// An attempt that is taken up again after the boot: a trial of ten seconds, its extension, and the
/// half minute that each run of the updater lasts.
const RESTS_WITHIN: Duration = Duration::from_secs(400);
const VERIFIED_WITHIN: Duration = Duration::from_secs(180);
/// How long an update and an upgrade take on an emulated processor, or a little more: the instant of
/// the cut is chosen in there.
const UPDATE: Duration = Duration::from_secs(55);
const UPGRADE: Duration = Duration::from_secs(14);

/// dpkg at rest by what its own documentation says, in two steps. Prints what it took.
const REPAIR: &str = r#"
export DEBIAN_FRONTEND=noninteractive
if [ -z "$(dpkg --audit)" ]; then echo none; exit 0; fi
dpkg --configure -a >&2
if [ -z "$(dpkg --audit)" ]; then echo configured; exit 0; fi
dpkg -i "$DEB" >&2 && [ -z "$(dpkg --audit)" ] && echo again
"#;

/// Every program in every slot that a link leads to, and the marks of those that need one. What
/// dpkg had in its hands has a name that nobody starts.
const SLOTS: &str = r#"
cd /opt/vpn-node
for link in stable experiment previous; do
    [ -L $link ] || continue
    slot=$(readlink $link)
    case $slot in versions/*) [ -s $slot/tree.sha256 ] || echo "$link half $slot" ;; esac
    sha256sum $(ls -d $slot/bin/* | grep -v '[.]dpkg-') </dev/null | while read -r digest file; do echo "$link $digest $file"; done
done
"#;

/// What a host does when its power goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    Update,
    Rollback,
    Upgrade,
    Downgrade,
}

impl Act {
    fn script(self) -> String {
        match self {
            Self::Update => format!("vpn-node update apply {RELEASE}"),
            Self::Rollback => "vpn-node update rollback".to_owned(),
            Self::Upgrade => "dpkg -i /root/in/second.deb".to_owned(),
            Self::Downgrade => "dpkg -i /root/in/first.deb".to_owned(),
        }
    }

    fn lasts(self) -> Duration {
        match self {
            Self::Update | Self::Rollback => UPDATE,
            Self::Upgrade | Self::Downgrade => UPGRADE,
        }
    }

    /// The package that dpkg is left with when it asks for one again.
    fn deb(self) -> &'static str {
        match self {
            Self::Downgrade => "/root/in/first.deb",
            _ => "/root/in/second.deb",
        }
    }
}

#[derive(Default)]
struct Tally {
    cuts: u32,
    starts: usize,
    repaired: [u32; 3],
    arrived: u32,
    slowest: Duration,
}

/// Enrols the host and cuts its power `cuts` times. It is off at the end.
pub(super) fn play(scene: &mut Scene, stage: &Stage, cuts: u32) -> Result<String> {
    let mut random = Random::new(stage.seed);
    let mut tally = Tally::default();
    let mut vm = scene.boot(stage)?;
    vm.settle()?;
    scene.enrol(&mut vm)?;
    for number in 1..=cuts {
        let act = choose(&mut vm, &mut random)?;
        let after = random.below(u64::try_from(act.lasts().as_millis())?);
        let after = Duration::from_millis(after);
        let before = stable(&mut vm)?;
        vm.start(&format!("{} >/dev/null 2>&1", act.script()))?;
        shell::pause(after)?;
        vm.cut_power(&mut scene.lab)?;
        count_starts(scene, &mut tally)?;
        let began = Instant::now();
        vm = scene.boot(stage)?;
        let round = judge(scene, &mut vm, act, &mut tally);
        round.with_context(|| {
            format!(
                "power cut {number} (--seed {}), {:.1} s after the beginning of `{}`",
                stage.seed,
                after.as_secs_f64(),
                act.script()
            )
        })?;
        tally.cuts += 1;
        let now = stable(&mut vm)?;
        tally.arrived += u32::from(now != before);
        tally.slowest = tally.slowest.max(began.elapsed());
        scene.story.say(&format!(
            "power cut {number}: {:.1} s into `{}`; {now} is stable, well after {} s",
            after.as_secs_f64(),
            act.script(),
            began.elapsed().as_secs()
        ));
    }
    let events = scene
        .fleet
        .rows(&["events", "list", "--limit", "10000"], "events")?;
    let alarm = |severity: String| matches!(severity.as_str(), "high" | "critical");
    let alarms: Vec<_> = events
        .iter()
        .filter(|event| alarm(column(event, "severity")))
        .collect();
    ensure!(
        alarms.is_empty(),
        "the controller took the host for a thief: {alarms:?}"
    );
    vm.power_off(&mut scene.lab)?;
    count_starts(scene, &mut tally)?;
    let [none, configured, again] = tally.repaired;
    Ok(format!(
        "{} power cuts of {}: always one whole version, verified again within {} s; {} times the \
         change had come; dpkg: {none} at rest, {configured} after configure -a, {again} after the \
         package again; {} starts of agents, all of them verified",
        tally.cuts,
        super::CUTS,
        tally.slowest.as_secs(),
        tally.arrived,
        tally.starts
    ))
}

/// Something that this host can do now.
fn choose(vm: &mut Vm, random: &mut Random) -> Result<Act> {
    let package = vm.sh("dpkg-query -W -f '${Version}' vpn-node-agent")?;
    let updated = stable(vm)?.starts_with("versions/");
    let first = !package.starts_with(&SECOND.to_string());
    let acts: &[Act] = match (first, updated) {
        (true, false) => &[Act::Update, Act::Update, Act::Upgrade],
        (true, true) => &[Act::Rollback, Act::Upgrade],
        (false, _) => &[Act::Downgrade],
    };
    let chosen = random.below(acts.len() as u64);
    Ok(acts[usize::try_from(chosen)?])
}

fn stable(vm: &mut Vm) -> Result<String> {
    Ok(vm.sh("readlink /opt/vpn-node/stable")?.trim().to_owned())
}

/// The boot ends well, the updater comes to rest, dpkg too, and the agent is verified.
fn judge(scene: &mut Scene, vm: &mut Vm, act: Act, tally: &mut Tally) -> Result<()> {
    vm.settle()?;
    // Of PID 1: the journal has this very command, too.
    let circles = vm.sh("journalctl -b -q -o cat _PID=1 | grep -i 'ordering cycle' || true")?;
    ensure!(
        circles.is_empty(),
        "systemd dropped units from the boot: {circles}"
    );
    slots_are_whole(scene, vm).context("after the boot")?;
    verified(vm, VERIFIED_WITHIN).context("after the boot")?;
    at_rest(vm)?;
    let repair = format!("DEB={}\n{REPAIR}", act.deb());
    let took = vm.sh_within(&repair, DPKG_WITHIN)?;
    let kinds = ["none", "configured", "again"];
    let kind = kinds.iter().position(|kind| *kind == took.trim());
    let kind = kind.with_context(|| format!("dpkg was not brought to rest: {took}"))?;
    tally.repaired[kind] += 1;
    let package = vm.sh("dpkg-query -W -f '${db:Status-Abbrev}' vpn-node-agent")?;
    ensure!(
        package.trim() == "ii",
        "dpkg says {package:?} of our package"
    );
    verified(vm, VERIFIED_WITHIN).context("after dpkg")?;
    slots_are_whole(scene, vm).context("after dpkg")?;
    let failed = vm.sh("systemctl list-units --failed --plain --no-legend 'vpn-node*'")?;
    // An update that ended badly leaves this one so, until the next one.
    let failed: Vec<&str> = failed
        .lines()
        .filter(|line| !line.starts_with("vpn-node-updater.service"))
        .collect();
    ensure!(failed.is_empty(), "failed units: {failed:?}");
    Ok(())
}

/// No attempt is under way, and none waits.
fn at_rest(vm: &mut Vm) -> Result<()> {
    vm.wait_for("the updater to come to rest", RESTS_WITHIN, |vm| {
        let look = "! [ -L /opt/vpn-node/experiment ] \
                    && ! [ -e /var/lib/vpn-node/updates/incoming/request.json ] \
                    && ! systemctl is-active --quiet vpn-node-updater.service";
        Ok((vm.run(look, Duration::from_secs(60))?.status == 0).then_some(()))
    })
}

fn slots_are_whole(scene: &Scene, vm: &mut Vm) -> Result<()> {
    for line in vm.sh(SLOTS)?.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let known = matches!(words[..], [_, digest, _] if scene.known.contains(digest));
        ensure!(known, "a link leads to what nobody packed: {line}");
    }
    Ok(())
}

fn count_starts(scene: &Scene, tally: &mut Tally) -> Result<()> {
    let (starts, broken) = scene.witnessed()?;
    ensure!(broken.is_empty(), "{}", broken.join("; "));
    tally.starts += starts;
    Ok(())
}
