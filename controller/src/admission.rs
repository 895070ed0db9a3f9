//! Whether objects may be let in: what the schema of a kind cannot say. A cluster's webhook and a directory ask the same.

use crate::translate::{gateway_identities, policies, routes};
use crate::world::{Fault, Name, Object, Policy, World, of_invalid};
use selvage_policy::list::{self, Context, Invalid};
use selvage_policy::mesh::MeshConfigSpec;
use selvage_policy::{Key, SpiffeId};
use std::collections::BTreeMap;

/// What is to be said of one policy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Judgement {
    /// It can never be enforced as it is.
    pub faults: Vec<Fault>,
    /// It refers to what does not exist: a directory is whole and refuses that; in a cluster it may come later.
    pub unresolved: Vec<Fault>,
}

/// Everything that is refused, by object and field. What the kinds' own schemas say was found when the objects were read.
pub fn admit(world: &World) -> Vec<Fault> {
    let gateways = gateway_identities(world);
    let mut faults = Vec::new();
    for (key, policy) in &world.policies {
        let judgement = among(&gateways, world, key, policy);
        faults.extend(judgement.faults);
        faults.extend(judgement.unresolved);
    }
    for (name, config) in &world.mesh_configs {
        faults.extend(of_mesh(&name.key("MeshConfig"), &config.spec));
    }
    for (key, route) in &world.routes {
        faults.extend(routes::problems(route, world.mesh().paths).into_iter().map(|(field, problem)| Fault::of(key, field, problem)));
    }
    faults.sort();
    faults.dedup();
    faults
}

/// Compiles one policy, which need not be in the World; one that does not parse has its faults already and none here.
pub fn judge(world: &World, key: &Key, policy: &Object<Policy>) -> Judgement {
    among(&gateway_identities(world), world, key, policy)
}

fn among(gateways: &BTreeMap<Name, SpiffeId>, world: &World, key: &Key, policy: &Object<Policy>) -> Judgement {
    let Ok(spec) = &policy.spec.spec else { return Judgement::default() };
    let mesh = world.mesh();
    let (mut refs, missing) = policies::references(gateways, policy);
    let mut judgement = Judgement::default();
    for (field, reference) in missing {
        judgement.unresolved.push(Fault::of(key, field, format!("{reference} does not exist")));
        // Somebody stands for it, so that the rest is compiled as well.
        refs.insert(reference, format!("spiffe://{}/ns/unresolved/sa/unresolved", mesh.trust_domain));
    }
    let context = Context { key, trust_domain: &mesh.trust_domain, aliases: &mesh.trust_domain_aliases, refs: &refs, paths: mesh.paths };
    match list::compile(spec, policy.meta.created, context) {
        Ok(_) => {}
        Err(invalid @ Invalid::Unresolved { .. }) => judgement.unresolved.push(of_invalid(key, &invalid)),
        Err(invalid) => judgement.faults.push(of_invalid(key, &invalid)),
    }
    judgement
}

/// What a MeshConfig's schema cannot say.
pub fn of_mesh(key: &Key, spec: &MeshConfigSpec) -> Option<Fault> {
    let written = serde_json::to_value(spec).unwrap_or_default();
    MeshConfigSpec::parse(&written).err().map(|invalid| of_invalid(key, &invalid))
}
