//! Who sees how much. The decision is pure; the group's members are looked up once, at start.

use std::fs::File;
use std::io::Read;

use nix::unistd::geteuid;
use serde::{Deserialize, Serialize};

/// Members of this group see the full report.
pub const GROUP: &str = "vpn-node";

/// Members of the group that are remembered: operators and monitors, a handful.
const MAX_MEMBERS: usize = 256;

/// Bytes of /etc/group or /etc/passwd that are read: ten thousand users.
const MAX_DATABASE: u64 = 1024 * 1024;

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
    /// Only /etc/group and /etc/passwd count: asking a network directory could hang, and loads
    /// libraries that a small daemon does not want.
    #[must_use]
    pub fn of_this_host() -> Self {
        let groups = read_database("/etc/group");
        let users = read_database("/etc/passwd");
        let (gid, members) = group_members(&groups, &users);
        Self::new(geteuid().as_raw(), gid, members)
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

    /// Whether this peer may have the agent do something: root and the agent's own user, who could
    /// do it to the files as well. The group only looks.
    #[must_use]
    pub fn may_act(&self, peer: Peer) -> bool {
        peer.uid == 0 || peer.uid == self.own_uid
    }
}

/// The file's text; nothing when it is missing or too large to be one.
fn read_database(path: &str) -> String {
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(MAX_DATABASE).read_to_string(&mut text));
    if read.is_err() {
        text.clear();
    }
    text
}

/// The id of [`GROUP`] and the ids of its members (group(5), passwd(5)).
fn group_members(groups: &str, users: &str) -> (Option<u32>, Vec<u32>) {
    let Some(line) = entry(groups, GROUP) else {
        return (None, Vec::new());
    };
    let mut fields = line.split(':').skip(2);
    let gid = fields.next().and_then(|id| id.parse().ok());
    let names = fields.next().unwrap_or_default().split(',');
    let uid = |name: &str| entry(users, name)?.split(':').nth(2)?.parse().ok();
    (gid, names.take(MAX_MEMBERS).filter_map(uid).collect())
}

/// The line of `name`.
fn entry<'a>(database: &'a str, name: &str) -> Option<&'a str> {
    let named = |line: &&str| line.split(':').next() == Some(name);
    database
        .lines()
        .find(|line| !name.is_empty() && named(line))
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
    fn only_root_and_the_agents_own_user_may_act() {
        let policy = Policy::new(990, Some(980), vec![1000]);
        let may_act = |uid, gid| policy.may_act(Peer { uid, gid });
        assert!(may_act(0, 0) && may_act(990, 980));
        assert!(!may_act(1000, 980) && !may_act(5, 980) && !may_act(65534, 0));
    }

    #[test]
    fn without_the_group_nobody_is_in_it() {
        let policy = Policy::new(990, None, Vec::new());
        let peer = Peer { uid: 1, gid: 980 };
        assert_eq!(policy.scope(peer), Scope::Public);
    }

    #[test]
    fn the_group_and_its_members_are_found_in_the_files() {
        let groups = "root:x:0:\nvpn-node-x:x:7:eve\nvpn-node:x:990:ann,nobody-here,bob\n";
        let users = "root:x:0:0::/:/bin/sh\nann:x:1000:1000::/:/bin/sh\nbob:x:1001:1001::/:/x\n";
        assert_eq!(group_members(groups, users), (Some(990), vec![1000, 1001]));
        assert_eq!(
            group_members("vpn-node:x:990:\n", users),
            (Some(990), vec![])
        );
        assert_eq!(group_members("staff:x:50:ann\n", users), (None, vec![]));
        assert_eq!(group_members("vpn-node:x:many\n", users), (None, vec![]));
    }
}
