//! Parts of a test that must be processes of their own, because user and network namespace are properties of a process.
//!
//! ```text
//! standalone proxy          Resources as JSON on standard input, one line; runs until that ends
//! standalone application A  a Recorder at A; runs until standard input ends
//! standalone call A H T     one request to A with Host H and target T; prints what came back
//! ```

use http::Method;
use selvage_tests::Client;
use selvage_tests::standalone::{Recorder, Resources, Standalone};
use std::io::{BufRead, Read, Write};
use std::time::Duration;

/// Longer than any answer takes.
const PATIENCE: Duration = Duration::from_secs(5);

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    selvage_tests::client::crypto();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    match words[..] {
        ["proxy"] => {
            let mut line = String::new();
            std::io::stdin().lock().read_line(&mut line).expect("standard input can be read");
            let resources = Resources::of(serde_json::from_str(&line).expect("a list of Resources"));
            let proxy = runtime.block_on(Standalone::start(&resources));
            say(&if proxy.rejected.is_empty() { "ready".to_string() } else { format!("{:?}", proxy.rejected) });
            wait();
        }
        ["application", address] => {
            let recorder = runtime.block_on(Recorder::start(address.parse().expect("an address")));
            say("ready");
            wait();
            drop(recorder);
        }
        ["call", address, host, target] => say(&runtime.block_on(call(address, host, target))),
        _ => panic!("standalone proxy | application ADDRESS | call ADDRESS HOST TARGET"),
    }
}

/// Status and body, or what went wrong.
async fn call(address: &str, host: &str, target: &str) -> String {
    let client = Client::new(address.parse().expect("an address")).with("host", host);
    match tokio::time::timeout(PATIENCE, client.try_send(Method::GET, target, "")).await {
        Ok(Ok(answer)) => format!("{} {}", answer.status, answer.text()),
        Ok(Err(problem)) => format!("000 {problem:#}").replace('\n', " "),
        Err(_) => "000 no answer".into(),
    }
}

fn say(line: &str) {
    let mut out = std::io::stdout();
    // A parent that is gone is told nothing.
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

/// Until the parent ends or closes our input.
fn wait() {
    let mut rest = Vec::new();
    let _ = std::io::stdin().lock().read_to_end(&mut rest);
}
