mod controller;
mod file;
mod wire;

use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
use selvage_config::resource::listener::{Bind, Clients, Forward, MeshMode, Protocol};
use selvage_config::{CertificateSpec, ListenerSpec, Origin, Resource, VersionKey, keys};
use selvage_policy::{Key, SpiffeId};
use serde_json::json;
use std::time::Duration;

pub const PATIENCE: Duration = Duration::from_secs(30);

pub fn key(text: &str) -> Key {
    text.parse().expect("a key")
}

pub fn orders() -> SpiffeId {
    "spiffe://cluster.local/ns/shop/sa/orders".parse().expect("an identity")
}

pub fn mesh(roots: &[String]) -> Resource {
    Resource::core(keys::mesh(), &json!({"trustDomain": "cluster.local", "roots": roots}), 0)
}

/// A listener of that name; nothing is bound by compiling it.
pub fn listener(name: &str, identity: Option<SpiffeId>) -> Resource {
    let spec = ListenerSpec {
        bind: Bind::Bound("127.0.0.1:1".parse().expect("an address")),
        destination: None,
        hostname: None,
        port: 80,
        protocol: Protocol::Http,
        certificates: vec![],
        mesh: identity.as_ref().map(|_| MeshMode::Strict),
        clients: Clients::Outside,
        forward: Forward::Routes,
        chain: vec![],
        posture: false,
        identity,
        application: None,
        assertors: vec![],
    };
    Resource::core(keys::listener("shop", "public", name), &spec, 0)
}

/// A guard whose condition is no CEL.
pub fn broken_guard() -> Resource {
    let spec = json!({"targetRefs": [{"kind": "Gateway", "name": "public"}], "rules": [{"name": "x", "action": "Allow", "when": "1 +"}]});
    let origin = Origin {
        attachments: vec![selvage_policy::Target::new(selvage_policy::TargetKind::Gateway, "shop", "public")],
        ..Origin::default()
    };
    Resource::new(key("AuthorizationPolicy/shop/broken"), selvage_config::Class::Guard, &spec, origin)
}

pub fn self_signed(name: &str) -> Resource {
    let pair = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new(vec![name.to_string()]).expect("parameters");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let chain = params.self_signed(&pair).expect("signed").pem();
    let spec = CertificateSpec { chain, private_key: selvage_config::resource::Secret::new(pair.serialize_pem()) };
    Resource::secret(keys::certificate("shop", "tls"), &spec, &VersionKey::derive(b"test"))
}

/// Waits until it is so.
pub async fn until(what: &str, mut is: impl FnMut() -> bool) {
    let end = tokio::time::Instant::now() + PATIENCE;
    while !is() {
        assert!(tokio::time::Instant::now() < end, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
