//! `fs-isolator logs CONTAINER`: what a container's hooks had to say, and what prestart took. crun discards what hooks
//! write, so that this is often the only place.
#![forbid(unsafe_code)]

use std::os::fd::OwnedFd;

use clap::Args;
use nix::fcntl::OFlag;
use schemars::JsonSchema;
use serde::Serialize;

use super::show;
use crate::config::Config;
use crate::error::{Because, Cause, Error, Result};
use crate::runtime_dir::RuntimeDir;
use crate::sys::{self, Resolve};
use crate::trusted::{self, Missing};
use crate::{nearest, read, record, steps, tree};

/// Largest log that is printed, in bytes: hooks begin anew long before.
const LARGEST: u64 = 1 << 20;

/// Arguments.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The container's id, or the beginning of it; without one, all that have a log are listed
    container: Option<String>,
}

/// What is told.
#[derive(Serialize, JsonSchema)]
#[serde(untagged)]
pub enum Told<'a> {
    /// Without a container: the ids of those that have a log.
    Ids(Vec<&'a str>),
    /// Of a container.
    Log {
        /// Its id.
        container: &'a str,
        /// The lines of its log.
        lines: Vec<&'a str>,
        /// What the steps of its prestart took; none once it is gone.
        prestart: Vec<Step<'a>>,
    },
}

/// A step of prestart.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Step<'a> {
    step: &'a str,
    microseconds: u64,
}

impl<'a> From<&'a steps::Step> for Step<'a> {
    fn from(step: &'a steps::Step) -> Step<'a> {
        Step { step: &step.0, microseconds: step.1 }
    }
}

/// Prints steps by name.
pub fn as_steps<S: serde::Serializer>(steps: &[steps::Step], serializer: S) -> std::result::Result<S::Ok, S::Error> {
    serializer.collect_seq(steps.iter().map(Step::from))
}

/// Runs the verb.
///
/// # Errors
/// [`Cause::ContainerUnknown`] where no container has a log whose id begins so, or several do; [`Cause::RuntimeDir`].
pub fn run(arguments: &Arguments, config: &Config, json: bool) -> Result<()> {
    let doing = || "logs cannot be read".to_owned();
    let runtime = RuntimeDir::open_existing(&config.runtime_dir)?;
    let log = open(config)?;
    let names = match &log {
        None => Vec::new(),
        Some(log) => tree::names(log).because(Cause::RuntimeDir, doing)?,
    };
    let mut names: Vec<String> = names.into_iter().filter_map(|name| name.into_string().ok()).collect();
    let Some(wanted) = &arguments.container else {
        let ids: Vec<&str> = names.iter().map(|name| id_of(name)).collect();
        return if json { show::json(&Told::Ids(ids)) } else { show::lines(&ids) };
    };
    // Most have no log, and what their prestart took all the same.
    if let Some(runtime) = &runtime {
        let recorded = tree::names(&runtime.records).because(Cause::RuntimeDir, doing)?;
        names.extend(recorded.into_iter().filter_map(|name| name.into_string().ok()));
        names.sort();
        names.dedup();
    }
    let name = choose(wanted, &names)?;
    let text = log.map_or(Ok(String::new()), |log| text_of(&log, name))?;
    let lines: Vec<&str> = text.lines().collect();
    let record = runtime.map_or(Ok(None), |runtime| record::look(&runtime.records, name))?;
    let steps = record.as_ref().map_or(&[][..], |(_, lines)| record::steps_of(lines));
    if json {
        let prestart = steps.iter().map(Step::from).collect();
        return show::json(&Told::Log { container: id_of(name), lines, prestart });
    }
    let took = (!steps.is_empty()).then(|| format!("prestart took {}", steps::describe(steps)));
    show::lines(&lines.into_iter().chain(took.as_deref()).collect::<Vec<_>>())
}

/// The directory of logs, if there is one: a host on which every container was refused has no records.
fn open(config: &Config) -> Result<Option<OwnedFd>> {
    let Some(root) = trusted::open_dir(&config.runtime_dir, Missing::Tell)? else { return Ok(None) };
    sys::if_there(sys::open_dir(&root, "log".as_ref(), Resolve::BeneathNoLinks))
        .because(Cause::RuntimeDir, || "logs cannot be read".to_owned())
}

/// A container's log; nothing where it has none.
fn text_of(log: &OwnedFd, name: &str) -> Result<String> {
    let doing = || "logs cannot be read".to_owned();
    let file = sys::if_there(sys::open_file_at(log, name, OFlag::O_RDONLY, 0)).because(Cause::RuntimeDir, doing)?;
    let text = file.map_or(Ok(Vec::new()), |file| read::at_most(file.into(), LARGEST));
    Ok(String::from_utf8_lossy(&text.because(Cause::RuntimeDir, doing)?).into_owned())
}

/// The lines of the log of this name.
///
/// # Errors
/// [`Cause::RuntimeDir`].
pub fn of(name: &str, config: &Config) -> Result<Vec<String>> {
    let text = open(config)?.map_or(Ok(String::new()), |log| text_of(&log, name))?;
    Ok(text.lines().map(str::to_owned).collect())
}

/// The container's id in the name of a log, see [`crate::record::name`].
fn id_of(name: &str) -> &str {
    name.rsplit_once('.').map_or(name, |(id, _)| id)
}

/// The log that is meant: the whole id beats what begins with it.
fn choose<'n>(wanted: &str, names: &'n [String]) -> Result<&'n str> {
    let unknown = |what: String| Error::new(Cause::ContainerUnknown, what);
    let mut found: Vec<&str> =
        names.iter().map(String::as_str).filter(|name| id_of(name).starts_with(wanted)).collect();
    if found.iter().any(|name| id_of(name) == wanted) {
        found.retain(|name| id_of(name) == wanted);
    }
    match found[..] {
        [name] => Ok(name),
        [] => Err(unknown(format!("no hook of a container {wanted:?} has written anything")).remedy(format!(
            "{}`fs-isolator logs` lists those that have a log; most containers never had anything to say",
            nearest::question(wanted, names.iter().map(|name| id_of(name)))
        ))),
        _ => {
            let ids: Vec<&str> = found.into_iter().map(id_of).collect();
            Err(unknown(format!("{wanted:?} could be {}", ids.join(" or "))).remedy("write more of the id"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_beats_what_begins_with_it() {
        let names = ["web.0123456789ab", "web2.0123456789ab", "db.1.0123456789ab"].map(str::to_owned);
        assert_eq!(choose("web", &names).unwrap(), "web.0123456789ab");
        assert_eq!(choose("db", &names).unwrap(), "db.1.0123456789ab");
        for wanted in ["w", "", "x", "web.0123456789ab"] {
            assert_eq!(choose(wanted, &names).unwrap_err().cause(), Cause::ContainerUnknown, "{wanted:?}");
        }
    }
}
