//! Which endpoint gets a request: the better of two by peak EWMA of latency times requests in flight.
//!
//! Peak EWMA: an answer slower than the estimate raises it at once, a faster one lowers it gradually (time constant ten seconds), and an
//! endpoint that is not asked is forgiven at the same pace, so that a bad one is tried again. Each endpoint's figures are two atomics,
//! shared by routes, listeners and threads.

use super::clock;
use arc_swap::ArcSwap;
use selvage_config::Endpoint;
use smallvec::SmallVec;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// Time constant of the average.
const DECAY: Duration = Duration::from_secs(10);
/// What is assumed of an endpoint that never answered.
const DEFAULT_LATENCY: Duration = Duration::from_millis(30);
/// A failure counts at least as much as an answer this slow, however quick it was to fail.
const FAILURE: Duration = Duration::from_secs(1);
/// Repeated failures double the estimate, up to this.
const MAX_LATENCY: Duration = Duration::from_secs(30);

/// The endpoints of one Backend; swapped as slices change, their figures kept.
#[derive(Debug, Default)]
pub struct EndpointSet {
    list: ArcSwap<List>,
}

#[derive(Debug, Default)]
struct List {
    ready: Vec<Arc<EndpointState>>,
    draining: Vec<Arc<EndpointState>>,
}

/// One endpoint with its live figures.
#[derive(Debug)]
pub struct EndpointState {
    /// What the controller says of it.
    pub endpoint: Endpoint,
    figures: Arc<Figures>,
}

/// A request under way to an endpoint; counted until dropped.
#[derive(Debug)]
pub struct InFlight {
    figures: Arc<Figures>,
    started: Duration,
    answered: bool,
}

#[derive(Debug)]
struct Figures {
    in_flight: AtomicU32,
    /// An [`Estimate`], packed so that it changes as one.
    estimate: AtomicU64,
}

/// Latency in microseconds, as it was at a time of [`clock::now`] in milliseconds (wrapping after 49 days: one so old
/// may count as new, until the next answer).
#[derive(Clone, Copy)]
struct Estimate {
    latency: f32,
    at: u32,
}

impl EndpointSet {
    /// Replaces the endpoints; those that stay keep their figures. Of several with one address the first that is not draining counts.
    pub fn replace(&self, endpoints: &[Endpoint]) {
        let old = self.list.load();
        let mut known: std::collections::HashMap<SocketAddr, Arc<Figures>> =
            old.all().map(|state| (state.endpoint.address, state.figures.clone())).collect();
        let at = millis(clock::now());
        let mut list = List::default();
        let mut seen = std::collections::HashSet::new();
        let draining_last = endpoints.iter().filter(|e| !e.draining).chain(endpoints.iter().filter(|e| e.draining));
        for endpoint in draining_last.filter(|endpoint| seen.insert(endpoint.address)) {
            let figures = known.remove(&endpoint.address).unwrap_or_else(|| Arc::new(Figures::new(at)));
            let state = Arc::new(EndpointState { endpoint: endpoint.clone(), figures });
            if endpoint.draining { list.draining.push(state) } else { list.ready.push(state) }
        }
        self.list.store(Arc::new(list));
    }

    /// Picks one. Preferred are, in this order: ready and not tried, draining and not tried, ready, draining. `None`: there is none.
    /// `random` is uniform over all of u64.
    pub fn pick(&self, tried: &[SocketAddr], random: u64) -> Option<Arc<EndpointState>> {
        self.pick_at(tried, random, clock::now())
    }

    fn pick_at(&self, tried: &[SocketAddr], random: u64, now: Duration) -> Option<Arc<EndpointState>> {
        let list = self.list.load();
        let at = millis(now);
        if tried.is_empty() {
            return better(&list.ready, random, at).or_else(|| better(&list.draining, random, at));
        }
        let untried = |states: &[Arc<EndpointState>]| {
            let left: SmallVec<[Arc<EndpointState>; 8]> =
                states.iter().filter(|state| !tried.contains(&state.endpoint.address)).cloned().collect();
            better(&left, random, at)
        };
        untried(&list.ready)
            .or_else(|| untried(&list.draining))
            .or_else(|| better(&list.ready, random, at))
            .or_else(|| better(&list.draining, random, at))
    }

    /// The one at this address.
    pub fn at(&self, address: SocketAddr) -> Option<Arc<EndpointState>> {
        self.list.load().all().find(|state| state.endpoint.address == address).cloned()
    }

