//! The harness of the suites: directories of manifests, `selvage up` as a process, and clients of every protocol.
//!
//! Everything happens on loopback or in namespaces of the tests, and everything that is started ends with the test.

pub mod client;
pub mod cluster;
pub mod directory;
pub mod grpc;
pub mod limit;
pub mod program;
pub mod running;
pub mod standalone;

pub use client::{Answer, Client};
pub use directory::Directory;
pub use running::Running;
