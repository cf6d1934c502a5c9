//! `fs-isolator status`: the containers that have something, and what.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::path::Path;

use clap::Args;
use serde::Serialize;

use super::show::{self, WIDTH, fit};
use crate::clock;
use crate::config::disks::Kind;
use crate::config::{Config, Isolator};
use crate::container::{Identity, Manager};
use crate::error::{Because, Cause, Result};
use crate::init::{Life, boot_id};
use crate::lease::{Lease, Leases};
use crate::record::{Attached, Header, Line, Record, VolumeRecord};
use crate::runtime_dir::{Open, RuntimeDir};
use crate::sys::FileId;
use crate::tree;
use crate::volume::DiskChoice;
use crate::volume::usage::{self, Usage};
use crate::volume::{self, Disks};

/// Arguments.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Count what each volume takes on disk, which takes as long as it has files
    #[arg(long)]
    usage: bool,
}

/// One container.
#[derive(Debug, Serialize, schemars::JsonSchema)]
pub struct Shown {
    /// Its id.
    pub container: String,
    /// Its bundle.
    pub bundle: String,
    /// The pod that it is in for certain.
    pod: Option<String>,
    /// Who made it.
    manager: Manager,
    /// On whose behalf.
    pub identity: Identity,
    /// `null` where only a lease tells of it: it is of another configuration.
    isolator: Option<Isolator>,
    /// Its init.
    pub pid: i32,
    /// How it is.
    state: State,
    /// When its init started; before this boot nobody knows.
    since: Option<String>,
    /// Its sandbox on the host.
    sandbox: Option<String>,
    /// Its pod's sandbox on the host.
    pod_sandbox: Option<String>,
    /// What it has.
    volumes: Vec<Volume>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
enum State {
    /// Something of it may run, and it has all that is listed.
    Running,
    /// Its prestart did not come to its end.
    Unfinished,
    /// It has ended and its hooks have not come: `reconcile` ends what it held.
    Ended,
}

impl State {
    fn name(self) -> &'static str {
        match self {
            State::Running => "running",
            State::Unfinished => "unfinished",
            State::Ended => "ended",
        }
    }
}

/// One thing that it has.
#[derive(Debug, Serialize, schemars::JsonSchema)]
struct Volume {
    /// The request's words.
    label: String,
    /// Where, as an absolute path in the container.
    target: Option<String>,
    /// Where it lies on the host.
    source: Option<String>,
    /// `ro` or `rw`.
    mode: Option<&'static str>,
    /// `slave`, `private`, `both`, or `link` for what is no mount.
    propagation: Option<&'static str>,
    /// How it holds the volume; `null` for what nobody holds.
    held: Option<&'static str>,
    /// What the volume takes on disk: known of a MOUNT disk, elsewhere where that was asked for.
    usage: Option<Usage>,
    /// The persistent volume that it is.
    #[serde(skip)]
    volume: Option<VolumeRecord>,
}

/// Runs the verb.
///
/// # Errors
/// [`Cause::RuntimeDir`], [`Cause::ConfigUnsafe`].
pub fn run(arguments: &Arguments, config: &Config, json: bool) -> Result<()> {
    let mut all = all(config)?;
    add_usage(all.iter_mut(), arguments.usage, config);
    if json { show::json(&all) } else { show::lines(&text(&all)) }
}

/// Every container that has something.
///
/// # Errors
/// As [`run`].
pub fn all(config: &Config) -> Result<Vec<Shown>> {
    let leases = Leases::open_existing()?.map_or(Ok(Vec::new()), |leases| leases.all())?;
    let mut all = recorded(config, &leases)?;
    others(&mut all, &leases)?;
    all.sort_by(|a, b| (&a.container, &a.bundle).cmp(&(&b.container, &b.bundle)));
    Ok(all)
}

