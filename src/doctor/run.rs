//! `doctor --run`: a throw-away volume, and a throw-away container with it under each runtime and by podman.
//!
//! The container is this program in a root filesystem of its own. It ends when nobody holds the other end of its standard
//! input any more: killed at any point, this leaves a directory and a volume, which `reconcile` removes, and no container.
#![forbid(unsafe_code)]

mod container;
mod place;
pub mod probe;
mod talk;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::hooks_d::Hook;
use super::runtimes::Program;
use super::{Check, Finding};
use crate::config::{Config, Isolator};
use crate::error::{Because, Cause, Error, Result};
use crate::lease::Leases;
use crate::me::me;
use crate::runtime_dir::RuntimeDir;
use crate::sys::{self, Resolve};
use crate::{tree, undo};
use container::Container;
use place::Place;
pub use place::{clean, leftovers};
use talk::{Heard, Signals, Talk};

/// Within so long every answer comes, on the slowest machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// Within so long poststart has mended what the runtime took, and poststop has come.
const SOON: Duration = Duration::from_secs(10);

/// Between two looks.
const STEP: Duration = Duration::from_millis(50);

/// What was seen with one runtime. `null` is what could not be tried.
#[derive(Debug, Default, Serialize, schemars::JsonSchema)]
pub struct Proof {
    /// Who ran the container: runc, crun or podman.
    pub by: &'static str,
    /// The volume was in the container, with what the host wrote, and the host saw what the container wrote.
    pub volume: Option<bool>,
    /// A mount that the host made later below the volume appeared in the container.
    pub slave: Option<bool>,
    /// A mount that the container made below the volume did not appear on the host.
    pub contained: Option<bool>,
    /// After its end nothing of it was left.
    pub freed: Option<bool>,
    /// Milliseconds until the container had its volume.
    pub start_ms: Option<u64>,
    /// Microseconds that prestart took; podman calls hooks itself, so that it cannot be told.
    pub prestart_us: Option<u64>,
    /// The same of poststart.
    pub poststart_us: Option<u64>,
    /// The same of poststop.
    pub poststop_us: Option<u64>,
}

/// Proves everything that can be. `directories` are those of hooks.d files that count, if not those of podman's
/// configuration.
///
/// # Errors
/// Where nothing can be tried, or it was interrupted; what was made is gone all the same.
pub fn run(
    file: Option<&Path>,
    config: &Config,
    programs: &[Program],
    hooks: &[Hook],
    directories: &[PathBuf],
    findings: &mut Vec<Finding>,
) -> Result<Vec<Proof>> {
    if me().user.is_some() {
        return Err(Error::new(Cause::Usage, "--run needs root of the host").remedy("sudo fs-isolator doctor --run"));
    }
    if config.isolation != Isolator::Linux && !config.allowed_isolation.contains(&Isolator::Linux) {
        return Err(Error::new(Cause::NotSupported, "--run proves filesystem/linux, which no container may have here")
            .remedy("set \"isolation\" or \"allowed_isolation\" in the configuration"));
    }
    let signals = Signals::block()?;
    for fault in clean(config).faults {
        findings.push(Finding::of(Check::RunLeftover, &fault, config.work_dir.join(place::FOLDER).display()));
    }
    let place = Place::make(file, config)?;
    let mut proofs = Vec::new();
    let mut failure = None;
    for program in programs.iter().filter(|program| program.name != "crio") {
        let container = Container::new(&place, program, config, hooks, directories);
        match prove(&place, &container, &signals, config, findings) {
            Ok(proof) => proofs.push(proof),
            Err(error) => {
                failure = Some(error);
                break;
            }
        }
    }
    let removed = place.remove();
    failure.map_or(Ok(()), Err)?;
    removed.map(|_| proofs)
}

