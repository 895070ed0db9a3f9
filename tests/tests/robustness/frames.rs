//! HTTP/2 by hand: frames and header blocks that no library would send.

use super::vectors::Want;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// Name and fields of a request, its body if there is one, and what must become of it.
pub type Malformed = (&'static str, Vec<(Vec<u8>, Vec<u8>)>, Option<Vec<u8>>, Want);

/// What is sent over and over.
#[derive(Clone, Copy, Debug)]
pub enum Flood {
    /// Streams that are opened and reset at once.
    RapidReset,
    /// A header block that never ends.
    Continuation,
    /// Header blocks that never end, in frames without a byte.
    EmptyContinuation,
    /// Requests that are malformed.
    Malformed,
    /// Requests that the peer must reset for what follows them (CVE-2025-8671).
    MadeToReset,
    /// Frames that must be answered.
    Ping,
    /// The same with a setting.
    Settings,
    /// Frames of a body without a byte.
    EmptyData,
    /// Windows that grow by a byte.
    WindowUpdate,
}

/// An HTTP/2 connection.
#[derive(Debug)]
pub struct Frames {
    stream: TcpStream,
    read: Vec<u8>,
    ended: bool,
}

/// `bytes` with every `from` replaced.
pub fn replace(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len() + 16);
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at..].starts_with(from) {
            out.extend_from_slice(to);
            at += from.len();
        } else {
            out.push(bytes[at]);
            at += 1;
        }
    }
    out
}

/// Bytes of memory this process holds.
pub fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) * 1024
}

fn integer(out: &mut Vec<u8>, flags: u8, bits: u8, mut value: usize) {
    let most = (1usize << bits) - 1;
    if value < most {
        out.push(flags | value as u8);
        return;
    }
    out.push(flags | most as u8);
    value -= most;
    while value >= 128 {
        out.push((value % 128) as u8 | 128);
        value /= 128;
    }
    out.push(value as u8);
}

/// A literal field without indexing.
fn literal(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.push(0);
    integer(out, 0, 7, name.len());
    out.extend_from_slice(name);
    integer(out, 0, 7, value.len());
    out.extend_from_slice(value);
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
    out
}

fn block(fields: &[(&[u8], &[u8])]) -> Vec<u8> {
    let mut block = Vec::new();
    fields.iter().for_each(|(name, value)| literal(&mut block, name, value));
    block
}

/// A good request.
const GOOD: [(&[u8], &[u8]); 4] = [(b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"a.example"), (b":path", b"/v")];

