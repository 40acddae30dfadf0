//! A repository whose every file a test may change, and a host that keeps a trust store.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::PathBuf;

use ed25519_dalek::SigningKey;
use jiff::{Timestamp as Instant, ToSpan as _};
use serde_json::{Value, json};
use vpn_node_release::author::{public_key, sign};
use vpn_node_release::code::MetadataCode;
use vpn_node_release::metadata::{
    DelegatedRole, Envelope, Extra, Hashes, Key, MetaFile, Rejection, RoleKeys, Root, Snapshot,
    TargetFile, Targets, Timestamp, TopRole,
};
use vpn_node_release::trust::{
    Fetch, FetchError, FileStore, HighWater, Repository, Summary, TargetInfo, install_root,
};

/// The path of the release that the repository has from its beginning.
pub(crate) const RELEASE: &str = "vpn-node/1.5.0/linux-amd64.tar.zst";
/// Its content.
pub(crate) const PACKAGE: &[u8] = b"a package";

/// The instant at which everything happens unless a test says otherwise.
pub(crate) fn now() -> Instant {
    "2026-11-22T12:00:00Z".parse().unwrap()
}

pub(crate) fn key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

pub(crate) fn days(count: i64) -> Instant {
    now() + (count * 24).hours()
}

/// Root 2 of 3 (keys 1, 2, 3), targets 1 of 2 (keys 11, 12), snapshot and timestamp on key 21.
pub(crate) struct World {
    pub(crate) files: BTreeMap<String, Vec<u8>>,
    pub(crate) packages: BTreeMap<String, Vec<u8>>,
    pub(crate) root: Root,
    pub(crate) root_keys: Vec<SigningKey>,
    pub(crate) targets: Targets,
    pub(crate) targets_keys: Vec<SigningKey>,
    pub(crate) snapshot: Snapshot,
    pub(crate) timestamp: Timestamp,
    pub(crate) online: SigningKey,
    pub(crate) requests: Vec<String>,
    /// Names that answer without end.
    pub(crate) endless: Vec<String>,
}

impl World {
    pub(crate) fn new() -> Self {
        let mut world = Self {
            files: BTreeMap::new(),
            packages: BTreeMap::new(),
            root: Root::new(1, now(), days(365)),
            root_keys: vec![key(1), key(2), key(3)],
            targets: Targets::new(1, now(), days(90)),
            targets_keys: vec![key(11), key(12)],
            snapshot: Snapshot::new(1, now(), days(7), MetaFile::of(1, b"")),
            timestamp: Timestamp::new(1, now(), days(7), MetaFile::of(1, b"")),
            online: key(21),
            requests: Vec::new(),
            endless: Vec::new(),
        };
        world.set_role_keys();
        world.put_root();
        world.add_target(RELEASE, PACKAGE);
        world.put_targets();
        world.put_snapshot();
        world.put_timestamp();
        world
    }

    /// Root metadata with the keys of the fields.
    pub(crate) fn set_role_keys(&mut self) {
        self.root
            .set_role(TopRole::Root, &publics(&self.root_keys), 2);
        self.root
            .set_role(TopRole::Targets, &publics(&self.targets_keys), 1);
        for role in [TopRole::Snapshot, TopRole::Timestamp] {
            self.root.set_role(role, &[public_key(&self.online)], 1);
        }
    }

    pub(crate) fn add_target(&mut self, path: &str, content: &[u8]) {
        let file = TargetFile {
            length: content.len() as u64,
            hashes: Hashes::sha256_of(content),
            custom: Some(custom()),
            extra: Extra::new(),
        };
        let hash = file.hashes.sha256().unwrap();
        let (folder, name) = path.rsplit_once('/').unwrap();
        self.packages
            .insert(format!("{folder}/{hash}.{name}"), content.to_owned());
        self.targets.targets.insert(path.to_owned(), file);
    }

    /// `targets` speaks through a new role for `paths`; the role's metadata is published too.
    pub(crate) fn delegate(
        &mut self,
        name: &str,
        signer: &SigningKey,
        paths: &[&str],
        terminating: bool,
    ) {
        let delegations = self.targets.delegations.get_or_insert_default();
        let key = public_key(signer);
        delegations.keys.insert(key.id(), key.clone());
        delegations
            .roles
            .push(delegated(name, &key, paths, terminating));
    }

