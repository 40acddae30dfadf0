//! From what came in to a package that may be installed here: TUF's workflow with the updater's own
//! store, then the policy with the updater's own facts. What the agent verified counts for nothing.

use std::io::{self, Read};

use jiff::Timestamp;
use vpn_node_release::bundle::Signed;
use vpn_node_release::code::{PolicyCode, UpdaterCode};
use vpn_node_release::digest::Digest;
use vpn_node_release::metadata::Rejection;
use vpn_node_release::policy::{self, Candidate, HostFacts, Permit, Running};
use vpn_node_release::release::{PRODUCT, ReleaseInfo, target_path};
use vpn_node_release::trust::store::Loaded;
use vpn_node_release::trust::{
    Fetch, FetchError, FileStore, HighWater, MemoryStore, ReleaseMark, Repository, Store,
    StoreError, not_before,
};
use vpn_node_release::version::{Platform, Version, Word};

use crate::clock::Now;
use crate::config::Config;
use crate::disk::Disk;
use crate::error::{Kind, UpdateError};
use crate::hold::Hold;
use crate::incoming::Incoming;
use crate::journal::Slot;
use crate::layout::Layout;
use crate::{slots, snapshot};

/// What is trusted on this host.
pub type Trusted = Repository<Kept>;

/// A genuine release, and where its package lies in what came in.
#[derive(Clone, Debug)]
pub struct Found {
    /// What is signed about the package.
    pub signed: Signed,
    /// Its path below `targets/`.
    pub url_path: String,
    /// The role that speaks for it.
    pub role: String,
}

/// Opens the trust store. With `trace` nothing of what follows is kept: for a plan.
///
/// # Errors
/// `no_trust`, `trust_store_unreadable`.
pub fn open(layout: &Layout, disk: &Disk, now: Now, trace: bool) -> Result<Trusted, UpdateError> {
    let store = Kept::open(layout, disk, trace)?;
    let now = Timestamp::from_millisecond(now.wall_ms).unwrap_or(Timestamp::UNIX_EPOCH);
    Ok(Repository::open(store, not_before(now, &built()))?)
}

/// Refreshes from `fetch` and finds the release of `version` for this platform.
///
/// # Errors
/// Whatever metadata is refused for; nothing that was trusted has changed then.
pub fn find(
    trusted: &mut Trusted,
    fetch: &mut dyn Fetch,
    version: &Version,
) -> Result<Found, UpdateError> {
    let path = target_path(version, &Platform::here());
    let target = trusted.target(fetch, &path)?;
    Ok(Found {
        signed: Signed::from_target(&target)?,
        url_path: target.url_path(),
        role: target.role,
    })
}

/// Asks the policy whether this release may follow what is installed.
///
/// # Errors
/// The refusal; what is needed to judge cannot be read.
pub fn judge(
    layout: &Layout,
    config: &Config,
    now: Now,
    trusted: &Trusted,
    found: &Found,
) -> Result<Permit, UpdateError> {
    let facts = facts(layout, config, now, trusted)?;
    let candidate = Candidate {
        info: found.signed.info(),
        sha256: found.signed.sha256(),
    };
    policy::judge(candidate, &facts)
        .map_err(|refusal| UpdateError::of(Kind::Refused, refusal.code.as_str(), refusal.sentence))
}

/// Remembers the release for ever, before anything of it is unpacked.
///
/// # Errors
/// `trust_store_unwritable`.
pub fn remember(trusted: &mut Trusted, found: &Found) -> Result<(), UpdateError> {
    let info = found.signed.info();
    let mark = ReleaseMark {
        counter: info.counter,
        sha256: found.signed.sha256().to_string(),
        security_floor: info.security_floor.to_string().parse().ok(),
    };
    let channel = info.channel.to_string();
    Ok(trusted.raise_release(&line(&channel), &mark)?)
}