impl Frames {
    pub async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap_or_else(|error| panic!("{address}: {error}"));
        let _ = stream.set_nodelay(true);
        let mut frames = Self { stream, read: Vec::new(), ended: false };
        frames.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
        frames.send(&frame(SETTINGS, 0, 0, &[])).await;
        frames.send(&frame(SETTINGS, 1, 0, &[])).await;
        frames
    }

    async fn send(&mut self, bytes: &[u8]) -> bool {
        let written = tokio::time::timeout(Duration::from_secs(20), self.stream.write_all(bytes)).await;
        matches!(written, Ok(Ok(())))
    }

    pub async fn headers(&mut self, stream: u32, fields: &[(&[u8], &[u8])], end: bool) -> bool {
        let flags = END_HEADERS | if end { END_STREAM } else { 0 };
        self.send(&frame(HEADERS, flags, stream, &block(fields))).await
    }

    pub async fn data(&mut self, stream: u32, body: &[u8], end: bool) -> bool {
        self.send(&frame(DATA, if end { END_STREAM } else { 0 }, stream, body)).await
    }

    /// The next frame: kind, stream, payload.
    async fn next(&mut self, end: Instant) -> Option<(u8, u32, Vec<u8>)> {
        let mut chunk = [0; 16384];
        loop {
            if self.read.len() >= 9 {
                let length = u32::from_be_bytes([0, self.read[0], self.read[1], self.read[2]]) as usize;
                if self.read.len() >= 9 + length {
                    let kind = self.read[3];
                    let stream = u32::from_be_bytes([self.read[5], self.read[6], self.read[7], self.read[8]]) & 0x7fff_ffff;
                    let payload = self.read[9..9 + length].to_vec();
                    self.read.drain(..9 + length);
                    return Some((kind, stream, payload));
                }
            }
            match timeout_at(end, self.stream.read(&mut chunk)).await {
                Ok(Ok(count @ 1..)) => self.read.extend_from_slice(&chunk[..count]),
                Ok(Ok(0) | Err(_)) => {
                    self.ended = true;
                    return None;
                }
                Err(_) => return None,
            }
        }
    }

    /// The status of a stream's response; `None` where the stream or the connection ends without one.
    pub async fn status(&mut self, wanted: u32, patience: Duration) -> Option<u16> {
        let end = Instant::now() + patience;
        while let Some((kind, stream, payload)) = self.next(end).await {
            match kind {
                HEADERS if stream == wanted => return Some(status(&payload)),
                RST_STREAM if stream == wanted => return None,
                GOAWAY => return None,
                _ => {}
            }
        }
        None
    }

    /// Sends `flood` until the peer ends the connection or time is up: whether it ended, and after how many frames.
    pub async fn flood(&mut self, flood: Flood, patience: Duration) -> (bool, usize) {
        let end = Instant::now() + patience;
        let mut sent = 0;
        let mut stream = 1;
        if matches!(flood, Flood::Continuation | Flood::EmptyContinuation) {
            self.send(&frame(HEADERS, END_STREAM, 1, &block(&GOOD))).await;
        }
        if matches!(flood, Flood::EmptyData) {
            self.headers(1, &[&GOOD[1..], &[(b":method".as_slice(), b"POST".as_slice())]].concat(), false).await;
        }
        let mut field = Vec::new();
        literal(&mut field, b"x-flood", &[b'x'; 8000]);
        while Instant::now() < end && sent < 200_000 {
            let mut batch = Vec::new();
            for _ in 0..50 {
                match flood {
                    Flood::RapidReset => {
                        batch.extend(frame(HEADERS, END_HEADERS | END_STREAM, stream, &block(&GOOD)));
                        batch.extend(frame(RST_STREAM, 0, stream, &8u32.to_be_bytes()));
                        stream += 2;
                    }
                    Flood::Continuation => batch.extend(frame(CONTINUATION, 0, 1, &field)),
                    Flood::EmptyContinuation => batch.extend(frame(CONTINUATION, 0, 1, &[])),
                    Flood::MadeToReset => {
                        batch.extend(frame(HEADERS, END_HEADERS | END_STREAM, stream, &block(&GOOD)));
                        batch.extend(frame(WINDOW_UPDATE, 0, stream, &0u32.to_be_bytes()));
                        stream += 2;
                    }
                    Flood::Ping => batch.extend(frame(PING, 0, 0, &[7; 8])),
                    Flood::Settings => batch.extend(frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 100])),
                    Flood::EmptyData => batch.extend(frame(DATA, 0, 1, &[])),
                    Flood::WindowUpdate => batch.extend(frame(WINDOW_UPDATE, 0, 0, &1u32.to_be_bytes())),
                    Flood::Malformed => {
                        batch.extend(frame(HEADERS, END_HEADERS | END_STREAM, stream, &block(&[(b":method", b"GET"), (b":path", b"")])));
                        stream += 2;
                    }
                }
                sent += 1;
            }
            if !self.send(&batch).await {
                return (true, sent);
            }
            // Whatever comes is read, so that nothing is held back for us.
            while let Some((kind, _, _)) = self.next(Instant::now() + Duration::from_millis(1)).await {
                if kind == GOAWAY {
                    return (true, sent);
                }
            }
            if self.ended {
                return (true, sent);
            }
        }
        (false, sent)
    }

    /// Fills the peer's table with a field of 4 KiB less its overhead and refers to it again and again, a byte each, on many streams whose
    /// responses cannot be sent.
    pub async fn bomb(&mut self, streams: u32, references: usize) {
        // No response may be sent: window 0.
        self.send(&frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0])).await;
        for number in 0..streams {
            let mut fields = block(&[(b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"a.example"), (b":path", b"/bomb")]);
            if number == 0 {
                fields.push(0x40);
                integer(&mut fields, 0, 7, 1);
                fields.push(b'x');
                integer(&mut fields, 0, 7, 1);
                fields.push(b'y');
            }
            fields.extend(std::iter::repeat_n(0x80 | 62, references));
            if !self.send(&frame(HEADERS, END_HEADERS | END_STREAM, 2 * number + 1, &fields)).await {
                return;
            }
        }
        self.send(&frame(PING, 0, 0, &[0; 8])).await;
    }
}

