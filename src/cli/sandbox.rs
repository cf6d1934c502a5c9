//! `fs-isolator sandbox create`.
#![forbid(unsafe_code)]

use std::path::PathBuf;

use clap::{Args, Subcommand};
use schemars::JsonSchema;
use serde::Serialize;

use super::{show, user};
use crate::config::Config;
use crate::error::Result;
use crate::sandbox;
use crate::volume::Disks;

/// Verbs.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Make a sandbox that a container of filesystem/posix can have as its working directory
    Create(Create),
}

/// Arguments of `create`.
#[derive(Debug, Args)]
pub struct Create {
    /// The container's user, as USER[:GROUP]
    #[arg(long, value_parser = user::parse)]
    owner: user::Owner,
    /// Its name; without one, a new one is chosen
    name: Option<String>,
}

/// What was made.
#[derive(Serialize, JsonSchema)]
pub struct Created {
    /// Its path on the host.
    path: PathBuf,
    /// Its owner.
    uid: u32,
    /// Its group.
    gid: u32,
}

/// Runs a verb.
///
/// # Errors
/// [`crate::error::Cause::Sandbox`], [`crate::error::Cause::ConfigUnsafe`].
pub fn run(verb: &Verb, config: &Config, json: bool) -> Result<()> {
    let Verb::Create(arguments) = verb;
    let owner = arguments.owner;
    let work_dir = Disks::new(config).make_work_dir()?;
    let name = match &arguments.name {
        Some(name) => name.clone(),
        None => {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_nanos());
            format!("{}-{now:x}", owner.uid)
        }
    };
    let path = sandbox::create(&work_dir, &name, owner.uid, owner.gid)?;
    if json {
        show::json(&Created { path, uid: owner.uid, gid: owner.gid })
    } else {
        show::lines(&[path.display().to_string()])
    }
}
