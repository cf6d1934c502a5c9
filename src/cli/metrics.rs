//! `fs-isolator metrics`: figures for Prometheus, as the node exporter's textfile collector takes them.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use nix::fcntl::OFlag;
use serde::Serialize;

use super::show;
use crate::config::Config;
use crate::counters::{self, BOUNDS};
use crate::error::{Because, Cause, Error, Result};
use crate::lease::Leases;
use crate::record::{self, Line};
use crate::runtime_dir::RuntimeDir;
use crate::sys::{self, Resolve};
use crate::tree;
use crate::trusted::{self, Missing};
use crate::volume::{self, Disks};

/// Arguments.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Write to this file instead, which readers see whole or not at all
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// One metric.
#[derive(Debug, Serialize, schemars::JsonSchema)]
pub struct Family {
    name: &'static str,
    #[serde(rename = "type")]
    kind: &'static str,
    help: &'static str,
    samples: Vec<Sample>,
}

/// One figure of it.
#[derive(Debug, Serialize, schemars::JsonSchema)]
struct Sample {
    name: String,
    labels: BTreeMap<&'static str, String>,
    value: f64,
}

impl Family {
    fn new(name: &'static str, kind: &'static str, help: &'static str) -> Family {
        Family { name, kind, help, samples: Vec::new() }
    }

