//! `fs-isolator convert marathon|mesos`: what ran on Mesos, for podman, a Quadlet or Kubernetes.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::Read as _;
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Map, Value};

use super::show;
use crate::config::Config;
use crate::convert::fields::Leftovers;
use crate::convert::{self, Converted, Known, Place, Target, Workload, marathon, mesos};
use crate::error::{Because, Cause, Error, Result};
use crate::mesos::checkpoint;
use crate::request::names::Role;
use crate::trusted::Missing;
use crate::volume::{self, Disks};

/// Verbs.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// An app or pod of Marathon, an array or a group of them
    Marathon(Arguments),
    /// A task of Mesos (TaskInfo), or a group of tasks
    Mesos(Arguments),
}

/// What to write.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum To {
    /// Commands of podman
    Podman,
    /// Quadlet files, for systemd
    Quadlet,
    /// A manifest for Kubernetes
    Pod,
}

/// Arguments.
#[derive(Debug, Args)]
pub struct Arguments {
    /// File with the definition in JSON; - is standard input
    file: PathBuf,
    /// What to write
    #[arg(long, value_enum, default_value = "podman")]
    to: To,
    /// The id of a volume, by its container path (in a pod of Marathon, by its name)
    #[arg(long = "volume-id", value_name = "PATH=ID", value_parser = volume_id)]
    ids: Vec<(String, String)>,
    /// The role of volumes, where that cannot be told
    #[arg(long, value_parser = role)]
    role: Option<Role>,
    /// An image in place of the definition's
    #[arg(long)]
    image: Option<String>,
}

fn volume_id(text: &str) -> std::result::Result<(String, String), String> {
    let pair = text.split_once('=').ok_or("write PATH=ID")?;
    Ok((pair.0.to_owned(), pair.1.to_owned()))
}

fn role(text: &str) -> std::result::Result<Role, String> {
    Role::parse(text).map_err(|error| error.what().to_owned())
}

/// Larger files are no definitions.
const LARGEST: u64 = 16 << 20;

/// Runs a verb.
///
/// # Errors
/// [`Cause::Convert`]; [`Cause::MesosCheckpoint`].
pub fn run(verb: &Verb, config: &Config, json: bool) -> Result<()> {
    type Split = fn(Value) -> Result<Vec<Map<String, Value>>>;
    type Read = fn(Map<String, Value>, &Known, &Leftovers) -> Result<Workload>;
    let (arguments, definitions, read): (&Arguments, Split, Read) = match verb {
        Verb::Marathon(arguments) => (arguments, marathon::definitions, marathon::read),
        Verb::Mesos(arguments) => (arguments, mesos::definitions, mesos::read),
    };
    let known = known(arguments, config)?;
    let target = match arguments.to {
        To::Podman => Target::Podman,
        To::Quadlet => Target::Quadlet,
        To::Pod => Target::Pod,
    };
    let mut all = Vec::new();
    for definition in definitions(definition(arguments)?)? {
        let left = Leftovers::default();
        let workload = read(definition, &known, &left)?;
        all.push(convert::write(&workload, target, &known, left)?);
    }
    if json { show::json(&all) } else { print(&all, target) }
}

fn definition(arguments: &Arguments) -> Result<Value> {
    let shown = arguments.file.display();
    let doing = || format!("{shown}");
    let mut text = Vec::new();
    let mut source: Box<dyn std::io::Read> = if arguments.file.as_os_str() == "-" {
        Box::new(std::io::stdin().lock())
    } else {
        Box::new(File::open(&arguments.file).because(Cause::Convert, doing)?)
    };
    source.by_ref().take(LARGEST + 1).read_to_end(&mut text).because(Cause::Convert, doing)?;
    if text.len() as u64 > LARGEST {
        return Err(Error::new(Cause::Convert, format!("{shown} is larger than 16 MiB")));
    }
    serde_json::from_slice(&text).map_err(|error| Error::new(Cause::Convert, format!("{shown}: {error}")))
}

/// The volumes of this host: of the agent's checkpoint, and those that lie on the disks. Elsewhere there are none.
fn known(arguments: &Arguments, config: &Config) -> Result<Known> {
    let disks = config.disks.iter().map(|disk| (disk.root.display().to_string(), disk.name.clone())).collect();
    let mut known = Known {
        volumes: Vec::new(),
        ids: arguments.ids.clone(),
        role: arguments.role.clone(),
        image: arguments.image.clone(),
        sandbox_directory: config.sandbox_directory.to_string(),
        disks,
    };
    let opened = Disks::new(config);
    if let Some(work_dir) = opened.work_dir(Missing::Tell)?
        && let Some(checkpoint) = checkpoint::read(work_dir.fd())?
    {
        for volume in &checkpoint.volumes {
            known.volumes.extend(known.place(volume));
        }
    }
    for found in volume::list(&opened)?.0 {
        let disk = Some(found.disk.name().to_owned()).filter(|name| name != crate::config::disks::ROOT);
        let place = Place { role: Some(found.role), id: found.id, disk };
        if !known.volumes.contains(&place) {
            known.volumes.push(place);
        }
    }
    Ok(known)
}

fn print(all: &[Converted], target: Target) -> Result<()> {
    let count: usize = all.iter().map(|converted| converted.units.len()).sum();
    for (index, unit) in all.iter().flat_map(|converted| &converted.units).enumerate() {
        let mut lines = Vec::new();
        // Several manifests are one stream of YAML; several commands one script; several units are files.
        match target {
            Target::Pod if index > 0 => lines.push("---".to_owned()),
            Target::Quadlet if count > 1 => lines.push(format!("# ---- {}", unit.name)),
            _ => {}
        }
        lines.push(unit.content.trim_end_matches('\n').to_owned());
        show::lines(&lines)?;
    }
    for converted in all {
        for need in &converted.needs {
            eprintln!("fs-isolator: needed: {}", show::plain(need));
        }
        for left in &converted.left {
            eprintln!("fs-isolator: not carried over: {}", show::plain(&left.to_string()));
        }
    }
    Ok(())
}
