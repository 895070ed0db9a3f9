//! Which policies hold at a point: from attachments and a chain to guards and settings.

use selvage_policy::Target;
use selvage_policy::list::{Attached, GuardSet, PostureAt};
use selvage_policy::traffic::Settings;
use std::collections::HashMap;

/// Every compiled policy of a proxy, by the target it is attached to.
#[derive(Debug, Default)]
pub struct Attachments {
    /// By target.
    pub by_target: HashMap<Target, Vec<Attached>>,
}

impl Attachments {
    /// The guards that hold for `chain`, outermost first: `inheritance: Default` guards are left out where a more specific one of
    /// their kind is attached.
    pub fn guards(&self, chain: &[Target], posture: Option<PostureAt>) -> GuardSet {
        let _ = (chain, posture);
        unimplemented!("contract")
    }

    /// The traffic settings for `chain`: field by field the most specific wins, `Override` from outside first; on one target the older.
    /// Policies with a `when` come with their conditions, hence a list to be merged per Exchange where there is any.
    pub fn traffic(&self, chain: &[Target]) -> Settings {
        let _ = chain;
        unimplemented!("contract")
    }
}
