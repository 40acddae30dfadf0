//! Whoever has the mirror, or the controller with all of its keys: hosts install nothing of theirs.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use ed25519_dalek::SigningKey;
use serde_json::Value;
use vpn_node_release::author;
use vpn_node_release::digest::Digest;
use vpn_node_release::metadata::{Envelope, MetaFile, Snapshot, Targets, Timestamp, unhex};

use super::front::Mode;
use super::scene::{Plan, SOON, Scene, seconds};
use super::shelf::{BASE, GOOD, Shelf};
use super::{Figure, Listed};
use crate::lab::fleet::column;
use crate::shell;

pub(super) const SCENARIOS: Listed = &[
    ("hijacked-mirror", true, hijacked),
    ("stolen-online-keys", true, stolen),
];

/// Other bytes, older metadata, data without end, one byte at a time: each with its own code.
fn hijacked(shelf: &Shelf) -> Result<Figure> {
    let plan = Plan {
        front: true,
        ..Plan::default()
    };
    let mut scene = Scene::set(shelf, &plan)?;
    let data_dir = scene.fleet.data_dir();
    let older = scene.lab.path("older");
    let mut copy = Command::new("cp");
    copy.arg("-a").arg(data_dir.join("releases/metadata"));
    copy.arg(&older);
    shell::succeed(copy, None, SOON)?;
    // A newer timestamp: the host sees it with the first try.
    shelf.publisher_at(&data_dir).release(&["refresh"])?;
    let before = scene.hosts[0].trusted_state()?;

    let attacks = [
        (Mode::OtherBytes, "target_hash_mismatch"),
        (Mode::Older(older), "rollback"),
        (Mode::EndlessPackage, "too_long"),
        (Mode::EndlessMetadata, "too_long"),
        (Mode::Throttled(200), "too_slow"),
    ];
    let mut codes = Vec::new();
    for (mode, code) in attacks {
        scene.meddle(mode)?;
        let id = scene.roll_out(GOOD, &[])?;
        scene.is_told(0, code)?;
        let words = ["rollout", "abort", &id, "--reason", "a hijacked mirror"];
        scene.fleet.ask(&words)?;
        scene.is_over(0)?;
        codes.push(code);
    }
    ensure!(
        scene.hosts[0].trusted_state()? == before,
        "the updater's trust or its links changed"
    );
    ensure!(
        scene.hosts[0].history().len() == 1,
        "the updater was asked for something: {:?}",
        scene.hosts[0].history()
    );
    scene.at_rest(0, BASE, "system")?;

    let age = metadata_age(&scene)?;
    scene.meddle(Mode::Pass)?;
    scene.roll_out(GOOD, &[])?;
    let end = scene.watch(0, GOOD)?;
    ensure!(end.phase == "installed", "it ended as {}", end.phase);
    scene.is_installed(0, GOOD, BASE)?;
    Ok(Figure::of(format!(
        "refused as {}; metadata_age {age} s was shown meanwhile; with an honest mirror kept {} \
         after its start",
        codes.join(", "),
        seconds(end.after_start)
    )))
}

/// With the data directory of the controller: what is signed online is signed, and the list of
/// releases is not.
fn stolen(shelf: &Shelf) -> Result<Figure> {
    let mut scene = Scene::set(shelf, &Plan::default())?;
    let before = scene.hosts[0].trusted_state()?;
    let releases = scene.fleet.data_dir().join("releases");
    publish_as_thief(&releases)?;
    let id = scene.roll_out(GOOD, &[])?;
    scene.is_told(0, "unsigned")?;
    // With the director in his hands he can ask as often as he likes.
    shell::pause(Duration::from_secs(5))?;
    let abort = ["rollout", "abort", &id, "--reason", "stolen keys"];
    scene.fleet.ask(&abort)?;
    scene.is_over(0)?;
    ensure!(
        scene.hosts[0].trusted_state()? == before,
        "the updater's trust or its links changed"
    );
    scene.at_rest(0, BASE, "system")?;
    Ok(Figure::of(
        "refused as unsigned: the thief of every online key installs nothing",
    ))
}

