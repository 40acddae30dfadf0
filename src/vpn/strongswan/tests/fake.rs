//! A charon of a few lines: it confirms, lists what it has, and terminates what it is told to.

use std::collections::BTreeMap;

use super::super::{
    conversation::Side,
    message::{Node, Section},
    packet::{Framer, Kind, Packet},
};

/// One SA of it.
#[derive(Clone, Debug)]
pub(super) struct Sa {
    pub(super) id: u64,
    pub(super) state: &'static str,
    pub(super) name: &'static str,
    pub(super) host: &'static str,
    pub(super) established: u64,
    /// Unique id, bytes in, bytes out.
    pub(super) children: Vec<(u64, u64, u64)>,
    pub(super) passive: Option<&'static str>,
    pub(super) active: Option<&'static str>,
    pub(super) local_vip: bool,
    pub(super) port: &'static str,
    /// Until it is to be authenticated anew.
    pub(super) reauth_in: Option<&'static str>,
}

impl Sa {
    pub(super) fn up(id: u64, name: &'static str) -> Self {
        Self {
            id,
            state: "ESTABLISHED",
            name,
            host: "192.0.2.2",
            established: 0,
            children: Vec::new(),
            passive: None,
            active: None,
            local_vip: false,
            port: "4500",
            reauth_in: None,
        }
    }

    pub(super) fn deleting(self, passive: Option<&'static str>) -> Self {
        Self {
            state: "DELETING",
            passive,
            active: passive.is_none().then_some("IKE_DELETE"),
            ..self
        }
    }

    /// The message with this SA at its top, after `before`.
    pub(super) fn message(&self, before: &[(&str, &str)]) -> Vec<u8> {
        let own = |text: &dyn ToString| text.to_string().into_bytes();
        let (id, established) = (own(&self.id), own(&self.established));
        let numbers: Vec<[Vec<u8>; 4]> = self
            .children
            .iter()
            .map(|(id, rx, tx)| [own(&format!("net-{id}")), own(id), own(rx), own(tx)])
            .collect();
        let value = |text: &'static str| Node::Value(text.as_bytes());
        let children = numbers.iter().map(|[name, id, rx, tx]| {
            let child = vec![
                (b"uniqueid".as_slice(), Node::Value(id.as_slice())),
                (b"bytes-in", Node::Value(rx)),
                (b"bytes-out", Node::Value(tx)),
                (b"use-in", value("0")),
            ];
            (name.as_slice(), Node::Section(Section::of(child)))
        });
        let mut sa: Vec<(&[u8], Node<'_>)> = vec![
            (b"uniqueid", Node::Value(&id)),
            (b"state", value(self.state)),
            (b"remote-host", value(self.host)),
            (b"remote-port", value(self.port)),
            (b"remote-id", value(self.name)),
            (b"established", Node::Value(&established)),
            (b"remote-vips", Node::List(vec![b"203.0.113.1"])),
            (b"child-sas", Node::Section(Section::of(children.collect()))),
        ];
        if let Some(reauth_in) = self.reauth_in.filter(|_| self.state == "ESTABLISHED") {
            sa.push((b"reauth-time", value(reauth_in)));
        }
        if self.local_vip {
            sa.push((b"local-vips", Node::List(vec![b"203.0.113.9"])));
        }
        for (list, task) in [
            ("tasks-passive", self.passive),
            ("tasks-active", self.active),
        ] {
            if let Some(task) = task {
                sa.push((list.as_bytes(), Node::List(vec![task.as_bytes()])));
            }
        }
        let mut all: Vec<(&[u8], Node<'_>)> = before
            .iter()
            .map(|(name, value)| (name.as_bytes(), Node::Value(value.as_bytes())))
            .collect();
        all.push((b"rw", Node::Section(Section::of(sa))));
        Section::of(all).encode()
    }
}

/// See the module's page.
#[derive(Default)]
pub(super) struct Charon {
    pub(super) sas: BTreeMap<u64, Sa>,
    /// It hears, and says nothing.
    pub(super) mute: bool,
    /// It does not know this event or command.
    pub(super) ignorant_of: Option<&'static str>,
    /// What it was asked, without subscriptions.
    pub(super) asked: Vec<String>,
    pub(super) framers: [Framer; 2],
    /// Events that the next look at the events' socket brings.
    pub(super) happened: Vec<u8>,
}

impl Charon {
    pub(super) fn with(sas: impl IntoIterator<Item = Sa>) -> Self {
        Self {
            sas: sas.into_iter().map(|sa| (sa.id, sa)).collect(),
            ..Self::default()
        }
    }

