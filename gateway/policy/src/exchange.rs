//! One request on its way through the filters, with the facts found out so far.

use crate::identity::SpiffeId;
use http::{HeaderMap, Method};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime};

/// Who sent it, as the connection proves it.
#[derive(Clone, Debug)]
pub struct Source {
    /// The address of the client: of the connection, or what an assertor said of it.
    pub address: IpAddr,
    /// The workload identity that the peer's certificate proved; absent on plain connections.
    pub principal: Option<SpiffeId>,
}

/// Where it is going, as far as is known.
#[derive(Clone, Debug)]
pub struct Destination {
    /// The address and port the caller connected to (its original destination); the application's port on the inbound side.
    pub address: SocketAddr,
}

/// The HTTP part of a request, after canonicalisation. Absent on opaque TCP.
#[derive(Clone, Copy, Debug)]
pub struct Http<'a> {
    /// The method.
    pub method: &'a Method,
    /// `http` or `https`, as the client sees it.
    pub scheme: &'a str,
    /// Host without port, lower-case, without a final dot.
    pub host: &'a str,
    /// The canonical path: what router, guards, logs and upstream all use.
    pub path: &'a str,
    /// The raw query without `?`.
    pub query: Option<&'a str>,
    /// Header fields, after removal of those that only we may set.
    pub headers: &'a HeaderMap,
}

/// The facts a filter decides on. Built by the driver, by `explain` and by tests alike.
#[derive(Clone, Copy, Debug)]
pub struct Exchange<'a> {
    /// Who.
    pub source: &'a Source,
    /// Where to.
    pub destination: &'a Destination,
    /// What, if it is HTTP.
    pub http: Option<Http<'a>>,
    /// Time since an arbitrary fixed start, never going back: for buckets.
    pub now: Duration,
    /// Time of day, for expressions.
    pub wall: SystemTime,
}
