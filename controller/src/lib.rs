//! The controller: from Kubernetes objects, or files of them, to what proxies are told.
//!
//! ```text
//! files or watches --> world --translate--> Resources, views, statuses --publish--> proxies
//! ```

pub mod admission;
pub mod ca;
pub mod cluster;
pub mod containers;
pub mod crds;
pub mod gateway_api;
pub mod inject;
pub mod provision;
pub mod publish;
pub mod run;
pub mod serve;
pub mod settings;
pub mod status;
pub mod translate;
pub mod webhook;
pub mod world;
