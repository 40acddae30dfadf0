//! Enrolment, the host's side: two round trips, safe to cut off and repeat anywhere.
//!
//! Nothing is written before the controller has proven itself and said that the token is good.
//! Then the identity key and the id of this enrolment are made durable, and only after that sent:
//! whatever happens next, the same token finishes the same enrolment.

use std::time::Duration;

use rand_core::CryptoRng;
use vpn_node_protocol::certificate::CertificateError;
use vpn_node_protocol::certificate::ControllerCertificate;
use vpn_node_protocol::encoding::Hex;
use vpn_node_protocol::enrolment::{
    Capability, EnrolOutcome, EnrolRefusal, EnrolReply, EnrolRequest, Hello, HelloError,
    HelloRequest, HelloResponse, KeyStatus, transcript,
};
use vpn_node_protocol::envelope::{Envelope, EnvelopeError};
use vpn_node_protocol::hardware::Components;
use vpn_node_protocol::keys::{PublicKey, registration_key};
use vpn_node_protocol::limits::MAX_REPLY_BYTES;
use vpn_node_protocol::sealing::{Context, SealError, Sealed};
use vpn_node_protocol::token::Token;

use super::client::{Client, ClientError, Options, Path};
use crate::core::journal;
use crate::core::lane::LaneState;
use crate::host::clock;
use crate::host::state::{Enrolment, PendingEnrolment, StateDir, StateError};

/// What the host says of itself when it enrols.
#[derive(Clone, Debug)]
pub struct Host {
    /// Host name (gethostname(2)).
    pub hostname: String,
    /// `PRETTY_NAME` of os-release(5), or empty.
    pub os_version: String,
    /// Where the operator says it is.
    pub location: Option<String>,
    /// Its fingerprint.
    pub components: Components,
    /// What it can do.
    pub capabilities: Vec<Capability>,
}

/// A finished enrolment.
#[derive(Clone, Debug)]
pub struct Enrolled {
    /// What is on disk now.
    pub enrolment: Enrolment,
    /// `active` or `pending`; empty when this token had enrolled this host before, since only the
    /// controller knows then.
    pub status: String,
    /// The controller's remarks, one sentence each.
    pub warnings: Vec<String>,
}

/// Why an enrolment did not finish.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// There is one already.
    #[error(
        "this host is enrolled already, as {server_id}, and this token is not for that server: nothing was changed. If that server was revoked, or this host is to be another one: stop the agent, move {state_dir} away, enrol with a new token, and start the agent. To give that server a new identity on this host, create a token for it with 'vpn-node-controller registration-key create --server NAME'"
    )]
    AlreadyEnrolled {
        /// Its id.
        server_id: String,
        /// Where that stands.
        state_dir: String,
    },
    /// The enrolment is there, and the identity that it made is not.
    #[error(
        "this token had enrolled this host before, as {server_id}, but the identity is lost: {source}; nothing was changed. Create a token for the same server with 'vpn-node-controller registration-key create --server NAME', and run 'vpn-node enroll' with that one"
    )]
    IdentityLost {
        /// Its id.
        server_id: String,
        /// What is wrong with its file.
        source: StateError,
    },
    /// The agent has the identity that would be replaced.
    #[error("stop the agent first: systemctl stop vpn-node-agent")]
    AgentRuns,
    /// The files of the state directory.
    #[error(transparent)]
    State(#[from] StateError),
    /// Network or TLS.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The controller did not prove itself.
    #[error("the controller at {url} did not prove that it is the one of this token: {source}")]
    NotOurController {
        /// The address in the token.
        url: String,
        /// What was wrong.
        source: HelloError,
    },
    /// The answer is none.
    #[error("the controller's answer cannot be used: {0}")]
    Answer(String),
    /// The token is spent.
    #[error(
        "this token was used already, on {at}, and a token is good for one enrolment: create a new one with 'vpn-node-controller registration-key create' (with '--server NAME' if this host is to be again the server that it was before its state was lost or restored)"
    )]
    TokenUsed {
        /// When, RFC 3339; or "an earlier day".
        at: String,
    },
    /// The token's time is over.
    #[error(
        "this token expired on {at} by the controller's clock: create a new one with 'vpn-node-controller registration-key create'"
    )]
    TokenExpired {
        /// When, RFC 3339.
        at: String,
    },
    /// Taken back.
    #[error("this token was revoked by an operator: ask for a new one")]
    TokenRevoked,
    /// Not of this controller.
    #[error(
        "the controller at {url} does not know this token: it was made by another installation of it, or removed; create a new one there"
    )]
    TokenUnknown {
        /// The address in the token.
        url: String,
    },
    /// The controller's other refusals.
    #[error("the controller refused the enrolment: {0}")]
    Refused(String),
}

