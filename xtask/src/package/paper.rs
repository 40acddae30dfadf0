//! What a package must carry besides its programs: Debian's changelog and copyright, and the
//! licences of everything that is linked in.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;

use anyhow::{Context, Result, bail};
use jiff::Timestamp;
use vpn_node_release::version::Version;

use super::dependencies::Dependency;
use super::recipe::with_tilde;

/// Whom Debian asks about the package.
const MAINTAINER: &str = "The vpn-node authors";

/// README.md for the folder `documents` of a package: a link to a file that is `installed` leads to
/// its place on a host, any other one into the sources becomes plain words.
pub(super) fn readme<'a>(
    text: &str,
    documents: &str,
    installed: impl Fn(&str) -> Option<&'a str>,
) -> String {
    let mut made = String::new();
    let mut rest = text;
    for (before, shown, target, after) in links(text) {
        made.push_str(before);
        rest = after;
        if target.contains("://") || target.starts_with('#') {
            made.push_str(&format!("[{shown}]({target})"));
        } else if let Some(place) = installed(target) {
            let name = place.strip_prefix(documents);
            let name = name.map_or(place, |name| name.trim_start_matches('/'));
            let shown = if shown == target { name } else { shown };
            made.push_str(&format!("[{shown}]({name})"));
        } else {
            made.push_str(shown);
        }
    }
    made + rest
}

/// The links of a page: for each what stands between it and the one before, its words, its target,
/// and all that follows.
pub(super) fn links(text: &str) -> impl Iterator<Item = (&str, &str, &str, &str)> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let (head, tail) = rest.split_once("](")?;
        let (before, shown) = head.rsplit_once('[')?;
        let (target, after) = tail.split_once(')')?;
        rest = after;
        Some((before, shown, target, after))
    })
}

/// `changelog.Debian` (deb-changelog(5)) from CHANGELOG.md: one entry a release, the newest first.
/// What is not released yet is the entry of `version`.
pub(super) fn changelog(
    markdown: &str,
    package: &str,
    version: &Version,
    now: Timestamp,
) -> Result<String> {
    let mut text = String::new();
    for release in markdown.split("\n## [").skip(1) {
        let (heading, body) = release.split_once('\n').unwrap_or((release, ""));
        let name = heading.split(']').next().unwrap_or_default();
        let (version, date) = if name == "Unreleased" {
            (version.clone(), now)
        } else {
            let date = heading.rsplit(' ').next().unwrap_or_default();
            let date = format!("{date}T00:00:00Z")
                .parse()
                .with_context(|| format!("CHANGELOG.md: {name} has no day"))?;
            (Version::parse(name)?, date)
        };
        let changes = changes(body);
        if changes.is_empty() {
            continue;
        }
        let version = with_tilde(&version);
        writeln!(text, "{package} ({version}-1) unstable; urgency=medium\n")?;
        for change in changes {
            text.push_str(&wrapped(&change));
        }
        let date = date.strftime("%a, %d %b %Y %H:%M:%S +0000");
        writeln!(text, "\n -- {MAINTAINER} <>  {date}\n")?;
    }
    if text.is_empty() {
        bail!("CHANGELOG.md tells of no change");
    }
    Ok(text)
}

/// The list items of a release, each on one line, without Markdown's quotes.
fn changes(body: &str) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    for line in body.lines() {
        if let Some(first) = line.strip_prefix("- ") {
            all.push(first.replace('`', ""));
        } else if let (Some(more), Some(last)) = (line.strip_prefix("  "), all.last_mut()) {
            last.push(' ');
            last.push_str(&more.trim_start().replace('`', ""));
        }
    }
    all
}

/// `  * first line` and `    the next ones`, at most 80 characters wide.
fn wrapped(change: &str) -> String {
    let mut text = String::new();
    let mut line = "  *".to_owned();
    for word in change.split_whitespace() {
        if line.chars().count() + 1 + word.chars().count() > 80 {
            text.push_str(&line);
            text.push('\n');
            line = "   ".to_owned();
        }
        line.push(' ');
        line.push_str(word);
    }
    text.push_str(&line);
    text.push('\n');
    text
}

/// Debian's machine-readable `copyright` (DEP-5).
pub(super) fn copyright(package: &str, dependencies: &[Dependency]) -> Result<String> {
    let mut text = format!(
        "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n\
         Upstream-Name: vpn-node\n\
         Comment: The programs contain the crates of crates.io that are listed below. Their full\n \
         licences, with all copyright notices, are in\n \
         /usr/share/doc/{package}/third-party-licenses.gz.\n\n\
         Files: *\n\
         Copyright: 2026 The vpn-node authors\n\
         License: Apache-2.0 or Expat\n"
    );
    let mut by_license: BTreeMap<String, Vec<&Dependency>> = BTreeMap::new();
    for one in dependencies {
        by_license
            .entry(debian_license(&one.license))
            .or_default()
            .push(one);
    }
    let mut words = BTreeSet::from(["Apache-2.0".to_owned(), "Expat".to_owned()]);
    for (license, crates) in &by_license {
        text.push_str("\nFiles:");
        for one in crates {
            write!(text, "\n crates/{}-{}/*", one.name, one.version)?;
        }
        let authors: BTreeSet<&str> = crates
            .iter()
            .flat_map(|one| &one.authors)
            .map(|author| author.split(" <").next().unwrap_or(author))
            .collect();
        text.push_str("\nCopyright:");
        for author in authors.iter().chain(&["the authors of each crate"]) {
            write!(text, "\n {author}")?;
        }
        writeln!(text, "\nLicense: {license}")?;
        let parts = license.replace(['(', ')'], " ");
        let parts = parts.split(" and ").flat_map(|part| part.split(" or "));
        words.extend(parts.map(|part| part.trim().to_owned()));
    }
    for word in words {
        let where_it_is = match word.as_str() {
            "Apache-2.0" => "/usr/share/common-licenses/Apache-2.0".to_owned(),
            _ => format!("/usr/share/doc/{package}/third-party-licenses.gz"),
        };
        writeln!(
            text,
            "\nLicense: {word}\n The full text is in {where_it_is}."
        )?;
    }
    Ok(text)
}

