//! What starts the Debian of an image: its kernel, unpacked, and an initrd of a few kilobytes that
//! mounts the disk and goes on in it. Both are made from the image's own tree.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::shell;

const STEP_WITHIN: Duration = Duration::from_secs(300);

/// Finds the disk whose serial number is "root", whatever other disks there are, and goes on in it.
pub(super) const INIT: &str = r#"#!/bin/busybox sh
B=/bin/busybox
$B mount -t devtmpfs dev /dev
$B mount -t proc proc /proc
$B mount -t sysfs sys /sys
for module in /m/*; do $B insmod "$module"; done
root=
while [ -z "$root" ]; do
    for disk in /sys/block/*; do
        [ "$($B cat "$disk/serial" 2>/dev/null)" = root ] && root=/dev/${disk##*/}
    done
    [ -n "$root" ] || $B usleep 10000
done
$B mount -t ext4 -o rw "$root" /r || { echo "the root disk cannot be mounted"; $B poweroff -f; }
$B mount --move /dev /r/dev
$B umount /sys /proc
exec $B switch_root /r /sbin/init
"#;

/// The ELF file in a compressed kernel (Documentation/arch/x86/boot.rst: `setup_sects`,
/// `payload_offset`, `payload_length`).
pub(super) fn extract_kernel(tree: &Path, to: &Path) -> Result<()> {
    let from = only(&tree.join("boot"), "vmlinuz-")?;
    let kernel = fs::read(&from).with_context(|| format!("cannot read {}", from.display()))?;
    let payload = payload(&kernel).with_context(|| format!("{} is no kernel", from.display()))?;
    let program = match payload {
        [0xfd, b'7', b'z', ..] => "xz",
        [0x28, 0xb5, 0x2f, 0xfd, ..] => "zstd",
        [0x02, 0x21, 0x4c, 0x18, ..] => "lz4",
        _ => bail!("{} is compressed in an unknown way", from.display()),
    };
    let packed = to.with_extension("packed");
    fs::write(&packed, payload).context("cannot write the packed kernel")?;
    let mut unpack = Command::new("sh");
    // The length of the kernel follows the stream, which the programs call garbage.
    unpack.args([
        "-c",
        "\"$1\" -dc < \"$2\" > \"$3\" 2>/dev/null; true",
        "sh",
        program,
    ]);
    unpack.args([&packed, to]);
    shell::succeed(unpack, None, STEP_WITHIN)?;
    fs::remove_file(&packed).context("cannot remove the packed kernel")?;
    let unpacked = fs::read(to).context("cannot read the unpacked kernel")?;
    ensure!(
        unpacked.starts_with(b"\x7fELF"),
        "{} was not unpacked to an ELF file",
        from.display()
    );
    Ok(())
}

fn payload(kernel: &[u8]) -> Option<&[u8]> {
    let word = |at: usize| {
        let bytes: [u8; 4] = kernel.get(at..at + 4)?.try_into().ok()?;
        usize::try_from(u32::from_le_bytes(bytes)).ok()
    };
    let sectors = match *kernel.get(0x1f1)? {
        0 => 4,
        sectors => usize::from(sectors),
    };
    let begin = (sectors + 1) * 512 + word(0x248)?;
    kernel.get(begin..begin + word(0x24c)?)
}

/// Busybox, the modules that a virtual disk needs, and [`INIT`].
pub(super) fn pack_initrd(tree: &Path, work: &Path) -> Result<()> {
    let folder = work.join("initrd.d");
    for name in ["bin", "m", "proc", "sys", "dev", "r"] {
        fs::create_dir_all(folder.join(name)).context("cannot make a folder of the initrd")?;
    }
    fs::copy(tree.join("bin/busybox"), folder.join("bin/busybox")).context("no busybox")?;
    let init = folder.join("init");
    fs::write(&init, INIT)
        .and_then(|()| fs::set_permissions(&init, fs::Permissions::from_mode(0o755)))
        .context("cannot write the first program")?;

    let version = only(&tree.join("lib/modules"), "")?;
    let version = version.file_name().unwrap_or_default().to_owned();
    let mut modules: Vec<String> = Vec::new();
    for module in ["virtio_pci", "virtio_blk", "ext4"] {
        let mut command = Command::new("chroot");
        command.arg(tree).args(["modprobe", "-S"]).arg(&version);
        command.args(["--show-depends", module]);
        for line in shell::succeed(command, None, STEP_WITHIN)?.stdout.lines() {
            let path = line
                .strip_prefix("insmod /")
                .map(|path| path.trim().to_owned());
            modules.extend(path.filter(|path| !modules.contains(path)));
        }
    }
    for (number, module) in modules.iter().enumerate() {
        let name = module.rsplit('/').next().unwrap_or(module);
        ensure!(
            name.ends_with(".ko"),
            "{module} is compressed, which busybox cannot read"
        );
        fs::copy(
            tree.join(module),
            folder.join(format!("m/{number:02}-{name}")),
        )
        .with_context(|| format!("cannot copy {module}"))?;
    }
    let mut pack = Command::new("sh");
    pack.args([
        "-c",
        "cd \"$1\" && find . | cpio --quiet -o -H newc -R 0:0 > ../initrd",
        "sh",
    ]);
    pack.arg(&folder);
    shell::succeed(pack, None, STEP_WITHIN)?;
    fs::remove_dir_all(&folder).context("cannot remove the folder of the initrd")
}

/// The only entry of `folder` whose name begins so.
fn only(folder: &Path, beginning: &str) -> Result<PathBuf> {
    let entries =
        fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    let mut found: Vec<PathBuf> = entries
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(beginning))
        .map(|entry| entry.path())
        .collect();
    ensure!(
        found.len() == 1,
        "{} has {} entries {beginning}…, not one",
        folder.display(),
        found.len()
    );
    Ok(found.remove(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_payload_lies_where_the_boot_protocol_says() {
        let mut kernel = vec![0; 4096];
        kernel[0x1f1] = 1;
        kernel[0x248..0x24c].copy_from_slice(&8_u32.to_le_bytes());
        kernel[0x24c..0x250].copy_from_slice(&4_u32.to_le_bytes());
        kernel[1024 + 8..1024 + 12].copy_from_slice(b"ELF!");
        assert_eq!(payload(&kernel), Some(&b"ELF!"[..]));
        assert_eq!(payload(&kernel[..1030]), None);
    }
}
