//! The canonical request: one idempotent function in every role, so that router, guards, limits, logs and the upstream see the same.
//!
//! Property: what is sent upstream is a fixed point: `path(path(x)) == path(x)`.
//!
//! The form is that of RFC 3986 section 6.2.2: unreserved characters decoded, triplets in upper case, bytes that a path may not have
//! encoded, dot segments removed, `//` merged. What systems read in two ways is refused instead: separators in disguise (`%2f`, `%5c`, `\`),
//! control characters, and dot segments with path parameters (`..;a`). `*` (for OPTIONS) and the absolute form are the caller's to take
//! apart first.

use crate::mesh::{DoubleSlash, Encoded, PathHandling};
use crate::reason::Reason;
use crate::verdict::Denial;
use std::borrow::Cow;
use std::net::Ipv6Addr;

#[cfg(test)]
mod tests;

/// Why a request has no canonical form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRequest {
    /// `%` without two hexadecimal digits.
    #[error("the path has a `%` that no two hexadecimal digits follow")]
    Triplet,
    /// A control character, NUL, `\` or space, plain or encoded.
    #[error("the path has a control character, a space, `?`, `#` or a backslash")]
    Character,
    /// `%2f`, `%5c`, `//` or `..;` where the platform refuses them.
    #[error("the path has an encoded or doubled separator, or a `..;` segment")]
    Separator,
    /// More `..` than segments, or no leading `/`.
    #[error("the path does not start with `/` or climbs above its root")]
    Root,
    /// The host is missing, doubled or malformed.
    #[error("the host is missing or malformed")]
    Host,
}

impl From<InvalidRequest> for Denial {
    fn from(invalid: InvalidRequest) -> Self {
        let text = invalid.to_string();
        let mut sentence: String = text.chars().take(1).flat_map(char::to_uppercase).collect();
        sentence.extend(text.chars().skip(1));
        sentence.push('.');
        Self::of(Reason::BadRequest, &sentence)
    }
}

/// The canonical form of a request path (without query). Borrowed when it is canonical already.
pub fn path(raw: &str, handling: PathHandling) -> Result<Cow<'_, str>, InvalidRequest> {
    if !raw.starts_with('/') {
        return Err(InvalidRequest::Root);
    }
    if is_plain(raw.as_bytes()) {
        return Ok(Cow::Borrowed(raw));
    }
    let decoded = decode(raw.as_bytes(), handling)?;
    let path = remove_dots(&decoded, handling.double_slash)?;
    Ok(if path == raw { Cow::Borrowed(raw) } else { Cow::Owned(path) })
}

/// Whether one look shows that nothing is to be done: every byte belongs in a path, triplets are in their final form, no `//`, no dot segment.
fn is_plain(path: &[u8]) -> bool {
    let mut index = 0;
    while let Some(&byte) = path.get(index) {
        match byte {
            b'%' => {
                let &[high, low] = path.get(index + 1..index + 3).and_then(|digits| digits.first_chunk::<2>()).unwrap_or(b"zz");
                let digit = |byte: u8| if byte.is_ascii_lowercase() { None } else { char::from(byte).to_digit(16) };
                let Some(decoded) = digit(high).zip(digit(low)).map(|(high, low)| (high * 16 + low) as u8) else { return false };
                if is_unreserved(decoded) || decoded < b' ' || matches!(decoded, b'/' | b'\\' | 0x7f) {
                    return false;
                }
                index += 2;
            }
            b'/' if matches!(path.get(index + 1..), Some([b'/', ..] | [b'.'] | [b'.', b'.' | b'/' | b';' | b'%', ..])) => return false,
            byte if !is_path_byte(byte) => return false,
            _ => {}
        }
        index += 1;
    }
    true
}

