//! Clients that do not behave: silent ones, ones that do not read, ones that ask too much.

use super::harness::{Controller, PATIENCE, Proxy, Raw, connect, key, options, policy, until, view};
use super::{quick, world};
use crate::wire::server::Limits;
use crate::wire::{Ack, Hello, PROTOCOL, Subject, ToServer, Want};
use serde_json::json;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const BRIEF: Duration = Duration::from_millis(200);

async fn silent(controller: &Controller, count: usize) -> Vec<TcpStream> {
    let mut connections = Vec::new();
    for _ in 0..count {
        connections.push(TcpStream::connect(controller.address).await.expect("a connection"));
    }
    connections
}

/// Whether the other side has ended it.
async fn is_closed(mut connection: impl tokio::io::AsyncRead + Unpin) {
    let mut chunk = [0; 1024];
    let end = async { while matches!(connection.read(&mut chunk).await, Ok(1..)) {} };
    tokio::time::timeout(PATIENCE, end).await.expect("it is closed");
}

#[tokio::test]
async fn silent_connections_keep_nobody_out() {
    let (authority, book, controller) = world(quick()).await;
    book.publish("a", view(&[policy("x", json!(1))], &[]));
    let _silent = silent(&controller, 200).await;
    let proxy = Proxy::default();
    let _running = connect(options(&authority, controller.address, "token-a"), &proxy);
    until("served", || proxy.names() == ["x"]).await;
}

#[tokio::test]
async fn connections_from_one_address_are_bounded() {
    let (authority, book, controller) = world(Limits { connections_of_one_address: 3, ..quick() }).await;
    book.publish("a", view(&[policy("x", json!(1))], &[]));
    let mut silent = silent(&controller, 4).await;
    is_closed(silent.pop().expect("the fourth")).await;
    silent.clear();
    let proxy = Proxy::default();
    let _running = connect(options(&authority, controller.address, "token-a"), &proxy);
    until("served", || proxy.names() == ["x"]).await;
}

#[tokio::test]
async fn a_connection_without_a_stream_is_closed_and_one_with_a_stream_is_not() {
    let (authority, book, controller) = world(Limits { hello: BRIEF, ..quick() }).await;
    book.publish("a", view(&[policy("x", json!(1))], &[]));
    let proxy = Proxy::default();
    let running = connect(options(&authority, controller.address, "token-a"), &proxy);
    until("served", || running.client.connection().borrow().current).await;
    let since = running.client.connection().borrow().since;
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    for said in [b"".as_slice(), preface] {
        let mut connection = authority.handshake(controller.address).await;
        connection.write_all(said).await.expect("written");
        is_closed(connection).await;
    }
    assert_eq!(running.client.connection().borrow().since, since, "it still stands");
}

fn hello() -> ToServer {
    ToServer::Hello(Hello { protocol: PROTOCOL, node: "raw".into(), ..Hello::default() })
}

fn want(id: u64) -> ToServer {
    ToServer::Want(Want { id, subject: Subject::Key(key("TrafficPolicy/shop/offered")) })
}

#[tokio::test]
async fn a_client_that_does_not_read_its_answers_gives_its_place_back() {
    let (authority, book, controller) = world(Limits { streams: 1, ack: BRIEF, ..quick() }).await;
    for uid in ["a", "b"] {
        book.publish(uid, view(&[policy("x", json!(1))], &[policy("offered", json!(1))]));
    }
    // It takes not a byte, and says what it would say if it had.
    let raw = Raw::open(&authority, controller.address, "token-a", Some(0)).await.expect("let in");
    let wants = (1..=16).map(want);
    let acks = [1, 2].map(|txn| ToServer::Ack(Ack { txn, ..Ack::default() }));
    for message in std::iter::once(hello()).chain(wants).chain(acks) {
        raw.say.send(message).await.expect("it is heard");
    }
    until("acknowledged", || book.acks.lock().len() == 2).await;
    let proxy = Proxy::default();
    let _running = connect(options(&authority, controller.address, "token-b"), &proxy);
    until("another one has its place", || proxy.names() == ["x"]).await;
}

#[tokio::test]
async fn a_client_that_asks_too_much_at_once_is_cut_off() {
    let (authority, book, controller) = world(quick()).await;
    book.publish("a", view(&[], &[policy("offered", json!(1))]));
    let mut raw = Raw::open(&authority, controller.address, "token-a", None).await.expect("let in");
    raw.say.send(hello()).await.expect("it is heard");
    let say = raw.say.clone();
    let asking = tokio::spawn(async move {
        for id in 0.. {
            // It ends with the stream.
            if say.send(want(id)).await.is_err() {
                return;
            }
        }
    });
    let status = loop {
        match raw.hear().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("it ended without a word"),
            Err(status) => break status,
        }
    };
    assert!(status.message().contains("questions wait for an answer"), "{status:?}");
    drop(raw);
    asking.await.expect("no panic");
}

#[tokio::test]
async fn a_stream_is_replaced_while_its_certificate_is_being_made() {
    let (authority, book, controller) = world(quick()).await;
    let first = connect(options(&authority, controller.address, "token-a"), &Proxy::default());
    let connection = first.client.connection();
    until("first", || connection.borrow().current).await;
    let asking = first.client.clone();
    let _signing = tokio::spawn(async move { asking.sign("SLOW".into()).await });
    until("asked", || book.signing.load(Ordering::Relaxed) == 1).await;
    let _second = connect(options(&authority, controller.address, "token-a"), &Proxy::default());
    until("replaced", || connection.borrow().error.as_ref().is_some_and(|error| error.contains("took over"))).await;
}
