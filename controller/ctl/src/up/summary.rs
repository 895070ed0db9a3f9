//! What runs and where, for people at the end of the start, and for programs in `.selvage/up.json` while it runs.

use super::try_it;
use crate::read::{Place, Read};
use anyhow::{Context, Result};
use selvage_controller::translate::bound_port;
use selvage_controller::world::Name;
use selvage_proxy::admin::Address;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

/// `.selvage/up.json`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Running {
    pid: u32,
    /// Where `selvage status` reads.
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<String>,
    gateways: BTreeMap<String, IpAddr>,
    workloads: BTreeMap<String, Workload>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Workload {
    /// Where its sidecar listens for others.
    mesh: IpAddr,
    /// Where its process listens.
    local: IpAddr,
    /// Services as it sees them.
    services: BTreeMap<String, IpAddr>,
}

fn shown(name: &Name) -> String {
    format!("{}/{}", name.namespace, name.name)
}

fn running(read: &Read) -> Running {
    let world = &read.world;
    let addresses = world.addresses.clone().unwrap_or_default();
    let gateways = world.gateways.keys().filter_map(|name| Some((shown(name), addresses.gateway(name)?.into())));
    let services =
        |pod: &Name| world.services.keys().filter_map(|name| Some((shown(name), addresses.service(pod, name)?.into()))).collect();
    let workloads = world.pods.keys().filter_map(|pod| {
        let (mesh, local) = (addresses.sidecar(pod)?.into(), addresses.process(pod)?.into());
        Some((shown(pod), Workload { mesh, local, services: services(pod) }))
    });
    Running { pid: std::process::id(), status: None, gateways: gateways.collect(), workloads: workloads.collect() }
}

/// Writes `.selvage/up.json`, replacing it at once.
pub fn keep(read: &Read, place: &Place, status: SocketAddr) -> Result<()> {
    let (path, new) = (place.state.join("up.json"), place.state.join("up.json.new"));
    let text = serde_json::to_string_pretty(&Running { status: Some(format!("http://{status}")), ..running(read) })?;
    std::fs::write(&new, text).and_then(|()| std::fs::rename(&new, &path)).with_context(|| format!("cannot write {}", path.display()))
}

/// Removes it: nothing runs any more.
pub fn remove(place: &Place) {
    // It may never have been written.
    let _ = std::fs::remove_file(place.state.join("up.json"));
}

/// What runs, where it is, and what to try.
pub fn text(read: &Read, place: &Place, dir: &Path) -> String {
    let running = running(read);
    let mut text = String::from("\n");
    // Writing to a String does not fail.
    for (name, address) in &running.gateways {
        let object = read.world.gateways.iter().find(|(gateway, _)| shown(gateway) == *name).map(|(_, object)| object);
        let urls: Vec<String> = object
            .iter()
            .flat_map(|object| object.spec.listeners.iter())
            .map(|listener| {
                let port = u16::try_from(listener.port).map_or(0, bound_port);
                format!("{}://{address}:{port}", listener.protocol.to_lowercase())
            })
            .collect();
        let _ = writeln!(text, "Gateway  {name:<24} {}", urls.join("  "));
    }
    for (name, workload) in &running.workloads {
        let _ = writeln!(text, "Pod      {name:<24} sidecar {}, process {}", workload.mesh, workload.local);
    }
    let admin = running.gateways.values().next().map(|address| Address::Tcp((*address, selvage_config::ports::ADMIN).into()));
    if let Some(admin) = admin {
        let _ = writeln!(text, "Look in  http://{admin}/status, /config, /metrics, and the same of each sidecar");
    }
    let suggestions = std::fs::read_to_string(place.dir.join("local/try.txt")).unwrap_or_default();
    let suggestions = try_it::parse(&suggestions, &variables(&running, dir));
    if !suggestions.is_empty() {
        text.push_str("\nTry:\n");
    }
    for (number, suggestion) in suggestions.iter().enumerate() {
        let command = suggestion.command.replace('\n', "\n     ");
        let _ = writeln!(text, "  {}. {}\n     {command}", number + 1, suggestion.title);
    }
    let _ = write!(text, "\nEdits of {0}/app and {0}/local take effect at once. Ctrl-C ends everything.", dir.display());
    text
}

fn variables(running: &Running, dir: &Path) -> BTreeMap<String, String> {
    let program = std::env::current_exe().map_or_else(|_| "selvage".into(), |path| path.display().to_string());
    let mut variables = BTreeMap::from([("DIR".to_string(), dir.display().to_string()), ("SELVAGE".to_string(), program)]);
    for (name, address) in &running.gateways {
        let name = name.rsplit('/').next().unwrap_or(name).to_uppercase().replace(['-', '.'], "_");
        variables.insert(format!("GATEWAY_{name}"), address.to_string());
    }
    variables
}
