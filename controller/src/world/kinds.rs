//! One object: from JSON, as a file or the API server has it, to its type.

use super::route::Route;
use super::schema::{self, Unknown};
use super::{Fault, Malformed, Meta, Object, Parsed, Pod, Policy};
use crate::crds::{GROUP, KINDS, OwnKind, VERSION};
use crate::gateway_api::{GrpcRouteSpec, HttpRouteSpec, TcpRouteSpec, TlsRouteSpec};
use crate::translate::GATEWAY_GROUP;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use selvage_policy::Key;
use selvage_policy::list::{Invalid, Kind as PolicyKind, PolicySpec};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::LazyLock;

/// Reads one object: its kind decides how. The error keeps the object's name, as far as it has one. `unknown`: what becomes of fields of
/// Gateway API's that this version does not know.
pub fn parse(value: Value, unknown: Unknown) -> Result<(Key, Parsed), Malformed> {
    let (generation, raw) = (generation(&value), value.get("spec").cloned().unwrap_or_default());
    read(value, unknown).map_err(|Unread { key, faults }| Malformed { key, faults, generation, raw })
}

/// What is wrong with an object.
struct Unread {
    key: Key,
    faults: Vec<Fault>,
}

fn generation(value: &Value) -> i64 {
    value.pointer("/metadata/generation").and_then(Value::as_i64).unwrap_or_default()
}

fn read(value: Value, unknown: Unknown) -> Result<(Key, Parsed), Unread> {
    let head = Head::read(&value)?;
    let (group, version) = head.api_version.rsplit_once('/').unwrap_or(("", &head.api_version));
    let kind = head.key.kind.clone();
    let (key, meta) = (head.key.clone(), head.meta.clone());
    let parsed = match (group, kind.as_str()) {
        ("", "Namespace") => Parsed::Namespace(Object { meta: namespace_meta(&meta.name.clone(), meta), spec: () }),
        ("", "Pod") => {
            let spec = part(&key, &value, "spec")?;
            let status = value.get("status").is_some().then(|| part(&key, &value, "status")).transpose()?;
            Parsed::Pod(Box::new(Object { meta, spec: Pod::new(spec, status) }))
        }
        ("", "Service") => {
            let object = Object { meta, spec: part(&key, &value, "spec")? };
            check_service(&key, &object.spec)?;
            Parsed::Service(Box::new(object))
        }
        ("discovery.k8s.io", "EndpointSlice") => {
            let spec: EndpointSlice = whole(&key, value)?;
            Parsed::EndpointSlice(Box::new(Object { meta, spec }))
        }
        ("", "Secret") => Parsed::Secret(Box::new(Object { meta, spec: secret(&key, value)? })),
        (GATEWAY_GROUP, known) if GATEWAY_SCHEMAS.contains_key(known) => gateway_api(&key, version, unknown, meta, value)?,
        (GROUP, known) => match OwnKind::of(known) {
            Some(own) => own_kind(own, &key, version, meta, value)?,
            None => return Err(fault(&key, "kind", format!("`{known}` is not a kind of {GROUP}"))),
        },
        _ => Parsed::Other,
    };
    Ok((key, parsed))
}

struct Head {
    api_version: String,
    key: Key,
    meta: Meta,
}

impl Head {
    fn read(value: &Value) -> Result<Self, Unread> {
        let text = |pointer: &str| value.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_string();
        let (api_version, kind) = (text("/apiVersion"), text("/kind"));
        let name = text("/metadata/name");
        let cluster = matches!(kind.as_str(), "Namespace" | "GatewayClass" | "MeshConfig");
        let namespace = match text("/metadata/namespace") {
            _ if cluster => String::new(),
            written if written.is_empty() => "default".to_string(),
            written => written,
        };
        let shown = |part: &str| if part.is_empty() { "?".to_string() } else { part.to_string() };
        let key = Key::new(shown(&kind), namespace.clone(), shown(&name));
        for (field, present) in [("apiVersion", !api_version.is_empty()), ("kind", !kind.is_empty()), ("metadata.name", !name.is_empty())] {
            if !present {
                return Err(fault(&key, field, "is required".into()));
            }
        }
        if !is_dns_name(&name) || !(namespace.is_empty() || is_dns_name(&namespace)) {
            let field = if is_dns_name(&name) { "metadata.namespace" } else { "metadata.name" };
            return Err(fault(&key, field, "is not a name: use lower-case letters, digits, `-` and `.`, at most 253".into()));
        }
        let created = text("/metadata/creationTimestamp");
        let created = if created.is_empty() {
            0
        } else {
            let time: jiff::Timestamp = created.parse().map_err(|_| {
                fault(&key, "metadata.creationTimestamp", format!("`{created}` is not a time: write it as 2026-01-31T12:00:00Z"))
            })?;
            time.as_second()
        };
        let uid = text("/metadata/uid");
        let meta = Meta {
            uid: if uid.is_empty() { key.to_string() } else { uid },
            namespace,
            name,
            created,
            generation: generation(value),
            unknown: Vec::new(),
            labels: texts(&key, value, "labels")?,
            annotations: texts(&key, value, "annotations")?,
        };
        Ok(Self { api_version, key, meta })
    }
}

