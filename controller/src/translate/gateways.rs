//! Gateways: their listeners and certificates.

use super::status::{Condition, ListenerStatus};
use super::{Facts, Translation, port};
use crate::gateway_api::gateways::{GatewayListeners, GatewayListenersTlsMode};
use crate::world::Name;
use selvage_config::resource::listener::{Bind, Clients, Forward, Protocol};
use selvage_config::resource::text::HostPattern;
use selvage_config::resource::{CertificateSpec, Secret};
use selvage_config::{ListenerSpec, Resource, VersionKey, keys};
use selvage_policy::target::TargetKind;
use selvage_policy::{Key, SpiffeId, Target};
use std::net::SocketAddr;

/// Ports below this need privileges: they are bound this much above the greatest of them.
const PRIVILEGED: u16 = 1024;
/// See [`PRIVILEGED`].
const OFFSET: u16 = 10_000;

/// Where a listener's port is bound.
pub fn bound_port(port: u16) -> u16 {
    if port < PRIVILEGED { OFFSET + port } else { port }
}

pub(super) fn translate(facts: &Facts<'_>, version_key: &VersionKey, translation: &mut Translation) {
    for (name, gateway) in &facts.world.gateways {
        let object = name.key("Gateway");
        let Some(identity) = facts.gateways.get(name) else {
            let class = &gateway.spec.gateway_class_name;
            let message = format!("is no GatewayClass with controllerName {}: name one that is", super::CONTROLLER);
            translation.remarks.push(format!("{object}: spec.gatewayClassName: `{class}` {message}"));
            continue;
        };
        let mut listeners = Vec::new();
        for listener in &gateway.spec.listeners {
            let said = resource(facts, name, identity, listener, gateway.meta.created, version_key, translation);
            let kind = if matches!(said, Err(("InvalidCertificateRef" | "RefNotPermitted", _))) { "ResolvedRefs" } else { "Accepted" };
            listeners.push(ListenerStatus {
                name: listener.name.clone(),
                attached_routes: 0,
                supported_kinds: Vec::new(),
                conditions: vec![Condition::of(kind, said)],
                resource: None,
            });
        }
        let status = translation.status(&object, gateway.meta.generation);
        status.conditions.push(Condition::of("Accepted", Ok(())));
        status.listeners = listeners;
    }
}

fn resource(
    facts: &Facts<'_>,
    gateway: &Name,
    identity: &SpiffeId,
    listener: &GatewayListeners,
    created: i64,
    version_key: &VersionKey,
    translation: &mut Translation,
) -> Result<(), (&'static str, String)> {
    let address = facts.world.addresses.as_ref().and_then(|addresses| addresses.gateway(gateway));
    let address = address.ok_or(("AddressNotAssigned", "there is no address for it".to_string()))?;
    let port = port(listener.port).ok_or(("PortUnavailable", format!("port {} is out of range", listener.port)))?;
    let protocol = match listener.protocol.as_str() {
        "HTTP" => Protocol::Http,
        "HTTPS" => Protocol::Https,
        "TCP" => Protocol::Tcp,
        "TLS" if listener.tls.as_ref().and_then(|tls| tls.mode.as_ref()) != Some(&GatewayListenersTlsMode::Passthrough) => Protocol::Tls,
        other => {
            return Err((
                "UnsupportedProtocol",
                format!("protocol {other} (in this form) is not served yet: use HTTP, HTTPS, TLS (Terminate) or TCP"),
            ));
        }
    };
    let hostname = listener.hostname.clone().map(HostPattern::try_from).transpose();
    let hostname = hostname.map_err(|error| ("UnsupportedValue", format!("hostname: {error}")))?;
    let certificates = match protocol {
        Protocol::Https | Protocol::Tls => certificates(facts, gateway, listener, version_key, translation)?,
        _ => Vec::new(),
    };
    let target = Target::new(TargetKind::Gateway, &gateway.namespace, &gateway.name);
    let spec = ListenerSpec {
        bind: Bind::Bound(SocketAddr::new(address.into(), bound_port(port))),
        destination: None,
        hostname,
        port,
        protocol,
        certificates,
        mesh: None,
        clients: Clients::Outside,
        forward: Forward::Routes,
        chain: vec![target.clone(), target.section(&listener.name)],
        posture: false,
        identity: Some(identity.clone()),
        assertors: Vec::new(),
    };
    translation.add(Resource::core(keys::listener(&gateway.namespace, &gateway.name, &listener.name), &spec, created));
    Ok(())
}

/// The certificates a listener terminates TLS with; each becomes a Resource.
fn certificates(
    facts: &Facts<'_>,
    gateway: &Name,
    listener: &GatewayListeners,
    version_key: &VersionKey,
    translation: &mut Translation,
) -> Result<Vec<Key>, (&'static str, String)> {
    let references = listener.tls.iter().flat_map(|tls| tls.certificate_refs.iter().flatten());
    let mut found = Vec::new();
    for reference in references {
        let name = Name::new(reference.namespace.clone().unwrap_or_else(|| gateway.namespace.clone()), reference.name.clone());
        let invalid = |problem: &str| ("InvalidCertificateRef", format!("Secret {}/{} {problem}", name.namespace, name.name));
        if reference.kind.as_deref().unwrap_or("Secret") != "Secret" {
            return Err(("InvalidCertificateRef", "certificateRefs name Secrets".into()));
        }
        if !facts.granted("Gateway", &gateway.namespace, "Secret", &name) {
            return Err((
                "RefNotPermitted",
                format!("Secret {}/{} is in another namespace: a ReferenceGrant there must allow it", name.namespace, name.name),
            ));
        }
        let secret = facts.world.secrets.get(&name).ok_or_else(|| invalid("does not exist"))?;
        let data = secret.spec.data.as_ref();
        let part = |field: &str| data.and_then(|data| data.get(field)).and_then(|bytes| String::from_utf8(bytes.0.clone()).ok());
        let (Some(chain), Some(key)) = (part("tls.crt"), part("tls.key")) else {
            return Err(invalid("lacks tls.crt or tls.key, PEM"));
        };
        let key_name = keys::certificate(&name.namespace, &name.name);
        let spec = CertificateSpec { chain, private_key: Secret::new(key) };
        translation.add(Resource::secret(key_name.clone(), &spec, version_key));
        found.push(key_name);
    }
    if found.is_empty() {
        Err(("InvalidCertificateRef", "tls.certificateRefs is empty: name a Secret of type kubernetes.io/tls".into()))
    } else {
        Ok(found)
    }
}
