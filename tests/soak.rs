//! Many lifecycles at once, with random kills, and then a look for everything that could have been left or lost.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicI32, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use common::*;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

const AT_ONCE: usize = 8;

/// Volumes for which containers compete, and volumes that they share.
const CONTENDED: [&str; 3] = ["c0", "c1", "c2"];
const SHARED: [&str; 2] = ["s0", "s1"];

/// What a container adds to its line when it writes to its exclusive volume again, at its end.
const DONE: &str = "-done";

/// splitmix64: all that happens follows from the seed and a lifecycle's number, but for the time it takes.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Runtime,
    Hook,
    Init,
}

/// What one lifecycle was and how it ended.
#[derive(Debug, Clone)]
struct Lifecycle {
    line: String,
    /// The exclusive one first.
    volumes: Vec<String>,
    /// It said that its lines are on the disk.
    succeeded: bool,
    killed: Option<Victim>,
}

struct Soak {
    lab: Lab,
    seed: u64,
    /// Microseconds that lifecycles took, of which kills take a random part.
    took: AtomicU64,
    ended: Mutex<Vec<Lifecycle>>,
}

impl Soak {
    fn new(seed: u64) -> Soak {
        let lab = Lab::with(json!({
            "isolation": "filesystem/linux", "sandbox_retention": "0",
            "allowed_isolation": ["filesystem/linux", "filesystem/posix", "filesystem/shared"],
        }));
        for id in CONTENDED.into_iter().chain(SHARED) {
            lab.volume(id);
        }
        for worker in 0..AT_ONCE {
            lab.volume(&format!("w{worker}"));
            make_rootfs(&lab.dir.join(format!("rootfs-{worker}")));
            for name in ["x", "s"] {
                fs::create_dir_all(lab.dir.join(format!("host-{worker}")).join(name)).unwrap();
            }
            lab.cli(&["sandbox", "create", "--owner", "0:0", &format!("p{worker}")]).ok();
        }
        // One for all: on a shared host each further one would double those that are there.
        bind(Path::new("/"), &lab.dir.join("host"));
        Soak { lab, seed, took: AtomicU64::new(200_000), ended: Mutex::default() }
    }

    /// The container of a lifecycle, and the volumes that it asks for.
    fn container(&self, number: usize, worker: usize, random: &mut Random) -> (Container, Vec<String>) {
        let lab = &self.lab;
        let exclusive = if random.below(4) == 0 { random.of(&CONTENDED).to_owned() } else { format!("w{worker}") };
        let shared = random.of(&SHARED).to_owned();
        let mut container = lab.bundle(random.of(&RUNTIMES), &format!("n{number}"));
        let (isolation, root, at) = match random.below(3) {
            0 => ("filesystem/linux", lab.dir.join(format!("rootfs-{worker}")), ["data".into(), "/srv/s".into()]),
            1 => {
                let sandbox = lab.work().join(format!("sandboxes/posix/p{worker}"));
                container.cwd(&sandbox);
                ("filesystem/posix", lab.dir.join("host"), ["x", "s"].map(|name| format!("{number}/{name}")))
            }
            _ => {
                let at = lab.dir.join(format!("host-{worker}"));
                ("filesystem/shared", lab.dir.join("host"), ["x", "s"].map(|name| format!("{}/{name}", at.display())))
            }
        };
        let more = if isolation == "filesystem/shared" { ";sandbox=tmp:/tmp" } else { "" };
        container.ask(&format!("{exclusive}:{};{shared}:{}:shared{more}", at[0], at[1]));
        container.annotate("io.fs-isolator.isolation", isolation);
        container.spec["root"]["path"] = json!(root);
        let base = if isolation == "filesystem/linux" { "/mnt/mesos/sandbox/" } else { "" };
        let line = self.line(number);
        container.shell(&format!(
            "set -e; for d in {base}{0} {1}; do echo {line} >> $d/log; sync $d/log; done; sleep 0.0{2}; \
             echo {line}{DONE} >> {base}{0}/log; sync {base}{0}/log; echo all written",
            at[0],
            at[1],
            random.below(6)
        ));
        (container, vec![exclusive, shared])
    }

    fn line(&self, number: usize) -> String {
        format!("number-{number}-of-{:x}.", self.seed)
    }

