//! `fs-isolator volume create|list|inspect|destroy|export|import`.
#![forbid(unsafe_code)]

pub mod transfer;

use std::io::{BufRead, IsTerminal, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use serde::Serialize;

use super::{identity, show, user};
use crate::clock;
use crate::config::disks::ROOT;
use crate::config::{Config, Ownership};
use crate::container::Identity;
use crate::error::{Cause, Error, Result};
use crate::lease::{Lease, Leases};
use crate::mesos::checkpoint::{self, Checkpoint};
use crate::mesos::place;
use crate::nearest;
use crate::request::names::{Role, VolumeId};
use crate::sys::Stat;
use crate::trusted::Missing;
use crate::volume::make::{self, New};
use crate::volume::usage::{self, Usage};
use crate::volume::{self, Disk, Disks, Found, Meta, destroy};
use crate::volume::{DiskChoice, unavailable};

/// Verbs.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Make a volume
    Create(Create),
    /// List volumes
    List(List),
    /// Show one volume and the containers that hold it
    Inspect(Inspect),
    /// Delete a volume and all its data
    Destroy(Destroy),
    /// Write a volume to standard output, as a tar archive
    Export(transfer::Export),
    /// Make a volume of an archive that standard input has
    Import(transfer::Import),
}

/// Which volume.
#[derive(Debug, Args)]
pub struct Named {
    /// Its role; without one, the default of whoever asks
    #[arg(long)]
    role: Option<String>,
    /// The disk it lies on, by its name in the configuration; root is work_dir
    #[arg(long)]
    disk: Option<String>,
    #[command(flatten)]
    identity: identity::Arguments,
    /// Its persistence id
    id: String,
}

/// Arguments of `create`.
#[derive(Debug, Args)]
pub struct Create {
    #[command(flatten)]
    named: Named,
    /// Owner of its root directory, as USER[:GROUP]
    #[arg(long, value_parser = user::parse)]
    owner: Option<user::Owner>,
    /// Permission bits of its root directory, in octal [default: 0750]
    #[arg(long, value_parser = parse_mode)]
    mode: Option<u32>,
    /// Containers must ask for it as shared
    #[arg(long, conflicts_with = "exclusive")]
    shared: bool,
    /// Containers cannot ask for it as shared
    #[arg(long)]
    exclusive: bool,
    /// Who owns its root when containers use it: auto, mesos, idmap or never
    #[arg(long, value_parser = parse_ownership)]
    ownership: Option<Ownership>,
    /// Its size in MB, to be shown; it is not enforced
    #[arg(long, value_name = "MB")]
    size: Option<f64>,
}

/// Arguments of `list`.
#[derive(Debug, Args)]
pub struct List {
    /// Only volumes of this role
    #[arg(long)]
    role: Option<String>,
    /// Count what each takes on disk, which takes as long as they have files
    #[arg(long)]
    usage: bool,
    #[command(flatten)]
    identity: identity::Arguments,
}

/// Arguments of `inspect`.
#[derive(Debug, Args)]
pub struct Inspect {
    #[command(flatten)]
    named: Named,
    /// Count what it takes on disk, which takes as long as it has files
    #[arg(long)]
    usage: bool,
}

/// Arguments of `destroy`.
#[derive(Debug, Args)]
pub struct Destroy {
    #[command(flatten)]
    named: Named,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

fn parse_mode(text: &str) -> std::result::Result<u32, String> {
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o7777 => Ok(mode),
        _ => Err("not permission bits in octal".to_owned()),
    }
}

fn parse_ownership(text: &str) -> std::result::Result<Ownership, String> {
    Ownership::parse(text).ok_or_else(|| "auto, mesos, idmap and never are possible".to_owned())
}

/// A volume that was made.
#[derive(Serialize, schemars::JsonSchema)]
pub struct Created<'a> {
    role: &'a Role,
    id: &'a VolumeId,
    /// The disk it lies on.
    disk: &'a str,
    /// Its directory.
    path: PathBuf,
}

/// A volume that is gone.
#[derive(Serialize, schemars::JsonSchema)]
pub struct Destroyed<'a> {
    role: &'a Role,
    id: &'a VolumeId,
    /// Where its directory was.
    path: PathBuf,
    /// `true`.
    destroyed: bool,
}

