//! Tokens of a world without Kubernetes: made here, handed to each proxy in memory, worth nothing after the process ends.

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use parking_lot::Mutex;
use selvage_config::wire::server::{Authenticate, Node, Unauthenticated};
use selvage_policy::Key;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::net::SocketAddr;

/// The tokens given out, by hash: a look at this table gives nothing away, and finding by hash leaks no prefix by timing.
#[derive(Default)]
pub struct Tokens {
    nodes: Mutex<HashMap<[u8; 32], Node>>,
}

impl Tokens {
    /// A token for one proxy. A new one ends the earlier.
    pub fn give(&self, proxy: &Key) -> String {
        let token = URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>());
        let node = Node { uid: proxy.to_string(), name: format!("{}/{}", proxy.namespace, proxy.name) };
        let mut nodes = self.nodes.lock();
        nodes.retain(|_, other| other.uid != node.uid);
        nodes.insert(Sha256::digest(&token).into(), node);
        token
    }

    /// Ends a proxy's token.
    pub fn end(&self, proxy: &Key) {
        let uid = proxy.to_string();
        self.nodes.lock().retain(|_, node| node.uid != uid);
    }
}

#[async_trait]
impl Authenticate for Tokens {
    async fn authenticate(&self, token: &str, peer: SocketAddr) -> Result<Node, Unauthenticated> {
        let hash: [u8; 32] = Sha256::digest(token).into();
        let node = self.nodes.lock().get(&hash).cloned();
        node.ok_or_else(|| Unauthenticated::Refused(format!("the token that {peer} sent was not given out here, or has ended")))
    }
}
