//! The proxies, for people: which there are, and how far each is.

use super::Publisher;
use super::delivery::Heard;
use jiff::Timestamp;
use selvage_policy::Key;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What `selvage status` shows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Listing {
    /// The controller's release.
    pub version: String,
    /// Whether it stands by while another replica serves the proxies, and knows nothing of them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stands_by: bool,
    /// How often what is published has changed since the controller started.
    pub generation: u64,
    /// In order of their names.
    pub proxies: Vec<Proxy>,
}

/// One proxy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Proxy {
    /// Namespace and name of its Pod; on a laptop its view.
    pub name: String,
    /// What its connection proves: its Pod's UID.
    pub uid: String,
    /// Edge or sidecar.
    pub role: Role,
    /// What it serves: `Gateway/<namespace>/<name>` or `Pod/<namespace>/<name>`.
    pub serves: Key,
    /// How far it is.
    pub sync: SyncState,
    /// The generation of what it is to have.
    pub generation: u64,
    /// The generation of what it has applied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub applied: Option<u64>,
    /// What it cannot use: key and reason.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub rejected: BTreeMap<Key, String>,
    /// Its release, as it reports it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Each of its identities, and when its certificate ends.
    pub certificates: Vec<Certificate>,
}

/// An identity and the certificate that proves it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Certificate {
    /// The SPIFFE id.
    pub identity: String,
    /// When it ends (RFC 3339); absent: the proxy reports none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ends: Option<String>,
}

/// The role of a proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// It serves a Gateway.
    Edge,
    /// It stands beside a workload.
    Sidecar,
}

/// How far a proxy is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SyncState {
    /// It has everything.
    Synced,
    /// It has everything and cannot use some of it.
    Rejecting,
    /// It is connected and lacks something.
    Pending,
    /// It is not connected to this controller; what it had it serves on.
    Absent,
}

impl Publisher {
    /// Every proxy there is, and how far it is.
    pub fn listing(&self) -> Listing {
        let state = self.state.lock();
        let proxies = state.shares.iter().map(|(uid, share)| {
            let role = if share.view.kind == "Gateway" { Role::Edge } else { Role::Sidecar };
            self.deliveries.of(uid, |heard| {
                let heard = heard.cloned().unwrap_or_default();
                let version = Some(heard.standing.version.clone()).filter(|version| !version.is_empty());
                let certificates = share.identities.iter().map(ToString::to_string).map(|identity| {
                    let ends = heard.standing.certificates.get(&identity).and_then(|seconds| i64::try_from(*seconds).ok());
                    let ends = ends.and_then(|seconds| Timestamp::from_second(seconds).ok()).map(|end| end.to_string());
                    Certificate { identity, ends }
                });
                let present = state.views.get(uid).map(|sender| sender.borrow().clone());
                let sync = match &present {
                    Some(view) if heard.present => sync(&heard, view),
                    _ => SyncState::Absent,
                };
                Proxy {
                    name: share.name.clone(),
                    uid: uid.clone(),
                    role,
                    serves: share.view.clone(),
                    sync,
                    generation: present.map_or(state.generation, |view| view.generation),
                    applied: heard.applied.as_ref().map(|view| view.generation),
                    certificates: certificates.collect(),
                    rejected: heard.rejected.into_iter().map(|(key, one)| (key, one.reason)).collect(),
                    version,
                }
            })
        });
        let mut proxies: Vec<Proxy> = proxies.collect();
        proxies.sort_by(|one, other| (&one.name, &one.uid).cmp(&(&other.name, &other.uid)));
        Listing { version: env!("CARGO_PKG_VERSION").into(), stands_by: state.stands_by, generation: state.generation, proxies }
    }
}

fn sync(heard: &Heard, present: &selvage_config::wire::server::View) -> SyncState {
    let applied =
        heard.applied.as_ref().is_some_and(|applied| applied.generation == present.generation || super::same_view(applied, present));
    match (applied, heard.rejected.is_empty()) {
        (true, true) => SyncState::Synced,
        (true, false) => SyncState::Rejecting,
        (false, _) => SyncState::Pending,
    }
}