/// `:status` of a header block: the static table's entries, or a literal.
fn status(block: &[u8]) -> u16 {
    // A change of the table's size may come first.
    let block = block.iter().position(|byte| byte & 0xe0 != 0x20).map_or(block, |at| &block[at..]);
    match block {
        [indexed @ 0x88..=0x8e, ..] => [200, 204, 206, 304, 400, 404, 500][usize::from(indexed - 0x88)],
        [name, length, rest @ ..] if matches!(name & 0x3f, 8..=14) || matches!(name & 0xf, 8..=14) => {
            let size = usize::from(length & 0x7f);
            let value = rest.get(..size).unwrap_or_default();
            if length & 0x80 == 0 { String::from_utf8_lossy(value).parse().unwrap_or(999) } else { huffman_digits(value) }
        }
        _ => 999,
    }
}

/// Three digits in Huffman code (RFC 7541, appendix B): 0 to 2 have five bits, 3 to 9 six.
fn huffman_digits(bytes: &[u8]) -> u16 {
    let bits: String = bytes.iter().map(|byte| format!("{byte:08b}")).collect();
    let (mut at, mut value) = (0, 0u16);
    for _ in 0..3 {
        let short = bits.get(at..at + 5).and_then(|code| u16::from_str_radix(code, 2).ok());
        match short {
            Some(digit @ 0..=2) => {
                value = value * 10 + digit;
                at += 5;
            }
            _ => match bits.get(at..at + 6).and_then(|code| u16::from_str_radix(code, 2).ok()) {
                Some(code @ 0x19..=0x1f) => {
                    value = value * 10 + code - 0x19 + 3;
                    at += 6;
                }
                _ => return 999,
            },
        }
    }
    value
}