    /// Every endpoint, ready ones first: for explain and the admin port.
    pub fn endpoints(&self) -> Vec<Arc<EndpointState>> {
        self.list.load().all().cloned().collect()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        let list = self.list.load();
        list.ready.len() + list.draining.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl List {
    fn all(&self) -> impl Iterator<Item = &Arc<EndpointState>> {
        self.ready.iter().chain(&self.draining)
    }
}

/// The better of two different ones drawn by `random`.
fn better(states: &[Arc<EndpointState>], random: u64, at: u32) -> Option<Arc<EndpointState>> {
    let draw = |bits: u64, among: usize| (((bits & 0xffff_ffff) * among as u64) >> 32) as usize;
    match states {
        [] => None,
        [only] => Some(only.clone()),
        _ => {
            let first = draw(random, states.len());
            let mut second = draw(random >> 32, states.len() - 1);
            if second >= first {
                second += 1;
            }
            let (a, b) = (&states[first], &states[second]);
            Some(if a.figures.load(at) <= b.figures.load(at) { a.clone() } else { b.clone() })
        }
    }
}

impl EndpointState {
    /// Starts counting a request.
    pub fn begin(self: &Arc<Self>) -> InFlight {
        self.begin_at(clock::now())
    }

    fn begin_at(&self, now: Duration) -> InFlight {
        self.figures.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight { figures: self.figures.clone(), started: now, answered: false }
    }

    /// Requests under way.
    pub fn in_flight(&self) -> u32 {
        self.figures.in_flight.load(Ordering::Relaxed)
    }

    /// The estimate of its latency.
    pub fn latency(&self) -> Duration {
        Duration::from_secs_f32(self.figures.latency(millis(clock::now())) / 1e6)
    }
}

impl InFlight {
    /// Records the time to response headers, or a failure (counted as a slow answer). Only the first call counts. A request that is
    /// dropped without says nothing about the endpoint: its caller went away.
    pub fn answered(&mut self, outcome: Result<(), ()>) {
        self.answered_at(outcome, clock::now());
    }

    fn answered_at(&mut self, outcome: Result<(), ()>, now: Duration) {
        if !std::mem::replace(&mut self.answered, true) {
            self.figures.record(now.saturating_sub(self.started), outcome.is_err(), millis(now));
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.figures.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Figures {
    fn new(at: u32) -> Self {
        let first = Estimate { latency: micros(DEFAULT_LATENCY), at };
        Self { in_flight: AtomicU32::new(0), estimate: AtomicU64::new(first.pack()) }
    }

    fn latency(&self, at: u32) -> f32 {
        Estimate::unpack(self.estimate.load(Ordering::Relaxed)).decayed(at)
    }

    /// What a request sent there would meet.
    fn load(&self, at: u32) -> f32 {
        // Never zero, or the number in flight would not matter for an endpoint whose estimate has decayed away.
        self.latency(at).max(1.0) * (self.in_flight.load(Ordering::Relaxed) as f32 + 1.0)
    }

    fn record(&self, elapsed: Duration, failed: bool, at: u32) {
        let update = |packed: u64| {
            let old = Estimate::unpack(packed);
            let decayed = old.decayed(at);
            let sample = if failed {
                micros(elapsed).max(micros(FAILURE)).max(decayed * 2.0).min(micros(MAX_LATENCY))
            } else {
                micros(elapsed).min(micros(MAX_LATENCY))
            };
            // `decayed` has lost old.latency * (1 - w); the sample takes that share.
            let weight = old.weight(at);
            let latency = if sample > decayed { sample } else { decayed + sample * (1.0 - weight) };
            Some(Estimate { latency, at }.pack())
        };
        // The closure never gives None, so this cannot fail.
        let _ = self.estimate.fetch_update(Ordering::Relaxed, Ordering::Relaxed, update);
    }
}

impl Estimate {
    fn pack(self) -> u64 {
        u64::from(self.latency.to_bits()) << 32 | u64::from(self.at)
    }

    fn unpack(packed: u64) -> Self {
        Self { latency: f32::from_bits((packed >> 32) as u32), at: packed as u32 }
    }

    /// How much of the old estimate is left.
    fn weight(self, at: u32) -> f32 {
        // Threads read the clock before they get here: a time before ours is no time at all, not 49 days.
        let elapsed = at.wrapping_sub(self.at) as i32;
        (-(elapsed.max(0) as f32) / DECAY.as_millis() as f32).exp()
    }

    fn decayed(self, at: u32) -> f32 {
        self.latency * self.weight(at)
    }
}

fn micros(duration: Duration) -> f32 {
    duration.as_secs_f32() * 1e6
}

fn millis(duration: Duration) -> u32 {
    duration.as_millis() as u32
}

#[cfg(test)]
mod tests;
