//! Messages of two attackers: one changes what others signed, the other holds the host's own key
//! (a compromised host) and signs whatever he likes.

use ed25519_dalek::SigningKey;
use serde_json::{Value, json};
use vpn_node_protocol::encoding::{Digest, Hex};
use vpn_node_protocol::envelope::Envelope;

use super::change::changed;
use super::dice::Dice;
use super::scene::{KINDS, Scene, payload};
use crate::raw;

/// The kinds of change.
pub(super) const FAMILIES: [(&str, Make); 8] = [
    ("envelope", envelope),
    ("payload, old signature", unsigned),
    ("payload, signed again", signed_again),
    ("header, signed again", header),
    ("parts of two messages", mixed),
    ("signed by another", foreign),
    ("sent before", repeated),
    ("huge, deep and empty", extreme),
];

type Make = fn(&Material, &Scene, &mut Dice) -> Mutant;

/// Where to, and what.
pub(super) struct Mutant {
    pub(super) path: &'static str,
    pub(super) body: Vec<u8>,
}

/// One message of every kind, and everything that went over the wire before.
pub(super) struct Material {
    originals: Vec<Original>,
    recorded: Vec<Mutant>,
    nonces: Vec<Value>,
    chains: Vec<Value>,
    proofs: Vec<Value>,
}

struct Original {
    name: &'static str,
    path: &'static str,
    /// The whole body.
    json: Value,
    /// What was signed; the body itself when nothing was.
    payload: Value,
}

impl Original {
    fn is_signed(&self) -> bool {
        self.json.get("payloadType").is_some()
    }

    fn payload_type(&self) -> &str {
        self.json["payloadType"].as_str().unwrap_or("none")
    }

    /// The right keys.
    fn keys<'a>(&self, scene: &'a Scene) -> Vec<&'a SigningKey> {
        match self.name {
            "enrol-request" => vec![&scene.newcomer.registration, &scene.newcomer.key],
            _ => vec![&scene.host.key],
        }
    }

    /// Another payload under the right keys.
    fn signed(&self, scene: &Scene, payload: &str) -> Mutant {
        let keys = self.keys(scene);
        self.with(match self.is_signed() {
            true => raw::signed(self.payload_type(), payload.as_bytes(), &keys),
            false => payload.as_bytes().to_vec(),
        })
    }

    fn with(&self, body: impl Into<Vec<u8>>) -> Mutant {
        let body = body.into();
        Mutant {
            path: self.path,
            body,
        }
    }
}

impl Material {
    pub(super) fn of(scene: &Scene) -> Self {
        let original = |kind: &super::scene::Kind| {
            let json: Value = serde_json::from_slice(&(kind.make)(scene)).unwrap();
            Original {
                name: kind.name,
                path: kind.path,
                payload: match json.get("payload") {
                    Some(_) => payload(&json),
                    None => json.clone(),
                },
                json,
            }
        };
        let messages = |body: Vec<u8>| Mutant {
            path: "/v1/messages",
            body,
        };
        let said = scene
            .said
            .iter()
            .map(|envelope| messages(envelope.to_json()));
        let heard = scene
            .answers
            .iter()
            .map(|answer| messages(answer.body.clone()));
        let enrolled = Mutant {
            path: "/v1/enrol/complete",
            body: scene.enrolment.clone(),
        };
        let replies: Vec<Value> = scene
            .answers
            .iter()
            .map(|answer| serde_json::from_slice(&answer.body).unwrap())
            .collect();
        let of = |name: &str| -> Vec<Value> {
            let headers = replies
                .iter()
                .map(|reply| payload(reply)["header"][name].clone());
            headers.collect()
        };
        Self {
            originals: KINDS.iter().map(original).collect(),
            recorded: said.chain(heard).chain([enrolled]).collect(),
            nonces: of("nonce"),
            chains: of("chain"),
            proofs: replies,
        }
    }

    /// A mutant, and the number of its family.
    pub(super) fn mutant(&self, scene: &Scene, dice: &mut Dice) -> (usize, Mutant) {
        let family = dice.below(FAMILIES.len());
        let (_, make) = FAMILIES[family];
        (family, make(self, scene, dice))
    }

    fn any(&self, dice: &mut Dice) -> &Original {
        dice.pick(&self.originals)
    }

    /// Any signed one.
    fn signed(&self, dice: &mut Dice) -> &Original {
        loop {
            let original = self.any(dice);
            if original.is_signed() {
                return original;
            }
        }
    }
}

fn envelope(material: &Material, _: &Scene, dice: &mut Dice) -> Mutant {
    let (original, other) = (material.any(dice), material.any(dice));
    original.with(changed(&original.json, &other.json, dice))
}

fn unsigned(material: &Material, _: &Scene, dice: &mut Dice) -> Mutant {
    let (original, other) = (material.signed(dice), material.signed(dice));
    let payload = changed(&original.payload, &other.payload, dice);
    let mut json = original.json.clone();
    json["payload"] = raw::envelope("", payload.as_bytes(), &[])["payload"].clone();
    original.with(json.to_string())
}

fn signed_again(material: &Material, scene: &Scene, dice: &mut Dice) -> Mutant {
    let (original, other) = (material.any(dice), material.any(dice));
    let payload = changed(&original.payload, &other.payload, dice);
    original.signed(scene, &payload)
}

