//! A controller in the hands of an attacker: it cannot sign releases, and chooses among the signed.

use super::*;

/// The package manager brought 1.4.0; nothing was ever accepted by the updater here.
#[test]
fn an_old_release_is_no_way_back_behind_what_the_package_manager_installed() {
    let mut world = World::new();
    world.repository.add(&Version::new(1, 2, 0), |_| ());
    world.ask("1.2.0", 1);
    let error = world.run().unwrap_err();
    assert_eq!(error.code, "counter_lower", "{error}");
    assert_eq!(world.stable(), "1.4.0");
    assert_eq!(world.judge.watched, 0);
}

/// The publisher signed 1.4.0 too, and after it, on purpose, older content with a higher counter.
#[test]
fn a_way_back_that_was_signed_after_the_packages_version_is_taken() {
    let mut world = World::new();
    world
        .repository
        .add(&Version::new(1, 4, 0), |info| info.counter = 7);
    world
        .repository
        .add(&Version::new(1, 2, 0), |info| info.counter = 6);
    world
        .repository
        .add(&Version::new(1, 3, 0), |info| info.counter = 8);
    world.ask("1.2.0", 1);
    assert_eq!(world.run().unwrap_err().code, "counter_lower");
    world.ask("1.3.0", 2);
    world.run().unwrap();
    assert_eq!(world.stable(), "1.3.0");
}
