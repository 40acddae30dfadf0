//! `cargo xtask container rpm`: the life of the RPM packages, with rpm and dnf of Debian and a real
//! systemd.
//!
//! What the packages require of a distribution comes from one package that is made here and lists
//! every word of it, so a new requirement is noticed. A preset that enables nothing is in it too,
//! as on RHEL. All packages are signed with a key that is made here and thrown away.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Result, ensure};

use super::host::Host;
use super::life;
use super::machine::Machine;
use super::manager::{Shelf, Stock};
use super::packages::{self, Show};
use super::rootfs::Suite;
use crate::lab::story::Story;
use crate::package::Kind;

/// What only the real distributions can show.
const UNPROVABLE: &str = "not provable here: SELinux, and the systemd and glibc of RHEL";
/// What our packages may ask for. Versions of glibc's symbols are what `cargo xtask package` checks.
const BASE: [&str; 6] = [
    "/bin/sh",
    "systemd",
    "ld-linux",
    "libc.so.6",
    "libgcc_s.so.1",
    "libm.so.6",
];

/// The whole of it.
pub(super) fn run(stock: &Stock) -> Result<ExitCode> {
    let show = Show {
        kind: Kind::Rpm,
        suite: Suite::default(),
        prepare: PREPARE,
        unprovable: Some(UNPROVABLE),
    };
    packages::run(&show, stock, live)
}

fn live(lower: &Path, shelf: &Shelf, story: &Story) -> Result<String> {
    let mut host = Host::boot(Machine::new(lower)?, shelf)?;
    let refused = host.machine.run(&[
        "sh",
        "-c",
        "rpm --force-debian --install /srv/repository/vpn-node-agent-1.0.0*.rpm",
    ])?;
    ensure!(
        !refused.status.success(),
        "an RPM was installed without what it requires"
    );
    story.say(&format!(
        "the packages require nothing but {}",
        wanting(&host)?.join(", ")
    ));
    host.machine.must(&["sh", "-ec", PREPARE])?;
    host.machine.must(&["sh", "-ec", CHECKED])?;
    story.say("signed with a throw-away key: rpmkeys -K and dnf (gpgcheck=1) take them, and refuse a changed one");
    life::play(&mut host, story)
}

/// What the packages require, without the file's own and rpm's features.
fn wanting(host: &Host<'_>) -> Result<Vec<String>> {
    let ask = "rpm -qp --requires /srv/repository/*.rpm 2>/dev/null | sort -u";
    let all = host.machine.must(&["sh", "-c", ask])?;
    let mut wanted = Vec::new();
    for one in all.lines().filter(|one| !own(one)) {
        ensure!(
            BASE.iter().any(|known| one.starts_with(known)) || one.starts_with("rtld("),
            "the packages require {one}, which stands nowhere (xtask/src/container/rpm.rs)"
        );
        let name = one.split(['(', ' ']).next().unwrap_or_default();
        wanted.push(name.to_owned());
    }
    wanted.dedup();
    Ok(wanted)
}

/// What rpm itself brings, and what a package says of its own settings.
fn own(requirement: &str) -> bool {
    requirement.starts_with("rpmlib(") || requirement.starts_with("config(vpn-node-")
}

/// The base package, the key, the signatures and the repository.
const PREPARE: &str = r#"
cd /srv/repository
mkdir -p /root/build
{
    echo "Name: fake-base"; echo "Version: 1"; echo "Release: 1"; echo "Summary: a distribution"
    echo "License: none"; echo "BuildArch: noarch"
    rpm -qp --requires *.rpm 2>/dev/null | grep -v '^rpmlib(\|^config(vpn-node-' | sort -u | sed 's/^/Provides: /'
    printf '%%description
What a distribution has.
%%files
'
} > /root/build/base.spec
rpmbuild --quiet --define '_topdir /root/build' -bb /root/build/base.spec
cp /root/build/RPMS/noarch/*.rpm /srv/repository/
mkdir -p /usr/lib/systemd/system-preset
# What the package "filesystem" of Fedora and RHEL has.
mkdir -p /usr/share/licenses /usr/share/fish/vendor_completions.d /usr/share/zsh/site-functions
echo 'disable *' > /usr/lib/systemd/system-preset/99-default-disable.preset
gpg --batch --quiet --passphrase '' --quick-generate-key 'throw-away <test@localhost>' rsa2048 sign never
gpg --armor --export > key.asc
rpm --import key.asc
rpmsign --define '__gpg /usr/bin/gpg' --define '_gpg_name throw-away' --addsign *.rpm > /dev/null
rpm --force-debian --install fake-base*.rpm
createrepo_c --quiet .
mkdir -p /etc/yum.repos.d
printf '[ours]
name=ours
baseurl=file:///srv/repository
gpgcheck=1
gpgkey=file:///srv/repository/key.asc
' > /etc/yum.repos.d/ours.repo
"#;

/// Signatures hold, and not for a changed package.
const CHECKED: &str = r#"
cd /srv/repository
for file in *.rpm; do rpmkeys -K $file | grep -q 'digests signatures OK'; done
cp $(ls vpn-node-agent*.rpm | head -n 1) /tmp/changed.rpm
printf x | dd of=/tmp/changed.rpm bs=1 seek=100000 conv=notrunc 2> /dev/null
if rpmkeys -K /tmp/changed.rpm > /dev/null; then echo 'a changed package passes'; exit 1; fi
"#;
