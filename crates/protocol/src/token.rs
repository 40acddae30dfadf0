//! The token: the one string that an operator pastes on a new host.
//!
//! `vnr1.` and base64url of: version, flags, expiry, SHA-256 of the controller's root key,
//! SHA-256 of the server certificate's public key (optional), 32-byte secret, controller URL,
//! checksum. The checksum finds typing errors; it proves nothing. The expiry is for the
//! operator's eyes: the controller judges it by its own clock, so that a host whose clock is
//! wrong is not locked out.

use std::fmt;

use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::encoding::{Digest, Hex, from_base64url, to_base64url};

/// What every token starts with; the digit is the version.
pub const PREFIX: &str = "vnr1.";
/// The longest controller URL in a token, in bytes.
pub const MAX_URL_BYTES: usize = 512;
/// The longest token, in characters.
pub const MAX_TOKEN_CHARS: usize = 1024;

const VERSION: u8 = 1;
const FLAG_SERVER_PIN: u8 = 1;
const CHECKSUM_BYTES: usize = 4;
const CHECKSUM_CONTEXT: &[u8] = b"vpn-node token v1";
/// Version, flags, expiry, root pin, secret, URL length, checksum: what the shortest token has.
const SHORTEST: usize = 1 + 1 + 8 + 32 + 32 + 2 + CHECKSUM_BYTES;

/// A parsed token. The secret is wiped from memory when it is dropped, and never printed.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct Token {
    /// Where the controller answers, for example `https://vpn.example.org:8443`.
    #[zeroize(skip)]
    pub url: String,
    /// SHA-256 of the controller's root public key: the pin.
    #[zeroize(skip)]
    pub root_pin: Digest,
    /// SHA-256 of the DER SubjectPublicKeyInfo of the server's TLS certificate, when that
    /// certificate is self-signed.
    #[zeroize(skip)]
    pub server_pin: Option<Digest>,
    /// The 32 bytes that the registration key is derived from. They never cross the wire. On the
    /// heap, since a value that moves leaves a copy of its bytes on the stack, which nobody wipes.
    pub secret: Box<[u8; 32]>,
    /// When the controller stops honouring the token, in seconds since the Unix epoch.
    #[zeroize(skip)]
    pub expires_s: u64,
}

/// Why a text is no token. The sentence is for the operator who pasted it.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TokenError {
    /// Nothing at all.
    #[error(
        "no token was given: paste the string that 'vpn-node-controller registration-key create' printed"
    )]
    Empty,
    /// Something, but not a token.
    #[error(
        "this is not a registration token: a token starts with \"{PREFIX}\"; copy the whole string again"
    )]
    NotAToken,
    /// A token of a version that this program does not know.
    #[error(
        "this token is of version {found}, and this vpn-node reads version {VERSION}: update vpn-node on this host, or create the token with the controller's matching version"
    )]
    WrongVersion {
        /// The version in the token.
        found: String,
    },
    /// The end is missing.
    #[error(
        "this token is cut short ({have} bytes of {want}): copy the whole string, in one piece"
    )]
    Truncated {
        /// Bytes that came.
        have: usize,
        /// Bytes that the token says it has, or must have at least.
        want: usize,
    },
    /// A character or a bit is wrong.
    #[error(
        "this token is damaged ({0}): copy it again from where it was created, without line breaks or added characters"
    )]
    Damaged(&'static str),
}

