//! Reading the state from standard input, whatever is there instead of one.
#![forbid(unsafe_code)]

use std::io::IsTerminal;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::Mode;

use crate::error::{Cause, Error, Result};
use crate::sys;

/// Largest state that is kept, in bytes: Kubernetes allows 256 KiB of annotations.
pub const LARGEST: usize = 4 << 20;

/// Most that is read at once, in bytes: all that a pipe holds.
const CHUNK: usize = 64 << 10;

/// For how long standard input is read: runtimes write the state at once, and close it.
const PATIENCE: Duration = Duration::from_secs(5);

/// Reads all of standard input.
///
/// What is more than 4 MiB is read on and thrown away until its end or for 5 s, so that the runtime's write does
/// not fail, and is then refused.
///
/// # Errors
/// [`Cause::StateUnreadable`] for a terminal, an end without any data, more than 4 MiB, or no end within 5 s.
pub fn read_state() -> Result<Vec<u8>> {
    let refused = |what: &str| Error::new(Cause::StateUnreadable, what);
    let [stdin, ..] = sys::standard();
    let terminal = || refused("standard input is a terminal");
    // Runtimes write before they wait.
    let mut ready = look()?;
    if ready == Ready::No && stdin.is_terminal() {
        return Err(terminal());
    }
    let mut kept = Vec::new();
    let deadline = Instant::now() + PATIENCE;
    let mut too_large = false;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if ready == Ready::No && !left.is_zero() {
            ready = wait_for(stdin, left)?;
        }
        if ready == Ready::No {
            return Err(refused(if too_large {
                "standard input has more than 4 MiB and does not end"
            } else {
                "standard input did not end within 5 seconds"
            }));
        }
        // Not through std's reader, whose buffer poll would not know.
        match sys::read_more(stdin, &mut kept, CHUNK) {
            Ok(0) => break,
            Ok(count) => {
                if too_large || kept.len() > LARGEST {
                    too_large = true;
                    kept.clear();
                }
                // Nobody writes any more, and this was all there was.
                if ready == Ready::ToItsEnd && count < CHUNK {
                    break;
                }
            }
            Err(Errno::EINTR) => {}
            Err(error) => return Err(refused(&format!("standard input cannot be read: {error}"))),
        }
        ready = Ready::No;
    }
    if too_large {
        return Err(refused("standard input has more than 4 MiB"));
    }
    if kept.is_empty() {
        // A terminal's end of file may have been typed already.
        if stdin.is_terminal() {
            return Err(terminal());
        }
        return Err(refused("standard input is empty or closed"));
    }
    Ok(kept)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ready {
    No,
    Yes,
    /// And nobody can write to it any more.
    ToItsEnd,
}

/// A first look at standard input. Of all three standard descriptors those that are closed become /dev/null, so that no file
/// of this hook gets their numbers and a log line is written into it.
fn look() -> Result<Ready> {
    let [stdin, stdout, stderr] = sys::standard();
    let mut fds = [
        PollFd::new(stdin, PollFlags::POLLIN),
        PollFd::new(stdout, PollFlags::empty()),
        PollFd::new(stderr, PollFlags::empty()),
    ];
    until_told(&mut fds, PollTimeout::ZERO)?;
    for fd in &fds {
        if fd.revents().is_some_and(|events| events.contains(PollFlags::POLLNVAL)) {
            // The lowest number that is free.
            let null = open("/dev/null", OFlag::O_RDWR, Mode::empty()).map_err(cannot_wait)?;
            std::mem::forget(null);
        }
    }
    Ok(ready(&fds[0]))
}

fn wait_for(stdin: BorrowedFd<'_>, wait: Duration) -> Result<Ready> {
    let mut fds = [PollFd::new(stdin, PollFlags::POLLIN)];
    until_told(&mut fds, PollTimeout::try_from(wait).unwrap_or(PollTimeout::MAX))?;
    Ok(ready(&fds[0]))
}

fn until_told(fds: &mut [PollFd<'_>], wait: PollTimeout) -> Result<()> {
    loop {
        match poll(fds, wait) {
            Err(Errno::EINTR) => {}
            answer => return answer.map(drop).map_err(cannot_wait),
        }
    }
}

fn cannot_wait(error: Errno) -> Error {
    Error::new(Cause::StateUnreadable, format!("standard input cannot be waited for: {error}"))
}

fn ready(stdin: &PollFd<'_>) -> Ready {
    match stdin.revents() {
        Some(events) if events.contains(PollFlags::POLLHUP) => Ready::ToItsEnd,
        Some(events) if !events.is_empty() => Ready::Yes,
        _ => Ready::No,
    }
}
