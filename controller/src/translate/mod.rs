//! From the World to what proxies are told, and to what is said of each object. Pure: no clock, no file, no network.
//!
//! ```text
//! World ──gateways──► Listener (edge)     ──routes──► Route
//!       ──services──► Backend, Endpoints  ──workloads──► Listener (inbound, outbound)
//!       ──policies──► policies with their attachments
//!       ──views──► which proxy is told what
//! ```

mod gateways;
mod index;
mod malformed;
pub(crate) mod policies;
mod reach;
pub(crate) mod routes;
mod services;
pub mod status;
#[cfg(test)]
mod tests;
mod views;
mod workloads;

pub use gateways::bound_port;
pub use reach::Reach;
pub use status::{Condition, Status};
pub use views::View;

use crate::world::route::RouteKind;
use crate::world::{Name, World};
use index::Index;
use selvage_config::{MeshSpec, Resource, VersionKey, keys};
use selvage_policy::target::TargetKind;
use selvage_policy::{Key, SpiffeId, Target};
use status::Truth;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The group of Gateway API.
pub const GATEWAY_GROUP: &str = "gateway.networking.k8s.io";
/// What a GatewayClass of ours names.
pub const CONTROLLER: &str = "selvage.dev/controller";

/// What a World comes to.
#[derive(Clone, Debug, Default)]
pub struct Translation {
    /// Every Resource, but identity leaves: those are asked for by proxies.
    pub resources: BTreeMap<Key, Arc<Resource>>,
    /// What each proxy is told, by `Gateway/<namespace>/<name>` or `Pod/<namespace>/<name>`.
    pub views: BTreeMap<Key, View>,
    /// Which view each node is given: by the UID of a proxy's Pod, in files by the text of the view's own key.
    pub nodes: BTreeMap<String, Key>,
    /// What people call each node: namespace and name of its Pod, in files the text of its view's key.
    pub names: BTreeMap<String, String>,
    /// Who each proxy is.
    pub identities: BTreeMap<Key, SpiffeId>,
    /// Where what is attached to each target of a policy is enforced.
    pub reach: BTreeMap<Target, Reach>,
    /// What is said of each object that is ours to say something of.
    pub statuses: BTreeMap<Key, Status>,
    /// What is worth a warning and is no object's status, because the object is not ours: one sentence each.
    pub remarks: Vec<String>,
}

/// What the proxies of a World cannot find in it.
#[derive(Clone, Debug)]
pub struct Inputs<'a> {
    /// Roots of workload identities, PEM.
    pub roots: &'a [String],
    /// Keys the versions of Resources with secrets.
    pub version_key: &'a VersionKey,
}

/// What every part of the translation looks at.
struct Facts<'a> {
    world: &'a World,
    /// Gateways of ours, with the identity of their proxies.
    gateways: BTreeMap<Name, SpiffeId>,
    /// Pods with a sidecar that have not ended, with their identities.
    workloads: BTreeMap<Name, SpiffeId>,
    /// Of the kinds of routes that lead to a Service port, the first.
    led: BTreeMap<(Name, u16), RouteKind>,
    index: Index<'a>,
}

/// Translates.
pub fn translate(world: &World, inputs: &Inputs<'_>) -> Translation {
    let facts = Facts::of(world);
    let mut translation = Translation::default();
    let mesh = world.mesh();
    let spec = MeshSpec {
        trust_domain: mesh.trust_domain,
        trust_domain_aliases: mesh.trust_domain_aliases,
        roots: inputs.roots.to_vec(),
        posture: mesh.posture,
        paths: mesh.paths,
    };
    translation.add(Resource::core(keys::mesh(), &spec, 0));
    let mut edges = gateways::translate(&facts, inputs.version_key, &mut translation);
    services::translate(&facts, &mut translation);
    routes::translate(&facts, &mut edges, &mut translation);
    edges.say(&facts, &mut translation);
    workloads::translate(&facts, &mut translation);
    policies::translate(&facts, &mut translation);
    malformed::say(&facts, &edges, &mut translation);
    unknown(world, &mut translation);
    views::translate(&facts, &mut translation);
    translation.identities.extend(facts.gateways.iter().map(|(name, identity)| (name.key("Gateway"), identity.clone())));
    translation.identities.extend(facts.workloads.iter().map(|(name, identity)| (name.key("Pod"), identity.clone())));
    for (uid, name, view) in workloads::nodes(&facts) {
        translation.nodes.insert(uid.clone(), view);
        translation.names.insert(uid, name);
    }
    translation
}

