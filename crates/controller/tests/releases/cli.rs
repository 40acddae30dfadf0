//! The commands as they are typed.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

use crate::support::{Machine, WORDS, key_file};

/// Two machines: `signers` has the people's keys and no database, `data` is a controller.
struct World {
    machine: Machine,
}

impl World {
    fn new() -> Self {
        let machine = Machine::empty();
        fs::write(machine.dir.path().join("words"), format!("{WORDS}\n")).unwrap();
        let world = Self { machine };
        for name in ["anna", "ben", "cora", "tom", "tina"] {
            key_file(&world.path(&format!("{name}.key")));
        }
        world.on_controller("init --url https://127.0.0.1:8443");
        world
    }

    fn dir(&self) -> &Path {
        self.machine.dir.path()
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir().join(name)
    }

    fn run(&self, place: [&str; 2], words: &str) -> Output {
        Command::new(env!("CARGO_BIN_EXE_vpn-node-controller"))
            .current_dir(self.dir())
            .env_clear()
            .args(place)
            .args(words.split(' '))
            .output()
            .unwrap()
    }

    fn on_controller(&self, words: &str) -> String {
        well(self.run(["--data-dir", "data"], words))
    }

    fn signers(&self, words: &str) -> String {
        well(self.run(["release", "--repository=signers"], words))
    }

    fn fails(&self, words: &str) -> String {
        bad(&self.run(["release", "--repository=signers"], words))
    }

    /// Both machines with a first root.
    fn init(&self) {
        let said = self.on_controller("release make-key --online");
        let public = said.lines().last().unwrap().trim();
        let said = self.signers(&format!(
            "init --root-key anna.pub --root-key ben.pub --root-key cora.pub --targets-key tom.pub --targets-key tina.pub --online-key {public}"
        ));
        assert!(
            said.contains("root version 1 has 0 of 2 signatures"),
            "{said}"
        );
        self.signers("sign --key anna.key --key tom.key --passphrase-file words");
        let said = self.signers("sign --key cora.key --passphrase-file words");
        assert!(
            said.contains("Signed: root version 1 and the list of releases version 1"),
            "{said}"
        );
        let digest = first_root(&said);
        assert!(said.contains("has not the online key"), "{said}");
        self.signers("export --to first.tar");
        let said = self.on_controller(&format!("release import first.tar --root-sha256 {digest}"));
        assert!(said.contains("Published: root version 1"), "{said}");
    }
}

fn first_root(said: &str) -> String {
    let line = said
        .lines()
        .find(|line| line.starts_with("SHA-256:"))
        .unwrap();
    line.split_whitespace().last().unwrap().to_owned()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn well(output: Output) -> String {
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

fn bad(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stdout));
    text(&output.stderr)
}

#[test]
fn from_the_first_key_to_the_controllers_table() {
    let world = World::new();
    world.init();
    let package = world.machine.package("1.5.0");
    let package = package.file_name().unwrap().to_str().unwrap();
    let said = world.signers(&format!(
        "add {package} --description faster --security-floor 1.4.0"
    ));
    assert!(
        said.contains("1.5.0 for linux-amd64 in stable, counter 1, security floor 1.4.0"),
        "{said}"
    );
    assert!(said.contains("1 more of"), "{said}");
    let said = world.signers("show");
    assert!(said.contains("add 1.5.0 for linux-amd64"), "{said}");
    let said = world.signers("sign --key tom.key --passphrase-file words");
    assert!(
        said.contains("add 1.5.0") && said.contains("Signed: the list"),
        "{said}"
    );
    assert!(world.signers("check").contains("1 package"));
    let said = world.signers("export 1.5.0 --to release.tar");
    assert!(said.contains("release import"), "{said}");
    world.on_controller("release import release.tar");
    assert!(
        world
            .on_controller("release check")
            .contains("A host would take")
    );
    let list = world.on_controller("release list --json");
    let list: Value = serde_json::from_str(&list).unwrap();
    assert_eq!(
        (
            &list["releases"][0]["version"],
            &list["releases"][0]["counter"]
        ),
        (&"1.5.0".into(), &1.into())
    );
    let events = world.on_controller("events list --type release_published");
    assert!(
        events.contains("vpn-node/1.5.0/linux-amd64.tar.zst"),
        "{events}"
    );
    let shown: Value = serde_json::from_str(&world.on_controller("release show --json")).unwrap();
    assert_eq!(shown["roles"].as_array().unwrap().len(), 4);
    // A file for a host without a way out has everything that a host asks for.
    let said = world.on_controller("release export 1.5.0 --to offline.tar");
    assert!(!said.contains("release import"), "{said}");
    world.on_controller("release refresh");
    for (table, wanted) in [("release list", "1.5.0"), ("release show", "timestamp")] {
        assert!(world.on_controller(table).contains(wanted));
    }
}

