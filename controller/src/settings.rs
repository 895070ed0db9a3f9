//! What the platform team says in the chart's values about the proxies that the controller makes: one file, read at the start.

use crate::world::{MESH_CONFIG, Name, World};
use k8s_openapi::api::core::v1::ResourceRequirements;
use selvage_policy::TrustDomain;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// The settings: `settings.json` of the chart's ConfigMap `selvage-settings`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Settings {
    /// The image with the four programs.
    pub image: String,
    /// When a node pulls it.
    #[serde(default)]
    pub image_pull_policy: PullPolicy,
    /// Where proxies find the wire, `host:port`.
    pub controller: String,
    /// The trust domain that the MeshConfig `default` is made with. Later on the MeshConfig holds.
    pub trust_domain: TrustDomain,
    /// How sidecars run.
    pub sidecars: Sidecars,
    /// How proxies of Gateways run.
    pub gateways: Gateways,
}

/// How sidecars run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Sidecars {
    /// Requests and limits of the proxy.
    #[serde(default)]
    pub resources: ResourceRequirements,
    /// Where the access log goes: `-` (standard output) or `off`.
    #[serde(default)]
    pub access_log: AccessLog,
}

/// How proxies of Gateways run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Gateways {
    /// Pods of one Gateway.
    #[serde(default)]
    pub replicas: Replicas,
    /// Requests and limits of each.
    #[serde(default)]
    pub resources: ResourceRequirements,
    /// Where the access log goes.
    #[serde(default)]
    pub access_log: AccessLog,
    /// Whether a node hands traffic from outside to its own proxies only, which keeps the client's address.
    #[serde(default)]
    pub external_traffic_policy: TrafficPolicy,
}

/// When a node pulls the image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum PullPolicy {
    /// Every time.
    Always,
    /// When it is not there.
    #[default]
    IfNotPresent,
    /// Never: it is there.
    Never,
}

/// Where an access log goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum AccessLog {
    /// Nowhere.
    #[serde(rename = "off")]
    Off,
    /// To standard output.
    #[default]
    #[serde(rename = "-")]
    Stdout,
}

/// A Service's `externalTrafficPolicy`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum TrafficPolicy {
    /// Only to proxies of the same node: the client's address is kept.
    #[default]
    Local,
    /// To any proxy: the address is the node's.
    Cluster,
}

/// How many pods a Gateway has: 1 to 100.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "i32", into = "i32")]
pub struct Replicas(i32);

impl Default for Replicas {
    fn default() -> Self {
        Self(2)
    }
}

impl TryFrom<i32> for Replicas {
    type Error = String;

    fn try_from(count: i32) -> Result<Self, String> {
        if (1..=100).contains(&count) { Ok(Self(count)) } else { Err(format!("{count} is out of range: use 1 to 100")) }
    }
}

impl From<Replicas> for i32 {
    fn from(replicas: Replicas) -> Self {
        replicas.0
    }
}

/// Why there are no settings.
#[derive(Debug, thiserror::Error)]
pub enum InvalidSettings {
    /// The file cannot be read.
    #[error("the settings {path} cannot be read: {error}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
    /// It is not what it should be.
    #[error("the settings {path}: {field}: {problem}; correct the chart's values")]
    Field {
        /// The file.
        path: PathBuf,
        /// Path of the field.
        field: String,
        /// What is wrong with it.
        problem: String,
    },
}

impl Settings {
    /// The trust domain that holds: the MeshConfig's, or ours as long as there is none.
    pub fn trust_domain_in_force<'a>(&'a self, world: &'a World) -> &'a TrustDomain {
        let config = world.mesh_configs.get(&Name::new("", MESH_CONFIG));
        config.map_or(&self.trust_domain, |config| &config.spec.trust_domain)
    }

    /// Reads and parses the file.
    pub fn read(path: &Path) -> Result<Self, InvalidSettings> {
        let text = std::fs::read_to_string(path).map_err(|error| InvalidSettings::Io { path: path.into(), error })?;
        Self::parse(&text).map_err(|(field, problem)| InvalidSettings::Field { path: path.into(), field, problem })
    }

    /// Parses JSON; the error is the field and what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, (String, String)> {
        let mut json = serde_json::Deserializer::from_str(text);
        let settings: Self =
            serde_path_to_error::deserialize(&mut json).map_err(|error| (error.path().to_string(), error.inner().to_string()))?;
        let port = settings.controller.rsplit_once(':').and_then(|(host, port)| port.parse::<u16>().ok().filter(|_| !host.is_empty()));
        match (settings.image.trim().is_empty(), port) {
            (true, _) => Err(("image".into(), "is empty: name the image with the four programs".into())),
            (_, None | Some(0)) => Err(("controller".into(), format!("`{}` is not host:port", settings.controller))),
            _ => Ok(settings),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn written() -> Value {
        json!({
            "image": "selvage:1", "controller": "selvage-controller.selvage-system.svc:15410", "trustDomain": "cluster.local",
            "sidecars": { "resources": { "requests": { "cpu": "10m" } } }, "gateways": { "replicas": 3 },
        })
    }

    #[test]
    fn what_is_not_said_has_a_default() {
        let settings = Settings::parse(&written().to_string()).expect("settings");
        assert_eq!((settings.image_pull_policy, settings.sidecars.access_log), (PullPolicy::IfNotPresent, AccessLog::Stdout));
        assert_eq!((i32::from(settings.gateways.replicas), settings.gateways.external_traffic_policy), (3, TrafficPolicy::Local));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (field, value) in [
            ("image", json!(" ")),
            ("controller", json!("nowhere")),
            ("controller", json!(":15410")),
            ("trustDomain", json!("UPPER")),
            ("gateways.replicas", json!(0)),
            ("gateways.externalTrafficPolicy", json!("Mine")),
            ("sidecars.accessLog", json!("/etc/passwd")),
            ("imagePullPolicy", json!("Sometimes")),
        ] {
            let mut settings = written();
            settings[field.split('.').next().expect("a part")] = match field.split_once('.') {
                Some((_, below)) => json!({ below: value }),
                None => value,
            };
            let (at, problem) = Settings::parse(&settings.to_string()).expect_err(field);
            assert_eq!(at, field, "{problem}");
        }
        assert!(Settings::parse("{\"imgae\": 1}").is_err(), "an unknown field passes");
    }
}
