//! The few fields of the bundle's config.json that matter, through narrow structs: the whole runtime-spec
//! costs more to parse than the hook's work, and fails on values that are newer than the reader.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::fcntl::OFlag;
use serde::Deserialize;

use crate::error::{Because, Cause, Error, Result};
use crate::request::container_path::ContainerPath;
use crate::sys::{self, Resolve};

/// Largest config.json that is read, in bytes.
pub const LARGEST: u64 = 4 << 20;

/// What of config.json decides about volumes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BundleConfig {
    /// The container's root filesystem on the host; relative to the bundle unless it starts with `/`.
    pub root: String,
    /// User that the container's process starts as, inside its user namespace.
    pub uid: u32,
    /// That user's group.
    pub gid: u32,
    /// That user's other groups.
    pub groups: Vec<u32>,
    /// Working directory of the process, in the container.
    pub cwd: String,
    /// Whether the process can ever have CAP_SYS_ADMIN, with which it could remount what is read-only.
    pub sys_admin: bool,
    /// Mounts that the runtime makes, in its order.
    pub mounts: Vec<BundleMount>,
    /// Its processes end with its init: it has a pid namespace of its own, and joins nobody's.
    pub own_pid_namespace: bool,
    /// It has, or joins, a mount namespace.
    pub mount_namespace: bool,
    /// It has, or joins, a user namespace.
    pub user_namespace: bool,
    /// Namespaces that it joins by path.
    pub joined: Vec<String>,
    /// `linux.rootfsPropagation`.
    pub rootfs_propagation: Option<String>,
    /// `linux.cgroupsPath`.
    pub cgroups_path: Option<String>,
    /// `process.selinuxLabel`: its process's label.
    pub process_label: Option<String>,
    /// `linux.mountLabel`: the label of what is mounted for it.
    pub mount_label: Option<String>,
}

/// One mount of the bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BundleMount {
    /// Where, in the container. `None` where the path is none that a volume could touch.
    pub destination: Option<ContainerPath>,
    /// Host path of a bind.
    pub source: Option<String>,
    /// It binds something of the host.
    pub bind: bool,
    /// What is mounted below its source comes along.
    pub recursive: bool,
    /// It asks for shared propagation.
    pub shared: bool,
    /// It has no option that restricts it, and names no propagation.
    pub plain: bool,
}

#[derive(Deserialize)]
struct Spec {
    process: Option<Process>,
    root: Option<Root>,
    mounts: Option<Vec<Mount>>,
    linux: Option<Linux>,
}

#[derive(Deserialize)]
struct Process {
    user: Option<User>,
    cwd: Option<String>,
    capabilities: Option<Capabilities>,
    #[serde(rename = "selinuxLabel")]
    label: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct User {
    #[serde(default)]
    uid: u32,
    #[serde(default)]
    gid: u32,
    additional_gids: Option<Vec<u32>>,
}

#[derive(Deserialize)]
struct Capabilities {
    bounding: Option<Vec<String>>,
    effective: Option<Vec<String>>,
    permitted: Option<Vec<String>>,
    inheritable: Option<Vec<String>>,
    ambient: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct Root {
    path: String,
}

#[derive(Deserialize)]
struct Mount {
    destination: String,
    #[serde(rename = "type")]
    kind: Option<String>,
    source: Option<String>,
    options: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Linux {
    namespaces: Option<Vec<Namespace>>,
    rootfs_propagation: Option<String>,
    cgroups_path: Option<String>,
    mount_label: Option<String>,
}

#[derive(Deserialize)]
struct Namespace {
    #[serde(rename = "type")]
    kind: String,
    path: Option<String>,
}

impl BundleConfig {
    /// Parses config.json.
    ///
    /// # Errors
    /// [`Cause::BundleConfig`] for malformed JSON, a field of a wrong type, or no root.path.
    pub fn parse(text: &[u8]) -> Result<BundleConfig> {
        let invalid = |what: String| Error::new(Cause::BundleConfig, what);
        let spec: Spec = serde_json::from_slice(text)
            .map_err(|error| invalid(format!("config.json does not follow the runtime-spec: {error}")))?;
        let root = spec.root.map(|root| root.path).filter(|path| !path.is_empty() && !path.contains('\0'));
        let root = root.ok_or_else(|| invalid("config.json has no root.path".to_owned()))?;
        let process = spec.process.unwrap_or(Process { user: None, cwd: None, capabilities: None, label: None });
        let user = process.user.unwrap_or(User { uid: 0, gid: 0, additional_gids: None });
        let linux = spec.linux.unwrap_or(Linux {
            namespaces: None,
            rootfs_propagation: None,
            cgroups_path: None,
            mount_label: None,
        });
        let namespaces = linux.namespaces.unwrap_or_default();
        let has = |kind: &str| namespaces.iter().any(|namespace| namespace.kind == kind);
        Ok(BundleConfig {
            root,
            uid: user.uid,
            gid: user.gid,
            groups: user.additional_gids.unwrap_or_default(),
            cwd: process.cwd.unwrap_or_else(|| "/".to_owned()),
            sys_admin: process.capabilities.is_some_and(|sets| sets.has("CAP_SYS_ADMIN")),
            mounts: spec.mounts.unwrap_or_default().into_iter().map(BundleMount::from).collect(),
            own_pid_namespace: namespaces
                .iter()
                .any(|namespace| namespace.kind == "pid" && namespace.path.as_deref().unwrap_or_default().is_empty()),
            mount_namespace: has("mount"),
            user_namespace: has("user"),
            joined: namespaces.iter().filter_map(|namespace| namespace.path.clone()).collect(),
            rootfs_propagation: linux.rootfs_propagation.filter(|value| !value.is_empty()),
            cgroups_path: linux.cgroups_path,
            process_label: process.label.filter(|label| !label.is_empty()),
            mount_label: linux.mount_label.filter(|label| !label.is_empty()),
        })
    }

