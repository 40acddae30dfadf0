//! The reducer under random observations: of backends that claim anything, and of daemons with real
//! clients, whose truth an oracle knows.

mod claims;
mod oracle;
mod truth;
