//! The parsers against what no daemon should say: they refuse, and never panic or grow.

use proptest::prelude::*;

use super::super::{
    netlink::{self, DeviceParser, NetlinkError},
    reading::{DeviceReading, Dump, MAX_ALLOWED_IPS, PeerReading},
    uapi::{MAX_LINE, Parser, UapiError},
};

const FAMILY: u16 = 0x20;

fn uapi(pieces: &[&[u8]]) -> (Result<bool, UapiError>, Vec<PeerReading>) {
    let mut parser = Parser::new();
    let mut peers = Vec::new();
    for piece in pieces {
        match parser.feed(piece, &mut |peer| peers.push(peer.clone())) {
            Ok(false) => {}
            over => return (over, peers),
        }
    }
    (Ok(false), peers)
}

fn answer(peers: usize) -> Vec<u8> {
    let mut text = String::from("private_key=00\n");
    for index in 0..peers {
        text += &format!(
            "public_key={index:064x}\nendpoint=[fe80::1%eth0]:7\nlast_handshake_time_sec=1700000000\n\
             last_handshake_time_nsec=5\nrx_bytes=9\ntx_bytes=8\nallowed_ip=10.0.0.1/32\n\
             key_of_the_future=1\n"
        );
    }
    (text + "errno=0\n\n").into_bytes()
}

pub(super) fn message(kind: u16, flags: u16, seq: u32, payload: &[u8]) -> Vec<u8> {
    let mut message = (16 + payload.len() as u32).to_ne_bytes().to_vec();
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    message.extend(seq.to_ne_bytes());
    message.extend([0; 4]);
    message.extend(payload);
    message.resize(message.len().next_multiple_of(4), 0);
    message
}

pub(super) fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut attribute = (4 + value.len() as u16).to_ne_bytes().to_vec();
    attribute.extend(kind.to_ne_bytes());
    attribute.extend(value);
    attribute.resize(attribute.len().next_multiple_of(4), 0);
    attribute
}

/// A dump of one peer with one address.
fn dump(flags: u16) -> Vec<u8> {
    let ip = [attribute(2, &[10, 0, 0, 1]), attribute(3, &[32])].concat();
    let peer = [
        attribute(1, &[7; 32]),
        attribute(2, &[0xee; 32]),
        attribute(9 | 0x8000, &attribute(0, &ip)),
    ]
    .concat();
    let device = [
        vec![0, 1, 0, 0],
        attribute(3, &[0xee; 32]),
        attribute(8 | 0x8000, &attribute(0, &peer)),
    ]
    .concat();
    message(FAMILY, flags, 1, &device)
}

fn read_netlink(datagram: &[u8]) -> (Result<bool, NetlinkError>, Vec<PeerReading>, bool) {
    let mut parser = DeviceParser::new(FAMILY, 1);
    let mut peers = Vec::new();
    let over = parser.feed(datagram, &mut |peer| peers.push(peer.clone()));
    (over, peers, parser.dump() == Dump::Interrupted)
}

#[test]
fn the_errno_of_the_daemon_is_its_error_and_no_list() {
    let (over, _) = uapi(&[b"errno=1\n\n"]);
    assert_eq!(over, Err(UapiError::Daemon(1)));
    let (over, peers) = uapi(&[b"errno=0\n\n"]);
    assert_eq!((over, peers.len()), (Ok(true), 0));
}

#[test]
fn what_is_not_the_protocol_is_refused_with_its_line() {
    let key = "public_key=0000000000000000000000000000000000000000000000000000000000000000\n";
    for bad in [
        "HTTP/1.1 400 Bad Request\n",
        "\n",
        "rx_bytes=-1\n",
        "rx_bytes=99999999999999999999\n",
        "last_handshake_time_nsec=1000000000\n",
        "endpoint=example.org:1\n",
        "endpoint=[::1:1\n",
        "allowed_ip=10.0.0.1/33\n",
        "public_key=00\n",
        "public_key=zz00000000000000000000000000000000000000000000000000000000000000\n",
    ] {
        let (over, peers) = uapi(&[key.as_bytes(), bad.as_bytes()]);
        let Err(error @ UapiError::Malformed { line: 2, .. }) = over else {
            panic!("{bad}: {over:?}");
        };
        assert!(peers.is_empty(), "a peer is handed out when it is whole");
        assert!(!error.to_string().contains(bad.trim_end()) || bad == "\n");
    }
}

