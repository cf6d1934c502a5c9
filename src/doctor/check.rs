//! Every check: its name, what a finding of it means, and what mends it in general. `docs/doctor.md` has the same.
#![forbid(unsafe_code)]

use serde::{Serialize, Serializer};

macro_rules! checks {
    ($($check:ident $name:literal $meaning:literal $remedy:literal;)*) => {
        /// A check, by which a finding is known.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Check {
            $(#[doc = $meaning] $check,)*
        }

        impl Check {
            /// Every check, in the order in which they are made.
            pub const ALL: &[Check] = &[$(Check::$check,)*];

            /// Its name.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Check::$check => $name,)* }
            }

            /// What it means that something was found.
            #[must_use]
            pub fn meaning(self) -> &'static str {
                match self { $(Check::$check => $meaning,)* }
            }

            /// What mends it; a finding says it for its place.
            #[must_use]
            pub fn remedy(self) -> &'static str {
                match self { $(Check::$check => $remedy,)* }
            }
        }
    };
}

checks! {
    Configuration "configuration" "the configuration cannot be used, so that every container that asks is refused"
        "correct the key that it names";
    EngineConfiguration "engine-configuration" "a configuration of podman or CRI-O cannot be read, which may name other directories of hooks"
        "correct that file";
    HooksDirUnsafe "hooks-dir-unsafe" "somebody else than root can change a directory of hooks, and so run code as root"
        "chown root and chmod go-w the directory";
    HookFileInvalid "hook-file-invalid" "a hooks.d file that podman and CRI-O refuse: podman starts no container at all with it"
        "correct or remove the file; `fs-isolator install` for one of this project";
    HookMasked "hook-masked" "a file of the same name in a later directory takes the place of a hook of this project"
        "rename or remove the later file";
    HooksNotInstalled "hooks-not-installed" "podman or CRI-O finds none of the hooks: containers start without their volumes, in silence"
        "fs-isolator install";
    HooksIncomplete "hooks-incomplete" "some of the three hooks are not registered"
        "fs-isolator install";
    HookTwice "hook-twice" "two files call one hook: each start costs it twice"
        "remove one of them";
    HookFileUnsafe "hook-file-unsafe" "somebody else than root can change a hooks.d file"
        "chown root and chmod go-w the file";
    HookStage "hook-stage" "a hook is called at a stage at which it cannot do its work"
        "fs-isolator install";
    HookStageTwice "hook-stage-twice" "a hook is called at prestart and at createRuntime, which newer engines take for one"
        "fs-isolator install";
    HookEnvironment "hook-environment" "a hook gets the environment of whoever calls it"
        "fs-isolator install";
    HookTimeout "hook-timeout" "a time-out that is not positive ends the hook at once"
        "fs-isolator install";
    HookExecutableMissing "hook-executable-missing" "the executable of a hooks.d file is not there, and engines pass over the file in silence"
        "fs-isolator install";
    HookExecutableMode "hook-executable-mode" "the executable of a hook cannot be executed"
        "chmod 755 it";
    HookExecutableUnsafe "hook-executable-unsafe" "somebody else than root can change the executable of a hook"
        "chown root and chmod go-w it";
    HookCondition "hook-condition" "a hooks.d file has a condition that leaves out containers that ask"
        "fs-isolator install";
    HookNeverCalled "hook-never-called" "the patterns of a hooks.d file match no container that asks"
        "fs-isolator install";
    HookNotAlwaysCalled "hook-not-always-called" "the patterns of a hooks.d file leave out some containers that ask"
        "fs-isolator install";
    HookNotForAll "hook-not-for-all" "default_container_info is set, and the hooks are called only for containers that ask"
        "fs-isolator install";
    HookUnanchored "hook-unanchored" "the patterns of a hooks.d file match containers that never asked"
        "fs-isolator install";
    HooksUnread "hooks-unread" "the hooks lie in a directory that podman or CRI-O is not configured to read"
        "add the directory to hooks_dir, or install into the default one";
    HookConfigurationMissing "hook-configuration-missing" "the configuration that a hook is told to read is not there"
        "write it, or install again without --config";
    HookConfiguration "hook-configuration" "a hook reads another configuration than the one that was looked at"
        "run the doctor with that configuration";
    NoRuntime "no-runtime" "no container runtime is on PATH"
        "install one, or set PATH";
    RuntimeVersion "runtime-version" "a runtime does not tell its version"
        "see whether it starts at all";
    PodmanImageAnnotations "podman-image-annotations" "podman before 4.6 takes annotations from images: an image can ask for any volume"
        "set request_token, or install podman 4.6";
    CrunTimeout "crun-timeout" "crun 1.8.1 can miss the end of a hook that has a time-out"
        "install a newer crun, or take the time-out out of the file";
    CrunCgroups "crun-cgroups" "the host has both kinds of cgroups, which crun refuses"
        "boot with one kind";
    Kernel "kernel" "the kernel, or this process's rights, lack a system call that is needed"
        "use Linux 5.12 or newer, as root";
    KernelMemoryFilesystem "kernel-memory-filesystem" "no filesystem in memory can be made, which secrets need"
        "use Linux 5.2 or newer";
    KernelSetGroup "kernel-set-group" "slave cannot be given back where crun takes it"
        "use Linux 5.15 or newer, or runc";
    KernelIdmap "kernel-idmap" "work_dir's filesystem cannot be mounted with other owners, which containers with a user namespace may need"
        "use a filesystem that can (ext4, xfs, btrfs, tmpfs on Linux 6.3), or \"ownership\": \"never\"";
    KernelStatmount "kernel-statmount" "the mount table is read where a volume names slave, which costs time"
        "use Linux 6.8 or newer";
    UnsafeDirectory "unsafe-directory" "somebody else than root can change a directory of this project, so that containers are refused"
        "chown root and chmod go-w it";
    ManagerDirectory "manager-directory" "somebody else than root can put a bundle where a manager's bundles are believed to lie"
        "chown root and chmod go-w it, or take it out of managers";
    HostPath "host-path" "an entry of host_paths cannot be used"
        "make it, or take it out of host_paths";
    Secret "secret" "the value of a secret cannot be used, or others can read it"
        "chown root and chmod 0400 the file";
    Disk "disk" "a disk of the configuration is not there, or is read-only"
        "mount it, or take it out of disks";
    PrivateMount "private-mount" "work_dir or a disk lies on a private mount: what the host mounts later does not reach containers"
        "fs-isolator host for work_dir, mount --make-shared for a disk, before containers are started";
    Volume "volume" "a volume, or what is recorded of it, cannot be read"
        "see the finding";
    VolumeReachable "volume-reachable" "other users of the host can reach a volume, and setuid files that a container left there"
        "chmod o-rwx it";
    VolumeLabel "volume-label" "the SELinux label of a volume keeps every container out that has a label of its own"
        "chcon -R -t container_file_t -l s0 it, and semanage fcontext so that it stays";
    MesosAgent "mesos-agent-running" "a Mesos agent is running on work_dir"
        "stop the agent";
    MesosLeftover "mesos-leftover" "a Mesos agent left a mount in a sandbox, which keeps a volume busy"
        "fs-isolator adopt --detach";
    ContainerWithoutHook "container-without-hook" "a container asks for volumes, and was made while the hooks were missing"
        "mend the hooks, save its data, and make it anew";
    AppArmorProfile "apparmor-profile" "the AppArmor profile of a container that asks for volumes is not loaded, and runtimes do not start it"
        "apparmor_parser -r the profile's file";
    Record "record" "a record cannot be read"
        "fs-isolator reconcile, or what the finding says";
    StaleRecord "stale-record" "a container has ended, and its hooks have not come"
        "fs-isolator reconcile";
    Lease "lease" "leases cannot be read"
        "what the finding says";
    VoidLease "void-lease" "a lease is left of a container that has ended"
        "fs-isolator reconcile";
    RunLeftover "run-leftover" "an earlier `doctor --run` was killed and left its directory and volume"
        "fs-isolator reconcile";
    RunFailed "run-failed" "--run: the container did not start, or did not come to its end"
        "what the finding says";
    RunNoVolume "run-no-volume" "--run: the container ran without the volume for which it asked"
        "mend what else was found; without the hooks nothing is attached";
    RunNoSlave "run-no-slave" "--run: a mount that the host made later did not appear in the container"
        "make work_dir a shared mount; with crun, install poststart";
    RunLeak "run-leak" "--run: a mount of the container appeared on the host"
        "take rshared and rootfsPropagation shared out of the engine's configuration";
    RunNotFreed "run-not-freed" "--run: after the container's end its record or lease was still there"
        "install poststop; fs-isolator reconcile frees it";
}

impl Serialize for Check {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::Check;

    #[test]
    fn docs_tell_of_every_check() {
        let docs = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/doctor.md")).unwrap();
        for check in Check::ALL {
            let row = format!("| `{}` | {} | {} |", check.name(), check.meaning(), check.remedy());
            assert!(docs.contains(&row), "docs/doctor.md has no line\n{row}");
        }
        let rows = docs.lines().filter(|line| line.starts_with("| `")).count();
        assert_eq!(rows, Check::ALL.len(), "docs/doctor.md has lines of checks that are gone");
    }
}
