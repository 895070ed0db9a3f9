use super::super::lease::{Candidate, DURATION, LONGEST_WRITE, Tenure, WRITES, WriteError};
use super::*;
use crate::world::PLATFORM_NAMESPACE;
use tokio::task::JoinHandle;
use tokio::time::{advance, pause, sleep};
use tokio_util::sync::CancellationToken;

const LEASES: &str = "/apis/coordination.k8s.io/v1/leases";

fn replica(api: &Api, name: &str) -> (Tenure, CancellationToken, JoinHandle<()>) {
    let (candidate, tenure) = Candidate::new(api.client(), PLATFORM_NAMESPACE, name.into(), metrics());
    let stop = CancellationToken::new();
    let running = tokio::spawn(candidate.run(stop.clone()));
    (tenure, stop, running)
}

fn holder(api: &Api) -> String {
    let lease = api.object(LEASES, PLATFORM_NAMESPACE, "selvage-controller").expect("a Lease");
    lease["spec"]["holderIdentity"].as_str().expect("a holder").to_string()
}

/// Lets time pass in steps, so that everything that waits for a moment has it.
async fn pass(time: Duration) {
    let step = Duration::from_millis(100);
    for _ in 0..time.as_millis() / step.as_millis() {
        sleep(step).await;
    }
}

#[tokio::test(start_paused = true)]
async fn one_of_two_writes_and_the_other_takes_over_when_it_lets_go() {
    let api = Api::new();
    let (a, stop, running) = replica(&api, "a");
    pass(Duration::from_secs(1)).await;
    let (b, _stop, _running) = replica(&api, "b");
    pass(Duration::from_secs(60)).await;
    assert!(a.holds() && !b.holds());
    stop.cancel();
    running.await.expect("ended in order");
    assert!(!a.holds());
    assert_eq!(holder(&api), "");
    pass(Duration::from_secs(3)).await;
    assert!(b.holds());
    assert_eq!(holder(&api), "b");
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_dies_is_followed_after_the_whole_duration_and_not_before() {
    let api = Api::new();
    let (a, _stop, running) = replica(&api, "a");
    pass(Duration::from_secs(1)).await;
    let (b, _stop2, _running2) = replica(&api, "b");
    pass(Duration::from_secs(4)).await;
    assert!(a.holds());
    running.abort();
    pass(DURATION - Duration::from_secs(3)).await;
    assert!(!b.holds(), "too early");
    pass(Duration::from_secs(8)).await;
    assert!(b.holds());
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_cannot_renew_stops_writing_before_another_may_begin() {
    assert!(WRITES + LONGEST_WRITE < DURATION);
    let api = Api::new();
    let (a, _stop, _running) = replica(&api, "a");
    pass(Duration::from_secs(1)).await;
    assert!(a.write(async { kube::Result::Ok(()) }).await.is_ok());
    api.away(true);
    pass(WRITES - Duration::from_secs(3)).await;
    assert!(a.holds(), "a short absence of the API server is no reason");
    pass(Duration::from_secs(4)).await;
    assert!(matches!(a.write(async { kube::Result::Ok(()) }).await, Err(WriteError::NotOurs)));
    api.away(false);
    pass(Duration::from_secs(3)).await;
    assert!(a.holds(), "nobody took it meanwhile");
}

#[tokio::test(start_paused = true)]
async fn whoever_finds_another_in_its_place_does_not_write() {
    let api = Api::new();
    let (a, _stop, _running) = replica(&api, "a");
    pass(Duration::from_secs(1)).await;
    assert!(a.holds());
    let mut lease = api.object(LEASES, PLATFORM_NAMESPACE, "selvage-controller").expect("a Lease");
    lease["spec"]["holderIdentity"] = json!("b");
    api.put(LEASES, lease);
    pass(Duration::from_secs(3)).await;
    assert!(!a.holds());
    assert_eq!(holder(&api), "b");
}

#[tokio::test]
async fn a_write_takes_no_longer_than_allowed() {
    pause();
    let (_sender, tenure) = Tenure::fixed(true);
    let write = tokio::spawn(async move { tenure.write(std::future::pending::<kube::Result<()>>()).await });
    advance(LONGEST_WRITE + Duration::from_secs(1)).await;
    assert!(matches!(write.await.expect("ended"), Err(WriteError::Late)));
}
