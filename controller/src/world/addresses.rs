//! Who has which loopback address on a laptop.
//!
//! ```text
//! 127.X.0.1        the wire
//! 127.X.1.g        Gateway g
//! 127.X.2.p        workload p's sidecar: its mesh address
//! 127.X.3.p        workload p's own process
//! 127.X.(16+p).s   Service s as workload p calls it
//! ```
//!
//! The table is an input of translate and is kept in a file, so that edits never move an address. An entry whose object is gone is
//! given to another only when none is free.

use super::{Name, World};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::net::Ipv4Addr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// The second byte of addresses: private to one running `up`.
pub const OCTETS: std::ops::RangeInclusive<u8> = 64..=126;
/// Workloads: their rows of Service addresses begin at 16 and end below 256.
pub const MOST_WORKLOADS: u8 = 200;
/// Gateways and Services: one byte, without 0 and 255.
pub const MOST_OTHERS: u8 = 254;
/// Where the wire is served.
pub const WIRE_PORT: u16 = 15410;

/// The table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Addresses {
    /// X.
    pub octet: u8,
    #[serde(default)]
    gateways: BTreeMap<String, u8>,
    #[serde(default)]
    workloads: BTreeMap<String, u8>,
    #[serde(default)]
    services: BTreeMap<String, u8>,
}

/// There are more objects than addresses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind} {name} gets no loopback address: a laptop has room for {most} of them; remove some, or use a cluster")]
pub struct Exhausted {
    kind: &'static str,
    name: String,
    most: u8,
}

/// The table's file cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum AddressesError {
    /// Reading or writing failed.
    #[error("{path}: {error}")]
    Io {
        /// The file.
        path: String,
        /// Why.
        error: std::io::Error,
    },
    /// The file is not ours any more.
    #[error("{path} is damaged ({error}): remove it; addresses will be given out anew")]
    Damaged {
        /// The file.
        path: String,
        /// Why.
        error: serde_json::Error,
    },
}

impl Default for Addresses {
    fn default() -> Self {
        Self { octet: *OCTETS.start(), gateways: BTreeMap::new(), workloads: BTreeMap::new(), services: BTreeMap::new() }
    }
}

impl Addresses {
    /// Reads the table; an absent file is an empty one.
    pub fn load(path: &Path) -> Result<Self, AddressesError> {
        let shown = || path.display().to_string();
        match std::fs::read_to_string(path) {
            Ok(text) => serde_json::from_str(&text).map_err(|error| AddressesError::Damaged { path: shown(), error }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(AddressesError::Io { path: shown(), error }),
        }
    }

    /// Writes the table, replacing the old one at once.
    pub fn save(&self, path: &Path) -> Result<(), AddressesError> {
        let failed = |error| AddressesError::Io { path: path.display().to_string(), error };
        let text = serde_json::to_string_pretty(self).map_err(|error| failed(error.into()))?;
        let new = path.with_extension("json.new");
        let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new).map_err(failed)?;
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).and_then(|()| std::fs::rename(&new, path)).map_err(failed)
    }

    /// Gives every Gateway, Pod and Service of `world` an address that has none.
    pub fn allocate(&mut self, world: &World) -> Result<(), Exhausted> {
        let names = |names: &mut dyn Iterator<Item = &Name>| -> BTreeSet<String> { names.map(text).collect() };
        assign("Gateway", &mut self.gateways, &names(&mut world.gateways.keys()), MOST_OTHERS)?;
        assign("Pod", &mut self.workloads, &names(&mut world.pods.keys()), MOST_WORKLOADS)?;
        assign("Service", &mut self.services, &names(&mut world.services.keys()), MOST_OTHERS)
    }

    /// Where the wire is served.
    pub fn wire(&self) -> std::net::SocketAddr {
        (Ipv4Addr::new(127, self.octet, 0, 1), WIRE_PORT).into()
    }

    /// A Gateway's address.
    pub fn gateway(&self, gateway: &Name) -> Option<Ipv4Addr> {
        self.gateways.get(&text(gateway)).map(|g| Ipv4Addr::new(127, self.octet, 1, *g))
    }

    /// A workload's mesh address, where its sidecar listens.
    pub fn sidecar(&self, pod: &Name) -> Option<Ipv4Addr> {
        self.workloads.get(&text(pod)).map(|p| Ipv4Addr::new(127, self.octet, 2, *p))
    }

    /// A workload's own address, where its process listens.
    pub fn process(&self, pod: &Name) -> Option<Ipv4Addr> {
        self.workloads.get(&text(pod)).map(|p| Ipv4Addr::new(127, self.octet, 3, *p))
    }

    /// A Service, as `pod` calls it.
    pub fn service(&self, pod: &Name, service: &Name) -> Option<Ipv4Addr> {
        let (p, s) = (self.workloads.get(&text(pod))?, self.services.get(&text(service))?);
        Some(Ipv4Addr::new(127, self.octet, 16 + p, *s))
    }
}

fn text(name: &Name) -> String {
    format!("{}/{}", name.namespace, name.name)
}

fn assign(kind: &'static str, table: &mut BTreeMap<String, u8>, names: &BTreeSet<String>, most: u8) -> Result<(), Exhausted> {
    for name in names {
        if table.contains_key(name) {
            continue;
        }
        let taken: BTreeSet<u8> = table.values().copied().collect();
        let number = match (1..=most).find(|number| !taken.contains(number)) {
            Some(free) => free,
            None => {
                let gone = table.keys().find(|old| !names.contains(*old)).cloned();
                let freed = gone.and_then(|old| table.remove(&old));
                freed.ok_or_else(|| Exhausted { kind, name: name.clone(), most })?
            }
        };
        table.insert(name.clone(), number);
    }
    Ok(())
}
