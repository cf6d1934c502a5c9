//! `fs-isolator watch`: what happens to containers, as it happens. The kernel tells of every change under `runtime_dir`
//! (inotify); hooks know nothing of it, and nothing is polled.
#![forbid(unsafe_code)]

mod events;
mod tree;

use std::io::{self, Write};
use std::os::fd::AsFd;

use clap::Args;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::config::Config;
use crate::error::{Cause, Error, Result};
use crate::sys;
pub use events::Event;
use tree::Watched;

/// Arguments.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Begin with what containers have now
    #[arg(long)]
    present: bool,
}

/// Runs the verb, until a signal or until nobody reads any more.
///
/// # Errors
/// [`Cause::ConfigUnsafe`] where `runtime_dir` could be changed by others; [`Cause::RuntimeDir`].
pub fn run(arguments: &Arguments, config: &Config, json: bool) -> Result<()> {
    let doing = || "the kernel's events cannot be read".to_owned();
    let cannot = |errno: Errno| Error::new(Cause::RuntimeDir, format!("{}: {}", doing(), errno.desc()));
    // One descriptor for each record and each log.
    sys::raise_descriptor_limit();
    let mut ends = SigSet::empty();
    [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().for_each(|signal| ends.add(signal));
    ends.thread_block().map_err(cannot)?;
    let signals = SignalFd::with_flags(&ends, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK).map_err(cannot)?;
    let out = io::stdout();
    let mut watched = Watched::begin(config)?;
    let present = watched.look_around()?;
    let mut open = !arguments.present || print(&present, json)?;
    while open {
        let mut fds = [
            PollFd::new(watched.as_fd(), PollFlags::POLLIN),
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
            // Only whether somebody reads: that is always told.
            PollFd::new(out.as_fd(), PollFlags::empty()),
        ];
        match poll(&mut fds, PollTimeout::NONE) {
            Err(Errno::EINTR) => continue,
            answer => answer.map(drop).map_err(cannot)?,
        }
        let has = |index: usize| fds[index].revents().is_some_and(|events| !events.is_empty());
        let ended = has(1) || has(2);
        if has(0) {
            let news = watched.news()?;
            open = print(&news, json)?;
        }
        open &= !ended;
    }
    Ok(())
}

/// Prints events; `false` where nobody reads any more.
fn print(events: &[Event], json: bool) -> Result<bool> {
    let mut out = io::stdout().lock();
    for event in events {
        let line = if json {
            serde_json::to_string(event).map_err(|error| Error::new(Cause::Usage, error.to_string()))?
        } else {
            event.line()
        };
        match writeln!(out, "{line}").and_then(|()| out.flush()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(false),
            answer => answer.map_err(|error| Error::new(Cause::Usage, format!("standard output: {error}")))?,
        }
    }
    Ok(true)
}