    fn lifecycle(&self, number: usize, worker: usize, kills: bool) {
        let mut random = Random(self.seed ^ (number as u64) << 20);
        let (container, volumes) = self.container(number, worker, &mut random);
        container.write();
        let victim = random.of(&[None, None, None, Some(Victim::Runtime), Some(Victim::Hook), Some(Victim::Init)]);
        let moment = Duration::from_micros(random.below(self.took.load(Ordering::Relaxed) * 5 / 4));
        let out = fs::File::create(container.bundle.join("out")).unwrap();
        let step = |verb: &str, arguments: &[&str]| {
            let mut command = container.command(verb, arguments);
            command.stdin(Stdio::null()).stdout(out.try_clone().unwrap()).stderr(out.try_clone().unwrap());
            command.spawn().unwrap()
        };
        let begun = Instant::now();
        let running = AtomicI32::new(0);
        let mut killed = None;
        std::thread::scope(|scope| {
            let killer = victim.filter(|_| kills).map(|victim| {
                let (running, cgroup) = (&running, cgroup_of(&container));
                scope.spawn(move || {
                    std::thread::sleep(moment);
                    while running.load(Ordering::Relaxed) != -1 {
                        if let Some(pid) = find(victim, running.load(Ordering::Relaxed), &cgroup) {
                            end_now(pid);
                            return Some(victim);
                        }
                        std::thread::sleep(Duration::from_micros(200));
                    }
                    None
                })
            });
            let step = |verb: &str, arguments: &[&str]| {
                let mut child = step(verb, arguments);
                running.store(child.id() as i32, Ordering::Relaxed);
                child.wait().unwrap().success()
            };
            // Managers create and start; people run.
            if random.below(2) == 0 {
                step("run", &[&container.id]);
            } else if step("create", &[&container.id]) && step("start", &[&container.id]) {
                let cgroup = cgroup_of(&container);
                wait_for("the container to end", || !processes_in(&cgroup).into_iter().any(is_alive));
            }
            // Now and then nobody cleans up, and poststop never comes.
            if random.below(8) > 0 && container.root.join(&container.id).exists() {
                step("delete", &["-f", &container.id]);
            }
            running.store(-1, Ordering::Relaxed);
            killed = killer.and_then(|killer| killer.join().unwrap());
        });
        if killed.is_none() {
            let took = (self.took.load(Ordering::Relaxed) * 7 + begun.elapsed().as_micros() as u64) / 8;
            self.took.store(took, Ordering::Relaxed);
        }
        let said = container.output();
        let succeeded = said.contains("all written");
        let contended = CONTENDED.contains(&volumes[0].as_str());
        assert!(
            succeeded || killed.is_some() || contended && self.lab.log(&container.id).contains("[exit 71]"),
            "{number} of seed {:x}: {said}\n{}",
            self.seed,
            self.lab.log(&container.id)
        );
        end(&container);
        self.ended.lock().unwrap().push(Lifecycle { line: self.line(number), volumes, succeeded, killed });
    }

    fn run(&self, numbers: std::ops::Range<usize>, kills: bool) {
        let next = AtomicUsize::new(numbers.start);
        std::thread::scope(|scope| {
            for worker in 0..AT_ONCE {
                let (next, end) = (&next, numbers.end);
                scope.spawn(move || {
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= end {
                            return;
                        }
                        self.lifecycle(number, worker, kills);
                    }
                });
            }
        });
    }

    fn written(&self) -> BTreeMap<String, String> {
        let roles = self.lab.volume_path("default", "");
        let content = |id: &String| fs::read_to_string(roles.join(id).join("log")).unwrap_or_default();
        names(&roles).into_iter().map(|id| (id.clone(), content(&id))).collect()
    }
}

/// Processes below this one that the runtime's command or the container consists of.
fn find(victim: Victim, command: i32, cgroup: &str) -> Option<i32> {
    if victim == Victim::Init {
        return processes_in(cgroup).into_iter().min();
    }
    // The command is timeout(1)'s.
    let runtime = *children(command).first()?;
    if victim == Victim::Runtime {
        return Some(runtime);
    }
    let is_hook = |pid: &i32| {
        let name = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
        [PRESTART, POSTSTART, POSTSTOP].into_iter().any(|hook| name == Path::new(hook))
    };
    children(runtime).into_iter().find(is_hook)
}

fn end_now(pid: i32) {
    let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
}

fn children(pid: i32) -> Vec<i32> {
    let tasks = names(Path::new(&format!("/proc/{pid}/task")));
    let of = |task: String| fs::read_to_string(format!("/proc/{pid}/task/{task}/children")).unwrap_or_default();
    tasks.into_iter().map(of).flat_map(|all| numbers(&all)).collect()
}

fn numbers(text: &str) -> Vec<i32> {
    text.split_whitespace().filter_map(|number| number.parse().ok()).collect()
}

