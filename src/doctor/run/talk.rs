//! Talking with the container: lines out of its standard output and into its standard input, with patience, and an ear for
//! signals.
#![forbid(unsafe_code)]

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::error::{Because, Cause, Result};
use crate::sys;

/// Signals that would end this process while it has something to remove.
#[derive(Debug)]
pub struct Signals(SignalFd);

impl Signals {
    /// From here on they wait.
    pub fn block() -> Result<Signals> {
        let set: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().collect();
        set.thread_block()
            .and_then(|()| SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC))
            .map_err(std::io::Error::from)
            .because(Cause::Doctor, || "signals cannot be held back".to_owned())
            .map(Signals)
    }
}

/// What came.
pub enum Heard {
    /// A line, without its end.
    Line(String),
    /// The container has closed its output: it has ended.
    End,
    /// Nothing came in time.
    Late,
    /// This process is to end.
    Signal,
}

/// A container that was started.
pub struct Talk<'s> {
    child: Child,
    input: Option<ChildStdin>,
    output: Option<ChildStdout>,
    heard: Vec<u8>,
    signals: &'s Signals,
}

impl<'s> Talk<'s> {
    /// Starts it, in a process group of its own: a terminal's signals are for this process.
    pub fn start(command: &mut Command, signals: &'s Signals) -> Result<Talk<'s>> {
        use std::os::unix::process::CommandExt;
        sys::unblock_signals(command.process_group(0));
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .because(Cause::Doctor, || command.get_program().to_string_lossy().into_owned())?;
        let (input, output) = (child.stdin.take(), child.stdout.take());
        Ok(Talk { child, input, output, heard: Vec::new(), signals })
    }

    /// Says a line. One that has ended hears nothing, which the next answer shows.
    pub fn say(&mut self, line: &str) {
        if let Some(input) = &mut self.input {
            let _ = input.write_all(format!("{line}\n").as_bytes());
        }
    }

    /// The next line.
    pub fn hear(&mut self, patience: Duration) -> Heard {
        let until = Instant::now() + patience;
        loop {
            if let Some(end) = self.heard.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.heard.drain(..=end).collect();
                return Heard::Line(String::from_utf8_lossy(&line[..end]).into_owned());
            }
            let Some(output) = &mut self.output else { return Heard::End };
            let mut fds = [
                PollFd::new(self.signals.0.as_fd(), PollFlags::POLLIN),
                PollFd::new(output.as_fd(), PollFlags::POLLIN),
            ];
            let left = until.saturating_duration_since(Instant::now());
            match poll(&mut fds, PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO)) {
                Err(Errno::EINTR) => continue,
                Err(_) | Ok(0) => return Heard::Late,
                Ok(_) => {}
            }
            if fds[0].any().unwrap_or(false) {
                return Heard::Signal;
            }
            let mut more = [0; 4096];
            match output.read(&mut more) {
                Ok(0) | Err(_) => return Heard::End,
                Ok(length) => self.heard.extend_from_slice(&more[..length]),
            }
        }
    }

    /// Waits for its end, which comes when nobody asks it any more; ends it after that time.
    pub fn end(&mut self, patience: Duration) {
        self.input = None;
        let until = Instant::now() + patience;
        while !matches!(self.child.try_wait(), Ok(Some(_)) | Err(_)) {
            if Instant::now() > until {
                // It is waited for below.
                let _ = self.child.kill();
                let _ = self.child.wait();
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Talk<'_> {
    fn drop(&mut self) {
        self.end(Duration::from_secs(10));
    }
}
