//! Token buckets by key, bounded in number, taken from all at once or not at all.
//!
//! A bucket is one number, the time at which it will be full again ("theoretical arrival time" of GCRA), in units of a nanosecond divided
//! by the limit's `requests`: so refilling needs no rounding and counts are exact.
//!
//! A request takes from several buckets. All shards concerned are locked in the order of their addresses, every bucket is looked at, and
//! only if each has room is one token taken from each: a refused request takes nothing, not even for a moment.

use parking_lot::{Mutex, MutexGuard};
use sha2::{Digest, Sha256};
use smallvec::SmallVec;
use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::time::Duration;

/// Most keys a policy counts at a time; about 10 MiB at worst. When there are more, buckets that are nearest to full are forgotten first: a
/// full one says nothing, and a caller over its limit has the emptiest.
pub const MAX_KEYS: usize = 65_536;

/// Locks of one policy: enough that a few worker threads seldom meet.
const SHARDS: usize = 16;

/// How many buckets are compared to find one to forget.
const SAMPLE: usize = 8;

/// Longer keys are replaced by their SHA-256, so that a caller cannot fill memory with long header values.
const MAX_KEY: usize = 128;

/// The live counters of one policy; they outlive configurations that do not change its limits.
#[derive(Debug)]
pub struct Buckets {
    shards: [Mutex<Shard>; SHARDS],
    hasher: RandomState,
}

/// A key of one limit of one policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BucketKey(SmallVec<[u8; 64]>);

/// How fast and how far a bucket fills.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Tokens per `per`.
    pub requests: u32,
    /// The time they come back in.
    pub per: Duration,
    /// How many it holds.
    pub burst: u32,
}

/// One token wanted.
#[derive(Debug)]
pub(super) struct Claim<'a> {
    pub buckets: &'a Buckets,
    pub key: BucketKey,
    pub rate: Rate,
}

/// How a bucket stands, after taking if tokens were taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Whether it had a token.
    pub room: bool,
    /// Whole tokens in it.
    pub remaining: u32,
    /// Until it is full.
    pub full_in: Duration,
    /// Until it has a token; zero if it has one.
    pub wait: Duration,
}

#[derive(Debug, Default)]
struct Shard {
    index: HashMap<Arc<[u8]>, usize>,
    slots: Vec<Slot>,
    /// Where the next search for a bucket to forget begins.
    cursor: usize,
}

#[derive(Debug)]
struct Slot {
    key: Arc<[u8]>,
    /// When it is full, in nanoseconds times `requests`.
    full: u128,
    /// The same in nanoseconds, to compare buckets of different limits.
    full_at: u128,
}

impl Default for Buckets {
    fn default() -> Self {
        Self { shards: std::array::from_fn(|_| Mutex::default()), hasher: RandomState::new() }
    }
}

impl BucketKey {
    /// The key of limit number `limit` for `value`; absent where the value cannot be computed.
    pub fn new(limit: u16, value: Option<&[u8]>) -> Self {
        let mut key: SmallVec<[u8; 64]> = SmallVec::from_slice(&limit.to_be_bytes());
        match value {
            None => key.push(b'a'),
            Some(value) if value.len() > MAX_KEY => {
                key.push(b'h');
                key.extend_from_slice(&Sha256::digest(value));
            }
            Some(value) => {
                key.push(b'v');
                key.extend_from_slice(value);
            }
        }
        Self(key)
    }
}

impl Buckets {
    fn shard(&self, key: &BucketKey) -> &Mutex<Shard> {
        // The remainder is below SHARDS, whatever the width of usize.
        &self.shards[(self.hasher.hash_one(&key.0) % SHARDS as u64) as usize]
    }

    /// How many keys are counted.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().slots.len()).sum()
    }

    /// Whether nothing was counted yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Takes one token for every claim if each has room and `take` is set; otherwise only looks. `now` is monotonic.
