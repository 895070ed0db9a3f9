//! The words of an admission review (`admission.k8s.io/v1`), as far as webhooks of ours need them.

use crate::world::Fault;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};

const API_VERSION: &str = "admission.k8s.io/v1";
/// Characters of a warning; the API server cuts longer ones.
const LONGEST_WARNING: usize = 256;

/// What the API server asks.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Request {
    /// Goes back with the answer.
    pub uid: String,
    /// Of the object.
    pub kind: Kind,
    /// Absent, or empty: the object itself.
    #[serde(default)]
    pub sub_resource: Option<String>,
    /// Absent for what lives in none.
    #[serde(default)]
    pub namespace: Option<String>,
    /// What somebody wants to do.
    pub operation: Operation,
    /// As it would be; null where it is deleted.
    #[serde(default)]
    pub object: Value,
    /// As it is; null where it is created.
    #[serde(default)]
    pub old_object: Value,
}

/// The kind of an object.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Kind {
    /// Empty: the core group.
    #[serde(default)]
    pub group: String,
    /// The kind itself.
    pub kind: String,
}

/// What somebody wants to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Operation {
    /// Make it.
    Create,
    /// Change it.
    Update,
    /// Remove it.
    Delete,
    /// Open a connection to it.
    Connect,
}

/// What is answered.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    /// Empty: allowed.
    pub faults: Vec<Fault>,
    /// A JSON patch; empty: nothing is changed.
    pub patch: Vec<Value>,
    /// What the caller should know all the same.
    pub warnings: Vec<String>,
}

/// A body that is no review.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is not an AdmissionReview of {API_VERSION}: {0}")]
pub struct InvalidReview(String);

/// Reads a review's request.
pub fn parse(body: &[u8]) -> Result<Request, InvalidReview> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Review {
        api_version: String,
        kind: String,
        request: Option<Request>,
    }
    let mut json = serde_json::Deserializer::from_slice(body);
    let review: Review = serde_path_to_error::deserialize(&mut json).map_err(|error| InvalidReview(error.to_string()))?;
    if (review.api_version.as_str(), review.kind.as_str()) != (API_VERSION, "AdmissionReview") {
        return Err(InvalidReview(format!("it is {} of {}", review.kind, review.api_version)));
    }
    review.request.ok_or_else(|| InvalidReview("it has no request".into()))
}

impl Answer {
    /// It may pass as it is.
    pub fn allowed() -> Self {
        Self::default()
    }

    /// It may not.
    pub fn refused(faults: Vec<Fault>) -> Self {
        Self { faults, ..Self::default() }
    }

    /// The review that goes back.
    pub fn review(&self, uid: &str) -> Value {
        let mut response = json!({ "uid": uid, "allowed": self.faults.is_empty() });
        if !self.faults.is_empty() {
            let message = self.faults.iter().map(Fault::to_string).collect::<Vec<_>>().join("; ");
            response["status"] = json!({ "code": 422, "message": message });
        } else if !self.patch.is_empty() {
            response["patchType"] = json!("JSONPatch");
            response["patch"] = json!(STANDARD.encode(Value::Array(self.patch.clone()).to_string()));
        }
        if !self.warnings.is_empty() {
            let cut = |text: &String| text.chars().take(LONGEST_WARNING).collect::<String>();
            response["warnings"] = self.warnings.iter().map(cut).collect();
        }
        json!({ "apiVersion": API_VERSION, "kind": "AdmissionReview", "response": response })
    }
}
