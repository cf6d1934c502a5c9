//! Reading the state from standard input, whatever is there instead of one.
#![forbid(unsafe_code)]

use std::io::IsTerminal;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::error::{Cause, Error, Result};

/// Largest state that is kept, in bytes: Kubernetes allows 256 KiB of annotations.
pub const LARGEST: usize = 4 << 20;

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
    let stdin = std::io::stdin();
    let terminal = || refused("standard input is a terminal");
    // Runtimes write before they wait.
    let mut ready = wait_for(&stdin, Duration::ZERO)?;
    if ready == Ready::No && stdin.is_terminal() {
        return Err(terminal());
    }
    let mut kept = Vec::with_capacity(16 << 10);
    let mut chunk = vec![0; 64 << 10];
    let deadline = Instant::now() + PATIENCE;
    let mut too_large = false;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if ready == Ready::No && !left.is_zero() {
            ready = wait_for(&stdin, left)?;
        }
        if ready == Ready::No {
            return Err(refused(if too_large {
                "standard input has more than 4 MiB and does not end"
            } else {
                "standard input did not end within 5 seconds"
            }));
        }
        // Not through std's reader, whose buffer poll would not know.
        match nix::unistd::read(&stdin, &mut chunk) {
            Ok(0) => break,
            Ok(count) => {
                if too_large || kept.len() + count > LARGEST {
                    too_large = true;
                } else {
                    kept.extend_from_slice(&chunk[..count]);
                }
                // Nobody writes any more, and this was all there was.
                if ready == Ready::ToItsEnd && count < chunk.len() {
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

fn wait_for(file: impl AsFd, wait: Duration) -> Result<Ready> {
    let wait = PollTimeout::try_from(wait).unwrap_or(PollTimeout::MAX);
    loop {
        let mut fds = [PollFd::new(file.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, wait) {
            Err(Errno::EINTR) => {}
            Err(error) => {
                return Err(Error::new(
                    Cause::StateUnreadable,
                    format!("standard input cannot be waited for: {error}"),
                ));
            }
            Ok(0) => return Ok(Ready::No),
            Ok(_) if fds[0].revents().is_some_and(|events| events.contains(PollFlags::POLLHUP)) => {
                return Ok(Ready::ToItsEnd);
            }
            Ok(_) => return Ok(Ready::Yes),
        }
    }
}
