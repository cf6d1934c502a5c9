//! Request and configuration become a plan: what would be mounted where, with which flags, and why.
//!
//! A pure function of its inputs, with no system call and no clock. Whether the volumes exist and what the
//! container paths lead to is found out when the plan is executed.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};

use crate::config::disks::{self, Kind};
use crate::config::host_paths::HostPath;
use crate::config::{Config, Isolator, Ownership, one_isolator};
use crate::container::bundle::BundleMount;
use crate::container::{BundleConfig, Identity, Manager};
use crate::error::{Cause, Error, Result, shell_word};
use crate::mountpoint::Missing;
use crate::request::container_path::ContainerPath;
use crate::request::names::{Role, SecretName, VolumeId};
use crate::request::{Disk, Mode, Propagation, Request, Source, VolumeRequest};
use crate::sys::MountAttributes;
use crate::volume::{DiskChoice, unavailable};
use crate::{sandbox, secret, volume};

/// What will be done for one container.
#[derive(Debug, Clone, PartialEq, serde::Serialize, schemars::JsonSchema)]
pub struct Plan {
    /// Who made the bundle.
    pub manager: Manager,
    /// On whose behalf.
    pub identity: Identity,
    /// The pod, if the container is in one for certain: its containers hold volumes together.
    pub pod: Option<String>,
    /// The isolator that does it.
    pub isolator: Isolator,
    /// User of the container, inside its user namespace if it has one.
    pub uid: u32,
    /// Group of that user.
    pub gid: u32,
    /// That user's groups.
    pub groups: Vec<u32>,
    /// It has, or joins, a user namespace.
    pub user_namespace: bool,
    /// The sandbox.
    pub sandbox: Sandbox,
    /// What is attached, in this order: parents first.
    pub attachments: Vec<Attachment>,
    /// Whether everything below the container's root that the runtime left shared becomes slave.
    pub enslave_root: bool,
    /// Whether poststart gives slave back where the runtime takes it away; not where the bundle asks for private.
    pub mend: bool,
    /// Binds of the bundle's own that should follow the host as well.
    pub follow: Vec<Bind>,
    /// Make volumes that do not exist.
    pub create_missing_volumes: bool,
    /// Who owns the root of a volume for which nothing else was decided.
    pub ownership: Ownership,
    /// Whether all its processes end with its init.
    pub own_pid_namespace: bool,
    /// Seconds for which the sandbox is kept afterwards.
    pub sandbox_retention: u64,
}

/// A bind of the bundle's own: its source, its destination, and whether what was mounted below the source when the container
/// started stays out of it, since it is not recursive.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
pub struct Bind(pub String, pub String, #[serde(default)] pub bool);

/// A container's sandbox.
#[derive(Debug, Clone, PartialEq, serde::Serialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Sandbox {
    /// None is needed.
    None,
    /// A directory of its own below `work_dir`.
    Own,
    /// posix: the container's working directory.
    WorkingDirectory(String),
}

/// One thing that is attached to the container.
#[derive(Debug, Clone, PartialEq, serde::Serialize, schemars::JsonSchema)]
pub struct Attachment {
    /// The request's words.
    pub label: String,
    /// What is attached.
    pub from: Origin,
    /// Where, as an absolute path in the container.
    pub target: ContainerPath,
    /// Where below the sandbox, for what lies there.
    pub in_sandbox: Option<ContainerPath>,
    /// A mount, or a symbolic link.
    pub how: How,
    /// What to do where the target does not exist.
    pub missing: Missing,
    /// Reasons for all this, for people.
    pub why: Vec<String>,
}

impl Attachment {
    /// A refusal that is about it.
    #[must_use]
    pub fn named(&self, error: Error) -> Error {
        let error = error.volume(&self.label);
        match &self.from {
            Origin::Volume { role, .. } => error.role(role),
            _ => error,
        }
    }
}

/// Where an attachment comes from.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// The container's sandbox.
    Sandbox,
    /// A persistent volume.
    Volume {
        /// Its role.
        role: Role,
        /// Its id.
        id: VolumeId,
        /// The disk it lies on.
        disk: DiskChoice,
        /// Directory in it.
        subpath: Option<ContainerPath>,
        /// Several containers may hold it.
        shared: bool,
        /// Reserved size in MB, recorded and not enforced.
        size_mb: Option<f64>,
    },
    /// A path of the host.
    HostPath {
        /// Entry of the configuration.
        allowed: String,
        /// The rest, below it.
        below: Option<ContainerPath>,
        /// Directories that are missing below the entry are made.
        create: bool,
    },
    /// A directory or file of the container's own sandbox (Mesos's SANDBOX_PATH of type SELF).
    InSandbox {
        /// Below the sandbox.
        path: ContainerPath,
    },
    /// A directory or file of the sandbox that the containers of the pod share (SANDBOX_PATH of type PARENT).
    InParent {
        /// Below that sandbox.
        path: ContainerPath,
    },
    /// A secret, as a file of its own.
    Secret {
        /// Its name.
        name: SecretName,
        /// File of the administrator's with its value.
        path: PathBuf,
    },
    /// shared: a private folder in the sandbox, with the mode and owner of what it covers.
    Private {
        /// Below the sandbox.
        path: ContainerPath,
    },
}

/// How something is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum How {
    /// A bind mount.
    Mount {
        /// Its attributes, on top of those of the source.
        attributes: MountAttributes,
        /// Whether later host mounts below it appear in the container.
        propagation: Propagation,
        /// Whether the volume named that propagation.
        named: bool,
    },
    /// A symbolic link.
    Link,
}

/// What the plan is made from, besides request and configuration.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// Who made the bundle.
    pub manager: Manager,
    /// On whose behalf.
    pub identity: &'a Identity,
    /// Its pod, if it is in one for certain.
    pub pod: Option<&'a str>,
    /// config.json.
    pub bundle: &'a BundleConfig,
}

