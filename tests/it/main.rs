//! Integration tests of the agent, as one program (one link instead of one a file).

mod accounts;
mod architecture;
mod bad_input;
mod both_sides;
mod canary;
mod clocks;
mod gate;
mod identity;
mod model;
mod releases_table;
mod sealing;
mod security_table;
mod service;
mod support;
mod torture;
mod verify;