impl EnrolError {
    /// Whether the same call may succeed later without anybody doing anything about it.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Client(ClientError::Unreachable { .. } | ClientError::NotTls { .. })
            | Self::State(StateError::Enrolling { .. }) => true,
            Self::Client(ClientError::Status { status, .. }) => *status == 429 || *status >= 500,
            _ => false,
        }
    }
}

impl From<EnvelopeError> for EnrolError {
    fn from(error: EnvelopeError) -> Self {
        Self::Answer(error.to_string())
    }
}
impl From<CertificateError> for EnrolError {
    fn from(error: CertificateError) -> Self {
        Self::Answer(error.to_string())
    }
}
impl From<SealError> for EnrolError {
    fn from(error: SealError) -> Self {
        Self::Answer(error.to_string())
    }
}

/// Enrols this host: reads and writes `state`, talks to the controller of the token. A host that is
/// enrolled already takes only a token for its own server, and gets a new identity by it; its
/// ledger and its open sessions stay. With the token that made the enrolment on disk it changes
/// nothing and says so: whoever did not see how the first call ended repeats it.
/// `options.urls` and `options.server_pin` are taken from the token when they are empty.
///
/// # Errors
/// [`EnrolError`]; after every error the same call may be repeated with the same token.
pub async fn enrol(
    token: &Token,
    mut options: Options,
    host: &Host,
    state: &StateDir,
    rng: &mut impl CryptoRng,
) -> Result<Enrolled, EnrolError> {
    let registration = registration_key(&token.secret);
    if let Some(before) = enrolled_before(state, (&registration).into())? {
        return Ok(before);
    }
    if options.urls.is_empty() {
        options.urls = vec![token.url.clone()];
    }
    options.server_pin = options.server_pin.or(token.server_pin);
    let client = Client::new(&options)?;
    let greeting = greet(&client, token, rng).await?;
    let found = look(state, &greeting.hello)?;
    let anew = found == Found::ThisServer;
    let is_repeat = begun(state, (&registration).into(), anew)?.is_some();
    judge_token(&greeting.hello, is_repeat, token)?;

    // From here on files are written, and read again: another enrolment may have ended just now.
    let lost = found == Found::Nothing && state.has_lane() && !is_repeat;
    let _agent = match anew || lost || found == Found::Damaged {
        true => Some(state.lock().map_err(|error| match error {
            StateError::Locked { .. } => EnrolError::AgentRuns,
            other => EnrolError::State(other),
        })?),
        false => None,
    };
    let _lock = state.lock_enrolment()?;
    if anew {
        // An enrolment with this token may be in force, and its files not in their places yet.
        finish_change(state, rng)?;
    }
    if let Some(before) = enrolled_before(state, (&registration).into())? {
        return Ok(before);
    }
    if look(state, &greeting.hello)? != found {
        return Err(EnrolError::State(StateError::Enrolling {
            path: state.path().to_owned(),
        }));
    }
    if found == Found::Damaged {
        state.remove_enrolment()?;
    }
    state.remove_leftovers()?;
    let pending = match begun(state, (&registration).into(), anew)? {
        Some(pending) => pending,
        None if anew => state.begin_reenrolment((&registration).into(), rng)?,
        None => state.begin_enrolment((&registration).into(), rng)?,
    };
    let request = request(&greeting, &pending, host, (&registration).into(), rng)?;
    let envelope = Envelope::sign(&request, &[&registration, &pending.key]);
    let body = Some(envelope.to_json());
    let answer = client
        .exchange(Path::EnrolComplete, body, Duration::ZERO)
        .await?;
    let reply: EnrolReply = greeting.certificate.open_signed(
        &Envelope::parse(&answer.bytes, MAX_REPLY_BYTES)?,
        greeting.hello.controller_time_ms,
        |reply: &EnrolReply| reply.controller_time_ms,
    )?;
    if reply.request_digest != envelope.digest() {
        return Err(EnrolError::Answer("it answers another request".into()));
    }
    let outcome = finish(reply, &greeting, &pending, token, &options)?;
    if anew && outcome.lane.server_id != greeting.hello.server_id.unwrap_or_default() {
        return Err(EnrolError::Answer("it is about another server".into()));
    }
    match anew {
        true => state.finish_reenrolment(&outcome.enrolled.enrolment, &outcome.lane, rng)?,
        // The lane first: the enrolment's file is what says "enrolled".
        false => {
            state.create_lane(&outcome.lane)?;
            state.finish_enrolment(&outcome.enrolled.enrolment)?;
        }
    }
    Ok(outcome.enrolled)
}

