//! Metrics of connections from clients, and of the bytes of opaque ones.

use super::labels::{Accepted, Carries, Direction};
use super::{InvalidMetric, register};
use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

/// Counts connections.
#[derive(Debug)]
pub struct Connections {
    total: [IntCounter; Accepted::ALL.len()],
    active: [IntGauge; Carries::ALL.len()],
    bytes: [IntCounter; Direction::ALL.len()],
}

/// A connection that is open; counted until dropped.
#[derive(Debug)]
pub struct Open(IntGauge);

impl Connections {
    pub(super) fn new(registry: &Registry) -> Result<Self, InvalidMetric> {
        let total = IntCounterVec::new(Opts::new("selvage_connections_total", "Connections accepted."), &["outcome"])?;
        let active = IntGaugeVec::new(Opts::new("selvage_connections_active", "Connections open."), &["protocol"])?;
        let bytes = IntCounterVec::new(Opts::new("selvage_tcp_bytes_total", "Bytes of opaque connections."), &["direction"])?;
        register(registry, &total)?;
        register(registry, &active)?;
        register(registry, &bytes)?;
        Ok(Self {
            total: Accepted::ALL.map(|outcome| total.with_label_values(&[outcome.as_str()])),
            active: Carries::ALL.map(|protocol| active.with_label_values(&[protocol.as_str()])),
            bytes: Direction::ALL.map(|direction| bytes.with_label_values(&[direction.as_str()])),
        })
    }

    /// Counts a connection, once it is known what becomes of it.
    pub fn accepted(&self, outcome: Accepted) {
        self.total[outcome as usize].inc();
    }

    /// Counts a connection as open.
    pub fn open(&self, carries: Carries) -> Open {
        let gauge = &self.active[carries as usize];
        gauge.inc();
        Open(gauge.clone())
    }

    /// Counts opaque bytes.
    pub fn bytes(&self, direction: Direction, count: u64) {
        self.bytes[direction as usize].inc_by(count);
    }

    /// How many connections are open.
    pub fn active(&self) -> i64 {
        self.active.iter().map(IntGauge::get).sum()
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}
