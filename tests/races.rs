//! Somebody exchanges directories for links while hooks work on them: nothing outside is reached, for as long as it
//! takes. Beside each round with the project's own code, a control does the same as everybody else once did: look,
//! then open by path. It must get outside, or the race proves nothing.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

#[path = "common/canary.rs"]
mod canary;
mod common;

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use canary::Canary;
use common::*;
use fs_isolator::attach::{HostRoot, Phase};
use fs_isolator::config::{Config, Isolator};
use fs_isolator::container::{Identity, Manager};
use fs_isolator::init::{Life, Live};
use fs_isolator::intake::{self, Bundle};
use fs_isolator::isolator::{self, Job};
use fs_isolator::mountpoint::Missing;
use fs_isolator::mountpoint::{Base as Below, Kind, MountPoints};
use fs_isolator::record::{self, Base, Header, Line, Record, Within};
use fs_isolator::request::container_path::ContainerPath;
use fs_isolator::runtime_dir::{Open, RuntimeDir};
use fs_isolator::sys::{self, Resolve};
use fs_isolator::volume::{self, Disks};
use fs_isolator::{sandbox, tree, undo};
use nix::fcntl::{OFlag, RenameFlags, open, renameat2};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::Mode;
use serde_json::json;

/// Rounds for each shape of target.
const ROUNDS: u32 = 200_000;

/// Rounds of those that look for everything that was made, and remove it.
const REMOVED: u32 = 20_000;

/// One of so many rounds goes through a record as well, which takes as long as all the others.
const RECORDED: u32 = 10;

/// Rounds of those that mount as well.
const MOUNTS: u32 = 2_000;

/// Starts of real containers with each runtime, by default and with `./tests/run --long`.
const STARTS: [u32; 2] = [40, 2_000];

/// A control that got outside so often has shown what it should.
const ENOUGH: u32 = 20;

// The attack.

/// Exchanges `a`, a directory, with the links `b` and `c` in each of these directories, until it is dropped.
struct Attacker {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<u64>>,
}

impl Attacker {
    fn in_directories(directories: &[&Path], most_pause: Duration) -> Attacker {
        let places: Vec<OwnedFd> = directories.iter().map(|path| place(path)).collect();
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, (started, start)) = (Arc::clone(&stop), std::sync::mpsc::channel());
        let thread = std::thread::spawn(move || {
            // setns(2) is refused to a thread that shares its root and working directory with another.
            unshare(CloneFlags::CLONE_FS).unwrap();
            started.send(()).unwrap();
            let (mut exchanges, mut random) = (0_u64, 1_u64);
            let mut exchange = |link: &str, most_pause: Duration| {
                for place in &places {
                    exchanges += u64::from(renameat2(place, "a", place, link, RenameFlags::RENAME_EXCHANGE).is_ok());
                }
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                if !most_pause.is_zero() {
                    std::thread::sleep(most_pause.mul_f64((random >> 40) as f64 / f64::from(1 << 24)));
                }
            };
            while !stopped.load(Ordering::Relaxed) {
                // There and back: mostly all is as it should be, so that whoever looks first goes on.
                for link in ["b", "c"] {
                    exchange(link, most_pause / 16);
                    exchange(link, most_pause);
                }
            }
            exchanges
        });
        start.recv().unwrap();
        Attacker { stop, thread: Some(thread) }
    }

    fn at(directory: &Path) -> Attacker {
        Attacker::in_directories(&[directory], Duration::ZERO)
    }

    /// How often it has exchanged two.
    fn stop(mut self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for Attacker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().into_iter().for_each(|thread| drop(thread.join()));
    }
}

/// Makes `a` in a directory of a container's, and links beside it that lead to the canary, both on the host: `b`
/// absolutely and `c` upwards. Taken for paths below that directory they lead somewhere too, so that whoever resolves
/// them so gets on.
fn bait(directory: &Path, canary: &Canary) {
    let ups = directory.ancestors().take_while(|above| !canary.dir.starts_with(above)).count();
    let common = directory.ancestors().nth(ups).unwrap();
    let below = canary.dir.strip_prefix(common).unwrap();
    for inside in ["a", text(below), text(canary.dir.strip_prefix("/").unwrap())] {
        fs::create_dir_all(directory.join(inside).join("x")).unwrap();
    }
    symlink(&canary.dir, directory.join("b")).unwrap();
    symlink(format!("{}{}", "../".repeat(ups), below.display()), directory.join("c")).unwrap();
    for link in ["b", "c"] {
        assert_eq!(directory.join(link).canonicalize().unwrap(), canary.dir);
    }
}

