//! A person's signature, and what it leads to.

use ed25519_dalek::SigningKey;
use jiff::Timestamp as Instant;

use super::error::ReleaseError;
use super::publish::{Outcome, advance_locked};
use super::stage::Stage;
use super::tree::Tree;

/// Adds the signatures of `keys` to what waits, and publishes what has all that it needs.
///
/// # Errors
/// [`ReleaseError::NothingStaged`], [`ReleaseError::NotASigner`], and those of
/// [`super::publish::advance`]; signatures that were added stay.
pub fn sign(tree: &Tree, keys: &[SigningKey], now: Instant) -> Result<Outcome, ReleaseError> {
    let lock = tree.lock()?;
    let published = tree.load_optional()?;
    let mut stage = Stage::load(tree)?;
    for key in keys {
        stage.sign(tree, published.as_ref(), key)?;
    }
    advance_locked(tree, &lock, None, now)
}
