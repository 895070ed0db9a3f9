use super::*;
use crate::wire::server::{Authenticate, SignRefusal, Source};
use async_trait::async_trait;
use parking_lot::Mutex;
use std::sync::Weak;
use tokio::sync::Semaphore;

/// Notes who comes and goes, and whether another stream could come or go meanwhile.
#[derive(Default)]
struct Door {
    shared: Mutex<Weak<Shared>>,
    told: Mutex<Vec<(String, bool)>>,
}

#[async_trait]
impl Authenticate for Door {
    async fn authenticate(&self, _: &str, _: SocketAddr) -> Result<Node, Unauthenticated> {
        Err(Unauthenticated::Refused("nobody comes in here".into()))
    }
}

#[async_trait]
impl Source for Door {
    fn subscribe(&self, _: &Node) -> Option<watch::Receiver<View>> {
        None
    }

    fn find(&self, _: &Node, _: &Subject) -> Vec<Key> {
        Vec::new()
    }

    async fn sign(&self, _: &Node, _: &str) -> Result<String, SignRefusal> {
        Err(SignRefusal("nobody".into()))
    }

    fn acknowledged(&self, _: &Node, _: &View, _: &Ack) {}

    fn presence(&self, node: &Node, present: bool) {
        let shared = self.shared.lock().upgrade().expect("it is alive");
        assert!(shared.connected.try_lock().is_none(), "another stream of {} could come or go just now", node.name);
        self.told.lock().push((node.name.clone(), present));
    }
}

fn shared() -> (Arc<Door>, Arc<Shared>) {
    let door = Arc::new(Door::default());
    let semaphore = || Arc::new(Semaphore::new(1));
    let shared = Arc::new(Shared {
        authenticate: door.clone(),
        source: door.clone(),
        limits: Limits::default(),
        streams: semaphore(),
        initial_syncs: semaphore(),
        connected: Mutex::default(),
        silent: Mutex::default(),
        stop: CancellationToken::new(),
    });
    *door.shared.lock() = Arc::downgrade(&shared);
    (door, shared)
}

fn node(name: &str) -> Node {
    Node { uid: name.into(), name: name.into() }
}

#[test]
fn who_comes_and_goes_is_told_in_the_order_it_happens() {
    let (door, shared) = shared();
    let enter = |name: &str| Presence::enter(shared.clone(), node(name), mpsc::channel(1).0);
    let (first, other) = (enter("a"), enter("b"));
    let second = enter("a");
    assert!(first.replaced.is_cancelled() && !second.replaced.is_cancelled());
    drop(first);
    drop(other);
    drop(second);
    let told = door.told.lock().iter().map(|(name, present)| format!("{name} {present}")).collect::<Vec<_>>();
    assert_eq!(told, ["a true", "b true", "a true", "b false", "a false"]);
}

#[test]
fn streams_that_have_not_said_hello_are_bounded_for_each_node() {
    let (_door, shared) = shared();
    let mut silent: Vec<Option<Silent>> = (0..SILENT).map(|_| Silent::enter(&shared, &node("a"))).collect();
    assert!(silent.iter().all(Option::is_some));
    assert!(Silent::enter(&shared, &node("a")).is_none());
    assert!(Silent::enter(&shared, &node("b")).is_some(), "another one's are its own");
    silent.pop();
    assert!(Silent::enter(&shared, &node("a")).is_some());
    silent.clear();
    assert!(shared.silent.lock().is_empty());
}