/// What a round came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Came {
    Inside,
    Refused,
    Outside,
}

/// Runs so many rounds, at most until it was outside often `enough`, and tells how often that was.
fn rounds(name: &str, most: u32, enough: u32, mut round: impl FnMut() -> Came) -> u32 {
    let (mut inside, mut refused, mut outside) = (0, 0, 0);
    while inside + refused + outside < most && outside < enough {
        match round() {
            Came::Inside => inside += 1,
            Came::Refused => refused += 1,
            Came::Outside => outside += 1,
        }
    }
    println!("{name}: {outside} outside, {inside} inside, {refused} refused");
    outside
}

/// Races the project's own code, and a control that must get outside.
fn race(
    name: &str,
    most: u32,
    (directory, canary): (&Path, &Canary),
    ours: impl FnMut() -> Came,
    control: impl FnMut() -> Came,
) {
    let attacker = Attacker::at(directory);
    let outside = rounds(name, most, u32::MAX, ours);
    println!("{name}: {} exchanges", attacker.stop());
    assert_eq!(outside, 0, "{name}");
    canary.assert_untouched();
    let attacker = Attacker::at(directory);
    let outside = rounds(&format!("{name}, control"), ROUNDS, ENOUGH, control);
    attacker.stop();
    assert!(outside > 0, "{name}: the control did not get outside");
}

// What is raced for.

/// A container's bundle, its root filesystem and volume, and a process that stands in for its init.
struct Arena {
    lab: Lab,
    dir: PathBuf,
    canary: Canary,
    config: Config,
    runtime: RuntimeDir,
    proc_fds: OwnedFd,
    init: Child,
    live: Live,
    home: OwnedFd,
}

/// Name of the container's record and sandbox.
const NAME: &str = "c.0123456789ab";

impl Arena {
    fn new() -> Arena {
        let lab = Lab::new("filesystem/linux");
        let dir = lab.dir.join("arena");
        // In memory, or the disk decides how many rounds there are in a second.
        tmpfs(&dir, MsFlags::empty());
        fs::set_permissions(&dir, PermissionsExt::from_mode(0o755)).unwrap();
        lab.configure(json!({
            "isolation": "filesystem/linux",
            "work_dir": dir.join("work"), "runtime_dir": dir.join("run"), "managers": { "local": [dir.join("bundles")] },
        }));
        let (rootfs, canary) = (dir.join("bundles/c/rootfs"), Canary::new(dir.join("host")));
        fs::create_dir_all(&rootfs).unwrap();
        let script = "mount --bind \"$1\" \"$1\" && echo ready && exec sleep 1000";
        let mut init = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-c", script, "sh", text(&rootfs)])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut ready = String::new();
        BufReader::new(init.stdout.take().unwrap()).read_line(&mut ready).unwrap();
        assert_eq!(ready, "ready\n");
        Arena {
            config: Config::load(Some(&lab.config())).unwrap(),
            runtime: RuntimeDir::open(&dir.join("run")).unwrap(),
            proc_fds: sys::open_proc_fds().unwrap(),
            live: Live::open(init.id() as i32, false).unwrap(),
            // `/proc/self` would be the main thread's.
            home: fs::File::open("/proc/thread-self/ns/mnt").unwrap().into(),
            lab,
            dir,
            canary,
            init,
        }
    }

    fn rootfs(&self) -> PathBuf {
        self.dir.join("bundles/c/rootfs")
    }

    /// A directory that is a container's to change, in which `a` is exchanged.
    fn baited(&self, name: &str) -> PathBuf {
        let directory = self.dir.join(name);
        bait(&directory, &self.canary);
        directory
    }

