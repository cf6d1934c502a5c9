//! What the administrator allows: `/etc/fs-isolator/config.json`.
//!
//! Every key is optional. A key that is not known is refused with the nearest one that is; a key that this
//! version cannot honour yet is refused too, never ignored.
#![forbid(unsafe_code)]

pub mod authorization;
mod default_container;
pub mod disks;
mod gid_range;
pub mod host_paths;
pub mod secrets;

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::container::{Identity, Manager};
use crate::error::{Because, Cause, Error, Result};
use crate::me::{Me, me};
use crate::nearest::nearest;
use crate::request::Request;
use crate::request::container_path::ContainerPath;
use crate::request::names::Role;
use authorization::{Authorization, Decision};
use default_container::DefaultContainer;
use disks::Disk;
pub use gid_range::GidRange;
use host_paths::HostPath;
use secrets::Secret;

/// Where root's configuration is read from unless `--config` says otherwise.
pub const DEFAULT_PATH: &str = "/etc/fs-isolator/config.json";

/// Largest configuration that is read, in bytes.
const LARGEST: u64 = 1 << 20;

/// One of Mesos's filesystem isolators.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
pub enum Isolator {
    /// Symbolic links on a filesystem shared with the host.
    #[serde(rename = "filesystem/posix")]
    Posix,
    /// Bind mounts in the container's own mount namespace.
    #[serde(rename = "filesystem/linux")]
    Linux,
    /// The host's filesystem with private parts.
    #[serde(rename = "filesystem/shared")]
    Shared,
}

impl Isolator {
    /// Its name in the isolation flag.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Isolator::Posix => "filesystem/posix",
            Isolator::Linux => "filesystem/linux",
            Isolator::Shared => "filesystem/shared",
        }
    }

    /// Parses Mesos's isolation flag (mesos.md CT1 to CT7): comma-separated, not trimmed, empty parts dropped,
    /// at most one `filesystem/*`, without one `filesystem/posix`.
    ///
    /// # Errors
    /// [`Cause::Isolation`] for duplicates, unknown names and two filesystem isolators;
    /// [`Cause::NotSupported`] for `volume/image`: a container's image is its runtime's.
    pub fn parse_flag(flag: &str) -> Result<Isolator> {
        let wrong = |what: String| Err(Error::new(Cause::Isolation, format!("isolation {flag:?} {what}")));
        let (mut found, mut implied) = (None, None);
        let mut seen: Vec<&str> = Vec::new();
        for token in flag.split(',').filter(|token| !token.is_empty()) {
            if seen.contains(&token) {
                return wrong(format!("names {token} twice"));
            }
            seen.push(token);
            let isolator = match token {
                "filesystem/posix" => Isolator::Posix,
                "filesystem/linux" => Isolator::Linux,
                "filesystem/shared" => Isolator::Shared,
                // They come with filesystem/linux, and stand on it (mesos.md CT5, HP1, SP1).
                // volume/secret serves what "secrets" has.
                "volume/host_path" | "volume/sandbox_path" | "volume/secret" => {
                    implied.get_or_insert(token);
                    continue;
                }
                "volume/image" => {
                    return Err(Error::new(
                        Cause::NotSupported,
                        format!("isolation {flag:?} names {token}, and images are the runtime's"),
                    ));
                }
                other => return wrong(format!("names {other:?}, which is unknown")),
            };
            if found.replace(isolator).is_some() {
                return wrong("names more than one filesystem isolator".to_owned());
            }
        }
        match (found.unwrap_or(Isolator::Posix), implied) {
            (isolator, Some(token)) if isolator != Isolator::Linux => {
                wrong(format!("names {token}, which stands on filesystem/linux"))
            }
            (isolator, _) => Ok(isolator),
        }
    }
}

impl std::fmt::Display for Isolator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Who owns a volume's root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Ownership {
    /// Without a user namespace Mesos's rule; with one, an idmapped mount where the ids differ.
    Auto,
    /// The container's user, unless that is root of the host. Never recursive.
    // mesos.md P9.
    Mesos,
    /// As `auto`, and with a user namespace always an idmapped mount.
    Idmap,
    /// Whoever owns it.
    Never,
}

impl Ownership {
    /// Parses its name in the configuration.
    #[must_use]
    pub fn parse(name: &str) -> Option<Ownership> {
        [Ownership::Auto, Ownership::Mesos, Ownership::Idmap, Ownership::Never]
            .into_iter()
            .find(|ownership| ownership.name() == name)
    }

