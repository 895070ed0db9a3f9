//! From what is to be said of an object, and the status that it has, to the change that has to be written; none, if it says so already.
//!
//! Pure. What is not ours stays as it is: entries of other controllers, conditions of types that we never write (as far as there is room
//! beside ours), fields that we do not know. `lastTransitionTime` changes only where a condition's status does.

use super::kinds::StatusForm;
use super::statuses::Said;
use crate::translate::CONTROLLER;
use crate::translate::status::{Condition, ParentStatus, Status};
use serde_json::{Map, Value, json};

/// Types of conditions that are ours: one that is not said any more is taken away.
const OURS: [&str; 8] =
    ["Accepted", "Programmed", "ResolvedRefs", "Conflicted", "Enforced", "PartiallyInvalid", "OverlappingTLSConfig", "SupportedVersion"];
/// A list of a status that several controllers have entries in.
struct Entries {
    member: &'static str,
    reference: &'static str,
    /// Gateway API allows no more.
    most: usize,
}

/// Conditions at one place. Gateway API allows no more.
const MOST_CONDITIONS: usize = 8;
const PARENTS: Entries = Entries { member: "parents", reference: "parentRef", most: 32 };
const ANCESTORS: Entries = Entries { member: "ancestors", reference: "ancestorRef", most: 16 };
/// Longer messages are cut: the API server refuses them.
const MOST_MESSAGE: usize = 32_768;

/// The members of `status` that have to be written, each whole; `None` if nothing has. `said` is `None` where nothing is ours to say (any
/// more): our entries go.
pub fn change(form: StatusForm, said: Option<&Said>, present: &Value, now: &str) -> Option<Map<String, Value>> {
    let mut wanted = Map::new();
    match (form, said) {
        (StatusForm::None, _) | (StatusForm::Whole, None) => {}
        (StatusForm::Whole, Some(said)) => {
            whole(&said.status, present, now, &mut wanted);
            wanted.extend(said.addresses.iter().map(|addresses| ("addresses".to_string(), Value::Array(addresses.clone()))));
        }
        (StatusForm::Parents, said) => wanted.extend(entries(&PARENTS, said.map(|said| &said.status), present, now)),
        (StatusForm::Ancestors, said) => wanted.extend(entries(&ANCESTORS, said.map(|said| &said.status), present, now)),
    }
    wanted.retain(|member, value| present.get(member.as_str()).unwrap_or(&Value::Null) != value);
    (!wanted.is_empty()).then_some(wanted)
}

fn whole(said: &Status, present: &Value, now: &str, wanted: &mut Map<String, Value>) {
    let generation = said.observed_generation;
    wanted.insert("conditions".into(), conditions(&said.conditions, generation, present.get("conditions"), now));
    if !said.listeners.is_empty() || present.get("listeners").is_some() {
        let before = |name: &str| {
            let named = |one: &&Value| one.get("name").and_then(Value::as_str) == Some(name);
            present
                .get("listeners")
                .and_then(Value::as_array)
                .and_then(|list| list.iter().find(named))
                .and_then(|one| one.get("conditions"))
        };
        let listeners = said.listeners.iter().map(|one| {
            json!({
                "name": one.name,
                "attachedRoutes": one.attached_routes,
                "supportedKinds": one.supported_kinds,
                "conditions": conditions(&one.conditions, generation, before(&one.name), now),
            })
        });
        wanted.insert("listeners".into(), listeners.collect());
    }
    if let Some(sets) = said.attached_listener_sets {
        wanted.insert("attachedListenerSets".into(), sets.into());
    }
}

/// Replaces our entries of a list, and leaves the others, first and in their order.
fn entries(of: &Entries, said: Option<&Status>, present: &Value, now: &str) -> Option<(String, Value)> {
    let before = present.get(of.member).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let is_ours = |one: &&Value| one.get("controllerName").and_then(Value::as_str) == Some(CONTROLLER);
    let ours: Vec<&Value> = before.iter().filter(is_ours).collect();
    let mut list: Vec<Value> = before.iter().filter(|one| !is_ours(one)).cloned().collect();
    let Some(said) = said else { return (!ours.is_empty()).then(|| (of.member.into(), Value::Array(list))) };
    let written = |earlier: Option<&Value>, to: Value, said: &[Condition], generation: i64| {
        let earlier = earlier.and_then(|one| one.get("conditions"));
        json!({ of.reference: to, "controllerName": CONTROLLER, "conditions": conditions(said, generation, earlier, now) })
    };
    let generation = said.observed_generation;
    let new: Vec<Value> = if said.parents.is_empty() && !said.conditions.is_empty() {
        // The spec cannot be read at all, and these kinds have no conditions of their own: it is said at each entry that there was.
        ours.iter().map(|one| written(Some(one), one[of.reference].clone(), &said.conditions, generation)).collect()
    } else {
        let entry = |one: &ParentStatus| {
            let to = serde_json::to_value(&one.reference).unwrap_or_default();
            let earlier = ours.iter().find(|other| same_reference(&other[of.reference], &to)).copied();
            written(earlier, to, &one.conditions, generation)
        };
        said.parents.iter().map(entry).collect()
    };
    // An object that has no entry of ours and is to have none is left alone.
    if ours.is_empty() && new.is_empty() {
        return None;
    }
    let room = of.most.saturating_sub(list.len());
    list.extend(new.into_iter().take(room));
    Some((of.member.into(), Value::Array(list)))
}

/// Whether two references are one. Fields that are left out and fields that are empty say the same.
pub(crate) fn same_reference(a: &Value, b: &Value) -> bool {
    let field = |value: &Value, name: &str| value.get(name).filter(|value| !value.is_null() && value.as_str() != Some("")).cloned();
    ["group", "kind", "namespace", "name", "sectionName", "port"].iter().all(|name| field(a, name) == field(b, name))
}

fn conditions(said: &[Condition], generation: i64, before: Option<&Value>, now: &str) -> Value {
    let before = before.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let kind_of = |one: &Value| one.get("type").and_then(Value::as_str).unwrap_or_default().to_string();
    let mut list: Vec<Value> = Vec::new();
    // What is too many would be refused, with ours.
    let mut room = MOST_CONDITIONS.saturating_sub(said.len());
    // In the order that there was, so that nothing changes where nothing did.
    for one in before {
        let kind = kind_of(one);
        match said.iter().find(|condition| condition.kind == kind) {
            Some(condition) => list.push(condition_of(condition, generation, Some(one), now)),
            None if !OURS.contains(&kind.as_str()) && room > 0 => {
                room -= 1;
                list.push(one.clone());
            }
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
