//! Hooks and commands that are killed at every system call, and those of which every system call fails: nothing is left
//! behind by the next natural event, no volume changes, and the next start works.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod common;
#[path = "common/init.rs"]
mod init;
#[path = "common/sweep.rs"]
mod sweep;

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::*;
use init::Init;
use nix::sys::statvfs::{FsFlags, statvfs};
use serde_json::{Value, json};
use sweep::{Hit, Scene, Watch, sweep};

/// What a container must have.
struct Wanted {
    at: PathBuf,
    volume: PathBuf,
    read_only: bool,
}

/// A volume with something in it.
fn fill(volume: &Path) {
    fs::create_dir_all(volume.join("a/b")).unwrap();
    for name in ["f", "a/f", "a/b/f"] {
        fs::write(volume.join(name), name).unwrap();
    }
}

fn filled(lab: &Lab, id: &str) -> PathBuf {
    let volume = lab.volume(id);
    fill(&volume);
    volume
}

fn config(isolation: &str) -> Value {
    json!({ "isolation": isolation, "sandbox_retention": "0" })
}

#[track_caller]
fn assert_has(init: &Init, wanted: &[Wanted], when: &str) {
    let found = has(init, wanted);
    assert!(found.is_ok(), "{when}: {found:?}");
}

fn has(init: &Init, wanted: &[Wanted]) -> Result<(), String> {
    for Wanted { at, volume, read_only } in wanted {
        let at_fault = |what: &dyn std::fmt::Debug| format!("{}: {what:?}", at.display());
        // A link of filesystem/posix lies on the host.
        if let Ok(target) = fs::read_link(at) {
            if &target != volume {
                return Err(at_fault(&target));
            }
            continue;
        }
        let inside = init.path(at);
        let id =
            |path: &Path| fs::metadata(path).map(|stat| (stat.dev(), stat.ino())).map_err(|error| at_fault(&error));
        let (is, is_to_be) = (id(&inside)?, id(volume)?);
        let flags = statvfs(&inside).map_err(|error| at_fault(&error))?.flags();
        if is != is_to_be || flags.contains(FsFlags::ST_RDONLY) != *read_only {
            return Err(at_fault(&(is, is_to_be, flags)));
        }
    }
    Ok(())
}

/// A container on the host's filesystem, labs included.
fn host_container(lab: &Lab) -> Container {
    let container = lab.host_container(Runtime::Crun, "c");
    let labs = lab.dir.parent().unwrap();
    make_private(&container.rootfs());
    bind(labs, &container.rootfs().join(labs.strip_prefix("/").unwrap()));
    container
}

/// Nothing is there yet of what hooks make for themselves. All of it was found to be empty before.
fn as_after_a_boot(lab: &Lab) {
    for directory in [lab.runtime_dir(), lab.work().join("sandboxes/local"), PathBuf::from("/run/fs-isolator/leases")] {
        let _ = fs::remove_dir_all(directory);
    }
    let _ = fs::remove_dir(lab.work().join("sandboxes"));
}

/// One hook of a container.
struct Hooks {
    lab: Lab,
    /// The one that is hit.
    program: &'static str,
    container: Container,
    /// What it asks for when its hook is hit, and what at other starts.
    asked: String,
    asks: String,
    wanted: Vec<Wanted>,
    volumes: Vec<PathBuf>,
    /// One that is made for the container.
    made: Option<PathBuf>,
    watch: Watch,
    init: Option<Init>,
    mounts: Vec<String>,
    descriptors: Vec<String>,
}