    /// Its name in the configuration.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Ownership::Auto => "auto",
            Ownership::Mesos => "mesos",
            Ownership::Idmap => "idmap",
            Ownership::Never => "never",
        }
    }
}

/// The effective configuration.
#[derive(Debug, Clone, PartialEq, serde::Serialize, schemars::JsonSchema)]
pub struct Config {
    /// Isolator of containers that choose none.
    pub isolation: Isolator,
    /// Isolators that an annotation may choose.
    pub allowed_isolation: Vec<Isolator>,
    /// Volumes and sandboxes; may be a Mesos agent's.
    pub work_dir: PathBuf,
    /// Records and logs; gone after a reboot.
    pub runtime_dir: PathBuf,
    /// Where the sandbox appears in a container of filesystem/linux.
    #[serde(serialize_with = "as_text")]
    pub sandbox_directory: ContainerPath,
    /// Below one of these lies the working directory of a container of filesystem/posix.
    pub posix_sandboxes: Vec<PathBuf>,
    /// Below which directories each manager keeps bundles.
    pub managers: BTreeMap<Manager, Vec<PathBuf>>,
    /// If set, requests must carry it. Not shown.
    #[serde(serialize_with = "hidden")]
    #[schemars(with = "Option<String>")]
    pub request_token: Option<String>,
    /// Role of volumes that name none; else the identity's own.
    pub default_role: Option<Role>,
    /// Make a volume that does not exist, instead of refusing.
    pub create_missing_volumes: bool,
    /// Host paths that containers may ask for.
    pub host_paths: Vec<HostPath>,
    /// Secrets that containers may ask for.
    pub secrets: Vec<Secret>,
    /// What containers get that ask for nothing.
    pub default_container_info: Option<DefaultContainer>,
    /// Lowest level that is logged.
    #[serde(serialize_with = "level")]
    #[schemars(with = "String")]
    pub log_level: log::LevelFilter,
    /// What is logged goes to journald or syslog too.
    pub journal: bool,
    /// Hooks count how long they took.
    pub metrics: bool,
    /// Who owns a volume's root.
    pub ownership: Ownership,
    /// Which identity may use which role.
    pub authorization: Authorization,
    /// Named roots for volumes.
    pub disks: Vec<Disk>,
    /// Groups for volumes, by Mesos's gid manager.
    // mesos.md A9.
    #[schemars(with = "Option<String>")]
    pub volume_gid_range: Option<GidRange>,
    /// Seconds for which a sandbox is kept after its container is gone.
    #[serde(rename = "sandbox_retention_seconds")]
    pub sandbox_retention: u64,
    /// Not only volumes follow the host, but plain binds of the bundle too (`propagation` is `all`).
    pub follow_binds: bool,
    /// Allow read-only volumes in containers that could remount them.
    pub allow_remountable_ro: bool,
}

fn as_text<S: serde::Serializer>(path: &ContainerPath, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    serializer.collect_str(path)
}

fn hidden<S: serde::Serializer>(token: &Option<String>, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    match token {
        None => serializer.serialize_none(),
        Some(_) => serializer.serialize_str("(set)"),
    }
}

fn level<S: serde::Serializer>(level: &log::LevelFilter, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    serializer.serialize_str(&level.as_str().to_lowercase())
}

impl Config {
    /// What counts where the configuration says nothing. A user has everything below the home and `/run/user/UID`.
    #[must_use]
    pub fn default_for(me: &Me) -> Config {
        let (work_dir, runtime_dir, managers) = match &me.user {
            None => (
                PathBuf::from("/var/lib/fs-isolator"),
                PathBuf::from("/run/fs-isolator"),
                [(Manager::CriO, "/run/containers/storage"), (Manager::Podman, "/var/lib/containers/storage")]
                    .map(|(manager, path)| (manager, vec![PathBuf::from(path)])),
            ),
            Some(user) => {
                let share = user.home.join(".local/share");
                (
                    share.join("fs-isolator"),
                    runtime_dir_of(user.uid),
                    [(Manager::CriO, Vec::new()), (Manager::Podman, vec![share.join("containers/storage")])],
                )
            }
        };
        Config {
            isolation: Isolator::Posix,
            allowed_isolation: vec![Isolator::Posix],
            posix_sandboxes: vec![work_dir.join("sandboxes")],
            work_dir,
            runtime_dir,
            sandbox_directory: ContainerPath::absolute(&["mnt", "mesos", "sandbox"]),
            managers: managers.into_iter().chain([(Manager::Local, Vec::new())]).collect(),
            request_token: None,
            default_role: None,
            create_missing_volumes: false,
            host_paths: Vec::new(),
            secrets: Vec::new(),
            default_container_info: None,
            log_level: log::LevelFilter::Info,
            journal: true,
            metrics: false,
            ownership: Ownership::Auto,
            authorization: Authorization::default(),
            disks: Vec::new(),
            volume_gid_range: None,
            sandbox_retention: 168 * 3600,
            follow_binds: false,
            allow_remountable_ro: false,
        }
    }
}

