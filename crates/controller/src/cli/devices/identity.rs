//! `device identity add|remove`.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt as _;
use std::process::ExitCode;

use anyhow::bail;
use clap::{Args, Subcommand};

use super::{called, find};
use crate::cli::show;
use crate::clock;
use crate::rules::devices::IdentityKind;
use crate::rules::state::word;
use crate::store::{IdentityEnd, NewIdentity, Store};

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum IdentityCommand {
    /// Give a device an identity, and the connections with it that were nobody's
    Add(IdentityArgs),
    /// Take an identity from a device; connections that it has already stay its own
    Remove(IdentityArgs),
}

#[derive(Debug, Args)]
pub(in crate::cli) struct IdentityArgs {
    /// Its name, its id, or the beginning of its id
    device: String,
    #[command(flatten)]
    identity: IdentityArg,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Any bytes, as the daemons have them: a name is compared, never interpreted.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct IdentityArg {
    /// A WireGuard public key
    #[arg(long, value_name = "KEY")]
    wireguard: Option<OsString>,
    /// The common name of a certificate (OpenVPN, ocserv)
    #[arg(long, value_name = "NAME", allow_hyphen_values = true)]
    cert: Option<OsString>,
    /// An EAP identity (strongSwan)
    #[arg(long, value_name = "NAME", allow_hyphen_values = true)]
    eap: Option<OsString>,
    /// An IKE identity (strongSwan)
    #[arg(long, value_name = "NAME", allow_hyphen_values = true)]
    ike: Option<OsString>,
    /// A user name (OpenVPN, ocserv)
    #[arg(long, value_name = "NAME", allow_hyphen_values = true)]
    user: Option<OsString>,
}

impl IdentityArg {
    /// What it is, and as the hosts write it.
    fn written(&self) -> anyhow::Result<(IdentityKind, String)> {
        let given = [
            (IdentityKind::Wireguard, &self.wireguard),
            (IdentityKind::Certificate, &self.cert),
            (IdentityKind::Eap, &self.eap),
            (IdentityKind::Ike, &self.ike),
            (IdentityKind::User, &self.user),
        ];
        let given = given
            .into_iter()
            .find_map(|(kind, name)| Some((kind, name.as_ref()?)));
        let Some((kind, name)) = given else {
            bail!("no identity was given");
        };
        Ok((kind, kind.written(name.as_bytes())?))
    }
}

pub(super) async fn run(store: &dyn Store, command: IdentityCommand) -> anyhow::Result<ExitCode> {
    match command {
        IdentityCommand::Add(args) => add(store, args).await,
        IdentityCommand::Remove(args) => remove(store, args).await,
    }
}

async fn add(store: &dyn Store, args: IdentityArgs) -> anyhow::Result<ExitCode> {
    let (kind, identity) = args.identity.written()?;
    let device = find(store, &args.device).await?;
    let shown = format!("{} {}", word(&kind), show::identity(&identity));
    let new = NewIdentity {
        kind,
        identity,
        device_id: device.device_id.clone(),
        at_ms: clock::now_ms(),
    };
    let (filled, asked) = match store.add_identity(new).await? {
        IdentityEnd::Added { filled, asked } => (filled, asked),
        IdentityEnd::Already => bail!("device {} has {shown} already", called(&device)),
        IdentityEnd::Other {
            device_id,
            device_name,
        } => bail!(
            "another device has {shown}: {} ({device_id}); take it from there first with 'device identity remove'",
            show::optional(device_name.as_deref())
        ),
    };
    let rows = store.identities(&device.device_id).await?;
    store.close().await?;
    if args.json {
        show::json("identities", &rows)?;
        return Ok(ExitCode::SUCCESS);
    }
    let refused = match asked.connections.len() {
        0 => String::new(),
        count => format!(
            " The device is refused: {} to be ended.",
            show::count(count as u64, "live connection")
        ),
    };
    show::line(format_args!(
        "Device {} has {shown} now, and {} that {} nobody's.{refused}",
        called(&device),
        show::count(filled, "connection"),
        if filled == 1 { "was" } else { "were" },
    ))?;
    Ok(ExitCode::SUCCESS)
}

async fn remove(store: &dyn Store, args: IdentityArgs) -> anyhow::Result<ExitCode> {
    let (kind, identity) = args.identity.written()?;
    let device = find(store, &args.device).await?;
    let shown = format!("{} {}", word(&kind), show::identity(&identity));
    let old = NewIdentity {
        kind,
        identity,
        device_id: device.device_id.clone(),
        at_ms: clock::now_ms(),
    };
    if !store.remove_identity(old).await? {
        bail!(
            "device {} does not have {shown}: see 'device show'",
            called(&device)
        );
    }
    let rows = store.identities(&device.device_id).await?;
    store.close().await?;
    if args.json {
        show::json("identities", &rows)?;
    } else {
        show::line(format_args!(
            "Device {} does not have {shown} any more; later connections with it are nobody's.",
            called(&device)
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}
