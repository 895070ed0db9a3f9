//! The access log: one JSON line a request.
//!
//! Requests put finished lines into a bounded queue and never wait; a thread of the log's own writes them. What the queue cannot take
//! is dropped and counted. JSON escapes control characters, so a line is a line whatever a client sends.

use jiff::Timestamp;
use selvage_policy::Denial;
use serde::Serialize;
use std::fs::OpenOptions;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::SystemTime;

/// Lines that may wait for the writer: a second of a busy proxy, a few megabytes at most.
const QUEUE: usize = 16_384;
/// Longest text of a client that is written; the rest is cut off.
const MAX_TEXT: usize = 1024;

/// Where the access log goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Sink {
    /// Nowhere.
    Off,
    /// Standard output.
    #[default]
    Stdout,
    /// The end of this file.
    File(PathBuf),
}

/// The access log of one proxy. Cheap to clone; the last clone waits for the lines written so far.
#[derive(Clone, Debug, Default)]
pub struct AccessLog(Option<Arc<Queue>>);

#[derive(Debug)]
struct Queue {
    lines: Option<SyncSender<Vec<u8>>>,
    writer: Option<JoinHandle<()>>,
}

/// What is known of a request once it has ended. Absent facts are left out of the line.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Entry<'a> {
    /// When it began, RFC 3339 in UTC with microseconds.
    pub time: String,
    /// The request id.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub request_id: &'a str,
    /// The W3C trace id.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub trace_id: &'a str,
    /// The listener, by key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listener: Option<String>,
    /// The route, by key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route: Option<String>,
    /// The route's rule.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub rule: &'a str,
    /// The policy that decided, by key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// The rule or limit in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy_rule: Option<&'a str>,
    /// Why it was refused or failed.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub reason: &'static str,
    /// One sentence about that.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub detail: &'a str,
    /// Policies in audit mode that would have refused, by key.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub audited: Vec<String>,
    /// The client's address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// The identity the peer proved.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub principal: Option<String>,
    /// `http1`, `http2`, `grpc`, `tcp`, or `http` where the head was not read.
    pub protocol: &'static str,
    /// The method.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub method: &'a str,
    /// The canonical host.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub host: &'a str,
    /// The canonical path, without query.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub path: &'a str,
    /// The status sent; 0 where none was; absent for opaque TCP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Body bytes from the client.
    pub bytes_received: u64,
    /// Body bytes to the client.
    pub bytes_sent: u64,
    /// From the request's head to the end of the response.
    pub duration_ms: f64,
    /// The endpoint that answered, or was tried last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// The workload behind it, by key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workload: Option<String>,
    /// Attempts at upstreams.
    pub attempts: u32,
}

impl AccessLog {
    /// No log.
    pub fn off() -> Self {
        Self(None)
    }

    /// Opens it; a file is made where there is none, readable by its owner alone, and appended to.
    pub fn open(sink: &Sink) -> io::Result<Self> {
        match sink {
            Sink::Off => Ok(Self::off()),
            Sink::Stdout => Self::to(io::stdout()),
            Sink::File(path) => Self::to(append(path)?),
        }
    }

    /// Writes to `out`.
    pub fn to(out: impl Write + Send + 'static) -> io::Result<Self> {
        let (lines, queue) = sync_channel(QUEUE);
        let writer = std::thread::Builder::new().name("access-log".into()).spawn(move || write_all(queue, out))?;
        Ok(Self(Some(Arc::new(Queue { lines: Some(lines), writer: Some(writer) }))))
    }

    /// Whether lines are wanted: making one costs allocations.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Queues a line; false where it is lost.
    pub fn write(&self, entry: &Entry<'_>) -> bool {
        let Some(queue) = &self.0 else { return true };
        let mut line = Vec::with_capacity(512);
        let made = serde_json::to_writer(&mut line, entry).is_ok();
        line.push(b'\n');
        made && queue.lines.as_ref().is_some_and(|lines| lines.try_send(line).is_ok())
    }
}

/// A client's text, cut to what a log line may hold.
pub fn bounded(text: &str) -> &str {
    match text.char_indices().take_while(|(at, c)| at + c.len_utf8() <= MAX_TEXT).last() {
        Some((at, c)) if text.len() > MAX_TEXT => &text[..at + c.len_utf8()],
        _ => text,
    }
}

/// The policies that refused, as the log writes them.
pub fn policies(denials: &[Denial]) -> Vec<String> {
    denials.iter().filter_map(|denial| denial.policy.as_ref()).map(ToString::to_string).collect()
}

/// A time as the log writes it.
pub fn rfc3339(time: SystemTime) -> String {
    Timestamp::try_from(time).map(|time| format!("{time:.6}")).unwrap_or_default()
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.lines = None;
        if let Some(writer) = self.writer.take() {
            // Its only way to fail is a panic of the sink; there is nobody left to tell.
            let _ = writer.join();
        }
    }
}

fn append(path: &Path) -> io::Result<impl Write + Send + use<>> {
    use std::os::unix::fs::OpenOptionsExt;
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

/// Writes lines as they come, and flushes whenever none waits.
fn write_all(queue: Receiver<Vec<u8>>, out: impl Write) {
    let mut out = BufWriter::new(out);
    while let Ok(line) = queue.recv() {
        // A full disk must not stop requests: what cannot be written is lost, and writing goes on with the next line.
        let _ = out.write_all(&line);
        while let Ok(line) = queue.try_recv() {
            let _ = out.write_all(&line);
        }
        let _ = out.flush();
    }
}
