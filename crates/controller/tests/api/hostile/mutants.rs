//! Messages of two attackers: one changes what others signed, the other holds the host's own key
//! (a compromised host) and signs whatever he likes.

use ed25519_dalek::SigningKey;
use serde_json::{Value, json};
use vpn_node_protocol::encoding::{Digest, Hex};
use vpn_node_protocol::envelope::Envelope;
use vpn_node_protocol::identity::{Introduction, Rotate, Witness};
use vpn_node_protocol::message::{Body as _, Heartbeat, Refusal, RefusalCode};

use super::change::changed;
use super::dice::Dice;
use super::scene::{KINDS, Scene, payload};
use crate::raw;

/// The kinds of change.
pub(super) const FAMILIES: [(&str, Make); 11] = [
    ("envelope", envelope),
    ("payload, old signature", unsigned),
    ("payload, signed again", signed_again),
    ("header, signed again", header),
    ("parts of two messages", mixed),
    ("signed by another", foreign),
    ("sent before", repeated),
    ("huge, deep and empty", extreme),
    ("a rotation to any key", rotation),
    ("an introduction of any rotations", introduction),
    ("a witness of any refusal", witness),
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
            "rotate" => vec![&scene.host.key, &scene.new_key],
            "introduction" => vec![&scene.moved.key],
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
        let others = scene.others_replies.iter();
        let others = others.map(|reply| serde_json::to_value(reply).unwrap());
        let of = |name: &str| -> Vec<Value> {
            let headers = replies
                .iter()
                .map(|reply| payload(reply)["header"][name].clone());
            headers.collect()
        };
        let more = [&scene.ahead, &scene.behind].map(|answer| answer.body.clone());
        let rotations = scene.moved.rotations.iter().chain(&scene.other.rotations);
        let rotations = rotations.map(|rotation| rotation.request.to_json());
        let more = more.into_iter().chain(rotations);
        let more = more.chain([scene.refused.to_json()]).map(messages);
        Self {
            originals: KINDS.iter().map(original).collect(),
            recorded: said.chain(heard).chain(more).chain([enrolled]).collect(),
            nonces: of("nonce"),
            chains: of("chain"),
            proofs: replies.into_iter().chain(others).collect(),
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
    // Another host's, now and then: with its next key, the one in force, the one before.
    let who = *dice.pick(&[
        &scene.other,
        &scene.in_force,
        &scene.retired,
        &scene.unmoved,
    ]);
    let of_another = dice.below(4) == 0;
    let mut payload = match of_another {
        true => json_of(&who.sign(who.header(&scene.world), who.heartbeat())),
        false => original.payload.clone(),
    };
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
    let text = payload.to_string();
    match of_another {
        true => Mutant {
            path: "/v1/messages",
            body: raw::signed(Heartbeat::TYPE, text.as_bytes(), &[&who.key]),
        },
        false => original.signed(scene, &text),
    }
}

/// What an envelope says.
fn json_of(envelope: &Envelope) -> Value {
    payload(&serde_json::to_value(envelope).unwrap())
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

/// To a key that is in use, was, or is somebody's token; signed by both, by one, or in whatever order.
fn rotation(_: &Material, scene: &Scene, dice: &mut Dice) -> Mutant {
    let who = *dice.pick(&[&scene.host, &scene.host, &scene.in_force, &scene.other]);
    let stranger = SigningKey::from_bytes(&[77; 32]);
    let new_key = *dice.pick(&[
        &stranger,
        &scene.host.key,
        &scene.in_force.key,
        &scene.retired.key,
        &scene.other.key,
        &scene.moved.key,
        &scene.unmoved.key,
        &scene.host.registration,
        &scene.newcomer.registration,
        &scene.newcomer.key,
    ]);
    let text = json_of(&who.rotate_request(&scene.world, new_key)).to_string();
    let keys: &[&SigningKey] = match dice.below(8) {
        0 => &[&who.key],
        1 => &[new_key],
        2 => &[new_key, &who.key],
        3 => &[&scene.retired.key, &who.key, new_key],
        _ => &[&who.key, new_key],
    };
    Mutant {
        path: "/v1/messages",
        body: raw::signed(Rotate::TYPE, text.as_bytes(), keys),
    }
}

/// Rotations of two hosts that were really accepted, and one that was not, as a liar puts them.
fn introduction(_: &Material, scene: &Scene, dice: &mut Dice) -> Mutant {
    let (moved, other) = (&scene.moved, &scene.other);
    let mut all = moved.rotations.clone();
    all.extend(other.rotations.clone());
    let mut unanswered = all[0].clone();
    unanswered.request = scene.unmoved.rotate_request(&scene.world, &scene.new_key);
    all.push(unanswered);
    let mut mixed = all[1].clone();
    mixed.reply = dice.pick(&all).reply.clone();
    all.push(mixed);
    let mut rotations = moved.rotations.clone();
    for _ in 0..dice.below(3) {
        match dice.below(4) {
            0 => rotations.insert(dice.below(rotations.len() + 1), dice.pick(&all).clone()),
            1 if !rotations.is_empty() => drop(rotations.remove(dice.below(rotations.len()))),
            2 => rotations = other.rotations.clone(),
            _ => rotations.reverse(),
        }
    }
    let key = *dice.pick(&[
        &moved.key,
        &moved.key,
        &moved.key,
        &other.key,
        &scene.in_force.key,
        &scene.new_key,
    ]);
    let said = Introduction {
        server_id: dice
            .pick(&[&moved.server_id, &moved.server_id, &other.server_id])
            .to_string(),
        epoch: *dice.pick(&[moved.epoch, moved.epoch, 1, 2, 4, u32::MAX]),
        rotations,
    };
    Mutant {
        path: "/v1/introduction",
        body: Envelope::sign(&said, &[key]).to_json(),
    }
}

/// Refusals that are old, of another kind, of the host's own making or of another controller's.
fn witness(_: &Material, scene: &Scene, dice: &mut Dice) -> Mutant {
    let who = *dice.pick(&[&scene.host, &scene.in_force, &scene.other, &scene.retired]);
    let behind: Refusal = scene.own(&scene.behind).expect("our own refusal");
    let ours = |change: &dyn Fn(&mut Refusal)| {
        let mut refusal = behind.clone();
        change(&mut refusal);
        refusal
    };
    let off_ms = *dice.pick(&[0, 1, -60_000, -60_001, -3_600_000]);
    let dated = ours(&|refusal| refusal.controller_time_ms += off_ms);
    let refusal = match dice.below(6) {
        0 => scene
            .world
            .keys
            .sign(&ours(&|it| it.code = RefusalCode::Quarantined)),
        1 => Envelope::parse(&scene.ahead.body, 1 << 20).unwrap(),
        2 => Envelope::sign(&dated, &[&who.key]),
        _ => scene.world.keys.sign(&dated),
    };
    let said = Witness {
        server_id: who.server_id.clone(),
        epoch: *dice.pick(&[who.epoch, who.epoch, who.epoch, 2]),
        refusal,
        seq: *dice.pick(&[0, 1, 2, 5, 6, u64::MAX]),
        boot_id: who.boot_id,
        boottime_ms: dice.next(),
    };
    let key = match dice.below(6) {
        0 => &scene.newcomer.key,
        1 => &scene.host.key,
        _ => &who.key,
    };
    Mutant {
        path: "/v1/messages",
        body: Envelope::sign(&said, &[key]).to_json(),
    }
}

/// Whether payload and type are as they were: all that a signature covers.
pub(super) fn is_dressing(original: &[u8], flipped: &[u8]) -> bool {
    let read = |bytes| Envelope::parse(bytes, usize::MAX).ok();
    let digest = |bytes| -> Option<Digest> { Some(read(bytes)?.digest()) };
    digest(original).is_some_and(|it| digest(flipped) == Some(it))
}