    fn volume(&self, id: &str) -> PathBuf {
        self.lab.cli(&["volume", "create", id]).ok();
        self.dir.join("work/volumes/roles/default").join(id)
    }

    /// Begins the container's record.
    fn record(&self, root: &Path) -> Record {
        let mut record = Record::open(&self.runtime, NAME, Open::Create).unwrap().unwrap();
        let header = Header {
            version: record::VERSION,
            id: "c".to_owned(),
            bundle: self.dir.join("bundles/c").display().to_string(),
            manager: Manager::Local,
            identity: Identity::Root,
            isolator: Isolator::Linux,
            life: Life::of(&self.live.init, true),
            root: Base { path: root.display().to_string(), id: sys::stat(place(root)).unwrap().id },
        };
        record.begin(header).unwrap();
        record
    }

    fn undo(&self, record: Record) {
        undo::undo(&self.runtime, record, &self.config).unwrap();
    }

    /// Whether what was opened lies below the directory.
    fn is_below(&self, directory: &Path, fd: impl AsFd) -> Came {
        let path = PathBuf::from(sys::path_of(&self.proc_fds, fd).unwrap());
        if path.starts_with(directory) { Came::Inside } else { Came::Outside }
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        let _ = self.init.kill();
        let _ = self.init.wait();
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn place(path: &Path) -> OwnedFd {
    open(path, OFlag::O_PATH | OFlag::O_DIRECTORY, Mode::empty()).unwrap()
}

fn place_to_read(path: &Path) -> OwnedFd {
    open(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY, Mode::empty()).unwrap()
}

/// The control's resolver: looks where a path leads, and answers the path.
fn checked<'p>(root: &Path, path: &'p Path) -> Option<&'p Path> {
    path.canonicalize().is_ok_and(|real| real.starts_with(root)).then_some(path)
}

/// Whether a path of the canary's, which the control may have made, is there; it is not after that.
fn take_away(path: &Path) -> Came {
    let made = fs::remove_dir(path).or_else(|_| fs::remove_file(path)).is_ok();
    if made { Came::Outside } else { Came::Inside }
}

// Shapes of target.

#[test]
fn a_container_path() {
    on(Host::Private, || {
        let arena = Arena::new();
        let root = arena.baited("root");
        let fd = place(&root);
        let record = RefCell::new(arena.record(&root));
        let path = ContainerPath::parse("/a/x").unwrap();
        let missing = Missing::Refuse { inside: String::new(), command: String::new() };
        let ours = || {
            let mut record = record.borrow_mut();
            let mut points = MountPoints {
                runtime: &arena.runtime,
                record: &mut record,
                proc_fds: &arena.proc_fds,
                host_root: None,
            };
            let owner = (0, 0);
            let base = Below { fd: &fd, within: Within::Root, resolve: Resolve::InRoot, owner };
            match points.place(&base, &path, Kind::Directory, &missing).map(|(place, _)| place) {
                Ok(found) => arena.is_below(&root, found),
                Err(_) => Came::Refused,
            }
        };
        let by_path = root.join("a/x");
        let control = || match checked(&root, &by_path).and_then(|path| fs::File::open(path).ok()) {
            Some(found) => arena.is_below(&root, found),
            None => Came::Refused,
        };
        race("container path", ROUNDS, (&root, &arena.canary), ours, control);
    });
}

// Made in each round, with an owner of its own.
#[test]
fn the_parent_of_a_mount_point() {
    on(Host::Private, || {
        let arena = Arena::new();
        let root = arena.baited("root");
        let fd = place(&root);
        let path = ContainerPath::parse("/a/x/new").unwrap();
        let parents = parents(&arena, &root);
        let record = RefCell::new(Some(arena.record(&root)));
        let mut round = 0;
        let ours = || {
            let mut record = record.borrow_mut();
            if round % 1000 == 0 {
                arena.undo(record.take().unwrap());
                tree::empty(arena.runtime.mount_points().unwrap()).unwrap();
                record.replace(arena.record(&root));
            }
            round += 1;
            let came = make(&arena, (&root, &fd), &path, record.as_mut().unwrap());
            // Not as the project removes it, which is a shape of its own.
            parents.iter().for_each(|parent| drop(sys::unlink_at(parent, "new".as_ref(), true)));
            came
        };
        let (parent, outside) = (root.join("a/x"), arena.canary.dir.join("x/new"));
        let control = || {
            let Some(parent) = checked(&root, &parent) else { return Came::Refused };
            let _ = fs::create_dir(parent.join("new"));
            parents.iter().for_each(|parent| drop(sys::unlink_at(parent, "new".as_ref(), true)));
            take_away(&outside)
        };
        race("mount point's parent", ROUNDS, (&root, &arena.canary), ours, control);
        assert!(!arena.canary.changes().is_empty(), "the canary does not tell of what was made and removed again");
    });
}

