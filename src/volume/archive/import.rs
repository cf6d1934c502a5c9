//! Reading a volume from a stream that may be anybody's: into a directory that nobody else can reach yet.
//!
//! No path of the stream is ever resolved to write: each name is made, new, in a directory that was itself made here and
//! is held open. Only where a hard link leads is looked up, component by component and through no link.
#![forbid(unsafe_code)]

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use sha2::{Digest, Sha256};

use super::pax::{self, Kind, Member};
use super::{Beginning, End, Summary, VERSION, hexadecimal, is_carried};
use crate::error::{Because, Cause, Error, Result};
use crate::sys::{self, Node, Resolve};
use crate::volume::Meta;

/// Segments of a file with holes: more than an export writes.
const SEGMENTS: usize = 1 << 20;

/// Bytes that are copied at once.
const BUFFER: usize = 128 << 10;

/// Fills an empty directory, which is open for reading. Devices only where `devices` says so. Answers what was decided
/// about the volume where it was.
///
/// # Errors
/// [`Cause::Archive`] for a stream that is cut short, damaged, of something else or not to be trusted;
/// [`Cause::Import`] where what it says cannot be made.
pub fn import(input: impl Read, root: &OwnedFd, devices: bool, tell: &mut dyn FnMut(u64)) -> Result<(Meta, Summary)> {
    let input = In { inner: io::BufReader::with_capacity(BUFFER, input), hash: Sha256::new(), bytes: 0 };
    Import { input, root, devices, tell, open: Vec::new(), members: 0 }.whole()
}

/// The stream, and the sum of what was read of it.
struct In<R: Read> {
    inner: io::BufReader<R>,
    hash: Sha256,
    bytes: u64,
}

impl<R: Read> Read for In<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hash.update(buffer.get(..count).unwrap_or_default());
        self.bytes += count as u64;
        Ok(count)
    }
}

struct Import<'t, R: Read> {
    input: In<R>,
    root: &'t OwnedFd,
    devices: bool,
    tell: &'t mut dyn FnMut(u64),
    /// The directories down to the one that is being filled, below the root.
    open: Vec<Open>,
    members: u64,
}

/// A directory that is being filled. It gets its attributes when it is complete.
struct Open {
    fd: OwnedFd,
    member: Member,
    name: Vec<u8>,
}

fn refused(what: impl Into<String>) -> Error {
    Error::new(Cause::Archive, what)
}

/// What the stream itself did, or what is wrong with its bytes.
fn reading(doing: &str, error: &io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => refused(format!("{doing}: the stream ends too early")),
        _ => refused(format!("{doing}: {error}")),
    }
}

/// Components of a member's path, which lies below the root whatever else it is.
fn components(path: &[u8]) -> Option<Vec<&[u8]>> {
    let path = path.strip_prefix(b"./")?;
    let path = path.strip_suffix(b"/").unwrap_or(path);
    if path.is_empty() {
        return Some(Vec::new());
    }
    let good = |name: &&[u8]| !matches!(*name, [] | b"." | b"..") && name.len() <= 255 && !name.contains(&0);
    let names: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
    names.iter().all(good).then_some(names)
}