/// Runs a verb.
///
/// # Errors
/// See [`volume`]; [`Cause::VolumeInUse`], [`Cause::NotConfirmed`].
pub fn run(verb: &Verb, config: &Config, json: bool) -> Result<()> {
    match verb {
        Verb::Create(arguments) => create(arguments, config, json),
        Verb::List(arguments) => list(arguments, config, json),
        Verb::Inspect(arguments) => inspect(arguments, config, json),
        Verb::Destroy(arguments) => destroy(arguments, config, json),
        Verb::Export(arguments) => transfer::export(arguments, config, json),
        Verb::Import(arguments) => transfer::import(arguments, config, json),
    }
}

impl Named {
    /// Of this id, in that role.
    pub fn new(id: String, role: Option<String>, disk: Option<String>, identity: identity::Arguments) -> Named {
        Named { role, disk, identity, id }
    }

    /// Role and id, if whoever asks may use the role. What is not theirs reads like what is not there.
    fn resolve(&self, config: &Config) -> Result<(Role, VolumeId)> {
        let identity = self.identity.identity();
        let role = match &self.role {
            Some(role) => Role::parse(role)?,
            None => config.role_of(&identity)?,
        };
        let id = VolumeId::parse(&self.id)?;
        if !config.may_use(&identity, &role) {
            return Err(unavailable(&role, &id, &self.choice()));
        }
        Ok((role, id))
    }

    fn choice(&self) -> DiskChoice {
        self.disk.as_ref().map_or(DiskChoice::Any, |name| DiskChoice::One(name.clone()))
    }

    fn find(&self, config: &Config, disks: &Disks<'_>) -> Result<Found> {
        let (role, id) = self.resolve(config)?;
        let choice = self.choice();
        match volume::find(disks, &choice, &role, &id) {
            Ok(Some(found)) => Ok(found),
            Ok(None) => {
                let error = unavailable(&role, &id, &choice);
                let how = format!("{}{}", self.meant(config, disks, &role, &id), error.how());
                Err(error.remedy(how))
            }
            // Names of disks are for whoever may read the configuration.
            Err(error) if error.cause() == Cause::DiskUnknown && !self.identity.is_namespace() => {
                let known = config.disks.iter().map(|disk| disk.name.as_str()).chain([ROOT]);
                let how = format!("{}{}", nearest::question(self.disk.as_deref().unwrap_or(""), known), error.how());
                Err(error.remedy(how))
            }
            Err(error) => Err(error),
        }
    }

    /// What may be meant among the volumes that whoever asks may use: an id of the role, or the id in another role. Those
    /// of others are not looked at.
    fn meant(&self, config: &Config, disks: &Disks<'_>, role: &Role, id: &VolumeId) -> String {
        let identity = self.identity.identity();
        let Ok((all, _)) = volume::list(disks) else { return String::new() };
        let mine: Vec<&Found> = all.iter().filter(|found| config.may_use(&identity, &found.role)).collect();
        let of_role = mine.iter().filter(|found| found.role == *role).map(|found| found.id.as_str());
        let near = nearest::question(id.as_str(), of_role);
        if !near.is_empty() {
            return near;
        }
        let roles = mine.iter().filter(|found| found.id == *id).map(|found| found.role.as_str());
        let near = nearest::question(role.as_str(), roles.clone());
        if !near.is_empty() || self.role.is_some() {
            return near;
        }
        roles.into_iter().next().map_or_else(String::new, |other| format!("did you mean --role {other}? "))
    }
}

fn create(arguments: &Create, config: &Config, json: bool) -> Result<()> {
    let (role, id) = arguments.named.resolve(config)?;
    let disks = Disks::new(config);
    disks.refuse_agent()?;
    // The disk first: what is wrong with it is worth knowing before anything is made.
    let name = arguments.named.disk.as_deref().unwrap_or(ROOT);
    let disk = disks.to_make_on(name)?;
    if let Some(found) = volume::find(&disks, &DiskChoice::Any, &role, &id)? {
        return Err(Error::new(Cause::VolumeExists, format!("{} exists already", found.path().display())));
    }
    let meta = Meta {
        shared: (arguments.shared || arguments.exclusive).then_some(arguments.shared),
        ownership: arguments.ownership,
        size_mb: arguments.size,
        ..Meta::new(&role, &id)
    };
    let owner = arguments.owner.map(|owner| (owner.uid, owner.gid));
    let reachable = config.shares_host_filesystem();
    make::create(&disk, &role, &id, New { mode: arguments.mode, owner, reachable, meta: Some(meta) })?;
    let path = disk.path_of(&role, &id);
    if json {
        show::json(&Created { role: &role, id: &id, disk: name, path })
    } else {
        show::lines(&[path.display().to_string()])
    }
}

