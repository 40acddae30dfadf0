//! dev
pub(crate) mod agent;
mod promise;
mod releases;
mod tree;
use std::process::ExitCode;
use anyhow::Result;
/// o
#[derive(clap::Args)]
pub(crate) struct Options {}
pub(crate) fn run(_: &Options) -> Result<ExitCode> { Ok(ExitCode::SUCCESS) }
