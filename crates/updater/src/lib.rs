//! # vpn-node-updater
//!
//! The root helper of a host: verifies a release again from its own copy, installs it beside the
//! running one, tries it, keeps it or goes back. It has no network.
