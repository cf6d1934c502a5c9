//! Why something was refused: one [`Cause`] per reason, each with its exit code and its remedy.
//!
//! The exit code is the only thing of a failed hook that every runtime passes on (crun discards
//! stderr), so it tells the whole cause; `fs-isolator explain CODE` and docs/exit-codes.md say what it means.
#![forbid(unsafe_code)]

use std::fmt;

macro_rules! causes {
    ($($code:literal $name:ident $title:literal $remedy:literal;)*) => {
        /// A reason for refusing, with an exit code of its own.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Cause {
            $(#[doc = $title] $name = $code,)*
        }

        impl Cause {
            /// Every cause, in the order of the codes.
            pub const ALL: &[Cause] = &[$(Cause::$name,)*];

            /// What it means, in a few words.
            #[must_use]
            pub fn title(self) -> &'static str {
                match self { $(Cause::$name => $title,)* }
            }

            /// What to do about it.
            #[must_use]
            pub fn remedy(self) -> &'static str {
                match self { $(Cause::$name => $remedy,)* }
            }

            /// Its name for programs, by which `explain` finds it too.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Cause::$name => stringify!($name),)* }
            }
        }
    };
}

causes! {
    2 Usage "the command line is wrong"
        "see --help";
    10 StateUnreadable "no OCI state could be read from standard input"
        "a hook is started by a container runtime, which writes the container's state to its standard input; to try one by hand, pipe a state file of at most 4 MiB into it";
    11 StateInvalid "the OCI state on standard input is not valid"
        "the state must be one JSON object with id, bundle and, before poststop, pid (OCI runtime-spec, State)";
    12 ContainerId "the container's id is not acceptable"
        "use an id of 1 to 242 characters out of A-Z a-z 0-9 _ + - . that is not . or ..";
    13 Bundle "the bundle directory cannot be used"
        "the state's bundle must be the absolute path of an existing directory and not a symbolic link";
    14 BundleConfig "the bundle's config.json cannot be used"
        "write a config.json of at most 4 MiB that follows the OCI runtime-spec, with process.cwd and root.path";
    15 Pid "the state's pid is not this container's init"
        "a hook must be called by the runtime while it creates the container; it believes a pid only if root.path is mounted in that process's mount namespace";
    20 ConfigInvalid "the configuration is not valid"
        "correct the file; `fs-isolator config` prints the effective configuration";
    21 ConfigUnsafe "a file or directory that must be the administrator's could be changed by others"
        "it and every directory above it must belong to root, be writable by nobody else and not be a symbolic link";
    22 Isolation "the isolation is not valid"
        "name exactly one of filesystem/posix, filesystem/linux and filesystem/shared";
    23 IsolationNotAllowed "the container may not choose this isolator"
        "list it under \"allowed_isolation\" in the configuration";
    24 NotSupported "this version does not support what was asked"
        "ask for something else; nothing that is not there is ever ignored";
    30 ManagerUnknown "the bundle lies under no directory listed for a manager"
        "add its directory under \"managers\" in the configuration";
    31 IdentityForged "the annotations claim an identity that the bundle does not have"
        "remove the annotations; on podman before 4.6 they can come from the image";
    32 Token "the request does not carry the token that the configuration asks for"
        "put the value of \"request_token\", which `fs-isolator config --token` prints, into the annotation io.fs-isolator.token";
    33 AnnotationUnknown "an annotation under io.fs-isolator. is unknown"
        "the keys are volumes, volumes.base64, isolation, role, sandbox and token, each with /CONTAINER on CRI-O";
    34 RequestInvalid "the request for volumes is not valid"
        "write ID:CONTAINER_PATH[:OPTION...] with ; between volumes, or a JSON array of Mesos Resource and Volume objects";
    35 VolumeId "a persistence id is not valid"
        "use 1 to 255 bytes without / \\ or control characters that are not . or ..";
    36 Role "a role is not valid"
        "use components between single slashes that are not . .. or *, do not start with - and have no space";
    37 ContainerPath "a container path is not valid"
        "use a path of at most 4095 bytes whose components are not . or .., not at or below /proc or /sys";
    38 PathConflict "two mounts are in each other's way"
        "give each volume a container path of its own that no mount of the bundle lies at or below";
    39 SecretValue "a secret's value stands in an annotation"
        "everybody who can inspect the container can read it: revoke that secret, and refer to one by name instead";
    40 NoIsolator "no enabled isolator handles this kind of volume"
        "see \"isolation\" in the configuration; a volume is never skipped";
    41 VolumeUnavailable "the volume is not available to this container"
        "create it with `fs-isolator volume create`, if it should exist, and ask for it in a role the container may use";
    42 Subpath "the subpath of a volume cannot be used"
        "create it in the volume first; it must be a directory, and no component may be a symbolic link";
    43 HostPathNotAllowed "the host path is not available to this container"
        "list it under \"host_paths\" in the configuration, with a role the container may use";
    44 ReadOnly "read-only cannot be kept"
        "drop ro, or use filesystem/linux with a container that has no CAP_SYS_ADMIN";
    45 Ownership "the volume's owner could not be set"
        "see the message; ownership \"never\" in the configuration leaves owners alone";
    46 EndUnknown "nobody could tell when the container has ended"
        "give it a pid namespace or a cgroup of its own, or ask for the volume as shared";
    47 SharedDiffers "the volume is not shared in the way that was asked for"
        "ask for it as it was made: with shared, or without";
    48 DiskUnknown "the disk is not one of the configuration's"
        "list it under \"disks\" in the configuration";
    49 DiskUnavailable "the disk is not there"
        "mount it first: what is written now would land on the disk below it";
    50 MountPointMissing "a mount point does not exist and may not be made"
        "make the directory; hooks make mount points in the sandbox and in the container's own root filesystem only";
    51 MountPointUnsafe "a mount point cannot be used"
        "name a directory that is not on proc, sysfs, cgroup or devpts and has nothing mounted on it already";
    52 HostNamespace "the container has no mount namespace of its own"
        "add {\"type\": \"mount\"} to linux.namespaces in config.json, or use filesystem/posix";
    53 PosixSandbox "the container's working directory cannot be its sandbox"
        "make one with `fs-isolator sandbox create --owner UID` and set process.cwd (podman --workdir) to it";
    54 NotHostFilesystem "the container does not share the host's filesystem"
        "put {\"isolation\": \"filesystem/linux\"} into the configuration: it serves containers with an image of their own";
    55 LinkConflict "something else stands where a link is needed"
        "move it away, or ask for another container path; it was not touched";
    56 NoPropagation "propagation was asked for by name and cannot be given"
        "make the volume's mount on the host shared (mount --make-shared), or drop slave";
    57 AttachFailed "the kernel refused to attach the volume"
        "see the message; on Linux before 5.12 nothing can be attached";
    58 NotAsAsked "the container does not have what it asked for and was ended"
        "see the message; something changed the container's mounts after they were attached";
    59 VolumeAmbiguous "the volume is on more than one disk"
        "name the disk: disk=NAME";
    60 RuntimeDir "the records under runtime_dir cannot be kept"
        "see the message: permissions, space and inodes under \"runtime_dir\"";
    61 RecordConflict "another live container has the same id and bundle"
        "give containers bundles of their own";
    62 UndoIncomplete "not everything that was made for the container could be removed"
        "see the message; the record is kept, and the next hook of this container tries again";
    63 Sandbox "the sandbox could not be made or removed"
        "see the message: permissions, space and inodes under \"work_dir\"";
    64 KernelTooOld "the kernel lacks a system call that is needed"
        "use Linux 5.12 or newer";
    65 SecretUnavailable "the secret is not available to this container"
        "list it under \"secrets\" in the configuration, with a role the container may use, and see that its file is there";
    66 NoPod "the container is in no pod, and has no parent"
        "put it into a pod (podman pod create, a pod of CRI-O), or use sandbox= for a directory of its own sandbox";
    67 Label "SELinux would keep the container out of what it asks for"
        "give it a label that containers can use: chcon -R -t container_file_t -l s0, and semanage fcontext so that it stays";
    70 VolumeExists "the volume exists already"
        "choose another id; nothing was changed";
    71 VolumeInUse "the volume is in use"
        "stop the containers that use it first; nothing was changed";
    72 NotConfirmed "the command destroys data and was not confirmed"
        "answer yes, or pass --yes";
    73 Install "the installation could not be completed"
        "see the message";
    74 VolumeUnsafe "the volume cannot be deleted safely"
        "see the message; nothing was deleted that the message does not name";
    75 MesosCheckpoint "the Mesos agent's checkpoint cannot be read"
        "restore that file below \"work_dir\"; it was not changed, and neither was any volume";
    76 MesosAgent "a Mesos agent is running on work_dir"
        "stop the agent and its tasks first: what serves the same volumes twice loses them";
    77 NotAuthorized "the identity may not use the role"
        "grant it under \"authorization\" in the configuration";
    78 ContainerUnknown "there is no such running container"
        "name one that runc or crun runs, by its id, the beginning of its id, or --pid";
    79 NotAttached "nothing of ours is attached there"
        "see `fs-isolator volume list` for what the container holds";
    80 PathInUse "the volume is in use in the container"
        "stop the processes that use it, or detach with --lazy: those go on with it, and new ones do not see it";
    81 Doctor "the doctor has found faults"
        "each fault above names its remedy";
    90 Convert "the definition cannot be converted"
        "see the message; nothing was written";
    91 Export "the volume cannot be exported"
        "see the message; what was written is no whole archive";
    92 Archive "the archive cannot be trusted"
        "export the volume again; nothing was imported";
    93 Import "the volume cannot be imported"
        "see the message; nothing was imported";
}

