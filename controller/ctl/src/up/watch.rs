//! Tells when manifests changed: many events of one edit become one.

use notify::{Event, EventKind, RecursiveMode, Watcher};
use std::path::Path;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

/// Events that come within this time of one another are one edit: writing a file is several, checking out a branch is many.
const DEBOUNCE: Duration = Duration::from_millis(60);
/// An edit that does not come to an end is read as it is by then.
const LONGEST: Duration = Duration::from_secs(1);

/// The folders that are read. Beside them are the state of `up` and whatever local processes write.
const READ: [&str; 2] = ["app", "local"];

/// A watched directory; it is watched until this is dropped.
pub struct Watch {
    changes: mpsc::Receiver<()>,
    _watcher: notify::RecommendedWatcher,
}

impl Watch {
    /// Watches the manifests of `dir`, which has no symbolic links in its path.
    pub fn start(dir: &Path) -> notify::Result<Self> {
        // One is enough: it says that there is something to read, not what.
        let (changed, changes) = mpsc::channel(1);
        let watched = dir.to_path_buf();
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            if concerns(&event, &watched) {
                // Full: the change will be read with the one before it.
                let _ = changed.try_send(());
            }
        })?;
        watcher.watch(dir, RecursiveMode::Recursive)?;
        Ok(Self { changes, _watcher: watcher })
    }

    /// Waits for the next edit to be complete.
    pub async fn changed(&mut self) {
        settled(&mut self.changes).await;
    }
}

async fn settled(changes: &mut mpsc::Receiver<()>) {
    if changes.recv().await.is_none() {
        // The watcher is gone with its thread; there is nothing more to come.
        std::future::pending::<()>().await;
    }
    let end = Instant::now() + LONGEST;
    while timeout_at(end.min(Instant::now() + DEBOUNCE), changes.recv()).await.is_ok_and(|event| event.is_some()) {
        if Instant::now() >= end {
            return;
        }
    }
}

/// Whether manifests may have changed. What was lost (too many events at once, a folder that could not be watched) may have been anything.
fn concerns(event: &notify::Result<Event>, dir: &Path) -> bool {
    let Ok(event) = event else { return true };
    let is_read = |path: &Path| READ.iter().any(|folder| path.starts_with(dir.join(folder)));
    event.need_rescan() || (!matches!(event.kind, EventKind::Access(_)) && event.paths.iter().any(|path| is_read(path)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use notify::event::{AccessKind, CreateKind, DataChange, Flag, ModifyKind};

    #[test]
    fn only_what_is_read_concerns_and_what_was_lost_does() {
        let dir = Path::new("/shop");
        let modified = EventKind::Modify(ModifyKind::Data(DataChange::Any));
        let at = |kind: EventKind, path: &str| Ok(Event::new(kind).add_path(path.into()));
        for (what, event, wanted) in [
            ("an edit", at(modified, "/shop/app/orders.yaml"), true),
            ("an edit further down", at(modified, "/shop/local/more/pods.yaml"), true),
            ("a folder that appears", at(EventKind::Create(CreateKind::Folder), "/shop/local"), true),
            ("a look", at(EventKind::Access(AccessKind::Any), "/shop/app/orders.yaml"), false),
            ("our state", at(modified, "/shop/.selvage/up.json"), false),
            ("the log of a process", at(modified, "/shop/orders.log"), false),
            ("a neighbour of that name", at(modified, "/shop/app.log"), false),
            ("what is for clusters", at(modified, "/shop/cluster/orders.yaml"), false),
            ("too many events", Ok(Event::new(EventKind::Other).set_flag(Flag::Rescan)), true),
            ("a failure", Err(notify::Error::generic("no more watches")), true),
        ] {
            assert_eq!(concerns(&event, dir), wanted, "{what}");
        }
    }

    #[tokio::test]
    async fn an_edit_is_told() {
        let folder = tempfile::tempdir().expect("a folder");
        let dir = folder.path().canonicalize().expect("a path");
        std::fs::create_dir_all(dir.join("app")).expect("app");
        let mut watch = Watch::start(&dir).expect("a watch");
        std::fs::write(dir.join("app/a.yaml"), "one").expect("a file");
        tokio::time::timeout(Duration::from_secs(30), watch.changed()).await.expect("an edit is told");
    }

    #[tokio::test]
    async fn many_events_are_one_edit_and_one_without_an_end_is_told_all_the_same() {
        let (changed, mut changes) = mpsc::channel(8);
        for _ in 0..3 {
            changed.try_send(()).expect("there is room");
        }
        settled(&mut changes).await;
        assert!(changes.try_recv().is_err(), "they were one");
        let storm = tokio::spawn(async move { while changed.send(()).await.is_ok() {} });
        tokio::time::timeout(Duration::from_secs(30), settled(&mut changes)).await.expect("an edit is told");
        drop(changes);
        storm.await.expect("it ends with the channel");
    }
}
