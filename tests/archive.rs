//! `fs-isolator volume export|import`: a volume comes back as it was, also by GNU tar, and archives that mean harm do none.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod common;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::*;
use fs_isolator::sys::{self, Resolve};
use nix::fcntl::OFlag;
use serde_json::{Value, json};

/// Everything that an inode can say of itself, by path; hard links by the first path of the same inode.
fn inodes(top: &Path) -> BTreeMap<PathBuf, String> {
    let mut all = BTreeMap::new();
    let mut first: BTreeMap<u64, PathBuf> = BTreeMap::new();
    let mut todo = vec![top.to_owned()];
    let mut paths = Vec::new();
    while let Some(path) = todo.pop() {
        if fs::symlink_metadata(&path).unwrap().is_dir() {
            todo.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
        paths.push(path);
    }
    paths.sort();
    for path in paths {
        let stat = fs::symlink_metadata(&path).unwrap();
        let fd = sys::open_below(sys::cwd(), &path, OFlag::O_PATH | OFlag::O_NOFOLLOW, Resolve::NoMagic).unwrap();
        let mut attributes: Vec<String> = Vec::new();
        for name in sys::list_xattrs(&fd).unwrap() {
            if name.as_c_str() != c"trusted.fs-isolator" {
                attributes.push(format!("{name:?}={:?}", sys::xattr_of(&fd, &name).unwrap().unwrap()));
            }
        }
        attributes.sort();
        let name = path.strip_prefix(top).unwrap().to_owned();
        let mut told =
            format!("{:o} {}:{} {}.{:09}", stat.mode(), stat.uid(), stat.gid(), stat.mtime(), stat.mtime_nsec());
        told.push_str(&format!(
            " links {} device {:x} {attributes:?}",
            if stat.is_dir() { 0 } else { stat.nlink() },
            stat.rdev()
        ));
        if !stat.is_dir() {
            told.push_str(&format!(" inode of {:?}", first.entry(stat.ino()).or_insert(name.clone())));
        }
        if stat.is_file() {
            let sum = run("sha256sum", &["--", path.to_str().unwrap_or("")]).out;
            let content = if sum.is_empty() {
                format!("{:?}", fs::read(&path).unwrap())
            } else {
                sum.trim_start_matches('\\')[..64].to_owned()
            };
            told.push_str(&format!(" {} bytes {content}", stat.len()));
        } else if stat.is_symlink() {
            told.push_str(&format!(" -> {:?}", fs::read_link(&path).unwrap()));
        }
        all.insert(name, told);
    }
    all
}

/// A tree with one of everything.
const TREE: &str = r##"
import os, struct, sys
os.umask(0)
os.chdir(sys.argv[1])
def write(path, data=b"x", mode=0o644, uid=0, gid=0):
    with open(path, "wb") as f: f.write(data)
    os.chown(path, uid, gid); os.chmod(path, mode)
os.mkdir("empty", 0o700)
os.mkdir("sticky"); os.chown("sticky", 1000, 4242); os.chmod("sticky", 0o3775)
write("plain", b"hello\n", 0o600, 26, 27)
write("nothing", b"")
write("setuid", b"#!", 0o6755, 1001, 1002)
write("large-owner", b"x", 0o640, 4000000000, 3000000)
write(b"sticky/\xff\xfe not utf-8")
write("sticky/new\nline", b"x")
write("-dash"); write("%s $HOME `x`"); write("a\\b"); write(" ")
write("n" * 255, b"long name")
deep = "d"
for n in range(30):
    os.makedirs(deep, exist_ok=True); deep += "/" + "component-%02d" % n
os.makedirs(deep); write(deep + "/bottom", b"far down")
os.link(deep + "/bottom", "d/top"); os.link("d/top", "z-link"); os.symlink("plain", "link"); os.link("link", "link2")
os.symlink("/etc/passwd", "out"); os.symlink("../" * 100 + "etc/shadow", "far"); os.symlink("dangling\n", "sticky/l")
os.lchown("link", 5, 6)
os.mkfifo("fifo", 0o640); os.mknod("null", 0o020666, os.makedev(1, 3)); os.mknod("disk", 0o060660, os.makedev(259, 70000))
os.chown("null", 1, 2)
write("xattrs", b"x", 0o644, 7, 8)
os.setxattr("xattrs", "user.plain", b"value"); os.setxattr("xattrs", "user.empty", b"")
os.setxattr("xattrs", "user.bin=%25\n", b"\n\x00=\n17 x=y\n"); os.setxattr("xattrs", "user.long", b"l" * 3000)
os.setxattr("xattrs", "trusted.t", b"t"); os.setxattr("empty", "user.dir", b"d")
os.setxattr("out", "trusted.link", b"l", follow_symlinks=False)
cap = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)
write("capable", b"x", 0o755, 9, 9); os.setxattr("capable", "security.capability", cap)
acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *e) for e in [(1, 6, 2**32-1), (2, 4, 1234), (4, 4, 2**32-1), (16, 4, 2**32-1), (32, 0, 2**32-1)])
write("acl", b"x", 0o640); os.setxattr("acl", "system.posix_acl_access", acl)
os.setxattr("sticky", "system.posix_acl_default", acl)
with open("sparse", "wb") as f:
    f.truncate(64 << 20)
    for at in (0, 1 << 20, 40 << 20): f.seek(at); f.write(b"data" * 2000)