impl Cause {
    /// The process's exit code.
    #[must_use]
    pub fn code(self) -> u8 {
        self as u8
    }

    /// The cause with this exit code.
    #[must_use]
    pub fn of(code: u8) -> Option<Cause> {
        Cause::ALL.iter().copied().find(|cause| cause.code() == code)
    }
}

/// A refusal: what failed, on which container and volume, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    cause: Cause,
    container: Option<String>,
    volume: Option<String>,
    role: Option<Box<str>>,
    what: String,
    remedy: Option<String>,
}

/// Result with an [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// A refusal for this cause; `what` says what was found.
    pub fn new(cause: Cause, what: impl Into<String>) -> Error {
        Error { cause, container: None, volume: None, role: None, what: what.into(), remedy: None }
    }

    /// Replaces the cause's general remedy by one for the case.
    #[must_use]
    pub fn remedy(mut self, remedy: impl Into<String>) -> Error {
        self.remedy = Some(remedy.into());
        self
    }

    /// Names the container, unless one is named already.
    #[must_use]
    pub fn container(mut self, id: &str) -> Error {
        self.container.get_or_insert_with(|| id.to_owned());
        self
    }

    /// Names the volume, unless one is named already.
    #[must_use]
    pub fn volume(mut self, label: impl fmt::Display) -> Error {
        self.volume.get_or_insert_with(|| label.to_string());
        self
    }

    /// Names the volume's role, unless one is named already. Only the journal tells it.
    #[must_use]
    pub fn role(mut self, role: impl fmt::Display) -> Error {
        self.role.get_or_insert_with(|| role.to_string().into());
        self
    }

    /// The volume that is named, as long as it is in the line.
    #[must_use]
    pub fn volume_label(&self) -> Option<String> {
        self.volume.as_deref().map(abridged)
    }

    /// The role that is named.
    #[must_use]
    pub fn role_name(&self) -> Option<&str> {
        self.role.as_deref()
    }

    /// The refusal of a value in the configuration, under its key: the same words, and the configuration's cause.
    #[must_use]
    pub fn in_configuration(self, key: &str) -> Error {
        Error::new(Cause::ConfigInvalid, format!("{key}: {}", self.what))
    }

    /// What was found, without remedy and code.
    #[must_use]
    pub fn what(&self) -> &str {
        &self.what
    }

    /// What to do about it.
    #[must_use]
    pub fn how(&self) -> &str {
        self.remedy.as_deref().unwrap_or(self.cause.remedy())
    }

    /// Why it was refused.
    #[must_use]
    pub fn cause(&self) -> Cause {
        self.cause
    }
}

