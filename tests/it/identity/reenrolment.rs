//! Re-enrolment: the same server with a new identity, whatever was lost, and nobody else's.

use std::fs;
use std::path::Path;

use super::{client, connected, enrol, epoch, refused, server, verified, verified_host};
use crate::support::controller::Controller;
use crate::support::host::Host;
use crate::support::secrets::all_files;
use crate::support::wait_for;

#[test]
fn a_host_gets_a_new_identity_and_keeps_what_it_was_and_had_to_tell() {
    let mut controller = Controller::start();
    let mut host = verified_host(&controller);
    let server_id = server(&controller).server_id;
    let (wireguard, id) = connected(&controller, &host);
    let token = controller.token_for_server(&server_id);
    let why = refused(&host, &token);
    assert!(
        why.contains("stop the agent first: systemctl stop vpn-node-agent"),
        "{why}"
    );

    // Something to tell, and nobody who hears it.
    controller.stop();
    wireguard.set(vec![client(1), client(2)]);
    wait_for("a backlog", || {
        (host.status()["backlog"]["records"].as_u64()? > 0).then_some(())
    });
    host.kill();
    controller.start_again();

    // For another server, and for a new one.
    let other = Host::new("");
    enrol(&other, &controller.token());
    let servers = controller.servers();
    let foreign = servers.iter().find(|row| row.server_id != server_id);
    let foreign = controller.token_for_server(&foreign.unwrap().server_id);
    let before = all_files(&host.state());
    for token in [foreign, controller.token()] {
        let why = refused(&host, &token);
        assert!(why.contains("this token is not for that server"), "{why}");
        assert!(why.contains(&server_id), "{why}");
        assert!(all_files(&host.state()) == before, "nothing was changed");
    }

    let output = enrol(&host, &token);
    assert!(output.contains(&server_id), "{output}");
    let before = all_files(&host.state());
    let output = enrol(&host, &token);
    assert!(output.contains("nothing was changed"), "{output}");
    assert!(all_files(&host.state()) == before, "and that is true");
    host.start();
    verified(&host);
    assert_eq!(epoch(&host), Some(2));
    wait_for("an empty backlog", || {
        (host.status()["backlog"]["records"] == 0).then_some(())
    });
    let rows = wait_for("the connection that began meanwhile", || {
        let rows = controller.connections();
        (rows.len() == 2).then_some(rows)
    });
    assert!(rows.iter().all(|row| row.status == "active"));
    assert!(rows.iter().all(|row| row.server_id == server_id));
    assert!(rows.iter().any(|row| row.connection_id == id));
    wireguard.set(Vec::new());
    wait_for("the end of both", || {
        let rows = controller.connections();
        let ended = rows.iter().all(|row| row.connection_end.is_some());
        (ended && rows.len() == 2).then_some(())
    });
}

#[test]
fn a_token_for_the_server_heals_a_host_that_lost_a_file() {
    let controller = Controller::start();
    let mut host = verified_host(&controller);
    let server_id = server(&controller).server_id;
    let mut expected_epoch = 1;
    for name in ["enrollment.json", "identity.json", "chain.slots"] {
        for damaged in [false, true] {
            let path = host.state().join(name);
            if name == "enrollment.json" && !damaged {
                // While the agent runs it does not miss the file: nothing is taken from under it.
                fs::remove_file(&path).unwrap();
                let why = refused(&host, &controller.token_for_server(&server_id));
                assert!(why.contains("stop the agent first"), "{why}");
            }
            host.kill();
            lose(&path, damaged);
            if name != "enrollment.json" || damaged {
                // What is there is not given up for just any token.
                let why = refused(&host, &controller.token());
                assert!(
                    why.contains("enrolled already") || why.contains("understood"),
                    "{why}"
                );
                assert!(!host.start_in_vain().status.success());
            }
            let output = enrol(&host, &controller.token_for_server(&server_id));
            assert!(output.contains(&server_id), "{output}");
            host.start();
            verified(&host);
            expected_epoch += 1;
            let server = server(&controller);
            assert_eq!(server.key_epoch, expected_epoch, "{name}, {damaged}");
            assert_eq!(
                (server.status.as_str(), server.server_id),
                ("active", server_id.clone())
            );
        }
    }
}

fn lose(path: &Path, damaged: bool) {
    match damaged {
        true => fs::write(path, "{\"version\": 1, \"server_i").unwrap(),
        false => {
            let _ = fs::remove_file(path);
        }
    }
}

#[test]
fn a_damaged_enrolment_is_not_replaced_by_that_of_another_server() {
    let controller = Controller::start();
    let mut host = verified_host(&controller);
    let server_id = server(&controller).server_id;
    let other = Host::new("");
    enrol(&other, &controller.token());
    let servers = controller.servers();
    let foreign = servers.iter().find(|row| row.server_id != server_id);
    host.kill();
    lose(&host.state().join("enrollment.json"), true);
    let before = all_files(&host.state());
    let token = controller.token_for_server(&foreign.unwrap().server_id);
    let why = refused(&host, &token);
    assert!(why.contains(&server_id), "{why}");
    assert!(all_files(&host.state()) == before, "nothing was changed");
}

#[test]
fn a_re_enrolment_that_was_cut_off_in_force_is_finished_by_its_token() {
    let controller = Controller::start();
    let mut host = verified_host(&controller);
    let server_id = server(&controller).server_id;
    host.kill();
    let file = |name: &str| host.state().join(name);
    let old = ["identity.json", "enrollment.json"].map(|name| fs::read(file(name)).unwrap());
    let token = controller.token_for_server(&server_id);
    enrol(&host, &token);
    // The lane is the new one; the power failed before either file was in its place.
    let text = fs::read_to_string(file("enrollment.json")).unwrap();
    let new: serde_json::Value = serde_json::from_str(&text).unwrap();
    fs::rename(file("identity.json"), file("identity.next.json")).unwrap();
    fs::rename(file("enrollment.json"), file("enrollment.next.json")).unwrap();
    let private = |name: &str, bytes: &[u8]| {
        fs::copy(file("chain.slots"), file(name)).unwrap();
        fs::write(file(name), bytes).unwrap();
    };
    private("identity.json", &old[0]);
    private("enrollment.json", &old[1]);
    let pending = serde_json::json!({
        "version": 1,
        "registration_key": new["registration_key"],
        "idempotency_id": "0199c0de-0000-4000-8000-000000000001",
        "next_key": new["identity_key"],
    });
    private("enrollment.pending.json", pending.to_string().as_bytes());

    let output = enrol(&host, &token);
    assert!(output.contains("nothing was changed"), "{output}");
    assert!(!file("identity.next.json").exists() && !file("enrollment.pending.json").exists());
    host.start();
    verified(&host);
    assert_eq!(server(&controller).key_epoch, 2);
}
