//! Who a proxy is: the Pod that its service account token is bound to.
//!
//! ```text
//! token ──TokenReview──► account, Pod, UID ──agree with the Pod as the World has it, and with where the connection comes from──► Node
//! ```
//!
//! Only who comes from a Pod's address is asked about, one question of each at a time: strangers cannot make us a flood, nor can one Pod
//! keep the others waiting. A token that is bound to no Pod is refused: whoever may read a Secret could use it from anywhere. What the API server said of a token
//! is remembered for a short time, by hash; the Pod is looked up every time. With the API server away a token is verified with the keys
//! that it published before.

use super::brief::brief;
use super::issuer::Issuer;
use super::metrics::{Metrics, TokenOutcome};
use super::pods::{Network, PodFacts, Pods};
use crate::containers::TOKEN_AUDIENCE as AUDIENCE;
use crate::world::Name;
use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use kube::Client;
use kube::api::{Api, PostParams};
use parking_lot::Mutex;
use selvage_config::wire::server::{Authenticate, Node, Unauthenticated};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::Semaphore;

/// What the API server adds to a user whose token is bound to a Pod.
const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";

/// How long an answer of the API server is taken without asking again.
const FRESH: Duration = Duration::from_secs(60);
/// How long it is taken where the API server cannot be asked. (Never beyond the end of the token.)
const STALE: Duration = Duration::from_secs(3600);
/// Answers remembered: a node's worth for each proxy that a controller serves.
const REMEMBERED: usize = 16_384;
/// Questions to the API server at once.
const AT_ONCE: usize = 16;
/// For one question, waiting for its turn included.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longer than any service account token.
const LONGEST: usize = 16 * 1024;

/// Why a token is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It is too long to be one.
    #[error("the token from {0} is no service account token")]
    NoToken(IpAddr),
    /// It comes from nowhere that is known.
    #[error("the token from {0} is not looked at: that is no Pod's own address, as far as is known here")]
    Stranger(IpAddr),
    /// Another one of the same peer is being judged.
    #[error("the token from {0} has to wait: another one from there is being judged")]
    Busy(IpAddr),
    /// The API server does not know it.
    #[error("the API server does not accept the token from {peer}: {problem}")]
    Refused {
        /// Where it came from.
        peer: IpAddr,
        /// What the API server says.
        problem: String,
    },
    /// It is for somebody else.
    #[error("the token from {peer} is for the audiences {audiences:?}: a token for `{AUDIENCE}` is needed")]
    Audience {
        /// Where it came from.
        peer: IpAddr,
        /// What it is for.
        audiences: Vec<String>,
    },
    /// It is of somebody who is no service account.
    #[error("the token from {peer} is of `{user}`, which is no service account")]
    NoAccount {
        /// Where it came from.
        peer: IpAddr,
        /// Who.
        user: String,
    },
    /// It is bound to no Pod.
    #[error("the token from {peer} of service account {account} is bound to no Pod: mount a projected token")]
    Unbound {
        /// Where it came from.
        peer: IpAddr,
        /// Whose.
        account: String,
    },
    /// Its Pod is not known yet.
    #[error("the Pod {pod} of the token from {peer} is not known here yet")]
    UnknownPod {
        /// Where it came from.
        peer: IpAddr,
        /// Its Pod.
        pod: String,
    },
    /// Its Pod has no address yet.
    #[error("the Pod {pod} of the token from {peer} has no address yet, as far as is known here")]
    NoAddress {
        /// Where it came from.
        peer: IpAddr,
        /// Its Pod.
        pod: String,
    },
    /// The Pod of that name is another one.
    #[error("the token from {peer} is of the Pod {pod} with UID {uid}, but that Pod has another UID")]
    OtherPod {
        /// Where it came from.
        peer: IpAddr,
        /// Its Pod.
        pod: String,
        /// The UID that it is bound to.
        uid: String,
    },
    /// The Pod runs as somebody else.
    #[error("the token from {peer} is of service account {account}, but the Pod {pod} runs as another")]
    OtherAccount {
        /// Where it came from.
        peer: IpAddr,
        /// Its Pod.
        pod: String,
        /// Its account.
        account: String,
    },
    /// The Pod is on its node's network.
    #[error("the Pod {pod} of the token from {peer} is on its node's network: its address does not tell it from others there")]
    HostNetwork {
        /// Where it came from.
        peer: IpAddr,
        /// Its Pod.
        pod: String,
    },
    /// It is used from elsewhere.
    #[error("the token of the Pod {pod} came from {peer}, which is not the Pod's address")]
    OtherAddress {
        /// Where it came from.
        peer: IpAddr,
        /// Its Pod.
        pod: String,
    },
    /// Nobody can be asked.
    #[error("the token from {peer} cannot be judged: the API server does not answer: {problem}")]
    Unreachable {
        /// Where it came from.
        peer: IpAddr,
        /// Why.
        problem: String,
    },
}

