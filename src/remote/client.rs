//! One exchange with the controller: bytes there, bytes back, bounded in size and time.

use std::error::Error as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustls::InvalidMessage;
use vpn_node_protocol::encoding::Digest;
use vpn_node_protocol::envelope::CONTENT_TYPE;
use vpn_node_protocol::limits::MAX_REPLY_BYTES;

use super::tls::{self, TlsError, distrust};
use crate::core::shown;

/// How long a connection may take to come up.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an answer may take, over what the request itself asks for.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);
/// An idle connection is kept over two heartbeats, and given up before the controller closes it
/// (75 s), so that no request meets a closing connection.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// The most of an unsigned error text that is shown.
const MAX_ERROR_TEXT: usize = 300;
/// The most of an error's code that is kept: ours have up to 20 characters.
const MAX_ERROR_CODE: usize = 64;

/// How the controller is reached.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// `https://HOST:PORT`, at least one.
    pub urls: Vec<String>,
    /// SHA-256 of the server certificate's public key, from the token.
    pub server_pin: Option<Digest>,
    /// The operator's CA certificates, PEM.
    pub ca_file: Option<PathBuf>,
    /// `http://` proxy; without it `HTTPS_PROXY` counts.
    pub proxy: Option<String>,
}

/// Where a request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// `POST /v1/enrol/hello`
    EnrolHello,
    /// `POST /v1/enrol/complete`
    EnrolComplete,
    /// `POST /v1/messages`
    Messages,
    /// `POST /v1/poll`
    Poll,
    /// `POST /v1/introduction`
    Introduction,
    /// `GET /v1/certificate`
    Certificate,
}

impl Path {
    fn as_str(self) -> &'static str {
        match self {
            Self::EnrolHello => "/v1/enrol/hello",
            Self::EnrolComplete => "/v1/enrol/complete",
            Self::Messages => "/v1/messages",
            Self::Poll => "/v1/poll",
            Self::Introduction => "/v1/introduction",
            Self::Certificate => "/v1/certificate",
        }
    }
}

/// What came back, unverified. A signed refusal has an error status and is an answer too.
#[derive(Debug)]
pub struct Answer {
    /// The body.
    pub bytes: Vec<u8>,
}

/// Why nothing usable came back.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No configuration.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// reqwest refused the configuration.
    #[error("the HTTP client cannot be set up: {0}")]
    Setup(String),
    /// Nothing answered.
    #[error("cannot reach the controller at {url}: {why}")]
    Unreachable {
        /// The address tried.
        url: String,
        /// The innermost causes.
        why: String,
    },
    /// It answered, but its TLS certificate is not the right one.
    #[error(
        "the server at {url} is not trusted: {why}. Either the address leads to another server, or someone stands between; if the controller's certificate was renewed, use a new token"
    )]
    Untrusted {
        /// The address tried.
        url: String,
        /// What rustls says, with the pin.
        why: String,
    },
    /// It answered, but not with TLS.
    #[error(
        "the port at {url} does not speak TLS ({why}): check the host and the port of that URL, and that the controller, or what stands before it, answers https there"
    )]
    NotTls {
        /// The address tried.
        url: String,
        /// What rustls says.
        why: String,
    },
    /// It answered, but with an unsigned error.
    #[error("the controller at {url} answered {status}: {text}")]
    Status {
        /// The address tried.
        url: String,
        /// HTTP status code.
        status: u16,
        /// The code of our JSON, if it is one; anybody's word.
        code: Option<String>,
        /// What it said, escaped.
        text: String,
        /// `Retry-After`.
        retry_after: Option<Duration>,
    },
    /// More bytes than any answer has.
    #[error("the answer of {url} is larger than {MAX_REPLY_BYTES} bytes: that is no controller")]
    TooLarge {
        /// The address tried.
        url: String,
    },
}

impl ClientError {
    /// What `Retry-After` asked for (RFC 9110 section 10.2.3, the form in seconds).
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// Whether the controller (or whoever answered) says that no server has the key that signed.
    #[must_use]
    pub fn is_unknown_key(&self) -> bool {
        matches!(self, Self::Status { status: 401, code: Some(code), .. } if code == "unknown_key")
    }
}