with open("hole", "wb") as f: f.truncate(10 << 20)
with open("ends", "wb") as f: f.seek(5 << 20); f.write(b"end")
with open("holes", "wb") as f:
    for n in range(500): f.seek(n * 16384); f.write(b"%d" % n)
for n, (root, dirs, files) in enumerate(sorted(os.walk(".", topdown=False))):
    for name in files + dirs: os.utime(os.path.join(root, name), ns=(0, 1234567890123456789 + n), follow_symlinks=False)
os.utime("plain", ns=(0, -1500000000)); os.utime("nothing", ns=(0, 0))
os.chown(".", 1000, 1001); os.chmod(".", 0o2770); os.setxattr(".", "user.root", b"r"); os.utime(".", ns=(0, 999))
"##;

fn tree(at: &Path) {
    run("python3", &["-c", TREE, at.to_str().unwrap()]).ok();
}

fn export(lab: &Lab, arguments: &[&str], to: &Path) -> Ran {
    let mut command = Command::new(CLI);
    command.arg("--config").arg(lab.config()).args(["volume", "export"]).args(arguments);
    let output = command.stdout(File::create(to).unwrap()).stderr(Stdio::piped()).output().unwrap();
    Ran { code: output.status.code().unwrap(), out: String::new(), err: String::from_utf8_lossy(&output.stderr).into() }
}

fn import(lab: &Lab, arguments: &[&str], from: &Path) -> Ran {
    let mut command = Command::new(CLI);
    command.arg("--config").arg(lab.config()).args(["volume", "import"]).args(arguments);
    let output = command.stdin(File::open(from).unwrap()).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ran { code: output.status.code().unwrap(), out: text(&output.stdout), err: text(&output.stderr) }
}

fn role(lab: &Lab, role: &str) -> Vec<String> {
    names(&lab.work().join("volumes/roles").join(role))
}

