//! Packages as they must be, and every way in which one must not be.

mod archives;
mod forge;
mod frames;
mod manifests;
mod mutations;
mod round_trip;
mod signatures;
