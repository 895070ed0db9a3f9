//! `controller run`: the parts of a controller in a cluster, put together.
//!
//! ```text
//! look (health first) ─ watches ─ lease ─ MeshConfig ─► trust domain known ─► authority ─► turn ─ wire ─ writers
//! ```

use crate::ca::{Authority, Kept};
use crate::cluster::authority::{self, Keeper};
use crate::cluster::issuer::Issuer;
use crate::cluster::kinds::WATCHED;
use crate::cluster::known::Known;
use crate::cluster::lease::{Candidate, TIMES, Tenure};
use crate::cluster::look::{Look, Wire};
use crate::cluster::mesh_config;
use crate::cluster::metrics::Metrics;
use crate::cluster::provisioning::Provisioner;
use crate::cluster::roots::Roots;
use crate::cluster::statuses::Writer;
use crate::cluster::tokens::PodTokens;
use crate::cluster::turn::{self, Outlook, Turn};
use crate::cluster::watch;
use crate::cluster::webhooks::{Latest, keep_bundles};
use crate::publish::{Publisher, ServerCertificate};
use crate::serve::{PATIENCE, serve};
use crate::settings::Settings;
use crate::webhook;
use crate::world::PLATFORM_NAMESPACE;
use anyhow::{Context, Result};
use clap::Args;
use kube::Client;
use parking_lot::RwLock;
use selvage_config::VersionKey;
use selvage_config::wire::server::{Limits, Server};
use selvage_policy::TrustDomain;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// How long the parts may take to end.
const FAREWELL: Duration = Duration::from_secs(6);
/// How often a replica looks whether another serves the proxies.
const STANDING: Duration = Duration::from_millis(500);
/// After the certificate authority could not be opened.
const AGAIN: Duration = Duration::from_secs(2);

/// `controller run`
#[derive(Clone, Debug, Args)]
pub struct Options {
    /// Where proxies are served (the wire).
    #[arg(long, env = "SELVAGE_WIRE", value_name = "ADDRESS", default_value = "0.0.0.0:15410")]
    pub wire: SocketAddr,
    /// Where /healthz, /readyz and /state are answered.
    #[arg(long, env = "SELVAGE_HEALTH", value_name = "ADDRESS", default_value = "0.0.0.0:15415")]
    pub health: SocketAddr,
    /// Where /metrics is answered, for Prometheus, and /status, for `selvage status`.
    #[arg(long, env = "SELVAGE_METRICS", value_name = "ADDRESS", default_value = "0.0.0.0:15420")]
    pub metrics: SocketAddr,
    /// Where the API server asks before it stores an object (webhooks).
    #[arg(long, env = "SELVAGE_WEBHOOKS", value_name = "ADDRESS", default_value = "0.0.0.0:15417")]
    pub webhooks: SocketAddr,
    /// What the platform team says about the proxies that are made: `settings.json` of the chart.
    #[arg(long, env = "SELVAGE_SETTINGS", value_name = "FILE")]
    pub settings: PathBuf,
    /// How long it goes on after SIGTERM, unready: the API server and proxies still come to it until they are told that it is gone.
    #[arg(long, env = "SELVAGE_LAME_DUCK", value_name = "SECONDS", default_value = "5", value_parser = seconds)]
    pub lame_duck: Duration,
    /// The name of this replica, which no other has: its pod's. Default: the host's name.
    #[arg(long, env = "SELVAGE_POD_NAME", value_name = "NAME")]
    pub identity: Option<String>,
}

impl Options {
    /// A name that another replica, and this one after a restart, does not have.
    fn identity(&self) -> String {
        let host = || std::fs::read_to_string("/proc/sys/kernel/hostname").map(|name| name.trim().to_string()).unwrap_or_default();
        let name = self.identity.clone().unwrap_or_else(host);
        format!("{}_{:08x}", if name.is_empty() { "controller" } else { &name }, rand::random::<u32>())
    }
}

fn seconds(text: &str) -> Result<Duration, std::num::ParseIntError> {
    text.parse().map(Duration::from_secs)
}

/// What a controller listens on.
#[derive(Debug)]
pub struct Listeners {
    /// Proxies.
    pub wire: TcpListener,
    /// The API server's questions.
    pub webhooks: TcpListener,
    /// Health, readiness and state.
    pub health: TcpListener,
    /// Figures.
    pub metrics: TcpListener,
}

impl Listeners {
    /// Listens where the options say.
    pub async fn bind(options: &Options) -> Result<Self> {
        Ok(Self {
            wire: bind(options.wire).await?,
            webhooks: bind(options.webhooks).await?,
            health: bind(options.health).await?,
            metrics: bind(options.metrics).await?,
        })
    }
}

