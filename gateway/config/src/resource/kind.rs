//! The kinds of Resources that give a proxy its structure, beside the policy kinds of `selvage_policy::list`.

use std::fmt;

/// A kind of Resource that is no policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CoreKind {
    /// What holds for the whole platform.
    Mesh,
    /// A place to accept connections.
    Listener,
    /// Where requests go.
    Route,
    /// A Service port.
    Backend,
    /// Addresses that serve a Backend.
    Endpoints,
    /// A certificate chain with its private key.
    Certificate,
}

/// The revision of every kind's schema that this release reads and writes. It is raised when a reader of the old one would
/// misunderstand the new one. There is one so far, and a controller sends it to everybody.
pub const SCHEMA_REVISION: u32 = 1;

impl CoreKind {
    /// Every core kind.
    pub const ALL: [Self; 6] = [Self::Mesh, Self::Listener, Self::Route, Self::Backend, Self::Endpoints, Self::Certificate];

    /// The word in a Key.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Mesh => "Mesh",
            Self::Listener => "Listener",
            Self::Route => "Route",
            Self::Backend => "Backend",
            Self::Endpoints => "Endpoints",
            Self::Certificate => "Certificate",
        }
    }

    /// The core kind of that name.
    pub fn of(kind: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.as_str() == kind)
    }
}

impl fmt::Display for CoreKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Whether Resources of this kind hold secrets: they go to the secrets file, to memory-backed storage, never to `/config`, and are never
/// an answer to `Want`. `Secret` is no kind yet; it is listed so that no reader that meets one later treats it as harmless.
pub fn holds_secrets(kind: &str) -> bool {
    matches!(kind, "Certificate" | "Secret")
}

/// Every kind this release understands.
pub fn known_kinds() -> impl Iterator<Item = &'static str> {
    CoreKind::ALL.into_iter().map(CoreKind::as_str).chain(selvage_policy::list::Kind::ALL.into_iter().map(|kind| kind.as_str()))
}
