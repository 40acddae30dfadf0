//! Sealing with a stand-in for systemd-creds that says what a test tells it, with the real program
//! and a host key of the test's own, and with TPMs that are processes (swtpm).

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use vpn_node_protocol::encoding::Hex;
use vpn_node_protocol::envelope::Envelope;
use vpn_node_protocol::keys::PublicKey;

use super::*;
use crate::host::state::{Enrolment, Identity};

/// "Seals" by putting the header of a kind before the secret, with a machine's name: another
/// machine's blob is refused, as a TPM or another host key would.
const STAND_IN: &str = r#"#!/bin/sh
set -eu
test "$2" = --name=vpn-node.identity-key
test "${HOME-none}" = none
case "$1" in
encrypt)
    test "$5 $6" = "- -"
    case "$3" in --with-key=host) kind=$HOST;; --with-key=tpm2) kind=$TPM;; *) kind=$NONE;; esac
    { printf %s "$kind" | xxd -r -p; printf 'MACHINE'; cat; } | base64 ;;
decrypt)
    base64 -d > "$DIR/blob"
    if [ "$(tail -c +17 "$DIR/blob" | head -c 7)" != MACHINE ]; then
        echo "Failed to unseal: wrong machine" >&2; exit 1
    fi
    tail -c +24 "$DIR/blob" ;;
esac
"#;

struct World {
    dir: tempfile::TempDir,
    state: StateDir,
    run: PathBuf,
    identity: Identity,
}

impl World {
    fn enrolled() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::new(dir.path().join("state"));
        let run = dir.path().join("run");
        fs::create_dir(&run).unwrap();
        atomic::create_dir_private(state.path()).unwrap();
        let mut rng = UnwrapErr(SysRng);
        let identity = Identity::random(&mut rng);
        state.identity_store().write(&identity, &mut rng).unwrap();
        let enrolment = Enrolment {
            version: 1,
            server_id: "srv-1".into(),
            epoch: 1,
            enrolled_ms: 0,
            urls: vec!["https://c.example".into()],
            root_pin: Hex([1; 32]),
            server_pin: None,
            identity_key: PublicKey::from(&identity.key),
            registration_key: None,
            certificate: Envelope::parse(
                br#"{"payload":"e30=","payloadType":"x","signatures":[{"keyid":"","sig":"AA=="}]}"#,
                4096,
            )
            .unwrap(),
        };
        state.finish_enrolment(&enrolment).unwrap();
        Self {
            dir,
            state,
            run,
            identity,
        }
    }

    /// The stand-in of this machine.
    fn machine(&self, name: &str) -> PathBuf {
        assert_eq!(name.len(), 7);
        let variables = format!(
            "#!/bin/sh\nDIR={:?} HOST={BY_HOST:032x} TPM={BY_TPM2:032x} NONE={BY_NOTHING:032x}",
            self.dir.path(),
        );
        let text = STAND_IN
            .replacen("#!/bin/sh", &variables, 1)
            .replace("MACHINE", name);
        self.program(name, &text)
    }

    /// A directory with this as `systemd-creds`.
    fn program(&self, name: &str, text: &str) -> PathBuf {
        let dir = self.dir.path().join(name);
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("systemd-creds"), text).unwrap();
        fs::set_permissions(dir.join("systemd-creds"), fs::Permissions::from_mode(0o755)).unwrap();
        dir
    }

    fn seal(&self, program: &Path, with: SealWith) -> Result<SealedTo, SealingError> {
        seal(&self.state, &SystemdCreds::find(&[program])?, with)
    }

    /// As the unit does it, and then the agent: the key that the agent would sign with.
    fn start(&self, program: &Path) -> Result<ed25519_dalek::SigningKey, SealingError> {
        unseal_for_start(&self.state, &self.run, &[program])?;
        let kek = take_kek(&self.run)?;
        assert!(!self.run.join(KEK_FILE).exists(), "it is taken away");
        let state = self.state.clone().with_kek(kek);
        let enrolment = state.enrolment()?.unwrap();
        Ok(state.identity(&enrolment)?.key)
    }

    fn identity_file(&self) -> Vec<u8> {
        fs::read(self.state.identity_store().path()).unwrap()
    }
}