/// A user's `runtime_dir`.
fn runtime_dir_of(uid: u32) -> PathBuf {
    PathBuf::from(format!("/run/user/{uid}/fs-isolator"))
}

/// Where the configuration is read from unless `--config` says otherwise.
#[must_use]
pub fn default_path(me: &Me) -> PathBuf {
    me.user.as_ref().map_or_else(|| DEFAULT_PATH.into(), |user| user.home.join(".config/fs-isolator/config.json"))
}

/// Where leases lie, whatever the configuration says: two configurations must exclude each other too.
#[must_use]
pub fn lease_directory(me: &Me) -> PathBuf {
    let runtime = me.user.as_ref().map_or_else(|| "/run/fs-isolator".into(), |user| runtime_dir_of(user.uid));
    runtime.join("leases")
}

/// Keys of the configuration file.
pub const KEYS: [&str; 23] = [
    "isolation",
    "allowed_isolation",
    "work_dir",
    "runtime_dir",
    "sandbox_directory",
    "posix_sandboxes",
    "managers",
    "request_token",
    "default_role",
    "create_missing_volumes",
    "host_paths",
    "log_level",
    "journal",
    "metrics",
    "ownership",
    "sandbox_retention",
    "propagation",
    "allow_remountable_ro",
    "authorization",
    "default_container_info",
    "secrets",
    "disks",
    "volume_gid_range",
];

/// Keys of the objects below keys, in lists or not, by the way to them.
pub(crate) const BELOW: [(&[&str], &[&str]); 9] = [
    (&["host_paths"], &host_paths::KEYS),
    (&["secrets"], &secrets::KEYS),
    (&["default_container_info"], &default_container::KEYS),
    (&["disks"], &disks::KEYS),
    (&["disks", "path"], &disks::ROOT_KEYS),
    (&["disks", "mount"], &disks::ROOT_KEYS),
    (&["authorization"], &authorization::KEYS),
    (&["authorization", "allow"], &authorization::RULE_KEYS),
    (&["authorization", "deny"], &authorization::RULE_KEYS),
];

