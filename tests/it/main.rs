//! Integration tests of the agent, as one program (one link instead of one a file).

mod architecture;
mod both_sides;
mod support;
