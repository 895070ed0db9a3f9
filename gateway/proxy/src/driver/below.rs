//! Log lines of what ends below the driver: opaque TCP, and requests that were refused before it saw them.

use super::Shared;
use crate::connection::Connection;
use crate::l4::{Closed, Observer};
use crate::observe::access::{Entry, policies, rfc3339};
use selvage_policy::Denial;
use std::time::SystemTime;

impl Observer for Shared {
    fn closed(&self, closed: &Closed) {
        if !self.access.is_on() {
            return;
        }
        let began = SystemTime::now().checked_sub(closed.duration).unwrap_or(SystemTime::UNIX_EPOCH);
        self.log(&Entry {
            time: rfc3339(began),
            listener: Some(closed.listener.to_string()),
            route: closed.route.as_ref().map(ToString::to_string),
            source: Some(closed.peer.ip().to_string()),
            principal: closed.principal.as_ref().map(ToString::to_string),
            protocol: "tcp",
            bytes_received: closed.sent,
            bytes_sent: closed.received,
            duration_ms: closed.duration.as_secs_f64() * 1000.0,
            endpoint: closed.endpoint.map(|endpoint| endpoint.to_string()),
            attempts: u32::from(closed.endpoint.is_some()),
            audited: policies(&closed.audited),
            ..refusal(closed.denial.as_ref())
        });
    }

    fn refused(&self, connection: &Connection, denial: &Denial) {
        if !self.access.is_on() {
            return;
        }
        self.log(&Entry {
            time: rfc3339(SystemTime::now()),
            listener: Some(connection.listener.to_string()),
            source: Some(connection.peer.ip().to_string()),
            principal: connection.principal().map(ToString::to_string),
            protocol: "http",
            status: Some(denial.reason.status()),
            ..refusal(Some(denial))
        });
    }
}

fn refusal(denial: Option<&Denial>) -> Entry<'_> {
    let Some(denial) = denial else { return Entry::default() };
    Entry {
        policy: denial.policy.as_ref().map(ToString::to_string),
        policy_rule: denial.rule.as_deref(),
        reason: denial.reason.as_str(),
        detail: &denial.detail,
        ..Entry::default()
    }
}
