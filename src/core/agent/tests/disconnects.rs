//! The directive that ends connections: done through the daemon, once, and acknowledged when it is
//! done or cannot be.

use std::time::Duration;

use uuid::Uuid;
use vpn_node_protocol::directive::{Action, DisconnectReason};
use vpn_node_protocol::limits::{MAX_DISCONNECTS, is_short_text};
use vpn_node_protocol::message::{DirectiveAck, DirectiveOutcome};

use super::vpn::Obeys;
use super::world::{World, s};
use crate::core::agent::Event;

const ID: Uuid = Uuid::from_u128(900);

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// A host with these clients, whose connections the controller knows.
fn with_clients(seed: u64, count: usize) -> (World, Vec<u64>, Vec<Uuid>) {
    let mut world = World::verified(seed);
    let clients: Vec<u64> = (0..count).map(|_| world.connect()).collect();
    world.run_for(s(40));
    let ids = clients.iter().map(|c| world.end_of(*c).0).collect();
    (world, clients, ids)
}

fn issue(world: &mut World, id: Uuid, ids: &[Uuid], reason: DisconnectReason) {
    let action = Action::Disconnect {
        connection_ids: ids.to_vec(),
        reason,
    };
    let now = world.controller_ms();
    let mut directive = world.controller.directive(id, action, now);
    directive.deadline_s = 120;
    world.controller.issue(&directive);
}

fn acks(world: &World, id: Uuid) -> Vec<&DirectiveAck> {
    let acks = world.controller.db.acks.iter();
    acks.filter(|ack| ack.id == id).collect()
}

/// The only acknowledgement, and what it says.
fn ack(world: &World, id: Uuid) -> (DirectiveOutcome, Option<&str>) {
    let acks = acks(world, id);
    assert_eq!(acks.len(), 1, "{acks:?}");
    (acks[0].outcome, acks[0].detail.as_deref())
}

const DONE: (DirectiveOutcome, Option<&str>) = (DirectiveOutcome::Applied, None);

#[test]
fn the_named_ones_end_with_the_orders_reason_and_the_others_stay() {
    for (seed, obeys) in [(900, Obeys::AndTells), (901, Obeys::Quietly)] {
        let (mut world, clients, ids) = with_clients(seed, 3);
        world.vpn.obeys = obeys;
        issue(&mut world, ID, &ids[..2], DisconnectReason::Revoked);
        // A poll held by the model looks once a second; all the rest takes milliseconds.
        world.run_for(ms(1700));
        assert_eq!(ack(&world, ID), DONE);
        world.vpn.orders.sort_unstable();
        assert_eq!(world.vpn.orders, clients[..2]);
        for client in &clients[..2] {
            assert_eq!(
                world.end_of(*client).1,
                ["revoked Observed"],
                "with the acknowledgement"
            );
        }
        assert_eq!(world.report().connections.len(), 1);
        // The daemon's list from now on changes nothing more.
        world.look_at_vpn();
        world.run_for(s(60));
        assert_eq!(ack(&world, ID), DONE);
        world.everything_arrived();
    }
}

#[test]
fn a_connection_that_nobody_knows_is_over() {
    let (mut world, _, _) = with_clients(902, 1);
    let unknown = Uuid::from_u128(77);
    issue(&mut world, ID, &[unknown], DisconnectReason::AdminKick);
    world.run_for(ms(2000));
    assert_eq!(ack(&world, ID), DONE);
    assert!(world.vpn.orders.is_empty());
}

#[test]
fn a_daemon_that_will_not_is_named_and_its_client_is_not() {
    let (mut world, clients, ids) = with_clients(903, 2);
    let why = format!("the daemon says \x1b[2J\n{}", "x".repeat(70_000));
    world.vpn.obeys = Obeys::Refuses(why);
    issue(&mut world, ID, &ids, DisconnectReason::Revoked);
    world.run_for(s(3));
    let (outcome, detail) = ack(&world, ID);
    assert_eq!(outcome, DirectiveOutcome::Failed);
    let detail = detail.unwrap().to_owned();
    assert!(
        detail.starts_with("2 of 2 not ended; strongswan/charon: the daemon says"),
        "{detail}"
    );
    assert!(is_short_text(&detail), "{detail}");
    assert!(world.report().last_errors.iter().any(|e| e.text == detail));
    // It lives on, and ends as it ends.
    world.disconnect(clients[0]);
    world.run_for(s(60));
    assert_eq!(world.end_of(clients[0]).1, ["client_disconnect Observed"]);
    world.everything_arrived();
}

#[test]
fn a_reader_that_is_silent_for_twenty_seconds_is_given_up() {
    let (mut world, clients, ids) = with_clients(904, 1);
    world.vpn.obeys = Obeys::Never;
    issue(&mut world, ID, &ids, DisconnectReason::Revoked);
    world.run_for(s(20));
    assert_eq!(acks(&world, ID), [] as [&DirectiveAck; 0]);
    world.run_for(ms(1700));
    let (outcome, detail) = ack(&world, ID);
    assert_eq!(outcome, DirectiveOutcome::Failed);
    assert!(detail.unwrap().contains("did not answer within 20 seconds"));
    assert_eq!(world.vpn.orders, clients);
    // Its answer comes after all: nobody waits for it.
    world.tell(Event::Disconnected {
        order: 1,
        result: Ok(()),
    });
    world.run_for(s(60));
    assert_eq!(acks(&world, ID).len(), 1);
    assert_eq!(world.report().connections.len(), 1);
}

