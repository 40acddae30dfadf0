//! The pages of the settings files: the agent's from its table of keys, the controller's from the
//! file that we ship.

use std::path::Path;

use anyhow::Result;
use clap_mangen::roff::{Inline, Roff, bold, roman};
use vpn_node::config::KEYS;

use crate::{Arguments, related, see_also, write};

/// vpn-node-agent.toml(5).
pub(crate) fn agent(folder: &Path, arguments: &Arguments) -> Result<()> {
    let mut roff = head(
        "vpn-node-agent.toml",
        "agent.toml, the settings of the vpn-node agent",
        "/etc/vpn-node/agent.toml, /etc/vpn-node/agent.d/*.toml",
        arguments,
    );
    roff.text([roman(
        "The agent and the command vpn-node read agent.toml, then every fragment in agent.d in the \
         order of their names. A later file wins, key by key. All keys are optional, and so is the \
         file. `vpn-node config check` names file, line and key of the first mistake; `vpn-node \
         config show` prints the settings that hold. An unknown key is an error.",
    )]);
    let mut section = None;
    for key in KEYS {
        if section != Some(key.section) {
            section = Some(key.section);
            let heading = match key.section {
                "" => "TOP LEVEL".to_owned(),
                section => format!("[{section}]"),
            };
            roff.control("SH", [heading.as_str()]);
        }
        roff.control("TP", []);
        roff.text([bold(key.name), roman(format!(" = {}", key.allowed))]);
        roff.text(words(&format!("{} Default: {}.", key.meaning, key.default)));
    }
    see_also(&mut roff, related("vpn-node-agent.toml"));
    write(folder, "vpn-node-agent.toml.5", roff.to_roff().as_bytes())
}

/// vpn-node-controller.toml(5).
pub(crate) fn controller(folder: &Path, arguments: &Arguments) -> Result<()> {
    let mut roff = head(
        "vpn-node-controller.toml",
        "controller.toml, the settings of the vpn-node controller",
        "/etc/vpn-node/controller.toml, /var/lib/vpn-node-controller/controller.toml",
        arguments,
    );
    roff.text([roman("All settings, with what each does:")]);
    roff.control("nf", []);
    for line in include_str!("../../../config/controller.toml").lines() {
        roff.text([roman(line)]);
    }
    roff.control("fi", []);
    see_also(&mut roff, related("vpn-node-controller.toml"));
    write(
        folder,
        "vpn-node-controller.toml.5",
        roff.to_roff().as_bytes(),
    )
}

/// A page up to the heading of its description.
fn head(name: &str, about: &str, files: &str, arguments: &Arguments) -> Roff {
    let mut roff = Roff::new();
    let source = format!("vpn-node {}", arguments.version);
    let title = name.to_uppercase();
    roff.control(
        "TH",
        [title.as_str(), "5", &arguments.date, &source, "vpn-node"],
    );
    roff.control("SH", ["NAME"]);
    roff.text([roman(format!("{name} - {about}"))]);
    roff.control("SH", ["SYNOPSIS"]);
    roff.text([roman(files)]);
    roff.control("SH", ["DESCRIPTION"]);
    roff
}

/// Text with `code` in bold.
fn words(text: &str) -> Vec<Inline> {
    text.split('`')
        .enumerate()
        .map(|(place, part)| {
            if place % 2 == 1 {
                bold(part)
            } else {
                roman(part)
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn every_key_of_the_agent_is_in_its_page() {
        let folder = tempfile::tempdir().unwrap();
        let arguments = Arguments {
            out: PathBuf::new(),
            version: "1.2.3".to_owned(),
            date: "2026-11-22".to_owned(),
        };
        agent(folder.path(), &arguments).unwrap();
        controller(folder.path(), &arguments).unwrap();
        let page = fs::read_to_string(folder.path().join("vpn-node-agent.toml.5")).unwrap();
        for key in KEYS {
            assert!(
                page.contains(&format!("\\fB{}\\fR", key.name)),
                "{}",
                key.name
            );
        }
        let page = fs::read_to_string(folder.path().join("vpn-node-controller.toml.5")).unwrap();
        assert!(page.contains("lease_s"));
    }
}
