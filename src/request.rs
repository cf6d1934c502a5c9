//! What a container asks for: annotations under `io.fs-isolator.`, parsed without any system call.
//!
//! An annotation only asks. What is not understood is refused, never ignored.
#![forbid(unsafe_code)]

mod base64;
pub mod container_path;
mod json;
pub mod names;
mod short;

use std::collections::HashMap;
use std::fmt;

use crate::error::{Cause, Error, Result};
use crate::nearest::nearest;
use container_path::ContainerPath;
use names::{Role, SecretName, VolumeId};

/// All annotations of this project begin with it.
pub const PREFIX: &str = "io.fs-isolator.";

/// Most volumes of one container: the work for them, and the descriptors, are bounded.
pub const MOST_VOLUMES: usize = 512;

/// What may come after [`PREFIX`].
pub const KEYS: [&str; 6] = ["volumes", "volumes.base64", "isolation", "role", "sandbox", "token"];

/// May the container write to the volume?
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, schemars::JsonSchema)]
pub enum Mode {
    /// Mesos's `RW`.
    #[serde(rename = "RW")]
    ReadWrite,
    /// Mesos's `RO`.
    #[serde(rename = "RO")]
    ReadOnly,
}

/// Propagation that a volume names; without one, the plan decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Propagation {
    /// Later host mounts below the volume appear in the container.
    Slave,
    /// They do not.
    Private,
    /// They do, and the container's appear on the host (Mesos's `BIDIRECTIONAL`).
    Bidirectional,
}

/// Which disk a persistent volume lies on (Mesos's `disk.source`).
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, schemars::JsonSchema)]
#[schemars(rename = "DiskSource")]
#[serde(rename_all = "snake_case")]
pub enum Disk {
    /// Whichever has it.
    Any,
    /// Mesos's ROOT: below `work_dir`.
    Root,
    /// A name from the configuration's `disks`.
    Named(String),
    /// Mesos's PATH, by its root.
    Path(String),
    /// Mesos's MOUNT, by its root.
    Mount(String),
}

/// Where a volume's content comes from.
#[derive(Debug, Clone, PartialEq, serde::Serialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// A persistent volume.
    Persistent {
        /// Its id within the role.
        id: VolumeId,
        /// Its role; else the annotation's, else the identity's default.
        role: Option<Role>,
        /// Its disk.
        disk: Disk,
        /// Reserved size in MB, from a Resource. Recorded, not enforced.
        size_mb: Option<f64>,
    },
    /// A path of the host, from the configuration's `host_paths`.
    HostPath {
        /// Absolute.
        path: String,
    },
    /// A directory in the container's own sandbox (Mesos's SANDBOX_PATH of type SELF).
    SandboxPath {
        /// Relative to the sandbox.
        path: ContainerPath,
    },
    /// A directory in the parent's (the pod's) sandbox (SANDBOX_PATH of type PARENT).
    ParentPath {
        /// Relative to the parent's sandbox.
        path: ContainerPath,
    },
    /// A secret, by name.
    Secret {
        /// Name in the configuration's `secrets`.
        name: SecretName,
    },
    /// A kind of volume that Mesos knows and this project has no isolator for.
    Foreign {
        /// Mesos's name of it.
        kind: &'static str,
    },
}

/// One volume that is asked for.
#[derive(Debug, Clone, PartialEq, serde::Serialize, schemars::JsonSchema)]
pub struct VolumeRequest {
    /// What.
    pub source: Source,
    /// Where in the container.
    pub container_path: ContainerPath,
    /// RW unless it says otherwise.
    pub mode: Mode,
    /// May other containers hold it at the same time?
    pub shared: bool,
    /// Propagation, if named.
    pub propagation: Option<Propagation>,
    /// Directory inside the volume to attach instead of its root.
    pub subpath: Option<ContainerPath>,
    /// No setuid, setgid or file capabilities take effect below it.
    pub nosuid: bool,
    /// No device files work below it.
    pub nodev: bool,
    /// Nothing below it can be executed.
    pub noexec: bool,
}

impl VolumeRequest {
    fn new(source: Source, container_path: ContainerPath) -> VolumeRequest {
        VolumeRequest {
            source,
            container_path,
            mode: Mode::ReadWrite,
            shared: false,
            propagation: None,
            subpath: None,
            nosuid: false,
            nodev: false,
            noexec: false,
        }
    }

