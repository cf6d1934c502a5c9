//! Named roots for volumes beside `work_dir`: the configuration's `disks`, written as in Mesos's `disk.source`
//! (mesos.md B2, C1).
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::error::{Cause, Error, Result};

/// Name of Mesos's ROOT disk, which is `work_dir`.
pub const ROOT: &str = "root";

/// How volumes lie on a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, schemars::JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum Kind {
    /// `work_dir` itself.
    Root,
    /// Many volumes, below `volumes/roles`.
    Path,
    /// The disk is one volume: its root, which is a mount point.
    Mount,
}

/// One disk.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, schemars::JsonSchema)]
pub struct Disk {
    /// Its name.
    pub name: String,
    /// How volumes lie on it.
    #[serde(rename = "type")]
    pub kind: Kind,
    /// Absolute path of its root.
    pub root: PathBuf,
}

/// Keys of an entry.
pub(super) const KEYS: [&str; 4] = ["name", "type", "path", "mount"];

/// Keys of where it is.
pub(super) const ROOT_KEYS: [&str; 1] = ["root"];

/// A root for volumes, as in Mesos's `disk.source`.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Disk")]
pub(super) struct File {
    /// Its name: letters, digits, `_`, `-` and `.`, and not `root`, which is `work_dir`.
    name: String,
    /// `PATH`: many volumes. `MOUNT`: the disk is one volume.
    #[serde(rename = "type")]
    #[schemars(extend("enum" = ["PATH", "MOUNT"]))]
    kind: String,
    /// Where a PATH disk is.
    path: Option<Root>,
    /// Where a MOUNT disk is.
    mount: Option<Root>,
}

/// A root.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
struct Root {
    /// Its root; a relative one starts at `work_dir`.
    root: PathBuf,
}

/// Checks the key. A relative root starts at `work_dir`, here and nowhere else (mesos.md E25).
pub(super) fn check(files: Vec<File>, work_dir: &Path) -> Result<Vec<Disk>> {
    let invalid = |what: String| Error::new(Cause::ConfigInvalid, format!("\"disks\": {what}"));
    let mut disks: Vec<Disk> = Vec::with_capacity(files.len());
    for File { name, kind, path, mount } in files {
        let plain = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
        if name.is_empty() || name.len() > 64 || name.starts_with('.') || !name.chars().all(plain) || name == ROOT {
            return Err(invalid(format!(
                "{name:?} cannot be a disk's name: use letters, digits, _ - and ., and not \"root\", which is work_dir"
            )));
        }
        let (kind, root) = match (kind.as_str(), path, mount) {
            ("PATH", Some(root), None) => (Kind::Path, root.root),
            ("MOUNT", None, Some(root)) => (Kind::Mount, root.root),
            ("PATH", ..) => {
                return Err(invalid(format!("{name} has type PATH and must have \"path\": {{\"root\": …}}")));
            }
            ("MOUNT", ..) => {
                return Err(invalid(format!("{name} has type MOUNT and must have \"mount\": {{\"root\": …}}")));
            }
            (other, ..) => return Err(invalid(format!("{name} has type {other:?}, and PATH and MOUNT are possible"))),
        };
        if root.as_os_str().is_empty() {
            return Err(invalid(format!("{name} has an empty root")));
        }
        let root = super::absolute("disks", work_dir.join(root))?;
        if root == work_dir || disks.iter().any(|disk| disk.name == name || disk.root == root) {
            return Err(invalid(format!("{name} at {} repeats a name or a root", root.display())));
        }
        disks.push(Disk { name, kind, root });
    }
    // What destroying a MOUNT disk's volume deletes must be nobody else's, and the same goes for a volume of any disk.
    let work = std::iter::once((work_dir, Kind::Root));
    let all: Vec<(&Path, Kind)> = work.chain(disks.iter().map(|disk| (disk.root.as_path(), disk.kind))).collect();
    for (outer, kind) in &all {
        let data = if *kind == Kind::Mount { outer.to_path_buf() } else { outer.join("volumes") };
        if let Some((inner, _)) = all.iter().find(|(inner, _)| inner != outer && inner.starts_with(&data)) {
            return Err(invalid(format!("{} lies in the volumes of {}", inner.display(), outer.display())));
        }
    }
    Ok(disks)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Vec<Disk>> {
        let files = serde_json::from_str(text).map_err(|error| Error::new(Cause::ConfigInvalid, error.to_string()))?;
        check(files, Path::new("/w"))
    }

    // mesos.md E25: one rule for relative roots.
    #[test]
    fn e25_relative_roots_start_at_work_dir() {
        let disks = parse(
            r#"[{"name": "fast", "type": "PATH", "path": {"root": "disks/fast"}},
                {"name": "nvme0", "type": "MOUNT", "mount": {"root": "/mnt/nvme0"}}]"#,
        )
        .unwrap();
        assert_eq!((disks[0].root.as_path(), disks[0].kind), (Path::new("/w/disks/fast"), Kind::Path));
        assert_eq!((disks[1].root.as_path(), disks[1].kind), (Path::new("/mnt/nvme0"), Kind::Mount));
        assert!(parse(r#"[{"name": "a", "type": "MOUNT", "mount": {"root": "/x"}}, {"name": "b", "type": "PATH", "path": {"root": "/xy"}}]"#).is_ok());
    }

    #[test]
    fn what_is_wrong_is_refused() {
        for text in [
            r#"[{"name": "a", "type": "PATH"}]"#,
            r#"[{"name": "a", "type": "BLOCK", "path": {"root": "/x"}}]"#,
            r#"[{"name": "a", "type": "PATH", "mount": {"root": "/x"}}]"#,
            r#"[{"name": "a", "type": "MOUNT", "path": {"root": "/x"}, "mount": {"root": "/x"}}]"#,
            r#"[{"name": "root", "type": "PATH", "path": {"root": "/x"}}]"#,
            r#"[{"name": "a/b", "type": "PATH", "path": {"root": "/x"}}]"#,
            r#"[{"name": "a", "type": "PATH", "path": {"root": ""}}]"#,
            r#"[{"name": "a", "type": "PATH", "path": {"root": "../x"}}]"#,
            r#"[{"name": "a", "type": "PATH", "path": {"root": "/w"}}]"#,
            r#"[{"name": "a", "type": "PATH", "path": {"root": "/x"}}, {"name": "b", "type": "PATH", "path": {"root": "/x/"}}]"#,
            r#"[{"name": "a", "type": "PATH", "path": {"root": "/x"}, "size": 1}]"#,
            r#"[{"name": "a", "type": "MOUNT", "mount": {"root": "/"}}]"#,
            r#"[{"name": "a", "type": "MOUNT", "mount": {"root": "/x"}}, {"name": "b", "type": "PATH", "path": {"root": "/x/y"}}]"#,
            r#"[{"name": "a", "type": "PATH", "path": {"root": "/w/volumes/roles/r/v"}}]"#,
        ] {
            assert_eq!(parse(text).unwrap_err().cause(), Cause::ConfigInvalid, "{text}");
        }
    }
}
