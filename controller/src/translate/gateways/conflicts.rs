//! Which listeners can stand beside each other on the addresses of one Gateway (Gateway API, "Distinct Listeners").
//!
//! Within one object nobody wins: all that cannot be told from each other are conflicted. Between objects the earlier wins: the Gateway, then
//! its ListenerSets.

use super::{Entry, bound_port};
use crate::translate::status::Problem;
use selvage_config::resource::listener::Protocol;

/// What a connection to a port begins with: listeners of one port must agree on it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Begins {
    Http,
    Tls,
    Tcp,
}

fn begins(entry: &Entry) -> Option<Begins> {
    Some(match entry.protocol? {
        Protocol::Http => Begins::Http,
        Protocol::Https | Protocol::Tls | Protocol::Passthrough => Begins::Tls,
        Protocol::Tcp | Protocol::Detect => Begins::Tcp,
    })
}

/// Marks what conflicts, what finds its port taken, and what overlaps.
pub(super) fn mark(entries: &mut [Entry]) {
    let mut held: Vec<usize> = Vec::new();
    let mut start = 0;
    while start < entries.len() {
        let end = start + entries[start..].iter().take_while(|entry| entry.set == entries[start].set).count();
        let own = start..end;
        for index in own.clone() {
            if let Some(problem) = taken(entries, index, held.iter().copied().chain(start..index)) {
                entries[index].accepted = Err(problem);
            }
        }
        let found: Vec<(usize, Problem)> =
            own.clone().filter_map(|index| Some((index, conflict(entries, index, &held, own.clone())?))).collect();
        for (index, problem) in found {
            entries[index].conflict = Some(problem);
        }
        held.extend(own.filter(|index| entries[*index].is_distinct()));
        start = end;
    }
    let overlapping: Vec<usize> = held.iter().copied().filter(|index| held.iter().any(|other| overlap(entries, *index, *other))).collect();
    for index in overlapping {
        entries[index].overlaps = true;
    }
}

/// A port that another port is bound at (80 at 10080) cannot be had as well.
fn taken(entries: &[Entry], index: usize, before: impl Iterator<Item = usize>) -> Option<Problem> {
    let port = entries[index].port.filter(|_| entries[index].accepted.is_ok())?;
    let mut others = before.filter(|other| entries[*other].accepted.is_ok()).filter_map(|other| entries[other].port);
    let other = others.find(|other| *other != port && bound_port(*other) == bound_port(port))?;
    let message = format!("port {port} is bound at {}, and so is port {other} of this Gateway: choose another", bound_port(port));
    Some(("PortUnavailable", message))
}

fn conflict(entries: &[Entry], index: usize, held: &[usize], own: std::ops::Range<usize>) -> Option<Problem> {
    let entry = &entries[index];
    if entry.accepted.is_err() {
        return None;
    }
    let same_port = |other: &&usize| entries[**other].port == entry.port && entries[**other].accepted.is_ok();
    let siblings: Vec<usize> = own.filter(|other| *other != index).collect();
    for (others, whose) in [(held, "of the Gateway or of an older ListenerSet"), (&siblings[..], "of the same object")] {
        for other in others.iter().filter(same_port) {
            let (mine, its) = (begins(entry), begins(&entries[*other]));
            if mine != its || mine == Some(Begins::Tcp) {
                let message = format!("port {} has a listener {whose} with a protocol that cannot share it", entry.listener.port);
                return Some(("ProtocolConflict", message));
            }
            if entry.hostname == entries[*other].hostname {
                let host = entry.hostname.as_ref().map_or("every host", |host| host.as_str());
                let message = format!("a listener {whose} has port {} and {host} too", entry.listener.port);
                return Some(("HostnameConflict", message));
            }
        }
    }
    None
}

/// Whether two listeners that end TLS for HTTP have hosts in common: a client may reuse a connection of one for the other.
fn overlap(entries: &[Entry], one: usize, other: usize) -> bool {
    let (a, b) = (&entries[one], &entries[other]);
    one != other
        && a.port == b.port
        && [a, b].iter().all(|entry| entry.protocol == Some(Protocol::Https))
        && match (&a.hostname, &b.hostname) {
            (Some(a), Some(b)) => a.intersection(b).is_some(),
            _ => true,
        }
}
