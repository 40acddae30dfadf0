//! Rust sources as text with line numbers: what is no code (comments, strings) is blanked.
//!
//! Not a Rust parser: it knows just enough tokens to read paths, and works on broken files too.

use std::fs;
use std::io;
use std::ops::Range;
use std::path::Path;

/// All Rust files below a folder.
pub(super) struct Tree {
    pub(super) files: Vec<File>,
}

/// One file of a [`Tree`].
pub(super) struct File {
    /// From the folder that holds the tree's own, with `/`: `src/core/time.rs`.
    pub(super) name: String,
    /// The module that the file is: `["core", "time"]`; empty for `lib.rs`.
    pub(super) module: Vec<String>,
    pub(super) lines: usize,
    /// Code without comments and strings.
    pub(super) code: Vec<Token>,
    /// The same without `#[cfg(test)]` items.
    pub(super) product: Vec<Token>,
}

/// An identifier, `::`, or one other character.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Token {
    pub(super) line: usize,
    pub(super) text: String,
}

impl Tree {
    pub(super) fn read(top: &Path) -> io::Result<Self> {
        let mut files = Vec::new();
        collect(top, top, &mut files)?;
        files.sort_by(|a, b| a.name.cmp(&b.name));
        let tests = files.iter().flat_map(test_modules).collect::<Vec<_>>();
        for file in &mut files {
            if tests.iter().any(|test| file.module.starts_with(test)) {
                file.product.clear();
            }
        }
        Ok(Self { files })
    }

    /// Only the files of one top folder.
    pub(super) fn below(mut self, folder: &str) -> Self {
        self.files
            .retain(|file| file.module.first().is_some_and(|first| first == folder));
        self
    }
}

fn collect(top: &Path, folder: &Path, files: &mut Vec<File>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(top, &path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(File::new(top, &path, &fs::read_to_string(&path)?));
        }
    }
    Ok(())
}

impl File {
    fn new(top: &Path, path: &Path, text: &str) -> Self {
        let name = path.strip_prefix(top.parent().unwrap()).unwrap();
        let inner = path.strip_prefix(top).unwrap().with_extension("");
        let mut module: Vec<String> = inner
            .iter()
            .map(|part| part.to_string_lossy().into_owned())
            .collect();
        let is_its_folder = match module.last().map(String::as_str) {
            Some("mod") => true,
            // Elsewhere they are modules like others.
            Some("lib" | "main") => module.len() == 1,
            _ => false,
        };
        if is_its_folder {
            module.pop();
        }
        let code = tokens(&without_comments_and_strings(text));
        let product = without_tests(&code);
        Self {
            name: name.to_string_lossy().into_owned(),
            module,
            lines: text.lines().count(),
            code,
            product,
        }
    }
}

/// Blanks comments, strings and character literals, and keeps every line break.
fn without_comments_and_strings(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut clean = chars.clone();
    let mut at = 0;
    while at < chars.len() {
        let end = skipped(&chars, at);
        blank(&mut clean, at..end);
        at = end.max(at + 1);
    }
    clean.into_iter().collect()
}

fn blank(clean: &mut [char], range: Range<usize>) {
    clean[range]
        .iter_mut()
        .filter(|c| **c != '\n')
        .for_each(|c| *c = ' ');
}

/// Where the comment or literal that begins at `at` ends; `at` itself if none begins there.
fn skipped(chars: &[char], at: usize) -> usize {
    let next = |ahead: usize| chars.get(at + ahead).copied().unwrap_or('\n');
    let in_word = at > 0 && (chars[at - 1].is_alphanumeric() || chars[at - 1] == '_');
    match (chars[at], next(1)) {
        ('/', '/') => find(chars, at, |i| chars[i] == '\n'),
        ('/', '*') => block_comment_end(chars, at),
        ('"', _) => string_end(chars, at),
        ('r', '"' | '#') if !in_word => raw_string_end(chars, at),
        ('b' | 'c', 'r') if !in_word && matches!(next(2), '"' | '#') => {
            raw_string_end(chars, at + 1)
        }
        ('\'', '\\') => find(chars, at + 3, |i| chars[i] == '\'') + 1,
        ('\'', _) if next(2) == '\'' => at + 3,
        _ => at,
    }
    .min(chars.len())
}

