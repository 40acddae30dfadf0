//! Runs `vectors/*.json`: what a second implementation of the protocol must compute too.
//!
//! Each test builds its file again from the fixed keys of [`support`] and compares it with the
//! file in the repository, then reads the file the way a stranger would and recomputes every
//! value from what stands there. `VPN_NODE_WRITE_VECTORS=1` writes the files instead of
//! comparing; `hpke.json` holds published numbers and is never written.

mod certificate;
mod chain;
mod documented;
mod dsse;
mod enrolment;
mod examples;
mod hpke_rfc9180;
mod messages;
mod sealing;
mod stamps;
mod support;
mod token;
