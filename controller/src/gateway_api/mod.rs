//! Gateway API v1.7.0 (experimental channel): types made by kopium and the schemas of the CRDs, both written by `controller/gen-gateway-api.sh`.
//!
//! Only this file is written by hand.

// Generated code keeps the documentation where it is maintained: in Gateway API.
#![allow(missing_docs, clippy::all)]

pub mod gatewayclasses;
pub mod gateways;
pub mod grpcroutes;
pub mod httproutes;
pub mod listenersets;
pub mod referencegrants;
pub mod tcproutes;
pub mod tlsroutes;

pub use gatewayclasses::GatewayClassSpec;
pub use gateways::GatewaySpec;
pub use grpcroutes::GrpcRouteSpec;
pub use httproutes::HttpRouteSpec;
pub use listenersets::ListenerSetSpec;
pub use referencegrants::ReferenceGrantSpec;
pub use tcproutes::TcpRouteSpec;
pub use tlsroutes::TlsRouteSpec;
