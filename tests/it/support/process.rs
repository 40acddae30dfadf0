//! The controller as a process of its own, as installed: init, serve, tokens by its commands.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tokio::runtime::Runtime;
use zeroize::Zeroizing;

use super::proxy::Proxy;

/// The program, beside those of the agent. It is of another package: a run of this package's
/// tests alone may not have built it.
pub(crate) fn program() -> Option<PathBuf> {
    let program = Path::new(env!("CARGO_BIN_EXE_vpn-node")).with_file_name("vpn-node-controller");
    program.exists().then_some(program)
}

/// The process, and the proxy before it.
pub(crate) struct ControllerProcess {
    program: PathBuf,
    child: Child,
    runtime: Runtime,
    proxy: Proxy,
    dir: tempfile::TempDir,
}

impl ControllerProcess {
    /// Sets one up and serves.
    pub(crate) fn start(program: PathBuf) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let runtime = Runtime::new().unwrap();
        let proxy = runtime.block_on(Proxy::bind());
        let data = dir.path().join("data");
        let log = fs::File::create(dir.path().join("controller.log")).unwrap();
        let run = |args: &[&str]| {
            let mut command = Command::new(&program);
            command.arg("--data-dir").arg(&data).args(args);
            command.current_dir(dir.path()).stdin(Stdio::null());
            command
        };
        let url = proxy.url();
        let init = run(&["init", "--url", &url, "--listen", "127.0.0.1:0"]).output();
        let init = init.unwrap();
        assert!(init.status.success(), "{init:?}");
        let settings = data.join("controller.toml");
        let text = fs::read_to_string(&settings).unwrap();
        let quick = text.replace("heartbeat_interval_s = 30", "heartbeat_interval_s = 1");
        assert_ne!(quick, text);
        fs::write(&settings, quick).unwrap();
        let mut child = run(&["serve"])
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut line = String::new();
        let output = child.stdout.take().unwrap();
        BufReader::new(output).read_line(&mut line).unwrap();
        let address: SocketAddr = line
            .trim()
            .strip_prefix("listening on https://")
            .unwrap_or_else(|| panic!("{line:?}"))
            .parse()
            .unwrap();
        let [certificate, key] = ["tls.pem", "keys/tls.key"].map(|name| data.join(name));
        runtime.block_on(async { proxy.serve(&certificate, &key, address) });
        Self {
            program,
            child,
            runtime,
            proxy,
            dir,
        }
    }

    /// Runs one of its commands; standard output.
    pub(crate) fn command(&self, args: &[&str]) -> Zeroizing<String> {
        let output = Command::new(&self.program)
            .arg("--data-dir")
            .arg(self.dir.path().join("data"))
            .args(args)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        Zeroizing::new(String::from_utf8(output.stdout).unwrap())
    }

    /// A new token, by its command.
    pub(crate) fn token(&self) -> Zeroizing<String> {
        let text = self.command(&["registration-key", "create"]);
        Zeroizing::new(text.trim().to_owned())
    }

    pub(crate) fn proxy(&self) -> &Proxy {
        &self.proxy
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Keys, database and log.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }
}

impl Drop for ControllerProcess {
    fn drop(&mut self) {
        let _guard = self.runtime.enter();
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}
