//! Man pages and shell completions, from the definitions of the programs' own command lines.
//!
//! A program of its own: what it links would slow every other command of the xtask down, and a
//! hidden command of each program would put it on every host. `cargo xtask package` runs it.

mod settings;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::{Command, Parser};
use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, roman};

/// Writes man pages and shell completions into DIR/agent and DIR/controller.
#[derive(Parser)]
struct Arguments {
    /// The folder, which is made
    out: PathBuf,
    /// The version that the pages name
    #[arg(long)]
    version: String,
    /// The day that the pages name
    #[arg(long, value_name = "YYYY-MM-DD")]
    date: String,
}

/// A program: the package it is in, the section of its pages (man-pages(7)), its command line.
struct Program {
    package: &'static str,
    section: &'static str,
    command: Command,
}

fn programs() -> Vec<Program> {
    let program = |package, section, command| Program {
        package,
        section,
        command,
    };
    vec![
        program("agent", "1", vpn_node::cli::command_line()),
        program("agent", "8", vpn_node::daemon::command_line()),
        program(
            "agent",
            "8",
            vpn_node::daemon::wireguard_reader::command_line(),
        ),
        program("agent", "8", vpn_node_updater::cli::command_line()),
        program("controller", "8", vpn_node_controller::cli::command_line()),
    ]
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    for program in programs() {
        let folder = arguments.out.join(program.package);
        let about = About {
            section: program.section,
            version: &arguments.version,
            date: &arguments.date,
        };
        pages(program.command.clone(), &about, &folder)?;
        completions(program.command, &folder)?;
    }
    settings::agent(&arguments.out.join("agent"), &arguments)?;
    settings::controller(&arguments.out.join("controller"), &arguments)
}

/// What stands in head and foot of a page.
struct About<'a> {
    section: &'a str,
    version: &'a str,
    date: &'a str,
}

/// A page for the program, and one for each of its commands.
fn pages(command: Command, about: &About<'_>, folder: &Path) -> Result<()> {
    let mut command = command.disable_help_subcommand(true);
    command.build();
    page(&command, None, about, folder)
}

fn page(command: &Command, parent: Option<&str>, about: &About<'_>, folder: &Path) -> Result<()> {
    let name = command.get_display_name().unwrap_or(command.get_name());
    let man = Man::new(command.clone())
        .title(name.to_uppercase())
        .section(about.section)
        .date(about.date)
        .source(format!("vpn-node {}", about.version))
        .manual("vpn-node");
    let mut text = Vec::new();
    man.render_title(&mut text)?;
    man.render_name_section(&mut text)?;
    synopsis(command, &mut text)?;
    man.render_description_section(&mut text)?;
    if command
        .get_arguments()
        .any(|argument| !argument.is_hide_set())
    {
        man.render_options_section(&mut text)?;
    }
    if command.has_subcommands() {
        man.render_subcommands_section(&mut text)?;
    }
    if let Some(more) = command.get_after_long_help() {
        text.extend(sections_of(&more.to_string())?.to_roff().into_bytes());
    }
    let mut roff = Roff::new();
    match parent {
        // Of what it belongs to, all else is said there.
        Some(parent) if !is_about_settings(name) => see_also(&mut roff, &[(parent, about.section)]),
        Some(parent) => see_also(&mut roff, &[(parent, about.section), SETTINGS]),
        None => see_also(&mut roff, related(name)),
    }
    text.extend(roff.to_roff().into_bytes());
    write(folder, &format!("{name}.{}", about.section), &text)?;
    for below in command.get_subcommands().filter(|one| !one.is_hide_set()) {
        page(below, Some(name), about, folder)?;
    }
    Ok(())
}

/// The usage as the help has it. Of its own, clap_mangen (0.3) names every option, without its value.
fn synopsis(command: &Command, text: &mut Vec<u8>) -> Result<()> {
    let usage = command.clone().render_usage().to_string();
    let usage = usage.strip_prefix("Usage: ").unwrap_or(&usage).to_owned();
    Man::new(command.clone().override_usage(usage)).render_synopsis_section(text)?;
    Ok(())
}

/// The page of the agent's settings.
const SETTINGS: (&str, &str) = ("vpn-node-agent.toml", "5");

fn is_about_settings(name: &str) -> bool {
    name.starts_with("vpn-node-config")
}

