//! The request half of a proxy: what happens between a request's head and the end of its response.
//!
//! ```text
//! head -> hygiene -> decide (listener, rule, guards) -> redirect? -> backend -> [endpoint -> destination guards -> attempt]* -> response -> log
//! ```
//!
//! [`Driver`] runs this over Pingora's `HttpProxy`; each stage is one file. Nothing outside this folder may know which driver runs.

use crate::observe::{AccessLog, Metrics};
use crate::snapshot::{Live, Snapshot};
use arc_swap::ArcSwap;
use async_trait::async_trait;
use pingora_core::Result;
use pingora_core::apps::HttpServerOptions;
use pingora_core::server::configuration::ServerConf;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_proxy::{HttpProxy, ProxyHttp, Session};
use std::sync::Arc;

/// What all workers of one proxy share.
#[derive(Debug)]
pub struct Shared {
    /// The configuration that holds; the feed stores a new one, each request loads it once.
    pub snapshot: ArcSwap<Snapshot>,
    /// State that outlives configurations.
    pub live: Arc<Live>,
    /// Figures.
    pub metrics: Metrics,
    /// Lines.
    pub access: AccessLog,
    /// Limits and habits.
    pub options: Options,
}

/// Limits and habits of the request half.
#[derive(Clone, Debug)]
pub struct Options {
    /// Header fields a request may have.
    pub max_headers: usize,
    /// Bytes a request's head may have.
    pub max_head: usize,
    /// Upstream connections that are kept open without a request, a worker.
    pub idle_upstreams: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { max_headers: 100, max_head: 32 * 1024, idle_upstreams: 1024 }
    }
}

/// One worker's driver.
#[derive(Debug)]
pub struct Driver {
    shared: Arc<Shared>,
}

/// The driver of one worker.
pub fn new(shared: Arc<Shared>) -> Driver {
    Driver { shared }
}

/// Pingora's proxy around a driver, with connection pools of its own: one a worker.
pub fn http_proxy(shared: Arc<Shared>) -> HttpProxy<Driver> {
    let conf = ServerConf { threads: 1, upstream_keepalive_pool_size: shared.options.idle_upstreams, ..ServerConf::default() };
    let mut proxy = pingora_proxy::http_proxy(&Arc::new(conf), new(shared));
    let mut options = HttpServerOptions::default();
    // Refused by us, in the form of every refusal.
    options.allow_connect_method_proxying = true;
    proxy.server_options = Some(options);
    proxy
}

#[async_trait]
impl ProxyHttp for Driver {
    type CTX = ();

    fn new_ctx(&self) -> Self::CTX {}

    async fn upstream_peer(&self, _session: &mut Session, _ctx: &mut Self::CTX) -> Result<Box<HttpPeer>> {
        let _ = self.shared.snapshot.load();
        unimplemented!("contract")
    }
}
