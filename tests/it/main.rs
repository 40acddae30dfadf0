//! Integration tests of the agent, as one program (one link instead of one a file).

mod architecture;
mod bad_input;
mod both_sides;
mod support;
mod verify;
