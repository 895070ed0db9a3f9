//! Contract: see docs/ARCHITECTURE.md.
