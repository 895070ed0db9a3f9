//! Steady requests while something happens, and what became of them.

use crate::Client;
use crate::client::Connection;
use http::Method;
use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Between two requests of one connection.
const PAUSE: Duration = Duration::from_millis(10);
/// Complaints that are kept in full.
const COMPLAINTS: usize = 20;

/// Requests on their way.
#[derive(Debug)]
pub struct Load {
    stop: CancellationToken,
    connections: JoinSet<Tally>,
}

/// What became of them.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Requests that were sent.
    pub sent: u64,
    /// Those that were not answered as expected.
    pub failed: u64,
    /// What was wrong with the first of them.
    pub complaints: Vec<String>,
    /// Answers by status.
    pub statuses: BTreeMap<u16, u64>,
    /// The longest time an answer took.
    pub slowest: Duration,
    /// Connections that were made.
    pub connections: u64,
}

impl Load {
    /// GETs of `target` on some connections, each of which keeps its own `x-client`, all to be answered with 200.
    pub fn start(client: &Client, target: &str, connections: u32) -> Self {
        let stop = CancellationToken::new();
        let mut set = JoinSet::new();
        for number in 0..connections {
            // The Gateway of the bookshop limits each client to 20 a second: a new name each time is no client at all.
            set.spawn(keep_asking(client.clone(), target.to_string(), number, stop.clone()));
        }
        Self { stop, connections: set }
    }

    /// Ends, and says how it was.
    pub async fn end(mut self) -> Tally {
        self.stop.cancel();
        let mut all = Tally::default();
        while let Some(one) = self.connections.join_next().await {
            all.add(one.expect("a connection of the load panicked"));
        }
        all
    }
}

impl Tally {
    /// Panics if any failed, or if so few were sent that it says nothing.
    pub fn expect_no_failure(&self, at_least: u64) {
        assert!(self.failed == 0, "{self}");
        assert!(self.sent >= at_least, "only {self}");
    }

    fn add(&mut self, other: Self) {
        self.sent += other.sent;
        self.failed += other.failed;
        self.connections += other.connections;
        self.slowest = self.slowest.max(other.slowest);
        let room = COMPLAINTS.saturating_sub(self.complaints.len());
        self.complaints.extend(other.complaints.into_iter().take(room));
        for (status, count) in other.statuses {
            *self.statuses.entry(status).or_default() += count;
        }
    }

    fn complain(&mut self, complaint: String) {
        self.failed += 1;
        if self.complaints.len() < COMPLAINTS {
            self.complaints.push(complaint);
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} requests on {} connections, {} failed, slowest {:.0?}", self.sent, self.connections, self.failed, self.slowest)?;
        write!(f, ", by status {:?}", self.statuses)?;
        self.complaints.iter().try_for_each(|complaint| write!(f, "\n  {complaint}"))
    }
}

async fn keep_asking(client: Client, target: String, number: u32, stop: CancellationToken) -> Tally {
    let mut tally = Tally::default();
    let mut open: Option<Connection> = None;
    let begun = Instant::now();
    while !stop.is_cancelled() {
        let mut connection = match open.take() {
            Some(connection) => connection,
            None => match client.connect().await {
                Ok(connection) => {
                    tally.connections += 1;
                    connection
                }
                Err(error) => {
                    tally.sent += 1;
                    tally.complain(format!("{:.1?}: connecting: {error:#}", begun.elapsed()));
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            },
        };
        // A connection that the server has closed between two requests is no failure.
        if !connection.is_usable().await {
            continue;
        }
        connection.rename("x-client", &format!("load-{number}-{}", tally.sent));
        let asked = Instant::now();
        tally.sent += 1;
        match connection.send(Method::GET, &target, "").await {
            Ok(answer) => {
                *tally.statuses.entry(answer.status).or_default() += 1;
                if answer.status != 200 {
                    tally.complain(format!("{:.1?}: {} {}", begun.elapsed(), answer.status, answer.text()));
                }
                open = Some(connection);
            }
            Err(error) => tally.complain(format!("{:.1?}: {error:#}", begun.elapsed())),
        }
        tally.slowest = tally.slowest.max(asked.elapsed());
        tokio::time::sleep(PAUSE).await;
    }
    tally
}
