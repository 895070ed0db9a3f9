//! A backend that takes nothing for granted: it parses every byte by the letter of RFC 9112 and writes down whatever two programs could
//! read in two ways.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// Bytes of a head it reads before it gives up.
const MAX_HEAD: usize = 128 * 1024;

/// A request that arrived and was unambiguous.
#[derive(Clone, Debug)]
pub struct Arrived {
    pub target: String,
    pub fields: Vec<(String, String)>,
    pub body: Vec<u8>,
}

/// What arrived, and what was wrong with it.
#[derive(Debug, Default)]
pub struct Log {
    pub arrived: Vec<Arrived>,
    pub violations: Vec<String>,
}

/// The running backend.
#[derive(Debug)]
pub struct Strict {
    pub address: SocketAddr,
    log: Arc<Mutex<Log>>,
    task: JoinHandle<()>,
}

impl Strict {
    /// Starts it. It answers every request with 200 and `method target`; those whose path begins with `/early` before it reads their body.
    pub async fn start(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).await.unwrap_or_else(|error| panic!("{address}: {error}"));
        let address = listener.local_addr().expect("a bound socket has an address");
        let log: Arc<Mutex<Log>> = Arc::default();
        let shared = log.clone();
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                tokio::select! {
                    accepted = listener.accept() => if let Ok((stream, _)) = accepted {
                        connections.spawn(serve(stream, shared.clone()));
                    },
                    Some(_) = connections.join_next(), if !connections.is_empty() => {}
                }
            }
        });
        Self { address, log, task }
    }

    /// Everything since the last time this was asked.
    pub fn take(&self) -> Log {
        std::mem::take(&mut *self.log.lock().expect("nobody panicked"))
    }
}

impl Drop for Strict {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(stream: TcpStream, log: Arc<Mutex<Log>>) {
    let _ = stream.set_nodelay(true);
    let mut stream = BufReader::with_capacity(16 * 1024, stream);
    loop {
        match request(&mut stream, &log).await {
            Ok(true) => {}
            Ok(false) => return,
            Err(violation) => {
                log.lock().expect("nobody panicked").violations.push(violation);
                return;
            }
        }
    }
}

/// One request; false at the end of the connection.
async fn request(stream: &mut BufReader<TcpStream>, log: &Arc<Mutex<Log>>) -> Result<bool, String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let before = head.len();
        if stream.read_until(b'\n', &mut head).await.unwrap_or(0) == 0 {
            return if head.is_empty() { Ok(false) } else { Err(format!("the head breaks off: {}", shown(&head))) };
        }
        if !head.ends_with(b"\r\n") {
            return Err(format!("a line ends with LF alone: {}", shown(&head[before..])));
        }
        if head.len() > MAX_HEAD {
            return Err("the head has no end".into());
        }
    }
    let (method, target, fields) = parse(&head[..head.len() - 4])?;
    let length = framing(&fields)?;
    let early = target.starts_with("/early");
    let bodyless = method == "HEAD";
    if early {
        answer(stream, &method, &target, bodyless).await;
    }
    let body = match length {
        Some(length) => {
            let mut body = vec![0; length];
            match stream.read_exact(&mut body).await {
                Ok(_) => body,
                // The client broke off in the middle: the proxy can do nothing but end the connection.
                Err(_) => return Ok(false),
            }
        }
        None => match chunks(stream).await? {
            Some(body) => body,
            None => return Ok(false),
        },
    };
    log.lock().expect("nobody panicked").arrived.push(Arrived { target: target.clone(), fields, body });
    if !early {
        answer(stream, &method, &target, bodyless).await;
    }
    Ok(true)
}

async fn answer(stream: &mut BufReader<TcpStream>, method: &str, target: &str, bodyless: bool) {
    let text = format!("{method} {target}");
    let body = if bodyless { "" } else { &text };
    let response = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nx-backend: strict\r\n\r\n{body}", text.len());
    // If nobody listens any more, the next read ends the connection.
    let _ = stream.get_mut().write_all(response.as_bytes()).await;
}

type Parsed = (String, String, Vec<(String, String)>);

fn parse(head: &[u8]) -> Result<Parsed, String> {
    let mut lines = head.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let first = lines.next().unwrap_or_default();
    let wrong = |what: &str| Err(format!("{what}: {}", shown(first)));
    let parts: Vec<&[u8]> = first.split(|byte| *byte == b' ').collect();
    let [method, target, version] = parts[..] else { return wrong("not three parts in the request line") };
    if !method.iter().all(|byte| is_token(*byte)) || method.is_empty() {
        return wrong("the method is no token");
    }
    if version != b"HTTP/1.1" {
        return wrong("the version is not HTTP/1.1");
    }
    if !(target.starts_with(b"/") || (target == b"*" && method == b"OPTIONS")) {
        return wrong("the target does not begin with a slash");
    }
    if target.iter().any(|byte| !(0x21..0x7f).contains(byte) || matches!(byte, b'#' | b'\\')) {
        return wrong("the target has a byte that none may have");
    }
    let path = target.split(|byte| *byte == b'?').next().unwrap_or_default().to_ascii_lowercase();
    let path = String::from_utf8_lossy(&path).into_owned();
    let dots = path.split('/').any(|segment| matches!(segment, "." | "..") || segment.starts_with("..;") || segment.starts_with(".;"));
    if dots || ["//", "%2e", "%2f", "%5c", "%00", "%0d", "%0a"].iter().any(|bad| path.contains(bad)) {
        return wrong("the path is not canonical");
    }
    let mut fields = Vec::new();
    for line in lines {
        fields.push(field(line)?);
    }
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok((text(method), text(target), fields))
}

