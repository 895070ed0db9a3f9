use crate::wire::codec::parse;
use crate::wire::message::Messages;
use crate::wire::{Goaway, ToClient, ToServer, Update};
use serde_json::json;

fn to_client(text: &str) -> Result<ToClient, String> {
    parse(text.as_bytes())
}

#[test]
fn messages_of_later_releases_are_ignored_and_nonsense_is_not() {
    for later in [r#"{"dance":{"steps":[1,2]}}"#, r#"{"dance":null}"#, r#" { "dance" : 1 } "#] {
        assert!(matches!(to_client(later), Ok(ToClient::Unknown)), "{later}");
        assert!(matches!(parse::<ToServer>(later.as_bytes()), Ok(ToServer::Unknown)), "{later}");
    }
    let with_later_field = r#"{"goaway":{"retryAfter":5,"mood":"blue"}}"#;
    assert!(matches!(to_client(with_later_field), Ok(ToClient::Goaway(Goaway { retry_after: 5 }))));
    for bad in
        ["", "{}", "[]", "\"update\"", r#"{"update":{"txn":1},"goaway":{"retryAfter":1}}"#, r#"{"update":{}}"#, r#"{"update":{"txn":-1}}"#]
    {
        assert!(to_client(bad).is_err(), "{bad}");
    }
}

#[test]
fn errors_of_the_codec_do_not_quote_what_was_sent() {
    let error = to_client(r#"{"signed":{"id":"SECRET","chain":"SECRET"}}"#).expect_err("malformed");
    assert!(error.contains("`signed`") && !error.contains("SECRET"), "{error}");
}

#[test]
fn every_message_is_known_by_its_name_and_defaults_are_not_written() {
    let value = serde_json::to_value(ToClient::Update(Update { txn: 1, ..Update::default() })).expect("JSON");
    assert_eq!(value, json!({"update": {"txn": 1}}));
    // serde lists the variants of an enum in its message for an unknown one: the list must be the codec's.
    let variants = |error: serde_json::Error| {
        let text = error.to_string();
        let list = text.split("expected one of ").nth(1).expect("a list").split(" at line").next().expect("text").to_string();
        list.split(", ").map(|name| name.trim_matches('`').to_string()).collect::<Vec<_>>()
    };
    assert_eq!(variants(serde_json::from_str::<ToClient>(r#"{"x":1}"#).expect_err("unknown")), ToClient::NAMES);
    assert_eq!(variants(serde_json::from_str::<ToServer>(r#"{"x":1}"#).expect_err("unknown")), ToServer::NAMES);
}
