//! The paths in a file: what `use` imports, and what is written out in the code.

use super::source::Token;

/// One path, as it is written: `["crate", "core", "Now"]`. A glob ends in `*`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Path {
    pub(super) line: usize,
    pub(super) parts: Vec<String>,
    /// `pub use`: it hands something on, under `name`.
    pub(super) re_export: bool,
    /// What a `use` makes of it: the last part, or what follows `as`.
    pub(super) name: String,
}

/// All paths of the code, in order.
pub(super) fn all(code: &[Token]) -> Vec<Path> {
    let mut paths = Vec::new();
    let mut at = 0;
    while at < code.len() {
        if code[at].text == "use" {
            let re_export = at > 0 && matches!(code[at - 1].text.as_str(), "pub" | ")");
            let first = paths.len();
            at = tree(code, at + 1, &[], &mut paths);
            paths[first..]
                .iter_mut()
                .for_each(|path| path.re_export = re_export);
        } else if begins_path(code, at) {
            at = written_out(code, at, &mut paths);
        } else {
            at += 1;
        }
    }
    paths
}

/// One branch of a `use` tree, from `at`; returns where the next begins.
fn tree(code: &[Token], mut at: usize, prefix: &[String], paths: &mut Vec<Path>) -> usize {
    let mut parts = prefix.to_vec();
    let line = code.get(at).map_or(0, |token| token.line);
    while let Some(token) = code.get(at) {
        match token.text.as_str() {
            "::" => at += 1,
            "{" => {
                at += 1;
                while code.get(at).is_some_and(|token| token.text != "}") {
                    at = tree(code, at, &parts, paths);
                    at += usize::from(code.get(at).is_some_and(|token| token.text == ","));
                }
                return at + 1;
            }
            "as" => {
                let name = code.get(at + 1).map_or("_", |token| &token.text);
                push(paths, line, parts, Some(name));
                return at + 2;
            }
            word if word == "*" || is_word(word) => {
                parts.push(word.to_owned());
                at += 1;
            }
            _ => break,
        }
    }
    push(paths, line, parts, None);
    // A broken tree must not stop the reading.
    if code
        .get(at)
        .is_some_and(|token| matches!(token.text.as_str(), "," | "}"))
    {
        at
    } else {
        at + 1
    }
}

fn push(paths: &mut Vec<Path>, line: usize, mut parts: Vec<String>, name: Option<&str>) {
    // `use a::{self}` is `use a`.
    if parts.len() > 1 && parts.last().is_some_and(|last| last == "self") {
        parts.pop();
    }
    let last = parts.last().cloned().unwrap_or_default();
    let name = name.map_or(last, str::to_owned);
    paths.push(Path {
        line,
        parts,
        re_export: false,
        name,
    });
}

fn is_word(text: &str) -> bool {
    text.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// A word before `::` that is not itself behind one; `::std` counts, `a::b` begins at `a`.
fn begins_path(code: &[Token], at: usize) -> bool {
    let text = |at: usize| code.get(at).map_or("", |token| token.text.as_str());
    if !is_word(text(at)) || text(at + 1) != "::" {
        return false;
    }
    if at == 0 || text(at - 1) != "::" {
        return true;
    }
    at == 1 || !(is_word(text(at - 2)) || text(at - 2) == ">")
}

fn written_out(code: &[Token], mut at: usize, paths: &mut Vec<Path>) -> usize {
    let line = code[at].line;
    let mut parts = vec![code[at].text.clone()];
    while code.get(at + 1).is_some_and(|token| token.text == "::")
        && code.get(at + 2).is_some_and(|token| is_word(&token.text))
    {
        parts.push(code[at + 2].text.clone());
        at += 2;
    }
    push(paths, line, parts, None);
    at + 1
}
