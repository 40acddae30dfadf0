//! `vpn-node config check` and `config show`: the agent's own loader, rendered.

use super::Exit;
use super::args::{ConfigCommand, Global};
use super::console::{Console, green};
use crate::config::{self, DEFAULT_FILE, Effective};
use crate::core::shown_path;

/// Loads the configuration and shows what came of it.
pub(super) fn run(global: &Global, command: ConfigCommand, console: &mut Console<'_>) -> Exit {
    match config::load(global.config.as_deref()) {
        Ok(effective) => {
            match command {
                ConfigCommand::Check => console.out(&verdict(&effective)),
                ConfigCommand::Show => console.out(&effective.to_toml()),
            }
            Exit::Ok
        }
        Err(error) => {
            console.error(error);
            Exit::Failed
        }
    }
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
