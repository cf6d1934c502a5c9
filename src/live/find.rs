//! Finding a running container: in the state that runc and crun keep below their `--root`, whoever started it.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::container::state::check_id;
use crate::error::{Because, Cause, Error, Result};
use crate::me::me;
use crate::{nearest, read, sys};

/// Largest state of a runtime that is read, in bytes: runc's has the whole configuration in it.
const LARGEST: u64 = 4 << 20;

/// A container that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    /// Its id.
    pub id: String,
    /// Its bundle.
    pub bundle: String,
    /// Its init.
    pub pid: i32,
    /// When that started, in clock ticks since boot: the pid may be another's by now.
    pub start: u64,
}

/// Which container is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which<'a> {
    /// By its id, or the beginning of it.
    Id(&'a str),
    /// By its init.
    Pid(i32),
}

/// Where runc and crun keep their state unless they are told otherwise, also under podman and CRI-O.
#[must_use]
pub fn default_roots() -> Vec<PathBuf> {
    let base =
        me().user.as_ref().map_or_else(|| PathBuf::from("/run"), |user| format!("/run/user/{}", user.uid).into());
    ["runc", "crun"].map(|runtime| base.join(runtime)).to_vec()
}

/// Finds a running container.
///
/// # Errors
/// [`Cause::ContainerUnknown`] where there is none, or several begin so.
pub fn find(which: &Which<'_>, roots: &[PathBuf]) -> Result<Running> {
    let mut found: Vec<Running> = Vec::new();
    let mut others: Vec<String> = Vec::new();
    let mut is_whole = false;
    for root in roots {
        let Ok(entries) = std::fs::read_dir(root) else { continue };
        for entry in entries.flatten() {
            let Some(id) = entry.file_name().to_str().map(str::to_owned) else { continue };
            if matches!(which, Which::Id(wanted) if !id.starts_with(wanted)) || check_id(&id).is_err() {
                others.push(id);
                continue;
            }
            is_whole |= matches!(which, Which::Id(wanted) if id == *wanted);
            found.extend(read(&entry.path(), id).filter(|one| lives(one.pid)));
        }
    }
    match which {
        Which::Pid(pid) => found.retain(|one| one.pid == *pid),
        // The whole id beats what begins with it, also where that container does not run.
        Which::Id(id) if is_whole => found.retain(|one| one.id == *id),
        Which::Id(_) => {}
    }
    let named = match which {
        Which::Id(id) => format!("{id:?}"),
        Which::Pid(pid) => format!("process {pid}"),
    };
    match found.len() {
        1 => found.pop().ok_or_else(|| Error::new(Cause::ContainerUnknown, named)),
        0 if is_whole => Err(Error::new(Cause::ContainerUnknown, format!("container {named} does not run"))),
        0 => {
            let list: Vec<String> = roots.iter().map(|root| root.display().to_string()).collect();
            let error =
                Error::new(Cause::ContainerUnknown, format!("no running container {named} in {}", list.join(", ")));
            let near = match which {
                Which::Id(id) => nearest::question(id, others.iter().map(String::as_str)),
                Which::Pid(_) => String::new(),
            };
            let how = format!("{near}{}", error.how());
            Err(error.remedy(how))
        }
        _ => {
            let list: Vec<&str> = found.iter().map(|one| one.id.as_str()).collect();
            Err(Error::new(Cause::ContainerUnknown, format!("{named} could be {}", list.join(" or ")))
                .remedy("write more of the id, or name its runtime's state directory with --runtime-root"))
        }
    }
}

fn read(directory: &Path, id: String) -> Option<Running> {
    let file = |name: &str| {
        let file = std::fs::File::open(directory.join(name)).because(Cause::ContainerUnknown, String::new).ok()?;
        serde_json::from_slice::<Value>(&read::at_most(file, LARGEST).ok()?).ok()
    };
    file("status").as_ref().and_then(|status| of_crun(status, &id)).or_else(|| of_runc(&file("state.json")?, &id))
}

fn of_crun(status: &Value, id: &str) -> Option<Running> {
    let pid = i32::try_from(status.get("pid")?.as_i64()?).ok()?;
    let start = status.get("process-start-time")?.as_u64()?;
    Some(Running { id: id.to_owned(), bundle: status.get("bundle")?.as_str()?.to_owned(), pid, start })
}

/// runc has the bundle among the labels of its own configuration.
fn of_runc(state: &Value, id: &str) -> Option<Running> {
    let pid = i32::try_from(state.get("init_process_pid")?.as_i64()?).ok()?;
    let labels = state.pointer("/config/labels")?.as_array()?;
    let bundle = labels.iter().filter_map(Value::as_str).find_map(|label| label.strip_prefix("bundle="))?;
    let start = state.get("init_process_start")?.as_u64()?;
    Some(Running { id: id.to_owned(), bundle: bundle.to_owned(), pid, start })
}

fn lives(pid: i32) -> bool {
    pid > 0 && sys::pidfd_open(pid).is_ok_and(|pidfd| !sys::has_ended(pidfd).unwrap_or(true))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_of_both_runtimes() {
        let crun = serde_json::json!({ "pid": 7, "process-start-time": 9, "bundle": "/b/c", "cgroup-path": "/x", "rootfs": "rootfs" });
        let runc = serde_json::json!({ "id": "c", "init_process_pid": 7, "init_process_start": 9, "config": { "labels": ["a=b", "bundle=/b/c"] } });
        let expected = Some(Running { id: "c".into(), bundle: "/b/c".into(), pid: 7, start: 9 });
        assert_eq!(of_crun(&crun, "c"), expected);
        assert_eq!(of_runc(&runc, "c"), expected);
        assert_eq!((of_crun(&runc, "c"), of_runc(&crun, "c")), (None, None));
    }
}
