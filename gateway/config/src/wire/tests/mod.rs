mod harness;
mod messages;
mod strangers;

use super::client::{AskError, Client};
use super::server::{ExplainError, Limits};
use super::{PART, Subject};
use harness::{
    Authority, Book, Controller, Proxy, ProxyState, certificate, connect, connect_saying_at_most, key, options, policy, until, view,
};
use parking_lot::Mutex;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

fn quick() -> Limits {
    Limits { spread: Duration::from_millis(20), ..Limits::default() }
}

async fn world(limits: Limits) -> (Authority, Arc<Book>, Controller) {
    let (authority, book) = (Authority::new(), Arc::new(Book::default()));
    let controller = Controller::start(&authority, &book, None, limits).await;
    (authority, book, controller)
}

#[tokio::test]
async fn a_proxy_gets_what_is_given_and_then_every_change() {
    let (authority, book, controller) = world(quick()).await;
    book.publish("a", view(&[policy("x", json!(1)), certificate("tls")], &[policy("hidden", json!(1))]));
    let proxy = Proxy::default();
    let running = connect(options(&authority, controller.address, "token-a"), &proxy);
    until("first transaction", || proxy.steps().len() == 1).await;
    assert_eq!(proxy.names(), ["tls", "x"]);
    book.publish("a", view(&[policy("x", json!(2)), policy("y", json!(1))], &[]));
    until("second transaction", || proxy.steps().len() == 2).await;
    assert_eq!(proxy.steps()[1], (vec!["x".to_string(), "y".into()], vec!["tls".to_string()]));
    until("both acknowledged", || book.acks.lock().len() == 2).await;
    assert!(running.client.connection().borrow().connected);
    assert_eq!(controller.server.connected().len(), 1);
}

#[tokio::test]
async fn a_client_that_resumes_is_sent_differences_only() {
    let (authority, book, controller) = world(quick()).await;
    book.publish("a", view(&[policy("same", json!(1)), policy("changed", json!(2)), policy("new", json!(1))], &[]));
    let proxy = Proxy::default();
    let old = [policy("same", json!(1)), policy("changed", json!(1)), policy("gone", json!(1))];
    proxy.0.lock().have = old.into_iter().map(|r| (r.key.clone(), r)).collect();
    let _running = connect(options(&authority, controller.address, "token-a"), &proxy);
    until("first transaction", || proxy.steps().len() == 1).await;
    assert_eq!(proxy.steps()[0], (vec!["changed".to_string(), "new".into()], vec!["gone".to_string()]));
    assert_eq!(proxy.names(), ["changed", "new", "same"]);
}

#[tokio::test]
async fn a_client_that_cannot_say_what_it_has_drops_what_it_is_not_sent_again() {
    let (authority, book, controller) = world(quick()).await;
    book.publish("a", view(&[policy("same", json!(1)), policy("changed", json!(2))], &[]));
    let proxy = Proxy::default();
    let old = [policy("same", json!(1)), policy("changed", json!(1)), policy("gone", json!(1))];
    proxy.0.lock().have = old.into_iter().map(|r| (r.key.clone(), r)).collect();
    let _running = connect_saying_at_most(100, options(&authority, controller.address, "token-a"), &proxy);
    until("first transaction", || proxy.steps().len() == 1).await;
    assert_eq!(proxy.steps()[0], (vec!["changed".to_string(), "same".into()], vec!["gone".to_string()]));
    // Later ones are differences again.
    book.publish("a", view(&[policy("same", json!(1)), policy("changed", json!(3))], &[]));
    until("second transaction", || proxy.steps().len() == 2).await;
    assert_eq!(proxy.steps()[1], (vec!["changed".to_string()], vec![]));
    assert_eq!(proxy.names(), ["changed", "same"]);
}

#[tokio::test]
async fn a_transaction_that_is_not_applied_is_not_acknowledged_and_comes_again() {
    let (authority, book, controller) = world(quick()).await;
    book.publish("a", view(&[policy("x", json!(1))], &[]));
    let proxy = Proxy(Arc::new(Mutex::new(ProxyState { faults: 1, ..ProxyState::default() })));
    let running = connect(options(&authority, controller.address, "token-a"), &proxy);
    let connection = running.client.connection();
    until("ended", || connection.borrow().error.as_ref().is_some_and(|error| error.contains("could not be applied: a fault"))).await;
    until("applied", || proxy.names() == ["x"]).await;
    until("acknowledged", || book.acks.lock().len() == 1).await;
    assert_eq!(connection.borrow().transactions, 1);
}

