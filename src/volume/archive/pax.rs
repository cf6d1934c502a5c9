//! Members of a pax archive and their bytes: POSIX.1-2008 `pax`, and what GNU tar adds to it for files with holes
//! (`GNU.sparse`, version 1.0) and extended attributes (`SCHILY.xattr`).
#![forbid(unsafe_code)]

use std::ffi::CString;
use std::io::{self, Read, Write};

use tar::{EntryType, Header};

/// Bytes of a block.
pub const BLOCK: usize = 512;

/// Most bytes of one member's extended header, when it is read.
const LARGEST: u64 = 16 << 20;

/// Largest number of the octal fields for owner and group.
const OCTAL_ID: u64 = 0o7_777_777;
/// Largest number of the octal field for the size.
const OCTAL_SIZE: u64 = 0o77_777_777_777;

/// What a member is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// Another name of an earlier member.
    HardLink,
    /// A symbolic link.
    Symlink,
    /// A character device.
    Character,
    /// A block device.
    Block,
    /// A directory.
    Directory,
    /// A named pipe.
    Fifo,
}

/// One member without its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// What it is.
    pub kind: Kind,
    /// Its path, as it stands in the archive.
    pub path: Vec<u8>,
    /// Where a link leads to.
    pub link: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// When it was modified: seconds, and nanoseconds from there on.
    pub mtime: (i64, u32),
    /// Bytes that follow in the archive.
    pub size: u64,
    /// Size of a file with holes, whose map begins what follows.
    pub sparse: Option<u64>,
    /// Major and minor number of a device.
    pub device: (u32, u32),
    /// Extended attributes.
    pub xattrs: Vec<(CString, Vec<u8>)>,
    /// What tar ignores.
    pub comment: Option<String>,
}

impl Member {
    /// A member with nothing in it.
    #[must_use]
    pub fn new(kind: Kind, path: Vec<u8>) -> Member {
        Member {
            kind,
            path,
            link: Vec::new(),
            mode: 0,
            uid: 0,
            gid: 0,
            mtime: (0, 0),
            size: 0,
            sparse: None,
            device: (0, 0),
            xattrs: Vec::new(),
            comment: None,
        }
    }

    /// Its path, for people.
    #[must_use]
    pub fn shown(&self) -> String {
        String::from_utf8_lossy(&self.path).into_owned()
    }
}