/// The highest release that was ever accepted here.
///
/// # Errors
/// When it cannot be understood: then nothing may be installed.
pub fn high_water(trusted: &Trusted, channel: &str) -> Result<policy::HighWater, UpdateError> {
    let Some(mark) = trusted.high_water().releases.get(&line(channel)) else {
        return Ok(policy::HighWater::default());
    };
    let lost = |what: &str| {
        UpdateError::failed(
            UpdaterCode::DiskError,
            format!("the trust store remembers a release with {what} that cannot be read"),
        )
    };
    let floor = mark.security_floor.as_ref();
    let floor = floor.map(|floor| Version::parse(&floor.to_string()));
    Ok(policy::HighWater {
        counter: mark.counter,
        package: Some(Digest::parse(&mark.sha256).map_err(|_| lost("a SHA-256"))?),
        security_floor: floor.transpose().map_err(|_| lost("a security floor"))?,
    })
}

/// Refuses a version below the highest security floor that was ever accepted here.
///
/// # Errors
/// `below_security_floor`.
pub fn above_floor(trusted: &Trusted, channel: &str, version: &Version) -> Result<(), UpdateError> {
    match high_water(trusted, channel)?.security_floor {
        Some(floor) if *version < floor => Err(UpdateError::of(
            Kind::Refused,
            PolicyCode::BelowSecurityFloor.as_str(),
            format!(
                "version {version} is below {floor}, and everything below has a known security \
                 defect: install a newer one"
            ),
        )),
        _ => Ok(()),
    }
}

fn facts(
    layout: &Layout,
    config: &Config,
    now: Now,
    trusted: &Trusted,
) -> Result<HostFacts, UpdateError> {
    let hold = Hold::read(layout)?;
    let blocked = hold.blocked.iter().map(|block| block.version.clone());
    Ok(HostFacts {
        platform: Platform::here(),
        channel: Word::parse(&config.channel).map_err(|error| {
            UpdateError::failed(UpdaterCode::ConfigInvalid, format!("channel: {error}"))
        })?,
        running: running(layout, config, trusted)?,
        high_water: high_water(trusted, &config.channel)?,
        blocked: blocked
            .filter(|version| hold.blocked_now(version, now.wall_ms).is_some())
            .collect(),
        pinned: hold.pinned,
        disabled: hold.disabled,
        state_on_disk: snapshot::state_format(layout)?,
    })
}

/// What a boot starts.
fn running(layout: &Layout, config: &Config, trusted: &Trusted) -> Result<Running, UpdateError> {
    let slot = stable(layout)?;
    let manifest = slots::manifest(layout, &slot).ok_or_else(|| {
        UpdateError::failed(
            UpdaterCode::SlotDamaged,
            format!(
                "{} has no manifest that can be read, so nobody can say which version runs; \
                 install the package again",
                slots::path_of(layout, &slot).display()
            ),
        )
    })?;
    let path = target_path(&manifest.version, &Platform::here());
    let listed = trusted.targets().and_then(|all| all.targets.get(&path));
    let info = listed.and_then(|file| ReleaseInfo::from_custom(file.custom.as_ref()).ok());
    // Each channel counts for itself.
    let info = info.filter(|info| info.channel.as_str() == config.channel);
    Ok(Running {
        version: manifest.version,
        listed_counter: info.map(|info| info.counter),
        package: slots::package_of(layout, &slot),
        state_format: manifest.state_format,
    })
}

/// The slot that `stable` leads to.
///
/// # Errors
/// `installation_gone`.
pub fn stable(layout: &Layout) -> Result<Slot, UpdateError> {
    let link = slots::Links::read(layout).stable;
    let slot = link.slot().filter(|slot| slots::is_whole(layout, slot));
    slot.cloned().ok_or_else(|| {
        UpdateError::failed(
            UpdaterCode::InstallationGone,
            format!(
                "{} does not lead to a whole version that the updater knows; install the package \
                 again, or put the link back",
                layout.stable().display()
            ),
        )
    })
}

/// When this program was built, if its builder said so (reproducible-builds.org,
/// `SOURCE_DATE_EPOCH`): it is not earlier now.
fn built() -> Vec<Timestamp> {
    let epoch = option_env!("SOURCE_DATE_EPOCH").and_then(|text| text.parse().ok());
    epoch
        .and_then(|second| Timestamp::from_second(second).ok())
        .into_iter()
        .collect()
}

fn line(channel: &str) -> String {
    format!("{PRODUCT}/{channel}/{}", Platform::here())
}

