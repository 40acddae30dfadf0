//! A change of the identity is cut off before every change of a file, and the host starts again.

use std::cell::Cell;

use getrandom::SysRng;
use getrandom::rand_core::UnwrapErr;
use vpn_node_protocol::encoding::{Digest, Hex};
use vpn_node_protocol::envelope::Envelope;
use vpn_node_protocol::message::Poll;
use zeroize::Zeroizing;

use super::*;

thread_local! {
    /// Changes of files until the host stops; it never does by itself.
    static LEFT: Cell<u32> = const { Cell::new(u32::MAX) };
}

/// Stops the host here when the count says so, and everywhere after that.
pub(super) fn crash_point() -> Result<(), StateError> {
    match LEFT.get().checked_sub(1) {
        Some(left) => {
            LEFT.set(left);
            Ok(())
        }
        None => Err(StateError::NotEnrolled),
    }
}

const SERVER: &str = "0199-server";

fn rng() -> UnwrapErr<SysRng> {
    UnwrapErr(SysRng)
}

/// In memory where there is such a place: hundreds of starts are tried here, and none of them
/// tests the disk.
fn memory() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| tempfile::tempdir().unwrap())
}

fn token(n: u8) -> PublicKey {
    (&SigningKey::from_bytes(&[n; 32])).into()
}

fn envelope(key: &SigningKey) -> Envelope {
    let any = Poll {
        server_id: SERVER.into(),
        epoch: 1,
        nonce: Hex([0; 32]),
        boot_id: uuid::Uuid::nil(),
        request_id: uuid::Uuid::nil(),
        wait_s: 0,
    };
    Envelope::sign(&any, &[key])
}

fn enrolment(epoch: u32, key: &SigningKey) -> Enrolment {
    Enrolment {
        version: 1,
        server_id: SERVER.into(),
        epoch,
        enrolled_ms: i64::from(epoch),
        urls: vec!["https://controller.example".into()],
        root_pin: Digest::of(&[b"root"]),
        server_pin: None,
        identity_key: key.into(),
        registration_key: None,
        certificate: envelope(key),
    }
}

fn lane(epoch: u32, key: &SigningKey) -> LaneState {
    LaneState::enrolled(SERVER, epoch, key.into(), Hex([1; 32]), 0)
}

/// An enrolled host, and what must never change: the key of its session hashes.
fn enrolled(dir: &Path) -> (StateDir, Zeroizing<[u8; 32]>) {
    LEFT.set(u32::MAX);
    let state = StateDir::new(dir);
    let begun = state.begin_enrolment(token(1), &mut rng()).unwrap();
    state.create_lane(&lane(1, &begun.key)).unwrap();
    state.finish_enrolment(&enrolment(1, &begun.key)).unwrap();
    let sessions = state.any_identity().unwrap().session_key();
    (state, sessions)
}

/// What a start finds: exactly one identity, and everything agrees on it.
fn start(state: &StateDir) -> (Enrolment, SigningKey) {
    LEFT.set(u32::MAX);
    state.finish_change(&mut rng()).unwrap();
    let enrolment = state.enrolment().unwrap().unwrap();
    let identity = state.identity(&enrolment).unwrap();
    let (lane, _) = state.lane(&enrolment).unwrap();
    assert_eq!(lane.identity_key, Some(enrolment.identity_key));
    assert!(!state.path.join(NEXT_ENROLMENT).exists());
    (enrolment, identity.key)
}

/// A rotation as the daemon does it: key, request, reply, new lane.
fn rotate(state: &StateDir) -> Result<PublicKey, StateError> {
    let enrolment = state.enrolment()?.ok_or(StateError::NotEnrolled)?;
    let next = match state.next_key() {
        Some(begun) => begun,
        None => {
            let next = Identity::random(&mut rng()).key;
            state.store_next_key(&next, &mut rng())?;
            next
        }
    };
    let (mut old, mut file) = state.lane(&enrolment)?;
    old.pending = Some(envelope(&next));
    crash_point()?;
    file.store(&old)?;
    crash_point()?;
    file.store(&lane(enrolment.epoch + 1, &next))?;
    state.finish_change(&mut rng())?;
    Ok((&next).into())
}

