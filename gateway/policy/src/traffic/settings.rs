//! The merged result: what holds for one attempt.

use std::time::Duration;

/// Settings; absent fields are not set at this level.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings {
    /// All tries together; zero: none.
    pub request_timeout: Option<Duration>,
    /// One try, until response headers; zero: none.
    pub backend_timeout: Option<Duration>,
    /// Making a connection.
    pub connect_timeout: Option<Duration>,
    /// Retries after the first try.
    pub attempts: Option<u32>,
    /// Response codes that are tried again.
    pub codes: Option<Vec<u16>>,
    /// Least wait before a retry.
    pub backoff: Option<Duration>,
    /// Which methods.
    pub methods: Option<RetryOn>,
    /// Retries in all.
    pub budget: Option<Budget>,
}

/// Which methods may be tried again after something was sent.
pub type RetryOn = super::spec::RetryMethods;

/// Retries as a share of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Per cent of requests.
    pub percent: u32,
    /// Retries a second that are always allowed.
    pub min_per_second: u32,
}