#[test]
fn a_line_without_end_is_refused_in_bounded_memory() {
    let (over, _) = uapi(&[&[b'a'; MAX_LINE], b"a"]);
    let limit = MAX_LINE;
    let what = "bytes in one line";
    assert_eq!(over, Err(UapiError::TooLarge { limit, what }));
}

#[test]
fn an_answer_without_end_is_refused() {
    let mut parser = Parser::new();
    let line = [b"key_of_the_future=", &[b'1'; 200][..], b"\n"].concat();
    let piece = line.repeat(5_000);
    let over = (0..100).find_map(|_| parser.feed(&piece, &mut |_| {}).err());
    assert!(matches!(
        over,
        Some(UapiError::TooLarge { what: "bytes", .. })
    ));
}

#[test]
fn addresses_of_one_peer_are_bounded() {
    let mut text = String::from_utf8(answer(1)).unwrap();
    text = text.replace(
        "allowed_ip=10.0.0.1/32\n",
        &"allowed_ip=::1/128\n".repeat(500),
    );
    let (over, peers) = uapi(&[text.as_bytes()]);
    assert_eq!(over, Ok(true));
    assert_eq!(peers[0].allowed_ips.len(), MAX_ALLOWED_IPS);
    assert_eq!(peers[0].endpoint.unwrap().to_string(), "[fe80::1]:7");
}

#[test]
fn errors_in_a_dump_are_errors() {
    let error = |kind, code: i32| read_netlink(&message(kind, 0, 1, &code.to_ne_bytes())).0;
    assert_eq!(error(2, -19), Err(NetlinkError::Kernel(19)));
    assert_eq!(error(3, -16), Err(NetlinkError::Kernel(16)));
    assert_eq!(error(2, 0), Ok(false));
    assert_eq!(error(3, 0), Ok(true));
    assert_eq!(error(4, 0), Err(NetlinkError::Overrun));
    let mut cut = dump(0);
    cut.truncate(cut.len() - 4);
    assert!(matches!(
        read_netlink(&cut).0,
        Err(NetlinkError::Malformed(_))
    ));
}

/// `linux/wireguard.h`: WG_CMD_SET_DEVICE with WGDEVICE_A_IFINDEX and, nested twice, each peer's
/// WGPEER_A_PUBLIC_KEY and WGPEER_A_FLAGS of WGPEER_F_REMOVE_ME. `libnl`'s byte order is the host's.
#[test]
fn peers_are_removed_with_the_documented_attributes() {
    let peer = |key: u8| {
        let attributes = [attribute(1, &[key; 32]), attribute(3, &1_u32.to_ne_bytes())].concat();
        attribute(0x8000, &attributes)
    };
    let body = [
        vec![1, 1, 0, 0], // struct genlmsghdr: command, version, reserved
        attribute(1, &9_u32.to_ne_bytes()),
        attribute(8 | 0x8000, &[peer(7), peer(8)].concat()),
    ]
    .concat();
    let expected = message(FAMILY, 1 | 4, 5, &body); // NLM_F_REQUEST, NLM_F_ACK
    assert_eq!(
        netlink::remove_peers(5, FAMILY, 9, &[[7; 32], [8; 32]]),
        expected
    );
    let many = vec![[1; 32]; netlink::MAX_REMOVED];
    assert_eq!(
        netlink::remove_peers(5, FAMILY, 9, &many).len(),
        32 + 48 * many.len()
    );
}

#[test]
fn the_kernels_word_is_awaited_and_its_errno_is_an_error() {
    let answer =
        |seq, code: i32| netlink::acknowledged(&message(2, 0, seq, &code.to_ne_bytes()), 5);
    assert_eq!(answer(5, 0), Ok(true));
    assert_eq!(answer(4, 0), Ok(false), "of another request");
    assert_eq!(answer(5, -1), Err(NetlinkError::Kernel(1)));
    assert_eq!(netlink::acknowledged(&[], 5), Ok(false));
}

#[test]
fn the_interface_tells_its_port_and_its_key_once() {
    let device = [
        vec![0, 1, 0, 0],
        attribute(6, &51820_u16.to_ne_bytes()),
        attribute(3, &[0xee; 32]),
        attribute(4, &[0xab; 32]),
    ]
    .concat();
    let mut parser = DeviceParser::new(FAMILY, 1);
    let datagrams = [
        message(FAMILY, 2, 1, &device),
        dump(2),
        message(3, 2, 1, &[0; 4]),
    ]
    .concat();
    assert_eq!(parser.feed(&datagrams, &mut |_| {}), Ok(true));
    let told = DeviceReading {
        listen_port: Some(51820),
        public_key: Some([0xab; 32]),
    };
    assert_eq!(parser.device(), told);
}

