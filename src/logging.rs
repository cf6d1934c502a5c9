//! The log: each line on standard error, where runc shows it, in the container's file under `<runtime_dir>/log`, since
//! crun discards standard error, and in the host's journal.
//!
//! The level comes from the configuration, never from the environment.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock};

use nix::errno::Errno;
use nix::fcntl::OFlag;

use crate::config::Config;
use crate::error::{Because, Cause, Error, Result};
use crate::journal::{Entry, Journal};
use crate::runtime_dir::{self, RuntimeDir};
use crate::trusted::{self, Missing};
use crate::{clock, steps, sys};

/// A container's log is memory: at this size, in bytes, it starts over.
const LARGEST: u64 = 64 << 10;

static ON: AtomicBool = AtomicBool::new(false);
static PLACE: Mutex<Option<Place>> = Mutex::new(None);

/// What the next line tells of, for the journal's fields.
static REFUSAL: Mutex<Option<Error>> = Mutex::new(None);

#[derive(Debug)]
struct Place {
    runtime_dir: PathBuf,
    name: String,
    file: Option<File>,
}

/// Whether log lines go anywhere yet.
pub fn is_on() -> bool {
    ON.load(Ordering::Relaxed)
}

/// Starts the log of one container. Its file is made with the first line.
pub fn start(program: &'static str, config: &Config, name: &str) {
    if let Ok(mut place) = PLACE.lock() {
        *place = Some(Place { runtime_dir: config.runtime_dir.clone(), name: name.to_owned(), file: None });
    }
    let inner = env_logger::Builder::new()
        .filter_level(config.log_level)
        .format(move |out, line| {
            let level = line.level().as_str().to_lowercase();
            writeln!(out, "{program}: {level}: {}", line.args())
        })
        .target(env_logger::Target::Pipe(Box::new(Both)))
        .build();
    log::set_max_level(inner.filter());
    let container = name.rsplit_once('.').map_or(name, |(id, _)| id).to_owned();
    let logger = Logger { inner, program, container, wants_journal: config.journal, journal: OnceLock::new() };
    ON.store(log::set_boxed_logger(Box::new(logger)).is_ok(), Ordering::Relaxed);
}

/// Logs why the hook fails. The container's file says too what its steps took until then.
pub fn refused(error: &Error) {
    if let Ok(mut refusal) = REFUSAL.lock() {
        *refusal = Some(error.clone());
    }
    log::error!("{error}");
}

/// Logs what the steps of a hook took that has succeeded, where somebody asks for that much. A container that is gone gets
/// no new file for it.
pub fn done(is_gone: bool) {
    if !log::log_enabled!(log::Level::Debug) {
        return;
    }
    if is_gone && let Ok(mut place) = PLACE.lock() {
        *place = None;
    }
    log::debug!("done in {}", steps::describe(&steps::so_far()));
}

/// Standard error and the file by way of env_logger, and the journal.
struct Logger {
    inner: env_logger::Logger,
    program: &'static str,
    container: String,
    wants_journal: bool,
    journal: OnceLock<Journal>,
}

impl log::Log for Logger {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        self.inner.enabled(metadata)
    }

    fn log(&self, line: &log::Record<'_>) {
        if !self.inner.matches(line) {
            return;
        }
        self.inner.log(line);
        if self.wants_journal {
            let refusal = REFUSAL.lock().ok().and_then(|refusal| refusal.clone());
            self.journal.get_or_init(Journal::open).send(&Entry {
                level: line.level(),
                program: self.program,
                container: &self.container,
                message: &line.args().to_string(),
                error: refusal.as_ref(),
                microseconds: steps::since_begin(),
            });
        }
    }

    fn flush(&self) {}
}

/// Removes the container's log when the container is gone, unless an error stands in it: on crun it is the only place
/// that says why. Most containers never had one.
pub fn discard(runtime: &RuntimeDir, name: &str) {
    let Ok(log) = sys::open_place(&runtime.root, "log".as_ref(), sys::Resolve::BeneathNoLinks) else { return };
    let Ok(fd) = sys::open_file_at(&log, name, OFlag::O_RDONLY, 0) else { return };
    // What cannot be read is better kept.
    let harmless = crate::read::at_most(fd.into(), 2 * LARGEST)
        .is_ok_and(|text| !String::from_utf8_lossy(&text).contains(": error: "));
    if harmless {
        let _ = sys::unlink_at(&log, name.as_ref(), false);
    }
}