impl TokenError {
    fn outcome(&self) -> TokenOutcome {
        match self {
            Self::Stranger(_) | Self::Busy(_) | Self::UnknownPod { .. } | Self::NoAddress { .. } | Self::Unreachable { .. } => {
                TokenOutcome::NotYet
            }
            _ => TokenOutcome::Refused,
        }
    }
}

impl From<TokenError> for Unauthenticated {
    fn from(error: TokenError) -> Self {
        match error.outcome() {
            TokenOutcome::NotYet => Self::NotYet(error.to_string()),
            TokenOutcome::Accepted | TokenOutcome::Refused => Self::Refused(error.to_string()),
        }
    }
}

/// What a token says, once the API server has verified it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Claims {
    pod: Name,
    uid: String,
    account: String,
}

struct Remembered {
    claims: Claims,
    at: SystemTime,
    ends: SystemTime,
}

/// Judges tokens.
pub struct PodTokens {
    client: Client,
    pods: Arc<Pods>,
    issuer: Arc<Issuer>,
    metrics: Arc<Metrics>,
    asking: Semaphore,
    /// Whose tokens are being asked about.
    asked_about: Mutex<HashSet<IpAddr>>,
    remembered: Mutex<HashMap<[u8; 32], Remembered>>,
}

impl PodTokens {
    /// Asks the API server behind `client`, or with it away `issuer`; and `pods`.
    pub fn new(client: Client, pods: Arc<Pods>, issuer: Arc<Issuer>, metrics: Arc<Metrics>) -> Self {
        Self { client, pods, issuer, metrics, asking: Semaphore::new(AT_ONCE), asked_about: Mutex::default(), remembered: Mutex::default() }
    }

    /// The Pod that `token`, sent from `peer`, proves.
    pub async fn judge(&self, token: &str, peer: IpAddr, now: SystemTime) -> Result<Node, TokenError> {
        let peer = peer.to_canonical();
        if token.is_empty() || token.len() > LONGEST {
            return Err(TokenError::NoToken(peer));
        }
        // Also where the Pod is only on its way to us: it comes back.
        if !self.pods.have(&peer) {
            return Err(TokenError::Stranger(peer));
        }
        let claims = self.claims(token, peer, now).await?;
        agrees(&claims, self.pods.find(&claims.pod).as_ref(), peer)?;
        Ok(Node { uid: claims.uid, name: shown(&claims.pod) })
    }

    async fn claims(&self, token: &str, peer: IpAddr, now: SystemTime) -> Result<Claims, TokenError> {
        let hash: [u8; 32] = Sha256::digest(token).into();
        if let Some(claims) = self.recall(&hash, now, FRESH) {
            return Ok(claims);
        }
        let turn = self.turn(peer)?;
        let answer = match self.ask(token).await {
            Ok(answer) => answer,
            Err(problem) => {
                let known = self.recall(&hash, now, STALE).map(Ok).or_else(|| self.offline(token, peer, now));
                return known.unwrap_or(Err(TokenError::Unreachable { peer, problem }));
            }
        };
        drop(turn);
        let claims = read(answer, peer).inspect_err(|_| drop(self.remembered.lock().remove(&hash)))?;
        if let Some(ends) = end_of(token).filter(|ends| *ends > now) {
            self.remember(hash, Remembered { claims: claims.clone(), at: now, ends });
        }
        Ok(claims)
    }

    /// What the token itself says, where its issuer's keys are known. None: nothing can be told.
    fn offline(&self, token: &str, peer: IpAddr, now: SystemTime) -> Option<Result<Claims, TokenError>> {
        let claims = self.issuer.verify(token, AUDIENCE, now)?;
        let account = claims.sub.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':'));
        let Some((_, account)) = account.filter(|(namespace, _)| *namespace == claims.bound.namespace) else {
            return Some(Err(TokenError::NoAccount { peer, user: claims.sub }));
        };
        Some(match claims.bound.pod {
            Some(pod) => Ok(Claims { pod: Name::new(claims.bound.namespace, pod.name), uid: pod.uid, account: account.into() }),
            None => Err(TokenError::Unbound { peer, account: format!("{}/{account}", claims.bound.namespace) }),
        })
    }

    fn recall(&self, hash: &[u8; 32], now: SystemTime, most: Duration) -> Option<Claims> {
        let remembered = self.remembered.lock();
        let one = remembered.get(hash)?;
        // A clock that went back makes nothing younger than it is.
        let age = now.duration_since(one.at).ok()?;
        (age < most && now < one.ends).then(|| one.claims.clone())
    }

    fn remember(&self, hash: [u8; 32], new: Remembered) {
        let mut remembered = self.remembered.lock();
        if remembered.len() >= REMEMBERED {
            let now = new.at;
            remembered.retain(|_, one| one.ends > now && now.duration_since(one.at).is_ok_and(|age| age < FRESH));
            if remembered.len() >= REMEMBERED {
                remembered.clear();
            }
        }
        remembered.insert(hash, new);
    }

    async fn ask(&self, token: &str) -> Result<TokenReviewStatus, String> {
        let spec = TokenReviewSpec { audiences: Some(vec![AUDIENCE.into()]), token: Some(token.into()) };
        let review = TokenReview { spec, ..TokenReview::default() };
        let api: Api<TokenReview> = Api::all(self.client.clone());
        let asked = async {
            // Never closed, so acquiring does not fail.
            let _permit = self.asking.acquire().await.map_err(|error| error.to_string())?;
            api.create(&PostParams::default(), &review).await.map_err(|error| brief(&error))
        };
        let answered = tokio::time::timeout(PATIENCE, asked).await.map_err(|_| format!("no answer within {PATIENCE:?}"))?;
        answered?.status.ok_or_else(|| "an answer without a status".into())
    }

    /// The turn of this peer to be asked about, until it is dropped.
    fn turn(&self, peer: IpAddr) -> Result<Turn<'_>, TokenError> {
        if self.asked_about.lock().insert(peer) { Ok(Turn { of: self, peer }) } else { Err(TokenError::Busy(peer)) }
    }
}