pub(super) fn acquire(claims: &[Claim<'_>], now: Duration, take: bool) -> SmallVec<[Standing; 4]> {
    let now = now.as_nanos();
    let shards: SmallVec<[&Mutex<Shard>; 4]> = claims.iter().map(|claim| claim.buckets.shard(&claim.key)).collect();
    // One order for all threads, so that two requests never wait for each other; each lock once.
    let mut order: SmallVec<[&Mutex<Shard>; 4]> = shards.clone();
    order.sort_unstable_by_key(|shard| std::ptr::from_ref(*shard).addr());
    order.dedup_by(|a, b| std::ptr::eq(*a, *b));
    let mut guards: SmallVec<[MutexGuard<'_, Shard>; 4]> = order.iter().map(|shard| shard.lock()).collect();
    let place =
        |shard: &Mutex<Shard>| order.iter().position(|other| std::ptr::eq(*other, shard)).expect("every claim's shard is in the order");

    let look = |guards: &[MutexGuard<'_, Shard>]| -> SmallVec<[Standing; 4]> {
        claims.iter().zip(&shards).map(|(claim, shard)| claim.rate.standing(guards[place(shard)].full(&claim.key), now)).collect()
    };
    let standings = look(&guards);
    if !take || !standings.iter().all(|standing| standing.room) {
        return standings;
    }
    for (claim, shard) in claims.iter().zip(&shards) {
        let full = claim.rate.taken(guards[place(shard)].full(&claim.key), now);
        guards[place(shard)].store(&claim.key, full, full / u128::from(claim.rate.requests), now);
    }
    look(&guards).into_iter().map(|standing| Standing { room: true, ..standing }).collect()
}

impl Rate {
    /// Units of one token.
    fn token(&self) -> u128 {
        self.per.as_nanos()
    }

    /// How far a bucket is from full.
    fn debt(&self, full: u128, now: u128) -> u128 {
        full.saturating_sub(now * u128::from(self.requests))
    }

    fn standing(&self, full: u128, now: u128) -> Standing {
        let (debt, size) = (self.debt(full, now), self.token() * u128::from(self.burst));
        let left = size.saturating_sub(debt);
        let time = |units: u128| Duration::from_nanos(u64::try_from(units.div_ceil(u128::from(self.requests))).unwrap_or(u64::MAX));
        Standing {
            room: left >= self.token(),
            remaining: u32::try_from(left / self.token()).unwrap_or(u32::MAX),
            full_in: time(debt),
            wait: time(self.token().saturating_sub(left)),
        }
    }

    fn taken(&self, full: u128, now: u128) -> u128 {
        full.max(now * u128::from(self.requests)) + self.token()
    }
}

impl Shard {
    /// When the bucket is full; 0 (long ago) if it is not counted.
    fn full(&self, key: &BucketKey) -> u128 {
        self.index.get(key.0.as_slice()).map_or(0, |index| self.slots[*index].full)
    }

    fn store(&mut self, key: &BucketKey, full: u128, full_at: u128, now: u128) {
        if let Some(index) = self.index.get(key.0.as_slice()) {
            let slot = &mut self.slots[*index];
            (slot.full, slot.full_at) = (full, full_at);
            return;
        }
        let key: Arc<[u8]> = Arc::from(key.0.as_slice());
        let slot = Slot { key: key.clone(), full, full_at };
        let index = if self.slots.len() < MAX_KEYS / SHARDS && !self.has_full(now) {
            self.slots.push(slot);
            self.slots.len() - 1
        } else {
            let index = self.fullest();
            self.index.remove(&self.slots[index].key);
            self.slots[index] = slot;
            index
        };
        self.index.insert(key, index);
    }

    /// Whether one of the next buckets is full: it says nothing any more, so its place is used again before the shard grows.
    fn has_full(&self, now: u128) -> bool {
        let slots = self.slots.len();
        (0..SAMPLE.min(slots)).any(|step| self.slots[(self.cursor + step) % slots].full_at <= now)
    }

    /// Of a few buckets the nearest to full. The shard is not empty.
    fn fullest(&mut self) -> usize {
        let slots = self.slots.len();
        let candidates = (0..SAMPLE.min(slots)).map(|step| (self.cursor + step) % slots);
        let best = candidates.min_by_key(|index| self.slots[*index].full_at).expect("a shard without room has slots");
        self.cursor = (self.cursor + SAMPLE) % slots;
        best
    }
}
