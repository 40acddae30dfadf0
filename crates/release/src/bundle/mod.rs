//! The package of a release: a tar archive of programs and data in one zstd frame, with a manifest
//! as its first entry.
//!
//! There is one writer of packages ([`pack`]) and one reader, and the reader takes exactly what the
//! writer writes. Archives that other tools understand in different ways do not get through.
//! Nothing is unpacked but a [`Verified`] package, and nothing is written that its manifest does
//! not name with size and hash.

mod dir_sink;
mod error;
mod frame;
pub(crate) mod header;
mod limits;
mod manifest;
mod pack;
mod path;
#[cfg(test)]
mod tests;
mod tree;
mod unpack;
mod verified;

pub use dir_sink::DirSink;
pub use error::BundleError;
pub use limits::Limits;
pub use manifest::{MANIFEST, Manifest, ManifestFile};
pub use pack::{About, Content, Effort, Entry, PackError, pack};
pub use path::{EntryPath, Mode};
pub use tree::{TREE_MARK, TreeDigest, check_tree, tree_digest};
pub use unpack::{Sink, Unpacked, inspect, unpack};
pub use verified::{Signed, Verified};
