//! TrafficPolicySpec to Settings.