/// Makes the plan.
///
/// # Errors
/// Each reason for which a request cannot be granted without looking at the host; see [`Cause`].
pub fn make(facts: Facts<'_>, request: &Request, config: &Config) -> Result<Plan> {
    make_beside(&[], facts, request, config)
}

/// Makes the plan for what a running container gets in addition to what it has.
///
/// # Errors
/// Those of [`make`]; [`Cause::PathConflict`] where it would be in the way of what is there.
pub fn make_beside(present: &[Attachment], facts: Facts<'_>, request: &Request, config: &Config) -> Result<Plan> {
    let isolator = admit(request, config)?;
    let bundle = facts.bundle;
    if isolator != Isolator::Posix && !bundle.mount_namespace {
        return Err(Error::new(
            Cause::HostNamespace,
            format!("config.json gives the container no mount namespace, and {isolator} would mount on the host"),
        ));
    }
    // First of all for posix: it is what a podman user with an image and no configuration hears.
    let working_directory =
        if isolator == Isolator::Posix { working_directory(bundle, config)? } else { String::new() };
    let mut attachments = Vec::with_capacity(request.volumes.len() + 1);
    for volume in &request.volumes {
        let named = |error: Error| {
            let error = error.volume(volume.label());
            role_of(facts, request, config, volume).into_iter().fold(error, |error, role| error.role(role))
        };
        attachments.push(attachment(facts, request, config, isolator, volume).map_err(named)?);
    }
    follow_sandbox_paths(&mut attachments, present)?;
    let sandbox = match isolator {
        Isolator::Posix => Sandbox::WorkingDirectory(working_directory),
        Isolator::Linux if request.sandbox || attachments.iter().any(needs_sandbox) => Sandbox::Own,
        Isolator::Shared if request.sandbox || attachments.iter().any(|a| matches!(a.from, Origin::Private { .. })) => {
            Sandbox::Own
        }
        _ => Sandbox::None,
    };
    let has_sandbox = present.iter().any(|attachment| attachment.from == Origin::Sandbox);
    if isolator == Isolator::Linux && sandbox == Sandbox::Own && !has_sandbox {
        attachments.push(sandbox_attachment(config));
    }
    // Parents first: a child is mounted on top of its parent, whatever the order of asking (MESOS-7770).
    attachments.sort_by(|a, b| (a.target.depth(), &a.target).cmp(&(b.target.depth(), &b.target)));
    check_conflicts(&attachments, isolator, bundle)?;
    for attachment in &attachments {
        present.iter().try_for_each(|there| check_beside(attachment, there, isolator))?;
    }
    place_missing(&mut attachments, present, isolator, facts, config);
    Ok(Plan {
        manager: facts.manager,
        identity: facts.identity.clone(),
        pod: facts.pod.map(str::to_owned),
        isolator,
        uid: bundle.uid,
        gid: bundle.gid,
        groups: bundle.groups.clone(),
        user_namespace: bundle.user_namespace,
        sandbox,
        attachments,
        enslave_root: isolator != Isolator::Posix && !bundle.asks_for_shared(),
        mend: !bundle.asks_for_private(),
        follow: if config.follow_binds && isolator != Isolator::Posix { followed(bundle) } else { Vec::new() },
        create_missing_volumes: config.create_missing_volumes,
        ownership: config.ownership,
        own_pid_namespace: bundle.own_pid_namespace,
        sandbox_retention: config.sandbox_retention,
    })
}

fn needs_sandbox(attachment: &Attachment) -> bool {
    attachment.in_sandbox.is_some() || matches!(attachment.from, Origin::InSandbox { .. })
}

/// A path of the sandbox at or below something that is attached there is that: on the host it is mounted nowhere, and
/// the directory there only its mount point (MESOS-7770: Marathon's way to have a volume at an absolute path). It has the
/// volume's lease, and is read-only where either is.
fn follow_sandbox_paths(attachments: &mut [Attachment], present: &[Attachment]) -> Result<()> {
    for index in 0..attachments.len() {
        let Origin::InSandbox { path } = attachments[index].from.clone() else { continue };
        let covers = |other: &Attachment| {
            let rest = path.within(other.in_sandbox.as_ref()?)?;
            Some((other.clone(), rest.to_vec()))
        };
        let all = attachments.iter().chain(present);
        let Some((other, rest)) = all.filter_map(covers).min_by_key(|(_, rest)| rest.len()) else { continue };
        let attachment = &mut attachments[index];
        let from = below(other.from, &rest).and_then(|from| {
            let what = || format!("{path} of the sandbox would lie in {}, which is a file", other.label);
            from.ok_or_else(|| Error::new(Cause::PathConflict, what()))
        });
        attachment.from = from.map_err(|error| attachment.named(error))?;
        attachment.why.push(format!("{path} of the sandbox is {}", other.label));
        if let (How::Mount { attributes: theirs, .. }, How::Mount { attributes, propagation, named }) =
            (other.how, &mut attachment.how)
        {
            *attributes = attributes.and(theirs);
            if *attributes != MountAttributes::default() && !*named {
                *propagation = Propagation::Private;
            }
        }
    }
    Ok(())
}

/// What lies at a path below something that is attached; `None` where nothing can.
fn below(from: Origin, rest: &[String]) -> Result<Option<Origin>> {
    if rest.is_empty() {
        return Ok(Some(from));
    }
    let extended = |base: Option<&ContainerPath>| {
        let all = base.map(ContainerPath::relative).into_iter().chain(rest.iter().cloned()).collect::<Vec<_>>();
        ContainerPath::parse_relative(&all.join("/"))
    };
    Ok(Some(match from {
        Origin::Volume { role, id, disk, subpath, shared, size_mb } => {
            Origin::Volume { role, id, disk, subpath: Some(extended(subpath.as_ref())?), shared, size_mb }
        }
        Origin::HostPath { allowed, below, create } => {
            Origin::HostPath { allowed, below: Some(extended(below.as_ref())?), create }
        }
        Origin::InParent { path } => Origin::InParent { path: extended(Some(&path))? },
        Origin::Sandbox | Origin::InSandbox { .. } | Origin::Private { .. } | Origin::Secret { .. } => return Ok(None),
    }))
}