/// A new enrolment with the token `n`.
fn enrol_anew(state: &StateDir, n: u8) -> Result<PublicKey, StateError> {
    state.finish_change(&mut rng())?;
    let epoch = state.enrolment()?.ok_or(StateError::NotEnrolled)?.epoch + 1;
    let pending = match state.pending_reenrolment(token(n))? {
        Some(pending) => pending,
        None => state.begin_reenrolment(token(n), &mut rng())?,
    };
    state.finish_reenrolment(
        &enrolment(epoch, &pending.key),
        &lane(epoch, &pending.key),
        &mut rng(),
    )?;
    Ok((&pending.key).into())
}

/// How many changes of files the whole of it makes.
fn operations<T>(all: impl FnOnce() -> Result<T, StateError>) -> u32 {
    LEFT.set(1000);
    all().unwrap();
    1000 - LEFT.get()
}

type Change = fn(&StateDir) -> Result<PublicKey, StateError>;

#[test]
fn a_change_that_is_cut_off_anywhere_leaves_one_identity_and_can_be_finished() {
    let changes: [(&str, Change, u32); 2] = [
        ("rotation", rotate, 5),
        ("enrolment", |state| enrol_anew(state, 2), 8),
    ];
    for (name, change, expected) in changes {
        let dir = memory();
        let (state, _) = enrolled(dir.path());
        let count = operations(|| change(&state));
        assert_eq!(count, expected, "{name}: is one missing here?");
        for cut in 0..count {
            let dir = memory();
            let (state, sessions) = enrolled(dir.path());
            let old = state.enrolment().unwrap().unwrap().identity_key;
            LEFT.set(cut);
            change(&state).unwrap_err();
            let (found, key) = start(&state);
            let is_new = found.identity_key != old;
            assert_eq!(found.epoch, 1 + u32::from(is_new), "{name}, {cut}");
            let kept = state.any_identity().unwrap().session_key();
            assert_eq!(kept, sessions, "{name}, {cut}");
            let waits = state.path.join(NEXT_IDENTITY).exists();
            assert!(!(is_new && waits), "{name}, {cut}: a key is left");
            if !is_new {
                let done = change(&state).unwrap();
                let (found, _) = start(&state);
                assert_eq!(
                    (found.identity_key, found.epoch),
                    (done, 2),
                    "{name}, {cut}"
                );
                assert_ne!(state.any_identity().unwrap().key, key);
            }
            assert!(!state.path.join(NEXT_IDENTITY).exists());
            assert_eq!(state.any_identity().unwrap().session_key(), sessions);
        }
    }
}

#[test]
fn a_rotation_and_an_enrolment_cut_off_one_after_the_other_leave_one_identity() {
    let changes: [Change; 2] = [rotate, |state| enrol_anew(state, 2)];
    for first in 0..2 {
        for cut in 0..8 {
            for second_cut in 0..8 {
                let dir = memory();
                let (state, sessions) = enrolled(dir.path());
                LEFT.set(cut);
                let _ = changes[first](&state);
                // The daemon need not have run between them.
                LEFT.set(second_cut);
                let _ = changes[1 - first](&state);
                start(&state);
                let done = enrol_anew(&state, 3).unwrap();
                let (found, _) = start(&state);
                assert_eq!(found.identity_key, done, "{first}, {cut}, {second_cut}");
                assert_eq!(state.any_identity().unwrap().session_key(), sessions);
            }
        }
    }
}

