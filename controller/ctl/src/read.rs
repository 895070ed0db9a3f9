//! From a directory to what proxies would be told, for every command alike.

use crate::up::certificates::{Certificates, Pair};
use anyhow::{Context, Result, bail};
use selvage_config::{Resource, VersionKey};
use selvage_controller::translate::{Inputs, Translation, translate};
use selvage_controller::world::{Addresses, Fault, Name, World, directory, is_dns_name};
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
    /// The file in which each object stands, relative to the directory.
    pub files: BTreeMap<Key, String>,
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
        // Nothing is written because of manifests that are refused.
        let wanted = missing != MissingSecrets::Leave && reading.faults.is_empty();
        let made = if wanted { self.secrets(&mut reading.world, missing)? } else { Vec::new() };
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
        Ok(Read { world: reading.world, translation, faults, made, files: reading.files })
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
                let is_secret = text("kind").unwrap_or("Secret") == "Secret" && text("group").unwrap_or_default().is_empty();
                let Some(name) = text("name").filter(|_| is_secret) else { continue };
                let name = Name::new(text("namespace").unwrap_or(namespace), name);
                // Files are called by these names: what is no name of an object leads nowhere.
                if world.secrets.contains_key(&name) || !is_dns_name(&name.name) || !is_dns_name(&name.namespace) {
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

    /// The proxy that is meant by `KIND/NAMESPACE/NAME`, `NAMESPACE/NAME` or `NAME`.
    pub fn proxy(&self, text: &str) -> Result<Key> {
        let mut parts = text.rsplit('/');
        let (name, namespace, kind, more) = (parts.next().unwrap_or_default(), parts.next(), parts.next(), parts.next());
        let is = |wanted: Option<&str>, found: &str| wanted.is_none_or(|wanted| wanted == found);
        let fits = |key: &&Key| more.is_none() && key.name == name && is(namespace, &key.namespace) && is(kind, &key.kind);
        let found: Vec<&Key> = self.translation.views.keys().filter(fits).collect();
        match found.as_slice() {
            [one] => Ok((*one).clone()),
            [] => {
                let all: Vec<String> = self.translation.views.keys().map(ToString::to_string).collect();
                bail!("there is no proxy {text}; there are: {}", all.join(", "))
            }
            several => {
                let all: Vec<String> = several.iter().map(ToString::to_string).collect();
                bail!("{text} may be {}: write KIND/NAMESPACE/NAME", all.join(" or "))
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

#[cfg(test)]
mod tests {
    use super::*;

    const GATEWAY: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: { name: selvage }
spec: { controllerName: selvage.dev/controller }
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: { name: web, namespace: shop }
spec:
  gatewayClassName: selvage
  listeners:
  - { name: https, port: 8443, protocol: HTTPS, hostname: shop.example, tls: { certificateRefs: [{ name: SECRET }] } }
";

    /// A directory in a folder, and that folder.
    fn place(manifests: &[(&str, &str)]) -> (tempfile::TempDir, Place) {
        let folder = tempfile::tempdir().expect("a folder");
        let dir = folder.path().join("shop");
        for (file, text) in manifests {
            let path = dir.join(file);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
            std::fs::write(path, text).expect("a file");
        }
        let place = Place::open(&dir).expect("a place");
        place.prepare().expect("a state folder");
        (folder, place)
    }

    fn read(place: &Place) -> Read {
        place.read(Addresses::default(), &[], MissingSecrets::Make).expect("it is read")
    }

    /// Every file and folder below.
    fn below(path: &Path) -> BTreeSet<PathBuf> {
        let entries = std::fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
        entries.flat_map(|path| below(&path).into_iter().chain([path])).collect()
    }

    #[test]
    fn certificates_are_made_only_for_names_of_secrets_and_only_where_nothing_is_refused() {
        for (secret, more, made) in [
            ("shop-tls", "", 1),
            ("x/../../../../escaped", "", 0),
            ("../escaped", "", 0),
            ("shop-tls, group: example.com", "", 0),
            ("shop-tls, namespace: ../x", "", 0),
            ("shop-tls", "---\napiVersion: v1\nkind: Service\nmetadata: { name: s, namespace: shop }\nspec: { ports: [{ port: 0 }] }\n", 0),
        ] {
            let (folder, place) = place(&[("app/a.yaml", &format!("{}{more}", GATEWAY.replace("SECRET", secret)))]);
            let before = below(folder.path());
            let read = read(&place);
            assert_eq!(read.made.len(), made, "{secret}{more}");
            let written: Vec<PathBuf> = below(folder.path()).difference(&before).cloned().collect();
            assert_eq!(written.is_empty(), made == 0, "{secret}{more}: {written:?}");
            assert!(written.iter().all(|path| path.starts_with(place.state.join("certificates"))), "{secret}: {written:?}");
        }
    }

    #[test]
    fn a_hostname_that_is_none_is_a_fault_of_its_object() {
        let (_folder, place) = place(&[("app/a.yaml", &GATEWAY.replace("SECRET", "tls").replace("shop.example", "\"köln.example\""))]);
        let faults: Vec<String> = read(&place).faults.iter().map(ToString::to_string).collect();
        assert!(faults.len() == 1 && faults[0].starts_with("app/a.yaml: Gateway/shop/web: spec.listeners[0].hostname"), "{faults:?}");
    }

    #[test]
    fn a_gateway_and_a_pod_of_one_name_are_told_apart_by_kind() {
        let pod =
            "apiVersion: v1\nkind: Pod\nmetadata: { name: web, namespace: shop }\nspec: { containers: [{ name: a, command: [a] }] }\n";
        let (_folder, place) = place(&[("app/a.yaml", &GATEWAY.replace("SECRET", "tls")), ("local/a.yaml", pod)]);
        let read = read(&place);
        for (text, wanted) in [
            ("Gateway/shop/web", Ok("Gateway/shop/web")),
            ("Pod/shop/web", Ok("Pod/shop/web")),
            ("shop/web", Err("write KIND/NAMESPACE/NAME")),
            ("web", Err("Gateway/shop/web or Pod/shop/web")),
            ("other/web", Err("there is no proxy")),
            ("x/Pod/shop/web", Err("there is no proxy")),
        ] {
            match (read.proxy(text), wanted) {
                (Ok(found), Ok(wanted)) => assert_eq!(found.to_string(), wanted, "{text}"),
                (Err(error), Err(wanted)) => assert!(error.to_string().contains(wanted), "{text}: {error}"),
                (found, _) => panic!("{text}: {found:?}"),
            }
        }
    }
}
