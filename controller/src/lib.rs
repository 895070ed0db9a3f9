//! Placeholder.
pub mod ca;
pub mod publish;
/// Where the platform itself runs.
pub mod world {
    pub const PLATFORM_NAMESPACE: &str = "selvage-system";
}
