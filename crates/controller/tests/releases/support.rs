//! Repositories, people with keys, packages, and a host that looks.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use ed25519_dalek::SigningKey;
use jiff::{SignedDuration, Timestamp};
use vpn_node_controller::releases::adding::{self, Wish};
use vpn_node_controller::releases::ceremony::{self, Plan};
use vpn_node_controller::releases::key_file::{self, Cost};
use vpn_node_controller::releases::passphrase::Passphrase;
use vpn_node_controller::releases::publish::Outcome;
use vpn_node_controller::releases::stage::Stage;
use vpn_node_controller::releases::{ReleaseError, Tree, online, signing};
use vpn_node_release::author;
use vpn_node_release::bundle::{About, Content, Effort, Entry, EntryPath, Mode, pack};
use vpn_node_release::metadata::Key;
use vpn_node_release::release::{ReleaseInfo, StateFormat};
use vpn_node_release::trust::{DirFetch, Fetch, MemoryStore, Repository, Summary, install_root};
use vpn_node_release::version::{Platform, Version, Word};
use zeroize::Zeroizing;

/// A day in the life of these repositories.
pub(crate) const START: &str = "2026-11-22T12:00:00Z";
/// What opens every key file of these tests.
pub(crate) const WORDS: &str = "correct horse battery";
/// Quick to open.
pub(crate) const CHEAP: Cost = Cost {
    memory_kib: 16,
    passes: 1,
    lanes: 1,
};

pub(crate) fn start() -> Timestamp {
    START.parse().unwrap()
}

pub(crate) fn days(days: i64) -> SignedDuration {
    SignedDuration::from_hours(24 * days)
}

pub(crate) fn version(text: &str) -> Version {
    Version::parse(text).unwrap()
}

/// A machine with a repository, and the people who sign there.
pub(crate) struct Machine {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) tree: Tree,
    pub(crate) people: BTreeMap<&'static str, SigningKey>,
    pub(crate) now: Timestamp,
}

impl Machine {
    /// Nothing there yet.
    pub(crate) fn empty() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self {
            tree: Tree::at(dir.path().join("releases")),
            dir,
            people: BTreeMap::new(),
            now: start(),
        }
    }

    /// Everything on one machine: root 2 of anna, ben, cora; targets 1 of tom, tina; online key.
    pub(crate) fn whole() -> Self {
        let mut machine = Self::empty();
        let online = online::create(&machine.tree).unwrap().0;
        let outcome = machine.init(online, 1).unwrap();
        assert!(outcome.live);
        machine
    }

    /// The first root, signed by two people, and the empty list of releases.
    pub(crate) fn init(
        &mut self,
        online: Key,
        targets_threshold: u32,
    ) -> Result<Outcome, ReleaseError> {
        for (seed, name) in [
            (1, "anna"),
            (2, "ben"),
            (3, "cora"),
            (4, "tom"),
            (5, "tina"),
        ] {
            self.people
                .insert(name, SigningKey::from_bytes(&[seed; 32]));
        }
        let plan = Plan {
            root: self.keys(&["anna", "ben", "cora"]),
            root_threshold: 2,
            targets: self.keys(&["tom", "tina"]),
            targets_threshold,
            online,
            root_lifetime: days(365),
            targets_lifetime: days(365),
        };
        ceremony::init(&self.tree, &plan, self.now)?;
        self.sign(&["anna", "cora", "tom", "tina"])
    }

    pub(crate) fn keys(&self, names: &[&str]) -> Vec<Key> {
        names
            .iter()
            .map(|name| author::public_key(&self.people[name]))
            .collect()
    }

    pub(crate) fn sign(&self, names: &[&str]) -> Result<Outcome, ReleaseError> {
        let keys: Vec<SigningKey> = names.iter().map(|name| self.people[name].clone()).collect();
        signing::sign(&self.tree, &Stage::load(&self.tree)?, &keys, self.now)
    }

    /// A package of this version for amd64, with content of its own.
    pub(crate) fn package(&self, text: &str) -> PathBuf {
        self.package_of(text, "linux-amd64", b"a program")
    }

    pub(crate) fn package_of(&self, text: &str, platform: &str, content: &[u8]) -> PathBuf {
        let path = self.dir.path().join(format!("{text}-{platform}.tar.zst"));
        let about = About {
            version: version(text),
            platform: Platform::parse(platform).unwrap(),
            state_format: StateFormat::only(1),
            mtime: 0,
            effort: Effort::Quick,
        };
        let program = Entry {
            path: EntryPath::parse(b"bin/vpn-node-agent").unwrap(),
            mode: Mode::Executable,
            content: Content::Bytes([content, text.as_bytes()].concat()),
        };
        pack(fs::File::create(&path).unwrap(), &about, vec![program]).unwrap();
        path
    }

    pub(crate) fn add(&self, text: &str) -> Result<ReleaseInfo, ReleaseError> {
        adding::add(&self.tree, &self.package(text), &wish(), self.now)
    }

    /// Added and signed by one.
    pub(crate) fn release(&self, text: &str) -> ReleaseInfo {
        let info = self.add(text).unwrap();
        let outcome = self.sign(&["tom"]).unwrap();
        assert!(outcome.targets.is_some(), "{outcome:?}");
        info
    }

    pub(crate) fn first_root(&self) -> Vec<u8> {
        fs::read(self.tree.dir().join("metadata/1.root.json")).unwrap()
    }

    /// A host that trusts the first root.
    pub(crate) fn host(&self) -> Host {
        Host::trusting(&self.first_root())
    }

    pub(crate) fn fetch(&self) -> DirFetch {
        DirFetch::below(self.tree.dir())
    }
}