    /// Names the volume in messages: what and where, in the words of the request.
    #[must_use]
    pub fn label(&self) -> String {
        format!("{}:{}", self.source, self.container_path)
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Persistent { id, .. } => write!(f, "{id}"),
            Source::HostPath { path } => write!(f, "host={path}"),
            Source::SandboxPath { path } => write!(f, "sandbox={path}"),
            Source::ParentPath { path } => write!(f, "parent={path}"),
            Source::Secret { name } => write!(f, "secret={name}"),
            Source::Foreign { kind } => write!(f, "{kind}"),
        }
    }
}

/// Everything a container asks for.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Request {
    /// The volumes, in the order of asking.
    pub volumes: Vec<VolumeRequest>,
    /// The isolator it wants, unchecked.
    pub isolation: Option<String>,
    /// The role of volumes that name none.
    pub role: Option<Role>,
    /// A sandbox although no volume needs one.
    pub sandbox: bool,
    /// Proof of knowing the configuration's `request_token`.
    pub token: Option<String>,
}

impl Request {
    /// Whether there is nothing to do for it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.volumes.is_empty() && !self.sandbox
    }
}

/// Whether any annotation speaks to this project at all.
#[must_use]
pub fn is_asked(annotations: &HashMap<String, String>) -> bool {
    annotations.keys().any(|key| key.starts_with(PREFIX))
}

/// Whom annotations may address by `/CONTAINER`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Suffixes<'a> {
    /// On CRI-O: a pod's annotations reach all its containers, this one has this name.
    Container(&'a str),
    /// Elsewhere: no container has a name, a suffix is refused.
    Refused,
}

/// Reads the request out of a container's annotations; `None` where nothing speaks to this container.
///
/// # Errors
/// [`Cause::AnnotationUnknown`], [`Cause::RequestInvalid`] and the causes of each part of the grammar.
pub fn read(annotations: &HashMap<String, String>, suffixes: Suffixes<'_>) -> Result<Option<Request>> {
    let mut plain: HashMap<&str, &str> = HashMap::new();
    let mut own: HashMap<&str, &str> = HashMap::new();
    for (key, value) in annotations {
        let Some(rest) = key.strip_prefix(PREFIX) else { continue };
        let (name, suffix) = match rest.split_once('/') {
            Some((name, suffix)) => (name, Some(suffix)),
            None => (rest, None),
        };
        match (suffix, suffixes) {
            (Some(suffix), Suffixes::Container(container)) if suffix != container => continue,
            (Some(_), Suffixes::Refused) => {
                return Err(Error::new(
                    Cause::AnnotationUnknown,
                    format!("annotation {key:?} addresses one container of a pod, which only works on CRI-O"),
                )
                .remedy("give the container the key without the suffix"));
            }
            _ => {}
        }
        if !KEYS.contains(&name) {
            let error = Error::new(Cause::AnnotationUnknown, format!("annotation {key:?} is unknown"));
            return Err(match nearest(name, KEYS) {
                Some(name) => {
                    let how = format!("did you mean {PREFIX}{name}? {}", error.how());
                    error.remedy(how)
                }
                None => error,
            });
        }
        if suffix.is_some() { &mut own } else { &mut plain }.insert(name, value.as_str());
    }
    if plain.is_empty() && own.is_empty() {
        return Ok(None);
    }
    // What addresses the container by name beats what addresses all, and empty means nothing. The two
    // spellings of the volumes are one slot.
    let slot = |name: &str| own.get(name).or_else(|| plain.get(name)).copied().filter(|value| !value.is_empty());
    let addressed = if own.contains_key("volumes") || own.contains_key("volumes.base64") { &own } else { &plain };
    let (text, encoded) = (addressed.get("volumes").copied(), addressed.get("volumes.base64").copied());
    let volumes = match (text.filter(|v| !v.is_empty()), encoded.filter(|v| !v.is_empty())) {
        (Some(_), Some(_)) => {
            return Err(Error::new(
                Cause::RequestInvalid,
                "both io.fs-isolator.volumes and io.fs-isolator.volumes.base64 are given",
            )
            .remedy("keep one of them"));
        }
        (Some(text), None) => volumes(text)?,
        (None, Some(encoded)) => volumes(&base64::decode(encoded)?)?,
        (None, None) => Vec::new(),
    };
    Ok(Some(Request {
        volumes,
        isolation: slot("isolation").map(str::to_owned),
        role: slot("role").map(Role::parse).transpose()?,
        sandbox: match slot("sandbox") {
            None | Some("false") => false,
            Some("true") => true,
            Some(other) => {
                return Err(Error::new(
                    Cause::RequestInvalid,
                    format!("io.fs-isolator.sandbox is {other:?}, and true or false are possible"),
                )
                .remedy("write true or false"));
            }
        },
        token: slot("token").map(str::to_owned),
    }))
}

