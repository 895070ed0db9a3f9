//! The rules, as text for `nft -f -`: one table of our own, replaced in one transaction.

use clap::Args;
use ipnet::IpNet;
use selvage_config::ports::{HEALTH, HOP_PRIORITY, INBOUND, METRICS, MOST_EXCLUSIONS, OUTBOUND, PROXY_USER};
use std::collections::BTreeSet;
use std::fmt::{self, Write};
use std::net::IpAddr;
use std::str::FromStr;

/// The table's name.
pub(super) const TABLE: &str = "selvage";
/// DNS over TCP: resolvers fall back to it, and it says nothing that a route could be chosen by.
const DNS: u16 = 53;

/// What is left alone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
pub struct Exclusions {
    /// Ports of the pod whose connections go straight to the application: nothing is enforced there.
    #[arg(long = "exclude-inbound-ports", value_name = "PORT,…", env = "SELVAGE_EXCLUDE_INBOUND_PORTS", default_value = "")]
    pub inbound_ports: Ports,
    /// Destination ports that the application reaches without its proxy.
    #[arg(long = "exclude-outbound-ports", value_name = "PORT,…", env = "SELVAGE_EXCLUDE_OUTBOUND_PORTS", default_value = "")]
    pub outbound_ports: Ports,
    /// Destinations that the application reaches without its proxy.
    #[arg(long = "exclude-outbound-cidrs", value_name = "CIDR,…", env = "SELVAGE_EXCLUDE_OUTBOUND_CIDRS", default_value = "")]
    pub outbound_cidrs: Cidrs,
}

/// Ports, separated by commas; possibly none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ports(BTreeSet<u16>);

/// CIDRs or single addresses, separated by commas; possibly none. Those that touch are one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cidrs(Vec<IpNet>);

/// A list that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidExclusion {
    /// One of its ports.
    #[error("`{0}` is no port: write numbers from 1 to 65535, separated by commas")]
    Port(String),
    /// One of its destinations.
    #[error("`{0}` is no CIDR: write 10.0.0.0/8, fd00::/8 or an address, separated by commas")]
    Cidr(String),
    /// Too much of it.
    #[error("has more than {MOST_EXCLUSIONS} entries")]
    TooMany,
}

fn entries(text: &str) -> Result<Vec<&str>, InvalidExclusion> {
    let entries: Vec<&str> = text.split(',').map(str::trim).filter(|entry| !entry.is_empty()).collect();
    if entries.len() > MOST_EXCLUSIONS { Err(InvalidExclusion::TooMany) } else { Ok(entries) }
}

impl FromStr for Ports {
    type Err = InvalidExclusion;

    fn from_str(text: &str) -> Result<Self, InvalidExclusion> {
        let port = |entry: &str| entry.parse().ok().filter(|port| *port != 0).ok_or_else(|| InvalidExclusion::Port(entry.into()));
        entries(text)?.into_iter().map(port).collect::<Result<_, _>>().map(Self)
    }
}

impl FromStr for Cidrs {
    type Err = InvalidExclusion;

    fn from_str(text: &str) -> Result<Self, InvalidExclusion> {
        let cidr = |entry: &str| {
            let net = entry.parse::<IpNet>().or_else(|_| entry.parse::<IpAddr>().map(IpNet::from));
            net.map_err(|_| InvalidExclusion::Cidr(entry.into()))
        };
        let nets: Vec<IpNet> = entries(text)?.into_iter().map(cidr).collect::<Result<_, _>>()?;
        Ok(Self(IpNet::aggregate(&nets)))
    }
}

impl Ports {
    pub(super) fn contains(&self, port: u16) -> bool {
        self.0.contains(&port)
    }
}

impl Cidrs {
    pub(super) fn contain(&self, address: IpAddr) -> bool {
        self.0.iter().any(|net| net.contains(&address))
    }
}

/// `tcp dport { 1, 2 } return`
struct Skip<'a>(&'a BTreeSet<u16>);

impl fmt::Display for Skip<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ports: Vec<String> = self.0.iter().map(u16::to_string).collect();
        write!(f, "tcp dport {{ {} }} return", ports.join(", "))
    }
}

/// The transaction: whatever the table held is gone, and this is there, at one moment.
pub(super) fn rules(exclusions: &Exclusions) -> String {
    // A table must be there to be deleted.
    let mut text = format!("table inet {TABLE} {{ }}\ndelete table inet {TABLE}\ntable inet {TABLE} {{\n");
    chain(&mut text, "inbound", "prerouting", &inbound(exclusions));
    chain(&mut text, "outbound", "output", &outbound(exclusions));
    text.push_str("}\n");
    text
}

/// Every rule of a chain is one line; the last one captures what no other has let go.
fn chain(text: &mut String, name: &str, hook: &str, rules: &[String]) {
    // A String takes everything.
    let _ = writeln!(text, "chain {name} {{\ntype nat hook {hook} priority -100; policy accept;");
    for rule in rules {
        let _ = writeln!(text, "{rule}");
    }
    text.push_str("}\n");
}

fn inbound(exclusions: &Exclusions) -> Vec<String> {
    let mut own = exclusions.inbound_ports.0.clone();
    // Everything else that comes in is captured, our other ports too: what is captured never leads to them.
    own.extend([HEALTH, METRICS]);
    vec![
        "meta l4proto != tcp return".into(),
        "iifname \"lo\" return".into(),
        Skip(&own).to_string(),
        format!("meta l4proto tcp redirect to :{INBOUND}"),
    ]
}

fn outbound(exclusions: &Exclusions) -> Vec<String> {
    let mut ports = exclusions.outbound_ports.0.clone();
    ports.insert(DNS);
    let mut rules = vec![
        "meta l4proto != tcp return".into(),
        "ip daddr 127.0.0.0/8 return".into(),
        "ip6 daddr ::1 return".into(),
        // A mesh hop whose endpoint is this very pod comes in where all others come in.
        format!("oifname \"lo\" meta skuid {PROXY_USER} meta priority 0:{HOP_PRIORITY} meta l4proto tcp redirect to :{INBOUND}"),
        format!("meta skuid {PROXY_USER} return"),
        format!("meta skgid {PROXY_USER} return"),
        "oifname \"lo\" return".into(),
        Skip(&ports).to_string(),
    ];
    rules.extend(exclusions.outbound_cidrs.0.iter().map(|net| match net {
        // What matches everything is no match to nft.
        IpNet::V4(net) if net.prefix_len() == 0 => "meta nfproto ipv4 return".into(),
        IpNet::V6(net) if net.prefix_len() == 0 => "meta nfproto ipv6 return".into(),
        IpNet::V4(net) => format!("ip daddr {} return", net.trunc()),
        IpNet::V6(net) => format!("ip6 daddr {} return", net.trunc()),
    }));
    rules.push(format!("meta l4proto tcp redirect to :{OUTBOUND}"));
    rules
}