#[tokio::test]
async fn a_client_that_has_all_is_told_so_by_an_empty_transaction() {
    let (authority, book, controller) = world(quick()).await;
    book.publish("a", view(&[policy("x", json!(1))], &[]));
    let proxy = Proxy::default();
    proxy.0.lock().have.insert(key("TrafficPolicy/shop/x"), policy("x", json!(1)));
    let _running = connect(options(&authority, controller.address, "token-a"), &proxy);
    until("first transaction", || proxy.steps().len() == 1).await;
    assert_eq!(proxy.steps()[0], (vec![], vec![]));
}

#[tokio::test]
async fn a_server_that_restarts_finds_its_clients_again_and_loses_nothing() {
    let (authority, book, controller) = world(quick()).await;
    book.publish("a", view(&[policy("x", json!(0))], &[]));
    let proxy = Proxy::default();
    let running = connect(options(&authority, controller.address, "token-a"), &proxy);
    until("first transaction", || proxy.steps().len() == 1).await;
    let address = controller.address;
    let mut controller = Some(controller);
    for round in 1..=3 {
        controller.take().expect("running").stop().await;
        until("noticed", || !running.client.connection().borrow().connected).await;
        // Published while nobody serves.
        book.publish("a", view(&[policy("x", json!(round)), policy("same", json!(1))], &[]));
        controller = Some(Controller::start(&authority, &book, Some(address), quick()).await);
        until("resumed", || proxy.0.lock().have[&key("TrafficPolicy/shop/x")].spec == json!(round)).await;
    }
    let sent: Vec<_> = proxy.steps().into_iter().map(|(upserts, _)| upserts.join(" ")).collect();
    assert_eq!(sent, ["x", "same x", "x", "x"]);
}

