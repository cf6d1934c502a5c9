//! Host mounts that came along at prestart, and that the host has no more when the container starts. Where the runtime makes
//! everything private in between they stay in the container, and keep their filesystems busy.
//!
//! Only what nobody else can have mounted is detached: by then it looks like any other mount.
#![forbid(unsafe_code)]

use std::collections::{HashMap, HashSet};
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

use super::mend::Namespaces;
use crate::container::bundle;
use crate::mountinfo::{self, Mount};
use crate::record::Header;
use crate::sys::{self, Resolve};

/// What is mounted below a volume in the container and not on the host.
#[derive(Debug, Default, PartialEq, Eq)]
struct Gone {
    /// Mounts with all that is below them, by number and by path below the volume.
    whole: Vec<(u64, PathBuf)>,
    /// Mounts with something below that is not gone.
    used: Vec<PathBuf>,
}

/// Detaches them.
pub fn detach(about: &About<'_>, namespaces: &Namespaces<'_>) {
    let gone = find(about.mounts, about.number, about.on_host, about.others);
    let stays = |path: &Path, why: &str| {
        log::warn!("{}/{} stays in the container, and the host has it no more: {why}", about.target, path.display());
    };
    gone.used.iter().for_each(|path| stays(path, "something is mounted below"));
    if gone.whole.is_empty() {
        return;
    }
    if let Some(why) = somebody_elses(about.header) {
        gone.whole.iter().for_each(|(_, path)| stays(path, why));
        return;
    }
    for (number, path) in &gone.whole {
        match detach_one(about.found, *number, path, namespaces) {
            Ok(()) => log::info!("{}/{} has gone from the host, and goes", about.target, path.display()),
            Err(error) => stays(path, &error.to_string()),
        }
    }
}

/// What is known of the volume's mount.
#[derive(Debug)]
pub struct About<'a> {
    /// Where it is in the container.
    pub target: &'a str,
    /// Its root, in the container.
    pub found: &'a OwnedFd,
    /// Its number.
    pub number: u64,
    /// The container's mounts, before anything was brought in.
    pub mounts: &'a [Mount],
    /// Where the host has mounts, below the volume.
    pub on_host: &'a [PathBuf],
    /// Numbers of the mounts of other volumes, some of which may lie below.
    pub others: &'a [u64],
    /// Whose it is.
    pub header: &'a Header,
}

fn find(mounts: &[Mount], number: u64, on_host: &[PathBuf], others: &[u64]) -> Gone {
    // Mostly nothing is mounted there.
    let Some(base) = mounts.iter().find(|mount| mount.id == number) else { return Gone::default() };
    if !mounts.iter().any(|mount| mount.parent == number) {
        return Gone::default();
    }
    let (on_host, others): (HashSet<&Path>, HashSet<u64>) =
        (on_host.iter().map(PathBuf::as_path).collect(), others.iter().copied().collect());
    let below = mountinfo::below(mounts, number);
    let path = |mount: &Mount| mount.mount_point.strip_prefix(&base.mount_point).ok().map(Path::to_owned);
    // Of other volumes, with all that is below them; and these with what the host has.
    let (mut theirs, mut kept) = (HashSet::new(), HashSet::new());
    for mount in &below {
        if others.contains(&mount.id) || theirs.contains(&mount.parent) {
            theirs.insert(mount.id);
        }
        if theirs.contains(&mount.id) || path(mount).is_none_or(|path| on_host.contains(path.as_path())) {
            kept.insert(mount.id);
        }
    }
    // Children come after their parents.
    let mut used = HashSet::new();
    for mount in below.iter().rev() {
        if kept.contains(&mount.id) || used.contains(&mount.id) {
            used.insert(mount.parent);
        }
    }
    let mut gone = Gone::default();
    let is_whole = |id: u64| id != number && !kept.contains(&id) && !used.contains(&id);
    for mount in below {
        let Some(path) = path(mount) else { continue };
        if is_whole(mount.id) && !is_whole(mount.parent) {
            gone.whole.push((mount.id, path));
        } else if !is_whole(mount.id) && !kept.contains(&mount.id) {
            gone.used.push(path);
        }
    }
    gone
}

fn detach_one(volume: &OwnedFd, number: u64, path: &Path, namespaces: &Namespaces<'_>) -> sys::Result<()> {
    let Some(mount) = sys::if_there(sys::open_path(volume, path, Resolve::BeneathNoLinks))? else {
        return Ok(());
    };
    // Another has covered it, or it has gone by itself.
    if sys::mount_number(&mount)? != number {
        return Ok(());
    }
    sys::enter_mount_namespace(namespaces.theirs)?;
    let answer = crate::attach::detach(&mount, namespaces.proc_fds);
    crate::attach::come_back(namespaces.home);
    answer
}

/// Why somebody else than prestart may have mounted something below a volume, if that can be.
fn somebody_elses(header: &Header) -> Option<&'static str> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", header.life.init.pid));
    if !status.is_ok_and(|status| can_never_mount(&status)) {
        return Some("the container may have mounted it");
    }
    let config = bundle::open(&header.bundle).and_then(|bundle| bundle::read_config(&bundle)).ok();
    match config.and_then(|text| serde_json::from_slice::<Spec>(&text).ok()) {
        Some(spec) if spec.mounts_nothing_later() => None,
        _ => Some("the runtime or another hook may have mounted it"),
    }
}

/// Whether a process has no way to CAP_SYS_ADMIN.
fn can_never_mount(status: &str) -> bool {
    const SETS: [&str; 5] = ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"];
    const SYS_ADMIN: u64 = 1 << 21;
    let set = |name: &str| {
        let hexadecimal = status.lines().find_map(|line| line.strip_prefix(name))?;
        u64::from_str_radix(hexadecimal.trim(), 16).ok()
    };
    SETS.iter().all(|name| set(name).is_some_and(|set| set & SYS_ADMIN == 0))
}

