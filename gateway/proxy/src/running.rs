//! One proxy put together: a feed, the Store it fills, the proxy that serves it, and the ports to look into it.
//!
//! ```text
//! file or wire ──feed──► Store ──Snapshot──► Proxy
//!                          └──► health, metrics, admin
//! ```
//!
//! The compositions of both roles are this one: what a proxy is for stands in its Resources.

use crate::admin::{self, Address, AdminError, Health, Serves, Watched};
use crate::feed::file::{FileError, FileFeed};
use crate::feed::wire::WireFeed;
use crate::feed::{Readiness, Store};
use crate::identity::Life;
use crate::net::sockets::Status as Sockets;
use crate::observe::{Metrics, access::rfc3339};
use crate::probe::Probes;
use crate::program;
use crate::proxy::{Proxy, ProxyOptions, StartError};
use crate::snapshot::Live;
use crate::{explain, state::clock};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use selvage_config::last_good::LastGood;
use selvage_config::resource::CoreKind;
use selvage_config::resource::listener::Bind;
use selvage_config::wire::client::Options as WireOptions;
use selvage_config::{CertificateSpec, Resource, ports};
use selvage_policy::Key;
use serde::Deserialize;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Where a proxy's Resources come from.
pub enum Feed {
    /// A file and the secrets beside it; followed when they change.
    File(PathBuf),
    /// The controller.
    Wire {
        /// How it is reached.
        options: Box<WireOptions>,
        /// What is put in force until it answers.
        last_good: Option<LastGood>,
    },
}

/// The ports to look into a proxy; absent ones are not opened.
#[derive(Clone, Debug, Default)]
pub struct Windows {
    /// `/healthz`, `/readyz`.
    pub health: Option<Address>,
    /// `/metrics`.
    pub metrics: Option<Address>,
    /// Everything; loopback or a Unix socket only.
    pub admin: Option<Address>,
    /// Probes of the application beside it, answered where health is.
    pub probes: Arc<Probes>,
}

