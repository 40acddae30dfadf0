//! The files of a package that are made and not taken: man pages, completions, changelog,
//! copyright, licences, bill of materials. All are made in one folder.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use jiff::Timestamp;
use vpn_node_release::version::Version;

use super::assets::{Asset, Sort, asset};
use super::{Kind, Package, dependencies, paper, sbom};
use crate::shell;

const MAKE_WITHIN: Duration = Duration::from_secs(60);

/// Makes them in `folder` for `package`; `manuals` is the program that writes pages and completions.
pub(super) fn make(
    package: Package,
    manuals: &Path,
    folder: &Path,
    version: &Version,
) -> Result<Vec<Asset>> {
    let _ = fs::remove_dir_all(folder);
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let mut all = pages(package, manuals, folder, version)?;
    all.extend(papers(package, folder, version)?);
    Ok(all)
}

fn pages(package: Package, manuals: &Path, folder: &Path, version: &Version) -> Result<Vec<Asset>> {
    let mut write = Command::new(manuals);
    write.arg(folder).args(["--version", &version.to_string()]);
    write.args(["--date", &source_date()?.strftime("%Y-%m-%d").to_string()]);
    // Its last lines are to be the reason.
    write.env("RUST_BACKTRACE", "0");
    shell::succeed(write, None, MAKE_WITHIN)?;
    let folder = folder.join(match package {
        Package::Agent => "agent",
        Package::Controller => "controller",
    });
    let mut all = Vec::new();
    for page in files_in(&folder)? {
        let name = name_of(&page);
        let section = name.rsplit_once('.').map_or("", |(_, section)| section);
        let to = format!("/usr/share/man/man{section}/{name}.gz");
        all.push(asset(compressed(&page)?, to, Sort::Doc));
    }
    for (shell, to, only) in [
        ("bash", "/usr/share/bash-completion/completions", None),
        ("fish", "/usr/share/fish/vendor_completions.d", None),
        ("zsh", "/usr/share/zsh/vendor-completions", Some(Kind::Deb)),
        ("zsh", "/usr/share/zsh/site-functions", Some(Kind::Rpm)),
    ] {
        for file in files_in(&folder.join(shell))? {
            let to = format!("{to}/{}", name_of(&file));
            all.push(Asset {
                only,
                ..asset(file, to, Sort::Plain)
            });
        }
    }
    Ok(all)
}

fn papers(package: Package, folder: &Path, version: &Version) -> Result<Vec<Asset>> {
    let name = package.name();
    let doc = package.documents();
    let linked = dependencies::of(package.crates())?;
    let write = |file: &str, text: String| {
        let file = folder.join(file);
        fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
        Ok::<_, anyhow::Error>(file)
    };
    let markdown = shell::repository().join("CHANGELOG.md");
    let markdown = fs::read_to_string(&markdown)
        .with_context(|| format!("cannot read {}", markdown.display()))?;
    let upstream = compressed(&write("changelog", markdown.clone())?)?;
    let changelog = paper::changelog(&markdown, name, version, source_date()?)?;
    let changelog = compressed(&write("changelog.Debian", changelog)?)?;
    let copyright = write("copyright", paper::copyright(name, &linked)?)?;
    let licenses = write("third-party-licenses", paper::licenses(&linked)?)?;
    let bill = sbom::cyclonedx(name, &version.to_string(), &linked);
    let bill = write("sbom.cdx.json", bill)?;
    let licenses = compressed(&licenses)?;
    let overrides = package.folder().join("lintian-overrides");
    let deb = |asset: Asset| Asset {
        only: Some(Kind::Deb),
        ..asset
    };
    // Fedora's place for them; what lies with the documents may be left out at installation.
    let rpm = |file: PathBuf| {
        let to = format!("/usr/share/licenses/{name}/{}", name_of(&file));
        Asset {
            only: Some(Kind::Rpm),
            ..asset(file, to, Sort::Plain)
        }
    };
    Ok(vec![
        asset(upstream, format!("{doc}/changelog.gz"), Sort::Doc),
        deb(asset(
            changelog,
            format!("{doc}/changelog.Debian.gz"),
            Sort::Doc,
        )),
        deb(asset(copyright, format!("{doc}/copyright"), Sort::Plain)),
        deb(asset(
            overrides,
            format!("/usr/share/lintian/overrides/{name}"),
            Sort::Plain,
        )),
        deb(asset(
            licenses.clone(),
            format!("{doc}/third-party-licenses.gz"),
            Sort::Plain,
        )),
        asset(bill, format!("{doc}/sbom.cdx.json"), Sort::Doc),
        rpm(licenses),
        rpm(shell::repository().join("LICENSE-APACHE")),
        rpm(shell::repository().join("LICENSE-MIT")),
    ])
}

/// The time of everything in a package: what the environment says
/// (<https://reproducible-builds.org/specs/source-date-epoch/>), else that of the last commit, else,
/// without git, that of Cargo.lock.
pub(super) fn source_date() -> Result<Timestamp> {
    let seconds = match std::env::var("SOURCE_DATE_EPOCH") {
        Ok(text) => text
            .parse()
            .with_context(|| format!("SOURCE_DATE_EPOCH is {text:?}, not a number of seconds"))?,
        Err(_) => match of_last_commit() {
            Some(seconds) => seconds,
            None => {
                let lock = fs::metadata(shell::repository().join("Cargo.lock"))?;
                std::os::unix::fs::MetadataExt::mtime(&lock)
            }
        },
    };
    Ok(Timestamp::from_second(seconds)?)
}

fn of_last_commit() -> Option<i64> {
    let mut git = Command::new("git");
    git.current_dir(shell::repository());
    git.args(["log", "-1", "--format=%ct"]);
    let output = shell::succeed(git, None, MAKE_WITHIN).ok()?;
    output.stdout.trim().parse().ok()
}

/// The file as gzip, without name and time of the original.
fn compressed(file: &Path) -> Result<PathBuf> {
    let mut gzip = Command::new("gzip");
    gzip.args(["--best", "--no-name", "--force"]).arg(file);
    shell::succeed(gzip, None, MAKE_WITHIN)?;
    Ok(file.with_file_name(format!("{}.gz", name_of(file))))
}

fn files_in(folder: &Path) -> Result<Vec<PathBuf>> {
    let listed =
        fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    let mut files: Vec<PathBuf> = listed
        .map(|entry| Ok(entry?.path()))
        .collect::<std::io::Result<_>>()?;
    files.retain(|path| path.is_file());
    files.sort();
    Ok(files)
}

fn name_of(file: &Path) -> String {
    let name = file.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}