fn cgroup_of(container: &Container) -> String {
    container.spec["linux"]["cgroupsPath"].as_str().unwrap().trim_start_matches('/').to_owned()
}

/// This cgroup in every hierarchy. (`unified` is a tmpfs here, see `on`: what runtimes write there is no cgroup.)
fn cgroups(name: &str) -> Vec<PathBuf> {
    let top = Path::new("/sys/fs/cgroup");
    let hierarchies =
        names(top).into_iter().filter(|hierarchy| hierarchy != "unified").map(|hierarchy| top.join(hierarchy));
    hierarchies.chain([top.to_owned()]).map(|at| at.join(name)).collect()
}

fn processes_in(cgroup: &str) -> Vec<i32> {
    let of = |at: PathBuf| numbers(&fs::read_to_string(at.join("cgroup.procs")).unwrap_or_default());
    cgroups(cgroup).into_iter().flat_map(of).collect()
}

/// Ends what a killed runtime has left, as an operator would; what hooks have left stays.
fn end(container: &Container) {
    let cgroup = cgroup_of(container);
    wait_for("the container's processes to end", || {
        let alive: Vec<i32> = processes_in(&cgroup).into_iter().filter(|pid| is_alive(*pid)).collect();
        alive.iter().for_each(|pid| end_now(*pid));
        alive.is_empty()
    });
    wait_for("the container's cgroups to go", || {
        let left: Vec<PathBuf> = cgroups(&cgroup).into_iter().filter(|at| at.exists()).collect();
        left.iter().for_each(|at| drop(fs::remove_dir(at)));
        left.is_empty()
    });
    let _ = fs::remove_dir_all(container.root.join(&container.id));
    fs::remove_dir_all(&container.bundle).unwrap();
}

/// Runtimes start from a bind mount of their own binary (against its being overwritten) and take it away at once; one that
/// is killed in between leaves it, which is no business of hooks.
fn sweep_binds_of_runtimes() {
    let of_runtime = |line: &str| {
        let fields: Vec<&str> = line.split(' ').collect();
        let (root, point) = (Path::new(fields[3]), Path::new(fields[4]));
        let name = point.file_name()?.to_str()?.split('.').next()?;
        (root.file_name()? == name && RUNTIMES.iter().any(|runtime| runtime.program() == name))
            .then(|| point.to_owned())
    };
    for point in mount_table().lines().rev().filter_map(of_runtime) {
        // On a shared host it goes from the peers too.
        let _ = nix::mount::umount(&point);
        let _ = fs::remove_file(point);
    }
}

/// How the host was.
struct Before {
    mounts: Vec<String>,
    files: Vec<String>,
    tree: BTreeMap<String, String>,
}

impl Before {
    fn of(lab: &Lab) -> Before {
        Before { mounts: mounts(), files: open_files(), tree: tree(lab) }
    }

    /// All that is other than it was, and all that hooks should have removed.
    fn leaks(&self, lab: &Lab) -> Vec<String> {
        let mut leaks = differences("mount", &self.mounts, &mounts());
        leaks.extend(differences("open file", &self.files, &open_files()));
        let entries = |tree: &BTreeMap<String, String>| {
            tree.iter().map(|(path, what)| format!("{path} {what}")).collect::<Vec<_>>()
        };
        leaks.extend(differences("tree", &entries(&self.tree), &entries(&tree(lab))));
        for kind in ["records", "mountpoints"] {
            leaks.extend(lab.runtime_files(kind).iter().map(|name| format!("{kind}: {name}")));
        }
        leaks.extend(leases().iter().map(|name| format!("lease: {name}")));
        leaks.extend(lab.sandboxes("local").iter().map(|name| format!("sandbox: {name}")));
        leaks.extend(processes(lab).iter().map(|process| format!("process: {process}")));
        leaks
    }
}

fn differences(kind: &str, before: &[String], after: &[String]) -> Vec<String> {
    let new = after.iter().filter(|one| !before.contains(one)).map(|one| format!("{kind}: new {one}"));
    let gone = before.iter().filter(|one| !after.contains(one)).map(|one| format!("{kind}: gone {one}"));
    let mut all: Vec<String> = new.chain(gone).collect();
    if all.is_empty() && before.len() != after.len() {
        all.push(format!("{kind}: {} of them instead of {}", after.len(), before.len()));
    }
    all
}

/// Without mount ids.
fn mounts() -> Vec<String> {
    mount_table().lines().map(|line| line.splitn(3, ' ').last().unwrap().to_owned()).collect()
}

