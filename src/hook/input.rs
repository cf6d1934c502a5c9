//! Reading the state from standard input, whatever is there instead of one.
#![forbid(unsafe_code)]

use std::io::{IsTerminal, Read};
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
    if stdin.is_terminal() {
        return Err(refused("standard input is a terminal"));
    }
    // A descriptor of its own, since std's is buffered and poll would not know.
    let fd = stdin.as_fd().try_clone_to_owned().map_err(|_| refused("standard input is closed"))?;
    let mut file = std::fs::File::from(fd);
    let mut kept = Vec::with_capacity(16 << 10);
    let mut chunk = vec![0; 64 << 10];
    let deadline = Instant::now() + PATIENCE;
    let mut too_large = false;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || !is_ready(&file, left)? {
            return Err(refused(if too_large {
                "standard input has more than 4 MiB and does not end"
            } else {
                "standard input did not end within 5 seconds"
            }));
        }
        match file.read(&mut chunk) {
            Ok(0) => break,
            Ok(_) if too_large => {}
            Ok(count) if kept.len() + count > LARGEST => too_large = true,
            Ok(count) => kept.extend_from_slice(&chunk[..count]),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(refused(&format!("standard input cannot be read: {error}"))),
        }
    }
    if too_large {
        return Err(refused("standard input has more than 4 MiB"));
    }
    if kept.is_empty() {
        return Err(refused("standard input is empty or closed"));
    }
    Ok(kept)
}

fn is_ready(file: &std::fs::File, wait: Duration) -> Result<bool> {
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
            Ok(ready) => return Ok(ready > 0),
        }
    }
}