#[test]
fn a_key_that_waits_is_the_rotations_or_the_enrolments_never_both() {
    let dir = memory();
    let (state, _) = enrolled(dir.path());
    assert!(state.next_key().is_none());
    let next = Identity::random(&mut rng()).key;
    state.store_next_key(&next, &mut rng()).unwrap();
    assert_eq!(state.next_key(), Some(next));
    assert!(state.pending_reenrolment(token(2)).unwrap().is_none());

    let begun = state.begin_reenrolment(token(2), &mut rng()).unwrap();
    assert!(state.next_key().is_none());
    assert!(state.pending_enrolment(token(2)).unwrap().is_none());
    let again = state.pending_reenrolment(token(2)).unwrap().unwrap();
    assert_eq!(
        (again.key, again.idempotency_id),
        (begun.key, begun.idempotency_id)
    );
    assert!(state.pending_reenrolment(token(3)).unwrap().is_none());

    let next = Identity::random(&mut rng()).key;
    state.store_next_key(&next, &mut rng()).unwrap();
    assert!(state.pending_reenrolment(token(2)).unwrap().is_none());
    state.drop_next_key(&mut rng()).unwrap();
    assert!(state.next_key().is_none());
}

#[test]
fn the_old_secret_is_nowhere_in_the_directory_and_its_bytes_are_overwritten() {
    use base64::Engine as _;
    use std::os::unix::fs::FileExt as _;
    let dir = memory();
    let (state, _) = enrolled(dir.path());
    let old = state.any_identity().unwrap().key;
    let file = File::open(state.path.join(IDENTITY)).unwrap();
    let in_base64 = |key: &SigningKey| {
        let text = base64::engine::general_purpose::STANDARD.encode(key.as_bytes());
        text.as_bytes()[..40].to_vec()
    };
    let holds = |key: &SigningKey| {
        let files = std::fs::read_dir(dir.path()).unwrap();
        let files = files.map(|entry| std::fs::read(entry.unwrap().path()).unwrap());
        let text = in_base64(key);
        files
            .filter(|file| file.windows(40).any(|w| w == text))
            .count()
    };
    assert_eq!(holds(&old), 1, "the control");
    rotate(&state).unwrap();
    assert_eq!(holds(&old), 0);
    assert_eq!(holds(&state.any_identity().unwrap().key), 1);
    let mut bytes = vec![1; 200];
    let length = file.read_at(&mut bytes, 0).unwrap();
    assert!(length > 40 && bytes[..length].iter().all(|byte| *byte == 0));
}

#[test]
fn a_host_without_the_key_in_force_does_not_start_with_another() {
    let dir = memory();
    let (state, _) = enrolled(dir.path());
    let elsewhere = Identity::random(&mut rng()).key;
    state.create_lane(&lane(2, &elsewhere)).unwrap();
    let error = state.finish_change(&mut rng()).unwrap_err();
    assert!(matches!(error, StateError::Mixed { .. }), "{error}");
}

#[test]
fn a_lane_of_a_version_that_named_no_key_is_taken_and_rotates() {
    let dir = memory();
    let (state, _) = enrolled(dir.path());
    let found = state.enrolment().unwrap().unwrap();
    let mut json = serde_json::to_value(state.lane(&found).unwrap().0).unwrap();
    assert!(
        json.as_object_mut()
            .unwrap()
            .remove("identity_key")
            .is_some()
    );
    assert!(json.get("rotations").is_none(), "none were made");
    let old: LaneState = serde_json::from_value(json).unwrap();
    state.create_lane(&old).unwrap();
    state.finish_change(&mut rng()).unwrap();
    assert_eq!(state.lane(&found).unwrap().0, old);
    let done = rotate(&state).unwrap();
    assert_eq!(start(&state).0.identity_key, done);
}

#[test]
fn a_key_that_waited_in_plain_is_sealed_before_it_takes_a_sealed_ones_place() {
    let dir = memory();
    let (state, sessions) = enrolled(dir.path());
    let next = Identity::random(&mut rng()).key;
    state.store_next_key(&next, &mut rng()).unwrap();
    let kek = super::super::Kek::random(&mut rng());
    let identity = state.any_identity().unwrap();
    let state = state.with_kek(Some(kek));
    state.identity_store().write(&identity, &mut rng()).unwrap();
    state.create_lane(&lane(2, &next)).unwrap();
    let (found, key) = start(&state);
    assert_eq!((found.epoch, &key), (2, &next));
    assert_eq!(state.identity_store().is_sealed().unwrap(), Some(true));
    assert_eq!(state.any_identity().unwrap().session_key(), sessions);
}
