//! temporary
pub mod disk;
pub mod key_file;
pub mod passphrase;
