//! Why a request was refused: one bounded list, an API.
//!
//! The same word stands in the response body, the access log, the metric label and the docs.

/// Every reason a proxy refuses or fails a request with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// The request is malformed, ambiguous or not allowed in its form.
    BadRequest,
    /// The request target is longer than the limits allow.
    TargetTooLong,
    /// Headers larger or more than the limits allow.
    HeadersTooLarge,
    /// The body is larger than the limits allow. Not given by this release: no limit of it is on the size of bodies.
    BodyTooLarge,
    /// Request headers or body did not arrive in time.
    RequestTimeout,
    /// Neither listener nor route matches.
    NoRoute,
    /// The connection's TLS name does not serve this host (RFC 9110 section 15.5.20).
    Misdirected,
    /// A route's backend reference does not resolve (Gateway API: 500), or what it leads to cannot carry the request.
    InvalidBackend,
    /// No endpoint is ready.
    NoEndpoint,
    /// An AuthorizationPolicy denies, or none of its allow rules match.
    AuthorizationDenied,
    /// The mesh's posture denies, no allow rule being attached.
    PostureDenied,
    /// Mutual TLS is required and the caller did not use it.
    MeshRequired,
    /// A limit is used up.
    RateLimited,
    /// A guard cannot be enforced: it does not compile.
    PolicyInvalid,
    /// A guard cannot be enforced: something it refers to does not exist.
    PolicyUnresolved,
    /// A guard cannot be enforced: this proxy does not know its kind or schema.
    PolicyUnknown,
    /// A guard failed while it ran: an expression error or a panic.
    PolicyError,
    /// The configuration changed and the connection's permission with it.
    PolicyChanged,
    /// Connecting to the upstream failed.
    UpstreamConnect,
    /// The upstream broke off or answered something that is no HTTP.
    UpstreamReset,
    /// The upstream did not answer in time.
    UpstreamTimeout,
    /// The proxy is over a limit of its own (connections, streams, memory). Not given by this release: it closes or resets what is too much.
    Overloaded,
    /// The proxy is going away.
    Draining,
    /// A fault of the proxy itself.
    ProxyError,
}

impl Reason {
    /// Every reason, for docs and metrics.
    pub const ALL: [Self; 24] = [
        Self::BadRequest,
        Self::TargetTooLong,
        Self::HeadersTooLarge,
        Self::BodyTooLarge,
        Self::RequestTimeout,
        Self::NoRoute,
        Self::Misdirected,
        Self::InvalidBackend,
        Self::NoEndpoint,
        Self::AuthorizationDenied,
        Self::PostureDenied,
        Self::MeshRequired,
        Self::RateLimited,
        Self::PolicyInvalid,
        Self::PolicyUnresolved,
        Self::PolicyUnknown,
        Self::PolicyError,
        Self::PolicyChanged,
        Self::UpstreamConnect,
        Self::UpstreamReset,
        Self::UpstreamTimeout,
        Self::Overloaded,
        Self::Draining,
        Self::ProxyError,
    ];

    /// The word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BadRequest => "bad_request",
            Self::TargetTooLong => "target_too_long",
            Self::HeadersTooLarge => "headers_too_large",
            Self::BodyTooLarge => "body_too_large",
            Self::RequestTimeout => "request_timeout",
            Self::NoRoute => "no_route",
            Self::Misdirected => "misdirected",
            Self::InvalidBackend => "invalid_backend",
            Self::NoEndpoint => "no_endpoint",
            Self::AuthorizationDenied => "authorization_denied",
            Self::PostureDenied => "posture_denied",
            Self::MeshRequired => "mesh_required",
            Self::RateLimited => "rate_limited",
            Self::PolicyInvalid => "policy_invalid",
            Self::PolicyUnresolved => "policy_unresolved",
            Self::PolicyUnknown => "policy_unknown",
            Self::PolicyError => "policy_error",
            Self::PolicyChanged => "policy_changed",
            Self::UpstreamConnect => "upstream_connect",
            Self::UpstreamReset => "upstream_reset",
            Self::UpstreamTimeout => "upstream_timeout",
            Self::Overloaded => "overloaded",
            Self::Draining => "draining",
            Self::ProxyError => "proxy_error",
        }
    }

    /// The HTTP status it is answered with.
    pub const fn status(self) -> u16 {
        match self {
            Self::BadRequest => 400,
            Self::TargetTooLong => 414,
            Self::HeadersTooLarge => 431,
            Self::BodyTooLarge => 413,
            Self::RequestTimeout => 408,
            Self::NoRoute => 404,
            Self::Misdirected => 421,
            Self::InvalidBackend | Self::ProxyError | Self::PolicyError => 500,
            Self::AuthorizationDenied | Self::PostureDenied | Self::MeshRequired | Self::PolicyChanged => 403,
            Self::RateLimited => 429,
            Self::NoEndpoint | Self::PolicyInvalid | Self::PolicyUnresolved | Self::PolicyUnknown | Self::Overloaded | Self::Draining => {
                503
            }
            Self::UpstreamConnect | Self::UpstreamReset => 502,
            Self::UpstreamTimeout => 504,
        }
    }

    /// The gRPC status code (`grpc/doc/statuscodes.md`) a gRPC caller gets.
    pub const fn grpc_status(self) -> u8 {
        match self {
            Self::BadRequest | Self::InvalidBackend | Self::ProxyError | Self::PolicyError => 13,
            Self::TargetTooLong | Self::HeadersTooLarge | Self::BodyTooLarge | Self::RateLimited => 8,
            Self::RequestTimeout | Self::UpstreamTimeout => 4,
            Self::NoRoute | Self::Misdirected => 12,
            Self::AuthorizationDenied | Self::PostureDenied | Self::MeshRequired | Self::PolicyChanged => 7,
            Self::NoEndpoint
            | Self::PolicyInvalid
            | Self::PolicyUnresolved
            | Self::PolicyUnknown
            | Self::UpstreamConnect
            | Self::UpstreamReset
            | Self::Overloaded
            | Self::Draining => 14,
        }
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}
