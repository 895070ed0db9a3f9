//! What a proxy tells about itself: metrics and the access log. One schema for every role.
//!
//! ```text
//! request ends --> Requests (metrics)            one registry a proxy, read by /metrics
//!              \-> AccessLog --bounded queue--> writer thread
//! ```
//!
//! Every label is a bounded type ([`labels`]), so the number of series does not depend on routes, hosts or callers.

pub mod access;
pub mod configuration;
pub mod connections;
pub mod labels;
pub mod requests;
#[cfg(test)]
mod tests;
pub mod upstream;

pub use access::{AccessLog, Entry};
pub use configuration::Configuration;
pub use connections::Connections;
pub use requests::Requests;
pub use upstream::Upstream;

use prometheus::core::Collector;
use prometheus::{Encoder, IntCounter, IntGaugeVec, Opts, Registry, TextEncoder};

/// Every metric of one proxy.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Requests from clients.
    pub requests: Requests,
    /// Attempts at upstreams.
    pub upstream: Upstream,
    /// Connections and opaque bytes.
    pub connections: Connections,
    /// The configuration that holds.
    pub configuration: Configuration,
    /// Panics that were caught: each is a bug, and the request it hit was refused.
    pub panics: IntCounter,
    /// Lines that the access log had no room for.
    pub lines_dropped: IntCounter,
}

/// Metrics whose names or labels clash: a fault of this crate, found by its tests.
#[derive(Debug, thiserror::Error)]
#[error("metric cannot be registered: {0}")]
pub struct InvalidMetric(#[from] prometheus::Error);

impl Metrics {
    /// A registry of its own, so that many proxies can live in one process.
    pub fn new() -> Result<Self, InvalidMetric> {
        let registry = Registry::new();
        let build = IntGaugeVec::new(Opts::new("selvage_build_info", "Always 1; the version is the label."), &["version"])?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        register(&registry, &build)?;
        let panics = IntCounter::new("selvage_panics_total", "Panics caught; the request each hit was refused.")?;
        register(&registry, &panics)?;
        let lines_dropped = IntCounter::new("selvage_access_log_dropped_total", "Lines that the access log had no room for.")?;
        register(&registry, &lines_dropped)?;
        Ok(Self {
            requests: Requests::new(&registry)?,
            upstream: Upstream::new(&registry)?,
            connections: Connections::new(&registry)?,
            configuration: Configuration::new(&registry)?,
            panics,
            lines_dropped,
            registry,
        })
    }

    /// The text form that Prometheus scrapes (exposition format 0.0.4).
    pub fn render(&self) -> Result<Vec<u8>, InvalidMetric> {
        self.configuration.refresh();
        let mut text = Vec::with_capacity(16 * 1024);
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }

    /// How many series there are.
    pub fn series(&self) -> usize {
        self.registry.gather().iter().map(|family| family.get_metric().len()).sum()
    }
}

/// Registers a clone: metrics share their cells.
fn register<M: Collector + Clone + 'static>(registry: &Registry, metric: &M) -> Result<(), InvalidMetric> {
    Ok(registry.register(Box::new(metric.clone()))?)
}
