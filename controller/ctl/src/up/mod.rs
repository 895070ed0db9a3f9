//! `selvage up`: everything of a directory, running.
//!
//! ```text
//! manifests ──read──► Publication ──publish──► wire ──► one edge a Gateway, one sidecar a Pod
//!     ▲ edited                                              │
//!     └───────── watch            Pods' processes ◄─────────┘
//! ```
//!
//! It supervises and decides nothing: a directory is read and admitted as `check` does, and proxies run as `gateway` and `mesh-agent` do.

pub mod certificates;
pub mod children;
pub mod launch;
mod processes;
mod proxies;
mod publishing;
pub mod say;
mod summary;
pub mod try_it;
mod watch;

use crate::cli;
use crate::read::{MissingSecrets, Place, Read};
use crate::render::authority;
use anyhow::{Context, Result, bail};
use children::Children;
use proxies::Proxies;
use publishing::Publishing;
use say::{Say, Tone};
use selvage_controller::publish::Publication;
use selvage_controller::world::addresses::OCTETS;
use selvage_controller::world::{Addresses, Fault, MESH_CONFIG, Name};
use std::collections::BTreeSet;
use std::fs::File;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use watch::Watch;

/// How long everything may take to come up.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long an edit may take to be in force everywhere before it is said which proxies lag.
const DELIVERY: Duration = Duration::from_secs(5);

/// How long requests under way may take at the end.
const DRAIN: Duration = Duration::from_secs(10);

/// Everything that runs.
struct Up {
    place: Place,
    say: Say,
    missing: MissingSecrets,
    publishing: Publishing,
    publication: Publication,
    proxies: Proxies,
    children: Children,
    addresses: Addresses,
    roots: Vec<String>,
    /// What was complained of last.
    complaints: BTreeSet<String>,
}

/// Runs until it is told to end.
pub async fn run(options: &cli::Up) -> Result<ExitCode> {
    let say = Say::aloud();
    let mut signals = Signals::catch()?;
    let place = Place::open(&options.dir)?;
    place.prepare()?;
    let _lock = lock(&place)?;
    // Before anything is read: an edit during the start is an edit.
    let watch = Watch::start(&place.dir).context("edits cannot be followed")?;
    say.tell(Tone::Plain, &format!("Selvage {} runs {}", env!("CARGO_PKG_VERSION"), options.dir.display()));

    let (wire, addresses) = claim(place.addresses()?).await?;
    let authority = std::sync::Arc::new(authority(&place)?);
    let missing = if options.no_certificates { MissingSecrets::Leave } else { MissingSecrets::Make };
    let roots = authority.roots();
    let read = place.read(addresses, &roots, missing)?;
    if !read.faults.is_empty() {
        bail!(crate::check::listed(&read.faults));
    }
    let addresses = read.world.addresses.clone().context("a directory's world has addresses")?;
    addresses.save(&place.state.join("addresses.json"))?;
    say.tell(
        Tone::Done,
        &format!("manifests read: {} resources for {} proxies", read.translation.resources.len(), read.translation.views.len()),
    );
    for warning in read.translation.warnings() {
        say.tell(Tone::Warning, &warning);
    }
    for secret in &read.made {
        let root = certificates::Certificates::of(&place.state).root();
        say.tell(
            Tone::Done,
            &format!("certificate made for the missing Secret {}/{} (clients may trust {})", secret.namespace, secret.name, root.display()),
        );
    }
    let publishing = Publishing::start(wire, authority, &read.world.mesh().trust_domain).await?;
    let mut up = Up {
        publication: Publication::from(&read.translation),
        proxies: Proxies::new(options, &place, say.clone()),
        children: Children::new(say.clone()).launched_by(std::env::current_exe().context("this program does not know where it is")?),
        place,
        say,
        missing,
        publishing,
        addresses,
        roots,
        complaints: BTreeSet::new(),
    };
    let started = tokio::select! {
        started = up.start(&read) => started.map(|()| true),
        () = signals.end() => Ok(false),
    };
    let outcome = match started {
        Ok(true) => up.serve(&read, options, watch, &mut signals).await,
        Ok(false) => Ok(()),
        Err(error) => Err(error),
    };
    up.end().await;
    outcome.map(|()| ExitCode::SUCCESS)
}

