//! The program itself, on trees in temporary directories: sentences, exit codes, what it refuses.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use ed25519_dalek::SigningKey;
use jiff::Timestamp;
use vpn_node_release::author::{public_key, sign};
use vpn_node_release::digest::Digest;
use vpn_node_release::metadata::{Root, TopRole};

/// A tree with the package's version in it.
struct Tree {
    dir: tempfile::TempDir,
}

impl Tree {
    fn new() -> Self {
        let tree = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        let opt = tree.path("opt/vpn-node");
        fs::create_dir_all(opt.join("system/bin")).unwrap();
        fs::write(opt.join("system/bin/vpn-node-agent"), "#!/bin/sh\n").unwrap();
        symlink("system", opt.join("stable")).unwrap();
        fs::create_dir_all(tree.path("var/lib/vpn-node/updates/incoming")).unwrap();
        tree
    }

    fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    fn run(&self, arguments: &[&str]) -> (i32, String) {
        said(
            Command::new(env!("CARGO_BIN_EXE_vpn-node-updater"))
                .arg("--root")
                .arg(self.dir.path())
                .args(arguments)
                .output()
                .unwrap(),
        )
    }
}

fn said(output: Output) -> (i32, String) {
    let both = [output.stdout, output.stderr].concat();
    (
        output.status.code().unwrap(),
        String::from_utf8(both).unwrap(),
    )
}

fn root_metadata(path: &Path) -> Digest {
    let key = SigningKey::from_bytes(&[7; 32]);
    let mut root = Root::new(1, Timestamp::UNIX_EPOCH, Timestamp::MAX);
    for role in TopRole::ALL {
        root.set_role(role, &[public_key(&key)], 1);
    }
    let bytes = sign(&root, &[&key]).unwrap().to_bytes();
    fs::write(path, &bytes).unwrap();
    Digest::of(&bytes)
}

#[test]
fn every_command_explains_itself() {
    let tree = Tree::new();
    let (code, text) = tree.run(&["--help"]);
    assert_eq!(code, 0);
    for word in ["trust", "plan", "apply", "rollback", "pin", "Exit codes:"] {
        assert!(text.contains(word), "{word}: {text}");
    }
    assert!(!text.contains("child"), "{text}");
    let bad = [
        &[][..],
        &["fly"],
        &["pin"],
        &["pin", "1.x"],
        &["trust", "f", "--sha256", "zz"],
    ];
    for bad in bad {
        assert_eq!(tree.run(bad).0, 2, "{bad:?}");
    }
    let (_, text) = tree.run(&["pin", "v1.5"]);
    assert!(text.contains("write it like 1.5.0"), "{text}");
}

#[test]
fn root_decides_and_everyone_can_read_it() {
    let tree = Tree::new();
    let (code, text) = tree.run(&["status"]);
    assert_eq!(code, 1);
    assert!(text.contains("no updater ran on this host yet"), "{text}");
    assert_eq!(tree.run(&["recover"]).0, 0);
    for (arguments, expected) in [
        (&["pin", "1.4.0"][..], "no other version than 1.4.0"),
        (&["disable"], "nothing is installed"),
        (&["unblock", "1.4.0"], "was not blocked"),
    ] {
        let (code, text) = tree.run(arguments);
        assert_eq!(code, 0, "{text}");
        assert!(text.contains(expected), "{text}");
    }
    let (_, text) = tree.run(&["status"]);
    assert!(text.contains("updates       off"), "{text}");
    assert!(text.contains("pinned        1.4.0"), "{text}");
    let (_, text) = tree.run(&["status", "--json"]);
    assert!(text.contains("\"disabled\": true"), "{text}");
    tree.run(&["enable"]);
    tree.run(&["unpin"]);
    let (_, text) = tree.run(&["history"]);
    let events: Vec<&str> = text
        .lines()
        .map(|line| line.split("  ").nth(1).unwrap())
        .collect();
    assert_eq!(events, ["pinned 1.4.0", "disabled", "enabled", "unpinned"]);
}

#[test]
fn trust_is_compared_and_not_exchanged_in_passing() {
    let tree = Tree::new();
    let file = tree.path("root.json");
    let sha256 = root_metadata(&file).to_string();
    let file = file.to_str().unwrap();
    let (code, text) = tree.run(&["trust", file, "--sha256", &"0".repeat(64)]);
    assert_eq!(code, 3);
    assert!(
        text.contains("trust_invalid") && text.contains(&sha256),
        "{text}"
    );
    let (code, text) = tree.run(&["trust", file, "--sha256", &sha256]);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("root metadata version 1"), "{text}");
    let kept = tree.path("var/lib/vpn-node-updater/trust/root.json");
    assert!(kept.is_file());
    let (code, text) = tree.run(&["trust", file]);
    assert_eq!(code, 0);
    assert!(text.contains("already"), "{text}");
    let (code, text) = tree.run(&["trust", "/nonexistent"]);
    assert_eq!(code, 1);
    assert!(text.contains("/nonexistent is not there"), "{text}");
    let other = tree.path("hosts");
    fs::write(&other, "127.0.0.1 localhost\n").unwrap();
    let (code, text) = tree.run(&["trust", other.to_str().unwrap(), "--replace"]);
    assert_eq!(code, 3);
    assert!(
        text.contains(&format!("{} cannot be trusted", other.display()))
            && text.contains("name the root metadata")
            && text.contains("[malformed]"),
        "{text}"
    );
    let (_, text) = tree.run(&["status"]);
    assert!(text.contains("root metadata version 1"), "{text}");
}

