//! One request id and one trace between two applications.
//!
//! A fellow's request id and trace are kept, and so is a trace that comes from outside (W3C Trace Context, section 3.2: a proxy may take
//! part without a span of its own). A request id from outside is replaced, so that nobody outside names our requests.

use super::hygiene::Standing;
use crate::snapshot::rewrite::Fields;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use rand::RngExt;

/// The request id's field.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// W3C Trace Context.
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// Vendors' part of it; means nothing without the other.
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// Longest request id that is kept.
const MAX_ID: usize = 128;

/// The names of a request.
#[derive(Debug, Default)]
pub(crate) struct Trace {
    /// Its id.
    pub(super) request_id: String,
    /// Its `traceparent`.
    pub(super) parent: String,
    /// The parent was made here: any `tracestate` is nobody's.
    pub(super) begun_here: bool,
}

impl Trace {
    /// Takes the names that came, or makes them.
    pub(super) fn of(headers: &HeaderMap, standing: Standing) -> Self {
        let one = |name: &HeaderName| {
            let mut values = headers.get_all(name).iter();
            values.next().filter(|_| values.next().is_none()).and_then(|value| value.to_str().ok())
        };
        let kept_id = if standing == Standing::Stranger { None } else { one(&REQUEST_ID).filter(|id| is_id(id)) };
        let kept_parent = one(&TRACEPARENT).filter(|parent| is_parent(parent));
        let mut rng = rand::rng();
        Self {
            begun_here: kept_parent.is_none(),
            request_id: kept_id.map_or_else(|| format!("{:032x}", rng.random::<u128>()), str::to_string),
            parent: kept_parent.map_or_else(
                // Zero is invalid in both places (section 3.2.2); flags 00: we record no span.
                || format!("00-{:032x}-{:016x}-00", rng.random::<u128>().max(1), rng.random::<u64>().max(1)),
                str::to_string,
            ),
        }
    }

    /// Writes the names into a head, in place of any that are there.
    pub(crate) fn write(&self, fields: &mut impl Fields) {
        let names = [(REQUEST_ID, &self.request_id), (TRACEPARENT, &self.parent)];
        // What was taken from a field fits into one, and what was made is hexadecimal.
        for (name, text) in names.into_iter().filter_map(|(name, text)| Some((name, HeaderValue::from_str(text).ok()?))) {
            fields.set(name, text);
        }
        if self.begun_here {
            fields.remove(&TRACESTATE);
        }
    }

    /// The trace id within the parent.
    pub(super) fn id(&self) -> &str {
        self.parent.get(3..35).unwrap_or_default()
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

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn headers(fields: &[(HeaderName, &str)]) -> HeaderMap {
        fields.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect()
    }

    #[test]
    fn a_valid_trace_is_kept_from_anybody_and_a_broken_one_from_nobody() {
        for standing in [Standing::Stranger, Standing::Application, Standing::Fellow, Standing::Assertor] {
            let kept = Trace::of(&headers(&[(TRACEPARENT, PARENT)]), standing);
            assert_eq!((kept.parent.as_str(), kept.id(), kept.begun_here), (PARENT, &PARENT[3..35], false));
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
                assert!(made.begun_here && is_parent(&made.parent) && made.parent != broken, "{broken}");
            }
        }
    }

    #[test]
    fn nobody_outside_names_our_requests() {
        let id = |value: &str, standing| Trace::of(&headers(&[(REQUEST_ID, value)]), standing).request_id;
        assert_ne!(id("mine", Standing::Stranger), "mine");
        assert_eq!(id("mine", Standing::Application), "mine");
        assert_eq!(id("mine", Standing::Fellow), "mine");
        assert_ne!(id("no spaces", Standing::Fellow), "no spaces");
        assert_ne!(id(&"x".repeat(129), Standing::Fellow), "x".repeat(129));
    }
}
