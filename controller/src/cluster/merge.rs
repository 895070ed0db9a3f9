//! From what is to be said of an object, and the status that it has, to the change that has to be written; none, if it says so already.
//!
//! Pure. What is not ours stays as it is: entries of other controllers, conditions of types that we never write, fields that we do not
//! know. `lastTransitionTime` changes only where a condition's status does.

use super::kinds::StatusForm;
use crate::translate::CONTROLLER;
use crate::translate::status::{Condition, Reference, Status};
use serde_json::{Map, Value, json};

/// Types of conditions that are ours on objects whose status is ours as a whole: one that is not said any more is taken away.
const OURS: [&str; 8] =
    ["Accepted", "Programmed", "ResolvedRefs", "Conflicted", "Enforced", "PartiallyInvalid", "OverlappingTLSConfig", "SupportedVersion"];
/// Gateway API allows no more entries in `status.parents` and `status.ancestors`.
const MOST_PARENTS: usize = 32;
const MOST_ANCESTORS: usize = 16;
/// Longer messages are cut: the API server refuses them.
const MOST_MESSAGE: usize = 32_768;

/// The members of `status` that have to be written, each whole; `None` if nothing has. `said` is `None` where nothing is ours to say (any
/// more): our entries go.
pub fn change(form: StatusForm, said: Option<&Status>, present: &Value, now: &str) -> Option<Map<String, Value>> {
    let mut wanted = Map::new();
    match (form, said) {
        (StatusForm::None, _) | (StatusForm::Whole, None) => {}
        (StatusForm::Whole, Some(said)) => whole(said, present, now, &mut wanted),
        (StatusForm::Parents, said) => entries("parents", "parentRef", MOST_PARENTS, said, present, now, &mut wanted),
        (StatusForm::Ancestors, said) => entries("ancestors", "ancestorRef", MOST_ANCESTORS, said, present, now, &mut wanted),
    }
    wanted.retain(|member, value| present.get(member.as_str()).unwrap_or(&Value::Null) != value);
    (!wanted.is_empty()).then_some(wanted)
}

fn whole(said: &Status, present: &Value, now: &str, wanted: &mut Map<String, Value>) {
    let generation = said.observed_generation;
    wanted.insert("conditions".into(), conditions(&said.conditions, generation, present.get("conditions"), Foreign::Kept, now));
    if !said.listeners.is_empty() || present.get("listeners").is_some() {
        let before = |name: &str| {
            let named = |one: &&Value| one.get("name").and_then(Value::as_str) == Some(name);
            present.get("listeners").and_then(Value::as_array).and_then(|list| list.iter().find(named)).and_then(|one| one.get("conditions"))
        };
        let listeners = said.listeners.iter().map(|one| {
            json!({
                "name": one.name,
                "attachedRoutes": one.attached_routes,
                "supportedKinds": one.supported_kinds,
                "conditions": conditions(&one.conditions, generation, before(&one.name), Foreign::Dropped, now),
            })
        });
        wanted.insert("listeners".into(), listeners.collect());
    }
    if let Some(sets) = said.attached_listener_sets {
        wanted.insert("attachedListenerSets".into(), sets.into());
    }
}

/// Replaces our entries of a list, in the place where they were, and leaves the others.
fn entries(member: &str, reference: &str, most: usize, said: Option<&Status>, present: &Value, now: &str, wanted: &mut Map<String, Value>) {
    let empty = Vec::new();
    let before = present.get(member).and_then(Value::as_array).unwrap_or(&empty);
    let is_ours = |one: &Value| one.get("controllerName").and_then(Value::as_str) == Some(CONTROLLER);
    let mut list: Vec<Value> = before.iter().filter(|one| !is_ours(one)).cloned().collect();
    let generation = said.map_or(0, |said| said.observed_generation);
    let room = most.saturating_sub(list.len());
    // What is said of the object itself (its spec cannot be read at all) has no place in these kinds: it is said at each entry there was.
    let whole = said.filter(|said| said.parents.is_empty() && !said.conditions.is_empty());
    for one in whole.iter().flat_map(|_| before.iter().filter(|one| is_ours(one))).take(room) {
        let mut entry = one.clone();
        let said = whole.map(|said| said.conditions.as_slice()).unwrap_or_default();
        entry["conditions"] = conditions(said, generation, one.get("conditions"), Foreign::Dropped, now);
        list.push(entry);
    }
    for one in said.iter().flat_map(|said| &said.parents).take(room) {
        let to = reference_of(&one.reference);
        let same = |other: &&Value| is_ours(other) && other.get(reference).is_some_and(|written| same_reference(written, &to));
        let earlier = before.iter().find(same);
        let conditions = conditions(&one.conditions, generation, earlier.and_then(|one| one.get("conditions")), Foreign::Dropped, now);
        list.push(json!({ reference: to, "controllerName": CONTROLLER, "conditions": conditions }));
    }
    // An object that has no entry of ours and is to have none is left alone, whatever order its entries are in.
    if before.iter().any(is_ours) || said.is_some_and(|said| !said.parents.is_empty()) {
        wanted.insert(member.into(), Value::Array(list));
    }
}

fn reference_of(reference: &Reference) -> Value {
    serde_json::to_value(reference).unwrap_or_default()
}

/// Whether two references are one. Fields that are left out and fields that are empty say the same.
fn same_reference(a: &Value, b: &Value) -> bool {
    let field = |value: &Value, name: &str| value.get(name).filter(|value| !value.is_null() && value.as_str() != Some("")).cloned();
    ["group", "kind", "namespace", "name", "sectionName", "port"].iter().all(|name| field(a, name) == field(b, name))
}

/// What is done with conditions of types that are not ours.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Foreign {
    Kept,
    Dropped,
}

fn conditions(said: &[Condition], generation: i64, before: Option<&Value>, foreign: Foreign, now: &str) -> Value {
    let before = before.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let kind_of = |one: &Value| one.get("type").and_then(Value::as_str).unwrap_or_default().to_string();
    let mut list: Vec<Value> = Vec::new();
    // In the order that there was, so that nothing changes where nothing did.
    for one in before {
        let kind = kind_of(one);
        match said.iter().find(|condition| condition.kind == kind) {
            Some(condition) => list.push(condition_of(condition, generation, Some(one), now)),
            None if foreign == Foreign::Kept && !OURS.contains(&kind.as_str()) => list.push(one.clone()),
            None => {}
        }
    }
    let new = said.iter().filter(|condition| !before.iter().any(|one| kind_of(one) == condition.kind));
    list.extend(new.map(|condition| condition_of(condition, generation, None, now)));
    Value::Array(list)
}

fn condition_of(said: &Condition, generation: i64, before: Option<&Value>, now: &str) -> Value {
    let text = |name: &str| before.and_then(|one| one.get(name)).and_then(Value::as_str);
    let since = if text("status") == Some(said.status.as_str()) { text("lastTransitionTime") } else { None };
    json!({
        "type": said.kind,
        "status": said.status.as_str(),
        "reason": said.reason,
        "message": cut(&said.message),
        "observedGeneration": generation,
        "lastTransitionTime": since.unwrap_or(now),
    })
}

fn cut(message: &str) -> &str {
    let mut end = message.len().min(MOST_MESSAGE);
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    &message[..end]
}

/// Whether our controller has an entry in this status.
pub fn mentions_us(status: &Value) -> bool {
    let lists = ["parents", "ancestors"].iter().filter_map(|member| status.get(member).and_then(Value::as_array));
    lists.flatten().any(|one| one.get("controllerName").and_then(Value::as_str) == Some(CONTROLLER))
}
