//! Properties of tokens: what was written is read; anything else is an error and never a panic.

use proptest::prelude::*;
use vpn_node_protocol::encoding::{Hex, to_base64url};
use vpn_node_protocol::token::{PREFIX, Token, TokenError};

prop_compose! {
    fn token()(
        url in "https://[!-~]{1,100}",
        root_pin: [u8; 32],
        server_pin: Option<[u8; 32]>,
        secret: [u8; 32],
        expires_s: u64,
    ) -> Token {
        Token { url, root_pin: Hex(root_pin), server_pin: server_pin.map(Hex), secret: Box::new(secret), expires_s }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn every_token_reads_back(token in token()) {
        prop_assert_eq!(Token::parse(&token.to_text()), Ok(token));
    }

    #[test]
    fn every_cut_is_a_cut(token in token(), at: prop::sample::Index) {
        let text = token.to_text();
        let end = 1 + at.index(text.len() - 1);
        let error = Token::parse(&text[..end]).unwrap_err();
        prop_assert!(matches!(error, TokenError::Truncated { .. }), "{}: {}", end, error);
    }

    #[test]
    fn a_changed_byte_is_refused(token in token(), at: prop::sample::Index, change in 1..=255_u8) {
        let text = token.to_text();
        let mut bytes = vpn_node_protocol::encoding::from_base64url(&text[PREFIX.len()..]).unwrap();
        let at = at.index(bytes.len());
        bytes[at] ^= change;
        let parsed = Token::parse(&[PREFIX, &to_base64url(&bytes)].concat());
        prop_assert!(parsed.is_err());
    }

    #[test]
    fn any_text_is_refused_without_a_panic(text in ".{0,300}", prefix in "(vnr1\\.|vnr[0-9]{0,5}\\.?|)") {
        let parsed = Token::parse(&(prefix + &text));
        prop_assert!(parsed.is_err());
    }

    #[test]
    fn any_bytes_are_refused_without_a_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..400), ours: bool) {
        if ours && bytes.len() > 2 {
            bytes[0] = 1;
            bytes[1] &= 1;
        }
        let parsed = Token::parse(&[PREFIX, &to_base64url(&bytes)].concat());
        prop_assert!(parsed.is_err());
    }

    #[test]
    fn an_error_never_quotes_the_token(token in token(), at: prop::sample::Index) {
        let text = token.to_text();
        let end = 1 + at.index(text.len() - 1);
        let error = Token::parse(&text[..end]).unwrap_err().to_string();
        prop_assert!(end < PREFIX.len() + 8 || !error.contains(&text[PREFIX.len()..PREFIX.len() + 8]));
    }
}