impl From<Rejection> for UpdateError {
    fn from(rejection: Rejection) -> Self {
        let kind = if rejection.is_outage() {
            Kind::Failed
        } else {
            Kind::Refused
        };
        Self::of(kind, rejection.code.as_str(), rejection.sentence)
    }
}

/// The trust store on disk, behind the gate; or, for a plan, with all changes in memory only.
#[derive(Debug)]
pub struct Kept {
    files: FileStore,
    layout: Layout,
    disk: Disk,
    trace: Option<MemoryStore>,
}

impl Kept {
    /// The store of this host.
    ///
    /// # Errors
    /// When its directory cannot be made.
    pub fn open(layout: &Layout, disk: &Disk, trace: bool) -> Result<Self, UpdateError> {
        let unreadable =
            |error: StoreError| UpdateError::failed(UpdaterCode::DiskError, error.to_string());
        disk.ensure_dir(&layout.trust(), 0o755)?;
        Ok(Self {
            files: FileStore::open(&layout.trust()).map_err(unreadable)?,
            layout: layout.clone(),
            disk: disk.clone(),
            trace: trace.then(MemoryStore::default),
        })
    }

    fn ask(&self) -> Result<(), StoreError> {
        let path = self.layout.trust();
        self.disk
            .ask("write", &path)
            .map_err(|source| StoreError::Io {
                doing: "write",
                path,
                source,
            })
    }
}

impl Store for Kept {
    fn load(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        if let Some(Some(found)) = self
            .trace
            .as_ref()
            .map(|trace| trace.load(name))
            .transpose()?
        {
            return Ok(Some(found));
        }
        self.files.load(name)
    }

    fn save(&mut self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        if let Some(trace) = &mut self.trace {
            return trace.save(name, bytes);
        }
        self.ask()?;
        self.files.save(name, bytes)
    }

    fn high_water(&self) -> Result<Option<Loaded>, StoreError> {
        let traced = self.trace.as_ref().map(Store::high_water).transpose()?;
        if let Some(Some(found)) = traced {
            return Ok(Some(found));
        }
        self.files.high_water()
    }

    fn save_high_water(&mut self, value: &HighWater) -> Result<(), StoreError> {
        if let Some(trace) = &mut self.trace {
            return trace.save_high_water(value);
        }
        self.ask()?;
        self.files.save_high_water(value)
    }
}

/// The agent's directory as a repository. Every file is read once.
#[derive(Debug)]
pub struct FromAgent<'a> {
    incoming: &'a Incoming,
    /// Why a file was not read, if that was the agent's doing: says more than the client can.
    pub refused: Option<UpdateError>,
}

impl<'a> FromAgent<'a> {
    /// Reads below the agent's directory.
    #[must_use]
    pub fn new(incoming: &'a Incoming) -> Self {
        Self {
            incoming,
            refused: None,
        }
    }

    fn failed(&mut self, error: UpdateError) -> FetchError {
        let text = error.sentence.clone();
        self.refused = Some(error);
        FetchError::Failed(text)
    }
}

impl Fetch for FromAgent<'_> {
    fn metadata(&mut self, name: &str, limit: u64) -> Result<Option<Vec<u8>>, FetchError> {
        let read = self.incoming.read(&format!("metadata/{name}"), limit);
        read.map_err(|error| match error.code {
            code if code == UpdaterCode::IncomingTooLarge.as_str() => {
                FetchError::TooLarge { limit }
            }
            _ => self.failed(error),
        })
    }

    fn target(&mut self, url_path: &str) -> Result<Box<dyn Read + '_>, FetchError> {
        match self.incoming.open_file(&format!("targets/{url_path}")) {
            Ok(Some(file)) => Ok(Box::new(file)),
            Ok(None) => Err(FetchError::NotFound),
            Err(error) => Err(self.failed(error)),
        }
    }
}

/// Lets the gate see each piece of a copy.
pub(crate) struct GatedReader<'a, R> {
    pub(crate) from: R,
    pub(crate) disk: &'a Disk,
    pub(crate) layout: &'a Layout,
}

impl<R: Read> Read for GatedReader<'_, R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.disk.ask("write", &self.layout.work())?;
        self.from.read(into)
    }
}
