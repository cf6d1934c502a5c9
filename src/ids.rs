//! User namespaces: which id outside an id inside is, user_namespaces(7).
#![forbid(unsafe_code)]

use std::fs::File;
use std::os::fd::OwnedFd;

use crate::error::{Because, Cause, Error, Result};
use crate::sys;

/// A map of ids, as `/proc/PID/uid_map` has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdMap {
    /// First id inside, first id outside, and how many.
    ranges: Vec<(u32, u32, u32)>,
}

impl Default for IdMap {
    /// Every id is itself.
    fn default() -> IdMap {
        IdMap { ranges: vec![(0, 0, u32::MAX)] }
    }
}

impl IdMap {
    /// Parses `/proc/PID/uid_map` or `gid_map`; `None` where it is none.
    #[must_use]
    pub fn parse(text: &str) -> Option<IdMap> {
        let line = |line: &str| {
            let mut numbers = line.split_ascii_whitespace().map(str::parse::<u32>);
            match (numbers.next()?, numbers.next()?, numbers.next()?, numbers.next()) {
                (Ok(inside), Ok(outside), Ok(count), None) => Some((inside, outside, count)),
                _ => None,
            }
        };
        let ranges = text.lines().map(line).collect::<Option<Vec<_>>>()?;
        (!ranges.is_empty()).then_some(IdMap { ranges })
    }

    /// The id outside; `None` where it has none.
    #[must_use]
    pub fn outside(&self, inside: u32) -> Option<u32> {
        self.ranges.iter().find_map(|(first, outside, count)| {
            let offset = inside.checked_sub(*first).filter(|offset| offset < count)?;
            outside.checked_add(offset)
        })
    }

    /// Whether every id is itself.
    #[must_use]
    pub fn is_identity(&self) -> bool {
        *self == IdMap::default()
    }
}

/// A container's user namespace, where it is not the hook's.
#[derive(Debug)]
pub struct UserNamespace {
    /// The namespace.
    pub fd: OwnedFd,
    uids: IdMap,
    gids: IdMap,
}

impl UserNamespace {
    /// Opens a process's user namespace; `None` where it is this process's own.
    ///
    /// # Errors
    /// [`Cause::Pid`] where there is no such process.
    pub fn of(pid: i32) -> Result<Option<UserNamespace>> {
        let doing = || format!("the user namespace of process {pid} cannot be looked at");
        let open = |path: String| File::open(path).map(OwnedFd::from).because(Cause::Pid, doing);
        let (theirs, mine) = (open(format!("/proc/{pid}/ns/user"))?, open("/proc/self/ns/user".to_owned())?);
        let id = |fd: &OwnedFd| sys::stat(fd).because(Cause::Pid, doing).map(|stat| stat.id);
        if id(&theirs)? == id(&mine)? {
            return Ok(None);
        }
        let map = |kind: &str| {
            let text = std::fs::read_to_string(format!("/proc/{pid}/{kind}_map")).because(Cause::Pid, doing)?;
            IdMap::parse(&text)
                .ok_or_else(|| Error::new(Cause::Pid, format!("the user namespace of process {pid} has no ids yet")))
        };
        Ok(Some(UserNamespace { uids: map("uid")?, gids: map("gid")?, fd: theirs }))
    }

    /// Who a user and group inside are outside; `None` where either has no id there.
    #[must_use]
    pub fn outside(&self, (uid, gid): (u32, u32)) -> Option<(u32, u32)> {
        Some((self.uids.outside(uid)?, self.gids.outside(gid)?))
    }

    /// One with these ids, for unit tests.
    #[cfg(test)]
    pub(crate) fn for_test(map: &str) -> UserNamespace {
        let map = IdMap::parse(map).unwrap_or_default();
        let Ok(file) = File::open("/proc/self/ns/user") else { unreachable!() };
        UserNamespace { fd: file.into(), uids: map.clone(), gids: map }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_in_and_out() {
        let map = IdMap::parse("         0       1000          1\n         1     100000      65536").unwrap();
        assert_eq!((map.outside(0), map.outside(1), map.outside(65536)), (Some(1000), Some(100_000), Some(165_535)));
        assert_eq!(map.outside(65537), None);
        assert!(!map.is_identity() && IdMap::parse("0 0 4294967295").unwrap().is_identity());
        for bad in ["", "0 0", "0 0 x", "1 2 3 4", "0 0 -1"] {
            assert_eq!(IdMap::parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn my_own_namespace_is_no_other() {
        assert!(UserNamespace::of(std::process::id() as i32).unwrap().is_none());
    }
}
