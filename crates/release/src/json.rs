//! JSON from strangers, and the one way to write it for a signature.
//!
//! [`parse`] takes the subset that signed metadata needs and refuses everything that two readers
//! could understand differently: a key given twice, fractions and exponents, numbers beyond 64
//! bits, half of a surrogate pair, invalid UTF-8, anything after the end. It never panics and its
//! depth is bounded. [`canonical`] writes OLPC canonical JSON
//! (<http://wiki.laptop.org/go/Canonical_JSON>), the bytes that TUF signatures are over.

use serde_json::{Map, Number, Value};

use crate::limits::{MAX_JSON_DEPTH, MAX_JSON_MEMORY};

/// Why some bytes are not JSON that we accept, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{problem} at byte {at}")]
pub struct JsonError {
    /// What is wrong, for example "a key given twice".
    pub problem: &'static str,
    /// Offset in the input, from 0.
    pub at: usize,
}

/// A value that canonical JSON has no way to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a fraction has no canonical form: signed metadata holds whole numbers only")]
pub struct NotCanonical;

/// Reads JSON strictly.
///
/// # Errors
/// [`JsonError`] for what the top of this module lists.
pub fn parse(bytes: &[u8]) -> Result<Value, JsonError> {
    Reader::new(bytes, false).document()
}

/// Reads back what [`canonical`] wrote: the same, but control characters in strings stand for
/// themselves, because canonical JSON escapes nothing but the quote and the backslash.
///
/// # Errors
/// As [`parse`].
pub fn parse_canonical(bytes: &[u8]) -> Result<Value, JsonError> {
    Reader::new(bytes, true).document()
}

/// Writes OLPC canonical JSON: no white space, keys sorted by code point, only `"` and `\` escaped.
///
/// # Errors
/// [`NotCanonical`] if a number is a fraction or beyond 64 bits; [`parse`] returns none such.
pub fn canonical(value: &Value) -> Result<Vec<u8>, NotCanonical> {
    let mut out = Vec::with_capacity(1024);
    write(value, &mut out)?;
    Ok(out)
}

fn write(value: &Value, out: &mut Vec<u8>) -> Result<(), NotCanonical> {
    match value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Bool(true) => out.extend_from_slice(b"true"),
        Value::Bool(false) => out.extend_from_slice(b"false"),
        Value::Number(number) => match (number.as_u64(), number.as_i64()) {
            (Some(whole), _) => out.extend_from_slice(whole.to_string().as_bytes()),
            (None, Some(whole)) => out.extend_from_slice(whole.to_string().as_bytes()),
            (None, None) => return Err(NotCanonical),
        },
        Value::String(text) => write_string(text, out),
        Value::Array(items) => {
            out.push(b'[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                write(item, out)?;
            }
            out.push(b']');
        }
        Value::Object(members) => {
            // Sorted here and not left to the map: another crate's feature can make it keep the
            // order of insertion. UTF-8 sorts as code points do.
            let mut sorted: Vec<_> = members.iter().collect();
            sorted.sort_unstable_by(|one, other| one.0.as_bytes().cmp(other.0.as_bytes()));
            out.push(b'{');
            for (index, (key, member)) in sorted.into_iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                write_string(key, out);
                out.push(b':');
                write(member, out)?;
            }
            out.push(b'}');
        }
    }
    Ok(())
}

fn write_string(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    for byte in text.bytes() {
        if matches!(byte, b'"' | b'\\') {
            out.push(b'\\');
        }
        out.push(byte);
    }
    out.push(b'"');
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    depth: usize,
    memory: usize,
    raw_controls: bool,
}

impl<'a> Reader<'a> {
    fn new(bytes: &'a [u8], raw_controls: bool) -> Self {
        Self {
            bytes,
            at: 0,
            depth: 0,
            memory: 0,
            raw_controls,
        }
    }

    fn document(mut self) -> Result<Value, JsonError> {
        let value = self.value()?;
        self.skip_space();
        if self.at == self.bytes.len() {
            Ok(value)
        } else {
            Err(self.problem("something after the end of the document"))
        }
    }