    pub(crate) fn put_root(&mut self) {
        let signers: Vec<&SigningKey> = self.root_keys.iter().take(2).collect();
        let bytes = sign(&self.root, &signers).unwrap().to_bytes();
        let version = self.root.header.version;
        self.files.insert(format!("{version}.root.json"), bytes);
    }

    pub(crate) fn put_targets(&mut self) {
        let bytes = sign(&self.targets, &[&self.targets_keys[0]])
            .unwrap()
            .to_bytes();
        self.put("targets", self.targets.header.version, bytes);
    }

    /// Targets metadata of a delegated role, listed in the next snapshot.
    pub(crate) fn put_delegated(&mut self, name: &str, targets: &Targets, signer: &SigningKey) {
        let bytes = sign(targets, &[signer]).unwrap().to_bytes();
        self.put(name, targets.header.version, bytes);
    }

    /// A targets file with these bytes, listed in the next snapshot.
    pub(crate) fn put(&mut self, role: &str, version: u64, bytes: Vec<u8>) {
        let entry = MetaFile::of(version, &bytes);
        self.snapshot.meta.insert(format!("{role}.json"), entry);
        let name = vpn_node_release::metadata::name::file_name(role, Some(version));
        self.files.insert(name, bytes);
    }

    pub(crate) fn put_snapshot(&mut self) {
        let bytes = sign(&self.snapshot, &[&self.online]).unwrap().to_bytes();
        self.put_snapshot_bytes(bytes);
    }

    pub(crate) fn put_snapshot_bytes(&mut self, bytes: Vec<u8>) {
        let version = self.snapshot.header.version;
        let entry = MetaFile::of(version, &bytes);
        self.timestamp
            .meta
            .insert("snapshot.json".to_owned(), entry);
        self.files.insert(format!("{version}.snapshot.json"), bytes);
    }

    pub(crate) fn put_timestamp(&mut self) {
        let bytes = sign(&self.timestamp, &[&self.online]).unwrap().to_bytes();
        self.files.insert("timestamp.json".to_owned(), bytes);
    }

    /// The next version of snapshot and timestamp, over whatever `put` has listed.
    pub(crate) fn publish_online(&mut self) {
        self.snapshot.header.version += 1;
        self.put_snapshot();
        self.timestamp.header.version += 1;
        self.put_timestamp();
    }

    /// The next version of targets, snapshot and timestamp.
    pub(crate) fn publish(&mut self) {
        self.targets.header.version += 1;
        self.put_targets();
        self.publish_online();
    }

    /// The next root with the keys of the fields, signed by the first two old and new root keys.
    pub(crate) fn publish_root(&mut self, old: &[SigningKey]) {
        self.root.header.version += 1;
        self.set_role_keys();
        let mut envelope = Envelope::new(&self.root).unwrap();
        for key in old.iter().take(2).chain(self.root_keys.iter().take(2)) {
            envelope.sign(key).unwrap();
        }
        let name = format!("{}.root.json", self.root.header.version);
        self.files.insert(name, envelope.to_bytes());
    }

    /// Changes one file as JSON, signatures as they are.
    pub(crate) fn tamper(&mut self, name: &str, change: impl FnOnce(&mut Value)) {
        let mut value: Value = serde_json::from_slice(&self.files[name]).unwrap();
        change(&mut value);
        self.files
            .insert(name.to_owned(), serde_json::to_vec(&value).unwrap());
    }

    /// Signs one file anew with these keys, and with nothing else, after a change.
    pub(crate) fn resign(
        &mut self,
        name: &str,
        keys: &[&SigningKey],
        change: impl FnOnce(&mut Value),
    ) {
        let mut envelope: Envelope = serde_json::from_slice(&self.files[name]).unwrap();
        envelope.signatures.clear();
        change(&mut envelope.signed);
        for key in keys {
            envelope.sign(key).unwrap();
        }
        self.files.insert(name.to_owned(), envelope.to_bytes());
    }

    /// A host that was told root 1 and nothing else.
    pub(crate) fn host(&self) -> Host {
        let dir = tempfile::tempdir().unwrap();
        let mut store = FileStore::open(dir.path()).unwrap();
        install_root(&mut store, &self.files["1.root.json"], false).unwrap();
        Host { dir }
    }
}

