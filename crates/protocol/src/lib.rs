//! # What an agent and its controller say to each other
//!
//! Pure: no I/O, no clock, no random number generator; time and randomness are arguments.
//! `docs/protocol.md` is the specification; `vectors/*.json` hold it to the byte.
//!
//! Reading order: [`token`] (the one pasted string), [`envelope`] (how everything is signed),
//! [`certificate`] (whom the agent believes), [`enrolment`], [`chain`] and [`message`] (what
//! goes to and fro afterwards), [`directive`], [`identity`] (new keys, copies), [`sealing`] and [`connection`] (what proxies and
//! disks must not read), [`hardware`], [`metrics`], [`update`].

pub mod certificate;
pub mod chain;
pub mod connection;
pub mod directive;
pub mod encoding;
pub mod enrolment;
pub mod envelope;
pub mod hardware;
pub mod identity;
pub mod keys;
pub mod limits;
pub mod message;
pub mod metrics;
pub mod sealing;
pub mod token;
pub mod update;
