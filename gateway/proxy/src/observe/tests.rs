use super::access::{Sink, bounded};
use super::labels::{Accepted, Attempt, Carries, Direction, Protocol, Retry};
use super::*;
use parking_lot::Mutex;
use selvage_policy::{Denial, Key, Reason};
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, SystemTime};

#[derive(Clone, Default)]
struct Shelf(Arc<Mutex<Vec<u8>>>);

impl Write for Shelf {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A sink that takes nothing before it is told to.
struct Stuck(Receiver<()>);

impl Write for Stuck {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _ = self.0.recv();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn denial(policy: Option<Key>) -> Denial {
    Denial { policy: policy.map(Arc::new), ..Denial::of(Reason::AuthorizationDenied, "no") }
}

#[test]
fn series_do_not_depend_on_who_calls_what() {
    let metrics = Metrics::new().unwrap();
    let once = |name: &str| {
        metrics.requests.ended(Protocol::Http1, 200, Duration::from_millis(3), None);
        let key = Key::new("AuthorizationPolicy", "shop", name);
        metrics.requests.ended(Protocol::Http2, 403, Duration::from_millis(3), Some(&denial(Some(key))));
        metrics.requests.ended(Protocol::Grpc, 200, Duration::from_millis(3), Some(&denial(Some(Key::new(name, "shop", name)))));
        metrics.upstream.attempt(Attempt::Answered);
        metrics.upstream.retry(Retry::Made);
        metrics.connections.accepted(Accepted::Served);
        metrics.connections.bytes(Direction::Sent, 3);
    };
    once("first");
    let series = metrics.series();
    (0..500).for_each(|n| once(&format!("name-{n}")));
    assert_eq!(metrics.series(), series);
    assert_eq!(metrics.requests.denied_with(Reason::AuthorizationDenied), 2 * 501);
}

#[test]
fn what_is_under_way_is_counted_until_dropped() {
    let metrics = Metrics::new().unwrap();
    let request = metrics.requests.begin();
    let connection = metrics.connections.open(Carries::Tcp);
    assert_eq!((metrics.requests.in_flight(), metrics.connections.active()), (1, 1));
    drop((request, connection));
    assert_eq!((metrics.requests.in_flight(), metrics.connections.active()), (0, 0));
}

#[test]
fn two_proxies_in_one_process_have_metrics_of_their_own() {
    let (one, other) = (Metrics::new().unwrap(), Metrics::new().unwrap());
    one.upstream.attempt(Attempt::Reset);
    let count = |metrics: &Metrics| {
        let text = String::from_utf8(metrics.render().unwrap()).unwrap();
        text.lines().find(|line| line.contains("outcome=\"reset\"")).map(str::to_string)
    };
    assert_eq!(count(&one).unwrap(), "selvage_upstream_attempts_total{outcome=\"reset\"} 1");
    assert_eq!(count(&other).unwrap(), "selvage_upstream_attempts_total{outcome=\"reset\"} 0");
}

#[test]
fn figures_of_the_configuration_move_by_themselves() {
    let metrics = Metrics::new().unwrap();
    let value = |name: &str| {
        let text = String::from_utf8(metrics.render().unwrap()).unwrap();
        text.lines().find(|line| line.starts_with(name)).and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
    };
    assert_eq!(value("selvage_config_age_seconds"), Some(-1.0));
    metrics.configuration.applied(7, 2);
    let soon = SystemTime::now() + Duration::from_secs(3600);
    let many = (0..100).map(|n| (format!("Certificate/shop/c{n}"), soon + Duration::from_secs(n))).collect();
    metrics.configuration.certificates(many);
    assert_eq!((value("selvage_config_generation"), value("selvage_config_rejected")), (Some(7.0), Some(2.0)));
    assert_eq!(value("selvage_config_age_seconds"), Some(-1.0), "nobody has said that it is current");
    metrics.configuration.aged(Some(Duration::from_secs(90)));
    assert_eq!(value("selvage_config_age_seconds"), Some(90.0));
    metrics.configuration.aged(None);
    assert_eq!(value("selvage_config_age_seconds"), Some(-1.0));
    let left = value("selvage_certificate_expiry_seconds{certificate=\"Certificate/shop/c0\"}").unwrap();
    assert!((3590.0..=3600.0).contains(&left), "{left}");
    assert_eq!(value("selvage_certificate_expiry_seconds{certificate=\"Certificate/shop/c99\"}"), None, "bounded");
}

#[test]
fn a_line_is_a_line_whatever_a_client_sends() {
    let shelf = Shelf::default();
    let log = AccessLog::to(shelf.clone()).unwrap();
    let hostile = "/a\r\n{\"forged\":true}\u{1b}[31m\u{7f}\"";
    log.write(&Entry { path: hostile, method: "GET", reason: "no_route", ..Entry::default() });
    drop(log);
    let text = String::from_utf8(shelf.0.lock().clone()).unwrap();
    assert_eq!(text.matches('\n').count(), 1, "{text}");
    assert!(!text.contains(['\r', '\u{1b}']), "{text}");
    let line: serde_json::Value = serde_json::from_str(text.trim_end()).unwrap();
    assert_eq!(line["path"], hostile);
    assert_eq!(line["reason"], "no_route");
    assert!(line.get("forged").is_none() && line.get("policy").is_none());
}

#[test]
fn a_stuck_sink_costs_lines_and_never_time() {
    let (go, stuck): (Sender<()>, _) = channel();
    let log = AccessLog::to(Stuck(stuck)).unwrap();
    let began = std::time::Instant::now();
    let lost = (0..20_000).filter(|_| !log.write(&Entry { path: "/x", ..Entry::default() })).count();
    assert!(began.elapsed() < Duration::from_secs(5));
    assert!(lost >= 1000, "{lost}");
    drop(go);
}

#[test]
fn long_texts_are_cut_at_a_character() {
    assert_eq!(bounded("/short"), "/short");
    let long = "é".repeat(800);
    assert_eq!(bounded(&long).len(), 1024);
    assert!(AccessLog::open(&Sink::Off).is_ok_and(|log| !log.is_on() && log.write(&Entry::default())));
}
