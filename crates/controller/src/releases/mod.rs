//! A release repository: TUF metadata (specification 1.0.34) and packages in one directory, the
//! keys of the people who sign, and what becomes public when.
//!
//! It works without a database and without a network: on a machine that is never online, and on the
//! controller, which mirrors what is verified into its table and serves `metadata/` and `targets/`.
//! `docs/updates.md` tells how operators use it.
//!
//! Reading order: [`tree`] (the directory), [`stage`] (what waits), [`adding`] and [`ceremony`]
//! (what is to be signed), [`signing`], [`publish`] (the order on disk), [`check`] (our own client
//! looks first), [`transfer`] (from one machine to another), [`key_file`], [`online`]; on the
//! controller [`keeper`] and [`mirror`].

pub mod adding;
pub mod ceremony;
pub mod check;
mod disk;
mod error;
pub mod keeper;
pub mod key_file;
pub mod line;
pub mod mirror;
pub mod online;
pub mod passphrase;
pub mod publish;
pub mod signing;
pub mod stage;
pub mod transfer;
pub mod tree;

pub use disk::DiskError;
pub use error::ReleaseError;
pub use tree::Tree;
