//! From a state to a plan: opens the bundle, finds out who made it, and reads the request.
//!
//! prestart executes what comes out; `fs-isolator plan` prints it.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use crate::config::Config;
use crate::container::manager::{self, Claims, Manager};
use crate::container::{BundleConfig, bundle};
use crate::error::{Because, Cause, Error, Result};
use crate::me::me;
use crate::plan::{self, Attachment, Facts, Plan};
use crate::{request, sys};

/// A bundle that was opened and read.
#[derive(Debug)]
pub struct Bundle {
    /// Its directory.
    pub fd: OwnedFd,
    /// Its real path.
    pub path: PathBuf,
    /// Its config.json.
    pub config: BundleConfig,
}

impl Bundle {
    /// Opens and reads a bundle.
    ///
    /// # Errors
    /// [`Cause::Bundle`], [`Cause::BundleConfig`].
    pub fn open(path: &str, proc_fds: &OwnedFd) -> Result<Bundle> {
        let fd = bundle::open(path)?;
        let real = sys::path_of(proc_fds, &fd).because(Cause::Bundle, || "the bundle's path".to_owned())?;
        let config = BundleConfig::parse(&bundle::read_config(&fd)?)?;
        Ok(Bundle { fd, path: PathBuf::from(real), config })
    }
}

/// Makes the plan for a container; `None` where nothing is to be done for it. One to which no annotation speaks gets what
/// the configuration's `default_container_info` has, if anything.
///
/// # Errors
/// [`Cause::ManagerUnknown`], [`Cause::IdentityForged`], the causes of [`request::read`] and [`plan::make`].
pub fn plan(
    id: &str,
    annotations: &HashMap<String, String>,
    bundle_path: &Path,
    bundle: &BundleConfig,
    config: &Config,
) -> Result<Option<Plan>> {
    plan_beside(&[], id, annotations, bundle_path, bundle, config)
}

/// The same for what a running container gets in addition to what it has.
///
/// # Errors
/// As [`plan`], and those of [`plan::make_beside`].
pub fn plan_beside(
    present: &[Attachment],
    id: &str,
    annotations: &HashMap<String, String>,
    bundle_path: &Path,
    bundle: &BundleConfig,
    config: &Config,
) -> Result<Option<Plan>> {
    let default = config.default_request();
    let is_asked = request::is_asked(annotations);
    if !is_asked && default.is_none() {
        return Ok(None);
    }
    let found = find_manager(id, bundle_path, config).and_then(|manager| {
        let claims = manager::claims(manager, annotations, me().identity())?;
        if !claims.infra {
            confirm_pod(manager, &claims, bundle)?;
        }
        Ok((manager, claims))
    });
    let (manager, claims) = match found {
        Ok(found) => found,
        // It asks for nothing, so it is not refused for who it is.
        Err(error) if !is_asked => {
            log::info!("it does not get default_container_info: {error}");
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    if claims.infra {
        return Ok(None);
    }
    let Some(request) = request::read(annotations, claims.suffixes)?.or(default) else { return Ok(None) };
    plan::admit(&request, config)?;
    if request.is_empty() {
        return Ok(None);
    }
    let facts = Facts { manager, identity: &claims.identity, pod: claims.pod, bundle };
    plan::make_beside(present, facts, &request, config).map(Some)
}

/// Finds the manager by the bundle's real path; the configured directories are resolved only if none matches as
/// it is written.
fn find_manager(id: &str, bundle: &Path, config: &Config) -> Result<Manager> {
    if let Some(manager) = Manager::find(bundle, id, config.manager_directories()) {
        return Ok(manager);
    }
    let real: Vec<(Manager, PathBuf)> = config
        .manager_directories()
        .filter_map(|(manager, directory)| Some((manager, directory.canonicalize().ok()?)))
        .collect();
    let directories = real.iter().map(|(manager, directory)| (*manager, directory.as_path()));
    Manager::find(bundle, id, directories).ok_or_else(|| unlisted(id, bundle, config))
}

/// The refusal for a bundle that nobody is known to have made, with the line to add.
fn unlisted(id: &str, bundle: &Path, config: &Config) -> Error {
    // podman and CRI-O lay bundles out as STORAGE/DRIVER-containers/ID/userdata.
    let storage =
        bundle.ancestors().nth(3).filter(|storage| Manager::find(bundle, id, [(Manager::Podman, *storage)]).is_some());
    let (manager, directory, when) = match storage {
        Some(storage) => (Manager::Podman, storage, "it is podman's (for CRI-O's write cri-o)"),
        None => (Manager::Local, bundle.parent().unwrap_or(bundle), "you made it by hand"),
    };
    // The key replaces the default, so it must name that too.
    let mut list: Vec<&Path> =
        config.manager_directories().filter(|(of, _)| *of == manager).map(|(_, path)| path).collect();
    list.push(directory);
    Error::new(
        Cause::ManagerUnknown,
        format!("the bundle {} lies under no directory listed for a manager", bundle.display()),
    )
    .remedy(format!("if {when}, put {{\"managers\": {{\"{manager}\": {list:?}}}}} into the configuration"))
}

/// podman tells containers of a pod by an annotation that an image can forge; cgroups cannot be forged.
fn confirm_pod(manager: Manager, claims: &Claims<'_>, bundle: &BundleConfig) -> Result<()> {
    let (Manager::Podman, Some(pod)) = (manager, claims.pod) else { return Ok(()) };
    let by_cgroup = bundle.cgroups_path.as_deref().is_some_and(|cgroup| manager::cgroup_names_pod(cgroup, pod));
    let by_namespace = || {
        bundle.joined.iter().any(|path| {
            let process = path.strip_prefix("/proc/").and_then(|rest| rest.split_once("/ns/")).map(|(pid, _)| pid);
            let pid = process.filter(|pid| !pid.is_empty() && pid.bytes().all(|byte| byte.is_ascii_digit()));
            let cgroup = pid.and_then(|pid| std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok());
            cgroup.is_some_and(|cgroup| manager::cgroup_names_pod(&cgroup, pod))
        })
    };
    if by_cgroup || by_namespace() {
        return Ok(());
    }
    Err(Error::new(
        Cause::IdentityForged,
        format!("the annotations claim the pod {pod:?}, and no cgroup of the container says so"),
    )
    .remedy(
        "remove the annotation, or give the pod an infra container that shares a namespace, as podman does by default",
    ))
}
