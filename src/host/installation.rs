//! Where this program runs from: a slot of the updater, what the package installed, or elsewhere.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use serde::Deserialize;
use vpn_node_release::version::Version;

use super::atomic;

/// Longest manifest that is looked at: it names each file of a package.
const MAX_MANIFEST_BYTES: usize = 1024 * 1024;
/// The slot of the deb or rpm.
const SYSTEM: &str = "system";

/// Where a program runs from, and what it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installation {
    /// The version of the release, as its manifest has it; else the one that was compiled in.
    pub version: String,
    /// The slot: a version, or `system`; none if it was started from elsewhere.
    pub running_from: Option<String>,
    /// Where its sister programs lie.
    pub programs: Option<PathBuf>,
}

/// The installation of the running program.
pub fn here() -> &'static Installation {
    static HERE: LazyLock<Installation> = LazyLock::new(|| {
        // Links are followed by the kernel: this names the slot, not `stable`.
        match std::env::current_exe() {
            Ok(program) => Installation::of(&program),
            Err(_) => Installation::elsewhere(),
        }
    });
    &HERE
}

/// For `--version`: the compiled version, and the release's if that is another.
pub fn version_line() -> &'static str {
    static LINE: LazyLock<String> = LazyLock::new(|| here().version_line());
    &LINE
}

impl Installation {
    fn elsewhere() -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            running_from: None,
            programs: None,
        }
    }

    fn of(program: &Path) -> Self {
        let Some(bin) = program.parent() else {
            return Self::elsewhere();
        };
        let elsewhere = Self {
            programs: Some(bin.to_owned()),
            ..Self::elsewhere()
        };
        let slot = bin.parent().filter(|_| bin.ends_with("bin"));
        let Some((slot, version)) = slot.and_then(|slot| Some((slot, manifest(slot)?))) else {
            return elsewhere;
        };
        let name = slot.file_name().and_then(|name| name.to_str());
        let is_version = slot
            .parent()
            .is_some_and(|above| above.ends_with("versions"));
        Self {
            version: version.to_string(),
            running_from: name
                .filter(|name| *name == SYSTEM || is_version && Version::parse(name).is_ok())
                .map(str::to_owned),
            ..elsewhere
        }
    }

    fn version_line(&self) -> String {
        let compiled = env!("CARGO_PKG_VERSION");
        match self.version == compiled {
            true => compiled.to_owned(),
            false => format!("{} (program {compiled})", self.version),
        }
    }
}

fn manifest(slot: &Path) -> Option<Version> {
    #[derive(Deserialize)]
    struct Manifest {
        version: Version,
    }
    let bytes = atomic::read_bounded(&slot.join("manifest.json"), MAX_MANIFEST_BYTES).ok()?;
    let manifest: Manifest = serde_json::from_slice(&bytes).ok()?;
    Some(manifest.version)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn installed(slot: &str, manifest: Option<&str>) -> Installation {
        let root = tempfile::tempdir().unwrap();
        let slot = root.path().join(slot);
        fs::create_dir_all(slot.join("bin")).unwrap();
        if let Some(manifest) = manifest {
            fs::write(slot.join("manifest.json"), manifest).unwrap();
        }
        let mut found = Installation::of(&slot.join("bin/vpn-node-agent"));
        assert!(found.programs.take().unwrap().ends_with("bin"));
        found
    }

    #[test]
    fn the_version_of_a_slot_is_its_manifests() {
        let found = installed(
            "opt/versions/9.8.7",
            Some(r#"{"format":1,"version":"9.8.7"}"#),
        );
        assert_eq!(found.version, "9.8.7");
        assert_eq!(found.running_from.as_deref(), Some("9.8.7"));
        let line = found.version_line();
        assert!(line.contains("9.8.7 (program ") && line.contains(env!("CARGO_PKG_VERSION")));
        let found = installed("opt/system", Some(r#"{"version":"9.8.6"}"#));
        assert_eq!(found.running_from.as_deref(), Some("system"));
    }

    #[test]
    fn without_a_manifest_that_can_be_read_it_is_the_compiled_one_from_nowhere() {
        for manifest in [
            None,
            Some("{}"),
            Some(r#"{"version":"../x"}"#),
            Some("garbage"),
        ] {
            let found = installed("opt/versions/9.8.7", manifest);
            assert_eq!(
                found,
                Installation {
                    programs: None,
                    ..Installation::elsewhere()
                }
            );
            assert_eq!(found.version_line(), env!("CARGO_PKG_VERSION"));
        }
        assert_eq!(
            installed("usr", Some(r#"{"version":"1.0.0"}"#)).running_from,
            None
        );
    }
}
