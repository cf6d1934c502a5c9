//! What a running container really has, beside what was recorded. Nothing is mended: poststart does that.
#![forbid(unsafe_code)]

use std::os::fd::OwnedFd;
use std::path::Path;

use serde::Serialize;

use crate::mountinfo::{self, Mount};
use crate::record::Attached;
use crate::sys::{self, Resolve};

/// One thing that is not as it was recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, schemars::JsonSchema)]
pub struct Difference {
    /// Where, in the container.
    pub target: String,
    /// What is different.
    pub what: String,
}

/// Looks at every attachment of the container with this init.
#[must_use]
pub fn differences(pid: i32, attachments: &[Attached]) -> Vec<Difference> {
    let opened = std::fs::File::open(format!("/proc/{pid}/root")).map(OwnedFd::from);
    let table = std::fs::read(format!("/proc/{pid}/mountinfo"));
    let (Ok(root), Ok(table)) = (opened, table) else { return Vec::new() };
    let mounts = mountinfo::parse(&table);
    let look = |attached: &Attached| {
        let what = difference(&root, &mounts, attached)?;
        Some(Difference { target: attached.target.clone(), what })
    };
    attachments.iter().filter_map(look).collect()
}

fn difference(root: &OwnedFd, mounts: &[Mount], wanted: &Attached) -> Option<String> {
    let path = Path::new(wanted.target.trim_start_matches('/'));
    let found = match sys::open_path(root, path, Resolve::InRoot) {
        Ok(found) => found,
        Err(error) => return Some(format!("it cannot be opened in the container: {error}")),
    };
    if sys::stat(&found).ok()?.id != wanted.id {
        return Some("something else is there: the mount is gone, or covered".to_owned());
    }
    if wanted.link {
        return None;
    }
    let has = sys::filesystem(&found).ok()?.attributes;
    let asked = wanted.attributes;
    for (asked, has, name) in [
        (asked.read_only, has.read_only, "read-only"),
        (asked.nosuid, has.nosuid, "nosuid"),
        (asked.nodev, has.nodev, "nodev"),
        (asked.noexec, has.noexec, "noexec"),
    ] {
        if asked && !has {
            return Some(format!("it is not {name} any more"));
        }
    }
    let number = sys::mount_number(&found).ok()?;
    let mount = mounts.iter().find(|mount| mount.id == number)?;
    (wanted.slave && mount.master.is_none()).then(|| "it does not follow the host, and slave was recorded".to_owned())
}