impl Hooks {
    fn new(program: &'static str, isolation: &str) -> Hooks {
        labs_in_memory();
        let mut setup = config(&format!("filesystem/{isolation}"));
        setup["create_missing_volumes"] = json!(true);
        let lab = Lab::with(setup);
        let volumes: Vec<PathBuf> = ["db", "db2", "neighbour"].iter().map(|id| filled(&lab, id)).collect();
        let want = |at: &Path, volume: usize, read_only| Wanted {
            at: at.to_owned(),
            volume: volumes[volume].clone(),
            read_only,
        };
        let mut kept = volumes.clone();
        let (mut container, asks, wanted) = match isolation {
            "linux" => {
                let container = lab.container(Runtime::Crun, "c");
                fs::create_dir_all(container.rootfs().join("1/2/3/4/5")).unwrap();
                fs::write(container.rootfs().join("1/2/3/4/5/6"), "").unwrap();
                kept.push(container.rootfs());
                let at = [Path::new("/mnt/mesos/sandbox/data"), Path::new("/a/b")];
                (container, "db:data;db2:/a/b:ro".to_owned(), vec![want(at[0], 0, false), want(at[1], 1, true)])
            }
            "posix" => {
                let made = lab.cli(&["sandbox", "create", "--owner", "1000:1000", "s"]).ok();
                let sandbox = PathBuf::from(made.out.trim_end());
                let mut container = host_container(&lab);
                container.cwd(&sandbox);
                let wanted = vec![want(&sandbox.join("data"), 0, false), want(&sandbox.join("x/y"), 1, false)];
                kept.push(sandbox);
                (container, "db:data;db2:x/y".to_owned(), wanted)
            }
            _ => {
                let at = ["one", "two", "own"].map(|name| lab.dir.join("host").join(name));
                at.iter().for_each(|directory| fs::create_dir_all(directory).unwrap());
                kept.push(lab.dir.join("host"));
                let asks = format!("db:{};db2:{}:ro;sandbox=own:{}", at[0].display(), at[1].display(), at[2].display());
                let wanted = vec![want(&at[0], 0, false), want(&at[1], 1, true)];
                (host_container(&lab), asks, wanted)
            }
        };
        container.user(1000, 1000);
        let kept: Vec<&Path> = kept.iter().map(PathBuf::as_path).collect();
        let watch = Watch::new(&lab, &kept);
        let (mounts, descriptors) = (Vec::new(), Vec::new());
        Hooks {
            lab,
            program,
            container,
            asked: asks.clone(),
            asks,
            wanted,
            volumes,
            made: None,
            watch,
            init: None,
            mounts,
            descriptors,
        }
    }

    fn ask(&mut self, what: &str) {
        self.container.ask(what);
        self.container.write();
    }

    fn hook(&self, program: &str, pid: i32) -> Ran {
        hook(program, &self.lab.config(), self.container.state(pid).to_string().as_bytes())
    }

    fn init(&self) -> Init {
        Init::waiting(&self.container.rootfs())
    }

    /// Mesos's rule gives the roots of volumes to the container's user, and nothing else.
    fn take_back(&self) {
        self.volumes.iter().for_each(|volume| chown(volume, Some(0), Some(0)).unwrap());
    }

    #[track_caller]
    fn assert_clean(&self, when: &str) {
        self.take_back();
        self.watch.assert_clean(&self.lab, when);
    }

    /// The next start, and its end.
    fn start_again(&mut self, when: &str) {
        let asks = self.asks.clone();
        self.ask(&asks);
        let mut init = self.init();
        let when = format!("{when}, the next start");
        let prestart = self.hook(PRESTART, init.pid);
        assert_eq!(prestart.code, 0, "{when}: {prestart:?}");
        init.go();
        let poststart = self.hook(POSTSTART, init.pid);
        assert_eq!(poststart.code, 0, "{when}: {poststart:?}");
        assert_has(&init, &self.wanted, &when);
        init.end();
        let poststop = self.hook(POSTSTOP, 0);
        assert_eq!(poststop.code, 0, "{when}: {poststop:?}");
        self.assert_clean(&when);
    }

