//! What does not depend on the machine: how many system calls each hook makes after main.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod common;
#[allow(dead_code)]
#[path = "common/init.rs"]
mod init;

use std::fs;
use std::io::Write;
use std::process::Command;

use common::*;
use init::Init;

/// Each hook with one volume, and what each further volume adds, where the configuration lies four directories deep: each costs
/// two. poststart gives slave back, as with crun. Whoever raises one says why; lower ones are written down.
const COUNTS: [(&str, (usize, usize)); 3] = [("prestart", (92, 25)), ("poststart", (80, 23)), ("poststop", (67, 15))];

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
