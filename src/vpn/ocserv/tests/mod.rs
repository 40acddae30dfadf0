//! ocserv from occtl's words to the events of the reducer.

mod reader;

use std::time::Duration;

use proptest::prelude::*;
use uuid::Uuid;

use super::{
    OcservError, backend_id,
    events::{Hint, Lines, MAX_LINE},
    known::Known,
    users,
};
use crate::core::{
    Now,
    sessions::{Identity, Obs, Reason, Reducer, SessionKey, What},
};

const USERS: &str = include_str!("../../../../tests/fixtures/ocserv/occtl-show-users.json");
const STATUS: &str = include_str!("../../../../tests/fixtures/ocserv/occtl-show-status.json");
const EVENTS: &str = include_str!("../../../../tests/fixtures/ocserv/occtl-show-events-text.txt");

/// 2026-11-22 02:07:30 UTC at 1000 s after boot: half a minute after the recorded user came.
fn at(millis: u64) -> Now {
    Now {
        boot: Duration::from_millis(millis),
        wall_ms: 1_795_313_250_000 - 1_000_000 + i64::try_from(millis).unwrap(),
    }
}

#[test]
fn the_recorded_user_is_read() {
    let user = users::users(USERS.as_bytes(), at(1_000_000)).unwrap();
    assert_eq!(user.len(), 1);
    let user = &user[0];
    let since = 1_795_313_220;
    assert_eq!(user.key, SessionKey::Ocserv { id: 13_389, since });
    assert_eq!(user.identity, Identity::User(b"erin".to_vec()));
    assert_eq!(user.started, at(996_000));
    assert_eq!(user.endpoint.unwrap().to_string(), "10.76.0.11");
    let inside: Vec<String> = user.virtual_ips.iter().map(ToString::to_string).collect();
    assert_eq!(inside, ["10.75.0.187/32", "fd75::6f98:19e6:6b30:f657/128"]);
}

#[test]
fn counters_and_the_second_of_newer_ones_are_read() {
    let newer = USERS.replace(
        "\"DPD\":",
        "\"RX\": \"123\", \"TX\": \"456\", \"raw_connected_at\": 1795313226, \"DPD\":",
    );
    let user = &users::users(newer.as_bytes(), at(1_000_000)).unwrap()[0];
    assert_eq!((user.rx, user.tx), (123, 456));
    let since = 1_795_313_226;
    assert_eq!(user.key, SessionKey::Ocserv { id: 13_389, since });
    assert_eq!(user.started, at(976_000));
}

#[test]
fn who_has_not_connected_yet_is_no_session() {
    let early = USERS.replace("\"connected\"", "\"pre-auth\"");
    assert!(users::users(early.as_bytes(), at(0)).unwrap().is_empty());
    assert!(users::users(b"[\n]\n", at(0)).unwrap().is_empty());
}

#[test]
fn a_comma_too_many_is_forgiven_and_nonsense_is_not() {
    let comma = USERS.replace(
        "\"Restricted to ports\":\t[]",
        "\"Restricted to ports\":\t[],",
    );
    assert_ne!(comma, USERS);
    assert_eq!(users::users(comma.as_bytes(), at(0)).unwrap().len(), 1);
    let tricky = USERS.replace("erin", ",} ,] \\\" ,}");
    let user = &users::users(tricky.as_bytes(), at(0)).unwrap()[0];
    assert_eq!(user.identity, Identity::User(b",} ,] \" ,}".to_vec()));
    for wrong in [
        "",
        "[",
        "{}",
        "Status: offline",
        "[{}]",
        "[{\"State\": \"connected\"}]",
    ] {
        let read = users::users(wrong.as_bytes(), at(0));
        assert!(matches!(read, Err(OcservError::Answer)), "{wrong}");
    }
}

/// The name of the recorded user, would the JSON write it like `json`, with this table.
fn named(json: &str, table: &[u8]) -> Identity {
    let answer = USERS.replace("erin", json);
    let mut users = users::users(answer.as_bytes(), at(0)).unwrap();
    assert!(users::any_name_unclear(&users), "{json}");
    users::complete_names(&mut users, table);
    users.remove(0).identity
}

