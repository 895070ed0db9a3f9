//! Values of metric labels: closed types only, so that nobody outside can make series.

/// What a client spoke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.0 and HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
    /// gRPC, over HTTP/2.
    Grpc,
}

/// The first digit of a status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CodeClass {
    /// No final response was sent.
    None,
    /// 101 and other final 1xx.
    Informational,
    /// 2xx
    Success,
    /// 3xx
    Redirection,
    /// 4xx
    ClientError,
    /// 5xx
    ServerError,
}

/// How an attempt at an upstream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// Response headers came.
    Answered,
    /// Response headers came with a status that is tried again.
    RetriedStatus,
    /// No connection.
    ConnectFailed,
    /// No answer in time.
    TimedOut,
    /// The upstream broke off.
    Reset,
}

/// What became of a wish to try again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// Tried again.
    Made,
    /// The budget is used up.
    BudgetExhausted,
    /// The request cannot be sent twice: method, or body no longer at hand.
    NotRepeatable,
    /// Another proxy owns the retries of this request.
    NotOwner,
    /// No tries or no time left.
    Exhausted,
}

/// Which way opaque bytes went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Client to upstream.
    Sent,
    /// Upstream to client.
    Received,
}

/// What became of an accepted connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accepted {
    /// Served.
    Served,
    /// Over a connection limit.
    Limited,
    /// TLS was not agreed on.
    HandshakeFailed,
    /// No listener wants it, or the platform forbids plain connections.
    Refused,
    /// Nothing sensible arrived in time.
    TimedOut,
}

/// What is spoken on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carries {
    /// HTTP/1.1
    Http1,
    /// HTTP/2
    Http2,
    /// Opaque bytes.
    Tcp,
}

impl Protocol {
    pub(super) const ALL: [Self; 3] = [Self::Http1, Self::Http2, Self::Grpc];

    /// The label's value; also the access log's.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http1 => "http1",
            Self::Http2 => "http2",
            Self::Grpc => "grpc",
        }
    }
}

impl CodeClass {
    pub(super) const ALL: [Self; 6] =
        [Self::None, Self::Informational, Self::Success, Self::Redirection, Self::ClientError, Self::ServerError];

    /// The class of a status; 0 is none.
    pub const fn of(status: u16) -> Self {
        match status / 100 {
            1 => Self::Informational,
            2 => Self::Success,
            3 => Self::Redirection,
            4 => Self::ClientError,
            5 => Self::ServerError,
            _ => Self::None,
        }
    }

    /// The label's value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Informational => "1xx",
            Self::Success => "2xx",
            Self::Redirection => "3xx",
            Self::ClientError => "4xx",
            Self::ServerError => "5xx",
        }
    }
}

impl Attempt {
    pub(super) const ALL: [Self; 5] = [Self::Answered, Self::RetriedStatus, Self::ConnectFailed, Self::TimedOut, Self::Reset];

    /// The label's value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::RetriedStatus => "retried_status",
            Self::ConnectFailed => "connect_failed",
            Self::TimedOut => "timed_out",
            Self::Reset => "reset",
        }
    }
}

impl Retry {
    pub(super) const ALL: [Self; 5] = [Self::Made, Self::BudgetExhausted, Self::NotRepeatable, Self::NotOwner, Self::Exhausted];

    /// The label's value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Made => "made",
            Self::BudgetExhausted => "budget_exhausted",
            Self::NotRepeatable => "not_repeatable",
            Self::NotOwner => "not_owner",
            Self::Exhausted => "exhausted",
        }
    }
}

impl Direction {
    pub(super) const ALL: [Self; 2] = [Self::Sent, Self::Received];

    /// The label's value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sent => "sent",
            Self::Received => "received",
        }
    }
}

impl Accepted {
    pub(super) const ALL: [Self; 5] = [Self::Served, Self::Limited, Self::HandshakeFailed, Self::Refused, Self::TimedOut];

    /// The label's value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Served => "served",
            Self::Limited => "limited",
            Self::HandshakeFailed => "handshake_failed",
            Self::Refused => "refused",
            Self::TimedOut => "timed_out",
        }
    }
}

impl Carries {
    pub(super) const ALL: [Self; 3] = [Self::Http1, Self::Http2, Self::Tcp];

    /// The label's value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http1 => "http1",
            Self::Http2 => "http2",
            Self::Tcp => "tcp",
        }
    }
}