#[test]
fn a_private_key_is_looked_at_only_when_asked_for() {
    let text = b"private_key=d060f17ae7ad68df633204b985ca6352f5c1263e1a14c3231ddbe765ad89e771\nlisten_port=7\nerrno=0\n\n";
    let device = |mut parser: Parser| {
        assert_eq!(parser.feed(text, &mut |_| {}), Ok(true));
        parser.device()
    };
    let asked = device(Parser::with_public_key());
    let not = device(Parser::new());
    assert!(asked.public_key.is_some());
    assert_eq!((not.public_key, not.listen_port), (None, Some(7)));
}

#[test]
fn an_interrupted_dump_says_so_and_another_requests_answer_is_passed_over() {
    let whole = |flags| [dump(flags), message(3, flags, 1, &[0; 4])].concat();
    let (over, peers, interrupted) = read_netlink(&whole(2));
    assert_eq!((over, peers.len(), interrupted), (Ok(true), 1, false));
    let (over, peers, interrupted) = read_netlink(&whole(0x12));
    assert_eq!((over, peers.len(), interrupted), (Ok(true), 1, true));
    let mut parser = DeviceParser::new(FAMILY, 2);
    assert_eq!(
        parser.feed(&whole(0x12), &mut |_| panic!("not ours")),
        Ok(false)
    );
    assert_eq!(parser.dump(), Dump::Clean);
}

#[test]
fn links_and_families_are_read() {
    let info = attribute(1, b"wireguard\0");
    let link = [
        vec![0, 0, 0, 0, 5, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0],
        attribute(3, b"wg0\0"),
        attribute(18, &info),
    ]
    .concat();
    let mut links = Vec::new();
    let datagram = message(16, 2, 1, &link);
    assert_eq!(
        netlink::links(&datagram, 1, &mut |link| links.push(link)),
        Ok(false)
    );
    let told = netlink::Link {
        index: 5,
        name: b"wg0".to_vec(),
        up: true,
        wireguard: true,
    };
    assert_eq!(links, [told]);
    let family = [
        vec![1, 2, 0, 0],
        attribute(2, b"wireguard\0"),
        attribute(1, &[32, 0]),
    ]
    .concat();
    let datagram = message(netlink::GENL_ID_CTRL, 0, 1, &family);
    assert_eq!(netlink::family_id(&datagram, 1), Ok(Some(32)));
    let datagram = message(2, 0, 1, &(-2_i32).to_ne_bytes());
    assert_eq!(
        netlink::family_id(&datagram, 1),
        Err(NetlinkError::Kernel(2))
    );
}

proptest! {
    #[test]
    fn pieces_make_no_difference(cuts in prop::collection::vec(0_usize..900, 0..8)) {
        let whole = answer(3);
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(whole.len())).collect();
        cuts.sort_unstable();
        cuts.push(whole.len());
        let mut from = 0;
        let mut pieces = Vec::new();
        for cut in cuts {
            pieces.push(&whole[from..cut]);
            from = cut;
        }
        prop_assert_eq!(uapi(&pieces), uapi(&[&whole]));
    }

    #[test]
    fn a_flipped_bit_or_garbage_never_panics(
        at in 0_usize..900, bit in 0_u8..8, garbage in prop::collection::vec(any::<u8>(), 0..600)
    ) {
        let mut whole = answer(3);
        let at = at % whole.len();
        whole[at] ^= 1 << bit;
        prop_assert!(uapi(&[&whole]).1.len() <= 4);
        let _ = uapi(&[&garbage, &whole]);

        let mut datagram = [dump(2), message(3, 2, 1, &[0; 4])].concat();
        let at = at % datagram.len();
        datagram[at] ^= 1 << bit;
        prop_assert!(read_netlink(&datagram).1.len() <= 1);
        let _ = read_netlink(&garbage);
        let _ = netlink::links(&garbage, 1, &mut |_| {});
        let _ = netlink::family_id(&garbage, 1);
        let _ = netlink::links(&datagram, 1, &mut |_| {});
    }

    #[test]
    fn a_cut_dump_never_ends(cut in 0_usize..200) {
        let datagram = [dump(2), message(3, 2, 1, &[0; 4])].concat();
        let cut = cut % datagram.len();
        prop_assert_ne!(read_netlink(&datagram[..cut]).0, Ok(true));
    }
}