#[test]
fn names_that_the_json_makes_equal_are_told_apart() {
    // Both as occtl 1.1.6 prints them.
    let head = "      id     user    vhost             ip         vpn-ip device\n";
    let of = |name: &str| format!("{head}   13389  {name}  default    10.76.0.11\n").into_bytes();
    let hidden = "m\\u00ff\\u00ffller";
    for name in ["müller", "möller"] {
        let known = Identity::User(name.into());
        assert_eq!(named(hidden, &of(name)), known);
    }
    // Longer than its column; and a byte that is no UTF-8.
    let long = b"   13389 a longer \xfe one  default\n";
    let known = Identity::User(b"a longer \xfe one".to_vec());
    assert_eq!(named("a longer \\u00ff one", long), known);
    // Another session's name, another length, other known letters, or two readings: nobody.
    let nobody = Identity::User(Vec::new());
    let twice = [of("müller"), of("möller")].concat();
    let other = of("x\n   13388  müller");
    for table in [twice, other, of("müllers"), of("mülles"), Vec::new()] {
        assert_eq!(named(hidden, &table), nobody);
    }
    // A user whose name holds a line about another one changes that one to nobody, never to himself.
    let forged = [
        &b"       7 x\n   13389  m\xc3\xb6ller  default\n"[..],
        &of("müller"),
    ]
    .concat();
    assert_eq!(named(hidden, &forged), nobody);
}

#[test]
fn each_life_of_the_server_has_its_epoch() {
    let first = users::status(STATUS.as_bytes()).unwrap();
    let later = STATUS.replace("1795313275", "1795313999");
    assert_ne!(users::status(later.as_bytes()).unwrap(), first);
    let other = STATUS.replace("13373", "13374");
    assert_ne!(users::status(other.as_bytes()).unwrap(), first);
    assert!(users::status(b"Status: offline\n").is_err());
}

fn went(id: u64, reason: Reason) -> Hint {
    Hint::Went { id, reason }
}

#[test]
fn the_recorded_events_have_their_reasons() {
    let hints = [
        Hint::Came,
        went(14_097, Reason::ClientDisconnect),
        Hint::Came,
        went(14_124, Reason::ConnectionReset),
        Hint::Came,
        went(15_135, Reason::AdminKick),
        Hint::Came,
        went(15_169, Reason::Unknown(String::new())),
    ];
    for size in [1, 7, 4096] {
        let mut lines = Lines::default();
        let found: Vec<Hint> = EVENTS
            .as_bytes()
            .chunks(size)
            .flat_map(|piece| lines.feed(piece))
            .collect();
        assert_eq!(found, hints);
    }
}

#[test]
fn a_name_like_a_line_is_a_name() {
    let name = "x' (1) from 192.0.2.1 with IP 192.0.2.2 (reason: user disconnected, time: 1s)";
    let line = format!(
        "default: disconnect user '{name}' (77) from 192.0.2.9 with IP 198.51.100.9 \
         (reason: server disconnected, time:     3s)\n"
    );
    let hints = Lines::default().feed(line.as_bytes());
    assert_eq!(hints, [went(77, Reason::AdminKick)]);
}

#[test]
fn a_line_without_end_is_left_out_and_the_next_one_read() {
    let mut lines = Lines::default();
    for _ in 0..100 {
        assert!(lines.feed(&[b'x'; MAX_LINE]).is_empty());
    }
    let next = "\ndefault: connected user 'a' (5) from 192.0.2.1 with IP 198.51.100.1\n";
    assert_eq!(lines.feed(next.as_bytes()), [Hint::Came]);
}

/// The reasons that the reducer tells after a look with, events, and a look without the user.
fn ends(events: Vec<Hint>, gone: bool) -> Vec<String> {
    let mut known = Known::default();
    let mut reducer = Reducer::new(Uuid::nil(), [1; 32], Vec::new());
    let user = users::users(USERS.as_bytes(), at(1_000_000)).unwrap();
    let mut told = Vec::new();
    let mut reduce = |obs: Vec<Obs>, now: Now| {
        for obs in obs {
            told.extend(reducer.observe(&backend_id(), obs, now, &mut || [0; 10]));
        }
        told.extend(reducer.tick(now));
    };
    reduce(known.looked(5, user, at(1_000_000)), at(1_000_000));
    for hint in events {
        known.hint(hint, at(1_003_000));
    }
    let obs = if gone {
        known.gone(at(1_003_500))
    } else {
        known.looked(5, Vec::new(), at(1_003_500))
    };
    reduce(obs, at(1_003_500));
    reduce(Vec::new(), at(1_010_000));
    let end = told.iter().filter_map(|event| match &event.what {
        What::End(end) => Some(format!("{} {:?}", end.reason.code(), end.confidence)),
        _ => None,
    });
    end.collect()
}

#[test]
fn ends_have_the_reason_of_their_event_or_none() {
    let said = |reason| vec![went(13_389, reason)];
    let polite = ends(said(Reason::ClientDisconnect), false);
    assert_eq!(polite, ["client_disconnect Observed"]);
    assert_eq!(ends(Vec::new(), false), ["unknown Inferred"]);
    let others = vec![went(1, Reason::AdminKick)];
    assert_eq!(ends(others, false), ["unknown Inferred"]);
}

