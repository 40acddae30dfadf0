//! From one machine to another: one file, or a directory of the same layout (`metadata/`,
//! `targets/`). What comes in is copied first, then verified as a host would, and only then taken.

mod export;
mod import;

pub use export::{check_packages, export};
pub use import::{Imported, import};