/// Runs until `stop`, and a little longer. What fails is tried again; only what cannot begin at all is an error.
pub async fn run(options: &Options, listeners: Listeners, client: Client, stop: CancellationToken) -> Result<()> {
    let settings = Settings::read(&options.settings)?;
    let metrics = Arc::new(Metrics::new().context("metrics cannot be registered")?);
    let Listeners { wire, webhooks, health, metrics: figures } = listeners;
    let identity = options.identity();
    let (candidate, tenure) = Candidate::new(client.clone(), PLATFORM_NAMESPACE, identity.clone(), TIMES, metrics.clone());
    let outlook = Outlook::default();
    let look = Look {
        identity,
        metrics: metrics.clone(),
        outlook: outlook.clone(),
        tenure: tenure.clone(),
        leaving: stop.clone(),
        wire: Arc::new(RwLock::new(None)),
    };
    // Ended in this order: what writes, then the lease, then what can be looked at.
    let (ending, leaving, closing) = (CancellationToken::new(), CancellationToken::new(), CancellationToken::new());
    let (mut parts, mut lease, mut windows) = (JoinSet::new(), JoinSet::new(), JoinSet::new());
    windows.spawn(serve(health, None, look.health(), PATIENCE, closing.clone()));
    windows.spawn(serve(figures, None, look.figures(), PATIENCE, closing.clone()));
    lease.spawn(candidate.run(leaving.clone()));
    let (seen, events) = mpsc::channel(watch::EVENTS);
    for kind in WATCHED.iter() {
        let watching = watch::watch(kind, client.clone(), seen.clone(), metrics.clone());
        let ending = ending.clone();
        parts.spawn(async move {
            ending.run_until_cancelled(watching).await;
        });
    }
    parts.spawn(mesh_config::keep(client.clone(), settings.trust_domain.clone(), outlook.clone(), tenure.clone(), ending.clone()));
    let cluster = Cluster { client, settings, metrics, tenure, outlook, look, wire, webhooks };
    let begin = ending.clone();
    parts.spawn(async move {
        if let Err(error) = cluster.serve(events, begin).await {
            tracing::error!(error = format!("{error:#}"), "this replica serves no proxies");
        }
    });
    let outcome = tokio::select! {
        () = ended(&stop, options.lame_duck) => Ok(()),
        // The lease and the windows end only when told to; of the others, that the serving part ends is the end of all.
        ended = first_failure(&mut parts) => Err(ended),
    };
    for (token, set) in [(&ending, &mut parts), (&leaving, &mut lease), (&closing, &mut windows)] {
        token.cancel();
        let all = async { while set.join_next().await.is_some() {} };
        if tokio::time::timeout(FAREWELL, all).await.is_err() {
            set.shutdown().await;
        }
    }
    outcome
}

/// Ends as long after `stop` as everything goes on.
async fn ended(stop: &CancellationToken, lame_duck: Duration) {
    stop.cancelled().await;
    tokio::time::sleep(lame_duck).await;
}

/// Waits until a part ends, which none does by itself.
async fn first_failure(parts: &mut JoinSet<()>) -> anyhow::Error {
    match parts.join_next().await {
        Some(Err(error)) => anyhow::anyhow!("a part of the controller failed: {error}"),
        _ => anyhow::anyhow!("a part of the controller ended: see the log"),
    }
}

async fn bind(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))
}

/// What every part has in hand.
struct Cluster {
    client: Client,
    settings: Settings,
    metrics: Arc<Metrics>,
    tenure: Tenure,
    outlook: Outlook,
    look: Look,
    wire: TcpListener,
    webhooks: TcpListener,
}

