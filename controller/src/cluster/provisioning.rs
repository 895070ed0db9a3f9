//! What runs for each Gateway, applied and kept so by the replica that holds the lease.
//!
//! ```text
//! World, translation ──which Gateways are accepted, their ports──► provision::Plan (pure) ──what differs from what was applied──► apply
//! ```
//!
//! The objects are owned by their Gateway, so that the cluster's garbage collector ends them; only what is left of a class that a Gateway
//! had before is deleted here. What somebody else made under the same name is left alone.

use super::FIELD_OWNER;
use super::lease::{Tenure, WriteError};
use super::metrics::{Metrics, WriteOutcome, Written};
use super::turn::Seen;
use crate::gateway_api::ListenerSetSpec;
use crate::provision::{
    GATEWAY_LABEL, KINDS, MANAGED, MANAGED_LABEL, Plan, REPLICAS, StatusAddress, left_over, ports, requested_address, status_addresses,
    taken, workload_name,
};
use crate::settings::Settings;
use crate::translate::Status;
use crate::translate::status::Truth;
use crate::world::{Name, Object};
use kube::Client;
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, Preconditions};
use kube::core::ApiResource;
use selvage_policy::Key;
use serde_json::Value;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap, hash_map::DefaultHasher};
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How often everything is applied again, so that what somebody changed comes back.
const AGAIN: Duration = Duration::from_secs(60);
/// After something failed.
const PAUSE: Duration = Duration::from_secs(2);
/// Somebody else's object under the name of ours is waited for so long before it is an error: the garbage collector may be at it.
const LASTS: Duration = Duration::from_secs(20);
/// Between two rounds, so that what changes several times in a moment is applied once.
const SETTLE: Duration = Duration::from_millis(100);

/// Kind, namespace and name.
type ObjectKey = (String, String, String);

/// Applies.
pub struct Provisioner {
    client: Client,
    settings: Settings,
    tenure: Tenure,
    metrics: Arc<Metrics>,
    /// Hashes of what was applied.
    applied: HashMap<ObjectKey, u64>,
    /// Since when a name of ours has been somebody else's.
    taken: HashMap<ObjectKey, Instant>,
    /// What was said of objects that are somebody else's: once.
    told: BTreeSet<String>,
    /// What the objects of each Gateway, by UID, were called when what was left over was looked for; none: it has to be.
    swept: Option<BTreeMap<String, String>>,
}

impl Provisioner {
    /// One that has applied nothing yet.
    pub fn new(client: Client, settings: Settings, tenure: Tenure, metrics: Arc<Metrics>) -> Self {
        Self { client, settings, tenure, metrics, applied: HashMap::new(), taken: HashMap::new(), told: BTreeSet::new(), swept: None }
    }

