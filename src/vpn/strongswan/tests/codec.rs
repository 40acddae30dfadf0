//! The format: what is written is read, and nothing else does harm.

use proptest::prelude::*;

use super::super::{
    Fault,
    limits::{MAX_DEPTH, MAX_ELEMENTS, MAX_PACKET},
    message::{Node, Section},
    packet::{Framer, Kind, Packet},
};

/// A message that owns its bytes.
#[derive(Clone, Debug)]
enum Tree {
    Value(Vec<u8>),
    List(Vec<Vec<u8>>),
    Section(Vec<(Vec<u8>, Tree)>),
}

fn bytes(most: usize) -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..=most)
}

fn things() -> impl Strategy<Value = Vec<(Vec<u8>, Tree)>> {
    let leaf = prop_oneof![
        bytes(300).prop_map(Tree::Value),
        prop::collection::vec(bytes(40), 0..5).prop_map(Tree::List),
    ];
    let tree = leaf.prop_recursive(4, 40, 6, |inner| {
        prop::collection::vec((bytes(255), inner), 0..6).prop_map(Tree::Section)
    });
    prop::collection::vec((bytes(255), tree), 0..6)
}

fn section(things: &[(Vec<u8>, Tree)]) -> Section<'_> {
    let named = things
        .iter()
        .map(|(name, tree)| (name.as_slice(), node(tree)));
    Section::of(named.collect())
}

fn node(tree: &Tree) -> Node<'_> {
    match tree {
        Tree::Value(value) => Node::Value(value),
        Tree::List(items) => Node::List(items.iter().map(Vec::as_slice).collect()),
        Tree::Section(things) => Node::Section(section(things)),
    }
}

type Owned = (Kind, Vec<u8>, Vec<u8>);

/// All packets of a stream in pieces of these sizes, again and again.
fn packets(stream: &[u8], sizes: &[usize]) -> (Vec<Owned>, Option<Fault>) {
    let (mut framer, mut found) = (Framer::default(), Vec::new());
    let (mut rest, mut sizes) = (stream, sizes.iter().cycle());
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(rest.len().min(*sizes.next().unwrap()));
        rest = after;
        let fed = framer.feed(piece, &mut |packet| {
            found.push((packet.kind, packet.name.to_vec(), packet.message.to_vec()));
            Ok(())
        });
        if let Err(fault) = fed {
            return (found, Some(fault));
        }
    }
    (found, None)
}

proptest! {
    #[test]
    fn what_is_written_is_read(
        name in bytes(255), things in things(), sizes in prop::collection::vec(1_usize..50, 1..8)
    ) {
        let message = section(&things).encode();
        prop_assert_eq!(Section::parse(&message).unwrap(), section(&things));
        let named = Packet { kind: Kind::Event, name: &name, message: &message };
        let plain = Packet { kind: Kind::CmdResponse, name: b"", message: &message };
        let stream = [named.encode(), plain.encode()].concat();
        let (found, fault) = packets(&stream, &sizes);
        prop_assert_eq!(fault, None);
        prop_assert_eq!(found, vec![
            (Kind::Event, name.clone(), message.clone()),
            (Kind::CmdResponse, Vec::new(), message.clone()),
        ]);
    }

    #[test]
    fn any_bytes_are_read_alike_in_any_pieces(
        stream in bytes(600), sizes in prop::collection::vec(1_usize..90, 1..8)
    ) {
        prop_assert_eq!(packets(&stream, &sizes), packets(&stream, &[usize::MAX]));
    }

    #[test]
    fn any_message_is_read_or_refused(
        message in prop::collection::vec(prop_oneof![0_u8..8, any::<u8>()], 0..400)
    ) {
        if let Ok(section) = Section::parse(&message) {
            prop_assert_eq!(section.encode(), message);
        }
    }

    #[test]
    fn a_message_cut_or_changed_is_read_or_refused(
        things in things(), cut in any::<prop::sample::Index>(), flip in any::<u8>()
    ) {
        let mut message = section(&things).encode();
        if !message.is_empty() {
            let at = cut.index(message.len());
            let _ = Section::parse(&message[..at]);
            message[at] ^= flip;
            let _ = Section::parse(&message);
        }
    }
}