/// What is shown of a volume.
#[derive(Debug, Serialize, schemars::JsonSchema)]
pub struct Shown {
    role: Role,
    id: VolumeId,
    /// The disk it lies on.
    disk: String,
    /// Its directory.
    path: String,
    /// Owner of its root directory.
    uid: u32,
    /// Group of it.
    gid: u32,
    /// Permission bits of it, in octal; `-` where it is not there.
    mode: String,
    /// Reserved, and not enforced.
    size_mb: Option<f64>,
    /// `null`: each container says.
    shared: Option<bool>,
    /// Who owns its root when containers use it; `null`: as the configuration says.
    ownership: Option<Ownership>,
    /// Who made it, in the words of a Mesos agent.
    principal: Option<String>,
    /// The containers that hold it.
    held_by: Vec<Held>,
    /// What it takes on disk, where that was asked for.
    usage: Option<Usage>,
    /// What an administrator should know.
    notes: Vec<String>,
}

/// A holder.
#[derive(Debug, Serialize, schemars::JsonSchema)]
struct Held {
    /// Its id.
    container: String,
    /// Its pod, with which it holds the volume.
    pod: Option<String>,
    manager: String,
    identity: Identity,
    /// It lets others hold it too.
    shared: bool,
    /// Since when, in UTC.
    since: String,
}

impl Held {
    fn new(lease: &Lease) -> Held {
        Held {
            container: lease.id.clone(),
            pod: lease.pod.clone(),
            manager: lease.manager.to_string(),
            identity: lease.identity.clone(),
            shared: lease.shared,
            since: clock::utc(lease.since),
        }
    }
}

impl Shown {
    fn new(found: &Found, leases: Option<&Leases>) -> Result<Shown> {
        let meta = found.meta()?;
        let Stat { uid, gid, .. } = found.stat;
        let holders = match leases {
            None => Vec::new(),
            Some(leases) => leases.holders_of(found.stat.id)?,
        };
        let mut notes = Vec::new();
        if found.is_reachable()? {
            notes.push("other users of the host can reach it, and run setuid files in it".to_owned());
        }
        Ok(Shown {
            role: found.role.clone(),
            id: found.id.clone(),
            disk: found.disk.name().to_owned(),
            path: found.path().display().to_string(),
            uid,
            gid,
            mode: format!("{:04o}", found.stat.permissions()),
            size_mb: meta.size_mb.or_else(|| holders.iter().find_map(|lease| lease.size_mb)),
            shared: meta.shared,
            ownership: meta.ownership,
            principal: None,
            held_by: holders.iter().map(Held::new).collect(),
            usage: None,
            notes,
        })
    }

    /// Adds what a Mesos agent's checkpoint says, and where it disagrees.
    fn compare(&mut self, work_dir: &Disk, found: &Found, known: &Checkpoint) {
        let same = |volume: &&checkpoint::Volume| place::lies_at(work_dir, volume, found);
        match known.volumes.iter().find(same) {
            None => self.notes.push(format!("not in the Mesos agent's checkpoint {}", known.source)),
            Some(volume) => {
                self.size_mb = self.size_mb.or(volume.size_mb);
                self.principal = volume.principal.clone();
                if self.shared.is_some_and(|shared| shared != volume.shared) {
                    self.notes.push("the Mesos agent's checkpoint says otherwise about shared".to_owned());
                }
                self.shared = self.shared.or(Some(volume.shared));
            }
        }
        let pending = |volumes: &[checkpoint::Volume]| volumes.iter().any(|volume| same(&volume));
        if known.pending.as_ref().is_some_and(|change| pending(&change.destroyed)) {
            self.notes.push("the Mesos agent was about to delete it".to_owned());
        }
    }