fn open_files() -> Vec<String> {
    let directory = Path::new("/proc/self/fd");
    let target = |name: &String| fs::read_link(directory.join(name)).ok().map(|to| to.display().to_string());
    let mut all: Vec<String> = names(directory).iter().filter_map(target).collect();
    all.sort();
    all
}

/// Everything in the lab but what volumes hold, what runtimes keep, and logs, which stay for a day.
fn tree(lab: &Lab) -> BTreeMap<String, String> {
    let mut all = manifest(&lab.work());
    all.retain(|path, _| !path.ends_with("/log"));
    for worker in 0..AT_ONCE {
        all.extend(manifest(&lab.dir.join(format!("rootfs-{worker}"))));
        all.extend(manifest(&lab.dir.join(format!("host-{worker}"))));
    }
    all
}

/// Processes that are of this lab, by their arguments or cgroups.
fn processes(lab: &Lab) -> Vec<String> {
    let (path, name) = (lab.dir.display().to_string(), lab.dir.file_name().unwrap().to_string_lossy().into_owned());
    let cgroup = format!("fs-isolator-tests-{name}-");
    let of_lab = |pid: &String| {
        let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
        let ours = read("cmdline").contains(&path) || read("cgroup").contains(&cgroup);
        (ours && is_alive(pid.parse().unwrap_or(0))).then(|| format!("{pid} {:?}", read("cmdline")))
    };
    names(Path::new("/proc")).iter().filter(|name| name.parse::<i32>().is_ok()).filter_map(of_lab).collect()
}

/// Where what is in the volumes differs from what the lifecycles say.
fn unaccounted(written: &BTreeMap<String, String>, lifecycles: &[Lifecycle]) -> Vec<String> {
    let mut faults = Vec::new();
    for (volume, content) in written {
        let mut times: BTreeMap<&str, usize> = BTreeMap::new();
        for line in content.split_inclusive('\n') {
            match line.strip_suffix('\n') {
                Some(line) => *times.entry(line).or_default() += 1,
                None => faults.push(format!("{volume}: {line:?} is torn")),
            }
        }
        // Nobody else may write to an exclusive volume between a container's two lines.
        let lines: Vec<&str> = content.lines().collect();
        for (index, line) in lines.iter().enumerate() {
            let Some(first) = line.strip_suffix(DONE) else { continue };
            times.remove(line);
            let lifecycle = lifecycles.iter().find(|lifecycle| lifecycle.line == first);
            let own = lifecycle.is_some_and(|lifecycle| lifecycle.volumes[0] == *volume);
            if !own || index == 0 || lines[index - 1] != first {
                faults.push(format!("{volume}: {line} does not follow its own: {lifecycle:?}"));
            }
        }
        for lifecycle in lifecycles {
            if lifecycle.succeeded
                && lifecycle.volumes[0] == *volume
                && !lines.contains(&&*format!("{}{DONE}", lifecycle.line))
            {
                faults.push(format!("{volume}: its last line is lost: {lifecycle:?}"));
            }
            let times = times.remove(lifecycle.line.as_str()).unwrap_or(0);
            let asked = lifecycle.volumes.contains(volume);
            if times > usize::from(asked) || asked && lifecycle.succeeded && times != 1 {
                faults.push(format!("{volume}: {} is there {times} times: {lifecycle:?}", lifecycle.line));
            }
        }
        faults.extend(times.keys().map(|line| format!("{volume}: {line:?} is nobody's")));
    }
    faults
}

/// Plants each kind of leak, which must be the only one found and be gone with it.
fn the_look_for_leaks_finds_each_kind(lab: &Lab, before: &Before) {
    let found = |kind: &str| {
        let leaks = before.leaks(lab);
        assert!(!leaks.is_empty() && leaks.iter().all(|leak| leak.starts_with(kind)), "{kind}: {leaks:#?}");
    };
    assert_eq!(before.leaks(lab), Vec::<String>::new());
    let at = lab.dir.join("host-0/x");
    bind(&at, &at);
    found("mount: new");
    nix::mount::umount(&at).unwrap();
    let file = fs::File::open(&at).unwrap();
    found("open file: new");
    drop(file);
    let mut process = Command::new("sh").args(["-c", "sleep 100; true", lab.dir.to_str().unwrap()]).spawn().unwrap();
    found("process");
    children(process.id() as i32).into_iter().for_each(end_now);
    process.kill().unwrap();
    process.wait().unwrap();
    let leases = Path::new("/run/fs-isolator/leases");
    for (kind, directory) in [
        ("records", lab.runtime_dir().join("records")),
        ("mountpoints", lab.runtime_dir().join("mountpoints")),
        ("lease", leases.to_owned()),
        ("tree: new", lab.dir.join("rootfs-0/mnt")),
        ("tree: new", lab.dir.join("host-1/s")),
        ("tree: new", lab.work().join("sandboxes/posix/p1")),
        ("tree: new", lab.volume_path("default", "s0")),
    ] {
        let made = !directory.exists();
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("planted"), "").unwrap();
        found(kind);
        fs::remove_file(directory.join("planted")).unwrap();
        if made {
            fs::remove_dir(&directory).unwrap();
        }
    }
    let sandbox = lab.work().join("sandboxes/local/planted");
    fs::create_dir(&sandbox).unwrap();
    assert!(before.leaks(lab).iter().any(|leak| leak.starts_with("sandbox")));
    fs::remove_dir(&sandbox).unwrap();
    assert_eq!(before.leaks(lab), Vec::<String>::new());
}

