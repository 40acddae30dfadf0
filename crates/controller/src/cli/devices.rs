//! `device add|list|show|revoke`, `device identity add|remove`.

mod identity;

use std::process::ExitCode;

use anyhow::bail;
use clap::{Args, Subcommand};
use serde::Serialize;

use super::asked::{self, Revocable, WaitArgs};
use super::named::Kind;
use super::text::short_text;
use super::{open, personal_keys, show};
use crate::clock;
use crate::config::Config;
use crate::rules::devices::Revoked;
use crate::store::{DeviceRow, IdentityRow, NewDevice, Store};

/// The longest fingerprint of a device: several times what tools print, and still one line.
const MAX_FINGERPRINT_BYTES: usize = 1024;

#[derive(Debug, Subcommand)]
pub(super) enum DeviceCommand {
    /// Add a device to a personal key
    Add(AddArgs),
    /// All devices
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// One device in full
    Show {
        /// Its name, its id, or the beginning of its id
        device: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Refuse a device for ever, and end its connections
    Revoke {
        /// Its name, its id, or the beginning of its id
        device: String,
        /// Why; shown by 'device show' and in the event
        #[arg(long, value_name = "TEXT", value_parser = short_text)]
        reason: String,
        #[command(flatten)]
        wait: WaitArgs,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// What VPN daemons call a device, so that its connections are known for its own
    #[command(subcommand)]
    Identity(identity::IdentityCommand),
}

#[derive(Debug, Args)]
pub(super) struct AddArgs {
    /// Whose: the id of a personal key, the beginning of it, or the name of a user who has one key
    #[arg(long)]
    key: String,
    /// What to call it
    #[arg(long, value_name = "TEXT", value_parser = short_text)]
    name: String,
    /// What it is, for example linux, ios or router
    #[arg(long, value_name = "TEXT", value_parser = short_text)]
    platform: String,
    /// What tells the machine from others; stored as it is given
    #[arg(long, value_name = "TEXT", value_parser = fingerprint)]
    fingerprint: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn fingerprint(text: &str) -> Result<String, String> {
    if text.len() > MAX_FINGERPRINT_BYTES || text.chars().any(char::is_control) {
        return Err(format!(
            "it is longer than {MAX_FINGERPRINT_BYTES} bytes, or holds control characters"
        ));
    }
    Ok(text.to_owned())
}

pub(super) async fn run(command: DeviceCommand, config: &Config) -> anyhow::Result<ExitCode> {
    let store = open(config).await?;
    match command {
        DeviceCommand::Add(args) => add(&*store, args).await,
        DeviceCommand::List { json } => list(&*store, json).await,
        DeviceCommand::Show { device, json } => one(&*store, &device, json).await,
        DeviceCommand::Revoke {
            device,
            reason,
            wait,
            json,
        } => asked::revoke::<DeviceRow>(&*store, &device, reason, &wait, json).await,
        DeviceCommand::Identity(command) => identity::run(&*store, command).await,
    }
}

const KIND: Kind<DeviceRow> = Kind {
    word: "device",
    list: "device list",
    id: |row| &row.device_id,
    name: |row| row.device_name.as_deref(),
    about: |row| {
        format!(
            "{}, {}",
            show::optional(row.user_name.as_deref()),
            status(row)
        )
    },
};

/// The device that an operator means.
pub(super) async fn find(store: &dyn Store, named: &str) -> anyhow::Result<DeviceRow> {
    KIND.pick(store.devices(Some(named)).await?, named)
}

async fn add(store: &dyn Store, args: AddArgs) -> anyhow::Result<ExitCode> {
    let key = personal_keys::find(store, &args.key).await?;
    let now_ms = clock::now_ms();
    let device = NewDevice {
        device_id: clock::uuid_v7(now_ms).to_string(),
        key_id: key.key_id.clone(),
        hardware_fingerprint: args.fingerprint.unwrap_or_default(),
        device_name: args.name,
        platform: args.platform,
        at_ms: now_ms,
    };
    let device_id = device.device_id.clone();
    if !store.add_device(device).await? {
        bail!("{}", personal_keys::no_new_device(&key));
    }
    let row = find(store, &device_id).await?;
    store.close().await?;
    if args.json {
        show::json("devices", &[row])?;
        return Ok(ExitCode::SUCCESS);
    }
    show::line(format_args!(
        "Added {} of {}. Say what VPN daemons call it: 'device identity add {device_id} --wireguard KEY', or --cert, --eap, --ike, --user.",
        called(&row),
        show::optional(row.user_name.as_deref())
    ))?;
    Ok(ExitCode::SUCCESS)
}

/// A device by its name and its id.
fn called(row: &DeviceRow) -> String {
    format!(
        "{} ({})",
        show::optional(row.device_name.as_deref()),
        row.device_id
    )
}

async fn list(store: &dyn Store, as_json: bool) -> anyhow::Result<ExitCode> {
    let devices = store.devices(None).await?;
    if as_json {
        show::json("devices", &devices)?;
        return Ok(ExitCode::SUCCESS);
    }
    let rows = devices
        .iter()
        .map(|row| {
            vec![
                row.device_id.clone(),
                show::optional(row.device_name.as_deref()),
                show::optional(row.user_name.as_deref()),
                show::escaped(&row.platform),
                status(row),
                row.identities.to_string(),
                row.active_connections.to_string(),
                show::instant(Some(&row.last_seen)),
            ]
        })
        .collect();
    show::table(
        &[
            "ID",
            "NAME",
            "USER",
            "PLATFORM",
            "STATUS",
            "IDENTITIES",
            "LIVE",
            "LAST SEEN",
        ],
        rows,
        "There are no devices: run 'vpn-node-controller device add'.",
    )?;
    Ok(ExitCode::SUCCESS)
}

/// The status of a device, with that of its key where that is what counts.
fn status(row: &DeviceRow) -> String {
    match (row.status.as_str(), row.key_status.as_deref()) {
        ("active", Some(key)) if key != "active" => format!("key {}", show::escaped(key)),
        (status, _) => show::escaped(status),
    }
}

/// A device with its identities.
#[derive(Serialize)]
struct Full {
    #[serde(flatten)]
    row: DeviceRow,
    identity_rows: Vec<IdentityRow>,
}

async fn one(store: &dyn Store, named: &str, as_json: bool) -> anyhow::Result<ExitCode> {
    let row = find(store, named).await?;
    let identity_rows = store.identities(&row.device_id).await?;
    if as_json {
        show::json("devices", &[Full { row, identity_rows }])?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut fields = fields(&row);
    for one in &identity_rows {
        let what = format!(
            "{} {}",
            show::escaped(&one.identity_kind),
            show::identity(&one.identity)
        );
        fields.push(("Identity", what));
    }
    show::fields(&fields)?;
    Ok(ExitCode::SUCCESS)
}

fn fields(row: &DeviceRow) -> Vec<(&'static str, String)> {
    let fingerprint = Some(row.hardware_fingerprint.as_str()).filter(|text| !text.is_empty());
    vec![
        ("Device", row.device_id.clone()),
        ("Name", show::optional(row.device_name.as_deref())),
        ("User", show::optional(row.user_name.as_deref())),
        ("Personal key", show::optional(row.key_id.as_deref())),
        ("Platform", show::escaped(&row.platform)),
        ("Fingerprint", show::optional(fingerprint)),
        ("Status", status(row)),
        (
            "Status since",
            show::instant(row.status_changed_at.as_deref()),
        ),
        (
            "Status reason",
            show::optional(row.status_reason.as_deref()),
        ),
        ("First seen", show::instant(Some(&row.first_seen))),
        ("Last seen", show::instant(Some(&row.last_seen))),
        ("Live connections", row.active_connections.to_string()),
    ]
}

impl Revocable for DeviceRow {
    const PLURAL: &'static str = "devices";
    const REFUSED: &'static str = "it is";

    async fn find(store: &dyn Store, named: &str) -> anyhow::Result<Self> {
        find(store, named).await
    }

    fn id(&self) -> &str {
        &self.device_id
    }

    fn revoked(&self) -> Revoked {
        Revoked::Device(self.device_id.clone())
    }

    fn told(&self) -> String {
        format!("device {}", called(self))
    }

    fn since(&self) -> Option<&str> {
        self.status_changed_at.as_deref()
    }
}
