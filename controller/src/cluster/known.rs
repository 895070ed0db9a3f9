//! What is known of the cluster: the World, the status that each object has now, and who each Pod is.
//!
//! ```text
//! Event ──take──► World (translated)   statuses (compared with before writing)   Pods (tokens are checked against them)
//! ```

use super::kinds::{Kind, StatusForm, WATCHED};
use super::pods::Pods;
use super::present::Present;
use super::watch::{Change, Event};
use crate::provision::GATEWAY_LABEL;
use crate::world::{MESH_CONFIG, Name, World};
use selvage_policy::Key;
use selvage_policy::TrustDomain;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

/// Annotations that change without anything changing: written by every update of endpoints, and by kubectl.
const NOISE: [&str; 2] = ["endpoints.kubernetes.io/last-change-trigger-time", "kubectl.kubernetes.io/last-applied-configuration"];

/// What an event means for the rest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Effect {
    /// The World is another one.
    pub world: bool,
    /// A status on the API server is another one: perhaps not ours any more.
    pub status: bool,
}

impl std::ops::BitOrAssign for Effect {
    fn bitor_assign(&mut self, other: Self) {
        self.world |= other.world;
        self.status |= other.status;
    }
}

/// Which object, in which form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edition {
    /// `metadata.uid`
    pub uid: String,
    /// `metadata.generation`
    pub generation: i64,
}

impl Edition {
    fn of(object: &Value) -> Self {
        Self {
            uid: object.pointer("/metadata/uid").and_then(Value::as_str).unwrap_or_default().into(),
            generation: object.pointer("/metadata/generation").and_then(Value::as_i64).unwrap_or_default(),
        }
    }
}

/// What is known.
#[derive(Default)]
pub struct Known {
    /// The World.
    pub world: World,
    /// Of every object that may get a status from us, what the World has; of one that cannot be read, what was read in vain.
    pub editions: Arc<BTreeMap<Key, Edition>>,
    /// Statuses on the API server.
    pub present: Arc<Present>,
    /// Who each Pod is.
    pub pods: Arc<Pods>,
    /// Services of Gateways, whole: their addresses are in their status.
    pub gateway_services: BTreeMap<Name, Arc<Value>>,
    /// Of what counts of each object, by kind: the hash tells an echo from a change.
    seen: BTreeMap<&'static str, BTreeMap<Name, u64>>,
    /// Kinds whose first list has come, or that are not there.
    listed: BTreeSet<&'static str>,
}

impl Known {
    /// Takes an event in.
    pub fn take(&mut self, event: Event) -> Effect {
        let kind = event.kind;
        match event.change {
            Change::Applied(value) => self.apply(kind, value),
            Change::Deleted(name) => self.remove(kind, &name),
            Change::All(values) => self.replace(kind, values),
            Change::Absent => self.replace(kind, Vec::new()),
        }
    }

    fn replace(&mut self, kind: &'static Kind, values: Vec<Value>) -> Effect {
        let mut effect = Effect { world: self.listed.insert(kind.kind), status: false };
        let names: BTreeSet<Name> = values.iter().map(name_of).collect();
        let gone: Vec<Name> =
            self.seen.get(kind.kind).into_iter().flat_map(BTreeMap::keys).filter(|name| !names.contains(*name)).cloned().collect();
        for name in gone {
            effect |= self.remove(kind, &name);
        }
        for value in values {
            effect |= self.apply(kind, value);
        }
        effect
    }

    fn apply(&mut self, kind: &'static Kind, mut value: Value) -> Effect {
        let name = name_of(&value);
        let key = kind.key(&name);
        let status = kind.status != StatusForm::None && self.present.saw(key.clone(), &value);
        if kind.kind == "Pod" {
            self.pods.insert(name.clone(), &value);
        }
        reduce(kind, &mut value);
        if kind.kind == "Service" {
            let of_gateway = value.pointer("/metadata/labels").is_some_and(|labels| labels.get(GATEWAY_LABEL).is_some());
            if of_gateway {
                self.gateway_services.insert(name.clone(), Arc::new(value.clone()));
            } else {
                self.gateway_services.remove(&name);
            }
        }
        let hash = hash_of(&value);
        let world = self.seen.entry(kind.kind).or_default().insert(name, hash) != Some(hash);
        if world {
            if kind.status != StatusForm::None {
                Arc::make_mut(&mut self.editions).insert(key, Edition::of(&value));
            }
            self.world.insert_json(value);
        }
        Effect { world, status }
    }

