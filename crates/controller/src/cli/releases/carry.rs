//! `release export` and `release import`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use vpn_node_release::version::{Platform, Version};

use super::{Work, now, tell};
use crate::cli::show;
use crate::releases::transfer;

#[derive(Debug, Args)]
pub(super) struct ExportArgs {
    /// Which version; without one the metadata alone, for example a new root
    version: Option<Version>,
    /// For this platform only, for example linux-arm64
    #[arg(long, value_name = "PLATFORM", requires = "version")]
    platform: Option<Platform>,
    /// The file to write
    #[arg(long, value_name = "FILE")]
    to: PathBuf,
}

pub(super) fn export(work: &Work, args: ExportArgs) -> anyhow::Result<ExitCode> {
    let (version, platform) = (args.version.as_ref(), args.platform.as_ref());
    let packages = transfer::export(&work.tree, version, platform, &args.to)?;
    for signed in &packages {
        show::line(format_args!("With: {}.", tell::release(signed.info())))?;
    }
    show::line(format_args!("Written: {}.", args.to.display()))?;
    if work.tree.load()?.timestamp.is_none() {
        show::line(
            "It is for 'release import' on the controller. Hosts take a file that the controller exports.",
        )?;
    }
    Ok(ExitCode::SUCCESS)
}

#[derive(Debug, Args)]
pub(super) struct ImportArgs {
    /// A file of 'release export', or a directory with metadata/ and targets/
    #[arg(value_name = "FILE or DIR")]
    from: PathBuf,
    /// SHA-256 of the first root, as 'release init' said it: needed in an empty repository
    #[arg(long, value_name = "HEX")]
    root_sha256: Option<String>,
}

pub(super) async fn import(work: &Work, args: ImportArgs) -> anyhow::Result<ExitCode> {
    let root = args.root_sha256.as_deref();
    let imported = transfer::import(&work.tree, &args.from, root, now())?;
    show::line(format_args!(
        "Verified, with {}.",
        show::count(imported.packages as u64, "new package")
    ))?;
    tell::outcome(&work.tree, &imported.outcome)?;
    work.mirror().await?;
    Ok(ExitCode::SUCCESS)
}
