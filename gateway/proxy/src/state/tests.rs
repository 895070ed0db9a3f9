//! What is kept, what is forgotten, and what a retry budget grants.

use super::*;
use selvage_policy::traffic::Budget;
use std::net::SocketAddr;
use std::time::Duration;

fn key(text: &str) -> Key {
    text.parse().expect("a key")
}

#[test]
fn state_is_kept_by_key_and_fingerprint_while_somebody_holds_it() {
    let live = Live::default();
    let policy = key("RateLimitPolicy/shop/a");
    let first = live.buckets(&policy, 1);
    assert!(Arc::ptr_eq(&first, &live.buckets(&policy, 1)), "same fingerprint, same counts");
    assert!(!Arc::ptr_eq(&first, &live.buckets(&policy, 2)), "other limits count anew");
    assert!(!Arc::ptr_eq(&first, &live.buckets(&key("RateLimitPolicy/shop/b"), 1)));
    let endpoints = live.endpoints(&key("Backend/shop/a#80"));
    assert!(Arc::ptr_eq(&endpoints, &live.endpoints(&key("Backend/shop/a#80"))));
}

#[test]
fn what_nobody_holds_is_forgotten() {
    let live = Live::default();
    let kept = live.endpoints(&key("Backend/shop/kept#80"));
    drop(live.endpoints(&key("Backend/shop/gone#80")));
    drop(live.buckets(&key("RateLimitPolicy/shop/a"), 1));
    drop(live.retries(&key("Backend/shop/gone#80")));
    live.prune();
    assert_eq!((live.endpoints.len(), live.buckets.len(), live.retries.len()), (1, 0, 0));
    assert!(Arc::ptr_eq(&kept, &live.endpoints(&key("Backend/shop/kept#80"))));
}

#[test]
fn retries_are_a_share_of_requests_and_a_few_always() {
    for (percent, min_per_second, requests, wanted) in
        [(20, 0, 100, 20), (0, 1, 100, 10), (20, 1, 50, 20), (0, 0, 1000, 0), (100, 0, 3, 3), (50, 0, 1, 0)]
    {
        let budget = RetryBudget::default();
        let (limit, now) = (Budget { percent, min_per_second }, Duration::from_secs(100));
        (0..requests).for_each(|_| budget.request(now));
        let granted = (0..2000).filter(|_| budget.try_retry(limit, now)).count();
        assert_eq!(granted, wanted, "{limit:?} of {requests}");
    }
}

#[test]
fn a_budget_looks_back_ten_seconds() {
    let budget = RetryBudget::default();
    let limit = Budget { percent: 10, min_per_second: 0 };
    let at = Duration::from_secs;
    (0..10).for_each(|_| budget.request(at(5)));
    assert!(!budget.try_retry(limit, at(15)), "requests of ten seconds ago are forgotten");
    assert!(budget.try_retry(limit, at(14)));
    assert!(!budget.try_retry(limit, at(14)), "the retry is remembered");
    (0..10).for_each(|_| budget.request(at(24)));
    assert!(budget.try_retry(limit, at(24)), "and forgotten in turn");
    assert!(!budget.try_retry(limit, at(24)));
}

#[test]
fn a_budget_serves_from_the_first_second() {
    let budget = RetryBudget::default();
    let now = Duration::from_millis(10);
    (0..10).for_each(|_| budget.request(now));
    assert!(budget.try_retry(Budget { percent: 10, min_per_second: 0 }, now));
    assert!(!budget.try_retry(Budget { percent: 10, min_per_second: 0 }, now));
}

#[test]
fn places_know_every_backend_of_an_address_in_the_order_of_their_keys() {
    let places = places::Places::default();
    let [a, b] = ["Backend/shop/a#80", "Backend/shop/b#80"].map(|text| Arc::new(key(text)));
    let at = |port: u16| SocketAddr::from(([10, 0, 0, 1], port));
    let names = |port: u16| places.at(at(port)).iter().map(|key| key.to_string()).collect::<Vec<_>>();
    places.place(&b, [at(1), at(2), at(2)]);
    places.place(&a, [at(2), at(3)]);
    assert_eq!(names(1), ["Backend/shop/b#80"]);
    assert_eq!(names(2), ["Backend/shop/a#80", "Backend/shop/b#80"]);
    assert_eq!(names(3), ["Backend/shop/a#80"]);
    assert_eq!(names(4), [""; 0]);
    places.place(&b, [at(4)]);
    assert_eq!((names(1).len(), names(2), names(4)), (0, vec!["Backend/shop/a#80".into()], vec!["Backend/shop/b#80".into()]));
    places.place(&a, []);
    places.place(&Arc::new(key("Backend/shop/b#80")), []);
    assert_eq!(places.len(), 0, "nothing is left behind");
}