struct Turn<'a> {
    of: &'a PodTokens,
    peer: IpAddr,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.of.asked_about.lock().remove(&self.peer);
    }
}

#[async_trait]
impl Authenticate for PodTokens {
    async fn authenticate(&self, token: &str, peer: SocketAddr) -> Result<Node, Unauthenticated> {
        let judged = self.judge(token, peer.ip(), SystemTime::now()).await;
        self.metrics.token(judged.as_ref().map_or_else(TokenError::outcome, |_| TokenOutcome::Accepted));
        judged.map_err(Unauthenticated::from)
    }
}

fn shown(pod: &Name) -> String {
    format!("{}/{}", pod.namespace, pod.name)
}

/// What the API server's answer comes to.
fn read(answer: TokenReviewStatus, peer: IpAddr) -> Result<Claims, TokenError> {
    if answer.authenticated != Some(true) {
        let problem = answer.error.filter(|error| !error.is_empty()).unwrap_or_else(|| "it is not authentic".into());
        return Err(TokenError::Refused { peer, problem });
    }
    // An authenticator that knows nothing of audiences answers without any.
    let audiences = answer.audiences.unwrap_or_default();
    if !audiences.iter().any(|audience| audience == AUDIENCE) {
        return Err(TokenError::Audience { peer, audiences });
    }
    let user = answer.user.unwrap_or_default();
    let username = user.username.unwrap_or_default();
    let account = username.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':'));
    let Some((namespace, account)) = account.filter(|(namespace, account)| !namespace.is_empty() && !account.is_empty()) else {
        return Err(TokenError::NoAccount { peer, user: username });
    };
    let only = |name: &str| match user.extra.as_ref().and_then(|extra| extra.get(name)).map(Vec::as_slice) {
        Some([one]) if !one.is_empty() => Some(one.clone()),
        _ => None,
    };
    match (only(POD_NAME), only(POD_UID)) {
        (Some(pod), Some(uid)) => Ok(Claims { pod: Name::new(namespace, pod), uid, account: account.into() }),
        _ => Err(TokenError::Unbound { peer, account: format!("{namespace}/{account}") }),
    }
}

/// Whether the Pod is as the token says, and the connection is the Pod's.
fn agrees(claims: &Claims, pod: Option<&PodFacts>, peer: IpAddr) -> Result<(), TokenError> {
    let shown = || shown(&claims.pod);
    let Some(pod) = pod else { return Err(TokenError::UnknownPod { peer, pod: shown() }) };
    if pod.uid != claims.uid {
        return Err(TokenError::OtherPod { peer, pod: shown(), uid: claims.uid.clone() });
    }
    if pod.account != claims.account {
        return Err(TokenError::OtherAccount { peer, pod: shown(), account: claims.account.clone() });
    }
    match (pod.network, pod.addresses.as_slice()) {
        (Network::Host, _) => Err(TokenError::HostNetwork { peer, pod: shown() }),
        (Network::Own, []) => Err(TokenError::NoAddress { peer, pod: shown() }),
        (Network::Own, addresses) if addresses.contains(&peer) => Ok(()),
        (Network::Own, _) => Err(TokenError::OtherAddress { peer, pod: shown() }),
    }
}

/// When a token ends. It is only read here, after the API server has verified it; one that does not say is not remembered.
fn end_of(token: &str) -> Option<SystemTime> {
    #[derive(Deserialize)]
    struct Ends {
        exp: u64,
    }
    let payload = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    let ends: Ends = serde_json::from_slice(&payload).ok()?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(ends.exp))
}
