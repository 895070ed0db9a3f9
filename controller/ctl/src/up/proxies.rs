//! The proxies of `up`: one edge a Gateway, one sidecar a Pod, in this process, each with its own threads, pools and metrics.

use super::publishing::Publishing;
use super::say::{Say, Tone};
use crate::cli;
use crate::read::{Place, Read};
use anyhow::{Context, Result};
use futures::future::join_all;
use selvage_config::last_good::LastGood;
use selvage_policy::Key;
use selvage_proxy::running::{Feed, Running};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// How long requests at a proxy that is removed by an edit may take.
const REMOVED: Duration = Duration::from_secs(10);

/// Every proxy that runs.
pub struct Proxies {
    threads: u16,
    access_log: String,
    state: PathBuf,
    say: Say,
    running: BTreeMap<Key, Running>,
}

impl Proxies {
    /// None yet.
    pub fn new(options: &cli::Up, place: &Place, say: Say) -> Self {
        let access_log = options.access_log.clone().unwrap_or_else(|| "off".into());
        Self { threads: options.threads, access_log, state: place.state.clone(), say, running: BTreeMap::new() }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.running.len()
    }

    /// Makes exactly the proxies run that a directory has views for.
    pub async fn run(&mut self, read: &Read, publishing: &Publishing) -> Result<()> {
        let gone = self.running.extract_if(.., |proxy, _| !read.translation.views.contains_key(proxy));
        let gone: Vec<(Key, Running)> = gone.collect();
        let say = &self.say;
        let ending = gone.into_iter().map(|(proxy, running)| async move {
            running.end(REMOVED).await;
            publishing.forget(&proxy);
            say.tell(Tone::Done, &format!("{proxy} has ended"));
        });
        join_all(ending).await;
        for proxy in read.translation.views.keys() {
            if !self.running.contains_key(proxy) {
                let running = self.start(proxy, read, publishing).await.with_context(|| format!("the proxy of {proxy} does not start"))?;
                self.running.insert(proxy.clone(), running);
            }
        }
        Ok(())
    }

    async fn start(&self, proxy: &Key, read: &Read, publishing: &Publishing) -> Result<Running> {
        let address = read.address(proxy).context("it has no address")?;
        let folder = self.state.join("proxies").join(format!("{}.{}.{}", proxy.kind.to_lowercase(), proxy.namespace, proxy.name));
        let last_good = LastGood::new(folder.clone(), folder.join("secrets"));
        let feed = Feed::Wire { options: Box::new(publishing.options(proxy)), last_good: Some(last_good) };
        let name = format!("{}/{}", proxy.namespace, proxy.name);
        Ok(Running::on(address, &name, self.threads, &self.access_log, feed).await?)
    }

    /// Waits until every proxy can serve all it is for; what is missing otherwise.
    pub async fn ready(&self, patience: Duration) -> Vec<String> {
        let each = self.running.iter().map(|(proxy, running)| async move {
            let missing = running.ready(patience).await.missing;
            let why = running.problem().map(|problem| format!(" ({problem})")).unwrap_or_default();
            (!missing.is_empty()).then(|| format!("{proxy} lacks {}{why}", missing.join(", ")))
        });
        join_all(each).await.into_iter().flatten().collect()
    }

    /// Ends all of them in order; how many connections were cut off.
    pub async fn end(&mut self, deadline: Duration) -> usize {
        let (edges, sidecars): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.running).into_iter().partition(|(proxy, _)| proxy.kind == "Gateway");
        // Edges first: what is under way there still needs the sidecars.
        let cut: usize = join_all(edges.into_iter().map(|(_, running)| running.end(deadline))).await.into_iter().sum();
        cut + join_all(sidecars.into_iter().map(|(_, running)| running.end(deadline))).await.into_iter().sum::<usize>()
    }
}
