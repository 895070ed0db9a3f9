//! Keeps what is said steady: a Pod that comes or goes makes a proxy lag for a moment, and nobody is to be told of that.

use crate::cluster::merge::same_reference;
use crate::translate::status::{Condition, Reference, Truth};
use crate::translate::{CONTROLLER, Status};
use selvage_config::wire::client::BACKOFF;
use selvage_policy::Key;
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How long what held may lag before it is said: longer than a proxy takes to come up and take its configuration.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// How long what held when a controller begins to serve may lag before it is said: its proxies have yet to come. One that has just failed to
/// connect waits for as long as it may, and then takes what it is given.
pub const GRACE: Duration = BACKOFF.1.saturating_add(PATIENCE);

/// Conditions that proxies may lag behind, and the reason that says so.
const LAGGING: [(&str, &str); 2] = [("Programmed", "Pending"), ("Enforced", "Lagging")];

/// The object, the part of its status, and the condition.
type Place = (Key, String, &'static str);

/// What of a status held: its generation, and each condition that was True, by the part it is of.
type Held = (i64, BTreeMap<(String, &'static str), Condition>);

/// What was said last, and since when it would have been something else.
#[derive(Debug, Default)]
pub struct Steady {
    begun: Option<Begun>,
    held: BTreeMap<Key, Held>,
    lagging: BTreeMap<Place, Instant>,
}

/// When a controller began to serve, and whether what was said before it, by another or before a restart, was looked at.
#[derive(Clone, Copy, Debug)]
struct Begun {
    at: Instant,
    seen: bool,
}

impl Steady {
    /// Begins anew: every proxy has yet to come.
    pub fn begin(&mut self, now: Instant) {
        *self = Self { begun: Some(Begun { at: now, seen: false }), ..Self::default() };
    }

    /// What is to be said at `now`, and when to look again even if nothing changes. `before` is the status that an object has, whoever wrote it.
    ///
    /// A condition that was said to hold of this very generation of an object, and only lags, is said to hold until it has lagged
    /// for [`PATIENCE`], or until [`GRACE`] is over. Whatever else differs is said at once.
    pub fn say(
        &mut self,
        mut next: BTreeMap<Key, Status>,
        now: Instant,
        before: impl Fn(&Key) -> Option<Value>,
    ) -> (BTreeMap<Key, Status>, Option<Instant>) {
        if let Some(begun) = self.begun.as_mut().filter(|begun| !begun.seen) {
            begun.seen = true;
            let written = next.iter().filter_map(|(object, status)| Some((object.clone(), written(status, &before(object)?))));
            self.held = written.collect();
        }
        let grace = self.begun.map(|begun| begun.at + GRACE);
        let mut lagging = BTreeMap::new();
        let mut again: Option<Instant> = None;
        for (object, status) in &mut next {
            let Some((_, held)) = self.held.get(object).filter(|(generation, _)| *generation == status.observed_generation) else {
                continue;
            };
            for (place, conditions) in parts(status) {
                for condition in conditions.iter_mut().filter(|condition| lags(condition)) {
                    let Some(holds) = held.get(&(place.clone(), condition.kind)) else { continue };
                    let place = (object.clone(), place.clone(), condition.kind);
                    let since = self.lagging.get(&place).copied().unwrap_or(now);
                    let end = grace.map_or(since + PATIENCE, |grace| grace.max(since + PATIENCE));
                    if now < end {
                        *condition = holds.clone();
                        lagging.insert(place, since);
                        again = Some(again.map_or(end, |again| again.min(end)));
                    }
                }
            }
        }
        self.lagging = lagging;
        self.held = next.iter().map(|(object, status)| (object.clone(), (status.observed_generation, held(status)))).collect();
        (next, again)
    }
}

/// Whether proxies have yet to take something, and nothing is wrong with it.
fn lags(condition: &Condition) -> bool {
    condition.status != Truth::True && LAGGING.contains(&(condition.kind, condition.reason))
}

fn held(status: &Status) -> BTreeMap<(String, &'static str), Condition> {
    let mut status = status.clone();
    let all =
        parts(&mut status).into_iter().flat_map(|(place, conditions)| conditions.clone().into_iter().map(move |one| (place.clone(), one)));
    all.filter(|(_, one)| one.status == Truth::True).map(|(place, one)| ((place, one.kind), one)).collect()
}

/// What of a status as the API server has it is said to hold, of what may lag. Its parts are those of `like`, ours.
fn written(like: &Status, status: &Value) -> Held {
    let is_ours = |entry: &&Value| entry["controllerName"] == CONTROLLER;
    let entries: Vec<&Value> = status["ancestors"].as_array().into_iter().flatten().filter(is_ours).collect();
    let listener = |name: &str| status["listeners"].as_array().and_then(|list| list.iter().find(|one| one["name"] == name));
    let ancestor = |reference: &Reference| {
        let reference = serde_json::to_value(reference).unwrap_or_default();
        entries.iter().find(|entry| same_reference(&entry["ancestorRef"], &reference)).copied()
    };
    let generation = like.observed_generation;
    let mut like = like.clone();
    let listeners: Vec<Option<&Value>> = like.listeners.iter().map(|one| listener(&one.name)).collect();
    let parents: Vec<Option<&Value>> = like.parents.iter().map(|one| ancestor(&one.reference)).collect();
    let found = std::iter::once(Some(status)).chain(listeners).chain(parents);
    let mut held = BTreeMap::new();
    for ((place, _), part) in parts(&mut like).into_iter().zip(found) {
        for one in part.and_then(|part| part["conditions"].as_array()).into_iter().flatten() {
            let kind = LAGGING.iter().map(|(kind, _)| *kind).find(|kind| one["type"] == *kind && one["status"] == Truth::True.as_str());
            if let Some(kind) = kind.filter(|_| one["observedGeneration"] == generation) {
                held.insert((place.clone(), kind), Condition::holds(kind, kind, ""));
            }
        }
    }
    (generation, held)
}

/// The conditions of each part of a status.
fn parts(status: &mut Status) -> Vec<(String, &mut Vec<Condition>)> {
    let listeners = status.listeners.iter_mut().map(|one| (format!("listener {}", one.name), &mut one.conditions));
    let parents =
        status.parents.iter_mut().enumerate().map(|(index, one)| (format!("parent {index} {}", one.reference), &mut one.conditions));
    std::iter::once((String::new(), &mut status.conditions)).chain(listeners).chain(parents).collect()
}
