//! `fs-isolator volume export|import`: a volume as a stream, to another host or aside.
#![forbid(unsafe_code)]

use std::io::{IsTerminal, Read, Write};

use clap::Args;
use serde::Serialize;

use super::{Named, Progress, show};
use crate::clock;
use crate::config::Config;
use crate::config::disks::{Kind, ROOT};
use crate::container::Manager;
use crate::error::{Because, Cause, Error, Result};
use crate::init::{Life, Live};
use crate::lease::{Holder, Leases};
use crate::me::me;
use crate::request::names::RESERVED;
use crate::sys;
use crate::volume::DiskChoice;
use crate::volume::archive::{Summary, export, import};
use crate::volume::make::{self, New};
use crate::volume::{self, Disks, IMPORTED, Meta, meta};

/// Arguments of `export`.
#[derive(Debug, Args)]
pub struct Export {
    #[command(flatten)]
    named: Named,
    /// Although containers, or a Mesos agent, may write to it meanwhile
    #[arg(long)]
    live: bool,
}

/// Arguments of `import`.
#[derive(Debug, Args)]
pub struct Import {
    #[command(flatten)]
    named: Named,
    /// Make devices that the archive has; otherwise they are refused
    #[arg(long)]
    devices: bool,
}

/// A volume that was made of an archive.
#[derive(Serialize, schemars::JsonSchema)]
pub struct Imported<'a> {
    #[serde(flatten)]
    created: super::Created<'a>,
    /// What was read.
    archive: Summary,
}

/// Writes a volume to standard output. What is to be told goes to standard error.
pub fn export(arguments: &Export, config: &Config, json: bool) -> Result<()> {
    let disks = Disks::new(config);
    let found = arguments.named.find(config, &disks)?;
    let stdout = std::io::stdout().lock();
    if stdout.is_terminal() {
        return Err(Error::new(Cause::Usage, "an archive is nothing for a terminal")
            .remedy("write it to a file or to another program: volume export ID > FILE"));
    }
    let mut progress = Progress::new();
    let write = || {
        let mut tell = |bytes| progress.say(|| format!("{} written", size(bytes)));
        export::export(&found, arguments.live, stdout, &mut tell)
    };
    let summary = if arguments.live {
        write()?
    } else {
        disks.refuse_agent()?;
        held(&found, write)?
    };
    progress.end();
    let mut stderr = std::io::stderr().lock();
    // Nobody to tell is no failure.
    if json {
        let _ = writeln!(stderr, "{}", serde_json::json!(summary));
    } else {
        for left in &summary.left_out {
            let _ = writeln!(stderr, "fs-isolator: left out: {}", show::plain(left));
        }
        let _ = writeln!(stderr, "{}", told("exported", &summary));
    }
    Ok(())
}

/// Holds a volume exclusively while something is done: no container gets it until then.
fn held<T>(found: &volume::Found, doing: impl FnOnce() -> Result<T>) -> Result<T> {
    let pid = i32::try_from(std::process::id()).unwrap_or_default();
    let init = Live::open(pid, false)?.init;
    // It ends with this process, whatever that has started.
    let life = Life { init: init.clone(), own_pid_namespace: true, cgroup: None };
    let name = format!("export.{pid}.{:x}", clock::now());
    let identity = me().identity();
    let holder = Holder {
        id: "volume-export",
        bundle: "",
        manager: Manager::Local,
        identity: &identity,
        pod: None,
        life: &life,
    };
    let leases = Leases::open()?;
    let locked = leases.lock(found.stat.id)?;
    let taken = locked.take(&name, holder.lease(&found.role, &found.id, false, None)).and_then(|_| found.confirm());
    // Not longer than it takes: whoever asks for the volume waits for the lock.
    match taken {
        Ok(_) => drop(locked),
        Err(_) => locked.tidy()?,
    }
    taken.map_err(|error| match error.cause() {
        Cause::VolumeInUse => error.remedy("stop it first; or pass --live and take the volume as it comes"),
        _ => error,
    })?;
    let answer = doing();
    leases.release(found.stat.id, &name, &init)?;
    answer
}

/// Makes a volume of what standard input has: whole, or not at all.
pub fn import(arguments: &Import, config: &Config, json: bool) -> Result<()> {
    let (role, id) = arguments.named.resolve(config)?;
    let disks = Disks::new(config);
    disks.refuse_agent()?;
    let name = arguments.named.disk.as_deref().unwrap_or(ROOT);
    let disk = disks.to_make_on(name)?;
    if disk.kind() == Kind::Mount {
        return Err(Error::new(
            Cause::NotSupported,
            format!("disk {name} is a volume itself, which cannot appear at once"),
        )
        .remedy(
            "import to work_dir or a PATH disk; or mount the disk, make the volume and extract the archive with tar",
        ));
    }
    if let Some(found) = volume::find(&disks, &DiskChoice::Any, &role, &id)? {
        return Err(Error::new(Cause::VolumeExists, format!("{} exists already", found.path().display())));
    }
    let temporary = format!("{RESERVED}{IMPORTED}{}.{:x}", std::process::id(), clock::now());
    let new = New { mode: Some(0o700), owner: None, reachable: config.shares_host_filesystem(), meta: None };
    let unnamed = make::make(&disk, &role, &id, temporary, new)?;
    let mut progress = Progress::new();
    let imported = (|| {
        // So that gc leaves it alone.
        sys::lock(&unnamed.fd, false).because(Cause::Import, || "the new volume".to_owned())?;
        let mut tell = |bytes| progress.say(|| format!("{} read", size(bytes)));
        let stdin: Box<dyn Read> = Box::new(std::io::stdin().lock());
        let (meta, summary) = import::import(stdin, &unnamed.fd, arguments.devices, &mut tell)?;
        let decided =
            Meta { shared: meta.shared, ownership: meta.ownership, size_mb: meta.size_mb, ..Meta::new(&role, &id) };
        meta::write_attribute(&unnamed.fd, &disk, &role, &id, &decided)?;
        sys::sync_filesystem(&unnamed.fd).because(Cause::Import, || "the new volume".to_owned())?;
        unnamed.publish()?;
        Ok((decided, summary))
    })();
    progress.end();
    let (decided, summary) = imported.inspect_err(|_| {
        if let Err(left) = unnamed.abandon() {
            eprintln!("fs-isolator: {left}");
        }
    })?;
    meta::write_beside(&unnamed.fd, &disk, &role, &id, &decided)?;
    let path = disk.path_of(&role, &id);
    if json {
        let created = super::Created { role: &role, id: &id, disk: name, path };
        show::json(&Imported { created, archive: summary })
    } else {
        show::lines(&[path.display().to_string(), told("imported", &summary)])
    }
}

fn told(what: &str, summary: &Summary) -> String {
    format!("{what} {} files, {}, SHA-256 {}", summary.members, size(summary.bytes), summary.sha256)
}

/// Bytes for people.
fn size(bytes: u64) -> String {
    let mib = bytes as f64 / f64::from(1 << 20);
    if mib < 1.0 { format!("{bytes} bytes") } else { format!("{mib:.1} MiB") }
}
