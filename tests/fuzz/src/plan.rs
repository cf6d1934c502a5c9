//! What must be true of a plan, whatever it was made from.

use std::path::{Component, Path, PathBuf};
use std::sync::LazyLock;

use fs_isolator::config::disks::{Kind, ROOT};
use fs_isolator::config::{Config, Isolator};
use fs_isolator::container::{BundleConfig, Identity, Manager};
use fs_isolator::mountpoint::Missing;
use fs_isolator::plan::{self, Attachment, Facts, How, Origin, Plan, Sandbox};
use fs_isolator::request::container_path::ContainerPath;
use fs_isolator::request::{self, Mode, Propagation, Request, Source, VolumeRequest};
use fs_isolator::sys::MountAttributes;
use fs_isolator::volume::DiskChoice;

/// A configuration with something of everything.
pub static CONFIG: LazyLock<Config> = LazyLock::new(|| {
    Config::parse(
        br#"{
            "isolation": "filesystem/linux",
            "allowed_isolation": ["filesystem/linux", "filesystem/posix", "filesystem/shared"],
            "work_dir": "/w", "runtime_dir": "/run/x",
            "host_paths": [
                { "path": "/srv", "roles": ["team-a"], "bidirectional": true },
                { "path": "/etc/certs", "roles": ["team-a"], "mode": "RO", "create": true }
            ],
            "secrets": [
                { "name": "db/password", "roles": ["team-a"], "path": "/etc/secrets/db" },
                { "name": "key", "roles": ["forbidden"], "credential": "x.service/key" }
            ],
            "disks": [
                { "name": "fast", "type": "PATH", "path": { "root": "/mnt/ssd" } },
                { "name": "nvme0", "type": "MOUNT", "mount": { "root": "disks/nvme0" } }
            ],
            "authorization": {
                "allow": [{ "identity": "namespace:team-a", "roles": ["common"] }],
                "deny": [{ "identity": "*", "roles": ["forbidden"] }]
            },
            "propagation": "all"
        }"#,
    )
    .expect("the configuration is valid")
});

/// A bundle with a root filesystem of its own, which starts in a sandbox for filesystem/posix.
pub static BUNDLE: LazyLock<BundleConfig> = LazyLock::new(|| {
    BundleConfig::parse(
        br#"{
            "process": { "cwd": "/w/sandboxes/posix/s", "user": { "uid": 1000, "gid": 1000 } },
            "root": { "path": "rootfs" },
            "mounts": [
                { "destination": "/proc", "type": "proc", "source": "proc" },
                { "destination": "/etc/hosts", "source": "/run/hosts", "options": ["bind", "ro"] },
                { "destination": "/shared", "type": "bind", "source": "/srv/shared", "options": ["rbind"] }
            ],
            "linux": { "namespaces": [{ "type": "mount" }, { "type": "pid" }] }
        }"#,
    )
    .expect("the bundle is valid")
});

/// Requests with something of everything, some of which each isolator takes.
pub static REQUESTS: LazyLock<Vec<Request>> = LazyLock::new(|| {
    [
        "db:data;db2:data/inner:ro;sandbox=data/inner/x:/tmp/x;host=/srv/x:/data:bidirectional;logs:/data/logs:shared",
        "secret=db/password:/run/password;parent=exchange:/exchange;a:/exchange/a:role=team-a/b:disk=fast:subpath=p/q",
        "db:data;logs:a/b:role=team-a",
        "db:/data;sandbox=tmp:/tmp;host=/etc/certs/x:/etc/certs:ro:nosuid",
    ]
    .map(|text| Request { volumes: request::volumes(text).expect("the request is valid"), ..Request::default() })
    .into()
});

const POD: &str = "0123456789abcdef0123456789abcdef";

/// Makes the plans for everybody who can ask and for every isolator, and looks at each.
pub fn check(request: &Request, bundle: &BundleConfig, config: &Config) {
    let namespace = Identity::Namespace("team-a".to_owned());
    for (manager, identity, pod) in [(Manager::CriO, &namespace, Some(POD)), (Manager::Local, &Identity::Root, None)] {
        let facts = Facts { manager, identity, pod, bundle };
        for isolator in [Isolator::Linux, Isolator::Posix, Isolator::Shared] {
            let request = Request { isolation: Some(isolator.name().to_owned()), ..request.clone() };
            match (plan::make(facts, &request, config), plan::make(facts, &request, config)) {
                (Ok(plan), Ok(again)) => {
                    assert_eq!(plan, again, "made twice");
                    assert_eq!(plan.isolator, isolator);
                    sound(&plan, &request, facts, config);
                }
                (Err(error), Err(again)) => assert_eq!(error.to_string(), again.to_string(), "refused twice"),
                (one, other) => panic!("{one:?} and then {other:?}"),
            }
        }
    }
}

