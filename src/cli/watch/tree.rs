//! What `watch` looks at: `runtime_dir` and the two directories in it, whether they are there already or come later.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};

use super::events::{Event, Kind, changes};
use crate::config::Config;
use crate::error::{Because, Cause, Error, Result};
use crate::record::{self, Attached, Header, Line};
use crate::sys::{self, Resolve};
use crate::tree;
use crate::trusted::{self, Missing};

/// Most of a log that is read at once, in bytes: hooks begin anew long before.
const LARGEST: u64 = 1 << 20;

/// One of the two directories.
struct Directory {
    fd: OwnedFd,
    watch: WatchDescriptor,
}

/// A record that is open: what it says can be read when it has lost its name already.
struct Known {
    file: File,
    header: Option<Header>,
    attached: Vec<Attached>,
}

/// A log that is open, and how far it was read.
struct LogFile {
    file: File,
    offset: u64,
}

/// All that is looked at.
pub struct Watched {
    kernel: Inotify,
    runtime_dir: PathBuf,
    records: Option<Directory>,
    logs: Option<Directory>,
    known: BTreeMap<String, Known>,
    read: BTreeMap<String, LogFile>,
    /// Nothing was told yet.
    is_first: bool,
}

impl AsFd for Watched {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.kernel.as_fd()
    }
}

fn cannot(errno: Errno) -> Error {
    let error = Error::new(Cause::RuntimeDir, format!("runtime_dir cannot be watched: {}", errno.desc()));
    match errno {
        Errno::EMFILE | Errno::ENOSPC => {
            error.remedy("raise fs.inotify.max_user_instances and fs.inotify.max_user_watches")
        }
        _ => error,
    }
}

/// The names of a directory that come and go.
fn names() -> AddWatchFlags {
    AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_DELETE | AddWatchFlags::IN_MOVED_FROM
}

