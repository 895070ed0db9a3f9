//! Parts of a test that must be processes of their own, because user and network namespace are properties of a process.
//!
//! ```text
//! standalone proxy          Resources as JSON on standard input, one line; runs until that ends
//! standalone application A  a Recorder at A; runs until standard input ends
//! standalone greeter A      a TCP server at A that speaks first, then says back what it hears; runs until standard input ends
//! standalone echo A         a UDP server at A that sends back what it gets; runs until standard input ends
//! standalone call A H T     one request to A with Host H and target T; prints what came back
//! standalone talk A W       a TCP connection to A that says W and nothing more; prints after how many milliseconds it heard something or
//!                           the end, what it heard, and how it ended
//! standalone datagram A     a UDP datagram to A; prints what came back
//! ```

use http::Method;
use selvage_tests::Client;
use selvage_tests::standalone::{Recorder, Resources, Standalone};
use std::io::{BufRead, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

/// Longer than any answer takes.
const PATIENCE: Duration = Duration::from_secs(20);

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
        ["greeter", address] => {
            let listener = TcpListener::bind(address).expect("a port");
            // Ends with the process.
            std::thread::spawn(move || listener.incoming().flatten().for_each(|stream| drop(std::thread::spawn(move || greet(stream)))));
            say("ready");
            wait();
        }
        ["echo", address] => {
            let socket = UdpSocket::bind(address).expect("a port");
            // Ends with the process.
            std::thread::spawn(move || {
                let mut datagram = [0; 512];
                while let Ok((length, peer)) = socket.recv_from(&mut datagram) {
                    let _ = socket.send_to(&datagram[..length], peer);
                }
            });
            say("ready");
            wait();
        }
        ["talk", address, words] => say(&talk(address, words)),
        ["datagram", address] => say(&datagram(address).unwrap_or_else(|error| error.to_string())),
        ["call", address, host, target] => say(&runtime.block_on(call(address, host, target))),
        _ => panic!("see the head of this program"),
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

/// Speaks first, then says back what it hears until the client has said all.
fn greet(mut stream: TcpStream) -> std::io::Result<()> {
    stream.write_all(b"hello ")?;
    let mut heard = [0; 512];
    loop {
        match stream.read(&mut heard)? {
            0 => return Ok(()),
            length => stream.write_all(&heard[..length])?,
        }
    }
}

/// After how many milliseconds something was heard or it ended, what was heard until the end, then `end`, `reset`, `late` or another kind of it.
fn talk(address: &str, words: &str) -> String {
    let mut heard = Vec::new();
    let (begun, mut after) = (Instant::now(), None);
    let outcome = TcpStream::connect(address).and_then(|mut stream| {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(words.as_bytes())?;
        if words.is_empty() {
            // It does not say a word until it has heard one.
            let mut first = [0; 16];
            let length = stream.read(&mut first)?;
            after = Some(begun.elapsed());
            heard.extend_from_slice(&first[..length]);
        }
        stream.shutdown(std::net::Shutdown::Write)?;
        stream.read_to_end(&mut heard)
    });
    let end = match outcome.map_err(|error| error.kind()) {
        Ok(_) => "end".to_string(),
        Err(ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::NotConnected) => "reset".into(),
        Err(ErrorKind::WouldBlock) => "late".into(),
        Err(other) => format!("{other:?}"),
    };
    let heard = String::from_utf8_lossy(&heard).split_whitespace().collect::<Vec<_>>().join(" ");
    format!("{} {heard} {end}", after.unwrap_or_else(|| begun.elapsed()).as_millis())
}

fn datagram(address: &str) -> std::io::Result<String> {
    let socket = UdpSocket::bind(if address.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" })?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.send_to(b"echo", address)?;
    let mut answer = [0; 512];
    let length = socket.recv(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer[..length]).into_owned())
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
