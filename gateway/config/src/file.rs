//! The file form: Resources as YAML or JSON, secrets in a second file beside it.
