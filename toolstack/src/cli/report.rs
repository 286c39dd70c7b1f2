//! What a command that changes something answers with `--json` (docs/schema/result.json): one object, whatever became of it.

use std::time::Duration;

use serde::Serialize;

use crate::cli::print::print;
use crate::error::Error;
use crate::ops::plan::Plan;
use crate::ops::replace::Started;

/// Version of the JSON form; grows when a field changes its meaning or goes away.
const JSON_VERSION: u32 = 1;

/// The answer of one command. The order of the fields is the one of the JSON form.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    version: u32,
    /// The command's words: `assignable add`.
    command: &'static str,
    outcome: Outcome,
    /// What went wrong, by a word that stays the same (`crate::manual::ERROR_CODES`).
    code: Option<&'static str>,
    exit_code: u8,
    error: Option<String>,
    hint: Option<String>,
    /// With `--dry-run`, what would be done.
    steps: Vec<String>,
    notes: Vec<String>,
    /// Of `restart` and `upgrade`.
    started: Option<StartedEntry>,
    #[serde(skip)]
    is_wanted: bool,
}

/// An image that was started again.
#[derive(Clone, Debug, Serialize)]
struct StartedEntry {
    stub: u16,
    release: String,
    before: String,
    took_ns: u64,
    took_inside_ns: u64,
    frontends: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Outcome {
    Done,
    Planned,
    Failed,
}

impl Report {
    /// For a command that may be asked for it.
    pub(crate) fn new(command: &'static str, is_wanted: bool) -> Self {
        Self {
            version: JSON_VERSION,
            command,
            outcome: Outcome::Done,
            code: None,
            exit_code: 0,
            error: None,
            hint: None,
            steps: Vec::new(),
            notes: Vec::new(),
            started: None,
            is_wanted,
        }
    }

    /// What a command would do: printed, or kept for the end.
    pub(crate) fn plan(&mut self, plan: &Plan) -> Result<(), Error> {
        self.lines(plan.steps.iter().map(ToString::to_string).collect(), || plan.to_string())
    }

    /// As [`Report::plan`] for what is no plan.
    pub(crate) fn lines(&mut self, steps: Vec<String>, text: impl FnOnce() -> String) -> Result<(), Error> {
        self.outcome = Outcome::Planned;
        self.steps.extend(steps);
        if self.is_wanted { Ok(()) } else { print(&text()) }
    }

    /// What became of a stub whose image was started again: printed, or kept for the end.
    pub(crate) fn started(&mut self, started: &Started) -> Result<(), Error> {
        let Started { stub, release, before, took, took_inside, frontends } = started;
        if !self.is_wanted {
            return print(&started.to_string());
        }
        let nanoseconds = |time: &Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.started = Some(StartedEntry {
            stub: stub.id.0,
            release: release.clone(),
            before: before.clone(),
            took_ns: nanoseconds(took),
            took_inside_ns: nanoseconds(took_inside),
            frontends: *frontends,
        });
        Ok(())
    }

    /// The JSON form, where it is wanted.
    pub(crate) fn finish(mut self, done: &Result<(), Error>, notes: Vec<String>) -> Option<String> {
        if let Err(error) = done {
            self.outcome = Outcome::Failed;
            self.code = Some(error.code());
            self.exit_code = error.cause() as u8;
            self.error = Some(error.to_string());
            self.hint = error.hint();
        }
        self.notes = notes;
        // Strings, numbers and nothing that could fail.
        self.is_wanted.then(|| serde_json::to_string_pretty(&self).unwrap_or_default())
    }
}
