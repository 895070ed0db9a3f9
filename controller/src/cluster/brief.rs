//! What the API server says when it does not do something, in one sentence.

use kube::runtime::watcher;

/// The message and the code of its answer; or why there was none.
pub fn brief(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if status.message.is_empty() => format!("{} ({})", status.reason, status.code),
        kube::Error::Api(status) => format!("{} ({})", status.message, status.code),
        other => with_sources(other),
    }
}

/// The same of a watch.
pub fn brief_of_watch(error: &watcher::Error) -> String {
    match error {
        watcher::Error::InitialListFailed(error) | watcher::Error::WatchStartFailed(error) | watcher::Error::WatchFailed(error) => {
            brief(error)
        }
        watcher::Error::WatchError(status) => format!("{} ({})", status.message, status.code),
        other @ watcher::Error::NoResourceVersion => other.to_string(),
    }
}

/// The client says `client error (Connect)` and keeps why to its sources.
fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = error.source();
    }
    text
}
