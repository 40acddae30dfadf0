//! `vpn-node config check` and `config show`: the agent's own loader, rendered.

use super::args::{ConfigCommand, Global};
use super::console::{Console, green};
use super::{Exit, reach};
use crate::config::{self, DEFAULT_FILE, Effective};
use crate::core::shown_path;
use crate::remote;

/// Loads the configuration and shows what came of it.
pub(super) fn run(global: &Global, command: ConfigCommand, console: &mut Console<'_>) -> Exit {
    let mut effective = match config::load(global.config.as_deref()) {
        Ok(effective) => effective,
        Err(error) => {
            console.error(error);
            return Exit::Failed;
        }
    };
    reach::apply_options(&mut effective.settings, global);
    match command {
        ConfigCommand::Check => check(&effective, console),
        ConfigCommand::Show => {
            let by_option = global.state_dir.is_some().then_some("state_dir");
            console.out(&effective.to_toml(by_option));
            Exit::Ok
        }
    }
}

/// Also what the settings name and the agent reads at its start.
fn check(effective: &Effective, console: &mut Console<'_>) -> Exit {
    if let Some(ca_file) = &effective.settings.controller.ca_file
        && let Err(error) = remote::check_ca_file(ca_file)
    {
        console.error(format_args!("{error}."));
        return Exit::Failed;
    }
    console.out(&verdict(effective));
    Exit::Ok
}

fn verdict(effective: &Effective) -> String {
    if effective.files.is_empty() {
        return format!(
            "{}: {DEFAULT_FILE} does not exist, so the defaults hold\n",
            green("good")
        );
    }
    let line = |file: &std::path::PathBuf| format!("{}: {}\n", green("good"), shown_path(file));
    effective.files.iter().map(line).collect()
}
