//! What a proxy is told: Resources, how policies attach to what they hold for, the file form and the wire.
//!
//! ```text
//! controller --Resources--> wire or file --> proxy
//! ```
//!
//! A Resource is the unit of rejection; a committed transaction of Resources is the unit of application.

pub mod attach;
pub mod file;
pub mod last_good;
pub mod ports;
pub mod resource;
pub mod wire;

pub use resource::keys;
pub use resource::{
    BackendSpec, CertificateSpec, Class, CoreKind, Endpoint, EndpointsSpec, InvalidResource, ListenerSpec, MeshSpec, Origin, Resource,
    RouteSpec, Spec, VersionKey,
};
