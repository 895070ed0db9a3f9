//! Finds keys and takes tokens: for one request from every limit of every policy, or from none.

use super::buckets::{self, BucketKey, Buckets, Claim, Rate, Standing};
use super::spec::KeyPart;
use crate::duration::whole_seconds;
use crate::exchange::Exchange;
use crate::expression::{Expression, Outcome};
use smallvec::SmallVec;
use std::sync::Arc;
use std::time::Duration;

/// The compiled limits.
#[derive(Debug)]
pub struct Filter {
    pub(super) limits: Vec<LimitFilter>,
    pub(super) hidden: bool,
    pub(super) fingerprint: u64,
}

/// One limit.
#[derive(Debug)]
pub(super) struct LimitFilter {
    pub name: Arc<str>,
    pub key: KeySource,
    pub rate: Rate,
}

/// What a limit counts by.
#[derive(Debug)]
pub(super) enum KeySource {
    /// One count for all.
    One,
    Expression(Expression),
    Parts(Vec<KeyPart>),
}

/// The tokens that one request wants, of all its policies.
#[derive(Debug, Default)]
pub struct Claims<'a> {
    wanted: SmallVec<[Claim<'a>; 4]>,
    limits: SmallVec<[(usize, &'a Filter, &'a LimitFilter); 4]>,
}

/// How one limit stands.
#[derive(Debug)]
pub struct LimitStanding<'a> {
    /// Number of the policy, as it was added with.
    pub policy: usize,
    /// The limit's name.
    pub limit: &'a Arc<str>,
    /// Its bucket.
    pub standing: Standing,
    filter: &'a Filter,
    rate: Rate,
}

impl Filter {
    /// Equal for two filters that count the same way: their policy's Buckets may be kept across configurations.
    pub fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// Whether callers are told which policy and limit refused them.
    pub fn hides(&self) -> bool {
        self.hidden
    }
}

impl<'a> Claims<'a> {
    /// Adds the limits of policy number `policy`. A key that is absent or fails counts under one shared key.
    pub fn add(&mut self, policy: usize, filter: &'a Filter, buckets: &'a Buckets, exchange: &Exchange<'_>) {
        for (number, limit) in (0u16..).zip(&filter.limits) {
            self.wanted.push(Claim { buckets, key: limit.key.key(number, exchange), rate: limit.rate });
            self.limits.push((policy, filter, limit));
        }
    }

    /// Whether nothing is limited.
    pub fn is_empty(&self) -> bool {
        self.wanted.is_empty()
    }

    /// Takes one token for each if all have room and `take` is set; otherwise only looks.
    pub fn settle(&self, now: Duration, take: bool) -> SmallVec<[LimitStanding<'a>; 4]> {
        let standings = buckets::acquire(&self.wanted, now, take);
        let limits = self.limits.iter().zip(standings);
        limits
            .map(|(&(policy, filter, limit), standing)| LimitStanding { policy, limit: &limit.name, standing, filter, rate: limit.rate })
            .collect()
    }
}

/// The response fields `RateLimit-Policy` and `RateLimit` (draft-ietf-httpapi-ratelimit-headers-11): `q` requests in
/// `w` seconds; `r` of them left, and `t` seconds until the bucket is full again. Policies that hide their details are left
/// out; none are sent where nothing is left.
pub fn fields(standings: &[LimitStanding<'_>]) -> Vec<(&'static str, String)> {
    let (mut policies, mut states) = (String::new(), String::new());
    for LimitStanding { limit, standing, rate, .. } in standings.iter().filter(|standing| !standing.filter.hidden) {
        let comma = if policies.is_empty() { "" } else { ", " };
        policies.push_str(&format!("{comma}\"{limit}\";q={};w={}", rate.requests, whole_seconds(rate.per)));
        states.push_str(&format!("{comma}\"{limit}\";r={};t={}", standing.remaining, whole_seconds(standing.full_in)));
    }
    if policies.is_empty() { Vec::new() } else { vec![("ratelimit-policy", policies), ("ratelimit", states)] }
}

impl KeySource {
    fn key(&self, limit: u16, exchange: &Exchange<'_>) -> BucketKey {
        match self {
            Self::One => BucketKey::new(limit, Some(b"")),
            Self::Expression(expression) => match expression.text(exchange) {
                Outcome::Value(text) => BucketKey::new(limit, Some(text.as_bytes())),
                Outcome::Absent | Outcome::Error(_) => BucketKey::new(limit, None),
            },
            Self::Parts(parts) => {
                let mut value = SmallVec::<[u8; 64]>::new();
                let all = parts.iter().all(|part| part.write(exchange, &mut value));
                BucketKey::new(limit, all.then_some(value.as_slice()))
            }
        }
    }
}

impl KeyPart {
    /// Writes the part with its length, so that two lists of parts never make one key. False if the fact is absent.
    fn write(self, exchange: &Exchange<'_>, key: &mut SmallVec<[u8; 64]>) -> bool {
        let mut write = |parts: &[&[u8]]| {
            let length: usize = parts.iter().map(|part| part.len()).sum();
            key.extend_from_slice(&length.to_be_bytes());
            parts.iter().for_each(|part| key.extend_from_slice(part));
            true
        };
        match (self, &exchange.http) {
            (Self::ClientAddress, _) => match exchange.source.address.to_canonical() {
                std::net::IpAddr::V4(address) => write(&[&address.octets()]),
                // The /64, which is one customer's: whoever has one has all of its addresses, and would have as many counts.
                std::net::IpAddr::V6(address) => write(&[&address.octets()[..8]]),
            },
            (Self::Principal, _) => exchange.source.principal.as_ref().is_some_and(|id| {
                write(&[id.trust_domain().as_str().as_bytes(), b"/", id.namespace().as_bytes(), b"/", id.account().as_bytes()])
            }),
            (_, None) => false,
            (Self::Host, Some(http)) => write(&[http.host.as_bytes()]),
            (Self::Path, Some(http)) => write(&[http.path.as_bytes()]),
            (Self::Method, Some(http)) => write(&[http.method.as_str().as_bytes()]),
        }
    }
}
