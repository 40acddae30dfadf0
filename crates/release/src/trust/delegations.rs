//! Step 5.6.7: who may speak about a target, asked in pre-order, depth first.

use std::collections::BTreeSet;
use std::rc::Rc;

use super::client::Repository;
use super::fetch::Fetch;
use super::store::Store;
use super::target::TargetInfo;
use crate::code::MetadataCode;
use crate::limits::MAX_DELEGATIONS_VISITED;
use crate::metadata::{DelegatedRole, Delegations, Rejection, Targets, name};

/// A delegated role that is still to be asked, with those who say what its keys are.
struct Visit {
    role: DelegatedRole,
    delegator: Rc<Delegations>,
}

impl<S: Store> Repository<S> {
    pub(super) fn search(
        &mut self,
        fetch: &mut dyn Fetch,
        path: &str,
    ) -> Result<TargetInfo, Rejection> {
        let what = format!("target \"{}\"", path.escape_debug());
        if !name::is_target_path(path) {
            return Err(Rejection::new(
                MetadataCode::BadName,
                &what,
                "this is not a relative path without \".\", \"..\" and empty parts",
            ));
        }
        let consistent = self.root.consistent_snapshot;
        let Some(top) = self.targets.clone() else {
            return Err(Rejection::new(
                MetadataCode::Missing,
                &what,
                "the repository must be refreshed before a target is looked up",
            ));
        };
        // 5.6.7: beginning with the top-level targets role.
        if let Some(file) = top.targets.get(path) {
            return TargetInfo::new(path, file, "targets", consistent);
        }
        let mut waiting = Vec::new();
        push_delegations(&mut waiting, top, path);
        let mut visited = BTreeSet::new();
        while let Some(Visit { role, delegator }) = waiting.pop() {
            // 5.6.7.1: "If this role has been visited before, then skip this role".
            if visited.contains(&role.name) {
                continue;
            }
            // 5.6.7.1: "if an application-specific maximum number of roles have been visited".
            if visited.len() == MAX_DELEGATIONS_VISITED {
                return Err(Rejection::new(
                    MetadataCode::TargetUnknown,
                    &what,
                    format_args!("not found in the first {MAX_DELEGATIONS_VISITED} delegations"),
                ));
            }
            // A role that cannot be fetched or verified ends the search: what comes after it is
            // trusted less. It is verified with the keys of this delegator (5.6.3), whoever led to
            // it before.
            let signers = delegator.signers(&role);
            let targets = self.targets_of(fetch, &role.name, &signers)?;
            if let Some(file) = targets.targets.get(path) {
                return TargetInfo::new(path, file, &role.name, consistent);
            }
            visited.insert(role.name);
            push_delegations(&mut waiting, targets, path);
        }
        // 5.7.2: "report that there is no such target".
        Err(Rejection::new(
            MetadataCode::TargetUnknown,
            &what,
            "no role that may speak about it has signed it",
        ))
    }
}

/// 5.6.7.2: the delegations of one role, so that the first is asked first. A terminating one that
/// speaks for the path is the last that is asked, here (5.6.7.2.1) and in everything that waits.
fn push_delegations(waiting: &mut Vec<Visit>, targets: Targets, path: &str) {
    let delegator = Rc::new(targets.delegations.unwrap_or_default());
    let mut children = Vec::new();
    // 4.5: "Clients MUST check that a target is in one of the trusted paths of all roles in a
    // delegation chain": only those that match are followed, at every level.
    for role in delegator.roles.iter().filter(|role| role.speaks_for(path)) {
        children.push(Visit {
            role: role.clone(),
            delegator: Rc::clone(&delegator),
        });
        if role.terminating {
            waiting.clear();
            break;
        }
    }
    waiting.extend(children.into_iter().rev());
}