use super::creds::{BY_HOST, BY_NOTHING, BY_TPM2};

#[test]
fn a_sealed_key_starts_on_its_machine_and_nowhere_else() {
    let world = World::enrolled();
    let (here, there) = (world.machine("machine"), world.machine("another"));
    assert_eq!(status(&world.state).unwrap(), None);
    assert_eq!(world.start(&here).unwrap(), world.identity.key, "in plain");
    let sealed = world.seal(&here, SealWith::Tpm2).unwrap();
    assert_eq!(sealed, SealedTo::Tpm2);
    assert_eq!(status(&world.state).unwrap(), Some(SealedTo::Tpm2));
    for file in ["identity.json", "identity.sealed"] {
        let mode = fs::metadata(world.state.path().join(file))
            .unwrap()
            .permissions();
        assert_eq!(mode.mode() & 0o7777, 0o600, "{file}");
    }
    assert_eq!(world.start(&here).unwrap(), world.identity.key);
    assert_eq!(world.start(&here).unwrap(), world.identity.key, "and again");

    let error = world.start(&there).unwrap_err().to_string();
    for part in [
        "another machine",
        "wrong machine",
        "--server NAME",
        "vpn-node enroll",
    ] {
        assert!(error.contains(part), "{part}: {error}");
    }
    assert!(!world.run.join(KEK_FILE).exists(), "nothing is handed over");
    // An agent that is started all the same has no key.
    let enrolment = world.state.enrolment().unwrap().unwrap();
    let error = world.state.identity(&enrolment).err().unwrap();
    assert!(matches!(error, StateError::Sealed { .. }), "{error}");
    let error = error.to_string();
    let by_hand = error.find("Run 'vpn-node-agent --unseal-identity' as root first");
    assert!(by_hand.unwrap() < error.find("another machine").unwrap());
    assert!(error.contains("--server NAME"), "{error}");

    let creds = SystemdCreds::find(&[&there]).unwrap();
    assert!(unseal(&world.state, &creds).is_err());
    let creds = SystemdCreds::find(&[&here]).unwrap();
    unseal(&world.state, &creds).unwrap();
    assert_eq!(status(&world.state).unwrap(), None);
    assert!(!world.state.path().join(SEALED).exists());
    assert_eq!(world.start(&there).unwrap(), world.identity.key, "in plain");
}

#[test]
fn a_new_key_under_the_same_kek_needs_neither_root_nor_the_machine() {
    let world = World::enrolled();
    let here = world.machine("machine");
    world.seal(&here, SealWith::Host).unwrap();
    unseal_for_start(&world.state, &world.run, &[&here]).unwrap();
    let agent = world.state.clone().with_kek(take_kek(&world.run).unwrap());
    let mut rng = UnwrapErr(SysRng);
    let mut rotated = Identity::random(&mut rng);
    rotated.kept_session_key = Some(world.identity.session_key());
    agent.identity_store().write(&rotated, &mut rng).unwrap();
    let enrolment = world.state.enrolment().unwrap().unwrap();
    let enrolment = Enrolment {
        identity_key: PublicKey::from(&rotated.key),
        ..enrolment
    };
    world.state.finish_enrolment(&enrolment).unwrap();
    assert_eq!(world.start(&here).unwrap(), rotated.key);
}

