//! A signed repository with some releases, made once and shared by all hosts; and what each host's
//! agent would have downloaded of it.
//!
//! A package's agent is a script that becomes the fake agent ([`super::agent`]), told by its
//! signed text which version it is and how it behaves.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use ed25519_dalek::SigningKey;
use jiff::{SignedDuration, Timestamp as Instant};
use vpn_node_release::author::{public_key, sign};
use vpn_node_release::bundle::{About, Content, Effort, Entry, EntryPath, Manifest, Mode, pack};
use vpn_node_release::digest::Digest;
use vpn_node_release::handover::Request;
use vpn_node_release::metadata::{
    Extra, Hashes, MetaFile, Root, Snapshot, TargetFile, Targets, Timestamp, TopRole,
};
use vpn_node_release::offline::Writer;
use vpn_node_release::release::{PRODUCT, ReleaseInfo, StateFormat};
use vpn_node_release::version::{Platform, Version, Word};

use super::agent::Behaviour;
use crate::torture::random::Random;

/// What a host has before its first update.
pub(super) const FIRST: Version = Version::new(1, 4, 0);

/// One release of the repository.
#[derive(Clone, Debug)]
pub(super) struct Release {
    pub(super) version: Version,
    /// As signed; also how the releases are numbered, from 1.
    pub(super) counter: u64,
    /// SHA-256 of the package, in hexadecimal.
    pub(super) sha256: String,
    /// All that a host needs for it, as the layout of `incoming/`: path and content.
    files: Vec<(PathBuf, Vec<u8>)>,
    target: String,
}

/// All releases, the oldest first, and the root that every host trusts.
pub(super) struct Releases {
    pub(super) root: Vec<u8>,
    pub(super) all: Vec<Release>,
}

struct Keys {
    root: SigningKey,
    targets: SigningKey,
    online: SigningKey,
}

impl Releases {
    /// Signs a repository with one release after the other; other `keys` are another publisher's.
    pub(super) fn make(
        releases: &[(Version, Behaviour)],
        updater: &Path,
        keys: u8,
    ) -> Result<Self> {
        let keys = Keys {
            root: key(keys),
            targets: key(keys + 1),
            online: key(keys + 2),
        };
        let now = Instant::now();
        let expires = now + SignedDuration::from_hours(24 * 300);
        let mut root = Root::new(1, now, expires);
        root.set_role(TopRole::Root, &[public_key(&keys.root)], 1);
        root.set_role(TopRole::Targets, &[public_key(&keys.targets)], 1);
        root.set_role(TopRole::Snapshot, &[public_key(&keys.online)], 1);
        root.set_role(TopRole::Timestamp, &[public_key(&keys.online)], 1);
        let root = sign(&root, &[&keys.root])?.to_bytes();

        let mut all = Vec::new();
        let mut listed = Targets::new(1, now, expires);
        for (number, (version, behaviour)) in releases.iter().enumerate() {
            let counter = number as u64 + 1;
            let info = info(version, counter, now)?;
            let (package, _) = packed(version, *behaviour, updater)?;
            let path = info.target_path();
            let sha256 = Digest::of(&package).to_string();
            let hashes = Hashes::sha256_of(&package);
            listed.targets.insert(
                path.clone(),
                TargetFile {
                    length: package.len() as u64,
                    hashes,
                    custom: Some(info.to_custom()?),
                    extra: Extra::new(),
                },
            );
            listed.header.version = counter;
            let metadata = metadata(&keys, &listed, counter, now, expires)?;
            let mut files = vec![(PathBuf::from("metadata/1.root.json"), root.clone())];
            files.extend(metadata);
            let (folder, name) = path
                .rsplit_once('/')
                .context("a target's path has a folder")?;
            files.push((
                PathBuf::from(format!("targets/{folder}/{sha256}.{name}")),
                package,
            ));
            all.push(Release {
                version: version.clone(),
                counter,
                sha256,
                files,
                target: path,
            });
        }
        Ok(Self { root, all })
    }

    /// The release of this version.
    pub(super) fn of(&self, version: &Version) -> &Release {
        let found = self.all.iter().find(|release| release.version == *version);
        found.expect("only versions of the repository are asked for")
    }
}

impl Release {
    /// Puts everything into `incoming`, the request last, as the agent does.
    pub(super) fn deliver(&self, incoming: &Path, request: &str) -> Result<()> {
        for (path, bytes) in &self.files {
            put(&incoming.join(path), bytes)?;
        }
        self.ask(incoming, request)
    }

    /// Only the request.
    pub(super) fn ask(&self, incoming: &Path, request: &str) -> Result<()> {
        let request = Request {
            format: 1,
            id: request.to_owned(),
            deployment: Some(7),
            version: self.version.to_string(),
            target: self.target.clone(),
        };
        put(
            &incoming.join("request.json"),
            &serde_json::to_vec(&request)?,
        )
    }