    fn remove(&mut self, kind: &'static Kind, name: &Name) -> Effect {
        let key = kind.key(name);
        self.present.forget(&key);
        if kind.status != StatusForm::None {
            Arc::make_mut(&mut self.editions).remove(&key);
        }
        if kind.kind == "Pod" {
            self.pods.remove(name);
        }
        if kind.kind == "Service" {
            self.gateway_services.remove(name);
        }
        let known = self.seen.get_mut(kind.kind).is_some_and(|seen| seen.remove(name).is_some());
        self.world.remove(&key);
        Effect { world: known, status: false }
    }

    /// Kinds whose first list has not come yet.
    pub fn unlisted(&self) -> Vec<&'static str> {
        WATCHED.iter().map(|kind| kind.kind).filter(|kind| !self.listed.contains(kind)).collect()
    }

    /// The trust domain, once everything was listed and the MeshConfig `default` is there. Without it nothing is translated: a
    /// default of ours in place of what it says would change who everybody is.
    pub fn trust_domain(&self) -> Result<&TrustDomain, NotYet> {
        let unlisted = self.unlisted();
        if !unlisted.is_empty() {
            return Err(NotYet::Unlisted(unlisted.join(", ")));
        }
        let mesh = self.world.mesh_configs.get(&Name::new("", MESH_CONFIG));
        mesh.map(|mesh| &mesh.spec.trust_domain).ok_or_else(|| self.no_mesh_config())
    }

    fn no_mesh_config(&self) -> NotYet {
        match self.world.malformed.get(&Key::new("MeshConfig", "", MESH_CONFIG)) {
            Some(malformed) => NotYet::MalformedMeshConfig(malformed.faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")),
            None => NotYet::NoMeshConfig,
        }
    }
}

/// Why nothing is translated yet.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotYet {
    /// Lists are missing.
    #[error("these kinds were not listed yet: {0}")]
    Unlisted(String),
    /// There is no MeshConfig.
    #[error(
        "there is no MeshConfig `{MESH_CONFIG}` yet: the replica that holds the lease makes it, if the CRDs of selvage.dev are installed"
    )]
    NoMeshConfig,
    /// It is there and cannot be read.
    #[error("the MeshConfig `{MESH_CONFIG}` cannot be used: {0}")]
    MalformedMeshConfig(String),
}

fn name_of(value: &Value) -> Name {
    let text = |pointer: &str| value.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    Name::new(text("/metadata/namespace"), text("/metadata/name"))
}

/// Leaves what the World is made from: what is only an echo of our own writing, or changes all the time, goes.
fn reduce(kind: &Kind, value: &mut Value) {
    if let Some(meta) = value.get_mut("metadata").and_then(Value::as_object_mut) {
        meta.remove("resourceVersion");
        if let Some(annotations) = meta.get_mut("annotations").and_then(Value::as_object_mut) {
            annotations.retain(|name, _| !NOISE.contains(&name.as_str()));
        }
    }
    let Some(object) = value.as_object_mut() else { return };
    match (kind.kind, object.get_mut("status").and_then(Value::as_object_mut)) {
        // Its addresses are in its status.
        ("Pod", Some(status)) => status.retain(|field, _| matches!(field.as_str(), "podIP" | "podIPs" | "phase")),
        // So are a Service's.
        ("Service", _) => {}
        _ => drop(object.remove("status")),
    }
}

fn hash_of(value: &Value) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.to_string().hash(&mut hasher);
    hasher.finish()
}