/// Binds of the bundle that are plain rw and name no propagation. (A host mount that came later below a read-only bind
/// would be writable.)
fn followed(bundle: &BundleConfig) -> Vec<Bind> {
    if bundle.asks_for_private() {
        return Vec::new();
    }
    let plain = |mount: &&BundleMount| mount.bind && mount.plain;
    let source = |mount: &BundleMount| mount.source.clone().filter(|source| source.starts_with('/'));
    let bind =
        |mount: &BundleMount| Some(Bind(source(mount)?, mount.destination.as_ref()?.to_string(), !mount.recursive));
    bundle.mounts.iter().filter(plain).filter_map(bind).collect()
}

/// Checks what does not depend on any volume, and tells the isolator.
///
/// # Errors
/// [`Cause::Token`], [`Cause::Isolation`], [`Cause::IsolationNotAllowed`].
pub fn admit(request: &Request, config: &Config) -> Result<Isolator> {
    if let Some(token) = &config.request_token
        && request.token.as_ref() != Some(token)
    {
        return Err(Error::new(Cause::Token, "the request has no token, or the wrong one"));
    }
    let Some(name) = &request.isolation else { return Ok(config.isolation) };
    let asked = one_isolator(name)?;
    if asked != config.isolation && !config.allowed_isolation.contains(&asked) {
        return Err(Error::new(
            Cause::IsolationNotAllowed,
            format!("the container asks for {asked}, which is not allowed"),
        )
        .remedy(format!("add {:?} to \"allowed_isolation\" in the configuration", asked.name())));
    }
    Ok(asked)
}

/// The role of which a persistent volume is asked for.
fn role_of(facts: Facts<'_>, request: &Request, config: &Config, volume: &VolumeRequest) -> Option<Role> {
    let Source::Persistent { role, .. } = &volume.source else { return None };
    let named = role.as_ref().or(request.role.as_ref());
    named.cloned().or_else(|| config.role_of(facts.identity).ok())
}

fn attachment(
    facts: Facts<'_>,
    request: &Request,
    config: &Config,
    isolator: Isolator,
    volume: &VolumeRequest,
) -> Result<Attachment> {
    let mut why = Vec::new();
    let from = match &volume.source {
        Source::Persistent { id, role, disk, size_mb } => {
            let role = match role.as_ref().or(request.role.as_ref()) {
                Some(role) => role.clone(),
                None => {
                    let role = config.role_of(facts.identity)?;
                    why.push(format!("role {role}: the default of {}", facts.identity));
                    role
                }
            };
            let disk = choose_disk(disk, config);
            if !config.may_use(facts.identity, &role) {
                return Err(unavailable(&role, id, &disk.unwrap_or(DiskChoice::Any)));
            }
            let disk = disk?;
            Origin::Volume {
                role,
                id: id.clone(),
                disk,
                subpath: volume.subpath.clone(),
                shared: volume.shared,
                size_mb: *size_mb,
            }
        }
        Source::HostPath { path } if isolator != Isolator::Posix => {
            let from = allowed_host_path(facts.identity, config, path, volume)?;
            why.push("allowed by host_paths".to_owned());
            from
        }
        Source::SandboxPath { path } if isolator == Isolator::Shared => {
            why.push("a private part: a folder in the sandbox with the mode and owner of what it covers".to_owned());
            Origin::Private { path: path.clone() }
        }
        Source::SandboxPath { path } if isolator == Isolator::Linux => {
            // mesos.md SP3: it would be a second name in the same sandbox.
            if !volume.container_path.is_absolute() || volume.container_path.within(&config.sandbox_directory).is_some()
            {
                return Err(Error::new(
                    Cause::ContainerPath,
                    format!("a path of the sandbox is mounted outside of it, and {} is not", volume.container_path),
                )
                .remedy("use an absolute container path"));
            }
            Origin::InSandbox { path: path.clone() }
        }
        Source::ParentPath { path } if isolator == Isolator::Linux => {
            // mesos.md SP4.
            if facts.pod.is_none_or(|pod| !crate::container::manager::is_pod_id(pod)) {
                return Err(Error::new(
                    Cause::NoPod,
                    "a path of the parent is one of the pod's, and the container is in no pod",
                ));
            }
            Origin::InParent { path: path.clone() }
        }
        Source::Secret { name } if isolator == Isolator::Linux => {
            why.push(
                "read-only, private, nosuid, nodev, noexec, readable by the container's user: a secret".to_owned(),
            );
            allowed_secret(facts.identity, config, name)?
        }
        _ => {
            return Err(Error::new(
                Cause::NoIsolator,
                format!("no isolator handles this kind of volume with {isolator}"),
            ));
        }
    };
    let how = match isolator {
        Isolator::Posix => link(volume)?,
        Isolator::Linux | Isolator::Shared => mount(facts.bundle, config, volume, &mut why)?,
    };
    let relative = |path: &ContainerPath| path.below(&config.sandbox_directory);
    let (target, in_sandbox) = match isolator {
        Isolator::Linux => {
            let target = relative(&volume.container_path);
            let below = target.within(&config.sandbox_directory).filter(|rest| !rest.is_empty());
            let in_sandbox = below.map(|rest| ContainerPath::parse_relative(&rest.join("/"))).transpose()?;
            (target, in_sandbox)
        }
        Isolator::Posix => {
            if volume.container_path.is_absolute() {
                return Err(Error::new(
                    Cause::ContainerPath,
                    "filesystem/posix makes links in the sandbox only, and the container path is absolute",
                )
                .remedy("use a relative container path, or filesystem/linux"));
            }
            let base = ContainerPath::parse(&facts.bundle.cwd).map_err(|_| {
                Error::new(
                    Cause::PosixSandbox,
                    format!("the working directory {:?} cannot be a sandbox", facts.bundle.cwd),
                )
            })?;
            (volume.container_path.below(&base), Some(volume.container_path.clone()))
        }
        Isolator::Shared => {
            if !volume.container_path.is_absolute() {
                return Err(Error::new(
                    Cause::ContainerPath,
                    "filesystem/shared mounts at existing absolute paths, and the container path is relative",
                )
                .remedy("use the absolute path of a directory that exists, or filesystem/linux"));
            }
            (volume.container_path.clone(), None)
        }
    };
    Ok(Attachment { label: volume.label(), from, target, in_sandbox, how, missing: Missing::Make, why })
}