    /// A volume that only the checkpoint knows, or that no disk of the configuration has.
    fn without_directory(work_dir: &Disk, volume: &checkpoint::Volume, why: Option<String>) -> Shown {
        let (disk, why) = match &volume.disk {
            checkpoint::Disk::Root => (ROOT.to_owned(), why),
            checkpoint::Disk::Path(root) | checkpoint::Disk::Mount(root) => {
                let unlisted = "its disk is not one of the configuration's, or not recorded as this volume's";
                (root.clone(), why.or(Some(unlisted.to_owned())))
            }
            checkpoint::Disk::Foreign(_) => ("-".to_owned(), why),
        };
        Shown {
            role: volume.role.clone(),
            id: volume.id.clone(),
            disk,
            path: place::place(work_dir, volume),
            uid: 0,
            gid: 0,
            mode: "-".to_owned(),
            size_mb: volume.size_mb,
            shared: Some(volume.shared),
            ownership: None,
            principal: volume.principal.clone(),
            held_by: Vec::new(),
            usage: None,
            notes: vec![format!(
                "in the Mesos agent's checkpoint, and {}",
                why.unwrap_or_else(|| "not here".to_owned())
            )],
        }
    }

    fn size(&self) -> String {
        self.size_mb.map_or_else(|| "-".to_owned(), |size| format!("{size} MB"))
    }

    fn used(&self) -> String {
        self.usage.as_ref().map_or_else(|| "-".to_owned(), Usage::size)
    }

    fn sharing(&self) -> &'static str {
        match self.shared {
            None => "-",
            Some(true) => "shared",
            Some(false) => "exclusive",
        }
    }

    fn holders(&self) -> String {
        let names: Vec<&str> = self.held_by.iter().map(|held| held.container.as_str()).collect();
        if names.is_empty() { "-".to_owned() } else { names.join(" ") }
    }
}

fn list(arguments: &List, config: &Config, json: bool) -> Result<()> {
    let role = arguments.role.as_deref().map(Role::parse).transpose()?;
    let identity = arguments.identity.identity();
    let disks = Disks::new(config);
    let (volumes, mut faults) = volume::list(&disks)?;
    let work_dir = disks.work_dir(Missing::Tell)?;
    let known = match work_dir.as_ref().map(|work_dir| checkpoint::read(work_dir.fd())) {
        None => None,
        Some(Ok(known)) => known,
        Some(Err(fault)) => {
            faults.push(fault);
            None
        }
    };
    let leases = Leases::open_existing()?;
    let mine =
        |found: &&Found| config.may_use(&identity, &found.role) && role.as_ref().is_none_or(|role| *role == found.role);
    let mut shown = Vec::new();
    for found in volumes.iter().filter(mine) {
        match Shown::new(found, leases.as_ref()) {
            Ok(mut one) => {
                if let (Some(work_dir), Some(known)) = (&work_dir, &known) {
                    one.compare(work_dir, found, known);
                }
                if arguments.usage {
                    one.usage = Some(usage::of(found)?);
                }
                shown.push(one);
            }
            Err(fault) => faults.push(fault.volume(&found.id)),
        }
    }
    if let (Some(work_dir), Some(known)) = (&work_dir, &known) {
        let theirs = |volume: &&checkpoint::Volume| {
            config.may_use(&identity, &volume.role) && role.as_ref().is_none_or(|role| *role == volume.role)
        };
        for volume in known.volumes.iter().filter(theirs) {
            if !volumes.iter().any(|found| place::lies_at(work_dir, volume, found)) {
                let why = place::missing(work_dir, &volumes, volume);
                shown.push(Shown::without_directory(work_dir, volume, why));
            }
        }
    }
    shown.sort_by(|a, b| (&a.role, &a.id, &a.disk).cmp(&(&b.role, &b.id, &b.disk)));
    // They may be about anybody's volumes.
    if !matches!(identity, Identity::Namespace(_)) {
        faults.iter().for_each(|fault| eprintln!("fs-isolator: {fault}"));
    }
    if json {
        return show::json(&shown);
    }
    let row = |v: &Shown| {
        [
            v.role.to_string(),
            v.id.to_string(),
            v.disk.clone(),
            format!("{}:{}", v.uid, v.gid),
            v.mode.clone(),
            if arguments.usage { v.used() } else { v.size() },
            v.sharing().to_owned(),
            v.holders(),
        ]
    };
    let rows: Vec<[String; 8]> = shown.iter().map(row).collect();
    let size = if arguments.usage { "USED" } else { "SIZE" };
    show::table(["ROLE", "ID", "DISK", "OWNER", "MODE", size, "SHARED", "HELD BY"], &rows)?;
    let notes = |v: &Shown| v.notes.iter().map(|note| format!("{} {}: {note}", v.role, v.id)).collect::<Vec<_>>();
    show::lines(&shown.iter().flat_map(notes).collect::<Vec<_>>())
}

