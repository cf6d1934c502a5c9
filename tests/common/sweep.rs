//! A program that is hit at every system call it makes: killed there, or told that the call failed.
//!
//! Positions come from a trace of the same run, as the call and how many of its kind were before, since strace counts
//! each call by itself.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde_json::{Value, json};

use crate::common::*;

/// What calls fail with.
const ERRORS: [&str; 7] = ["ENOSYS", "EPERM", "EIO", "ENOSPC", "EMFILE", "EINTR", "ENOMEM"];

/// Calls that cannot fail, by their manual pages. brk(2) of the kernel tells no errors, but where the end is; close(2) gives
/// the descriptor back whatever it says, which strace cannot do: locks would stay.
const NEVER_FAIL: [&str; 10] =
    ["exit_group", "brk", "close", "umask", "getpid", "gettid", "getuid", "geteuid", "getgid", "getegid"];

/// Whether a call can fail so. std makes do without getrandom(2) where there is none, and panics at what the kernel never
/// says.
fn can_fail(call: &str, error: &str) -> bool {
    match call {
        "getrandom" => ["ENOSYS", "EPERM", "EINTR"].contains(&error),
        _ => !NEVER_FAIL.contains(&call),
    }
}

/// How strace shows a call that is newer than itself, at which it cannot do anything. There is one, statmount(2): it
/// changes nothing, so that whoever is killed there has done what they have done when they are killed at the next.
const UNKNOWN: &str = "syscall_0x";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blow {
    Kill,
    Fault(&'static str),
}

/// The Nth call of a kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    call: String,
    nth: usize,
}

/// A run that was hit, or one that was not.
#[derive(Debug)]
pub struct Hit {
    pub at: Option<(Position, Blow)>,
    /// Counts hits, for what is to be done in turn.
    pub turn: usize,
    pub ran: Ran,
}

impl Hit {
    pub fn is_kill(&self) -> bool {
        matches!(self.at, Some((_, Blow::Kill)))
    }

    pub fn is_at(&self, call: &str) -> bool {
        self.at.as_ref().is_some_and(|(position, _)| position.call == call)
    }

    /// It was not hit, or has made do without the call.
    pub fn succeeded(&self) -> bool {
        self.ran.code == 0
    }

    /// A fault was told of: by a documented exit code, and a message with it; in the log, where standard error is what
    /// fails.
    #[track_caller]
    pub fn assert_told(&self, log: &str) {
        if self.is_kill() || self.succeeded() {
            return;
        }
        let code = self.ran.code;
        assert!(documented_codes().contains(&code), "{self}: {code} is not documented: {:?}", self.ran);
        let told = |text: &str| text.contains(&format!("[exit {code}]"));
        let logged = self.is_at("write") && told(log);
        assert!(told(&self.ran.err) || logged, "{self}: no message: {:?}", self.ran);
    }
}

impl fmt::Display for Hit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.at {
            None => write!(f, "not hit"),
            Some((Position { call, nth }, Blow::Kill)) => write!(f, "killed at {call} {nth}"),
            Some((Position { call, nth }, Blow::Fault(error))) => write!(f, "{error} from {call} {nth}"),
        }
    }
}

/// The exit codes in their document.
fn documented_codes() -> Vec<i32> {
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/exit-codes.md")).unwrap();
    let (_, table) = page.split_once("| code | meaning |").unwrap();
    let first = |line: &str| line.strip_prefix("| ")?.split_once(" |")?.0.parse().ok();
    table.lines().take_while(|line| line.is_empty() || line.starts_with('|')).filter_map(first).collect()
}

/// What is swept.
pub trait Scene {
    /// Brings everything to where the program is to run.
    fn prepare(&mut self);
    /// Runs the program with these words before it.
    fn act(&mut self, strace: &[String]) -> Ran;
    /// Lets come what comes next on a host, and asserts what must hold.
    fn settle(&mut self, hit: &Hit);
}

/// Whether everything is tried that takes longer than an ordinary run may.
pub fn is_long() -> bool {
    std::env::var_os("FS_ISOLATOR_LONG").is_some_and(|value| value == "1")
}

