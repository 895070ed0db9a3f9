use super::super::authority::{self, AuthorityError, Keeper, SECRET};
use super::super::lease::Tenure;
use super::*;
use crate::ca::{Authority, Kept};
use crate::world::PLATFORM_NAMESPACE;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use selvage_policy::TrustDomain;
use tokio_util::sync::CancellationToken;

const SECRETS: &str = "/api/v1/secrets";

fn domain() -> TrustDomain {
    TrustDomain::try_from("cluster.local".to_string()).expect("well formed")
}

async fn open(api: &Api) -> Result<Kept, AuthorityError> {
    authority::open(api.client(), PLATFORM_NAMESPACE, &domain()).await
}

fn kept(api: &Api) -> Kept {
    let secret = api.object(SECRETS, PLATFORM_NAMESPACE, SECRET).expect("a Secret");
    serde_json::from_slice(&STANDARD.decode(secret["data"]["ca.json"].as_str().expect("data")).expect("base64")).expect("kept")
}

fn secret(kept: &Kept) -> Value {
    let text = STANDARD.encode(serde_json::to_vec(kept).expect("JSON"));
    json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "namespace": PLATFORM_NAMESPACE, "name": SECRET }, "data": { "ca.json": text } })
}

#[tokio::test]
async fn replicas_that_start_together_agree_on_one_root() {
    let api = Api::new();
    let all = futures::future::join_all((0..4).map(|_| open(&api))).await;
    let roots: Vec<String> = all.into_iter().map(|kept| kept.expect("an authority").root).collect();
    assert!(roots.iter().all(|root| *root == kept(&api).root));
}

#[tokio::test]
async fn the_replica_that_is_slower_takes_the_others_authority() {
    let api = Api::new();
    let other = Kept::create(&domain(), std::time::SystemTime::now()).expect("made");
    api.quicker("/secrets", SECRETS, secret(&other));
    assert_eq!(open(&api).await.expect("an authority").root, other.root);
}

#[tokio::test]
async fn a_damaged_authority_is_named_and_left_alone() {
    let api = Api::new();
    let damaged = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": { "namespace": PLATFORM_NAMESPACE, "name": SECRET },
        "data": { "ca.json": STANDARD.encode("{\"root\": \"not a certificate\"}") },
    });
    let before = api.put(SECRETS, damaged);
    let error = open(&api).await.expect_err("damaged");
    assert!(matches!(error, AuthorityError::Damaged(_)), "{error}");
    assert!(!error.to_string().contains("not a certificate"), "a value is shown: {error}");
    assert_eq!(api.object(SECRETS, PLATFORM_NAMESPACE, SECRET), Some(before));
}

struct Running {
    api: Api,
    authority: Arc<Authority>,
    roots: tokio::sync::watch::Receiver<Vec<String>>,
    _tenure: tokio::sync::watch::Sender<Option<tokio::time::Instant>>,
    stop: CancellationToken,
}

async fn keeper(first: &Kept, holds: bool) -> Running {
    let api = Api::new();
    api.put(SECRETS, secret(first));
    let authority = Arc::new(Authority::new(open(&api).await.expect("an authority")).expect("usable"));
    let (sender, roots) = tokio::sync::watch::channel(authority.roots());
    let (held, tenure) = Tenure::fixed(holds);
    let keeper = Keeper {
        namespace: PLATFORM_NAMESPACE.into(),
        client: api.client(),
        trust_domain: domain(),
        authority: authority.clone(),
        roots: sender,
        tenure,
        metrics: metrics(),
    };
    let stop = CancellationToken::new();
    tokio::spawn(keeper.run(stop.clone()));
    Running { api, authority, roots, _tenure: held, stop }
}

/// Its issuer is due.
fn due() -> Kept {
    let half_a_year = Duration::from_secs(200 * 86_400);
    Kept::create(&domain(), std::time::SystemTime::now() - half_a_year).expect("made")
}

#[tokio::test]
async fn the_holder_renews_the_issuer_and_everybody_signs_with_it() {
    let first = due();
    let running = keeper(&first, true).await;
    until("the issuer is renewed", || running.authority.kept().issuer != first.issuer).await;
    assert_eq!(kept(&running.api), running.authority.kept());
    assert_eq!(running.authority.kept().root, first.root, "the root stays");
    running.stop.cancel();
}

#[tokio::test]
async fn a_replica_without_the_lease_renews_nothing_and_follows() {
    let first = due();
    let mut running = keeper(&first, false).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(running.authority.kept().issuer, first.issuer);
    let mut rotated = Kept::create(&domain(), std::time::SystemTime::now()).expect("made");
    rotated.trusted = vec![first.root.clone()];
    running.api.put(SECRETS, secret(&rotated));
    tokio::time::timeout(Duration::from_secs(5), running.roots.changed()).await.expect("in time").expect("told");
    assert_eq!(*running.roots.borrow(), vec![rotated.root.clone(), first.root.clone()]);
    // What cannot be used changes nothing.
    let mut broken = secret(&rotated);
    broken["data"]["ca.json"] = json!(STANDARD.encode("{}"));
    running.api.put(SECRETS, broken);
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(running.authority.kept(), rotated);
    running.stop.cancel();
}

#[tokio::test]
async fn a_secret_that_somebody_deletes_is_put_back() {
    let first = Kept::create(&domain(), std::time::SystemTime::now()).expect("made");
    let running = keeper(&first, true).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    running.api.delete(SECRETS, PLATFORM_NAMESPACE, SECRET);
    until("it is back", || running.api.object(SECRETS, PLATFORM_NAMESPACE, SECRET).is_some()).await;
    assert_eq!(kept(&running.api), first);
    running.stop.cancel();
}