impl Token {
    /// Reads a token; blanks and line ends around it are ignored.
    ///
    /// # Errors
    /// [`TokenError`], each kind of damage with its own sentence.
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        let text = text.trim();
        if text.is_empty() {
            return Err(TokenError::Empty);
        }
        if text.len() > MAX_TOKEN_CHARS {
            return Err(TokenError::Damaged("it is longer than any token"));
        }
        let body = match text.strip_prefix(PREFIX) {
            Some(body) => body,
            None => return Err(without_prefix(text)),
        };
        let known = |c: u8| c.is_ascii_alphanumeric() || c == b'-' || c == b'_';
        if !body.bytes().all(known) {
            return Err(TokenError::Damaged(
                "it holds a character that no token has",
            ));
        }
        // One base64url character too many is a cut token, whatever it decodes to. Only ASCII
        // is left here, so that every byte index is a character's border.
        let whole = if body.len() % 4 == 1 {
            &body[..body.len() - 1]
        } else {
            body
        };
        let bytes = decode(whole)?;
        Self::from_bytes(&bytes, whole.len() != body.len())
    }

    fn from_bytes(bytes: &[u8], cut: bool) -> Result<Self, TokenError> {
        let have = bytes.len();
        if have < SHORTEST {
            return Err(TokenError::Truncated {
                have,
                want: SHORTEST,
            });
        }
        let (version, flags) = (bytes[0], bytes[1]);
        if version != VERSION {
            // The prefix says another version than the bytes: made so, or damaged?
            let (covered, checksum) = bytes.split_at(have - CHECKSUM_BYTES);
            return Err(if checksum == checksum_of(covered) {
                TokenError::WrongVersion {
                    found: version.to_string(),
                }
            } else {
                TokenError::Damaged("its version byte does not fit its prefix")
            });
        }
        if flags & !FLAG_SERVER_PIN != 0 {
            return Err(TokenError::Damaged("unknown flags"));
        }
        let pinned = flags & FLAG_SERVER_PIN != 0;
        let fixed = SHORTEST + if pinned { 32 } else { 0 };
        if have < fixed {
            return Err(TokenError::Truncated { have, want: fixed });
        }
        let mut rest = Reader(&bytes[2..]);
        let expires_s = u64::from_be_bytes(rest.take());
        let root_pin = Hex(rest.take());
        let server_pin = pinned.then(|| Hex(rest.take()));
        let secret = rest.next();
        let url_bytes = usize::from(u16::from_be_bytes(rest.take()));
        if url_bytes > MAX_URL_BYTES {
            return Err(TokenError::Damaged("the address in it is too long"));
        }
        let want = fixed + url_bytes;
        if have < want {
            return Err(TokenError::Truncated { have, want });
        }
        if have > want || cut {
            return Err(TokenError::Damaged("something follows its end"));
        }
        let (covered, checksum) = bytes.split_at(want - CHECKSUM_BYTES);
        if checksum != checksum_of(covered) {
            return Err(TokenError::Damaged("its checksum does not match"));
        }
        let url = std::str::from_utf8(&rest.0[..url_bytes])
            .ok()
            .filter(|url| url.starts_with("https://") && url.chars().all(|c| c.is_ascii_graphic()))
            .ok_or(TokenError::Damaged("the address in it is not an https URL"))?
            .to_owned();
        Ok(Self {
            url,
            root_pin,
            server_pin,
            secret: Box::new(*secret),
            expires_s,
        })
    }

    /// The string to paste.
    ///
    /// # Panics
    /// When the URL is longer than [`MAX_URL_BYTES`]: the controller checks it at `init`.
    #[must_use]
    pub fn to_text(&self) -> zeroize::Zeroizing<String> {
        assert!(
            self.url.len() <= MAX_URL_BYTES,
            "the controller URL was checked at init"
        );
        let mut bytes = zeroize::Zeroizing::new(Vec::with_capacity(SHORTEST + 32 + self.url.len()));
        bytes.push(VERSION);
        bytes.push(if self.server_pin.is_some() {
            FLAG_SERVER_PIN
        } else {
            0
        });
        bytes.extend_from_slice(&self.expires_s.to_be_bytes());
        bytes.extend_from_slice(&self.root_pin.0);
        if let Some(pin) = &self.server_pin {
            bytes.extend_from_slice(&pin.0);
        }
        bytes.extend_from_slice(self.secret.as_slice());
        let url_bytes = u16::try_from(self.url.len()).expect("bounded above");
        bytes.extend_from_slice(&url_bytes.to_be_bytes());
        bytes.extend_from_slice(self.url.as_bytes());
        let checksum = checksum_of(&bytes);
        bytes.extend_from_slice(&checksum);
        zeroize::Zeroizing::new(format!(
            "{PREFIX}{}",
            *zeroize::Zeroizing::new(to_base64url(&bytes))
        ))
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token")
            .field("url", &self.url)
            .field("root_pin", &self.root_pin)
            .finish_non_exhaustive()
    }
}

