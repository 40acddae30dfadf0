//! The rules, each a function from a tree to what breaks it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::paths::{self, Path};
use super::source::{File, Tree};

/// What breaks a rule, and where.
pub(super) struct Violation {
    file: String,
    line: usize,
    rule: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.rule)
    }
}

fn violation(file: &File, line: usize, rule: String) -> Violation {
    Violation {
        file: file.name.clone(),
        line,
        rule,
    }
}

/// The map of `src/lib.rs`: what each folder may import besides itself.
const MAP: [(&str, &[&str]); 10] = [
    ("bin", &["daemon", "cli"]),
    (
        "daemon",
        &[
            "vpn", "host", "ledger", "remote", "status", "config", "core",
        ],
    ),
    (
        "cli",
        &[
            "vpn", "host", "ledger", "remote", "status", "config", "core",
        ],
    ),
    (
        "vpn",
        &["core", "host::clock", "host::atomic", "host::bounded"],
    ),
    ("host", &["core"]),
    ("ledger", &["core", "host::clock", "host::atomic"]),
    (
        "remote",
        &[
            "core",
            "host::clock",
            "host::atomic",
            "host::bounded",
            "host::state",
        ],
    ),
    ("status", &["core", "host::clock", "host::atomic"]),
    ("config", &["core", "host::clock", "host::atomic"]),
    ("core", &[]),
];

/// Arrows point down only.
pub(super) fn layers(tree: &Tree) -> Vec<Violation> {
    let mut found = Vec::new();
    for file in &tree.files {
        let Some(folder) = file.module.first() else {
            continue; // lib.rs only declares
        };
        let Some((_, allowed)) = MAP.iter().find(|(name, _)| name == folder) else {
            let rule = format!("`{folder}` is not on the map (MAP in this test, and src/lib.rs)");
            found.push(violation(file, 1, rule));
            continue;
        };
        for path in paths::all(&file.product) {
            let Some(target) = in_crate(&path.parts, &file.module) else {
                continue;
            };
            if target.is_empty() || target[0] == *folder || is_allowed(&target, allowed) {
                continue;
            }
            let may = if allowed.is_empty() {
                "nothing".to_owned()
            } else {
                allowed.join(", ")
            };
            let rule = format!(
                "`{folder}` must not import `{}` (it may: {may})",
                target.join("::")
            );
            found.push(violation(file, path.line, rule));
        }
    }
    found
}

fn is_allowed(target: &[String], allowed: &[&str]) -> bool {
    allowed.iter().any(|entry| {
        entry
            .split("::")
            .enumerate()
            .all(|(i, part)| target.get(i).is_some_and(|t| t == part))
    })
}

/// The path from the crate's top, if it is one of this crate.
fn in_crate(parts: &[String], module: &[String]) -> Option<Vec<String>> {
    let (first, rest) = parts.split_first()?;
    let base = match first.as_str() {
        "crate" | "vpn_node" => Vec::new(),
        "self" => module.to_vec(),
        "super" => {
            let ups = rest.iter().take_while(|part| *part == "super").count();
            let depth = module.len().saturating_sub(ups + 1);
            return Some([&module[..depth], &rest[ups..]].concat());
        }
        _ => return None,
    };
    Some([base, rest.to_vec()].concat())
}

/// What pure code must not reach, by path.
const IMPURE: [&str; 17] = [
    "std::fs",
    "std::io",
    "std::env",
    "std::process",
    "std::thread",
    "std::os",
    "std::net",
    "std::time",
    "tokio",
    "nix",
    "getrandom",
    "rand",
    "libc",
    "reqwest",
    "rustls",
    "sysinfo",
    "uuid::timestamp",
];
/// What of these is plain data after all.
const PURE_AFTER_ALL: [&str; 8] = [
    "std::time::Duration",
    "std::net::IpAddr",
    "std::net::Ipv4Addr",
    "std::net::Ipv6Addr",
    "std::net::SocketAddr",
    "std::net::SocketAddrV4",
    "std::net::SocketAddrV6",
    "std::net::AddrParseError",
];
/// Words that mean a clock, a source of randomness or output wherever they come from.
const IMPURE_WORDS: [&str; 12] = [
    "SystemTime",
    "Instant",
    "SysRng",
    "OsRng",
    "thread_rng",
    "now_v7",
    "new_v4",
    "println",
    "print",
    "eprintln",
    "eprint",
    "dbg",
];

/// No files, sockets, clocks, random numbers, processes or output.
pub(super) fn purity(tree: &Tree) -> Vec<Violation> {
    let mut found = Vec::new();
    let mut fault = |file: &File, line: usize, what: &str| {
        let rule =
            format!("pure code must not use `{what}`: time, randomness and input are arguments");
        found.push(violation(file, line, rule));
    };
    for file in &tree.files {
        for path in paths::all(&file.product) {
            let whole = path.parts.join("::");
            let reaches = |entry: &str| whole == *entry || whole.starts_with(&format!("{entry}::"));
            if IMPURE.iter().any(|entry| reaches(entry))
                && !PURE_AFTER_ALL.iter().any(|entry| reaches(entry))
            {
                fault(file, path.line, &whole);
            }
        }
        for token in &file.product {
            if IMPURE_WORDS.contains(&token.text.as_str()) {
                fault(file, token.line, &token.text);
            }
        }
    }
    found
}