impl Fetch for World {
    fn metadata(&mut self, name: &str, limit: u64) -> Result<Option<Vec<u8>>, FetchError> {
        self.requests.push(name.to_owned());
        if self.endless.iter().any(|endless| endless == name) {
            return vpn_node_release::trust::fetch::read_bounded(std::io::repeat(b' '), limit)
                .map(Some);
        }
        Ok(self.files.get(name).cloned())
    }

    fn target(&mut self, url_path: &str) -> Result<Box<dyn Read + '_>, FetchError> {
        self.requests.push(url_path.to_owned());
        if self.endless.iter().any(|endless| endless == url_path) {
            return Ok(Box::new(std::io::repeat(b'x')));
        }
        let package = self.packages.get(url_path).ok_or(FetchError::NotFound)?;
        Ok(Box::new(&package[..]))
    }
}

pub(crate) fn delegated(name: &str, key: &Key, paths: &[&str], terminating: bool) -> DelegatedRole {
    DelegatedRole {
        name: name.to_owned(),
        keys: RoleKeys::new(std::slice::from_ref(key), 1),
        terminating,
        paths: Some(paths.iter().map(|&path| path.to_owned()).collect()),
        path_hash_prefixes: None,
    }
}

fn publics(keys: &[SigningKey]) -> Vec<Key> {
    keys.iter().map(public_key).collect()
}

fn custom() -> Extra {
    match json!({"vpn_node": {"counter": 1}}) {
        Value::Object(map) => map,
        _ => unreachable!(),
    }
}

/// A host's trust store.
pub(crate) struct Host {
    pub(crate) dir: tempfile::TempDir,
}

impl Host {
    pub(crate) fn open(&self, at: Instant) -> Result<Repository<FileStore>, Rejection> {
        Repository::open(FileStore::open(self.dir.path()).unwrap(), at)
    }

    pub(crate) fn refresh(&self, world: &mut World) -> Result<Summary, Rejection> {
        self.refresh_at(world, now())
    }

    pub(crate) fn refresh_at(&self, world: &mut World, at: Instant) -> Result<Summary, Rejection> {
        self.open(at)?.refresh(world)
    }

    pub(crate) fn target(&self, world: &mut World, path: &str) -> Result<TargetInfo, Rejection> {
        let mut repository = self.open(now())?;
        repository.refresh(world)?;
        repository.target(world, path)
    }

    /// Every file of the store with its bytes.
    pub(crate) fn files(&self) -> BTreeMap<String, Vec<u8>> {
        std::fs::read_dir(self.dir.path())
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                let name = entry.file_name().into_string().unwrap();
                (name, std::fs::read(entry.path()).unwrap())
            })
            .collect()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn high_water(&self) -> HighWater {
        HighWater::from_bytes(&self.files()["highwater.a"]).unwrap()
    }

    /// A refresh is refused with this code, and the store is the same to the byte.
    #[track_caller]
    pub(crate) fn refuses(&self, world: &mut World, code: MetadataCode) -> Rejection {
        self.refuses_after(world, code, &[])
    }

    /// The same, where roles above the bad one are newer and good: they are kept (the specification
    /// saves each after it was verified), everything else is the same to the byte; and once they
    /// are kept, a second refusal changes nothing at all.
    #[track_caller]
    pub(crate) fn refuses_after(
        &self,
        world: &mut World,
        code: MetadataCode,
        kept: &[&str],
    ) -> Rejection {
        let before = self.files();
        let rejection = self.refresh(world).expect_err("it must be refused");
        assert_eq!(rejection.code, code, "{rejection}");
        let mut after = self.files();
        if !kept.is_empty() {
            let again = self.refresh(world).expect_err("it must be refused again");
            assert_eq!(again, rejection);
            assert_eq!(self.files(), after, "the second refusal changed something");
        }
        let mut before = before;
        for name in kept {
            before.remove(*name);
            after.remove(*name).expect(name);
        }
        if !kept.is_empty() {
            for copy in ["highwater.a", "highwater.b"] {
                before.remove(copy);
                after.remove(copy);
            }
        }
        assert_eq!(before, after, "a refusal changed the store");
        rejection
    }
}
