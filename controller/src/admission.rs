//! Whether objects may be let in: what the schema of a kind cannot say. A cluster's webhook and a directory ask the same.

use crate::translate::{gateway_identities, policies, routes};
use crate::world::{Fault, World, of_invalid};
use selvage_policy::list::{self, Context};

/// Everything that is refused, by object and field. What the kinds' own schemas say was found when the objects were read.
pub fn admit(world: &World) -> Vec<Fault> {
    let mesh = world.mesh();
    let gateways = gateway_identities(world);
    let mut faults = Vec::new();
    for (key, policy) in &world.policies {
        let Ok(spec) = &policy.spec.spec else { continue };
        let (refs, missing) = policies::references(&gateways, policy);
        faults.extend(missing.into_iter().map(|(field, reference)| Fault::of(key, field, format!("{reference} does not exist"))));
        let context =
            Context { key, trust_domain: &mesh.trust_domain, aliases: &mesh.trust_domain_aliases, refs: &refs, paths: mesh.paths };
        if let Err(invalid) = list::compile(spec, policy.meta.created, context) {
            faults.push(of_invalid(key, &invalid));
        }
    }
    for (key, route) in &world.routes {
        faults.extend(routes::problems(route, mesh.paths).into_iter().map(|(field, problem)| Fault::of(key, field, problem)));
    }
    faults.sort();
    faults.dedup();
    faults
}
