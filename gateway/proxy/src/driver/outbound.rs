//! What is sent upstream: rewrites, header changes, and the headers that only we write.

use super::admission::GRPC_TIMEOUT;
use super::context::{Context, Way};
use super::head::{bad, retarget};
use super::hygiene::{ATTEMPT, DEADLINE, PRINCIPAL, X_FORWARDED_FOR, X_FORWARDED_HOST, X_FORWARDED_PROTO};
use crate::snapshot::rewrite;
use http::header::{HOST, HeaderName, TE};
use http::{HeaderValue, Version};
use pingora_core::Result;
use pingora_http::RequestHeader;
use selvage_policy::Denial;
use std::time::Duration;

/// Completes the head of an attempt. Pingora has removed what ends at this hop.
pub(super) fn complete(ctx: &mut Context, req: &mut RequestHeader) -> Result<(), Denial> {
    rewrite(ctx, req)?;
    let fellow = ctx.tries.last.as_ref().is_some_and(|state| state.endpoint.identity.is_some());
    if req.version != Version::HTTP_2 {
        // Pingora loses trailers on HTTP/1.1 hops.
        req.remove_header(&TE);
    }
    let set = |req: &mut RequestHeader, name: HeaderName, value: &str| {
        req.insert_header(name, value).map_err(|_| bad("a header of the request cannot be written"))
    };
    if fellow {
        set(req, ATTEMPT, &ctx.tries.made.to_string())?;
    } else if let (Way::Address(_), Some(principal)) = (&ctx.way, &ctx.source.principal) {
        set(req, PRINCIPAL, &principal.to_string())?;
    }
    if let Some(left) = ctx.left() {
        if fellow {
            set(req, DEADLINE, &left.as_millis().to_string())?;
        }
        if req.headers.contains_key(&GRPC_TIMEOUT) {
            set(req, GRPC_TIMEOUT, &grpc_timeout(left))?;
        }
    }
    ctx.reached += 1;
    Ok(())
}

/// Applies the forwarding headers, then the filters of the rule and the backend; gives the new host where there is one.
pub(super) fn rewrite(ctx: &Context, req: &mut RequestHeader) -> Result<Option<String>, Denial> {
    let unwritable = |_| bad("a header of the request cannot be written");
    ctx.trace.write(req);
    req.insert_header(X_FORWARDED_FOR, ctx.source.address.to_string()).map_err(unwritable)?;
    req.insert_header(X_FORWARDED_PROTO, HeaderValue::from_static(ctx.scheme)).map_err(unwritable)?;
    match &ctx.told.host {
        Some(host) => req.insert_header(X_FORWARDED_HOST, host.clone()).map_err(unwritable)?,
        None => req.insert_header(X_FORWARDED_HOST, ctx.head.authority()).map_err(unwritable)?,
    }
    let (Way::Backend(matched, _), Some(chosen)) = (&ctx.way, ctx.chosen()) else { return Ok(None) };
    let (of_rule, of_backend) = (&matched.rule.filters, &chosen.filters);
    if of_rule.is_empty() && of_backend.is_empty() {
        return Ok(None);
    }
    // Framing, Host and headers of ours are not among what they may change: such a route does not compile.
    rewrite::request_fields(of_rule, req);
    rewrite::request_fields(of_backend, req);
    let path = req.uri.path().to_string();
    let rewritten = rewrite::rewrite(of_rule.iter().chain(of_backend), &path, matched.prefix);
    if let Some(path) = rewritten.path {
        let target = req.uri.query().map_or_else(|| path.clone(), |query| format!("{path}?{query}"));
        let authority = req.uri.authority().map(|authority| authority.as_str().to_string());
        retarget(req, &target, authority.as_deref())?;
    }
    if let Some(host) = &rewritten.host {
        // Pingora carries this over to `:authority`.
        req.insert_header(HOST, host.as_str()).map_err(unwritable)?;
    }
    Ok(rewritten.host)
}

/// At most eight digits and a unit; never more than is left.
fn grpc_timeout(left: Duration) -> String {
    let millis = left.as_millis();
    if millis < 100_000_000 { format!("{millis}m") } else { format!("{}S", left.as_secs().min(99_999_999)) }
}

#[cfg(test)]
mod tests {
    use super::super::admission::grpc_timeout as parse;
    use super::*;

    #[test]
    fn grpc_timeouts_are_read_and_written_and_never_grow() {
        for (text, millis) in [("1H", 3_600_000), ("2M", 120_000), ("3S", 3000), ("250m", 250), ("4000u", 4), ("9999999n", 9)] {
            assert_eq!(parse(text.as_bytes()).map(|d| d.as_millis()), Some(millis), "{text}");
        }
        for broken in ["", "m", "1", "1x", "123456789m", "-1S", "1.5S"] {
            assert_eq!(parse(broken.as_bytes()), None, "{broken}");
        }
        for left in [Duration::from_micros(1), Duration::from_millis(7), Duration::from_secs(100_000), Duration::MAX] {
            let written = grpc_timeout(left);
            assert!(parse(written.as_bytes()).is_some_and(|read| read <= left), "{written}");
        }
    }
}
