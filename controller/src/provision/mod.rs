//! What runs for a Gateway: the objects that the controller makes in its namespace, and the addresses its status shows. Pure.
//!
//! ```text
//! Gateway (accepted), ListenerSets ──► ServiceAccount, Service, Deployment, PodDisruptionBudget  (all `<gateway>-<class>`, GEP-1762)
//! Service's status ──► addresses of the Gateway
//! ```
//!
//! Everything is owned by the Gateway and goes with it. An object of that name which somebody else made is left alone: see [`taken`].

mod names;
mod objects;
#[cfg(test)]
mod tests;

pub use names::{CLASS_LABEL, GATEWAY_LABEL, MANAGED, MANAGED_LABEL, label_value, workload_name};
pub use objects::{KINDS, Plan, REPLICAS};

use crate::gateway_api::{GatewaySpec, ListenerSetSpec};
use crate::translate::bound_port;
use crate::world::{Meta, Object};
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeSet;
use std::net::IpAddr;

/// A port that a Gateway listens on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Port {
    /// As the Gateway says it, and its Service has it.
    pub number: u16,
    /// TCP or UDP.
    pub transport: Transport,
}

/// What a port carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Transport {
    /// TCP
    Tcp,
    /// UDP
    Udp,
}

impl Transport {
    fn of(listener_protocol: &str) -> Self {
        if listener_protocol == "UDP" { Self::Udp } else { Self::Tcp }
    }

    fn protocol(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

impl Port {
    /// Where the proxies have it.
    pub fn bound(self) -> u16 {
        bound_port(self.number)
    }
}

/// The ports of a Gateway's listeners and of the ListenerSets that are accepted on it.
pub fn ports<'a>(gateway: &GatewaySpec, sets: impl IntoIterator<Item = &'a ListenerSetSpec>) -> BTreeSet<Port> {
    let port = |number: i32, protocol: &str| {
        let number = u16::try_from(number).ok().filter(|number| *number != 0)?;
        Some(Port { number, transport: Transport::of(protocol) })
    };
    let own = gateway.listeners.iter().filter_map(|listener| port(listener.port, &listener.protocol));
    let sets = sets.into_iter().flat_map(|set| &set.listeners).filter_map(|listener| port(listener.port, &listener.protocol));
    own.chain(sets).collect()
}

/// An address that a Gateway asks for and cannot have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct UnsupportedAddress {
    /// Path of the field.
    pub field: String,
    /// What is wrong, and what to write instead.
    pub problem: String,
}

/// The address that a Gateway asks for: at most one, which the load balancer is asked to give.
///
/// `externalIPs` of a Service are never set: whoever may write a Gateway could then take traffic to any address (CVE-2020-8554).
pub fn requested_address(gateway: &GatewaySpec) -> Result<Option<IpAddr>, UnsupportedAddress> {
    let unsupported =
        |index: usize, below: &str, problem: String| UnsupportedAddress { field: format!("spec.addresses[{index}]{below}"), problem };
    let mut found = None;
    for (index, address) in gateway.addresses.iter().flatten().enumerate() {
        let kind = address.r#type.as_deref().unwrap_or("IPAddress");
        if kind != "IPAddress" {
            return Err(unsupported(index, ".type", format!("{kind} is not supported: ask for an IPAddress, or leave addresses out")));
        }
        // An address without a value asks for any.
        let Some(value) = address.value.as_deref().filter(|value| !value.is_empty()) else { continue };
        let parsed = value.parse().map_err(|_| unsupported(index, ".value", format!("`{value}` is not an IP address")))?;
        if found.replace(parsed).is_some() {
            return Err(unsupported(index, "", "is a second address: a load balancer is asked for one".into()));
        }
    }
    Ok(found)
}

/// An address that a Gateway's status shows.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct StatusAddress {
    /// `IPAddress` or `Hostname`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// The address.
    pub value: String,
}

/// The addresses of a Gateway, from its Service: those that a load balancer gave; the cluster's own only where no load balancer is asked
/// for. None yet: not programmed.
pub fn status_addresses(service: &Value) -> Vec<StatusAddress> {
    let text = |value: &Value| value.as_str().filter(|text| !text.is_empty() && *text != "None").map(String::from);
    let ingress = service.pointer("/status/loadBalancer/ingress").and_then(Value::as_array).into_iter().flatten();
    let given: Vec<StatusAddress> = ingress
        .filter_map(|one| {
            let address = text(&one["ip"]).map(|value| StatusAddress { kind: "IPAddress", value });
            address.or_else(|| text(&one["hostname"]).map(|value| StatusAddress { kind: "Hostname", value }))
        })
        .collect();
    if !given.is_empty() || service.pointer("/spec/type").is_some_and(|kind| kind == "LoadBalancer") {
        return given;
    }
    let own = service.pointer("/spec/clusterIPs").and_then(Value::as_array).into_iter().flatten();
    own.filter_map(text).map(|value| StatusAddress { kind: "IPAddress", value }).collect()
}

/// Whether an object was made for this Gateway when it had another class: then it goes. Its proxies are told nothing any more, and would
/// serve what they had.
pub fn left_over(existing: &Value, gateway: &Object<GatewaySpec>) -> bool {
    let label = existing.pointer("/metadata/labels").and_then(|labels| labels.get(MANAGED_LABEL));
    let name = existing.pointer("/metadata/name").and_then(Value::as_str);
    label.is_some_and(|label| label == MANAGED)
        && is_owned(existing, &gateway.meta)
        && name.is_some_and(|name| name != workload_name(&gateway.meta.name, &gateway.spec.gateway_class_name))
}

fn is_owned(existing: &Value, gateway: &Meta) -> bool {
    let owners = existing.pointer("/metadata/ownerReferences").and_then(Value::as_array).into_iter().flatten();
    owners.into_iter().any(|owner| owner["kind"] == "Gateway" && owner["uid"] == gateway.uid.as_str())
}

/// Whether an object that is already there under the name of one of ours is somebody else's: then it is not touched. What to say of it.
pub fn taken(existing: &Value, gateway: &Meta) -> Option<String> {
    let text = |pointer: &str| existing.pointer(pointer).and_then(Value::as_str).unwrap_or("?");
    (!is_owned(existing, gateway)).then(|| {
        let (kind, name) = (text("/kind"), text("/metadata/name"));
        format!("{kind} {}/{name} is there already and is not this Gateway's: rename one of them", gateway.namespace)
    })
}