fn without_prefix(text: &str) -> TokenError {
    let version = text
        .strip_prefix("vnr")
        .and_then(|rest| rest.split_once('.'));
    match version {
        Some((digits, _))
            if (1..=4).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit()) =>
        {
            TokenError::WrongVersion {
                found: digits.to_owned(),
            }
        }
        _ if PREFIX.starts_with(text) => TokenError::Truncated {
            have: 0,
            want: SHORTEST,
        },
        _ => TokenError::NotAToken,
    }
}

fn decode(body: &str) -> Result<zeroize::Zeroizing<Vec<u8>>, TokenError> {
    // A cut may leave bits behind the last whole byte: look at the whole bytes only.
    from_base64url(body)
        .or_else(|| from_base64url(&body[..body.len() - body.len() % 4]))
        .map(zeroize::Zeroizing::new)
        .ok_or(TokenError::Damaged("it is not base64url"))
}

fn checksum_of(covered: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let digest = Digest::of(&[CHECKSUM_CONTEXT, covered]);
    std::array::from_fn(|i| digest.0[i])
}

/// Takes fixed fields off the front; lengths were checked before.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        *self.next()
    }

    fn next<const N: usize>(&mut self) -> &'a [u8; N] {
        let (head, tail) = self
            .0
            .split_first_chunk::<N>()
            .expect("length checked by the caller");
        self.0 = tail;
        head
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(server_pin: Option<Digest>) -> Token {
        Token {
            url: "https://127.0.0.1:8443".into(),
            root_pin: Hex([1; 32]),
            server_pin,
            secret: Box::new([3; 32]),
            expires_s: 1_800_000_000,
        }
    }

    #[test]
    fn reads_back_what_it_wrote() {
        for pin in [None, Some(Hex([2; 32]))] {
            let written = token(pin);
            assert_eq!(
                Token::parse(&format!("\n {} \r\n", *written.to_text())),
                Ok(written)
            );
        }
    }

    #[test]
    fn every_shorter_prefix_is_truncated() {
        let text = token(Some(Hex([2; 32]))).to_text();
        for end in 1..text.len() {
            assert!(
                matches!(
                    Token::parse(&text[..end]),
                    Err(TokenError::Truncated { .. })
                ),
                "{end}: {:?}",
                Token::parse(&text[..end])
            );
        }
    }

    #[test]
    fn every_changed_character_is_refused() {
        let text = token(None).to_text();
        for at in PREFIX.len()..text.len() {
            for other in ["A", "z", "_"] {
                if &text[at..=at] == other {
                    continue;
                }
                let mut changed = text.to_string();
                changed.replace_range(at..=at, other);
                assert!(Token::parse(&changed).is_err(), "{at} {other}");
            }
        }
    }

    #[test]
    fn each_kind_of_damage_has_its_own_sentence() {
        let text = token(None).to_text();
        assert_eq!(Token::parse("  \n"), Err(TokenError::Empty));
        assert_eq!(Token::parse("hello"), Err(TokenError::NotAToken));
        assert_eq!(
            Token::parse("vnr2.AAAA"),
            Err(TokenError::WrongVersion { found: "2".into() })
        );
        let mut damaged = text.to_string();
        damaged.insert(20, '!');
        assert!(matches!(
            Token::parse(&damaged),
            Err(TokenError::Damaged(_))
        ));
        // Not ASCII, with its border where a cut character would be dropped.
        assert_eq!(
            Token::parse("vnr1.AAA\u{e9}"),
            Err(TokenError::Damaged(
                "it holds a character that no token has"
            ))
        );
        assert!(matches!(
            Token::parse(&format!("{}AAAA", *text)),
            Err(TokenError::Damaged("something follows its end"))
        ));
        assert!(matches!(
            Token::parse(&"A".repeat(MAX_TOKEN_CHARS + 1)),
            Err(TokenError::Damaged(_))
        ));
    }

    #[test]
    fn debug_does_not_tell_the_secret() {
        assert!(!format!("{:?}", token(None)).contains("3, 3"));
    }
}