/// Finishes what the lane says is in force. A key in force that cannot be read any more is what the
/// new enrolment replaces, so that is no hindrance.
fn finish_change(state: &StateDir, rng: &mut impl CryptoRng) -> Result<(), StateError> {
    match state.finish_change(rng) {
        Err(error) if error.is_about_content() => {
            tracing::warn!(
                message_id = %journal::ENROLMENT_REMARK,
                %error, "the identity in force is lost, and is replaced"
            );
            Ok(())
        }
        done => done,
    }
}

/// The enrolment on disk, if this token made it. One that cannot be read was made by none.
/// Without its identity it is of no use, and this token makes no other: it is spent.
fn enrolled_before(state: &StateDir, token: PublicKey) -> Result<Option<Enrolled>, EnrolError> {
    let made_by_it = |enrolment: &Enrolment| enrolment.registration_key == Some(token);
    let enrolment = match state.enrolment() {
        Err(StateError::Damaged { .. }) => None,
        read => read?,
    };
    let Some(enrolment) = enrolment.filter(made_by_it) else {
        return Ok(None);
    };
    if let Err(error) = state.has_identity() {
        return Err(match error.is_about_content() {
            true => EnrolError::IdentityLost {
                server_id: enrolment.server_id,
                source: error,
            },
            false => error.into(),
        });
    }
    Ok(Some(Enrolled {
        enrolment,
        status: String::new(),
        warnings: vec!["this token had enrolled this host before; nothing was changed".into()],
    }))
}

/// What a token meets on this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    /// No enrolment: any token is good.
    Nothing,
    /// The enrolment of the server that the token gives a new identity to.
    ThisServer,
    /// An enrolment that cannot be read. Only a token for a server that exists replaces it, and not
    /// one for another server than the lane names.
    Damaged,
}

fn look(state: &StateDir, hello: &Hello) -> Result<Found, EnrolError> {
    let another = |server_id| EnrolError::AlreadyEnrolled {
        server_id,
        state_dir: state.path().display().to_string(),
    };
    let meant = hello.server_id.as_ref();
    match state.enrolment() {
        Ok(None) => Ok(Found::Nothing),
        Ok(Some(enrolment)) if meant == Some(&enrolment.server_id) => Ok(Found::ThisServer),
        Ok(Some(enrolment)) => Err(another(enrolment.server_id)),
        Err(StateError::Damaged { .. }) if meant.is_some() => match state.server_of_lane() {
            Some(server) if meant != Some(&server) => Err(another(server)),
            _ => Ok(Found::Damaged),
        },
        Err(error) => Err(error.into()),
    }
}

/// What was begun with this token before, and not finished.
fn begun(
    state: &StateDir,
    registration: PublicKey,
    anew: bool,
) -> Result<Option<PendingEnrolment>, StateError> {
    match anew {
        true => state.pending_reenrolment(registration),
        false => state.pending_enrolment(registration),
    }
}

struct Greeting {
    certificate_envelope: Envelope,
    certificate: ControllerCertificate,
    hello_envelope: Envelope,
    hello: Hello,
}

/// Round trip 1: nothing of the host is disclosed, and the controller proves itself.
async fn greet(
    client: &Client,
    token: &Token,
    rng: &mut impl CryptoRng,
) -> Result<Greeting, EnrolError> {
    let mut nonce = [0; 32];
    rng.fill_bytes(&mut nonce);
    let request = HelloRequest {
        registration_key: (&registration_key(&token.secret)).into(),
        client_nonce: Hex(nonce),
    };
    let body = serde_json::to_vec(&request).expect("a greeting serialises");
    let answer = client
        .exchange(Path::EnrolHello, Some(body), Duration::ZERO)
        .await?;
    let response: HelloResponse = serde_json::from_slice(&answer.bytes)
        .map_err(|error| EnrolError::Answer(format!("it is no greeting: {error}")))?;
    let (certificate, hello) = response.open(&request, &token.root_pin).map_err(|source| {
        EnrolError::NotOurController {
            url: client.url().to_owned(),
            source,
        }
    })?;
    Ok(Greeting {
        certificate_envelope: response.certificate,
        certificate,
        hello_envelope: response.hello,
        hello,
    })
}

