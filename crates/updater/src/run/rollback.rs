//! Back to the version before, because root says so.

use vpn_node_release::code::{PolicyCode, UpdaterCode};

use super::Outcome;
use crate::clock::new_id;
use crate::error::{Kind, UpdateError, at};
use crate::host::Host;
use crate::journal::{Journal, Origin, Phase, Slot};
use crate::layout::Layout;
use crate::recovery::apply::{to_rest, write};
use crate::slots::{self, Links};
use crate::{preflight, snapshot, verify};

/// Makes `previous` the stable version and starts it. There is no trial: it ran here before.
///
/// # Errors
/// There is none, it is damaged, it is below the security floor, or it cannot read the state.
pub fn rollback(host: &mut Host<'_>) -> Result<Outcome, UpdateError> {
    to_rest(host)?;
    preflight::check_package_managers(host.layout)?;
    let from = verify::stable(host.layout)?;
    let to = target(host.layout)?;
    slots::check(host.layout, &to)?;
    let Some(manifest) = slots::manifest(host.layout, &to) else {
        return Err(no_previous(&format!(
            "{to} has no manifest that can be read"
        )));
    };
    let trusted = verify::open(host.layout, host.disk, host.clock.now(), true);
    match trusted {
        Ok(trusted) => verify::above_floor(&trusted, &host.config.channel, &manifest.version)?,
        // A host that never trusted anybody has no floor. Anything else fails closed.
        Err(error) if error.code == "no_trust" => {}
        Err(error) => return Err(error),
    }
    let from_version = slots::manifest(host.layout, &from).map(|manifest| manifest.version);
    let format = snapshot::state_format(host.layout)?;
    if !manifest.state_format.reads(format) {
        let reopened = match &from_version {
            Some(version) => snapshot::reopen(host.layout, host.disk, version)?,
            None => false,
        };
        if !reopened {
            return Err(UpdateError::of(
                Kind::Refused,
                PolicyCode::StateUnreadable.as_str(),
                format!(
                    "version {} cannot read state of format {format}, and no snapshot from before \
                     was kept",
                    manifest.version
                ),
            ));
        }
    }
    let attempt = new_id().map_err(at("read", "/proc/sys/kernel/random/uuid".as_ref()))?;
    let journal = Journal {
        // Decided already: the recovery goes forward from here.
        phase: Phase::Committing,
        ..Journal::begin(
            attempt,
            Origin::Rollback,
            (from, from_version),
            (to, manifest.version.clone()),
            host.clock.boot_id(),
            host.clock.now().wall_ms,
        )
    };
    write(host, &journal)?;
    to_rest(host)?;
    Ok(Outcome::Installed {
        version: manifest.version,
        remark: None,
    })
}

/// What a rollback would lead to.
///
/// # Errors
/// `no_previous`.
pub fn target(layout: &Layout) -> Result<Slot, UpdateError> {
    let links = Links::read(layout);
    let Some(slot) = links.previous.slot() else {
        return Err(no_previous("nothing was installed over it yet"));
    };
    if links.stable.slot() == Some(slot) {
        return Err(no_previous("the previous version is the one that runs"));
    }
    if !slots::is_whole(layout, slot) {
        return Err(no_previous(&format!(
            "version {slot} is not there any more"
        )));
    }
    Ok(slot.clone())
}

fn no_previous(why: &str) -> UpdateError {
    UpdateError::failed(
        UpdaterCode::NoPrevious,
        format!("there is no version to go back to: {why}"),
    )
}
