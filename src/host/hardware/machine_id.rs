//! `/etc/machine-id`, as an identifier that says nothing about it.
//!
//! machine-id(5) asks that the id itself never leaves the host. The derived one is that of
//! sd_id128_get_machine_app_specific(3): `systemd-id128 machine-id --app-specific=APPLICATION`
//! prints the same.

use std::path::Path;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use uuid::{Builder, Uuid};
use vpn_node_protocol::hardware::Component;

use crate::host::bounded;

/// The id of this application in the sense of sd_id128_get_machine_app_specific(3). Never changes:
/// another value would change the fingerprint of every host.
const APPLICATION: Uuid = Uuid::from_u128(0x9d3f_1c52_7b0e_4e6a_8f41_c2a5_60d7_3b18);

/// 32 hex digits and a line break; anything longer is not a machine id.
const MAX_MACHINE_ID: usize = 64;

pub(super) fn probe(etc: &Path, notes: &mut Vec<String>) -> Component {
    let path = etc.join("machine-id");
    let id = bounded::read_prefix(&path, MAX_MACHINE_ID).ok();
    match id.as_deref().and_then(parse) {
        Some(id) => Component::from_raw(app_specific(id).simple().to_string().as_bytes()),
        None => {
            notes.push(format!(
                "{} has no machine id (systemd-machine-id-setup makes one)",
                path.display()
            ));
            Component::UNAVAILABLE
        }
    }
}

fn parse(text: &[u8]) -> Option<Uuid> {
    let text = text.trim_ascii();
    if text.len() != 32 {
        return None;
    }
    Uuid::try_parse_ascii(text).ok().filter(|id| !id.is_nil())
}

/// HMAC-SHA256 of the application's id, keyed with the machine's; the first half as a UUID v4.
fn app_specific(machine: Uuid) -> Uuid {
    let mut mac =
        Hmac::<Sha256>::new_from_slice(machine.as_bytes()).expect("HMAC takes a key of any length");
    mac.update(APPLICATION.as_bytes());
    let tag: [u8; 32] = mac.finalize().into_bytes().into();
    let mut half = [0; 16];
    half.copy_from_slice(&tag[..16]);
    Builder::from_random_bytes(half).into_uuid()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `systemd-id128 machine-id --app-specific=9d3f1c527b0e4e6a8f41c2a560d73b18` prints where
    /// this is the machine id.
    #[test]
    fn agrees_with_systemd() {
        let machine = parse(b"0123456789abcdeffedcba9876543210\n").unwrap();
        assert_eq!(
            app_specific(machine).simple().to_string(),
            "f316d8d242204d2d9505695dc492821e"
        );
    }

    #[test]
    fn what_is_no_machine_id() {
        for text in [
            &b"uninitialized\n"[..],
            b"",
            b"00000000000000000000000000000000\n",
            b"01234567-89ab-cdef-fedc-ba9876543210\n",
            b"0123456789abcdeffedcba9876543210x",
            b"\0\xff",
        ] {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }
}
