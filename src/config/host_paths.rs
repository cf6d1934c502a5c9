//! Host paths that containers may ask for: the configuration's `host_paths` (mesos.md A5).
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value};

use super::{absolute, roles};
use crate::error::{Cause, Error, Result};
use crate::request::names::Role;
use crate::request::{Mode, Propagation};

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, schemars::JsonSchema)]
pub struct HostPath {
    /// Absolute path; what lies below it may be asked for too.
    pub path: String,
    /// Roles for which it may be attached.
    pub roles: Vec<Role>,
    /// `RO` where it may only be attached read-only.
    pub mode: Mode,
    /// Directories that are missing below it are made, as by Mesos's `--host_path_volume_force_creation`.
    pub create: bool,
    /// Mounts that a container makes below it may appear on the host.
    pub bidirectional: bool,
}

impl HostPath {
    /// What of a path lies below this entry, by component: /srv does not allow /srv2 (mesos.md E12).
    #[must_use]
    pub fn below<'a>(&self, path: &'a str) -> Option<&'a Path> {
        Path::new(path).strip_prefix(&self.path).ok()
    }

    /// Whether it may be attached in this way.
    #[must_use]
    pub fn grants(&self, mode: Mode, propagation: Option<Propagation>) -> bool {
        (mode == Mode::ReadOnly || self.mode == Mode::ReadWrite)
            && (propagation != Some(Propagation::Bidirectional) || self.bidirectional)
    }
}

/// Keys of an entry.
pub(super) const KEYS: [&str; 5] = ["path", "roles", "mode", "create", "bidirectional"];

/// A path of the host that containers may ask for.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[schemars(rename = "HostPath", deny_unknown_fields)]
pub(super) struct File {
    /// Absolute path; what lies below it may be asked for too.
    path: PathBuf,
    /// Roles for which it may be attached.
    roles: Vec<String>,
    /// `RO` where it may only be attached read-only.
    #[schemars(with = "Option<Mode>")]
    mode: Option<String>,
    /// Make directories that are missing below it.
    #[serde(default)]
    create: bool,
    /// Mounts that a container makes below it may appear on the host.
    #[serde(default)]
    bidirectional: bool,
}

/// Checks the key.
pub(super) fn check(entries: Vec<Map<String, Value>>) -> Result<Vec<HostPath>> {
    let check = |entry: Map<String, Value>| {
        let file: File = super::entry("host_paths", &KEYS, entry)?;
        let path = absolute("host_paths", file.path)?.to_string_lossy().into_owned();
        let mode = match file.mode.as_deref() {
            None | Some("RW") => Mode::ReadWrite,
            Some("RO") => Mode::ReadOnly,
            Some(other) => {
                let what = format!("\"host_paths\": mode {other:?} is neither RW nor RO");
                return Err(Error::new(Cause::ConfigInvalid, what));
            }
        };
        let roles = roles("host_paths", &file.roles)?;
        Ok(HostPath { path, roles, mode, create: file.create, bidirectional: file.bidirectional })
    };
    entries.into_iter().map(check).collect()
}