/// A package of the thief's under the name of a real one, in a list that he signs himself, under
/// a snapshot and a timestamp that the stolen key signs.
fn publish_as_thief(releases: &Path) -> Result<()> {
    let metadata = releases.join("metadata");
    let online = online_key(&releases.join("online-keys"))?;
    let own = SigningKey::from_bytes(&[7; 32]);
    let read = |name: &str| -> Result<Envelope> {
        let path = metadata.join(name);
        let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(Envelope::parse(&bytes, name)?)
    };
    let mut timestamp = read("timestamp.json")?
        .unverified::<Timestamp>("timestamp")?
        .role;
    let at = timestamp.snapshot().context("no snapshot")?.version;
    let mut snapshot = read(&format!("{at}.snapshot.json"))?
        .unverified::<Snapshot>("snapshot")?
        .role;
    let listed = snapshot.role("targets").context("no targets")?.version;
    let mut targets = read(&format!("{listed}.targets.json"))?
        .unverified::<Targets>("targets")?
        .role;

    let evil = b"#!/bin/sh\nexec /bin/sh\n";
    let digest = Digest::of(evil).to_string();
    let (path, target) = targets
        .targets
        .iter_mut()
        .find(|(path, _)| path.contains(GOOD))
        .context("no such release")?;
    let mut value: Value = serde_json::to_value(&*target)?;
    value["length"] = evil.len().into();
    value["hashes"] = serde_json::json!({ "sha256": digest });
    *target = serde_json::from_value(value)?;
    let (folder, name) = path.rsplit_once('/').context("a path has a folder")?;
    let package = releases
        .join("targets")
        .join(folder)
        .join(format!("{digest}.{name}"));
    write(&package, evil)?;

    targets.header.version += 1;
    let bytes = author::sign(&targets, &[&own])?.to_bytes();
    let entry = MetaFile::of(targets.header.version, &bytes);
    write(
        &metadata.join(format!("{}.targets.json", targets.header.version)),
        &bytes,
    )?;
    snapshot.header.version += 1;
    snapshot.meta.insert("targets.json".to_owned(), entry);
    let bytes = author::sign(&snapshot, &[&online])?.to_bytes();
    let entry = MetaFile::of(snapshot.header.version, &bytes);
    write(
        &metadata.join(format!("{}.snapshot.json", snapshot.header.version)),
        &bytes,
    )?;
    let issued = timestamp.header.clone();
    timestamp.header.version += 1;
    timestamp = author::next_timestamp(
        &timestamp,
        jiff::Timestamp::now(),
        issued.expires.instant(),
        entry,
    );
    write(
        &metadata.join("timestamp.json"),
        &author::sign(&timestamp, &[&online])?.to_bytes(),
    )
}

fn online_key(folder: &Path) -> Result<SigningKey> {
    for entry in fs::read_dir(folder).context("no online keys")?.flatten() {
        if entry
            .path()
            .extension()
            .is_some_and(|ending| ending == "key")
        {
            let text = fs::read_to_string(entry.path()).context("cannot read the online key")?;
            let bytes = unhex(text.trim()).context("the online key is no number")?;
            let bytes: [u8; 32] = bytes.as_slice().try_into().context("of 32 bytes")?;
            return Ok(SigningKey::from_bytes(&bytes));
        }
    }
    bail!("there is no online key in {}", folder.display())
}

/// As a new file: the old one is shared with other scenarios.
fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let temporary = path.with_extension("thief");
    fs::write(&temporary, bytes)
        .and_then(|()| fs::set_permissions(&temporary, fs::Permissions::from_mode(0o644)))
        .and_then(|()| fs::rename(&temporary, path))
        .with_context(|| format!("cannot write {}", path.display()))
}

/// How old the host's metadata is, as the controller shows it.
fn metadata_age(scene: &Scene<'_>) -> Result<i64> {
    let software = scene.known_software(0)?;
    let age = software["metadata_age_s"].as_i64();
    age.with_context(|| {
        format!(
            "no metadata_age_s is shown: {}",
            column(&software, "metadata_age_s")
        )
    })
}
