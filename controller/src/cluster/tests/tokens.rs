use super::super::pods::Pods;
use super::super::tokens::{PodTokens, TokenError};
use super::*;
use crate::containers::TOKEN_AUDIENCE;
use crate::world::Name;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use selvage_config::wire::server::{Authenticate, Unauthenticated};
use std::net::IpAddr;
use std::time::SystemTime;

const ADDRESS: &str = "10.1.0.7";
const OTHER: &str = "10.1.0.8";

fn peer() -> IpAddr {
    ADDRESS.parse().expect("an address")
}

fn now(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000 + seconds)
}

/// A token of the form of one; who it is of says TokenReview alone.
fn token(name: &str, ends: u64) -> String {
    let payload = json!({ "exp": 1_800_000_000 + ends, "sub": name });
    format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(payload.to_string()))
}

fn review(user: &str, pod: Option<(&str, &str)>) -> Value {
    let extra = pod.map_or(
        json!({}),
        |(name, uid)| json!({ "authentication.kubernetes.io/pod-name": [name], "authentication.kubernetes.io/pod-uid": [uid] }),
    );
    json!({ "authenticated": true, "audiences": [TOKEN_AUDIENCE], "user": { "username": user, "extra": extra } })
}

fn orders() -> Value {
    review("system:serviceaccount:shop:orders", Some(("orders-0", "uid-1")))
}

fn judge(api: &Api) -> (PodTokens, Arc<Pods>) {
    let pods = Arc::new(Pods::default());
    pods.insert(Name::new("shop", "orders-0"), &pod("shop", "orders-0", "uid-1", "orders", ADDRESS));
    // Somebody else, from whose address nothing of this Pod may come.
    pods.insert(Name::new("shop", "stock-0"), &pod("shop", "stock-0", "uid-9", "stock", OTHER));
    (PodTokens::new(api.client(), pods.clone(), Arc::default(), metrics()), pods)
}

#[tokio::test]
async fn a_token_bound_to_a_pod_and_sent_from_it_proves_the_pod() {
    let api = Api::new();
    let (tokens, _) = judge(&api);
    api.token(&token("a", 3600), orders());
    for address in [ADDRESS, "::ffff:10.1.0.7"] {
        let node = tokens.judge(&token("a", 3600), address.parse().expect("an address"), now(0)).await.expect("a node");
        assert_eq!((node.uid.as_str(), node.name.as_str()), ("uid-1", "shop/orders-0"));
    }
}

