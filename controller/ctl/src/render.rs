//! `selvage render`: what proxies would be told, as a file that `gateway run` and `mesh-agent run` take.

use crate::cli::{self, Form};
use crate::output;
use crate::read::{MissingSecrets, Place, Read};
use anyhow::{Context, Result};
use selvage_config::resource::kind::holds_secrets;
use selvage_config::{Resource, VersionKey, file, keys};
use selvage_controller::ca::{self, Authority};
use selvage_policy::Key;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

/// Renders; the message for people says what was written where.
pub fn run(options: &cli::Render) -> Result<Option<String>> {
    let place = Place::open(&options.dir)?;
    place.prepare()?;
    let authority = authority(&place)?;
    let read = place.read(place.addresses()?, &authority.roots(), MissingSecrets::Make)?;
    if !read.faults.is_empty() {
        anyhow::bail!(crate::check::listed(&read.faults));
    }
    if let Some(addresses) = &read.world.addresses {
        addresses.save(&place.state.join("addresses.json"))?;
    }
    let view = options.view.as_ref().map(|name| read.proxy(name)).transpose()?;
    let mut resources: BTreeMap<Key, Arc<Resource>> = match &view {
        Some(proxy) => read.view(proxy).unwrap_or_default(),
        None => read.translation.resources.clone(),
    };
    for leaf in leaves(&read, &authority, view.as_ref())? {
        resources.insert(leaf.key.clone(), Arc::new(leaf));
    }
    let Some(out) = &options.out else {
        // Private keys are not for a terminal or a pipe.
        let plain = resources.values().map(AsRef::as_ref).filter(|resource| !holds_secrets(&resource.key.kind));
        let text = match options.output.unwrap_or(Form::Yaml) {
            Form::Yaml => file::to_yaml(plain),
            Form::Json => output::text(Form::Json, &document(plain))?,
        };
        output::write(&text)?;
        return Ok(None);
    };
    file::write(out, resources.values().map(AsRef::as_ref)).with_context(|| format!("{} is not written", out.display()))?;
    let secrets = file::secrets_path(out);
    Ok(Some(format!("{} resources in {}, private keys in {} (0600)", resources.len(), out.display(), secrets.display())))
}

/// The authority of a directory, made at the first call.
pub fn authority(place: &Place) -> Result<Authority> {
    // The trust domain stands in the manifests; roots do not matter for finding it.
    let trust_domain = place.read(place.addresses()?, &[], MissingSecrets::Leave)?.world.mesh().trust_domain;
    ca::open(&place.state.join("authority.json"), &trust_domain, SystemTime::now()).context("there is no certificate authority")
}

/// Certificates of the identities that a proxy speaks for: without a controller it cannot ask for any.
fn leaves(read: &Read, authority: &Authority, view: Option<&Key>) -> Result<Vec<Resource>> {
    let identities = read.translation.identities.iter().filter(|(proxy, _)| view.is_none_or(|view| view == *proxy));
    let leaf = |(proxy, identity): (&Key, &selvage_policy::SpiffeId)| {
        let spec = authority.issue(identity, &proxy.to_string(), SystemTime::now()).context("a certificate cannot be issued")?;
        Ok(Resource::secret(keys::identity(identity), &spec, &VersionKey::random()))
    };
    identities.map(leaf).collect()
}

/// The file form as JSON.
fn document<'a>(resources: impl Iterator<Item = &'a Resource>) -> serde_json::Value {
    serde_json::json!({"apiVersion": file::API_VERSION, "kind": file::KIND, "resources": resources.collect::<Vec<_>>()})
}