impl Cluster {
    /// From the first events to the end.
    async fn serve(self, mut events: mpsc::Receiver<watch::Event>, stop: CancellationToken) -> Result<()> {
        let mut known = Known::default();
        let Some(Some(trust_domain)) = stop.run_until_cancelled(turn::first(&mut known, &mut events, &self.outlook)).await else {
            return Ok(());
        };
        let Some(kept) = self.authority(&trust_domain, &stop).await else { return Ok(()) };
        let version_key = VersionKey::derive(kept.root_key.expose().as_bytes());
        let authority = Arc::new(Authority::new(kept).context("the certificate authority cannot be used")?);
        let certificate = ServerCertificate::new(&authority, &trust_domain).context("the wire gets no certificate")?;
        let roots = tokio::sync::watch::Sender::new(authority.roots());
        let publisher = Publisher::new(authority.clone());
        let issuer = Arc::new(Issuer::default());
        let tokens = PodTokens::new(self.client.clone(), known.pods.clone(), issuer.clone(), self.metrics.clone());
        let server = Arc::new(Server::new(Arc::new(tokens), publisher.clone(), Limits::default(), stop.clone()));
        let mut tasks = JoinSet::new();
        let writer = Writer::new(self.client.clone(), known.present.clone(), self.tenure.clone(), self.metrics.clone());
        tasks.spawn(writer.run(self.outlook.statuses.subscribe(), self.outlook.echoes.subscribe(), stop.clone()));
        let bundles = Roots {
            client: self.client.clone(),
            namespaces: self.outlook.namespaces.subscribe(),
            roots: roots.subscribe(),
            tenure: self.tenure.clone(),
            metrics: self.metrics.clone(),
        };
        tasks.spawn(bundles.run(stop.clone()));
        tasks.spawn(keep_bundles(self.client.clone(), roots.subscribe(), self.tenure.clone(), stop.clone()));
        let provisioner = Provisioner::new(self.client.clone(), self.settings.clone(), self.tenure.clone(), self.metrics.clone());
        tasks.spawn(provisioner.run(self.outlook.seen.subscribe(), stop.clone()));
        let publishing = publisher.clone();
        tasks.spawn(serve_alone(publisher.clone(), self.tenure.clone(), stop.clone()));
        let turn = Turn {
            known,
            events,
            roots: roots.subscribe(),
            version_key,
            trust_domain: trust_domain.clone(),
            publisher,
            outlook: self.outlook.clone(),
            metrics: self.metrics.clone(),
            steady: crate::status::Steady::default(),
        };
        tasks.spawn(turn.run(stop.clone()));
        let keeper = Keeper {
            namespace: PLATFORM_NAMESPACE.into(),
            client: self.client.clone(),
            trust_domain,
            authority: authority.clone(),
            roots,
            tenure: self.tenure.clone(),
            metrics: self.metrics.clone(),
        };
        tasks.spawn(keeper.run(stop.clone()));
        let (client, ends) = (self.client.clone(), stop.clone());
        tasks.spawn(async move { issuer.keep(client, ends).await });
        tasks.spawn(certificate.clone().keep(authority.clone(), stop.clone()));
        let of_webhooks = ServerCertificate::webhooks(&authority, webhook::SERVER_NAME).context("webhooks get no certificate")?;
        tasks.spawn(of_webhooks.clone().keep(authority, stop.clone()));
        // A proxy that came before the first publication would be sent away; it may as well wait to be accepted.
        let mut seen = self.outlook.seen.subscribe();
        let published = stop.run_until_cancelled(seen.wait_for(Option::is_some)).await.is_some_and(|seen| seen.is_ok());
        if !published {
            tasks.shutdown().await;
            return Ok(());
        }
        let webhooks = webhook::router(Arc::new(Latest(self.outlook.seen.subscribe())), self.settings);
        tasks.spawn(serve(self.webhooks, Some(of_webhooks.tls()), webhooks, PATIENCE, stop.clone()));
        *self.look.wire.write() = Some(Wire { server: server.clone(), publisher: publishing });
        tracing::info!(address = ?self.wire.local_addr().ok(), "proxies are served");
        let serving = server.serve(self.wire, certificate.tls());
        tokio::pin!(serving);
        let served = loop {
            tokio::select! {
                served = &mut serving => break served.context("the wire is not served any more"),
                // At the end they may go before the wire does; otherwise none ends by itself.
                Some(ended) = tasks.join_next() => if !stop.is_cancelled() {
                    break Err(ended.err().map_or_else(|| anyhow::anyhow!("a part ended"), anyhow::Error::from));
                },
            }
        };
        if !stop.is_cancelled() {
            tasks.shutdown().await;
        }
        while tasks.join_next().await.is_some() {}
        served
    }

    /// The certificate authority; tried until it is there.
    async fn authority(&self, trust_domain: &TrustDomain, stop: &CancellationToken) -> Option<Kept> {
        loop {
            match stop.run_until_cancelled(authority::open(self.client.clone(), PLATFORM_NAMESPACE, trust_domain)).await? {
                Ok(kept) => return Some(kept),
                Err(error) => {
                    tracing::error!(%error, "there is no certificate authority: it is tried again");
                    self.outlook.not_yet.send_replace(Some(error.to_string()));
                }
            }
            stop.run_until_cancelled(tokio::time::sleep(AGAIN)).await?;
        }
    }
}

/// Serves proxies, unless another replica is known to: the one that writes has to know every one of them.
async fn serve_alone(publisher: Arc<Publisher>, tenure: Tenure, stop: CancellationToken) {
    loop {
        publisher.stand_by(tenure.is_another());
        if stop.run_until_cancelled(tokio::time::sleep(STANDING)).await.is_none() {
            return;
        }
    }
}
