//! What an explanation consists of; this is what `selvage explain -o json` prints for each proxy.

use super::Described;
use selvage_config::resource::route::FilterSpec;
use selvage_policy::list::Step;
use selvage_policy::traffic::Settings;
use selvage_policy::{Denial, Key, SpiffeId};
use serde::Serialize;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// What one proxy would do, and why.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// The listener that takes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listener: Option<Key>,
    /// Whose guards run here: the identity this proxy speaks for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity: Option<SpiffeId>,
    /// Who is calling, as the connection proves it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub principal: Option<SpiffeId>,
    /// The client's address that guards see.
    pub source: IpAddr,
    /// The canonical host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// The canonical path: what router, guards, logs and upstream use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The Service it is for, where the listener forwards to Services.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<Key>,
    /// The route that matched; the Service's Backend where it has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route: Option<Key>,
    /// The name or number of the rule in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// What each guard said before the request is sent on.
    pub guards: Vec<Step>,
    /// Changes of the rule and the chosen backend, in order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub filters: Vec<FilterSpec>,
    /// Where the client is sent instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redirect: Option<Location>,
    /// The rule's backends with their shares.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub backends: Vec<Share>,
    /// The backend this explanation follows: live traffic draws by weight.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backend: Option<Key>,
    /// How it would be tried.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub settings: Option<TrafficSettings>,
    /// Endpoints that may be chosen, ready ones first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<Candidate>,
    /// What the target's guards said, run here because the endpoint has no sidecar.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub target_guards: Vec<Step>,
    /// The end of it at this proxy.
    pub verdict: Verdict,
    /// What the next one sees; the application, where nobody has an identity there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<Hop>,
}

/// What it comes to at one proxy.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "outcome", rename_all_fields = "camelCase")]
pub enum Verdict {
    /// It is sent on, or redirected.
    Allowed,
    /// It is refused.
    Denied {
        /// The reason, as in the response body.
        reason: &'static str,
        /// The HTTP status.
        status: u16,
        /// The policy that refused.
        #[serde(skip_serializing_if = "Option::is_none")]
        policy: Option<Key>,
        /// The rule or limit in it.
        #[serde(skip_serializing_if = "Option::is_none")]
        rule: Option<String>,
        /// One sentence.
        detail: String,
    },
}

/// A redirect.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Location {
    /// Its status.
    pub status: u16,
    /// Its `Location`.
    pub location: String,
}

/// One backend of a rule.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Share {
    /// Absent: the reference does not resolve.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backend: Option<Key>,
    /// Relative to the sum.
    pub weight: u32,
}

/// One endpoint.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Candidate {
    /// Its address.
    pub address: SocketAddr,
    /// The workload.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workload: Option<Key>,
    /// Whom it proves to be; absent: it has no sidecar.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity: Option<SpiffeId>,
    /// Chosen only where no other is ready.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub draining: bool,
}

/// Timeouts and retries in milliseconds and numbers; absent: the proxy's default.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TrafficSettings {
    /// All tries together; 0: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_timeout_ms: Option<u64>,
    /// One try; 0: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backend_timeout_ms: Option<u64>,
    /// Making a connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connect_timeout_ms: Option<u64>,
    /// Retries after the first try.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempts: Option<u32>,
    /// Response codes that are tried again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub codes: Option<Vec<u16>>,
}

/// Where the request goes from here.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Hop {
    /// The address it is sent to.
    pub address: SocketAddr,
    /// The workload there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workload: Option<Key>,
    /// Whom a sidecar there proves to be; absent: an application is there, and this was the last proxy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity: Option<SpiffeId>,
    /// The request as it arrives there.
    pub request: Described,
}

impl Explanation {
    /// Of a request that nothing is known of yet.
    pub(super) fn of(described: &Described) -> Self {
        Self {
            listener: None,
            identity: None,
            principal: None,
            source: described.source,
            host: None,
            path: None,
            service: None,
            route: None,
            rule: None,
            guards: Vec::new(),
            filters: Vec::new(),
            redirect: None,
            backends: Vec::new(),
            backend: None,
            settings: None,
            endpoints: Vec::new(),
            target_guards: Vec::new(),
            verdict: Verdict::Allowed,
            next: None,
        }
    }
}

impl From<&Settings> for TrafficSettings {
    fn from(settings: &Settings) -> Self {
        let millis = |duration: Option<Duration>| duration.map(|duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX));
        Self {
            request_timeout_ms: millis(settings.request_timeout),
            backend_timeout_ms: millis(settings.backend_timeout),
            connect_timeout_ms: millis(settings.connect_timeout),
            attempts: settings.attempts,
            codes: settings.codes.clone(),
        }
    }
}

impl From<Denial> for Verdict {
    fn from(denial: Denial) -> Self {
        Self::Denied {
            reason: denial.reason.as_str(),
            status: denial.reason.status(),
            policy: denial.policy.map(|key| (*key).clone()),
            rule: denial.rule.map(|rule| rule.to_string()),
            detail: denial.detail.to_string(),
        }
    }
}
