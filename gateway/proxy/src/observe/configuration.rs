//! Metrics of the configuration: which one holds, how old it is, what of it was refused, when certificates end.

use super::{InvalidMetric, register};
use parking_lot::Mutex;
use prometheus::{Gauge, GaugeVec, IntGauge, Opts, Registry};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Certificates shown by name; the soonest to end win. Names come from Resources, hence a bound.
pub const MAX_CERTIFICATES: usize = 64;

/// Describes the configuration that holds.
#[derive(Debug)]
pub struct Configuration {
    generation: IntGauge,
    rejected: IntGauge,
    age: Gauge,
    expiry: GaugeVec,
    /// From which what is left of certificates is computed.
    ends: Mutex<Vec<(String, SystemTime)>>,
}

impl Configuration {
    pub(super) fn new(registry: &Registry) -> Result<Self, InvalidMetric> {
        let generation = IntGauge::new("selvage_config_generation", "Counts configurations of this process.")?;
        let rejected = IntGauge::new("selvage_config_rejected", "Resources of the configuration that cannot be used.")?;
        let age = Gauge::new("selvage_config_age_seconds", "Since the configuration was last heard to be current; -1 without any.")?;
        age.set(-1.0);
        let expiry = GaugeVec::new(
            Opts::new("selvage_certificate_expiry_seconds", "Seconds until a certificate ends; at most 64, the soonest."),
            &["certificate"],
        )?;
        register(registry, &generation)?;
        register(registry, &rejected)?;
        register(registry, &age)?;
        register(registry, &expiry)?;
        Ok(Self { generation, rejected, age, expiry, ends: Mutex::default() })
    }

    /// A configuration was put in force.
    pub fn applied(&self, generation: u64, rejected: usize) {
        self.generation.set(i64::try_from(generation).unwrap_or(i64::MAX));
        self.rejected.set(i64::try_from(rejected).unwrap_or(i64::MAX));
    }

    /// Since when the configuration has not been heard to be current; nothing without any. To be said before each scrape.
    pub fn aged(&self, age: Option<Duration>) {
        self.age.set(age.map_or(-1.0, |age| age.as_secs_f64()));
    }

    /// The certificates there are, by name, with the end of each.
    pub fn certificates(&self, mut ends: Vec<(String, SystemTime)>) {
        ends.sort_by_key(|(_, end)| *end);
        ends.truncate(MAX_CERTIFICATES);
        let mut held = self.ends.lock();
        // Under the lock: a scrape in between would bring back those that are gone.
        self.expiry.reset();
        *held = ends;
    }

    /// Brings figures that move by themselves up to date; done at each scrape.
    pub(super) fn refresh(&self) {
        for (name, end) in self.ends.lock().iter() {
            self.expiry.with_label_values(&[name.as_str()]).set(seconds_until(*end));
        }
    }
}

fn seconds_until(end: SystemTime) -> f64 {
    let unix = |time: SystemTime| time.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
    unix(end) - unix(SystemTime::now())
}
