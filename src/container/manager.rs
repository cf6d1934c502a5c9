//! Who made the bundle, and for whom: decided by where the bundle lies, which nobody can forge, and never by
//! annotations, which an image or a pod's author can.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::fmt;
use std::path::{Component, Path};

use crate::error::{Cause, Error, Result};
use crate::request::Suffixes;

/// Who made the bundle.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize, schemars::JsonSchema,
)]
pub enum Manager {
    /// CRI-O: bundles in its run root.
    #[serde(rename = "cri-o")]
    CriO,
    /// podman: bundles in its graph root.
    #[serde(rename = "podman")]
    Podman,
    /// The administrator, with runc or crun by hand.
    #[serde(rename = "local")]
    Local,
}

impl Manager {
    /// Every manager.
    pub const ALL: [Manager; 3] = [Manager::CriO, Manager::Podman, Manager::Local];

    /// Its name in the configuration.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Manager::CriO => "cri-o",
            Manager::Podman => "podman",
            Manager::Local => "local",
        }
    }

    /// Finds the manager of a bundle by its real path: `local` anywhere below its directories, podman and
    /// CRI-O at `DIRECTORY/DRIVER-containers/ID/userdata`, as both lay them out.
    #[must_use]
    pub fn find<'a>(
        bundle: &Path,
        id: &str,
        directories: impl IntoIterator<Item = (Manager, &'a Path)>,
    ) -> Option<Manager> {
        directories.into_iter().find_map(|(manager, directory)| {
            let mut rest = bundle.strip_prefix(directory).ok()?.components();
            let found = match manager {
                Manager::Local => rest.next().is_some(),
                Manager::CriO | Manager::Podman => {
                    let mut next = || match rest.next() {
                        Some(Component::Normal(name)) => name.to_str(),
                        _ => None,
                    };
                    let (driver, container, last) = (next(), next(), next());
                    driver.is_some_and(|name| name.len() > "-containers".len() && name.ends_with("-containers"))
                        && container == Some(id)
                        && last == Some("userdata")
                        && next().is_none()
                }
            };
            found.then_some(manager)
        })
    }
}

impl fmt::Display for Manager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// On whose behalf a container asks.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Identity {
    /// A Kubernetes namespace.
    Namespace(String),
    /// Root of this host.
    Root,
    /// A user of this host, with rootless containers.
    User(u32),
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Identity::Namespace(name) => write!(f, "namespace {name}"),
            Identity::Root => f.write_str("root of this host"),
            Identity::User(uid) => write!(f, "user {uid} of this host"),
        }
    }
}

const MANAGER: &str = "io.container.manager";
const CONTAINER_TYPE: &str = "io.kubernetes.cri-o.ContainerType";
const SANDBOX_ID: &str = "io.kubernetes.cri-o.SandboxID";
const SANDBOX_NAME: &str = "io.kubernetes.cri-o.SandboxName";
const NAMESPACE: &str = "io.kubernetes.pod.namespace";
const CONTAINER_NAME: &str = "io.kubernetes.container.name";

/// Annotations by which only Kubernetes says who a container is.
const KUBERNETES_IDENTITY: [&str; 10] = [
    NAMESPACE,
    "io.kubernetes.pod.name",
    "io.kubernetes.pod.uid",
    CONTAINER_NAME,
    SANDBOX_NAME,
    "io.kubernetes.cri-o.Namespace",
    "io.kubernetes.cri-o.KubeName",
    "io.kubernetes.cri-o.Name",
    "io.kubernetes.cri.sandbox-namespace",
    "io.kubernetes.cri.sandbox-name",
];

/// Who a container is, once its annotations do not contradict its manager.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims<'a> {
    /// On whose behalf it asks.
    pub identity: Identity,
    /// Whom annotations may address.
    pub suffixes: Suffixes<'a>,
    /// The pod it says it is in; on podman believed only after a look at cgroups.
    pub pod: Option<&'a str>,
    /// A pod's infra container, which never gets anything.
    pub infra: bool,
}

/// Holds the annotations against the manager. `host` is for whom containers ask that no namespace has.
///
/// # Errors
/// [`Cause::IdentityForged`] where they claim another one, or contradict each other.
pub fn claims(manager: Manager, annotations: &HashMap<String, String>, host: Identity) -> Result<Claims<'_>> {
    let get = |key: &str| annotations.get(key).map(String::as_str);
    let forged = |what: String| Err(Error::new(Cause::IdentityForged, what));
    let expected = match manager {
        Manager::CriO => Some("cri-o"),
        Manager::Podman => Some("libpod"),
        Manager::Local => None,
    };
    match get(MANAGER) {
        claimed if claimed == expected => {}
        // podman writes its name on every container it makes; a bundle by hand needs none.
        Some(claimed) => {
            return forged(format!("{MANAGER} says {claimed:?} and the bundle lies where {manager} keeps them"));
        }
        None => return forged(format!("{MANAGER} is missing, and {manager} sets it on every container")),
    }
    if manager != Manager::CriO {
        if get(CONTAINER_TYPE) == Some("sandbox") {
            return forged(format!("{CONTAINER_TYPE} says sandbox outside of CRI-O"));
        }
        if let Some(key) = KUBERNETES_IDENTITY.into_iter().find(|key| annotations.contains_key(*key)) {
            return forged(format!("{key} claims a Kubernetes identity outside of CRI-O"));
        }
        let pod = get(SANDBOX_ID);
        if pod.is_some() && manager == Manager::Local {
            return forged(format!("{SANDBOX_ID} claims a pod, and the bundle was made by hand"));
        }
        return Ok(Claims { identity: host, suffixes: Suffixes::Refused, pod, infra: false });
    }
    // SandboxName is k8s_POD_NAMESPACE_UID_ATTEMPT from CRI-O's own metadata; no part has an underscore.
    // The pod's author cannot override it, unlike the namespace where the client sets no labels.
    let Some(name) = get(SANDBOX_NAME) else {
        return forged(format!("{SANDBOX_NAME} is missing"));
    };
    let parts: Vec<&str> = name.split('_').collect();
    let ["k8s", _, namespace, _, _] = parts[..] else {
        return forged(format!("{SANDBOX_NAME} {name:?} is not of the form k8s_POD_NAMESPACE_UID_ATTEMPT"));
    };
    match get(NAMESPACE) {
        Some(claimed) if claimed == namespace && !namespace.is_empty() => {}
        claimed => {
            let claimed = claimed.unwrap_or("nothing");
            return forged(format!("{NAMESPACE} says {claimed:?} and {SANDBOX_NAME} says {namespace:?}"));
        }
    }
    Ok(Claims {
        identity: Identity::Namespace(namespace.to_owned()),
        suffixes: get(CONTAINER_NAME).map_or(Suffixes::Refused, Suffixes::Container),
        pod: get(SANDBOX_ID),
        infra: get(CONTAINER_TYPE) == Some("sandbox"),
    })
}

