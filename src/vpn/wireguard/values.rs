//! The values of UAPI lines: each is read up to the end of its line in one pass. Pure.
//!
//! What nearly all lines hold has a quick way; the standard library judges the rest. A function
//! returns what it read and what is behind the line, and nothing if the value is not in its format.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use memchr::memchr;
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::Zeroizing;

use crate::core::sessions::{Endpoint, Net};

/// Longest line taken: keys are 64 digits, addresses shorter, future keys surely below this.
pub const MAX_LINE: usize = 256;

/// The first line of `lines` without its end, and what is behind it. None of a line that is longer
/// than [`MAX_LINE`].
pub(super) fn whole_line(lines: &[u8]) -> Option<(&[u8], &[u8])> {
    let looked_at = &lines[..lines.len().min(MAX_LINE + 1)];
    let end = memchr(b'\n', looked_at)?;
    Some((&lines[..end], &lines[end + 1..]))
}

pub(super) fn parsed<T: std::str::FromStr>(value: &[u8]) -> Option<T> {
    std::str::from_utf8(value).ok()?.parse().ok()
}

/// Reads digits up to the end of the line into `to`. Returns what is behind.
pub(super) fn number<'a>(value: &'a [u8], to: &mut u64) -> Option<&'a [u8]> {
    let mut sum: u64 = 0;
    // 19 digits cannot overflow.
    for (at, byte) in value.iter().enumerate().take(20) {
        match byte {
            b'0'..=b'9' if at < 19 => sum = sum * 10 + u64::from(byte - b'0'),
            b'\n' if at > 0 => {
                *to = sum;
                return Some(&value[at + 1..]);
            }
            _ => break,
        }
    }
    let (value, behind) = whole_line(value)?;
    *to = parsed(value)?;
    Some(behind)
}

pub(super) fn nanos<'a>(value: &'a [u8], to: &mut u32) -> Option<&'a [u8]> {
    let mut nanos = 0;
    let behind = number(value, &mut nanos)?;
    *to = u32::try_from(nanos)
        .ok()
        .filter(|nanos| *nanos < 1_000_000_000)?;
    Some(behind)
}

/// Reads exactly 64 hexadecimal digits and the end of the line into `to`. Returns what is behind.
pub(super) fn hex_key<'a>(value: &'a [u8], to: &mut [u8; 32]) -> Option<&'a [u8]> {
    let (digits, rest) = value.split_first_chunk::<64>()?;
    let (b'\n', behind) = rest.split_first()? else {
        return None;
    };
    let (eights, _) = digits.as_chunks::<8>();
    let (fours, _) = to.as_chunks_mut::<4>();
    for (four, eight) in fours.iter_mut().zip(eights) {
        *four = hex_word(*eight)?;
    }
    Some(behind)
}

/// The public key of the private key that a line holds, worked out as `wg` does; nothing of an
/// unset one (zeroes). Nothing of the private key stays: its only two copies are wiped here.
pub(super) fn public_key_of(private: &[u8]) -> Option<[u8; 32]> {
    let mut private_key = Zeroizing::new([0; 32]);
    hex_key(private, &mut private_key)?;
    if *private_key == [0; 32] {
        return None;
    }
    let secret = StaticSecret::from(*private_key);
    Some(PublicKey::from(&secret).to_bytes())
}

/// Eight digits at once, each in its byte of a word: keys are a third of all that is parsed.
fn hex_word(digits: [u8; 8]) -> Option<[u8; 4]> {
    const EACH: u64 = 0x0101_0101_0101_0101;
    let text = u64::from_be_bytes(digits);
    let letters = (text >> 6) & EACH;
    let values = (text & (0x0f * EACH)) + 9 * letters;
    // Written again in small letters: what was no digit comes out as something else.
    let above_9 = ((values + 6 * EACH) >> 4) & EACH;
    let written = values + 0x30 * EACH + 39 * above_9;
    let small = text | (letters << 5);
    if values & (0xf0 * EACH) != 0 || written != small {
        return None;
    }
    let [_, a, _, b, _, c, _, d] = (values >> 4 | values).to_be_bytes();
    Some([a, b, c, d])
}

/// `1.2.3.4:5`, `[fd00::1]:5`, `[fe80::1%eth0]:5`. The zone names a local interface, no client.
pub(super) fn endpoint(value: &[u8]) -> Option<(Endpoint, &[u8])> {
    if let Some((ip, port, behind)) = quad_and_number(value, b':')
        && let Ok(port) = u16::try_from(port)
    {
        let ip = IpAddr::V4(ip);
        let port = Some(port);
        return Some((Endpoint { ip, port }, behind));
    }
    let (value, behind) = whole_line(value)?;
    let value = std::str::from_utf8(value).ok()?;
    let (ip, port) = match value.strip_prefix('[') {
        None => {
            let addr: SocketAddr = value.parse().ok()?;
            (addr.ip(), addr.port())
        }
        Some(v6) => {
            let (host, port) = v6.rsplit_once("]:")?;
            let ip: Ipv6Addr = host.split('%').next()?.parse().ok()?;
            (IpAddr::V6(ip), port.parse().ok()?)
        }
    };
    let endpoint = Endpoint {
        ip: ip.to_canonical(),
        port: Some(port),
    };
    Some((endpoint, behind))
}