#[tokio::test]
async fn what_does_not_prove_a_pod_is_refused() {
    let with = |change: &dyn Fn(&mut Value)| {
        let mut answer = orders();
        change(&mut answer);
        answer
    };
    let own = || pod("shop", "orders-0", "uid-1", "orders", ADDRESS);
    let on_host = || {
        let mut pod = own();
        pod["spec"]["hostNetwork"] = json!(true);
        pod
    };
    type Is = fn(&TokenError) -> bool;
    let table: [(&str, Value, Value, &str, Is); 11] = [
        ("unknown to the API server", json!({ "authenticated": false }), own(), ADDRESS, |e| matches!(e, TokenError::Refused { .. })),
        ("for the API server", with(&|a| a["audiences"] = json!(["https://kubernetes.default.svc"])), own(), ADDRESS, |e| {
            matches!(e, TokenError::Audience { .. })
        }),
        ("of no audience", with(&|a| a["audiences"] = json!(null)), own(), ADDRESS, |e| matches!(e, TokenError::Audience { .. })),
        ("unbound", review("system:serviceaccount:shop:orders", None), own(), ADDRESS, |e| matches!(e, TokenError::Unbound { .. })),
        ("of a person", with(&|a| a["user"]["username"] = json!("admin")), own(), ADDRESS, |e| matches!(e, TokenError::NoAccount { .. })),
        ("of an earlier pod of that name", orders(), pod("shop", "orders-0", "uid-2", "orders", ADDRESS), ADDRESS, |e| {
            matches!(e, TokenError::OtherPod { .. })
        }),
        ("of another account", orders(), pod("shop", "orders-0", "uid-1", "catalogue", ADDRESS), ADDRESS, |e| {
            matches!(e, TokenError::OtherAccount { .. })
        }),
        ("from elsewhere", orders(), own(), OTHER, |e| matches!(e, TokenError::OtherAddress { .. })),
        ("of a pod on its node's network", orders(), on_host(), ADDRESS, |e| matches!(e, TokenError::HostNetwork { .. })),
        (
            "of two pods",
            with(&|a| a["user"]["extra"]["authentication.kubernetes.io/pod-uid"] = json!(["uid-1", "uid-2"])),
            own(),
            ADDRESS,
            |e| matches!(e, TokenError::Unbound { .. }),
        ),
        // The Pod of that name in this namespace is not the one in the token's.
        ("of another namespace", review("system:serviceaccount:stock:orders", Some(("orders-0", "uid-1"))), own(), ADDRESS, |e| {
            matches!(e, TokenError::UnknownPod { .. })
        }),
    ];
    for (what, answer, present, from, is) in table {
        let api = Api::new();
        let pods = Arc::new(Pods::default());
        pods.insert(Name::new("shop", "orders-0"), &present);
        pods.insert(Name::new("shop", "stock-0"), &pod("shop", "stock-0", "uid-9", "stock", OTHER));
        pods.insert(Name::new("shop", "twin"), &pod("shop", "twin", "uid-8", "twin", ADDRESS));
        let tokens = PodTokens::new(api.client(), pods, Arc::default(), metrics());
        api.token(&token("a", 3600), answer);
        let refused = tokens.judge(&token("a", 3600), from.parse().expect("an address"), now(0)).await.expect_err(what);
        assert!(is(&refused), "{what}: {refused:?}");
    }
}

#[tokio::test]
async fn what_cannot_be_told_yet_is_told_apart_from_what_is_refused() {
    let api = Api::new();
    let (tokens, pods) = judge(&api);
    api.token("t", orders());
    api.token("unbound", review("system:serviceaccount:shop:orders", None));
    let mut without = pod("shop", "orders-0", "uid-1", "orders", ADDRESS);
    without["status"] = json!({});
    let asks = async |token: &str| tokens.authenticate(token, (peer(), 1).into()).await;
    assert!(asks("t").await.is_ok());
    pods.insert(Name::new("shop", "orders-0"), &without);
    assert!(matches!(asks("t").await, Err(Unauthenticated::NotYet(_))), "without an address");
    pods.remove(&Name::new("shop", "orders-0"));
    assert!(matches!(asks("t").await, Err(Unauthenticated::NotYet(_))), "unknown Pod");
    pods.insert(Name::new("shop", "orders-0"), &pod("shop", "orders-0", "uid-1", "orders", ADDRESS));
    assert!(matches!(asks("unbound").await, Err(Unauthenticated::Refused(_))));
    api.away(true);
    assert!(matches!(asks("u").await, Err(Unauthenticated::NotYet(_))), "API server away");
}

#[tokio::test]
async fn an_answer_is_remembered_shortly_and_never_beyond_the_tokens_end() {
    let api = Api::new();
    let (tokens, _) = judge(&api);
    let asked = || api.asked("tokenreviews");
    let long = token("long", 3600);
    api.token(&long, orders());
    for (at, questions) in [(0, 1), (10, 1), (59, 1), (61, 2), (62, 2)] {
        tokens.judge(&long, peer(), now(at)).await.expect("a node");
        assert_eq!(asked(), questions, "after {at} s");
    }
    let short = token("short", 100);
    api.token(&short, orders());
    tokens.judge(&short, peer(), now(90)).await.expect("a node");
    api.token(&short, json!({ "authenticated": false, "error": "expired" }));
    assert!(matches!(tokens.judge(&short, peer(), now(101)).await, Err(TokenError::Refused { .. })));
    // Where it does not say when it ends, it is asked for every time.
    api.token("opaque", orders());
    let before = asked();
    for _ in 0..2 {
        tokens.judge("opaque", peer(), now(0)).await.expect("a node");
    }
    assert_eq!(asked(), before + 2);
}