    fn value(&mut self) -> Result<Value, JsonError> {
        self.skip_space();
        // What a value takes beside its text, in bytes: a node of a map, the least of a vector, a
        // place in one of them with its key.
        self.memory += match self.peek() {
            Some(b'{') => 640,
            Some(b'[') => 160,
            _ => 100,
        };
        if self.memory > MAX_JSON_MEMORY {
            return Err(self.problem("more values than anybody needs"));
        }
        match self.peek() {
            Some(b'{') => self.nested(Self::object),
            Some(b'[') => self.nested(Self::array),
            Some(b'"') => self.string().map(Value::String),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b't') => self.word("true", Value::Bool(true)),
            Some(b'f') => self.word("false", Value::Bool(false)),
            Some(b'n') => self.word("null", Value::Null),
            Some(_) => Err(self.problem("not a JSON value")),
            None => Err(self.problem("the document is cut off")),
        }
    }

    fn nested(
        &mut self,
        read: fn(&mut Self) -> Result<Value, JsonError>,
    ) -> Result<Value, JsonError> {
        if self.depth == MAX_JSON_DEPTH {
            return Err(self.problem("nested too deeply"));
        }
        self.depth += 1;
        self.at += 1;
        let value = read(self)?;
        self.depth -= 1;
        Ok(value)
    }

    fn object(&mut self) -> Result<Value, JsonError> {
        let mut members = Map::new();
        if self.ends_with(b'}') {
            return Ok(Value::Object(members));
        }
        loop {
            self.skip_space();
            if self.peek() != Some(b'"') {
                return Err(self.problem("a key must be a string"));
            }
            let start = self.at;
            let key = self.string()?;
            if !self.ends_with(b':') {
                return Err(self.problem("no colon after a key"));
            }
            let value = self.value()?;
            if members.insert(key, value).is_some() {
                return Err(JsonError {
                    problem: "a key given twice",
                    at: start,
                });
            }
            if self.ends_with(b'}') {
                return Ok(Value::Object(members));
            }
            if !self.ends_with(b',') {
                return Err(self.problem("no comma between two members"));
            }
        }
    }

    fn array(&mut self) -> Result<Value, JsonError> {
        let mut items = Vec::new();
        if self.ends_with(b']') {
            return Ok(Value::Array(items));
        }
        loop {
            items.push(self.value()?);
            if self.ends_with(b']') {
                return Ok(Value::Array(items));
            }
            if !self.ends_with(b',') {
                return Err(self.problem("no comma between two items"));
            }
        }
    }

    fn string(&mut self) -> Result<String, JsonError> {
        let opening = self.at;
        self.at += 1;
        let mut text = Vec::new();
        loop {
            let Some(byte) = self.peek() else {
                return Err(self.problem("the document is cut off"));
            };
            self.at += 1;
            match byte {
                b'"' => break,
                b'\\' => {
                    let character = self.escape()?;
                    text.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
                }
                0..=0x1f if !self.raw_controls => {
                    self.at -= 1;
                    return Err(self.problem("a control character inside of a string"));
                }
                other => text.push(other),
            }
        }
        String::from_utf8(text).map_err(|_| JsonError {
            problem: "a string is not UTF-8",
            at: opening,
        })
    }

    fn escape(&mut self) -> Result<char, JsonError> {
        let Some(byte) = self.peek() else {
            return Err(self.problem("the document is cut off"));
        };
        self.at += 1;
        Ok(match byte {
            b'"' => '"',
            b'\\' => '\\',
            b'/' => '/',
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => return self.unicode(),
            _ => return Err(self.problem("an unknown escape")),
        })
    }

    fn unicode(&mut self) -> Result<char, JsonError> {
        let first = self.hex4()?;
        let code = if (0xd800..0xdc00).contains(&first) {
            if self.bytes.get(self.at..self.at + 2) != Some(br"\u") {
                return Err(self.problem("half of a surrogate pair"));
            }
            self.at += 2;
            let second = self.hex4()?;
            if !(0xdc00..0xe000).contains(&second) {
                return Err(self.problem("half of a surrogate pair"));
            }
            0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00)
        } else {
            first
        };
        char::from_u32(code).ok_or_else(|| self.problem("half of a surrogate pair"))
    }

    fn hex4(&mut self) -> Result<u32, JsonError> {
        let mut code = 0;
        for _ in 0..4 {
            let digit = self.peek().and_then(|byte| char::from(byte).to_digit(16));
            let Some(digit) = digit else {
                return Err(self.problem("an escape without four hexadecimal digits"));
            };
            code = code * 16 + digit;
            self.at += 1;
        }
        Ok(code)
    }

    fn number(&mut self) -> Result<Value, JsonError> {
        let start = self.at;
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        let digits = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        let text = &self.bytes[digits..self.at];
        if text.is_empty() || (text.len() > 1 && text[0] == b'0') {
            return Err(self.problem("not a JSON number"));
        }
        if matches!(self.peek(), Some(b'.' | b'e' | b'E')) {
            return Err(self.problem("a fraction or an exponent"));
        }
        let text = std::str::from_utf8(&self.bytes[start..self.at])
            .map_err(|_| self.problem("not a JSON number"))?;
        if text == "-0" {
            return Err(self.problem("minus zero"));
        }
        let number = if digits > start {
            text.parse::<i64>().map(Number::from)
        } else {
            text.parse::<u64>().map(Number::from)
        };
        number.map(Value::Number).map_err(|_| JsonError {
            problem: "a number beyond 64 bits",
            at: start,
        })
    }

    fn word(&mut self, word: &str, value: Value) -> Result<Value, JsonError> {
        if self.bytes[self.at..].starts_with(word.as_bytes()) {
            self.at += word.len();
            Ok(value)
        } else {
            Err(self.problem("not a JSON value"))
        }
    }

    /// After white space: takes `byte` if it is next.
    fn ends_with(&mut self, byte: u8) -> bool {
        self.skip_space();
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn skip_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn problem(&self, problem: &'static str) -> JsonError {
        JsonError {
            problem,
            at: self.at,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn problem(text: &str) -> &'static str {
        parse(text.as_bytes()).expect_err(text).problem
    }

    #[test]
    fn what_two_readers_could_read_differently_is_refused() {
        for (text, why) in [
            (r#"{"a":1,"a":2}"#, "a key given twice"),
            (r#"{"a":1,"\u0061":2}"#, "a key given twice"),
            ("1.0", "a fraction or an exponent"),
            ("1e3", "a fraction or an exponent"),
            ("01", "not a JSON number"),
            ("-", "not a JSON number"),
            ("-0", "minus zero"),
            ("18446744073709551616", "a number beyond 64 bits"),
            ("-9223372036854775809", "a number beyond 64 bits"),
            (&"9".repeat(4000), "a number beyond 64 bits"),
            (r#""\ud800""#, "half of a surrogate pair"),
            (r#""\udc00""#, "half of a surrogate pair"),
            (r#""\ud800\u0041""#, "half of a surrogate pair"),
            ("\"a\nb\"", "a control character inside of a string"),
            ("[1] 2", "something after the end of the document"),
            ("", "the document is cut off"),
            ("\"a", "the document is cut off"),
            ("NaN", "not a JSON value"),
            ("[1,]", "not a JSON value"),
            ("{1:2}", "a key must be a string"),
            ("tru", "not a JSON value"),
        ] {
            assert_eq!(problem(text), why, "{text:.40}");
        }
        assert_eq!(
            parse(b"\"\xff\"").unwrap_err().problem,
            "a string is not UTF-8"
        );
        assert_eq!(problem("\u{feff}1"), "not a JSON value");
    }

    #[test]
    fn many_small_values_do_not_fill_the_memory() {
        for (unit, most) in [("{\"\":0},", 90_000), ("[],", 418_000), ("0,", 670_000)] {
            assert!(parse(format!("[{}0]", unit.repeat(most)).as_bytes()).is_ok());
            let more = format!("[{}0]", unit.repeat(most + 2_000));
            let problem = parse(more.as_bytes()).unwrap_err().problem;
            assert_eq!(problem, "more values than anybody needs", "{unit}");
        }
    }

    #[test]
    fn depth_is_bounded_and_does_not_use_up_the_stack() {
        let deep = |levels: usize| "[".repeat(levels) + &"]".repeat(levels);
        assert!(parse(deep(MAX_JSON_DEPTH).as_bytes()).is_ok());
        assert_eq!(problem(&deep(MAX_JSON_DEPTH + 1)), "nested too deeply");
        assert_eq!(problem(&"[".repeat(1_000_000)), "nested too deeply");
    }

    #[test]
    fn canonical_form_sorts_and_escapes_as_olpc_says() {
        let value = json!({"b": [1, -2, true, null], "a": "q\"b\\n\nü", "A": {}, "é": u64::MAX});
        assert_eq!(
            String::from_utf8(canonical(&value).unwrap()).unwrap(),
            "{\"A\":{},\"a\":\"q\\\"b\\\\n\nü\",\"b\":[1,-2,true,null],\"é\":18446744073709551615}"
        );
        assert_eq!(canonical(&json!(1.5)), Err(NotCanonical));
    }

    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(5, 60, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::btree_map(any::<String>(), inner, 0..6)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused_never_a_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..400),
        ) {
            let _ = parse(&bytes);
            let _ = parse_canonical(&bytes);
        }

        #[test]
        fn text_that_looks_like_json_is_read_or_refused_never_a_panic(
            text in r#"[\[\]{}:,"\\u0-9a-f.eE\- ntrl]{0,80}"#,
        ) {
            if let Ok(value) = parse(text.as_bytes()) {
                // What we accept, serde_json understands as the same thing.
                prop_assert_eq!(&serde_json::from_str::<Value>(&text).unwrap(), &value);
            }
        }

        #[test]
        fn every_value_survives_both_writings(value in values()) {
            prop_assert_eq!(&parse(&serde_json::to_vec(&value).unwrap()).unwrap(), &value);
            let bytes = canonical(&value).unwrap();
            let again = parse_canonical(&bytes).unwrap();
            prop_assert_eq!(&again, &value);
            prop_assert_eq!(canonical(&again).unwrap(), bytes);
        }
    }
}
