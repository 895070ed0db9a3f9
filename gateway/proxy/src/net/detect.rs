//! What is spoken on a connection, found out from its first bytes without taking them.
//!
//! Never guesses from less than it needs: one byte at a time gives the same answer as all at once.

use super::conn::HEAD;
use super::raw::Raw;
use std::io;
use std::time::Duration;
use tokio::io::AsyncRead;
use tokio::time::{Instant, timeout_at};

/// How long it is waited for the first byte where nobody said what is spoken, and for the bytes that decide.
pub const DETECT: Duration = Duration::from_secs(3);
/// A request line that has not ended by here is none.
pub const MAX_LINE: usize = 16 * 1024;
/// The longest method name there is in the IANA registry has 17 letters.
const MAX_METHOD: usize = 32;
/// A ClientHello larger than this is refused; one with a post-quantum key share has less than 2 KiB.
const MAX_HELLO: usize = 64 * 1024;
/// How every HTTP/2 connection begins (RFC 9113 section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spoken {
    /// A TLS ClientHello comes.
    Tls,
    /// HTTP/2 by prior knowledge.
    Http2,
    /// HTTP/1, or what some server might read as such: the reader of heads, which is strict, has the last word.
    Http1,
    /// A line has begun and not ended in time: it may still become HTTP/1.
    Unended,
    /// Something else.
    Opaque,
    /// Nothing so far: the server may be the one that speaks first.
    Nothing,
}

/// What a ClientHello asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// SNI, lower-case.
    pub server_name: Option<String>,
}

