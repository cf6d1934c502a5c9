//! What this host's SELinux says about a place. The host is only asked about labels that look wrong.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::fcntl::OFlag;

use super::{Context, Fault, fault};
use crate::read;
use crate::sys::{self, Resolve, Stat};

/// Where the kernel has SELinux's filesystem; nothing is there on a host without SELinux.
const FILESYSTEM: &str = "/sys/fs/selinux";

/// So long is no file of that filesystem that is read here.
const LONGEST: u64 = 4096;

/// The label of whatever is open, as a place too, as text. None is known where the filesystem has none.
fn label(place: impl AsFd) -> Option<String> {
    let value = sys::xattr_of(place, c"security.selinux").ok()??;
    let value = value.strip_suffix(b"\0").unwrap_or(&value);
    Some(String::from_utf8_lossy(value).into_owned())
}

/// What in the label of a directory or file keeps processes from it, and whether SELinux enforces that or only logs it.
/// `None` where nothing does as far as is known, and where SELinux is off: then a label means nothing.
#[must_use]
pub fn examine(process: &Context, place: impl AsFd, stat: &Stat, write: bool) -> Option<(Fault, bool)> {
    // Of devices, sockets and pipes less is known.
    let class = match (stat.is_dir(), stat.is_file()) {
        (true, _) => "dir",
        (_, true) => "file",
        _ => return None,
    };
    let file = label(place)?;
    let fault = fault(process, &file, write)?;
    let host = Host::find()?;
    // The administrator's policy may let it.
    if host.allows(process, &file, class, write) == Some(true) {
        return None;
    }
    Some((fault, host.enforces()))
}

/// Whether this host's kernel has SELinux.
#[must_use]
pub fn is_on() -> bool {
    Host::find().is_some()
}

/// A host with SELinux.
struct Host {
    filesystem: OwnedFd,
}

impl Host {
    fn find() -> Option<Host> {
        let filesystem = sys::open_place(sys::cwd(), Path::new(FILESYSTEM), Resolve::NoLinks).ok()?;
        let host = Host { filesystem };
        host.number("enforce").is_some().then_some(host)
    }

    fn open(&self, name: &str, flags: OFlag) -> Option<File> {
        sys::open_below(&self.filesystem, Path::new(name), flags, Resolve::BeneathNoLinks).ok().map(File::from)
    }

    fn number(&self, name: &str) -> Option<u32> {
        let bytes = read::at_most(self.open(name, OFlag::O_RDONLY)?, LONGEST).ok()?;
        String::from_utf8(bytes).ok()?.trim().parse().ok()
    }

    fn enforces(&self) -> bool {
        self.number("enforce") != Some(0)
    }

    /// Asks the policy that is loaded, as security_compute_av(3) does; `None` where it cannot be asked.
    fn allows(&self, process: &Context, file: &str, class: &str, write: bool) -> Option<bool> {
        let names: &[&str] = match (class, write) {
            ("dir", true) => &["getattr", "open", "read", "search", "write", "add_name", "remove_name"],
            ("dir", false) => &["getattr", "open", "read", "search"],
            (_, true) => &["getattr", "open", "read", "write"],
            (_, false) => &["getattr", "open", "read"],
        };
        let file = Context::parse(file).ok()?;
        let index = self.number(&format!("class/{class}/index"))?;
        let mut wanted = 0_u32;
        for name in names {
            let bit = self.number(&format!("class/{class}/perms/{name}"))?.checked_sub(1)?;
            wanted |= 1_u32.checked_shl(bit)?;
        }
        let mut access = self.open("access", OFlag::O_RDWR)?;
        access.write_all(format!("{} {} {index} {wanted:x}", process.text, file.text).as_bytes()).ok()?;
        let mut answer = String::new();
        access.take(LONGEST).read_to_string(&mut answer).ok()?;
        answered(&answer, wanted)
    }
}

/// The kernel's answer: what is allowed, four fields of no use here, and flags.
fn answered(answer: &str, wanted: u32) -> Option<bool> {
    const PERMISSIVE: u32 = 1;
    let mut fields = answer.split_ascii_whitespace();
    let mut field = |index| u32::from_str_radix(fields.nth(index)?, 16).ok();
    let allowed = field(0)?;
    Some(allowed & wanted == wanted || field(4).unwrap_or(0) & PERMISSIVE != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_answer_is_understood() {
        assert_eq!(answered("17 ffffffff 0 fffeffff 8 0", 0x13), Some(true));
        assert_eq!(answered("11 ffffffff 0 fffeffff 8 0", 0x13), Some(false));
        // A type that is permissive: semanage permissive.
        assert_eq!(answered("0 ffffffff 0 fffeffff 8 1", 0x13), Some(true));
        // Older kernels have no flags.
        assert_eq!(answered("13 ffffffff 0 fffeffff 8", 0x13), Some(true));
        assert_eq!(answered("", 0x13), None);
    }
}
