//! The accepting half: socket -> connection -> detect -> tls -> http session or opaque TCP.

pub mod closing;