#[test]
fn a_volume_comes_back_as_it_was() {
    on(Host::Private, || {
        let lab = Lab::new("filesystem/linux");
        lab.cli(&["volume", "create", "--shared", "--size", "64", "--ownership", "never", "db"]).ok();
        let volume = lab.volume_path("default", "db");
        tree(&volume);
        let before = inodes(&volume);
        let file = lab.dir.join("db.tar");
        let ran = export(&lab, &["db"], &file).ok();
        assert!(ran.err.starts_with(&format!("exported {} files", before.len())), "{ran:?}");
        assert!(fs::metadata(&file).unwrap().len() < 30 << 20, "holes are holes");
        // Another host: another lab.
        let other = Lab::new("filesystem/linux");
        let refused = import(&other, &["--role", "team/a", "db2"], &file);
        assert!(
            refused.code == 92 && refused.err.contains("--devices") && refused.err.contains("./disk"),
            "{refused:?}"
        );
        assert!(role(&other, "team a").is_empty());
        let ran = import(&other, &["--role", "team/a", "--devices", "db2"], &file).ok();
        let there = other.volume_path("team/a", "db2");
        assert_eq!(ran.lines()[0], there.to_str().unwrap());
        assert_eq!(inodes(&there), before);
        let blocks = |path: &Path| fs::metadata(path).unwrap().blocks();
        for name in ["sparse", "hole", "ends", "holes"] {
            assert!(blocks(&there.join(name)) <= blocks(&volume.join(name)) + 64, "{name}");
        }
        let shown: Value =
            serde_json::from_str(&other.cli(&["volume", "inspect", "--json", "--role", "team/a", "db2"]).ok().out)
                .unwrap();
        assert_eq!(
            (&shown["shared"], &shown["size_mb"], &shown["ownership"]),
            (&json!(true), &json!(64.0), &json!("never"))
        );
        // The same volume is the same stream but for its name.
        let again = lab.dir.join("again.tar");
        export(&other, &["--role", "team/a", "db2"], &again).ok();
        assert_eq!(fs::metadata(&again).unwrap().len(), fs::metadata(&file).unwrap().len());
        assert_eq!(import(&other, &["--role", "team/a", "--devices", "db2"], &file).code, 70);
        lab.assert_clean();
        other.assert_clean();
    });
}

#[test]
fn gnu_tar_reads_it() {
    on(Host::Private, || {
        let lab = Lab::new("filesystem/linux");
        let volume = lab.volume("db");
        tree(&volume);
        let file = lab.dir.join("db.tar");
        export(&lab, &["db"], &file).ok();
        let out = lab.dir.join("out");
        fs::create_dir(&out).unwrap();
        let (file, out) = (file.to_str().unwrap(), out.to_str().unwrap());
        let listed = run("tar", &["--quoting-style=escape", "-tvf", file]).ok();
        assert!(listed.err.is_empty() && listed.lines().len() == inodes(&volume).len() + 1, "{}", listed.err);
        let flags = ["--numeric-owner", "-xpf", file, "-C", out, "--xattrs", "--xattrs-include=*", "--acls"];
        let ran = run("tar", &flags).ok();
        // It has an opinion about times before 1970, and keeps them.
        let told: Vec<&str> = ran.err.lines().filter(|line| !line.contains("implausibly old time stamp")).collect();
        assert!(told.is_empty(), "{told:?}");
        assert_eq!(inodes(Path::new(out)), inodes(&volume));
    });
}

// What GNU tar makes of it beside what this does: neither loses what the other keeps.
#[test]
fn gnu_tar_itself_keeps_no_more() {
    on(Host::Private, || {
        let lab = Lab::new("filesystem/linux");
        let volume = lab.volume("db");
        tree(&volume);
        let (theirs, out) = (lab.dir.join("theirs.tar"), lab.dir.join("out"));
        fs::create_dir(&out).unwrap();
        let flags = ["--format=posix", "--numeric-owner", "--xattrs", "--xattrs-include=*", "--acls", "--sparse"];
        let (file, from) = (theirs.to_str().unwrap(), volume.to_str().unwrap());
        run("tar", &[&flags[..], &["-cf", file, "-C", from, "."]].concat()).ok();
        run("tar", &[&flags[..], &["-xpf", file, "-C", out.to_str().unwrap()]].concat()).ok();
        let (mine, mut theirs) = (inodes(&volume), inodes(&out));
        theirs.retain(|path, told| mine.get(path) != Some(told));
        println!("what GNU tar's own round trip changes: {theirs:#?}");
    });
}

