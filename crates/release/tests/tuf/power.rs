//! The power goes at every single write: what is left works, and nothing older is ever accepted.

use std::cell::RefCell;
use std::rc::Rc;

use vpn_node_release::code::MetadataCode;
use vpn_node_release::trust::store::{Loaded, StoreError};
use vpn_node_release::trust::{HighWater, MemoryStore, Repository, Store, install_root};

use crate::world::{World, key, now};

/// A disk that outlives its host, and that fails from the n-th write on.
#[derive(Clone)]
struct Disk {
    store: Rc<RefCell<MemoryStore>>,
    writes_left: Rc<RefCell<usize>>,
}

impl Disk {
    fn new() -> Self {
        Self {
            store: Rc::default(),
            writes_left: Rc::new(RefCell::new(usize::MAX)),
        }
    }

    fn write(&self) -> Result<(), StoreError> {
        let mut left = self.writes_left.borrow_mut();
        if *left == 0 {
            return Err(StoreError::Io {
                doing: "write",
                path: "disk".into(),
                source: std::io::ErrorKind::StorageFull.into(),
            });
        }
        *left -= 1;
        Ok(())
    }
}

impl Store for Disk {
    fn load(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.store.borrow().load(name)
    }

    fn save(&mut self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        self.write()?;
        self.store.borrow_mut().save(name, bytes)
    }

    fn high_water(&self) -> Result<Option<Loaded>, StoreError> {
        self.store.borrow().high_water()
    }

    fn save_high_water(&mut self, value: &HighWater) -> Result<(), StoreError> {
        self.write()?;
        self.store.borrow_mut().save_high_water(value)
    }
}

fn refresh(disk: &Disk, world: &mut World) -> Result<(), MetadataCode> {
    Repository::open(disk.clone(), now())
        .and_then(|mut repository| repository.refresh(world))
        .map(|_| ())
        .map_err(|rejection| rejection.code)
}

/// Brings a host through `news` with the power going at every write; returns how many there were.
fn at_every_write(before: impl Fn() -> (World, Disk), news: impl Fn(&mut World)) -> usize {
    for cut in 0.. {
        let (mut old, disk) = before();
        let (mut world, _) = before();
        news(&mut world);
        *disk.writes_left.borrow_mut() = cut;
        let ended = refresh(&disk, &mut world);
        *disk.writes_left.borrow_mut() = usize::MAX;
        if ended.is_ok() {
            return cut;
        }
        assert_eq!(ended, Err(MetadataCode::TrustStoreUnwritable), "cut {cut}");
        // After the cut the way goes on, and from then on not back.
        assert_eq!(refresh(&disk, &mut world), Ok(()), "cut {cut}");
        let whole = disk.store.borrow().clone();
        assert_eq!(refresh(&disk, &mut old), Err(MetadataCode::Rollback));
        assert_eq!(*disk.store.borrow(), whole, "cut {cut}");
        assert_eq!(refresh(&disk, &mut world), Ok(()), "cut {cut}");
    }
    unreachable!()
}

fn known() -> (World, Disk) {
    let mut world = World::new();
    for _ in 0..3 {
        world.publish();
    }
    let mut disk = Disk::new();
    install_root(&mut disk, &world.files["1.root.json"], false).unwrap();
    refresh(&disk, &mut world).unwrap();
    (world, disk)
}

#[test]
fn a_refresh_survives_a_power_cut_at_every_write() {
    let writes = at_every_write(known, World::publish);
    assert_eq!(writes, 6, "three files, and the mark after each");
    let writes = at_every_write(known, |world| {
        let old = world.root_keys.clone();
        world.publish_root(&old);
        world.publish_root(&old);
        world.publish();
    });
    assert_eq!(writes, 10);
}

#[test]
fn a_recovery_by_rotation_survives_a_power_cut_at_every_write() {
    for cut in 0..20 {
        let (mut world, disk) = known();
        let honest = world.snapshot.clone();
        world.snapshot.header.version = 1_000_000;
        world.put_snapshot();
        world.timestamp.header.version = 1_000_000;
        world.put_timestamp();
        refresh(&disk, &mut world).unwrap();

        let old = world.root_keys.clone();
        world.online = key(22);
        world.publish_root(&old);
        world.snapshot = honest;
        world.timestamp.header.version = 4;
        world.publish();
        *disk.writes_left.borrow_mut() = cut;
        let _ = refresh(&disk, &mut world);
        *disk.writes_left.borrow_mut() = usize::MAX;
        assert_eq!(refresh(&disk, &mut world), Ok(()), "cut {cut}");
    }
}

#[test]
fn the_first_root_is_installed_whole_or_again() {
    for cut in 0..3 {
        let mut world = World::new();
        let mut disk = Disk::new();
        *disk.writes_left.borrow_mut() = cut;
        let root = world.files["1.root.json"].clone();
        let done = install_root(&mut disk, &root, false).is_ok();
        *disk.writes_left.borrow_mut() = usize::MAX;
        assert_eq!(done, cut >= 2);
        if !done {
            assert!(refresh(&disk, &mut world).is_err());
            install_root(&mut disk, &root, false).unwrap();
        }
        refresh(&disk, &mut world).unwrap();
    }
}