    fn add(&mut self, labels: &[(&'static str, &str)], value: f64) {
        self.add_part("", labels, value);
    }

    fn add_part(&mut self, suffix: &str, labels: &[(&'static str, &str)], value: f64) {
        let labels = labels.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        self.samples.push(Sample { name: format!("{}{suffix}", self.name), labels, value });
    }
}

/// Runs the verb.
///
/// # Errors
/// [`Cause::RuntimeDir`], [`Cause::ConfigUnsafe`]; [`Cause::Usage`] where the file cannot be written.
pub fn run(arguments: &Arguments, config: &Config, json: bool) -> Result<()> {
    sys::raise_descriptor_limit();
    let mut faults = Vec::new();
    let mut families = vec![build()];
    families.extend(containers(config, &mut faults)?);
    families.push(volumes(config, &mut faults)?);
    families.push(leases()?);
    families.extend(hooks(config)?);
    let mut unread = Family::new(
        "fs_isolator_unreadable",
        "gauge",
        "Records, volumes and disks that could not be looked at, and are not counted.",
    );
    unread.add(&[], count(faults.len()));
    families.push(unread);
    faults.iter().for_each(|fault| eprintln!("fs-isolator: {fault}"));
    let text = if json {
        serde_json::to_string_pretty(&families).map_err(|error| Error::new(Cause::Usage, error.to_string()))? + "\n"
    } else {
        text(&families)
    };
    match &arguments.output {
        None => show::lines(&[text.trim_end()]),
        Some(path) => write(path, &text),
    }
}

/// What Prometheus has for numbers holds every count there will be.
#[allow(clippy::cast_precision_loss)]
fn count(number: usize) -> f64 {
    number as f64
}

#[allow(clippy::cast_precision_loss)]
fn large(number: u64) -> f64 {
    number as f64
}

fn seconds(microseconds: u64) -> f64 {
    large(microseconds) / 1e6
}

fn build() -> Family {
    let mut family = Family::new("fs_isolator_build_info", "gauge", "The version of the command that wrote this.");
    family.add(&[("version", env!("CARGO_PKG_VERSION"))], 1.0);
    family
}

fn containers(config: &Config, faults: &mut Vec<Error>) -> Result<[Family; 2]> {
    let mut states = BTreeMap::from([("running", 0), ("unfinished", 0), ("ended", 0)]);
    let mut took: BTreeMap<String, (u64, usize)> = BTreeMap::new();
    if let Some(runtime) = RuntimeDir::open_existing(&config.runtime_dir)? {
        let doing = || "records cannot be listed".to_owned();
        for name in tree::names(&runtime.records).because(Cause::RuntimeDir, doing)? {
            match record::look(&runtime.records, &name.to_string_lossy()) {
                Err(fault) => faults.push(fault),
                Ok(None) => {}
                Ok(Some((header, lines))) => {
                    let done = lines.iter().rev().find_map(|line| match line {
                        Line::Done { steps, .. } => Some(steps),
                        _ => None,
                    });
                    let state = match (header.life.may_last()?, done) {
                        (false, _) => "ended",
                        (true, None) => "unfinished",
                        (true, Some(_)) => "running",
                    };
                    *states.entry(state).or_default() += 1;
                    for step in done.into_iter().flatten() {
                        let (sum, number) = took.entry(step.0.to_string()).or_default();
                        *sum = sum.saturating_add(step.1);
                        *number += 1;
                    }
                }
            }
        }
    }
    let mut containers = Family::new(
        "fs_isolator_containers",
        "gauge",
        "Containers that have something; ended ones were not cleaned up, which reconcile does.",
    );
    states.iter().for_each(|(state, number)| containers.add(&[("state", state)], count(*number)));
    let mut prestart = Family::new(
        "fs_isolator_prestart_mean_seconds",
        "gauge",
        "What each step of prestart took, on average of the containers that are there now.",
    );
    for (step, (sum, number)) in &took {
        prestart.add(&[("step", step)], seconds(*sum) / count(*number));
    }
    Ok([containers, prestart])
}

fn volumes(config: &Config, faults: &mut Vec<Error>) -> Result<Family> {
    let (found, left) = volume::list(&Disks::new(config))?;
    faults.extend(left);
    let mut numbers: BTreeMap<(String, String), usize> = BTreeMap::new();
    for volume in &found {
        *numbers.entry((volume.disk.name().to_owned(), volume.role.to_string())).or_default() += 1;
    }
    let mut family = Family::new("fs_isolator_volumes", "gauge", "Persistent volumes.");
    for ((disk, role), number) in &numbers {
        family.add(&[("disk", disk), ("role", role)], count(*number));
    }
    Ok(family)
}

fn leases() -> Result<Family> {
    let mut numbers = BTreeMap::new();
    for state in ["held", "stale"] {
        for mode in ["exclusive", "shared"] {
            numbers.insert((state, mode), 0);
        }
    }
    for lease in Leases::open_existing()?.map_or(Ok(Vec::new()), |leases| leases.all())? {
        let state = if lease.life.may_last()? { "held" } else { "stale" };
        let mode = if lease.shared { "shared" } else { "exclusive" };
        *numbers.entry((state, mode)).or_default() += 1;
    }
    let mut family = Family::new(
        "fs_isolator_leases",
        "gauge",
        "Leases of volumes and sandboxes; the holder of a stale one has ended, and nobody waits for it.",
    );
    for ((state, mode), number) in numbers {
        family.add(&[("state", state), ("mode", mode)], count(number));
    }
    Ok(family)
}

fn hooks(config: &Config) -> Result<[Family; 2]> {
    let mut refusals = Family::new(
        "fs_isolator_refusals_total",
        "counter",
        "How often a hook has failed for which cause since the machine started.",
    );
    let mut times = Family::new(
        "fs_isolator_hook_duration_seconds",
        "histogram",
        "What hooks took, if the configuration has metrics.",
    );
    // A host on which every container was refused has no records.
    let counted = match trusted::open_dir(&config.runtime_dir, Missing::Tell)? {
        None => Vec::new(),
        Some(root) => counters::read(&root).because(Cause::RuntimeDir, || "counters cannot be read".to_owned())?,
    };
    for (stage, counts) in counted {
        for cause in Cause::ALL.iter().filter(|cause| counts.refusals(**cause) > 0) {
            let code = cause.code().to_string();
            let labels = [("hook", stage.name()), ("code", code.as_str()), ("cause", cause.name())];
            refusals.add(&labels, large(counts.refusals(*cause)));
        }
        let mut all = 0;
        let bounds = BOUNDS.iter().map(|bound| seconds(*bound).to_string()).chain(["+Inf".to_owned()]);
        for (bound, number) in bounds.zip(counts.times()) {
            all += number;
            times.add_part("_bucket", &[("hook", stage.name()), ("le", &bound)], large(all));
        }
        times.add_part("_sum", &[("hook", stage.name())], seconds(counts.sum()));
        times.add_part("_count", &[("hook", stage.name())], large(all));
    }
    Ok([refusals, times])
}

/// Prometheus's text format, version 0.0.4.
fn text(families: &[Family]) -> String {
    let mut text = String::new();
    for family in families.iter().filter(|family| !family.samples.is_empty()) {
        text.push_str(&format!("# HELP {0} {1}\n# TYPE {0} {2}\n", family.name, family.help, family.kind));
        for sample in &family.samples {
            let labels: Vec<String> =
                sample.labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escape(value))).collect();
            let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
            text.push_str(&format!("{}{labels} {}\n", sample.name, sample.value));
        }
    }
    text
}

fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// Writes beside the file and renames: the collector reads every `*.prom` at any time.
fn write(path: &Path, text: &str) -> Result<()> {
    let doing = || format!("{} cannot be written", path.display());
    let name = path.file_name().and_then(OsStr::to_str).ok_or_else(|| Error::new(Cause::Usage, doing()))?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let folder = sys::open_dir(sys::cwd(), folder, Resolve::NoMagic).because(Cause::Usage, doing)?;
    let temporary = format!(".{name}.{}", std::process::id());
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL;
    let mut file = File::from(sys::open_file_at(&folder, &temporary, flags, 0o644).because(Cause::Usage, doing)?);
    let finish = file
        .write_all(text.as_bytes())
        .because(Cause::Usage, doing)
        // The exporter is another user, whatever the umask is.
        .and_then(|()| sys::chmod(&file, 0o644).because(Cause::Usage, doing))
        .and_then(|()| sys::rename_over(&folder, &temporary, name).because(Cause::Usage, doing));
    if finish.is_err() {
        // The failure above is what there is to tell.
        let _ = sys::unlink_at(&folder, OsStr::new(&temporary), false);
    }
    finish
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped() {
        let mut family = Family::new("a_b", "gauge", "Help.");
        family.add(&[("role", "a\"b\\c\nd")], 1.5);
        family.add(&[], 2.0);
        let empty = Family::new("c", "gauge", "Help.");
        let expected = "# HELP a_b Help.\n# TYPE a_b gauge\na_b{role=\"a\\\"b\\\\c\\nd\"} 1.5\na_b 2\n";
        assert_eq!(text(&[family, empty]), expected);
    }
}
