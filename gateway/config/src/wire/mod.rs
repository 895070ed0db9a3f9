//! The stream between controller and proxy.
