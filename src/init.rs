//! A container's init: which process it is, and whether it still lives.
#![forbid(unsafe_code)]

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::OnceLock;

use nix::errno::Errno;

use crate::error::{Because, Cause, Error, Result};
use crate::ids::UserNamespace;
use crate::{cgroup, read, sys};

/// A process, told apart from any later one with the same number.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Init {
    /// Process id in the hook's pid namespace.
    pub pid: i32,
    /// Start time in clock ticks since boot (proc(5), stat field 22).
    pub start: u64,
    /// `/proc/sys/kernel/random/boot_id` when it was seen.
    pub boot: String,
    /// Inode of the pid namespace in which it has that id: in another nobody can tell whether it lives.
    #[serde(default)]
    pub namespace: u64,
}

/// What can be seen of an init.
enum Seen {
    Alive(OwnedFd),
    Ended,
    /// It is, or was, in a pid namespace that this process cannot look into.
    Hidden,
}

/// By what it can be told whether anything of a container still runs.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Life {
    /// The container's init.
    pub init: Init,
    /// Whether all the container's processes end with its init.
    pub own_pid_namespace: bool,
    /// Where they do not: the cgroup in which they are, if it has one of its own.
    pub cgroup: Option<PathBuf>,
}

impl Life {
    /// The life of a container that is about to start.
    #[must_use]
    pub fn of(init: &Init, own_pid_namespace: bool) -> Life {
        let cgroup = if own_pid_namespace { None } else { cgroup::of(init.pid) };
        Life { init: init.clone(), own_pid_namespace, cgroup }
    }

    /// Whether any process of the container may still run: its mount points must stay then, and its volumes are held.
    ///
    /// # Errors
    /// [`Cause::RuntimeDir`] where the kernel does not say.
    pub fn may_last(&self) -> Result<bool> {
        if self.init.lives()? {
            return Ok(true);
        }
        if self.own_pid_namespace || self.init.boot != boot_id()? {
            return Ok(false);
        }
        // With neither a pid namespace nor a cgroup of its own there is no telling.
        Ok(self.cgroup.as_ref().is_none_or(|cgroup| cgroup::is_populated(cgroup)))
    }

    /// Whether it can ever be told that the container has ended.
    #[must_use]
    pub fn has_an_end(&self) -> bool {
        self.own_pid_namespace || self.cgroup.is_some()
    }
}

/// A live init, held by descriptors that were opened while it lived.
#[derive(Debug)]
pub struct Live {
    /// Who it is.
    pub init: Init,
    /// The process.
    pub pidfd: OwnedFd,
    /// Its mount namespace.
    pub namespace: OwnedFd,
    /// Its user namespace, where that is not the hook's.
    pub user_namespace: Option<UserNamespace>,
}

impl Live {
    /// Opens the process that the runtime names. A container without a user namespace of its own has the hook's.
    ///
    /// # Errors
    /// [`Cause::Pid`] where there is no such process.
    pub fn open(pid: i32, user_namespace: bool) -> Result<Live> {
        let gone = || format!("there is no process {pid}");
        let pidfd = sys::pidfd_open(pid).because(Cause::Pid, gone)?;
        let namespace = File::open(format!("/proc/{pid}/ns/mnt")).because(Cause::Pid, gone)?.into();
        let user_namespace = if user_namespace { UserNamespace::of(pid)? } else { None };
        let (_, start) = status(pid)?.ok_or_else(|| Error::new(Cause::Pid, gone()))?;
        // It lives still, so all of this was about the process behind the pidfd.
        if sys::has_ended(&pidfd).because(Cause::Pid, gone)? {
            return Err(Error::new(Cause::Pid, format!("process {pid} has ended")));
        }
        let init = Init { pid, start, boot: boot_id()?, namespace: pid_namespace()? };
        Ok(Live { init, pidfd, namespace, user_namespace })
    }

