//! What a Pod's annotations leave out of capture.

use super::INIT;
use crate::world::Fault;
use ipnet::IpNet;
use k8s_openapi::api::core::v1::PodSpec;
use selvage_config::ports::MOST_EXCLUSIONS;
use selvage_policy::Key;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// The annotations, with the variable by which `mesh-agent init` is told.
const INBOUND_PORTS: (&str, &str) = ("selvage.dev/exclude-inbound-ports", "SELVAGE_EXCLUDE_INBOUND_PORTS");
const OUTBOUND_PORTS: (&str, &str) = ("selvage.dev/exclude-outbound-ports", "SELVAGE_EXCLUDE_OUTBOUND_PORTS");
const OUTBOUND_CIDRS: (&str, &str) = ("selvage.dev/exclude-outbound-cidrs", "SELVAGE_EXCLUDE_OUTBOUND_CIDRS");

/// What is left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Exclusions {
    inbound_ports: BTreeSet<u16>,
    outbound_ports: BTreeSet<u16>,
    outbound_cidrs: BTreeSet<IpNet>,
}

/// Reads the annotations: lists separated by commas.
pub(super) fn parse(key: &Key, annotations: &BTreeMap<String, String>) -> Result<Exclusions, Vec<Fault>> {
    let mut faults = Vec::new();
    let cidr = |text: &str| {
        let range = text.parse::<IpNet>().map(|net| net.trunc()).or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        range.map_err(|_| format!("`{text}` is not a range of addresses: write 10.1.0.0/16 or an address, several separated by commas"))
    };
    let exclusions = Exclusions {
        inbound_ports: entries(key, annotations, INBOUND_PORTS.0, port, &mut faults),
        outbound_ports: entries(key, annotations, OUTBOUND_PORTS.0, port, &mut faults),
        outbound_cidrs: entries(key, annotations, OUTBOUND_CIDRS.0, cidr, &mut faults),
    };
    if faults.is_empty() { Ok(exclusions) } else { Err(faults) }
}

/// The ports of a Pod that are not captured inbound: what its init container was told when it was born. Annotations may be edited later; that
/// changes nothing in it.
pub(crate) fn inbound_ports(pod: &PodSpec) -> BTreeSet<u16> {
    let init = pod.init_containers.iter().flatten().filter(|one| one.name == INIT);
    // Of two variables of one name the later holds.
    let told = init.flat_map(|one| one.env.iter().flatten()).rfind(|one| one.name == INBOUND_PORTS.1);
    let text = told.and_then(|one| one.value.as_deref()).unwrap_or_default();
    text.split(',').filter_map(|entry| port(entry.trim()).ok()).collect()
}

fn port(text: &str) -> Result<u16, String> {
    let port = text.parse::<u16>().ok().filter(|port| *port != 0);
    port.ok_or_else(|| format!("`{text}` is not a port: write numbers from 1 to 65535, separated by commas"))
}

fn entries<T: Ord>(
    key: &Key,
    annotations: &BTreeMap<String, String>,
    name: &str,
    read: impl Fn(&str) -> Result<T, String>,
    faults: &mut Vec<Fault>,
) -> BTreeSet<T> {
    let Some(text) = annotations.get(name) else { return BTreeSet::new() };
    let field = format!("metadata.annotations[\"{name}\"]");
    let (mut found, mut problems) = (BTreeSet::new(), Vec::new());
    for entry in text.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
        match read(entry) {
            Ok(entry) => drop(found.insert(entry)),
            Err(problem) => problems.push(problem),
        }
    }
    if found.is_empty() && problems.is_empty() {
        problems.push("is empty: leave the annotation out".into());
    }
    if found.len() > MOST_EXCLUSIONS {
        problems.push(format!("has {} entries; at most {MOST_EXCLUSIONS} are allowed", found.len()));
    }
    faults.extend(problems.into_iter().take(1).map(|problem| Fault::of(key, field.clone(), problem)));
    found
}

impl Exclusions {
    /// As variables of the init container: only what is there.
    pub(super) fn env(&self) -> Vec<Value> {
        let written = [
            (INBOUND_PORTS.1, join(&self.inbound_ports)),
            (OUTBOUND_PORTS.1, join(&self.outbound_ports)),
            (OUTBOUND_CIDRS.1, join(&self.outbound_cidrs)),
        ];
        written.into_iter().filter(|(_, value)| !value.is_empty()).map(|(name, value)| json!({ "name": name, "value": value })).collect()
    }
}

fn join<T: ToString>(entries: &BTreeSet<T>) -> String {
    entries.iter().map(T::to_string).collect::<Vec<_>>().join(",")
}
