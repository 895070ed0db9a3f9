//! A described head made canonical, as the driver makes a live one, and as it is sent on.

use super::DescribedHttp;
use crate::driver::hygiene;
use crate::snapshot::{Snapshot, rewrite};
use http::header::HOST;
use http::{HeaderMap, HeaderValue, Method};
use pingora_http::RequestHeader;
use selvage_config::resource::route::FilterSpec;
use selvage_policy::{Denial, Exchange, Http, Reason, canonical};

/// A canonical head.
pub(super) struct Head {
    pub(super) host: String,
    port: Option<u16>,
    pub(super) request: RequestHeader,
    /// The authority that the client asked for, by an assertor's word.
    pub(super) asked: Option<HeaderValue>,
}

impl Head {
    pub(super) fn parse(http: &DescribedHttp, snapshot: &Snapshot) -> Result<Self, Denial> {
        let bad = |detail: &str| Denial::of(Reason::BadRequest, detail);
        let (host, port) = canonical::authority(&http.host)?;
        let (path, query) = http.path.split_once('?').map_or((http.path.as_str(), None), |(path, query)| (path, Some(query)));
        if query.is_some_and(|query| query.bytes().any(|byte| byte <= b' ' || byte == 0x7f)) {
            return Err(bad("the query has a control character or a space"));
        }
        let path = canonical::path(path, snapshot.mesh.paths)?;
        let target = query.map_or_else(|| path.to_string(), |query| format!("{path}?{query}"));
        let method = Method::from_bytes(http.method.as_bytes()).map_err(|_| bad("the method is malformed"))?;
        if method == Method::CONNECT {
            return Err(bad("CONNECT is not served here"));
        }
        let mut request = RequestHeader::build(method, target.as_bytes(), None).map_err(|_| bad("the request target is malformed"))?;
        // As HTTP/1.1 would carry it, for expressions that look at it.
        request.insert_header(HOST, http.host.as_str()).map_err(|_| bad("the host is missing or malformed"))?;
        for (name, value) in &http.headers {
            if name.eq_ignore_ascii_case(HOST.as_str()) {
                return Err(bad("Host is given more than once"));
            }
            request.append_header(name.clone(), value.as_str()).map_err(|_| bad("a header is malformed"))?;
        }
        Ok(Self { host: host.into_owned(), port, request, asked: None })
    }

    pub(super) fn http<'a>(&'a self, scheme: &'a str) -> Http<'a> {
        let request = &self.request;
        Http {
            method: &request.method,
            scheme,
            host: &self.host,
            path: request.uri.path(),
            query: request.uri.query(),
            headers: &request.headers,
        }
    }

    /// As it is sent upstream: forwarding headers, then the filters.
    pub(super) fn sent<'a>(
        &self,
        exchange: &Exchange<'_>,
        filters: impl Iterator<Item = &'a FilterSpec> + Clone,
        prefix: Option<usize>,
    ) -> Self {
        let mut request = self.request.clone();
        let authority = self.port.map_or_else(|| self.host.clone(), |port| format!("{}:{port}", self.host));
        let asked = self.asked.clone().or_else(|| authority.parse().ok());
        let proto = exchange.http.map_or("http", |http| http.scheme);
        // Values made of a canonical authority, an address and a literal are valid; a field that is not is left out.
        let _ = request.insert_header(hygiene::FORWARDED_FOR, exchange.source.address.to_string());
        let _ = request.insert_header(hygiene::FORWARDED_PROTO, proto);
        if let Some(asked) = asked {
            let _ = request.insert_header(hygiene::FORWARDED_HOST, asked);
        }
        for filter in filters.clone() {
            rewrite::request_fields(std::slice::from_ref(filter), &mut request);
        }
        let rewritten = rewrite::rewrite(filters, self.request.uri.path(), prefix);
        if let Some(path) = rewritten.path {
            let target = request.uri.query().map_or_else(|| path.clone(), |query| format!("{path}?{query}"));
            let _ = request.set_raw_path(target.as_bytes());
        }
        if let Some(host) = &rewritten.host {
            let _ = request.insert_header(HOST, host.as_str());
        }
        let port = self.port.filter(|_| rewritten.host.is_none());
        Self { host: rewritten.host.unwrap_or_else(|| self.host.clone()), port, request, asked: None }
    }

    /// As the target's guards see it: without what only proxies say.
    pub(super) fn at_target(&self) -> Self {
        let mut request = self.request.clone();
        hygiene::unsay(&mut request);
        Self { host: self.host.clone(), port: self.port, request, asked: None }
    }

    /// As the next hop would describe it.
    pub(super) fn describe(&self, exchange: &Exchange<'_>) -> DescribedHttp {
        let headers: &HeaderMap = &self.request.headers;
        let target = self.request.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
        DescribedHttp {
            method: self.request.method.to_string(),
            scheme: exchange.http.map_or("http", |http| http.scheme).into(),
            host: self.port.map_or_else(|| self.host.clone(), |port| format!("{}:{port}", self.host)),
            path: target.into(),
            headers: headers
                .iter()
                .filter(|(name, _)| *name != HOST)
                .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
                .collect(),
        }
    }
}