#[test]
fn sealing_that_fails_leaves_the_key_as_it_was() {
    let world = World::enrolled();
    let before = world.identity_file();
    let failing = [
        (
            "refuses",
            "#!/bin/sh\necho 'No TPM2 \u{1b}[2J' >&2\nexit 1\n",
        ),
        // Answers, but does not give back what it took.
        ("forgets", "#!/bin/sh\necho aaaaaaaaaaaaaaaaaaaaaaaaaaaa\n"),
        ("floods", "#!/bin/sh\nyes | head -c 10000000\n"),
    ];
    for (name, text) in failing {
        let program = world.program(name, text);
        let error = world.seal(&program, SealWith::Auto).unwrap_err();
        assert!(!error.to_string().contains('\u{1b}'), "{error}");
        assert_eq!(world.identity_file(), before, "{name}");
        assert!(!world.state.path().join(SEALED).exists(), "{name}");
    }
    let machine = world.machine("machine");
    assert!(matches!(
        world.seal(&machine, SealWith::Auto),
        Err(SealingError::Unprotected)
    ));
    let nowhere = world.dir.path().join("nowhere");
    let error = world
        .seal(&nowhere, SealWith::Auto)
        .unwrap_err()
        .to_string();
    assert!(error.contains("systemd-creds is not in"), "{error}");
    assert_eq!(world.identity_file(), before);
    assert!(unseal(&world.state, &SystemdCreds::find(&[&machine]).unwrap()).is_err());
    // A crash after the KEK was sealed: the identity is in plain still, and counts.
    fs::write(world.state.path().join(SEALED), "stale").unwrap();
    assert_eq!(world.start(&machine).unwrap(), world.identity.key);
    world.seal(&machine, SealWith::Host).unwrap();
    assert!(matches!(
        world.seal(&machine, SealWith::Host),
        Err(SealingError::AlreadySealed { .. })
    ));
}

#[test]
fn a_lost_or_swapped_sealed_key_is_named() {
    let world = World::enrolled();
    let here = world.machine("machine");
    world.seal(&here, SealWith::Host).unwrap();
    let sealed = world.state.path().join(SEALED);
    let other = World::enrolled();
    other.seal(&here, SealWith::Host).unwrap();
    let blob = fs::read(other.state.path().join(SEALED)).unwrap();
    atomic::write(&sealed, &blob, MODE).unwrap();
    assert!(matches!(
        world.start(&here),
        Err(SealingError::State(StateError::WrongKek { .. }))
    ));
    fs::remove_file(&sealed).unwrap();
    let error = world.start(&here).unwrap_err().to_string();
    assert!(error.contains("identity.sealed is missing"), "{error}");
    // A host without its key is no host that was never enrolled.
    fs::remove_file(world.state.path().join("identity.json")).unwrap();
    let error = status(&world.state).unwrap_err().to_string();
    assert!(error.contains("identity.json cannot be"), "{error}");
}

#[test]
fn a_new_enrolment_after_a_lost_seal_starts_in_plain() {
    let world = World::enrolled();
    let here = world.machine("machine");
    world.seal(&here, SealWith::Host).unwrap();
    let mut rng = UnwrapErr(SysRng);
    let token = PublicKey::from(&Identity::random(&mut rng).key);
    let begun = world.state.begin_enrolment(token, &mut rng).unwrap();
    assert!(!world.state.path().join(SEALED).exists());
    let again = world.state.pending_enrolment(token).unwrap().unwrap();
    assert_eq!(again.key, begun.key);
}

#[test]
fn a_key_that_waits_is_sealed_and_unsealed_with_the_one_in_force() {
    let world = World::enrolled();
    let here = world.machine("machine");
    let mut rng = UnwrapErr(SysRng);
    let next = Identity::random(&mut rng).key;
    world.state.store_next_key(&next, &mut rng).unwrap();
    world.seal(&here, SealWith::Host).unwrap();
    let in_plain = IdentityStore::next(world.state.path(), None);
    assert_eq!(in_plain.is_sealed().unwrap(), Some(true));
    let state = with_kek(world.state.clone(), &[&here]).unwrap();
    assert_eq!(state.next_key(), Some(next.clone()));
    // Written in plain by who cannot open the seal: the one in force stays sealed.
    let token = PublicKey::from(&Identity::random(&mut rng).key);
    world.state.begin_reenrolment(token, &mut rng).unwrap();
    assert_eq!(in_plain.is_sealed().unwrap(), Some(false));
    assert!(was_sealed(&world.state) && world.state.path().join(SEALED).exists());
    assert_eq!(world.start(&here).unwrap(), world.identity.key);
    state.rewrite_next_key(None, &mut rng).unwrap();
    assert!(world.state.path().join(SEALED).exists(), "nor by that");
    let creds = SystemdCreds::find(&[&here]).unwrap();
    unseal(&world.state, &creds).unwrap();
    assert_eq!(in_plain.is_sealed().unwrap(), Some(false));
    assert!(!was_sealed(&world.state));
}