// As poststop and a failed start do, with directories above that were made too. The control looks for its mount point by
// path, as BuildKit did (CVE-2024-23652): the canary has an empty directory of that name.
#[test]
fn a_mount_point_that_is_removed() {
    on(Host::Private, || {
        let arena = Arena::new();
        let root = arena.baited("root");
        let fd = place(&root);
        let path = ContainerPath::parse("/a/x/empty/deep").unwrap();
        let parents = parents(&arena, &root);
        let ours = || {
            let mut record = arena.record(&root);
            let came = make(&arena, (&root, &fd), &path, &mut record);
            arena.undo(record);
            parents.iter().for_each(|parent| drop(tree::remove(parent, "empty".as_ref())));
            came
        };
        let (inside, by_path) = (&parents[0], root.join("a/x/empty"));
        let outside = arena.canary.dir.join("x/empty");
        let control = || {
            let _ = sys::mkdir_at(inside, "empty", 0o755);
            let Some(path) = checked(&root, &by_path) else { return Came::Refused };
            let _ = fs::remove_dir(path);
            fs::create_dir(&outside).map_or(Came::Inside, |()| Came::Outside)
        };
        race("removed mount point", REMOVED, (&root, &arena.canary), ours, control);
        assert_eq!(names(&arena.dir.join("run/mountpoints")), [""; 0]);
    });
}

/// Makes a mount point below a root.
fn make(arena: &Arena, (root, fd): (&Path, &OwnedFd), path: &ContainerPath, record: &mut Record) -> Came {
    let mut points = MountPoints { runtime: &arena.runtime, record, proc_fds: &arena.proc_fds, host_root: None };
    let owner = (1000, 1000);
    let base = Below { fd, within: Within::Root, resolve: Resolve::InRoot, owner };
    match points.place(&base, path, Kind::Directory, &Missing::Make).map(|(place, _)| place) {
        Ok(found) => arena.is_below(root, found),
        Err(_) => Came::Refused,
    }
}

/// Where `a/x` and what the links mean below the root are.
fn parents(arena: &Arena, root: &Path) -> [OwnedFd; 3] {
    let absolute = root.join(arena.canary.dir.strip_prefix("/").unwrap());
    [root.join("a"), root.join("host"), absolute].map(|parent| place(&parent.join("x")))
}

#[test]
fn a_subdirectory_of_a_volume() {
    on(Host::Private, || {
        let arena = Arena::new();
        let volume = arena.baited("volume");
        let fd = place(&volume);
        let subpath = ContainerPath::parse_relative("a/x").unwrap();
        let ours = || match volume::open_subpath(&fd, &subpath) {
            Ok(found) => arena.is_below(&volume, found),
            Err(_) => Came::Refused,
        };
        let by_path = volume.join("a/x");
        let control = || match checked(&volume, &by_path).and_then(|path| fs::File::open(path).ok()) {
            Some(found) => arena.is_below(&volume, found),
            None => Came::Refused,
        };
        race("volume's subdirectory", ROUNDS, (&volume, &arena.canary), ours, control);
    });
}