#[test]
fn a_length_beyond_the_bound_is_refused_before_anything_is_kept() {
    let mut framer = Framer::default();
    let length = u32::try_from(super::super::packet::MAX_LENGTH + 1).unwrap();
    let fed = framer.feed(&length.to_be_bytes(), &mut |_| Ok(()));
    assert_eq!(fed, Err(Fault::Length(length)));
    let fed = Framer::default().feed(&[0; 4], &mut |_| Ok(()));
    assert_eq!(fed, Err(Fault::Length(0)));
    let fed = Framer::default().feed(&[0, 0, 0, 1, 8], &mut |_| Ok(()));
    assert_eq!(fed, Err(Fault::Type(8)));
    // A name that is longer than its packet.
    let fed = Framer::default().feed(&[0, 0, 0, 3, 7, 9, 0], &mut |_| Ok(()));
    assert_eq!(fed, Err(Fault::Malformed));
}

#[test]
fn the_longest_packet_is_read() {
    let message = vec![0; MAX_PACKET - 1];
    let packet = Packet {
        kind: Kind::CmdResponse,
        name: b"",
        message: &message,
    };
    let (found, fault) = packets(&packet.encode(), &[4096]);
    assert_eq!((found.len(), fault), (1, None));
}

#[test]
fn of_a_longer_packet_the_beginning_is_kept_and_the_next_one_read() {
    let value = b"\x03\x01k\x00\x01v";
    let message = [b"\x01\x02sa".to_vec(), value.repeat(200_000), vec![2]].concat();
    assert!(message.len() > 2 * MAX_PACKET);
    let packet = |kind, name, message| Packet {
        kind,
        name,
        message,
    };
    let long = packet(Kind::Event, b"list-sa", &message).encode();
    let next = packet(Kind::CmdResponse, b"", value).encode();
    let stream = [long, next].concat();
    for size in [1, 4096, usize::MAX] {
        let mut framer = Framer::default();
        let mut found = Vec::new();
        for piece in stream.chunks(size.min(stream.len())) {
            let fed = framer.feed(piece, &mut |packet| {
                let section = packet.beginning()?;
                let inner = section.section("sa").map_or(0, |sa| sa.encode().len());
                found.push((
                    packet.kind,
                    packet.message.len() < MAX_PACKET / 2,
                    section.value("k").is_some(),
                    inner > 0,
                ));
                Ok(())
            });
            assert_eq!(fed, Ok(()));
        }
        assert!(!framer.is_partial());
        let wanted = [
            (Kind::Event, false, false, true),
            (Kind::CmdResponse, true, true, false),
        ];
        assert_eq!(found, wanted);
    }
}

#[test]
fn messages_have_bounds() {
    let deep = |levels: usize| [1_u8, 0].repeat(levels);
    let closed = |levels: usize| [deep(levels), vec![2; levels]].concat();
    assert!(Section::parse(&closed(MAX_DEPTH)).is_ok());
    assert_eq!(Section::parse(&closed(MAX_DEPTH + 1)), Err(Fault::TooDeep));
    assert_eq!(Section::parse(&deep(100_000)), Err(Fault::TooDeep));
    let many = [3_u8, 0, 0, 0].repeat(MAX_ELEMENTS + 1);
    assert_eq!(Section::parse(&many), Err(Fault::TooMany));
    for wrong in [
        &[2_u8][..],
        &[5, 0, 0],
        &[6],
        &[1, 0],
        &[4, 0, 3],
        &[3, 1],
        &[9],
    ] {
        assert_eq!(Section::parse(wrong), Err(Fault::Malformed), "{wrong:?}");
    }
}