fn invalid(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

/// A record of an extended header: its own length, a space, keyword=value and a newline.
fn record(out: &mut Vec<u8>, keyword: &[u8], value: &[u8]) {
    let rest = keyword.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    out.extend_from_slice(length.to_string().as_bytes());
    out.push(b' ');
    out.extend_from_slice(keyword);
    out.push(b'=');
    out.extend_from_slice(value);
    out.push(b'\n');
}

/// An ACL as text (acl(5)), from the attribute that the kernel has: a version, then tag, permissions and id of each entry.
fn acl_text(value: &[u8]) -> Option<String> {
    let entries = value.strip_prefix(&[2, 0, 0, 0])?;
    let mut words = Vec::new();
    for entry in entries.chunks(8) {
        let [tag, 0, permissions, 0, id @ ..] = entry else { return None };
        let id = u32::from_le_bytes(id.try_into().ok()?);
        let who = match tag {
            1 => "user:".to_owned(),
            2 => format!("user:{id}"),
            4 => "group:".to_owned(),
            8 => format!("group:{id}"),
            16 => "mask:".to_owned(),
            32 => "other:".to_owned(),
            _ => return None,
        };
        let bit = |bit: u8, c: char| if permissions & bit != 0 { c } else { '-' };
        words.push(format!("{who}:{}{}{}", bit(4, 'r'), bit(2, 'w'), bit(1, 'x')));
    }
    Some(words.join(","))
}

/// A keyword has no `=`: GNU tar writes the name of an attribute like this.
fn encode_name(name: &[u8]) -> Vec<u8> {
    let mut encoded = Vec::new();
    for byte in name {
        match byte {
            b'%' => encoded.extend_from_slice(b"%25"),
            b'=' => encoded.extend_from_slice(b"%3D"),
            other => encoded.push(*other),
        }
    }
    encoded
}

fn decode_name(name: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::new();
    let mut rest = name;
    while let [first, tail @ ..] = rest {
        match rest {
            [b'%', b'2', b'5', tail @ ..] => (decoded.push(b'%'), rest = tail).1,
            [b'%', b'3', b'D', tail @ ..] => (decoded.push(b'='), rest = tail).1,
            _ => (decoded.push(*first), rest = tail).1,
        }
    }
    decoded
}

fn time(mtime: (i64, u32)) -> String {
    let (seconds, nanoseconds) = mtime;
    match (seconds, nanoseconds) {
        (_, 0) => seconds.to_string(),
        // Nanoseconds count upwards from the second before, and pax has a plain decimal fraction.
        (..0, _) => {
            let (whole, fraction) = (-(seconds + 1), 1_000_000_000 - nanoseconds);
            format!("-{whole}.{fraction:09}")
        }
        _ => format!("{seconds}.{nanoseconds:09}"),
    }
}

fn parse_time(text: &str) -> Option<(i64, u32)> {
    let (negative, plain) = text.strip_prefix('-').map_or((false, text), |plain| (true, plain));
    let (whole, fraction) = plain.split_once('.').unwrap_or((plain, ""));
    if whole.is_empty() || ![whole, fraction].iter().all(|digits| digits.bytes().all(|byte| byte.is_ascii_digit())) {
        return None;
    }
    let seconds: i64 = whole.parse().ok()?;
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    let nanoseconds: u32 = digits.parse().ok()?;
    Some(match (negative, nanoseconds) {
        (false, _) => (seconds, nanoseconds),
        (true, 0) => (-seconds, 0),
        (true, _) => (-seconds - 1, 1_000_000_000 - nanoseconds),
    })
}

fn entry_type(kind: Kind) -> EntryType {
    match kind {
        Kind::File => EntryType::Regular,
        Kind::HardLink => EntryType::Link,
        Kind::Symlink => EntryType::Symlink,
        Kind::Character => EntryType::Char,
        Kind::Block => EntryType::Block,
        Kind::Directory => EntryType::Directory,
        Kind::Fifo => EntryType::Fifo,
    }
}

fn kind(entry: EntryType) -> Option<Kind> {
    Some(match entry {
        EntryType::Regular => Kind::File,
        EntryType::Link => Kind::HardLink,
        EntryType::Symlink => Kind::Symlink,
        EntryType::Char => Kind::Character,
        EntryType::Block => Kind::Block,
        EntryType::Directory => Kind::Directory,
        EntryType::Fifo => Kind::Fifo,
        _ => return None,
    })
}

/// Puts bytes into a field of a header as far as they fit; the extended header has them all.
fn fill(field: &mut [u8], bytes: &[u8]) {
    let length = field.len().min(bytes.len());
    if let (Some(field), Some(bytes)) = (field.get_mut(..length), bytes.get(..length)) {
        field.copy_from_slice(bytes);
    }
}

fn header(kind: EntryType, name: &[u8], link: &[u8], size: u64) -> Header {
    let mut header = Header::new_ustar();
    let old = header.as_old_mut();
    fill(&mut old.name, name);
    fill(&mut old.linkname, link);
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(0o600);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

/// Writes the headers of a member. What follows is its content, `size` bytes, and [`pad`].
///
/// # Errors
/// What the stream answers.
pub fn write_member(out: &mut impl Write, member: &Member) -> io::Result<()> {
    let mut extended = Vec::new();
    if let Some(comment) = &member.comment {
        record(&mut extended, b"comment", comment.as_bytes());
    }
    // GNU tar takes the name of a file with holes from its own record, and other programs extract it aside.
    let mut name = member.path.clone();
    if let Some(size) = member.sparse {
        record(&mut extended, b"GNU.sparse.major", b"1");
        record(&mut extended, b"GNU.sparse.minor", b"0");
        record(&mut extended, b"GNU.sparse.name", &member.path);
        record(&mut extended, b"GNU.sparse.realsize", size.to_string().as_bytes());
        let end = name.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
        name.splice(end..end, *b"GNUSparseFile.0/");
    }
    record(&mut extended, b"path", &name);
    if !member.link.is_empty() {
        record(&mut extended, b"linkpath", &member.link);
    }
    record(&mut extended, b"mtime", time(member.mtime).as_bytes());
    for (keyword, value, octal) in [
        (&b"size"[..], member.size, OCTAL_SIZE),
        (b"uid", member.uid.into(), OCTAL_ID),
        (b"gid", member.gid.into(), OCTAL_ID),
    ] {
        if value > octal {
            record(&mut extended, keyword, value.to_string().as_bytes());
        }
    }
    for (name, value) in &member.xattrs {
        record(&mut extended, &[b"SCHILY.xattr.", &encode_name(name.to_bytes())[..]].concat(), value);
        // GNU tar extracts ACLs from these alone.
        let keyword: &[u8] = match name.to_bytes() {
            b"system.posix_acl_access" => b"SCHILY.acl.access",
            b"system.posix_acl_default" => b"SCHILY.acl.default",
            _ => continue,
        };
        if let Some(text) = acl_text(value) {
            record(&mut extended, keyword, text.as_bytes());
        }
    }
    let mut first = header(EntryType::XHeader, b"./PaxHeaders/member", b"", extended.len() as u64);
    first.set_cksum();
    out.write_all(first.as_bytes())?;
    out.write_all(&extended)?;
    pad(out, extended.len() as u64)?;

    let mut second = header(entry_type(member.kind), &name, &member.link, member.size.min(OCTAL_SIZE));
    second.set_mode(member.mode);
    second.set_uid(u64::from(member.uid).min(OCTAL_ID));
    second.set_gid(u64::from(member.gid).min(OCTAL_ID));
    second.set_mtime(u64::try_from(member.mtime.0).unwrap_or(0).min(OCTAL_SIZE));
    if matches!(member.kind, Kind::Character | Kind::Block) {
        second.set_device_major(member.device.0)?;
        second.set_device_minor(member.device.1)?;
    }
    second.set_cksum();
    out.write_all(second.as_bytes())
}

/// Bytes that are missing for whole blocks.
#[must_use]
pub fn padding(length: u64) -> usize {
    let rest = (length % BLOCK as u64) as usize;
    if rest == 0 { 0 } else { BLOCK - rest }
}

/// Fills the last block after so many bytes.
///
/// # Errors
/// What the stream answers.
pub fn pad(out: &mut impl Write, length: u64) -> io::Result<()> {
    out.write_all([0; BLOCK].get(..padding(length)).unwrap_or_default())
}

/// Reads the headers of the next member; `None` at the archive's end.
///
/// # Errors
/// `InvalidData` for what is no such archive, and what the stream answers.
pub fn read_member(input: &mut impl Read) -> io::Result<Option<Member>> {
    let Some(mut head) = read_header(input)? else { return Ok(None) };
    let mut extended = Vec::new();
    if head.entry_type() == EntryType::XHeader {
        let size = head.entry_size()?;
        if size > LARGEST {
            return Err(invalid("an extended header is too large"));
        }
        input.by_ref().take(size).read_to_end(&mut extended)?;
        if (extended.len() as u64) < size {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        skip(input, padding(size))?;
        head = read_header(input)?.ok_or_else(|| invalid("an extended header without a member"))?;
    }
    let entry = head.entry_type();
    let kind = kind(entry).ok_or_else(|| invalid(format!("a member of type {:?}", char::from(entry.as_byte()))))?;
    let mut member = Member::new(kind, head.path_bytes().into_owned());
    member.link = head.link_name_bytes().map(|link| link.into_owned()).unwrap_or_default();
    member.mode = head.mode()? & 0o7777;
    let id = |id: u64| u32::try_from(id).map_err(|_| invalid("an owner that is no number of a user"));
    (member.uid, member.gid) = (id(head.uid()?)?, id(head.gid()?)?);
    member.mtime = (i64::try_from(head.mtime()?).map_err(|_| invalid("a time that is none"))?, 0);
    member.size = head.entry_size()?;
    if matches!(kind, Kind::Character | Kind::Block) {
        member.device = (head.device_major()?.unwrap_or(0), head.device_minor()?.unwrap_or(0));
    }
    apply(&mut member, &extended)?;
    if kind != Kind::File && (member.size != 0 || member.sparse.is_some()) {
        return Err(invalid("content of something that is no file"));
    }
    Ok(Some(member))
}

fn apply(member: &mut Member, mut extended: &[u8]) -> io::Result<()> {
    let (mut version, mut name) = ((None, None), None);
    while !extended.is_empty() {
        let broken = || invalid("an extended header that is none");
        let (keyword, value, rest) = split_record(extended).ok_or_else(broken)?;
        extended = rest;
        let text = || std::str::from_utf8(value).map_err(|_| broken());
        let number = || text()?.parse::<u64>().map_err(|_| broken());
        let id = || u32::try_from(number()?).map_err(|_| broken());
        match keyword {
            b"path" => member.path = value.to_vec(),
            b"linkpath" => member.link = value.to_vec(),
            b"mtime" => member.mtime = parse_time(text()?).ok_or_else(broken)?,
            b"size" => member.size = number()?,
            b"uid" => member.uid = id()?,
            b"gid" => member.gid = id()?,
            b"comment" => member.comment = Some(text()?.to_owned()),
            b"GNU.sparse.major" => version.0 = Some(number()?),
            b"GNU.sparse.minor" => version.1 = Some(number()?),
            b"GNU.sparse.name" => name = Some(value.to_vec()),
            b"GNU.sparse.realsize" => member.sparse = Some(number()?),
            // For people, and what this machine tells of its own.
            b"uname" | b"gname" | b"atime" | b"ctime" => {}
            // The attributes have them, and with numbers.
            b"SCHILY.acl.access" | b"SCHILY.acl.default" => {}
            _ => match keyword.strip_prefix(b"SCHILY.xattr.") {
                Some(name) => {
                    let name = CString::new(decode_name(name)).map_err(|_| broken())?;
                    member.xattrs.push((name, value.to_vec()));
                }
                None => {
                    let keyword = String::from_utf8_lossy(keyword).into_owned();
                    return Err(invalid(format!("the keyword {keyword:?} is unknown")));
                }
            },
        }
    }
    match (member.sparse, version, name) {
        (None, (None, None), None) => Ok(()),
        (Some(_), (Some(1), Some(0)), Some(name)) => {
            member.path = name;
            Ok(())
        }
        _ => Err(invalid("holes are not described as version 1.0 has it")),
    }
}

/// Keyword, value and rest.
fn split_record(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = bytes.iter().take(10).position(|byte| *byte == b' ')?;
    let length: usize = std::str::from_utf8(bytes.get(..space)?).ok()?.parse().ok()?;
    let record = bytes.get(space + 1..length)?.strip_suffix(b"\n")?;
    let equals = record.iter().position(|byte| *byte == b'=')?;
    Some((record.get(..equals)?, record.get(equals + 1..)?, bytes.get(length..)?))
}

fn read_header(input: &mut impl Read) -> io::Result<Option<Header>> {
    let mut header = Header::new_old();
    input.read_exact(header.as_mut_bytes())?;
    let bytes = header.as_bytes();
    if bytes.iter().all(|byte| *byte == 0) {
        return Ok(None);
    }
    // The sum counts its own field as spaces.
    let sum: u32 =
        bytes.iter().enumerate().map(|(at, byte)| if (148..156).contains(&at) { 32 } else { u32::from(*byte) }).sum();
    if header.cksum()? != sum {
        return Err(invalid("a header with a wrong sum"));
    }
    Ok(Some(header))
}

/// Passes over padding, which is zeros.
///
/// # Errors
/// What the stream answers.
pub fn skip(input: &mut impl Read, count: usize) -> io::Result<()> {
    let mut rest = [0; BLOCK];
    input.read_exact(rest.get_mut(..count).unwrap_or_default())?;
    if rest == [0; BLOCK] { Ok(()) } else { Err(invalid("something in the padding")) }
}

/// The map of a file with holes, in whole blocks: how many segments have data, then offset and length of each.
#[must_use]
pub fn sparse_map(segments: &[(u64, u64)]) -> Vec<u8> {
    let mut map = format!("{}\n", segments.len());
    for (offset, length) in segments {
        map.push_str(&format!("{offset}\n{length}\n"));
    }
    let mut map = map.into_bytes();
    map.resize(map.len() + padding(map.len() as u64), 0);
    map
}

/// Reads the map of a file of `size` bytes one number at a time, so that it costs no memory to be told a long one. `each`
/// gets offset and length; they must rise and lie in the file. Answers the bytes that the map has.
///
/// # Errors
/// `InvalidData` for a map that is none, and what the stream or `each` answer.
pub fn read_map(input: &mut impl Read, size: u64, mut each: impl FnMut(u64, u64) -> io::Result<()>) -> io::Result<u64> {
    let mut read = 0_u64;
    let mut number = |input: &mut dyn Read| -> io::Result<u64> {
        let mut value = 0_u64;
        for digits in 0..=20 {
            let mut byte = [0];
            input.read_exact(&mut byte)?;
            read += 1;
            match byte {
                [b'\n'] if digits > 0 => return Ok(value),
                [digit @ b'0'..=b'9'] => {
                    let next = value.checked_mul(10).and_then(|value| value.checked_add(u64::from(digit - b'0')));
                    value = next.ok_or_else(|| invalid("a map of holes with a number that is too large"))?;
                }
                _ => break,
            }
        }
        Err(invalid("a map of holes that is none"))
    };
    let count = number(input)?;
    let mut end = 0;
    for _ in 0..count {
        let (offset, length) = (number(input)?, number(input)?);
        let next = offset.checked_add(length).filter(|next| offset >= end && *next <= size);
        end = next.ok_or_else(|| invalid("a map of holes that does not fit its file"))?;
        each(offset, length)?;
    }
    let rest = padding(read);
    skip(input, rest)?;
    Ok(read + rest as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(member: &Member) -> Member {
        let mut bytes = Vec::new();
        write_member(&mut bytes, member).unwrap();
        assert_eq!(bytes.len() % BLOCK, 0);
        read_member(&mut &bytes[..]).unwrap().unwrap()
    }

    #[test]
    fn a_member_comes_back_as_it_was() {
        let long = format!("./{}/f", "d".repeat(300)).into_bytes();
        for path in [b"./a".to_vec(), long, b"./\xff\n=%25 ".to_vec()] {
            for kind in [Kind::File, Kind::HardLink, Kind::Symlink, Kind::Directory, Kind::Fifo, Kind::Block] {
                let member = Member {
                    link: if matches!(kind, Kind::HardLink | Kind::Symlink) { b"./x\ny".to_vec() } else { Vec::new() },
                    mode: 0o6755,
                    uid: u32::MAX - 1,
                    gid: 0o10_000_000,
                    mtime: (-7, 999_999_999),
                    size: if kind == Kind::File { 9 << 30 } else { 0 },
                    sparse: (kind == Kind::File).then_some(1 << 40),
                    device: if kind == Kind::Block { (8, 1) } else { (0, 0) },
                    xattrs: vec![(c"user.a=b%3D".to_owned(), b"\n\0=\n".to_vec()), (c"user.e".to_owned(), Vec::new())],
                    comment: Some("{}".to_owned()),
                    ..Member::new(kind, path.clone())
                };
                assert_eq!(round(&member), member);
            }
        }
    }

    #[test]
    fn the_length_of_a_record_counts_itself() {
        for length in (0..30).chain(80..120).chain(980..1020) {
            let mut bytes = Vec::new();
            let value = vec![b'v'; length];
            record(&mut bytes, b"key", &value);
            let (keyword, found, rest) = split_record(&bytes).unwrap();
            assert_eq!((keyword, found, rest), (&b"key"[..], &value[..], &b""[..]));
        }
    }

    #[test]
    fn acls_have_a_text() {
        let entry = |tag: u8, permissions: u8, id: u32| [&[tag, 0, permissions, 0][..], &id.to_le_bytes()].concat();
        let acl = [
            vec![2, 0, 0, 0],
            entry(1, 6, u32::MAX),
            entry(2, 5, 1234),
            entry(16, 4, u32::MAX),
            entry(32, 0, u32::MAX),
        ];
        assert_eq!(acl_text(&acl.concat()).as_deref(), Some("user::rw-,user:1234:r-x,mask::r--,other::---"));
        assert_eq!(acl_text(&acl.concat()[..7]), None);
    }

    #[test]
    fn times_have_nanoseconds_on_both_sides_of_the_epoch() {
        for (mtime, text) in [
            ((0, 0), "0"),
            ((1, 5), "1.000000005"),
            ((-1, 0), "-1"),
            ((-1, 999_999_999), "-0.000000001"),
            ((-2, 500_000_000), "-1.500000000"),
        ] {
            assert_eq!(time(mtime), text);
            assert_eq!(parse_time(text), Some(mtime));
        }
        assert_eq!(parse_time("1.5"), Some((1, 500_000_000)));
        for bad in ["", ".5", "1e3", "--1", "+1", "1.x", "99999999999999999999"] {
            assert_eq!(parse_time(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_is_no_archive_is_refused_and_costs_nothing() {
        let good = {
            let mut bytes = Vec::new();
            write_member(&mut bytes, &Member::new(Kind::File, b"./a".to_vec())).unwrap();
            bytes
        };
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x55;
            // Whatever it is, it is told without panic; a changed name or value is what the stream's sum is for.
            let _ = read_member(&mut &bad[..]);
            assert!(read_member(&mut &good[..at]).is_err(), "{at}");
        }
        for map in ["x", "1\n5\n", "1\n5\n6\n", "2\n0\n4\n3\n1\n", "1\n18446744073709551615\n1\n", "\n"] {
            let mut bytes = map.as_bytes().to_vec();
            bytes.resize(BLOCK, 0);
            assert!(read_map(&mut &bytes[..], 10, |_, _| Ok(())).is_err(), "{map:?}");
        }
        let map = sparse_map(&[(0, 4), (8, 2), (10, 0)]);
        let mut seen = Vec::new();
        assert_eq!(
            read_map(&mut &map[..], 10, |o, l| {
                seen.push((o, l));
                Ok(())
            })
            .unwrap(),
            BLOCK as u64
        );
        assert_eq!(seen, [(0, 4), (8, 2), (10, 0)]);
    }
}
