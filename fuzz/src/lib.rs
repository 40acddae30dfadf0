//! Properties that must hold for any bytes: one function a fuzz target.

pub mod release;
pub mod updater;
