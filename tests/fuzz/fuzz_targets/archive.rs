//! A volume's archive: as bytes, and as a list of members, a line each, that are written as an export would. Sums are made
//! right, since no fuzzer finds them.
#![no_main]

use std::ffi::CString;
use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use fs_isolator::volume::archive::import;
use fs_isolator::volume::archive::pax::{self, BLOCK, Kind, Member};
use libfuzzer_sys::fuzz_target;
use serde_json::json;
use sha2::{Digest, Sha256};

/// Has the volume, and what must never change.
static PLACE: LazyLock<PathBuf> = LazyLock::new(|| {
    let place = std::env::temp_dir().join(format!("fs-isolator-archive-{}", std::process::id()));
    fs::create_dir_all(&place).expect("a place");
    fs::set_permissions(&place, PermissionsExt::from_mode(0o700)).expect("nobody else reaches it");
    fs::write(place.join("canary"), "sings").expect("a canary");
    place
});

/// A header's own sum: of all its bytes, with blanks in place of the sum.
fn repair(bytes: &mut [u8]) {
    for block in bytes.chunks_exact_mut(BLOCK).filter(|block| &block[257..262] == b"ustar") {
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
}

/// The members that can be read, with an end that vouches for them.
fn ended(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut rest = bytes;
    let (mut first, mut count) = (None, 0_u64);
    let whole = loop {
        let at = bytes.len() - rest.len();
        match pax::read_member(&mut rest) {
            Ok(Some(member)) if member.comment.as_ref().is_none_or(|text| !text.contains("fs_isolator_end")) => {
                let length = usize::try_from(member.size).ok()?.checked_next_multiple_of(BLOCK)?;
                let Some(next) = rest.get(length..) else { break at };
                rest = next;
                count += 1;
                first.get_or_insert(member);
            }
            _ => break at,
        }
    };
    let kept = bytes.get(..whole)?;
    let sum: String = Sha256::digest(kept).iter().map(|byte| format!("{byte:02x}")).collect();
    let comment = json!({ "fs_isolator_end": 1, "sha256": sum, "members": count }).to_string();
    let mut all = kept.to_vec();
    pax::write_member(&mut all, &Member { comment: Some(comment), ..first? }).ok()?;
    all.extend([0; 2 * BLOCK]);
    Some(all)
}

/// Members from lines: `KIND PATH LINK MODE ATTRIBUTE CONTENT`, separated by tabs.
fn recipe(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut root = Member::new(Kind::Directory, b"./".to_vec());
    root.mode = 0o750;
    root.comment = Some(json!({ "fs_isolator_volume": 1, "meta": {} }).to_string());
    let _ = pax::write_member(&mut out, &root);
    for line in text.lines() {
        let fields: Vec<&str> = line.split('\t').collect();
        let field = |index: usize| fields.get(index).copied().unwrap_or_default();
        let kind = match field(0) {
            "d" => Kind::Directory,
            "h" => Kind::HardLink,
            "l" => Kind::Symlink,
            "p" => Kind::Fifo,
            "c" => Kind::Character,
            "b" => Kind::Block,
            _ => Kind::File,
        };
        let content = if kind == Kind::File { field(5).as_bytes() } else { b"" };
        let mut member = Member::new(kind, field(1).as_bytes().to_vec());
        member.link = field(2).as_bytes().to_vec();
        member.mode = u32::from_str_radix(field(3), 8).unwrap_or(0) & 0o7777;
        member.size = content.len() as u64;
        if let Some((name, value)) = field(4).split_once('=') {
            member.xattrs.extend(CString::new(name).ok().map(|name| (name, value.as_bytes().to_vec())));
        }
        let before = out.len();
        let written = pax::write_member(&mut out, &member).and_then(|()| {
            out.extend_from_slice(content);
            pax::pad(&mut out, member.size)
        });
        if written.is_err() {
            out.truncate(before);
        }
    }
    out
}

/// Everything below a directory. No link is followed.
fn count(directory: &Path) -> u64 {
    fs::read_dir(directory).into_iter().flatten().flatten().fold(0, |all, entry| {
        let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
        all + 1 + if is_directory { count(&entry.path()) } else { 0 }
    })
}

fn import(bytes: &[u8]) -> bool {
    let root = PLACE.join("root");
    let _ = fs::remove_dir_all(&root);
    fs::create_dir(&root).expect("a directory");
    let open: OwnedFd = File::open(&root).expect("it can be opened").into();
    let answer = import::import(bytes, &open, false, &mut |_| {});
    if let Ok((_, summary)) = &answer {
        assert_eq!(summary.members, count(&root) + 1, "as many names as members");
    }
    let mut names: Vec<_> =
        fs::read_dir(&*PLACE).expect("the place").flatten().map(|entry| entry.file_name()).collect();
    names.sort();
    assert_eq!(names, ["canary", "root"]);
    let canary = fs::metadata(PLACE.join("canary")).expect("the canary");
    assert_eq!((canary.nlink(), canary.len(), canary.mode() & 0o7777), (1, 5, 0o644), "the canary has changed");
    answer.is_ok()
}

fuzz_target!(|bytes: &[u8]| {
    // Members as they are read are written and read again.
    let mut repaired = bytes.to_vec();
    repair(&mut repaired);
    let mut rest = &repaired[..];
    while let Ok(Some(member)) = pax::read_member(&mut rest) {
        let mut written = Vec::new();
        if pax::write_member(&mut written, &member).is_ok() {
            let again = pax::read_member(&mut &written[..]);
            assert_eq!(again.ok().flatten().as_ref(), Some(&member));
        }
        let Some(next) = usize::try_from(member.size).ok().and_then(|size| size.checked_next_multiple_of(BLOCK)) else {
            break;
        };
        let Some(next) = rest.get(next..) else { break };
        rest = next;
    }
    if let Some(whole) = ended(&repaired) {
        import(&whole);
        // One byte less, or another, is found.
        assert!(!import(&whole[..whole.len() - 2 * BLOCK - 1]));
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        let members = recipe(text);
        if let Some(whole) = ended(&members)
            && import(&whole)
        {
            let mut other = whole;
            let at = bytes.iter().fold(0_usize, |at, byte| at.wrapping_mul(31).wrapping_add(usize::from(*byte)));
            let at = at % members.len();
            other[at] ^= 1;
            assert!(!import(&other), "a flipped bit at {at}");
        }
    }
    import(bytes);
});
