//! One request id and one trace between two applications.
//!
//! A fellow's request id and trace are kept, and so is a trace that comes from outside (W3C Trace Context, section 3.2: a proxy may take
//! part without a span of its own). A request id from outside is replaced, so that nobody outside names our requests.

use super::hygiene::Standing;
use crate::snapshot::rewrite::Fields;
use bytes::Bytes;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use rand::RngExt;

/// The request id's field.
const X_REQUEST_ID: &str = "x-request-id";
const REQUEST_ID: HeaderName = HeaderName::from_static(X_REQUEST_ID);
/// W3C Trace Context.
const TRACE_PARENT: &str = "traceparent";
const TRACEPARENT: HeaderName = HeaderName::from_static(TRACE_PARENT);
/// Vendors' part of it; means nothing without the other.
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// Bytes of an id and of a parent that are made here.
const ID: usize = 32;
const PARENT: usize = 55;
const TEMPLATE: &[u8; ID + PARENT] = b"0000000000000000000000000000000000-00000000000000000000000000000000-0000000000000000-00";
/// Longest request id that is kept.
const MAX_ID: usize = 128;

/// The names of a request, as fields carry them: copies share their bytes.
#[derive(Clone, Debug)]
pub(crate) struct Trace {
    /// Its id.
    request_id: HeaderValue,
    /// Its `traceparent`.
    parent: HeaderValue,
    /// The parent was made here: any `tracestate` is nobody's.
    begun_here: bool,
}

impl Default for Trace {
    /// Of a request that is not known yet: empty.
    fn default() -> Self {
        let empty = HeaderValue::from_static("");
        Self { request_id: empty.clone(), parent: empty, begun_here: false }
    }
}

impl Trace {
    /// Takes the names that came, or makes them.
    pub(super) fn of(headers: &HeaderMap, standing: Standing) -> Self {
        let one = |name: &HeaderName, is: fn(&str) -> bool| {
            let mut values = headers.get_all(name).iter();
            values.next().filter(|value| values.next().is_none() && value.to_str().is_ok_and(is)).cloned()
        };
        let kept_id = if standing == Standing::Stranger { None } else { one(&REQUEST_ID, is_id) };
        let kept_parent = one(&TRACEPARENT, is_parent);
        let begun_here = kept_parent.is_none();
        if let (Some(request_id), Some(parent)) = (&kept_id, &kept_parent) {
            return Self { request_id: request_id.clone(), parent: parent.clone(), begun_here };
        }
        let mut rng = rand::rng();
        // One allocation for both: id, then parent.
        let mut made = *TEMPLATE;
        hex(&mut made[..ID], &rng.random::<[u8; 16]>());
        // Zero is invalid in both places (section 3.2.2); flags 00: we record no span.
        hex(&mut made[ID + 3..], &rng.random::<u128>().max(1).to_be_bytes());
        hex(&mut made[ID + 36..], &rng.random::<u64>().max(1).to_be_bytes());
        let made = Bytes::copy_from_slice(&made);
        let value =
            |part: std::ops::Range<usize>| HeaderValue::from_maybe_shared(made.slice(part)).unwrap_or(HeaderValue::from_static("0"));
        Self {
            request_id: kept_id.unwrap_or_else(|| value(0..ID)),
            parent: kept_parent.unwrap_or_else(|| value(ID..ID + PARENT)),
            begun_here,
        }
    }

    /// Writes the names into a head, in place of any that are there.
    pub(crate) fn write(&self, fields: &mut impl Fields) {
        fields.say(X_REQUEST_ID, self.request_id.clone());
        fields.say(TRACE_PARENT, self.parent.clone());
        if self.begun_here {
            fields.remove(&TRACESTATE);
        }
    }

    /// The request's id.
    pub(super) fn request_id(&self) -> &str {
        self.request_id.to_str().unwrap_or_default()
    }

    /// The trace id within the parent.
    pub(super) fn id(&self) -> &str {
        self.parent.to_str().ok().and_then(|parent| parent.get(3..35)).unwrap_or_default()
    }
}

/// Writes bytes in hexadecimal.
fn hex(to: &mut [u8], bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for (digits, byte) in to.chunks_exact_mut(2).zip(bytes) {
        digits[0] = DIGITS[usize::from(byte >> 4)];
        digits[1] = DIGITS[usize::from(byte & 15)];
    }
}

fn is_id(id: &str) -> bool {
    (1..=MAX_ID).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'='))
}

fn is_parent(parent: &str) -> bool {
    let mut parts = parent.split('-');
    let mut hex = |len: usize| {
        let part = parts.next()?;
        (part.len() == len && part.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))).then_some(part)
    };
    let (version, trace, span, flags) = (hex(2), hex(32), hex(16), hex(2));
    let nonzero = |part: Option<&str>| part.is_some_and(|part| part.bytes().any(|byte| byte != b'0'));
    let known = version == Some("00") && parts.next().is_none() || version.is_some_and(|version| version != "00" && version != "ff");
    known && nonzero(trace) && nonzero(span) && flags.is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIVEN: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn headers(fields: &[(HeaderName, &str)]) -> HeaderMap {
        fields.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect()
    }

    #[test]
    fn a_valid_trace_is_kept_from_anybody_and_a_broken_one_from_nobody() {
        for standing in [Standing::Stranger, Standing::Application, Standing::Fellow, Standing::Assertor] {
            let kept = Trace::of(&headers(&[(TRACEPARENT, GIVEN)]), standing);
            assert_eq!((kept.parent.to_str().unwrap(), kept.id(), kept.begun_here), (GIVEN, &GIVEN[3..35], false));
            for broken in [
                "",
                "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
                "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
                "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
                "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
                "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
                "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            ] {
                let made = Trace::of(&headers(&[(TRACEPARENT, broken)]), standing);
                let parent = made.parent.to_str().unwrap();
                assert!(made.begun_here && is_parent(parent) && parent != broken && is_id(made.request_id()), "{broken}");
            }
        }
    }

    #[test]
    fn nobody_outside_names_our_requests() {
        let id = |value: &str, standing| Trace::of(&headers(&[(REQUEST_ID, value)]), standing).request_id().to_string();
        assert_ne!(id("mine", Standing::Stranger), "mine");
        assert_eq!(id("mine", Standing::Application), "mine");
        assert_eq!(id("mine", Standing::Fellow), "mine");
        assert_ne!(id("no spaces", Standing::Fellow), "no spaces");
        assert_ne!(id(&"x".repeat(129), Standing::Fellow), "x".repeat(129));
    }
}
