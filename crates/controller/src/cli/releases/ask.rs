//! The passphrase of a key file: on the terminal without echo, or from a file; never an argument
//! and never the environment, which others can read.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::Args;
use jiff::SignedDuration;
use zeroize::Zeroizing;

use crate::cli::span::span_ms;
use crate::releases::passphrase::Passphrase;

#[derive(Debug, Args)]
pub(super) struct PassphraseArgs {
    /// Read the passphrase from this file, which has one line, instead of the terminal
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
}

impl PassphraseArgs {
    /// For a key that exists.
    pub(super) fn of(&self, key: &Path) -> anyhow::Result<Passphrase> {
        match &self.passphrase_file {
            Some(path) => Ok(Passphrase::from_file(path)?),
            None => asked(&format!("Passphrase of {}: ", key.display())),
        }
    }

    /// For a key that is made now: asked twice, and strong enough.
    pub(super) fn new_for(&self, key: &Path) -> anyhow::Result<Passphrase> {
        let passphrase = match &self.passphrase_file {
            Some(path) => Passphrase::from_file(path)?,
            None => {
                let first = asked(&format!("New passphrase for {}: ", key.display()))?;
                first.check_strength()?;
                let second = asked("The same once more: ")?;
                if !first.is_same(&second) {
                    bail!("the two passphrases differ: no key was made");
                }
                first
            }
        };
        passphrase.check_strength()?;
        Ok(passphrase)
    }
}

fn asked(prompt: &str) -> anyhow::Result<Passphrase> {
    let typed = rpassword::prompt_password(prompt)
        .context("no terminal to ask for the passphrase on: give --passphrase-file")?;
    Ok(Passphrase::new(Zeroizing::new(typed.into_bytes()))?)
}

/// How long something is good, for example `365d`.
pub(super) fn lifetime(text: &str) -> Result<SignedDuration, String> {
    match span_ms(text)? {
        ms @ 86_400_000..=315_360_000_000 => Ok(SignedDuration::from_millis(ms)),
        _ => Err("it must be from 1d to 3650d".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lifetime_is_from_a_day_to_ten_years() {
        assert_eq!(lifetime("1d"), Ok(SignedDuration::from_hours(24)));
        for bad in ["0d", "1h", "3651d", "x"] {
            assert!(lifetime(bad).is_err(), "{bad}");
        }
    }
}
