//! What a hook weighs: static-pie, and little memory.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod common;

use std::fs;

use common::*;
use serde_json::json;

#[test]
fn hooks_are_static_pie() {
    for hook in [PRESTART, POSTSTART, POSTSTOP] {
        let elf = fs::read(hook).unwrap();
        // elf(5): e_type at 16, 3 is ET_DYN; program headers of type 3 are PT_INTERP.
        assert_eq!(elf[16], 3, "{hook} is position-independent");
        let headers = run("readelf", &["-lW", hook]).ok().out;
        assert!(!headers.contains("INTERP") && !headers.contains("NEEDED"), "{headers}");
    }
}

// At most 3 MiB with one volume and a state of 64 KiB.
#[test]
fn a_hook_needs_at_most_3_mib() {
    on(Host::Shared, || {
        let lab = Lab::new("filesystem/linux");
        lab.volume("db");
        let mut container = lab.container(Runtime::Runc, "c");
        container.ask("db:data").annotate("some.other/annotation", &"x".repeat(64 << 10));
        let report = |stage: &str| lab.dir.join(format!("{stage}.time"));
        for (stage, program) in [("prestart", PRESTART), ("poststart", POSTSTART), ("poststop", POSTSTOP)] {
            // A small parent, since what a process was before exec counts as its own.
            container.spec["hooks"][stage][0]["path"] = json!("/bin/busybox");
            container.spec["hooks"][stage][0]["args"] =
                json!(["busybox", "time", "-v", "-o", report(stage), program, "--config", lab.config()]);
        }
        container.run_shell("test -d /mnt/mesos/sandbox/data").ok();
        for stage in ["prestart", "poststart", "poststop"] {
            let text = fs::read_to_string(report(stage)).unwrap();
            let field = |name: &str| {
                text.lines().find_map(|line| line.trim().strip_prefix(name)).unwrap().parse::<u32>().unwrap()
            };
            assert_eq!(field("Exit status: "), 0, "{stage}: {text}");
            // busybox takes kilobytes for pages (of 4 KiB) and multiplies once more.
            let peak = field("Maximum resident set size (kbytes): ") / 4;
            println!("{stage}: {peak} KiB");
            assert!((200..=3 << 10).contains(&peak), "{stage}: {peak} KiB");
        }
        lab.assert_clean();
    });
}