fn field(line: &[u8]) -> Result<(String, String), String> {
    let wrong = |what: &str| Err(format!("{what}: {}", shown(line)));
    let Some(colon) = line.iter().position(|byte| *byte == b':') else { return wrong("a field without colon") };
    let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
    if name.is_empty() || !name.iter().all(|byte| is_token(*byte)) {
        return wrong("a field's name is no token");
    }
    if value.iter().any(|byte| (*byte < 0x20 && *byte != b'\t') || *byte == 0x7f) {
        return wrong("a field has a control character");
    }
    Ok((String::from_utf8_lossy(name).to_ascii_lowercase(), String::from_utf8_lossy(value).into_owned()))
}

/// The length of the body; `None` means chunks.
fn framing(fields: &[(String, String)]) -> Result<Option<usize>, String> {
    let all = |name: &str| fields.iter().filter(|(known, _)| known == name).map(|(_, value)| value.as_str()).collect::<Vec<_>>();
    let hosts = all("host");
    let [host] = hosts[..] else { return Err(format!("{} Host fields", hosts.len())) };
    if host.is_empty() || !host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".:-_[]".contains(&byte)) {
        return Err(format!("the host is malformed: {host:?}"));
    }
    for name in ["keep-alive", "proxy-connection", "te", "trailer", "http2-settings", "proxy-authorization", "proxy-authenticate"] {
        if !all(name).is_empty() {
            return Err(format!("{name} ends at the hop, and was sent on"));
        }
    }
    // A WebSocket handshake is the one thing that is passed on.
    let upgrade = all("upgrade");
    if !upgrade.is_empty() && upgrade != ["websocket"] {
        return Err(format!("Upgrade is {upgrade:?}"));
    }
    for value in all("connection") {
        if !(["keep-alive", "close"].contains(&value.to_ascii_lowercase().as_str())
            || (value.eq_ignore_ascii_case("upgrade") && !upgrade.is_empty()))
        {
            return Err(format!("Connection nominates {value:?}"));
        }
    }
    match (&all("content-length")[..], &all("transfer-encoding")[..]) {
        ([], []) => Ok(Some(0)),
        ([length], []) if (1..=18).contains(&length.len()) && length.bytes().all(|byte| byte.is_ascii_digit()) => {
            Ok(Some(length.parse().map_err(|_| "a length too long".to_string())?))
        }
        ([], [coding]) if *coding == "chunked" => Ok(None),
        (lengths, codings) => Err(format!("ambiguous framing: Content-Length {lengths:?}, Transfer-Encoding {codings:?}")),
    }
}

/// `None` where the connection ends in the middle.
async fn chunks(stream: &mut BufReader<TcpStream>) -> Result<Option<Vec<u8>>, String> {
    let mut body = Vec::new();
    loop {
        let Some(line) = line(stream).await? else { return Ok(None) };
        let digits = (1..=8).contains(&line.len()) && line.iter().all(u8::is_ascii_hexdigit);
        if !digits {
            return Err(format!("a chunk's size is {}", shown(&line)));
        }
        let size = usize::from_str_radix(&String::from_utf8_lossy(&line), 16).map_err(|error| error.to_string())?;
        let start = body.len();
        body.resize(start + size, 0);
        if stream.read_exact(&mut body[start..]).await.is_err() {
            return Ok(None);
        }
        let Some(end) = self::line(stream).await? else { return Ok(None) };
        if !end.is_empty() {
            return Err(format!("after a chunk of {size} comes {}", shown(&end)));
        }
        if size == 0 {
            return Ok(Some(body));
        }
    }
}

async fn line(stream: &mut BufReader<TcpStream>) -> Result<Option<Vec<u8>>, String> {
    let mut line = Vec::new();
    match tokio::time::timeout(Duration::from_secs(20), stream.read_until(b'\n', &mut line)).await {
        Ok(Ok(count)) if count > 0 && line.ends_with(b"\n") => {}
        _ => return Ok(None),
    }
    match line.strip_suffix(b"\r\n") {
        Some(line) => Ok(Some(line.to_vec())),
        None => Err(format!("a line in the body's framing ends with LF alone: {}", shown(&line))),
    }
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// The first bytes of something, printable.
pub fn shown(bytes: &[u8]) -> String {
    let cut = &bytes[..bytes.len().min(160)];
    format!("\"{}\"{}", cut.escape_ascii(), if cut.len() < bytes.len() { "…" } else { "" })
}