pub(super) fn net(value: &[u8]) -> Option<(Net, &[u8])> {
    if let Some((ip, prefix, behind)) = quad_and_number(value, b'/')
        && let Some(prefix) = u8::try_from(prefix).ok().filter(|prefix| *prefix <= 32)
    {
        let addr = IpAddr::V4(ip);
        return Some((Net { addr, prefix }, behind));
    }
    let (value, behind) = whole_line(value)?;
    let (addr, prefix) = std::str::from_utf8(value).ok()?.split_once('/')?;
    let addr: IpAddr = addr.parse().ok()?;
    let prefix: u8 = prefix.parse().ok()?;
    let most = if addr.is_ipv4() { 32 } else { 128 };
    (prefix <= most).then_some((Net { addr, prefix }, behind))
}

/// `1.2.3.4`, `between`, a number of at most 5 digits and the end of the line: nearly all
/// addresses that come. None of anything unusual, which the standard library then judges.
fn quad_and_number(value: &[u8], between: u8) -> Option<(Ipv4Addr, u32, &[u8])> {
    let mut numbers = [0_u32; 5];
    let (mut which, mut number, mut digits) = (0, 0_u32, 0);
    for (at, byte) in value
        .iter()
        .enumerate()
        .take("255.255.255.255:65535\n".len())
    {
        if byte.is_ascii_digit() {
            if digits == 5 || (digits == 1 && number == 0) {
                return None; // too long, or a leading zero
            }
            number = number * 10 + u32::from(byte - b'0');
            digits += 1;
            continue;
        }
        let ends = match which {
            0..=2 => b'.',
            3 => between,
            _ => b'\n',
        };
        if *byte != ends || digits == 0 {
            return None;
        }
        numbers[which] = number;
        if which == 4 {
            let [a, b, c, d, number] = numbers;
            let byte = |octet| u8::try_from(octet).ok();
            let ip = Ipv4Addr::new(byte(a)?, byte(b)?, byte(c)?, byte(d)?);
            return Some((ip, number, &value[at + 1..]));
        }
        (which, number, digits) = (which + 1, 0, 0);
    }
    None
}

#[cfg(test)]
mod tests {
    use base64::{Engine as _, engine::general_purpose::STANDARD};

    use super::*;

    #[test]
    fn digits_are_what_the_standard_library_takes_for_digits() {
        for at in 0..8 {
            for byte in 0..=255_u8 {
                let mut digits = *b"09aFfA5b";
                digits[at] = byte;
                let said: Option<Vec<u8>> = digits
                    .iter()
                    .map(|byte| Some(char::from(*byte).to_digit(16)? as u8))
                    .collect();
                let pairs =
                    |said: Vec<u8>| said.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect();
                let expected: Option<Vec<u8>> = said.map(pairs);
                assert_eq!(hex_word(digits).map(Vec::from), expected, "{digits:?}");
            }
        }
    }

    /// The keys of `wg-show-dump-01.txt`, where `wg` worked the public one out.
    #[test]
    fn a_public_key_is_worked_out_as_wg_does_it() {
        let private = b"d060f17ae7ad68df633204b985ca6352f5c1263e1a14c3231ddbe765ad89e771\n";
        let public = public_key_of(private).unwrap();
        let shown = "1fObsgWPmCwbMtgG4JpKHfAT8WhzgwJKs5CoEQ8wYgc=";
        assert_eq!(STANDARD.encode(public), shown);
        assert_eq!(public_key_of(format!("{:064}\n", 0).as_bytes()), None);
        assert_eq!(public_key_of(b"d060\n"), None);
    }

    #[test]
    fn the_quick_ways_and_the_standard_library_agree() {
        for text in [
            "1.2.3.4:5",
            "255.255.255.255:65535",
            "1.2.3.4:65536",
            "256.1.1.1:1",
            "01.2.3.4:5",
            "1.2.3:5",
            "1.2.3.4.5:5",
            "1.2.3.4:",
            "1.2.3.4",
            "",
            "99999999999999999999.1.1.1:1",
            "1.2.3.4:00080",
            "1.2.3.4:000080",
            "1.2.3.4/5:5",
            "[::1]:5",
            "[::ffff:1.2.3.4]:5",
        ] {
            let line = format!("{text}\nnext");
            let expected = text.parse::<SocketAddr>().ok();
            let read = endpoint(line.as_bytes());
            let addr = read.map(|(at, _)| SocketAddr::new(at.ip, at.port.unwrap()));
            let expected = expected.map(|at| SocketAddr::new(at.ip().to_canonical(), at.port()));
            assert_eq!(addr, expected, "{text}");
            assert!(read.is_none_or(|(_, behind)| behind == b"next"));
        }
        for text in [
            "0",
            "7",
            "18446744073709551615",
            "18446744073709551616",
            "0000000000000000000000001",
            "",
            "-1",
            "1a",
            "1 ",
            "9999999999999999999",
            "10000000000000000000",
        ] {
            let line = format!("{text}\nnext");
            let mut read = 0;
            let behind = number(line.as_bytes(), &mut read);
            assert_eq!(behind.map(|_| read), text.parse::<u64>().ok(), "{text}");
        }
        let prefix = |text: &str| net(format!("{text}\n").as_bytes()).map(|(net, _)| net.prefix);
        assert_eq!(prefix("10.0.0.0/32"), Some(32));
        assert_eq!(prefix("10.0.0.0/33"), None);
        assert_eq!(prefix("::/128"), Some(128));
        assert_eq!(prefix("::/129"), None);
    }
}