/// Adds what volumes take on disk: those that are a filesystem of their own, which knows; the others are `counted` only
/// where that was asked for.
pub fn add_usage<'s>(all: impl Iterator<Item = &'s mut Shown>, counted: bool, config: &Config) {
    let disks = Disks::new(config);
    // Several containers may hold one.
    let mut known: HashMap<FileId, Option<Usage>> = HashMap::new();
    for shown in all.flat_map(|shown| &mut shown.volumes) {
        let Some(volume) = &shown.volume else { continue };
        let knows = config.disks.iter().any(|disk| disk.name == volume.disk && disk.kind == Kind::Mount);
        if counted || knows {
            shown.usage = *known.entry(volume.file).or_insert_with(|| usage_of(volume, &disks));
        }
    }
}

fn usage_of(volume: &VolumeRecord, disks: &Disks<'_>) -> Option<Usage> {
    let find = || volume::find(disks, &DiskChoice::One(volume.disk.clone()), &volume.role, &volume.id);
    // What has its name now may be another's.
    let found = find().map(|found| found.filter(|found| found.stat.id == volume.file));
    found.and_then(|found| found.as_ref().map(usage::of).transpose()).unwrap_or_else(|fault| {
        eprintln!("fs-isolator: {}", fault.volume(&volume.id));
        None
    })
}

fn recorded(config: &Config, leases: &[Lease]) -> Result<Vec<Shown>> {
    let Some(runtime) = RuntimeDir::open_existing(&config.runtime_dir)? else { return Ok(Vec::new()) };
    let doing = || "records cannot be listed".to_owned();
    let mut all = Vec::new();
    for name in tree::names(&runtime.records).because(Cause::RuntimeDir, doing)? {
        let name = name.to_string_lossy();
        match Record::open(&runtime, &name, Open::Idle) {
            Ok(Some(record)) => {
                if let Some(header) = &record.header {
                    all.push(of_record(header, &record, leases)?);
                }
            }
            Ok(None) => eprintln!("fs-isolator: a hook is working on {name}"),
            Err(error) => eprintln!("fs-isolator: {error}"),
        }
    }
    Ok(all)
}

fn of_record(header: &Header, record: &Record, leases: &[Lease]) -> Result<Shown> {
    let mine = |lease: &&Lease| lease.id == header.id && lease.bundle == header.bundle;
    let (mut sandbox, mut pod_sandbox) = (None, None);
    for line in &record.lines {
        match line {
            Line::Sandbox { path, .. } => sandbox = Some(path.clone()),
            Line::PodSandbox { path, .. } => pod_sandbox = Some(path.clone()),
            _ => {}
        }
    }
    let held = |attached: &Attached| {
        let volume = attached.volume.as_ref()?;
        let lease = leases.iter().filter(mine).find(|lease| lease.volume == volume.id && lease.role == volume.role)?;
        Some(how(lease))
    };
    let volumes = record.attachments().unwrap_or_default().iter().map(|attached| Volume {
        label: attached.label.clone(),
        target: Some(attached.target.clone()),
        source: Some(attached.source.clone()).filter(|source| !source.is_empty()),
        mode: Some(if attached.attributes.read_only { "ro" } else { "rw" }),
        propagation: Some(match attached {
            Attached { link: true, .. } => "link",
            Attached { bidirectional: true, .. } => "both",
            Attached { slave: true, .. } => "slave",
            _ => "private",
        }),
        held: held(attached),
        usage: None,
        volume: attached.volume.clone(),
    });
    Ok(Shown {
        container: header.id.clone(),
        bundle: header.bundle.clone(),
        pod: leases.iter().find(mine).and_then(|lease| lease.pod.clone()),
        manager: header.manager,
        identity: header.identity.clone(),
        isolator: Some(header.isolator),
        pid: header.life.init.pid,
        state: match (header.life.may_last()?, record.attachments()) {
            (false, _) => State::Ended,
            (true, None) => State::Unfinished,
            (true, Some(_)) => State::Running,
        },
        since: since(&header.life)?,
        sandbox,
        pod_sandbox,
        volumes: volumes.collect(),
    })
}

