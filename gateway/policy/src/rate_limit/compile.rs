//! RateLimitPolicySpec to Filter.
