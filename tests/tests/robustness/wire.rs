//! A client that speaks bytes and reads replies strictly.

use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

/// A connection.
#[derive(Debug)]
pub struct Wire {
    stream: TcpStream,
    read: Vec<u8>,
    closed: bool,
}

/// A final reply.
#[derive(Clone, Debug)]
pub struct Reply {
    pub status: u16,
    pub body: String,
}

impl Wire {
    pub async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap_or_else(|error| panic!("{address}: {error}"));
        let _ = stream.set_nodelay(true);
        Self { stream, read: Vec::new(), closed: false }
    }

    /// Sends what can be sent: a peer that has closed does not hinder the test.
    pub async fn send(&mut self, bytes: &[u8]) {
        let (mut reading, mut writing) = self.stream.split();
        let read = &mut self.read;
        let closed = &mut self.closed;
        let mut chunk = [0; 8192];
        let writes = writing.write_all(bytes);
        tokio::pin!(writes);
        // Replies are read meanwhile, so that neither side waits for the other.
        let end = Instant::now() + Duration::from_secs(3);
        loop {
            tokio::select! {
                biased;
                _ = &mut writes => return,
                got = reading.read(&mut chunk), if !*closed => match got {
                    Ok(count @ 1..) => read.extend_from_slice(&chunk[..count]),
                    Ok(0) | Err(_) => *closed = true,
                },
                () = tokio::time::sleep_until(end) => return,
            }
        }
    }

    /// Whether the peer has ended the connection.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Reads final replies until there are `most`, the connection ends, or time is up.
    pub async fn replies(&mut self, most: usize, patience: Duration) -> Vec<Reply> {
        let end = Instant::now() + patience;
        let mut replies = Vec::new();
        let mut chunk = [0; 8192];
        while replies.len() < most {
            if let Some((reply, length)) = parse(&self.read, self.closed) {
                self.read.drain(..length);
                if reply.status >= 200 {
                    replies.push(reply);
                }
                continue;
            }
            if self.closed {
                break;
            }
            match timeout_at(end, self.stream.read(&mut chunk)).await {
                Ok(Ok(count @ 1..)) => self.read.extend_from_slice(&chunk[..count]),
                Ok(Ok(0) | Err(_)) => self.closed = true,
                Err(_) => break,
            }
        }
        replies
    }
}

/// The first reply and its length in bytes, if it is whole.
fn parse(bytes: &[u8], closed: bool) -> Option<(Reply, usize)> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let status = head.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5)?.parse().ok()).unwrap_or(999);
    let field = |name: &str| {
        head.lines().find_map(|line| {
            line.split_once(':').filter(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim().to_string())
        })
    };
    if status < 200 || status == 204 || status == 304 {
        return Some((Reply { status, body: String::new() }, end));
    }
    let text = |from: &[u8]| String::from_utf8_lossy(from).into_owned();
    if let Some(length) = field("content-length") {
        let length: usize = length.parse().unwrap_or(0);
        let body = bytes.get(end..end + length)?;
        return Some((Reply { status, body: text(body) }, end + length));
    }
    if field("transfer-encoding").is_some() {
        let mut at = end;
        let mut body = Vec::new();
        loop {
            let line = bytes[at..].windows(2).position(|window| window == b"\r\n")? + at;
            let size = usize::from_str_radix(&text(&bytes[at..line]), 16).ok()?;
            body.extend_from_slice(bytes.get(line + 2..line + 2 + size)?);
            at = line + 2 + size + 2;
            bytes.get(..at)?;
            if size == 0 {
                return Some((Reply { status, body: text(&body) }, at));
            }
        }
    }
    closed.then(|| (Reply { status, body: text(&bytes[end..]) }, bytes.len()))
}
