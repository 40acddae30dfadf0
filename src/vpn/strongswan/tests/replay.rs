//! What a real charon said, from bytes to events.
//!
//! The transcript is of strongSwan 5.9.8: two clients through every way a session begins, goes on
//! and ends. Its steps are in it, so the expected story can be read beside them.

use serde_json::Value;

use super::super::message::{Node, Section};
use super::*;

const TRANSCRIPT: &str = include_str!("../../../../tests/fixtures/ikev2/vici-events.jsonl");
const STORY: &str = include_str!("expected/vici-events.txt");

/// The transcript's messages were printed as JSON; this is the message again.
fn message(value: &Value) -> Section<'_> {
    let things = value.as_object().unwrap().iter().map(|(name, value)| {
        let node = match value {
            Value::String(text) => Node::Value(text.as_bytes()),
            Value::Array(items) => Node::List(
                items
                    .iter()
                    .map(|item| item.as_str().unwrap().as_bytes())
                    .collect(),
            ),
            value => Node::Section(message(value)),
        };
        (name.as_bytes(), node)
    });
    Section::of(things.collect())
}

/// Plays the transcript in pieces of `size` bytes; between two lines the agent does what is due.
/// Everything is told at the place of its own time.
fn play(size: usize) -> String {
    let mut charon = Charon::default();
    let mut now = at(11_239_500);
    let mut agent = Agent::listening(&mut charon, now);
    let mut told: Vec<(Duration, String)> = Vec::new();
    for line in TRANSCRIPT.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let secs = line["t"].as_f64().unwrap();
        let until = at((secs * 1000.0) as u64 - u64::try_from(BOOT_WALL_MS).unwrap());
        while agent.talk.deadline().max(now.boot) < until.boot {
            let due = agent.talk.deadline().max(now.boot);
            now = at(u64::try_from(due.as_millis()).unwrap());
            agent.serve(&mut charon, now).unwrap();
        }
        now = until;
        agent.tick(now).unwrap();
        let name = line["name"].as_str().unwrap();
        match (line["kind"].as_str().unwrap(), name) {
            ("step", step) => told.push((now.boot, step.to_owned())),
            ("event", name) => {
                let bytes = fake::event(name, &message(&line["msg"]).encode());
                for piece in bytes.chunks(size) {
                    agent.hear(Side::Events, piece, now).unwrap();
                }
            }
            (_, "listener-ended") => {
                let Agent { talk, .. } = &mut agent;
                let next = Conversation::new(EPOCH, Table::default(), now);
                let mut obs = Vec::new();
                let (mut table, _) = std::mem::replace(talk, next).into_table(&mut obs);
                table.daemon_gone(now, &mut obs);
                agent.reduce(obs, now);
            }
            _ => {}
        }
    }
    told.extend(agent.events.iter().map(|event| {
        let when = match &event.what {
            What::Start => event.session.started,
            What::Update { at, .. } => *at,
            What::End(end) => end.at,
        };
        (when.boot, story(event))
    }));
    told.sort_by_key(|(when, _)| *when);
    let lines = told.into_iter().map(|(_, line)| line + "\n");
    lines.collect()
}

#[test]
fn the_transcript_gives_the_story_that_its_steps_tell() {
    let told = play(usize::MAX);
    assert_eq!(told, STORY, "\n{told}");
}

#[test]
fn pieces_do_not_matter() {
    for size in [1, 7, 64] {
        assert_eq!(play(size), STORY);
    }
}
