//! One listener, of a Gateway or of a ListenerSet.

use crate::gateway_api::gateways::{
    GatewayListeners, GatewayListenersAllowedRoutesNamespacesFrom as From, GatewayListenersTlsMode as Mode, GatewayTlsFrontend,
};
use crate::translate::port;
use crate::translate::status::{GroupKind, Problem};
use crate::translate::{Facts, GATEWAY_GROUP};
use crate::world::Name;
use crate::world::route::RouteKind;
use selvage_config::ports;
use selvage_config::resource::listener::Protocol;
use selvage_config::resource::text::HostPattern;
use selvage_policy::Key;
use std::collections::BTreeMap;

/// A listener, and what has been found out of it.
pub(in crate::translate) struct Entry {
    /// The ListenerSet it is of; absent: the Gateway's own.
    pub set: Option<Name>,
    /// As somebody wrote it.
    pub listener: GatewayListeners,
    /// Its host; absent: every one.
    pub hostname: Option<HostPattern>,
    /// What is spoken; absent where it is not accepted.
    pub protocol: Option<Protocol>,
    /// Its port.
    pub port: Option<u16>,
    /// Kinds of routes it takes.
    pub kinds: Vec<RouteKind>,
    /// Whether it can be served as it is written.
    pub accepted: Result<(), Problem>,
    /// Whether everything it refers to is there and permitted.
    pub resolved: Result<(), Problem>,
    /// Why it cannot stand beside another one: `HostnameConflict` or `ProtocolConflict`.
    pub conflict: Option<Problem>,
    /// Whether another listener that ends TLS on this port has a host in common with it.
    pub overlaps: bool,
    /// The Resource that proxies are told.
    pub resource: Option<Key>,
    /// Accepted routes.
    pub attached: i32,
}

impl Entry {
    /// What can be said of it alone.
    pub(super) fn new(set: Option<Name>, listener: GatewayListeners, frontend: Option<&GatewayTlsFrontend>) -> Self {
        let checked = check(&listener, frontend);
        let known = match &checked {
            Ok((protocol, _)) => kinds_of(*protocol),
            Err(_) => &[],
        };
        let (kinds, resolved) = kinds(&listener, known);
        let hostname = checked.as_ref().ok().and_then(|(_, hostname)| hostname.clone());
        Self {
            set,
            hostname,
            protocol: checked.as_ref().ok().map(|(protocol, _)| *protocol),
            port: port(listener.port),
            kinds,
            accepted: checked.map(|_| ()),
            resolved,
            conflict: None,
            overlaps: false,
            resource: None,
            attached: 0,
            listener,
        }
    }

    /// Whether it ends TLS itself.
    pub(super) fn terminates(&self) -> bool {
        matches!(self.protocol, Some(Protocol::Https | Protocol::Tls))
    }

    /// Whether it can be served beside the others.
    pub(super) fn is_distinct(&self) -> bool {
        self.accepted.is_ok() && self.conflict.is_none()
    }

    /// Whether it takes routes of this kind from this namespace; the namespace of its owner is `home`.
    pub(in crate::translate) fn allows(&self, facts: &Facts<'_>, kind: RouteKind, namespace: &str, home: &str) -> Result<(), Problem> {
        let refused = |why: String| Err(("NotAllowedByListeners", why));
        if !self.kinds.contains(&kind) {
            return refused(format!("listener {} takes no {}", self.listener.name, kind.as_str()));
        }
        let namespaces = self.listener.allowed_routes.as_ref().and_then(|allowed| allowed.namespaces.as_ref());
        let near = match namespaces.and_then(|namespaces| namespaces.from.as_ref()) {
            Some(From::All) => true,
            None | Some(From::Same) => namespace == home,
            Some(From::Selector) => namespaces.and_then(|namespaces| namespaces.selector.as_ref()).is_some_and(|selector| {
                let expressions = selector.match_expressions.iter().flatten();
                let expressions = expressions.map(|one| (one.operator.as_str(), one.key.as_str(), one.values.as_deref()));
                selects(facts, namespace, selector.match_labels.as_ref(), expressions)
            }),
        };
        if near {
            Ok(())
        } else {
            refused(format!("listener {} takes no routes of namespace {namespace}: see its allowedRoutes.namespaces", self.listener.name))
        }
    }

    /// The kinds as a status has them.
    pub(super) fn supported(&self) -> Vec<GroupKind> {
        self.kinds.iter().map(|kind| GroupKind { group: GATEWAY_GROUP, kind: kind.as_str() }).collect()
    }
}

