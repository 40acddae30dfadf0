//! The life of a token: two hosts that hold the same string, crashes at every step, and a network
//! that loses, repeats and delays. One server at most; and whoever the token was spent on can
//! always finish with that same string.

use std::collections::BTreeSet;

use super::explorer::{Broken, Explored, Model, explore};

/// What is built wrong on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    /// The identity is sent before it is on disk.
    SentBeforeDurable,
    /// The controller looks at the token in one transaction and spends it in another.
    SpendIsNotConditional,
    /// A used token is refused to everybody, also to the host that it was spent on.
    NoRepeat,
    /// The host makes a new identity for each attempt.
    IdentityAnew,
}

/// An identity key, by number.
type Identity = u8;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Host {
    running: bool,
    /// In `identity.json` and `enrollment.pending.json`.
    durable: Option<Identity>,
    memory: Option<Identity>,
    enrolled: bool,
    crashes: u8,
    made: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Message {
    Request { host: u8, identity: Identity },
    Enrolled { host: u8, identity: Identity },
    Refused { host: u8, identity: Identity },
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    hosts: [Host; 2],
    /// Identities that were bound to a server: one server each.
    servers: BTreeSet<Identity>,
    /// On whom the token was spent first.
    spent_on: Option<Identity>,
    /// Only with [`Fault::SpendIsNotConditional`]: requests that saw the token unspent.
    judged: BTreeSet<Message>,
    network: BTreeSet<Message>,
    repeats: u8,
}

struct Enrolment {
    fault: Fault,
    most_crashes: u8,
}

const MOST_REPEATS: u8 = 2;
const MOST_IDENTITIES: u8 = 2;

impl Enrolment {
    fn host_steps(&self, state: &State, n: u8, out: &mut Vec<(String, State)>) {
        let host = &state.hosts[n as usize];
        let mut step = |name: &str, change: &dyn Fn(&mut State)| {
            let mut next = state.clone();
            change(&mut next);
            out.push((format!("host {n}: {name}"), next));
        };
        let at = n as usize;
        if !host.running {
            step("starts", &|s| {
                s.hosts[at].running = true;
                s.hosts[at].memory = s.hosts[at].durable;
            });
            return;
        }
        if host.crashes < self.most_crashes {
            step("is killed", &|s| {
                s.hosts[at].running = false;
                s.hosts[at].memory = None;
                s.hosts[at].crashes += 1;
            });
        }
        if host.enrolled {
            return;
        }
        let anew = self.fault == Fault::IdentityAnew && host.memory.is_some();
        if (host.memory.is_none() || anew) && host.made < MOST_IDENTITIES {
            let identity = n * 10 + host.made;
            step("makes an identity", &|s| {
                s.hosts[at].memory = Some(identity);
                s.hosts[at].made += 1;
                if self.fault != Fault::SentBeforeDurable {
                    s.hosts[at].durable = Some(identity);
                }
            });
        }
        let Some(identity) = host.memory else { return };
        if host.durable != Some(identity) {
            step("writes it down", &|s| s.hosts[at].durable = Some(identity));
        }
        let request = Message::Request { host: n, identity };
        let durable = host.durable == Some(identity);
        if (durable || self.fault == Fault::SentBeforeDurable) && !state.network.contains(&request)
        {
            step("asks", &|s| {
                s.network.insert(request.clone());
            });
        }
        let answer = Message::Enrolled { host: n, identity };
        if state.network.contains(&answer) {
            step("is enrolled", &|s| {
                s.network.remove(&answer);
                s.hosts[at].enrolled = true;
                s.hosts[at].durable = Some(identity);
            });
        }
    }

    fn controller_steps(&self, state: &State, out: &mut Vec<(String, State)>) {
        for message in &state.network {
            let mut lost = state.clone();
            lost.network.remove(message);
            out.push((format!("lost: {message:?}"), lost));
            let Message::Request { host, identity } = *message else {
                continue;
            };
            for repeated in [false, true] {
                if repeated && state.repeats >= MOST_REPEATS {
                    continue;
                }
                let mut next = state.clone();
                if repeated {
                    next.repeats += 1;
                } else {
                    next.network.remove(message);
                }
                if self.fault == Fault::SpendIsNotConditional && state.spent_on.is_none() {
                    next.judged.insert(message.clone());
                } else {
                    let bound = self.spend(&mut next, identity);
                    let answer = match bound {
                        true => Message::Enrolled { host, identity },
                        false => Message::Refused { host, identity },
                    };
                    next.network.insert(answer);
                }
                out.push((
                    format!("controller takes {message:?}, again: {repeated}"),
                    next,
                ));
            }
        }
        for message in &state.judged {
            let Message::Request { host, identity } = *message else {
                continue;
            };
            let mut next = state.clone();
            next.judged.remove(message);
            next.spent_on.get_or_insert(identity);
            next.servers.insert(identity);
            next.network.insert(Message::Enrolled { host, identity });
            out.push((format!("controller binds {message:?}"), next));
        }
    }

    /// The one transaction.
    fn spend(&self, state: &mut State, identity: Identity) -> bool {
        match state.spent_on {
            None => {
                state.spent_on = Some(identity);
                state.servers.insert(identity);
                true
            }
            Some(owner) => owner == identity && self.fault != Fault::NoRepeat,
        }
    }
}

impl Model for Enrolment {
    type State = State;

    fn initial(&self) -> State {
        let host = Host {
            running: false,
            durable: None,
            memory: None,
            enrolled: false,
            crashes: 0,
            made: 0,
        };
        State {
            hosts: [host.clone(), host],
            servers: BTreeSet::new(),
            spent_on: None,
            judged: BTreeSet::new(),
            network: BTreeSet::new(),
            repeats: 0,
        }
    }

    fn next(&self, state: &State) -> Vec<(String, State)> {
        let mut out = Vec::new();
        for n in [0, 1] {
            self.host_steps(state, n, &mut out);
        }
        self.controller_steps(state, &mut out);
        out
    }

    fn check(&self, state: &State) -> Result<(), String> {
        if state.servers.len() > 1 {
            return Err("one token made two servers".to_owned());
        }
        match state.hosts.iter().filter(|host| host.enrolled).count() {
            0 | 1 => Ok(()),
            _ => Err("two hosts are enrolled with one token".to_owned()),
        }
    }

    fn is_goal(&self, state: &State) -> bool {
        state.hosts.iter().any(|host| host.enrolled)
    }

    fn must_reach_goal(&self, _: &State) -> bool {
        true
    }
}

fn search(fault: Fault, most_crashes: u8) -> Result<Explored, Broken> {
    explore(&Enrolment {
        fault,
        most_crashes,
    })
}

#[test]
fn a_token_makes_one_server_and_is_never_burnt() {
    let seen = search(Fault::None, 3).unwrap_or_else(|broken| panic!("{broken:#?}"));
    assert!(seen.states > 1_000 && seen.goals > 100, "{seen:?}");
    println!("enrolment: {} states, {} steps", seen.states, seen.steps);
}

#[test]
fn seeded_faults_of_enrolment_are_found() {
    for (fault, what) in [
        (Fault::SentBeforeDurable, "no good end"),
        (Fault::SpendIsNotConditional, "two servers"),
        (Fault::NoRepeat, "no good end"),
        (Fault::IdentityAnew, "no good end"),
    ] {
        let broken = search(fault, 1).expect_err("a fault that nobody notices");
        assert!(broken.what.contains(what), "{fault:?}: {broken:#?}");
        assert!(!broken.way.is_empty());
    }
}