#[test]
fn an_archive_that_was_cut_short_or_damaged_leaves_nothing() {
    on(Host::Private, || {
        labs_in_memory();
        let lab = Lab::new("filesystem/linux");
        let volume = lab.volume("db");
        fs::create_dir(volume.join("sub")).unwrap();
        fs::write(volume.join("sub/file"), vec![b'x'; 3000]).unwrap();
        let file = lab.dir.join("db.tar");
        export(&lab, &["db"], &file).ok();
        let good = fs::read(&file).unwrap();
        let bad = lab.dir.join("bad.tar");
        let refused = |bytes: &[u8], what: &str| {
            fs::write(&bad, bytes).unwrap();
            let ran = import(&lab, &["--role", "other", "new"], &bad);
            assert!(ran.code == 92 || ran.code == 93, "{what}: {ran:?}");
            assert!(role(&lab, "other").is_empty(), "{what}: {:?}", role(&lab, "other"));
        };
        for end in (0..good.len()).step_by(512).chain([1, good.len() - 1]) {
            refused(&good[..end], &format!("cut at {end}"));
        }
        for at in (0..good.len()).step_by(97) {
            let mut bytes = good.clone();
            bytes[at] ^= 1;
            refused(&bytes, &format!("damaged at {at}"));
        }
        refused(&[&good[..], b"x"].concat(), "more after the end");
        fs::write(&bad, [&good[..], &[0; 9216]].concat()).unwrap();
        import(&lab, &["--role", "other", "new"], &bad).ok();
        lab.assert_clean();
    });
}

/// Hostile archives: what comes after the root, as python's tarfile writes it.
const HOSTILE: &str = r##"
import io, json, sys, tarfile
case, path = sys.argv[1:]
t = tarfile.open(path, "w", format=tarfile.PAX_FORMAT)
def add(name, kind=tarfile.REGTYPE, data=b"", link="", pax={}, **more):
    m = tarfile.TarInfo(name); m.type = kind; m.linkname = link; m.size = len(data); m.pax_headers = dict(pax)
    for key, value in more.items(): setattr(m, key, value)
    t.addfile(m, io.BytesIO(data))
begin = {"fs_isolator_volume": 1, "meta": {"version": 1, "role": None, "id": None, "shared": None, "ownership": None, "size_mb": None}}
add("./", tarfile.DIRTYPE, pax={"comment": json.dumps(begin), "path": "./"}, mode=0o755)
D, S, L = tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE
def d(name): add(name, D, pax={"path": name}, mode=0o755)
exec({
  "parent": 'add("./../evil", data=b"x")',
  "parent-inside": 'd("./a/"); add("./a/../../evil", data=b"x")',
  "absolute": 'add("/tmp/evil-fs-isolator", data=b"x")',
  "absolute-pax": 'add("./a", data=b"x", pax={"path": "/tmp/evil-fs-isolator"})',
  "plain": 'add("evil", data=b"x")',
  "dot": 'd("./a/"); add("./a/./b", data=b"x")',
  "empty": 'add(".//b", data=b"x")',
  "under-link": 'add("./l", S, link="/tmp"); add("./l/evil-fs-isolator", data=b"x")',
  "under-own-link": 'd("./a/"); add("./l", S, link="a"); add("./l/b", data=b"x")',
  "over-link": 'add("./l", S, link="/tmp/evil-fs-isolator"); add("./l", data=b"x")',
  "dir-over-link": 'add("./l", S, link="/tmp"); d("./l/"); add("./l/evil-fs-isolator", data=b"x")',
  "twice": 'add("./f", data=b"1"); add("./f", data=b"2")',
  "dir-twice": 'd("./a/"); add("./b"); d("./a/")',
  "file-below-file": 'add("./f", data=b"1"); add("./f/g", data=b"2")',
  "no-parent": 'add("./a/b", data=b"x")',
  "left": 'd("./a/"); d("./b/"); add("./a/x", data=b"x")',
  "hardlink-out": 'add("./h", L, link="/etc/passwd")',
  "hardlink-up": 'add("./h", L, link="./../../../../../etc/passwd")',
  "hardlink-through": 'add("./l", S, link="/etc"); add("./h", L, link="./l/passwd")',
  "hardlink-dir": 'd("./a/"); add("./h", L, link="./a")',
  "hardlink-nothing": 'add("./h", L, link="./later"); add("./later")',
  "device": 'add("./d", tarfile.BLKTYPE, devmajor=8, devminor=0, mode=0o666)',
  "char": 'add("./d", tarfile.CHRTYPE, devmajor=1, devminor=1, mode=0o666)',
  "meta": 'add("./f", pax={"SCHILY.xattr.trusted.fs-isolator": "{}"})',
  "selinux": 'add("./f", pax={"SCHILY.xattr.security.selinux": "x"})',
  "system": 'add("./f", pax={"SCHILY.xattr.system.nfs4_acl": "x"})',
  "long": 'add("./" + "x" * 256)',
  "nul": 'add("./f", pax={"path": "./a\\0b"})',
  "unknown": 'add("./f", pax={"GNU.other": "x"})',
  "type": 'add("./f", b"7")',
  "global": 't.pax_headers = {"path": "./x"}; t.fileobj.write(t.tarinfo.create_pax_global_header({"path": "./x"})); add("./f")',
  "dir-content": 'add("./a/", D, data=b"x" * 512)',
  "holes": 'add("./f", data=b"1\\n5\\n9\\n" + b"\\0" * 506 + b"x" * 9, pax={"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "./f", "GNU.sparse.realsize": "10"})',
  "holes-name": 'add("./f", data=b"0\\n" + b"\\0" * 510, pax={"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "./../evil", "GNU.sparse.realsize": "10"})',
  "holes-old": 'add("./f", pax={"GNU.sparse.map": "0,1", "GNU.sparse.size": "10"})',
  "no-end": 'add("./f", data=b"x")',
  "reserved": 'add("./f", pax={"comment": "{}"})',
}[case])
t.close()
"##;