pub(crate) fn wish() -> Wish {
    Wish {
        channel: Word::parse("stable").unwrap(),
        security_floor: None,
        min_version: None,
        mandatory: false,
        description: "faster".into(),
        lifetime: days(365),
    }
}

/// What a host remembers.
pub(crate) struct Host {
    store: MemoryStore,
}

impl Host {
    pub(crate) fn trusting(root: &[u8]) -> Self {
        let mut store = MemoryStore::default();
        install_root(&mut store, root, false).unwrap();
        Self { store }
    }

    /// A refresh; what was verified is remembered, as on a host.
    pub(crate) fn refresh(
        &mut self,
        fetch: &mut dyn Fetch,
        now: Timestamp,
    ) -> Result<Summary, String> {
        let mut client =
            Repository::open(Shared(&mut self.store), now).map_err(|e| e.to_string())?;
        client
            .refresh(fetch)
            .map_err(|error| format!("{}: {error}", error.code))
    }

    /// A refresh, and the package to the last byte.
    pub(crate) fn download(
        &mut self,
        fetch: &mut dyn Fetch,
        path: &str,
        now: Timestamp,
    ) -> Result<Vec<u8>, String> {
        let said =
            |error: vpn_node_release::metadata::Rejection| format!("{}: {error}", error.code);
        let mut client = Repository::open(Shared(&mut self.store), now).map_err(said)?;
        client.refresh(fetch).map_err(said)?;
        let info = client.target(fetch, path).map_err(said)?;
        let mut bytes = Vec::new();
        info.download(fetch, &mut bytes).map_err(said)?;
        Ok(bytes)
    }
}

/// The client takes its store; a host goes on with it.
struct Shared<'a>(&'a mut MemoryStore);

impl vpn_node_release::trust::Store for Shared<'_> {
    fn load(&self, name: &str) -> Result<Option<Vec<u8>>, vpn_node_release::trust::StoreError> {
        self.0.load(name)
    }
    fn save(
        &mut self,
        name: &str,
        bytes: &[u8],
    ) -> Result<(), vpn_node_release::trust::StoreError> {
        self.0.save(name, bytes)
    }
    fn high_water(
        &self,
    ) -> Result<Option<vpn_node_release::trust::store::Loaded>, vpn_node_release::trust::StoreError>
    {
        self.0.high_water()
    }
    fn save_high_water(
        &mut self,
        value: &vpn_node_release::trust::HighWater,
    ) -> Result<(), vpn_node_release::trust::StoreError> {
        self.0.save_high_water(value)
    }
}

/// A key file that opens with [`WORDS`].
pub(crate) fn key_file(path: &Path) -> SigningKey {
    let words = Passphrase::new(Zeroizing::new(WORDS.into())).unwrap();
    key_file::create(path, &words, CHEAP).unwrap()
}

/// Every file below a directory with its bytes, but for the lock.
pub(crate) fn snapshot(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut open = vec![dir.to_owned()];
    while let Some(dir) = open.pop() {
        let Ok(entries) = fs::read_dir(&dir) else {
            continue;
        };
        for entry in entries {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else if !path.ends_with("lock") {
                files.insert(path.clone(), fs::read(path).unwrap());
            }
        }
    }
    files
}
