//! A publisher: packages, and signed metadata about them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use ed25519_dalek::SigningKey;
use jiff::Timestamp as Instant;
use vpn_node_release::author::{public_key, sign};
use vpn_node_release::bundle::{
    About, Content, DirSink, Effort, Entry, EntryPath, Limits, Mode, Signed, pack, unpack,
};
use vpn_node_release::digest::Digest;
use vpn_node_release::metadata::{
    Hashes, MetaFile, Root, Snapshot, TargetFile, Targets, Timestamp, TopRole, name,
};
use vpn_node_release::offline::Writer;
use vpn_node_release::release::{PRODUCT, ReleaseInfo, StateFormat};
use vpn_node_release::version::{Platform, Version, Word};

/// The state format of all versions that are not made to differ.
pub(crate) const FORMAT: StateFormat = StateFormat::only(1);
/// Metadata is made a day before the world's clock, and lasts a month.
const ISSUED: i64 = 1_795_000_000 - 86_400;
const MONTH: i64 = 30 * 86_400;

/// All that is published.
pub(crate) struct Repository {
    key: SigningKey,
    /// When its metadata was made, in seconds since the Unix epoch.
    pub(crate) issued: i64,
    /// Of every metadata file but the root.
    version: u64,
    releases: BTreeMap<String, (ReleaseInfo, Vec<u8>)>,
}

impl Repository {
    pub(crate) fn new() -> Self {
        Self::of(&[7; 32])
    }

    /// Of another signer.
    pub(crate) fn of(seed: &[u8; 32]) -> Self {
        Self {
            key: SigningKey::from_bytes(seed),
            issued: ISSUED,
            version: 0,
            releases: BTreeMap::new(),
        }
    }

    /// Version 1 of the root.
    pub(crate) fn root(&self) -> Vec<u8> {
        let mut root = Root::new(1, at(self.issued), at(self.issued + 120 * MONTH));
        for role in TopRole::ALL {
            root.set_role(role, &[public_key(&self.key)], 1);
        }
        sign(&root, &[&self.key]).unwrap().to_bytes()
    }

    /// Publishes a version, after `change` has had its say about what is signed.
    pub(crate) fn add(&mut self, version: &Version, change: impl FnOnce(&mut ReleaseInfo)) {
        let program = |name: &str| format!("#!/bin/sh\necho {name} {version}\n").into_bytes();
        self.add_programs(version, change, program);
    }

    /// The same with programs of one's own, by their names.
    pub(crate) fn add_programs(
        &mut self,
        version: &Version,
        change: impl FnOnce(&mut ReleaseInfo),
        program: impl Fn(&str) -> Vec<u8>,
    ) {
        let Platform { os, arch } = Platform::here();
        let mut info = ReleaseInfo {
            product: PRODUCT.into(),
            version: version.clone(),
            channel: Word::parse("stable").unwrap(),
            os,
            arch,
            counter: self.version + 1,
            security_floor: Version::new(1, 0, 0),
            min_version_required: None,
            mandatory: false,
            description: "Faster".into(),
            released: at(self.issued),
            state_format: FORMAT,
        };
        change(&mut info);
        let package = package_with(version, info.state_format, program);
        self.releases.insert(info.target_path(), (info, package));
        self.version += 1;
    }

    /// The bytes of a release's package.
    pub(crate) fn package_of(&self, version: &str) -> &[u8] {
        let path = format!("{PRODUCT}/{version}/{}.tar.zst", Platform::here());
        &self.releases[&path].1
    }

