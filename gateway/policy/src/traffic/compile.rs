//! TrafficPolicySpec to Settings.

use super::settings::{Budget, Settings};
use super::spec::TrafficPolicySpec;
use crate::duration;
use crate::list::Invalid;
use std::time::Duration;

/// The longest deadline: a day. Longer ones are a mistake, and `0s` says "none".
const LONGEST: Duration = Duration::from_secs(24 * 3600);
/// The longest wait between two tries.
const LONGEST_BACKOFF: Duration = Duration::from_secs(60);
/// The longest time to make a connection.
const LONGEST_CONNECT: Duration = Duration::from_secs(60);

impl TrafficPolicySpec {
    /// Compiles the fields; the envelope is checked by the caller.
    pub(crate) fn settings(&self) -> Result<Settings, Invalid> {
        let timeouts = self.timeouts.clone().unwrap_or_default();
        let retry = self.retry.clone().unwrap_or_default();
        let settings = Settings {
            request_timeout: time("spec.timeouts.request", timeouts.request.as_deref(), Duration::ZERO, LONGEST)?,
            backend_timeout: time("spec.timeouts.backendRequest", timeouts.backend_request.as_deref(), Duration::ZERO, LONGEST)?,
            connect_timeout: time("spec.timeouts.connect", timeouts.connect.as_deref(), Duration::from_millis(1), LONGEST_CONNECT)?,
            attempts: retry.attempts,
            backoff: time("spec.retry.backoff", retry.backoff.as_deref(), Duration::ZERO, LONGEST_BACKOFF)?,
            methods: retry.methods,
            budget: retry.budget.as_ref().map(|budget| Budget {
                percent: budget.percent.unwrap_or(Budget::DEFAULT.percent),
                min_per_second: budget.min_per_second.unwrap_or(Budget::DEFAULT.min_per_second),
            }),
            codes: retry.codes,
        };
        if settings == Settings::default() {
            return Err(Invalid::field("spec", "the policy sets nothing; give `timeouts` or `retry`"));
        }
        if let (Some(request), Some(backend)) = (settings.request_timeout, settings.backend_timeout)
            && !request.is_zero()
            && backend > request
        {
            return Err(Invalid::field(
                "spec.timeouts.backendRequest",
                "one try may not take longer than `request`, which bounds all of them",
            ));
        }
        if settings.attempts.is_some_and(|attempts| attempts > 10) {
            return Err(Invalid::field("spec.retry.attempts", "at most 10 retries are allowed"));
        }
        let codes = settings.codes.as_deref().unwrap_or_default();
        Invalid::at_most("spec.retry.codes", codes.len(), 16)?;
        if let Some(index) = codes.iter().position(|code| !matches!(code, 429 | 500..=599)) {
            return Err(Invalid::field(
                format!("spec.retry.codes[{index}]"),
                format!("{} is never tried again; write 429 or 500 to 599", codes[index]),
            ));
        }
        if let Some(budget) = settings.budget {
            if budget.percent > 100 {
                return Err(Invalid::field("spec.retry.budget.percent", "write 0 to 100"));
            }
            if budget.min_per_second > 10_000 {
                return Err(Invalid::field("spec.retry.budget.minPerSecond", "write 0 to 10000"));
            }
        }
        Ok(settings)
    }
}

fn time(field: &str, text: Option<&str>, least: Duration, most: Duration) -> Result<Option<Duration>, Invalid> {
    let Some(text) = text else { return Ok(None) };
    let time = duration::parse(text).map_err(|error| Invalid::field(field, error.to_string()))?;
    if time < least || time > most {
        let range = format!("write {} to {}", duration::format(least), duration::format(most));
        return Err(Invalid::field(field, format!("`{text}` is out of range; {range}")));
    }
    Ok(Some(time))
}
