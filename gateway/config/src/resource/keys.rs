//! How the Keys of Resources are spelled: the one place.
//!
//! ```text
//! Mesh/default
//! Listener/<ns>/<gateway>#<listener>                     an edge listener
//! Listener/<ns>/<gateway>#<set ns>:<set>:<listener>      one of a ListenerSet
//! Listener/<ns>/<pod>#in:<port>                          what a workload's proxy accepts for it
//! Listener/<ns>/<pod>#in:any                             what it accepts on ports that nobody declared
//! Listener/<ns>/<pod>#out:any                            everything a captured workload calls
//! Listener/<ns>/<pod>#out:<svc ns>.<service>-<port>      a Service as one workload sees it
//! Route/<ns>/<HTTPRoute|GRPCRoute|TLSRoute|TCPRoute>.<name>
//! Backend/<ns>/<service>#<port>
//! Endpoints/<ns>/<slice>#<port>
//! Certificate/<ns>/<secret>                              from a Secret
//! Certificate/<ns>/identity:<account>                    a workload's own leaf
//! <policy kind>/<ns>/<name>
//! ```
//!
//! `:` is in no name of a Kubernetes object nor of a part of one, so a Gateway and a Pod of one name have no key in common, nor have a Secret
//! and an account.

use super::kind::CoreKind;
use selvage_policy::list::Kind;
use selvage_policy::{Key, SpiffeId, TrustDomain};

/// What an identity leaf's name begins with.
const IDENTITY: &str = "identity:";

/// The platform's settings.
pub fn mesh() -> Key {
    core(CoreKind::Mesh, "", "default")
}

/// A Gateway's own listener.
pub fn listener(namespace: &str, gateway: &str, listener: &str) -> Key {
    core(CoreKind::Listener, namespace, gateway).part(listener)
}

/// A listener of a ListenerSet (namespace, name), which is served as part of a Gateway.
pub fn set_listener(namespace: &str, gateway: &str, set: (&str, &str), listener: &str) -> Key {
    core(CoreKind::Listener, namespace, gateway).part(&format!("{}:{}:{listener}", set.0, set.1))
}

/// What a workload's proxy accepts for it on one of its ports.
pub fn inbound(namespace: &str, pod: &str, port: u16) -> Key {
    core(CoreKind::Listener, namespace, pod).part(&format!("in:{port}"))
}

/// What a workload's proxy accepts for it on ports that nobody declared.
pub fn inbound_any(namespace: &str, pod: &str) -> Key {
    core(CoreKind::Listener, namespace, pod).part("in:any")
}

/// Everything a captured workload calls.
pub fn outbound_any(namespace: &str, pod: &str) -> Key {
    core(CoreKind::Listener, namespace, pod).part("out:any")
}

/// One port of a Service, as one workload calls it.
pub fn outbound(namespace: &str, pod: &str, service_namespace: &str, service: &str, port: u16) -> Key {
    core(CoreKind::Listener, namespace, pod).part(&format!("out:{service_namespace}.{service}-{port}"))
}

/// A route by its Kubernetes kind (`HTTPRoute`) and name.
pub fn route(namespace: &str, kind: &str, name: &str) -> Key {
    core(CoreKind::Route, namespace, &format!("{kind}.{name}"))
}

/// One port of a Service.
pub fn backend(namespace: &str, service: &str, port: u16) -> Key {
    core(CoreKind::Backend, namespace, service).part(&port.to_string())
}

/// One port of an EndpointSlice; `port` is the Service's port that it serves.
pub fn endpoints(namespace: &str, slice: &str, port: u16) -> Key {
    core(CoreKind::Endpoints, namespace, slice).part(&port.to_string())
}

/// The certificate in a Secret.
pub fn certificate(namespace: &str, secret: &str) -> Key {
    core(CoreKind::Certificate, namespace, secret)
}

/// The leaf with which a proxy proves `identity`.
pub fn identity(identity: &SpiffeId) -> Key {
    core(CoreKind::Certificate, identity.namespace(), &format!("{IDENTITY}{}", identity.account()))
}

/// Whose leaf it is, if `key` names an identity leaf.
pub fn identity_of(key: &Key, trust_domain: &TrustDomain) -> Option<SpiffeId> {
    let account = key.name.strip_prefix(IDENTITY)?;
    (key.kind == CoreKind::Certificate.as_str()).then(|| SpiffeId::new(trust_domain.clone(), &key.namespace, account).ok())?
}

/// Whether `key` names an identity leaf.
pub fn is_identity(key: &Key) -> bool {
    key.kind == CoreKind::Certificate.as_str() && key.name.starts_with(IDENTITY)
}

/// A policy.
pub fn policy(kind: Kind, namespace: &str, name: &str) -> Key {
    Key::new(kind.as_str(), namespace, name)
}

fn core(kind: CoreKind, namespace: &str, name: &str) -> Key {
    Key::new(kind.as_str(), namespace, name)
}