/// Who, which number, which chain, which nonce: wrong values that are well formed, most of them
/// taken from what went before.
fn header(material: &Material, scene: &Scene, dice: &mut Dice) -> Mutant {
    let original = material.signed(dice);
    let mut payload = original.payload.clone();
    let other_id = scene.other.server_id.clone();
    let random = json!(Hex([u8::try_from(dice.below(256)).unwrap(); 32]));
    let seqs = [
        0,
        1,
        2,
        5,
        6,
        7,
        8,
        4097,
        u64::MAX >> 1,
        (u64::MAX >> 1) + 1,
        u64::MAX,
    ];
    let changes: [(&str, Value); 13] = [
        ("server_id", json!(other_id)),
        ("server_id", json!("")),
        ("epoch", json!(*dice.pick(&[0, 2, 7, u32::MAX]))),
        ("seq", json!(*dice.pick(&seqs))),
        ("seq", json!(*dice.pick(&seqs))),
        ("seq", json!(-1)),
        ("nonce", dice.pick(&material.nonces).clone()),
        ("nonce", random.clone()),
        ("chain", dice.pick(&material.chains).clone()),
        ("chain", random.clone()),
        ("proof", dice.pick(&material.proofs).clone()),
        ("transcript", random.clone()),
        (
            "request_id",
            json!(uuid::Uuid::from_u128(u128::from(dice.next()))),
        ),
    ];
    for _ in 0..=dice.below(3) {
        let (name, value) = dice.pick(&changes).clone();
        let inside = payload.get("header").is_some();
        let place = if inside {
            &mut payload["header"]
        } else {
            &mut payload
        };
        place[name] = value;
    }
    original.signed(scene, &payload.to_string())
}

fn mixed(material: &Material, scene: &Scene, dice: &mut Dice) -> Mutant {
    let (one, two) = (material.signed(dice), material.signed(dice));
    let mut json = one.json.clone();
    match dice.below(7) {
        0 => json["signatures"] = two.json["signatures"].clone(),
        1 => json["payloadType"] = two.json["payloadType"].clone(),
        2 => json["payload"] = two.json["payload"].clone(),
        // The right type and a right signature over another one's payload.
        3 => return one.signed(scene, &two.payload.to_string()),
        // One's header, the other's body.
        4 => {
            let mut payload = one.payload.clone();
            payload["body"] = two.payload["body"].clone();
            return one.signed(scene, &payload.to_string());
        }
        // To another place.
        5 => return two.with(json.to_string()),
        _ => {
            let more = two.json["signatures"].as_array().expect("a list").clone();
            json["signatures"]
                .as_array_mut()
                .expect("a list")
                .extend(more);
        }
    }
    one.with(json.to_string())
}

/// Another host's messages under this host's key id, and the other way round.
fn foreign(material: &Material, scene: &Scene, dice: &mut Dice) -> Mutant {
    let original = material.signed(dice);
    let (host, other) = (&scene.host, &scene.other);
    let stranger = SigningKey::from_bytes(&[77; 32]);
    let theirs = other.sign(other.header(&scene.world), other.heartbeat());
    let mut theirs = serde_json::to_value(&theirs).unwrap();
    let text = original.payload.to_string();
    match dice.below(5) {
        0 => {
            theirs["signatures"][0]["keyid"] = json!(host.identity().id());
            return original.with(theirs.to_string());
        }
        // What the other would say, signed by this one; and what this one says by the other.
        1 => {
            let said = payload(&theirs).to_string();
            return original.signed(scene, &said);
        }
        2 => {
            let body = raw::signed(original.payload_type(), text.as_bytes(), &[&other.key]);
            return original.with(body);
        }
        _ => {}
    }
    let mut json = raw::envelope(original.payload_type(), text.as_bytes(), &[&stranger]);
    if dice.below(2) == 0 {
        let whom = dice.pick(&[host, other]).identity();
        json["signatures"][0]["keyid"] = json!(whom.id());
    }
    original.with(json.to_string())
}

fn repeated(material: &Material, _: &Scene, dice: &mut Dice) -> Mutant {
    let recorded = dice.pick(&material.recorded);
    // Mostly where it went then.
    let path = match dice.below(4) {
        0 => material.any(dice).path,
        _ => recorded.path,
    };
    Mutant {
        path,
        body: recorded.body.clone(),
    }
}

fn extreme(material: &Material, scene: &Scene, dice: &mut Dice) -> Mutant {
    let original = material.any(dice);
    let deep = *dice.pick(&[127, 129, 10_000]);
    let text = match dice.below(8) {
        0 => String::new(),
        1 => "{}".to_owned(),
        2 => "[]".to_owned(),
        3 => "null".to_owned(),
        4 => "[".repeat(deep),
        5 => format!("{}{}", "[".repeat(deep), "]".repeat(deep)),
        6 => format!("{{\"header\":{}", "{\"header\":".repeat(deep)),
        _ => {
            let mut payload = original.payload.clone();
            // Up to the limit of the largest body, and beyond it.
            payload["more"] = "x"
                .repeat(*dice.pick(&[1000, 40_000, 300_000, 400_000]))
                .into();
            payload.to_string()
        }
    };
    match dice.below(3) {
        0 => original.with(text),
        _ => original.signed(scene, &text),
    }
}

/// Whether payload and type are as they were: all that a signature covers.
pub(super) fn is_dressing(original: &[u8], flipped: &[u8]) -> bool {
    let read = |bytes| Envelope::parse(bytes, usize::MAX).ok();
    let digest = |bytes| -> Option<Digest> { Some(read(bytes)?.digest()) };
    digest(original).is_some_and(|it| digest(flipped) == Some(it))
}