#[test]
fn an_archive_that_means_harm_does_none() {
    on(Host::Private, || {
        labs_in_memory();
        let lab = Lab::new("filesystem/linux");
        lab.volume_of("other", "keep");
        let cases: Vec<&str> = HOSTILE
            .lines()
            .filter_map(|line| line.trim().strip_prefix('"')?.split_once("\": '").map(|(case, _)| case))
            .collect();
        assert_eq!(cases.len(), 37);
        let outside = || (names(Path::new("/tmp")), manifest(&lab.work().join("volumes")));
        let before = outside();
        for case in cases {
            let file = lab.dir.join(format!("{case}.tar"));
            run("python3", &["-c", HOSTILE, case, file.to_str().unwrap()]).ok();
            let ran = import(&lab, &["--role", "other", "new"], &file);
            assert_eq!(ran.code, 92, "{case}: {ran:?}");
            // For what it has, not because it ends there.
            assert_eq!(ran.err.contains("no end that vouches"), case == "no-end", "{case}: {ran:?}");
            println!("{case}: {}", ran.err.trim());
            let mut after = outside();
            // Other tests of this machine use /tmp.
            after.0.retain(|name| name.contains("evil") || before.0.contains(name));
            assert_eq!((after.0.contains(&"evil-fs-isolator".to_owned()), &after.1), (false, &before.1), "{case}");
        }
        // Anybody's tar is no volume.
        let file = lab.dir.join("plain.tar");
        run("tar", &["-cf", file.to_str().unwrap(), "-C", "/etc", "./passwd"]).ok();
        assert_eq!(import(&lab, &["--role", "other", "new"], &file).code, 92);
        lab.assert_clean();
    });
}

