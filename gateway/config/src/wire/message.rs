//! What the two sides say. Each message is a JSON object with one field, its name: `{"ack":{"txn":7}}`.

use selvage_policy::Key;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

/// From a proxy to the controller.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ToServer {
    /// The first message, once.
    Hello(Hello),
    /// A transaction is applied.
    Ack(Ack),
    /// More is needed.
    Want(Want),
    /// It is needed no longer.
    Release(Release),
    /// A certificate is needed.
    Sign(Sign),
    /// The answer to an Explain.
    Explained(Explained),
    /// How the proxy is.
    Report(Report),
    /// A message of a later release: ignored.
    #[serde(skip)]
    Unknown,
}

/// From the controller to a proxy.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ToClient {
    /// A part of a transaction.
    Update(Update),
    /// What was wanted exists, and has been sent.
    Found(Found),
    /// What was wanted does not exist.
    NotFound(NotFound),
    /// Come back later.
    Goaway(Goaway),
    /// A certificate.
    Signed(Signed),
    /// No certificate.
    Refused(Refused),
    /// A question about a request.
    Explain(Explain),
    /// A message of a later release: ignored.
    #[serde(skip)]
    Unknown,
}

/// The first message of a client. It says what the client has, never what it may read: that follows from its token.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Hello {
    /// The version of the protocol it speaks.
    pub protocol: u32,
    /// What it calls itself: for logs only.
    pub node: String,
    /// The kinds it understands and the schema revision of each: for later releases, as this one has one revision only.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub kinds: BTreeMap<String, u32>,
    /// What it has, by version: only differences are sent.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub have: BTreeMap<Key, String>,
    /// What it had wanted before and still needs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub wants: Vec<Subject>,
}

/// A part of a transaction.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Update {
    /// Its number, counting up from 1 on each connection.
    pub txn: u64,
    /// The part's number, counting up from 0.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub part: u32,
    /// Whether it is the last: the transaction is applied now.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub commit: bool,
    /// New and changed Resources, still as text: each is parsed, and rejected, alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub upserts: Vec<Arc<RawValue>>,
    /// What is gone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub removals: Vec<Key>,
}

/// A transaction is applied, as a whole.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ack {
    /// Which.
    pub txn: u64,
    /// What cannot be used of all that the proxy now has, sent in whichever transaction: its guards refuse, the rest keeps its earlier
    /// form or is dropped. So one Ack after a reconnection says all there is to know.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rejected: Vec<Rejected>,
}

/// A Resource that a proxy could not use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rejected {
    /// Which.
    pub key: Key,
    /// Which version of it.
    pub version: String,
    /// Why; names the field and the remedy.
    pub reason: String,
}

/// What a proxy needs beyond what it is given at once.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Subject {
    /// The Service or workload at an address.
    Addr(SocketAddr),
    /// The Service or external host of that name.
    Host(String),
    /// One Resource.
    Key(Key),
}

/// More is needed: answered by [`Found`] or [`NotFound`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Want {
    /// Chosen by the client; the answer has it too.
    pub id: u64,
    /// What.
    pub subject: Subject,
}

/// A subject is needed no longer.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Release {
    /// What.
    pub subject: Subject,
}

/// What was wanted exists. It is sent, and acknowledged, before this.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Found {
    /// Of the [`Want`].
    pub id: u64,
    /// The Resources that answer it.
    pub keys: Vec<Key>,
}

/// What was wanted does not exist, or is not for this proxy: the two look the same.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NotFound {
    /// Of the [`Want`].
    pub id: u64,
    /// For how long it need not be asked again, milliseconds.
    pub ttl: u64,
}

/// The server closes the stream: what is committed stays, the client comes back.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Goaway {
    /// Not before this many milliseconds.
    pub retry_after: u64,
}

/// A certificate is needed for the key that signed this request.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sign {
    /// Chosen by the client; the answer has it too.
    pub id: u64,
    /// A certificate signing request, PEM. Only its public key and the identity it asks for are looked at.
    pub csr: String,
}

/// A certificate.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Signed {
    /// Of the [`Sign`].
    pub id: u64,
    /// Leaf first, PEM.
    pub chain: String,
}

/// No certificate.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Refused {
    /// Of the [`Sign`].
    pub id: u64,
    /// Why.
    pub reason: String,
}

/// What would become of a request?
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Explain {
    /// Chosen by the server; the answer has it too.
    pub id: u64,
    /// The request, as `selvage explain` describes one.
    pub request: serde_json::Value,
}

/// What would become of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Explained {
    /// Of the [`Explain`].
    pub id: u64,
    /// The steps and the verdict; `null` from a proxy that cannot say.
    pub answer: serde_json::Value,
}

/// How the proxy is: free in form, for status and the eyes of operators.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Named values.
    pub report: serde_json::Value,
}

/// What a proxy of this release reports. Fields that are not known are ignored, and none is required: the two sides may differ in age.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Standing {
    /// The release it is of.
    pub version: String,
    /// When the certificate of each identity it speaks for ends, in seconds since 1970; an identity without one is left out.
    pub certificates: BTreeMap<String, u64>,
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

impl fmt::Debug for Update {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The content of its Resources may be private keys.
        f.debug_struct("Update")
            .field("txn", &self.txn)
            .field("part", &self.part)
            .field("commit", &self.commit)
            .field("upserts", &self.upserts.len())
            .field("removals", &self.removals)
            .finish()
    }
}

/// A set of messages in which those of later releases are ignored.
pub(super) trait Messages: Serialize + serde::de::DeserializeOwned + Send + Sync + 'static {
    /// Names of the messages this release knows.
    const NAMES: &'static [&'static str];
    /// What stands for the others.
    const UNKNOWN: Self;
}

impl Messages for ToServer {
    const NAMES: &'static [&'static str] = &["hello", "ack", "want", "release", "sign", "explained", "report"];
    const UNKNOWN: Self = Self::Unknown;
}

impl Messages for ToClient {
    const NAMES: &'static [&'static str] = &["update", "found", "notFound", "goaway", "signed", "refused", "explain"];
    const UNKNOWN: Self = Self::Unknown;
}
