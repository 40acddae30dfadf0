//! Recorded answers of real daemons, from bytes to events.

use std::{collections::BTreeMap, fmt::Write as _};

use serde_json::Value;

use super::{
    super::{
        netlink::DeviceParser,
        reading::Dump,
        uapi::{Parser, UapiError},
    },
    *,
};
use crate::core::sessions::{Change, Confidence, Identity, Reason, What};

const NO_HANDSHAKE: &str =
    include_str!("../../../../tests/fixtures/wg/uapi-get-00-no-handshake.txt");
const CONNECTED: &str = include_str!("../../../../tests/fixtures/wg/uapi-get-01-two-connected.txt");
const TIMELINE: &str = include_str!("../../../../tests/fixtures/wg/timeline-changes.jsonl");
const NETLINK: &str =
    include_str!("../../../../tests/fixtures/wg/kernel-netlink-raw-datagrams.hex.txt");

fn parse(answer: &str) -> Vec<PeerReading> {
    let mut peers = Vec::new();
    let over = Parser::new().feed(answer.as_bytes(), &mut |peer| peers.push(peer.clone()));
    assert_eq!(over, Ok(true));
    peers
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits = hex.as_bytes().chunks_exact(2);
    let byte = |pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.map(byte).collect()
}

fn wall(secs: f64) -> Now {
    let wall_ms = (secs * 1000.0) as i64;
    Now {
        boot: Duration::from_millis(wall_ms as u64 - 1_795_300_000_000),
        wall_ms,
    }
}

#[test]
fn the_socket_answers_read_as_wg_shows_them() {
    let peers = parse(CONNECTED);
    let shown = include_str!("../../../../tests/fixtures/wg/wg-show-dump-01.txt");
    assert_eq!(peers.len(), 3);
    for (peer, line) in peers.iter().zip(shown.lines().skip(1)) {
        let none = || "(none)".to_owned();
        let ips: Vec<String> = peer.allowed_ips.iter().map(ToString::to_string).collect();
        let read = [
            Identity::PeerKey(peer.public_key).to_string(),
            none(),
            peer.endpoint
                .map_or_else(none, |endpoint| endpoint.to_string()),
            ips.join(","),
            peer.handshake.secs.to_string(),
            peer.rx.to_string(),
            peer.tx.to_string(),
            "off".to_owned(),
        ];
        assert_eq!(read.join("\t"), line);
    }
}

#[test]
fn from_no_handshake_to_two_connected() {
    let mut agent = Agent::fresh();
    let first = agent.poll(wall(1_795_310_217.0), true, &parse(NO_HANDSHAKE));
    assert_eq!(first.len(), 1);
    let second = agent.poll(wall(1_795_310_220.0), true, &parse(CONNECTED));
    assert_eq!(second.len(), 1);
    let endpoint = second[0].session.endpoint.unwrap().to_string();
    assert_eq!(endpoint, "10.77.0.11:40001");
    assert_eq!(second[0].session.started.wall_ms, 1_795_310_218_090);
}

/// The daemon's answer at some instant, rebuilt from the recorded changes.
fn answer(peers: &BTreeMap<String, Value>) -> String {
    let mut text = String::from("private_key=00\nlisten_port=51820\n");
    for (key, now) in peers {
        let _ = writeln!(text, "public_key={key:0<64}");
        if let Some(endpoint) = now["endpoint"].as_str() {
            let _ = writeln!(text, "endpoint={endpoint}");
        }
        let _ = writeln!(text, "last_handshake_time_sec={}", now["hs"]);
        let _ = writeln!(
            text,
            "tx_bytes={}\nrx_bytes={}",
            now["tx_bytes"], now["rx_bytes"]
        );
    }
    text + "errno=0\n\n"
}

/// Each connection of `key` in the timeline, polled every `step_s`: what happened, in order.
fn timeline(key: &str, step_s: f64) -> Vec<SessionEvent> {
    let mut changes = TIMELINE
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .peekable();
    let mut agent = Agent::fresh();
    let (mut peers, mut events) = (BTreeMap::new(), Vec::new());
    let mut secs = 1_795_310_284.8;
    let mut gone = false;
    while !gone {
        while let Some(change) = changes.next_if(|change| change["t"].as_f64() <= Some(secs)) {
            let peer = change["peer"].as_str().unwrap().to_owned();
            gone |= peer == "_err";
            match &change["now"] {
                Value::Null => drop(peers.remove(&peer)),
                now => drop(peers.insert(peer, now.clone())),
            }
        }
        let now = wall(secs);
        events.extend(if gone {
            let obs = agent.table.interface_down(now);
            agent.reduce(now, obs)
        } else {
            agent.poll(now, true, &parse(&answer(&peers)))
        });
        secs += step_s;
    }
    let who = Identity::PeerKey(bytes(&format!("{key:0<64}")).try_into().unwrap());
    events.retain(|event| event.session.identity.as_ref() == Some(&who));
    events
}

