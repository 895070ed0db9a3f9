//! Whether a Pod gets a sidecar, and the change that gives it one. Pure: the Pod as the API server shows it in, a JSON patch out.
//!
//! ```text
//! Pod, Namespace ──wanted?──► checks ──► initContainers: selvage-init (capture), selvage-proxy (native sidecar), then the Pod's own
//!                                        volumes: token, roots, state (the proxy's alone)
//!                                        probes of the application ──► answered by the sidecar
//! ```
//!
//! Injecting twice gives the same Pod: what an earlier run put in is taken out first and made anew, so a Pod that merely claims to have
//! a sidecar gets a real one, and a container that another webhook added meanwhile has its probes seen to as well.

mod checks;
pub(crate) mod exclusions;
mod probes;
mod sidecar;
#[cfg(test)]
mod tests;

pub use crate::world::pod::SIDECAR;

use crate::settings::Settings;
use crate::world::{Fault, INJECT, PLATFORM_NAMESPACE};
use k8s_openapi::api::core::v1::PodSpec;
use selvage_policy::{Key, TrustDomain};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// Says on a Pod what was put into it.
pub const STATUS: &str = "selvage.dev/status";
/// The init container that installs the rules of capture.
pub const INIT: &str = "selvage-init";

/// The Namespace of a Pod.
#[derive(Clone, Debug, Default)]
pub struct Namespace {
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

/// What becomes of a Pod that is let in.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// It gets a sidecar: the JSON patch (RFC 6902) that puts it in.
    Injected(Vec<Value>),
    /// It stays as it is.
    Untouched(Untouched),
}

/// Why a Pod gets no sidecar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Untouched {
    /// Nobody asked for one.
    #[error("neither the Pod nor its Namespace carries the label selvage.dev/inject: enabled")]
    NotAsked,
    /// Somebody said that it must have none.
    #[error("the label selvage.dev/inject says disabled")]
    Disabled,
    /// The cluster's own workloads, and ours.
    #[error("Pods of kube-* and selvage-system have no sidecar")]
    SystemNamespace,
    /// Its traffic is the node's.
    #[error(
        "spec.hostNetwork is true: its traffic is the node's, and capturing it would capture that of others; policies hold at its callers only"
    )]
    HostNetwork,
    /// There are no rules of capture for it.
    #[error("spec.os.name is windows: there is no sidecar for it")]
    Windows,
    /// The kubelet runs it from a file: what the API server shows of it cannot be changed.
    #[error("it is a static Pod of a node, which cannot be changed here")]
    Static,
}

impl Untouched {
    /// Whether somebody asked for a sidecar and should hear that there is none.
    pub fn is_surprising(self) -> bool {
        matches!(self, Self::HostNetwork | Self::Windows | Self::Static)
    }
}

/// Decides about `pod`, an object of kind Pod.
pub fn inject(pod: &Value, namespace: &Namespace, settings: &Settings, trust_domain: &TrustDomain) -> Result<Outcome, Vec<Fault>> {
    let key = Key::new("Pod", namespace.name.clone(), shown_name(pod));
    if is_system(&namespace.name) {
        return Ok(Outcome::Untouched(Untouched::SystemNamespace));
    }
    if let Some(untouched) = asked(pod, namespace, &key).map_err(|fault| vec![fault])? {
        return Ok(Outcome::Untouched(untouched));
    }
    let malformed = |field: String, problem: String| vec![Fault::of(&key, field, problem)];
    if !pod.get("metadata").is_some_and(Value::is_object) {
        return Err(malformed("metadata".into(), "is required".into()));
    }
    let spec = pod.get("spec").ok_or_else(|| malformed("spec".into(), "is required".into()))?;
    let typed: PodSpec = serde_path_to_error::deserialize(spec)
        .map_err(|error| malformed(format!("spec.{}", error.path()), format!("is not what a Pod has there: {}", error.inner())))?;
    if typed.host_network == Some(true) {
        return Ok(Outcome::Untouched(Untouched::HostNetwork));
    }
    if typed.os.as_ref().is_some_and(|os| os.name == "windows") {
        return Ok(Outcome::Untouched(Untouched::Windows));
    }
    let annotations = texts(pod, "annotations");
    if annotations.contains_key("kubernetes.io/config.mirror") {
        return Ok(Outcome::Untouched(Untouched::Static));
    }
    let mut faults = checks::check(&key, &typed, annotations.contains_key(STATUS));
    let exclusions = exclusions::parse(&key, &annotations).unwrap_or_else(|found| {
        faults.extend(found);
        exclusions::Exclusions::default()
    });
    let mut after = pod.clone();
    let originals = probes::known(&typed);
    let probes = probes::rewrite(&key, &mut after["spec"], &originals).unwrap_or_else(|found| {
        faults.extend(found);
        BTreeMap::new()
    });
    if !faults.is_empty() {
        return Err(faults);
    }
    sidecar::put(&mut after, settings, trust_domain, &exclusions, &probes);
    Ok(Outcome::Injected(patch(pod, &after)))
}