#[test]
fn what_comes_again_while_it_is_done_changes_nothing() {
    let (mut world, clients, ids) = with_clients(905, 1);
    world.vpn.obeys = Obeys::After(s(8));
    issue(&mut world, ID, &ids, DisconnectReason::AdminKick);
    let polls = world.polls.len();
    world.run_for(s(8));
    assert!(world.polls.len() - polls >= 3, "it came again");
    world.run_for(s(40));
    assert_eq!(ack(&world, ID), DONE);
    assert_eq!(world.vpn.orders, clients, "one order");
    assert_eq!(world.end_of(clients[0]).1, ["admin_kick Observed"]);
}

#[test]
fn two_directives_for_one_connection_make_one_order() {
    let (mut world, clients, ids) = with_clients(906, 1);
    world.vpn.obeys = Obeys::After(s(4));
    let other = Uuid::from_u128(901);
    issue(&mut world, ID, &ids, DisconnectReason::Revoked);
    issue(&mut world, other, &ids, DisconnectReason::AdminKick);
    world.run_for(s(40));
    assert_eq!((ack(&world, ID), ack(&world, other)), (DONE, DONE));
    assert_eq!(world.vpn.orders, clients);
    assert_eq!(world.end_of(clients[0]).1, ["revoked Observed"]);
}

#[test]
fn a_session_that_is_renamed_meanwhile_is_ended_under_its_new_name() {
    let (mut world, clients, ids) = with_clients(907, 1);
    world.vpn.obeys = Obeys::Never;
    issue(&mut world, ID, &ids, DisconnectReason::Revoked);
    world.run_for(s(3));
    world.rekey(clients[0], 5000);
    world.vpn.obeys = Obeys::Quietly;
    // The old name is unknown to the daemon: over, it says.
    world.tell(Event::Disconnected {
        order: 1,
        result: Ok(()),
    });
    world.run_for(s(3));
    assert_eq!(world.vpn.orders, [clients[0], 5000]);
    assert_eq!(ack(&world, ID), DONE);
    assert_eq!(world.end_of(clients[0]).1, ["revoked Observed"]);
    assert!(world.report().connections.is_empty());
}

#[test]
fn connections_of_a_former_process_are_ended_as_soon_as_they_are_found_again() {
    let (mut world, clients, ids) = with_clients(908, 2);
    world.kill();
    world.vpn.unreadable = true;
    world.start();
    world.run_for(s(20));
    issue(&mut world, ID, &ids, DisconnectReason::Revoked);
    world.run_for(s(20));
    assert!(acks(&world, ID).is_empty() && world.vpn.orders.is_empty());
    world.look_at_vpn();
    world.run_for(s(5));
    world.vpn.orders.sort_unstable();
    assert_eq!(world.vpn.orders, clients);
    assert_eq!(ack(&world, ID), DONE);
    world.everything_arrived();
}

#[test]
fn an_agent_that_crashes_meanwhile_finishes_it_afterwards() {
    for seed in 0..20 {
        let (mut world, _, ids) = with_clients(920 + seed, 3);
        world.fuse.stop_at = Some(world.fuse.passed + 1 + seed);
        issue(&mut world, ID, &ids, DisconnectReason::Revoked);
        world.run_for(s(5));
        if world.agent.is_none() {
            world.start();
        }
        world.run_for(s(90));
        assert!(world.vpn.up.is_empty(), "{seed}");
        let acks = acks(&world, ID);
        assert!(!acks.is_empty(), "{seed}");
        assert!(
            acks.iter()
                .all(|ack| ack.outcome == DirectiveOutcome::Applied),
            "{acks:?}"
        );
        world.everything_arrived();
    }
}

#[test]
fn too_many_names_and_too_many_directives_cost_bounded_memory() {
    let (mut world, _, ids) = with_clients(909, 8);
    let many: Vec<Uuid> = (0..=MAX_DISCONNECTS as u128).map(Uuid::from_u128).collect();
    issue(&mut world, ID, &many, DisconnectReason::AdminKick);
    world.run_for(s(3));
    assert_eq!(ack(&world, ID).0, DirectiveOutcome::Failed);

    world.vpn.obeys = Obeys::After(s(5));
    for (n, id) in (0..).zip(&ids) {
        issue(
            &mut world,
            Uuid::from_u128(2000 + n),
            &[*id],
            DisconnectReason::Revoked,
        );
    }
    world.run_for(s(4));
    assert_eq!(
        world.vpn.orders.len(),
        4,
        "the others wait until they come again"
    );
    world.run_for(s(60));
    assert_eq!(world.vpn.orders.len(), 8);
    for n in 0..8 {
        assert_eq!(ack(&world, Uuid::from_u128(2000 + n)), DONE);
    }
    world.everything_arrived();
}