/// Hits a program everywhere. In short each call fails once, with one error after the other in turn.
pub fn sweep(name: &str, dir: &Path, scene: &mut dyn Scene) {
    let file = dir.join("trace");
    let strace = |options: &[&str]| -> Vec<String> {
        let file = file.to_str().unwrap();
        ["timeout", "30", "strace", "-f", "-o", file].iter().chain(options).map(|word| (*word).to_owned()).collect()
    };
    scene.prepare();
    let ran = scene.act(&strace(&[]));
    let trace = fs::read_to_string(&file).unwrap();
    let exits_with = ran.code;
    scene.settle(&Hit { at: None, turn: 0, ran });
    let (before_main, mut positions) = positions(&trace);
    let mut counts = BTreeMap::new();
    let mut turn = 0;
    let mut hit = |position: &Position, blow: Blow| {
        let call = &position.call;
        let what = match blow {
            Blow::Kill => "signal=KILL".to_owned(),
            Blow::Fault(error) => format!("error={error}"),
        };
        // Without it the program stops at every call; but no signal can be sent from where it stops with it.
        let seccomp: &[&str] = if blow == Blow::Kill { &[] } else { &["--seccomp-bpf"] };
        let inject = format!("inject={call}:{what}:when={}", position.nth);
        scene.prepare();
        let _ = fs::remove_file(&file);
        let trace = format!("trace={call}");
        let ran = scene.act(&strace(&[seccomp, &["-e", &trace, "-e", &inject]].concat()));
        let mark = if blow == Blow::Kill { "killed by SIGKILL" } else { "(INJECTED)" };
        let trace = fs::read_to_string(&file).unwrap_or_default();
        let hit = Hit { at: Some((position.clone(), blow)), turn, ran };
        assert!(trace.contains(mark), "{name}: {hit}: it does not come there: {trace}");
        assert_ne!(hit.ran.code, 124, "{name}: {hit}: it does not end");
        scene.settle(&hit);
        turn += 1;
    };
    let all = positions.len();
    let unknown = positions.iter().filter(|position| position.call.starts_with(UNKNOWN)).count();
    positions.retain(|position| !position.call.starts_with(UNKNOWN));
    for position in &positions {
        hit(position, Blow::Kill);
        *counts.entry("kill").or_insert(0) += 1;
    }
    for (index, position) in positions.iter().enumerate() {
        let in_turn = ERRORS.iter().cycle().skip(index % ERRORS.len()).take(ERRORS.len());
        let possible = in_turn.filter(|error| can_fail(&position.call, error));
        let errors: Vec<&str> = possible.take(if is_long() { ERRORS.len() } else { 1 }).copied().collect();
        *counts.entry(if errors.is_empty() { "left out" } else { "fault" }).or_insert(0) += 1;
        errors.iter().for_each(|error| hit(position, Blow::Fault(error)));
    }
    assert_eq!(processes_of(dir), Vec::<String>::new(), "{name}: processes are left");
    let left_out = counts.remove("left out").unwrap_or_default();
    println!(
        "{name}: exits with {exits_with}; {all} calls after the {before_main} before main; killed at {}, failed at {}; \
         {unknown} unknown to strace, {left_out} that cannot fail",
        counts["kill"], counts["fault"],
    );
    assert_eq!((counts["kill"] + unknown, counts["fault"] + unknown + left_out), (all, all), "{name}");
    compare(name, &json!(counts));
}

/// What a look at all processes calls, never as often as the last time: from there on these are not hit.
const LOOK: [&str; 15] = [
    "openat",
    "statx",
    "newfstatat",
    "fstat",
    "getdents64",
    "readlink",
    "read",
    "lseek",
    "close",
    "kcmp",
    "brk",
    "mmap",
    "munmap",
    "mremap",
    "ioctl",
];

/// How many calls are made before main, which change nothing and are the same in each program, and all positions after.
fn positions(trace: &str) -> (usize, Vec<Position>) {
    // Each line begins with the process.
    let calls = trace.lines().map(|line| line.split_once(' ').unwrap().1.trim_start());
    let calls: Vec<&str> = calls.filter(|line| !line.starts_with(['+', '-'])).collect();
    assert!(!calls.iter().any(|line| line.starts_with("clone") || line.contains("fork(")), "it starts another process");
    let main = main_begins(&calls);
    let mut counts = BTreeMap::new();
    let all: Vec<Position> = calls
        .iter()
        .map(|line| {
            let call = line.split('(').next().unwrap().to_owned();
            let nth = counts.entry(call.clone()).or_insert(0);
            *nth += 1;
            Position { call, nth: *nth }
        })
        .collect();
    let look = calls.iter().position(|line| line.contains("\"/proc\", ")).unwrap_or(all.len());
    let is_counted_alike =
        |(index, position): &(usize, &Position)| *index < look || !LOOK.contains(&position.call.as_str());
    let later = all.iter().enumerate().skip(main).filter(is_counted_alike);
    (main, later.map(|(_, position)| position.clone()).collect())
}

