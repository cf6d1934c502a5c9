//! /proc/PID/mountinfo, see proc(5). Paths are unescaped, which Mesos did not do and lost data by (mesos.md E6).
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::ffi::OsString;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use crate::sys::{self, Named};

/// One mount, as far as it is of use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Mount id.
    pub id: u64,
    /// Mount id of the mount that it is mounted on.
    pub parent: u64,
    /// Its filesystem, by major and minor number.
    pub device: (u32, u32),
    /// Which directory or file of that filesystem is its root.
    pub root: PathBuf,
    /// Where it is, as the process that was asked about sees it.
    pub mount_point: PathBuf,
    /// Type of its filesystem.
    pub filesystem: String,
    /// Peer group that it sends to and receives from.
    pub shared: Option<u64>,
    /// Peer group that it receives from.
    pub master: Option<u64>,
}

/// Reads an open mount table to its end, and parses it. The kernel gives what fits into one page at a time.
///
/// # Errors
/// Whatever read(2) answers.
pub fn read(table: impl AsFd) -> sys::Result<Vec<Mount>> {
    let mut text = Vec::new();
    let more = |text: &mut Vec<u8>| {
        let most = text.len().max(8 << 10);
        sys::read_more(&table, text, most).named("read", "mountinfo")
    };
    while more(&mut text)? > 0 {}
    Ok(parse(&text))
}

/// Parses a mount table; lines that are none are passed over.
#[must_use]
pub fn parse(text: &[u8]) -> Vec<Mount> {
    text.split(|byte| *byte == b'\n').filter_map(parse_line).collect()
}

/// Everything below one mount, in any depth, parents first. Numbers tell that, and paths do not: what is mounted over the root has
/// those of all others.
#[must_use]
pub fn below(mounts: &[Mount], id: u64) -> Vec<&Mount> {
    let mut children: HashMap<u64, Vec<&Mount>> = HashMap::new();
    for mount in mounts {
        children.entry(mount.parent).or_default().push(mount);
    }
    let mut below = children.remove(&id).unwrap_or_default();
    let mut looked_at = 0;
    while let Some(mount) = below.get(looked_at) {
        below.extend(children.remove(&mount.id).unwrap_or_default());
        looked_at += 1;
    }
    below
}

fn parse_line(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ');
    let (id, parent) = (number(fields.next()?)?, number(fields.next()?)?);
    let (major, minor) = std::str::from_utf8(fields.next()?).ok()?.split_once(':')?;
    let device = (major.parse().ok()?, minor.parse().ok()?);
    let (root, mount_point) = (unescape(fields.next()?), unescape(fields.next()?));
    let filesystem = String::new();
    let mut mount = Mount { id, parent, device, root, mount_point, filesystem, shared: None, master: None };
    // After the mount options come optional fields, up to a lone hyphen.
    fields.next();
    for field in fields.by_ref().take_while(|field| *field != b"-") {
        if let Some(group) = field.strip_prefix(b"shared:") {
            mount.shared = number(group);
        } else if let Some(group) = field.strip_prefix(b"master:") {
            mount.master = number(group);
        }
    }
    mount.filesystem = String::from_utf8_lossy(fields.next().unwrap_or_default()).into_owned();
    Some(mount)
}

fn number(digits: &[u8]) -> Option<u64> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// The kernel writes space, tab, newline, `#` and backslash as a backslash and three octal digits.
fn unescape(field: &[u8]) -> PathBuf {
    // Few have any of these.
    if !field.contains(&b'\\') {
        return OsString::from_vec(field.to_vec()).into();
    }
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, tail)) = rest.split_first() {
        let octal = tail.get(..3).filter(|digits| byte == b'\\' && digits.iter().all(|d| (b'0'..=b'7').contains(d)));
        if let Some(digits) = octal {
            bytes.push(digits.iter().fold(0u8, |value, digit| value.wrapping_mul(8).wrapping_add(digit - b'0')));
            rest = &tail[3..];
        } else {
            bytes.push(byte);
            rest = tail;
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    // mesos.md E6
    #[test]
    fn e6_paths_are_unescaped() {
        let table = b"156 140 0:43 / /a\\040b/\\134x\\011y rw,nosuid master:23 - tmpfs shm rw\n\
                      22 27 0:21 / /proc rw,relatime shared:5 master:7 propagate_from:2 - proc proc rw\nnonsense\n";
        let mounts = parse(table);
        assert_eq!(mounts.len(), 2);
        assert_eq!(mounts[0].mount_point, PathBuf::from("/a b/\\x\ty"));
        assert_eq!((mounts[0].id, mounts[0].parent), (156, 140));
        assert_eq!((mounts[0].shared, mounts[0].master), (None, Some(23)));
        assert_eq!((mounts[1].shared, mounts[1].master), (Some(5), Some(7)));
        assert_eq!((mounts[0].filesystem.as_str(), mounts[1].filesystem.as_str()), ("tmpfs", "proc"));
    }

    #[test]
    fn what_is_below_a_mount_is_found_by_numbers() {
        let line = |id: u64, parent: u64, at: &str| format!("{id} {parent} 0:1 / {at} rw - tmpfs none rw\n");
        // The first is its own parent, as that of a namespace is.
        let lines =
            [(1, 1, "/"), (8, 2, "/a/b"), (2, 9, "/a"), (3, 1, "/proc"), (9, 1, "/"), (4, 9, "/c"), (5, 4, "/c")];
        let table: String = lines.into_iter().map(|(id, parent, at)| line(id, parent, at)).collect();
        let mounts = parse(table.as_bytes());
        let ids = |id: u64| below(&mounts, id).iter().map(|mount| mount.id).collect::<Vec<_>>();
        assert_eq!((ids(9), ids(3), ids(2)), (vec![2, 4, 8, 5], vec![], vec![8]));
        assert_eq!(ids(1).len(), 7);
    }
}
