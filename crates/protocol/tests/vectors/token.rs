//! `token.json`: tokens, and each kind of damage with the name of its error.

use serde_json::{Value, json};
use vpn_node_protocol::encoding::{Digest, Hex, from_base64url, to_base64url};
use vpn_node_protocol::keys::{PublicKey, registration_key};
use vpn_node_protocol::token::{MAX_TOKEN_CHARS, Token, TokenError};

use crate::support::{TOKEN_SECRET, cases, held, hex, text, unhex32};

const URL: &str = "https://vpn.example.org:8443";

fn token(server_pin: Option<Digest>) -> Token {
    Token {
        url: URL.into(),
        root_pin: Hex([0x11; 32]),
        server_pin,
        secret: Box::new(TOKEN_SECRET),
        expires_s: 1_800_000_000,
    }
}

/// The bytes of a token, by the table in `docs/protocol.md` and not by the code under test.
fn bytes(version: u8, flags: u8, server_pin: Option<[u8; 32]>, url: &[u8]) -> Vec<u8> {
    let mut out = vec![version, flags];
    out.extend_from_slice(&1_800_000_000_u64.to_be_bytes());
    out.extend_from_slice(&[0x11; 32]);
    out.extend(server_pin.into_iter().flatten());
    out.extend_from_slice(&TOKEN_SECRET);
    out.extend_from_slice(&u16::try_from(url.len()).unwrap().to_be_bytes());
    out.extend_from_slice(url);
    let checksum = Digest::of(&[b"vpn-node token v1", &out]);
    out.extend_from_slice(&checksum.0[..4]);
    out
}

fn written(bytes: &[u8]) -> String {
    format!("vnr1.{}", to_base64url(bytes))
}

fn good(name: &str, token: &Token) -> Value {
    let text = token.to_text().to_string();
    json!({
        "name": name,
        "text": text,
        "bytes": hex(&from_base64url(&text["vnr1.".len()..]).unwrap()),
        "url": token.url,
        "root_pin": token.root_pin,
        "server_pin": token.server_pin,
        "secret": hex(token.secret.as_slice()),
        "expires_s": token.expires_s,
        "registration_key": PublicKey::from(&registration_key(&token.secret)),
    })
}

fn damaged() -> Vec<Value> {
    let plain = bytes(1, 0, None, URL.as_bytes());
    let whole = written(&plain);
    let flipped = |at: usize| {
        let mut bytes = plain.clone();
        bytes[at] ^= 1;
        written(&bytes)
    };
    let middle = whole.len() / 2;
    [
        ("nothing", "empty", String::new()),
        ("only blanks", "empty", " \t\r\n".into()),
        ("a word", "not_a_token", "hello".into()),
        ("a URL", "not_a_token", URL.into()),
        (
            "the prefix in capitals",
            "not_a_token",
            whole.replacen("vnr1", "VNR1", 1),
        ),
        (
            "version 2 in the prefix",
            "wrong_version",
            whole.replacen("vnr1", "vnr2", 1),
        ),
        (
            "version 2 in the bytes",
            "wrong_version",
            written(&bytes(2, 0, None, URL.as_bytes())),
        ),
        ("only the prefix", "truncated", "vnr1.".into()),
        ("a part of the prefix", "truncated", "vnr".into()),
        ("half", "truncated", whole[..middle].into()),
        (
            "without its last character",
            "truncated",
            whole[..whole.len() - 1].into(),
        ),
        (
            "without its last two characters",
            "truncated",
            whole[..whole.len() - 2].into(),
        ),
        (
            "without its last three characters",
            "truncated",
            whole[..whole.len() - 3].into(),
        ),
        (
            "flag set, pin absent",
            "truncated",
            written(&bytes(1, 1, None, b"")),
        ),
        ("expiry changed", "damaged", flipped(9)),
        ("root pin changed", "damaged", flipped(20)),
        ("secret changed", "damaged", flipped(60)),
        ("address changed", "damaged", flipped(80)),
        ("checksum changed", "damaged", flipped(plain.len() - 1)),
        (
            "unknown flag",
            "damaged",
            written(&bytes(1, 2, None, URL.as_bytes())),
        ),
        ("characters added", "damaged", format!("{whole}AAAA")),
        ("said twice", "damaged", format!("{whole}{whole}")),
        (
            "line break inside",
            "damaged",
            format!("{}\n{}", &whole[..middle], &whole[middle..]),
        ),
        ("padding", "damaged", format!("{whole}==")),
        (
            "standard base64",
            "damaged",
            format!("{}+{}", &whole[..middle], &whole[middle + 1..]),
        ),
        ("not ASCII at a cut", "damaged", "vnr1.AAA\u{e9}".into()),
        (
            "plain http",
            "damaged",
            written(&bytes(1, 0, None, b"http://vpn.example.org")),
        ),
        (
            "blank in the address",
            "damaged",
            written(&bytes(1, 0, None, b"https://a b")),
        ),
        (
            "address not UTF-8",
            "damaged",
            written(&bytes(1, 0, None, b"https://\xff")),
        ),
        (
            "address too long",
            "damaged",
            written(&bytes(1, 0, None, &[b'a'; 513])),
        ),
        (
            "longer than any token",
            "damaged",
            "A".repeat(MAX_TOKEN_CHARS + 1),
        ),
    ]
    .map(|(name, error, text)| json!({"name": name, "error": error, "text": text}))
    .into()
}

fn error_name(error: &TokenError) -> &'static str {
    match error {
        TokenError::Empty => "empty",
        TokenError::NotAToken => "not_a_token",
        TokenError::WrongVersion { .. } => "wrong_version",
        TokenError::Truncated { .. } => "truncated",
        TokenError::Damaged(_) => "damaged",
    }
}

#[test]
fn token_json() {
    let file = held(
        "token.json",
        json!({
            "good": [
                good("without a server pin", &token(None)),
                good("with a server pin", &token(Some(Hex([0x22; 32])))),
            ],
            "damaged": damaged(),
        }),
    );
    for case in cases(&file, "good") {
        let read = Token::parse(&format!(" {}\n", text(case, "text"))).unwrap();
        assert_eq!(read.url, text(case, "url"));
        assert_eq!(read.root_pin.to_string(), text(case, "root_pin"));
        assert_eq!(json!(read.server_pin), case["server_pin"]);
        assert_eq!(*read.secret, unhex32(&case["secret"]));
        assert_eq!(json!(read.expires_s), case["expires_s"]);
        assert_eq!(*read.to_text(), text(case, "text"));
        let pin = read.server_pin.map(|pin| pin.0);
        let table = bytes(1, u8::from(pin.is_some()), pin, read.url.as_bytes());
        assert_eq!(hex(&table), text(case, "bytes"));
        let key = PublicKey::from(&registration_key(&read.secret));
        assert_eq!(json!(key), case["registration_key"]);
    }
    for case in cases(&file, "damaged") {
        let error = Token::parse(text(case, "text")).unwrap_err();
        assert_eq!(
            error_name(&error),
            text(case, "error"),
            "{}: {error}",
            case["name"]
        );
    }
}
