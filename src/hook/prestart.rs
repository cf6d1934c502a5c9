//! prestart: attaches what the container asks for, or leaves nothing behind and fails.
#![forbid(unsafe_code)]

use crate::attach::{HostRoot, Phase};
use crate::config::Config;
use crate::config::disks::ROOT;
use crate::container::State;
use crate::error::{Because, Cause, Error, Result};
use crate::init::{self, Life, Live};
use crate::intake::{self, Bundle};
use crate::isolator::{self, Job, Outcome};
use crate::plan::{Origin, Plan};
use crate::record::{self, Base, Header, Line, Record};
use crate::runtime_dir::{Open, RuntimeDir};
use crate::trusted::Missing;
use crate::volume::{self, DiskChoice, Disks};
use crate::{steps, sys, undo};

/// Two containers that make one missing volume at once are both served; so many are too.
const TRIES: usize = 8;

/// Runs the hook.
///
/// # Errors
/// Every cause there is; nothing is left behind then.
pub fn run(state: &State, config: &Config, name: &str) -> Result<()> {
    let proc_fds = sys::open_proc_fds().because(Cause::Pid, || "/proc is not mounted".to_owned())?;
    let bundle = Bundle::open(&state.bundle, &proc_fds)?;
    let plan = intake::plan(&state.id, &state.annotations, &bundle.path, &bundle.config, config)?;
    let Some(plan) = plan else { return Ok(()) };
    steps::done("plan");
    let live = Live::open(state.init_pid()?, plan.user_namespace)?;
    let home = init::own_mount_namespace()?;
    let host_root = HostRoot::find(&bundle.fd, &bundle.path, &bundle.config.root)?;
    let disks = Disks::new(config);
    open_work_dir(&plan, &disks)?;
    disks.refuse_agent()?;
    let runtime = RuntimeDir::open(&config.runtime_dir)?;
    let life = Life::of(&live.init, plan.own_pid_namespace);
    let mut tries = 0;
    loop {
        let Some(mut record) = open_record(&runtime, name, &live, config)? else { return Ok(()) };
        let mut job = Job {
            plan: &plan,
            config,
            live: &live,
            home: &home,
            host_root: &host_root,
            disks: &disks,
            life: &life,
            container: (&state.id, &state.bundle),
            runtime: &runtime,
            record: &mut record,
            phase: Phase::Starting,
            sandbox: None,
            bundle: &bundle.config,
            proc_fds: &proc_fds,
        };
        let error = match execute(state, &mut job) {
            Ok(open) => {
                // The process ends, and with it all that is open: closing each costs a system call.
                std::mem::forget((open, record, runtime, disks, live, home, bundle, proc_fds));
                return Ok(());
            }
            Err(error) => error,
        };
        if let Err(left) = undo::undo(&runtime, record, config) {
            left.into_iter().for_each(|left| log::error!("{}", left.container(&state.id)));
            return Err(error);
        }
        tries += 1;
        // Another container made the same missing volume at the same time: now it is there.
        if error.cause() != Cause::VolumeExists || tries == TRIES {
            return Err(error);
        }
    }
}

/// Opens `work_dir`, and makes it only for a container that does not ask for a volume in it.
fn open_work_dir(plan: &Plan, disks: &Disks<'_>) -> Result<()> {
    if disks.work_dir(Missing::Tell)?.is_some() {
        return Ok(());
    }
    for attachment in &plan.attachments {
        if let (Origin::Volume { role, id, disk, .. }, false) = (&attachment.from, plan.create_missing_volumes)
            && matches!(disk, DiskChoice::One(name) if name == ROOT)
        {
            return Err(attachment.named(volume::unavailable(role, id, disk)));
        }
    }
    disks.make_work_dir().map(drop)
}

/// Opens this container's record; `None` where this very init has been served already (a hook that is registered
/// at two stages).
fn open_record(runtime: &RuntimeDir, name: &str, live: &Live, config: &Config) -> Result<Option<Record>> {
    loop {
        let Some(record) = Record::open(runtime, name, Open::Create)? else { continue };
        let Some(header) = &record.header else { return Ok(Some(record)) };
        if header.life.init == live.init {
            if record.attachments().is_some() {
                return Ok(None);
            }
        } else if header.life.may_last()? {
            return Err(Error::new(
                Cause::RecordConflict,
                format!(
                    "process {} lives, or others of its container, with the same id and bundle",
                    header.life.init.pid
                ),
            ));
        }
        // An earlier attempt that was killed, or a container that is gone and whose poststop has not come.
        undo::undo(runtime, record, config).map_err(|mut errors| {
            let last = errors.pop();
            errors.iter().for_each(|error| log::error!("{error}"));
            last.unwrap_or_else(|| Error::new(Cause::UndoIncomplete, "an earlier container cannot be undone"))
        })?;
    }
}

/// Writes down who and where, executes the plan, and writes down that it is done. Gives back what is open still.
fn execute(state: &State, job: &mut Job<'_>) -> Result<impl Sized + use<>> {
    steps::done("record");
    let root = Base { path: job.host_root.path.to_string_lossy().into_owned(), id: job.host_root.id };
    job.record.begin(Header {
        version: record::VERSION,
        id: state.id.clone(),
        bundle: state.bundle.clone(),
        manager: job.plan.manager,
        identity: job.plan.identity.clone(),
        isolator: job.plan.isolator,
        life: job.life.clone(),
        root,
    })?;
    let Outcome { attached: attachments, open } = isolator::attach(job)?;
    let binds = job.plan.follow.clone();
    steps::done("attach");
    job.record.add(Line::Done { attachments, binds, steps: steps::so_far() })?;
    Ok(open)
}
