//! Which endpoint gets a request: the better of two by peak EWMA of latency times requests in flight.

use selvage_config::Endpoint;
use std::net::SocketAddr;
use std::sync::Arc;

/// The endpoints of one Backend; swapped as slices change, their state shared by routes, listeners and threads.
#[derive(Debug, Default)]
pub struct EndpointSet {}

/// One endpoint with its live figures.
#[derive(Debug)]
pub struct EndpointState {
    /// What the controller says of it.
    pub endpoint: Endpoint,
}

/// A request under way to an endpoint; counted until dropped.
#[derive(Debug)]
pub struct InFlight {}

impl EndpointSet {
    /// Replaces the endpoints; those that stay keep their figures.
    pub fn replace(&self, endpoints: &[Endpoint]) {
        let _ = endpoints;
        unimplemented!("contract")
    }

    /// Picks one; those in `tried` only if there is no other. `None`: no endpoint is ready.
    pub fn pick(&self, tried: &[SocketAddr]) -> Option<Arc<EndpointState>> {
        let _ = tried;
        unimplemented!("contract")
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        unimplemented!("contract")
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl EndpointState {
    /// Starts counting a request.
    pub fn begin(self: &Arc<Self>) -> InFlight {
        unimplemented!("contract")
    }
}

impl InFlight {
    /// Records the time to response headers, or a failure (counted as a slow answer).
    pub fn answered(&mut self, outcome: Result<(), ()>) {
        let _ = outcome;
        unimplemented!("contract")
    }
}