#[test]
fn a_kek_that_others_could_have_written_or_read_is_refused() {
    let world = World::enrolled();
    let path = world.run.join(KEK_FILE);
    let put = |bytes: &[u8], mode: u32| {
        let _ = fs::remove_file(&path);
        fs::write(&path, bytes).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    };
    let refused = || take_kek(&world.run).err().map(|error| error.to_string());
    assert!(take_kek(&world.run).unwrap().is_none(), "there is none");
    put(&[7; 32], 0o400);
    assert_eq!(take_kek(&world.run).unwrap().unwrap().as_bytes(), &[7; 32]);
    for mode in [0o440, 0o404, 0o420, 0o402] {
        put(&[7; 32], mode);
        assert!(
            refused().unwrap().contains("others may read it"),
            "{mode:o}"
        );
    }
    for length in [0, 31, 33] {
        put(&vec![7; length], 0o400);
        assert!(refused().unwrap().contains("32 bytes"));
        assert!(!path.exists(), "it is taken away");
    }
    put(&[7; 32], 0o400);
    fs::hard_link(&path, world.run.join("another")).unwrap();
    assert!(refused().unwrap().contains("another name"));
    if nix::unistd::geteuid().is_root() {
        put(&[7; 32], 0o400);
        std::os::unix::fs::chown(&path, Some(65534), None).unwrap();
        assert!(refused().unwrap().contains("belongs to user 65534"));
    }
    fs::remove_file(&path).unwrap();
    symlink(world.run.join("another"), &path).unwrap();
    assert!(refused().is_some());
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert!(refused().unwrap().contains("not a regular file"));
}

#[test]
fn what_stands_in_the_place_of_the_kek_is_not_followed() {
    let world = World::enrolled();
    let here = world.machine("machine");
    world.seal(&here, SealWith::Host).unwrap();
    let victim = world.dir.path().join("victim");
    fs::write(&victim, "untouched").unwrap();
    symlink(&victim, world.run.join(KEK_FILE)).unwrap();
    assert_eq!(world.start(&here).unwrap(), world.identity.key);
    assert_eq!(fs::read(&victim).unwrap(), b"untouched");
}

/// The real program, if this machine has it, with a host key of the test's own and perhaps a TPM.
fn real(world: &World, name: &str, options: &str) -> Option<PathBuf> {
    let real = PROGRAM_DIRS.map(Path::new);
    let Ok(_) = SystemdCreds::find(&real) else {
        eprintln!("SKIPPED: systemd-creds is not installed");
        return None;
    };
    let secret = world.dir.path().join(format!("{name}.secret"));
    let text = format!(
        "#!/bin/sh\nexport SYSTEMD_CREDENTIAL_SECRET={secret:?}\n\
         exec /usr/bin/systemd-creds {options} \"$@\"\n"
    );
    Some(world.program(name, &text))
}

#[test]
fn with_the_real_systemd_creds_and_a_host_key() {
    let world = World::enrolled();
    let (Some(here), Some(there)) = (real(&world, "here", ""), real(&world, "there", "")) else {
        return;
    };
    let machines_own = Path::new("/var/lib/systemd/credential.secret");
    let before = machines_own.exists();
    let sealed = world.seal(&here, SealWith::Host).unwrap();
    assert_eq!(sealed, SealedTo::Host);
    assert_eq!(world.start(&here).unwrap(), world.identity.key);
    // Another machine: a host key of its own, made by sealing something else with it.
    let other = World::enrolled();
    other.seal(&there, SealWith::Host).unwrap();
    let error = world.start(&there).unwrap_err();
    assert!(
        matches!(error, SealingError::CannotUnseal { .. }),
        "{error}"
    );
    assert_eq!(machines_own.exists(), before, "it is left alone");
}

