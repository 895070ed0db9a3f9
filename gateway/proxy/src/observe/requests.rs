//! Metrics of requests, from the client's side.

use super::labels::{CodeClass, Protocol};
use super::{InvalidMetric, register};
use prometheus::{Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry};
use selvage_policy::{Denial, Reason};
use std::time::Duration;

/// From a millisecond to a minute: below it the clock is noise, above it the count is enough.
const SECONDS: [f64; 14] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0, 60.0];

/// Counts requests. Handles of the usual outcomes are looked up once, so that a request that passes costs two additions.
#[derive(Debug)]
pub struct Requests {
    total: IntCounterVec,
    passed: Vec<[IntCounter; CodeClass::ALL.len()]>,
    denied: IntCounterVec,
    audited: IntCounterVec,
    seconds: [Histogram; Protocol::ALL.len()],
    in_flight: IntGauge,
}

/// A request under way; counted until dropped, whatever ends it.
#[derive(Debug)]
pub struct InFlight(IntGauge);

impl Requests {
    pub(super) fn new(registry: &Registry) -> Result<Self, InvalidMetric> {
        let total = IntCounterVec::new(
            Opts::new("selvage_requests_total", "Requests answered. `reason` is empty where the proxy passed the upstream's answer on."),
            &["protocol", "code_class", "reason"],
        )?;
        let denied = IntCounterVec::new(
            Opts::new("selvage_denied_total", "Requests refused, by the kind of policy that decided; empty where none did."),
            &["reason", "policy_kind"],
        )?;
        let audited = IntCounterVec::new(
            Opts::new("selvage_audited_total", "What policies in audit mode would have refused, by the kind of policy."),
            &["reason", "policy_kind"],
        )?;
        let seconds = HistogramVec::new(
            HistogramOpts::new("selvage_request_duration_seconds", "From the request's head to the end of the response.")
                .buckets(SECONDS.to_vec()),
            &["protocol"],
        )?;
        let in_flight = IntGauge::new("selvage_requests_in_flight", "Requests under way.")?;
        register(registry, &total)?;
        register(registry, &denied)?;
        register(registry, &audited)?;
        register(registry, &seconds)?;
        register(registry, &in_flight)?;
        let passed = |protocol: Protocol| CodeClass::ALL.map(|class| total.with_label_values(&[protocol.as_str(), class.as_str(), ""]));
        Ok(Self {
            passed: Protocol::ALL.map(passed).into(),
            seconds: Protocol::ALL.map(|protocol| seconds.with_label_values(&[protocol.as_str()])),
            total,
            denied,
            audited,
            in_flight,
        })
    }

    /// Starts counting a request.
    pub fn begin(&self) -> InFlight {
        self.in_flight.inc();
        InFlight(self.in_flight.clone())
    }

    /// Counts a request that has ended. `status` is 0 where no final response was sent.
    pub fn ended(&self, protocol: Protocol, status: u16, took: Duration, denial: Option<&Denial>) {
        let class = CodeClass::of(status);
        self.seconds[protocol as usize].observe(took.as_secs_f64());
        match denial {
            None => self.passed[protocol as usize][class as usize].inc(),
            Some(denial) => {
                let reason = denial.reason.as_str();
                self.total.with_label_values(&[protocol.as_str(), class.as_str(), reason]).inc();
                self.denied(denial);
            }
        }
    }

    /// Counts a refusal that is not a request's: a connection's.
    pub fn denied(&self, denial: &Denial) {
        self.denied.with_label_values(&[denial.reason.as_str(), policy_kind(denial)]).inc();
    }

    /// Counts what policies in audit mode would have refused.
    pub fn audited(&self, denials: &[Denial]) {
        for denial in denials {
            self.audited.with_label_values(&[denial.reason.as_str(), policy_kind(denial)]).inc();
        }
    }

    /// How many requests there are under way.
    pub fn in_flight(&self) -> i64 {
        self.in_flight.get()
    }

    /// How many requests the proxy itself answered with `reason`.
    pub fn denied_with(&self, reason: Reason) -> u64 {
        let kinds = selvage_policy::list::Kind::ALL.map(selvage_policy::list::Kind::as_str);
        kinds.into_iter().chain([""]).map(|kind| self.denied.with_label_values(&[reason.as_str(), kind]).get()).sum()
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Only kinds of ours become a label's value.
fn policy_kind(denial: &Denial) -> &'static str {
    let kind = denial.policy.as_ref().and_then(|key| key.kind.parse::<selvage_policy::list::Kind>().ok());
    kind.map_or("", selvage_policy::list::Kind::as_str)
}