/// The configuration of fs-isolator, mostly /etc/fs-isolator/config.json.
#[derive(Deserialize, schemars::JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(crate) struct File {
    /// Isolator of containers that choose none: Mesos's isolation flag, in which one filesystem isolator stands.
    isolation: Option<String>,
    /// Isolators that an annotation may choose.
    #[schemars(with = "Option<Vec<Isolator>>")]
    allowed_isolation: Option<Vec<String>>,
    /// Volumes and sandboxes, as an absolute path; may be a Mesos agent's.
    #[schemars(extend("pattern" = "^/"))]
    work_dir: Option<PathBuf>,
    /// Records and logs, as an absolute path.
    #[schemars(extend("pattern" = "^/"))]
    runtime_dir: Option<PathBuf>,
    /// Where the sandbox appears in a container of filesystem/linux.
    #[schemars(extend("pattern" = "^/"))]
    sandbox_directory: Option<String>,
    /// Below one of these lies the working directory of a container of filesystem/posix.
    posix_sandboxes: Option<Vec<PathBuf>>,
    /// Below which directories each manager keeps bundles.
    #[schemars(extend("propertyNames" = { "enum": Manager::ALL.map(Manager::name) }))]
    managers: Option<BTreeMap<String, Vec<PathBuf>>>,
    /// If set, requests must carry it. At least 16 bytes.
    request_token: Option<String>,
    /// Role of volumes that name none; without it, the identity's own.
    default_role: Option<String>,
    /// Make a volume that does not exist, instead of refusing.
    create_missing_volumes: Option<bool>,
    /// Host paths that containers may ask for.
    #[schemars(with = "Option<Vec<host_paths::File>>")]
    host_paths: Option<Vec<Map<String, Value>>>,
    /// Secrets that containers may ask for.
    #[schemars(with = "Option<Vec<secrets::File>>")]
    secrets: Option<Vec<Map<String, Value>>>,
    /// What containers get that ask for nothing, as a Mesos `ContainerInfo`.
    #[schemars(with = "Option<default_container::File>")]
    default_container_info: Option<Map<String, Value>>,
    /// Lowest level that is logged: off, error, warn, info, debug or trace.
    #[schemars(extend("pattern" = level_pattern()))]
    log_level: Option<String>,
    /// What is logged goes to journald or syslog too.
    journal: Option<bool>,
    /// Hooks count how long they took.
    metrics: Option<bool>,
    /// Who owns a volume's root.
    #[schemars(with = "Option<Ownership>")]
    ownership: Option<String>,
    /// Which identity may use which role.
    authorization: Option<authorization::File>,
    /// Named roots for volumes beside `work_dir`.
    disks: Option<Vec<disks::File>>,
    /// Groups for volumes, as [FIRST-LAST,...].
    volume_gid_range: Option<String>,
    /// For how long a sandbox is kept after its container is gone: the like of 0, 30mins, 168h and 2weeks.
    sandbox_retention: Option<String>,
    /// Whether only volumes follow the host's later mounts, or all binds of the bundle.
    #[schemars(extend("enum" = ["volumes", "all", null]))]
    propagation: Option<String>,
    /// Allow read-only volumes in containers that could remount them.
    allow_remountable_ro: Option<bool>,
}

/// What stands in a configuration; `None` where there is none.
///
/// # Errors
/// [`Cause::ConfigUnsafe`] where others could change it; [`Cause::ConfigInvalid`] where it cannot be read.
pub fn text(file: &Path) -> Result<Option<Vec<u8>>> {
    let Some((fd, stat)) = crate::trusted::open_file(file)? else { return Ok(None) };
    crate::read::known(fd.into(), &stat, LARGEST)
        .map(Some)
        .because(Cause::ConfigInvalid, || format!("{} cannot be read", file.display()))
}

/// The names of levels, in which capitals and small letters are one.
fn level_pattern() -> String {
    let any = |c: char| format!("[{}{}]", c.to_ascii_uppercase(), c.to_ascii_lowercase());
    let names = log::LevelFilter::iter().map(|level| level.as_str().chars().map(any).collect::<String>());
    format!("^({})$", names.collect::<Vec<_>>().join("|"))
}

impl Config {
    /// Reads the configuration; without `path` the default one, which may be missing.
    ///
    /// # Errors
    /// [`Cause::ConfigUnsafe`] where others could change it; the causes of [`Config::parse`].
    pub fn load(path: Option<&Path>) -> Result<Config> {
        let default = default_path(me());
        let file = path.unwrap_or(&default);
        match text(file)? {
            None if path.is_none() => Ok(Config::default_for(me())),
            None => Err(Error::new(Cause::ConfigInvalid, format!("{} does not exist", file.display()))),
            Some(text) => Config::parse(&text),
        }
    }

    /// Parses a configuration.
    ///
    /// # Errors
    /// [`Cause::ConfigInvalid`] for malformed JSON, unknown keys and impossible values; [`Cause::Isolation`];
    /// [`Cause::NotSupported`] for what this version does not have.
    pub fn parse(text: &[u8]) -> Result<Config> {
        let invalid = |what: String| Error::new(Cause::ConfigInvalid, what);
        let object: Map<String, Value> = serde_json::from_slice(text)
            .map_err(|error| invalid(format!("the configuration is not a JSON object: {error}")))?;
        check_keys("", &object, &KEYS)?;
        let file: File = serde_json::from_value(Value::Object(object)).map_err(|error| {
            // Looked for now only: a configuration that is right costs no hook a second look.
            let unknown = serde_json::from_slice(text).map(|object| check_below(&object));
            match unknown {
                Ok(Err(unknown)) => unknown,
                _ => invalid(format!("the configuration has a value of a wrong type: {error}")),
            }
        })?;
        file.check()
    }

    /// The directories of all managers.
    pub fn manager_directories(&self) -> impl Iterator<Item = (Manager, &Path)> {
        self.managers.iter().flat_map(|(manager, paths)| paths.iter().map(|path| (*manager, path.as_path())))
    }