fn prove(
    place: &Place<'_>,
    container: &Container<'_>,
    signals: &Signals,
    config: &Config,
    findings: &mut Vec<Finding>,
) -> Result<Proof> {
    let proof = Proof { by: container.name(), ..Proof::default() };
    let mut attempt = Attempt { place, container, config, ids: vec![container.id.clone()], proof, findings };
    let ran = attempt.ask(signals);
    let Attempt { mut ids, mut proof, .. } = attempt;
    ids.extend(container.id_of_podman());
    let logs = place.logs(&ids, config);
    container.force_removal();
    place.unmount()?;
    undo(config, &ids);
    place.forget_logs(&ids, config)?;
    [proof.prestart_us, proof.poststart_us, proof.poststop_us] = container.times();
    match ran {
        Ok(()) => {}
        Err(Stop::Signal) => {
            return Err(
                Error::new(Cause::Doctor, "--run was interrupted").remedy("run it again; what it made is removed")
            );
        }
        Err(Stop::Failed(why)) => findings.push(
            Finding::new(Check::RunFailed, container.why_it_failed(&why, &logs), container.name())
                .why("containers that ask for volumes do not run here")
                .remedy("mend what else is found; where nothing is, look at what the runtime says"),
        ),
    }
    Ok(proof)
}

/// Undoes what hooks left that were told of.
fn undo(config: &Config, ids: &[String]) {
    let Ok(Some(runtime)) = RuntimeDir::open_existing(&config.runtime_dir) else { return };
    for name in records_of(&runtime, ids).unwrap_or_default() {
        // What stays is found by reconcile, and by this command the next time.
        let _ = undo::reap_one(&runtime, &name, config, true);
    }
}

/// Why an attempt did not come to its end.
enum Stop {
    /// This process is to end.
    Signal,
    /// The container did not do its part.
    Failed(String),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Stop {
        Stop::Failed(error.to_string())
    }
}

/// One container, and what is seen of it.
struct Attempt<'a> {
    place: &'a Place<'a>,
    container: &'a Container<'a>,
    config: &'a Config,
    /// What its records and logs are named by.
    ids: Vec<String>,
    proof: Proof,
    findings: &'a mut Vec<Finding>,
}

/// The next answer.
fn answer(talk: &mut Talk<'_>) -> std::result::Result<String, Stop> {
    match talk.hear(PATIENCE) {
        Heard::Line(line) => Ok(line),
        Heard::Signal => Err(Stop::Signal),
        Heard::End | Heard::Late => Err(Stop::Failed("it ended before its time".to_owned())),
    }
}

