//! Where a request ends, so that what follows it stays for the next one.

use super::chunks::Chunks;

/// How far the request that is read now reaches.
#[derive(Debug)]
pub(super) enum Extent {
    /// So many more bytes.
    Bytes(usize),
    /// So many more bytes of its head, then chunks.
    Chunks(usize, Chunks),
    /// As far as bytes come: an upgrade, or framing that will be refused.
    Open,
}

impl Extent {
    /// The extent of the request with this head, where the head says so without doubt.
    pub(super) fn of(head: &[u8]) -> Self {
        let (mut length, mut chunked) = (None, false);
        let mut at = 0;
        while let Some(end) = memchr::memchr(b'\n', &head[at..]) {
            at += end + 1;
            // Most fields say nothing about it, as their first byte shows.
            if !head.get(at).is_some_and(|first| matches!(first, b' ' | b'\t' | b'c' | b'C' | b't' | b'T' | b'u' | b'U')) {
                continue;
            }
            let line = &head[at..memchr::memchr(b'\n', &head[at..]).map_or(head.len(), |end| at + end)];
            let (name, value) = line.split_at(line.iter().position(|byte| *byte == b':').unwrap_or(line.len()));
            let is = |known: &str| name.trim_ascii().eq_ignore_ascii_case(known.as_bytes());
            let framing = is("content-length") || is("transfer-encoding");
            if matches!(line, [b' ' | b'\t', ..]) || is("upgrade") || (framing && (length.is_some() || chunked)) {
                return Self::Open;
            }
            let value = value.get(1..).unwrap_or_default().trim_ascii();
            if is("transfer-encoding") {
                if !value.eq_ignore_ascii_case(b"chunked") {
                    return Self::Open;
                }
                chunked = true;
            } else if is("content-length") {
                let Some(number) = std::str::from_utf8(value).ok().and_then(|text| text.parse::<usize>().ok()) else { return Self::Open };
                length = Some(number);
            }
        }
        match head.len().checked_add(length.unwrap_or(0)) {
            Some(_) if chunked => Self::Chunks(head.len(), Chunks::default()),
            Some(bytes) => Self::Bytes(bytes),
            None => Self::Open,
        }
    }

    /// Whether all of it has passed.
    pub(super) fn is_over(&self) -> bool {
        match self {
            Self::Bytes(left) => *left == 0,
            Self::Chunks(head, chunks) => *head == 0 && chunks.are_over(),
            Self::Open => false,
        }
    }

    /// How many of these bytes, the next ones, belong to it. At least one, unless it is over.
    pub(super) fn take(&mut self, bytes: &[u8]) -> usize {
        match self {
            Self::Bytes(left) => {
                let taken = bytes.len().min(*left);
                *left -= taken;
                taken
            }
            Self::Chunks(head, chunks) => {
                let of_head = bytes.len().min(*head);
                *head -= of_head;
                let taken = of_head + chunks.take(&bytes[of_head..]);
                if chunks.are_broken() {
                    *self = Self::Open;
                    return bytes.len();
                }
                taken
            }
            Self::Open => bytes.len(),
        }
    }
}