/// Quotes a word for a shell.
#[must_use]
pub fn shell_word(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./+,=:@%".contains(c);
    if !word.is_empty() && !word.starts_with('-') && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

/// What a request brought in may be as long as an annotation: a line for people and for a log in memory is not.
fn abridged(text: &str) -> String {
    match text.char_indices().nth(600) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}... ({} bytes)", &text[..end], text.len()),
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = String::new();
        if let Some(container) = &self.container {
            line.push_str(&format!("container {container}: "));
        }
        if let Some(volume) = &self.volume {
            line.push_str(&format!("volume {}: ", abridged(volume)));
        }
        line.push_str(&abridged(&self.what));
        line.push_str("; ");
        line.push_str(self.how());
        line.push_str(&format!(" [exit {}]", self.cause.code()));
        // One line, whatever an annotation or a file name brought in.
        for c in line.chars() {
            if c.is_control() { write!(f, "{}", c.escape_default())? } else { write!(f, "{c}")? }
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

/// Gives a failed system call its cause.
pub trait Because<T> {
    /// Turns the failure into an [`Error`]; `ENOSYS` always means that the kernel is too old.
    ///
    /// # Errors
    /// The same failure, with its cause and what was being done.
    fn because(self, cause: Cause, doing: impl FnOnce() -> String) -> Result<T>;
}

impl<T> Because<T> for crate::sys::Result<T> {
    fn because(self, cause: Cause, doing: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| {
            let cause = if error.errno == nix::errno::Errno::ENOSYS { Cause::KernelTooOld } else { cause };
            Error::new(cause, format!("{}: {error}", doing()))
        })
    }
}

impl<T> Because<T> for std::io::Result<T> {
    fn because(self, cause: Cause, doing: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| Error::new(cause, format!("{}: {error}", doing())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_found_again() {
        for (index, cause) in Cause::ALL.iter().enumerate() {
            assert_eq!(Cause::of(cause.code()), Some(*cause));
            assert!(Cause::ALL[..index].iter().all(|earlier| earlier.code() < cause.code()), "{cause:?}");
            assert!((2..126).contains(&cause.code()), "126 and above mean something to shells and podman");
        }
    }

    #[test]
    fn a_refusal_is_one_line_that_names_everything() {
        let error = Error::new(Cause::Subpath, "no \"a\nb\"").volume("db (data)").container("web").remedy("make it");
        assert_eq!(error.to_string(), "container web: volume db (data): no \"a\\nb\"; make it [exit 42]");
    }
}
