//! # Signed releases
//!
//! What decides that a package may be installed: The Update Framework's metadata and client
//! workflow (specification 1.0.34), the package format, and which release may follow which.
//! The agent, the updater and the controller share it.
//!
//! Reading order: [`code`] (why something is refused), [`limits`], [`json`], [`metadata`] (what the
//! roles say), [`trust`] (from a root to a package that may be used), [`author`] (making and
//! signing metadata), [`version`] and [`release`] (what is signed about a release), [`policy`]
//! (which release may follow which), [`copy`] and [`bundle`] (the package: copied, verified,
//! unpacked), [`offline`] (a release in one file), [`handover`] (what the agent and the updater say
//! to each other).

pub mod author;
pub mod bundle;
pub mod code;
pub mod copy;
pub mod digest;
pub mod handover;
pub mod json;
pub mod limits;
pub mod metadata;
pub mod offline;
pub mod policy;
pub mod release;
pub mod trust;
pub mod version;
