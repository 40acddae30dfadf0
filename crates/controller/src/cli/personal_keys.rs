//! `personal-key create|rotate|revoke|list|verify`.

use std::io::{BufRead as _, IsTerminal as _, Read as _};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use super::asked::{self, Revocable, WaitArgs};
use super::named::Kind;
use super::span::span_ms;
use super::text::short_text;
use super::{open, show};
use crate::clock;
use crate::config::Config;
use crate::personal_key::Secret;
use crate::rules::devices::Revoked;
use crate::store::{NewPersonalKey, PersonalKeyRow, RotatedKey, Store};

/// The shortest and the longest life of a key, when it is to have an end.
const MIN_LIFETIME_MS: i64 = 60 * 1000;
const MAX_LIFETIME_MS: i64 = 3650 * 24 * 3600 * 1000;
/// A secret has 53 characters; what is longer is something else.
const MAX_INPUT_BYTES: u64 = 1024;

#[derive(Debug, Subcommand)]
pub(super) enum PersonalKeyCommand {
    /// Make a key for a user; its secret is shown once, and nobody can show it again
    Create(CreateArgs),
    /// Give a key another secret; the old one is dead at once
    Rotate {
        /// Its id, the beginning of it, or the name of a user who has one key
        key: String,
        /// Its new end from now on, for example 365d; also brings a key back whose time is over
        #[arg(long, value_name = "TIME", value_parser = lifetime_ms)]
        expires: Option<i64>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Refuse a key and all its devices for ever, and end their connections
    Revoke {
        /// Its id, the beginning of it, or the name of a user who has one key
        key: String,
        /// Why; shown in lists and in the event
        #[arg(long, value_name = "TEXT", value_parser = short_text)]
        reason: String,
        #[command(flatten)]
        wait: WaitArgs,
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
    /// Whether a secret, read from standard input, is that of a key and good
    Verify {
        /// Its id, the beginning of it, or the name of a user who has one key
        key: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Args)]
pub(super) struct CreateArgs {
    /// Whose
    #[arg(long, value_name = "NAME", value_parser = short_text)]
    user: String,
    /// Where to reach the user
    #[arg(long, value_name = "ADDRESS", value_parser = short_text)]
    email: Option<String>,
    /// For how long it is good, from 1m to 3650d, for example 365d; without an end unless given
    #[arg(long, value_name = "TIME", value_parser = lifetime_ms)]
    expires: Option<i64>,
    /// What it is for; shown in the list
    #[arg(long, value_name = "TEXT", value_parser = short_text)]
    note: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(command: PersonalKeyCommand, config: &Config) -> anyhow::Result<ExitCode> {
    let store = open(config).await?;
    match command {
        PersonalKeyCommand::Create(args) => create(&*store, args).await,
        PersonalKeyCommand::Rotate { key, expires, json } => {
            rotate(&*store, &key, expires, json).await
        }
        PersonalKeyCommand::Revoke {
            key,
            reason,
            wait,
            json,
        } => asked::revoke::<PersonalKeyRow>(&*store, &key, reason, &wait, json).await,
        PersonalKeyCommand::List { json } => list(&*store, json).await,
        PersonalKeyCommand::Verify { key, json } => verify(&*store, &key, json).await,
    }
}

const KIND: Kind<PersonalKeyRow> = Kind {
    word: "personal key",
    list: "personal-key list",
    id: |row| &row.key_id,
    name: |row| Some(&row.user_name),
    about: |row| {
        format!(
            "{}, {}, made {} UTC",
            show::escaped(&row.user_name),
            status_now(row),
            show::instant(Some(&row.creation_date))
        )
    },
};

/// The key that an operator means.
pub(super) async fn find(store: &dyn Store, named: &str) -> anyhow::Result<PersonalKeyRow> {
    KIND.pick(store.personal_keys(Some(named)).await?, named)
}

async fn create(store: &dyn Store, args: CreateArgs) -> anyhow::Result<ExitCode> {
    let now_ms = clock::now_ms();
    let secret = Secret::new(clock::random());
    let hashed = secret.hash(&clock::random());
    let key_id = clock::uuid_v7(now_ms).to_string();
    let key = NewPersonalKey {
        key_id: key_id.clone(),
        user_name: args.user,
        user_email: args.email,
        key_hash: hashed.key_hash,
        key_salt: hashed.key_salt,
        created_ms: now_ms,
        expires_ms: args.expires.map(|ms| now_ms.saturating_add(ms)),
        notes: args.note,
    };
    store.create_personal_key(key).await?;
    let row = find(store, &key_id).await?;
    store.close().await?;
    tell_once(&secret, &row, args.json)
}

async fn rotate(
    store: &dyn Store,
    named: &str,
    expires: Option<i64>,
    as_json: bool,
) -> anyhow::Result<ExitCode> {
    let row = find(store, named).await?;
    may_rotate(&row, expires)?;
    let key_id = row.key_id;
    let now_ms = clock::now_ms();
    let secret = Secret::new(clock::random());
    let hashed = secret.hash(&clock::random());
    let rotated = RotatedKey {
        key_id: key_id.clone(),
        key_hash: hashed.key_hash,
        key_salt: hashed.key_salt,
        at_ms: now_ms,
        expires_ms: expires.map(|ms| now_ms.saturating_add(ms)),
    };
    let done = store.rotate_personal_key(rotated).await?;
    let row = find(store, &key_id).await?;
    store.close().await?;
    if !done {
        // Somebody else was quicker.
        may_rotate(&row, expires)?;
        bail!("{} was changed at the same time: try again", whose(&row));
    }
    tell_once(&secret, &row, as_json)
}

fn may_rotate(row: &PersonalKeyRow, expires: Option<i64>) -> anyhow::Result<()> {
    let cure = match (status_now(row), expires) {
        ("revoked", _) => "it stays so for ever: make a new one with 'personal-key create'",
        ("expired", None) => "give it a new end with --expires, for example --expires 365d",
        _ => return Ok(()),
    };
    bail!("{} is {}: {cure}", whose(row), status_now(row))
}

/// Why a key that is revoked or over takes no device, and what to do.
pub(super) fn no_new_device(row: &PersonalKeyRow) -> String {
    let cure = match status_now(row) {
        "expired" => "give it a new end with 'personal-key rotate --expires TIME'",
        _ => "make a new one with 'personal-key create'",
    };
    format!(
        "{} is {}: it can have no new device; {cure}",
        whose(row),
        status_now(row)
    )
}

/// Shows a secret, alone on standard output so that it can be redirected.
fn tell_once(secret: &Secret, row: &PersonalKeyRow, as_json: bool) -> anyhow::Result<ExitCode> {
    let text = secret.to_text();
    if as_json {
        let mut object = Map::new();
        object.insert("secret".to_owned(), Value::from(text.as_str()));
        object.insert("personal_keys".to_owned(), serde_json::to_value([row])?);
        show::object(object)?;
        return Ok(ExitCode::SUCCESS);
    }
    show::line(text.as_str())?;
    let until = match row.expiration_date.as_deref() {
        Some(end) => format!("until {} UTC", show::instant(Some(end))),
        None => "without an end".to_owned(),
    };
    show::note(format_args!(
        "
This is the secret of {}, good {until}. It is shown this once: only its hash is stored.",
        whose(row)
    ));
    Ok(ExitCode::SUCCESS)
}

/// A key by its id and its user.
fn whose(row: &PersonalKeyRow) -> String {
    format!(
        "personal key {} of {}",
        row.key_id,
        show::escaped(&row.user_name)
    )
}

impl Revocable for PersonalKeyRow {
    const PLURAL: &'static str = "personal_keys";
    const REFUSED: &'static str = "its devices are";

    async fn find(store: &dyn Store, named: &str) -> anyhow::Result<Self> {
        find(store, named).await
    }

    fn id(&self) -> &str {
        &self.key_id
    }

    fn revoked(&self) -> Revoked {
        Revoked::Key(self.key_id.clone())
    }

    fn told(&self) -> String {
        whose(self)
    }

    fn since(&self) -> Option<&str> {
        self.status_changed_at.as_deref()
    }
}

async fn list(store: &dyn Store, as_json: bool) -> anyhow::Result<ExitCode> {
    let mut keys = store.personal_keys(None).await?;
    for key in &mut keys {
        key.status = status_now(key).to_owned();
    }
    if as_json {
        show::json("personal_keys", &keys)?;
        return Ok(ExitCode::SUCCESS);
    }
    let rows = keys
        .iter()
        .map(|key| {
            vec![
                key.key_id.clone(),
                show::escaped(&key.user_name),
                show::optional(key.user_email.as_deref()),
                show::escaped(&key.status),
                show::instant(Some(&key.creation_date)),
                show::instant(key.expiration_date.as_deref()),
                show::instant(key.last_rotation_date.as_deref()),
                key.devices.to_string(),
                key.active_connections.to_string(),
                show::optional(key.status_reason.as_deref().or(key.notes.as_deref())),
            ]
        })
        .collect();
    show::table(
        &[
            "ID", "USER", "EMAIL", "STATUS", "CREATED", "EXPIRES", "ROTATED", "DEVICES", "LIVE",
            "NOTE",
        ],
        rows,
        "There are no personal keys: run 'vpn-node-controller personal-key create --user NAME'.",
    )?;
    Ok(ExitCode::SUCCESS)
}

/// The status as an operator means it: the sweep may not have been there yet.
fn status_now(key: &PersonalKeyRow) -> &str {
    let now = clock::to_text(clock::now_ms());
    let over = key.expiration_date.as_ref().is_some_and(|end| *end <= now);
    match key.status.as_str() {
        "active" if over => "expired",
        status => status,
    }
}

/// A secret that is none of this key.
const OTHER_SECRET: &str = "this is not its secret: it is that of another key, or older than the last 'personal-key rotate'";

async fn verify(store: &dyn Store, named: &str, as_json: bool) -> anyhow::Result<ExitCode> {
    let row = find(store, named).await?;
    store.close().await?;
    let secret = read_secret()?;
    let why = match Secret::parse(secret.trim()) {
        Err(error) => Some(error.to_string()),
        Ok(secret) if !secret.fits(&row.key_hash) => Some(OTHER_SECRET.to_owned()),
        Ok(_) => match status_now(&row) {
            "active" => None,
            status => Some(format!("the secret is right, but the key is {status}")),
        },
    };
    let told = match &why {
        None => format!("{} is good, and this is its secret.", whose(&row)),
        Some(why) => format!("{}: {why}.", whose(&row)),
    };
    if as_json {
        if why.is_some() {
            anstream::eprintln!("vpn-node-controller: {told}");
        }
        let mut object = Map::new();
        object.insert("valid".to_owned(), Value::from(why.is_none()));
        object.insert("reason".to_owned(), Value::from(why.clone()));
        object.insert("personal_keys".to_owned(), serde_json::to_value([row])?);
        show::object(object)?;
    } else {
        show::line(told)?;
    }
    Ok(match why {
        None => ExitCode::SUCCESS,
        Some(_) => ExitCode::FAILURE,
    })
}

/// One line of standard input: arguments and environment can be read by others.
fn read_secret() -> anyhow::Result<Zeroizing<String>> {
    let stdin = std::io::stdin();
    if stdin.is_terminal() {
        show::note("Paste the secret and press Enter:");
    }
    // Its full size from the start: a text that grows leaves copies behind.
    let mut line = Zeroizing::new(String::with_capacity(MAX_INPUT_BYTES as usize));
    stdin
        .lock()
        .take(MAX_INPUT_BYTES)
        .read_line(&mut line)
        .context("the secret could not be read from standard input")?;
    if line.trim().is_empty() {
        bail!(
            "standard input is empty: give the secret there, for example 'personal-key verify KEY < secret'"
        );
    }
    Ok(line)
}

fn lifetime_ms(text: &str) -> Result<i64, String> {
    let ms = span_ms(text)?;
    if (MIN_LIFETIME_MS..=MAX_LIFETIME_MS).contains(&ms) {
        Ok(ms)
    } else {
        Err("it must be between 1m and 3650d".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lifetimes_are_read_and_bounded() {
        assert_eq!(lifetime_ms("365d"), Ok(31_536_000_000));
        for bad in ["", "59s", "3651d", "for ever"] {
            assert!(lifetime_ms(bad).is_err(), "{bad}");
        }
    }
}