impl Watched {
    /// Begins to watch, whether there is anything yet or not.
    ///
    /// # Errors
    /// [`Cause::RuntimeDir`], [`Cause::ConfigUnsafe`].
    pub fn begin(config: &Config) -> Result<Watched> {
        let kernel = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).map_err(cannot)?;
        Ok(Watched {
            kernel,
            runtime_dir: config.runtime_dir.clone(),
            records: None,
            logs: None,
            known: BTreeMap::new(),
            read: BTreeMap::new(),
            is_first: true,
        })
    }

    /// Looks at all there is, after it is watched: nothing that comes in between is missed. The first time it tells what is
    /// there, and later what is new.
    ///
    /// # Errors
    /// [`Cause::RuntimeDir`], [`Cause::ConfigUnsafe`].
    pub fn look_around(&mut self) -> Result<Vec<Event>> {
        self.watch_all()?;
        let mut events = Vec::new();
        let doing = || "runtime_dir cannot be listed".to_owned();
        let list = |directory: &Option<Directory>| match directory {
            None => Ok(Vec::new()),
            // One that was removed is open still.
            Some(directory) => sys::if_there(tree::names(&directory.fd))
                .map(Option::unwrap_or_default)
                .because(Cause::RuntimeDir, doing),
        };
        // Why a container was refused comes before its end.
        for name in list(&self.logs)? {
            self.look_at_log(&name.to_string_lossy(), &mut events);
        }
        let there = list(&self.records)?;
        for name in &there {
            self.look_at_record(&name.to_string_lossy(), &mut events);
        }
        let gone: Vec<String> =
            self.known.keys().filter(|name| !there.iter().any(|there| there == OsStr::new(*name))).cloned().collect();
        gone.iter().for_each(|name| self.end_record(name, &mut events));
        self.is_first = false;
        Ok(events)
    }

    /// What has happened since the last look.
    ///
    /// # Errors
    /// As [`Watched::look_around`].
    pub fn news(&mut self) -> Result<Vec<Event>> {
        let mut events = Vec::new();
        loop {
            let changes = match self.kernel.read_events() {
                Err(Errno::EAGAIN) => return Ok(events),
                Err(Errno::EINTR) => continue,
                answer => answer.map_err(cannot)?,
            };
            for change in changes {
                let is_in =
                    |directory: &Option<Directory>| directory.as_ref().is_some_and(|one| one.watch == change.wd);
                let gone = change.mask.intersects(AddWatchFlags::IN_DELETE | AddWatchFlags::IN_MOVED_FROM);
                match change.name.as_deref().and_then(OsStr::to_str) {
                    Some(name) if is_in(&self.records) && gone => self.end_record(name, &mut events),
                    Some(name) if is_in(&self.records) => self.look_at_record(name, &mut events),
                    Some(name) if is_in(&self.logs) && gone => self.end_log(name, &mut events),
                    Some(name) if is_in(&self.logs) => self.look_at_log(name, &mut events),
                    // A directory has come or gone, or too much has happened at once.
                    _ => {
                        if change.mask.contains(AddWatchFlags::IN_IGNORED) {
                            if is_in(&self.records) {
                                self.records = None;
                            } else if is_in(&self.logs) {
                                self.logs = None;
                            }
                        }
                        events.extend(self.look_around()?);
                    }
                }
            }
        }
    }

    /// Watches what is there; where `runtime_dir` is not, the directory above in which it will be made.
    fn watch_all(&mut self) -> Result<()> {
        loop {
            if let Some(root) = trusted::open_dir(&self.runtime_dir, Missing::Tell)? {
                let mask = names() | AddWatchFlags::IN_DELETE_SELF | AddWatchFlags::IN_MOVE_SELF;
                if self.add(&root, mask)?.is_none() {
                    continue;
                }
                let inside = names() | AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_DELETE_SELF;
                self.records = self.watch_in(&root, "records", inside)?;
                self.logs = self.watch_in(&root, "log", inside)?;
                return Ok(());
            }
            (self.records, self.logs) = (None, None);
            let is_there = |path: &&std::path::Path| path.symlink_metadata().is_ok();
            let above = self.runtime_dir.ancestors().skip(1).find(is_there);
            let above = above.unwrap_or(std::path::Path::new("/")).to_owned();
            let next = self.runtime_dir.ancestors().take_while(|path| *path != above).last().map(ToOwned::to_owned);
            let mask = names() | AddWatchFlags::IN_DELETE_SELF | AddWatchFlags::IN_MOVE_SELF;
            match self.kernel.add_watch(&above, mask | AddWatchFlags::IN_ONLYDIR) {
                Err(Errno::ENOENT) => continue,
                answer => answer.map(drop).map_err(cannot)?,
            }
            // It may have been made just before it was watched.
            if next.is_none_or(|next| next.symlink_metadata().is_err()) {
                return Ok(());
            }
        }
    }

    fn watch_in(&self, root: &OwnedFd, name: &str, mask: AddWatchFlags) -> Result<Option<Directory>> {
        let opened = sys::if_there(sys::open_dir(root, name.as_ref(), Resolve::BeneathNoLinks));
        let Some(fd) = opened.because(Cause::RuntimeDir, || format!("{name} under runtime_dir cannot be opened"))?
        else {
            return Ok(None);
        };
        Ok(self.add(&fd, mask)?.map(|watch| Directory { fd, watch }))
    }

    /// By its descriptor: no path is looked up again. `None` where it is gone.
    fn add(&self, directory: impl AsFd, mask: AddWatchFlags) -> Result<Option<WatchDescriptor>> {
        let path = format!("/proc/self/fd/{}", directory.as_fd().as_raw_fd());
        match self.kernel.add_watch(path.as_str(), mask | AddWatchFlags::IN_ONLYDIR) {
            Err(Errno::ENOENT) => Ok(None),
            answer => answer.map(Some).map_err(cannot),
        }
    }

    fn look_at_record(&mut self, name: &str, events: &mut Vec<Event>) {
        let Some(directory) = &self.records else { return };
        // It may have been written anew, under the same name. What lost its name is read as it was last.
        if let Ok(fd) = sys::open_file_at(&directory.fd, name, OFlag::O_RDONLY, 0) {
            let file = File::from(fd);
            match self.known.get_mut(name) {
                Some(known) => known.file = file,
                None => {
                    self.known.insert(name.to_owned(), Known { file, header: None, attached: Vec::new() });
                }
            }
        }
        let Some(known) = self.known.get_mut(name) else { return };
        let kind = if self.is_first { Kind::Present } else { Kind::Attached };
        known.tell_changes(name, kind, events);
    }

    /// A record goes when nothing of its container is left. One whose container got nothing has nothing to tell.
    fn end_record(&mut self, name: &str, events: &mut Vec<Event>) {
        // Another of this name may be there already.
        let Some(mut known) = self.known.remove(name) else { return };
        known.tell_changes(name, Kind::Attached, events);
        let Some(header) = &known.header else { return };
        let kind = if record::is_reaped(&known.file) { Kind::Reconciled } else { Kind::Released };
        events.extend(known.attached.iter().map(|attached| Event::of(kind, header, attached)));
    }

    fn look_at_log(&mut self, name: &str, events: &mut Vec<Event>) {
        let Some(directory) = &self.logs else { return };
        if !self.read.contains_key(name) {
            let Ok(fd) = sys::open_file_at(&directory.fd, name, OFlag::O_RDONLY, 0) else { return };
            let file = File::from(fd);
            let offset = if self.is_first { file.metadata().map_or(0, |meta| meta.len()) } else { 0 };
            self.read.insert(name.to_owned(), LogFile { file, offset });
        }
        let container = name.rsplit_once('.').map_or(name, |(id, _)| id);
        if let Some(read) = self.read.get_mut(name) {
            read.tell_lines(container, events);
        }
    }

    fn end_log(&mut self, name: &str, events: &mut Vec<Event>) {
        let container = name.rsplit_once('.').map_or(name, |(id, _)| id);
        if let Some(mut read) = self.read.remove(name) {
            read.tell_lines(container, events);
        }
    }
}