// Directories that are mounted from it, and mount points in it.
#[test]
fn a_directory_of_a_sandbox() {
    on(Host::Private, || {
        let arena = Arena::new();
        let sandbox = arena.baited("sandbox");
        let fd = place(&sandbox);
        let made = ContainerPath::parse_relative("a/x/new").unwrap();
        let parent = place(&sandbox.join("a/x"));
        let mut round = 0;
        let ours = || {
            round += 1;
            let came = if round % RECORDED != 0 {
                match tree::make(&fd, &made.relative(), 0o755, Resolve::BeneathNoLinksNoMounts, |made, _| {
                    sys::chown(made, 1000, 1000)
                }) {
                    Ok(_) => Came::Inside,
                    Err(_) => Came::Refused,
                }
            } else {
                let mut record = arena.record(&sandbox);
                let mut points = MountPoints {
                    runtime: &arena.runtime,
                    record: &mut record,
                    proc_fds: &arena.proc_fds,
                    host_root: None,
                };
                let resolve = Resolve::BeneathNoLinks;
                let base = Below { fd: &fd, within: Within::Root, resolve, owner: (1000, 1000) };
                let came = match points.place(&base, &made, Kind::Directory, &Missing::Make).map(|(place, _)| place) {
                    Ok(found) => arena.is_below(&sandbox, found),
                    Err(_) => Came::Refused,
                };
                arena.undo(record);
                came
            };
            let _ = tree::remove(&parent, "new".as_ref());
            came
        };
        let (by_path, outside) = (sandbox.join("a/x"), arena.canary.dir.join("x/new"));
        let control = || {
            let Some(directory) = checked(&sandbox, &by_path) else { return Came::Refused };
            let _ = fs::create_dir(directory.join("new"));
            let _ = tree::remove(&parent, "new".as_ref());
            take_away(&outside)
        };
        race("sandbox", ROUNDS, (&sandbox, &arena.canary), ours, control);
    });
}

// filesystem/posix: the container's working directory, and its links.
#[test]
fn a_link_in_a_working_directory() {
    on(Host::Private, || {
        let arena = Arena::new();
        let sandboxes = arena.baited("sandboxes");
        fs::create_dir(sandboxes.join("a/x/users")).unwrap();
        std::os::unix::fs::chown(sandboxes.join("a/x/users"), Some(7), Some(8)).unwrap();
        let cwd = sandboxes.join("a/x/users");
        let link = ContainerPath::parse_relative("data").unwrap();
        let parent = place(&cwd);
        let directories = [sandboxes.clone()];
        let mut round = 0;
        let ours = || {
            // The canary's has the same owner.
            let Ok(fd) = sandbox::open_working_directory(text(&cwd), &directories, 7) else { return Came::Refused };
            let came = arena.is_below(&sandboxes, &fd);
            round += 1;
            if round % RECORDED != 0 {
                return came;
            }
            let mut record = arena.record(&sandboxes);
            let sandbox = Line::Sandbox { path: text(&cwd).to_owned(), made: false, remove_at_stop: false };
            record.add(sandbox).unwrap();
            let mut points = MountPoints {
                runtime: &arena.runtime,
                record: &mut record,
                proc_fds: &arena.proc_fds,
                host_root: None,
            };
            let (resolve, within) = (Resolve::BeneathNoLinks, Within::Sandbox);
            let base = Below { fd: &fd, within, resolve, owner: (7, 8) };
            points.link(&base, &link, Path::new("/volume")).unwrap();
            arena.undo(record);
            let _ = sys::unlink_at(&parent, "data".as_ref(), false);
            came
        };
        let outside = arena.canary.dir.join("x/users/data");
        let control = || {
            let Some(cwd) = checked(&sandboxes, &cwd) else { return Came::Refused };
            let _ = symlink("/volume", cwd.join("data"));
            let _ = sys::unlink_at(&parent, "data".as_ref(), false);
            take_away(&outside)
        };
        race("working directory", ROUNDS, (&sandboxes, &arena.canary), ours, control);
    });
}