    /// `metadata/` and `targets/`, as the agent downloads them and `release export` packs them.
    pub(crate) fn write_to(&self, directory: &Path) {
        for (path, bytes) in self.files() {
            let path = directory.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
    }

    /// The same in one file.
    pub(crate) fn export_to(&self, file: &Path) {
        let mut writer = Writer::new(fs::File::create(file).unwrap());
        for (path, bytes) in self.files() {
            writer.file(&path, bytes.len() as u64, &bytes[..]).unwrap();
        }
        writer.finish().unwrap();
    }

    /// Every file by its path.
    pub(crate) fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let (issued, expires) = (at(self.issued), at(self.issued + MONTH));
        let mut files = BTreeMap::new();
        let mut targets = Targets::new(self.version, issued, expires);
        for (path, (info, package)) in &self.releases {
            let sha256 = Digest::of(package).to_string();
            let custom = info.to_custom().unwrap();
            targets.targets.insert(
                path.clone(),
                TargetFile {
                    length: package.len() as u64,
                    hashes: Hashes::from_sha256(&sha256),
                    custom: Some(custom),
                    extra: serde_json::Map::new(),
                },
            );
            let url = name::target_url_path(path, Some(&sha256));
            files.insert(format!("targets/{url}"), package.clone());
        }
        let targets = sign(&targets, &[&self.key]).unwrap().to_bytes();
        let entry = MetaFile::of(self.version, &targets);
        let snapshot = Snapshot::new(self.version, issued, expires, entry);
        let snapshot = sign(&snapshot, &[&self.key]).unwrap().to_bytes();
        let entry = MetaFile::of(self.version, &snapshot);
        let timestamp = Timestamp::new(self.version, issued, expires, entry);
        let timestamp = sign(&timestamp, &[&self.key]).unwrap().to_bytes();
        let named = |role: &str, version| format!("metadata/{}", name::file_name(role, version));
        files.insert(named("targets", Some(self.version)), targets);
        files.insert(named("snapshot", Some(self.version)), snapshot);
        files.insert(named("timestamp", None), timestamp);
        files.insert(named("root", Some(1)), self.root());
        files
    }
}

/// A package whose programs say their version.
pub(crate) fn package(version: &Version, state_format: StateFormat) -> Vec<u8> {
    let program = |name: &str| format!("#!/bin/sh\necho {name} {version}\n").into_bytes();
    package_with(version, state_format, program)
}

fn package_with(
    version: &Version,
    state_format: StateFormat,
    program: impl Fn(&str) -> Vec<u8>,
) -> Vec<u8> {
    let file = |path: &str, mode, bytes: Vec<u8>| Entry {
        path: EntryPath::parse(path.as_bytes()).unwrap(),
        mode,
        content: Content::Bytes(bytes),
    };
    // Larger than one piece of a copy, and not the same twice.
    let data: Vec<u8> = (0..70_000_u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    let entries = vec![
        file("bin/vpn-node-agent", Mode::Executable, program("agent")),
        file("bin/vpn-node", Mode::Executable, program("cli")),
        file("bin/vpn-node-updater", Mode::Executable, program("updater")),
        file("share/data", Mode::Plain, data),
    ];
    let about = About {
        version: version.clone(),
        platform: Platform::here(),
        state_format,
        mtime: 0,
        effort: Effort::Quick,
    };
    let mut bytes = Vec::new();
    pack(&mut bytes, &about, entries).unwrap();
    bytes
}

/// As the package manager would lay it down.
pub(crate) fn unpack_to(parent: &Path, name: &str, package: &[u8], version: &Version) {
    let mut repository = Repository::new();
    repository.add(version, |_| ());
    let (info, _) = repository.releases.values().next().unwrap();
    let custom = info.to_custom().unwrap();
    let length = package.len() as u64;
    let signed = Signed::new(
        &info.target_path(),
        length,
        Digest::of(package),
        Some(&custom),
    );
    let verified = signed
        .unwrap()
        .verify(std::io::Cursor::new(package))
        .unwrap();
    let name = EntryPath::parse(name.as_bytes()).unwrap();
    let mut sink = DirSink::create(parent, &name).unwrap();
    let unpacked = unpack(verified, &mut sink, &Limits::default()).unwrap();
    sink.mark(&unpacked.tree).unwrap();
}

fn at(second: i64) -> Instant {
    Instant::from_second(second).unwrap()
}