/// The disk that a request means: by name, or by the root that Mesos knows it by.
fn choose_disk(asked: &Disk, config: &Config) -> Result<DiskChoice> {
    let by_root = |kind: Kind, root: &str| {
        let root = config.work_dir.join(root);
        let same = |disk: &&disks::Disk| disk.kind == kind && disk.root.components().eq(root.components());
        config.disks.iter().find(same).map(|disk| DiskChoice::One(disk.name.clone())).ok_or_else(|| {
            Error::new(
                Cause::DiskUnknown,
                format!("there is no disk with the root {} in the configuration", root.display()),
            )
        })
    };
    match asked {
        Disk::Any if config.disks.is_empty() => Ok(DiskChoice::One(disks::ROOT.to_owned())),
        Disk::Any => Ok(DiskChoice::Any),
        Disk::Root => Ok(DiskChoice::One(disks::ROOT.to_owned())),
        Disk::Named(name) => config.disk(name).map(|disk| DiskChoice::One(disk.name)),
        Disk::Path(root) => by_root(Kind::Path, root),
        Disk::Mount(root) => by_root(Kind::Mount, root),
    }
}

fn allowed_host_path(identity: &Identity, config: &Config, path: &str, volume: &VolumeRequest) -> Result<Origin> {
    let usable = |entry: &&HostPath| {
        entry.roles.iter().any(|role| config.may_use(identity, role)) && entry.grants(volume.mode, volume.propagation)
    };
    let matching = config.host_paths.iter().filter(usable).filter_map(|entry| Some((entry, entry.below(path)?)));
    // The longest: it was written for what is asked for, whatever stands before it.
    let Some((entry, below)) = matching.min_by_key(|(_, below)| below.components().count()) else {
        return Err(Error::new(
            Cause::HostPathNotAllowed,
            format!("{path} is not a host path that this container may use so"),
        )
        .remedy(format!(
            "add {{\"path\": {path:?}, \"roles\": [ROLE], \"mode\": \"RW\"}} to \"host_paths\" in the configuration"
        )));
    };
    let below = below.to_string_lossy();
    let below = if below.is_empty() { None } else { Some(ContainerPath::parse_relative(&below)?) };
    Ok(Origin::HostPath { allowed: entry.path.clone(), below, create: entry.create })
}

/// One that is somebody else's reads like one that is not there.
fn allowed_secret(identity: &Identity, config: &Config, name: &SecretName) -> Result<Origin> {
    let secret = config.secrets.iter().find(|secret| secret.name == *name);
    match secret.filter(|secret| secret.roles.iter().any(|role| config.may_use(identity, role))) {
        Some(secret) => Ok(Origin::Secret { name: name.clone(), path: secret.path.clone() }),
        None => Err(Error::new(
            Cause::SecretUnavailable,
            format!("there is no secret {name} that this container may use"),
        )
        .remedy(format!(
            "if there should be one: add {{\"name\": \"{name}\", \"path\": FILE, \"roles\": [ROLE]}} to \"secrets\" in the \
             configuration"
        ))),
    }
}

/// A link has no attributes of its own; what it cannot keep is refused (mesos.md E1).
fn link(volume: &VolumeRequest) -> Result<How> {
    if volume.mode == Mode::ReadOnly {
        return Err(Error::new(Cause::ReadOnly, "filesystem/posix makes a symbolic link, which cannot be read-only")
            .remedy("drop ro, or use filesystem/linux"));
    }
    if volume.nosuid || volume.nodev || volume.noexec || volume.propagation.is_some() {
        return Err(Error::new(
            Cause::NotSupported,
            "filesystem/posix makes a symbolic link, which has no mount options",
        )
        .remedy("drop nosuid, nodev, noexec, slave and private, or use filesystem/linux"));
    }
    Ok(How::Link)
}

fn mount(bundle: &BundleConfig, config: &Config, volume: &VolumeRequest, why: &mut Vec<String>) -> Result<How> {
    let not_supported = |what: &str| Err(Error::new(Cause::NotSupported, what));
    if let Source::Secret { .. } = &volume.source {
        return match volume.propagation {
            None | Some(Propagation::Private) => {
                Ok(How::Mount { attributes: secret::ATTRIBUTES, propagation: Propagation::Private, named: false })
            }
            _ => not_supported("a secret is a file that nothing can be mounted below, and has no propagation"),
        };
    }
    if volume.propagation == Some(Propagation::Bidirectional) {
        if !matches!(volume.source, Source::HostPath { .. }) {
            return not_supported("only a host path can be bidirectional: mounts of containers stay out of volumes");
        }
        if bundle.user_namespace {
            return not_supported("it is bidirectional, and mounts of a user namespace never reach the host");
        }
    }
    let attributes = MountAttributes {
        read_only: volume.mode == Mode::ReadOnly,
        nosuid: volume.nosuid,
        nodev: volume.nodev,
        noexec: volume.noexec,
    };
    if attributes.read_only && bundle.sys_admin && !config.allow_remountable_ro {
        return Err(Error::new(
            Cause::ReadOnly,
            "the container has CAP_SYS_ADMIN and could remount the volume read-write",
        )
        .remedy("drop the capability, or set \"allow_remountable_ro\" in the configuration"));
    }
    let (propagation, named) = match volume.propagation {
        Some(propagation) => (propagation, true),
        // What arrives later by propagation has none of these attributes.
        None if attributes != MountAttributes::default() => {
            why.push("private: host mounts that arrive later would not be ro, nosuid, nodev or noexec".to_owned());
            (Propagation::Private, false)
        }
        None => (Propagation::Slave, false),
    };
    Ok(How::Mount { attributes, propagation, named })
}

