//! One repository over HTTP: small files whole, the package as a stream. Bounded in size, time and
//! rate; what comes is believed by nobody before its signatures and hashes hold.

use std::time::Duration;

use reqwest::header::HeaderMap;
use reqwest::redirect;
use reqwest::{Response, StatusCode};
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::time::timeout;

use super::error::FetchFailure;
use super::rate::MinimumRate;
use crate::core::shown;
use crate::host::clock;
use crate::remote::client::{causes, tls_error};

/// How long a connection may take to come up.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a repository may think before its answer begins.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);
/// Redirects of one request: a mirror's front, its region, its store.
const MAX_REDIRECTS: usize = 4;

/// How a repository is reached.
pub(super) struct Access {
    /// TLS for it.
    pub(super) tls: rustls::ClientConfig,
    /// `http://` proxy; without it `HTTPS_PROXY` counts.
    pub(super) proxy: Option<String>,
    /// Slow retrieval.
    pub(super) rate: MinimumRate,
    /// False for tests alone, which serve plain HTTP on loopback.
    pub(super) https_only: bool,
}

/// One repository.
pub(super) struct Source {
    runtime: Runtime,
    http: reqwest::Client,
    base: String,
    rate: MinimumRate,
    stop: watch::Receiver<bool>,
}

/// A package on its way.
pub(super) struct Stream<'a> {
    source: &'a Source,
    url: String,
    response: Response,
    watch: super::rate::Watch,
}

/// What was asked for to go on with a package.
pub(super) struct Rest<'a> {
    /// Bytes that are here.
    pub(super) from: u64,
    /// The strong entity tag that the first part came with.
    pub(super) etag: Option<&'a str>,
}

