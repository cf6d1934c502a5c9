//! What does not depend on the machine: how many system calls each hook makes after main.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod common;
#[allow(dead_code)]
#[path = "common/init.rs"]
mod init;

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use common::*;
use init::Init;
use nix::mount::MsFlags;
use serde_json::json;

/// Each hook with one volume, and what each further volume adds, where the configuration lies four directories deep: each costs
/// two. poststart gives slave back, as with crun, and goes aside for that once. Whoever raises one says why; lower ones are
/// written down.
const COUNTS: [(&str, (usize, usize)); 3] = [("prestart", (92, 25)), ("poststart", (86, 25)), ("poststop", (67, 15))];

/// System calls after main, without the one that ends it, with the state in a pipe whose writer is gone.
fn calls(lab: &Lab, program: &str, state: &str) -> usize {
    let trace = lab.dir.join("trace");
    let (reader, mut writer) = std::io::pipe().unwrap();
    writer.write_all(state.as_bytes()).unwrap();
    drop(writer);
    let mut command = Command::new("strace");
    command.arg("-o").arg(&trace).args([program, "--config"]).arg(lab.config()).stdin(reader);
    let out = command.output().unwrap();
    assert!(out.status.success(), "{out:?}");
    let text = fs::read_to_string(&trace).unwrap();
    let is_call = |line: &&str| !line.starts_with(['+', '-']) && !line.starts_with("exit_group(");
    let calls: Vec<&str> = text.lines().filter(is_call).collect();
    calls.len() - main_begins(&calls)
}

/// Calls of the three hooks of a container with so many volumes.
fn hooks_with(volumes: usize) -> Vec<usize> {
    let lab = Lab::new("filesystem/linux");
    let mut container = lab.container(Runtime::Crun, "c");
    let mut wanted = Vec::new();
    for number in 0..volumes {
        lab.volume(&format!("v{number}"));
        fs::create_dir(container.rootfs().join(format!("m{number}"))).unwrap();
        wanted.push(format!("v{number}:/m{number}"));
    }
    container.ask(&wanted.join(";"));
    container.write();
    let mut counted = Vec::new();
    // Twice, because the first start makes the directories of records and leases.
    for _ in 0..2 {
        let mut init = Init::waiting(&container.rootfs());
        let state = container.state(init.pid).to_string();
        let prestart = calls(&lab, PRESTART, &state);
        init.go();
        let poststart = calls(&lab, POSTSTART, &state);
        init.end();
        counted = vec![prestart, poststart, calls(&lab, POSTSTOP, &state)];
    }
    lab.assert_clean();
    counted
}

#[test]
fn hooks_make_no_more_system_calls_than_are_written_down() {
    on(Host::Shared, || {
        let (one, five) = (hooks_with(1), hooks_with(5));
        let is = |index: usize| (one[index], (five[index] - one[index]).div_ceil(4));
        let counts = COUNTS.map(|(hook, ..)| hook).into_iter().enumerate().map(|(index, hook)| (hook, is(index)));
        let counts: Vec<(&str, (usize, usize))> = counts.collect();
        assert_eq!(counts, COUNTS, "system calls of each hook with one volume, and for each further one");
    });
}

/// Further mounts of the host, which have nothing to do with any container.
fn mount_many() {
    let many = Path::new("/mnt");
    tmpfs(many, MsFlags::empty());
    // Otherwise each would appear in all others.
    make_private(many);
    (0..300).for_each(|number| bind(many, &many.join(number.to_string())));
}

/// Calls of poststart in a container whose volume is shared with the host already.
fn poststart_of_what_is_shared() -> usize {
    let lab = Lab::new("filesystem/linux");
    let host = lab.dir.join("host");
    fs::create_dir(&host).unwrap();
    let allowed = json!([{ "path": host, "roles": ["default"], "mode": "RW", "bidirectional": true }]);
    lab.configure(json!({ "isolation": "filesystem/linux", "host_paths": allowed }));
    let mut container = lab.container(Runtime::Crun, "c");
    container.spec["process"]["capabilities"] = json!({ "bounding": ["CAP_SYS_ADMIN"] });
    container.ask(&format!("host={}:/h:bidirectional", host.display())).write();
    let mut init = Init::waiting(&container.rootfs());
    let state = container.state(init.pid).to_string();
    calls(&lab, PRESTART, &state);
    init.go();
    let mended = calls(&lab, POSTSTART, &state);
    let shared = calls(&lab, POSTSTART, &state);
    assert!(shared < mended, "{shared} {mended}");
    init.end();
    calls(&lab, POSTSTOP, &state);
    shared
}

// The kernel gives a mount table in parts, so that one that is read shows.
#[test]
fn hooks_make_no_more_system_calls_on_a_host_with_many_mounts() {
    on(Host::Shared, || {
        let few = (hooks_with(2), poststart_of_what_is_shared());
        mount_many();
        assert_eq!((hooks_with(2), poststart_of_what_is_shared()), few);
    });
}
