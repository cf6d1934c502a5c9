//! What does not depend on the machine: how many system calls each hook makes after main.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod common;
#[path = "common/init.rs"]
mod init;

use std::fs;
use std::io::Write;
use std::process::Command;

use common::*;
use init::Init;

/// Each hook with one volume, and what each further volume adds. Whoever raises one says why; lower ones are written down.
const COUNTS: [(&str, &str, usize, usize); 3] =
    [("prestart", PRESTART, 0, 0), ("poststart", POSTSTART, 0, 0), ("poststop", POSTSTOP, 0, 0)];

/// The last call of std before main, in a static program.
const LAST_BEFORE_MAIN: &str = "rt_sigaction(SIGBUS, {";

/// System calls after main, with the state in a pipe whose writer is gone.
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
    let (_, after) = text.rsplit_once(LAST_BEFORE_MAIN).unwrap();
    after.lines().skip(1).filter(|line| !line.starts_with(['+', '-'])).count()
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
    let mut init = Init::waiting(&container.rootfs());
    let state = container.state(init.pid).to_string();
    let prestart = calls(&lab, PRESTART, &state);
    init.go();
    let poststart = calls(&lab, POSTSTART, &state);
    init.end();
    let poststop = calls(&lab, POSTSTOP, &state);
    lab.assert_clean();
    vec![prestart, poststart, poststop]
}

#[test]
fn hooks_make_no_more_system_calls_than_are_written_down() {
    on(Host::Shared, || {
        let (one, five) = (hooks_with(1), hooks_with(5));
        for (index, (hook, _, first, further)) in COUNTS.into_iter().enumerate() {
            let is = (one[index], (five[index] - one[index]).div_ceil(4));
            println!("{hook}: {} calls, {} for each further volume", is.0, is.1);
            assert_eq!(is, (first, further), "{hook}: system calls with one volume, and for each further one");
        }
    });
}