    /// Sees that the process is in the mount namespace that its runtime made: in one of its own making it is master of its
    /// mounts, and could make writable what is read-only.
    ///
    /// # Errors
    /// [`Cause::Pid`].
    pub fn check_home(&self, user_namespace: bool) -> Result<()> {
        let doing = || format!("the namespaces of process {} cannot be compared", self.init.pid);
        let id = |fd: &OwnedFd| sys::stat(fd).because(Cause::Pid, doing).map(|stat| stat.id);
        let mine = id(&File::open("/proc/self/ns/user").because(Cause::Pid, doing)?.into())?;
        // One that is above this process's own cannot be told.
        let is_right = sys::owner_of(&self.namespace).is_ok_and(|owner| {
            let is_mine = |fd: &OwnedFd| id(fd).is_ok_and(|id| id == mine);
            let is_its_own = self.user_namespace.as_ref().is_none_or(|own| id(&own.fd).ok() == id(&owner).ok());
            is_mine(&owner)
                || (user_namespace && is_its_own && sys::parent_of(&owner).is_ok_and(|above| is_mine(&above)))
        });
        if is_right {
            return Ok(());
        }
        Err(Error::new(Cause::Pid, format!("process {} has gone into namespaces of its own making", self.init.pid))
            .remedy("nothing can be attached to such a container while it runs: ask for the volume at its start"))
    }

    /// Whether its mount namespace is this one.
    ///
    /// # Errors
    /// [`Cause::Pid`] where /proc cannot tell.
    pub fn shares_namespace(&self, mine: &OwnedFd) -> Result<bool> {
        let id = |fd| sys::stat(fd).because(Cause::Pid, || "mount namespaces cannot be compared".to_owned());
        Ok(id(mine)?.id == id(&self.namespace)?.id)
    }
}

impl Init {
    /// Whether it lives; a zombie does not, and neither does anything from before a reboot.
    ///
    /// # Errors
    /// [`Cause::RuntimeDir`] where the kernel does not say: it is then better taken for alive.
    pub fn lives(&self) -> Result<bool> {
        Ok(!matches!(self.look()?, Seen::Ended))
    }

    /// Waits for its end, for at most so many milliseconds.
    ///
    /// # Errors
    /// As [`Init::lives`].
    pub fn wait(&self, milliseconds: u16) -> Result<()> {
        if let Seen::Alive(pidfd) = self.look()? {
            sys::ends_within(&pidfd, milliseconds).because(Cause::RuntimeDir, || format!("process {}", self.pid))?;
        }
        Ok(())
    }

    /// The live process, if it is one.
    ///
    /// # Errors
    /// As [`Init::lives`].
    pub fn find(&self) -> Result<Option<OwnedFd>> {
        match self.look()? {
            Seen::Alive(pidfd) => Ok(Some(pidfd)),
            Seen::Ended => Ok(None),
            Seen::Hidden => Err(Error::new(
                Cause::RuntimeDir,
                format!("process {} is in another pid namespace, into which this process cannot look", self.pid),
            )),
        }
    }

    fn look(&self) -> Result<Seen> {
        if self.boot != boot_id()? {
            return Ok(Seen::Ended);
        }
        // A toolbox with the host's files and pids of its own would take all that lives for dead.
        if self.namespace != pid_namespace()? {
            return Ok(Seen::Hidden);
        }
        let pidfd = match sys::pidfd_open(self.pid) {
            // EINVAL, or ENOENT on newer kernels: the number now belongs to a thread.
            Err(error) if matches!(error.errno, Errno::ESRCH | Errno::EINVAL | Errno::ENOENT) => {
                return Ok(Seen::Ended);
            }
            answer => answer.because(Cause::RuntimeDir, || format!("process {} cannot be looked at", self.pid))?,
        };
        let Some((state, start)) = status(self.pid)? else { return Ok(Seen::Ended) };
        // runc takes a killed init for stopped as soon as its leader is a zombie: its other threads follow at once.
        let patience = if state == 'Z' { 1000 } else { 0 };
        let ended =
            || sys::ends_within(&pidfd, patience).because(Cause::RuntimeDir, || format!("process {}", self.pid));
        Ok(if start == self.start && !ended()? { Seen::Alive(pidfd) } else { Seen::Ended })
    }
}

/// Inode of this process's pid namespace.
fn pid_namespace() -> Result<u64> {
    static KNOWN: OnceLock<u64> = OnceLock::new();
    if let Some(known) = KNOWN.get() {
        return Ok(*known);
    }
    let namespace = std::fs::metadata("/proc/self/ns/pid")
        .map(|namespace| std::os::unix::fs::MetadataExt::ino(&namespace))
        .because(Cause::RuntimeDir, || "/proc/self/ns/pid".to_owned())?;
    Ok(*KNOWN.get_or_init(|| namespace))
}

/// This process's mount namespace.
///
/// # Errors
/// [`Cause::AttachFailed`] where /proc is not mounted.
pub fn own_mount_namespace() -> Result<OwnedFd> {
    File::open("/proc/self/ns/mnt").map(OwnedFd::from).because(Cause::AttachFailed, || "/proc/self/ns/mnt".to_owned())
}