    /// What the runtime and the host do when a container has ended.
    fn end(&mut self, hit: &Hit) {
        let when = hit.to_string();
        if let Some(init) = self.init.take() {
            init.end();
        }
        match hit.turn % 3 {
            0 => {
                let poststop = self.hook(POSTSTOP, 0);
                assert_eq!(poststop.code, 0, "{when}, then poststop: {poststop:?}");
                self.assert_clean(&format!("{when}, then poststop"));
            }
            1 => {
                let reconcile = self.lab.cli(&["reconcile"]);
                assert_eq!(reconcile.code, 0, "{when}, then reconcile: {reconcile:?}");
                self.assert_clean(&format!("{when}, then reconcile"));
            }
            _ => {}
        }
        if let Some(made) = &self.made
            && let Ok(stat) = fs::metadata(made)
        {
            assert_eq!(stat.mode() & 0o7777, 0o750, "{when}: half made");
            fs::remove_dir(made).unwrap();
        }
        // From what was found to be clean every start begins.
        if hit.turn % 3 == 2 {
            self.start_again(&when);
        }
        if let Some(made) = &self.made {
            assert_eq!(names(made.parent().unwrap()), ["db", "db2", "neighbour"], "{when}");
        }
    }
}

impl Scene for Hooks {
    fn prepare(&mut self) {
        as_after_a_boot(&self.lab);
        let asked = self.asked.clone();
        self.ask(&asked);
        let mut init = self.init();
        if self.program != PRESTART {
            self.hook(PRESTART, init.pid).ok();
            init.go();
        }
        (self.mounts, self.descriptors) = (init.mounts(), init.descriptors());
        if self.program == POSTSTOP {
            init.end();
        } else {
            self.init = Some(init);
        }
    }

    fn act(&mut self, strace: &[String]) -> Ran {
        let state = self.container.state(self.init.as_ref().map_or(0, |init| init.pid)).to_string();
        let mut command = Command::new(&strace[0]);
        command.args(&strace[1..]).arg(self.program).arg("--config").arg(self.lab.config());
        run_with(&mut command, state.as_bytes())
    }

    fn settle(&mut self, hit: &Hit) {
        let when = hit.to_string();
        hit.assert_told(&self.lab.log(&self.container.id));
        if let Some(init) = &self.init
            && init.lives()
        {
            // One that poststart told to end may still be at it, its descriptors gone before it.
            let descriptors = init.descriptors();
            let same = descriptors == self.descriptors;
            assert!(same || init.ends(), "{when}: the container has other descriptors: {descriptors:?}");
            if self.program == PRESTART && !hit.succeeded() {
                // Who cannot come back to the host's namespace, or write down that all is done, leaves it to the end of the
                // container, which does not start.
                let stays = hit.is_kill() || hit.is_at("setns") || hit.is_at("write");
                assert!(stays || init.mounts() == self.mounts, "{when}: {:#?}", init.mounts());
            } else if self.made.is_none() {
                // Also after a poststart that was killed: crun lets the container run.
                let found = has(init, &self.wanted);
                assert!(found.is_ok() || init.ends(), "{when}: {found:?}");
            }
        }
        if self.program == POSTSTOP && hit.succeeded() {
            self.assert_clean(&when);
        }
        self.end(hit);
    }
}

fn sweep_hook(name: &'static str, program: &'static str, isolation: &'static str) {
    on(Host::Shared, move || {
        let mut hooks = Hooks::new(program, isolation);
        let lab = hooks.lab.dir.clone();
        sweep(&format!("{name}, filesystem/{isolation}"), &lab, &mut hooks);
    });
}

