//! Who this process is on the host: root, or a user with rootless containers.
//!
//! Hooks of rootless podman run as root of a user namespace in which root is the user. They get no HOME and no XDG
//! variables, so the user is found in `/proc/self/uid_map` and the home in `/etc/passwd`.
#![forbid(unsafe_code)]

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::OnceLock;

use crate::container::Identity;
use crate::ids::IdMap;
use crate::sys;

/// Inode of the first user namespace (`PROC_USER_INIT_INO` of the kernel), in which root is root of the host.
const INITIAL_USER_NAMESPACE: u64 = 0xEFFF_FFFD;

/// Who this process is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Me {
    /// The user of rootless containers; `None` for root of the host.
    pub user: Option<User>,
    /// Its effective user id here, to which what it makes belongs.
    pub uid: u32,
    /// Its effective group id here.
    pub gid: u32,
    /// It is in a user namespace, in which root of the host has no id.
    pub in_namespace: bool,
}

/// A user of the host who is not root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// User id on the host.
    pub uid: u32,
    /// Home directory.
    pub home: PathBuf,
}

/// Who this process is.
pub fn me() -> &'static Me {
    static ME: OnceLock<Me> = OnceLock::new();
    ME.get_or_init(|| {
        let (uid, gid) = sys::effective_ids();
        let namespace = std::fs::metadata("/proc/self/ns/user").map(|namespace| namespace.ino());
        if uid == 0 && namespace.is_ok_and(|namespace| namespace == INITIAL_USER_NAMESPACE) {
            return Me { user: None, uid, gid, in_namespace: false };
        }
        let map =
            std::fs::read_to_string("/proc/self/uid_map").ok().and_then(|text| IdMap::parse(&text)).unwrap_or_default();
        let passwd = || std::fs::read_to_string("/etc/passwd").unwrap_or_default();
        let in_namespace = !map.is_identity();
        // Root of a system container (LXC) owns its `/`; that of a user's namespace sees the host's.
        let owns_root = std::fs::metadata("/").is_ok_and(|root| root.uid() == uid);
        let user = if in_namespace && owns_root { None } else { find_user(&map, uid, passwd) };
        Me { user, uid, gid, in_namespace }
    })
}

impl Me {
    /// On whose behalf containers ask that nobody else speaks for.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.user.as_ref().map_or(Identity::Root, |user| Identity::User(user.uid))
    }
}

/// The user, unless this is root of the host. A user whom only a name service knows has no home here, and a configuration
/// must say where everything lies.
fn find_user(map: &IdMap, uid: u32, passwd: impl FnOnce() -> String) -> Option<User> {
    let outside = map.outside(uid)?;
    if outside == 0 {
        return None;
    }
    let home = home_of(outside, &passwd()).unwrap_or_else(|| PathBuf::from("/nonexistent"));
    Some(User { uid: outside, home: home.canonicalize().unwrap_or(home) })
}

fn home_of(uid: u32, passwd: &str) -> Option<PathBuf> {
    let entry = passwd.lines().find(|line| line.split(':').nth(2).is_some_and(|id| id.parse() == Ok(uid)))?;
    entry.split(':').nth(5).filter(|home| home.starts_with('/')).map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0::/root:/bin/sh\nalice:x:1000:100:A:/nonexistent/alice:/bin/sh\n";

    fn user(map: &str, uid: u32) -> Option<u32> {
        find_user(&IdMap::parse(map).unwrap(), uid, || PASSWD.to_owned()).map(|user| user.uid)
    }

    #[test]
    fn root_and_users_are_told_apart() {
        assert_eq!(user("0 0 4294967295", 0), None);
        assert_eq!(user("0 0 4294967295", 1000), Some(1000), "a user without a namespace");
        assert_eq!(user("0 1000 1\n1 100000 65536", 0), Some(1000), "rootless podman");
        assert_eq!(user("0 7000 1\n1 100000 65536", 0), Some(7000), "a user of a name service");
        assert_eq!(home_of(1000, PASSWD), Some(PathBuf::from("/nonexistent/alice")));
    }
}
