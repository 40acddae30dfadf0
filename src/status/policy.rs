//! Who sees how much. The decision is pure; the group's members are looked up once, at start.

use nix::unistd::{Group, User, geteuid};
use serde::{Deserialize, Serialize};

/// Members of this group see the full report.
pub const GROUP: &str = "vpn-node";

/// Members of the group that are remembered: operators and monitors, a handful.
const MAX_MEMBERS: usize = 256;

/// Who is at the other end, as the kernel recorded it when it connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its effective user.
    pub uid: u32,
    /// Its effective (primary) group.
    pub gid: u32,
}

/// How much a peer may see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// The report and the connections.
    Full,
    /// [`PublicSummary`](crate::core::report::PublicSummary) only.
    Public,
}

/// Who sees the full report besides root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    own_uid: u32,
    allowed_gid: Option<u32>,
    members: Vec<u32>,
}

impl Policy {
    /// `own_uid`: the user the agent runs as; `allowed_gid`: the group that may see everything;
    /// `members`: users who have that group as a supplementary one, which the kernel does not tell.
    #[must_use]
    pub fn new(own_uid: u32, allowed_gid: Option<u32>, members: Vec<u32>) -> Self {
        Self {
            own_uid,
            allowed_gid,
            members,
        }
    }

    /// The policy of this host: own user and the group [`GROUP`], if there is one.
    ///
    /// The members are taken as they are now: somebody who is added to the group later is seen
    /// after a restart of the agent (as a login session sees new groups only after a new login).
    /// A lookup per question could hang on a network directory and would let anybody cause it.
    #[must_use]
    pub fn of_this_host() -> Self {
        let group = Group::from_name(GROUP).ok().flatten();
        let members = group.iter().flat_map(|group| &group.mem);
        let uids = members
            .take(MAX_MEMBERS)
            .filter_map(|name| User::from_name(name).ok().flatten())
            .map(|user| user.uid.as_raw())
            .collect();
        Self::new(
            geteuid().as_raw(),
            group.map(|group| group.gid.as_raw()),
            uids,
        )
    }

    /// What this peer may see.
    #[must_use]
    pub fn scope(&self, peer: Peer) -> Scope {
        let full = peer.uid == 0
            || peer.uid == self.own_uid
            || self.allowed_gid == Some(peer.gid)
            || self.members.contains(&peer.uid);
        if full { Scope::Full } else { Scope::Public }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_self_and_the_group_see_everything_others_do_not() {
        let policy = Policy::new(990, Some(980), vec![1000]);
        let scope = |uid, gid| policy.scope(Peer { uid, gid });
        assert_eq!(scope(0, 0), Scope::Full);
        assert_eq!(scope(990, 1), Scope::Full);
        assert_eq!(scope(5, 980), Scope::Full);
        assert_eq!(scope(1000, 1000), Scope::Full);
        assert_eq!(scope(1001, 1000), Scope::Public);
        assert_eq!(scope(65534, 65534), Scope::Public);
        // A group of root is no privilege: uid 0 is.
        assert_eq!(scope(1001, 0), Scope::Public);
    }

    #[test]
    fn without_the_group_nobody_is_in_it() {
        let policy = Policy::new(990, None, Vec::new());
        let peer = Peer { uid: 1, gid: 980 };
        assert_eq!(policy.scope(peer), Scope::Public);
    }
}