/// Parses the value of `io.fs-isolator.volumes`: the short form, or JSON where it starts with `[`.
///
/// # Errors
/// As [`read`].
pub fn volumes(text: &str) -> Result<Vec<VolumeRequest>> {
    let volumes = if text.trim_start_matches([' ', '\t', '\r', '\n']).starts_with('[') {
        json::parse(text)
    } else {
        short::parse(text)
    }?;
    if volumes.len() > MOST_VOLUMES {
        return Err(Error::new(Cause::RequestInvalid, format!("{} volumes are asked for", volumes.len()))
            .remedy(format!("ask for at most {MOST_VOLUMES}")));
    }
    Ok(volumes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn annotations(pairs: &[(&str, &str)]) -> HashMap<String, String> {
        pairs.iter().map(|(k, v)| (format!("{PREFIX}{k}"), (*v).to_owned())).collect()
    }

    fn read_on_crio(pairs: &[(&str, &str)]) -> Result<Option<Request>> {
        read(&annotations(pairs), Suffixes::Container("app"))
    }

    #[test]
    fn a_suffixed_key_beats_the_plain_one() {
        let request =
            read_on_crio(&[("volumes", "a:x"), ("volumes/app", "b:y"), ("volumes/other", "::bad")]).unwrap().unwrap();
        assert_eq!(request.volumes.len(), 1);
        assert_eq!(request.volumes[0].label(), "b:y");
    }

    #[test]
    fn an_empty_suffixed_key_asks_for_nothing() {
        let request = read_on_crio(&[("volumes", "a:x"), ("volumes/app", "")]).unwrap().unwrap();
        assert!(request.is_empty());
    }

    #[test]
    fn keys_for_other_containers_are_not_ours() {
        assert_eq!(read_on_crio(&[("volumes/other", "a:x"), ("bogus/other", "")]).unwrap(), None);
    }

    #[test]
    fn a_suffix_is_refused_where_containers_have_no_name() {
        let error = read(&annotations(&[("volumes/app", "a:x")]), Suffixes::Refused).unwrap_err();
        assert_eq!(error.cause(), Cause::AnnotationUnknown);
    }

    #[test]
    fn unknown_keys_are_refused() {
        assert_eq!(read_on_crio(&[("volume", "a:x")]).unwrap_err().cause(), Cause::AnnotationUnknown);
    }

    #[test]
    fn base64_says_the_same_as_plain() {
        let plain = read_on_crio(&[("volumes", "db:data")]).unwrap();
        assert_eq!(read_on_crio(&[("volumes.base64", "ZGI6ZGF0YQ==")]).unwrap(), plain);
        assert_eq!(read_on_crio(&[("volumes", "db:data"), ("volumes.base64/app", "ZGI6ZGF0YQ")]).unwrap(), plain);
        let both = read_on_crio(&[("volumes", "db:data"), ("volumes.base64", "ZGI6ZGF0YQ==")]);
        assert_eq!(both.unwrap_err().cause(), Cause::RequestInvalid);
    }

    #[test]
    fn sandbox_is_true_or_false() {
        assert!(read_on_crio(&[("sandbox", "true")]).unwrap().unwrap().sandbox);
        assert!(!read_on_crio(&[("sandbox", "false")]).unwrap().unwrap().sandbox);
        assert_eq!(read_on_crio(&[("sandbox", "yes")]).unwrap_err().cause(), Cause::RequestInvalid);
    }
}