impl Attempt<'_> {
    fn tell(&mut self, check: Check, what: &str, why: &str, remedy: &str) {
        self.findings.push(Finding::new(check, what, self.proof.by).why(why).remedy(remedy));
    }

    /// Goes through it all. The container ends when this does.
    fn ask(&mut self, signals: &Signals) -> std::result::Result<(), Stop> {
        let nonce = format!("{}-{:x}", self.container.id, crate::clock::now());
        self.place.write(probe::FROM_HOST, &nonce)?;
        let begin = Instant::now();
        let mut talk = self.container.start(&nonce, signals)?;
        let said = answer(&mut talk)?;
        self.ids.extend(self.place.holders()?);
        if said != probe::ARRIVED || self.place.read(probe::FROM_CONTAINER).as_deref() != Some(&nonce) {
            return self.without_volume(&mut talk, &said);
        }
        self.proof.volume = Some(true);
        self.proof.start_ms = u64::try_from(begin.elapsed().as_millis()).ok();
        self.propagation(&mut talk)?;
        talk.say(probe::END);
        talk.end(PATIENCE);
        self.end()
    }

    fn without_volume(&mut self, talk: &mut Talk<'_>, said: &str) -> std::result::Result<(), Stop> {
        self.proof.volume = Some(false);
        // poststart ends what was not served, and says so.
        if let Heard::End = talk.hear(SOON / 4) {
            return Err(Stop::Failed(format!("it did not have its volume, and was ended: {said}")));
        }
        self.tell(
            Check::RunNoVolume,
            &format!("the container ran without its volume: {said}"),
            "what containers write is lost with them, and nobody says so",
            "mend what else is found about the hooks; fs-isolator install puts them where they are read",
        );
        Ok(())
    }

    fn propagation(&mut self, talk: &mut Talk<'_>) -> std::result::Result<(), Stop> {
        self.place.mount()?;
        let begin = Instant::now();
        // poststart comes while the container runs already, and where crun took propagation away it gives it back.
        let seen = loop {
            talk.say(probe::LOOK);
            if answer(talk)? == probe::YES {
                break true;
            }
            if begin.elapsed() > SOON {
                break false;
            }
            std::thread::sleep(STEP);
        };
        self.proof.slave = Some(seen);
        if !seen {
            self.tell(
                Check::RunNoSlave,
                "a later mount of the host did not appear in the container",
                "a disk that the host mounts below a volume is not there for containers that run",
                "make the mount of work_dir shared (see private-mount), and install all three hooks",
            );
        }
        talk.say(probe::MOUNT);
        if answer(talk)? == probe::YES {
            let leaks = self.place.has_mount(probe::INSIDE)?;
            self.proof.contained = Some(!leaks);
            if leaks {
                self.tell(
                    Check::RunLeak,
                    "a mount of the container appeared on the host",
                    "a container can change what the host and other containers see",
                    "take rshared binds and rootfsPropagation out of the runtime's and the engine's set-up",
                );
            }
        }
        Ok(self.place.unmount()?)
    }

    fn end(&mut self) -> std::result::Result<(), Stop> {
        let freed = wait(|| Ok(self.place.holders()?.is_empty() && !has_record(self.config, &self.ids)?))?;
        self.proof.freed = Some(freed);
        if !freed {
            self.tell(
                Check::RunNotFreed,
                "after its end the container still held its volume",
                "poststop was not called: mount points and sandboxes stay, until somebody reconciles",
                "install poststop (see hooks-incomplete); then fs-isolator reconcile",
            );
        }
        Ok(())
    }
}

fn wait(is_so: impl Fn() -> Result<bool>) -> Result<bool> {
    let begin = Instant::now();
    while !is_so()? {
        if begin.elapsed() > SOON {
            return Ok(false);
        }
        std::thread::sleep(STEP);
    }
    Ok(true)
}

/// Whether a record is left of one of these containers.
fn has_record(config: &Config, ids: &[String]) -> Result<bool> {
    let Some(runtime) = RuntimeDir::open_existing(&config.runtime_dir)? else { return Ok(false) };
    Ok(!records_of(&runtime, ids)?.is_empty())
}

fn records_of(runtime: &RuntimeDir, ids: &[String]) -> Result<Vec<String>> {
    let names = tree::names(&runtime.records).because(Cause::RuntimeDir, || "records cannot be listed".to_owned())?;
    let names = names.into_iter().filter_map(|name| name.into_string().ok());
    Ok(names.filter(|name| is_of(name, ids)).collect())
}

/// Whether a record or log is of one of these containers, see [`crate::record::name`].
fn is_of(name: &str, ids: &[String]) -> bool {
    name.rsplit_once('.').is_some_and(|(container, _)| ids.iter().any(|id| id == container))
}

impl Place<'_> {
    /// Containers that hold the volume, by id; also those whose end nobody has written down.
    fn holders(&self) -> Result<Vec<String>> {
        let Some(leases) = Leases::open_existing()? else { return Ok(Vec::new()) };
        let mine = leases.all()?.into_iter().filter(|lease| lease.volume == self.volume.id);
        Ok(mine.filter(|lease| lease.role == self.volume.role).map(|lease| lease.id).collect())
    }

    /// Whether something is mounted in the volume under this name, as the host sees it.
    fn has_mount(&self, name: &str) -> Result<bool> {
        sys::open_place(&self.volume.fd, Path::new(name), Resolve::BeneathNoLinks)
            .and_then(sys::stat)
            .because(Cause::VolumeUnsafe, || name.to_owned())
            .map(|stat| stat.mount_root)
    }
}