#[test]
fn the_timeline_gives_the_sessions_that_its_marks_tell() {
    // The shortest connection lasted 11 s; slower polls may miss it.
    for step_s in [1.0, 5.0, 10.0] {
        // c1: connected; roams; killed; back with a new port; removed; added; server killed.
        let c1 = timeline("7e563f15", step_s);
        let told: Vec<String> = c1
            .iter()
            .map(|event| match &event.what {
                What::Start => "start".to_owned(),
                What::Update { change, .. } => format!("{change:?}"),
                What::End(end) => end.reason.code().to_owned(),
            })
            .collect();
        let marks = [
            "start",
            "Endpoint",
            "timeout",
            "start",
            "peer_removed",
            "start",
            "interface_down",
        ];
        assert_eq!(told, marks, "polled every {step_s} s");
        let near =
            |stamp: i64, mark: i64| (0..=(step_s as i64 + 1) * 1000).contains(&(stamp - mark));
        assert_eq!(c1[0].session.started.wall_ms, 1_795_310_218_000);
        assert_eq!(
            c1[1].session.endpoint.unwrap().to_string(),
            "10.77.0.21:40001"
        );
        let What::End(end) = &c1[2].what else {
            unreachable!("compared above");
        };
        assert!(
            near(end.at.wall_ms, 1_795_310_494_450 - 1_000),
            "killed -9, at {end:?}"
        );
        assert!(near(c1[3].session.started.wall_ms, 1_795_310_704_470));
        assert_eq!(
            c1[3].session.endpoint.unwrap().to_string(),
            "10.77.0.21:40009"
        );
        let What::End(end) = &c1[4].what else {
            unreachable!("compared above");
        };
        assert!(
            end.earliest.wall_ms <= 1_795_310_716_180 && end.latest.wall_ms >= 1_795_310_716_120
        );
        assert!(near(c1[5].session.started.wall_ms, 1_795_310_738_000));

        // c2: keepalives only, roams from IPv6 to IPv4, never lapses.
        let c2 = timeline("fb809a61", step_s);
        assert_eq!(c2.len(), 3, "{c2:?}");
        let What::Update { change, at } = c2[1].what else {
            panic!("{:?}", c2[1]);
        };
        assert_eq!(change, Change::Endpoint);
        assert!(
            near(at.wall_ms, 1_795_310_454_430 + 13_000),
            "its next keepalive"
        );
        let What::End(end) = &c2[2].what else {
            panic!("{:?}", c2[2]);
        };
        assert_eq!(
            (&end.reason, end.confidence),
            (&Reason::InterfaceDown, Confidence::Observed)
        );

        // c3 never connected.
        assert_eq!(timeline("39668a6d", step_s), []);
    }
}

/// The recorded dumps by the port that asked; all were the first request there, with number 0.
pub(super) fn dumps() -> BTreeMap<u32, Vec<Vec<u8>>> {
    let mut dumps: BTreeMap<u32, Vec<Vec<u8>>> = BTreeMap::new();
    for line in NETLINK.lines().filter(|line| line.starts_with("## RAW")) {
        let datagram = bytes(line.rsplit(' ').next().unwrap());
        let port = u32::from_ne_bytes(*datagram[12..].first_chunk().unwrap());
        dumps.entry(port).or_default().push(datagram);
    }
    dumps
}

fn read_dump(datagrams: &[Vec<u8>]) -> Vec<PeerReading> {
    let mut parser = DeviceParser::new(0x20, 0);
    let mut peers = Vec::new();
    let mut over = false;
    for datagram in datagrams {
        assert!(!over, "nothing follows the end");
        over = parser
            .feed(datagram, &mut |peer| peers.push(peer.clone()))
            .unwrap();
    }
    assert!(over && parser.dump() == Dump::Clean);
    peers
}

#[test]
fn kernel_dumps_give_each_split_peer_once() {
    let dumps = dumps();
    // One interface, read with a large and with a small buffer: the splits differ, peers do not.
    let large = read_dump(&dumps[&0x79]);
    let small = read_dump(&dumps[&0x7a]);
    assert_eq!(large, small);
    let keys: std::collections::BTreeSet<_> = large.iter().map(|peer| peer.public_key).collect();
    assert_eq!(keys.len(), large.len());
    let many = large
        .iter()
        .filter(|peer| peer.allowed_ips.len() == super::super::MAX_ALLOWED_IPS);
    assert_eq!(many.count(), 1, "the one with thousands of addresses");
}

#[test]
fn a_connected_kernel_peer_over_ipv6_is_read_whole() {
    let dump = &dumps()[&0x99];
    let [peer] = &read_dump(dump)[..] else {
        panic!("one peer");
    };
    assert_eq!(peer.endpoint.unwrap().to_string(), "[fd01::2]:51821");
    assert_eq!(
        (peer.handshake.secs, peer.handshake.nanos),
        (0x6b02_4db4, 0x30bf_0056)
    );
    assert_eq!((peer.rx, peer.tx), (404, 348));
    assert_eq!(peer.allowed_ips[0].to_string(), "10.2.0.2/32");
    let mut agent = Agent::new(HandshakeClock::Unix, Vec::new(), Uuid::nil(), 0);
    let now = wall(f64::from(0x6b02_4db4_u32) + 5.0);
    assert_eq!(
        agent.poll(now, true, std::slice::from_ref(peer))[0].what,
        What::Start
    );
}

#[test]
fn an_answer_cut_anywhere_is_an_error_and_never_a_shorter_list() {
    for end in 0..CONNECTED.len() {
        let mut parser = Parser::new();
        let over = parser.feed(&CONNECTED.as_bytes()[..end], &mut |_| {});
        assert_eq!(over, Ok(false));
        assert_eq!(parser.cut(), UapiError::Cut(end));
    }
}