// What the sweeps look with sees what they look for.
#[test]
fn planted_leaks_are_seen() {
    on(Host::Shared, || {
        let hooks = Hooks::new(PRESTART, "linux");
        let (lab, seen) = (&hooks.lab, |what: &str| {
            let leaks = hooks.watch.leaks(&hooks.lab);
            assert!(leaks.iter().any(|leak| leak.contains(what)), "{what}: {leaks:#?}");
        });
        hooks.assert_clean("at first");
        let run = lab.runtime_dir();
        let leases = Path::new("/run/fs-isolator/leases");
        let sandboxes = lab.work().join("sandboxes/local");
        for (directory, name, what) in [
            (&run.join("records"), "c.0123456789ab", "records/c.0123456789ab"),
            (&run.join("mountpoints"), "1-2-3", "mountpoints/1-2-3"),
            (&leases.to_owned(), "1-2", "leases/1-2"),
            (&run, ".fs-isolator.1", ".fs-isolator.1"),
            (&hooks.container.rootfs().join("tmp"), ".fs-isolator.2", ".fs-isolator.2"),
            (&hooks.container.rootfs(), "a", "changed: "),
            (&hooks.volumes[2], "g", "changed: "),
            (&sandboxes, "c.0123456789ab", "sandboxes/c.0123456789ab"),
        ] {
            fs::create_dir_all(directory).unwrap();
            fs::create_dir(directory.join(name)).unwrap();
            seen(what);
            fs::remove_dir(directory.join(name)).unwrap();
            hooks.assert_clean(what);
        }
        let changed = hooks.volumes[2].join("f");
        fs::write(&changed, "other").unwrap();
        seen("changed: ");
        fs::write(&changed, "f").unwrap();
        let mounted = hooks.container.rootfs().join("tmp");
        tmpfs(&mounted, nix::mount::MsFlags::empty());
        seen("mounted: ");
        nix::mount::umount(&mounted).unwrap();
        hooks.assert_clean("at last");
        let mut process =
            Command::new("sh").args(["-c", "read x", "left"]).arg(&lab.dir).stdin(Stdio::piped()).spawn().unwrap();
        // exec(3) is through a moment before its arguments can be seen.
        wait_for("the process to be seen", || sweep::processes_of(&lab.dir).len() == 1);
        process.kill().unwrap();
        process.wait().unwrap();
        assert!(sweep::processes_of(&lab.dir).is_empty());
    });
}

#[test]
fn prestart_of_linux() {
    sweep_hook("prestart", PRESTART, "linux");
}

#[test]
fn prestart_of_posix() {
    sweep_hook("prestart", PRESTART, "posix");
}

#[test]
fn prestart_of_shared() {
    sweep_hook("prestart", PRESTART, "shared");
}

#[test]
fn poststart_of_linux() {
    sweep_hook("poststart", POSTSTART, "linux");
}

#[test]
fn poststart_of_posix() {
    sweep_hook("poststart", POSTSTART, "posix");
}

#[test]
fn poststart_of_shared() {
    sweep_hook("poststart", POSTSTART, "shared");
}

#[test]
fn poststop_of_linux() {
    sweep_hook("poststop", POSTSTOP, "linux");
}

#[test]
fn poststop_of_posix() {
    sweep_hook("poststop", POSTSTOP, "posix");
}

#[test]
fn poststop_of_shared() {
    sweep_hook("poststop", POSTSTOP, "shared");
}

// The last mount point cannot be made, and everything before it is undone.
#[test]
fn prestart_that_is_refused() {
    on(Host::Shared, || {
        let mut hooks = Hooks::new(PRESTART, "linux");
        hooks.asked = "db:/a/b;db2:x/y;db:/1/2/3/4/5/6".to_owned();
        let lab = hooks.lab.dir.clone();
        sweep("prestart that is refused", &lab, &mut hooks);
    });
}

#[test]
fn prestart_that_makes_a_volume() {
    on(Host::Shared, || {
        let mut hooks = Hooks::new(PRESTART, "linux");
        hooks.asked = "new:/d".to_owned();
        hooks.made = Some(hooks.lab.volume_path("default", "new"));
        let lab = hooks.lab.dir.clone();
        sweep("prestart that makes a volume", &lab, &mut hooks);
    });
}

// Commands on running containers.

