//! Runtimes and managers on PATH, and what is known to be wrong with their versions.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::Serialize;

use super::hooks_d::Hook;
use super::{Check, Finding};
use crate::config::Config;
use crate::sys;

/// A program that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, schemars::JsonSchema)]
pub struct Program {
    /// Its name.
    pub name: &'static str,
    /// Where it lies.
    pub path: PathBuf,
    /// Its version, if it tells one.
    pub version: Option<String>,
}

impl Program {
    fn numbers(&self) -> Option<[u32; 3]> {
        let mut parts = self.version.as_ref()?.split('.').map(|part| part.parse().unwrap_or(0));
        Some([parts.next()?, parts.next().unwrap_or(0), parts.next().unwrap_or(0)])
    }

    /// Whether it is a podman whose containers have their image's annotations.
    pub fn takes_annotations_from_images(&self) -> bool {
        self.name == "podman" && self.numbers().is_some_and(|version| version < [4, 6, 0])
    }
}

const NAMES: [&str; 4] = ["runc", "crun", "podman", "crio"];

/// Where programs are looked for without a PATH.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Finds them.
pub fn find() -> Vec<Program> {
    let path = std::env::var_os("PATH").unwrap_or_else(|| PATH.into());
    let find = |name: &'static str| {
        let path = std::env::split_paths(&path).map(|directory| directory.join(name)).find(|path| path.is_file())?;
        let version = version(&path);
        Some(Program { name, path, version })
    };
    NAMES.into_iter().filter_map(find).collect()
}

/// The first word that begins like a version, up to what is no part of it.
fn version(program: &Path) -> Option<String> {
    let output = Command::new(program).arg("--version").stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    parse(&String::from_utf8_lossy(&output.stdout))
}

fn parse(text: &str) -> Option<String> {
    text.split_whitespace().find_map(|word| {
        let end = word.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(word.len());
        let version = word[..end].trim_end_matches('.');
        (version.starts_with(|c: char| c.is_ascii_digit()) && version.contains('.')).then(|| version.to_owned())
    })
}

/// Tells the known faults of what was found.
pub fn examine(programs: &[Program], hooks: &[Hook], config: Option<&Config>, findings: &mut Vec<Finding>) {
    let place = |program: &Program| program.path.display().to_string();
    if programs.is_empty() {
        findings.push(
            Finding::new(Check::NoRuntime, "neither runc, crun, podman nor crio is on PATH", "PATH")
                .why("nothing would ever call a hook, and nothing about runtimes could be checked")
                .remedy("install one, or run this with the PATH on which it lies"),
        );
    }
    for program in programs {
        match (program.name, program.numbers()) {
            (_, None) => findings.push(
                Finding::new(
                    Check::RuntimeVersion,
                    format!("{} does not tell its version", program.name),
                    place(program),
                )
                .why("it may not start at all, and its known faults cannot be told")
                .remedy(format!("{} --version", super::word(&program.path))),
            ),
            _ if program.takes_annotations_from_images() && config.is_some_and(|c| c.request_token.is_none()) => {
                findings.push(
                    Finding::new(
                        Check::PodmanImageAnnotations,
                        format!("podman {} takes annotations from images", program.version.as_deref().unwrap_or("")),
                        place(program),
                    )
                    .why("whoever made an image can ask for any volume of a container that runs it")
                    .remedy(
                        "set \"request_token\" in the configuration and pass it as io.fs-isolator.token, or install podman 4.6",
                    ),
                );
            }
            ("crun", Some([1, 8, 1])) => {
                for hook in hooks.iter().filter(|hook| hook.timeout.is_some()) {
                    findings.push(
                        Finding::new(
                            Check::CrunTimeout,
                            "crun 1.8.1 can miss the end of a hook that has a timeout",
                            hook.file.display(),
                        )
                        .why("a container that starts or ends in the same moment waits for the time-out, and fails")
                        .remedy("install a newer crun, or take \"timeout\" out of this file"),
                    );
                }
            }
            _ => {}
        }
        if program.name == "crun" && cgroups_are_hybrid() {
            findings.push(
                Finding::new(
                    Check::CrunCgroups,
                    "the host has both kinds of cgroups (hybrid)",
                    "/sys/fs/cgroup/unified",
                )
                .why("crun refuses to start containers there")
                .remedy("boot with systemd.unified_cgroup_hierarchy=1, or umount /sys/fs/cgroup/unified"),
            );
        }
    }
}

fn cgroups_are_hybrid() -> bool {
    const CGROUP2: i64 = 0x6367_7270;
    let is_second = |path: &str| {
        let magic = std::fs::File::open(path).ok().and_then(|fd| sys::filesystem(fd).ok());
        magic.is_some_and(|filesystem| filesystem.magic == CGROUP2)
    };
    is_second("/sys/fs/cgroup/unified") && !is_second("/sys/fs/cgroup")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_as_they_are_printed() {
        for (text, version) in [
            ("podman version 4.3.1\n", Some("4.3.1")),
            ("runc version 1.1.5+ds1\ncommit: x", Some("1.1.5")),
            ("crun version 1.8.1\ncommit: f8a096", Some("1.8.1")),
            ("crio version 1.37.0-dev\nVersion: 1.37.0", Some("1.37.0")),
            ("podman version 5.0.0-rc.1", Some("5.0.0")),
            ("nothing", None),
        ] {
            assert_eq!(parse(text).as_deref(), version, "{text}");
        }
    }
}
