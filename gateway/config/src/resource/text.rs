//! Small texts with rules of their own: host patterns and path matches.

use serde::{Deserialize, Serialize};
use std::fmt;

/// A host name to match: exact (`shop.example.com`), or a wildcard of the first labels (`*.example.com`), lower-case. Source: Gateway API `Hostname`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostPattern(String);

/// A text that is no [`HostPattern`].
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not a host name: use lower-case labels of letters, digits and `-`, optionally led by `*.`")]
pub struct InvalidHost(String);

impl HostPattern {
    /// The pattern as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The suffix that a wildcard matches (`.example.com` of `*.example.com`).
    pub fn suffix(&self) -> Option<&str> {
        self.0.strip_prefix('*')
    }

    /// Whether `host` (lower-case, no port) is meant. A wildcard matches one label or more, never the bare suffix.
    pub fn matches(&self, host: &str) -> bool {
        match self.suffix() {
            Some(suffix) => host.len() > suffix.len() && host.ends_with(suffix),
            None => host == self.0,
        }
    }

    /// The more specific of the two where they overlap: what a listener's and a route's host names have in common.
    pub fn intersection(&self, other: &Self) -> Option<Self> {
        match (self.suffix(), other.suffix()) {
            (_, None) if self.matches(&other.0) => Some(other.clone()),
            (None, _) if other.matches(&self.0) => Some(self.clone()),
            (Some(a), Some(b)) if a.ends_with(b) => Some(self.clone()),
            (Some(a), Some(b)) if b.ends_with(a) => Some(other.clone()),
            _ => None,
        }
    }
}

impl TryFrom<String> for HostPattern {
    type Error = InvalidHost;

    fn try_from(text: String) -> Result<Self, InvalidHost> {
        let rest = text.strip_prefix("*.").unwrap_or(&text);
        let label = |l: &str| {
            (1..=63).contains(&l.len())
                && !l.starts_with('-')
                && !l.ends_with('-')
                && l.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        };
        if rest.len() <= 253 && rest.split('.').all(label) { Ok(Self(text)) } else { Err(InvalidHost(text)) }
    }
}

impl From<HostPattern> for String {
    fn from(host: HostPattern) -> Self {
        host.0
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A regular expression over a whole value, linear in time (RE2 syntax), at most 1 KiB.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Pattern(regex::Regex, String);

/// A text that is no [`Pattern`].
#[derive(Debug, thiserror::Error)]
pub enum InvalidPattern {
    /// Too long.
    #[error("the regular expression has {0} bytes; at most 1024 are allowed")]
    TooLong(usize),
    /// Not an expression.
    #[error("`{0}` is not a regular expression: {1}")]
    Syntax(String, String),
}

impl Pattern {
    /// The expression as somebody wrote it.
    pub fn as_str(&self) -> &str {
        &self.1
    }

    /// Whether the whole of `text` matches.
    pub fn matches(&self, text: &str) -> bool {
        self.0.is_match(text)
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.1 == other.1
    }
}

impl TryFrom<String> for Pattern {
    type Error = InvalidPattern;

    fn try_from(text: String) -> Result<Self, InvalidPattern> {
        if text.len() > 1024 {
            return Err(InvalidPattern::TooLong(text.len()));
        }
        let syntax = |error: regex::Error| InvalidPattern::Syntax(text.clone(), error.to_string());
        // Compiled alone first: `a)(b` must not become valid inside the group that anchors it.
        regex::RegexBuilder::new(&text).size_limit(1 << 20).build().map_err(syntax)?;
        let whole = regex::RegexBuilder::new(&format!(r"\A(?:{text})\z")).size_limit(1 << 20).build().map_err(syntax)?;
        Ok(Self(whole, text))
    }
}

impl From<Pattern> for String {
    fn from(pattern: Pattern) -> Self {
        pattern.1
    }
}