/// Floods of frames that cost more to answer than to send, and that HTTP/2 allows: whoever sends them may go on, and hinders nobody.
pub fn bearable() -> [(&'static str, Flood); 3] {
    [("PING", Flood::Ping), ("SETTINGS", Flood::Settings), ("WINDOW_UPDATE", Flood::WindowUpdate)]
}

/// Floods that end their connection.
pub fn floods() -> [(&'static str, Flood); 6] {
    [
        ("empty DATA", Flood::EmptyData),
        ("made to reset", Flood::MadeToReset),
        ("rapid reset", Flood::RapidReset),
        ("CONTINUATION", Flood::Continuation),
        ("empty CONTINUATION", Flood::EmptyContinuation),
        ("malformed requests", Flood::Malformed),
    ]
}

/// Requests that HTTP/2 forbids, and some that it allows.
pub fn malformed() -> Vec<Malformed> {
    use Want::{Passed, Refused, Safe};
    type Fields<'a> = &'a [(&'a [u8], &'a [u8])];
    let own = |fields: Fields<'_>| fields.iter().map(|(name, value)| (name.to_vec(), value.to_vec())).collect::<Vec<_>>();
    let with = |more: Fields<'_>| [own(&GOOD), own(more)].concat();
    let instead = |name: &[u8], value: &[u8]| {
        own(&GOOD).into_iter().map(|(known, old)| if known == name { (known, value.to_vec()) } else { (known, old) }).collect::<Vec<_>>()
    };
    let without = |name: &[u8]| own(&GOOD).into_iter().filter(|(known, _)| known != name).collect::<Vec<_>>();
    let get = |name, fields, want| (name, fields, None, want);
    let hello = || Some(b"hello".to_vec());
    vec![
        get("a good one", own(&GOOD), Passed),
        ("a good body", with(&[(b"content-length", b"5")]), hello(), Passed),
        get("no path", without(b":path"), Refused),
        get("no method", without(b":method"), Refused),
        get("no scheme", without(b":scheme"), Refused),
        get("no authority", without(b":authority"), Refused),
        get("an empty path", instead(b":path", b""), Refused),
        get("a path without slash", instead(b":path", b"v"), Refused),
        get("a star", instead(b":path", b"*"), Refused),
        get("an absolute path", instead(b":path", b"http://b.example/v"), Refused),
        get("a space in the path", instead(b":path", b"/v HTTP/1.1"), Refused),
        get("a line end in the path", instead(b":path", b"/v\r\nX: y"), Refused),
        get("a NUL in the path", instead(b":path", b"/v\0"), Refused),
        get("a fragment", instead(b":path", b"/v#x"), Safe),
        get("dots with parameters", instead(b":path", b"/x/..;/v"), Refused),
        get("an encoded slash", instead(b":path", b"/x%2f..%2fv"), Refused),
        get("dots", instead(b":path", b"/x/../v"), Passed),
        get("a method with a space", instead(b":method", b"GET /smuggled HTTP/1.1\r\n"), Refused),
        get("an empty method", instead(b":method", b""), Refused),
        get("another scheme", instead(b":scheme", b"ftp"), Safe),
        get("a scheme with a line end", instead(b":scheme", b"http://x/\r\n"), Refused),
        get("an authority with a user", instead(b":authority", b"user@a.example"), Refused),
        get("an authority with a path", instead(b":authority", b"a.example/x"), Refused),
        get("an authority with a space", instead(b":authority", b"a example"), Refused),
        get("an empty authority", instead(b":authority", b""), Refused),
        get("an authority with a bad port", instead(b":authority", b"a.example:99999"), Refused),
        get("another host", with(&[(b"host", b"b.example")]), Refused),
        get("the same host", with(&[(b"host", b"a.example")]), Safe),
        get("two paths", with(&[(b":path", b"/w")]), Refused),
        get("two methods", with(&[(b":method", b"POST")]), Refused),
        get("two authorities", with(&[(b":authority", b"b.example")]), Refused),
        get("a status", with(&[(b":status", b"200")]), Refused),
        get("an unknown pseudo field", with(&[(b":foo", b"x")]), Refused),
        get("a pseudo field last", [without(b":path"), own(&[(b"x", b"y"), (b":path", b"/v")])].concat(), Refused),
        get("an upper-case name", with(&[(b"X-Upper", b"y")]), Refused),
        get("a name with a line end", with(&[(b"x\r\ny", b"z")]), Refused),
        get("a name with a colon", with(&[(b"x:y", b"z")]), Refused),
        get("a name with a space", with(&[(b"x y", b"z")]), Refused),
        get("an empty name", with(&[(b"", b"z")]), Refused),
        get("a value with a line end", with(&[(b"x", b"y\r\nHost: evil\r\n\r\nGET /smuggled HTTP/1.1\r\n")]), Refused),
        get("a value with LF", with(&[(b"x", b"y\nz")]), Refused),
        get("a value with CR", with(&[(b"x", b"y\rz")]), Refused),
        get("a value with NUL", with(&[(b"x", b"y\0z")]), Refused),
        get("connection", with(&[(b"connection", b"close")]), Refused),
        get("keep-alive", with(&[(b"keep-alive", b"timeout=5")]), Refused),
        get("proxy-connection", with(&[(b"proxy-connection", b"close")]), Refused),
        get("upgrade", with(&[(b"upgrade", b"h2c")]), Refused),
        get("a coding", with(&[(b"transfer-encoding", b"chunked")]), Refused),
        (
            "a coding and a body",
            with(&[(b"transfer-encoding", b"chunked")]),
            Some(b"0\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n".to_vec()),
            Refused,
        ),
        get("te: gzip", with(&[(b"te", b"gzip")]), Safe),
        get("te: trailers", with(&[(b"te", b"trailers")]), Passed),
        get("a length without body", with(&[(b"content-length", b"5")]), Refused),
        ("a length too small", with(&[(b"content-length", b"2")]), hello(), Safe),
        ("a length too large", with(&[(b"content-length", b"50")]), hello(), Safe),
        ("a list of lengths", with(&[(b"content-length", b"5, 5")]), hello(), Refused),
        ("two lengths", with(&[(b"content-length", b"5"), (b"content-length", b"5")]), hello(), Refused),
        ("two different lengths", with(&[(b"content-length", b"5"), (b"content-length", b"0")]), hello(), Refused),
        ("a length with a sign", with(&[(b"content-length", b"+5")]), hello(), Refused),
        ("a body without length", own(&GOOD), hello(), Passed),
        get("CONNECT", instead(b":method", b"CONNECT"), Refused),
        get("extended CONNECT", [instead(b":method", b"CONNECT"), own(&[(b":protocol", b"websocket")])].concat(), Refused),
        get("cookies in pieces", with(&[(b"cookie", b"a=1"), (b"cookie", b"b=2")]), Passed),
        get("our own field", with(&[(b"selvage-principal", b"x"), (b"x-forwarded-for", b"10.0.0.1")]), Passed),
        get("fields of 16 KiB", with(&[(b"x", &[b'x'; 8000]), (b"y", &[b'x'; 8000])]), Passed),
    ]
}
