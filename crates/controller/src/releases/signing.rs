//! A person's signature, and what it leads to.

use ed25519_dalek::SigningKey;
use jiff::Timestamp as Instant;

use super::error::{ReleaseError, refused};
use super::publish::{Outcome, advance_locked};
use super::stage::Stage;
use super::tree::Tree;

/// Adds the signatures of `keys` to what waits, and publishes what has all that it needs. `shown` is
/// what their owners were shown: nothing else is signed.
///
/// # Errors
/// [`ReleaseError::NothingStaged`], [`ReleaseError::NotASigner`], and those of
/// [`super::publish::advance`]; signatures that were added stay.
pub fn sign(
    tree: &Tree,
    shown: &Stage,
    keys: &[SigningKey],
    now: Instant,
) -> Result<Outcome, ReleaseError> {
    let lock = tree.lock()?;
    let published = tree.load_optional()?;
    let mut stage = Stage::load(tree)?;
    if !stage.says_the_same(shown) {
        return refused(
            "what waits has changed since it was shown: nothing was signed; look at it again with 'release show'",
        );
    }
    for key in keys {
        stage.sign(tree, published.as_ref(), key)?;
    }
    advance_locked(tree, &lock, None, now)
}