fn inspect(arguments: &Inspect, config: &Config, json: bool) -> Result<()> {
    let shown = show(&arguments.named, arguments.usage, config)?;
    if json { show::json(&shown) } else { show::lines(&describe(&shown, config)) }
}

/// What is known of a volume.
///
/// # Errors
/// [`Cause::VolumeUnavailable`], also for what is not theirs who ask.
pub fn show(named: &Named, with_usage: bool, config: &Config) -> Result<Shown> {
    let disks = Disks::new(config);
    let found = named.find(config, &disks)?;
    let mut shown = Shown::new(&found, Leases::open_existing()?.as_ref())?;
    if with_usage {
        shown.usage = Some(usage::of(&found)?);
    }
    Ok(shown)
}

/// The same for people.
pub fn describe(shown: &Shown, config: &Config) -> Vec<String> {
    let ownership = shown.ownership.unwrap_or(config.ownership);
    let mut lines = vec![
        format!("role       {}", shown.role),
        format!("id         {}", shown.id),
        format!("disk       {}", shown.disk),
        format!("path       {}", shown.path),
        format!("owner      {}:{}", shown.uid, shown.gid),
        format!("mode       {}", shown.mode),
        format!("ownership  {}", ownership.name()),
        format!("size       {} (not enforced)", shown.size()),
        format!("shared     {}", if shown.shared.is_none() { "as each container asks" } else { shown.sharing() }),
    ];
    if let Some(usage) = &shown.usage {
        lines.push(format!("used       {usage}"));
    }
    if shown.held_by.is_empty() {
        lines.push("held by    nobody".to_owned());
    }
    for held in &shown.held_by {
        let how = if held.shared { "shared" } else { "exclusively" };
        lines.push(format!("held by    {} ({}) {how} since {}", held.container, held.manager, held.since));
    }
    lines.extend(shown.notes.iter().map(|note| format!("note       {note}")));
    lines
}

fn destroy(arguments: &Destroy, config: &Config, json: bool) -> Result<()> {
    let disks = Disks::new(config);
    let found = arguments.named.find(config, &disks)?;
    disks.refuse_agent()?;
    let leases = Leases::open()?;
    let path = found.path();
    destroy::check(&found, &leases)?;
    if !arguments.yes {
        confirm(&format!("Delete {} and all data in it?", path.display()))?;
    }
    let mut progress = Progress::new();
    destroy::destroy(&found, &leases, &mut |count| progress.tell(count))?;
    progress.end();
    if json {
        show::json(&Destroyed { role: &found.role, id: &found.id, path, destroyed: true })
    } else {
        show::lines(&[format!("destroyed {}", path.display())])
    }
}

fn confirm(question: &str) -> Result<()> {
    let refused = |what: &str| Err(Error::new(Cause::NotConfirmed, what));
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        return refused("there is nobody to ask");
    }
    eprint!("{question} [yes/no] ");
    let _ = std::io::stderr().flush();
    let mut answer = String::new();
    match stdin.lock().read_line(&mut answer) {
        Ok(_) if answer.trim() == "yes" => Ok(()),
        _ => refused("the answer was not yes"),
    }
}

/// Tells on a terminal how far something is that takes its time.
#[derive(Debug)]
pub struct Progress {
    next: Option<Instant>,
    shown: bool,
}

/// Between two lines of progress.
const STEP: Duration = Duration::from_millis(500);

impl Progress {
    /// Says nothing in the first half second, and nothing where nobody looks.
    pub fn new() -> Progress {
        Progress { next: std::io::stderr().is_terminal().then(|| Instant::now() + STEP), shown: false }
    }

    /// So many are gone.
    pub fn tell(&mut self, count: u64) {
        if count.is_multiple_of(256) {
            self.say(|| format!("{count} files deleted"));
        }
    }

    /// So far it is.
    pub fn say(&mut self, what: impl FnOnce() -> String) {
        if let Some(next) = self.next
            && Instant::now() >= next
        {
            eprint!("\r{}", what());
            self.next = Some(Instant::now() + STEP);
            self.shown = true;
        }
    }

    /// Leaves the line.
    pub fn end(&self) {
        if self.shown {
            eprintln!();
        }
    }
}