/// `attach`, `detach` or `update` on a container that runs.
struct Live {
    lab: Lab,
    verb: &'static str,
    container: Container,
    /// What the container has before, what the command says, and what it has then.
    before: Vec<&'static str>,
    words: Vec<&'static str>,
    after: Vec<(&'static str, &'static str)>,
    watch: Watch,
    init: Option<Init>,
    mounts: Vec<String>,
}

impl Live {
    fn new(
        verb: &'static str,
        before: &[&'static str],
        words: &[&'static str],
        after: &[(&'static str, &'static str)],
    ) -> Live {
        labs_in_memory();
        let lab = Lab::with(config("filesystem/linux"));
        let volumes: Vec<PathBuf> = ["db", "db2", "neighbour"].iter().map(|id| filled(&lab, id)).collect();
        let container = lab.container(Runtime::Crun, "c");
        container.write();
        let rootfs = container.rootfs();
        let mut kept: Vec<&Path> = volumes.iter().map(PathBuf::as_path).collect();
        kept.push(&rootfs);
        let watch = Watch::new(&lab, &kept);
        Live {
            lab,
            verb,
            container,
            before: before.to_vec(),
            words: words.to_vec(),
            after: after.to_vec(),
            watch,
            init: None,
            mounts: Vec::new(),
        }
    }

    fn wanted(&self) -> Vec<Wanted> {
        let one = |(id, at): &(&str, &str)| Wanted {
            at: PathBuf::from(at),
            volume: self.lab.volume_path("default", id),
            read_only: *id == "db2",
        };
        self.after.iter().map(one).collect()
    }

    /// A container that runs, as its runtime would know it.
    fn start(&self) -> Init {
        let mut init = Init::waiting(&self.container.rootfs());
        init.go();
        let stat = fs::read_to_string(format!("/proc/{}/stat", init.pid)).unwrap();
        let start: u64 = stat.rsplit_once(')').unwrap().1.split_whitespace().nth(19).unwrap().parse().unwrap();
        let status = json!({ "pid": init.pid, "process-start-time": start, "bundle": self.container.bundle });
        fs::create_dir_all(self.container.root.join("c")).unwrap();
        fs::write(self.container.root.join("c/status"), status.to_string()).unwrap();
        init
    }

    fn arguments<'a>(&'a self, verb: &'a str, words: &[&'a str]) -> Vec<&'a str> {
        [&[verb, "--runtime-root", self.container.root.to_str().unwrap(), "c"], words].concat()
    }

    fn run(&self, verb: &str, words: &[&str]) -> Ran {
        self.lab.cli(&self.arguments(verb, words))
    }

    /// Exactly what it is to have.
    #[track_caller]
    fn assert_done(&self, when: &str) {
        let init = self.init.as_ref().unwrap();
        assert_has(init, &self.wanted(), when);
        if self.verb != "attach" {
            assert!(!init.path(Path::new("/srv")).exists(), "{when}: /srv/db is still there");
        }
    }
}

impl Scene for Live {
    fn prepare(&mut self) {
        as_after_a_boot(&self.lab);
        let init = self.start();
        if !self.before.is_empty() {
            self.run("attach", &self.before).ok();
        }
        self.mounts = init.mounts();
        self.init = Some(init);
    }

    fn act(&mut self, strace: &[String]) -> Ran {
        let mut command = Command::new(&strace[0]);
        command.args(&strace[1..]).args([CLI, "--config"]).arg(self.lab.config());
        run_with(command.args(self.arguments(self.verb, &self.words)), b"")
    }

