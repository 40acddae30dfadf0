//! The reducer under random observations: of backends that claim anything, and of daemons with real
//! clients, whose truth an oracle knows.

mod claims;
mod history;
mod oracle;
mod truth;