/// Where an object is accepted, it is said which of its fields are left out of account. Of those in rules of routes more is said: see
/// `PartiallyInvalid`.
fn unknown(world: &World, translation: &mut Translation) {
    let routes = world.routes.iter().map(|(key, route)| (key.clone(), &route.meta));
    let gateways = world.gateways.iter().map(|(name, object)| (name.key("Gateway"), &object.meta));
    let sets = world.listener_sets.iter().map(|(name, object)| (name.key("ListenerSet"), &object.meta));
    let classes = world.classes.iter().map(|(name, object)| (name.key("GatewayClass"), &object.meta));
    for (key, meta) in routes.chain(gateways).chain(sets).chain(classes).filter(|(_, meta)| !meta.unknown.is_empty()) {
        let fields: Vec<&str> =
            meta.unknown.iter().map(String::as_str).filter(|path| crate::world::route::in_rule(path).is_none()).collect();
        let Some(status) = translation.statuses.get_mut(&key).filter(|_| !fields.is_empty()) else { continue };
        let own = status.conditions.iter_mut();
        let accepted = own.chain(status.parents.iter_mut().flat_map(|parent| &mut parent.conditions));
        for condition in accepted.filter(|one| one.kind == "Accepted" && one.status == Truth::True && one.message.is_empty()) {
            condition.message = format!("left out of account, because this version does not know it: {}", fields.join(", "));
        }
    }
}

impl Translation {
    fn add(&mut self, resource: Resource) {
        self.resources.insert(resource.key.clone(), Arc::new(resource));
    }

    /// What is said of an object of this generation.
    fn status(&mut self, object: &Key, generation: i64) -> &mut Status {
        let status = self.statuses.entry(object.clone()).or_default();
        status.observed_generation = generation;
        status
    }

    /// What is not as somebody may expect, one sentence each.
    pub fn warnings(&self) -> Vec<String> {
        status::warnings(&self.statuses, &self.remarks)
    }
}

/// Gateways of our classes, with the identity of their proxies.
pub(crate) fn gateway_identities(world: &World) -> BTreeMap<Name, SpiffeId> {
    let trust_domain = world.mesh().trust_domain;
    let ours = |class: &str| world.classes.get(&Name::new("", class)).is_some_and(|class| class.spec.controller_name == CONTROLLER);
    let gateways = world.gateways.iter().filter(|(_, gateway)| ours(&gateway.spec.gateway_class_name));
    let named = gateways.filter_map(|(name, gateway)| {
        let account = crate::provision::workload_name(&name.name, &gateway.spec.gateway_class_name);
        Some((name.clone(), SpiffeId::new(trust_domain.clone(), &name.namespace, &account).ok()?))
    });
    named.collect()
}

impl<'a> Facts<'a> {
    fn of(world: &'a World) -> Self {
        let trust_domain = world.mesh().trust_domain;
        let workloads =
            world.pods.iter().filter(|(_, pod)| world.meshed(pod) && !pod.spec.ended).filter_map(|(name, pod)| {
                Some((name.clone(), SpiffeId::new(trust_domain.clone(), &name.namespace, pod.spec.account()).ok()?))
            });
        let (gateways, workloads) = (gateway_identities(world), workloads.collect());
        let mut facts = Self { gateways, workloads, led: BTreeMap::new(), index: Index::of(world), world };
        facts.led = facts.led();
        facts
    }

    /// A route of another namespace says nothing of a Service unless a grant lets it lead there.
    fn led(&self) -> BTreeMap<(Name, u16), RouteKind> {
        let mut led = BTreeMap::new();
        for route in self.world.routes.values() {
            for reference in route.spec.rules.iter().flat_map(|rule| &rule.backends) {
                let Some(number) = reference.port.and_then(port) else { continue };
                let namespace = reference.namespace.as_ref().unwrap_or(&route.meta.namespace);
                let name = Name::new(namespace.clone(), reference.name.clone());
                if self.granted(route.spec.kind.as_str(), &route.meta.namespace, "Service", &name) {
                    let kind = led.entry((name, number)).or_insert(route.spec.kind);
                    *kind = route.spec.kind.min(*kind);
                }
            }
        }
        led
    }

    /// Whether an object of `kind` in `from` may refer to `to` in another namespace: a ReferenceGrant there says so.
    fn granted(&self, kind: &str, from: &str, to_kind: &str, to: &Name) -> bool {
        from == to.namespace
            || self.world.grants.range(Name::new(&to.namespace, "")..).take_while(|(name, _)| name.namespace == to.namespace).any(
                |(_, grant)| {
                    let source = |one: &crate::gateway_api::referencegrants::ReferenceGrantFrom| {
                        one.group == GATEWAY_GROUP && one.kind == kind && one.namespace == from
                    };
                    let target = |one: &crate::gateway_api::referencegrants::ReferenceGrantTo| {
                        one.group.is_empty() && one.kind == to_kind && one.name.as_ref().is_none_or(|name| *name == to.name)
                    };
                    grant.spec.from.iter().any(source) && grant.spec.to.iter().any(target)
                },
            )
    }
}

/// The platform, then a namespace: what every target inside it is part of.
fn outermost(namespace: &str) -> Vec<Target> {
    vec![Target::new(TargetKind::Mesh, "", crate::world::MESH_CONFIG), Target::new(TargetKind::Namespace, "", namespace)]
}

/// A number as a port.
fn port(number: i32) -> Option<u16> {
    u16::try_from(number).ok().filter(|port| *port != 0)
}