#[test]
fn an_event_that_comes_after_the_look_still_gives_its_reason() {
    let play = |told_at: u64| {
        let mut known = Known::default();
        let mut reducer = Reducer::new(Uuid::nil(), [1; 32], Vec::new());
        let mut told = Vec::new();
        let mut looked = |known: &mut Known, users: Vec<_>, now: Now| {
            for obs in known.looked(5, users, now) {
                told.extend(reducer.observe(&backend_id(), obs, now, &mut || [0; 10]));
            }
            told.extend(reducer.tick(now));
        };
        let user = users::users(USERS.as_bytes(), at(1_000_000)).unwrap();
        looked(&mut known, user, at(1_000_000));
        looked(&mut known, Vec::new(), at(1_003_500));
        known.hint(went(13_389, Reason::ClientDisconnect), at(told_at));
        looked(&mut known, Vec::new(), at(told_at + 50));
        looked(&mut known, Vec::new(), at(1_015_000));
        let end = told.iter().find_map(|event| match &event.what {
            What::End(end) => Some(end.clone()),
            _ => None,
        });
        end.unwrap()
    };
    let end = play(1_003_600);
    assert_eq!(end.reason, Reason::ClientDisconnect);
    assert_eq!(end.at, at(1_003_500));
    // Nobody waits for one for ever.
    assert_eq!(play(1_009_000).reason.code(), "unknown");
}

#[test]
fn an_ordered_end_lies_between_the_order_and_the_look_that_misses_the_session() {
    let user = || users::users(USERS.as_bytes(), at(1_000_000)).unwrap();
    let mut known = Known::default();
    known.looked(5, user(), at(1_000_000));
    known.ordered(user()[0].key.clone(), at(1_060_000));
    let still_there = known.looked(5, user(), at(1_060_050));
    assert_eq!(still_there.len(), 1);
    let obs = known.looked(5, Vec::new(), at(1_060_100));
    let Obs::Down { end, .. } = &obs[0] else {
        panic!("{obs:?}");
    };
    assert_eq!(
        (end.earliest, end.at),
        (at(1_060_000), at(1_060_100)),
        "{end:?}"
    );
    // Another session is not meant.
    known.looked(5, user(), at(1_070_000));
    known.ordered(SessionKey::Ocserv { id: 1, since: 0 }, at(1_070_000));
    assert_eq!(known.looked(5, Vec::new(), at(1_071_000)).len(), 1);
}

#[test]
fn a_server_that_stops_ends_all_as_that() {
    assert_eq!(ends(Vec::new(), true), ["daemon_down Observed"]);
    let unknown = vec![went(13_389, Reason::Unknown(String::new()))];
    assert_eq!(ends(unknown, true), ["daemon_down Observed"]);
    let kicked = vec![went(13_389, Reason::AdminKick)];
    assert_eq!(ends(kicked, true), ["admin_kick Observed"]);
}

#[test]
fn a_restart_between_two_looks_ends_what_was_there() {
    let mut known = Known::default();
    let user = || users::users(USERS.as_bytes(), at(1_000_000)).unwrap();
    known.looked(5, user(), at(1_000_000));
    let obs = known.looked(6, user(), at(1_010_000));
    assert!(matches!(&obs[0], Obs::Down { end, .. } if end.reason == Reason::DaemonDown));
    assert_eq!(obs[1], Obs::Reset { epoch: 6 });
}

proptest! {
    #[test]
    fn any_answer_is_read_or_refused(answer in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = users::users(&answer, at(0));
        let _ = users::status(&answer);
    }

    #[test]
    fn any_cut_or_change_is_read_or_refused(at_byte in 0..USERS.len(), byte in any::<u8>()) {
        let mut answer = USERS.as_bytes().to_vec();
        answer[at_byte] = byte;
        let _ = users::users(&answer, at(0));
        let _ = users::users(&answer[..at_byte], at(0));
    }

    #[test]
    fn any_events_are_read_alike_in_any_pieces(
        events in "(default: (dis)?connec(t|ted) user '.{0,9}' \\([0-9]{1,3}\\) from a with IP b( \\(reason: .{0,9}, time: 3s\\))?\n){0,4}",
        size in 1_usize..40,
    ) {
        let whole = Lines::default().feed(events.as_bytes());
        let mut lines = Lines::default();
        let pieces: Vec<Hint> =
            events.as_bytes().chunks(size).flat_map(|piece| lines.feed(piece)).collect();
        prop_assert_eq!(whole, pieces);
    }
}