fn sound(plan: &Plan, request: &Request, facts: Facts<'_>, config: &Config) {
    let own = plan.sandbox == Sandbox::Own && plan.isolator == Isolator::Linux;
    assert_eq!(plan.attachments.len(), request.volumes.len() + usize::from(own), "nothing is lost or added");
    if let Sandbox::WorkingDirectory(path) = &plan.sandbox {
        assert!(config.posix_sandboxes.iter().any(|directory| Path::new(path).starts_with(directory)), "{path}");
        absolute(Path::new(path));
    }
    for (index, attachment) in plan.attachments.iter().enumerate() {
        placed(attachment, plan, facts.bundle, config);
        from(attachment, plan, facts, config);
        for earlier in &plan.attachments[..index] {
            let within = earlier.target.within(&attachment.target);
            assert!(within.is_none(), "{} would hide {}", attachment.target, earlier.target);
        }
    }
    for volume in &request.volumes {
        let attachment = plan.attachments.iter().find(|attachment| {
            attachment.label == volume.label()
                && attachment.target.to_string().ends_with(&volume.container_path.to_string())
        });
        let attachment = attachment.unwrap_or_else(|| panic!("{} was forgotten", volume.label()));
        assert!(is_asked_for(volume, attachment, plan), "{volume:?} is {attachment:?}");
        if let How::Mount { attributes, propagation, .. } = attachment.how {
            assert!(attributes.read_only || volume.mode == Mode::ReadWrite, "ro: {attachment:?}");
            assert!(attributes.nosuid || !volume.nosuid, "nosuid: {attachment:?}");
            assert!(attributes.nodev || !volume.nodev, "nodev: {attachment:?}");
            assert!(attributes.noexec || !volume.noexec, "noexec: {attachment:?}");
            assert!(volume.propagation.is_none_or(|named| named == propagation), "{attachment:?}");
        } else {
            assert!(volume.mode == Mode::ReadWrite && !volume.nosuid && !volume.nodev && !volume.noexec);
        }
    }
}

/// Whether an attachment is what the request says.
fn is_asked_for(volume: &VolumeRequest, attachment: &Attachment, plan: &Plan) -> bool {
    match (&volume.source, &attachment.from) {
        (Source::Persistent { id, role, .. }, Origin::Volume { id: found, role: of, subpath, shared, .. }) => {
            let same_role = role.as_ref().is_none_or(|role| role == of);
            id == found && same_role && (subpath, shared) == (&volume.subpath, &volume.shared)
        }
        (Source::HostPath { path }, Origin::HostPath { allowed, below, .. }) => {
            let below = below.as_ref().map(ToString::to_string).unwrap_or_default();
            Path::new(allowed).join(below) == Path::new(path)
        }
        (Source::SandboxPath { path }, Origin::InSandbox { path: found } | Origin::Private { path: found })
        | (Source::ParentPath { path }, Origin::InParent { path: found }) => path == found,
        (Source::Secret { name }, Origin::Secret { name: found, .. }) => name == found,
        (Source::SandboxPath { path }, from) => follows(path, from, plan),
        _ => false,
    }
}

/// Whether a path of the sandbox below something that is attached there is that, just as deep in it.
fn follows(path: &ContainerPath, from: &Origin, plan: &Plan) -> bool {
    let below = |other: &'_ Attachment| Some((inside(&other.from)?, path.within(other.in_sandbox.as_ref()?)?.to_vec()));
    let covering = plan.attachments.iter().filter_map(below).min_by_key(|(_, rest)| rest.len());
    covering.is_some_and(|(base, rest)| inside(from) == Some(base.join(rest.join("/"))))
}

/// Where in its volume, or the like, an attachment begins.
fn inside(from: &Origin) -> Option<PathBuf> {
    match from {
        Origin::Volume { subpath: inside, .. } | Origin::HostPath { below: inside, .. } => {
            Some(inside.as_ref().map(ContainerPath::relative).unwrap_or_default().into())
        }
        Origin::InParent { path } => Some(path.relative().into()),
        Origin::Secret { .. } => Some(PathBuf::new()),
        Origin::Sandbox | Origin::InSandbox { .. } | Origin::Private { .. } => None,
    }
}

/// Where it is in the container: below its root, and below the sandbox where that is said.
fn placed(attachment: &Attachment, plan: &Plan, bundle: &BundleConfig, config: &Config) {
    let target = &attachment.target;
    assert!(target.is_absolute());
    plain(target);
    for kernel in ["/proc", "/sys"] {
        assert!(!Path::new(&target.to_string()).starts_with(kernel), "{target}");
    }
    let base = match plan.isolator {
        Isolator::Linux => config.sandbox_directory.to_string(),
        Isolator::Posix => bundle.cwd.clone(),
        Isolator::Shared => {
            assert_eq!(attachment.in_sandbox, None);
            String::new()
        }
    };
    let (at, base) = (PathBuf::from(target.to_string()), PathBuf::from(base));
    match &attachment.in_sandbox {
        Some(inside) => {
            assert!(!inside.is_absolute());
            plain(inside);
            assert_eq!(at, base.join(inside.to_string()));
        }
        None if plan.isolator == Isolator::Linux => {
            assert!(!at.starts_with(&base) || at == base, "{at:?} lies in the sandbox");
        }
        None => assert_eq!(plan.isolator, Isolator::Shared),
    }
    match plan.isolator {
        Isolator::Posix => assert_eq!(attachment.how, How::Link),
        Isolator::Linux | Isolator::Shared => {
            assert!(matches!(attachment.how, How::Mount { .. }));
            for destination in bundle.mounts.iter().filter_map(|mount| mount.destination.as_ref()) {
                assert!(destination.within(target).is_none(), "{target} would hide {destination}");
            }
        }
    }
    if let Missing::Refuse { command, .. } = &attachment.missing {
        assert!(command.strip_prefix("mkdir -p ").is_some_and(is_one_word), "{command}");
    }
}

