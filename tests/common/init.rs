//! A container's init without a runtime: a process in a mount and a pid namespace of its own that waits, as runtimes
//! let it, until hooks are done, and then goes into its root filesystem. It costs a tenth of a runtime's container, so
//! that hooks can be run on thousands.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::common::*;

/// What runtimes do: the root filesystem becomes a mount in the container's namespace; after the hooks all is made
/// private, as crun does, and the root filesystem becomes the root.
const SCRIPT: &str = "mount --rbind $1 $1\n\
                      read pid rest < /proc/self/stat\n\
                      echo $pid\n\
                      read go || exit\n\
                      mount --make-rprivate /\n\
                      cd $1 && pivot_root . . && /bin/busybox umount -l . && echo gone && exec /bin/busybox sleep 1000";

pub struct Init {
    child: Child,
    output: BufReader<ChildStdout>,
    rootfs: PathBuf,
    pub pid: i32,
}

impl Init {
    /// An init whose hooks are to come.
    pub fn waiting(rootfs: &Path) -> Init {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "slave", "--pid", "--fork", "--kill-child", "--", "busybox", "sh"]);
        command.args(["-c", SCRIPT, "init"]).arg(rootfs).stdin(Stdio::piped()).stdout(Stdio::piped());
        // Some versions complain that they had nothing to unblock.
        command.stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let mut init = Init { child, output, rootfs: rootfs.to_owned(), pid: 0 };
        init.pid = init.line().parse().unwrap();
        init
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// Lets it go into its root filesystem.
    pub fn go(&mut self) {
        self.child.stdin.take().unwrap().write_all(b"go\n").unwrap();
        assert_eq!(self.line(), "gone");
        self.rootfs = PathBuf::from("/");
    }

    pub fn lives(&self) -> bool {
        is_alive(self.pid)
    }

    /// Whether it ends within a second, without being told to from here.
    pub fn ends(&self) -> bool {
        (0..200).any(|_| {
            std::thread::sleep(Duration::from_millis(5));
            !self.lives()
        })
    }

    /// A path of the container, seen from the host. It must have no links on its way.
    pub fn path(&self, path: &Path) -> PathBuf {
        let below = |path: &Path| path.strip_prefix("/").unwrap().to_owned();
        Path::new("/proc").join(self.pid.to_string()).join("root").join(below(&self.rootfs)).join(below(path))
    }

    /// What is mounted in the container, without what differs between looks.
    pub fn mounts(&self) -> Vec<String> {
        let table = std::fs::read_to_string(format!("/proc/{}/mountinfo", self.pid)).unwrap();
        table.lines().map(strip_ids).collect()
    }

    /// What it has open.
    pub fn descriptors(&self) -> Vec<String> {
        names(&Path::new("/proc").join(self.pid.to_string()).join("fd"))
    }

    /// Ends it, and waits until it has ended.
    pub fn end(self) {
        drop(self);
    }
}

impl Drop for Init {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.pid), Signal::SIGKILL);
        let _ = self.child.wait();
    }
}