fn texts(key: &Key, value: &Value, field: &str) -> Result<BTreeMap<String, String>, Unread> {
    match value.pointer(&format!("/metadata/{field}")) {
        None | Some(Value::Null) => Ok(BTreeMap::new()),
        Some(map) => serde_path_to_error::deserialize(map)
            .map_err(|error| fault(key, &format!("metadata.{field}.{}", error.path()), format!("must be a text: {}", error.inner()))),
    }
}

/// Whether a text is what names of Kubernetes objects are made of: no path leads out of a folder by it.
pub fn is_dns_name(text: &str) -> bool {
    let edge = |byte: Option<&u8>| byte.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let bytes = text.as_bytes();
    bytes.len() <= 253
        && edge(bytes.first())
        && edge(bytes.last())
        && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.'))
}

/// Kubernetes gives every Namespace a label with its name; so do we.
pub(super) fn namespace_meta(name: &str, meta: Meta) -> Meta {
    let mut labels = meta.labels;
    labels.insert("kubernetes.io/metadata.name".into(), name.into());
    Meta { name: name.into(), labels, uid: if meta.uid.is_empty() { format!("Namespace/{name}") } else { meta.uid }, ..meta }
}

fn fault(key: &Key, field: &str, problem: String) -> Unread {
    Unread { key: key.clone(), faults: vec![Fault::of(key, field, problem)] }
}

fn whole<T: DeserializeOwned>(key: &Key, value: Value) -> Result<T, Unread> {
    serde_path_to_error::deserialize(value).map_err(|error| fault(key, &error.path().to_string(), error.inner().to_string()))
}

fn part<T: DeserializeOwned>(key: &Key, value: &Value, field: &str) -> Result<T, Unread> {
    let inner = value.get(field).ok_or_else(|| fault(key, field, "is required".into()))?;
    serde_path_to_error::deserialize(inner).map_err(|error| fault(key, &format!("{field}.{}", error.path()), error.inner().to_string()))
}

/// `stringData` becomes `data`, as the API server does it. Messages never show a value.
fn secret(key: &Key, value: Value) -> Result<Secret, Unread> {
    let mut secret: Secret = serde_path_to_error::deserialize(value)
        .map_err(|error| fault(key, &error.path().to_string(), "is not what a Secret has there (its value is not shown)".into()))?;
    let plain = secret.string_data.take().unwrap_or_default();
    let data = secret.data.get_or_insert_default();
    data.extend(plain.into_iter().map(|(name, text)| (name, k8s_openapi::ByteString(text.into_bytes()))));
    Ok(secret)
}

fn check_service(key: &Key, spec: &k8s_openapi::api::core::v1::ServiceSpec) -> Result<(), Unread> {
    let ports = spec.ports.as_deref().unwrap_or_default();
    let mut faults = Vec::new();
    for (index, port) in ports.iter().enumerate() {
        if !(1..=65535).contains(&port.port) {
            faults.push(Fault::of(key, format!("spec.ports[{index}].port"), format!("{} is out of range: use 1 to 65535", port.port)));
        }
        let same = |other: &k8s_openapi::api::core::v1::ServicePort| other.port == port.port && other.protocol == port.protocol;
        if ports[..index].iter().any(same) {
            faults.push(Fault::of(key, format!("spec.ports[{index}].port"), format!("{} is there twice", port.port)));
        }
        if ports.len() > 1 && port.name.as_deref().unwrap_or_default().is_empty() {
            faults.push(Fault::of(key, format!("spec.ports[{index}].name"), "is required where a Service has several ports"));
        }
    }
    if faults.is_empty() { Ok(()) } else { Err(Unread { key: key.clone(), faults }) }
}

macro_rules! gateway_schemas {
    ($($kind:literal => $file:literal),* $(,)?) => {
        /// The schemas of Gateway API's CRDs.
        static GATEWAY_SCHEMAS: LazyLock<BTreeMap<&'static str, Value>> = LazyLock::new(|| {
            let read = |text: &str| serde_json::from_str(text).expect("generated, and read by a test");
            BTreeMap::from([$(($kind, read(include_str!(concat!("../gateway_api/schemas/", $file, ".json"))))),*])
        });
    };
}

gateway_schemas! {
    "GatewayClass" => "gatewayclasses",
    "Gateway" => "gateways",
    "ListenerSet" => "listenersets",
    "HTTPRoute" => "httproutes",
    "GRPCRoute" => "grpcroutes",
    "TLSRoute" => "tlsroutes",
    "TCPRoute" => "tcproutes",
    "ReferenceGrant" => "referencegrants",
}

/// The schemas of our own kinds.
static OWN_SCHEMAS: LazyLock<BTreeMap<&'static str, Value>> = LazyLock::new(|| KINDS.iter().map(|own| (own.kind, own.schema())).collect());

