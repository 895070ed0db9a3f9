//! Who a workload is: SPIFFE identities of the form `spiffe://<trust-domain>/ns/<namespace>/sa/<account>`.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;

/// The name of one root of trust, for example `cluster.local`: lower-case letters, digits, `-`, `_` and `.`, 1 to 253 bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TrustDomain(Arc<str>);

/// A workload's identity. Two are equal exactly when their bytes are. Requests carry copies, so a copy costs no allocation.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SpiffeId {
    trust_domain: TrustDomain,
    namespace: Arc<str>,
    account: Arc<str>,
}

/// A text that is no identity of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidIdentity {
    /// Not a trust domain name.
    #[error("`{0}` is not a trust domain: use 1 to 253 lower-case letters, digits, `-`, `_` or `.`")]
    TrustDomain(String),
    /// Not of our one form.
    #[error("`{0}` is not spiffe://<trust-domain>/ns/<namespace>/sa/<service-account>")]
    Form(String),
}

impl TrustDomain {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for TrustDomain {
    type Error = InvalidIdentity;

    fn try_from(text: String) -> Result<Self, InvalidIdentity> {
        let ok = (1..=253).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_' | b'.'));
        if ok { Ok(Self(text.into())) } else { Err(InvalidIdentity::TrustDomain(text)) }
    }
}

impl From<TrustDomain> for String {
    fn from(domain: TrustDomain) -> Self {
        domain.0.as_ref().into()
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Lower-case letters, digits and `-`, the last not at the ends: a label as Kubernetes writes it (RFC 1123).
fn is_label(text: &str) -> bool {
    let within = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let ends = [text.bytes().next(), text.bytes().next_back()];
    text.bytes().all(|b| within(b) || b == b'-') && ends.into_iter().all(|end| end.is_some_and(within))
}

/// What Kubernetes allows as the name of a namespace.
fn is_namespace(text: &str) -> bool {
    text.len() <= 63 && is_label(text)
}

/// What Kubernetes allows as the name of a service account: labels with dots between them.
fn is_account(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_label)
}

impl SpiffeId {
    /// The identity of `account` in `namespace`.
    pub fn new(trust_domain: TrustDomain, namespace: &str, account: &str) -> Result<Self, InvalidIdentity> {
        if is_namespace(namespace) && is_account(account) {
            Ok(Self { trust_domain, namespace: namespace.into(), account: account.into() })
        } else {
            Err(InvalidIdentity::Form(format!("spiffe://{trust_domain}/ns/{namespace}/sa/{account}")))
        }
    }

    /// Its trust domain.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// Its Kubernetes namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Its Kubernetes service account.
    pub fn account(&self) -> &str {
        &self.account
    }

    /// The DNS name that stands for it in a certificate and as the reserved SNI of a mesh hop: `<sa>.<ns>.sa.<trust-domain>`. No two of one
    /// trust domain are alike: a namespace has no dot.
    pub fn dns_name(&self) -> String {
        format!("{}.{}.sa.{}", self.account, self.namespace, self.trust_domain)
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spiffe://{}/ns/{}/sa/{}", self.trust_domain, self.namespace, self.account)
    }
}

impl std::str::FromStr for SpiffeId {
    type Err = InvalidIdentity;

    fn from_str(text: &str) -> Result<Self, InvalidIdentity> {
        let form = || InvalidIdentity::Form(text.into());
        let rest = text.strip_prefix("spiffe://").ok_or_else(form)?;
        let parts: Vec<&str> = rest.split('/').collect();
        match parts.as_slice() {
            [domain, "ns", namespace, "sa", account] => Self::new(TrustDomain::try_from(domain.to_string())?, namespace, account),
            _ => Err(form()),
        }
    }
}

impl TryFrom<String> for SpiffeId {
    type Error = InvalidIdentity;

    fn try_from(text: String) -> Result<Self, InvalidIdentity> {
        text.parse()
    }
}

impl From<SpiffeId> for String {
    fn from(id: SpiffeId) -> Self {
        id.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_one_form_parses() {
        assert!("spiffe://td/ns/a/sa/b".parse::<SpiffeId>().is_ok());
        for bad in [
            "spiffe://td/ns/a/sa/b/",
            "spiffe://TD/ns/a/sa/b",
            "spiffe://td/ns/a/sa/B",
            "spiffe://td/ns/a%2f/sa/b",
            "spiffe://td/sa/b",
            "https://td/ns/a/sa/b",
            "spiffe:///ns/a/sa/b",
            "spiffe://td/ns//sa/b",
            "td/ns/a/sa/b",
            "",
            "spiffe://td/ns/a.b/sa/c",
            "spiffe://td/ns/-a/sa/b",
            "spiffe://td/ns/a-/sa/b",
            "spiffe://td/ns/./sa/b",
            "spiffe://td/ns/a/sa/.b",
            "spiffe://td/ns/a/sa/b.",
            "spiffe://td/ns/a/sa/b..c",
            "spiffe://td/ns/a/sa/b.-c",
            "spiffe://td/ns/a/sa/-",
        ] {
            assert!(bad.parse::<SpiffeId>().is_err(), "{bad}");
        }
        let [long, longer] = [63, 64].map(|length| "a".repeat(length));
        assert!(format!("spiffe://td/ns/{long}/sa/b").parse::<SpiffeId>().is_ok());
        assert!(format!("spiffe://td/ns/{longer}/sa/b").parse::<SpiffeId>().is_err());
        for good in ["spiffe://td/ns/a-b/sa/b.c-d.9", "spiffe://td/ns/0/sa/0"] {
            assert!(good.parse::<SpiffeId>().is_ok(), "{good}");
        }
    }

    #[test]
    fn an_identity_prints_as_it_was_read() {
        let text = "spiffe://cluster.local/ns/shop/sa/orders";
        let id: SpiffeId = text.parse().expect("well formed");
        assert_eq!(id.to_string(), text);
        assert_eq!(id.dns_name(), "orders.shop.sa.cluster.local");
    }
}