/// State and start time of a process; `None` where there is none. Whatever else keeps this from knowing is a failure:
/// who lives must never look dead.
fn status(pid: i32) -> Result<Option<(char, u64)>> {
    let doing = || format!("/proc/{pid}/stat cannot be read");
    let gone = |error: &std::io::Error| {
        error.kind() == std::io::ErrorKind::NotFound || error.raw_os_error() == Some(Errno::ESRCH as i32)
    };
    match read::line(format!("/proc/{pid}/stat")) {
        Err(error) if gone(&error) => Ok(None),
        answer => {
            let text = answer.because(Cause::RuntimeDir, doing)?;
            parse_status(&text).map(Some).ok_or_else(|| Error::new(Cause::RuntimeDir, doing()))
        }
    }
}

/// Fields 3 and 22 of `/proc/PID/stat`; the second field is a name in parentheses that may contain anything.
fn parse_status(stat: &str) -> Option<(char, u64)> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(22 - 4)?.parse().ok()?))
}

/// This boot's id.
///
/// # Errors
/// [`Cause::RuntimeDir`] where /proc is not mounted.
pub fn boot_id() -> Result<String> {
    static KNOWN: OnceLock<String> = OnceLock::new();
    if let Some(known) = KNOWN.get() {
        return Ok(known.clone());
    }
    let id = read::line("/proc/sys/kernel/random/boot_id")
        .because(Cause::RuntimeDir, || "the boot id cannot be read".to_owned())?;
    Ok(KNOWN.get_or_init(|| id).clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_confuse() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 987654 1 2 3";
        assert_eq!(parse_status(stat), Some(('S', 987_654)));
        assert_eq!(parse_status("7 (a"), None);
    }

    #[test]
    fn i_live_and_my_namesakes_do_not() {
        let live = Live::open(std::process::id() as i32, true).unwrap();
        assert!(live.shares_namespace(&own_mount_namespace().unwrap()).unwrap());
        assert!(live.init.lives().unwrap());
        let reused = Init { start: live.init.start + 1, ..live.init.clone() };
        assert!(!reused.lives().unwrap());
        let rebooted = Init { boot: "another".to_owned(), ..live.init.clone() };
        assert!(!rebooted.lives().unwrap());
        let hidden = Init { namespace: 1, start: 1, ..live.init };
        assert!(hidden.lives().unwrap() && hidden.find().is_err(), "nobody can tell from here");
    }

    // A killed init's other threads end a moment after its first, which is a zombie until then.
    #[test]
    fn a_zombie_whose_threads_are_about_to_end_has_ended() {
        let program = "import ctypes, threading, time\n\
                       threading.Thread(target=lambda: time.sleep(0.5)).start()\n\
                       ctypes.CDLL(None).syscall(ctypes.c_long(EXIT), 0)";
        let program = program.replace("EXIT", &nix::libc::SYS_exit.to_string());
        let mut child = std::process::Command::new("python3").args(["-c", &program]).spawn().unwrap();
        let pid = child.id() as i32;
        let (boot, namespace) = (boot_id().unwrap(), pid_namespace().unwrap());
        let start = loop {
            match status(pid).unwrap().unwrap() {
                ('Z', start) => break start,
                _ => std::thread::yield_now(),
            }
        };
        assert!(!Init { pid, start, boot, namespace }.lives().unwrap());
        child.wait().unwrap();
    }

    // On a busy host most numbers are those of threads.
    #[test]
    fn a_number_that_is_a_threads_now_is_no_process() {
        let (sender, number) = std::sync::mpsc::channel();
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            sender.send(nix::unistd::gettid().as_raw()).unwrap();
            let _ = wait.recv();
        });
        let init = Init {
            pid: number.recv().unwrap(),
            start: 1,
            boot: boot_id().unwrap(),
            namespace: pid_namespace().unwrap(),
        };
        assert!(!init.lives().unwrap());
        drop(go);
        thread.join().unwrap();
    }

    #[test]
    fn a_zombie_has_ended() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = child.id() as i32;
        let (boot, namespace) = (boot_id().unwrap(), pid_namespace().unwrap());
        let (_, start) = status(pid).unwrap().unwrap();
        let pidfd = sys::pidfd_open(pid).unwrap();
        while !sys::has_ended(&pidfd).unwrap() {
            std::thread::yield_now();
        }
        assert!(!Init { pid, start, boot, namespace }.lives().unwrap(), "not reaped yet, and ended");
        child.wait().unwrap();
    }
}
