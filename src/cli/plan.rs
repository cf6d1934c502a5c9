//! `fs-isolator plan BUNDLE`: the plan, and nothing done.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::path::PathBuf;

use clap::Args;

use super::show;
use crate::config::Config;
use crate::container::{State, bundle};
use crate::error::{Because, Cause, Error, Result};
use crate::intake::{self, Bundle};
use crate::mountpoint::Missing;
use crate::plan::{self, Attachment, How, Origin, Plan, Sandbox};
use crate::request::Propagation;
use crate::volume::{self, Disks};
use crate::{record, sys};

/// Arguments.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The bundle: a directory with a config.json
    bundle: PathBuf,
    /// The container's id; podman and CRI-O have it in the bundle's path
    #[arg(long, default_value = "plan")]
    id: String,
    /// Annotation to ask with, instead of those in config.json: KEY=VALUE
    #[arg(long = "annotation", value_name = "KEY=VALUE")]
    annotations: Vec<String>,
    /// Read id and annotations from this OCI state instead
    #[arg(long, conflicts_with_all = ["id", "annotations"])]
    state: Option<PathBuf>,
}

/// Runs the verb.
///
/// # Errors
/// Those that prestart would have, up to the point where it looks at the container.
pub fn run(arguments: &Arguments, config: &Config, json: bool) -> Result<()> {
    let path = std::path::absolute(&arguments.bundle).because(Cause::Bundle, || "the bundle".to_owned())?;
    let proc_fds = sys::open_proc_fds().because(Cause::Bundle, || "/proc is not mounted".to_owned())?;
    let bundle = Bundle::open(&path.to_string_lossy(), &proc_fds)?;
    let (id, annotations) = match &arguments.state {
        Some(file) => {
            let text = std::fs::read(file).because(Cause::StateUnreadable, || file.display().to_string())?;
            let state = State::parse(&text)?;
            (state.id, state.annotations)
        }
        None => (arguments.id.clone(), annotations(arguments, &bundle)?),
    };
    let plan =
        intake::plan(&id, &annotations, &bundle.path, &bundle.config, config).map_err(|error| error.container(&id))?;
    match (plan, json) {
        (plan, true) => show::json(&plan),
        (None, false) => show::lines(&["nothing: the container asks for nothing"]),
        (Some(plan), false) => show::lines(&describe(&plan, config, &id, &path.to_string_lossy())?),
    }
}

fn annotations(arguments: &Arguments, bundle: &Bundle) -> Result<HashMap<String, String>> {
    let mut all = bundle::annotations(&bundle.fd)?;
    for pair in &arguments.annotations {
        let (key, value) = pair
            .split_once('=')
            .ok_or_else(|| Error::new(Cause::Usage, format!("--annotation {pair:?} is not KEY=VALUE")))?;
        all.insert(key.to_owned(), value.to_owned());
    }
    Ok(all)
}

fn describe(plan: &Plan, config: &Config, id: &str, bundle: &str) -> Result<Vec<String>> {
    let disks = Disks::new(config);
    let mut lines = vec![
        format!("container {id} of {} ({}), as user {}:{}", plan.manager, plan.identity, plan.uid, plan.gid),
        format!("isolator  {}", plan.isolator),
    ];
    match &plan.sandbox {
        Sandbox::None => {}
        Sandbox::WorkingDirectory(path) => lines.push(format!("sandbox   {path} (the working directory)")),
        Sandbox::Own => {
            let name = record::name(id, bundle);
            let path = config.work_dir.join("sandboxes").join(plan.manager.name()).join(name);
            let kept = match plan.sandbox_retention {
                0 => "removed when the container stops".to_owned(),
                seconds => format!("kept {} h after it stops", seconds / 3600),
            };
            lines.push(format!("sandbox   {} ({kept})", path.display()));
        }
    }
    if plan.enslave_root {
        lines.push("mounts that the runtime left shared become slave".to_owned());
    }
    for (index, attachment) in plan.attachments.iter().enumerate() {
        lines.push(format!("{}. {}", index + 1, describe_one(attachment)));
        lines.push(format!("   from {}", source(&attachment.from, config, &disks)?));
        lines.extend(attachment.why.iter().map(|why| format!("   {why}")));
        if let Missing::Refuse { inside, command } = &attachment.missing {
            lines.push(format!("   the mount point must exist, since it lies in {inside}; if it does not: {command}"));
        }
    }
    Ok(lines)
}

fn describe_one(attachment: &Attachment) -> String {
    match attachment.how {
        How::Link => format!("link {} at {}", attachment.label, attachment.target),
        How::Mount { attributes, propagation, named } => {
            let mut options = vec![if attributes.read_only { "ro" } else { "rw" }];
            options.extend(attributes.nosuid.then_some("nosuid"));
            options.extend(attributes.nodev.then_some("nodev"));
            options.extend(attributes.noexec.then_some("noexec"));
            options.push(match (propagation, named) {
                (Propagation::Slave, true) => "slave (or it does not run)",
                (Propagation::Slave, false) => "slave",
                (Propagation::Private, _) => "private",
                (Propagation::Bidirectional, _) => "bidirectional: the container's mounts appear on the host",
            });
            format!("mount {} at {} ({})", attachment.label, attachment.target, options.join(", "))
        }
    }
}

fn source(from: &Origin, config: &Config, disks: &Disks<'_>) -> Result<String> {
    Ok(match from {
        Origin::Sandbox => "the sandbox".to_owned(),
        Origin::InSandbox { path } | Origin::Private { path } => format!("{path} in the sandbox"),
        Origin::InParent { path } => format!("{path} in the sandbox of the pod"),
        Origin::Secret { name, path } => format!("secret {name}: the value in {}", path.display()),
        Origin::HostPath { allowed, below, create } => {
            let path = below.as_ref().map_or_else(|| allowed.clone(), |below| format!("{allowed}/{below}"));
            format!("{path}{}", if *create { ", which is made if it is missing" } else { "" })
        }
        Origin::Volume { role, id, disk, subpath, shared, .. } => {
            let found = volume::find(disks, disk, role, id)?;
            let exists = found.is_some();
            let path = found.map_or_else(|| plan::volume_path(config, disk, role, id), |found| found.path());
            let inside = subpath.as_ref().map_or_else(String::new, |subpath| format!(", in it {subpath}"));
            let shared = if *shared { ", shared" } else { "" };
            let there = match (exists, config.create_missing_volumes) {
                (true, _) => "",
                (false, true) => ", which will be made",
                (false, false) => ", WHICH DOES NOT EXIST: the container will be refused",
            };
            format!("volume {id} of role {role}{shared}: {}{inside}{there}", path.display())
        }
    })
}