#[tokio::test]
async fn a_server_that_dies_midway_leaves_the_client_with_the_last_whole_transaction() {
    let (authority, book, controller) = world(quick()).await;
    book.publish("a", view(&[policy("x", json!(0))], &[]));
    let proxy = Proxy::default();
    let _running = connect(options(&authority, controller.address, "token-a"), &proxy);
    until("first transaction", || proxy.steps().len() == 1).await;
    proxy.0.lock().delay = Duration::from_millis(50);
    let address = controller.address;
    let stopping = tokio::spawn(controller.stop());
    for round in 1..=20 {
        book.publish("a", view(&[policy("x", json!(round)), policy("y", json!(round))], &[]));
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    stopping.await.expect("stopped");
    {
        let have = &proxy.0.lock().have;
        let y = have.get(&key("TrafficPolicy/shop/y"));
        assert!(y.is_none_or(|y| y.spec == have[&key("TrafficPolicy/shop/x")].spec), "half a transaction");
    }
    let _controller = Controller::start(&authority, &book, Some(address), quick()).await;
    until("the newest", || proxy.0.lock().have.values().all(|resource| resource.spec == json!(20))).await;
}

#[tokio::test]
async fn a_client_that_does_not_prove_who_it_is_gets_nothing() {
    let (authority, book, controller) = world(quick()).await;
    book.publish("a", view(&[policy("x", json!(1))], &[]));
    for token in ["", "wrong", "token", "Bearer token-a", "token-a\nx"] {
        let proxy = Proxy::default();
        let running = connect(options(&authority, controller.address, token), &proxy);
        let connection = running.client.connection();
        until("refused", || connection.borrow().error.is_some()).await;
        let error = connection.borrow().error.clone().unwrap_or_default();
        assert!(error.contains("refused") && (token.is_empty() || !error.contains(token) || token == "token"), "{token}: {error}");
        assert!(proxy.steps().is_empty(), "{token}");
    }
    assert!(controller.server.connected().is_empty());
}

#[tokio::test]
async fn a_client_that_cannot_be_judged_yet_is_told_when_to_come_back() {
    let (authority, book, controller) = world(quick()).await;
    book.publish("a", view(&[policy("x", json!(1))], &[]));
    let proxy = Proxy::default();
    let running = connect(options(&authority, controller.address, "early-a"), &proxy);
    let connection = running.client.connection();
    until("sent away", || connection.borrow().error.is_some()).await;
    let error = connection.borrow().error.clone().unwrap_or_default();
    assert!(error.contains("come back in"), "{error}");
    assert!(proxy.steps().is_empty() && controller.server.connected().is_empty());
}

#[tokio::test]
async fn a_client_does_not_speak_to_a_server_it_cannot_verify() {
    let (authority, book, controller) = world(quick()).await;
    book.publish("a", view(&[policy("x", json!(1))], &[]));
    let good = options(&authority, controller.address, "token-a");
    let other_name = super::client::Options { server_name: "somebody.else".into(), ..good.clone() };
    let other_root = options(&Authority::new(), controller.address, "token-a");
    for bad in [other_name, other_root] {
        let proxy = Proxy::default();
        let running = connect(bad, &proxy);
        let connection = running.client.connection();
        until("refused", || connection.borrow().error.is_some()).await;
        assert!(connection.borrow().error.as_ref().is_some_and(|error| error.contains("certificate")), "{:?}", connection.borrow());
        assert!(proxy.steps().is_empty());
    }
}

#[tokio::test]
async fn the_name_in_hello_does_not_widen_what_may_be_read() {
    let (authority, book, controller) = world(quick()).await;
    book.publish("a", view(&[policy("of-a", json!(1))], &[]));
    book.publish("b", view(&[policy("of-b", json!(1))], &[]));
    let proxy = Proxy::default();
    let mut options = options(&authority, controller.address, "token-a");
    options.node = "b".into();
    let running = connect(options, &proxy);
    until("first transaction", || proxy.steps().len() == 1).await;
    let of_b = running.client.want(Subject::Key(key("TrafficPolicy/shop/of-b"))).await;
    assert_eq!(of_b, Err(AskError::NotFound));
    assert_eq!(proxy.names(), ["of-a"]);
    assert_eq!(controller.server.connected()[0].uid, "a");
}

#[tokio::test]
async fn a_bad_resource_is_rejected_alone_by_key_and_reason() {
    let (authority, book, controller) = world(quick()).await;
    let views = view(&[policy("good", json!(1)), policy("unusable", json!(1))], &[]);
    // As a later release might write it: a field of the Resource that this one does not know.
    let mut later = serde_json::to_value(policy("later", json!(1))).expect("JSON");
    later["mood"] = json!("blue");
    book.publish("a", with_later(views, &later));
    let proxy = Proxy(Arc::new(Mutex::new(ProxyState { unusable: vec![key("TrafficPolicy/shop/unusable")], ..ProxyState::default() })));
    let _running = connect(options(&authority, controller.address, "token-a"), &proxy);
    until("acknowledged", || book.acks.lock().len() == 1).await;
    let rejected: Vec<_> = book.rejected().into_iter().map(|r| (r.key.name, r.version, r.reason)).collect();
    assert_eq!(rejected.len(), 2, "{rejected:?}");
    assert_eq!((rejected[0].0.as_str(), rejected[0].2.as_str()), ("unusable", "cannot be used"));
    assert!(rejected[1].0 == "later" && rejected[1].1 == later["version"] && rejected[1].2.contains("`mood`"), "{rejected:?}");
    // The shell of the malformed one is kept, so that a guard refuses instead of being absent.
    assert_eq!(proxy.names(), ["good", "later", "unusable"]);
    // The next Ack says it again, until it is replaced.
    book.publish("a", with_later(view(&[policy("good", json!(2))], &[]), &later));
    until("acknowledged", || book.acks.lock().len() == 2).await;
    assert_eq!(book.acks.lock()[1].1.rejected.iter().map(|r| r.key.name.clone()).collect::<Vec<_>>(), ["later"]);
    book.publish("a", view(&[policy("good", json!(2)), policy("later", json!(2))], &[]));
    until("acknowledged", || book.acks.lock().len() == 3).await;
    assert!(book.acks.lock()[2].1.rejected.is_empty());
}

fn with_later(mut view: super::server::View, later: &serde_json::Value) -> super::server::View {
    Arc::make_mut(&mut view.given).insert(key("TrafficPolicy/shop/later"), encoded("TrafficPolicy/shop/later", later));
    view
}

#[tokio::test]
async fn a_server_with_nothing_to_say_yet_takes_nothing_away() {
    let (authority, book, controller) = world(quick()).await;
    *book.silent.lock() = true;
    let proxy = Proxy::default();
    proxy.0.lock().have.insert(key("TrafficPolicy/shop/x"), policy("x", json!(1)));
    let running = connect(options(&authority, controller.address, "token-a"), &proxy);
    let connection = running.client.connection();
    until("sent away", || connection.borrow().error.as_ref().is_some_and(|error| error.contains("sent us away"))).await;
    assert!(proxy.steps().is_empty());
    assert_eq!(proxy.names(), ["x"]);
    book.publish("a", view(&[policy("x", json!(2))], &[]));
    *book.silent.lock() = false;
    until("served", || proxy.steps().len() == 1).await;
    assert_eq!(proxy.steps()[0], (vec!["x".to_string()], vec![]));
}

fn encoded(name: &str, value: &serde_json::Value) -> Arc<super::Encoded> {
    let json = serde_json::value::to_raw_value(value).expect("JSON");
    Arc::new(super::Encoded { key: key(name), version: value["version"].as_str().unwrap_or_default().into(), json: Arc::from(json) })
}

#[tokio::test]
async fn a_transaction_larger_than_a_part_arrives_whole() {
    let (authority, book, controller) = world(quick()).await;
    let large = |name: &str, bytes: usize| policy(name, json!("x".repeat(bytes)));
    let given = [large("a", PART / 2), large("b", PART / 2), large("c", PART * 2), large("d", 10), large("e", PART)];
    book.publish("a", view(&given, &[]));
    let proxy = Proxy::default();
    let _running = connect(options(&authority, controller.address, "token-a"), &proxy);
    until("first transaction", || proxy.steps().len() == 1).await;
    for resource in given {
        assert!(proxy.0.lock().have[&resource.key] == resource, "{}", resource.key);
    }
}

#[tokio::test]
async fn while_a_transaction_is_under_way_the_latest_wins() {
    let (authority, book, controller) = world(quick()).await;
    book.publish("a", view(&[policy("x", json!(0))], &[]));
    let gate = Arc::new(Semaphore::new(0));
    let proxy = Proxy(Arc::new(Mutex::new(ProxyState { gate: Some(gate.clone()), ..ProxyState::default() })));
    let _running = connect(options(&authority, controller.address, "token-a"), &proxy);
    until("first transaction under way", || !controller.server.connected().is_empty()).await;
    for round in 1..=50 {
        book.publish("a", view(&[policy("x", json!(round))], &[]));
        tokio::task::yield_now().await;
    }
    gate.add_permits(100);
    until("the newest", || proxy.0.lock().have.values().any(|resource| resource.spec == json!(50))).await;
    assert!(proxy.steps().len() <= 2, "{} steps for 50 changes", proxy.steps().len());
}

#[tokio::test]
async fn what_is_wanted_arrives_before_the_answer_and_stays_up_to_date() {
    let (authority, book, controller) = world(quick()).await;
    book.publish("a", view(&[], &[policy("orders", json!(1)), policy("stock", json!(1)), certificate("tls")]));
    let proxy = Proxy::default();
    let running = connect(options(&authority, controller.address, "token-a"), &proxy);
    let host = Subject::Host("orders".into());
    let found = running.client.want(host.clone()).await;
    // The source offered the certificate too; the server kept it back.
    assert_eq!(found, Ok(vec![key("TrafficPolicy/shop/orders")]));
    assert_eq!(proxy.names(), ["orders"]);
    book.publish("a", view(&[], &[policy("orders", json!(2)), policy("stock", json!(2))]));
    until("update", || proxy.0.lock().have.values().any(|resource| resource.spec == json!(2))).await;
    assert_eq!(proxy.names(), ["orders"]);
    // Over a reconnection as well, without being sent again.
    let (address, steps) = (controller.address, proxy.steps().len());
    controller.stop().await;
    let controller = Controller::start(&authority, &book, Some(address), quick()).await;
    until("resumed", || proxy.steps().len() > steps).await;
    assert_eq!(proxy.steps()[steps], (vec![], vec![]));
    running.client.release(host).await.expect("connected");
    until("released", || {
        book.publish("a", view(&[], &[policy("orders", json!(3))]));
        proxy.names().is_empty()
    })
    .await;
    drop(controller);
}

#[tokio::test]
async fn what_does_not_exist_is_asked_for_once() {
    let (authority, book, controller) = world(quick()).await;
    let proxy = Proxy::default();
    let running = connect(options(&authority, controller.address, "token-a"), &proxy);
    let absent = Subject::Addr("10.0.0.1:80".parse().expect("an address"));
    for _ in 0..3 {
        assert_eq!(running.client.want(absent.clone()).await, Err(AskError::NotFound));
    }
    assert_eq!(book.finds.lock().len(), 1);
    drop(running);
    controller.stop().await;
    // With no time to remember it for, each question is asked.
    let (authority, book, controller) = world(Limits { not_found: Duration::ZERO, ..quick() }).await;
    let running = connect(options(&authority, controller.address, "token-a"), &proxy);
    for _ in 0..3 {
        assert_eq!(running.client.want(absent.clone()).await, Err(AskError::NotFound));
    }
    assert_eq!(book.finds.lock().len(), 3);
}

#[tokio::test]
async fn a_certificate_is_no_answer_to_want() {
    let (authority, book, controller) = world(quick()).await;
    book.publish("a", view(&[], &[certificate("tls")]));
    let proxy = Proxy::default();
    let running = connect(options(&authority, controller.address, "token-a"), &proxy);
    assert_eq!(running.client.want(Subject::Key(key("Certificate/shop/tls"))).await, Err(AskError::NotFound));
    assert!(book.finds.lock().is_empty(), "the source was not even asked");
    assert!(proxy.names().is_empty());
}

#[tokio::test]
async fn a_signing_request_is_signed_for_the_node_that_is_connected_or_refused() {
    let (authority, _book, controller) = world(quick()).await;
    let running = connect(options(&authority, controller.address, "token-a"), &Proxy::default());
    assert_eq!(running.client.sign("GOOD".into()).await, Ok("CHAIN for a".into()));
    let refused = running.client.sign("BAD".into()).await;
    assert_eq!(refused, Err(AskError::Refused("the request names another account".into())));
    assert_eq!(running.client.sign("GOOD".into()).await, Ok("CHAIN for a".into()));
}

#[tokio::test]
async fn a_proxy_explains_and_reports() {
    let (authority, book, controller) = world(quick()).await;
    let proxy = Proxy::default();
    let running = connect(options(&authority, controller.address, "token-a"), &proxy);
    until("connected", || !controller.server.connected().is_empty()).await;
    let patience = Duration::from_secs(5);
    assert_eq!(controller.server.explain("a", json!("GET /"), patience).await, Ok(json!({"of": "GET /"})));
    assert_eq!(controller.server.explain("b", json!("GET /"), patience).await, Err(ExplainError::NotConnected("b".into())));
    running.client.report(json!({"requests": 1})).expect("there is room");
    until("reported", || *book.reports.lock() == [json!({"requests": 1})]).await;
    drop(running);
    until("gone", || controller.server.connected().is_empty()).await;
}

#[tokio::test]
async fn a_report_that_finds_no_room_is_not_taken() {
    let authority = Authority::new();
    // Its driver does not run: nobody takes anything out of the queue.
    let (client, _driver) = Client::new(options(&authority, "127.0.0.1:1".parse().expect("an address"), "token-a"), Proxy::default());
    let taken = (0..1000).take_while(|number| client.report(json!(number)).is_ok()).count();
    assert!((1..1000).contains(&taken), "{taken}");
    assert_eq!(client.report(json!("more")), Err(AskError::Busy));
}

#[tokio::test]
async fn more_streams_than_allowed_are_turned_away_and_come_in_when_there_is_room() {
    let (authority, book, controller) = world(Limits { streams: 1, ..quick() }).await;
    book.publish("b", view(&[policy("x", json!(1))], &[]));
    let first = connect(options(&authority, controller.address, "token-a"), &Proxy::default());
    until("first", || first.client.connection().borrow().transactions == 1).await;
    let proxy = Proxy::default();
    let second = connect(options(&authority, controller.address, "token-b"), &proxy);
    let connection = second.client.connection();
    until("turned away", || connection.borrow().error.as_ref().is_some_and(|error| error.contains("too many streams"))).await;
    assert!(proxy.steps().is_empty());
    drop(first);
    until("let in", || proxy.names() == ["x"]).await;
}

#[tokio::test]
async fn a_client_that_does_not_acknowledge_is_cut_off() {
    let (authority, book, controller) = world(Limits { ack: Duration::from_millis(50), ..quick() }).await;
    book.publish("a", view(&[policy("x", json!(1))], &[]));
    let proxy = Proxy(Arc::new(Mutex::new(ProxyState { delay: Duration::from_millis(300), ..ProxyState::default() })));
    let running = connect(options(&authority, controller.address, "token-a"), &proxy);
    let connection = running.client.connection();
    until("cut off", || connection.borrow().error.as_ref().is_some_and(|error| error.contains("acknowledged"))).await;
    assert!(book.acks.lock().is_empty());
}

#[tokio::test]
async fn a_newer_stream_of_a_proxy_takes_the_place_of_the_older() {
    let (authority, _book, controller) = world(quick()).await;
    let first = connect(options(&authority, controller.address, "token-a"), &Proxy::default());
    until("first", || first.client.connection().borrow().transactions == 1).await;
    let second = connect(options(&authority, controller.address, "token-a"), &Proxy::default());
    let connection = first.client.connection();
    until("replaced", || connection.borrow().error.is_some()).await;
    assert!(connection.borrow().error.as_ref().is_some_and(|error| error.contains("took over")), "{:?}", connection.borrow());
    drop(first);
    until("one is left", || controller.server.connected().len() == 1).await;
    drop(second);
}