/// Why a proxy does not run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The file.
    #[error(transparent)]
    File(#[from] FileError),
    /// The proxy itself.
    #[error(transparent)]
    Start(#[from] StartError),
    /// A port to look into it.
    #[error(transparent)]
    Admin(#[from] AdminError),
}

/// A running proxy with everything around it. Dropping it ends it at once; [`Running::end`] in order.
pub struct Running {
    store: Arc<Store>,
    proxy: Proxy,
    windows: Vec<admin::Server>,
    feed: Following,
    figures: JoinHandle<()>,
}

/// The feed: it follows until it is dropped.
enum Following {
    File(FileFeed),
    Wire(WireFeed),
}

impl Running {
    /// Starts it. With a file: returns once the file is in force; with the wire: at once (see [`Running::ready`]).
    pub async fn start(options: &ProxyOptions, windows: &Windows, feed: Feed) -> Result<Self, RunError> {
        let store = Store::new(Arc::new(Live::default()));
        let feed = match feed {
            Feed::File(path) => Following::File(FileFeed::start(store.clone(), path).await?),
            Feed::Wire { options, last_good } => {
                let explain = answering(store.clone());
                Following::Wire(WireFeed::start(store.clone(), *options, last_good, Some(explain)).await)
            }
        };
        let proxy = Proxy::start(options, store.snapshot(), store.changes())?;
        let watched: Arc<dyn Watched> = Arc::new(Look {
            store: store.clone(),
            sockets: proxy.status(),
            ready: proxy.ready(),
            metrics: proxy.metrics(),
            probes: windows.probes.clone(),
        });
        let mut servers = Vec::new();
        for (address, serves) in [(&windows.health, Serves::Health), (&windows.metrics, Serves::Metrics), (&windows.admin, Serves::Admin)] {
            if let Some(address) = address {
                servers.push(admin::Server::start(address, serves, watched.clone()).await?);
            }
        }
        let figures = tokio::spawn(figures(store.clone(), proxy.metrics()));
        Ok(Self { store, proxy, windows: servers, feed, figures })
    }

    /// One in the process of `selvage up`: its ports to look into it are on its own address.
    pub async fn on(address: IpAddr, name: &str, threads: u16, access_log: &str, feed: Feed) -> Result<Self, RunError> {
        let at = |port| Some(Address::Tcp((address, port).into()));
        let windows = Windows { health: at(ports::HEALTH), metrics: at(ports::METRICS), admin: at(ports::ADMIN), ..Windows::default() };
        let access = program::access_log(access_log);
        let options = ProxyOptions { name: name.into(), threads: threads.into(), access, ..ProxyOptions::default() };
        Self::start(&options, &windows, feed).await
    }

    /// Waits until it can serve all it is for and every socket of its configuration is open or has failed; what is missing otherwise.
    pub async fn ready(&self, patience: Duration) -> Readiness {
        let waited = async {
            let mut readiness = self.store.readiness();
            // The sender lives in the store.
            let _ = readiness.wait_for(Readiness::is_ready).await;
            self.settled().await;
        };
        match tokio::time::timeout(patience, waited).await {
            Ok(()) => Readiness { missing: failures(&self.proxy.status().borrow()) },
            Err(_) => self.store.readiness().borrow().clone(),
        }
    }

    /// Waits until the sockets are those of the configuration in force.
    async fn settled(&self) {
        let (generation, mut sockets) = (*self.store.changes().borrow(), self.proxy.status());
        // The sender lives as long as the proxy.
        let _ = sockets.wait_for(|status| status.generation >= generation).await;
    }

    /// What it was told, and what of it cannot be used.
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// The proxy.
    pub fn proxy(&self) -> &Proxy {
        &self.proxy
    }

    /// Whether the wire, or the file, is in order; else why not.
    pub fn problem(&self) -> Option<String> {
        match &self.feed {
            Following::File(feed) => feed.problem().borrow().clone(),
            Following::Wire(feed) => {
                let connection = feed.client().connection().borrow().clone();
                (!connection.connected).then(|| connection.error.unwrap_or_else(|| "the controller is not connected".into()))
            }
        }
    }

    /// Says that it is going away and serves on: who looks at `/readyz` sends no more, everybody else is still served.
    pub fn leave(&self) {
        self.proxy.leave();
    }

    /// Ends it in order: unready, no new connections, requests under way finish until the deadline. How many connections were cut off.
    pub async fn end(self, deadline: Duration) -> usize {
        let cut = self.proxy.drain(deadline).await;
        self.figures.abort();
        drop(self.windows);
        self.proxy.join().await;
        cut
    }
}

/// Answers a question of the controller about a request: `{"listener": KEY, "request": …}`, or `"address": [BIND, DESTINATION]` in place of a listener.
fn answering(store: Arc<Store>) -> crate::feed::wire::Explain {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Question {
        listener: Option<Key>,
        address: Option<(Bind, SocketAddr)>,
        request: explain::Described,
    }
    Arc::new(move |question| {
        let Ok(question) = serde_json::from_value::<Question>(question) else { return serde_json::Value::Null };
        let at = match (question.listener, question.address) {
            (Some(listener), None) => explain::At::Listener(listener),
            (None, Some((bind, destination))) => explain::At::Address(bind, destination),
            _ => return serde_json::Value::Null,
        };
        let moment = explain::Moment { now: clock::now(), wall: SystemTime::now() };
        let snapshot = store.snapshot().load_full();
        let explanation = explain::explain(&snapshot, &at, &question.request, moment);
        serde_json::to_value(explanation).unwrap_or_default()
    })
}

/// Keeps the figures about the configuration.
async fn figures(store: Arc<Store>, metrics: Arc<Metrics>) {
    let mut changes = store.changes();
    loop {
        let generation = *changes.borrow_and_update();
        metrics.configuration.applied(generation, store.rejected().len());
        metrics.configuration.certificates(certificates(&store));
        if changes.changed().await.is_err() {
            return;
        }
    }
}

/// The certificates there are, with the end of each.
fn certificates(store: &Store) -> Vec<(String, SystemTime)> {
    let end = |resource: &Arc<Resource>| {
        let spec: CertificateSpec = serde_json::from_value(resource.spec.clone()).ok()?;
        let leaf = CertificateDer::from_pem_slice(spec.chain.as_bytes()).ok()?;
        Some((format!("{}/{}", resource.key.namespace, resource.key.name), Life::of(&leaf)?.not_after))
    };
    store.resources().iter().filter(|resource| resource.key.kind == CoreKind::Certificate.as_str()).filter_map(end).collect()
}

fn failures(sockets: &Sockets) -> Vec<String> {
    sockets.failures.iter().map(|(bind, error)| format!("socket {bind:?}: {error}")).collect()
}

/// What the ports show.
struct Look {
    store: Arc<Store>,
    sockets: watch::Receiver<Sockets>,
    ready: watch::Receiver<bool>,
    metrics: Arc<Metrics>,
    probes: Arc<Probes>,
}

impl Watched for Look {
    fn health(&self) -> Health {
        let mut missing = self.store.readiness().borrow().missing.clone();
        let sockets = self.sockets.borrow();
        // Until those of the first configuration have been opened, none is there.
        if missing.is_empty() && sockets.generation == 0 {
            missing.push("sockets".into());
        }
        missing.extend(failures(&sockets));
        drop(sockets);
        Health { missing, draining: !*self.ready.borrow() }
    }

    fn resources(&self) -> Vec<Arc<Resource>> {
        self.store.resources()
    }

    fn status(&self) -> admin::Status {
        let sockets = self.sockets.borrow().clone();
        let snapshot = self.store.snapshot().load_full();
        let mut listeners = Vec::new();
        for (bind, sharing) in &snapshot.sockets {
            let error = sockets.failures.get(bind).cloned();
            listeners.extend(sharing.iter().map(|listener| admin::Listening {
                listener: listener.key.to_string(),
                bind: format!("{bind:?}"),
                error: error.clone(),
            }));
        }
        let rejected = self.store.rejected();
        admin::Status {
            generation: snapshot.generation,
            age_seconds: self.store.age().map(|age| age.as_secs()),
            rejected: rejected
                .iter()
                .map(|one| admin::Rejected { key: one.key.to_string(), version: one.version.clone(), reason: one.reason.clone() })
                .collect(),
            listeners,
            certificates: certificates(&self.store)
                .into_iter()
                .map(|(name, end)| admin::Certificate { name, not_after: rfc3339(end) })
                .collect(),
        }
    }

    fn metrics(&self) -> Vec<u8> {
        self.metrics.configuration.aged(self.store.age());
        // Rendering fails only where two metrics share a name, which starting the proxy has ruled out.
        self.metrics.render().unwrap_or_default()
    }

    fn probes(&self) -> Arc<Probes> {
        self.probes.clone()
    }
}