/// A TPM that is a process.
struct SoftwareTpm(Child, PathBuf);

impl SoftwareTpm {
    fn start(dir: &Path) -> Option<(Self, String)> {
        fs::create_dir(dir).unwrap();
        let socket = dir.join("tpm");
        let child = Command::new("swtpm")
            .args(["socket", "--tpm2", "--flags", "not-need-init,startup-clear"])
            .arg("--tpmstate")
            .arg(format!("dir={}", dir.display()))
            .arg("--server")
            .arg(format!("type=unixio,path={}", socket.display()))
            .arg("--ctrl")
            .arg(format!("type=unixio,path={}.ctrl", socket.display()))
            .stderr(Stdio::null())
            .spawn();
        let Ok(child) = child else {
            eprintln!("SKIPPED: swtpm is not installed, so no TPM was asked");
            return None;
        };
        let tpm = Self(child, socket.clone());
        for _ in 0..500 {
            if socket.exists() {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let device = format!("--tpm2-device=swtpm:path={}", socket.display());
        Some((tpm, device))
    }

    /// Frees what a program left loaded. A kernel's resource manager does that for real ones, and
    /// this one stands alone, with room for three sessions (TPM2_FlushContext, TPM 2.0 part 3).
    fn flush(&self) {
        let mut socket = UnixStream::connect(&self.1).unwrap();
        for kind in [0x0200_0000_u32, 0x0300_0000, 0x8000_0000] {
            for handle in kind..kind + 3 {
                let mut command = vec![0x80, 0x01, 0, 0, 0, 14, 0, 0, 0x01, 0x65];
                command.extend(handle.to_be_bytes());
                socket.write_all(&command).unwrap();
                socket.read_exact(&mut [0; 10]).unwrap();
            }
        }
    }
}

impl Drop for SoftwareTpm {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn with_a_real_tpm_and_another_one() {
    let world = World::enrolled();
    let tpm = |name: &str| SoftwareTpm::start(&world.dir.path().join(format!("tpm-{name}")));
    let (Some((a, device_a)), Some((_b, device_b))) = (tpm("a"), tpm("b")) else {
        return;
    };
    let programs = ["with-a", "with-b"].map(|name| {
        let device = if name == "with-a" {
            &device_a
        } else {
            &device_b
        };
        real(&world, name, device)
    });
    let [Some(with_a), Some(with_b)] = programs else {
        return;
    };
    match world.seal(&with_a, SealWith::Tpm2) {
        Err(SealingError::Creds(CredsError::Refused { why, .. }))
            if why.contains("not installed") || why.contains("not supported") =>
        {
            eprintln!("SKIPPED: systemd-creds cannot speak to swtpm here: {why}");
            return;
        }
        sealed => assert_eq!(sealed.unwrap(), SealedTo::Tpm2),
    }
    a.flush();
    assert_eq!(world.start(&with_a).unwrap(), world.identity.key);
    let error = world.start(&with_b).unwrap_err();
    assert!(
        matches!(error, SealingError::CannotUnseal { .. }),
        "{error}"
    );
    assert!(error.to_string().contains("vpn-node enroll"), "{error}");
    assert!(!world.run.join(KEK_FILE).exists());
    a.flush();
    assert_eq!(world.start(&with_a).unwrap(), world.identity.key, "A again");

    a.flush();
    unseal(&world.state, &SystemdCreds::find(&[&with_a]).unwrap()).unwrap();
    a.flush();
    let sealed = world.seal(&with_a, SealWith::HostAndTpm2).unwrap();
    assert_eq!(sealed, SealedTo::HostAndTpm2);
    a.flush();
    assert_eq!(world.start(&with_a).unwrap(), world.identity.key);
    assert!(world.start(&with_b).is_err());
    a.flush();
    fs::remove_file(world.dir.path().join("with-a.secret")).unwrap();
    let error = world.start(&with_a).unwrap_err();
    assert!(
        matches!(error, SealingError::CannotUnseal { .. }),
        "the TPM alone: {error}"
    );
}
