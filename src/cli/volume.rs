//! `fs-isolator volume create|list|inspect|destroy`.
#![forbid(unsafe_code)]

use std::io::{BufRead, IsTerminal, Write};

use clap::{Args, Subcommand};
use serde::Serialize;

use super::{show, user};
use crate::config::Config;
use crate::container::Identity;
use crate::error::{Because, Cause, Error, Result};
use crate::plan::unavailable;
use crate::record::{Header, Line, VERSION};
use crate::request::names::{Role, VolumeId};
use crate::runtime_dir::RuntimeDir;
use crate::sys::{self, FileId};
use crate::tree;
use crate::trusted::Missing;
use crate::volume::{Listed, NewVolume, Store};

/// Verbs.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Make a volume
    Create(Create),
    /// List volumes
    List(List),
    /// Show one volume and the containers that have it
    Inspect(Named),
    /// Delete a volume and all its data
    Destroy(Destroy),
}

/// Which volume.
#[derive(Debug, Args)]
pub struct Named {
    /// Its role; without one, the default for root of this host
    #[arg(long)]
    role: Option<String>,
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
    /// Permission bits of its root directory, in octal
    #[arg(long, default_value = "0750", value_parser = parse_mode)]
    mode: u32,
}

/// Arguments of `list`.
#[derive(Debug, Args)]
pub struct List {
    /// Only volumes of this role
    #[arg(long)]
    role: Option<String>,
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

/// Runs a verb.
///
/// # Errors
/// See [`Store`]; [`Cause::VolumeInUse`], [`Cause::NotConfirmed`].
pub fn run(verb: &Verb, config: &Config, json: bool) -> Result<()> {
    match verb {
        Verb::Create(arguments) => create(arguments, config, json),
        Verb::List(arguments) => list(arguments, config, json),
        Verb::Inspect(arguments) => inspect(arguments, config, json),
        Verb::Destroy(arguments) => destroy(arguments, config, json),
    }
}

impl Named {
    fn resolve(&self, config: &Config) -> Result<(Role, VolumeId)> {
        let role = match &self.role {
            Some(role) => Role::parse(role)?,
            None => config.role_of(&Identity::Root)?,
        };
        Ok((role, VolumeId::parse(&self.id)?))
    }
}

fn create(arguments: &Create, config: &Config, json: bool) -> Result<()> {
    let (role, id) = arguments.named.resolve(config)?;
    let store = Store::open(&config.work_dir, Missing::Make(0o755))?
        .ok_or_else(|| Error::new(Cause::VolumeUnavailable, format!("{} cannot be made", config.work_dir.display())))?;
    if store.find(&role, &id)?.is_some() {
        return Err(Error::new(Cause::VolumeExists, format!("{} exists already", store.path_of(&role, &id).display())));
    }
    let owner = arguments.owner.map_or((0, 0), |owner| (owner.uid, owner.gid));
    store.create(&role, &id, NewVolume { mode: arguments.mode, owner, reachable: config.shares_host_filesystem() })?;
    let path = store.path_of(&role, &id);
    if json {
        show::json(&serde_json::json!({ "role": role, "id": id, "path": path }))
    } else {
        show::lines(&[path.display().to_string()])
    }
}

/// What is shown of a volume.
#[derive(Debug, Serialize)]
struct Shown {
    role: Role,
    id: VolumeId,
    path: String,
    uid: u32,
    gid: u32,
    mode: String,
    containers: Vec<String>,
}

impl Shown {
    fn new(volume: Listed, holders: &[Holder]) -> Shown {
        let holds = |holder: &&Holder| holder.volumes.contains(&volume.stat.id);
        Shown {
            path: volume.path.display().to_string(),
            uid: volume.stat.uid,
            gid: volume.stat.gid,
            mode: format!("{:04o}", volume.stat.permissions()),
            containers: holders.iter().filter(holds).map(|holder| holder.id.clone()).collect(),
            role: volume.role,
            id: volume.id,
        }
    }
}

fn list(arguments: &List, config: &Config, json: bool) -> Result<()> {
    let role = arguments.role.as_deref().map(Role::parse).transpose()?;
    let volumes = match Store::open(&config.work_dir, Missing::Tell)? {
        Some(store) => store.list()?,
        None => Vec::new(),
    };
    let holders = holders(config)?;
    let shown: Vec<Shown> = volumes
        .into_iter()
        .filter(|volume| role.as_ref().is_none_or(|role| *role == volume.role))
        .map(|volume| Shown::new(volume, &holders))
        .collect();
    if json {
        return show::json(&shown);
    }
    let rows: Vec<[String; 5]> = shown
        .iter()
        .map(|v| {
            [
                v.role.to_string(),
                v.id.to_string(),
                format!("{}:{}", v.uid, v.gid),
                v.mode.clone(),
                v.containers.join(" "),
            ]
        })
        .collect();
    show::table(["ROLE", "ID", "OWNER", "MODE", "CONTAINERS"], &rows)
}

fn inspect(arguments: &Named, config: &Config, json: bool) -> Result<()> {
    let (role, id) = arguments.resolve(config)?;
    let store = Store::open(&config.work_dir, Missing::Tell)?.ok_or_else(|| unavailable(&role, &id))?;
    let fd = store.find(&role, &id)?.ok_or_else(|| unavailable(&role, &id))?;
    let stat = sys::stat(&fd).because(Cause::VolumeUnavailable, || id.to_string())?;
    let path = store.path_of(&role, &id);
    let shown = Shown::new(Listed { role, id, path, stat }, &holders(config)?);
    if json {
        return show::json(&shown);
    }
    let containers = if shown.containers.is_empty() { "none".to_owned() } else { shown.containers.join(" ") };
    show::lines(&[
        format!("role        {}", shown.role),
        format!("id          {}", shown.id),
        format!("path        {}", shown.path),
        format!("owner       {}:{}", shown.uid, shown.gid),
        format!("mode        {}", shown.mode),
        format!("containers  {containers}"),
    ])
}

fn destroy(arguments: &Destroy, config: &Config, json: bool) -> Result<()> {
    let (role, id) = arguments.named.resolve(config)?;
    let store = Store::open(&config.work_dir, Missing::Tell)?.ok_or_else(|| unavailable(&role, &id))?;
    store.finish_destroying(&role)?;
    let fd = store.find(&role, &id)?.ok_or_else(|| unavailable(&role, &id))?;
    let file = sys::stat(&fd).because(Cause::VolumeUnavailable, || id.to_string())?.id;
    drop(fd);
    let path = store.path_of(&role, &id);
    refuse_in_use(config, file)?;
    if !arguments.yes {
        confirm(&format!("Delete {} and all data in it?", path.display()))?;
        // The answer may have taken its time.
        refuse_in_use(config, file)?;
    }
    store.destroy(&role, &id, file)?;
    if json {
        show::json(&serde_json::json!({ "role": role, "id": id, "path": path, "destroyed": true }))
    } else {
        show::lines(&[format!("destroyed {}", path.display())])
    }
}

fn refuse_in_use(config: &Config, file: FileId) -> Result<()> {
    for holder in holders(config)? {
        if holder.volumes.contains(&file) {
            return Err(Error::new(Cause::VolumeInUse, format!("container {} has it", holder.id)));
        }
        if holder.starting {
            return Err(Error::new(
                Cause::VolumeInUse,
                format!("container {} is starting and may be about to have it", holder.id),
            )
            .remedy("try again when it has started; nothing was changed"));
        }
    }
    Ok(())
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

/// A live container that has something.
#[derive(Debug)]
struct Holder {
    id: String,
    volumes: Vec<FileId>,
    starting: bool,
}

/// Every container with a record that may live. For people's commands only: it reads all records.
///
/// # Errors
/// [`Cause::VolumeInUse`] where a record cannot be understood: it may hold anything.
fn holders(config: &Config) -> Result<Vec<Holder>> {
    let mut holders = Vec::new();
    let Some(runtime) = RuntimeDir::open_existing(&config.runtime_dir)? else { return Ok(holders) };
    let doing = || "records cannot be read".to_owned();
    for name in tree::names(&runtime.records).because(Cause::RuntimeDir, doing)? {
        let name = name.to_string_lossy();
        // Not locked: a hook must never wait for somebody who is looking.
        let fd = match sys::open_file_at(&runtime.records, &name, nix::fcntl::OFlag::O_RDONLY, 0) {
            Err(error) if error.errno == nix::errno::Errno::ENOENT => continue,
            answer => answer.because(Cause::RuntimeDir, doing)?,
        };
        let text = crate::read::at_most(fd.into(), crate::runtime_dir::LARGEST).because(Cause::RuntimeDir, doing)?;
        let unclear = || {
            Error::new(Cause::VolumeInUse, format!("record {name} cannot be understood, so what it holds is unknown"))
                .remedy("use the fs-isolator that wrote it; nothing was changed")
        };
        let text = String::from_utf8_lossy(&text);
        let mut lines = text.lines();
        let Some(first) = lines.next() else {
            holders.push(Holder { id: name.into_owned(), volumes: Vec::new(), starting: true });
            continue;
        };
        let header: Header = serde_json::from_str(first).map_err(|_| unclear())?;
        if header.version > VERSION {
            return Err(unclear());
        }
        if !header.may_live()? {
            continue;
        }
        let done = lines.filter_map(|line| serde_json::from_str(line).ok()).find_map(|line| match line {
            Line::Done { attachments } => Some(attachments),
            _ => None,
        });
        holders.push(Holder {
            id: header.id,
            starting: done.is_none(),
            volumes: done.unwrap_or_default().into_iter().filter_map(|a| Some(a.volume?.file)).collect(),
        });
    }
    Ok(holders)
}
