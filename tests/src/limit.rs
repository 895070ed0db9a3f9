//! Meeting a rate limit on purpose.

use crate::{Answer, Client};
use std::time::{Duration, Instant};

/// Longer than it takes anywhere.
const PATIENCE: Duration = Duration::from_secs(60);
/// Requests at once.
const TOGETHER: usize = 20;

/// Asks for `/healthz` until a request is limited, and returns its answer. `a_second` requests are allowed by each of `proxies`, which count
/// apart: as many have to be served before, and no more than they allow, so that each request counts once.
pub async fn meet(client: &Client, proxies: u64, a_second: u64) -> Answer {
    let begun = Instant::now();
    let mut served = 0;
    loop {
        let answers = futures::future::join_all((0..TOGETHER).map(|_| client.get("/healthz"))).await;
        assert!(answers.iter().all(|answer| matches!(answer.status, 200 | 429)), "{answers:?}");
        served += answers.iter().filter(|answer| answer.status == 200).count() as u64;
        // A second's worth at once, and what has come back since.
        let most = proxies * a_second * (begun.elapsed().as_secs() + 2);
        assert!(served <= most, "{served} were served in {:?}", begun.elapsed());
        if let Some(limited) = answers.into_iter().find(|answer| answer.status == 429) {
            assert!(served >= a_second, "only {served} were served before");
            return limited;
        }
        assert!(begun.elapsed() < PATIENCE, "none of {served} was limited");
    }
}
