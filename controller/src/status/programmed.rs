//! `Programmed`: whether the proxies of a Gateway serve what it asks for.

use super::{Deliveries, lag};
use crate::publish::{Delivery, Why};
use crate::translate::Status;
use crate::translate::status::Condition;
use selvage_policy::Key;

const PROGRAMMED: &str = "Programmed";

/// Adds it to a Gateway or ListenerSet and to its listeners. A listener is programmed when every proxy that is connected holds it, and one is;
/// those that are not connected serve what they had and are not waited for.
pub(super) fn add(object: &Key, status: &mut Status, deliveries: &dyn Deliveries) {
    let mut served = 0;
    let mut problem: Option<Condition> = None;
    for listener in &mut status.listeners {
        let condition = match &listener.resource {
            None => Condition::fails(PROGRAMMED, "Invalid", "the listener is not accepted as it is written: see its other conditions"),
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
    let nothing = || Condition::fails(PROGRAMMED, "Invalid", "none of its listeners is accepted as it is written: see their conditions");
    let own = match problem {
        _ if served == 0 => nothing(),
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