#[test]
fn a_new_repository_makes_its_keys_and_says_what_hosts_trust() {
    let world = World::new();
    let init = "init --root-keys 1 --root-threshold 1 --targets-key tom.pub --keys . --passphrase-file words";
    let said = world.signers(init);
    assert!(said.contains("root-1.pub"), "{said}");
    assert!(
        said.contains("the list of releases version 1 has 0 of 1 signatures"),
        "{said}"
    );
    let said = world.signers("sign --key tom.key --passphrase-file words");
    assert!(said.contains("Published: root version 1"), "{said}");
    assert!(said.contains("vpn-node update trust"), "{said}");
    let found = fs::metadata(world.path("root-1.key"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(found & 0o7777, 0o600);
    assert!(world.path("root-1.pub").exists());
    let online = fs::read_dir(world.path("signers/online-keys")).unwrap();
    for entry in online {
        let entry = entry.unwrap();
        if entry
            .path()
            .extension()
            .is_some_and(|ending| ending == "key")
        {
            assert_eq!(
                entry.metadata().unwrap().permissions().mode() & 0o7777,
                0o600
            );
        }
    }
    assert!(world.fails(init).contains("already"));
}

#[test]
fn passphrases_and_key_files_that_do_not_fit_are_told_apart() {
    let world = World::new();
    world.init();
    let package = world.machine.package("1.5.0");
    world.signers(&format!("add {}", package.display()));
    fs::write(world.path("wrong"), "another passphrase\n").unwrap();
    let said = world.fails("sign --key tom.key --passphrase-file wrong");
    assert!(said.contains("the passphrase is not that of"), "{said}");
    assert!(!said.contains("another passphrase"), "{said}");
    let whole = fs::read(world.path("tom.key")).unwrap();
    fs::write(world.path("torn.key"), &whole[..whole.len() / 2]).unwrap();
    let said = world.fails("sign --key torn.key --passphrase-file words");
    assert!(said.contains("damaged"), "{said}");
    let said = world.fails("sign --key anna.key --passphrase-file words");
    assert!(said.contains("may sign nothing that waits"), "{said}");
    let said = world.fails("sign --key nobody.key --passphrase-file words");
    assert!(
        said.contains("nobody.key") && said.contains("cannot be read"),
        "{said}"
    );
    let said = world.fails("sign --key tom.key --passphrase-file none");
    assert!(said.contains("passphrase file"), "{said}");
    // Without a terminal and without a file there is nobody to ask.
    let said = world.fails("sign --key tom.key");
    assert!(said.contains("--passphrase-file"), "{said}");
    fs::write(world.path("short"), "short\n").unwrap();
    let said = world.fails("make-key new.key --passphrase-file short");
    assert!(said.contains("fewer than 12"), "{said}");
    assert!(!world.path("new.key").exists());
    let said = world.fails("make-key tom.key --passphrase-file words");
    assert!(said.contains("exists already"), "{said}");
    assert_eq!(fs::read(world.path("tom.key")).unwrap(), whole);
    let said = world.fails("make-key tom --passphrase-file words");
    assert!(said.contains("NAME.key"), "{said}");
    world.signers("sign --key tom.key --passphrase-file words");
}

#[test]
fn bad_input_is_answered_with_a_sentence() {
    let world = World::new();
    for words in [
        "list",
        "show",
        "add none.tar.zst",
        "refresh",
        "renew root",
        "check",
        "export --to x.tar",
    ] {
        let said = world.fails(words);
        assert!(said.contains("no release repository"), "{words}: {said}");
    }
    world.init();
    fs::write(world.path("no.tar"), "no archive").unwrap();
    let said = bad(&world.run(["--data-dir", "data"], "release import no.tar"));
    assert!(said.contains("offline file"), "{said}");
    let said = bad(&world.run(["--data-dir", "data"], "release import none.tar"));
    assert!(said.contains("none.tar"), "{said}");
    let said = world.fails("export --to first.tar");
    assert!(said.contains("exists already"), "{said}");
    let said = world.fails("refresh");
    assert!(said.contains("has not the online key"), "{said}");
    let said = world.fails("rotate-key targets --remove 123456789");
    assert!(said.contains("no key of targets"), "{said}");
    for words in [
        "add",
        "rotate-key root",
        "renew both",
        "revoke one",
        "add a --channel Big",
        "renew root --expires 1h",
    ] {
        let output = world.run(["release", "--repository=signers"], words);
        assert_eq!(output.status.code(), Some(2), "{words}");
    }
    let said = bad(&world.run(["--data-dir", "nowhere"], "release list"));
    assert!(said.contains("--repository"), "{said}");
}

#[tokio::test]
async fn a_row_that_was_changed_is_refused_and_told() {
    let world = World::new();
    world.init();
    let package = world.machine.package("1.5.0");
    world.signers(&format!("add {}", package.display()));
    world.signers("sign --key tom.key --passphrase-file words");
    world.signers("export 1.5.0 --to release.tar");
    world.on_controller("release import release.tar");
    let database = format!("sqlite://{}", world.path("data/controller.db").display());
    let pool = sqlx::SqlitePool::connect(&database).await.unwrap();
    let state = || sqlx::query_scalar::<_, String>("SELECT state FROM server_updates");
    assert_eq!(state().fetch_one(&pool).await.unwrap(), "published");
    world.on_controller("release refresh");
    assert_eq!(state().fetch_one(&pool).await.unwrap(), "published");
    sqlx::query("UPDATE server_updates SET package_hash = ?")
        .bind("00".repeat(32))
        .execute(&pool)
        .await
        .unwrap();
    world.on_controller("release refresh");
    assert_eq!(state().fetch_one(&pool).await.unwrap(), "refused");
    let events = world.on_controller("events list --type release_row_mismatch");
    assert!(
        events.contains("vpn-node/1.5.0/linux-amd64.tar.zst"),
        "{events}"
    );
    // A row of its own again.
    world.signers("republish 1.5.0");
    world.signers("sign --key tom.key --passphrase-file words");
    world.signers("export 1.5.0 --to again.tar");
    world.on_controller("release import again.tar");
    let good: Vec<i64> =
        sqlx::query_scalar("SELECT counter FROM server_updates WHERE state = 'published'")
            .fetch_all(&pool)
            .await
            .unwrap();
    assert_eq!(good, [2]);
    world.signers("revoke 1.5.0");
    world.signers("sign --key tina.key --passphrase-file words");
    world.signers("export --to gone.tar");
    world.on_controller("release import gone.tar");
    let states: Vec<String> =
        sqlx::query_scalar("SELECT state FROM server_updates ORDER BY counter")
            .fetch_all(&pool)
            .await
            .unwrap();
    assert_eq!(states, ["refused", "revoked"]);
    pool.close().await;
}