impl Known {
    /// Tells what it has got or given up since the last look.
    fn tell_changes(&mut self, name: &str, new: Kind, events: &mut Vec<Event>) {
        let (header, lines) = match record::look_in(&mut self.file, name) {
            Ok(Some(found)) => found,
            Ok(None) => return,
            Err(error) => return eprintln!("fs-isolator: {error}"),
        };
        // Another container of this id and bundle, whose prestart has undone what was left of the earlier one.
        if let Some(earlier) = self.header.take_if(|earlier| earlier.life.init != header.life.init) {
            let left = std::mem::take(&mut self.attached);
            events.extend(left.iter().map(|attached| Event::of(Kind::Reconciled, &earlier, attached)));
        }
        let done = lines.iter().rev().find_map(|line| match line {
            Line::Done { attachments, .. } => Some(attachments.clone()),
            _ => None,
        });
        // Until it is done, it has nothing.
        if let Some(attached) = done {
            let (gone, got) = changes(&self.attached, &attached);
            events.extend(gone.iter().map(|one| Event::of(Kind::Detached, &header, one)));
            events.extend(got.iter().map(|one| Event::of(new, &header, one)));
            self.attached = attached;
        }
        self.header = Some(header);
    }
}

impl LogFile {
    /// Tells what its new lines tell.
    fn tell_lines(&mut self, container: &str, events: &mut Vec<Event>) {
        let length = self.file.metadata().map_or(0, |meta| meta.len());
        if length < self.offset {
            // It was too long and has begun anew.
            self.offset = 0;
        }
        let mut text = Vec::new();
        let read = self
            .file
            .seek(SeekFrom::Start(self.offset))
            .and_then(|_| (&self.file).take(LARGEST).read_to_end(&mut text));
        if read.is_err() {
            return;
        }
        let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        self.offset += whole as u64;
        events
            .extend(String::from_utf8_lossy(&text[..whole]).lines().filter_map(|line| Event::of_line(container, line)));
    }
}