#[test]
fn a_file_that_is_no_release_says_so_and_changes_nothing() {
    let tree = Tree::new();
    root_metadata(&tree.path("root.json"));
    tree.run(&["trust", tree.path("root.json").to_str().unwrap()]);
    let file = tree.path("release");
    fs::write(&file, "not a release").unwrap();
    let file = file.to_str().unwrap();
    for arguments in [&["apply", file][..], &["plan", "--offline", file]] {
        let (code, text) = tree.run(arguments);
        assert_eq!(code, 3, "{text}");
        assert!(
            text.contains("offline_invalid") && text.contains(file),
            "{text}"
        );
        assert!(!tree.path("var/lib/vpn-node-updater/work").exists());
    }
    let noted = || tree.run(&["history", "--json"]).1.lines().count();
    let before = noted();
    let missing = tree.path("relaese");
    let (code, text) = tree.run(&["apply", missing.to_str().unwrap()]);
    assert_eq!(code, 1);
    assert!(text.contains("relaese: No such file"), "{text}");
    let (code, text) = tree.run(&["apply", tree.path("var").to_str().unwrap()]);
    assert_eq!(code, 3);
    assert!(text.contains("not a regular file"), "{text}");
    assert_eq!(noted(), before);
    let (code, text) = tree.run(&["rollback"]);
    assert_eq!(code, 1);
    assert!(text.contains("there is no version to go back to"), "{text}");
    let (code, text) = tree.run(&["run"]);
    assert_eq!((code, text.as_str()), (0, "nothing was asked for\n"));
    let (_, text) = tree.run(&["plan"]);
    assert!(text.contains("the agent asks for nothing"), "{text}");
}

#[test]
fn a_mistake_in_the_configuration_stops_updates_but_no_recovery() {
    let tree = Tree::new();
    fs::create_dir_all(tree.path("etc/vpn-node")).unwrap();
    fs::write(tree.path("etc/vpn-node/updater.toml"), "probaton = '2m'\n").unwrap();
    let (code, text) = tree.run(&["run"]);
    assert_eq!(code, 1);
    assert!(
        text.contains("updater.toml") && text.contains("probaton"),
        "{text}"
    );
    let (code, text) = tree.run(&["recover"]);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("recovering with the defaults"), "{text}");
}

/// What root decides holds all the same, but nobody believes that the file was understood.
#[test]
fn every_command_says_that_the_configuration_has_a_mistake() {
    let tree = Tree::new();
    let file = tree.path("root.json");
    root_metadata(&file);
    assert_eq!(tree.run(&["recover"]).0, 0);
    fs::create_dir_all(tree.path("etc/vpn-node")).unwrap();
    fs::write(tree.path("etc/vpn-node/updater.toml"), "probaton = '2m'\n").unwrap();
    let whole = |text: &str| {
        let named = text.contains("updater.toml") && text.contains("probaton");
        assert!(named && text.contains("[config_invalid]"), "{text}");
    };
    for command in [&["run"][..], &["plan"], &["rollback"], &["apply", "x"]] {
        let (code, text) = tree.run(command);
        assert_eq!(code, 1, "{text}");
        whole(&text);
    }
    for (command, done) in [
        (&["pin", "1.4.0"][..], "no other version than 1.4.0"),
        (&["unpin"], "not kept at 1.4.0"),
        (&["disable"], "nothing is installed"),
        (&["enable"], "releases are installed"),
        (&["unblock", "1.4.0"], "was not blocked"),
        (&["trust", file.to_str().unwrap()], "metadata version 1"),
    ] {
        let (code, text) = tree.run(command);
        assert_eq!(code, 0, "{text}");
        assert!(text.contains(done), "{text}");
        whole(&text);
    }
    let (code, text) = tree.run(&["status"]);
    assert_eq!(code, 0, "{text}");
    let problem = text.lines().find(|line| line.starts_with("problem"));
    whole(problem.unwrap());
    assert!(text.contains("trust         root metadata"), "{text}");
    let (code, text) = tree.run(&["status", "--json"]);
    let shown: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (code, &shown["problem"]["code"]),
        (0, &"config_invalid".into())
    );
    assert_eq!(shown["root_version"], 1);
    fs::write(tree.path("etc/vpn-node/updater.toml"), "").unwrap();
    let (_, text) = tree.run(&["status"]);
    assert!(!text.contains("problem"), "{text}");
}