/// The pages that belong to a program or a settings file of the same package.
fn related(name: &str) -> &'static [(&'static str, &'static str)] {
    match name {
        "vpn-node" => &[
            ("vpn-node-agent", "8"),
            SETTINGS,
            ("vpn-node-updater", "8"),
            ("vpn-node-wireguard", "8"),
        ],
        "vpn-node-agent" => &[
            ("vpn-node", "1"),
            SETTINGS,
            ("vpn-node-updater", "8"),
            ("vpn-node-wireguard", "8"),
        ],
        "vpn-node-agent.toml" => &[
            ("vpn-node", "1"),
            ("vpn-node-config", "1"),
            ("vpn-node-agent", "8"),
        ],
        "vpn-node-controller" => &[("vpn-node-controller.toml", "5")],
        "vpn-node-controller.toml" => &[("vpn-node-controller", "8")],
        _ => &[("vpn-node", "1"), ("vpn-node-agent", "8"), SETTINGS],
    }
}

/// The last section (man-pages(7)).
fn see_also(roff: &mut Roff, pages: &[(&str, &str)]) {
    roff.control("SH", ["SEE ALSO"]);
    for (place, (name, section)) in pages.iter().enumerate() {
        let comma = if place + 1 < pages.len() { "," } else { "" };
        roff.control("BR", [*name, &format!("({section}){comma}")]);
    }
}

/// The text below a long help: headings ("Examples:"), each with indented lines.
fn sections_of(text: &str) -> Result<Roff> {
    let mut roff = Roff::new();
    let mut open = false;
    for line in text.lines() {
        if let Some(heading) = line.strip_suffix(':').filter(|_| !line.starts_with(' ')) {
            if open {
                roff.control("fi", []);
            }
            roff.control("SH", [heading.to_uppercase().as_str()]);
            roff.control("nf", []);
            open = true;
        } else if open {
            roff.text([roman(line.strip_prefix("  ").unwrap_or(line))]);
        } else if !line.is_empty() {
            bail!("the text below a long help begins without a heading: {line:?}");
        }
    }
    if open {
        roff.control("fi", []);
    }
    Ok(roff)
}

/// For the shells that complete by files of packages.
fn completions(mut command: Command, folder: &Path) -> Result<()> {
    let name = command.get_name().to_owned();
    for (shell, file) in [
        (Shell::Bash, format!("bash/{name}")),
        (Shell::Zsh, format!("zsh/_{name}")),
        (Shell::Fish, format!("fish/{name}.fish")),
    ] {
        let mut text = Vec::new();
        clap_complete::generate(shell, &mut command, &name, &mut text);
        if shell == Shell::Bash {
            text = one_name(&name, &String::from_utf8(text)?).into_bytes();
        }
        write(folder, &file, &text)?;
    }
    Ok(())
}

/// clap_complete (4.6) writes a program whose name has a hyphen in two ways, so that nothing below
/// its first word would be completed.
fn one_name(program: &str, bash: &str) -> String {
    bash.replace(
        &program.replace('-', "__subcmd__"),
        &program.replace('-', "__"),
    )
}

