//! Objects that cannot be read: each is said to be so, once, where it is ours to say. What it said before, as far as it was seen, holds on.

use super::gateways::Edges;
use super::routes::{is_service, reference};
use super::status::{Condition, ParentStatus, Status};
use super::{CONTROLLER, Facts, GATEWAY_GROUP, Translation};
use crate::world::route::ParentRef;
use crate::world::{Malformed, Name};
use selvage_policy::Key;
use serde::Deserialize;
use serde_json::Value;

pub(super) fn say(facts: &Facts<'_>, edges: &Edges<'_>, translation: &mut Translation) {
    for (key, malformed) in &facts.world.malformed {
        let sentences: Vec<String> = malformed.faults.iter().map(|fault| format!("{}: {}", fault.field, fault.problem)).collect();
        let refusal = Condition::fails("Accepted", "Invalid", sentences.join("; "));
        let object = Object { facts, edges, key, malformed };
        match key.kind.as_str() {
            "HTTPRoute" | "GRPCRoute" | "TLSRoute" | "TCPRoute" => {
                let said = translation.statuses.get(key).map(|status| status.parents.as_slice()).unwrap_or_default();
                let parents = object.parents(said, &refusal);
                if !parents.is_empty() {
                    translation.status(key, malformed.generation).parents = parents;
                } else if object.parent_refs().is_none() {
                    // Nothing says whose it is: it is said at each entry that there is of ours.
                    replace(&mut translation.status(key, malformed.generation).conditions, &refusal);
                }
            }
            _ if object.is_ours() => {
                let status: &mut Status = translation.status(key, malformed.generation);
                match status.parents.is_empty() {
                    true => replace(&mut status.conditions, &refusal),
                    false => status.parents.iter_mut().for_each(|parent| replace(&mut parent.conditions, &refusal)),
                }
            }
            _ => {}
        }
    }
}

/// The refusal in place of what was said of `Accepted` before.
fn replace(conditions: &mut Vec<Condition>, refusal: &Condition) {
    conditions.retain(|one| one.kind != refusal.kind);
    conditions.insert(0, refusal.clone());
}

struct Object<'a> {
    facts: &'a Facts<'a>,
    edges: &'a Edges<'a>,
    key: &'a Key,
    malformed: &'a Malformed,
}

impl Object<'_> {
    /// A text of its spec; the spec may be anything.
    fn text(&self, pointer: &str) -> Option<&str> {
        self.malformed.raw.pointer(pointer).and_then(Value::as_str)
    }

    /// Whether its status is ours to write, as far as it can be told. Where it cannot, the form of it that was read last counts.
    fn is_ours(&self) -> bool {
        let (world, name) = (self.facts.world, Name::new(self.key.namespace.clone(), self.key.name.clone()));
        match self.key.kind.as_str() {
            "GatewayClass" => {
                let before = || world.classes.get(&name).map(|class| class.spec.controller_name.as_str());
                self.text("/controllerName").or_else(before) == Some(CONTROLLER)
            }
            "Gateway" => match self.text("/gatewayClassName") {
                Some(class) => world.classes.get(&Name::new("", class)).is_some_and(|class| class.spec.controller_name == CONTROLLER),
                None => self.facts.gateways.contains_key(&name),
            },
            "ListenerSet" => match self.text("/parentRef/name") {
                Some(gateway) => {
                    let namespace = self.text("/parentRef/namespace").unwrap_or(&self.key.namespace);
                    self.edges.gateways.contains_key(&Name::new(namespace, gateway))
                }
                None => self.edges.sets.contains_key(&name),
            },
            // The other kinds have no other controllers, or no status of ours.
            _ => true,
        }
    }

    /// What a route says it is attached to; nothing, if it does not say it as a list.
    fn parent_refs(&self) -> Option<Vec<ParentRef>> {
        let written = self.malformed.raw.get("parentRefs")?.as_array()?;
        Some(written.iter().filter_map(|one| ParentRef::deserialize(one).ok()).collect())
    }

    /// What is said of a route at each parent of ours.
    fn parents(&self, said: &[ParentStatus], refusal: &Condition) -> Vec<ParentStatus> {
        let refused = |mut parent: ParentStatus| {
            replace(&mut parent.conditions, refusal);
            parent
        };
        let Some(written) = self.parent_refs() else { return said.iter().cloned().map(refused).collect() };
        let ours = written.iter().filter(|parent| self.is_parent(parent)).map(reference);
        let known = |reference| {
            let before = said.iter().find(|one| one.reference == reference).cloned();
            before.unwrap_or(ParentStatus { reference, conditions: Vec::new(), targets: Vec::new() })
        };
        ours.map(|reference| refused(known(reference))).collect()
    }

    fn is_parent(&self, parent: &ParentRef) -> bool {
        let name = Name::new(parent.namespace.clone().unwrap_or_else(|| self.key.namespace.clone()), parent.name.clone());
        let ours = parent.group.as_deref().unwrap_or(GATEWAY_GROUP) == GATEWAY_GROUP;
        match parent.kind.as_deref().unwrap_or("Gateway") {
            "Gateway" => ours && self.edges.gateways.contains_key(&name),
            "ListenerSet" => ours && self.edges.sets.contains_key(&name),
            _ => is_service(parent),
        }
    }
}
