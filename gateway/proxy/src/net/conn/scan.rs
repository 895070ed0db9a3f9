//! Finds the end of a request head step by step, never looking at a byte twice.

use super::{Head, MAX_FIELDS};
use crate::net::detect::{is_long_target, is_request};

/// How far it got.
#[derive(Default)]
pub(super) struct Scan {
    /// The end of the head, once it is found.
    pub(super) at: usize,
    lines: usize,
    request_line: bool,
}

impl Scan {
    /// How the head stands; `None`: more bytes are needed.
    pub(super) fn look(&mut self, head: &[u8]) -> Option<Head> {
        // Empty lines before a request are allowed (RFC 9112 section 2.2); a few, not a stream of them.
        let start = head.iter().position(|byte| !matches!(byte, b'\r' | b'\n')).unwrap_or(head.len());
        if start > 16 {
            return Some(Head::Malformed);
        }
        if !self.request_line {
            match is_request(&head[start..]) {
                None => return None,
                Some(true) => self.request_line = true,
                Some(false) if is_long_target(&head[start..]) => return Some(Head::LongTarget),
                Some(false) => return Some(Head::Malformed),
            }
        }
        self.at = self.at.max(start);
        while let Some(offset) = memchr::memchr(b'\n', &head[self.at..]) {
            let after = self.at + offset + 1;
            match head[after..] {
                [first @ b'\n', ..] | [first @ b'\r', b'\n', ..] => {
                    self.at = after + if first == b'\n' { 1 } else { 2 };
                    return Some(if self.lines > MAX_FIELDS { Head::TooLarge } else { Head::Complete });
                }
                // The next bytes decide; look at this line end again.
                [] | [b'\r'] => {
                    self.at = after - 1;
                    return None;
                }
                _ => {
                    self.at = after;
                    self.lines += 1;
                    if self.lines > MAX_FIELDS {
                        return Some(Head::TooLarge);
                    }
                }
            }
        }
        self.at = head.len();
        None
    }
}
