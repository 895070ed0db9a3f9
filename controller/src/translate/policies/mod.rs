//! Policies: what each is attached to, the references in it, and which of two that say different things holds.

mod conflicts;
mod targets;

use super::Facts;
use super::Translation;
use super::status::{Condition, ParentStatus, Problem, Truth};
use crate::world::{Name, Object, Policy, of_invalid};
use selvage_config::Resource;
use selvage_config::resource::Origin;
use selvage_policy::list::{self, Compiled, Context, Invalid};
use selvage_policy::{Key, SpiffeId, Target};
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;
use targets::{Aimed, Place};

/// As many ancestors a status may have (GEP-713).
const MOST_ANCESTORS: usize = 16;

/// What stands behind the name of a guard where it refuses instead of being what it says.
const UNATTACHED: &str = "unattached";

/// A policy on its way.
struct Draft<'a> {
    policy: &'a Object<Policy>,
    refs: BTreeMap<String, String>,
    unresolved: Option<Problem>,
    /// What it does, where every reference resolves; or why it cannot be done, and a guard then refuses on its targets.
    compiled: Result<Option<Arc<Compiled>>, Problem>,
    aimed: Vec<Aimed>,
}

pub(super) fn translate(facts: &Facts<'_>, translation: &mut Translation) {
    let mesh = facts.world.mesh();
    let mut drafts: BTreeMap<&Key, Draft<'_>> = BTreeMap::new();
    for (key, policy) in &facts.world.policies {
        let (refs, missing) = references(&facts.gateways, policy);
        let unresolved = missing.first().map(|(field, reference)| ("InvalidReference", format!("{field}: {reference} does not exist")));
        let context =
            Context { key, trust_domain: &mesh.trust_domain, aliases: &mesh.trust_domain_aliases, refs: &refs, paths: mesh.paths };
        let compiled = compile(key, policy, context);
        drafts.insert(key, Draft { policy, unresolved, compiled, aimed: targets::aimed(facts, policy), refs });
    }
    for (key, target, problem) in conflicts::lost(&drafts) {
        let aimed = drafts.get_mut(&key).into_iter().flat_map(|draft| &mut draft.aimed);
        for aimed in aimed.filter(|aimed| aimed.place.target() == Some(&target)) {
            aimed.place = Place::Nowhere(problem.clone());
        }
    }
    for (key, draft) in drafts {
        let Draft { policy, refs, unresolved, compiled, aimed } = draft;
        let (mut attachments, mut refusing) = (Vec::new(), BTreeMap::new());
        let mut said = Vec::new();
        for Aimed { reference, place } in aimed {
            let targets = place.target().cloned().into_iter().collect();
            let accepted = match (place, &compiled) {
                (Place::Nowhere(problem), _) => Condition::of("Accepted", Err(problem)),
                (Place::Refusing(target, problem), _) => {
                    refusing.insert(target, problem.1.clone());
                    Condition::of("Accepted", Err(problem))
                }
                (Place::Attached(target, _), Err(problem)) => {
                    attachments.push(target);
                    Condition::of("Accepted", Err(problem.clone()))
                }
                (Place::Attached(target, except), Ok(_)) => {
                    attachments.push(target);
                    Condition::holds("Accepted", "Accepted", except.unwrap_or_default())
                }
            };
            let conditions = vec![accepted, Condition::of("ResolvedRefs", unresolved.clone().map_or(Ok(()), Err))];
            said.push(ParentStatus { reference, conditions, targets });
        }
        translation.status(key, policy.meta.generation).parents = shown(said);
        if let Some(problem) = refusing.values().next() {
            translation.add(refusal(key, policy, problem, refusing.keys().cloned().collect()));
        }
        if attachments.is_empty() {
            continue;
        }
        attachments.sort();
        attachments.dedup();
        let origin = Origin { attachments, refs, created: policy.meta.created };
        translation.add(Resource::new(key.clone(), policy.spec.kind.class(), &policy.spec.raw, origin));
    }
}

/// A guard where it cannot be what it says: a Resource of its own, because elsewhere the same guard may hold. No proxy of any release can use
/// its spec, so that each refuses there, and the spec is all that there is to say why.
fn refusal(key: &Key, policy: &Object<Policy>, problem: &str, attachments: Vec<Target>) -> Resource {
    let key = Key::new(key.kind.clone(), key.namespace.clone(), format!("{}#{UNATTACHED}", key.name));
    let origin = Origin { attachments, refs: BTreeMap::new(), created: policy.meta.created };
    let mut spec = json!({ "targetRefs": problem });
    if let Some(hide) = policy.spec.raw.get("hideDetails") {
        spec["hideDetails"] = hide.clone();
    }
    Resource::new(key, policy.spec.kind.class(), &spec, origin)
}

fn compile(key: &Key, policy: &Object<Policy>, context: Context<'_>) -> Result<Option<Arc<Compiled>>, Problem> {
    let invalid = |faults: &[crate::world::Fault]| {
        let sentences: Vec<String> = faults.iter().map(|fault| format!("{}: {}", fault.field, fault.problem)).collect();
        ("Invalid", sentences.join("; "))
    };
    let spec = policy.spec.spec.as_ref().map_err(|faults| invalid(faults))?;
    match list::compile(spec, policy.meta.created, context) {
        Ok(compiled) => Ok(Some(Arc::new(compiled))),
        // Said by ResolvedRefs; the policy itself is as it should be.
        Err(Invalid::Unresolved { .. }) => Ok(None),
        Err(other) => Err(invalid(&[of_invalid(key, &other)])),
    }
}

/// As many as a status may have; those that are not well go first.
fn shown(mut said: Vec<ParentStatus>) -> Vec<ParentStatus> {
    let count = said.len();
    if count > MOST_ANCESTORS {
        said.sort_by_key(|one| one.conditions.iter().all(|condition| condition.status == Truth::True));
        said.truncate(MOST_ANCESTORS);
        if let Some(condition) = said.last_mut().and_then(|last| last.conditions.first_mut()) {
            condition.message = format!("{}({} more targets are not shown)", condition.message, count - MOST_ANCESTORS);
        }
    }
    said
}

/// References of a policy that resolve, and the fields and texts of those that do not. `gateways` are those of ours, with their identities.
pub(crate) fn references(
    gateways: &BTreeMap<Name, SpiffeId>,
    policy: &Object<Policy>,
) -> (BTreeMap<String, String>, Vec<(String, String)>) {
    let (mut found, mut missing) = (BTreeMap::new(), Vec::new());
    for (field, reference) in policy.spec.spec.iter().flat_map(|spec| spec.references(&policy.meta.namespace)) {
        let gateway = reference.strip_prefix("gateway:").and_then(|name| name.split_once('/'));
        match gateway.and_then(|(namespace, name)| gateways.get(&Name::new(namespace, name))) {
            Some(identity) => {
                found.insert(reference, identity.to_string());
            }
            None => missing.push((field, reference)),
        }
    }
    (found, missing)
}
