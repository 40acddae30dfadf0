//! Breadth-first search over all states of a model.

use std::collections::HashMap;
use std::collections::VecDeque;
use std::fmt::Debug;
use std::hash::Hash;

/// What is searched.
pub(super) trait Model {
    type State: Clone + Eq + Hash + Debug;

    fn initial(&self) -> Self::State;

    /// Everything that can happen next, each with a name.
    fn next(&self, state: &Self::State) -> Vec<(String, Self::State)>;

    /// What must hold in every state.
    fn check(&self, state: &Self::State) -> Result<(), String>;

    /// A good end.
    fn is_goal(&self, state: &Self::State) -> bool;

    /// Whether a good end must still be in reach from here, if only luck returns.
    fn must_reach_goal(&self, state: &Self::State) -> bool;
}

/// What a search without findings saw.
#[derive(Debug)]
pub(super) struct Explored {
    pub(super) states: usize,
    pub(super) steps: usize,
    pub(super) goals: usize,
}

/// A broken promise, and the shortest way to it.
#[derive(Debug)]
pub(super) struct Broken {
    pub(super) what: String,
    pub(super) way: Vec<String>,
}

/// A model that is larger than this is wrong, or too large for a test.
const MOST_STATES: usize = 3_000_000;

/// Searches everything.
pub(super) fn explore<M: Model>(model: &M) -> Result<Explored, Broken> {
    let first = model.initial();
    let mut index = HashMap::from([(first.clone(), 0_usize)]);
    let mut states = vec![first];
    let mut came: Vec<Option<(usize, String)>> = vec![None];
    let mut back: Vec<Vec<usize>> = vec![vec![]];
    let mut queue = VecDeque::from([0]);
    let mut steps = 0;
    while let Some(at) = queue.pop_front() {
        if let Err(what) = model.check(&states[at]) {
            return Err(Broken {
                what,
                way: way_to(&came, at),
            });
        }
        for (name, next) in model.next(&states[at]) {
            steps += 1;
            let known = index.len();
            let to = *index.entry(next.clone()).or_insert(known);
            if to == known {
                assert!(known < MOST_STATES, "the model has too many states");
                states.push(next);
                came.push(Some((at, name)));
                back.push(vec![]);
                queue.push_back(to);
            }
            back[to].push(at);
        }
    }
    let goals: Vec<usize> = (0..states.len())
        .filter(|&at| model.is_goal(&states[at]))
        .collect();
    let mut good = vec![false; states.len()];
    let mut queue: VecDeque<usize> = goals.iter().copied().collect();
    while let Some(at) = queue.pop_front() {
        if !std::mem::replace(&mut good[at], true) {
            queue.extend(&back[at]);
        }
    }
    let stuck = (0..states.len()).find(|&at| !good[at] && model.must_reach_goal(&states[at]));
    match stuck {
        Some(at) => Err(Broken {
            what: "no good end is in reach any more".to_owned(),
            way: way_to(&came, at),
        }),
        None => Ok(Explored {
            states: states.len(),
            steps,
            goals: goals.len(),
        }),
    }
}

fn way_to(came: &[Option<(usize, String)>], mut at: usize) -> Vec<String> {
    let mut way = Vec::new();
    while let Some((from, name)) = &came[at] {
        way.push(name.clone());
        at = *from;
    }
    way.reverse();
    way
}