fn write(folder: &Path, name: &str, text: &[u8]) -> Result<()> {
    let file = folder.join(name);
    let parent = file.parent().context("a file lies in a folder")?;
    fs::create_dir_all(parent)
        .and_then(|()| fs::write(&file, text))
        .with_context(|| format!("cannot write {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bash_completes_below_every_word() {
        let folder = written();
        for program in programs() {
            let name = program.command.get_name().to_owned();
            let file = folder.path().join(program.package).join("bash").join(name);
            let text = fs::read_to_string(&file).unwrap();
            let places: Vec<&str> = text
                .lines()
                .filter_map(|line| line.trim().strip_prefix("cmd=\"")?.strip_suffix('"'))
                .filter(|place| !place.is_empty())
                .collect();
            for place in places {
                let label = format!("{place})");
                let found = text.lines().any(|line| line.trim() == label);
                assert!(found, "{}: nothing is completed at {place}", file.display());
            }
        }
    }

    fn written() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for program in programs() {
            let about = About {
                section: program.section,
                version: "1.2.3",
                date: "2026-11-22",
            };
            let package = folder.path().join(program.package);
            pages(program.command.clone(), &about, &package).unwrap();
            completions(program.command, &package).unwrap();
        }
        folder
    }

    #[test]
    fn every_command_has_a_page_that_names_all_its_options() {
        let folder = written();
        let mut count = 0;
        for program in programs() {
            let mut command = program.command.disable_help_subcommand(true);
            command.build();
            let mut all = vec![&command];
            while let Some(command) = all.pop() {
                let name = command.get_display_name().unwrap_or(command.get_name());
                let file = folder
                    .path()
                    .join(program.package)
                    .join(format!("{name}.{}", program.section));
                let text = fs::read_to_string(&file).unwrap_or_else(|e| panic!("{name}: {e}"));
                assert!(text.contains(".SH DESCRIPTION"), "{name}");
                assert!(
                    command.get_about().is_some(),
                    "{name} says not what it does"
                );
                for option in command.get_arguments().filter(|one| !one.is_hide_set()) {
                    if let Some(long) = option.get_long() {
                        let long = long.replace('-', "\\-");
                        assert!(text.contains(&long), "{name} --{long}");
                    }
                }
                count += 1;
                all.extend(command.get_subcommands().filter(|one| !one.is_hide_set()));
            }
        }
        assert!(count > 50, "{count}");
    }

    #[test]
    fn every_page_leads_to_others_of_its_package_and_the_settings_are_found() {
        let folder = written();
        let arguments = Arguments {
            out: PathBuf::new(),
            version: "1.2.3".to_owned(),
            date: "2026-11-22".to_owned(),
        };
        settings::agent(&folder.path().join("agent"), &arguments).unwrap();
        settings::controller(&folder.path().join("controller"), &arguments).unwrap();
        for package in ["agent", "controller"] {
            let package = folder.path().join(package);
            for entry in fs::read_dir(&package).unwrap() {
                let page = entry.unwrap().path();
                if page.is_dir() {
                    continue; // completions
                }
                let text = fs::read_to_string(&page).unwrap();
                let (_, also) = text.split_once(".SH \"SEE ALSO\"\n").unwrap();
                assert!(!also.is_empty(), "{}", page.display());
                for line in also.lines() {
                    let line = line.replace(['\\', ','], "");
                    let named = line.strip_prefix(".BR ").unwrap();
                    let named = named.replace(" (", ".").replace(')', "");
                    let there = package.join(&named);
                    assert!(there != page, "{named} leads to itself");
                    assert!(there.exists(), "{}: no page {named}", page.display());
                }
            }
        }
        for page in ["vpn-node.1", "vpn-node-agent.8", "vpn-node-config-check.1"] {
            let text = fs::read_to_string(folder.path().join("agent").join(page)).unwrap();
            assert!(text.contains("\n.BR vpn-node-agent.toml (5)"), "{text}");
        }
    }

    #[test]
    fn examples_and_exit_codes_are_sections_with_their_lines() {
        let folder = written();
        let text = fs::read_to_string(folder.path().join("agent/vpn-node.1")).unwrap();
        assert!(
            text.contains(".SH EXAMPLES\n.nf\nvpn\\-node enroll  "),
            "{text}"
        );
        assert!(text.contains(".SH \"EXIT CODES\"\n.nf\n0  done"), "{text}");
        assert!(sections_of("no heading").is_err());
    }

    #[test]
    fn the_synopsis_shows_what_has_to_be_given() {
        let folder = written();
        let synopsis = |page: &str| {
            let text = fs::read_to_string(folder.path().join(page)).unwrap();
            let (_, rest) = text.split_once(".SH SYNOPSIS\n").unwrap();
            rest.lines().next().unwrap().replace('\\', "")
        };
        assert_eq!(
            synopsis("agent/vpn-node.1"),
            "fBvpn-nodefR [OPTIONS] <COMMAND>"
        );
        assert_eq!(
            synopsis("controller/vpn-node-controller-init.8"),
            "fBvpn-node-controller initfR [OPTIONS] --url <https://HOST:PORT>"
        );
    }

    /// Where the sources have a document is no place on a host (`xtask/src/package/assets.rs`).
    #[test]
    fn no_page_leads_into_the_sources() {
        let folder = written();
        for package in ["agent", "controller"] {
            for entry in fs::read_dir(folder.path().join(package)).unwrap() {
                let page = entry.unwrap().path();
                if !page.is_dir() {
                    let text = fs::read_to_string(&page).unwrap();
                    assert!(!text.contains("docs/"), "{}", page.display());
                }
            }
        }
    }

    #[test]
    fn completions_know_the_commands() {
        let folder = written();
        for file in ["bash/vpn-node", "zsh/_vpn-node", "fish/vpn-node.fish"] {
            let text = fs::read_to_string(folder.path().join("agent").join(file)).unwrap();
            assert!(text.contains("healthcheck"), "{file}");
        }
    }
}