/// No file imports itself through others. A re-export counts as an import of what is behind it;
/// what a module takes from the file of its own parent does not count: the two are one room.
pub(super) fn circles(tree: &Tree) -> Vec<Violation> {
    let graph = Graph::of(tree);
    let mut done = BTreeSet::new();
    let mut found = Vec::new();
    for start in 0..tree.files.len() {
        let Some(circle) = graph.circle_through(start) else {
            continue;
        };
        if circle.iter().any(|(file, _)| done.contains(file)) {
            continue;
        }
        done.extend(circle.iter().map(|(file, _)| *file));
        let steps = circle
            .iter()
            .map(|(file, line)| format!("{}:{line}", tree.files[*file].name));
        let way: Vec<String> = steps.collect();
        let rule = format!("this file imports itself: {} → back", way.join(" → "));
        found.push(violation(&tree.files[start], circle[0].1, rule));
    }
    found
}

/// Files by number, and for each the files that it imports with the line of the first import.
struct Graph {
    imports: Vec<BTreeMap<usize, usize>>,
}

impl Graph {
    fn of(tree: &Tree) -> Self {
        let modules = Modules::of(tree);
        let imports = tree.files.iter().map(|file| {
            let mut imports = BTreeMap::new();
            for path in paths::all(&file.product)
                .iter()
                .filter(|path| !path.re_export)
            {
                let Some(target) = modules.file_behind(path, &file.module) else {
                    continue;
                };
                // Also leaves out the file itself.
                if !file.module.starts_with(&tree.files[target].module) {
                    imports.entry(target).or_insert(path.line);
                }
            }
            imports
        });
        Self {
            imports: imports.collect(),
        }
    }

    /// The shortest way from `start` back to it, as files with the line that leads on.
    fn circle_through(&self, start: usize) -> Option<Vec<(usize, usize)>> {
        let mut came_from: BTreeMap<usize, usize> = BTreeMap::new();
        let mut queue = std::collections::VecDeque::from([start]);
        while let Some(file) = queue.pop_front() {
            if self.imports[file].contains_key(&start) {
                let mut way = vec![(file, self.imports[file][&start])];
                while way[0].0 != start {
                    let before = came_from[&way[0].0];
                    way.insert(0, (before, self.imports[before][&way[0].0]));
                }
                return Some(way);
            }
            for next in self.imports[file].keys() {
                if *next != start && !came_from.contains_key(next) {
                    came_from.insert(*next, file);
                    queue.push_back(*next);
                }
            }
        }
        None
    }
}

/// Which file is which module, and what each hands on.
struct Modules {
    files: BTreeMap<Vec<String>, usize>,
    /// (module, name) → the path behind a `pub use`, from the crate's top.
    handed_on: BTreeMap<(Vec<String>, String), Vec<String>>,
}

impl Modules {
    fn of(tree: &Tree) -> Self {
        let numbered = tree.files.iter().enumerate();
        let files = numbered
            .map(|(number, file)| (file.module.clone(), number))
            .collect();
        let mut modules = Self {
            files,
            handed_on: BTreeMap::new(),
        };
        for file in &tree.files {
            for path in paths::all(&file.product)
                .into_iter()
                .filter(|path| path.re_export)
            {
                if let Some(target) = modules.path_from_top(&path, &file.module) {
                    modules
                        .handed_on
                        .insert((file.module.clone(), path.name), target);
                }
            }
        }
        modules
    }

    /// Also a path that begins with a module declared in the same file: `child::Thing`.
    fn path_from_top(&self, path: &Path, module: &[String]) -> Option<Vec<String>> {
        in_crate(&path.parts, module).or_else(|| {
            let child = [module, &path.parts[..1]].concat();
            self.files
                .contains_key(&child)
                .then(|| [module, &path.parts].concat())
        })
    }

    fn file_behind(&self, path: &Path, module: &[String]) -> Option<usize> {
        let mut target = self.path_from_top(path, module)?;
        // Each step follows one re-export; more than a few in a row would itself be a circle.
        for _ in 0..8 {
            let depth = (0..=target.len())
                .rev()
                .find(|depth| self.files.contains_key(&target[..*depth]))?;
            let holder = target[..depth].to_vec();
            let behind = target
                .get(depth)
                .and_then(|name| self.handed_on.get(&(holder.clone(), name.clone())));
            match behind {
                Some(behind) => target = [behind.as_slice(), &target[depth + 1..]].concat(),
                None => return self.files.get(&holder).copied(),
            }
        }
        None
    }
}

const MOST_LINES: usize = 500;

/// A file that one can read in a sitting.
pub(super) fn length(tree: &Tree) -> Vec<Violation> {
    let long = tree.files.iter().filter(|file| file.lines > MOST_LINES);
    long.map(|file| {
        let rule = format!("a file has at most {MOST_LINES} lines: is this one room, or several?");
        violation(file, file.lines, rule)
    })
    .collect()
}

/// The compiler forbids it too; this finds it in files that no crate compiles.
pub(super) fn no_unsafe(tree: &Tree) -> Vec<Violation> {
    let words = tree
        .files
        .iter()
        .flat_map(|file| file.code.iter().map(move |token| (file, token)));
    words
        .filter(|(_, token)| token.text == "unsafe")
        .map(|(file, token)| {
            let rule = "no `unsafe`: system calls go through the nix crate".to_owned();
            violation(file, token.line, rule)
        })
        .collect()
}
