//! The publishing side of `up`: certificate authority, publisher and wire, which can be restarted while proxies serve on.

use crate::read::Read;
use anyhow::{Context, Result};
use selvage_config::resource::Secret;
use selvage_config::wire::client::{Options as WireOptions, Text};
use selvage_config::wire::server::{Limits, Server};
use selvage_controller::ca::Authority;
use selvage_controller::publish::{Publication, Publisher, ServerCertificate, Tokens, Why, server_identity};
use selvage_controller::status::{self, Published};
use selvage_controller::translate::Status;
use selvage_policy::{Key, TrustDomain};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// How long streams may take to end when the publishing side is restarted or ends.
const FAREWELL: Duration = Duration::from_secs(2);

/// The shortest and the longest wait of a proxy before it tries again: on a laptop nobody is stormed.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// Where `selvage status` is answered, at the wire's address: a controller's metrics port.
const STATUS_PORT: u16 = 15420;

/// The publishing side.
pub struct Publishing {
    address: SocketAddr,
    trust_domain: TrustDomain,
    authority: Arc<Authority>,
    certificate: Arc<ServerCertificate>,
    tokens: Arc<Tokens>,
    present: Option<Serving>,
}

struct Serving {
    publisher: Arc<Publisher>,
    stop: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
}

impl Publishing {
    /// Serves the wire on a socket that is bound already.
    pub async fn start(listener: TcpListener, authority: Arc<Authority>, trust_domain: &TrustDomain) -> Result<Self> {
        let address = listener.local_addr().context("the wire's socket has no address")?;
        let certificate = ServerCertificate::new(&authority, trust_domain).context("the publisher gets no certificate")?;
        let tokens = Arc::default();
        let mut new = Self { address, trust_domain: trust_domain.clone(), authority, certificate, tokens, present: None };
        new.serve(listener).await?;
        Ok(new)
    }

    /// The trust domain of every certificate.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// Ends the tokens of proxies that are no more.
    pub fn forget(&self, proxy: &Key) {
        self.tokens.end(proxy);
    }

    /// Where `selvage status` reads.
    pub fn status(&self) -> SocketAddr {
        SocketAddr::new(self.address.ip(), STATUS_PORT)
    }

    async fn serve(&mut self, listener: TcpListener) -> Result<()> {
        let page =
            TcpListener::bind(self.status()).await.with_context(|| format!("cannot listen on {} for `selvage status`", self.status()))?;
        let stop = CancellationToken::new();
        let publisher = Publisher::new(self.authority.clone());
        let limits = Limits { spread: Duration::from_millis(100), ..Limits::default() };
        let server = Server::new(self.tokens.clone(), publisher.clone(), limits, stop.clone());
        let tls = self.certificate.tls();
        let serve = async move {
            if let Err(error) = server.serve(listener, tls).await {
                tracing::error!(%error, "the wire is not served any more");
            }
        };
        let keep = self.certificate.clone().keep(self.authority.clone(), stop.clone());
        let status = status::serve(page, publisher.clone(), stop.clone());
        let status = async move {
            if let Err(error) = status.await {
                tracing::warn!(%error, "`selvage status` is not answered any more");
            }
        };
        self.present = Some(Serving { publisher, stop, tasks: vec![tokio::spawn(serve), tokio::spawn(keep), tokio::spawn(status)] });
        Ok(())
    }

    /// What is said of each object now.
    pub fn statuses(&self, read: &Read) -> BTreeMap<Key, Status> {
        let Some(serving) = &self.present else { return read.translation.statuses.clone() };
        let addresses = read.translation.views.keys().filter(|view| read.address(view).is_some()).cloned().collect();
        status::complete(&read.translation, &Published { publisher: &serving.publisher, addresses: &addresses })
    }

    /// How a proxy reaches it.
    pub fn options(&self, proxy: &Key) -> WireOptions {
        WireOptions {
            address: self.address.to_string(),
            server_name: server_identity(&self.trust_domain).dns_name(),
            roots: Text::Inline(Secret::new(self.authority.roots().concat())),
            token: Text::Inline(Secret::new(self.tokens.give(proxy))),
            node: proxy.to_string(),
            backoff: BACKOFF,
        }
    }

    /// Publishes; what is too large for the wire is named.
    pub fn publish(&self, publication: &Publication) -> Vec<String> {
        let Some(serving) = &self.present else { return Vec::new() };
        serving.publisher.publish(publication).iter().map(ToString::to_string).collect()
    }

    /// Waits until every proxy has what was published, at most so long; the proxies that do not.
    pub async fn delivered(&self, publication: &Publication, patience: Duration) -> Vec<String> {
        let Some(serving) = &self.present else { return Vec::new() };
        let lagging = || {
            let keys = publication.resources.keys();
            let lags = keys.flat_map(|key| {
                serving.publisher.delivery(key).lagging.into_iter().map(move |lag| match lag.why {
                    Why::Rejected(reason) => format!("{} rejects {key}: {reason}", lag.proxy),
                    Why::Pending | Why::Absent => format!("{} has not answered", lag.proxy),
                })
            });
            lags.collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>()
        };
        let mut changes = serving.publisher.deliveries();
        let all = async {
            while !lagging().is_empty() {
                if changes.changed().await.is_err() {
                    return;
                }
            }
        };
        match tokio::time::timeout(patience, all).await {
            Ok(()) => Vec::new(),
            Err(_) => lagging(),
        }
    }

    /// Ends the publisher and starts another at the same address, which knows nothing of what was sent. Proxies serve on meanwhile.
    pub async fn restart(&mut self, publication: &Publication) -> Result<()> {
        self.end().await;
        let socket =
            TcpListener::bind(self.address).await.with_context(|| format!("the wire's address {} was taken meanwhile", self.address))?;
        self.serve(socket).await?;
        self.publish(publication);
        Ok(())
    }

    /// Ends it.
    pub async fn end(&mut self) {
        let Some(mut serving) = self.present.take() else { return };
        serving.stop.cancel();
        for task in &mut serving.tasks {
            if tokio::time::timeout(FAREWELL, &mut *task).await.is_err() {
                task.abort();
                // Its sockets are closed when it has ended, and not before.
                let _ = task.await;
            }
        }
    }
}