    /// Runs until stopped.
    pub async fn run(mut self, mut seen: watch::Receiver<Option<Arc<Seen>>>, stop: CancellationToken) {
        let mut again = tokio::time::interval(AGAIN);
        again.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            match stop.run_until_cancelled(self.tenure.begins()).await {
                Some(true) => {}
                _ => return,
            }
            let present = seen.borrow_and_update().clone();
            let failed = match present {
                Some(present) => self.round(&present).await,
                None => 0,
            };
            tokio::select! {
                () = stop.cancelled() => return,
                changed = seen.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    tokio::time::sleep(SETTLE).await;
                }
                _ = again.tick() => {
                    self.applied.clear();
                    self.swept = None;
                }
                () = tokio::time::sleep(PAUSE), if failed > 0 => {}
            }
        }
    }

    /// Applies what differs from what was applied; says how much failed.
    pub async fn round(&mut self, seen: &Seen) -> usize {
        let wanted = objects(seen, &self.settings);
        let keys: BTreeSet<ObjectKey> = wanted.iter().map(|(_, object)| key_of(object)).collect();
        self.applied.retain(|key, _| keys.contains(key) && still_there(seen, key));
        self.taken.retain(|key, _| keys.contains(key));
        let mut failed = self.sweep(seen).await;
        for (gateway, object) in wanted {
            let (key, hash) = (key_of(&object), hash_of(&object));
            if self.applied.get(&key) == Some(&hash) {
                continue;
            }
            match self.apply(seen, &gateway, &object).await {
                Ok(()) => {
                    self.metrics.wrote(Written::Provisioned, WriteOutcome::Written);
                    self.taken.remove(&key);
                    self.applied.insert(key, hash);
                }
                Err(ProvisionError::Write(WriteError::NotOurs)) => return failed,
                Err(ProvisionError::Taken(why)) => {
                    if self.taken.entry(key.clone()).or_insert_with(Instant::now).elapsed() < LASTS {
                        failed += 1;
                        continue;
                    }
                    // Looked at again with the next round of everything.
                    self.applied.insert(key, hash);
                    if self.told.insert(why.clone()) {
                        tracing::error!(gateway = %gateway.name, namespace = gateway.namespace, why, "an object of a Gateway cannot be made");
                    }
                }
                Err(ProvisionError::Write(error)) => {
                    failed += 1;
                    self.metrics.wrote(Written::Provisioned, WriteOutcome::Failed);
                    let (kind, namespace, name) = &key;
                    tracing::warn!(kind, namespace, name, %error, "an object of a Gateway could not be applied: it is tried again");
                }
            }
        }
        failed
    }

    /// Deletes what is left of classes that Gateways had before; says how much failed. After a start, with every round of everything, and
    /// when a Gateway's class has changed.
    async fn sweep(&mut self, seen: &Seen) -> usize {
        let gateways = seen.world.gateways.values();
        let names = gateways.map(|one| (one.meta.uid.clone(), workload_name(&one.meta.name, &one.spec.gateway_class_name)));
        let names: BTreeMap<String, String> = names.collect();
        let moved = |swept: &BTreeMap<String, String>| names.iter().any(|(uid, name)| swept.get(uid).is_some_and(|before| before != name));
        if self.swept.as_ref().is_some_and(|swept| !moved(swept)) {
            self.swept = Some(names);
            return 0;
        }
        let mut failed = 0;
        for (api_version, kind) in KINDS {
            match self.delete_left_over(seen, &resource(api_version, kind)).await {
                Ok(()) => {}
                Err(WriteError::NotOurs) => return failed,
                Err(error) => {
                    failed += 1;
                    self.metrics.wrote(Written::Provisioned, WriteOutcome::Failed);
                    tracing::warn!(kind, %error, "what is left of a Gateway's earlier class could not be deleted: it is tried again");
                }
            }
        }
        self.swept = (failed == 0).then_some(names);
        failed
    }

    async fn delete_left_over(&self, seen: &Seen, resource: &ApiResource) -> Result<(), WriteError> {
        let everywhere: Api<DynamicObject> = Api::all_with(self.client.clone(), resource);
        let ours = ListParams::default().labels(&format!("{MANAGED_LABEL}={MANAGED},{GATEWAY_LABEL}"));
        for object in self.tenure.write(everywhere.list(&ours)).await? {
            let object = serde_json::to_value(&object).unwrap_or_default();
            if !seen.world.gateways.values().any(|gateway| left_over(&object, gateway)) {
                continue;
            }
            let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
            let (namespace, name) = (text("/metadata/namespace"), text("/metadata/name"));
            let this = Preconditions { uid: Some(text("/metadata/uid").into()), resource_version: None };
            let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), namespace, resource);
            match self.tenure.write(api.delete(name, &DeleteParams::background().preconditions(this))).await {
                Err(error) if !error.status().is_some_and(|status| status.is_not_found() || status.is_conflict()) => return Err(error),
                _ => tracing::info!(kind = resource.kind, namespace, name, "what was left of a Gateway's earlier class was deleted"),
            }
            self.metrics.wrote(Written::Provisioned, WriteOutcome::Written);
        }
        Ok(())
    }

    async fn apply(&self, seen: &Seen, gateway: &Name, object: &Value) -> Result<(), ProvisionError> {
        let (kind, namespace, name) = key_of(object);
        let resource = resource(object.get("apiVersion").and_then(Value::as_str).unwrap_or_default(), &kind);
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), &namespace, &resource);
        let existing = self.tenure.write(api.get_opt(&name)).await?;
        let mut object = Cow::Borrowed(object);
        if let (Some(existing), Some(gateway)) = (existing, seen.world.gateways.get(gateway)) {
            let mut existing = serde_json::to_value(&existing).unwrap_or_default();
            existing["kind"] = kind.into();
            if let Some(why) = taken(&existing, &gateway.meta) {
                return Err(ProvisionError::Taken(why));
            }
            keep_replicas(&existing, &mut object);
        }
        self.tenure.write(api.patch(&name, &PatchParams::apply(FIELD_OWNER).force(), &Patch::Apply(&*object))).await?;
        Ok(())
    }
}

