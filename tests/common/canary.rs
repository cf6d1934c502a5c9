//! A tree outside of what a container has, which nothing may touch.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

pub struct Canary {
    pub dir: PathBuf,
    before: BTreeMap<PathBuf, Inode>,
}

/// All that a change of any kind changes; the change time alone tells of what was undone again.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Inode {
    number: u64,
    mode: u32,
    owner: (u32, u32),
    links: u64,
    modified: (i64, i64),
    changed: (i64, i64),
    content: Vec<u8>,
}

impl Canary {
    /// Makes the tree: a directory `x` with what hooks and runtimes look for, make and remove elsewhere.
    pub fn new(dir: PathBuf) -> Canary {
        fs::create_dir_all(dir.join("x/empty")).unwrap();
        fs::write(dir.join("x/file"), "precious").unwrap();
        fs::set_permissions(dir.join("x/file"), PermissionsExt::from_mode(0o600)).unwrap();
        fs::create_dir(dir.join("x/users")).unwrap();
        chown(dir.join("x/users"), Some(7), Some(8)).unwrap();
        symlink("file", dir.join("x/link")).unwrap();
        let before = inodes(&dir);
        Canary { dir, before }
    }

    /// What it is from now on, after the test itself has changed it.
    pub fn look_again(&mut self) {
        self.before = inodes(&self.dir);
    }

    /// Paths that are not what they were, and how.
    pub fn changes(&self) -> BTreeMap<PathBuf, String> {
        let now = inodes(&self.dir);
        let paths: std::collections::BTreeSet<&PathBuf> = self.before.keys().chain(now.keys()).collect();
        let change = |path: &PathBuf| {
            let (before, now) = (self.before.get(path), now.get(path));
            (before != now).then(|| (path.clone(), format!("{before:?} is {now:?}")))
        };
        paths.into_iter().filter_map(change).collect()
    }

    #[track_caller]
    pub fn assert_untouched(&self) {
        let changes = self.changes();
        assert!(changes.is_empty(), "outside: {changes:#?}");
    }
}

fn inodes(dir: &Path) -> BTreeMap<PathBuf, Inode> {
    let mut all = BTreeMap::new();
    let mut todo = vec![dir.to_owned()];
    while let Some(path) = todo.pop() {
        let stat = fs::symlink_metadata(&path).unwrap();
        let content = if stat.is_dir() {
            todo.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            Vec::new()
        } else if stat.is_symlink() {
            fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes()
        } else {
            fs::read(&path).unwrap()
        };
        let inode = Inode {
            number: stat.ino(),
            mode: stat.mode(),
            owner: (stat.uid(), stat.gid()),
            links: stat.nlink(),
            modified: (stat.mtime(), stat.mtime_nsec()),
            changed: (stat.ctime(), stat.ctime_nsec()),
            content,
        };
        all.insert(path, inode);
    }
    all
}