    /// Path below `incoming/` and content of every file but the request.
    pub(super) fn files(&self) -> &[(PathBuf, Vec<u8>)] {
        &self.files
    }

    /// One file in the form of `release export`.
    pub(super) fn export(&self, to: &Path) -> Result<()> {
        let file = fs::File::create(to).with_context(|| format!("cannot make {}", to.display()))?;
        let mut writer = Writer::new(file);
        for (path, bytes) in &self.files {
            let path = path.to_str().context("our paths are text")?;
            writer.file(path, bytes.len() as u64, &bytes[..])?;
        }
        writer.finish()?;
        Ok(())
    }
}

/// Written beside and renamed, with the folders above it.
fn put(path: &Path, bytes: &[u8]) -> Result<()> {
    let failed = || format!("cannot write {}", path.display());
    let folder = path.parent().context("a file has a folder")?;
    fs::create_dir_all(folder).with_context(failed)?;
    let beside = path.with_extension("part");
    fs::write(&beside, bytes)
        .and_then(|()| fs::rename(&beside, path))
        .with_context(failed)
}

/// What a version's package has. The system's slot has the same.
pub(super) fn contents(
    version: &Version,
    behaviour: Behaviour,
    updater: &Path,
) -> Result<Vec<Entry>> {
    let entry = |path: &str, mode, bytes: Vec<u8>| -> Result<Entry> {
        Ok(Entry {
            path: EntryPath::parse(path.as_bytes())?,
            mode,
            content: Content::Bytes(bytes),
        })
    };
    let program = std::env::current_exe().context("cannot find this program")?;
    let agent = format!(
        "#!/bin/sh\nexec '{}' torture fake-agent {} {version} \"$0\"\n",
        program.display(),
        behaviour.word()
    );
    // Not to be compressed, and more than a sector, so that a torn file shows.
    let mut random = Random::new(version.to_string().bytes().map(u64::from).sum());
    let ballast = (0..2048).flat_map(|_| random.next().to_be_bytes());
    // Each version brings its updater; here all have the same.
    let updater = format!("#!/bin/sh\nexec '{}' \"$@\"\n", updater.display());
    let command = b"#!/bin/sh\nexit 1\n".to_vec();
    let notes = version.to_string().into_bytes();
    Ok(vec![
        entry("bin/vpn-node-agent", Mode::Executable, agent.into_bytes())?,
        entry("bin/vpn-node", Mode::Executable, command)?,
        entry(
            "bin/vpn-node-updater",
            Mode::Executable,
            updater.into_bytes(),
        )?,
        entry("share/ballast", Mode::Plain, ballast.collect())?,
        entry("share/doc/notes", Mode::Plain, notes)?,
    ])
}

/// A package of these contents, and its manifest.
pub(super) fn packed(
    version: &Version,
    behaviour: Behaviour,
    updater: &Path,
) -> Result<(Vec<u8>, Manifest)> {
    let about = About {
        version: version.clone(),
        platform: Platform::here(),
        state_format: StateFormat::only(1),
        mtime: 0,
        effort: Effort::Quick,
    };
    let mut package = Vec::new();
    let manifest = pack(&mut package, &about, contents(version, behaviour, updater)?)?;
    Ok((package, manifest))
}

fn info(version: &Version, counter: u64, now: Instant) -> Result<ReleaseInfo> {
    let platform = Platform::here();
    Ok(ReleaseInfo {
        product: PRODUCT.to_owned(),
        version: version.clone(),
        channel: Word::parse("stable")?,
        os: platform.os,
        arch: platform.arch,
        counter,
        security_floor: Version::new(1, 0, 0),
        min_version_required: None,
        mandatory: false,
        description: format!("release {counter} of a torture"),
        released: Instant::from_second(now.as_second())?,
        state_format: StateFormat::only(1),
    })
}

/// Targets, snapshot and timestamp of this number, as files with their names.
fn metadata(
    keys: &Keys,
    listed: &Targets,
    number: u64,
    now: Instant,
    expires: Instant,
) -> Result<Vec<(PathBuf, Vec<u8>)>> {
    let targets = sign(listed, &[&keys.targets])?.to_bytes();
    let snapshot = Snapshot::new(number, now, expires, MetaFile::of(number, &targets));
    let snapshot = sign(&snapshot, &[&keys.online])?.to_bytes();
    let timestamp = Timestamp::new(number, now, expires, MetaFile::of(number, &snapshot));
    let timestamp = sign(&timestamp, &[&keys.online])?.to_bytes();
    let path = |name: String| PathBuf::from("metadata").join(name);
    Ok(vec![
        (path(format!("{number}.targets.json")), targets),
        (path(format!("{number}.snapshot.json")), snapshot),
        (path("timestamp.json".to_owned()), timestamp),
    ])
}

fn key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}
