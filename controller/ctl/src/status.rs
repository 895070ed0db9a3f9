//! `selvage status`: every proxy, its role, its release, how far it is, and how long its certificates last.

use crate::cli;
use crate::output;
use anyhow::{Context, Result, bail};
use jiff::Timestamp;
use selvage_controller::publish::{Certificate, Listing, Proxy, Role, SyncState};
use selvage_controller::status;
use serde::Deserialize;
use std::fmt::Write;
use std::path::Path;

/// What of `.selvage/up.json` matters here.
#[derive(Deserialize)]
struct Up {
    status: String,
}

/// Lists them.
pub async fn run(options: &cli::Status) -> Result<()> {
    let listing = match (&options.url, &options.dir) {
        (Some(url), _) => status::read(url).await?,
        (None, Some(dir)) => status::read(&running(dir)?).await?,
        (None, None) => status::read_cluster().await?,
    };
    match options.output {
        Some(form) => output::print(form, &listing),
        None => output::write(&table(&listing, Timestamp::now())),
    }
}

/// Where the `selvage up` of a directory answers.
fn running(dir: &Path) -> Result<String> {
    let path = dir.join(".selvage/up.json");
    let text = match std::fs::read(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            bail!("nothing runs in {}: start it with `selvage up`", dir.display())
        }
        text => text.with_context(|| format!("cannot read {}", path.display()))?,
    };
    Ok(serde_json::from_slice::<Up>(&text).with_context(|| format!("{} is of another release", path.display()))?.status)
}

/// For people.
fn table(listing: &Listing, now: Timestamp) -> String {
    let head = ["NAME", "ROLE", "VERSION", "SYNC", "CERTIFICATE"].map(String::from);
    let rows = listing.proxies.iter().map(|proxy| {
        let role = match proxy.role {
            Role::Edge => "edge",
            Role::Sidecar => "sidecar",
        };
        [
            proxy.name.clone(),
            role.into(),
            proxy.version.clone().unwrap_or_else(|| "-".into()),
            sync(proxy),
            certificates(&proxy.certificates, now),
        ]
    });
    let rows: Vec<[String; 5]> = std::iter::once(head).chain(rows).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let widths: Vec<usize> = (0..5).map(width).collect();
    let mut text = String::new();
    for row in &rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        // Writing to a String does not fail.
        let _ = writeln!(text, "{}", cells.collect::<Vec<_>>().join("  ").trim_end());
    }
    for proxy in &listing.proxies {
        for (key, reason) in &proxy.rejected {
            let _ = writeln!(text, "{} cannot use {key}: {reason}", proxy.name);
        }
    }
    if listing.stands_by {
        text.push_str("(this controller stands by while another replica serves the proxies: ask that one)\n");
    }
    if listing.proxies.is_empty() {
        text.push_str("(no proxies: there is no Gateway of ours with a running Pod, and no Pod with a sidecar)\n");
    }
    text
}

fn sync(proxy: &Proxy) -> String {
    match proxy.sync {
        SyncState::Synced => "synced".into(),
        SyncState::Rejecting => format!("rejects {}", proxy.rejected.len()),
        SyncState::Pending => format!("pending: has {} of {}", proxy.applied.unwrap_or_default(), proxy.generation),
        SyncState::Absent => "not connected".into(),
    }
}

/// The one that ends first: that is the one to worry about.
fn certificates(certificates: &[Certificate], now: Timestamp) -> String {
    let ends = certificates.iter().map(|one| one.ends.as_ref().and_then(|end| end.parse::<Timestamp>().ok()));
    let Some(ends) = ends.collect::<Option<Vec<_>>>().filter(|ends| !ends.is_empty()) else { return "none".into() };
    let seconds = ends.iter().min().map_or(0, |end| end.as_second() - now.as_second());
    match seconds {
        ..=0 => "has ended".into(),
        1..7200 => format!("ends in {} min", seconds / 60),
        _ => format!("ends in {} h", seconds / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn proxy(name: &str, role: Role, sync: SyncState, ends: Option<&str>) -> Proxy {
        Proxy {
            name: name.into(),
            uid: name.into(),
            role,
            serves: format!("Pod/{name}").parse().expect("a key"),
            sync,
            generation: 7,
            applied: (sync != SyncState::Absent).then_some(if sync == SyncState::Pending { 6 } else { 7 }),
            rejected: BTreeMap::new(),
            version: ends.map(|_| "0.1.0".into()),
            certificates: vec![Certificate { identity: "spiffe://cluster.local/ns/shop/sa/a".into(), ends: ends.map(Into::into) }],
        }
    }

    #[test]
    fn each_proxy_is_a_line_that_says_how_far_it_is() {
        let mut rejecting = proxy("shop/web", Role::Sidecar, SyncState::Rejecting, Some("2026-01-01T01:30:00Z"));
        rejecting.rejected.insert("AuthorizationPolicy/shop/p".parse().expect("a key"), "spec.rules: unknown field".into());
        let proxies = vec![
            proxy("shop/public-selvage-7d9", Role::Edge, SyncState::Synced, Some("2026-01-02T00:00:00Z")),
            proxy("shop/orders-0", Role::Sidecar, SyncState::Pending, Some("2025-12-31T00:00:00Z")),
            proxy("shop/new", Role::Sidecar, SyncState::Absent, None),
            rejecting,
        ];
        let listing = Listing { version: "0.1.0".into(), stands_by: false, generation: 7, proxies };
        let text = table(&listing, "2026-01-01T00:00:00Z".parse().expect("a time"));
        let wanted = "\
NAME                     ROLE     VERSION  SYNC                 CERTIFICATE
shop/public-selvage-7d9  edge     0.1.0    synced               ends in 24 h
shop/orders-0            sidecar  0.1.0    pending: has 6 of 7  has ended
shop/new                 sidecar  -        not connected        none
shop/web                 sidecar  0.1.0    rejects 1            ends in 90 min
shop/web cannot use AuthorizationPolicy/shop/p: spec.rules: unknown field
";
        assert_eq!(text, wanted);
    }

    #[test]
    fn a_directory_in_which_nothing_runs_says_what_to_do() {
        let dir = tempfile::tempdir().expect("a directory");
        assert!(running(dir.path()).expect_err("nothing runs").to_string().contains("selvage up"));
    }
}