impl Source {
    /// The repository at `base`. Connects to nothing yet; ends when `stop` becomes true.
    pub(super) fn new(
        base: &str,
        access: Access,
        stop: watch::Receiver<bool>,
    ) -> Result<Self, FetchFailure> {
        let setup = |error: &dyn std::fmt::Display| FetchFailure::Setup(error.to_string());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| setup(&error))?;
        let mut builder = reqwest::Client::builder()
            .tls_backend_preconfigured(access.tls)
            .user_agent(concat!("vpn-node-agent/", env!("CARGO_PKG_VERSION")))
            .https_only(access.https_only)
            .http1_only()
            .redirect(redirect::Policy::custom(follow))
            .referer(false)
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_max_idle_per_host(1);
        if let Some(proxy) = &access.proxy {
            // Without the address in the text: it may hold a password.
            builder = builder.proxy(
                reqwest::Proxy::https(proxy)
                    .map_err(|_| FetchFailure::Setup("controller.proxy is no proxy".to_owned()))?,
            );
        }
        Ok(Self {
            runtime,
            http: builder.build().map_err(|error| setup(&error))?,
            base: base.trim_end_matches('/').to_owned(),
            rate: access.rate,
            stop,
        })
    }

    /// A small file, whole. None when the repository does not have it (404, and 403, with which
    /// object stores hide what is not there).
    pub(super) fn small(&self, path: &str, limit: u64) -> Result<Option<Vec<u8>>, FetchFailure> {
        let mut stream = match self.open(path, None) {
            Err(FetchFailure::NotFound { .. }) => return Ok(None),
            other => other?.0,
        };
        stream.refuse_longer_than(limit)?;
        let mut bytes = Vec::new();
        while let Some(chunk) = stream.next()? {
            // Checked before it is kept: nothing is allocated for what is too much.
            if (bytes.len() + chunk.len()) as u64 > limit {
                return Err(stream.too_long(limit));
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(Some(bytes))
    }

    /// Opens a file, from its beginning or further on. Gives its stream and status, which is 200,
    /// 206 or 416.
    pub(super) fn open(
        &self,
        path: &str,
        rest: Option<Rest<'_>>,
    ) -> Result<(Stream<'_>, StatusCode), FetchFailure> {
        let url = format!("{}/{path}", self.base);
        let mut request = self.http.get(&url);
        if let Some(rest) = &rest {
            request = request.header("range", format!("bytes={}-", rest.from));
            if let Some(etag) = rest.etag {
                request = request.header("if-range", etag);
            }
        }
        let response = self.wait(async { timeout(ANSWER_TIMEOUT, request.send()).await })?;
        let url = shown(&url).to_string();
        let response = match response {
            Err(_) => {
                let why = format!("no answer within {} s", ANSWER_TIMEOUT.as_secs());
                return Err(FetchFailure::Unreachable { url, why });
            }
            Ok(answered) => answered.map_err(|error| failed(&url, &error))?,
        };
        let status = response.status();
        let asked_for_rest = rest.is_some();
        match status.as_u16() {
            200 => {}
            206 | 416 if asked_for_rest => {}
            403 | 404 | 410 => {
                let status = status.as_u16();
                return Err(FetchFailure::NotFound { url, status });
            }
            status @ (429 | 503) => {
                let retry_after = retry_after(response.headers());
                return Err(FetchFailure::Busy {
                    url,
                    status,
                    retry_after,
                });
            }
            // A place that no HTTP client goes to, such as file:.
            300..=399 => {
                let why = "not an https address".to_owned();
                return Err(FetchFailure::Redirect { url, why });
            }
            status => return Err(FetchFailure::Status { url, status }),
        }
        let stream = Stream {
            source: self,
            url,
            response,
            watch: self.rate.watch(clock::now().boot),
        };
        Ok((stream, status))
    }

    /// Waits for something, unless the core wants something else meanwhile.
    fn wait<T>(&self, what: impl Future<Output = T>) -> Result<T, FetchFailure> {
        let mut stop = self.stop.clone();
        self.runtime.block_on(async {
            tokio::select! {
                done = what => Ok(done),
                // Also when the daemon is gone.
                _ = stop.wait_for(|stop| *stop) => Err(FetchFailure::Stopped),
            }
        })
    }
}

impl Stream<'_> {
    /// The next bytes; none at the end.
    pub(super) fn next(&mut self) -> Result<Option<Vec<u8>>, FetchFailure> {
        loop {
            let patience = self.watch.patience(clock::now().boot);
            let (source, response) = (self.source, &mut self.response);
            let came = source.wait(async { timeout(patience, response.chunk()).await })?;
            let chunk = match came {
                Err(_) => None,
                Ok(Ok(None)) => return Ok(None),
                Ok(Ok(Some(chunk))) => Some(chunk.to_vec()),
                Ok(Err(error)) => return Err(failed(&self.url, &error)),
            };
            let bytes = chunk.as_ref().map_or(0, |chunk| chunk.len() as u64);
            if let Err(rate) = self.watch.took(bytes, clock::now().boot) {
                return Err(FetchFailure::TooSlow {
                    url: self.url.clone(),
                    rate,
                    least: source.rate.least,
                });
            }
            if chunk.is_some() {
                return Ok(chunk);
            }
        }
    }

    /// Judges by what the answer says of itself, before anything of it is read.
    pub(super) fn refuse_longer_than(&self, limit: u64) -> Result<(), FetchFailure> {
        match self.response.content_length() {
            Some(length) if length > limit => Err(self.too_long(limit)),
            _ => Ok(()),
        }
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.response.headers().get(name)?.to_str().ok()
    }

    pub(super) fn url(&self) -> String {
        self.url.clone()
    }

    pub(super) fn too_long(&self, limit: u64) -> FetchFailure {
        FetchFailure::TooLong {
            url: self.url.clone(),
            limit,
        }
    }
}

/// Elsewhere only over https, or within the same server; and not for ever.
fn follow(attempt: redirect::Attempt<'_>) -> redirect::Action {
    if attempt.previous().len() > MAX_REDIRECTS {
        return attempt.error("too many redirects");
    }
    let origin = |url: &reqwest::Url| {
        let host = url.host_str().map(str::to_owned);
        (url.scheme().to_owned(), host, url.port_or_known_default())
    };
    let last = attempt.previous().last().map(origin);
    match attempt.url().scheme() {
        "https" => attempt.follow(),
        _ if last == Some(origin(attempt.url())) => attempt.follow(),
        _ => attempt.error("not an https address"),
    }
}

/// `Retry-After` (RFC 9110 section 10.2.3, the form in seconds).
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get("retry-after")?.to_str().ok()?;
    value.trim().parse().ok().map(Duration::from_secs)
}

fn failed(url: &str, error: &reqwest::Error) -> FetchFailure {
    let url = url.to_owned();
    if error.is_redirect() {
        let why = causes(error);
        return FetchFailure::Redirect { url, why };
    }
    match tls_error(error) {
        Some(why) => FetchFailure::Untrusted { url, why },
        None => FetchFailure::Unreachable {
            url,
            why: causes(error),
        },
    }
}