/// What it is: of somebody who may have it, and below what it belongs to.
fn from(attachment: &Attachment, plan: &Plan, facts: Facts<'_>, config: &Config) {
    let (attributes, propagation) = match attachment.how {
        How::Mount { attributes, propagation, .. } => (attributes, propagation),
        How::Link => (MountAttributes::default(), Propagation::Private),
    };
    if propagation == Propagation::Bidirectional {
        assert!(matches!(attachment.from, Origin::HostPath { .. }) && !facts.bundle.user_namespace);
    }
    if attributes.read_only && !matches!(attachment.from, Origin::Secret { .. }) {
        assert!(!facts.bundle.sys_admin || config.allow_remountable_ro, "it could be remounted");
    }
    match &attachment.from {
        Origin::Sandbox => assert_eq!(attachment.target, config.sandbox_directory),
        Origin::Volume { role, id, disk, subpath, .. } => {
            assert!(config.may_use(facts.identity, role));
            subpath.iter().for_each(relative);
            let names: Vec<&str> = match disk {
                DiskChoice::One(name) => vec![name],
                DiskChoice::Any => config.disks.iter().map(|disk| disk.name.as_str()).chain([ROOT]).collect(),
            };
            for name in names {
                let disk = config.disk(name).expect("the disk is one of the configuration");
                let path = plan::volume_path(config, &DiskChoice::One(name.to_owned()), role, id);
                let rest = path.strip_prefix(&disk.root).expect("it lies on its disk");
                let depth = if disk.kind == Kind::Mount { 0 } else { "volumes/roles/ROLE/ID".split('/').count() };
                assert_eq!(rest.components().count(), depth, "{path:?}");
                absolute(&path);
            }
        }
        Origin::HostPath { allowed, below, .. } => {
            below.iter().for_each(relative);
            let mut entries = config.host_paths.iter().filter(|entry| entry.path == *allowed);
            assert!(entries.any(|entry| {
                entry.roles.iter().any(|role| config.may_use(facts.identity, role))
                    && (attributes.read_only || entry.mode == Mode::ReadWrite)
                    && (propagation != Propagation::Bidirectional || entry.bidirectional)
            }));
        }
        Origin::Secret { name, path } => {
            assert!(attributes.read_only && attributes.nosuid && attributes.nodev && attributes.noexec);
            let mut secrets = config.secrets.iter().filter(|secret| secret.name == *name && secret.path == *path);
            assert!(secrets.any(|secret| secret.roles.iter().any(|role| config.may_use(facts.identity, role))));
        }
        Origin::InSandbox { path } => {
            relative(path);
            let mut others = plan.attachments.iter().filter_map(|other| other.in_sandbox.as_ref());
            assert!(others.all(|other| path.within(other).is_none()), "{path} is mounted over on the host");
        }
        Origin::Private { path } => relative(path),
        Origin::InParent { path } => {
            assert!(facts.pod.is_some());
            relative(path);
        }
    }
}

fn relative(path: &ContainerPath) {
    assert!(!path.is_absolute(), "{path}");
    plain(path);
}

fn plain(path: &ContainerPath) {
    let text = path.relative();
    assert!(text.split('/').all(|part| !matches!(part, "" | "." | "..")), "{path}");
    assert!(!text.chars().any(char::is_control), "{path}");
}

/// A path of the host that leads nowhere but down.
pub fn absolute(path: &Path) {
    assert!(path.is_absolute(), "{path:?}");
    assert!(path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_))), "{path:?}");
    assert!(!path.as_os_str().as_encoded_bytes().iter().any(u8::is_ascii_control), "{path:?}");
}

/// Whether a shell takes this for one word that is no option.
fn is_one_word(text: &str) -> bool {
    let mut quoted = false;
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        match c {
            '\'' => quoted = !quoted,
            _ if quoted => {}
            '\\' => {
                if rest.next().is_none() {
                    return false;
                }
            }
            c if c.is_ascii_alphanumeric() || "_-./+,=:@%".contains(c) => {}
            _ => return false,
        }
    }
    !quoted && !text.is_empty() && !text.starts_with('-')
}