fn find(chars: &[char], from: usize, is_it: impl Fn(usize) -> bool) -> usize {
    (from..chars.len())
        .find(|i| is_it(*i))
        .unwrap_or(chars.len())
}

fn block_comment_end(chars: &[char], at: usize) -> usize {
    let (mut depth, mut i) = (0, at);
    while i + 1 < chars.len() {
        match (chars[i], chars[i + 1]) {
            ('/', '*') => depth += 1,
            ('*', '/') => depth -= 1,
            _ => {
                i += 1;
                continue;
            }
        }
        i += 2;
        if depth == 0 {
            return i;
        }
    }
    chars.len()
}

fn string_end(chars: &[char], at: usize) -> usize {
    let mut i = at + 1;
    while i < chars.len() && chars[i] != '"' {
        i += if chars[i] == '\\' { 2 } else { 1 };
    }
    i + 1
}

/// `r"…"` or `r##"…"##`; a raw identifier `r#name` is none.
fn raw_string_end(chars: &[char], at: usize) -> usize {
    let hashes = chars[at + 1..].iter().take_while(|c| **c == '#').count();
    let begin = at + 1 + hashes;
    if chars.get(begin) != Some(&'"') {
        return at;
    }
    let closes = |i: usize| {
        chars[i] == '"' && chars[i + 1..].iter().take_while(|c| **c == '#').count() >= hashes
    };
    find(chars, begin + 1, closes) + 1 + hashes
}

fn tokens(clean: &str) -> Vec<Token> {
    let mut tokens: Vec<Token> = Vec::new();
    for (number, line) in clean.lines().enumerate() {
        let mut rest = line.trim_start();
        while let Some(first) = rest.chars().next() {
            let length = if first.is_alphanumeric() || first == '_' {
                rest.find(|c: char| !c.is_alphanumeric() && c != '_')
                    .unwrap_or(rest.len())
            } else if rest.starts_with("::") {
                2
            } else {
                first.len_utf8()
            };
            tokens.push(Token {
                line: number + 1,
                text: rest[..length].to_owned(),
            });
            rest = rest[length..].trim_start();
        }
    }
    tokens
}

const CFG_TEST: [&str; 7] = ["#", "[", "cfg", "(", "test", ")", "]"];

fn is_cfg_test(code: &[Token], at: usize) -> bool {
    code.len() >= at + CFG_TEST.len()
        && CFG_TEST
            .iter()
            .zip(&code[at..])
            .all(|(wanted, token)| token.text == *wanted)
}

/// Drops each item behind `#[cfg(test)]`: up to its `;`, or its block.
fn without_tests(code: &[Token]) -> Vec<Token> {
    let mut kept = Vec::with_capacity(code.len());
    let mut at = 0;
    while at < code.len() {
        if is_cfg_test(code, at) {
            at = item_end(code, at + CFG_TEST.len());
        } else {
            kept.push(code[at].clone());
            at += 1;
        }
    }
    kept
}

fn item_end(code: &[Token], from: usize) -> usize {
    let mut depth = 0;
    for (at, token) in code.iter().enumerate().skip(from) {
        match token.text.as_str() {
            "{" | "(" | "[" => depth += 1,
            "}" | ")" | "]" => depth -= 1,
            _ => {}
        }
        if depth == 0 && matches!(token.text.as_str(), ";" | "}") {
            return at + 1;
        }
    }
    code.len()
}

/// The modules that `file` declares as `#[cfg(test)] mod name;`.
fn test_modules(file: &File) -> Vec<Vec<String>> {
    let declared = |at: &usize| {
        let item = &file.code[at + CFG_TEST.len()..];
        let [keyword, name, end, ..] = item else {
            return None;
        };
        (keyword.text == "mod" && end.text == ";").then(|| {
            let mut module = file.module.clone();
            module.push(name.text.clone());
            module
        })
    };
    let places = (0..file.code.len()).filter(|at| is_cfg_test(&file.code, *at));
    places.filter_map(|at| declared(&at)).collect()
}
