use super::super::lease::{Candidate, LONGEST_WRITE, Tenure, Times, WriteError};
use super::*;
use crate::world::PLATFORM_NAMESPACE;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

const LEASES: &str = "/apis/coordination.k8s.io/v1/leases";

/// Quicker than in a cluster. The duration is in whole seconds: the Lease has no others.
const QUICK: Times = Times { duration: Duration::from_secs(3), writes: Duration::from_millis(2000), period: Duration::from_millis(200) };

struct Replica {
    tenure: Tenure,
    stop: CancellationToken,
    running: JoinHandle<()>,
}

fn replica(api: &Api, name: &str) -> Replica {
    let (candidate, tenure) = Candidate::new(api.client(), PLATFORM_NAMESPACE, name.into(), QUICK, metrics());
    let stop = CancellationToken::new();
    let running = tokio::spawn(candidate.run(stop.clone()));
    Replica { tenure, stop, running }
}

fn holder(api: &Api) -> String {
    let lease = api.object(LEASES, PLATFORM_NAMESPACE, "selvage-controller").expect("a Lease");
    lease["spec"]["holderIdentity"].as_str().expect("a holder").to_string()
}

#[tokio::test]
async fn one_of_two_writes_and_the_other_takes_over_when_it_lets_go() {
    let api = Api::new();
    let a = replica(&api, "a");
    until("a writes", || a.tenure.holds()).await;
    let b = replica(&api, "b");
    // Longer than a lease lasts that is not renewed.
    sleep(QUICK.duration + Duration::from_secs(1)).await;
    assert!(a.tenure.holds() && !b.tenure.holds());
    a.stop.cancel();
    a.running.await.expect("ended in order");
    assert!(!a.tenure.holds());
    let begun = Instant::now();
    until("b writes", || b.tenure.holds()).await;
    assert!(begun.elapsed() < QUICK.writes, "it waited although the lease was given back");
    assert_eq!(holder(&api), "b");
}

#[tokio::test]
async fn a_holder_that_dies_is_followed_after_the_whole_duration_and_not_before() {
    let api = Api::new();
    let a = replica(&api, "a");
    until("a writes", || a.tenure.holds()).await;
    let b = replica(&api, "b");
    sleep(QUICK.period * 3).await;
    a.running.abort();
    let died = Instant::now();
    until("b writes", || b.tenure.holds()).await;
    assert!(died.elapsed() + QUICK.period * 2 >= QUICK.duration, "too early: after {:?}", died.elapsed());
    assert!(!a.tenure.holds(), "two write");
}

#[tokio::test]
async fn a_holder_that_cannot_renew_stops_writing_and_goes_on_if_nobody_took_it() {
    let api = Api::new();
    let a = replica(&api, "a");
    until("a writes", || a.tenure.holds()).await;
    assert!(a.tenure.write(async { kube::Result::Ok(()) }).await.is_ok());
    api.away(true);
    let away = Instant::now();
    until("a stops", || !a.tenure.holds()).await;
    assert!(away.elapsed() + QUICK.period * 2 >= QUICK.writes, "a short absence of the API server is no reason");
    assert!(away.elapsed() < QUICK.duration, "another might have begun");
    assert!(matches!(a.tenure.write(async { kube::Result::Ok(()) }).await, Err(WriteError::NotOurs)));
    api.away(false);
    until("a writes again", || a.tenure.holds()).await;
}

#[tokio::test]
async fn whoever_finds_another_in_its_place_does_not_write() {
    let api = Api::new();
    let a = replica(&api, "a");
    until("a writes", || a.tenure.holds()).await;
    let mut lease = api.object(LEASES, PLATFORM_NAMESPACE, "selvage-controller").expect("a Lease");
    lease["spec"]["holderIdentity"] = json!("b");
    // With a version of its own, so that what a has read meanwhile is old.
    api.put(LEASES, lease);
    let put = Instant::now();
    until("a stops", || !a.tenure.holds() || holder(&api) == "a").await;
    assert_eq!(holder(&api), "b", "a took what is another's");
    assert!(put.elapsed() < QUICK.writes, "it learned of it by waiting only");
}

#[tokio::test]
async fn a_write_of_somebody_else_in_the_same_moment_takes_the_lease_from_nobody() {
    let api = Api::new();
    let a = replica(&api, "a");
    until("a writes", || a.tenure.holds()).await;
    // An annotation, between a's reading and its writing.
    let mut lease = api.object(LEASES, PLATFORM_NAMESPACE, "selvage-controller").expect("a Lease");
    lease["metadata"]["annotations"] = json!({ "somebody": "was here" });
    api.quicker("/leases/selvage-controller", LEASES, lease);
    let puts = api.asked("PUT");
    until("a renews it", || {
        assert!(!a.tenure.is_another(), "a gave it up");
        api.asked("PUT") >= puts + 3
    })
    .await;
    assert_eq!(holder(&api), "a");
}

#[tokio::test]
async fn a_write_takes_no_longer_than_allowed() {
    let (_sender, tenure) = Tenure::fixed(true);
    let begun = Instant::now();
    let outcome = tenure.write(std::future::pending::<kube::Result<()>>()).await;
    assert!(matches!(outcome, Err(WriteError::Late)));
    assert!(begun.elapsed() >= LONGEST_WRITE);
}
