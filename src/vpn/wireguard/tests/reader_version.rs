//! Readers that do not fit: of another version, or none behind the socket, as around a trial.

use std::{
    os::{fd::AsRawFd as _, unix::net::UnixListener},
    thread::{self, JoinHandle},
};

use nix::sys::socket::{MsgFlags, recv, send};

use super::{
    reader::{Running, listening, reduce, seconds_ago, unavailable, wireguard, world},
    *,
};
use crate::{core::sessions::What, host::clock};

/// Gives the first question this packet for an answer; none: it hangs up.
fn answers(listener: UnixListener, packet: &'static [u8]) -> JoinHandle<()> {
    thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        recv(stream.as_raw_fd(), &mut [0; 64], MsgFlags::empty()).unwrap();
        if !packet.is_empty() {
            send(stream.as_raw_fd(), packet, MsgFlags::MSG_NOSIGNAL).unwrap();
        }
    })
}

#[test]
fn a_reader_of_another_version_ends_nothing_and_heals_when_one_fits() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("reader.sock");
    let world = world(vec![([1; 32], seconds_ago(5))]);
    let reader = Running::start(&socket, world.clone());
    let mut wireguard = wireguard(dir.path(), Vec::new());
    let mut agent = Agent::fresh();
    let started = reduce(&mut agent, wireguard.poll(clock::now()));
    assert_eq!(started, [What::Start]);
    drop(reader);

    for (answer, why) in [
        // A newer one that lists, and one that refuses in its own version; an older one; one that
        // does not know this question.
        (&b"\x02\x01\0\0"[..], "its answer is of version 2"),
        (b"\x02\x04\x06\0\0\0\0", "its answer is of version 2"),
        (b"\0", "its answer is of version 0"),
        (b"\x01\x04\x06\0\0\0\0", "does not understand version 1"),
    ] {
        let _ = std::fs::remove_file(&socket);
        let other = answers(listening(&socket), answer);
        assert_eq!(reduce(&mut agent, wireguard.poll(clock::now())), []);
        other.join().unwrap();
        let said = unavailable(&agent).unwrap();
        let names = said.contains(why) && said.contains("another version of the protocol");
        assert!(names && said.contains("connections are kept"), "{said}");
    }
    // The stable version has no such program: systemd closes the connection.
    std::fs::remove_file(&socket).unwrap();
    let none = answers(listening(&socket), b"");
    assert_eq!(reduce(&mut agent, wireguard.poll(clock::now())), []);
    none.join().unwrap();
    let said = unavailable(&agent).unwrap();
    assert!(said.contains("does not answer (it hung up)"), "{said}");

    let _reader = Running::start(&socket, world);
    assert_eq!(reduce(&mut agent, wireguard.poll(clock::now())), []);
    assert_eq!(unavailable(&agent), None);
}
