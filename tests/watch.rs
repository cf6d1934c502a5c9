//! What `watch` tells of real containers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use common::*;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// A `watch` that runs, and what it has said.
struct Watch {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Watch {
    fn new(lab: &Lab, options: &[&str]) -> Watch {
        let mut command = Command::new(CLI);
        command.arg("--config").arg(lab.config()).arg("watch").args(options);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let lines = Arc::new(Mutex::new(Vec::new()));
        let (out, said) = (child.stdout.take().unwrap(), Arc::clone(&lines));
        std::thread::spawn(move || {
            BufReader::new(out).lines().for_each(|line| said.lock().unwrap().push(line.unwrap()));
        });
        let watch = Watch { child, lines };
        // It sleeps in poll when it has looked at everything.
        let call = format!("/proc/{}/wchan", watch.child.id());
        let status = format!("/proc/{}/syscall", watch.child.id());
        wait_for("watch to wait", || {
            let is = |path: &str, word: &str| fs::read_to_string(path).is_ok_and(|text| text.starts_with(word));
            is(&call, "do_sys_poll") || is(&call, "poll_schedule") || is(&status, "7 ") || is(&status, "271 ")
        });
        watch
    }

    fn said(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }

    /// Events as `EVENT CONTAINER LABEL-or-CODE`, once there are so many.
    #[track_caller]
    fn events(&self, count: usize) -> Vec<String> {
        wait_for(&format!("{count} events, and there are {:?}", self.said()), || self.said().len() >= count);
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        self.said()
            .iter()
            .map(|line| {
                let event: Value = serde_json::from_str(line).unwrap();
                assert!(text(&event["time"]).ends_with('Z'), "{line}");
                let last = event.get("label").or(event.get("code")).unwrap();
                format!("{} {} {}", text(&event["event"]), text(&event["container"]), text(last))
            })
            .collect()
    }

    /// Ends it by a signal, which is no failure.
    #[track_caller]
    fn end(mut self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).unwrap();
        assert_eq!(self.child.wait().unwrap().code(), Some(0));
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn events_of_a_container_from_its_start_to_its_end() {
    for runtime in RUNTIMES {
        on(Host::Shared, move || {
            let lab = Lab::new("filesystem/linux");
            ["db", "logs"].iter().for_each(|id| drop(lab.volume(id)));
            // Nothing is there yet of what is looked at.
            assert!(!lab.runtime_dir().exists());
            let watch = Watch::new(&lab, &["--json"]);
            let mut web = lab.container(runtime, "web");
            web.ask("db:/srv/db").start("sleep 1000");
            let mut expected = vec!["attached web db:/srv/db"];
            assert_eq!(watch.events(1), expected);
            lab.live(&web, "attach", &["logs:/var/log:ro"]).ok();
            lab.live(&web, "detach", &["/srv/db"]).ok();
            expected.extend(["attached web logs:/var/log", "detached web db:/srv/db"]);
            assert_eq!(watch.events(3), expected);
            // The first log makes its directory.
            let mut other = lab.container(Runtime::Crun, "other");
            other.ask("logs:/var/log").create().failed();
            expected.push("refused other 71");
            assert_eq!(watch.events(4), expected);
            web.delete();
            expected.push("released web logs:/var/log");
            assert_eq!(watch.events(5), expected);
            other.ask("nope:/x").create().failed();
            expected.push("refused other 41");
            assert_eq!(watch.events(6), expected);
            // All of it went, and comes again.
            fs::remove_dir_all(lab.runtime_dir()).unwrap();
            web.ask("db:/srv/db").start("sleep 1000");
            expected.push("attached web db:/srv/db");
            assert_eq!(watch.events(7), expected);
            let volume: Value = serde_json::from_str(&watch.said()[1]).unwrap();
            assert_eq!(
                (&volume["mode"], &volume["role"], &volume["id"]),
                (&"ro".into(), &"default".into(), &"logs".into())
            );
            watch.end(Signal::SIGTERM);
            web.delete();
            lab.assert_clean();
        });
    }
}

#[test]
fn who_is_gone_and_was_reconciled_is_told_apart() {
    on(Host::Shared, || {
        let lab = Lab::new("filesystem/linux");
        lab.volume("db");
        let mut web = lab.container(Runtime::Runc, "web");
        web.ask("db:/srv/db").start("sleep 1000");
        // Without --present nothing is told of what is there.
        let (watch, present) = (Watch::new(&lab, &["--json"]), Watch::new(&lab, &["--present"]));
        wait_for("what is there", || present.said().len() == 1);
        assert!(present.said()[0].ends_with("Z  present     web  db:/srv/db at /srv/db (rw)"), "{:?}", present.said());
        let pid = web.pid();
        kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
        wait_for("the init to end", || !is_alive(pid));
        lab.cli(&["reconcile"]).ok();
        assert_eq!(watch.events(1), ["reconciled web db:/srv/db"]);
        watch.end(Signal::SIGINT);
        web.delete();
    });
}

// A log that is too long begins anew, and one that is removed comes again.
#[test]
fn logs_that_begin_anew_are_read_on() {
    on(Host::Private, || {
        let lab = Lab::new("filesystem/linux");
        let mut container = lab.bundle(Runtime::Runc, "c");
        container.ask("a//b:/x").write();
        let state = container.state(1).to_string();
        let refuse = || assert_eq!(hook(PRESTART, &lab.config(), state.as_bytes()).code, 35);
        refuse();
        let watch = Watch::new(&lab, &["--json"]);
        refuse();
        assert_eq!(watch.events(1), ["refused c 35"]);
        let log = lab.runtime_dir().join("log").join(&names(&lab.runtime_dir().join("log"))[0]);
        let mut long = fs::read_to_string(&log).unwrap();
        long.push_str(&"x".repeat(70 << 10));
        long.push('\n');
        fs::write(&log, long).unwrap();
        let told = watch.events(1).len();
        refuse();
        wait_for("the next", || watch.said().len() > told);
        assert!(fs::metadata(&log).unwrap().len() < 64 << 10);
        fs::remove_file(&log).unwrap();
        let told = watch.said().len();
        refuse();
        wait_for("the last", || watch.said().len() > told);
        assert!(watch.events(1).iter().all(|event| event == "refused c 35"));
    });
}

// Nobody reads any more: it ends without anything having happened.
#[test]
fn a_closed_pipe_ends_it() {
    on(Host::Private, || {
        let lab = Lab::new("filesystem/linux");
        let mut command = Command::new(CLI);
        command.arg("--config").arg(lab.config()).arg("watch");
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let mut status = None;
        wait_for("watch to end", || {
            status = child.try_wait().unwrap();
            status.is_some()
        });
        assert_eq!(status.unwrap().code(), Some(0));
    });
}
