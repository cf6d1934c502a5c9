//! `fs-isolator explain [CODE]`.
#![forbid(unsafe_code)]

use clap::Args;
use serde::Serialize;

use super::show;
use crate::error::{Cause, Error, Result};

/// Arguments.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Exit code of a hook or of this command; without one, all are listed
    code: Option<u8>,
}

#[derive(Serialize)]
struct Explanation {
    code: u8,
    meaning: &'static str,
    remedy: &'static str,
}

impl From<Cause> for Explanation {
    fn from(cause: Cause) -> Explanation {
        Explanation { code: cause.code(), meaning: cause.title(), remedy: cause.remedy() }
    }
}

/// Runs the verb.
///
/// # Errors
/// [`Cause::Usage`] for a code that no cause has.
pub fn run(arguments: &Arguments, json: bool) -> Result<()> {
    let Some(code) = arguments.code else {
        let all: Vec<Explanation> = Cause::ALL.iter().map(|cause| Explanation::from(*cause)).collect();
        if json {
            return show::json(&all);
        }
        let rows: Vec<[String; 2]> = all.iter().map(|e| [e.code.to_string(), e.meaning.to_owned()]).collect();
        return show::table(["CODE", "MEANING"], &rows);
    };
    let cause = Cause::of(code).ok_or_else(|| {
        Error::new(Cause::Usage, format!("no cause has the exit code {code}")).remedy(
            "`fs-isolator explain` lists all; 126 and above come from a shell, a signal or the container engine",
        )
    })?;
    let explanation = Explanation::from(cause);
    if json {
        return show::json(&explanation);
    }
    show::lines(&[
        format!("{code}: {}", explanation.meaning),
        String::new(),
        format!("What to do: {}.", explanation.remedy),
        String::new(),
        "The line that names the container and the volume is on the hook's standard error (runc shows it, crun"
            .to_owned(),
        "discards it) and in the container's log: fs-isolator logs CONTAINER.".to_owned(),
    ])
}