/// Whether a label selector chooses a namespace (Kubernetes `LabelSelector`).
pub(in crate::translate) fn selects<'s>(
    facts: &Facts<'_>,
    namespace: &str,
    labels: Option<&BTreeMap<String, String>>,
    mut expressions: impl Iterator<Item = (&'s str, &'s str, Option<&'s [String]>)>,
) -> bool {
    let object = facts.world.namespaces.get(&Name::new("", namespace));
    let carried = |name: &str| object.and_then(|object| object.meta.labels.get(name));
    labels.into_iter().flatten().all(|(name, value)| carried(name) == Some(value))
        && expressions.all(|(operator, name, values)| {
            let values = values.unwrap_or_default();
            match operator {
                "In" => carried(name).is_some_and(|value| values.contains(value)),
                "NotIn" => carried(name).is_none_or(|value| !values.contains(value)),
                "Exists" => carried(name).is_some(),
                "DoesNotExist" => carried(name).is_none(),
                _ => false,
            }
        })
}

fn check(listener: &GatewayListeners, frontend: Option<&GatewayTlsFrontend>) -> Result<(Protocol, Option<HostPattern>), Problem> {
    let mode = listener.tls.as_ref().and_then(|tls| tls.mode.as_ref());
    let protocol = match (listener.protocol.as_str(), mode) {
        ("HTTP", _) => Protocol::Http,
        ("HTTPS", None | Some(Mode::Terminate)) => Protocol::Https,
        ("HTTPS", Some(Mode::Passthrough)) => {
            return Err(("UnsupportedValue", "tls.mode: HTTPS ends TLS here: write Terminate, or protocol TLS".into()));
        }
        ("TLS", None | Some(Mode::Terminate)) => Protocol::Tls,
        ("TLS", Some(Mode::Passthrough)) => Protocol::Passthrough,
        ("TCP", _) => Protocol::Tcp,
        (other, _) => return Err(("UnsupportedProtocol", format!("protocol `{other}` is not served: use HTTP, HTTPS, TLS or TCP"))),
    };
    let number = port(listener.port).ok_or(("PortUnavailable", format!("port {} is out of range", listener.port)))?;
    if ports::PROXY.contains(&number) {
        return Err(("PortUnavailable", format!("port {number} is one that proxies use themselves: choose another")));
    }
    if listener.filters.as_ref().is_some_and(|filters| filters.requests.as_ref().is_some_and(|requests| !requests.is_empty())) {
        return Err(("UnsupportedValue", "filters of listeners are not served yet: use policies, or filters of routes".into()));
    }
    if protocol == Protocol::Https && validates_clients(frontend, listener.port) {
        let remedy = "remove it: the listener is not served without it";
        return Err((
            "UnsupportedValue",
            format!("the Gateway's tls.frontend asks for client certificates, which is not served yet: {remedy}"),
        ));
    }
    let hostname = match protocol {
        Protocol::Tcp => Ok(None),
        _ => listener.hostname.clone().filter(|hostname| !hostname.is_empty()).map(HostPattern::try_from).transpose(),
    }
    .map_err(|error| ("UnsupportedValue", format!("hostname: {error}")))?;
    Ok((protocol, hostname))
}

/// Whether client certificates are asked for on this port: its own setting, else the default one.
fn validates_clients(frontend: Option<&GatewayTlsFrontend>, port: i32) -> bool {
    frontend.is_some_and(|frontend| {
        let own = frontend.per_port.iter().flatten().find(|one| one.port == port);
        own.map_or(frontend.default.validation.is_some(), |own| own.tls.validation.is_some())
    })
}

fn kinds_of(protocol: Protocol) -> &'static [RouteKind] {
    match protocol {
        Protocol::Http | Protocol::Https => &[RouteKind::Http, RouteKind::Grpc],
        Protocol::Tls => &[RouteKind::Tls, RouteKind::Tcp],
        Protocol::Passthrough => &[RouteKind::Tls],
        Protocol::Tcp => &[RouteKind::Tcp],
        Protocol::Detect => &[],
    }
}

/// The kinds it takes, of those that its protocol can have.
fn kinds(listener: &GatewayListeners, known: &[RouteKind]) -> (Vec<RouteKind>, Result<(), Problem>) {
    let listed = listener.allowed_routes.as_ref().and_then(|allowed| allowed.kinds.as_deref()).unwrap_or_default();
    if listed.is_empty() {
        return (known.to_vec(), Ok(()));
    }
    let (mut kinds, mut strange) = (Vec::new(), None);
    for one in listed {
        let group = one.group.as_deref().unwrap_or(GATEWAY_GROUP);
        match known.iter().find(|kind| group == GATEWAY_GROUP && kind.as_str() == one.kind) {
            Some(kind) if kinds.contains(kind) => {}
            Some(kind) => kinds.push(*kind),
            None => strange = strange.or(Some(&one.kind)),
        }
    }
    let resolved = strange.map_or(Ok(()), |strange| {
        let message = format!("allowedRoutes.kinds: {strange} is not a kind for protocol {}", listener.protocol);
        Err(("InvalidRouteKinds", message))
    });
    (kinds, resolved)
}