impl Up {
    async fn start(&mut self, read: &Read) -> Result<()> {
        self.publish();
        self.proxies.run(read, &self.publishing).await?;
        let (specs, unrunnable) = processes::processes(&read.world, &self.place.dir);
        for problem in unrunnable {
            self.say.tell(Tone::Warning, &problem.to_string());
        }
        let count = specs.len();
        self.children.run(specs).await;
        let late = self.proxies.ready(PATIENCE).await;
        for problem in &late {
            self.say.tell(Tone::Warning, problem);
        }
        if late.is_empty() {
            self.say.tell(Tone::Done, &format!("{} proxies serve, each with its own certificate", self.proxies.count()));
        }
        let late = self.children.accepting(PATIENCE).await;
        for name in &late {
            self.say.tell(Tone::Warning, &format!("{name} does not accept connections"));
        }
        if late.is_empty() {
            self.say.tell(Tone::Done, &format!("{count} processes accept connections"));
        }
        Ok(())
    }

    /// Follows edits until told to end.
    async fn serve(&mut self, read: &Read, options: &cli::Up, mut watch: Watch, signals: &mut Signals) -> Result<()> {
        self.complain(read);
        summary::keep(read, &self.place, self.publishing.status())?;
        self.say.tell(Tone::Plain, &summary::text(read, &self.place, &options.dir));
        loop {
            let said = tokio::select! {
                () = watch.changed() => Said::Edited,
                said = signals.next() => said,
            };
            match said {
                Said::Edited => tokio::select! {
                    () = self.reload() => {}
                    () = signals.end() => return Ok(()),
                },
                Said::Restart => {
                    self.publishing.restart(&self.publication).await?;
                    self.say.tell(Tone::Done, "the publisher was restarted; proxies served on");
                }
                Said::End => return Ok(()),
            }
        }
    }

    /// Takes an edit, or refuses it whole.
    async fn reload(&mut self) {
        let begun = Instant::now();
        let read = match self.place.read(self.addresses.clone(), &self.roots, self.missing) {
            Ok(read) => read,
            Err(error) => return self.say.tell(Tone::Warning, &format!("edit refused, what worked stays: {error:#}")),
        };
        let faults: Vec<Fault> = read.faults.iter().cloned().chain(self.trust_domain(&read)).collect();
        if !faults.is_empty() {
            self.say.tell(Tone::Warning, "edit refused, what worked stays:");
            faults.iter().for_each(|fault| self.say.tell(Tone::Warning, &format!("  {fault}")));
            return;
        }
        let publication = Publication::from(&read.translation);
        let (specs, unrunnable) = processes::processes(&read.world, &self.place.dir);
        unrunnable.iter().for_each(|problem| self.say.tell(Tone::Warning, &problem.to_string()));
        let changed = changes(&self.publication, &publication);
        self.publication = publication;
        if let Some(addresses) = &read.world.addresses
            && *addresses != self.addresses
        {
            self.addresses = addresses.clone();
            if let Err(error) = addresses.save(&self.place.state.join("addresses.json")) {
                self.say.tell(Tone::Warning, &error.to_string());
            }
        }
        self.publish();
        if let Err(error) = self.proxies.run(&read, &self.publishing).await {
            self.say.tell(Tone::Warning, &format!("{error:#}"));
        }
        self.children.run(specs).await;
        if let Err(error) = summary::keep(&read, &self.place, self.publishing.status()) {
            self.say.tell(Tone::Warning, &format!("{error:#}"));
        }
        if changed == 0 {
            return;
        }
        let lagging = self.publishing.delivered(&self.publication, DELIVERY).await;
        match lagging.as_slice() {
            [] => {
                self.say.tell(Tone::Done, &format!("edit in force after {} ms: {changed} resources changed", begun.elapsed().as_millis()))
            }
            lagging => self.say.tell(Tone::Warning, &format!("edit published, but not in force everywhere: {}", lagging.join(", "))),
        }
        self.complain(&read);
    }

