//! An HTTP/1.1 backend that reads strictly: what could be read in two ways is a violation, and no test may see one.

use parking_lot::Mutex;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

/// A request as it came.
#[derive(Clone, Debug)]
pub(in crate::driver) struct Recorded {
    pub(in crate::driver) target: String,
    fields: Vec<(String, String)>,
    pub(in crate::driver) body: Vec<u8>,
}

/// What is done with a request.
pub(in crate::driver) enum Reply {
    /// These bytes are sent.
    Bytes(Vec<u8>),
    /// Each after a wait.
    Slowly(Vec<(Duration, Vec<u8>)>),
    /// The connection is closed.
    Close,
    /// These bytes, then whatever comes is sent back.
    Echo(Vec<u8>),
}

type Script = dyn Fn(usize, &Recorded) -> Reply + Send + Sync;

/// A backend; ends when dropped.
pub(in crate::driver) struct Backend {
    pub(in crate::driver) address: SocketAddr,
    log: Arc<Log>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Log {
    requests: Mutex<Vec<Recorded>>,
    violations: Mutex<Vec<String>>,
    begun: AtomicUsize,
    connections: AtomicUsize,
}

/// A complete answer.
pub(in crate::driver) fn ok(body: &str) -> Reply {
    Reply::Bytes(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes())
}

impl Recorded {
    /// The values of a field.
    pub(in crate::driver) fn all(&self, name: &str) -> Vec<&str> {
        self.fields.iter().filter(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str()).collect()
    }

    /// The one value of a field.
    pub(in crate::driver) fn one(&self, name: &str) -> Option<&str> {
        let all = self.all(name);
        assert!(all.len() <= 1, "{name} came {} times", all.len());
        all.first().copied()
    }

