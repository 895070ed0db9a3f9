//! Time and randomness are given, so every run is the same.

use super::*;
use crate::snapshot::fixture::Dice;
use std::collections::HashMap;

fn endpoint(port: u16, draining: bool) -> Endpoint {
    Endpoint { address: ([127, 0, 0, 1], port).into(), workload: None, identity: None, draining, zone: None }
}

fn set(ports: &[u16]) -> EndpointSet {
    let set = EndpointSet::default();
    set.replace(&ports.iter().map(|port| endpoint(*port, false)).collect::<Vec<_>>());
    set
}

/// Seconds after the set was made.
fn at(seconds: f64) -> Duration {
    clock::now() + Duration::from_secs_f64(seconds)
}

/// Sends `count` requests one after the other, `pause` apart; `answer` says how long an endpoint takes, or that it fails.
fn send(
    set: &EndpointSet,
    dice: &mut Dice,
    now: &mut Duration,
    count: usize,
    pause: Duration,
    answer: impl Fn(u16) -> Result<Duration, ()>,
) -> HashMap<u16, usize> {
    let mut counts = HashMap::new();
    for _ in 0..count {
        let state = set.pick_at(&[], dice.roll(), *now).expect("one");
        let port = state.endpoint.address.port();
        *counts.entry(port).or_insert(0) += 1;
        let mut flight = state.begin_at(*now);
        match answer(port) {
            Ok(latency) => flight.answered_at(Ok(()), *now + latency),
            Err(()) => flight.answered_at(Err(()), *now),
        }
        *now += pause;
    }
    counts
}

#[test]
fn equal_endpoints_get_equal_shares() {
    let (set, mut dice, mut now) = (set(&[1, 2, 3, 4]), Dice(7), at(0.0));
    let counts = send(&set, &mut dice, &mut now, 4000, Duration::from_millis(1), |_| Ok(Duration::from_millis(5)));
    for port in 1..=4 {
        assert!((700..=1300).contains(&counts[&port]), "{counts:?}");
    }
}

#[test]
fn a_slow_endpoint_gets_little() {
    let (set, mut dice, mut now) = (set(&[1, 2, 3]), Dice(7), at(0.0));
    let answer = |port| Ok(Duration::from_millis(if port == 1 { 400 } else { 5 }));
    let counts = send(&set, &mut dice, &mut now, 3000, Duration::from_millis(1), answer);
    assert!(counts.get(&1).copied().unwrap_or_default() < 60, "{counts:?}");
}

#[test]
fn a_failing_endpoint_is_left_alone_and_tried_again_when_time_has_passed() {
    let (set, mut dice, mut now) = (set(&[1, 2]), Dice(7), at(0.0));
    let ok = Duration::from_millis(5);
    let down = send(&set, &mut dice, &mut now, 1000, Duration::from_millis(1), |port| if port == 1 { Err(()) } else { Ok(ok) });
    assert!((1..=5).contains(&down[&1]), "a failure is quick, and yet it is not taken for a fast answer: {down:?}");
    now += Duration::from_secs(120);
    let up = send(&set, &mut dice, &mut now, 1000, Duration::from_millis(1), |_| Ok(ok));
    assert!(up[&1] > 300, "{up:?}");
}

#[test]
fn requests_under_way_count_against_an_endpoint() {
    let set = set(&[1, 2]);
    let now = at(0.0);
    let busy = set.pick_at(&[], 0, now).expect("one");
    let flights: Vec<InFlight> = (0..3).map(|_| busy.begin_at(now)).collect();
    assert_eq!(busy.in_flight(), 3);
    let mut dice = Dice(9);
    for _ in 0..50 {
        assert_ne!(set.pick_at(&[], dice.roll(), now).expect("one").endpoint.address, busy.endpoint.address);
    }
    drop(flights);
    assert_eq!(busy.in_flight(), 0, "counted until dropped, answered or not");
}

#[test]
fn only_the_first_answer_counts_and_a_dropped_request_says_nothing() {
    let set = set(&[1]);
    let (state, now) = (set.pick(&[], 0).expect("one"), at(0.0));
    let before = state.figures.latency(millis(now));
    drop(state.begin_at(now));
    assert_eq!(state.figures.latency(millis(now)), before);
    let mut flight = state.begin_at(now);
    flight.answered_at(Ok(()), now + Duration::from_millis(500));
    let first = state.figures.latency(millis(now + Duration::from_millis(500)));
    assert!((499_000.0..501_000.0).contains(&first), "a slower answer raises the estimate at once: {first}");
    flight.answered_at(Err(()), now + Duration::from_millis(500));
    assert_eq!(state.figures.latency(millis(now + Duration::from_millis(500))), first);
}

#[test]
fn figures_survive_a_replace() {
    let set = set(&[1, 2]);
    let now = at(0.0);
    let first = set.endpoints().into_iter().find(|state| state.endpoint.address.port() == 1).expect("one");
    first.begin_at(now).answered_at(Ok(()), now + Duration::from_secs(5));
    let flight = first.begin_at(now);
    set.replace(&[endpoint(1, true), endpoint(3, false)]);
    let same = set.endpoints().into_iter().find(|state| state.endpoint.address.port() == 1).expect("still there");
    assert!(same.endpoint.draining, "what the controller says is new");
    assert_eq!(same.in_flight(), 1);
    assert!(same.figures.latency(millis(now + Duration::from_secs(5))) > 4e6);
    drop(flight);
    assert_eq!(same.in_flight(), 0);
}

#[test]
fn who_is_preferred() {
    let all = EndpointSet::default();
    all.replace(&[endpoint(1, false), endpoint(2, true)]);
    let address = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
    for random in [0, u64::MAX, 1 << 40] {
        let picked = |tried: &[SocketAddr]| all.pick(tried, random).expect("one").endpoint.address.port();
        assert_eq!(picked(&[]), 1, "ready before draining");
        assert_eq!(picked(&[address(1)]), 2, "not tried before tried");
        assert_eq!(picked(&[address(1), address(2)]), 1, "ready before draining among the tried");
    }
    all.replace(&[endpoint(2, true)]);
    assert_eq!(all.pick(&[], 0).expect("draining is better than none").endpoint.address.port(), 2);
    all.replace(&[]);
    assert!(all.pick(&[], 0).is_none() && all.is_empty());
}

#[test]
fn one_address_counts_once_and_ready_if_any_slice_says_so() {
    let set = EndpointSet::default();
    set.replace(&[endpoint(1, true), endpoint(1, false), endpoint(1, false)]);
    assert_eq!(set.len(), 1);
    assert!(!set.endpoints()[0].endpoint.draining);
}

#[test]
fn every_pair_can_be_drawn() {
    let set = set(&[1, 2, 3]);
    let mut dice = Dice(3);
    let drawn: std::collections::HashSet<u16> =
        (0..200).map(|_| set.pick(&[], dice.roll()).expect("one").endpoint.address.port()).collect();
    assert_eq!(drawn.len(), 3);
    for random in [0, u64::MAX, u64::from(u32::MAX), u64::from(u32::MAX) << 32] {
        assert!(set.pick(&[], random).is_some(), "the edges of the range draw too");
    }
}