// A sandbox that is collected: the canary has the same names.
#[test]
fn a_tree_that_is_deleted() {
    on(Host::Private, || {
        let arena = Arena::new();
        let sandbox = arena.dir.join("sandbox");
        fs::create_dir(&sandbox).unwrap();
        let fd = place(&sandbox);
        let remove = |name: &str| tree::remove(&fd, name.as_ref()).map_or(Came::Refused, |()| Came::Inside);
        let refill = || {
            let _ = ["a", "b", "c"].map(remove);
            let _ = sys::symlink_at(&fd, "b", &arena.canary.dir);
            let _ = sys::symlink_at(&fd, "c", Path::new("../host"));
            let mut directory = fd.try_clone().unwrap();
            for name in ["a", "x", "empty"] {
                let _ = sys::mkdir_at(&directory, name, 0o700);
                let Ok(next) = sys::open_place(&directory, Path::new(name), Resolve::BeneathNoLinks) else { return };
                directory = next;
            }
        };
        let ours = || {
            refill();
            remove("a")
        };
        let (by_path, outside) = (sandbox.join("a"), arena.canary.dir.join("x/empty"));
        let control = || {
            refill();
            let Some(directory) = checked(&sandbox, &by_path) else { return Came::Refused };
            let _ = fs::remove_dir(directory.join("x/empty"));
            fs::create_dir(&outside).map_or(Came::Inside, |()| Came::Outside)
        };
        race("deleted tree", ROUNDS, (&sandbox, &arena.canary), ours, control);
    });
}

// All of a start's work at once: it opens the volume, its subdirectory and the sandbox, enters the container, makes
// mount points in the root filesystem and in the sandbox, and mounts.
#[test]
fn mounts() {
    on(Host::Private, || {
        let arena = Arena::new();
        let rootfs = arena.rootfs();
        let (volume, sandbox) = (arena.volume("db"), arena.dir.join("work/sandboxes/local").join(NAME));
        fs::create_dir_all(&sandbox).unwrap();
        let attacked = [&*rootfs, &*volume, &*sandbox];
        attacked.iter().for_each(|directory| bait(directory, &arena.canary));
        // One that is there, as it is in the canary, beside those that are made.
        fs::create_dir(rootfs.join("a/x/empty")).unwrap();
        let bundle = rootfs.parent().unwrap();
        fs::write(bundle.join("config.json"), spec().to_string()).unwrap();
        let bundle = Bundle::open(text(bundle), &arena.proc_fds).unwrap();
        let plan = |asked: &str| {
            let annotations = HashMap::from([("io.fs-isolator.volumes".to_owned(), asked.to_owned())]);
            intake::plan("c", &annotations, &bundle.path, &bundle.config, &arena.config).unwrap().unwrap()
        };
        // Each alone as well: a later one that is refused takes out those before it.
        let plans =
            ["db:/a/x/empty", "db:/a/x/new;db:/sub/new:subpath=a/x;db:a/x/new", "db:/a/x/empty;db:a/x/new"].map(plan);
        let mut plans = plans.iter().cycle();
        let host_root = HostRoot::find(&bundle.fd, &bundle.path, "rootfs").unwrap();
        let ours = || {
            let mut record = arena.record(&rootfs);
            let disks = Disks::new(&arena.config);
            let mut job = Job {
                plan: plans.next().unwrap(),
                config: &arena.config,
                live: &arena.live,
                home: &arena.home,
                host_root: &host_root,
                disks: &disks,
                life: &Life::of(&arena.live.init, true),
                container: ("c", text(&bundle.path)),
                runtime: &arena.runtime,
                record: &mut record,
                phase: Phase::Starting,
                sandbox: None,
                bundle: &bundle.config,
                proc_fds: &arena.proc_fds,
            };
            let answer = isolator::attach(&mut job);
            let came = where_mounted(&arena, answer.is_ok());
            arena.undo(record);
            unmount(&arena);
            came
        };
        let by_path = rootfs.join("a/x");
        let control = || {
            sys::enter_mount_namespace(&arena.live.namespace).unwrap();
            let mounted = checked(&rootfs, &by_path)
                .is_some_and(|path| mount(Some(&volume), path, None::<&str>, MsFlags::MS_BIND, None::<&str>).is_ok());
            sys::enter_mount_namespace(&arena.home).unwrap();
            let came = where_mounted(&arena, mounted);
            unmount(&arena);
            came
        };
        let before = mount_table();
        let attacker = Attacker::in_directories(&attacked, Duration::from_millis(2));
        let outside = rounds("mounts", MOUNTS, u32::MAX, ours);
        attacker.stop();
        assert_eq!(outside, 0);
        arena.canary.assert_untouched();
        assert_eq!(mount_table(), before);
        assert_eq!(leases(), [""; 0]);
        let attacker = Attacker::at(&rootfs);
        let outside = rounds("mounts, control", ROUNDS, ENOUGH, control);
        attacker.stop();
        assert!(outside > 0, "the control did not get outside");
    });
}

