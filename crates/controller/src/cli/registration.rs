//! `registration-key create|list|revoke`.

use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::Subcommand;
use serde_json::json;

use super::{open, show};
use crate::clock;
use crate::config::Config;
use crate::registration;
use crate::store::RegistrationKeyRow;

/// A token is pasted within the hour, usually.
const DEFAULT_LIFETIME: &str = "24h";
/// The longest lifetime of a token: it lies around in a ticket that long.
const MAX_LIFETIME_MS: i64 = 365 * 24 * 3600 * 1000;
/// The shortest.
const MIN_LIFETIME_MS: i64 = 60 * 1000;
/// The longest note.
const MAX_NOTE_BYTES: usize = 1024;

#[derive(Debug, Subcommand)]
pub(super) enum RegistrationCommand {
    /// Make a token for one host
    Create {
        /// For how long it is good: a number with s, m, h or d, from 1m to 365d
        #[arg(long, value_name = "TIME", allow_hyphen_values = true, default_value = DEFAULT_LIFETIME, value_parser = lifetime_ms)]
        expires: i64,
        /// What it is for; shown in the list
        #[arg(long, value_name = "TEXT")]
        note: Option<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// All keys, without their secrets, which nobody has
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Take an unused token back
    Revoke {
        /// The key's id, or the beginning of it
        id: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

pub(super) async fn run(command: RegistrationCommand, config: &Config) -> anyhow::Result<ExitCode> {
    match command {
        RegistrationCommand::Create {
            expires,
            note,
            json,
        } => create(config, expires, note, json).await?,
        RegistrationCommand::List { json } => list(config, json).await?,
        RegistrationCommand::Revoke { id, json } => revoke(config, &id, json).await?,
    }
    Ok(ExitCode::SUCCESS)
}

/// What to run on the host. The token goes to its standard input: arguments and environment can
/// be read by others, and the shell would keep it in its history.
const COMMAND: &str = "vpn-node enroll";

async fn create(
    config: &Config,
    lifetime_ms: i64,
    note: Option<String>,
    as_json: bool,
) -> anyhow::Result<()> {
    if note
        .as_ref()
        .is_some_and(|note| note.len() > MAX_NOTE_BYTES)
    {
        bail!("the note is longer than {MAX_NOTE_BYTES} bytes");
    }
    let store = open(config).await?;
    let made = registration::create(&*store, config, lifetime_ms, note, clock::now_ms()).await?;
    store.close().await?;
    let expires = clock::to_text(made.expires_ms);
    if as_json {
        let object = json!({
            "schema": 1,
            "token": *made.text,
            "registration_key": made.registration_key,
            "expires": expires,
            "command": COMMAND,
        });
        return show::line(serde_json::to_string_pretty(&object)?);
    }
    // The token alone on standard output, so that it can be redirected.
    show::line(&*made.text)?;
    show::note(format_args!(
        "
Good for one host until {until} UTC; key {key}.
On the host, run this, then paste the token and press Enter:

  {COMMAND}
",
        until = show::instant(Some(&expires)),
        key = short(&made.registration_key),
    ));
    Ok(())
}

async fn list(config: &Config, as_json: bool) -> anyhow::Result<()> {
    let mut keys = open(config).await?.list_registration_keys().await?;
    let now = clock::to_text(clock::now_ms());
    for key in &mut keys {
        key.status = status_at(key, &now).to_owned();
    }
    if as_json {
        return show::json("registration_keys", &keys);
    }
    let rows = keys
        .iter()
        .map(|key| {
            vec![
                short(&key.registration_key).to_owned(),
                show::escaped(&key.status),
                show::instant(Some(&key.creation_date)),
                show::instant(key.expiration_date.as_deref()),
                show::optional(key.used_by_server_id.as_deref()),
                show::optional(key.notes.as_deref()),
            ]
        })
        .collect();
    show::table(
        &["KEY", "STATUS", "CREATED", "EXPIRES", "USED BY", "NOTE"],
        rows,
        "There are no registration keys: run 'vpn-node-controller registration-key create'.",
    )
}

/// The key's status as an operator means it: the database knows of no end that merely came.
fn status_at<'a>(key: &'a RegistrationKeyRow, now: &str) -> &'a str {
    let over = key.expiration_date.as_deref().is_some_and(|end| end <= now);
    match key.status.as_str() {
        "active" if over => "expired",
        status => status,
    }
}

async fn revoke(config: &Config, id: &str, as_json: bool) -> anyhow::Result<()> {
    let store = open(config).await?;
    let keys = store.list_registration_keys().await?;
    let mut found = keys
        .iter()
        .filter(|key| !id.is_empty() && key.registration_key.starts_with(&id.to_ascii_lowercase()));
    let key = found.next().with_context(|| {
        format!("no registration key begins with {id:?}: see 'registration-key list'")
    })?;
    if found.next().is_some() {
        bail!("several registration keys begin with {id:?}: give more of it");
    }
    if !store.revoke_registration_key(&key.registration_key).await? {
        let id = short(&key.registration_key);
        // What it is now: a host may have used it since the list was read.
        let keys = store.list_registration_keys().await?;
        let now = keys
            .iter()
            .find(|row| row.registration_key == key.registration_key);
        match now.and_then(|row| row.used_by_server_id.as_deref()) {
            Some(server) => bail!(
                "registration key {id} is used already: it has enrolled server {}, and can enrol no other",
                show::escaped(server)
            ),
            None => bail!("registration key {id} is revoked already: it can enrol nobody"),
        }
    }
    store.close().await?;
    if as_json {
        let object = json!({
            "schema": 1,
            "registration_key": key.registration_key,
            "status": "revoked",
        });
        show::line(serde_json::to_string_pretty(&object)?)?;
    } else {
        show::line(format_args!("Revoked {}.", short(&key.registration_key)))?;
    }
    Ok(())
}

/// Enough of a key to name it.
fn short(key: &str) -> &str {
    key.get(..12).unwrap_or(key)
}

fn lifetime_ms(text: &str) -> Result<i64, String> {
    let ms = span_ms(text)?;
    if (MIN_LIFETIME_MS..=MAX_LIFETIME_MS).contains(&ms) {
        Ok(ms)
    } else {
        Err("it must be between 1m and 365d".to_owned())
    }
}

/// A time as a person types it, in milliseconds.
pub(super) fn span_ms(text: &str) -> Result<i64, String> {
    let bad = || "expected a number with s, m, h or d, for example 24h".to_owned();
    let unit_at = text.len().checked_sub(1).ok_or_else(bad)?;
    let (number, unit) = text.split_at_checked(unit_at).ok_or_else(bad)?;
    let unit_ms = match unit {
        "s" => 1000,
        "m" => 60 * 1000,
        "h" => 3600 * 1000,
        "d" => 24 * 3600 * 1000,
        _ => return Err(bad()),
    };
    let number: u32 = number.parse().map_err(|_| bad())?;
    Ok(i64::from(number) * unit_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_active_key_expires_and_a_used_one_stays_used() {
        let key = |status: &str, end: Option<i64>| RegistrationKeyRow {
            registration_key: String::new(),
            creation_date: String::new(),
            expiration_date: end.map(clock::to_text),
            used: false,
            used_by_server_id: None,
            used_date: None,
            notes: None,
            status: status.into(),
        };
        let now = clock::to_text(1_795_000_000_000);
        for (status, end, shown) in [
            ("active", None, "active"),
            ("active", Some(1_795_000_000_001), "active"),
            ("active", Some(1_795_000_000_000), "expired"),
            ("used", Some(0), "used"),
            ("revoked", Some(0), "revoked"),
        ] {
            assert_eq!(status_at(&key(status, end), &now), shown);
        }
    }

    #[test]
    fn lifetimes_are_read_and_bounded() {
        assert_eq!(lifetime_ms("24h"), Ok(86_400_000));
        assert_eq!(lifetime_ms("90s"), Ok(90_000));
        for bad in [
            "",
            "h",
            "24",
            "24 h",
            "-1h",
            "59s",
            "366d",
            "1é",
            "99999999999d",
        ] {
            assert!(lifetime_ms(bad).is_err(), "{bad}");
        }
    }
}