/// The status is for everyone; what a user may not read is no problem of the updater's.
#[test]
fn a_user_from_whom_the_configuration_is_kept_sees_a_status_without_a_problem() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("only root can be several users");
        return;
    }
    let tree = Tree::new();
    assert_eq!(tree.run(&["recover"]).0, 0);
    fs::create_dir_all(tree.path("etc/vpn-node")).unwrap();
    let file = tree.path("etc/vpn-node/updater.toml");
    fs::write(&file, "").unwrap();
    fs::set_permissions(tree.dir.path(), Permissions::from_mode(0o755)).unwrap();
    // The program itself may lie where only root comes.
    let program = tree.path("updater");
    fs::copy(env!("CARGO_BIN_EXE_vpn-node-updater"), &program).unwrap();
    let seen = |mode| {
        fs::set_permissions(&file, Permissions::from_mode(mode)).unwrap();
        let mut command = Command::new(&program);
        command.arg("--root").arg(tree.dir.path()).arg("status");
        said(command.uid(65_534).gid(65_534).output().unwrap())
    };
    let whole = seen(0o644);
    assert_eq!(whole.0, 0, "{}", whole.1);
    assert_eq!(seen(0o600), whole);
    fs::write(&file, "probaton = '2m'\n").unwrap();
    assert_eq!(seen(0o600), whole);
    assert!(seen(0o644).1.contains("probaton"));
}

#[test]
fn a_tree_that_is_not_there_is_not_made() {
    let tree = Tree::new();
    let (code, text) = said(
        Command::new(env!("CARGO_BIN_EXE_vpn-node-updater"))
            .arg("--root")
            .arg(tree.path("typo"))
            .arg("recover")
            .output()
            .unwrap(),
    );
    assert_eq!(code, 1);
    assert!(text.contains("typo/var/lib/vpn-node-updater"), "{text}");
    let cure = format!("mkdir -p {}", tree.path("typo/var/lib").display());
    assert!(text.contains(&cure), "{text}");
    assert!(!tree.path("typo").exists());
}

#[test]
fn a_user_who_may_not_write_hears_that_only_root_may() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let tree = Tree::new();
    let program = tree.path("updater");
    fs::copy(env!("CARGO_BIN_EXE_vpn-node-updater"), &program).unwrap();
    fs::set_permissions(tree.dir.path(), Permissions::from_mode(0o755)).unwrap();
    let (code, text) = said(
        Command::new(program)
            .arg("--root")
            .arg(tree.dir.path())
            .args(["pin", "1.4.0"])
            .uid(65534)
            .gid(65534)
            .output()
            .unwrap(),
    );
    assert_eq!(code, 1);
    assert!(
        text.contains("only root may write in") && text.contains("[not_root]"),
        "{text}"
    );
}

#[test]
fn a_history_without_a_line_says_so_and_none_to_programs() {
    let tree = Tree::new();
    let (code, text) = tree.run(&["history"]);
    assert_eq!(code, 0);
    assert!(text.contains("no update was tried yet"), "{text}");
    assert_eq!(tree.run(&["history", "--json"]), (0, String::new()));
    // A service calls it at each start and stop.
    assert_eq!(tree.run(&["recover"]), (0, String::new()));
}

#[test]
fn a_second_updater_waits_or_says_who_is_busy() {
    let tree = Tree::new();
    assert_eq!(tree.run(&["recover"]).0, 0);
    let lock = fs::File::open(tree.path("var/lib/vpn-node-updater/lock")).unwrap();
    lock.lock().unwrap();
    let (code, text) = tree.run(&["rollback"]);
    assert_eq!(code, 5);
    assert!(text.contains("another updater holds"), "{text}");
    // What root decides does not wait for a trial that takes hours.
    assert_eq!(tree.run(&["disable"]).0, 0);
}

/// A file system that really is full, and really is read-only.
#[test]
fn a_real_disk_without_room_is_told_and_survived() {
    let tree = Tree::new();
    let state = tree.path("var/lib/vpn-node-updater");
    fs::create_dir_all(&state).unwrap();
    let updater = env!("CARGO_BIN_EXE_vpn-node-updater");
    let root = tree.dir.path().display();
    let script = format!(
        "mount -t tmpfs -o size=64k none '{state}' || exit 99
         '{updater}' --root '{root}' recover
         head -c 100000 /dev/zero > '{state}/filler' 2>/dev/null
         '{updater}' --root '{root}' pin 1.4.0; echo exit $?
         '{updater}' --root '{root}' recover; echo exit $?
         rm '{state}/filler'
         '{updater}' --root '{root}' pin 1.4.0; echo exit $?
         mount -o remount,ro '{state}'
         '{updater}' --root '{root}' disable; echo exit $?",
        state = state.display(),
    );
    let (code, text) = said(
        Command::new("unshare")
            .args(["--user", "--map-root-user", "--mount", "sh", "-c", &script])
            .output()
            .unwrap(),
    );
    if code == 99 || text.contains("unshare:") {
        eprintln!("no mount namespaces here: {text}");
        return;
    }
    let exits: Vec<&str> = text
        .lines()
        .filter(|line| line.starts_with("exit"))
        .collect();
    assert_eq!(exits, ["exit 1", "exit 0", "exit 0", "exit 1"], "{text}");
    assert!(
        text.contains("[no_space]") && text.contains("[read_only]"),
        "{text}"
    );
}
