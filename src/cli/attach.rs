//! `fs-isolator attach`, `detach` and `update`: volumes on running containers.
#![forbid(unsafe_code)]

use std::path::PathBuf;

use clap::Args;

use super::show;
use crate::config::Config;
use crate::error::{Cause, Error, Result};
use crate::live;
use crate::live::find::{self, Running, Which};

/// Which container.
#[derive(Debug, Args)]
pub struct Container {
    /// Name the container by its init process instead
    #[arg(long, value_name = "PID")]
    pid: Option<i32>,
    /// Look for it here: the --root of its runtime [default: /run/runc and /run/crun]
    #[arg(long = "runtime-root", value_name = "DIR")]
    roots: Vec<PathBuf>,
}

impl Container {
    /// Finds it; without --pid the first word is its id.
    fn find<'w>(&self, words: &'w [String]) -> Result<(Running, &'w [String])> {
        let roots = if self.roots.is_empty() { find::default_roots() } else { self.roots.clone() };
        match (self.pid, words) {
            (Some(pid), words) => Ok((find::find(&Which::Pid(pid), &roots)?, words)),
            (None, [id, words @ ..]) => Ok((find::find(&Which::Id(id), &roots)?, words)),
            (None, []) => Err(Error::new(Cause::Usage, "no container is named")),
        }
    }
}

/// Arguments of `attach`.
#[derive(Debug, Args)]
pub struct Attach {
    #[command(flatten)]
    container: Container,
    /// The container's id or the beginning of it (not with --pid), and volumes as in an annotation:
    /// ID:CONTAINER_PATH[:OPTION...]
    #[arg(required = true, value_name = "CONTAINER VOLUME")]
    words: Vec<String>,
}

/// Arguments of `detach`.
#[derive(Debug, Args)]
pub struct Detach {
    #[command(flatten)]
    container: Container,
    /// Detach although it is in use: what uses it goes on with it, new processes do not see it, and the container holds the
    /// volume until its end
    #[arg(long)]
    lazy: bool,
    /// The container's id or the beginning of it (not with --pid), and the container path
    #[arg(required = true, value_name = "CONTAINER PATH")]
    words: Vec<String>,
}

/// Runs `attach`.
///
/// # Errors
/// Those of a start; [`Cause::ContainerUnknown`].
pub fn attach(arguments: &Attach, config: &Config, json: bool) -> Result<()> {
    let (running, volumes) = arguments.container.find(&arguments.words)?;
    if volumes.is_empty() {
        return Err(Error::new(Cause::Usage, "no volume is named"));
    }
    let new = live::attach(&running, &volumes.join(";"), config).map_err(|error| error.container(&running.id))?;
    if json {
        return show::json(&new);
    }
    let line = |attached: &crate::record::Attached| format!("attached {} at {}", attached.label, attached.target);
    show::lines(&new.iter().map(line).collect::<Vec<_>>())
}

/// Arguments of `update`.
#[derive(Debug, Args)]
pub struct Update {
    #[command(flatten)]
    container: Container,
    /// The container's id or the beginning of it (not with --pid), and all volumes that it is to have; without any it
    /// loses all
    #[arg(value_name = "CONTAINER VOLUME")]
    words: Vec<String>,
}

/// Runs `update`.
///
/// # Errors
/// Those of [`attach`] and [`detach`].
pub fn update(arguments: &Update, config: &Config, json: bool) -> Result<()> {
    let (running, volumes) = arguments.container.find(&arguments.words)?;
    let done = live::update(&running, &volumes.join(";"), config).map_err(|error| error.container(&running.id))?;
    if json {
        return show::json(&done);
    }
    let attached = done.attached.iter().map(|one| format!("attached {} at {}", one.label, one.target));
    let detached = done.detached.iter().map(|one| format!("detached {}", one.label));
    show::lines(&attached.chain(detached).collect::<Vec<_>>())
}

/// Runs `detach`.
///
/// # Errors
/// [`Cause::NotAttached`], [`Cause::PathInUse`], [`Cause::ContainerUnknown`].
pub fn detach(arguments: &Detach, config: &Config, json: bool) -> Result<()> {
    let (running, words) = arguments.container.find(&arguments.words)?;
    let [path] = words else { return Err(Error::new(Cause::Usage, "exactly one container path is named")) };
    let attached =
        live::detach(&running, path, arguments.lazy, config).map_err(|error| error.container(&running.id))?;
    if json { show::json(&attached) } else { show::lines(&[format!("detached {}", attached.label)]) }
}
