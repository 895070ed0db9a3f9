use super::controller::World;
use super::{broken_guard, listener, mesh, orders, until};
use crate::feed::Store;
use crate::feed::wire::WireFeed;
use selvage_config::keys;
use selvage_config::last_good::LastGood;
use selvage_config::wire::client::Options;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

fn ready(store: &Store) -> bool {
    store.readiness().borrow().is_ready()
}

async fn start(options: Options, last_good: Option<&LastGood>) -> (Arc<Store>, WireFeed) {
    let store = Store::new(Arc::default());
    let feed = WireFeed::start(store.clone(), options, last_good.cloned(), None).await;
    (store, feed)
}

#[tokio::test]
async fn a_proxy_is_ready_once_it_has_a_configuration_and_a_leaf_for_each_identity() {
    let world = World::new();
    let controller = world.serve(None).await;
    world.refuses.store(true, Ordering::Relaxed);
    world.publish(&[mesh(&[world.root()]), listener("in", Some(orders()))]);
    let (store, feed) = start(controller.options(), None).await;
    until("configured", || store.snapshot().load().listeners.len() == 1).await;
    assert_eq!(store.readiness().borrow().missing, ["certificate of spiffe://cluster.local/ns/shop/sa/orders"]);
    world.refuses.store(false, Ordering::Relaxed);
    until("ready", || ready(&store)).await;
    let snapshot = store.snapshot().load_full();
    assert!(snapshot.identities.contains_key(&orders()));
    assert!(snapshot.listeners.values().all(|listener| listener.mesh.is_some()));
    assert!(store.age().is_some_and(|age| age < Duration::from_secs(10)));
    assert!(feed.client().connection().borrow().current);
    // The key was made here: the controller never has it, and does not hear of it in the next Hello.
    assert!(!store.have().contains_key(&keys::identity(&orders())));
}

#[tokio::test]
async fn what_cannot_be_used_is_rejected_by_key_and_reason_and_the_rest_holds() {
    let world = World::new();
    let controller = world.serve(None).await;
    world.publish(&[mesh(&[]), listener("one", None), broken_guard()]);
    let (store, _feed) = start(controller.options(), None).await;
    until("acknowledged", || !world.acks.lock().is_empty()).await;
    let rejected = world.rejected();
    assert_eq!(rejected.len(), 1, "{rejected:?}");
    assert_eq!((rejected[0].key.clone(), rejected[0].version.clone()), (broken_guard().key, broken_guard().version));
    assert!(rejected[0].reason.contains("when"), "{rejected:?}");
    assert!(ready(&store), "its targets refuse, the proxy serves");
    assert_eq!(store.rejected().len(), 1);
    world.publish(&[mesh(&[]), listener("one", None)]);
    until("nothing rejected", || world.acks.lock().len() == 2 && world.rejected().is_empty()).await;
}

#[tokio::test]
async fn a_leaf_is_renewed_in_time_and_dropped_when_nobody_speaks_for_it() {
    let world = World::new();
    // Older than half of its life from the start.
    *world.life.lock() = (100, 50);
    let controller = world.serve(None).await;
    world.publish(&[mesh(&[world.root()]), listener("in", Some(orders()))]);
    let (store, _feed) = start(controller.options(), None).await;
    until("ready", || ready(&store)).await;
    let first = store.snapshot().load().identities[&orders()].fingerprint;
    let end = || world.standings.lock().last().and_then(|told| told.certificates.get(&orders().to_string()).copied());
    until("reported", || end().is_some()).await;
    *world.life.lock() = (60, 3600);
    until("renewed", || store.snapshot().load().identities[&orders()].fingerprint != first).await;
    // Until then leaves may have been signed that are short-lived too.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    until("a long-lived one is reported", || end().is_some_and(|end| end > now + 3000)).await;
    assert!(world.standings.lock().iter().all(|told| told.version == env!("CARGO_PKG_VERSION")));
    let signed = world.signed.load(Ordering::Relaxed);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(world.signed.load(Ordering::Relaxed), signed, "a fresh one is left alone");
    world.publish(&[mesh(&[world.root()]), listener("in", None)]);
    until("dropped", || !store.resources().iter().any(|resource| keys::is_identity(&resource.key))).await;
    assert!(ready(&store));
}

