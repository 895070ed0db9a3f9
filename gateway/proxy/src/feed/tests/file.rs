use super::{broken_guard, key, listener, mesh, self_signed, until};
use crate::feed::Store;
use crate::feed::file::FileFeed;
use selvage_config::file::{secrets_path, write};
use selvage_config::{Resource, keys};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

struct Fixture {
    _directory: tempfile::TempDir,
    path: PathBuf,
    store: Arc<Store>,
}

fn fixture(resources: &[Resource]) -> Fixture {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("proxy.yaml");
    write(&path, resources).expect("written");
    Fixture { _directory: directory, path, store: Store::new(Arc::default()) }
}

impl Fixture {
    fn listeners(&self) -> Vec<String> {
        let mut names: Vec<_> = self.store.snapshot().load().listeners.keys().map(|key| key.name.clone()).collect();
        names.sort();
        names
    }
}

#[tokio::test]
async fn good_then_bad_then_good() {
    let fixture = fixture(&[mesh(&[]), listener("one", None)]);
    assert!(!fixture.store.readiness().borrow().is_ready());
    let feed = FileFeed::start(fixture.store.clone(), &fixture.path).await.expect("a good file");
    assert_eq!((fixture.listeners(), *fixture.store.changes().borrow()), (vec!["public#one".to_string()], 1));
    assert!(fixture.store.readiness().borrow().is_ready() && fixture.store.age().is_some());
    let problem = feed.problem();
    for bad in
        ["nonsense: [", "apiVersion: selvage.dev/v1alpha1\nkind: ProxyConfig\nresources: [{ key: Mesh/default, class: core, spec: {} }]\n"]
    {
        fs::write(&fixture.path, bad).expect("written");
        until("refused", || problem.borrow().is_some()).await;
        assert!(problem.borrow().as_ref().is_some_and(|text| text.contains("proxy.yaml")), "{problem:?}");
        assert_eq!((fixture.listeners(), *fixture.store.changes().borrow() % 2), (vec!["public#one".to_string()], 1));
        write(&fixture.path, &[mesh(&[]), listener("one", None)]).expect("written");
        until("good again", || problem.borrow().is_none()).await;
    }
    // The same content is no change; another is.
    assert_eq!(*fixture.store.changes().borrow(), 1);
    write(&fixture.path, &[mesh(&[]), listener("one", None), listener("two", None)]).expect("written");
    until("a second listener", || fixture.listeners() == ["public#one", "public#two"]).await;
    assert_eq!(*fixture.store.changes().borrow(), 2);
}

#[tokio::test]
async fn a_file_whose_policy_does_not_compile_is_refused_whole() {
    let fixture = fixture(&[mesh(&[]), listener("one", None)]);
    let feed = FileFeed::start(fixture.store.clone(), &fixture.path).await.expect("a good file");
    write(&fixture.path, &[mesh(&[]), listener("two", None), broken_guard()]).expect("written");
    let problem = feed.problem();
    until("refused", || problem.borrow().is_some()).await;
    assert!(problem.borrow().as_ref().is_some_and(|text| text.contains("AuthorizationPolicy/shop/broken")), "{problem:?}");
    assert_eq!(fixture.listeners(), ["public#one"]);
    assert!(fixture.store.rejected().is_empty());
}

#[tokio::test]
async fn at_the_start_a_bad_file_is_an_error() {
    for resources in [vec![mesh(&[]), broken_guard()], vec![]] {
        let fixture = fixture(&resources);
        if resources.is_empty() {
            fs::remove_file(&fixture.path).expect("removed");
        }
        let error = FileFeed::start(fixture.store.clone(), &fixture.path).await.expect_err("a bad file").to_string();
        assert!(error.contains("proxy.yaml"), "{error}");
        assert!(!fixture.store.readiness().borrow().is_ready());
    }
}

#[tokio::test]
async fn secrets_are_followed_and_refused_when_others_may_read_them() {
    let fixture = fixture(&[mesh(&[]), listener("one", None), self_signed("a.example")]);
    let feed = FileFeed::start(fixture.store.clone(), &fixture.path).await.expect("a good file");
    let certificate =
        || fixture.store.resources().into_iter().find(|r| r.key == keys::certificate("shop", "tls")).map(|r| r.version.clone());
    let first = certificate();
    assert!(first.is_some());
    let secrets = secrets_path(&fixture.path);
    fs::set_permissions(&secrets, fs::Permissions::from_mode(0o644)).expect("chmod");
    let problem = feed.problem();
    until("refused", || problem.borrow().as_ref().is_some_and(|text| text.contains("0644") && text.contains("chmod 600"))).await;
    assert_eq!(certificate(), first);
    // Only the secrets file changes.
    let other = tempfile::tempdir().expect("a directory");
    write(&other.path().join("proxy.yaml"), &[self_signed("b.example")]).expect("written");
    fs::rename(other.path().join("proxy.secrets.yaml"), &secrets)
        .or_else(|_| {
            fs::copy(other.path().join("proxy.secrets.yaml"), &secrets)
                .and_then(|_| fs::set_permissions(&secrets, fs::Permissions::from_mode(0o600)))
        })
        .expect("replaced");
    until("the other certificate", || certificate().is_some() && certificate() != first).await;
    until("good again", || problem.borrow().is_none()).await;
}

#[tokio::test]
async fn a_change_takes_effect_quickly() {
    let fixture = fixture(&[mesh(&[]), listener("one", None)]);
    let _feed = FileFeed::start(fixture.store.clone(), &fixture.path).await.expect("a good file");
    // Far below the polling: it is the kernel that tells.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let start = tokio::time::Instant::now();
    for name in ["two", "three", "four", "five"] {
        write(&fixture.path, &[mesh(&[]), listener(name, None)]).expect("written");
        until(name, || fixture.listeners() == [format!("public#{name}")]).await;
    }
    assert!(start.elapsed() < Duration::from_secs(3), "{:?} for four changes", start.elapsed());
}

#[tokio::test]
async fn after_the_feed_is_dropped_the_file_is_left_alone() {
    let fixture = fixture(&[mesh(&[]), listener("one", None)]);
    drop(FileFeed::start(fixture.store.clone(), &fixture.path).await.expect("a good file"));
    write(&fixture.path, &[mesh(&[]), listener("two", None)]).expect("written");
    tokio::time::sleep(Duration::from_millis(1200)).await;
    assert_eq!(fixture.listeners(), ["public#one"]);
    assert_eq!(fixture.store.identities().len(), 0);
    assert!(fixture.store.have().contains_key(&key("Listener/shop/public#one")));
}
