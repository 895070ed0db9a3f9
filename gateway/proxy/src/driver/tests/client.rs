//! A client that writes exactly the bytes it is given.

use super::PATIENCE;
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// A response.
#[derive(Clone, Debug, Default)]
pub(in crate::driver) struct Answer {
    pub(in crate::driver) status: u16,
    fields: Vec<(String, String)>,
    pub(in crate::driver) body: String,
}

/// A connection.
pub(in crate::driver) struct Client {
    pub(in crate::driver) stream: TcpStream,
    buffer: Vec<u8>,
}

impl Answer {
    /// The one value of a field.
    pub(in crate::driver) fn one(&self, name: &str) -> Option<&str> {
        let mut all = self.fields.iter().filter(|(found, _)| found == name);
        let first = all.next();
        assert!(all.next().is_none(), "{name} came twice");
        first.map(|(_, value)| value.as_str())
    }

    /// The `reason` of a refusal.
    pub(in crate::driver) fn reason(&self) -> String {
        let problem: serde_json::Value = serde_json::from_str(&self.body).unwrap_or_default();
        problem["reason"].as_str().unwrap_or_default().to_string()
    }
}

impl Client {
    pub(in crate::driver) async fn connect(address: SocketAddr) -> Self {
        Self::on(TcpStream::connect(address).await.unwrap())
    }

    pub(in crate::driver) fn on(stream: TcpStream) -> Self {
        Self { stream, buffer: Vec::new() }
    }

    pub(in crate::driver) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        // A server that has refused already may have closed: what it says is read all the same.
        let _ = self.stream.write_all(bytes.as_ref()).await;
    }

    /// The next response, interim ones included; `None` where the connection ends before one.
    pub(in crate::driver) async fn answer(&mut self) -> Option<Answer> {
        timeout(PATIENCE, self.read(false)).await.expect("an answer in time")
    }

    /// The response to HEAD.
    pub(in crate::driver) async fn head(&mut self) -> Option<Answer> {
        timeout(PATIENCE, self.read(true)).await.expect("an answer in time")
    }

    /// Whether the server ends the connection without another byte.
    pub(in crate::driver) async fn is_closed(&mut self) -> bool {
        self.buffer.is_empty() && !timeout(PATIENCE, self.more()).await.expect("an end in time")
    }

    /// Whether anything has come, or the connection has ended, by now.
    pub(in crate::driver) async fn has_come(&mut self) -> bool {
        !self.buffer.is_empty() || timeout(std::time::Duration::from_millis(1), self.more()).await.is_ok()
    }

    async fn more(&mut self) -> bool {
        self.stream.read_buf(&mut self.buffer).await.is_ok_and(|read| read > 0)
    }

    async fn read(&mut self, bodyless: bool) -> Option<Answer> {
        let end = loop {
            if let Some(end) = self.buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                break end;
            }
            if !self.more().await {
                return None;
            }
        };
        let head: Vec<u8> = self.buffer.drain(..end + 4).collect();
        let head = String::from_utf8_lossy(&head[..end]).into_owned();
        let mut lines = head.split("\r\n");
        let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
        let fields =
            lines.filter_map(|line| line.split_once(": ")).map(|(name, value)| (name.to_ascii_lowercase(), value.to_string())).collect();
        let mut answer = Answer { status, fields, body: String::new() };
        if bodyless || status < 200 || status == 204 || status == 304 {
            return Some(answer);
        }
        let body = if let Some(length) = answer.one("content-length") {
            let length: usize = length.parse().unwrap();
            while self.buffer.len() < length && self.more().await {}
            self.buffer.drain(..length.min(self.buffer.len())).collect()
        } else if answer.one("transfer-encoding").is_some() {
            self.chunks().await?
        } else {
            while self.more().await {}
            std::mem::take(&mut self.buffer)
        };
        answer.body = String::from_utf8_lossy(&body).into_owned();
        Some(answer)
    }

    /// `None`: the last chunk never came.
    async fn chunks(&mut self) -> Option<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let line = loop {
                if let Some(line) = self.buffer.windows(2).position(|window| window == b"\r\n") {
                    break line;
                }
                if !self.more().await {
                    return None;
                }
            };
            let size: Vec<u8> = self.buffer.drain(..line + 2).collect();
            let size = usize::from_str_radix(std::str::from_utf8(&size[..line]).unwrap(), 16).unwrap();
            while self.buffer.len() < size + 2 {
                if !self.more().await {
                    return None;
                }
            }
            body.extend(self.buffer.drain(..size + 2).take(size));
            if size == 0 {
                return Some(body);
            }
        }
    }
}

/// One request on a connection of its own.
pub(in crate::driver) async fn ask(address: SocketAddr, request: impl AsRef<[u8]>) -> Answer {
    let mut client = Client::connect(address).await;
    client.send(request).await;
    client.answer().await.unwrap_or_default()
}

/// GET with fields (`name: value\r\n`…).
pub(in crate::driver) async fn get(address: SocketAddr, target: &str, fields: &str) -> Answer {
    ask(address, format!("GET {target} HTTP/1.1\r\nHost: shop.example\r\n{fields}\r\n")).await
}