/// The HTTP client. It sticks to one address and moves on when that fails.
#[derive(Debug)]
pub struct Client {
    http: reqwest::Client,
    urls: Vec<String>,
    current: AtomicUsize,
}

impl Client {
    /// Sets TLS and HTTP up; connects to nothing yet.
    ///
    /// # Errors
    /// [`ClientError::Tls`], [`ClientError::Setup`].
    pub fn new(options: &Options) -> Result<Self, ClientError> {
        let tls = tls::config(options.server_pin, options.ca_file.as_deref())?;
        let mut builder = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .user_agent(concat!("vpn-node-agent/", env!("CARGO_PKG_VERSION")))
            .https_only(true)
            .http1_only()
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(2);
        if let Some(proxy) = &options.proxy {
            // Without the address in the text: it may hold a password.
            let proxy = reqwest::Proxy::https(proxy)
                .map_err(|error| ClientError::Setup(format!("controller.proxy: {error}")))?;
            builder = builder.proxy(proxy);
        }
        let http = builder
            .build()
            .map_err(|error| ClientError::Setup(causes(&error)))?;
        let urls = options
            .urls
            .iter()
            .map(|url| url.trim_end_matches('/').to_owned())
            .collect();
        Ok(Self {
            http,
            urls,
            current: AtomicUsize::new(0),
        })
    }

    /// The address in use.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.urls[self.current.load(Ordering::Relaxed) % self.urls.len()]
    }

    /// Sends `body` (an envelope, or JSON for the first greeting), or GETs when there is none.
    /// `wait` is how long the controller may hold the request on purpose.
    ///
    /// # Errors
    /// [`ClientError`]; the next call uses the next address.
    pub async fn exchange(
        &self,
        path: Path,
        body: Option<Vec<u8>>,
        wait: Duration,
    ) -> Result<Answer, ClientError> {
        let used = self.current.load(Ordering::Relaxed);
        let url = &self.urls[used % self.urls.len()];
        let result = self.exchange_with(url, path, body, wait).await;
        if result.is_err() {
            self.move_on_from(used);
        }
        result
    }

    /// Only from the address that failed: of two requests that failed there together, the second
    /// must not move on from the next one, which nobody has tried.
    fn move_on_from(&self, used: usize) {
        let next = used.wrapping_add(1);
        let _ = self
            .current
            .compare_exchange(used, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    async fn exchange_with(
        &self,
        url: &str,
        path: Path,
        body: Option<Vec<u8>>,
        wait: Duration,
    ) -> Result<Answer, ClientError> {
        let unreachable = |error: reqwest::Error| failed(url, &error);
        let address = format!("{url}{}", path.as_str());
        let request = match body {
            Some(body) => self
                .http
                .post(address)
                .header("content-type", CONTENT_TYPE)
                .body(body),
            None => self.http.get(address),
        };
        let mut response = request
            .timeout(ANSWER_TIMEOUT + wait)
            .send()
            .await
            .map_err(unreachable)?;
        let status = response.status();
        let retry_after = response
            .headers()
            .get("retry-after")
            .and_then(|value| value.to_str().ok()?.trim().parse().ok())
            .map(Duration::from_secs);
        let signed = response
            .headers()
            .get("content-type")
            .is_some_and(|value| value.as_bytes().starts_with(CONTENT_TYPE.as_bytes()));
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(unreachable)? {
            if bytes.len() + chunk.len() > MAX_REPLY_BYTES {
                return Err(ClientError::TooLarge {
                    url: url.to_owned(),
                });
            }
            bytes.extend_from_slice(&chunk);
        }
        if status.is_success() || signed {
            return Ok(Answer { bytes });
        }
        let (code, text) = said(&bytes);
        Err(ClientError::Status {
            url: url.to_owned(),
            status: status.as_u16(),
            code,
            text,
            retry_after,
        })
    }
}

fn failed(url: &str, error: &reqwest::Error) -> ClientError {
    let url = url.to_owned();
    match rustls_error(error) {
        Some(rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType)) => {
            let why = "the first bytes of its answer are none of TLS".to_owned();
            ClientError::NotTls { url, why }
        }
        tls => match tls.and_then(distrust) {
            Some(why) => ClientError::Untrusted { url, why },
            None => ClientError::Unreachable {
                url,
                why: causes(error),
            },
        },
    }
}