/// What of config.json makes mounts after prestart.
#[derive(Deserialize)]
struct Spec {
    hooks: Option<HashMap<String, Option<Vec<Hook>>>>,
    linux: Option<Linux>,
}

#[derive(Deserialize)]
struct Hook {
    path: PathBuf,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Linux {
    masked_paths: Option<Vec<PathBuf>>,
    readonly_paths: Option<Vec<PathBuf>>,
    namespaces: Option<Vec<Namespace>>,
}

#[derive(Deserialize)]
struct Namespace {
    #[serde(rename = "type")]
    kind: String,
    path: Option<String>,
}

impl Spec {
    fn mounts_nothing_later(&self) -> bool {
        let is_ours =
            |hook: &Hook| hook.path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("fs-isolator-"));
        let stages = self.hooks.iter().flatten().filter(|(stage, _)| stage.as_str() != "poststop");
        let only_ours = stages.filter_map(|(_, hooks)| hooks.as_ref()).flatten().all(is_ours);
        only_ours && self.linux.as_ref().is_none_or(Linux::mounts_nothing_later)
    }
}

impl Linux {
    fn mounts_nothing_later(&self) -> bool {
        // Nothing is ever attached in these.
        let is_far = |path: &PathBuf| {
            (path.starts_with("/proc") || path.starts_with("/sys"))
                && !path.components().any(|component| component == Component::ParentDir)
        };
        let covers = [&self.masked_paths, &self.readonly_paths].into_iter().flatten().flatten();
        let is_shared =
            |space: &Namespace| space.kind == "mount" && space.path.as_deref().is_some_and(|path| !path.is_empty());
        covers.into_iter().all(is_far) && !self.namespaces.iter().flatten().any(is_shared)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(table: &[(u64, u64, &str)], on_host: &[&str], others: &[u64]) -> (Vec<u64>, Vec<String>) {
        let line = |(id, parent, at): &(u64, u64, &str)| format!("{id} {parent} 0:1 / {at} rw - tmpfs none rw\n");
        let mounts = mountinfo::parse(table.iter().map(line).collect::<String>().as_bytes());
        let on_host: Vec<PathBuf> = on_host.iter().map(PathBuf::from).collect();
        let gone = find(&mounts, 2, &on_host, others);
        let used = gone.used.iter().map(|path| path.display().to_string()).collect();
        (gone.whole.iter().map(|(number, _)| *number).collect(), used)
    }

    #[test]
    fn what_the_host_has_no_more_is_found_with_what_is_below() {
        let table = [(1, 1, "/"), (2, 1, "/d"), (3, 2, "/d/a"), (4, 3, "/d/a/b"), (5, 2, "/d/c"), (6, 1, "/e")];
        assert_eq!(found(&table, &["a", "a/b", "c"], &[]), (vec![], vec![]));
        assert_eq!(found(&table, &["c"], &[]), (vec![3], vec![]));
        assert_eq!(found(&table, &["a"], &[]), (vec![5, 4], vec![]));
        assert_eq!(found(&table, &[], &[]), (vec![3, 5], vec![]));
        // The host cannot have one below another that it lacks, but other volumes lie anywhere.
        assert_eq!(found(&table, &[], &[4]), (vec![5], vec!["a".to_owned()]));
        assert_eq!(found(&table, &[], &[3]), (vec![5], vec![]), "what lies in another volume is its own");
        assert_eq!(found(&table[..2], &[], &[]), (vec![], vec![]));
    }

    #[test]
    fn who_can_mount_is_told_by_every_set() {
        let status = |bounding: &str, inheritable: &str| {
            format!(
                "Name:\tCapBnd:\nCapInh:\t{inheritable}\nCapPrm:\t0000000000000000\nCapEff:\t0000000000000000\n\
                 CapBnd:\t{bounding}\nCapAmb:\t0000000000000000\n"
            )
        };
        let (none, few, admin) = ("0000000000000000", "00000000a80425fb", "0000000000200000");
        assert!(can_never_mount(&status(few, none)) && can_never_mount(&status(none, none)));
        assert!(!can_never_mount(&status(admin, none)) && !can_never_mount(&status(few, admin)));
        assert!(!can_never_mount("CapBnd:\t0\n"));
    }

    #[test]
    fn bundles_that_mount_something_later_are_known() {
        let quiet = |text: &str| serde_json::from_str::<Spec>(text).unwrap().mounts_nothing_later();
        for text in [
            "{}",
            r#"{"hooks":null,"linux":{"maskedPaths":null}}"#,
            r#"{"hooks":{"prestart":[{"path":"/usr/libexec/fs-isolator-prestart"}],"poststart":null,"poststop":[{"path":"/bin/x"}]},
                "linux":{"maskedPaths":["/proc/kcore"],"readonlyPaths":["/sys/firmware"],"namespaces":[{"type":"mount"},{"type":"net","path":"/x"}]}}"#,
        ] {
            assert!(quiet(text), "{text}");
        }
        for text in [
            r#"{"hooks":{"createContainer":[{"path":"/bin/x"}]}}"#,
            r#"{"linux":{"maskedPaths":["/d/x"]}}"#,
            r#"{"linux":{"readonlyPaths":["/proc/../d/x"]}}"#,
            r#"{"linux":{"namespaces":[{"type":"mount","path":"/proc/7/ns/mnt"}]}}"#,
        ] {
            assert!(!quiet(text), "{text}");
        }
    }
}