/// Why there is no ClientHello.
#[derive(Debug, thiserror::Error)]
pub enum HelloError {
    /// The connection ended or failed.
    #[error("the connection ended before its ClientHello: {0}")]
    Io(#[from] io::Error),
    /// The bytes are no ClientHello; what to answer with.
    #[error("not a ClientHello: {0}")]
    Invalid(rustls::Error, Vec<u8>),
    /// More than [`MAX_HELLO`].
    #[error("a ClientHello of more than 64 KiB")]
    TooLarge,
}

/// What `bytes` are the beginning of; `None`: more are needed.
pub fn classify(bytes: &[u8]) -> Option<Spoken> {
    if bytes.first() == Some(&0x16) {
        return tls(bytes);
    }
    let n = bytes.len().min(PREFACE.len());
    if bytes[..n] == PREFACE[..n] {
        return (n == PREFACE.len()).then_some(Spoken::Http2);
    }
    http1(bytes)
}

/// A handshake record (22) of version 3.x that holds a ClientHello (1).
fn tls(bytes: &[u8]) -> Option<Spoken> {
    match (bytes.get(1), bytes.get(5)) {
        (Some(major), _) if *major != 3 => Some(Spoken::Opaque),
        (_, Some(kind)) => Some(if *kind == 1 { Spoken::Tls } else { Spoken::Opaque }),
        _ => None,
    }
}

/// Whether a server that reads leniently might take the first line for a request line: a word, a target, and HTTP in the end. Empty lines and
/// blanks before it, other blanks, methods and versions than there are: all of this some server forgives, and then the fields that follow
/// would reach it unseen. Opaque is only what cannot be one; a line that has no end yet can.
fn http1(bytes: &[u8]) -> Option<Spoken> {
    let is_blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let start = bytes.iter().position(|byte| !matches!(byte, b'\r' | b'\n' | b' ' | b'\t')).unwrap_or(bytes.len());
    let line = &bytes[start..];
    let open = (bytes.len() >= MAX_LINE).then_some(Spoken::Http1);
    let Some(method) = line.iter().position(|byte| !is_token(*byte)) else { return open };
    if method == 0 || !is_blank(&line[method]) {
        return Some(Spoken::Opaque);
    }
    let Some(target) = line[method..].iter().find(|byte| !is_blank(byte)) else { return open };
    if target.is_ascii_control() {
        return Some(Spoken::Opaque);
    }
    let Some(end) = memchr::memchr(b'\n', line) else { return open };
    let names_http = line[method..end].windows(5).any(|window| window.eq_ignore_ascii_case(b"HTTP/"));
    Some(if names_http { Spoken::Http1 } else { Spoken::Opaque })
}

/// Whether the bytes begin with a request line: `method SP target SP HTTP/1.x` and a line end (RFC 9112 section 3); `None`: more are needed.
pub fn is_request(bytes: &[u8]) -> Option<bool> {
    let method = bytes.iter().position(|byte| !is_token(*byte));
    match method {
        None if bytes.len() <= MAX_METHOD => return None,
        Some(end) if (1..=MAX_METHOD).contains(&end) && bytes[end] == b' ' => {}
        _ => return Some(false),
    }
    match memchr::memchr(b'\n', bytes) {
        Some(end) => {
            let line = bytes[..end].strip_suffix(b"\r").unwrap_or(&bytes[..end]);
            Some(line.ends_with(b" HTTP/1.1") || line.ends_with(b" HTTP/1.0"))
        }
        None if bytes.len() < MAX_LINE => None,
        None => Some(false),
    }
}

/// Whether bytes that are no HTTP are so because their request line, which began as one, does not end.
pub fn is_long_target(bytes: &[u8]) -> bool {
    let line = bytes.iter().take_while(|byte| **byte != b'\n').count();
    let begins = bytes
        .iter()
        .position(|byte| *byte == b' ')
        .is_some_and(|end| (1..=MAX_METHOD).contains(&end) && bytes[..end].iter().all(|byte| is_token(*byte)));
    begins && line >= MAX_LINE
}

/// A byte of a token (RFC 9110 section 5.6.2).
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Looks until it is clear what is spoken, `patience` for the first byte and [`DETECT`] for those that decide. What the client ended undecided
/// cannot become HTTP any more.
pub async fn detect<S: AsyncRead + Unpin>(raw: &mut Raw<S>, patience: Duration) -> io::Result<Spoken> {
    let mut deadline = Instant::now() + if raw.seen().is_empty() { patience } else { DETECT };
    loop {
        if let Some(spoken) = classify(raw.seen()) {
            return Ok(spoken);
        }
        let is_first = raw.seen().is_empty();
        match timeout_at(deadline, raw.look()).await {
            Err(_) if is_first => return Ok(Spoken::Nothing),
            Err(_) => return Ok(if raw.seen()[0] == 0x16 { Spoken::Opaque } else { Spoken::Unended }),
            // A client that ended its side without a byte may still want to read.
            Ok(Ok(0)) => return Ok(Spoken::Opaque),
            Ok(result) => result?,
        };
        if is_first {
            deadline = Instant::now() + DETECT;
        }
    }
}

/// The same where HTTP is declared: only HTTP/2's preface and TLS need to be told from HTTP/1, whose reader of heads has deadlines and
/// answers of its own. `None`: the client left, or said nothing sensible within `idle` and then [`HEAD`].
pub async fn http(raw: &mut Raw, idle: Duration) -> io::Result<Option<Spoken>> {
    let mut deadline = Instant::now() + idle;
    loop {
        let seen = raw.seen();
        let is_undecided = seen.is_empty() || PREFACE.starts_with(seen) || seen[0] == 0x16;
        match classify(seen) {
            Some(spoken @ (Spoken::Tls | Spoken::Http2)) => return Ok(Some(spoken)),
            None if is_undecided => {}
            _ => return Ok(Some(Spoken::Http1)),
        }
        let is_first = seen.is_empty();
        match timeout_at(deadline, raw.look()).await {
            Err(_) | Ok(Ok(0)) => return Ok(None),
            Ok(result) => result?,
        };
        if is_first {
            deadline = Instant::now() + HEAD;
        }
    }
}

/// Looks until the whole ClientHello has been seen, however it is cut into records and segments.
pub async fn hello(raw: &mut Raw) -> Result<Hello, HelloError> {
    let mut acceptor = rustls::server::Acceptor::default();
    let mut fed = 0;
    loop {
        while fed < raw.seen().len() {
            let n = acceptor.read_tls(&mut &raw.seen()[fed..])?;
            fed += n;
            match acceptor.accept() {
                Ok(Some(accepted)) => {
                    let hello = accepted.client_hello();
                    let server_name = hello.server_name().map(str::to_ascii_lowercase);
                    return Ok(Hello { server_name });
                }
                Ok(None) if n == 0 => return Err(HelloError::TooLarge),
                Ok(None) => {}
                Err((error, mut alert)) => {
                    let mut answer = Vec::new();
                    alert.write_all(&mut answer)?;
                    return Err(HelloError::Invalid(error, answer));
                }
            }
        }
        if raw.seen().len() > MAX_HELLO {
            return Err(HelloError::TooLarge);
        }
        if raw.look().await? == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_beginning_is_told_from_the_others_even_byte_by_byte() {
        let client_hello = [0x16, 3, 1, 0, 200, 1, 0, 0, 196];
        let table: &[(&[u8], Option<Spoken>)] = &[
            (b"", None),
            (b"G", None),
            (b"GET / HTTP/1.1\r\n", Some(Spoken::Http1)),
            (b"GET / HTTP/1.0\r\n\r\n", Some(Spoken::Http1)),
            (b"M-SEARCH * HTTP/1.1\n", Some(Spoken::Http1)),
            (b"GET /\xc3\xa4 b HTTP/1.1\r\n", Some(Spoken::Http1)),
            (b"GET / HTTP/1.", None),
            (b"GET /\r\n", Some(Spoken::Opaque)),
            (b"GET / HTTP/2.0\r\n", Some(Spoken::Http1)),
            (b"GET / HTTP/1.12\r\n", Some(Spoken::Http1)),
            (b"get\t/ http/1.1 \r\n", Some(Spoken::Http1)),
            (b" GET / HTTP/1.1\r\n", Some(Spoken::Http1)),
            (b"\r\n\n\r\nGET / HTTP/1.1\r\n", Some(Spoken::Http1)),
            (b"\r\n", None),
            (b"\r\n\x00\x01", Some(Spoken::Opaque)),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Some(Spoken::Http2)),
            (b"PRI * HTTP/2.0\r\n\r\nSM", None),
            (b"PRI * HTTP/1.1\r\n", Some(Spoken::Http1)),
            (b"EHLO mail\r\n", Some(Spoken::Opaque)),
            (b"PING\r\n", Some(Spoken::Opaque)),
            (b"SSH-2.0-OpenSSH_9.9\r\n", Some(Spoken::Opaque)),
            (b"OPTIONS rtsp://camera.test RTSP/1.0\r\n", Some(Spoken::Opaque)),
            // An LDAP bind of 32 bytes.
            (b"0 \x02\x01\x01`", Some(Spoken::Opaque)),
            (b"*1\r\n$4\r\nPING\r\n", Some(Spoken::Opaque)),
            (b"\x00\x00\x00\x08\x04\xd2\x16\x2f", Some(Spoken::Opaque)),
            (&client_hello, Some(Spoken::Tls)),
            (&client_hello[..5], None),
            (b"\x16\x02\x00", Some(Spoken::Opaque)),
            (b"\x16\x03\x01\x00\x05\x02", Some(Spoken::Opaque)),
            (b"ThisIsAVeryLongWordWithoutAnySpaceInIt / HTTP/1.1\r\n", Some(Spoken::Http1)),
            (b"ThisIsAVeryLongWordWithoutAnySpaceInIt", None),
        ];
        for (bytes, expected) in table {
            assert_eq!(classify(bytes), *expected, "{:?}", String::from_utf8_lossy(bytes));
            let stepwise = (0..=bytes.len()).find_map(|n| classify(&bytes[..n]));
            assert_eq!(stepwise, *expected, "byte by byte: {:?}", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn a_line_that_never_ends_may_be_a_request_line() {
        for begin in [&b"GET /"[..], b"GET", b"\r\n"] {
            let mut endless = begin.to_vec();
            endless.resize(MAX_LINE, begin[begin.len() - 1]);
            assert_eq!(classify(&endless[..MAX_LINE - 1]), None);
            assert_eq!(classify(&endless), Some(Spoken::Http1));
        }
    }
}
