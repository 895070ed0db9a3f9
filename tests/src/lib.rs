//! The harness of the suites: directories of manifests, `selvage up` as a process, and clients of every protocol.
//!
//! Everything happens on loopback, and everything that is started ends with the test.

pub mod client;
pub mod directory;
pub mod grpc;
pub mod program;
pub mod running;
pub mod standalone;

pub use client::{Answer, Client};
pub use directory::Directory;
pub use running::Running;
