//! `Programmed`: whether the proxies of a Gateway serve what it asks for.

use super::{Deliveries, lag};
use crate::publish::{Delivery, Why};
use crate::translate::Status;
use crate::translate::status::{Condition, Truth};
use selvage_policy::Key;

const PROGRAMMED: &str = "Programmed";

/// Adds it to a Gateway or ListenerSet and to its listeners. A listener is programmed when every proxy that is connected holds it, and one is;
/// those that are not connected serve what they had and are not waited for.
pub(super) fn add(object: &Key, status: &mut Status, deliveries: &dyn Deliveries) {
    let mut served = 0;
    let mut problem: Option<Condition> = None;
    for listener in &mut status.listeners {
        let condition = match &listener.resource {
            None => {
                let message = "the listener is not accepted as it is written: see its other conditions";
                Condition::fails(PROGRAMMED, refusal(&listener.conditions), message)
            }
            Some(key) => {
                served += 1;
                let condition = of(&deliveries.delivery(key, None));
                if condition.is_bad() {
                    problem.get_or_insert_with(|| Condition {
                        message: format!("listener {}: {}", listener.name, condition.message),
                        ..condition.clone()
                    });
                }
                condition
            }
        };
        listener.conditions.push(condition);
    }
    let nothing = |reason| Condition::fails(PROGRAMMED, reason, "none of its listeners is accepted as it is written: see their conditions");
    let own = match problem {
        // A ListenerSet repeats why it is not accepted (NotAllowed, ListenersNotValid); a Gateway is Invalid then.
        _ if served == 0 => nothing(if object.kind == "ListenerSet" { refusal(&status.conditions) } else { "Invalid" }),
        _ if object.kind == "Gateway" && !deliveries.has_address(object) => Condition::fails(
            PROGRAMMED,
            "AddressNotAssigned",
            "its Service has no address yet: is there anything that gives addresses to Services of its type?",
        ),
        Some(problem) => problem,
        None => Condition::holds(PROGRAMMED, PROGRAMMED, ""),
    };
    status.conditions.push(own);
}

/// Why something is not accepted: its port, its protocol, another listener; where it is accepted all the same, something else is invalid.
fn refusal(conditions: &[Condition]) -> &'static str {
    let refused = conditions.iter().find(|condition| condition.kind == "Accepted" && condition.status == Truth::False);
    refused.map_or("Invalid", |refused| refused.reason)
}

fn of(delivery: &Delivery) -> Condition {
    if delivery.connected == 0 {
        return Condition::fails(
            PROGRAMMED,
            "Pending",
            "no proxy of the Gateway is connected yet: look at its Deployment, named as the Gateway and its class are",
        );
    }
    let lagging: Vec<_> = delivery.lagging.iter().filter(|lag| lag.why != Why::Absent).cloned().collect();
    match lagging.iter().any(|lag| matches!(lag.why, Why::Rejected(_))) {
        true => Condition::fails(PROGRAMMED, "Invalid", lag(&lagging)),
        false if lagging.is_empty() => Condition::holds(PROGRAMMED, PROGRAMMED, ""),
        false => Condition::fails(PROGRAMMED, "Pending", lag(&lagging)),
    }
}
