//! One change of a JSON value: fields removed, doubled, renamed, retyped, exchanged, nested.

use serde_json::{Value, json};

use super::dice::Dice;

/// Other values than any field expects. Written as text, since some exist as text only.
const RETYPED: [&str; 20] = [
    "null",
    "true",
    "[]",
    "{}",
    "\"\"",
    "0",
    "-1",
    "1.5",
    "1e400",
    "4294967296",
    "9223372036854775807",
    "9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
    "-9223372036854775808",
    "-9223372036854775809",
    "\"\\u0000\"",
    "\"\\ud800\"",
    "\"AA==\"",
    "{\"kind\":\"unknown\"}",
];
/// What stands for a text that is put in afterwards, and before a name that comes twice.
const MARK: &str = "mark-of-the-mutant";
/// Nesting beyond what a reader takes (128), and up to it.
const DEPTHS: [usize; 4] = [1, 100, 130, 20_000];
/// Texts around a limit: of a short text, of an identity, and far beyond.
const LENGTHS: [usize; 5] = [255, 256, 1025, 20_000, 70_000];

/// The value with one change, as text. `from` is where exchanged values come from.
pub(super) fn changed(value: &Value, from: &Value, dice: &mut Dice) -> String {
    let mut changed = value.clone();
    let places = places(value, "");
    if places.is_empty() {
        return dice.pick(&RETYPED).to_string();
    }
    let place = dice.pick(&places).clone();
    let old = value.pointer(&place).expect("a place of it").clone();
    let mut raw = String::new();
    match dice.below(12) {
        0 | 1 => remove(&mut changed, &place),
        2 | 3 => double(&mut changed, &place, &old, dice),
        4 => rename(&mut changed, &place, &old),
        5 | 6 => {
            let others = self::places(from, "");
            let other = match others.is_empty() {
                true => Value::Null,
                false => from
                    .pointer(dice.pick::<String>(&others))
                    .expect("a place of it")
                    .clone(),
            };
            *at(&mut changed, &place) = other;
        }
        7 => {
            let depth = *dice.pick(&DEPTHS);
            raw = format!("{}{old}{}", "[".repeat(depth), "]".repeat(depth));
        }
        8 => raw = json!("x".repeat(*dice.pick(&LENGTHS))).to_string(),
        _ => raw = dice.pick(&RETYPED).to_string(),
    }
    if !raw.is_empty() {
        *at(&mut changed, &place) = MARK.into();
    }
    let text = changed.to_string();
    let text = text.replace(&format!("\"{MARK}\""), &raw);
    text.replace(&format!("\"{MARK} "), "\"")
}

/// JSON pointers (RFC 6901) of every member of every object and list.
fn places(value: &Value, at: &str) -> Vec<String> {
    let members: Vec<(String, &Value)> = match value {
        Value::Object(map) => map.iter().map(|(name, v)| (name.clone(), v)).collect(),
        Value::Array(list) => list
            .iter()
            .enumerate()
            .map(|(n, v)| (n.to_string(), v))
            .collect(),
        _ => return vec![],
    };
    let mut found = vec![];
    for (name, inner) in members {
        let here = format!("{at}/{}", name.replace('~', "~0").replace('/', "~1"));
        found.extend(places(inner, &here));
        found.push(here);
    }
    found
}

fn at<'a>(value: &'a mut Value, place: &str) -> &'a mut Value {
    value.pointer_mut(place).expect("a place of it")
}

fn parent<'a>(value: &'a mut Value, place: &str) -> (&'a mut Value, String) {
    let (parent, name) = place.rsplit_once('/').expect("a pointer has a slash");
    let name = name.replace("~1", "/").replace("~0", "~");
    (at(value, parent), name)
}

fn remove(value: &mut Value, place: &str) {
    match parent(value, place) {
        (Value::Object(map), name) => drop(map.remove(&name)),
        (Value::Array(list), at) => drop(list.remove(at.parse().expect("an index"))),
        _ => unreachable!("only objects and lists have members"),
    }
}

/// The same name twice, with the same value or another one; in a list the same element.
fn double(value: &mut Value, place: &str, old: &Value, dice: &mut Dice) {
    match parent(value, place) {
        (Value::Object(map), name) => {
            let second = match dice.below(2) {
                0 => old.clone(),
                _ => Value::Null,
            };
            map.insert(format!("{MARK} {name}"), second);
        }
        (Value::Array(list), _) => list.push(old.clone()),
        _ => unreachable!("only objects and lists have members"),
    }
}

fn rename(value: &mut Value, place: &str, old: &Value) {
    match parent(value, place) {
        (Value::Object(map), name) => {
            map.remove(&name);
            map.insert(format!("{name}x"), old.clone());
        }
        (Value::Array(list), _) => list.insert(0, old.clone()),
        _ => unreachable!("only objects and lists have members"),
    }
}