/// Namespaces whose Pods never get a sidecar: without them the cluster, or we, could not start again.
pub fn is_system(namespace: &str) -> bool {
    namespace == PLATFORM_NAMESPACE || namespace.starts_with("kube-")
}

/// Whether labels ask for a sidecar: the Pod's word counts more. `None`: yes.
fn asked(pod: &Value, namespace: &Namespace, key: &Key) -> Result<Option<Untouched>, Fault> {
    let labels = texts(pod, "labels");
    let said = |value: Option<&String>, whose: &Key| match value.map(String::as_str) {
        None => Ok(None),
        Some("enabled") => Ok(Some(true)),
        Some("disabled") => Ok(Some(false)),
        Some(other) => {
            Err(Fault::of(whose, format!("metadata.labels[\"{INJECT}\"]"), format!("`{other}` is not allowed: write enabled or disabled")))
        }
    };
    let answer = match said(labels.get(INJECT), key)? {
        None => said(namespace.labels.get(INJECT), &Key::new("Namespace", "", namespace.name.clone()))?,
        word => word,
    };
    Ok(match answer {
        Some(true) => None,
        Some(false) => Some(Untouched::Disabled),
        None => Some(Untouched::NotAsked),
    })
}

/// A Pod of a Deployment has no name yet, only the beginning of one.
fn shown_name(pod: &Value) -> String {
    let text = |field: &str| pod.pointer(&format!("/metadata/{field}")).and_then(Value::as_str).filter(|name| !name.is_empty());
    text("name").map(String::from).or_else(|| text("generateName").map(|start| format!("{start}*"))).unwrap_or_else(|| "?".into())
}

fn texts(pod: &Value, field: &str) -> BTreeMap<String, String> {
    let entries = pod.pointer(&format!("/metadata/{field}")).and_then(Value::as_object).into_iter().flatten();
    entries.filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_string()))).collect()
}

/// Only these parts of a Pod are changed, each as a whole.
const CHANGED: [[&str; 2]; 4] = [["metadata", "annotations"], ["spec", "initContainers"], ["spec", "containers"], ["spec", "volumes"]];

/// `add` puts in or replaces (RFC 6902 section 4.1).
fn patch(before: &Value, after: &Value) -> Vec<Value> {
    let operation = |[part, field]: [&str; 2]| {
        let (old, new) = (&before[part][field], &after[part][field]);
        (old != new).then(|| json!({ "op": "add", "path": format!("/{part}/{field}"), "value": new }))
    };
    CHANGED.into_iter().filter_map(operation).collect()
}

/// The list `field` of `spec`, made where it is missing.
fn list<'a>(spec: &'a mut Value, field: &str) -> Option<&'a mut Vec<Value>> {
    let object: &mut Map<String, Value> = spec.as_object_mut()?;
    let list = object.entry(field).or_insert_with(|| json!([]));
    if list.is_null() {
        *list = json!([]);
    }
    list.as_array_mut()
}
