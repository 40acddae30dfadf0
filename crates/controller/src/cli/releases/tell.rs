//! What a command came to, in words.

use sha2::{Digest as _, Sha256};
use vpn_node_release::metadata::{Targets, hex};
use vpn_node_release::release::ReleaseInfo;

use crate::cli::show;
use crate::releases::check;
use crate::releases::publish::Outcome;
use crate::releases::stage::{Progress, Stage};
use crate::releases::tree::{Published, Tree};
use crate::store::MirrorEnd;

/// What is published now, and what waits.
pub(super) fn outcome(tree: &Tree, outcome: &Outcome) -> anyhow::Result<()> {
    let what: Vec<String> = [
        ("root", outcome.root),
        ("the list of releases", outcome.targets),
    ]
    .into_iter()
    .filter_map(|(what, version)| Some(format!("{what} version {}", version?)))
    .collect();
    if !what.is_empty() {
        let verb = if outcome.live { "published" } else { "signed" };
        show::line(format_args!("{}: {}.", capital(verb), what.join(" and ")))?;
    } else if outcome.live {
        show::line("Snapshot and timestamp are renewed.")?;
    }
    if !what.is_empty() && !outcome.has_online_key && !outcome.live {
        show::line(
            "Hosts do not see it yet: this machine has not the online key. Carry it to the controller:\n  release export [VERSION] --to FILE, and there: release import FILE",
        )?;
    }
    waits(&outcome.waits)?;
    if outcome.held {
        show::line(
            "The root has all its signatures, and waits for a list of releases that the keys in it signed: release renew targets, then release sign.",
        )?;
    }
    if let Some(error) = &outcome.left_over {
        show::note(format_args!(
            "What is not needed any more stays in {:?} for now: {error}",
            tree.dir()
        ));
    }
    Ok(())
}

/// Who has to sign what.
pub(super) fn waits(waits: &[Progress]) -> anyhow::Result<()> {
    for one in waits {
        let what = what(one);
        let missing = one.needed.saturating_sub(one.signed);
        if missing > 0 {
            show::line(format_args!(
                "Staged: {what} version {} has {} of {} signatures; {missing} more of {}: release sign --key NAME.key",
                one.version,
                one.signed,
                one.needed,
                one.missing.join(", ")
            ))?;
        } else {
            show::line(format_args!(
                "Staged: {what} version {} has all of its signatures, and waits for the other.",
                one.version
            ))?;
        }
    }
    Ok(())
}

fn what(progress: &Progress) -> &'static str {
    match progress.role {
        vpn_node_release::metadata::TopRole::Root => "root",
        _ => "the list of releases",
    }
}

/// What hosts are told to trust.
pub(super) fn fingerprint(tree: &Tree) -> anyhow::Result<()> {
    let published = tree.load()?;
    let first = &published.roots[0].bytes;
    show::line(format_args!(
        "
First root:  {path}
SHA-256:     {digest}
Hosts trust it once, as root, with the file and this number brought to them another way:
  vpn-node update trust 1.root.json --sha256 {digest}",
        path = tree.dir().join("metadata/1.root.json").display(),
        digest = hex(&Sha256::digest(first)),
    ))
}

/// What the controller's table did not agree with.
pub(super) fn mirrored(end: &MirrorEnd) {
    for target in &end.mismatched {
        show::note(format_args!(
            "The row of {target} in the controller's table says other things than what is signed: it is refused from now on. See 'events list --type release_row_mismatch'."
        ));
    }
}

/// What a signer is about to vouch for: the changes, one a line.
pub(super) fn staged(published: Option<&Published>, stage: &Stage) -> anyhow::Result<()> {
    if let Some(root) = &stage.root {
        show::line(format_args!(
            "Root version {}, until {}:",
            root.role.header.version, root.role.header.expires
        ))?;
        for role in vpn_node_release::metadata::TopRole::ALL {
            let new = root.role.signers(role);
            let old = published.map(|published| published.root().role.signers(role));
            let mark = |id| match &old {
                Some(old) if !old.keys.contains_key(id) => " (new)",
                _ => "",
            };
            let keys: Vec<String> = new
                .keys
                .iter()
                .map(|(id, key)| {
                    format!("{}{}", crate::releases::key_file::short_id(key), mark(id))
                })
                .collect();
            let gone = old
                .iter()
                .flat_map(|old| old.keys.iter())
                .filter(|(id, _)| !new.keys.contains_key(*id));
            let gone: Vec<String> = gone
                .map(|(_, key)| format!("; {} goes", crate::releases::key_file::short_id(key)))
                .collect();
            let before = old.as_ref().map(|old| old.threshold);
            let before = before.filter(|before| *before != new.threshold);
            let before = before.map_or_else(String::new, |before| format!(" (until now {before})"));
            show::line(format_args!(
                "  {}: {}{before} of {}{}",
                role.as_str(),
                new.threshold,
                keys.join(", "),
                gone.concat()
            ))?;
        }
    }
    if let Some(targets) = &stage.targets {
        show::line(format_args!(
            "List of releases version {}, until {}:",
            targets.role.header.version, targets.role.header.expires
        ))?;
        let before = published.and_then(|published| published.targets.as_ref());
        for line in changes(before.map(|file| &file.role), &targets.role)? {
            show::line(format_args!("  {line}"))?;
        }
    }
    Ok(())
}

/// What of the releases is new, other or gone.
fn changes(old: Option<&Targets>, new: &Targets) -> anyhow::Result<Vec<String>> {
    let old = old.map_or(Ok(vec![]), check::releases)?;
    let new = check::releases(new)?;
    let mut lines = Vec::new();
    for signed in &new {
        let path = signed.info().target_path();
        let before = old.iter().find(|one| one.info().target_path() == path);
        let verb = match before {
            None => "add",
            Some(before) if before != signed => "change",
            Some(_) => continue,
        };
        lines.push(format!(
            "{verb} {}, sha256 {}",
            release(signed.info()),
            signed.sha256()
        ));
    }
    for signed in &old {
        let path = signed.info().target_path();
        if !new.iter().any(|one| one.info().target_path() == path) {
            lines.push(format!("remove {}", release(signed.info())));
        }
    }
    if lines.is_empty() {
        lines.push(format!(
            "no change: {}",
            show::count(new.len() as u64, "release")
        ));
    }
    Ok(lines)
}

/// A release in one line.
pub(super) fn release(info: &ReleaseInfo) -> String {
    let mut text = format!(
        "{} for {} in {}, counter {}, security floor {}",
        info.version,
        info.platform(),
        info.channel,
        info.counter,
        info.security_floor
    );
    if let Some(least) = &info.min_version_required {
        text = format!("{text}, from {least} on");
    }
    if info.mandatory {
        text.push_str(", mandatory");
    }
    text
}

fn capital(word: &str) -> String {
    let mut chars = word.chars();
    chars.next().map_or_else(String::new, |first| {
        first.to_uppercase().chain(chars).collect()
    })
}