/// Where the container's namespace has mounts of the volume and of the sandbox.
fn mounted(arena: &Arena) -> Vec<PathBuf> {
    let table = fs::read_to_string(format!("/proc/{}/mountinfo", arena.init.id())).unwrap();
    let fields = table.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    fields.filter(|fields| fields[3].starts_with("/work/")).map(|fields| PathBuf::from(fields[4])).collect()
}

fn where_mounted(arena: &Arena, all: bool) -> Came {
    let mounted = mounted(arena);
    match (mounted.iter().all(|point| point.starts_with(arena.rootfs())), all) {
        (false, _) => Came::Outside,
        (true, true) => {
            assert!(!mounted.is_empty());
            Came::Inside
        }
        (true, false) => Came::Refused,
    }
}

/// The attacker moves mount points about: again, until there are none.
fn unmount(arena: &Arena) {
    sys::enter_mount_namespace(&arena.live.namespace).unwrap();
    wait_for("the volume to be unmounted", || {
        let points = mounted(arena);
        for point in &points {
            let _ = umount2(point, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW);
        }
        points.is_empty()
    });
    sys::enter_mount_namespace(&arena.home).unwrap();
}

// Real containers.

#[test]
fn starts_with_runc() {
    on(Host::Private, || starts(Runtime::Runc));
}

#[test]
fn starts_with_crun() {
    on(Host::Private, || starts(Runtime::Crun));
}

fn starts(runtime: Runtime) {
    let most = STARTS[usize::from(std::env::var_os("FS_ISOLATOR_LONG").is_some())];
    let lab = Lab::new("filesystem/linux");
    let (db, sub) = (lab.volume("db"), lab.volume("sub"));
    let canary = Canary::new(lab.dir.join("host"));
    let mut container = lab.container(runtime, "c");
    let rootfs = container.rootfs();
    bait(&rootfs, &canary);
    bait(&sub, &canary);
    fs::create_dir(rootfs.join("a/x/empty")).unwrap();
    container.ask("db:/a/x/empty;db:/a/x/new;db:a/x/new;sub:/s:subpath=a/x").shell("cat /proc/self/mountinfo");
    // This makes the sandbox, which the next starts find as it is.
    let first = container.run().ok();
    let sandbox = lab.work().join("sandboxes/local").join(&lab.sandboxes("local")[0]);
    tree::empty(&place_to_read(&sandbox)).unwrap();
    bait(&sandbox, &canary);
    let volumes = [&db, &sub].map(|volume| format!(" {}", volume.display()));
    let has = |ran: &Ran| volumes.each_ref().map(|volume| ran.out.matches(volume.as_str()).count());
    assert_eq!(has(&first), [3, 1], "{first:?}");
    let before = mount_table();
    let attacker = Attacker::in_directories(&[&rootfs, &sub, &sandbox], Duration::from_millis(4));
    let name = format!("starts with {}", runtime.program());
    rounds(&name, most, u32::MAX, || {
        let ran = container.run();
        // What the container has is in its own table, wherever the attacker has moved it since.
        let came = match (ran.out.is_empty(), has(&ran)) {
            (true, _) => Came::Refused,
            (false, [3, 1]) => Came::Inside,
            (false, _) => panic!("a volume is not where it was asked for, nor anywhere: {ran:?}"),
        };
        canary.assert_untouched();
        assert_eq!(mount_table(), before);
        came
    });
    attacker.stop();
    for kind in ["records", "mountpoints"] {
        assert_eq!(lab.runtime_files(kind), [""; 0]);
    }
    assert_eq!(leases(), [""; 0]);
}