/// What rustls refused in the server's certificate, if that is the cause.
pub(super) fn tls_error(error: &reqwest::Error) -> Option<String> {
    rustls_error(error).and_then(distrust)
}

fn rustls_error(error: &reqwest::Error) -> Option<&rustls::Error> {
    let mut cause = error.source();
    while let Some(inner) = cause {
        if let Some(tls) = inner.downcast_ref() {
            return Some(tls);
        }
        // An io::Error gives the source of what it holds, never that itself; and one may hold another.
        let io = inner.downcast_ref::<std::io::Error>();
        cause = match io.and_then(std::io::Error::get_ref) {
            Some(held) => Some(held),
            None => inner.source(),
        };
    }
    None
}

/// What an unsigned error says: `error.code` and `error.message` of our JSON, else no code and the
/// beginning of the body; the text escaped.
fn said(body: &[u8]) -> (Option<String>, String) {
    let json: Option<serde_json::Value> = serde_json::from_slice(body).ok();
    let field = |name: &str| json.as_ref()?["error"][name].as_str();
    let code = field("code").map(|code| code.chars().take(MAX_ERROR_CODE).collect());
    let text = field("message").map_or_else(|| String::from_utf8_lossy(body), Into::into);
    let start: String = text.chars().take(MAX_ERROR_TEXT).collect();
    (code, shown(&start).to_string())
}

/// An error with its causes, outermost first; reqwest's own texts say only "error sending".
pub(super) fn causes(error: &reqwest::Error) -> String {
    let mut parts = Vec::new();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let text = inner.to_string();
        if parts.last() != Some(&text) {
            parts.push(text);
        }
        cause = inner.source();
    }
    match parts.is_empty() {
        true if error.is_timeout() => "no answer in time".to_owned(),
        true => error.to_string(),
        false => parts.join(": "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> Options {
        Options {
            urls: vec!["https://a.example".into(), "https://b.example/".into()],
            server_pin: Some(Digest::of(&[b"pin"])),
            ..Options::default()
        }
    }

    #[test]
    fn two_requests_that_fail_at_one_address_move_on_once() {
        let client = Client::new(&options()).unwrap();
        assert_eq!(client.url(), "https://a.example");
        client.move_on_from(0);
        client.move_on_from(0);
        assert_eq!(client.url(), "https://b.example");
        client.move_on_from(1);
        assert_eq!(client.url(), "https://a.example");
    }

    #[tokio::test]
    async fn a_port_that_speaks_no_tls_is_called_that() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let page = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n";
            let mut hello = [0; 1024];
            tokio::io::AsyncReadExt::read(&mut stream, &mut hello)
                .await
                .unwrap();
            tokio::io::AsyncWriteExt::write_all(&mut stream, page)
                .await
                .unwrap();
        });
        let urls = vec![url];
        let client = Client::new(&Options { urls, ..options() }).unwrap();
        let asked = client.exchange(Path::Certificate, None, Duration::ZERO);
        let error = asked.await.unwrap_err();
        assert!(matches!(error, ClientError::NotTls { .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains("does not speak TLS"), "{text}");
    }

    #[test]
    fn a_proxys_password_stands_in_no_error() {
        let proxy = Some("http://user:geheim@ bad host".to_owned());
        let error = Client::new(&Options { proxy, ..options() }).unwrap_err();
        assert!(!error.to_string().contains("geheim"), "{error}");
    }

    #[test]
    fn an_unknown_key_is_told_from_other_refusals_and_from_other_peoples_pages() {
        let is_unknown_key = |status: u16, body: &str| {
            let (code, text) = said(body.as_bytes());
            let error = ClientError::Status {
                url: "https://a.example".into(),
                status,
                code,
                text,
                retry_after: None,
            };
            error.is_unknown_key()
        };
        let ours = r#"{"error":{"code":"unknown_key","message":"no server"}}"#;
        assert!(is_unknown_key(401, ours));
        assert!(!is_unknown_key(503, ours));
        let other = r#"{"error":{"code":"bad_signature","message":"unknown_key"}}"#;
        assert!(!is_unknown_key(401, other));
        assert!(!is_unknown_key(401, "<html>unknown_key</html>"));
        assert!(!is_unknown_key(401, r#"{"error":"unknown_key"}"#));
    }
}
