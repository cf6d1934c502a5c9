//! Writing a volume as a stream: by descriptor, through no link and across no mount, in memory that does not grow with the
//! sizes of files.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::libc;
use sha2::{Digest, Sha256};

use super::pax::{self, Kind, Member};
use super::{Beginning, End, Summary, VERSION, hexadecimal, is_carried};
use crate::error::{Because, Cause, Error, Result};
use crate::sys::{self, FileId, Resolve, Stat};
use crate::tree;
use crate::volume::{Found, Meta};

/// Segments of a file that are kept in memory; a file with more gets its smallest holes filled.
const SEGMENTS: usize = 1 << 16;

/// Bytes that are copied at once.
const BUFFER: usize = 128 << 10;

/// Writes a volume. `live`: its files may change meanwhile, which is told in the summary; otherwise that is an error.
/// `tell` hears how many bytes are written.
///
/// # Errors
/// [`Cause::Export`] with the file; [`Cause::VolumeUnavailable`].
pub fn export(volume: &Found, live: bool, out: impl Write, tell: &mut dyn FnMut(u64)) -> Result<Summary> {
    let meta = volume.meta()?;
    let out = Out { inner: io::BufWriter::with_capacity(BUFFER, out), hash: Sha256::new(), bytes: 0 };
    let mut export = Export { out, live, tell, members: 0, linked: HashMap::new(), left_out: Vec::new() };
    export.whole(&volume.fd, meta)
}

/// The stream, and the sum of what was written to it.
struct Out<W: Write> {
    inner: io::BufWriter<W>,
    hash: Sha256,
    bytes: u64,
}

impl<W: Write> Write for Out<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.inner.write_all(bytes)?;
        self.hash.update(bytes);
        self.bytes += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

struct Export<'t, W: Write> {
    out: Out<W>,
    live: bool,
    tell: &'t mut dyn FnMut(u64),
    members: u64,
    /// Files with several names, and the first of them.
    linked: HashMap<FileId, Vec<u8>>,
    left_out: Vec<String>,
}

/// A directory that is being written.
struct Level {
    fd: OwnedFd,
    names: std::vec::IntoIter<OsString>,
    /// How long its path is, with a slash.
    path: usize,
}

fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

impl<W: Write> Export<'_, W> {
    fn whole(&mut self, root: &OwnedFd, meta: Meta) -> Result<Summary> {
        let mut path = b"./".to_vec();
        let comment = |error: serde_json::Error| Error::new(Cause::Export, error.to_string());
        let mut first = describe(root, &path, Kind::Directory)?;
        first.comment = Some(serde_json::to_string(&Beginning { fs_isolator_volume: VERSION, meta }).map_err(comment)?);
        self.put(&first)?;
        let mut stack = vec![level(root, Path::new("."), &path)?];
        while let Some(top) = stack.last_mut() {
            let Some(name) = top.names.next() else {
                stack.pop();
                continue;
            };
            path.truncate(top.path);
            path.extend_from_slice(name.as_bytes());
            if let Some(below) = self.one(top, &name, &mut path)? {
                stack.push(below);
            }
        }
        let sha256 = hexadecimal(&self.out.hash.clone().finalize());
        let end = End { fs_isolator_end: VERSION, sha256: sha256.clone(), members: self.members };
        let last = Member { comment: Some(serde_json::to_string(&end).map_err(comment)?), ..first };
        let written = pax::write_member(&mut self.out, &last)
            .and_then(|()| self.out.write_all(&[0; 2 * pax::BLOCK]))
            .and_then(|()| self.out.flush());
        written.because(Cause::Export, || "the stream cannot be written".to_owned())?;
        Ok(Summary {
            members: self.members,
            bytes: self.out.bytes,
            sha256,
            left_out: std::mem::take(&mut self.left_out),
        })
    }

    /// Writes the headers of a member.
    fn put(&mut self, member: &Member) -> Result<()> {
        self.members += 1;
        pax::write_member(&mut self.out, member).because(Cause::Export, || member.shown())?;
        (self.tell)(self.out.bytes);
        Ok(())
    }

    /// Writes one name of a directory, and answers what it is if it is one, too.
    fn one(&mut self, top: &Level, name: &OsStr, path: &mut Vec<u8>) -> Result<Option<Level>> {
        let doing = || shown(path);
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW;
        let fd = match sys::open_below(&top.fd, Path::new(name), flags, Resolve::BeneathNoLinksNoMounts) {
            Err(error) if error.errno == Errno::ENOENT => return self.changed(path, "went away").map(|()| None),
            Err(error) if error.errno == Errno::EXDEV => {
                return Err(Error::new(Cause::Export, format!("something is mounted at {}", doing()))
                    .remedy("unmount it: what is mounted in a volume is no part of it"));
            }
            answer => answer.because(Cause::Export, doing)?,
        };
        let stat = sys::stat(&fd).because(Cause::Export, doing)?;
        let kind = match stat.mode & libc::S_IFMT {
            libc::S_IFDIR => Kind::Directory,
            libc::S_IFREG => Kind::File,
            libc::S_IFLNK => Kind::Symlink,
            libc::S_IFCHR => Kind::Character,
            libc::S_IFBLK => Kind::Block,
            libc::S_IFIFO => Kind::Fifo,
            _ => {
                self.left_out.push(format!("{}: a socket cannot be carried; its server makes it anew", shown(path)));
                return Ok(None);
            }
        };
        if kind == Kind::Directory {
            path.push(b'/');
            self.put(&describe(&fd, path, kind)?)?;
            return level(&fd, Path::new("."), path).map(Some);
        }
        if stat.links > 1 {
            if let Some(first) = self.linked.get(&stat.id) {
                let member = Member {
                    link: first.clone(),
                    xattrs: Vec::new(),
                    ..describe(&fd, path, kind).map(|member| Member { kind: Kind::HardLink, ..member })?
                };
                return self.put(&member).map(|()| None);
            }
            self.linked.insert(stat.id, path.clone());
        }
        if kind == Kind::File {
            self.file(&fd, &stat, path)?;
        } else {
            self.put(&describe(&fd, path, kind)?)?;
        }
        Ok(None)
    }

    /// What happened to a file while it was read.
    fn changed(&mut self, path: &[u8], how: &str) -> Result<()> {
        let what = format!("{} {how} while the volume was read", shown(path));
        if !self.live {
            return Err(Error::new(Cause::Export, what)
                .remedy("end what writes to the volume on the host, or pass --live and take it as it comes"));
        }
        self.left_out.push(what);
        Ok(())
    }

    fn file(&mut self, place: &OwnedFd, stat: &Stat, path: &[u8]) -> Result<()> {
        let doing = || shown(path);
        let mut member = describe(place, path, Kind::File)?;
        let begun = member.mtime;
        // By what is open already: it is this very file.
        let file = File::open(format!("/proc/self/fd/{}", place.as_raw_fd())).because(Cause::Export, doing)?;
        let segments = segments(&file, stat.size).because(Cause::Export, doing)?;
        let has_holes = segments != [(0, stat.size)] && stat.size > 0;
        let data: u64 = segments.iter().map(|(_, length)| length).sum();
        let mut map = Vec::new();
        if has_holes {
            // As GNU tar does it, the map ends where the file does.
            let mut told = segments.clone();
            if told.last().is_none_or(|(offset, length)| offset + length < stat.size) {
                told.push((stat.size, 0));
            }
            map = pax::sparse_map(&told);
            member.sparse = Some(stat.size);
        }
        member.size = map.len() as u64 + data;
        self.put(&member)?;
        self.out.write_all(&map).because(Cause::Export, doing)?;
        let mut short = false;
        for (offset, length) in segments {
            short |= !self.copy(&file, offset, length).because(Cause::Export, doing)?;
        }
        pax::pad(&mut self.out, member.size).because(Cause::Export, doing)?;
        let after = sys::modified_at(&file).and_then(|mtime| Ok((mtime, sys::stat(&file)?.size)));
        if short || after.because(Cause::Export, doing)? != (begun, stat.size) {
            self.changed(path, "changed")?;
        }
        Ok(())
    }

    /// Copies so many bytes; where the file has less by now, zeros take their place.
    fn copy(&mut self, file: &File, mut offset: u64, mut length: u64) -> io::Result<bool> {
        let mut buffer = vec![0; BUFFER];
        let mut whole = true;
        while length > 0 {
            let most = usize::try_from(length).unwrap_or(BUFFER).min(BUFFER);
            let part = buffer.get_mut(..most).unwrap_or_default();
            let mut count = if whole { file.read_at(part, offset)? } else { 0 };
            if count == 0 {
                whole = false;
                part.fill(0);
                count = most;
            }
            self.out.write_all(part.get(..count).unwrap_or_default())?;
            offset += count as u64;
            length -= count as u64;
            (self.tell)(self.out.bytes);
        }
        Ok(whole)
    }
}

