//! Whether an object of ours may be written: the checks of a directory, asked for one object.

use super::review::{Answer, Operation, Request};
use crate::admission;
use crate::settings::Settings;
use crate::world::{self, Fault, MESH_CONFIG, Parsed, Unknown, World};
use selvage_policy::Key;
use selvage_policy::mesh::MeshConfigSpec;
use serde_json::Value;

/// Answers for one object.
pub fn validate(request: &Request, world: &World, settings: &Settings) -> Answer {
    if request.operation == Operation::Delete {
        return Answer::refused(deletion(&request.old_object).into_iter().collect());
    }
    let writes = matches!(request.operation, Operation::Create | Operation::Update);
    let whole = request.sub_resource.as_deref().unwrap_or_default().is_empty();
    // What goes, and what is not edited, may always: an object that became invalid must not be stuck.
    let ending = request.object.pointer("/metadata/deletionTimestamp").is_some_and(|time| !time.is_null());
    let edited = request.object.get("spec") != request.old_object.get("spec");
    if !writes || !whole || ending || (request.operation == Operation::Update && !edited) {
        return Answer::allowed();
    }
    match world::parse(request.object.clone(), Unknown::Refuse) {
        Err(malformed) => Answer::refused(malformed.faults),
        Ok((key, Parsed::Policy(policy))) => {
            if let Err(faults) = &policy.spec.spec {
                return Answer::refused(faults.clone());
            }
            let judgement = admission::judge(world, &key, &policy);
            let warn = |fault: &Fault| format!("{fault} (yet): until it does, the targets of this policy refuse");
            let warnings = judgement.unresolved.iter().map(warn).collect();
            Answer { faults: judgement.faults, warnings, ..Answer::default() }
        }
        Ok((key, Parsed::MeshConfig(config))) => {
            let faults = admission::of_mesh(&key, &config.spec).into_iter();
            Answer::refused(faults.chain(trust_domain(&key, &config.spec, &request.old_object, world, settings)).collect())
        }
        Ok(_) => Answer::allowed(),
    }
}

/// The MeshConfig that holds cannot be deleted: what it requires of everybody would be required no more. Anything else may go.
fn deletion(old: &Value) -> Option<Fault> {
    let holds = old["kind"] == "MeshConfig" && old["metadata"]["name"] == MESH_CONFIG;
    holds.then(|| {
        let problem = "says what holds in the whole mesh, and cannot be deleted: edit it instead; after `helm uninstall` it may go";
        Fault::of(&Key::new("MeshConfig", "", MESH_CONFIG), "", problem)
    })
}

/// The trust domain cannot be changed: every certificate has it. So neither by an edit, nor by making the object that holds anew.
fn trust_domain(key: &Key, spec: &MeshConfigSpec, old: &Value, world: &World, settings: &Settings) -> Option<Fault> {
    let before = match old.get("spec").map(MeshConfigSpec::parse) {
        Some(Ok(old)) => old.trust_domain,
        _ if key.name == MESH_CONFIG => settings.trust_domain_in_force(world).clone(),
        _ => return None,
    };
    (spec.trust_domain != before).then(|| {
        let problem = format!(
            "`{}` is not `{before}`, which every certificate has: it cannot be changed; for another, install anew with the chart's value trustDomain",
            spec.trust_domain
        );
        Fault::of(key, "spec.trustDomain", problem)
    })
}