#[tokio::test]
async fn with_the_api_server_away_a_token_that_was_verified_is_good_until_it_ends() {
    let api = Api::new();
    let (tokens, pods) = judge(&api);
    let token = token("a", 1800);
    api.token(&token, orders());
    tokens.judge(&token, peer(), now(0)).await.expect("a node");
    api.away(true);
    tokens.judge(&token, peer(), now(1700)).await.expect("a node");
    assert!(matches!(tokens.judge(&token, peer(), now(1801)).await, Err(TokenError::Unreachable { .. })));
    pods.insert(Name::new("shop", "orders-0"), &pod("shop", "orders-0", "uid-2", "orders", ADDRESS));
    assert!(matches!(tokens.judge(&token, peer(), now(1700)).await, Err(TokenError::OtherPod { .. })));
}

#[tokio::test]
async fn an_answer_that_turns_into_a_refusal_is_not_remembered() {
    let api = Api::new();
    let (tokens, _) = judge(&api);
    let token = token("a", 3600);
    api.token(&token, orders());
    tokens.judge(&token, peer(), now(0)).await.expect("a node");
    api.token(&token, json!({ "authenticated": false }));
    assert!(matches!(tokens.judge(&token, peer(), now(61)).await, Err(TokenError::Refused { .. })));
    api.away(true);
    assert!(matches!(tokens.judge(&token, peer(), now(62)).await, Err(TokenError::Unreachable { .. })));
}

#[tokio::test]
async fn who_comes_from_no_pods_address_is_not_asked_about() {
    let api = Api::new();
    let (tokens, pods) = judge(&api);
    let stranger: IpAddr = "10.9.0.1".parse().expect("an address");
    assert!(matches!(tokens.judge("t", stranger, now(0)).await, Err(TokenError::Stranger(_))));
    let mut on_host = pod("shop", "agent", "uid-7", "agent", "10.9.0.1");
    on_host["spec"]["hostNetwork"] = json!(true);
    pods.insert(Name::new("shop", "agent"), &on_host);
    assert!(matches!(tokens.judge("t", stranger, now(0)).await, Err(TokenError::Stranger(_))), "the address is its node's");
    assert_eq!(api.asked("tokenreviews"), 0);
    // Another Pod has the address that one had before.
    pods.insert(Name::new("shop", "new"), &pod("shop", "new", "uid-5", "new", ADDRESS));
    pods.remove(&Name::new("shop", "orders-0"));
    assert!(matches!(tokens.judge("t", peer(), now(0)).await, Err(TokenError::Refused { .. })));
}

#[tokio::test]
async fn a_flood_of_tokens_from_one_peer_keeps_no_other_waiting() {
    let api = Api::new();
    let (tokens, _) = judge(&api);
    api.token("good", orders());
    let other: IpAddr = OTHER.parse().expect("an address");
    let bad: Vec<String> = (0..1000).map(|n| format!("bad-{n}")).collect();
    let flood = futures::future::join_all(bad.iter().map(|token| tokens.judge(token, other, now(0))));
    let (flood, good) = tokio::join!(flood, tokens.judge("good", peer(), now(0)));
    good.expect("a node");
    assert!(flood.iter().all(Result::is_err));
    let asked = api.asked("tokenreviews");
    assert!(asked < 10, "the API server was asked {asked} times");
    // Its next one has its turn again.
    assert!(matches!(tokens.judge("bad", other, now(0)).await, Err(TokenError::Refused { .. })));
}