    /// The trust domain cannot be changed: every certificate has it.
    fn trust_domain(&self, read: &Read) -> Option<Fault> {
        let (present, wanted) = (self.publishing.trust_domain(), read.world.mesh().trust_domain);
        (wanted != *present).then(|| {
            let problem = format!("`{wanted}` is not `{present}`, which every certificate has: it cannot be changed; set it back");
            let key = Name::new("", MESH_CONFIG).key("MeshConfig");
            let fault = Fault::of(&key, "spec.trustDomain", problem);
            match read.files.get(&key) {
                Some(file) => fault.within(file),
                None => fault,
            }
        })
    }

    /// Says what is not programmed or not enforced, once.
    fn complain(&mut self, read: &Read) {
        let complaints: BTreeSet<String> = selvage_controller::status::complaints(&self.publishing.statuses(read)).into_iter().collect();
        for new in complaints.difference(&self.complaints) {
            self.say.tell(Tone::Warning, new);
        }
        self.complaints = complaints;
    }

    fn publish(&self) {
        for problem in self.publishing.publish(&self.publication) {
            self.say.tell(Tone::Warning, &problem);
        }
    }

    /// Ends in order: proxies drain while the applications still answer, then the applications, then the publishing side.
    async fn end(&mut self) {
        self.say.tell(Tone::Plain, "\nending: requests under way are finished");
        let cut = self.proxies.end(DRAIN).await;
        if cut > 0 {
            self.say.tell(Tone::Warning, &format!("{cut} connections were cut off after {} s", DRAIN.as_secs()));
        }
        self.children.end_all().await;
        self.publishing.end().await;
        summary::remove(&self.place);
        self.say.tell(Tone::Done, "everything has ended");
    }
}

/// One `up` a directory: the state has one owner. The lock ends with the process, however it ends.
fn lock(place: &Place) -> Result<File> {
    let path = place.state.join("lock");
    let file =
        File::options().write(true).create(true).truncate(false).open(&path).with_context(|| format!("cannot open {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => bail!("{} runs already: end it first, or copy the directory", place.dir.display()),
        Err(std::fs::TryLockError::Error(error)) => Err(error).with_context(|| format!("cannot lock {}", path.display())),
    }
}

/// Claims a block of addresses by binding the wire's: the one of last time, or the next that is free.
async fn claim(mut addresses: Addresses) -> Result<(TcpListener, Addresses)> {
    for octet in octets(addresses.octet) {
        addresses.octet = octet;
        match TcpListener::bind(addresses.wire()).await {
            Ok(listener) => return Ok((listener, addresses)),
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {}
            Err(error) => return Err(error).with_context(|| format!("cannot listen on {}", addresses.wire())),
        }
    }
    bail!("every block of addresses from 127.{}.0.0 to 127.{}.0.0 is in use: end another `selvage up`", OCTETS.start(), OCTETS.end())
}

/// Every second byte of addresses once, beginning with one of them.
fn octets(first: u8) -> impl Iterator<Item = u8> {
    let first = if OCTETS.contains(&first) { first } else { *OCTETS.start() };
    (first..=*OCTETS.end()).chain(*OCTETS.start()..first)
}

/// How many Resources differ, come or go.
fn changes(before: &Publication, after: &Publication) -> usize {
    let version = |publication: &Publication, key| publication.resources.get(key).map(|resource| resource.version.clone());
    let keys: BTreeSet<_> = before.resources.keys().chain(after.resources.keys()).collect();
    keys.into_iter().filter(|key| version(before, key) != version(after, key)).count()
}

/// What `up` is told by signals.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    user: Signal,
}

impl Signals {
    fn catch() -> Result<Self> {
        let catch = |kind| signal(kind).context("signals cannot be caught");
        Ok(Self {
            interrupt: catch(SignalKind::interrupt())?,
            terminate: catch(SignalKind::terminate())?,
            user: catch(SignalKind::user_defined1())?,
        })
    }

    /// Ctrl-C or SIGTERM; a SIGUSR1 that comes meanwhile is not lost.
    async fn end(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }

    async fn next(&mut self) -> Said {
        tokio::select! {
            _ = self.interrupt.recv() => Said::End,
            _ = self.terminate.recv() => Said::End,
            _ = self.user.recv() => Said::Restart,
        }
    }
}

/// Why `up` does something.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Said {
    /// Manifests changed.
    Edited,
    /// SIGUSR1: the publishing side is restarted.
    Restart,
    /// Ctrl-C or SIGTERM.
    End,
}
