//! From a directory to what proxies would be told, for every command alike.

use crate::up::certificates::{Certificates, Pair};
use anyhow::{Context, Result, bail};
use selvage_config::{Resource, VersionKey};
use selvage_controller::translate::{Inputs, Translation, translate};
use selvage_controller::world::{Addresses, Fault, Name, World, directory};
use selvage_policy::Key;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A directory of manifests and its state folder.
#[derive(Clone, Debug)]
pub struct Place {
    /// The directory.
    pub dir: PathBuf,
    /// `DIR/.selvage`.
    pub state: PathBuf,
    /// Keys the versions of Resources with secrets: they are compared within this process only.
    version_key: VersionKey,
}

/// What is done about Secrets of HTTPS listeners that nobody has made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MissingSecrets {
    /// Certificates are made, and kept in the state folder.
    Make,
    /// Certificates are made for this time only: nothing is written.
    Imagine,
    /// Nothing: the listeners stay without.
    Leave,
}

/// What a directory says.
#[derive(Debug)]
pub struct Read {
    /// Its objects.
    pub world: World,
    /// What proxies are told.
    pub translation: Translation,
    /// What admission refuses, by file, object and field.
    pub faults: Vec<Fault>,
    /// Secrets that certificates were made for.
    pub made: Vec<Name>,
}

impl Place {
    /// Finds it.
    pub fn open(dir: &Path) -> Result<Self> {
        let found = dir.canonicalize().with_context(|| format!("{} is not there", dir.display()))?;
        if !found.join("app").is_dir() {
            bail!("{} has no folder `app`: manifests of Services, Gateways, routes and policies go there", dir.display());
        }
        Ok(Self { state: found.join(".selvage"), dir: found, version_key: VersionKey::random() })
    }

    /// Makes the state folder, for its owner alone.
    pub fn prepare(&self) -> Result<()> {
        use std::os::unix::fs::DirBuilderExt;
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.state);
        made.with_context(|| format!("cannot make {}", self.state.display()))
    }

    /// The addresses as they were given out before.
    pub fn addresses(&self) -> Result<Addresses> {
        Ok(Addresses::load(&self.state.join("addresses.json"))?)
    }

    /// Reads it and translates. What is wrong with the manifests is in `faults`; an error is what has nothing to do with them.
    pub fn read(&self, addresses: Addresses, roots: &[String], missing: MissingSecrets) -> Result<Read> {
        let mut reading = directory::read(&self.dir, addresses);
        let made = if missing == MissingSecrets::Leave { Vec::new() } else { self.secrets(&mut reading.world, missing)? };
        let translation = translate(&reading.world, &Inputs { roots, version_key: &self.version_key });
        let mut faults = reading.faults;
        for fault in selvage_controller::admission::admit(&reading.world) {
            let file = fault.object.parse::<Key>().ok().and_then(|key| reading.files.get(&key));
            faults.push(match file {
                Some(file) => fault.within(file),
                None => fault,
            });
        }
        faults.sort();
        faults.dedup();
        Ok(Read { world: reading.world, translation, faults, made })
    }

    /// Adds certificates for the Secrets that listeners name and nobody has made.
    fn secrets(&self, world: &mut World, missing: MissingSecrets) -> Result<Vec<Name>> {
        let mut wanted: BTreeMap<Name, (BTreeSet<String>, BTreeSet<IpAddr>)> = BTreeMap::new();
        // What each listener asks for: its owner's namespace, the Gateway that serves it, its host, its references as JSON (kopium gives
        // Gateways and ListenerSets types of their own).
        let own = world.gateways.iter().flat_map(|(gateway, object)| {
            object.spec.listeners.iter().map(move |one| (&gateway.namespace, gateway.clone(), &one.hostname, json!(one.tls)))
        });
        let of_sets = world.listener_sets.iter().flat_map(|(set, object)| {
            let parent = &object.spec.parent_ref;
            let gateway = Name::new(parent.namespace.clone().unwrap_or_else(|| set.namespace.clone()), parent.name.clone());
            object.spec.listeners.iter().map(move |one| (&set.namespace, gateway.clone(), &one.hostname, json!(one.tls)))
        });
        for (namespace, gateway, hostname, tls) in own.chain(of_sets) {
            let address = world.addresses.as_ref().and_then(|addresses| addresses.gateway(&gateway));
            for reference in tls["certificateRefs"].as_array().into_iter().flatten() {
                let text = |field: &str| reference[field].as_str();
                let Some(name) = text("name").filter(|_| text("kind").unwrap_or("Secret") == "Secret") else { continue };
                let name = Name::new(text("namespace").unwrap_or(namespace), name);
                if world.secrets.contains_key(&name) {
                    continue;
                }
                let (names, addresses) = wanted.entry(name).or_default();
                names.extend(hostname.clone());
                names.insert("localhost".into());
                addresses.extend(address.map(IpAddr::from));
            }
        }
        for (secret, (names, addresses)) in &wanted {
            let (names, addresses): (Vec<_>, Vec<_>) = (names.iter().cloned().collect(), addresses.iter().copied().collect());
            let certificates = Certificates::of(&self.state);
            let Pair { chain, key } = match missing {
                MissingSecrets::Make => certificates.pair(&secret.namespace, &secret.name, &names, &addresses)?,
                _ => Certificates::imagined(&secret.name, &names, &addresses)?,
            };
            world.insert_json(json!({
                "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
                "metadata": {"namespace": secret.namespace, "name": secret.name},
                "stringData": {"tls.crt": chain, "tls.key": key},
            }));
        }
        Ok(wanted.into_keys().collect())
    }
}

impl Read {
    /// The Resources of one proxy: `Gateway/<namespace>/<name>` or `Pod/<namespace>/<name>`.
    pub fn view(&self, proxy: &Key) -> Option<BTreeMap<Key, Arc<Resource>>> {
        let keys = self.translation.views.get(proxy)?;
        Some(keys.iter().filter_map(|key| Some((key.clone(), self.translation.resources.get(key)?.clone()))).collect())
    }

    /// The proxy that is meant by `NAMESPACE/NAME` or `NAME`.
    pub fn proxy(&self, text: &str) -> Result<Key> {
        let (namespace, name) = match text.split_once('/') {
            Some((namespace, name)) => (Some(namespace), name),
            None => (None, text),
        };
        let fits = |key: &&Key| key.name == name && namespace.is_none_or(|namespace| key.namespace == namespace);
        let found: Vec<&Key> = self.translation.views.keys().filter(fits).collect();
        match found.as_slice() {
            [one] => Ok((*one).clone()),
            [] => {
                let all: Vec<String> = self.translation.views.keys().map(|key| format!("{}/{}", key.namespace, key.name)).collect();
                bail!("there is no proxy {text}; there are: {}", all.join(", "))
            }
            several => {
                let all: Vec<String> = several.iter().map(ToString::to_string).collect();
                bail!("{text} may be {}: write NAMESPACE/NAME", all.join(" or "))
            }
        }
    }

    /// A proxy's own address on the laptop: of its health, metrics and admin ports.
    pub fn address(&self, proxy: &Key) -> Option<IpAddr> {
        let (addresses, name) = (self.world.addresses.as_ref()?, Name::new(proxy.namespace.clone(), proxy.name.clone()));
        let address = if proxy.kind == "Gateway" { addresses.gateway(&name) } else { addresses.sidecar(&name) };
        address.map(IpAddr::from)
    }
}