/// A useless token ends here, before anything is written. A used one may be our own, from an
/// enrolment whose reply was lost: then its identity is on disk.
fn judge_token(hello: &Hello, is_repeat: bool, token: &Token) -> Result<(), EnrolError> {
    match hello.key_status {
        KeyStatus::Active => Ok(()),
        _ if is_repeat => Ok(()),
        KeyStatus::Used { at_ms } => Err(EnrolError::TokenUsed { at: date(at_ms) }),
        KeyStatus::Expired { at_ms } => Err(EnrolError::TokenExpired { at: date(at_ms) }),
        KeyStatus::Revoked => Err(EnrolError::TokenRevoked),
        KeyStatus::Unknown => Err(EnrolError::TokenUnknown {
            url: token.url.clone(),
        }),
    }
}

/// Round trip 2, there.
fn request(
    greeting: &Greeting,
    pending: &PendingEnrolment,
    host: &Host,
    registration: PublicKey,
    rng: &mut impl CryptoRng,
) -> Result<EnrolRequest, EnrolError> {
    let identity = PublicKey::from(&pending.key);
    let certificate = &greeting.certificate;
    let sealing_key = certificate.sealing_key(greeting.hello.controller_time_ms)?;
    let components = zeroize::Zeroizing::new(
        serde_json::to_vec(&host.components).expect("components serialise"),
    );
    Ok(EnrolRequest {
        transcript: transcript(
            &greeting.hello_envelope,
            &certificate.root,
            &registration,
            &identity,
        ),
        hello: greeting.hello_envelope.clone(),
        idempotency_id: pending.idempotency_id,
        identity_key: identity,
        capabilities: host.capabilities.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        hostname: host.hostname.clone(),
        os_version: host.os_version.clone(),
        location: host.location.clone(),
        hardware: Sealed::seal(
            sealing_key,
            Context::Hardware {
                identity: &identity.id(),
            },
            &components,
            rng,
        )?,
        verification_hash: host.components.verification_hash(),
    })
}

/// A good end, to be written.
struct Outcome {
    enrolled: Enrolled,
    lane: LaneState,
}

/// Round trip 2, back.
fn finish(
    reply: EnrolReply,
    greeting: &Greeting,
    pending: &PendingEnrolment,
    token: &Token,
    options: &Options,
) -> Result<Outcome, EnrolError> {
    let (server_id, epoch, nonce, status, warnings) = match reply.outcome {
        EnrolOutcome::Enrolled {
            server_id,
            epoch,
            nonce,
            status,
            warnings,
        } => (server_id, epoch, nonce, status, warnings),
        EnrolOutcome::Refused { code, message } => {
            return Err(match code {
                EnrolRefusal::TokenUsed => EnrolError::TokenUsed {
                    at: "an earlier day".into(),
                },
                EnrolRefusal::TokenExpired => EnrolError::TokenExpired {
                    at: date(reply.controller_time_ms),
                },
                EnrolRefusal::TokenRevoked => EnrolError::TokenRevoked,
                EnrolRefusal::TokenUnknown => EnrolError::TokenUnknown {
                    url: token.url.clone(),
                },
                EnrolRefusal::StaleHello | EnrolRefusal::BadRequest => EnrolError::Refused(message),
            });
        }
    };
    let identity = PublicKey::from(&pending.key);
    let lane = LaneState::enrolled(&server_id, epoch, identity, nonce, reply.controller_time_ms);
    let enrolment = Enrolment {
        version: 1,
        server_id,
        epoch,
        enrolled_ms: clock::now().wall_ms,
        urls: options.urls.clone(),
        root_pin: token.root_pin,
        server_pin: options.server_pin,
        identity_key: identity,
        registration_key: Some(greeting.hello.registration_key),
        certificate: greeting.certificate_envelope.clone(),
    };
    let enrolled = Enrolled {
        enrolment,
        status,
        warnings,
    };
    Ok(Outcome { enrolled, lane })
}

fn date(at_ms: i64) -> String {
    jiff::Timestamp::from_millisecond(at_ms)
        .map_or_else(|_| "an unknown day".to_owned(), |at| format!("{at:.0}"))
}