    /// The role of volumes that name none.
    ///
    /// # Errors
    /// [`Cause::Role`] where a namespace is no role.
    pub fn role_of(&self, identity: &Identity) -> Result<Role> {
        match (&self.default_role, identity) {
            (Some(role), _) => Ok(role.clone()),
            (None, Identity::Namespace(namespace)) => Role::parse(namespace),
            (None, Identity::Root | Identity::User(_)) => Role::parse("default"),
        }
    }

    /// What containers get to which no annotation speaks. It is the administrator who asks.
    #[must_use]
    pub fn default_request(&self) -> Option<Request> {
        let volumes = self.default_container_info.as_ref()?.volumes.clone();
        Some(Request { volumes, token: self.request_token.clone(), ..Request::default() })
    }

    /// Whether an identity may use a role.
    #[must_use]
    pub fn may_use(&self, identity: &Identity, role: &Role) -> bool {
        self.decide(identity, role).is_allowed()
    }

    /// Whether an identity may use a role, and why.
    #[must_use]
    pub fn decide(&self, identity: &Identity, role: &Role) -> Decision<'_> {
        self.authorization.decide(identity, role)
    }

    /// A disk by its name.
    ///
    /// # Errors
    /// [`Cause::DiskUnknown`].
    pub fn disk(&self, name: &str) -> Result<Disk> {
        if name == disks::ROOT {
            return Ok(Disk { name: name.to_owned(), kind: disks::Kind::Root, root: self.work_dir.clone() });
        }
        self.disks
            .iter()
            .find(|disk| disk.name == name)
            .cloned()
            .ok_or_else(|| Error::new(Cause::DiskUnknown, format!("there is no disk {name:?} in the configuration")))
    }

    /// Whether volumes must be reachable through the host's directories.
    #[must_use]
    pub fn shares_host_filesystem(&self) -> bool {
        self.allowed_isolation.iter().chain([&self.isolation]).any(|isolator| *isolator != Isolator::Linux)
    }
}

/// Checks the keys of what lies below keys.
fn check_below(configuration: &Value) -> Result<()> {
    for (way, known) in BELOW {
        let objects = below(configuration, way);
        objects.into_iter().try_for_each(|object| check_keys(&way.join("."), object, known))?;
    }
    Ok(())
}

/// The objects to which a way of keys leads, through lists too.
fn below<'v>(value: &'v Value, way: &[&str]) -> Vec<&'v Map<String, Value>> {
    match (value, way) {
        (Value::Array(list), _) => list.iter().flat_map(|one| below(one, way)).collect(),
        (Value::Object(object), []) => vec![object],
        (Value::Object(object), [key, rest @ ..]) => object.get(*key).map_or_else(Vec::new, |next| below(next, rest)),
        _ => Vec::new(),
    }
}

/// Checks the keys of an object; the configuration itself has an empty place.
fn check_keys(place: &str, object: &Map<String, Value>, known: &[&str]) -> Result<()> {
    for key in object.keys() {
        if !known.contains(&key.as_str()) {
            let place = if place.is_empty() { "the configuration".to_owned() } else { format!("{place:?}") };
            let error = Error::new(Cause::ConfigInvalid, format!("{place} has the unknown key {key:?}"));
            return Err(match nearest(key, known.iter().copied()) {
                Some(name) => error.remedy(format!("did you mean {name:?}?")),
                None => error,
            });
        }
    }
    Ok(())
}