fn sandbox_attachment(config: &Config) -> Attachment {
    Attachment {
        label: "sandbox".to_owned(),
        from: Origin::Sandbox,
        target: config.sandbox_directory.clone(),
        in_sandbox: None,
        how: How::Mount { attributes: MountAttributes::default(), propagation: Propagation::Slave, named: false },
        missing: Missing::Make,
        why: vec!["relative container paths lie in it".to_owned()],
    }
}

fn working_directory(bundle: &BundleConfig, config: &Config) -> Result<String> {
    let cwd = Path::new(&bundle.cwd);
    let below = |directory: &Path| cwd.strip_prefix(directory).is_ok_and(|rest| rest.components().next().is_some());
    let plain = cwd.is_absolute() && ContainerPath::parse(&bundle.cwd).is_ok();
    if plain && config.posix_sandboxes.iter().any(|directory| below(directory)) {
        return Ok(bundle.cwd.clone());
    }
    let list: Vec<String> = config.posix_sandboxes.iter().map(|path| path.display().to_string()).collect();
    Err(Error::new(
        Cause::PosixSandbox,
        format!(
            "with filesystem/posix the working directory is the sandbox, and {:?} does not lie below {}",
            bundle.cwd,
            list.join(" or ")
        ),
    )
    .remedy(
        "for a container with an image put {\"isolation\": \"filesystem/linux\"} into /etc/fs-isolator/config.json; for \
         one on the host's filesystem run `fs-isolator sandbox create --owner UID` and set process.cwd (podman --workdir) to it",
    ))
}

/// Equal paths are refused, and so is a mount that would hide one of the bundle's.
fn check_conflicts(attachments: &[Attachment], isolator: Isolator, bundle: &BundleConfig) -> Result<()> {
    let conflict = |attachment: &Attachment, what: String| Err(attachment.named(Error::new(Cause::PathConflict, what)));
    for (index, attachment) in attachments.iter().enumerate() {
        for other in &attachments[..index] {
            match attachment.target.within(&other.target) {
                Some([]) => {
                    return conflict(
                        attachment,
                        format!(
                            "{} and {} have the same container path {}",
                            other.label, attachment.label, attachment.target
                        ),
                    );
                }
                // Below a link lies the inside of another volume.
                Some(_) if isolator == Isolator::Posix => {
                    return conflict(attachment, format!("{} would lie inside {}", attachment.target, other.label));
                }
                Some(_) if matches!(other.from, Origin::Secret { .. }) => {
                    return conflict(
                        attachment,
                        format!("{} would lie in {}, which is a file", attachment.target, other.label),
                    );
                }
                _ => {}
            }
        }
        if isolator == Isolator::Posix {
            continue;
        }
        for destination in bundle.mounts.iter().filter_map(|mount| mount.destination.as_ref()) {
            if destination.within(&attachment.target).is_some() {
                let what = format!("a mount at {} would hide the bundle's mount at {destination}", attachment.target);
                return Err(attachment.named(Error::new(Cause::PathConflict, what)
                    .remedy("ask for another container path, or take that mount out of the bundle (for an image's VOLUME: podman --image-volume ignore)")));
            }
        }
    }
    Ok(())
}

/// Holds what is new against something that a running container has.
///
/// # Errors
/// [`Cause::PathConflict`].
pub fn check_beside(new: &Attachment, there: &Attachment, isolator: Isolator) -> Result<()> {
    let conflict = |what: String| Err(new.named(Error::new(Cause::PathConflict, what)));
    if there.target.within(&new.target).is_some() {
        return conflict(format!("{} would hide {}, which is attached at {}", new.target, there.label, there.target));
    }
    if new.target.within(&there.target).is_none() {
        return Ok(());
    }
    match there.from {
        Origin::Secret { .. } => conflict(format!("{} would lie in {}, which is a file", new.target, there.label)),
        _ if isolator == Isolator::Posix => conflict(format!("{} would lie inside {}", new.target, there.label)),
        _ => Ok(()),
    }
}

/// Decides where a mount point may be made: in the sandbox and in the container's own root only.
fn place_missing(
    attachments: &mut [Attachment],
    present: &[Attachment],
    isolator: Isolator,
    facts: Facts<'_>,
    config: &Config,
) {
    for index in 0..attachments.len() {
        let attachment = &attachments[index];
        if isolator == Isolator::Shared {
            let command = format!("mkdir -p {}", shell_word(&attachment.target.to_string()));
            attachments[index].missing = Missing::Refuse { inside: "the host's filesystem".to_owned(), command };
            continue;
        }
        // The deepest thing that covers the target decides.
        let covering = |other: &Attachment| {
            let rest = attachment.target.within(&other.target)?;
            Some((other.target.depth(), covered_by(other, rest, facts, config)))
        };
        let volume = attachments[..index].iter().chain(present).filter_map(covering).max_by_key(|(depth, _)| *depth);
        let mount = facts.bundle.mounts.iter().rev().filter_map(|mount| {
            let destination = mount.destination.as_ref()?;
            let rest = attachment.target.within(destination)?;
            let source = mount.source.as_deref().filter(|_| mount.bind).unwrap_or("DIRECTORY");
            let command = format!("mkdir -p {}", shell_word(&format!("{source}/{}", rest.join("/"))));
            Some((
                destination.depth(),
                Missing::Refuse { inside: format!("the bundle's mount at {destination}"), command },
            ))
        });
        let deepest = mount.chain(volume).max_by_key(|(depth, _)| *depth);
        if let Some((_, missing)) = deepest {
            attachments[index].missing = missing;
        }
    }
}