fn the_accounts_find_each_fault() {
    let lifecycle = |line: &str, volume: &str, succeeded| Lifecycle {
        line: line.to_owned(),
        volumes: vec![volume.to_owned()],
        succeeded,
        killed: None,
    };
    let all = [lifecycle("one", "a", true), lifecycle("two", "b", false), lifecycle("six", "a", true)];
    let own = "one\none-done\nsix\nsix-done\n";
    let faults = |a: &str, b: &str| {
        unaccounted(&[("a".to_owned(), a.to_owned()), ("b".to_owned(), b.to_owned())].into(), &all).len()
    };
    assert_eq!((faults(own, ""), faults(own, "two\n")), (0, 0), "one that was killed has written, or not");
    for (what, a, b) in [
        ("lost", "one\none-done\nsix-done\n", ""),
        ("lost at the end", "one\none-done\nsix\n", ""),
        ("torn", &format!("{own}tw"), ""),
        ("in a foreign volume", own, "one\n"),
        ("nobody's", &format!("{own}three\n"), ""),
        ("twice by one that was killed", own, "two\ntwo\n"),
        ("by two at once", "one\nsix\nsix-done\none-done\n", ""),
    ] {
        assert!(faults(a, b) > 0, "{what}");
    }
}

#[test]
fn many_lifecycles_with_kills_leave_nothing_and_lose_nothing() {
    let long = std::env::var_os("FS_ISOLATOR_LONG").is_some();
    let count = if long { 10_000 } else { 500 };
    let given = std::env::var("FS_ISOLATOR_SEED").ok().and_then(|seed| u64::from_str_radix(&seed, 16).ok());
    let now = || SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64;
    let seed = given.unwrap_or_else(now);
    println!("FS_ISOLATOR_SEED={seed:x}");
    the_accounts_find_each_fault();
    on(Host::Shared, move || {
        // crun's files there, of which it leaves some when it is killed, go with the test.
        tmpfs(Path::new("/tmp"), nix::mount::MsFlags::empty());
        let soak = Soak::new(seed);
        let lab = &soak.lab;
        // What the first containers make stays: `sandboxes/local` and directories for state.
        soak.run(0..4 * AT_ONCE, false);
        lab.cli(&["gc"]).ok();
        let before = Before::of(lab);
        the_look_for_leaks_finds_each_kind(lab, &before);
        let begun = Instant::now();
        soak.run(4 * AT_ONCE..4 * AT_ONCE + count, true);
        let took = begun.elapsed();
        // A hook whose runtime was killed comes to its end by itself.
        wait_for("hooks to end", || processes(lab).is_empty());
        sweep_binds_of_runtimes();
        let reconciled = lab.cli(&["reconcile"]).ok();
        lab.cli(&["gc"]).ok();
        assert_eq!(before.leaks(lab), Vec::<String>::new());
        let ended = soak.ended.lock().unwrap();
        assert_eq!(ended.len(), 4 * AT_ONCE + count);
        assert_eq!(unaccounted(&soak.written(), &ended), Vec::<String>::new());
        let killed = |victim| ended.iter().filter(|lifecycle| lifecycle.killed == Some(victim)).count();
        let kills = [Victim::Runtime, Victim::Hook, Victim::Init].map(killed);
        let succeeded = ended.iter().filter(|lifecycle| lifecycle.succeeded).count();
        println!(
            "{count} lifecycles in {took:.0?}, {succeeded} succeeded; killed: runtime, hook, init {kills:?}; reconcile: {} lines",
            reconciled.lines().len()
        );
        assert!(kills.iter().all(|kills| kills * 50 > count), "{kills:?}");
        assert!(succeeded * 2 > count);
    });
}
