//! What the controller counts, and how each watch is.

use super::watch::WatchState;
use parking_lot::Mutex;
use prometheus::{Encoder, Gauge, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder};
use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

/// What became of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenOutcome {
    /// Its Pod is served.
    Accepted,
    /// It proves nothing.
    Refused,
    /// It cannot be judged yet.
    NotYet,
}

/// What became of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteOutcome {
    /// Done.
    Written,
    /// Somebody else was quicker; it is tried again.
    Conflict,
    /// Failed.
    Failed,
}

/// What is written to the API server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// A status.
    Status,
    /// The roots in a namespace.
    Roots,
    /// An object of a Gateway.
    Provisioned,
}

/// Every figure.
pub struct Metrics {
    registry: Registry,
    watches: Mutex<BTreeMap<&'static str, WatchState>>,
    watch_states: IntGaugeVec,
    translations: Histogram,
    resources: IntGauge,
    objects: IntGauge,
    malformed: IntGauge,
    publishes: IntCounter,
    proxies: IntGauge,
    leads: IntGauge,
    tokens: IntCounterVec,
    writes: IntCounterVec,
    ca_renewal: Gauge,
}

impl Metrics {
    /// None counted yet.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let times = HistogramOpts::new("selvage_controller_translate_seconds", "From a changed World to what is published.")
            .buckets(vec![0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0]);
        let labelled = |name: &str, text: &str| Opts::new(name, text);
        let metrics = Self {
            watches: Mutex::default(),
            watch_states: IntGaugeVec::new(
                labelled("selvage_controller_watch", "1 for the state a watch is in: following, waiting, absent, failing."),
                &["kind", "state"],
            )?,
            translations: Histogram::with_opts(times)?,
            resources: IntGauge::new("selvage_controller_resources", "Resources that are published.")?,
            objects: IntGauge::new("selvage_controller_objects", "Objects with a status of ours.")?,
            malformed: IntGauge::new("selvage_controller_malformed_objects", "Objects that cannot be read.")?,
            publishes: IntCounter::new("selvage_controller_publishes_total", "Times that something was published.")?,
            proxies: IntGauge::new("selvage_controller_connected_proxies", "Proxies that are connected here.")?,
            leads: IntGauge::new("selvage_controller_leads", "1 where this replica holds the lease.")?,
            tokens: IntCounterVec::new(labelled("selvage_controller_tokens_total", "Tokens of proxies, by outcome."), &["outcome"])?,
            writes: IntCounterVec::new(
                labelled("selvage_controller_writes_total", "Writes to the API server, by what and outcome."),
                &["what", "outcome"],
            )?,
            ca_renewal: Gauge::new("selvage_controller_ca_renewal_seconds", "Until the CA's issuer is made anew.")?,
            registry,
        };
        let Self {
            watch_states, translations, resources, objects, malformed, publishes, proxies, leads, tokens, writes, ca_renewal, ..
        } = &metrics;
        let collectors: [Box<dyn prometheus::core::Collector>; 12] = [
            Box::new(watch_states.clone()),
            Box::new(translations.clone()),
            Box::new(resources.clone()),
            Box::new(objects.clone()),
            Box::new(malformed.clone()),
            Box::new(publishes.clone()),
            Box::new(proxies.clone()),
            Box::new(leads.clone()),
            Box::new(tokens.clone()),
            Box::new(writes.clone()),
            Box::new(ca_renewal.clone()),
            Box::new(IntGauge::new("selvage_controller_up", "1.").inspect(|up| up.set(1))?),
        ];
        collectors.into_iter().try_for_each(|one| metrics.registry.register(one))?;
        Ok(metrics)
    }

    /// A watch is in this state now; says whether it was in another.
    pub fn watch(&self, kind: &'static str, state: WatchState) -> bool {
        let word = |state: &WatchState| match state {
            WatchState::Waiting => "waiting",
            WatchState::Following => "following",
            WatchState::Absent => "absent",
            WatchState::Failing(_) => "failing",
        };
        let mut watches = self.watches.lock();
        let before = watches.insert(kind, state.clone());
        if let Some(before) = &before {
            self.watch_states.with_label_values(&[kind, word(before)]).set(0);
        }
        self.watch_states.with_label_values(&[kind, word(&state)]).set(1);
        before.as_ref().map(word) != Some(word(&state))
    }

    /// How one watch is.
    pub fn state(&self, kind: &'static str) -> Option<WatchState> {
        self.watches.lock().get(kind).cloned()
    }

    /// How every watch is.
    pub fn watches(&self) -> BTreeMap<&'static str, WatchState> {
        self.watches.lock().clone()
    }

    /// A World was translated.
    pub fn translated(&self, took: Duration, resources: usize, objects: usize, malformed: usize) {
        let count = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.translations.observe(took.as_secs_f64());
        self.resources.set(count(resources));
        self.objects.set(count(objects));
        self.malformed.set(count(malformed));
        self.publishes.inc();
    }

    /// So many proxies are connected.
    pub fn connected(&self, proxies: usize) {
        self.proxies.set(i64::try_from(proxies).unwrap_or(i64::MAX));
    }

    /// Whether this replica holds the lease.
    pub fn leads(&self, leads: bool) {
        self.leads.set(i64::from(leads));
    }

    /// A token was judged.
    pub fn token(&self, outcome: TokenOutcome) {
        let word = match outcome {
            TokenOutcome::Accepted => "accepted",
            TokenOutcome::Refused => "refused",
            TokenOutcome::NotYet => "not-yet",
        };
        self.tokens.with_label_values(&[word]).inc();
    }

    /// Something was written, or not.
    pub fn wrote(&self, what: Written, outcome: WriteOutcome) {
        let what = match what {
            Written::Status => "status",
            Written::Roots => "roots",
            Written::Provisioned => "provisioned",
        };
        let outcome = match outcome {
            WriteOutcome::Written => "written",
            WriteOutcome::Conflict => "conflict",
            WriteOutcome::Failed => "failed",
        };
        self.writes.with_label_values(&[what, outcome]).inc();
    }

    /// When the CA's issuer is made anew, in seconds since 1970.
    pub fn renews_ca(&self, at: u64, now: SystemTime) {
        let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        // Far below 2^52: exact.
        #[allow(clippy::cast_precision_loss)]
        self.ca_renewal.set(at as f64 - now);
    }

    /// In the text form of Prometheus.
    pub fn text(&self) -> String {
        let mut text = Vec::new();
        // Writing into memory does not fail.
        let _ = TextEncoder::new().encode(&self.registry.gather(), &mut text);
        String::from_utf8(text).unwrap_or_default()
    }
}