/// Removes logs that no record speaks of and that nobody has written to for so many seconds, and tells of which.
///
/// # Errors
/// [`Cause::RuntimeDir`].
pub fn collect(config: &Config, seconds: u64) -> Result<Vec<String>> {
    let mut removed = Vec::new();
    // Where every container was refused early there are logs and no records.
    let Some(root) = trusted::open_dir(&config.runtime_dir, Missing::Tell)? else { return Ok(removed) };
    let doing = || "logs cannot be listed".to_owned();
    let log = match sys::open_dir(&root, "log".as_ref(), sys::Resolve::BeneathNoLinks) {
        Err(error) if error.errno == Errno::ENOENT => return Ok(removed),
        answer => answer.because(Cause::RuntimeDir, doing)?,
    };
    let before = i64::try_from(clock::now().saturating_sub(seconds)).unwrap_or(0);
    for name in crate::tree::names(&log).because(Cause::RuntimeDir, doing)? {
        let name = name.to_string_lossy();
        let modified = sys::open_file_at(&log, &*name, OFlag::O_RDONLY, 0).and_then(sys::modified);
        let is_recorded = sys::stat_at(&root, &format!("records/{name}")).is_ok();
        if modified.is_ok_and(|modified| modified <= before) && !is_recorded {
            sys::unlink_at(&log, name.as_ref().as_ref(), false).because(Cause::RuntimeDir, doing)?;
            removed.push(name.into_owned());
        }
    }
    Ok(removed)
}

/// Writes to both places; a log that cannot be written stops nothing.
struct Both;

impl Write for Both {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let _ = io::stderr().write_all(line);
        if let Ok(mut place) = PLACE.lock()
            && let Some(place) = place.as_mut()
        {
            if place.file.is_none() {
                place.file = place.open();
            }
            if let Some(file) = &mut place.file {
                let now = clock::utc(clock::now());
                let took = steps::milliseconds(steps::since_begin());
                let mut text = format!("{now} +{took}ms {}", String::from_utf8_lossy(line));
                if REFUSAL.lock().is_ok_and(|refusal| refusal.is_some()) {
                    text.push_str(&format!("{now} +{took}ms steps: {}\n", steps::describe(&steps::so_far())));
                }
                let _ = file.write_all(text.as_bytes());
            }
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A log without a record is removed when it is as old as this, in seconds.
const OLD: i64 = 86_400;

/// Most logs of other containers that one new log looks at.
const LOOKED_AT: usize = 16;

impl Place {
    /// Each new log makes up for an old one: crun runs no poststop for a container that was refused.
    fn remove_some_old(&self, root: &OwnedFd, directory: &OwnedFd) {
        let now = i64::try_from(clock::now()).unwrap_or(0);
        let records = sys::open_place(root, "records".as_ref(), sys::Resolve::BeneathNoLinks);
        let (Ok(records), Ok(names)) = (records, crate::tree::some_names(directory, LOOKED_AT)) else { return };
        for name in names.iter().filter_map(|name| name.to_str()) {
            let old = sys::open_file_at(directory, name, OFlag::O_RDONLY, 0)
                .and_then(sys::modified)
                .is_ok_and(|modified| modified < now - OLD);
            if old && sys::stat_at(&records, name).is_err() {
                // It may have been removed by another hook.
                let _ = sys::unlink_at(directory, name.as_ref(), false);
            }
        }
    }

    fn open(&self) -> Option<File> {
        let root = runtime_dir::make_root(&self.runtime_dir).ok()?;
        let directory: OwnedFd = runtime_dir::subdirectory(&root, "log").ok()?;
        if sys::stat_at(&directory, &self.name).is_err() {
            self.remove_some_old(&root, &directory);
        }
        let flags = OFlag::O_WRONLY | OFlag::O_APPEND | OFlag::O_CREAT;
        let file = File::from(sys::open_file_at(&directory, &self.name, flags, 0o600).ok()?);
        if file.metadata().ok()?.len() > LARGEST {
            file.set_len(0).ok()?;
        }
        Some(file)
    }
}
