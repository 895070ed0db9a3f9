//! Where a chunked body ends (RFC 9112 section 7.1), found out while its bytes pass.
//!
//! Never laxer than Pingora's own reader: what this takes for the end, that does too, and what this finds broken is passed on whole for it
//! to refuse. So the two cannot disagree about which bytes are the next request.

/// Hexadecimal digits of a size; Pingora's reader takes as many.
const MAX_DIGITS: u8 = 16;

/// What is expected next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// Digits of a size.
    Size {
        digits: u8,
        size: u64,
    },
    /// Spaces after a size, then an extension or the line's end.
    Space(u64),
    /// Anything up to a CR.
    Extension(u64),
    /// The LF of a size's line.
    SizeEnd(u64),
    /// So many bytes.
    Bytes(u64),
    /// The line end after a chunk's bytes.
    Cr,
    Lf,
    /// A trailer, or the end.
    Line,
    /// Anything up to a CR.
    Trailer,
    /// The LF of a trailer.
    TrailerEnd,
    /// The LF of the end.
    LastLf,
    Over,
    Broken,
}

/// The state of one body.
#[derive(Debug)]
pub(super) struct Chunks(Next);

impl Default for Chunks {
    fn default() -> Self {
        Self(Next::Size { digits: 0, size: 0 })
    }
}

impl Chunks {
    /// Whether the last byte has passed.
    pub(super) fn are_over(&self) -> bool {
        self.0 == Next::Over
    }

    /// Whether they are not what they should be.
    pub(super) fn are_broken(&self) -> bool {
        self.0 == Next::Broken
    }

    /// How many of these bytes, the next ones, belong to the body.
    pub(super) fn take(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        while at < bytes.len() && !matches!(self.0, Next::Over | Next::Broken) {
            if let Next::Bytes(left) = self.0 {
                let taken = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len() - at);
                at += taken;
                let left = left - taken as u64;
                self.0 = if left == 0 { Next::Cr } else { Next::Bytes(left) };
            } else {
                self.0 = self.0.after(bytes[at]);
                at += 1;
            }
        }
        at
    }
}

impl Next {
    fn after(self, byte: u8) -> Self {
        match (self, byte) {
            (Self::Size { digits, size }, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') if digits < MAX_DIGITS => {
                let digit = char::from(byte).to_digit(16).unwrap_or_default();
                Self::Size { digits: digits + 1, size: (size << 4) | u64::from(digit) }
            }
            (Self::Size { digits: 1.., size }, b' ' | b'\t') | (Self::Space(size), b' ' | b'\t') => Self::Space(size),
            (Self::Size { digits: 1.., size }, b';') | (Self::Space(size), b';') => Self::Extension(size),
            (Self::Size { digits: 1.., size }, b'\r') | (Self::Space(size) | Self::Extension(size), b'\r') => Self::SizeEnd(size),
            (Self::Extension(size), _) => Self::Extension(size),
            (Self::SizeEnd(0), b'\n') | (Self::TrailerEnd, b'\n') => Self::Line,
            (Self::SizeEnd(size), b'\n') => Self::Bytes(size),
            (Self::Cr, b'\r') => Self::Lf,
            (Self::Lf, b'\n') => Self::default_size(),
            (Self::Line, b'\r') => Self::LastLf,
            (Self::Trailer, b'\r') => Self::TrailerEnd,
            (Self::Line | Self::Trailer, byte) if byte != b'\n' => Self::Trailer,
            (Self::LastLf, b'\n') => Self::Over,
            _ => Self::Broken,
        }
    }

    fn default_size() -> Self {
        Self::Size { digits: 0, size: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many bytes it took, and how it stands.
    fn taken(text: &str, step: usize) -> (usize, Next) {
        let mut chunks = Chunks::default();
        let mut at = 0;
        for part in text.as_bytes().chunks(step) {
            let taken = chunks.take(part);
            at += taken;
            if taken < part.len() {
                break;
            }
        }
        (at, chunks.0)
    }

    #[test]
    fn a_body_ends_where_it_ends_however_it_is_cut() {
        for body in [
            "0\r\n\r\n",
            "5\r\nhello\r\n0\r\n\r\n",
            "5;x=\"\n\"\r\nhello\r\n00\r\n\r\n",
            "5 \t;x\r\nhello\r\n6\r\n world\r\n0\r\nA: b\r\nC: d\r\n\r\n",
            "9\r\n0\r\n\r\nGET \r\n0\r\n\r\n",
            "00000000000000F\r\n012345678901234\r\n0\r\n\r\n",
        ] {
            for after in ["", "GET / HTTP/1.1\r\n\r\n", "\r\n"] {
                for step in [1, 2, 3, 7, 1000] {
                    assert_eq!(taken(&format!("{body}{after}"), step), (body.len(), Next::Over), "{body:?} {after:?} by {step}");
                }
            }
        }
    }

    #[test]
    fn what_is_broken_is_no_end() {
        for body in [
            "\r\n\r\n",
            "x\r\n",
            "5\nhello\r\n0\r\n\r\n",
            "5\r\nhello0\r\n\r\n",
            "5\r\nhello\n0\r\n\r\n",
            "0\r\n\n",
            "0\n\r\n",
            "0\r\nA: b\n\r\n",
            "0\r\n\r\r",
            "-5\r\n",
            "0x5\r\n",
            " 5\r\n",
            "5 5\r\n",
            "00000000000000005\r\nhello\r\n",
            ";x\r\n",
        ] {
            assert_eq!(taken(body, 1000).1, Next::Broken, "{body:?}");
        }
        assert_ne!(taken("ffffffffffffffff\r\nx", 1000).1, Next::Over, "as much as Pingora takes for a size, and never reached");
    }
}