/// RFC 3986 section 3.3 `pchar` without triplets.
fn is_path_byte(byte: u8) -> bool {
    is_unreserved(byte) || matches!(byte, b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=' | b':' | b'@' | b'/')
}

/// Bytes that are in no path: controls, space, DEL, `\`, and the two that would end it.
fn is_refused(byte: u8) -> bool {
    byte <= b' ' || matches!(byte, 0x7f | b'\\' | b'?' | b'#')
}

/// RFC 3986 section 2.3.
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// Decodes unreserved characters, puts the other triplets in upper case and encodes what RFC 3986 allows in triplets only.
fn decode(raw: &[u8], handling: PathHandling) -> Result<String, InvalidRequest> {
    let mut out = String::with_capacity(raw.len());
    let mut bytes = raw.iter().copied();
    while let Some(byte) = bytes.next() {
        let decoded = match byte {
            b'%' => {
                let mut digit = || bytes.next().and_then(|digit| char::from(digit).to_digit(16)).ok_or(InvalidRequest::Triplet);
                let (high, low) = (digit()?, digit()?);
                // Two hexadecimal digits are one byte.
                (high * 16 + low) as u8
            }
            byte if is_refused(byte) => return Err(InvalidRequest::Character),
            byte if is_path_byte(byte) => {
                out.push(char::from(byte));
                continue;
            }
            byte => byte,
        };
        let refused = match decoded {
            b'/' => handling.encoded_slash == Encoded::Refuse,
            b'\\' => handling.encoded_backslash == Encoded::Refuse,
            _ => false,
        };
        if refused {
            return Err(InvalidRequest::Separator);
        }
        if decoded < b' ' || decoded == 0x7f {
            return Err(InvalidRequest::Character);
        }
        if is_unreserved(decoded) {
            out.push(char::from(decoded));
        } else {
            out.push('%');
            out.extend([decoded >> 4, decoded & 0xf].map(|digit| char::from(b"0123456789ABCDEF"[usize::from(digit)])));
        }
    }
    Ok(out)
}

/// RFC 3986 section 5.2.4, with what it leaves open refused: climbing above the root, and dot segments that carry parameters.
fn remove_dots(path: &str, double_slash: DoubleSlash) -> Result<String, InvalidRequest> {
    let mut out = String::with_capacity(path.len());
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match segment {
            "." => {
                if last {
                    out.push('/');
                }
            }
            ".." => {
                let parent = out.rfind('/').ok_or(InvalidRequest::Root)?;
                out.truncate(parent);
                if last {
                    out.push('/');
                }
            }
            "" if !last => match double_slash {
                DoubleSlash::Merge => {}
                DoubleSlash::Refuse => return Err(InvalidRequest::Separator),
                DoubleSlash::Keep => out.push('/'),
            },
            segment if is_dots_with_parameter(segment) => return Err(InvalidRequest::Separator),
            segment => {
                out.push('/');
                out.push_str(segment);
            }
        }
    }
    if out.is_empty() {
        out.push('/');
    }
    Ok(out)
}

/// `.;a` and `..;a`, also with `%3B`: servers that cut parameters off see a dot segment there.
fn is_dots_with_parameter(segment: &str) -> bool {
    let rest = segment.trim_start_matches('.');
    matches!(segment.len() - rest.len(), 1 | 2) && (rest.starts_with(';') || rest.starts_with("%3B"))
}

/// The canonical host and the port of an authority: lower-case, no final dot, no userinfo. IPv6 literals keep their brackets.
pub fn authority(raw: &str) -> Result<(Cow<'_, str>, Option<u16>), InvalidRequest> {
    let (host, port) = if raw.starts_with('[') {
        let end = raw.find(']').ok_or(InvalidRequest::Host)?;
        (
            &raw[..=end],
            raw[end + 1..]
                .strip_prefix(':')
                .map_or_else(|| if raw.len() == end + 1 { Ok(None) } else { Err(InvalidRequest::Host) }, |port| Ok(Some(port)))?,
        )
    } else {
        match raw.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (raw, None),
        }
    };
    let port = port.map(number).transpose()?;
    if let Some(literal) = host.strip_prefix('[') {
        let address: Ipv6Addr = literal.trim_end_matches(']').parse().map_err(|_| InvalidRequest::Host)?;
        let canonical = format!("[{address}]");
        return Ok((if canonical == host { Cow::Borrowed(host) } else { Cow::Owned(canonical) }, port));
    }
    let host = host.strip_suffix('.').unwrap_or(host);
    let label = |label: &str| (1..=63).contains(&label.len()) && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    if host.len() > 253 || !host.split('.').all(label) {
        return Err(InvalidRequest::Host);
    }
    let lower = host.bytes().any(|byte| byte.is_ascii_uppercase());
    Ok((if lower { Cow::Owned(host.to_ascii_lowercase()) } else { Cow::Borrowed(host) }, port))
}

fn number(port: &str) -> Result<u16, InvalidRequest> {
    let digits = (1..=5).contains(&port.len()) && port.bytes().all(|byte| byte.is_ascii_digit());
    match port.parse() {
        Ok(port) if digits && port > 0 => Ok(port),
        _ => Err(InvalidRequest::Host),
    }
}
