//! ListenerSets: which Gateway each is of, and whether that Gateway takes it.

use super::{Edges, Entry, selects};
use crate::gateway_api::ListenerSetSpec;
use crate::gateway_api::gateways::{GatewayAllowedListenersNamespacesFrom as From, GatewayListeners, GatewaySpec};
use crate::translate::status::Problem;
use crate::translate::{Facts, GATEWAY_GROUP, Translation};
use crate::world::{Name, Object};

/// What a ListenerSet is part of.
pub(in crate::translate) struct Membership {
    /// The Gateway it names.
    pub gateway: Name,
    /// Whether the Gateway takes it; if not, its listeners are nowhere.
    pub allowed: Result<(), Problem>,
}

/// Puts the listeners of every ListenerSet behind those of its Gateway: the older set first, then by namespace and name.
pub(super) fn join(facts: &Facts<'_>, edges: &mut Edges<'_>, translation: &mut Translation) {
    let mut sets: Vec<(&Name, &Object<ListenerSetSpec>)> = facts.world.listener_sets.iter().map(|(name, set)| (name, &**set)).collect();
    sets.sort_by_key(|(name, set)| (set.meta.created, *name));
    for (name, set) in sets {
        let parent = &set.spec.parent_ref;
        let gateway = Name::new(parent.namespace.clone().unwrap_or_else(|| name.namespace.clone()), parent.name.clone());
        let is_gateway =
            parent.kind.as_deref().unwrap_or("Gateway") == "Gateway" && parent.group.as_deref().unwrap_or(GATEWAY_GROUP) == GATEWAY_GROUP;
        let Some(edge) = edges.gateways.get_mut(&gateway).filter(|_| is_gateway) else {
            if !facts.world.gateways.contains_key(&gateway) || !is_gateway {
                let object = name.key("ListenerSet");
                translation.remarks.push(format!("{object}: spec.parentRef: there is no Gateway {}/{}", gateway.namespace, gateway.name));
            }
            continue;
        };
        let allowed = allows(facts, &edge.object.spec, &gateway, name);
        if allowed.is_ok() {
            let frontend = edge.object.spec.tls.as_ref().and_then(|tls| tls.frontend.as_ref());
            let listeners = set.spec.listeners.iter().filter_map(as_gateways);
            edge.entries.extend(listeners.map(|listener| Entry::new(Some(name.clone()), listener, frontend)));
        }
        edges.sets.insert(name.clone(), Membership { gateway, allowed });
    }
}

/// kopium makes a type of its own for each place; the fields are the same.
fn as_gateways(listener: &crate::gateway_api::listenersets::ListenerSetListeners) -> Option<GatewayListeners> {
    serde_json::to_value(listener).and_then(serde_json::from_value).ok()
}

fn allows(facts: &Facts<'_>, gateway: &GatewaySpec, name: &Name, set: &Name) -> Result<(), Problem> {
    let namespaces = gateway.allowed_listeners.as_ref().and_then(|allowed| allowed.namespaces.as_ref());
    let allowed = match namespaces.and_then(|namespaces| namespaces.from.as_ref()) {
        None | Some(From::None) => false,
        Some(From::All) => true,
        Some(From::Same) => set.namespace == name.namespace,
        Some(From::Selector) => namespaces.and_then(|namespaces| namespaces.selector.as_ref()).is_some_and(|selector| {
            let expressions = selector.match_expressions.iter().flatten();
            let expressions = expressions.map(|one| (one.operator.as_str(), one.key.as_str(), one.values.as_deref()));
            selects(facts, &set.namespace, selector.match_labels.as_ref(), expressions)
        }),
    };
    if allowed {
        Ok(())
    } else {
        let namespace = &set.namespace;
        let message =
            format!("Gateway {}/{} takes no ListenerSets of namespace {namespace}: see its allowedListeners", name.namespace, name.name);
        Err(("NotAllowed", message))
    }
}