/// A directory whose names are to be written, sorted: the same volume is the same stream.
fn level(fd: &OwnedFd, name: &Path, path: &[u8]) -> Result<Level> {
    let doing = || shown(path);
    let fd = sys::open_dir(fd, name, Resolve::BeneathNoLinks).because(Cause::Export, doing)?;
    let names = tree::names(&fd).because(Cause::Export, doing)?.into_iter();
    Ok(Level { fd, names, path: path.len() })
}

/// What is known of something that is open as a place.
fn describe(fd: &OwnedFd, path: &[u8], kind: Kind) -> Result<Member> {
    let look = || -> sys::Result<Member> {
        let stat = sys::stat(fd)?;
        let mut member = Member::new(kind, path.to_vec());
        member.mode = stat.permissions();
        (member.uid, member.gid) = (stat.uid, stat.gid);
        member.mtime = sys::modified_at(fd)?;
        match kind {
            Kind::Symlink => member.link = sys::readlink_at(fd, "")?.into_encoded_bytes(),
            Kind::Character | Kind::Block => member.device = sys::device_of(fd)?,
            _ => {}
        }
        for name in sys::list_xattrs(fd)? {
            if is_carried(&name)
                && let Some(value) = sys::xattr_of(fd, &name)?
            {
                member.xattrs.push((name, value));
            }
        }
        Ok(member)
    };
    look().because(Cause::Export, || shown(path))
}

/// Where a file has data: offset and length of each segment.
fn segments(file: &File, size: u64) -> sys::Result<Vec<(u64, u64)>> {
    let mut segments: Vec<(u64, u64)> = Vec::new();
    let mut from = 0;
    while from < size {
        let Some((begin, end)) = sys::next_data(file, from)? else { break };
        let end = end.min(size);
        if begin >= end {
            break;
        }
        segments.push((begin, end - begin));
        if segments.len() == SEGMENTS {
            segments = merged(&segments);
        }
        from = end;
    }
    Ok(segments)
}

/// Half as many segments: each takes in the next one, and the hole between them.
fn merged(segments: &[(u64, u64)]) -> Vec<(u64, u64)> {
    segments
        .chunks(2)
        .filter_map(|pair| match pair {
            [(begin, _), (last, length)] => Some((*begin, last + length - begin)),
            [one] => Some(*one),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_holes_become_fewer() {
        assert_eq!(merged(&[(0, 1), (4, 1), (8, 2), (20, 1), (30, 5)]), [(0, 5), (8, 13), (30, 5)]);
        assert_eq!(merged(&[]), []);
    }
}
