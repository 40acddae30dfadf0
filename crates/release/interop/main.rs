//! `vpn-node-tuf-client`: the client of this crate under the command line that TUF conformance
//! suites drive. Built with the feature `interop` only, and part of no package: production has
//! neither its ECDSA and RSA nor its plain HTTP.
//!
//! ```text
//! vpn-node-tuf-client --metadata-dir D init ROOT
//! vpn-node-tuf-client --metadata-dir D --metadata-url U refresh
//! vpn-node-tuf-client --metadata-dir D --metadata-url U --target-name T [--target-name T2 ...]
//!                     --target-base-url B --target-dir O download
//! ```
//! Exit code 0 only if all of it succeeded, otherwise 1.

mod http;

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use vpn_node_release::metadata::name;
use vpn_node_release::trust::fetch::read_bounded;
use vpn_node_release::trust::{FileStore, Repository, TargetInfo, install_root};

type Error = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    match Arguments::read(std::env::args().skip(1)).and_then(|arguments| run(&arguments)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("vpn-node-tuf-client: {error}");
            ExitCode::FAILURE
        }
    }
}

#[derive(Default)]
struct Arguments {
    metadata_dir: Option<PathBuf>,
    metadata_url: Option<String>,
    target_names: Vec<String>,
    target_base_url: Option<String>,
    target_dir: Option<PathBuf>,
    words: Vec<String>,
}

impl Arguments {
    fn read(mut words: impl Iterator<Item = String>) -> Result<Self, Error> {
        let mut arguments = Self::default();
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or(format!("{word} needs a value"));
            match word.as_str() {
                "--metadata-dir" => arguments.metadata_dir = Some(value()?.into()),
                "--metadata-url" => arguments.metadata_url = Some(value()?),
                "--target-name" => arguments.target_names.push(value()?),
                "--target-base-url" => arguments.target_base_url = Some(value()?),
                "--target-dir" => arguments.target_dir = Some(value()?.into()),
                option if option.starts_with("--") => {
                    return Err(format!("unknown option {option}").into());
                }
                _ => arguments.words.push(word),
            }
        }
        Ok(arguments)
    }
}

fn run(arguments: &Arguments) -> Result<(), Error> {
    let dir = arguments
        .metadata_dir
        .as_deref()
        .ok_or("no --metadata-dir")?;
    let mut store = FileStore::open(dir)?;
    let words: Vec<&str> = arguments.words.iter().map(String::as_str).collect();
    match words[..] {
        ["init", root] => {
            let root = read_bounded(File::open(root)?, 1 << 20)?;
            install_root(&mut store, &root, false)?;
            Ok(())
        }
        ["refresh"] => refresh(arguments, store).map(|_| ()),
        ["download"] => download(arguments, store),
        _ => Err("one of these is needed: init ROOT, refresh, download".into()),
    }
}

fn refresh(
    arguments: &Arguments,
    store: FileStore,
) -> Result<(Repository<FileStore>, http::Http), Error> {
    let url = arguments.metadata_url.clone().ok_or("no --metadata-url")?;
    let mut http = http::Http {
        metadata: url,
        targets: arguments.target_base_url.clone().unwrap_or_default(),
    };
    let mut repository = Repository::open(store, now()?)?;
    repository.refresh(&mut http)?;
    Ok((repository, http))
}

fn download(arguments: &Arguments, store: FileStore) -> Result<(), Error> {
    let dir = arguments.target_dir.as_deref().ok_or("no --target-dir")?;
    if arguments.target_base_url.is_none() || arguments.target_names.is_empty() {
        return Err("download needs --target-base-url and --target-name".into());
    }
    let (mut repository, mut http) = refresh(arguments, store)?;
    for path in &arguments.target_names {
        let info = repository.target(&mut http, path)?;
        // One file per target, whatever its path is.
        let file = dir.join(name::percent_encode(path));
        if !is_there(&info, &file)? {
            let temp = dir.join(format!(".{}.tmp", name::percent_encode(path)));
            let done = info
                .download(&mut http, &mut File::create(&temp)?)
                .map_err(Error::from)
                .and_then(|()| Ok(std::fs::rename(&temp, &file)?));
            if done.is_err() {
                std::fs::remove_file(&temp)?;
            }
            done?;
        }
    }
    Ok(())
}

fn is_there(info: &TargetInfo, file: &std::path::Path) -> Result<bool, Error> {
    match File::open(file) {
        Ok(file) => Ok(info.check(file).is_ok()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error.into()),
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "this is the program's edge; suites change the clock with libfaketime"
)]
fn now() -> Result<Timestamp, Error> {
    let since: Duration = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    Ok(Timestamp::from_second(since.as_secs().try_into()?)?)
}