/// Versions of Gateway API kinds that have the schema of `v1` (the API server converts them).
fn version_of(kind: &str) -> &'static [&'static str] {
    match kind {
        "GatewayClass" | "Gateway" | "HTTPRoute" | "ReferenceGrant" => &["v1", "v1beta1"],
        _ => &["v1"],
    }
}

fn gateway_api(key: &Key, version: &str, unknown: Unknown, mut meta: Meta, mut value: Value) -> Result<Parsed, Unread> {
    let kind = key.kind.as_str();
    if !version_of(kind).contains(&version) {
        return Err(fault(key, "apiVersion", format!("`{GATEWAY_GROUP}/{version}` is not served: write {GATEWAY_GROUP}/v1")));
    }
    let schema = &GATEWAY_SCHEMAS[kind];
    schema::fill_defaults(schema, &mut value);
    // What is not known of a grant might narrow it.
    let unknown = if kind == "ReferenceGrant" { Unknown::Refuse } else { unknown };
    let found = schema::check(key, schema, &value, unknown);
    if !found.faults.is_empty() {
        return Err(Unread { key: key.clone(), faults: found.faults });
    }
    if !found.unknown.is_empty() {
        tracing::warn!(object = %key, fields = found.unknown.join(", "), "an object has fields that this version does not know");
    }
    meta.unknown = found.unknown;
    let convert = |error: serde_json::Error| fault(key, "spec", error.to_string());
    let route = |route: Result<Route, serde_json::Error>| {
        route.map_err(convert).map(|mut spec| {
            spec.leave_out(&meta.unknown);
            Parsed::Route(Box::new(Object { meta: meta.clone(), spec }))
        })
    };
    Ok(match kind {
        "GatewayClass" => Parsed::GatewayClass(Object { spec: part(key, &value, "spec")?, meta }),
        "Gateway" => Parsed::Gateway(Box::new(Object { spec: part(key, &value, "spec")?, meta })),
        "ListenerSet" => Parsed::ListenerSet(Box::new(Object { spec: part(key, &value, "spec")?, meta })),
        "ReferenceGrant" => Parsed::ReferenceGrant(Object { spec: part(key, &value, "spec")?, meta }),
        "HTTPRoute" => route(part::<HttpRouteSpec>(key, &value, "spec")?.try_into())?,
        "GRPCRoute" => route(part::<GrpcRouteSpec>(key, &value, "spec")?.try_into())?,
        "TLSRoute" => route(part::<TlsRouteSpec>(key, &value, "spec")?.try_into())?,
        "TCPRoute" => route(part::<TcpRouteSpec>(key, &value, "spec")?.try_into())?,
        _ => Parsed::Other,
    })
}

fn own_kind(own: &OwnKind, key: &Key, version: &str, meta: Meta, mut value: Value) -> Result<Parsed, Unread> {
    if version != VERSION {
        return Err(fault(key, "apiVersion", format!("`{GROUP}/{version}` is not served: write {GROUP}/{VERSION}")));
    }
    let schema = &OWN_SCHEMAS[own.kind];
    schema::fill_defaults(schema, &mut value);
    // Ours are versioned with the controller: what it does not know may be the half of a guard.
    let mut faults = schema::check(key, schema, &value, Unknown::Refuse).faults;
    let raw = value.get("spec").cloned().unwrap_or(Value::Null);
    let Ok(kind) = own.kind.parse::<PolicyKind>() else {
        return if faults.is_empty() {
            Ok(Parsed::MeshConfig(Object { meta, spec: part(key, &value, "spec")? }))
        } else {
            Err(Unread { key: key.clone(), faults })
        };
    };
    let targeted = |field: &str| raw.get(field).and_then(Value::as_array).is_some_and(|items| !items.is_empty());
    if !targeted("targetRefs") && !targeted("targetSelectors") {
        faults.push(Fault::of(key, "spec.targetRefs", "is required (or targetSelectors): name what the policy holds for"));
    }
    // A policy is kept even with faults: a guard that cannot be understood refuses on its targets.
    let spec =
        if faults.is_empty() { PolicySpec::parse(kind, &raw).map_err(|invalid| vec![of_invalid(key, &invalid)]) } else { Err(faults) };
    Ok(Parsed::Policy(Box::new(Object { meta, spec: Policy { kind, spec, raw } })))
}

/// What the policy crate says about a policy, as a fault.
pub(crate) fn of_invalid(key: &Key, invalid: &Invalid) -> Fault {
    match invalid {
        Invalid::Field { field, problem } => Fault::of(key, field.clone(), problem.clone()),
        Invalid::Unresolved { field, reference } => Fault::of(key, field.clone(), format!("{reference} does not exist")),
        other => Fault::of(key, "kind", other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_gateway_api_schema_is_read() {
        assert_eq!(GATEWAY_SCHEMAS.len(), 8);
        for (kind, schema) in &*GATEWAY_SCHEMAS {
            assert!(schema.pointer("/properties/spec/properties").is_some(), "{kind}");
        }
    }
}