    fn settle(&mut self, hit: &Hit) {
        let when = hit.to_string();
        hit.assert_told("");
        // All is done by the time that it cannot be said.
        if hit.succeeded() || hit.ran.err.contains("standard output") {
            self.assert_done(&when);
        } else if self.verb == "attach" && !hit.is_kill() && !hit.is_at("setns") {
            // All of a command's volumes are attached, or none.
            let mounts = self.init.as_ref().unwrap().mounts();
            assert_eq!(mounts, self.mounts, "{when}");
        }
        // Whoever was not told that all is well tries again.
        if hit.turn.is_multiple_of(3) {
            let ran = self.run(self.verb, &self.words);
            // It was done already: nothing is there to be detached, or all that is asked for is.
            let was_done = [("detach", 79), ("attach", 38)].contains(&(self.verb, ran.code));
            assert!(ran.code == 0 || was_done, "{when}, then again: {ran:?}");
            self.assert_done(&format!("{when}, then again"));
            let ran = self.run("update", &[]);
            assert_eq!(ran.code, 0, "{when}, then without any: {ran:?}");
        }
        self.init.take().unwrap().end();
        let ran = match hit.turn % 2 {
            0 => hook(POSTSTOP, &self.lab.config(), self.container.state(0).to_string().as_bytes()),
            _ => self.lab.cli(&["reconcile"]),
        };
        assert_eq!(ran.code, 0, "{when}, then the end: {ran:?}");
        self.watch.assert_clean(&self.lab, &when);
    }
}

fn sweep_live(
    verb: &'static str,
    before: &'static [&'static str],
    words: &'static [&'static str],
    after: &'static [(&'static str, &'static str)],
) {
    on(Host::Shared, move || {
        let mut live = Live::new(verb, before, words, after);
        let lab = live.lab.dir.clone();
        sweep(verb, &lab, &mut live);
    });
}

#[test]
fn attach() {
    let after = &[("db", "/srv/db"), ("db2", "/mnt/mesos/sandbox/data")];
    sweep_live("attach", &[], &["db:/srv/db", "db2:data:ro"], after);
}

#[test]
fn detach() {
    sweep_live("detach", &["db:/srv/db", "db2:/x:ro"], &["--lazy", "/srv/db"], &[("db2", "/x")]);
}

#[test]
fn update() {
    sweep_live("update", &["db2:/x:ro"], &["db2:/x:ro", "db:/y"], &[("db2", "/x"), ("db", "/y")]);
}

// Commands on volumes and on what is left.

/// A command that has to be finished, whatever happens to it.
struct Maintenance {
    lab: Lab,
    words: &'static [&'static str],
    /// Brings about what it has work with, and tells afterwards whether it is done.
    make: fn(&Lab),
    check: fn(&Lab, &str, bool),
    watch: Watch,
}

impl Maintenance {
    fn new(words: &'static [&'static str], make: fn(&Lab), check: fn(&Lab, &str, bool)) -> Maintenance {
        labs_in_memory();
        let lab = Lab::with(config("filesystem/linux"));
        let neighbour = filled(&lab, "neighbour");
        let container = lab.container(Runtime::Crun, "c");
        let watch = Watch::new(&lab, &[&neighbour, &container.rootfs()]);
        Maintenance { lab, words, make, check, watch }
    }
}

impl Scene for Maintenance {
    fn prepare(&mut self) {
        let _ = fs::remove_dir_all("/run/fs-isolator/leases");
        (self.make)(&self.lab);
    }

    fn act(&mut self, strace: &[String]) -> Ran {
        let mut command = Command::new(&strace[0]);
        command.args(&strace[1..]).args([CLI, "--config"]).arg(self.lab.config());
        run_with(command.args(self.words), b"")
    }

    fn settle(&mut self, hit: &Hit) {
        let when = hit.to_string();
        hit.assert_told("");
        (self.check)(&self.lab, &when, hit.succeeded());
        let gc = self.lab.cli(&["gc"]);
        assert_eq!(gc.code, 0, "{when}, then gc: {gc:?}");
        (self.check)(&self.lab, &format!("{when}, then gc"), false);
        self.watch.assert_clean(&self.lab, &when);
    }
}

