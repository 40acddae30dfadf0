//! The signed examples, and what a receiver believes of an envelope.

use ed25519_dalek::SigningKey;
use serde_json::Value;
use vpn_node_protocol::certificate::ControllerCertificate;
use vpn_node_protocol::directive::Directive;
use vpn_node_protocol::encoding::Digest;
use vpn_node_protocol::enrolment::{EnrolReply, EnrolRequest, Hello};
use vpn_node_protocol::envelope::{Envelope, EnvelopeError, Payload};
use vpn_node_protocol::identity::{Introduction, IntroductionReply, Rotate, Witness};
use vpn_node_protocol::keys::PublicKey;
use vpn_node_protocol::limits::MAX_REQUEST_BYTES;
use vpn_node_protocol::message::{
    ChallengeAnswer, ConnectionBatch, Heartbeat, Message, Poll, PollReply, Refusal, Reply,
};

/// One signed example.
pub(crate) struct Example {
    pub(crate) name: String,
    pub(crate) payload_type: String,
    pub(crate) payload: String,
    pub(crate) signers: Vec<SigningKey>,
    pub(crate) envelope: Value,
}

/// What a receiver takes from an envelope: the payload as it understood it, and the digest that
/// names the message in replies and in the chain.
pub(crate) type Believed = (String, Digest);

pub(crate) fn examples() -> Vec<Example> {
    let file: Value = serde_json::from_str(include_str!("../../vectors/messages.json")).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let signer = |name: &Value| {
        let seed = text(&file["keys"][name.as_str().unwrap()]["seed"]);
        let seed: vpn_node_protocol::encoding::Hex<32> = seed.parse().unwrap();
        SigningKey::from_bytes(&seed.0)
    };
    let example = |case: &Value| Example {
        name: text(&case["name"]),
        payload_type: text(&case["type"]),
        payload: text(&case["payload"]),
        signers: case["signed_by"]
            .as_array()
            .unwrap()
            .iter()
            .map(signer)
            .collect(),
        envelope: case["envelope"].clone(),
    };
    let examples: Vec<_> = file["messages"]
        .as_array()
        .unwrap()
        .iter()
        .map(example)
        .collect();
    assert!(examples.len() >= 16);
    examples
}

impl Example {
    /// Receives bytes where a message of this kind is expected: the whole way, with every
    /// signature that the kind must carry.
    pub(crate) fn receive(&self, bytes: &[u8]) -> Result<Believed, EnvelopeError> {
        let envelope = Envelope::parse(bytes, MAX_REQUEST_BYTES)?;
        let mut payload = String::new();
        for signer in &self.signers {
            payload = opened(&self.payload_type, &envelope, &signer.into())?;
        }
        Ok((payload, envelope.digest()))
    }

    /// What is believed of the example itself.
    pub(crate) fn believed(&self) -> Believed {
        self.receive(self.envelope.to_string().as_bytes()).unwrap()
    }
}

fn opened(kind: &str, envelope: &Envelope, key: &PublicKey) -> Result<String, EnvelopeError> {
    fn of<P: Payload>(envelope: &Envelope, key: &PublicKey) -> Result<String, EnvelopeError> {
        Ok(serde_json::to_string(&envelope.open::<P>(key)?).unwrap())
    }
    type Opener = fn(&Envelope, &PublicKey) -> Result<String, EnvelopeError>;
    let openers: [(&str, Opener); 16] = [
        (ControllerCertificate::TYPE, of::<ControllerCertificate>),
        (Hello::TYPE, of::<Hello>),
        (EnrolRequest::TYPE, of::<EnrolRequest>),
        (EnrolReply::TYPE, of::<EnrolReply>),
        (
            <Message<Heartbeat> as Payload>::TYPE,
            of::<Message<Heartbeat>>,
        ),
        (
            <Message<ChallengeAnswer> as Payload>::TYPE,
            of::<Message<ChallengeAnswer>>,
        ),
        (
            <Message<ConnectionBatch> as Payload>::TYPE,
            of::<Message<ConnectionBatch>>,
        ),
        (Reply::TYPE, of::<Reply>),
        (Refusal::TYPE, of::<Refusal>),
        (Directive::TYPE, of::<Directive>),
        (Poll::TYPE, of::<Poll>),
        (PollReply::TYPE, of::<PollReply>),
        (<Message<Rotate> as Payload>::TYPE, of::<Message<Rotate>>),
        (Introduction::TYPE, of::<Introduction>),
        (IntroductionReply::TYPE, of::<IntroductionReply>),
        (Witness::TYPE, of::<Witness>),
    ];
    let (_, open) = openers
        .iter()
        .find(|(known, _)| *known == kind)
        .unwrap_or_else(|| panic!("no kind {kind}"));
    open(envelope, key)
}
