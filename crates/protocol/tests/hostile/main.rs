//! What a hostile sender can do to each kind of message: nothing that is believed.
//!
//! The corpus is `vectors/messages.json`, so that a new kind of message comes under attack with
//! its first example.

mod corpus;
mod flips;
mod mutants;
mod sealing;
mod token;
