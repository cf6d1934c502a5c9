//! `fs-isolator inspect CONTAINER|VOLUME`: everything that is known about one.
#![forbid(unsafe_code)]

use clap::Args;
use serde::Serialize;

use super::{identity, logs, show, status, volume};
use crate::config::Config;
use crate::error::{Cause, Error, Result};
use crate::live::look::{Difference, differences};
use crate::runtime_dir::{Open, RuntimeDir};
use crate::steps::{self, Step};
use crate::{nearest, record};

/// Lines of a log that are shown.
const TAIL: usize = 10;

/// Arguments.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The volume's role; without one, the default of whoever asks
    #[arg(long)]
    role: Option<String>,
    /// The disk the volume lies on
    #[arg(long)]
    disk: Option<String>,
    /// Count what volumes take on disk, which takes as long as they have files
    #[arg(long)]
    usage: bool,
    #[command(flatten)]
    identity: identity::Arguments,
    /// A container's id or the beginning of it, or a volume's id: whatever has it is shown
    #[arg(value_name = "CONTAINER|VOLUME")]
    name: String,
}

/// What was found.
#[derive(Debug, Serialize, schemars::JsonSchema)]
pub struct Inspected {
    /// Containers whose id begins so.
    containers: Vec<Container>,
    /// The volume of that id.
    volume: Option<volume::Shown>,
}

/// A container, with what it really has.
#[derive(Debug, Serialize, schemars::JsonSchema)]
pub struct Container {
    #[serde(flatten)]
    status: status::Shown,
    /// The file of its record, below `runtime_dir/records`; `null` where only a lease tells of it.
    record: Option<String>,
    /// Where what it has is not what was recorded.
    differences: Vec<Difference>,
    /// What the steps of its prestart took; none where only a lease tells of it.
    #[serde(rename = "prestart", serialize_with = "logs::as_steps")]
    #[schemars(with = "Vec<logs::Step<'_>>")]
    steps: Vec<Step>,
    /// The end of its log.
    log: Vec<String>,
}

/// Runs the verb.
///
/// # Errors
/// [`Cause::ContainerUnknown`] where nothing has that name which whoever asks may see; [`Cause::RuntimeDir`].
pub fn run(arguments: &Arguments, config: &Config, json: bool) -> Result<()> {
    let mut containers = Vec::new();
    let identity = arguments.identity.identity();
    let mine = |shown: &status::Shown| !arguments.identity.is_namespace() || shown.identity == identity;
    let all: Vec<status::Shown> = status::all(config)?.into_iter().filter(mine).collect();
    let ids: Vec<String> = all.iter().map(|shown| shown.container.clone()).collect();
    // With a role or disk it is a volume; the whole id beats what begins with it.
    if arguments.role.is_none() && arguments.disk.is_none() {
        let whole = ids.contains(&arguments.name);
        let is_it = |shown: &status::Shown| match whole {
            true => shown.container == arguments.name,
            false => !arguments.name.is_empty() && shown.container.starts_with(&arguments.name),
        };
        let mut all: Vec<status::Shown> = all.into_iter().filter(is_it).collect();
        status::add_usage(all.iter_mut(), arguments.usage, config);
        for shown in all {
            containers.push(Container::of(shown, config)?);
        }
    }
    let named = volume::Named::new(
        arguments.name.clone(),
        arguments.role.clone(),
        arguments.disk.clone(),
        arguments.identity.clone(),
    );
    let volume = match volume::show(&named, arguments.usage, config) {
        Ok(volume) => Some(volume),
        Err(_) if !containers.is_empty() => None,
        Err(error)
            if matches!(error.cause(), Cause::VolumeUnavailable | Cause::VolumeId) && arguments.role.is_none() =>
        {
            let how = format!(
                "{}`fs-isolator status` and `fs-isolator volume list` list what there is; {}",
                nearest::question(&arguments.name, ids.iter().map(String::as_str)),
                error.how()
            );
            return Err(Error::new(
                Cause::ContainerUnknown,
                format!("no container has anything, and there is no volume, by the name {:?}", arguments.name),
            )
            .remedy(how));
        }
        Err(error) => return Err(error),
    };
    let inspected = Inspected { containers, volume };
    if json { show::json(&inspected) } else { show::lines(&text(&inspected, config)) }
}

impl Container {
    fn of(status: status::Shown, config: &Config) -> Result<Container> {
        let name = record::name(&status.container, &status.bundle);
        let log = logs::of(&name, config)?;
        let log = log[log.len().saturating_sub(TAIL)..].to_vec();
        let open = match RuntimeDir::open_existing(&config.runtime_dir)? {
            None => None,
            Some(runtime) => record::Record::open(&runtime, &name, Open::Idle)?,
        };
        let found = open.as_ref().and_then(|record| Some((record.header.as_ref()?, record.attachments()?)));
        let differences = match found {
            Some((header, attachments)) if header.life.may_last()? => differences(header.life.init.pid, attachments),
            _ => Vec::new(),
        };
        let steps = open.as_ref().map_or(&[][..], |record| record::steps_of(&record.lines)).to_vec();
        Ok(Container { status, record: open.map(|_| name), differences, steps, log })
    }
}

fn text(inspected: &Inspected, config: &Config) -> Vec<String> {
    let mut lines = Vec::new();
    for container in &inspected.containers {
        lines.extend(status::text(std::slice::from_ref(&container.status)));
        let status = &container.status;
        lines.push(format!("bundle    {}", status.bundle));
        lines.push(format!("identity  {}, init {}", status.identity, status.pid));
        let records = config.runtime_dir.join("records");
        let record =
            container.record.as_ref().map_or_else(|| "-".to_owned(), |name| records.join(name).display().to_string());
        lines.push(format!("record    {record}"));
        lines.extend((!container.steps.is_empty()).then(|| format!("prestart  {}", steps::describe(&container.steps))));
        lines.extend(container.differences.iter().map(|one| format!("DIFFERS   {}: {}", one.target, one.what)));
        lines.extend(container.log.iter().map(|line| format!("log       {line}")));
    }
    if let Some(volume) = &inspected.volume {
        lines.extend((!lines.is_empty()).then(String::new));
        lines.extend(volume::describe(volume, config));
    }
    lines
}