fn how(lease: &Lease) -> &'static str {
    if lease.shared { "shared" } else { "exclusive" }
}

/// Holders without a record here.
fn others(all: &mut Vec<Shown>, leases: &[Lease]) -> Result<()> {
    let known = all.len();
    for lease in leases {
        let is_it = |shown: &Shown| shown.container == lease.id && shown.bundle == lease.bundle;
        if all[..known].iter().any(is_it) {
            continue;
        }
        let volume = Volume {
            label: format!("{} ({})", lease.volume, lease.role),
            target: None,
            source: None,
            mode: None,
            propagation: None,
            held: Some(how(lease)),
            usage: None,
            volume: None,
        };
        if let Some(shown) = all.iter_mut().find(|shown| is_it(shown)) {
            shown.volumes.push(volume);
            continue;
        }
        all.push(Shown {
            container: lease.id.clone(),
            bundle: lease.bundle.clone(),
            pod: lease.pod.clone(),
            manager: lease.manager,
            identity: lease.identity.clone(),
            isolator: None,
            pid: lease.life.init.pid,
            state: if lease.life.may_last()? { State::Running } else { State::Ended },
            since: Some(clock::utc(lease.since)),
            sandbox: None,
            pod_sandbox: None,
            volumes: vec![volume],
        });
    }
    Ok(())
}

/// When an init started, from its ticks (of which Linux tells 100 a second to programs) and the time of boot.
fn since(life: &Life) -> Result<Option<String>> {
    if life.init.boot != boot_id()? {
        return Ok(None);
    }
    let stat = std::fs::read_to_string("/proc/stat").because(Cause::RuntimeDir, || "/proc/stat".to_owned())?;
    let boot = stat.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse::<u64>().ok());
    Ok(boot.map(|boot| clock::utc(boot + life.init.start / 100)))
}

/// For people.
pub fn text(all: &[Shown]) -> Vec<String> {
    if all.is_empty() {
        return vec!["no container has anything".to_owned()];
    }
    let row = |cells: [&str; 5]| {
        let [id, manager, isolator, since, state] = cells;
        format!("{:<24}  {manager:<7}  {isolator:<8}  {since:<20}  {state}", fit(id, 24)).trim_end().to_owned()
    };
    let mut lines = vec![row(["CONTAINER", "MANAGER", "ISOLATOR", "SINCE", "STATE"])];
    for shown in all {
        let isolator = shown.isolator.map_or("-", Isolator::name);
        lines.push(row([
            &shown.container,
            shown.manager.name(),
            Path::new(isolator).file_name().and_then(|name| name.to_str()).unwrap_or(isolator),
            shown.since.as_deref().unwrap_or("before this boot"),
            shown.state.name(),
        ]));
        for volume in &shown.volumes {
            let dash = |text: Option<&str>| text.unwrap_or("-").to_owned();
            let (label, target) = (fit(&volume.label, 22), fit(&dash(volume.target.as_deref()), 28));
            let (mode, propagation) = (dash(volume.mode), dash(volume.propagation));
            let line =
                format!("  {label:<22}  {target:<28}  {mode:<2}  {propagation:<7}  {}", volume.held.unwrap_or(""));
            lines.push(line.trim_end().to_owned());
            lines.extend(volume.usage.map(|usage| format!("    used  {usage}")));
        }
        for (name, path) in [("sandbox", &shown.sandbox), ("pod's", &shown.pod_sandbox)] {
            lines.extend(path.as_ref().map(|path| format!("  {name}  {}", fit(path, WIDTH - 4 - name.len()))));
        }
        lines.extend(shown.pod.as_ref().map(|pod| format!("  pod  {}", fit(pod, WIDTH - 7))));
    }
    lines
}