impl<R: Read> Import<'_, R> {
    fn whole(mut self) -> Result<(Meta, Summary)> {
        let first = self.next()?.ok_or_else(|| refused("the stream is empty"))?.0;
        let beginning = first.comment.as_deref().and_then(|text| serde_json::from_str::<Beginning>(text).ok());
        let Some(beginning) = beginning.filter(|_| first.kind == Kind::Directory && first.path == b"./") else {
            return Err(refused("the stream is no volume that `fs-isolator volume export` wrote"));
        };
        if beginning.fs_isolator_volume > VERSION {
            return Err(refused("the stream is of a later version").remedy("use the fs-isolator that wrote it"));
        }
        self.members = 1;
        loop {
            let Some((member, before)) = self.next()? else {
                return Err(refused("the stream has no end that vouches for it"));
            };
            let end = member.comment.as_deref().map(serde_json::from_str::<End>);
            match end {
                None => {}
                Some(Ok(end)) => {
                    let sum = hexadecimal(&before.finalize());
                    let same = Member { comment: None, ..member } == Member { comment: None, ..first.clone() };
                    if end.sha256 != sum || end.members != self.members || !same {
                        return Err(refused("the stream is not what was exported: its SHA-256 differs"));
                    }
                    self.finish(&first)?;
                    let summary =
                        Summary { members: self.members, bytes: self.input.bytes, sha256: sum, left_out: Vec::new() };
                    return Ok((beginning.meta, summary));
                }
                Some(Err(_)) => return Err(refused(format!("{}: a comment that is none of ours", member.shown()))),
            }
            self.members += 1;
            self.one(member)?;
            (self.tell)(self.input.bytes);
        }
    }

    /// The next member, and the sum of everything before it.
    fn next(&mut self) -> Result<Option<(Member, Sha256)>> {
        let before = self.input.hash.clone();
        let doing = format!("member {}", self.members + 1);
        let member = pax::read_member(&mut self.input).map_err(|error| reading(&doing, &error))?;
        Ok(member.map(|member| (member, before)))
    }

    /// Only zeros may follow, which tar programs write as many as they like of. Then everything is complete.
    fn finish(&mut self, first: &Member) -> Result<()> {
        let mut buffer = vec![0; BUFFER];
        let mut zeros = 0;
        loop {
            let count = self.input.read(&mut buffer).map_err(|error| reading("the end", &error))?;
            if count == 0 {
                break;
            }
            zeros += count;
            if buffer.get(..count).unwrap_or_default().iter().any(|byte| *byte != 0) {
                return Err(refused("something follows after the stream's end"));
            }
        }
        if zeros < 2 * pax::BLOCK {
            return Err(refused("the end: the stream ends too early"));
        }
        self.leave(0)?;
        let doing = || "./".to_owned();
        give(self.root, first)?;
        sys::chmod(self.root, first.mode).because(Cause::Import, doing)?;
        sys::set_modified(self.root, OsStr::new("."), first.mtime).because(Cause::Import, doing)
    }

    /// Completes open directories until so many are left.
    fn leave(&mut self, depth: usize) -> Result<()> {
        while self.open.len() > depth {
            let Some(Open { fd, member, name }) = self.open.pop() else { break };
            let doing = || member.shown();
            give(&fd, &member)?;
            sys::chmod(&fd, member.mode).because(Cause::Import, doing)?;
            drop(fd);
            sys::set_modified(self.parent(), OsStr::from_bytes(&name), member.mtime).because(Cause::Import, doing)?;
        }
        Ok(())
    }

    /// The directory that is being filled.
    fn parent(&self) -> &OwnedFd {
        self.open.last().map_or(self.root, |open| &open.fd)
    }

    fn one(&mut self, member: Member) -> Result<()> {
        let shown = member.shown();
        let doing = || shown.clone();
        let path = member.path.clone();
        let Some((name, above)) = components(&path).as_deref().and_then(|names| {
            names.split_last().map(|(name, above)| (name.to_vec(), above.iter().map(|name| name.to_vec()).collect()))
        }) else {
            return Err(refused(format!("{shown}: not a path below the volume")));
        };
        let above: Vec<Vec<u8>> = above;
        let common = self.open.iter().zip(&above).take_while(|(open, name)| open.name == **name).count();
        if common < above.len() {
            return Err(refused(format!("{shown}: it does not follow its directory")));
        }
        self.leave(common)?;
        for (attribute, _) in &member.xattrs {
            if !is_carried(attribute) {
                return Err(refused(format!("{shown}: the attribute {attribute:?} is the host's")));
            }
        }
        let name = OsStr::from_bytes(&name);
        // Names are new: what comes twice is refused, and so is whatever would be written through.
        let made = |answer: sys::Result<()>| match answer {
            Err(error) if error.errno == Errno::EEXIST => Err(refused(format!("{shown}: it comes twice"))),
            answer => answer.because(Cause::Import, doing),
        };
        match member.kind {
            Kind::Directory => {
                made(sys::mkdir_at(self.parent(), name, 0o700))?;
                let fd = sys::open_dir(self.parent(), Path::new(name), Resolve::BeneathNoLinksNoMounts)
                    .because(Cause::Import, doing)?;
                self.open.push(Open { fd, name: name.as_bytes().to_vec(), member });
                return Ok(());
            }
            Kind::HardLink => {
                let target = self.find(&member)?;
                return made(sys::link_to(&target, self.parent(), name));
            }
            Kind::File => {
                let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL;
                let mut file = None;
                made(sys::open_file_at(self.parent(), name, flags, 0o600).map(|fd| file = Some(File::from(fd))))?;
                if let Some(file) = file {
                    self.content(&file, &member)?;
                    give(&OwnedFd::from(file), &member)?;
                }
            }
            Kind::Symlink => {
                if member.link.is_empty() {
                    return Err(refused(format!("{shown}: a link to nothing")));
                }
                made(sys::symlink_at(self.parent(), name, Path::new(OsStr::from_bytes(&member.link))))?;
            }
            Kind::Fifo => made(sys::make_node(self.parent(), name, Node::Fifo, 0o600))?,
            Kind::Character | Kind::Block => {
                if !self.devices {
                    return Err(refused(format!("{shown}: a device, which can be anything of the host's"))
                        .remedy("pass --devices if you trust the archive; nothing was imported"));
                }
                let (major, minor) = member.device;
                let node = if member.kind == Kind::Block { Node::Block } else { Node::Character };
                made(sys::make_node(self.parent(), name, node(major, minor), 0o600))?;
            }
        }
        if member.kind != Kind::File {
            let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW;
            let fd = sys::open_below(self.parent(), Path::new(name), flags, Resolve::BeneathNoLinksNoMounts)
                .because(Cause::Import, doing)?;
            give(&fd, &member)?;
        }
        if member.kind != Kind::Symlink {
            // Last, since what belongs to another loses setuid when it is given away.
            sys::chmod_at(self.parent(), name, member.mode).because(Cause::Import, doing)?;
        }
        sys::set_modified(self.parent(), name, member.mtime).because(Cause::Import, doing)
    }

    /// What a hard link is another name of.
    fn find(&self, member: &Member) -> Result<OwnedFd> {
        let shown = member.shown();
        let Some(names) = components(&member.link).filter(|names| !names.is_empty()) else {
            return Err(refused(format!("{shown}: it leads out of the volume")));
        };
        let mut current = None;
        for (at, name) in names.iter().enumerate() {
            let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW;
            let flags = if at + 1 < names.len() { flags | OFlag::O_DIRECTORY } else { flags };
            let path = Path::new(OsStr::from_bytes(name));
            let below = current.as_ref().unwrap_or(self.root);
            let next = sys::open_below(below, path, flags, Resolve::BeneathNoLinksNoMounts);
            current = Some(next.map_err(|_| refused(format!("{shown}: it leads to nothing that came before")))?);
        }
        let target = current.ok_or_else(|| refused(format!("{shown}: it leads to nothing")))?;
        if sys::stat(&target).because(Cause::Import, || shown.clone())?.is_dir() {
            return Err(refused(format!("{shown}: another name of a directory")));
        }
        Ok(target)
    }

    /// Writes a file's content, with its holes.
    fn content(&mut self, file: &File, member: &Member) -> Result<()> {
        let shown = member.shown();
        let of_stream = |error: io::Error| reading(&shown, &error);
        let mut segments = Vec::new();
        match member.sparse {
            None => segments.push((0, member.size)),
            Some(size) => {
                let map = pax::read_map(&mut self.input, size, |offset, length| {
                    segments.push((offset, length));
                    if segments.len() > SEGMENTS { Err(io::ErrorKind::FileTooLarge.into()) } else { Ok(()) }
                });
                let map = map.map_err(of_stream)?;
                let data: u64 = segments.iter().map(|(_, length)| length).sum();
                if map.checked_add(data) != Some(member.size) {
                    return Err(refused(format!("{shown}: its holes and its size differ")));
                }
                file.set_len(size).because(Cause::Import, || shown.clone())?;
            }
        }
        let mut buffer = vec![0; BUFFER];
        for (mut offset, mut length) in segments {
            while length > 0 {
                let most = usize::try_from(length).unwrap_or(BUFFER).min(BUFFER);
                let part = buffer.get_mut(..most).unwrap_or_default();
                self.input.read_exact(part).map_err(of_stream)?;
                file.write_all_at(part, offset).because(Cause::Import, || shown.clone())?;
                offset += part.len() as u64;
                length -= part.len() as u64;
                (self.tell)(self.input.bytes);
            }
        }
        pax::skip(&mut self.input, pax::padding(member.size)).map_err(of_stream)
    }
}

/// Owner and extended attributes: capabilities go with a change of owner, so that comes first.
fn give(fd: &OwnedFd, member: &Member) -> Result<()> {
    let give = || -> sys::Result<()> {
        sys::chown(fd, member.uid, member.gid)?;
        for (name, value) in &member.xattrs {
            sys::give_xattr(fd, name, value)?;
        }
        Ok(())
    };
    give().because(Cause::Import, || member.shown())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lie_below_the_root() {
        let names = |path: &'static [u8]| components(path).map(|names| names.len());
        assert_eq!(
            (names(b"./"), names(b"./a"), names(b"./a/b/"), names(b"./...")),
            (Some(0), Some(1), Some(2), Some(1))
        );
        for bad in
            [&b"a"[..], b"/a", b"", b".", b"..", b".//a", b"./a//b", b"./..", b"./a/../b", b"././a", b"./a\0", b"./a//"]
        {
            assert_eq!(components(bad), None, "{}", bad.escape_ascii());
        }
    }
}