/// How many positions there were when the counts were last written down. Fewer may be good, if the program makes fewer
/// calls: `BLESS=1` writes down what is.
fn compare(name: &str, counts: &Value) {
    static FIXTURE: Mutex<()> = Mutex::new(());
    let _one_at_a_time = FIXTURE.lock().unwrap_or_else(PoisonError::into_inner);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/sweeps.json");
    let text = fs::read_to_string(&path).unwrap_or_else(|_| "{}".to_owned());
    let mut all: BTreeMap<String, Value> = serde_json::from_str(&text).unwrap();
    if std::env::var_os("BLESS").is_some_and(|value| value == "1") {
        all.insert(name.to_owned(), counts.clone());
        fs::write(&path, serde_json::to_string_pretty(&all).unwrap() + "\n").unwrap();
        return;
    }
    for kind in ["kill", "fault"] {
        let (is, was) = (&counts[kind], &all.get(name).unwrap_or(&Value::Null)[kind]);
        // How often memory is asked for depends on how the program is linked: a twentieth.
        let fell = was.as_u64().is_none_or(|was| is.as_u64().unwrap() * 20 < was * 19);
        assert!(!fell, "{name}: {kind} was tried at {is} positions, and at {was} before; BLESS=1 writes down what is");
    }
}

/// What must be as it was, whatever happened.
pub struct Watch {
    /// The host's mounts.
    table: Vec<String>,
    /// Directories that nobody may change, and how they were.
    kept: Vec<(PathBuf, BTreeMap<String, String>)>,
    sandboxes: Vec<String>,
}

impl Watch {
    /// Volumes' roots may get another owner ([`Watch::leaks`] gives them back): everything else in them must stay.
    pub fn new(lab: &Lab, kept: &[&Path]) -> Watch {
        let kept = kept.iter().map(|path| ((*path).to_owned(), manifest(path))).collect();
        Watch { table: host_mounts(), kept, sandboxes: lab.sandboxes("local") }
    }

    /// Everything that was left behind or changed.
    pub fn leaks(&self, lab: &Lab) -> Vec<String> {
        let mut leaks = lab.leaks();
        let now = host_mounts();
        leaks.extend(now.iter().filter(|mount| !self.table.contains(mount)).map(|mount| format!("mounted: {mount}")));
        leaks.extend(self.table.iter().filter(|mount| !now.contains(mount)).map(|mount| format!("unmounted: {mount}")));
        for (path, before) in &self.kept {
            let now = manifest(path);
            let differs = |name: &&String| before.get(*name) != now.get(*name);
            let mut changed: Vec<&String> = before.keys().chain(now.keys()).filter(differs).collect();
            changed.dedup();
            leaks.extend(changed.iter().map(|name| format!("changed: {name}")));
        }
        let is_new = |name: &String| !self.sandboxes.contains(name);
        leaks.extend(lab.sandboxes("local").into_iter().filter(is_new).map(|name| format!("sandboxes/{name}")));
        leaks
    }

    #[track_caller]
    pub fn assert_clean(&self, lab: &Lab, when: &str) {
        let leaks = self.leaks(lab);
        assert!(leaks.is_empty(), "{when}: left behind: {leaks:#?}");
    }
}

fn host_mounts() -> Vec<String> {
    mount_table().lines().map(strip_ids).collect()
}

/// Processes that name something of the lab on their command lines, as all of ours do. They stay until somebody looks.
pub fn processes_of(lab: &Path) -> Vec<String> {
    let lab = lab.to_str().unwrap();
    let line = |pid: &String| {
        let text = fs::read(Path::new("/proc").join(pid).join("cmdline")).ok()?;
        let text = String::from_utf8_lossy(&text).replace('\0', " ");
        text.contains(lab).then(|| format!("{pid} ({text})"))
    };
    names(Path::new("/proc")).iter().filter(|name| name.parse::<u32>().is_ok()).filter_map(line).collect()
}
