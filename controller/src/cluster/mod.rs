//! The controller in a cluster: everything that talks to the API server.
//!
//! ```text
//! API server ──watch──► known (World, statuses, Pods) ──turn──► translate ──publish──► proxies
//!      ▲                                                  │         (tokens: who is asking)
//!      └── statuses, roots, mesh_config, authority ◄──────┘   by the replica that holds the lease
//! ```
//!
//! Every replica watches and translates; the one that holds the lease serves proxies and writes, and so does each where nobody knows of
//! a holder. With the API server away proxies are served from memory and the watches keep trying; nothing that was known is forgotten.
//!
//! # What it may do
//!
//! The rights of its service account, and why; nothing wider is used.
//!
//! | group | resources | verbs | what for |
//! | --- | --- | --- | --- |
//! | core | namespaces, pods, services | list, watch | World |
//! | core | secrets | list, watch | World (`type=kubernetes.io/tls` only, a restriction that RBAC cannot express) |
//! | discovery.k8s.io | endpointslices | list, watch | World |
//! | gateway.networking.k8s.io | referencegrants | list, watch | World |
//! | gateway.networking.k8s.io | gatewayclasses, gateways, listenersets, httproutes, grpcroutes, tlsroutes, tcproutes | get, list, watch | World; [`statuses`] after a conflict |
//! | gateway.networking.k8s.io | `…/status` of gatewayclasses, gateways, listenersets and the routes | patch | statuses |
//! | selvage.dev | authorizationpolicies, ratelimitpolicies, trafficpolicies, meshconfigs | get, list, watch | World; [`statuses`] after a conflict |
//! | selvage.dev | meshconfigs | create | [`mesh_config`] |
//! | selvage.dev | `…/status` of all of them | patch | statuses |
//! | (paths) | `/.well-known/openid-configuration`, `/openid/v1/jwks` | get (every service account may, by `system:service-account-issuer-discovery`) | [`issuer`] |
//! | authentication.k8s.io | tokenreviews | create | [`tokens`] |
//! | core | configmaps | list, watch, patch with `resourceNames: [selvage-roots]`; create | [`roots`] |
//! | core, in the platform's namespace | secrets | get, list, watch, update with `resourceNames: [selvage-ca]`; create | [`authority`] |
//! | core; apps; policy | services, serviceaccounts; deployments; poddisruptionbudgets | get, list, create, patch, delete | [`provisioning`] |
//! | admissionregistration.k8s.io | mutatingwebhookconfigurations `selvage-injection`, validatingwebhookconfigurations `selvage-validation` | patch | [`webhooks`] |
//! | coordination.k8s.io, in the platform's namespace | leases | get, update with `resourceNames: [selvage-controller]`; create | [`lease`] |

pub mod authority;
pub mod brief;
pub mod gateway_api;
pub mod issuer;
pub mod kinds;
pub mod known;
pub mod lease;
pub mod look;
pub mod merge;
pub mod mesh_config;
pub mod metrics;
pub mod pods;
pub mod present;
pub mod provisioning;
pub mod roots;
pub mod statuses;
#[cfg(test)]
mod tests;
pub mod tokens;
pub mod turn;
pub mod watch;
pub mod webhooks;

/// Who writes, as `managedFields` show it.
pub const FIELD_OWNER: &str = "selvage-controller";