#[test]
fn a_volume_in_use_is_exported_only_with_live() {
    on(Host::Private, || {
        let lab = Lab::new("filesystem/linux");
        lab.volume("db");
        let mut container = lab.container(Runtime::Runc, "holder");
        container.ask("db:data").start("sleep 1000");
        let file = lab.dir.join("db.tar");
        let refused = export(&lab, &["db"], &file);
        assert!(refused.code == 71 && refused.err.contains("holder") && refused.err.contains("--live"), "{refused:?}");
        export(&lab, &["--live", "db"], &file).ok();
        container.kill();
        container.delete();
        // While it is exported nobody gets it: the reader waits.
        let volume = lab.volume_path("default", "db");
        fs::write(volume.join("large"), vec![1; 1 << 20]).unwrap();
        let mut exporting = Command::new(CLI)
            .arg("--config")
            .arg(lab.config())
            .args(["volume", "export", "db"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        wait_for("its lease", || !leases().is_empty());
        let ran = container.run_shell("true");
        assert!(ran.code != 0 && ran.err.contains("exit status 71,"), "{ran:?}");
        exporting.kill().unwrap();
        exporting.wait().unwrap();
        container.run_shell("true").ok();
        lab.assert_clean();
    });
}

#[test]
fn what_cannot_be_exported_is_told() {
    on(Host::Private, || {
        let lab = Lab::new("filesystem/linux");
        let volume = lab.volume("db");
        let _socket = std::os::unix::net::UnixListener::bind(volume.join("socket")).unwrap();
        let file = lab.dir.join("db.tar");
        let ran = export(&lab, &["db"], &file).ok();
        assert!(ran.err.contains("left out: ./socket: a socket"), "{ran:?}");
        let ran = export(&lab, &["--json", "db"], &file).ok();
        let told: Value = serde_json::from_str(&ran.err).unwrap();
        assert_eq!((told["members"].as_u64(), told["left_out"].as_array().unwrap().len()), (Some(1), 1));
        fs::create_dir(volume.join("mounted")).unwrap();
        bind(&lab.dir.join("work"), &volume.join("mounted"));
        let ran = export(&lab, &["db"], &file);
        assert!(ran.code == 91 && ran.err.contains("./mounted"), "{ran:?}");
        nix::mount::umount(&volume.join("mounted")).unwrap();
        assert_eq!(export(&lab, &["nothing"], &file).code, 41);
    });
}

// An import that was killed is no volume, and gc removes it; one that goes on is left alone.
#[test]
fn an_import_that_was_killed_leaves_no_volume() {
    on(Host::Private, || {
        let lab = Lab::new("filesystem/linux");
        let volume = lab.volume("db");
        fs::write(volume.join("file"), vec![1; 1 << 20]).unwrap();
        let file = lab.dir.join("db.tar");
        export(&lab, &["db"], &file).ok();
        let mut importing = Command::new(CLI)
            .arg("--config")
            .arg(lab.config())
            .args(["volume", "import", "new"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let half = fs::read(&file).unwrap()[..600 << 10].to_vec();
        let mut stdin = importing.stdin.take().unwrap();
        std::io::Write::write_all(&mut stdin, &half).unwrap();
        let new = || role(&lab, "default").into_iter().find(|name| name.starts_with(".fs-isolator.import."));
        wait_for("the import", || {
            new().is_some_and(|name| lab.work().join("volumes/roles/default").join(name).join("file").exists())
        });
        lab.cli(&["gc"]).ok();
        assert!(new().is_some(), "it goes on");
        assert_eq!(lab.cli(&["volume", "list", "--json"]).ok().out.matches("\"id\"").count(), 1);
        importing.kill().unwrap();
        importing.wait().unwrap();
        let ran = lab.cli(&["gc"]).ok();
        assert!(new().is_none() && ran.out.contains("an import that was not finished"), "{ran:?}");
        lab.assert_clean();
    });
}

// Constant memory, whatever the size: 2 GiB of data that is no hole would not fit.
#[test]
fn memory_does_not_grow_with_the_files() {
    on(Host::Private, || {
        let lab = Lab::new("filesystem/linux");
        let volume = lab.volume("db");
        let large = File::create(volume.join("large")).unwrap();
        let chunk = vec![7; 1 << 20];
        (0..200).for_each(|n| large.write_all_at(&chunk, n << 20).unwrap());
        let limited = |verb: &str, rest: &str| {
            // Address space, in KiB; the program and its buffers take a few.
            let line = format!("ulimit -v 65536; exec {CLI} --config {} volume {verb} {rest}", lab.config().display());
            run("bash", &["-c", &line]).ok();
        };
        let file = lab.dir.join("db.tar");
        limited("export", &format!("db > {}", file.display()));
        limited("import", &format!("new < {}", file.display()));
        assert_eq!(fs::metadata(lab.volume_path("default", "new").join("large")).unwrap().len(), 200 << 20);
    });
}