/// Where a volume lies; on whichever disk it may be, `work_dir` stands for it.
#[must_use]
pub fn volume_path(config: &Config, disk: &DiskChoice, role: &Role, id: &VolumeId) -> PathBuf {
    let name = match disk {
        DiskChoice::Any => disks::ROOT,
        DiskChoice::One(name) => name,
    };
    config.disk(name).map(|disk| volume::disk::path_of(&disk, role, id)).unwrap_or_default()
}

fn covered_by(other: &Attachment, rest: &[String], facts: Facts<'_>, config: &Config) -> Missing {
    let mut path = match &other.from {
        Origin::Volume { role, id, disk, subpath, .. } => {
            let path = volume_path(config, disk, role, id);
            subpath.iter().fold(path, |path, subpath| path.join(subpath.relative()))
        }
        Origin::HostPath { allowed, below, .. } => {
            below.iter().fold(PathBuf::from(allowed), |path, below| path.join(below.relative()))
        }
        // Other containers of the pod have it too.
        Origin::InParent { path } => {
            let parent =
                sandbox::path(&config.work_dir, facts.manager, &sandbox::pod_name(facts.pod.unwrap_or_default()));
            parent.join(path.relative())
        }
        // The last two cover nothing: filesystem/shared wants every target to exist, and a secret is a file.
        Origin::Sandbox | Origin::InSandbox { .. } | Origin::Private { .. } | Origin::Secret { .. } => {
            return Missing::Make;
        }
    };
    path.push(rest.join("/"));
    Missing::Refuse {
        inside: format!("volume {}", other.label),
        command: format!("mkdir -p {}", shell_word(&path.to_string_lossy())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request;

    fn bundle() -> BundleConfig {
        BundleConfig { root: "rootfs".into(), cwd: "/".into(), mount_namespace: true, ..BundleConfig::default() }
    }

    fn config(isolator: &str) -> Config {
        Config::parse(format!(r#"{{"isolation":"{isolator}"}}"#).as_bytes()).unwrap()
    }

    fn plan_with(bundle: &BundleConfig, config: &Config, volumes: &str) -> Result<Plan> {
        let request = Request { volumes: request::volumes(volumes)?, ..Request::default() };
        make(Facts { manager: Manager::Local, identity: &Identity::Root, pod: None, bundle }, &request, config)
    }

    fn linux(volumes: &str) -> Result<Plan> {
        plan_with(&bundle(), &config("filesystem/linux"), volumes)
    }

    fn targets(plan: &Plan) -> Vec<String> {
        plan.attachments.iter().map(|a| a.target.to_string()).collect()
    }

    // mesos.md E17: order follows the path tree, not the order of asking.
    #[test]
    fn e17_parents_come_first_in_any_order_of_asking() {
        let expected = ["/srv", "/srv/b", "/mnt/mesos/sandbox", "/srv/b/c", "/mnt/mesos/sandbox/x"];
        for volumes in ["a:/srv;b:/srv/b;c:/srv/b/c;x:x", "x:x;c:/srv/b/c;b:/srv/b;a:/srv"] {
            assert_eq!(targets(&linux(volumes).unwrap()), expected);
        }
    }

    #[test]
    fn a_sandbox_only_where_one_is_needed() {
        assert_eq!(linux("a:/srv").unwrap().sandbox, Sandbox::None);
        assert_eq!(linux("a:srv").unwrap().sandbox, Sandbox::Own);
        assert_eq!(linux("a:/mnt/mesos/sandbox/srv").unwrap().sandbox, Sandbox::Own);
    }

    #[test]
    fn conflicts_are_refused() {
        let mut with_mounts = bundle();
        with_mounts.mounts = BundleConfig::parse(
            br#"{"root":{"path":"r"},"mounts":[{"destination":"/etc/hosts","type":"bind","source":"/x"},{"destination":"/data","type":"tmpfs"}]}"#,
        )
        .unwrap()
        .mounts;
        for volumes in
            ["a:x;b:x", "a:/srv;b:/srv/", "a:x;b:/mnt/mesos/sandbox/x", "a:/etc", "a:/data", "a:/mnt/mesos/sandbox;b:x"]
        {
            let error = plan_with(&with_mounts, &config("filesystem/linux"), volumes).unwrap_err();
            assert_eq!(error.cause(), Cause::PathConflict, "{volumes}");
        }
        // mesos.md E12
        assert!(plan_with(&with_mounts, &config("filesystem/linux"), "a:/tmp;b:/tmpfoo;c:/etc2").is_ok());
    }

    #[test]
    fn mount_points_are_made_in_sandbox_and_root_only() {
        let mut bound = bundle();
        bound.mounts = BundleConfig::parse(
            br#"{"root":{"path":"r"},"mounts":[{"destination":"/host","type":"bind","source":"/srv/h"}]}"#,
        )
        .unwrap()
        .mounts;
        let plan = plan_with(&bound, &config("filesystem/linux"), "a:/host/x;b:/vol;c:/vol/y;d:s/t").unwrap();
        let missing = |target: &str| &plan.attachments.iter().find(|a| a.target.to_string() == target).unwrap().missing;
        assert!(matches!(missing("/host/x"), Missing::Refuse { command, .. } if command == "mkdir -p /srv/h/x"));
        assert!(
            matches!(missing("/vol/y"), Missing::Refuse { command, .. } if command == "mkdir -p /var/lib/fs-isolator/volumes/roles/default/b/y")
        );
        assert_eq!(missing("/vol"), &Missing::Make);
        assert_eq!(missing("/mnt/mesos/sandbox/s/t"), &Missing::Make);
    }

    // design.md: later host mounts would carry none of the attributes.
    #[test]
    fn restricted_volumes_are_private_unless_they_name_slave() {
        let propagation = |volumes: &str| match linux(volumes).unwrap().attachments[0].how {
            How::Mount { propagation, .. } => propagation,
            How::Link => panic!(),
        };
        assert_eq!(propagation("a:/x"), Propagation::Slave);
        for option in ["ro", "nosuid", "nodev", "noexec", "private"] {
            assert_eq!(propagation(&format!("a:/x:{option}")), Propagation::Private, "{option}");
        }
        assert_eq!(propagation("a:/x:ro:slave"), Propagation::Slave);
    }

    // mesos.md E1: read-only is kept or refused.
    #[test]
    fn e1_read_only_is_kept_or_refused() {
        let mut posix = bundle();
        posix.cwd = "/var/lib/fs-isolator/sandboxes/u".into();
        assert_eq!(plan_with(&posix, &config("filesystem/posix"), "a:x:ro").unwrap_err().cause(), Cause::ReadOnly);
        let mut admin = bundle();
        admin.sys_admin = true;
        assert_eq!(plan_with(&admin, &config("filesystem/linux"), "a:x:ro").unwrap_err().cause(), Cause::ReadOnly);
        let mut allowed = config("filesystem/linux");
        allowed.allow_remountable_ro = true;
        assert!(plan_with(&admin, &allowed, "a:x:ro").is_ok());
    }

    // mesos.md E8 and E18: what posix and shared cannot do is refused, not skipped.
    #[test]
    fn e18_nothing_is_skipped() {
        let mut posix = bundle();
        posix.cwd = "/var/lib/fs-isolator/sandboxes/u".into();
        for (isolator, volumes, cause) in [
            ("filesystem/posix", "a:/x", Cause::ContainerPath),
            ("filesystem/posix", "a:x;b:x/y", Cause::PathConflict),
            ("filesystem/posix", "a:x:nosuid", Cause::NotSupported),
            ("filesystem/posix", "host=/x:y", Cause::NoIsolator),
            ("filesystem/posix", "secret=s:y", Cause::NoIsolator),
            ("filesystem/linux", "secret=s:y", Cause::SecretUnavailable),
            ("filesystem/linux", "sandbox=s:/mnt/mesos/sandbox/y", Cause::ContainerPath),
            ("filesystem/linux", "a:y:bidirectional", Cause::NotSupported),
            ("filesystem/linux", "sandbox=s:y", Cause::ContainerPath),
            ("filesystem/linux", "host=/srv:/y", Cause::HostPathNotAllowed),
            ("filesystem/linux", "parent=s:y", Cause::NoPod),
            ("filesystem/linux", "a:x:disk=fast", Cause::DiskUnknown),
            (
                "filesystem/linux",
                r#"[{"container_path":"x","mode":"RW","image":{"type":"DOCKER"}}]"#,
                Cause::NoIsolator,
            ),
            ("filesystem/shared", "a:x", Cause::ContainerPath),
            ("filesystem/shared", "parent=p:/x", Cause::NoIsolator),
            ("filesystem/shared", "secret=s:/x", Cause::NoIsolator),
            ("filesystem/shared", "host=/srv:/x", Cause::HostPathNotAllowed),
        ] {
            assert_eq!(
                plan_with(&posix, &config(isolator), volumes).unwrap_err().cause(),
                cause,
                "{isolator} {volumes}"
            );
        }
    }

    #[test]
    fn posix_wants_a_working_directory_of_its_own() {
        for cwd in [
            "/",
            "/root",
            "/var/lib/fs-isolator/sandboxes",
            "/var/lib/fs-isolator/sandboxes2/x",
            "/var/lib/fs-isolator/sandboxes/../x",
        ] {
            let mut posix = bundle();
            posix.cwd = cwd.into();
            let error = plan_with(&posix, &config(""), "a:x").unwrap_err();
            assert_eq!(error.cause(), Cause::PosixSandbox, "{cwd}");
        }
        let error = plan_with(&bundle(), &config(""), "a:x").unwrap_err();
        assert!(error.to_string().contains(r#"{"isolation": "filesystem/linux"}"#), "{error}");
    }

    // MESOS-7770: in any order, and with ro on either.
    #[test]
    fn a_path_of_the_sandbox_at_or_below_a_volume_is_that_volume() {
        for volumes in
            ["db:mysqldata;sandbox=mysqldata:/var/lib/mysql", "sandbox=mysqldata:/var/lib/mysql;db:mysqldata"]
        {
            for (options, read_only) in [(["", ""], false), ([":ro", ""], true), (["", ":ro"], true)] {
                let volumes: Vec<String> = volumes
                    .split(';')
                    .map(|volume| format!("{volume}{}", options[usize::from(volume.starts_with("sandbox"))]))
                    .collect();
                let plan = linux(&volumes.join(";")).unwrap();
                let found = plan.attachments.iter().find(|a| a.target.to_string() == "/var/lib/mysql").unwrap();
                assert!(matches!(&found.from, Origin::Volume { id, subpath: None, .. } if id.as_str() == "db"));
                assert!(matches!(found.how, How::Mount { attributes, .. } if attributes.read_only == read_only));
            }
        }
        let plan = linux("db:a:subpath=s;sandbox=a/b/c:/x;sandbox=ab:/y").unwrap();
        let from = |target: &str| &plan.attachments.iter().find(|a| a.target.to_string() == target).unwrap().from;
        assert!(matches!(from("/x"), Origin::Volume { subpath: Some(path), .. } if path.to_string() == "s/b/c"));
        assert!(matches!(from("/y"), Origin::InSandbox { .. }), "by component");
    }

    #[test]
    fn a_path_that_is_too_long_below_a_volume_is_refused_and_never_becomes_the_whole_volume() {
        let (base, rest) = (vec!["x"; 1500].join("/"), vec!["y"; 1000].join("/"));
        let refused = linux(&format!("db:a:subpath={base};sandbox=a/{rest}:/x")).unwrap_err();
        assert_eq!(refused.cause(), Cause::ContainerPath);
        assert!(linux(&format!("db:a:subpath=x;sandbox=a/{rest}:/x")).is_ok());
    }

    // mesos.md E12 for host paths, and roles on them.
    #[test]
    fn host_paths_are_granted_by_component_and_role() {
        let text = br#"{"isolation":"filesystem/shared","host_paths":[{"path":"/srv","roles":["default"],"mode":"RO"},{"path":"/opt/x","roles":["r"]}]}"#;
        let config = Config::parse(text).unwrap();
        let plan = |volumes| plan_with(&bundle(), &config, volumes);
        assert!(plan("host=/srv/a:/x:ro").is_ok() && plan("host=/opt/x:/x").is_ok());
        for volumes in ["host=/srv/a:/x", "host=/srv2:/x:ro", "host=/opt:/x"] {
            assert_eq!(plan(volumes).unwrap_err().cause(), Cause::HostPathNotAllowed, "{volumes}");
        }
    }

    // Whatever their order, as with mounts: what is said of the smaller part is meant.
    #[test]
    fn the_longest_host_path_that_may_be_used_counts() {
        let text = br#"{"isolation":"filesystem/linux","host_paths":[{"path":"/srv","roles":["default"]},{"path":"/srv/x/y","roles":["other"],"create":true},{"path":"/srv/x","roles":["default"],"create":true},{"path":"/srv/x/ro","roles":["default"],"mode":"RO"}]}"#;
        let mut config = Config::parse(text).unwrap();
        for _ in 0..2 {
            let from = |volumes| plan_with(&bundle(), &config, volumes).unwrap().attachments.pop().unwrap().from;
            for (volume, expected, made) in [
                ("host=/srv/x/new:/d", "/srv/x", true),
                ("host=/srv/x:/d", "/srv/x", true),
                ("host=/srv/y:/d", "/srv", false),
                ("host=/srv/xy:/d", "/srv", false),
                ("host=/srv/x/ro/a:/d", "/srv/x", true),
                ("host=/srv/x/ro/a:/d:ro", "/srv/x/ro", false),
            ] {
                let Origin::HostPath { allowed, create, .. } = from(volume) else { panic!("{volume}") };
                assert_eq!((allowed.as_str(), create), (expected, made), "{volume}");
            }
            config.host_paths.reverse();
        }
    }

    // Authorisation comes before existence, in the same words.
    #[test]
    fn a_foreign_role_reads_like_a_missing_volume() {
        let team = Identity::Namespace("team-a".to_owned());
        let bundle = bundle();
        let facts = Facts { manager: Manager::CriO, identity: &team, pod: None, bundle: &bundle };
        let request = Request { volumes: request::volumes("db:data:role=victim").unwrap(), ..Request::default() };
        let error = make(facts, &request, &config("filesystem/linux")).unwrap_err();
        let (role, id) = (Role::parse("victim").unwrap(), VolumeId::parse("db").unwrap());
        assert_eq!(error.to_string(), unavailable(&role, &id, &DiskChoice::Any).volume("db:data").to_string());
    }

    #[test]
    fn a_refusal_about_a_persistent_volume_knows_its_role() {
        let (bundle, config) = (bundle(), config("filesystem/linux"));
        for (volumes, role) in [
            ("db:data:disk=nowhere", Some("default")),
            ("db:data:disk=nowhere:role=r", Some("r")),
            ("a:x:role=r;b:x:role=q", Some("q")),
            ("db:data;sandbox=data:data", None),
            ("secret=s:/x", None),
        ] {
            let error = plan_with(&bundle, &config, volumes).unwrap_err();
            assert_eq!(error.role_name(), role, "{volumes}: {error}");
        }
    }

    #[test]
    fn what_a_container_may_choose() {
        let request = |name: &str| Request { isolation: Some(name.to_owned()), sandbox: true, ..Request::default() };
        let bundle = bundle();
        let facts = Facts { manager: Manager::Local, identity: &Identity::Root, pod: None, bundle: &bundle };
        let config =
            Config::parse(br#"{"isolation":"filesystem/linux","allowed_isolation":["filesystem/shared"]}"#).unwrap();
        assert_eq!(make(facts, &request("filesystem/shared"), &config).unwrap().isolator, Isolator::Shared);
        assert_eq!(make(facts, &request("filesystem/posix"), &config).unwrap_err().cause(), Cause::IsolationNotAllowed);
        assert_eq!(make(facts, &request("filesystem/zfs"), &config).unwrap_err().cause(), Cause::Isolation);
    }

    #[test]
    fn a_token_is_wanted_where_one_is_configured() {
        let mut config = config("filesystem/linux");
        config.request_token = Some("0123456789abcdef".to_owned());
        let mut request = Request { volumes: request::volumes("a:x").unwrap(), ..Request::default() };
        let bundle = bundle();
        let facts = Facts { manager: Manager::Local, identity: &Identity::Root, pod: None, bundle: &bundle };
        assert_eq!(make(facts, &request, &config).unwrap_err().cause(), Cause::Token);
        request.token = config.request_token.clone();
        assert!(make(facts, &request, &config).is_ok());
    }

    #[test]
    fn namespaces_that_cannot_be_served() {
        let mut host = bundle();
        host.mount_namespace = false;
        for isolator in ["filesystem/linux", "filesystem/shared"] {
            assert_eq!(plan_with(&host, &config(isolator), "a:/x").unwrap_err().cause(), Cause::HostNamespace);
        }
    }
}
