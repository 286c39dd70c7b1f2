//! A check and its verdict.

use serde::Serialize;

use crate::error::Error;

/// Verdict of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Outcome {
    Ok,
    /// It works, or may work, with a drawback that one should know.
    Warning,
    /// It does not work.
    Failed,
}

/// One check. The order of the fields is the one of the JSON form.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Check {
    /// A device or a guest; none for the host.
    pub(super) subject: Option<String>,
    pub(super) name: &'static str,
    pub(super) outcome: Outcome,
    pub(super) text: String,
    pub(super) hint: Option<String>,
}

impl Check {
    pub(super) fn new(name: &'static str, outcome: Outcome, text: impl Into<String>) -> Self {
        Self { subject: None, name, outcome, text: text.into(), hint: None }
    }

    pub(super) fn ok(name: &'static str, text: impl Into<String>) -> Self {
        Self::new(name, Outcome::Ok, text)
    }

    pub(super) fn warning(name: &'static str, text: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..Self::new(name, Outcome::Warning, text) }
    }

    pub(super) fn failed(name: &'static str, text: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..Self::new(name, Outcome::Failed, text) }
    }

    /// An error that a command would end with.
    pub(super) fn error(name: &'static str, error: &Error) -> Self {
        Self { hint: error.hint(), ..Self::new(name, Outcome::Failed, error.to_string()) }
    }

    /// A check that could not be made is a failed one.
    pub(super) fn of(name: &'static str, result: Result<Self, Error>) -> Self {
        result.unwrap_or_else(|error| Self::error(name, &error))
    }
}
