//! The TUF client against repositories that lie. `docs/releases.md` has a row for each refusal.

mod delegations;
mod docs;
mod eras;
mod keys;
mod limits;
mod mixtures;
mod other_makers;
mod packages;
mod power;
mod roots;
mod signatures;
mod store;
mod targets;
mod wycheproof;

mod world;
