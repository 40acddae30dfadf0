//! A controller in this process, on the loopback, with a proxy before it that reads along.

use std::path::Path;
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use vpn_node_controller::config::Config;
use vpn_node_controller::serve::{self, Running};
use vpn_node_controller::store::{
    self, ConnectionRow, HeartbeatRow, ServerRow, Store, VerificationRow,
};
use vpn_node_controller::{clock, registration, setup, verification};
use zeroize::Zeroizing;

use super::proxy::Proxy;

/// An hour, in milliseconds: longer than any test.
const TOKEN_LIFETIME_MS: i64 = 3_600_000;

/// The controller and everything that it runs on.
pub(crate) struct Controller {
    runtime: Runtime,
    config: Config,
    running: Option<Running>,
    proxy: Proxy,
    dir: tempfile::TempDir,
}

impl Controller {
    /// Sets one up, as `init` does, and serves.
    pub(crate) fn start() -> Self {
        let runtime = Runtime::new().unwrap();
        let dir = tempfile::Builder::new()
            .prefix("vpn-node-controller")
            .tempdir()
            .unwrap();
        let proxy = runtime.block_on(Proxy::bind());
        let mut config = Config::new(dir.path().join("data"), proxy.url());
        config.listen = "127.0.0.1:0".parse().unwrap();
        config.heartbeat_interval_s = 1;
        let running = runtime.block_on(async {
            setup::init(&config, &[], None, clock::system()())
                .await
                .unwrap();
            serve::start(config.clone()).await.unwrap()
        });
        let (certificate, key, _) = config.tls_files();
        runtime.block_on(async { proxy.serve(&certificate, &key, running.addr) });
        Self {
            runtime,
            config,
            running: Some(running),
            proxy,
            dir,
        }
    }

    /// A new token.
    pub(crate) fn token(&self) -> Zeroizing<String> {
        self.token_for(TOKEN_LIFETIME_MS)
    }

    /// A new token that ends after so many milliseconds; a negative number makes an expired one.
    pub(crate) fn token_for(&self, lifetime_ms: i64) -> Zeroizing<String> {
        let store = self.running().store();
        let made = registration::create(
            store.as_ref(),
            &self.config,
            lifetime_ms,
            None,
            None,
            clock::system()(),
        );
        self.runtime.block_on(made).unwrap().text
    }

    pub(crate) fn servers(&self) -> Vec<ServerRow> {
        self.runtime
            .block_on(self.running().store().list_servers())
            .unwrap()
    }

    pub(crate) fn heartbeats(&self) -> Vec<HeartbeatRow> {
        self.runtime
            .block_on(self.running().store().list_heartbeats(None, 100))
            .unwrap()
    }

    pub(crate) fn connections(&self) -> Vec<ConnectionRow> {
        self.runtime
            .block_on(self.running().store().list_connections(None, false, 100))
            .unwrap()
    }

    /// Asks the store, as a command of the operator would.
    pub(crate) fn ask<T>(&self, question: impl AsyncFnOnce(&dyn Store) -> T) -> T {
        let store = self.running().store();
        self.runtime.block_on(question(store.as_ref()))
    }

    /// A new token for a server that exists.
    pub(crate) fn token_for_server(&self, server_id: &str) -> Zeroizing<String> {
        let made = self.ask(async |store| {
            registration::create(
                store,
                &self.config,
                TOKEN_LIFETIME_MS,
                None,
                Some(server_id.to_owned()),
                clock::system()(),
            )
            .await
        });
        made.unwrap().text
    }

    /// Stops serving: hosts find nobody there.
    pub(crate) fn stop(&mut self) {
        let running = self.running.take().expect("it serves");
        self.config.listen = running.addr;
        self.runtime.block_on(running.stop());
    }

    /// Serves again, where it did.
    pub(crate) fn start_again(&mut self) {
        let running = self.runtime.block_on(serve::start(self.config.clone()));
        self.running = Some(running.unwrap());
    }

    /// Another way in, with this certificate and key.
    pub(crate) fn proxy(&self, certificate: &Path, key: &Path) -> Proxy {
        self.runtime.block_on(async {
            let proxy = Proxy::bind().await;
            proxy.serve(certificate, key, self.running().addr);
            proxy
        })
    }

    /// Challenges a server as `server verify` does, which is another process: with a database
    /// connection of its own. How it ended, and how long that took.
    pub(crate) fn verify(&self, server_id: &str) -> (VerificationRow, Duration) {
        let begin = Instant::now();
        let row = self.runtime.block_on(async {
            let store = store::open(&self.config).await.unwrap();
            let row = verification::challenge(&*store, server_id, Duration::from_secs(10)).await;
            (row, begin.elapsed(), store.close().await)
        });
        let (row, took, _) = row;
        (row.unwrap().unwrap(), took)
    }

    /// The answer to the next request for this path does not reach the agent.
    pub(crate) fn hold(&self, path: &'static str) {
        self.proxy.hold(path);
    }

    /// Whether such an answer waits.
    pub(crate) fn holds_an_answer(&self) -> bool {
        self.proxy.holds_an_answer()
    }

    /// Everything that passed the proxy so far, decrypted.
    pub(crate) fn seen_by_proxy(&self) -> Vec<u8> {
        self.proxy.seen()
    }

    /// Keys, certificate and database.
    pub(crate) fn data_dir(&self) -> &Path {
        &self.config.data_dir
    }

    fn running(&self) -> &Running {
        self.running.as_ref().expect("serves until it is dropped")
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            self.runtime.block_on(running.stop());
        }
        // The directory outlives the last write.
        let _ = self.dir.path();
    }
}