impl File {
    fn check(self) -> Result<Config> {
        let invalid = |what: String| Error::new(Cause::ConfigInvalid, what);
        let mut config = Config::default_for(me());
        if let Some(flag) = self.isolation {
            config.isolation = Isolator::parse_flag(&flag)?;
        }
        config.allowed_isolation = match self.allowed_isolation {
            None => vec![config.isolation],
            Some(names) => names.iter().map(|name| one_isolator(name)).collect::<Result<_>>()?,
        };
        if let Some(path) = self.work_dir {
            config.posix_sandboxes = vec![path.join("sandboxes")];
            config.work_dir = absolute("work_dir", path)?;
        }
        if let Some(path) = self.runtime_dir {
            config.runtime_dir = absolute("runtime_dir", path)?;
        }
        if let Some(path) = self.sandbox_directory {
            let path = ContainerPath::parse(&path).map_err(|error| error.in_configuration("sandbox_directory"))?;
            if !path.is_absolute() {
                return Err(invalid("sandbox_directory is not absolute".to_owned()));
            }
            config.sandbox_directory = path;
        }
        if let Some(paths) = self.posix_sandboxes {
            config.posix_sandboxes =
                paths.into_iter().map(|path| absolute("posix_sandboxes", path)).collect::<Result<_>>()?;
        }
        for (name, paths) in self.managers.unwrap_or_default() {
            let Some(manager) = Manager::ALL.into_iter().find(|manager| manager.name() == name) else {
                let what = format!("\"managers\" names {name:?}, and cri-o, podman and local are possible");
                return Err(match nearest(&name, Manager::ALL.map(Manager::name)) {
                    Some(near) => invalid(what).remedy(format!("did you mean {near:?}?")),
                    None => invalid(what),
                });
            };
            let paths = paths.into_iter().map(|path| absolute("managers", path)).collect::<Result<_>>()?;
            config.managers.insert(manager, paths);
        }
        if let Some(token) = self.request_token {
            if token.len() < 16 {
                return Err(invalid("request_token is shorter than 16 bytes".to_owned()));
            }
            config.request_token = Some(token);
        }
        config.default_role = self
            .default_role
            .as_deref()
            .map(Role::parse)
            .transpose()
            .map_err(|error| error.in_configuration("default_role"))?;
        config.create_missing_volumes = self.create_missing_volumes.unwrap_or(false);
        config.host_paths = host_paths::check(self.host_paths.unwrap_or_default())?;
        config.secrets = secrets::check(self.secrets.unwrap_or_default())?;
        let info = self.default_container_info.as_ref();
        config.default_container_info =
            info.map(|info| default_container::check(info, config.isolation)).transpose()?;
        if let Some(level) = self.log_level {
            config.log_level = level.parse().map_err(|_| {
                invalid(format!("log_level is {level:?}, and off, error, warn, info, debug and trace are possible"))
            })?;
        }
        config.journal = self.journal.unwrap_or(true);
        config.metrics = self.metrics.unwrap_or(false);
        config.ownership = match self.ownership.as_deref() {
            None => Ownership::Auto,
            Some(name) => Ownership::parse(name).ok_or_else(|| {
                invalid(format!("ownership is {name:?}, and auto, mesos, idmap and never are possible"))
            })?,
        };
        config.authorization = self.authorization.map(authorization::File::check).transpose()?.unwrap_or_default();
        config.disks = disks::check(self.disks.unwrap_or_default(), &config.work_dir)?;
        if let Some(disk) = config.disks.iter().find(|disk| config.runtime_dir.starts_with(&disk.root)) {
            return Err(invalid(format!("runtime_dir lies on the disk {}", disk.name)));
        }
        config.volume_gid_range = self.volume_gid_range.as_deref().map(GidRange::parse).transpose()?;
        if let Some(text) = self.sandbox_retention {
            config.sandbox_retention = duration(&text).ok_or_else(|| {
                invalid(format!(
                    "sandbox_retention is {text:?}, and the like of 0, 30mins, 168h and 2weeks is possible"
                ))
            })?;
        }
        config.follow_binds = match self.propagation.as_deref() {
            None | Some("volumes") => false,
            Some("all") => true,
            Some(other) => {
                return Err(invalid(format!("propagation is {other:?}, and \"volumes\" and \"all\" are possible")));
            }
        };
        config.allow_remountable_ro = self.allow_remountable_ro.unwrap_or(false);
        Ok(config)
    }
}

/// The isolator that an annotation or `allowed_isolation` names, which is one and not a flag.
///
/// # Errors
/// [`Cause::Isolation`].
pub fn one_isolator(name: &str) -> Result<Isolator> {
    match Isolator::parse_flag(name)? {
        isolator if isolator.name() == name => Ok(isolator),
        _ => {
            Err(Error::new(Cause::Isolation, format!("isolation {name:?} is not the name of one filesystem isolator")))
        }
    }
}

fn absolute(key: &str, path: PathBuf) -> Result<PathBuf> {
    let plain = path.is_absolute()
        && !path.as_os_str().as_bytes().iter().any(u8::is_ascii_control)
        && path.components().all(|c| !matches!(c, std::path::Component::ParentDir));
    if !plain {
        return Err(Error::new(
            Cause::ConfigInvalid,
            format!("{key:?} has {path:?}, which is not an absolute path without .."),
        ));
    }
    Ok(path.components().collect())
}

