//! prestart: attaches what the container asks for, or leaves nothing behind and fails.
#![forbid(unsafe_code)]

use std::fs::File;
use std::os::fd::OwnedFd;

use crate::attach::HostRoot;
use crate::config::Config;
use crate::container::State;
use crate::error::{Because, Cause, Error, Result};
use crate::init::Live;
use crate::intake::{self, Bundle};
use crate::isolator::{self, Job};
use crate::plan::{Plan, Sandbox};
use crate::record::{self, Header, Line, Record, SandboxRecord};
use crate::runtime_dir::{Open, RuntimeDir};
use crate::trusted::Missing;
use crate::volume::Store;
use crate::{sandbox, sys, undo};

/// Runs the hook.
///
/// # Errors
/// Every cause there is; nothing is left behind then.
pub fn run(state: &State, config: &Config, name: &str) -> Result<()> {
    let proc_fds = sys::open_proc_fds().because(Cause::Pid, || "/proc is not mounted".to_owned())?;
    let bundle = Bundle::open(&state.bundle, &proc_fds)?;
    let plan = intake::plan(&state.id, &state.annotations, &bundle.path, &bundle.config, config)?;
    let Some(plan) = plan else { return Ok(()) };
    let live = Live::open(state.init_pid()?)?;
    let host_root = HostRoot::find(&bundle.fd, &bundle.path, &bundle.config.root)?;
    let runtime = RuntimeDir::open(&config.runtime_dir)?;
    let Some(mut record) = open_record(&runtime, name, &live, config)? else { return Ok(()) };
    let answer = execute(state, config, &plan, &live, &host_root, &runtime, &mut record, &proc_fds);
    match answer {
        Ok(()) => {
            drop(record);
            undo::reap(&runtime, name, live.init.start, &config.work_dir);
            Ok(())
        }
        Err(error) => {
            if let Err(left) = undo::undo(&runtime, record, &config.work_dir) {
                left.iter().for_each(|left| log::error!("{}", left.clone().container(&state.id)));
            }
            Err(error)
        }
    }
}

/// Opens this container's record; `None` where this very init has been served already (a hook that is registered
/// at two stages).
fn open_record(runtime: &RuntimeDir, name: &str, live: &Live, config: &Config) -> Result<Option<Record>> {
    loop {
        let Some(record) = Record::open(runtime, name, Open::Create)? else { continue };
        let Some(header) = &record.header else { return Ok(Some(record)) };
        if header.init == live.init {
            if record.attachments().is_some() {
                return Ok(None);
            }
        } else if header.init.lives()? {
            return Err(Error::new(
                Cause::RecordConflict,
                format!("process {} lives, with the same id and bundle", header.init.pid),
            ));
        }
        // An earlier attempt that was killed, or a container that is gone and whose poststop has not come.
        undo::undo(runtime, record, &config.work_dir).map_err(|mut errors| errors.remove(0))?;
    }
}

#[allow(clippy::too_many_arguments)]
fn execute(
    state: &State,
    config: &Config,
    plan: &Plan,
    live: &Live,
    host_root: &HostRoot,
    runtime: &RuntimeDir,
    record: &mut Record,
    proc_fds: &OwnedFd,
) -> Result<()> {
    let store = Store::open(&config.work_dir, Missing::Make(0o755))?
        .ok_or_else(|| Error::new(Cause::Sandbox, format!("{} cannot be made", config.work_dir.display())))?;
    let own = match plan.sandbox {
        Sandbox::Own => Some(sandbox::Own::find(&store, plan.manager, &record.name)?),
        _ => None,
    };
    let sandbox = match (&own, &plan.sandbox) {
        (Some(own), _) => Some(SandboxRecord {
            path: own.path.to_string_lossy().into_owned(),
            made: own.missing,
            remove_at_stop: plan.sandbox_retention == 0,
        }),
        (None, Sandbox::WorkingDirectory(path)) => {
            Some(SandboxRecord { path: path.clone(), made: false, remove_at_stop: false })
        }
        (None, _) => None,
    };
    record.begin(Header {
        version: record::VERSION,
        id: state.id.clone(),
        bundle: state.bundle.clone(),
        manager: plan.manager,
        identity: plan.identity.clone(),
        isolator: plan.isolator,
        init: live.init.clone(),
        own_pid_namespace: plan.own_pid_namespace,
        root: record::Base { path: host_root.path.to_string_lossy().into_owned(), id: host_root.id },
        sandbox,
    })?;
    let home: OwnedFd =
        File::open("/proc/self/ns/mnt").because(Cause::AttachFailed, || "/proc/self/ns/mnt".to_owned())?.into();
    let mut job = Job {
        plan,
        config,
        live,
        home: &home,
        host_root,
        store: &store,
        sandbox: own.as_ref(),
        runtime,
        record,
        proc_fds,
    };
    let attachments = isolator::attach(&mut job)?;
    record.add(Line::Done { attachments })
}