/// Why an object of a Gateway is not as it should be.
#[derive(Debug, thiserror::Error)]
enum ProvisionError {
    /// Its name is somebody else's.
    #[error("{0}")]
    Taken(String),
    /// It could not be written.
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// Every object of every Gateway that is accepted, in the order in which they are applied.
fn objects(seen: &Seen, settings: &Settings) -> Vec<(Name, Value)> {
    let world = &seen.world;
    let trust_domain = settings.trust_domain_in_force(world);
    let mut objects = Vec::new();
    for (name, gateway) in world.gateways.iter().filter(|(name, _)| accepted(seen, &name.key("Gateway"))) {
        let sets = world.listener_sets.iter().filter(|(set, object)| is_parent(name, object) && accepted(seen, &set.key("ListenerSet")));
        let ports = ports(&gateway.spec, sets.map(|(_, set)| &set.spec));
        // What cannot be had is said in the Gateway's status; its proxies run all the same.
        let address = requested_address(&gateway.spec).ok().flatten();
        let plan = Plan { gateway, ports: &ports, address, settings, trust_domain };
        objects.extend(plan.objects().into_iter().map(|object| (name.clone(), object)));
    }
    objects
}

fn accepted(seen: &Seen, key: &Key) -> bool {
    let is = |status: &Status| status.conditions.iter().any(|one| one.kind == "Accepted" && one.status == Truth::True);
    seen.translation.statuses.get(key).is_some_and(is)
}

fn is_parent(gateway: &Name, set: &Object<ListenerSetSpec>) -> bool {
    let parent = &set.spec.parent_ref;
    parent.name == gateway.name && *parent.namespace.as_ref().unwrap_or(&set.meta.namespace) == gateway.namespace
}

/// How many Pods there are is what the settings say only until somebody scales them: then it stays, until the settings say something else.
fn keep_replicas(existing: &Value, wanted: &mut Cow<'_, Value>) {
    let setting = |object: &Value| object.pointer("/metadata/annotations").and_then(|annotations| annotations.get(REPLICAS)).cloned();
    let present = existing.pointer("/spec/replicas");
    if let Some(present) = present.filter(|_| setting(wanted).is_some() && setting(existing) == setting(wanted)) {
        wanted.to_mut()["spec"]["replicas"] = present.clone();
    }
}

/// Services are watched: one that is gone is applied again at once.
fn still_there(seen: &Seen, (kind, namespace, name): &ObjectKey) -> bool {
    kind != "Service" || seen.world.services.contains_key(&Name::new(namespace.clone(), name.clone()))
}

fn key_of(object: &Value) -> ObjectKey {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_string();
    (text("/kind"), text("/metadata/namespace"), text("/metadata/name"))
}

fn hash_of(object: &Value) -> u64 {
    let mut hasher = DefaultHasher::new();
    object.to_string().hash(&mut hasher);
    hasher.finish()
}

/// How the client names a kind that Gateways need.
fn resource(api_version: &str, kind: &str) -> ApiResource {
    let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
    ApiResource {
        group: group.into(),
        version: version.into(),
        api_version: api_version.into(),
        kind: kind.into(),
        plural: format!("{}s", kind.to_lowercase()),
    }
}

/// Addresses of every Gateway that has a Service with some.
pub fn addresses(seen: &Seen) -> BTreeMap<Key, Vec<StatusAddress>> {
    let of = |(name, gateway): (&Name, &Arc<Object<crate::gateway_api::GatewaySpec>>)| {
        let service = Name::new(name.namespace.clone(), workload_name(&name.name, &gateway.spec.gateway_class_name));
        let addresses = seen.services.get(&service).map(|service| status_addresses(service)).unwrap_or_default();
        (!addresses.is_empty()).then(|| (name.key("Gateway"), addresses))
    };
    seen.world.gateways.iter().filter_map(of).collect()
}