fn sweep_maintenance(words: &'static [&'static str], prepare: fn(&Lab), make: fn(&Lab), check: fn(&Lab, &str, bool)) {
    on(Host::Private, move || {
        let mut scene = Maintenance::new(words, make, check);
        prepare(&scene.lab);
        scene.watch = Watch::new(&scene.lab, &[&scene.lab.volume_path("default", "neighbour")]);
        let lab = scene.lab.dir.clone();
        sweep(&words.join(" "), &lab, &mut scene);
    });
}

/// The names and contents of a volume, which is whole, or is not there.
#[track_caller]
fn assert_whole_or_gone(lab: &Lab, volume: &Path, when: &str) {
    let there = lab.cli(&["volume", "inspect", "db"]).code;
    let files = ["f", "a/f", "a/b/f"].iter().filter(|file| volume.join(file).exists()).count();
    assert!((there == 0 && files == 3) || there == 41, "{when}: {there}, {files} files");
}

#[test]
fn destroy() {
    sweep_maintenance(
        &["volume", "destroy", "--yes", "db"],
        |_| {},
        |lab| {
            if !lab.volume_path("default", "db").exists() {
                filled(lab, "db");
            }
        },
        |lab, when, done| {
            assert_whole_or_gone(lab, &lab.volume_path("default", "db"), when);
            assert!(!done || !lab.volume_path("default", "db").exists(), "{when}: it is still there");
        },
    );
}

#[test]
fn destroy_of_a_mount_disk() {
    sweep_maintenance(
        &["volume", "destroy", "--yes", "--disk", "nvme", "db"],
        |lab| {
            let nvme = lab.dir.join("nvme");
            tmpfs(&nvme, nix::mount::MsFlags::empty());
            let mut setup = config("filesystem/linux");
            setup["disks"] = json!([{ "name": "nvme", "type": "MOUNT", "mount": { "root": nvme } }]);
            lab.configure(setup);
        },
        |lab| {
            if lab.cli(&["volume", "inspect", "db"]).code == 41 {
                lab.cli(&["volume", "create", "--disk", "nvme", "db"]).ok();
                fill(&lab.dir.join("nvme"));
            }
        },
        |lab, when, done| {
            assert_whole_or_gone(lab, &lab.dir.join("nvme"), when);
            assert!(!done || names(&lab.dir.join("nvme")).is_empty(), "{when}: it is not empty");
        },
    );
}

/// A container that has ended, and whose poststop has not come.
fn leave_behind(lab: &Lab) {
    let container = lab.bundle(Runtime::Crun, "c");
    let mut container = container;
    container.ask("neighbour:data;neighbour:/a/b");
    container.write();
    let mut init = Init::waiting(&container.rootfs());
    hook(PRESTART, &lab.config(), container.state(init.pid).to_string().as_bytes()).ok();
    init.go();
    init.end();
}

#[track_caller]
fn assert_undone(lab: &Lab, when: &str, done: bool) {
    let left = [lab.runtime_files("records"), lab.sandboxes("local"), leases()].concat();
    assert!(!done || left.is_empty(), "{when}: {left:?}");
}

#[test]
fn reconcile() {
    sweep_maintenance(&["reconcile"], |_| {}, leave_behind, assert_undone);
}

/// An old sandbox, the remainder of a destruction, and what a container left.
fn leave_old(lab: &Lab) {
    leave_behind(lab);
    let sandbox = lab.work().join("sandboxes/local/old.0123456789ab");
    fs::create_dir_all(&sandbox).unwrap();
    fill(&sandbox);
    let _ = std::os::unix::fs::symlink(lab.volume_path("default", "neighbour"), sandbox.join("link"));
    let dead = filled(lab, "dead");
    let inode = fs::metadata(&dead).unwrap().ino();
    fs::rename(&dead, dead.with_file_name(format!(".fs-isolator.destroyed.1.{inode:x}"))).unwrap();
}

#[test]
fn gc() {
    sweep_maintenance(&["gc"], |_| {}, leave_old, assert_undone);
}
