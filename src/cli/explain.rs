//! `fs-isolator explain [CODE|NAME]`.
#![forbid(unsafe_code)]

use clap::Args;
use schemars::JsonSchema;
use serde::Serialize;

use super::show;
use crate::doctor::Check;
use crate::error::{Cause, Error, Result};
use crate::nearest;

/// Arguments.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Exit code of a hook or of this command, or the name of a cause or of a check of the doctor; without one, all are
    /// listed
    #[arg(value_name = "CODE|NAME")]
    what: Option<String>,
}

#[derive(Serialize, JsonSchema)]
pub struct Explanation {
    /// `null` for a check of the doctor.
    code: Option<u8>,
    /// The name by which it is asked for.
    name: String,
    /// What has happened.
    meaning: &'static str,
    /// What to do.
    remedy: &'static str,
}

/// What is told.
#[derive(Serialize, JsonSchema)]
#[serde(untagged)]
pub enum Told<'a> {
    /// Every cause.
    All(&'a [Explanation]),
    /// What was asked for.
    One(&'a Explanation),
}

impl From<Cause> for Explanation {
    fn from(cause: Cause) -> Explanation {
        let (code, meaning, remedy) = (Some(cause.code()), cause.title(), cause.remedy());
        Explanation { code, name: name_of(cause), meaning, remedy }
    }
}

impl From<Check> for Explanation {
    fn from(check: Check) -> Explanation {
        Explanation { code: None, name: check.name().to_owned(), meaning: check.meaning(), remedy: check.remedy() }
    }
}

/// The name of a cause as people write it: volume-in-use.
fn name_of(cause: Cause) -> String {
    let mut name = String::new();
    for letter in cause.name().chars() {
        if letter.is_uppercase() && !name.is_empty() {
            name.push('-');
        }
        name.extend(letter.to_lowercase());
    }
    name
}

/// Runs the verb.
///
/// # Errors
/// [`Cause::Usage`] for what nothing is called.
pub fn run(arguments: &Arguments, json: bool) -> Result<()> {
    let causes = Cause::ALL.iter().map(|cause| Explanation::from(*cause));
    let Some(what) = &arguments.what else {
        let all: Vec<Explanation> = causes.collect();
        if json {
            return show::json(&Told::All(&all));
        }
        let code = |one: &Explanation| one.code.map(|code| code.to_string()).unwrap_or_default();
        let rows: Vec<[String; 3]> =
            all.iter().map(|one| [code(one), one.name.clone(), one.meaning.to_owned()]).collect();
        return show::table(["CODE", "NAME", "MEANING"], &rows);
    };
    let all: Vec<Explanation> = causes.chain(Check::ALL.iter().map(|check| Explanation::from(*check))).collect();
    let is_it = |one: &&Explanation| one.name == *what || one.code.is_some_and(|code| code.to_string() == *what);
    let explanation = all.iter().find(is_it).ok_or_else(|| {
        let error = |what: String| Error::new(Cause::Usage, what);
        match what.parse::<u32>() {
            Ok(code) => error(format!("no cause has the exit code {code}")).remedy(
                "`fs-isolator explain` lists all; 126 and above come from a shell, a signal or the container engine",
            ),
            Err(_) => error(format!("no cause and no check is called {what:?}")).remedy(format!(
                "{}`fs-isolator explain` lists the causes, and docs/doctor.md the checks",
                nearest::question(what, all.iter().map(|one| one.name.as_str()))
            )),
        }
    })?;
    if json {
        return show::json(&Told::One(explanation));
    }
    let title = match explanation.code {
        Some(code) => format!("{code} ({}): {}", explanation.name, explanation.meaning),
        None => format!("{}: {}", explanation.name, explanation.meaning),
    };
    let mut lines = vec![title, String::new(), format!("What to do: {}.", explanation.remedy)];
    if explanation.code.is_some() {
        lines.extend(
            [
                "",
                "The line that names the container and the volume is on the hook's standard error (runc shows it, crun",
                "discards it) and in the container's log: fs-isolator logs CONTAINER.",
            ]
            .map(str::to_owned),
        );
    }
    show::lines(&lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_check_is_called_like_a_cause() {
        for cause in Cause::ALL {
            assert!(!Check::ALL.iter().any(|check| check.name() == name_of(*cause)), "{}", name_of(*cause));
        }
        assert_eq!(name_of(Cause::VolumeInUse), "volume-in-use");
    }
}