    /// What it says to what it hears.
    pub(super) fn hear(&mut self, side: Side, bytes: &[u8]) -> Vec<u8> {
        let index = usize::from(side == Side::Commands);
        let mut framer = std::mem::take(&mut self.framers[index]);
        let mut said = Vec::new();
        let read = framer.feed(bytes, &mut |packet| {
            said.extend(self.answer(packet));
            Ok(())
        });
        read.expect("the agent speaks VICI");
        self.framers[index] = framer;
        if side == Side::Events {
            said.append(&mut self.happened);
        }
        if self.mute { Vec::new() } else { said }
    }

    fn answer(&mut self, packet: Packet<'_>) -> Vec<u8> {
        let name = String::from_utf8(packet.name.to_vec()).unwrap();
        let known = self.ignorant_of != Some(name.as_str());
        if packet.kind == Kind::EventRegister {
            let kind = if known {
                Kind::EventConfirm
            } else {
                Kind::EventUnknown
            };
            return plain(kind, b"");
        }
        self.asked.push(name.clone());
        if !known {
            return plain(Kind::CmdUnknown, b"");
        }
        let mut said = Vec::new();
        let mut reply = Section::default();
        let arguments = Section::parse(packet.message).unwrap();
        match name.as_str() {
            "version" => reply = values(&[("version", "5.9.8")]),
            "list-sas" => {
                for sa in self.sas.values() {
                    said.extend(event("list-sa", &sa.message(&[])));
                }
            }
            "terminate" => {
                assert_eq!(arguments.value("force"), Some(b"yes".as_slice()));
                let id = arguments.number("ike-id").unwrap();
                match self.sas.get(&id).cloned() {
                    Some(sa) => {
                        self.goes(sa.deleting(None));
                        reply = values(&[("success", "yes"), ("matches", "1")]);
                    }
                    None => reply = values(&[("success", "no"), ("matches", "0")]),
                }
            }
            other => panic!("the agent asks for `{other}`"),
        }
        said.extend(plain(Kind::CmdResponse, &reply.encode()));
        said
    }

    /// `sa` comes up.
    pub(super) fn comes(&mut self, sa: Sa) {
        self.happens("ike-updown", &sa.message(&[("up", "yes")]));
        self.sas.insert(sa.id, sa);
    }

    /// `sa`, which tells why, goes down.
    pub(super) fn goes(&mut self, sa: Sa) {
        let without = Sa {
            children: Vec::new(),
            ..sa.clone()
        };
        self.happens("ike-updown", &without.message(&[]));
        if !sa.children.is_empty() {
            self.happens("child-updown", &sa.message(&[]));
        }
        self.sas.remove(&sa.id);
    }

    /// The SA `old` is rekeyed.
    pub(super) fn rekeys(&mut self, old: u64, new: u64) {
        let mut sa = self.sas.remove(&old).unwrap();
        let ids = [old.to_string(), new.to_string()];
        let id = |id: &'static str, text: &'static str| {
            let id = Section::of(vec![(id.as_bytes(), Node::Value(text.as_bytes()))]);
            Node::Section(id)
        };
        let [old, new_text] = ids.map(|text| &*text.leak());
        let both = vec![
            (b"old".as_slice(), id("uniqueid", old)),
            (b"new", id("uniqueid", new_text)),
        ];
        let message = Section::of(vec![(b"rw".as_slice(), Node::Section(Section::of(both)))]);
        self.happens("ike-rekey", &message.encode());
        sa.id = new;
        self.sas.insert(new, sa);
    }

    pub(super) fn happens(&mut self, name: &str, message: &[u8]) {
        self.happened.extend(event(name, message));
    }
}

pub(super) fn event(name: &str, message: &[u8]) -> Vec<u8> {
    let packet = Packet {
        kind: Kind::Event,
        name: name.as_bytes(),
        message,
    };
    packet.encode()
}

pub(super) fn plain(kind: Kind, message: &[u8]) -> Vec<u8> {
    let packet = Packet {
        kind,
        name: b"",
        message,
    };
    packet.encode()
}

fn values(all: &[(&'static str, &'static str)]) -> Section<'static> {
    let one = |(name, value): &(&'static str, &'static str)| {
        (name.as_bytes(), Node::Value(value.as_bytes()))
    };
    Section::of(all.iter().map(one).collect())
}