/// Whether a text has the form of a pod's id.
#[must_use]
pub fn is_pod_id(pod: &str) -> bool {
    (32..=64).contains(&pod.len()) && pod.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Whether a cgroup path names a pod: one of its components contains the pod's whole id.
#[must_use]
pub fn cgroup_names_pod(cgroup: &str, pod: &str) -> bool {
    is_pod_id(pod) && cgroup.contains(pod)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn annotations(pairs: &[(&str, &str)]) -> HashMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    fn find(bundle: &str, id: &str) -> Option<Manager> {
        let directories = [
            (Manager::CriO, Path::new("/run/containers/storage")),
            (Manager::Podman, Path::new("/var/lib/containers/storage")),
            (Manager::Local, Path::new("/srv/bundles")),
        ];
        Manager::find(Path::new(bundle), id, directories)
    }

    #[test]
    fn the_bundle_tells_the_manager() {
        assert_eq!(find("/run/containers/storage/overlay-containers/abc/userdata", "abc"), Some(Manager::CriO));
        assert_eq!(find("/var/lib/containers/storage/vfs-containers/abc/userdata", "abc"), Some(Manager::Podman));
        assert_eq!(find("/srv/bundles/web", "abc"), Some(Manager::Local));
        for bundle in [
            "/srv/bundles",
            "/srv/bundles2/web",
            "/var/lib/containers/storage/overlay-containers/other/userdata",
            "/var/lib/containers/storage/overlay/abc/merged",
            "/var/lib/containers/storage/overlay-containers/abc/userdata/x",
            "/var/lib/containers/storage/-containers/abc/userdata",
            "/home/u/bundle",
        ] {
            assert_eq!(find(bundle, "abc"), None, "{bundle}");
        }
    }

    const CRIO: [(&str, &str); 4] = [
        (MANAGER, "cri-o"),
        (SANDBOX_NAME, "k8s_p1_default_174dbd82_0"),
        (NAMESPACE, "default"),
        (CONTAINER_NAME, "app"),
    ];

    #[test]
    fn a_crio_container_is_its_namespace() {
        let annotations = annotations(&CRIO);
        let claims = claims(Manager::CriO, &annotations, Identity::Root).unwrap();
        assert_eq!(claims.identity, Identity::Namespace("default".to_owned()));
        assert_eq!(claims.suffixes, Suffixes::Container("app"));
    }

    #[test]
    fn contradictions_are_refused() {
        let crio_with = |key: &str, value: &str| {
            let mut all = annotations(&CRIO);
            all.insert(key.to_owned(), value.to_owned());
            claims(Manager::CriO, &all, Identity::Root).map(|claims| claims.identity)
        };
        assert!(crio_with(NAMESPACE, "kube-system").is_err());
        assert!(crio_with(MANAGER, "libpod").is_err());
        assert!(crio_with(SANDBOX_NAME, "k8s_p1_x_default_u_0").is_err());
        assert!(crio_with("io.kubernetes.cri-o.Namespace", "SPOOF").is_ok(), "the author's, and not believed");
        for (manager, forged) in [
            (Manager::Podman, &[(MANAGER, "cri-o")][..]),
            (Manager::Podman, &[(MANAGER, "libpod"), (CONTAINER_TYPE, "sandbox")]),
            (Manager::Podman, &[(MANAGER, "libpod"), (NAMESPACE, "default")]),
            (Manager::Podman, &[]),
            (Manager::Local, &[(MANAGER, "libpod")]),
            (Manager::Local, &[(SANDBOX_NAME, "k8s_a_b_c_0")]),
            (Manager::Local, &[(SANDBOX_ID, "0123456789abcdef0123456789abcdef")]),
        ] {
            assert_eq!(
                claims(manager, &annotations(forged), Identity::Root).unwrap_err().cause(),
                Cause::IdentityForged,
                "{manager} {forged:?}"
            );
        }
    }

    #[test]
    fn a_pod_is_believed_by_its_whole_id() {
        let pod = "94f06ebb1d5863b315d36d1ce31bdb90b6208b3dbb72329f83e0396181a21d4e";
        assert!(cgroup_names_pod(&format!("/libpod_parent/{pod}"), pod));
        assert!(!cgroup_names_pod("/libpod_parent", ""));
        assert!(!cgroup_names_pod("/libpod_parent", "libpod_parent"));
    }
}
