//! RateLimitPolicySpec to Filter.

use super::buckets::Rate;
use super::filter::{Filter, KeySource, LimitFilter};
use super::spec::{Limit, RateLimitPolicySpec};
use crate::duration;
use crate::expression::Expression;
use crate::list::Invalid;
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// Most requests and the largest burst, as in the CRD.
const MAX_REQUESTS: u32 = 1_000_000_000;

impl RateLimitPolicySpec {
    /// Compiles the limits; the envelope is checked by the caller.
    pub(crate) fn filter(&self) -> Result<Filter, Invalid> {
        Invalid::between("spec.limits", self.limits.len(), 1, 16)?;
        let mut names = BTreeSet::new();
        let mut limits = Vec::with_capacity(self.limits.len());
        let mut hash = Sha256::new();
        for (index, spec) in self.limits.iter().enumerate() {
            let field = format!("spec.limits[{index}]");
            if !names.insert(&spec.name) {
                return Err(Invalid::field(
                    format!("{field}.name"),
                    format!("`{}` names an earlier limit too; limit names are unique in a policy", spec.name),
                ));
            }
            let limit = compile_limit(spec, &field)?;
            hash.update(format!("{:?}\0{:?}\0{:?}\0{:?}\n", spec.name, spec.key, spec.by, limit.rate));
            limits.push(limit);
        }
        hash.update(format!("{:?}", self.scope));
        let fingerprint = hash.finalize().first_chunk::<8>().map_or(0, |bytes| u64::from_be_bytes(*bytes));
        Ok(Filter { limits, hidden: self.hide_details, fingerprint })
    }
}

fn compile_limit(spec: &Limit, field: &str) -> Result<LimitFilter, Invalid> {
    Invalid::name(&format!("{field}.name"), &spec.name)?;
    Invalid::at_most(&format!("{field}.by"), spec.by.len(), 4)?;
    let key = match &spec.key {
        Some(_) if !spec.by.is_empty() => {
            return Err(Invalid::field(format!("{field}.key"), "give `key` or `by`, not both"));
        }
        Some(text) => KeySource::Expression(Expression::compile(text).map_err(|problem| Invalid::field(format!("{field}.key"), problem))?),
        None if spec.by.is_empty() => KeySource::One,
        None => KeySource::Parts(spec.by.clone()),
    };
    let count = |name: &str, number: u32| {
        let ok = (1..=MAX_REQUESTS).contains(&number);
        if ok {
            Ok(number)
        } else {
            Err(Invalid::field(format!("{field}.{name}"), format!("{number} is out of range; write 1 to {MAX_REQUESTS}")))
        }
    };
    let requests = count("requests", spec.requests)?;
    let burst = spec.burst.map_or(Ok(requests), |burst| count("burst", burst))?;
    let per = duration::parse(&spec.per).map_err(|error| Invalid::field(format!("{field}.per"), error.to_string()))?;
    if !(Duration::from_secs(1)..=Duration::from_secs(24 * 3600)).contains(&per) {
        return Err(Invalid::field(format!("{field}.per"), format!("`{}` is out of range; write 1s to 24h", spec.per)));
    }
    Ok(LimitFilter { name: Arc::from(spec.name.as_str()), key, rate: Rate { requests, per, burst } })
}