/// An SPDX expression in the words of DEP-5.
fn debian_license(spdx: &str) -> String {
    let words = spdx.replace('/', " OR ");
    let words = words.replace(
        "Apache-2.0 WITH LLVM-exception",
        "Apache-2.0-with-LLVM-exception",
    );
    let words = words.replace(" OR ", " or ").replace(" AND ", " and ");
    let mut text = String::new();
    for word in words.split(' ') {
        if !text.is_empty() {
            text.push(' ');
        }
        let bare = word.trim_matches(['(', ')']);
        text.push_str(&match bare {
            "MIT" => word.replace("MIT", "Expat"),
            _ => word.to_owned(),
        });
    }
    text
}

/// The licence files of all crates, each different text once, with the crates that it is of.
pub(super) fn licenses(dependencies: &[Dependency]) -> Result<String> {
    let mut by_text: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for one in dependencies {
        let listed = fs::read_dir(&one.folder)
            .with_context(|| format!("cannot list {}", one.folder.display()))?;
        for entry in listed {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let upper = name.to_uppercase();
            let is_license = [
                "LICENSE",
                "LICENCE",
                "COPYING",
                "COPYRIGHT",
                "NOTICE",
                "UNLICENSE",
            ]
            .iter()
            .any(|word| upper.starts_with(word));
            if is_license && path.is_file() {
                let text =
                    fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
                let text = String::from_utf8_lossy(&text).replace("\r\n", "\n");
                let of = format!("{} {} ({name})", one.name, one.version);
                by_text.entry(text.trim().to_owned()).or_default().push(of);
            }
        }
    }
    let mut text = "The programs of this package contain the crates below; the licence of each is \
                    named in `copyright` and in the bill of materials beside this file.\n"
        .to_owned();
    let mut all: Vec<_> = by_text.into_iter().collect();
    all.sort_by(|(_, a), (_, b)| a.iter().min().cmp(&b.iter().min()));
    for (license, mut of) in all {
        of.sort();
        writeln!(text, "\n{}\n{}\n\n{license}", "-".repeat(80), of.join("\n"))?;
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::package::dependencies;

    #[test]
    fn releases_become_entries_of_debians_changelog() {
        let markdown = "# Changelog\n\nForm.\n\n## [Unreleased]\n\n### Added\n- `a` thing\n  \
                        that is new\n- another\n\n## [1.0.0] - 2026-01-02\n### Fixed\n- it\n";
        let version = Version::parse("1.1.0-rc.1").unwrap();
        let now = "2026-11-22T10:00:00Z".parse().unwrap();
        let text = changelog(markdown, "vpn-node-agent", &version, now).unwrap();
        assert_eq!(
            text,
            "vpn-node-agent (1.1.0~rc.1-1) unstable; urgency=medium\n\n  * a thing that is new\n  \
             * another\n\n -- The vpn-node authors <>  Sun, 22 Nov 2026 10:00:00 +0000\n\n\
             vpn-node-agent (1.0.0-1) unstable; urgency=medium\n\n  * it\n\n -- The vpn-node \
             authors <>  Fri, 02 Jan 2026 00:00:00 +0000\n\n"
        );
        let ours = fs::read_to_string(crate::shell::repository().join("CHANGELOG.md")).unwrap();
        let text = changelog(&ours, "vpn-node-agent", &version, now).unwrap();
        assert!(
            text.lines().all(|line| line.chars().count() <= 120),
            "{text}"
        );
        assert!(changelog("# Changelog\n", "x", &version, now).is_err());
    }

    #[test]
    fn every_licence_that_is_named_is_explained() {
        let all = dependencies::of(&["vpn-node", "vpn-node-updater"]).unwrap();
        let text = copyright("vpn-node-agent", &all).unwrap();
        assert!(text.contains("\n crates/ring-"));
        assert!(text.contains("\nLicense: Expat\n The full text"));
        let texts = licenses(&all).unwrap();
        // Each crate brings its licence, or says in its Cargo.toml which one it is.
        assert!(texts.contains("ring 0.17") && texts.len() > 20_000);
    }

    #[test]
    fn expressions_are_said_in_debians_words() {
        for (spdx, debian) in [
            ("MIT/Apache-2.0", "Expat or Apache-2.0"),
            (
                "(MIT OR Apache-2.0) AND Unicode-3.0",
                "(Expat or Apache-2.0) and Unicode-3.0",
            ),
            ("MIT-0", "MIT-0"),
        ] {
            assert_eq!(debian_license(spdx), debian);
        }
    }

    #[test]
    fn the_links_of_the_readme_lead_to_places_on_a_host() {
        let text = "See [docs/a.md](docs/a.md) and [the unit](x.service), [LICENSE](LICENSE), \
                    [web](https://example.net/).\n";
        let installed = |target: &str| match target {
            "docs/a.md" => Some("/usr/share/doc/p/a.md"),
            "x.service" => Some("/usr/lib/systemd/system/x.service"),
            _ => None,
        };
        assert_eq!(
            readme(text, "/usr/share/doc/p", installed),
            "See [a.md](a.md) and [the unit](/usr/lib/systemd/system/x.service), LICENSE, \
             [web](https://example.net/).\n"
        );
    }
}