    /// Whether the bundle asks for mounts that do not follow the host.
    #[must_use]
    pub fn asks_for_private(&self) -> bool {
        matches!(self.rootfs_propagation.as_deref(), Some("private" | "rprivate"))
    }

    /// Whether the bundle itself asks for a shared mount somewhere in the container.
    #[must_use]
    pub fn asks_for_shared(&self) -> bool {
        matches!(self.rootfs_propagation.as_deref(), Some("shared" | "rshared")) || self.mounts.iter().any(|m| m.shared)
    }
}

impl Capabilities {
    fn has(&self, name: &str) -> bool {
        [&self.bounding, &self.effective, &self.permitted, &self.inheritable, &self.ambient]
            .into_iter()
            .flatten()
            .flatten()
            .any(|capability| capability == name)
    }
}

impl From<Mount> for BundleMount {
    fn from(mount: Mount) -> BundleMount {
        let options = mount.options.unwrap_or_default();
        let has = |names: [&str; 2]| options.iter().any(|option| names.contains(&option.as_str()));
        // Relative destinations start at the root as well (runtime-spec before 1.1).
        let destination = format!("/{}", mount.destination);
        BundleMount {
            destination: ContainerPath::parse_destination(&destination),
            source: mount.source,
            bind: mount.kind.as_deref() == Some("bind") || has(["bind", "rbind"]),
            shared: has(["shared", "rshared"]),
            recursive: has(["rbind"; 2]),
            plain: options.iter().all(|option| ["bind", "rbind", "rw"].contains(&option.as_str())),
        }
    }
}

/// Opens the bundle the runtime named: a directory, not a symbolic link.
///
/// # Errors
/// [`Cause::Bundle`].
pub fn open(bundle: &str) -> Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW;
    sys::open_below(sys::cwd(), Path::new(bundle.trim_end_matches('/')), flags, Resolve::NoMagic)
        .because(Cause::Bundle, || "the bundle cannot be opened".to_owned())
}

/// Reads config.json from an open bundle.
///
/// # Errors
/// [`Cause::BundleConfig`].
pub fn read_config(bundle: &OwnedFd) -> Result<Vec<u8>> {
    let doing = || "config.json cannot be read".to_owned();
    let fd =
        sys::open_below(bundle, Path::new("config.json"), OFlag::O_RDONLY | OFlag::O_NONBLOCK, Resolve::BeneathNoLinks)
            .because(Cause::BundleConfig, doing)?;
    crate::read::at_most(fd.into(), LARGEST).because(Cause::BundleConfig, doing)
}

/// Annotations in config.json, which are those of the state.
///
/// # Errors
/// [`Cause::BundleConfig`].
pub fn annotations(bundle: &OwnedFd) -> Result<HashMap<String, String>> {
    #[derive(Deserialize)]
    struct Annotated {
        annotations: Option<HashMap<String, String>>,
    }
    let annotated: Annotated = serde_json::from_slice(&read_config(bundle)?)
        .map_err(|error| Error::new(Cause::BundleConfig, format!("config.json: {error}")))?;
    Ok(annotated.annotations.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_matters() {
        let config = BundleConfig::parse(
            br#"{"ociVersion":"1.0.2","process":{"user":{"uid":1000,"gid":100,"additionalGids":[7]},"cwd":"/w","capabilities":{"bounding":["CAP_SYS_ADMIN"]},"selinuxLabel":"u:r:t"},
                 "root":{"path":"rootfs","readonly":true},
                 "mounts":[{"destination":"/proc","type":"proc","source":"proc"},
                           {"destination":"/host","source":"/srv","options":["rbind","rshared"]}],
                 "linux":{"namespaces":[{"type":"mount"},{"type":"user","path":"/proc/7/ns/user"}],"rootfsPropagation":"rslave","cgroupsPath":"/x","mountLabel":"","future":1}}"#,
        )
        .unwrap();
        assert_eq!((config.uid, config.gid, config.cwd.as_str(), config.root.as_str()), (1000, 100, "/w", "rootfs"));
        assert_eq!(config.groups, [7]);
        assert_eq!((config.process_label.as_deref(), config.mount_label.as_deref()), (Some("u:r:t"), None));
        assert!(config.sys_admin && config.mount_namespace && config.user_namespace && config.asks_for_shared());
        assert!(!config.mounts[0].bind && config.mounts[1].bind && config.mounts[1].shared);
        assert_eq!(config.joined, ["/proc/7/ns/user"]);
    }

    #[test]
    fn little_is_enough_and_nothing_is_too_new() {
        let config = BundleConfig::parse(
            br#"{"root":{"path":"r"},"mounts":null,"linux":{"namespaces":[{"type":"time"}]},"vm":{}}"#,
        )
        .unwrap();
        assert_eq!((config.uid, config.cwd.as_str(), config.mount_namespace), (0, "/", false));
    }

    #[test]
    fn what_is_wrong_has_its_cause() {
        let deep = format!("{{\"root\":{}", "[".repeat(500));
        for text in [
            "",
            "{",
            "{}",
            "[]",
            r#"{"root":{"path":""}}"#,
            r#"{"root":{"path":"r"},"mounts":{}}"#,
            r#"{"root":{"path":"r"},"process":{"user":{"uid":-1}}}"#,
            deep.as_str(),
        ] {
            assert_eq!(BundleConfig::parse(text.as_bytes()).unwrap_err().cause(), Cause::BundleConfig, "{text}");
        }
    }
}