/// Reads an entry of a list, which has these keys.
fn entry<T: serde::de::DeserializeOwned>(list: &str, keys: &[&str], entry: Map<String, Value>) -> Result<T> {
    check_keys(list, &entry, keys)?;
    serde_json::from_value(Value::Object(entry))
        .map_err(|error| Error::new(Cause::ConfigInvalid, format!("{list:?} has an entry that is not valid: {error}")))
}

/// The roles of an entry.
fn roles(key: &str, names: &[String]) -> Result<Vec<Role>> {
    names.iter().map(|name| Role::parse(name).map_err(|error| error.in_configuration(key))).collect()
}

/// Seconds of a duration in Mesos's spelling (`10secs`, `5mins`, `168hrs`, `7days`, `1weeks`) or shorter.
fn duration(text: &str) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let number: u64 = text[..digits].parse().ok()?;
    let unit = match &text[digits..] {
        "" if number == 0 => 1,
        "s" | "secs" => 1,
        "m" | "mins" => 60,
        "h" | "hrs" => 3600,
        "d" | "days" => 86_400,
        "w" | "weeks" => 604_800,
        _ => return None,
    };
    number.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_means_posix() {
        let config = Config::parse(b"{}").unwrap();
        assert_eq!(config, Config::default_for(me()));
        assert_eq!((config.isolation, &config.allowed_isolation[..]), (Isolator::Posix, &[Isolator::Posix][..]));
    }

    // mesos.md CT1 to CT7.
    #[test]
    fn the_isolation_flag() {
        for (flag, isolator) in
            [("", Isolator::Posix), ("filesystem/linux", Isolator::Linux), (",filesystem/shared,", Isolator::Shared)]
        {
            assert_eq!(Isolator::parse_flag(flag).unwrap(), isolator, "{flag:?}");
        }
        for (flag, cause) in [
            ("filesystem/posix,filesystem/linux", Cause::Isolation),
            ("filesystem/linux,filesystem/linux", Cause::Isolation),
            (" filesystem/linux", Cause::Isolation),
            ("filesystem/foo", Cause::Isolation),
            ("linux", Cause::Isolation),
            ("filesystem/linux,volume/image", Cause::NotSupported),
            ("filesystem/shared,volume/secret", Cause::Isolation),
            ("volume/host_path", Cause::Isolation),
            ("filesystem/posix,volume/sandbox_path", Cause::Isolation),
        ] {
            assert_eq!(Isolator::parse_flag(flag).unwrap_err().cause(), cause, "{flag:?}");
        }
        let flag = "filesystem/linux,volume/host_path,volume/sandbox_path,volume/secret";
        assert_eq!(Isolator::parse_flag(flag).unwrap(), Isolator::Linux);
        assert!(one_isolator("").is_err() && one_isolator(flag).is_err(), "an annotation names one");
    }

    #[test]
    fn an_unknown_key_is_refused_with_the_nearest() {
        let error = Config::parse(br#"{"work_dirs": "/x"}"#).unwrap_err();
        assert_eq!(error.cause(), Cause::ConfigInvalid);
        assert!(error.to_string().contains("did you mean \"work_dir\"?"), "{error}");
    }

    #[test]
    fn an_unknown_key_below_another_is_refused_with_its_place_and_the_nearest() {
        for (text, place, near) in [
            (r#"{"host_paths":[{"path":"/x","roles":[],"modes":"RO"}]}"#, "host_paths", "mode"),
            (r#"{"secrets":[{"name":"x","paht":"/x","roles":[]}]}"#, "secrets", "path"),
            (r#"{"default_container_info":{"type":"MESOS","volume":[]}}"#, "default_container_info", "volumes"),
            (r#"{"disks":[{"name":"a","type":"PATH","pth":{"root":"/x"}}]}"#, "disks", "path"),
            (r#"{"disks":[{"name":"a","type":"PATH","path":{"rooot":"/x"}}]}"#, "disks.path", "root"),
            (r#"{"disks":[{"name":"a","type":"MOUNT","mount":{"Root":"/x"}}]}"#, "disks.mount", "root"),
            (r#"{"authorization":{"alow":[]}}"#, "authorization", "allow"),
            (r#"{"authorization":{"allow":[{"identity":"root","role":["a"]}]}}"#, "authorization.allow", "roles"),
            (r#"{"authorization":{"deny":[{"identiy":"root","roles":["a"]}]}}"#, "authorization.deny", "identity"),
        ] {
            let error = Config::parse(text.as_bytes()).unwrap_err();
            assert_eq!(error.cause(), Cause::ConfigInvalid, "{text}");
            let said = error.to_string();
            assert!(said.contains(&format!("{place:?} has the unknown key")), "{said}");
            assert!(said.contains(&format!("did you mean {near:?}?")), "{said}");
        }
        let said = Config::parse(br#"{"managers":{"podmann":[]}}"#).unwrap_err().to_string();
        assert!(said.contains("did you mean \"podman\"?"), "{said}");
        let said = Config::parse(br#"{"disks":[{"name":"a","xyzzy":1}]}"#).unwrap_err().to_string();
        assert!(said.contains("\"disks\" has the unknown key \"xyzzy\"") && !said.contains("did you mean"), "{said}");
        let said = Config::parse(br#"{"disks":[{"name":7}]}"#).unwrap_err().to_string();
        assert!(said.contains("wrong type"), "{said}");
    }

    #[test]
    fn impossible_values_are_refused() {
        let deep = format!("{{\"work_dir\":{}", "[".repeat(500));
        for text in [
            "",
            "[]",
            "{",
            r#"{"work_dir":"rel"}"#,
            r#"{"work_dir":"/a/../b"}"#,
            r#"{"work_dir":7}"#,
            r#"{"log_level":"loud"}"#,
            r#"{"sandbox_retention":"1fortnight"}"#,
            r#"{"sandbox_retention":"7"}"#,
            r#"{"managers":{"docker":[]}}"#,
            r#"{"host_paths":[{"path":"/x"}]}"#,
            r#"{"host_paths":[{"path":"/x","roles":[],"modes":"RO"}]}"#,
            r#"{"host_paths":[{"path":"/x","roles":[],"mode":"ro"}]}"#,
            r#"{"default_container_info":{}}"#,
            r#"{"default_container_info":{"type":"DOCKER"}}"#,
            r#"{"default_container_info":{"type":"MESOS","hostname":"x"}}"#,
            r#"{"default_container_info":{"type":"MESOS","volumes":[{}]}}"#,
            r#"{"default_container_info":{"type":"MESOS","volumes":[{"container_path":"/tmp","mode":"RW","host_path":"t"}]}}"#,
            r#"{"sandbox_directory":"rel"}"#,
            r#"{"request_token":"short"}"#,
            r#"{"ownership":"root"}"#,
            deep.as_str(),
        ] {
            assert_eq!(Config::parse(text.as_bytes()).unwrap_err().cause(), Cause::ConfigInvalid, "{text}");
        }
    }

    #[test]
    fn durations_in_mesos_spelling() {
        for (text, seconds) in [
            ("0", Some(0)),
            ("168h", Some(604_800)),
            ("1weeks", Some(604_800)),
            ("10secs", Some(10)),
            ("x", None),
            ("", None),
        ] {
            assert_eq!(duration(text), seconds, "{text:?}");
        }
    }

    #[test]
    fn volumes_without_a_role_have_a_default() {
        let config = Config::parse(b"{}").unwrap();
        let role = |text| Role::parse(text).unwrap();
        assert_eq!(config.role_of(&Identity::Namespace("team-a".to_owned())).unwrap(), role("team-a"));
        assert_eq!(config.role_of(&Identity::Root).unwrap(), role("default"));
    }

    #[test]
    fn a_user_has_everything_below_the_home() {
        let user = crate::me::User { uid: 1000, home: "/home/alice".into() };
        let me = Me { user: Some(user), uid: 0, gid: 0, in_namespace: true };
        let config = Config::default_for(&me);
        assert_eq!(config.work_dir, Path::new("/home/alice/.local/share/fs-isolator"));
        assert_eq!(config.runtime_dir, Path::new("/run/user/1000/fs-isolator"));
        assert_eq!(config.managers[&Manager::Podman], [Path::new("/home/alice/.local/share/containers/storage")]);
        assert_eq!(default_path(&me), Path::new("/home/alice/.config/fs-isolator/config.json"));
        assert_eq!(lease_directory(&me), Path::new("/run/user/1000/fs-isolator/leases"));
    }
}
