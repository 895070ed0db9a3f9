//! AuthorizationPolicySpec to Filter.
