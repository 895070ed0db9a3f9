//! How a program reaches its controller: options that in a cluster come from the pod's environment.

use crate::running::Feed;
use clap::Args;
use selvage_config::last_good::LastGood;
use selvage_config::wire::client::{BACKOFF, Options, Text};
use std::path::PathBuf;

/// How the controller is reached, and what is kept for when it is not.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "With --controller")]
pub struct Wire {
    /// The name in the controller's certificate.
    #[arg(long, value_name = "NAME", env = "SELVAGE_CONTROLLER_NAME")]
    pub controller_name: Option<String>,
    /// The token that proves which pod this is; read at each connection.
    #[arg(long, value_name = "FILE", env = "SELVAGE_TOKEN_FILE", default_value = "/var/run/selvage/token/token")]
    pub token: PathBuf,
    /// The roots of the controller's certificate, PEM; read at each connection.
    #[arg(long, value_name = "FILE", env = "SELVAGE_ROOTS_FILE", default_value = "/var/run/selvage/roots/roots.pem")]
    pub roots: PathBuf,
    /// Where the last good configuration is kept, private keys included: a directory in memory that nothing else in the pod can read.
    #[arg(long, value_name = "DIR", env = "SELVAGE_STATE", default_value = "/var/run/selvage/state")]
    pub state: PathBuf,
    /// What the controller's log calls this proxy: namespace/pod.
    #[arg(long, value_name = "NAME", env = "SELVAGE_NODE", default_value = "")]
    pub node: String,
}

impl Wire {
    pub(super) fn feed(&self, controller: &str) -> Feed {
        let options = Options {
            address: controller.into(),
            // clap requires it beside --controller.
            server_name: self.controller_name.clone().unwrap_or_default(),
            roots: Text::File(self.roots.clone()),
            token: Text::File(self.token.clone()),
            node: self.node.clone(),
            backoff: BACKOFF,
        };
        Feed::Wire { options: Box::new(options), last_good: Some(LastGood::new(&self.state, self.state.join("secrets"))) }
    }
}

/// `HOST:PORT`; IPv6 addresses in brackets.
pub(super) fn host_and_port(text: &str) -> Result<String, String> {
    let is_good = text.rsplit_once(':').is_some_and(|(host, port)| {
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let named = !host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c));
        (named || bare.is_some_and(|host| host.parse::<std::net::Ipv6Addr>().is_ok())) && port.parse::<u16>().is_ok_and(|port| port != 0)
    });
    if is_good { Ok(text.into()) } else { Err("write HOST:PORT, such as selvage-controller.selvage-system.svc:15410".into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_controller_is_a_host_and_a_port() {
        for good in ["selvage-controller.selvage-system.svc:15410", "10.96.0.7:1", "[fd00::7]:15410", "localhost:65535"] {
            assert_eq!(host_and_port(good).as_deref(), Ok(good));
        }
        for bad in ["", "host", ":1", "host:", "host:0", "host:65536", "http://host:1", "fd00::7:15410", "[fd00::7]", "a b:1", "host/:1"] {
            assert!(host_and_port(bad).is_err(), "{bad}");
        }
    }
}