#[tokio::test]
async fn a_restart_of_the_controller_costs_nothing_and_is_made_up_for() {
    let world = World::new();
    let mut controller = Some(world.serve(None).await);
    world.publish(&[mesh(&[]), listener("l0", None)]);
    let options = controller.as_ref().expect("running").options();
    let address = controller.as_ref().expect("running").address;
    let (store, feed) = start(options, None).await;
    until("ready", || ready(&store)).await;
    for round in 1..=3 {
        drop(controller.take());
        until("noticed", || !feed.client().connection().borrow().connected).await;
        assert!(ready(&store), "it serves what it has");
        world.publish(&[mesh(&[]), listener(&format!("l{round}"), None)]);
        controller = Some(world.serve(Some(address)).await);
        until("resumed", || store.have().contains_key(&listener(&format!("l{round}"), None).key)).await;
        assert_eq!(store.snapshot().load().listeners.len(), 1);
    }
    assert_eq!(*store.changes().borrow(), 4, "one generation a change");
}

#[tokio::test]
async fn a_proxy_that_starts_while_the_controller_is_away_serves_the_last_good_configuration() {
    let world = World::new();
    let controller = world.serve(None).await;
    let directory = tempfile::tempdir().expect("a directory");
    let last_good = LastGood::new(directory.path().join("state"), directory.path().join("secrets"));
    world.publish(&[mesh(&[world.root()]), listener("in", Some(orders())), broken_guard()]);
    let options = controller.options();
    {
        let (store, _feed) = start(options.clone(), Some(&last_good)).await;
        until("ready", || ready(&store)).await;
        until("saved", || {
            let kept = last_good.load(std::time::SystemTime::now());
            kept.resources.iter().any(|resource| keys::is_identity(&resource.key))
        })
        .await;
    }
    let address = controller.address;
    drop(controller);
    let (store, feed) = start(options, Some(&last_good)).await;
    // At once, leaf and refusing guard included, without anybody to talk to.
    assert!(ready(&store), "{:?}", store.readiness().borrow());
    assert_eq!((store.snapshot().load().listeners.len(), store.rejected().len()), (1, 1));
    assert!(!feed.client().connection().borrow().connected);
    assert!(store.age().is_some());
    let signed = world.signed.load(Ordering::Relaxed);
    // And it resumes from there: nothing is sent again, nothing signed again.
    let generation = *store.changes().borrow();
    let _controller = world.serve(Some(address)).await;
    until("resumed", || feed.client().connection().borrow().current).await;
    assert_eq!(*store.changes().borrow(), generation);
    assert_eq!(world.signed.load(Ordering::Relaxed), signed);
    assert_eq!(world.rejected().len(), 1, "the controller hears again what cannot be used");
}

#[tokio::test]
async fn what_a_bad_change_left_in_force_is_there_after_a_restart() {
    let world = World::new();
    let controller = world.serve(None).await;
    let directory = tempfile::tempdir().expect("a directory");
    let last_good = LastGood::new(directory.path().join("state"), directory.path().join("secrets"));
    let good = listener("one", None);
    let bad = selvage_config::Resource::core(good.key.clone(), &serde_json::json!({ "bind": "nowhere" }), 0);
    let options = controller.options();
    {
        let (store, _feed) = start(options.clone(), Some(&last_good)).await;
        world.publish(&[mesh(&[]), good.clone()]);
        until("in force", || store.snapshot().load().listeners.contains_key(&good.key)).await;
        world.publish(&[mesh(&[]), bad.clone(), listener("two", None)]);
        until("rejected", || store.rejected().len() == 1).await;
        until("saved", || last_good.load(SystemTime::now()).resources.iter().any(|resource| resource.key == listener("two", None).key))
            .await;
        assert!(store.resources().iter().any(|resource| resource.version == bad.version), "what it shows is what it was told");
    }
    drop(controller);
    let (store, _feed) = start(options, Some(&last_good)).await;
    assert!(ready(&store), "{:?}", store.readiness().borrow());
    assert_eq!((store.snapshot().load().listeners.len(), store.rejected().len()), (2, 0));
}

#[tokio::test]
async fn platform_settings_that_were_never_readable_are_missing() {
    let world = World::new();
    let controller = world.serve(None).await;
    world.publish(&[selvage_config::Resource::core(keys::mesh(), &serde_json::json!({ "roots": 1 }), 0), listener("one", None)]);
    let (store, _feed) = start(controller.options(), None).await;
    until("rejected", || store.rejected().len() == 1).await;
    assert_eq!(store.readiness().borrow().missing, ["platform settings"]);
    world.publish(&[mesh(&[]), listener("one", None)]);
    until("ready", || ready(&store)).await;
}

#[tokio::test]
async fn a_proxy_without_anything_is_not_ready() {
    let world = World::new();
    let controller = world.serve(None).await;
    let options = controller.options();
    drop(controller);
    let directory = tempfile::tempdir().expect("a directory");
    let (store, _feed) = start(options, Some(&LastGood::new(directory.path(), directory.path().join("secrets")))).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(store.readiness().borrow().missing, ["configuration"]);
    assert_eq!(store.age(), None);
}