    /// Names of all fields.
    pub(in crate::driver) fn names(&self) -> Vec<String> {
        self.fields.iter().map(|(name, _)| name.to_ascii_lowercase()).collect()
    }
}

impl Backend {
    /// Starts one that answers by `script`, which is given the number of the request (from 0) too.
    pub(in crate::driver) async fn start(script: impl Fn(usize, &Recorded) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let log = Arc::new(Log::default());
        let (kept, script): (_, Arc<Script>) = (log.clone(), Arc::new(script));
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                kept.connections.fetch_add(1, Ordering::SeqCst);
                connections.spawn(serve(stream, kept.clone(), script.clone()));
            }
        });
        Self { address, log, task }
    }

    /// One that says `hello`.
    pub(in crate::driver) async fn hello() -> Self {
        Self::start(|_, _| ok("hello")).await
    }

    /// What came; panics over a violation.
    pub(in crate::driver) fn requests(&self) -> Vec<Recorded> {
        let violations = self.log.violations.lock();
        assert!(violations.is_empty(), "{violations:?}");
        self.log.requests.lock().clone()
    }

    /// What came last.
    pub(in crate::driver) fn last(&self) -> Recorded {
        self.requests().pop().expect("a request has come")
    }

    /// How many connections there have been.
    pub(in crate::driver) fn connections(&self) -> usize {
        self.log.connections.load(Ordering::SeqCst)
    }

    /// How many came.
    pub(in crate::driver) fn count(&self) -> usize {
        self.requests().len()
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(mut stream: TcpStream, log: Arc<Log>, script: Arc<Script>) {
    let mut buffer = Vec::new();
    loop {
        let request = match read(&mut stream, &mut buffer).await {
            Ok(Some(request)) => request,
            Ok(None) => return,
            Err(violation) => {
                log.violations.lock().push(violation);
                return;
            }
        };
        let number = log.begun.fetch_add(1, Ordering::SeqCst);
        log.requests.lock().push(request.clone());
        let sent = match script(number, &request) {
            Reply::Close => return,
            Reply::Bytes(bytes) => stream.write_all(&bytes).await,
            Reply::Slowly(parts) => {
                for (wait, bytes) in parts {
                    tokio::time::sleep(wait).await;
                    if stream.write_all(&bytes).await.is_err() {
                        return;
                    }
                }
                Ok(())
            }
            Reply::Echo(bytes) => {
                let _ = stream.write_all(&bytes).await;
                let _ = stream.write_all(&buffer).await;
                let (mut read, mut write) = stream.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
                return;
            }
        };
        if sent.is_err() {
            return;
        }
    }
}

async fn more(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> bool {
    stream.read_buf(buffer).await.is_ok_and(|read| read > 0)
}

async fn read(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Result<Option<Recorded>, String> {
    let end = loop {
        if let Some(end) = find(buffer, b"\r\n\r\n") {
            break end;
        }
        if !more(stream, buffer).await {
            return if buffer.is_empty() { Ok(None) } else { Err(format!("half a head: {:?}", String::from_utf8_lossy(buffer))) };
        }
    };
    let head: Vec<u8> = buffer.drain(..end + 4).collect();
    let mut request = parse(&head[..end])?;
    if let Some(length) = request.one("content-length") {
        let length: usize = length.parse().map_err(|_| format!("length {length}"))?;
        while buffer.len() < length {
            if !more(stream, buffer).await {
                return Ok(None);
            }
        }
        request.body = buffer.drain(..length).collect();
    } else if request.one("transfer-encoding").is_some() {
        loop {
            let line = loop {
                if let Some(end) = find(buffer, b"\r\n") {
                    break end;
                }
                if !more(stream, buffer).await {
                    return Ok(None);
                }
            };
            let size: Vec<u8> = buffer.drain(..line + 2).collect();
            let size = std::str::from_utf8(&size[..line]).ok().and_then(|size| usize::from_str_radix(size, 16).ok()).ok_or("chunk size")?;
            while buffer.len() < size + 2 {
                if !more(stream, buffer).await {
                    return Ok(None);
                }
            }
            let chunk: Vec<u8> = buffer.drain(..size + 2).collect();
            if &chunk[size..] != b"\r\n" {
                return Err("a chunk does not end".into());
            }
            request.body.extend_from_slice(&chunk[..size]);
            if size == 0 {
                break;
            }
        }
    }
    Ok(Some(request))
}

/// Reads a head as the strictest server would.
fn parse(head: &[u8]) -> Result<Recorded, String> {
    let text = String::from_utf8_lossy(head).into_owned();
    let violation = |what: &str| Err(format!("{what}: {text:?}"));
    let mut lines = text.split("\r\n");
    let first: Vec<&str> = lines.next().unwrap_or_default().split(' ').collect();
    let [method, target, "HTTP/1.1"] = first.as_slice() else { return violation("request line") };
    if !method.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'-') || !target.starts_with('/') || target.contains('#') {
        return violation("method or target");
    }
    let path = target.split('?').next().unwrap_or_default().to_ascii_lowercase();
    if path.contains("//")
        || path.contains("/../")
        || path.contains("%2f")
        || path.contains("%5c")
        || path.contains('\\')
        || !path.is_ascii()
    {
        return violation("path");
    }
    let mut fields = Vec::new();
    for line in lines {
        let Some((name, value)) = line.split_once(": ") else { return violation("field") };
        let token = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte));
        if !token || value.bytes().any(|byte| byte < b' ' && byte != b'\t') || value.contains('\n') {
            return violation("field");
        }
        fields.push((name.to_string(), value.to_string()));
    }
    let request = Recorded { target: target.to_string(), fields, body: Vec::new() };
    let (hosts, lengths, codings) = (request.all("host"), request.all("content-length"), request.all("transfer-encoding"));
    let host_ok =
        |host: &str| !host.is_empty() && host.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-._:[]".contains(&b));
    if hosts.len() != 1 || !host_ok(hosts[0]) {
        return violation("Host");
    }
    if lengths.len() + codings.len() > 1 || lengths.iter().any(|l| l.is_empty() || !l.bytes().all(|b| b.is_ascii_digit())) {
        return violation("framing");
    }
    if codings.iter().any(|coding| *coding != "chunked") {
        return violation("coding");
    }
    let upgrade = request.one("upgrade").is_some();
    for name in request.names() {
        let hop = ["connection", "upgrade"].contains(&name.as_str()) && !upgrade;
        let never = ["keep-alive", "proxy-connection", "proxy-authorization", "te", "trailer", "http2-settings", "forwarded"];
        if hop || never.contains(&name.as_str()) {
            return violation("hop-by-hop");
        }
    }
    Ok(request)
}

fn find(buffer: &[u8], what: &[u8]) -> Option<usize> {
    buffer.windows(what.len()).position(|window| window == what)
}
