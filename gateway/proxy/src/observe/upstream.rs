//! Metrics of attempts at upstreams.

use super::labels::{Attempt, Retry};
use super::{InvalidMetric, register};
use prometheus::{IntCounter, IntCounterVec, Opts, Registry};

/// Counts attempts and retries.
#[derive(Debug)]
pub struct Upstream {
    attempts: [IntCounter; Attempt::ALL.len()],
    retries: [IntCounter; Retry::ALL.len()],
}

impl Upstream {
    pub(super) fn new(registry: &Registry) -> Result<Self, InvalidMetric> {
        let attempts = IntCounterVec::new(Opts::new("selvage_upstream_attempts_total", "Attempts at endpoints."), &["outcome"])?;
        let retries = IntCounterVec::new(
            Opts::new("selvage_retries_total", "Failed attempts that might have been tried again, and what became of that."),
            &["outcome"],
        )?;
        register(registry, &attempts)?;
        register(registry, &retries)?;
        Ok(Self {
            attempts: Attempt::ALL.map(|outcome| attempts.with_label_values(&[outcome.as_str()])),
            retries: Retry::ALL.map(|outcome| retries.with_label_values(&[outcome.as_str()])),
        })
    }

    /// Counts an attempt.
    pub fn attempt(&self, outcome: Attempt) {
        self.attempts[outcome as usize].inc();
    }

    /// Counts what became of a wish to try again.
    pub fn retry(&self, outcome: Retry) {
        self.retries[outcome as usize].inc();
    }
}
