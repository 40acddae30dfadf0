use proptest::prelude::*;

use super::*;

fn wg0(index: u32) -> Link {
    Link {
        index,
        name: b"wg0".to_vec(),
        up: true,
        wireguard: true,
    }
}

#[test]
fn packets_are_to_the_byte_as_the_documentation_has_them() {
    let names = vec![&b"wg0"[..]];
    let questions = [
        (Question::List { names }, &b"\x01\x01\x01\x03wg0"[..]),
        (Question::Dump { ifindex: 258 }, b"\x01\x02\x02\x01\0\0"),
    ];
    for (question, packet) in questions {
        assert_eq!(question.to_packet(), packet);
    }
    let keys = [[7; 32]];
    let remove = Question::Remove {
        ifindex: 9,
        public_keys: &keys,
    };
    assert_eq!(
        remove.to_packet(),
        [&b"\x01\x03\x09\0\0\0"[..], &[7; 32]].concat()
    );
    let answers = [
        (
            Answer::Links(vec![wg0(9)]),
            &b"\x01\x01\x01\0\x09\0\0\0\x03\x03wg0"[..],
        ),
        (
            Answer::Part {
                family: 0x20,
                seq: 2,
                datagram: b"kernel",
            },
            b"\x01\x02\x20\0\x02\0\0\0kernel",
        ),
        (Answer::Removed, b"\x01\x03"),
        (
            Answer::Failed(Failure::Kernel(19)),
            b"\x01\x04\x01\x13\0\0\0",
        ),
        (Answer::Failed(Failure::Question), b"\x01\x04\x06\0\0\0\0"),
    ];
    for (answer, packet) in answers {
        assert_eq!(answer.to_packet(), packet);
        assert_eq!(Answer::of(packet).unwrap(), answer);
    }
}

#[test]
fn what_is_not_the_protocol_is_refused() {
    let many_names = [&[1, 1, 65][..], &b"\x01a".repeat(65)].concat();
    let many_keys = [&[1, 3, 0, 0, 0, 0][..], &vec![0; 1025 * 32]].concat();
    for question in [
        &b""[..],
        b"\x01",
        b"\x02\x02\0\0\0\0",
        b"\x01\x04",
        b"\x01\x02\0\0\0",
        b"\x01\x02\0\0\0\0\0",
        b"\x01\x01",
        b"\x01\x01\x01\0",
        b"\x01\x01\x01\x10aaaaaaaaaaaaaaaa",
        b"\x01\x01\0x",
        b"\x01\x03\0\0\0\0",
        b"\x01\x03\0\0\0\0x",
        &many_names,
        &many_keys,
    ] {
        assert!(
            Question::of(question).is_err(),
            "{}",
            question.escape_ascii()
        );
    }
    for answer in [
        &b"\x01\x05"[..],
        b"\x01\x01\x01\x04",
        b"\x01\x01\x01\0\0\0\0\0\x04\x01a",
        b"\x01\x03x",
        b"\x01\x04\x07\0\0\0\0",
        b"\x01\x04\x02\x01\0\0\0",
        b"\x01\x02\0\0\0\0\0",
    ] {
        assert!(Answer::of(answer).is_err(), "{}", answer.escape_ascii());
    }
    assert!(Answer::of(&vec![VERSION; MAX_PACKET + 1]).is_err());
}

#[test]
fn a_list_of_too_many_interfaces_is_cut_and_fits_into_a_packet() {
    let link = |index| Link {
        name: b"fifteen-letters".to_vec(),
        up: false,
        ..wg0(index)
    };
    let packet = Answer::Links((0..5000).map(link).collect()).to_packet();
    let Ok(Answer::Links(links)) = Answer::of(&packet) else {
        panic!("{} bytes", packet.len());
    };
    assert_eq!(links.len(), MAX_LINKS);
}

/// A small generator, so that the hundred thousand are the same in every run (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }
}

#[test]
fn a_hundred_thousand_hostile_frames_are_refused_or_read_back_as_themselves() {
    let key = [[9; 32]; 3];
    let seeds = [
        Question::List {
            names: vec![b"wg0", b"wg-home.1"],
        }
        .to_packet(),
        Question::Dump { ifindex: 7 }.to_packet(),
        Question::Remove {
            ifindex: 7,
            public_keys: &key,
        }
        .to_packet(),
        Answer::Links(vec![wg0(7), wg0(7)]).to_packet(),
        Answer::Failed(Failure::Kernel(19)).to_packet(),
        Answer::Removed.to_packet(),
    ];
    let mut random = Random(20);
    let (mut taken, mut refused) = (0, 0);
    for _ in 0..100_000 {
        let mut frame = seeds[random.below(seeds.len())].clone();
        for _ in 0..=random.below(4) {
            let at = random.below(frame.len() + 1);
            match random.below(5) {
                0 if at < frame.len() => frame[at] ^= 1 << random.below(8),
                1 if at < frame.len() => frame[at] = random.next() as u8,
                2 => frame.insert(at, random.next() as u8),
                3 => frame.truncate(at),
                _ => frame.extend_from_within(at..),
            }
        }
        match Question::of(&frame) {
            Ok(question) => {
                assert_eq!(question.to_packet(), frame);
                taken += 1;
            }
            Err(Malformed(_)) => refused += 1,
        }
        if let Ok(answer) = Answer::of(&frame) {
            assert_eq!(answer.to_packet(), frame);
        }
    }
    assert!(taken > 1000 && refused > 50_000, "{taken} {refused}");
}

proptest! {
    #[test]
    fn any_question_reads_back_as_itself(
        names in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..=MAX_NAME), 0..=64),
        ifindex in any::<u32>(),
        keys in prop::collection::vec(any::<[u8; 32]>(), 1..40),
    ) {
        let names = names.iter().map(Vec::as_slice).collect();
        for question in [
            Question::List { names },
            Question::Dump { ifindex },
            Question::Remove { ifindex, public_keys: &keys },
        ] {
            let packet = question.to_packet();
            prop_assert!(packet.len() <= MAX_PACKET);
            prop_assert_eq!(Question::of(&packet), Ok(question.clone()));
        }
    }

    #[test]
    fn any_answer_reads_back_as_itself(
        links in prop::collection::vec(
            (any::<u32>(), prop::collection::vec(any::<u8>(), 1..=MAX_NAME), any::<[bool; 2]>()),
            0..80,
        ),
        family in any::<u16>(),
        seq in any::<u32>(),
        datagram in prop::collection::vec(any::<u8>(), 0..200),
        errno in any::<i32>(),
    ) {
        let links = links.into_iter().map(|(index, name, [up, wireguard])| {
            Link { index, name, up, wireguard }
        });
        for answer in [
            Answer::Links(links.collect()),
            Answer::Part { family, seq, datagram: &datagram },
            Answer::Failed(Failure::Kernel(errno)),
        ] {
            let packet = answer.to_packet();
            prop_assert_eq!(Answer::of(&packet), Ok(answer.clone()));
        }
    }

    #[test]
    fn no_bytes_make_either_side_panic(packet in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = Question::of(&packet);
        let _ = Answer::of(&packet);
    }
}
