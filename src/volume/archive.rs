//! A volume as a stream: a tar archive (POSIX pax) that GNU tar reads, with owners, modes, extended attributes (ACLs and
//! capabilities are some), hard links, holes and times in nanoseconds.
//!
//! The first member is the volume's root, and its pax comment tells what was decided about the volume. The last member is
//! the root once more, with a comment that has the SHA-256 of all bytes before it. A stream that was cut short or damaged
//! has no such end, or another sum. Every directory comes before what is in it, and is complete before the next one
//! begins, so that a reader holds the directories it is in, and never resolves a path.
#![forbid(unsafe_code)]

pub mod export;
pub mod import;
pub mod pax;

use std::ffi::CStr;

use serde::{Deserialize, Serialize};

use super::Meta;

/// Version of the comments.
const VERSION: u32 = 1;

/// What the first comment says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Beginning {
    /// [`VERSION`].
    fs_isolator_volume: u32,
    /// What was decided about the volume where it was.
    meta: Meta,
}

/// What the last comment says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct End {
    /// [`VERSION`].
    fs_isolator_end: u32,
    /// SHA-256 of all bytes before the last member, in hexadecimal.
    sha256: String,
    /// Members before it.
    members: u64,
}

/// What was carried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, schemars::JsonSchema)]
pub struct Summary {
    /// Files, directories and everything else, the root included.
    pub members: u64,
    /// Bytes of the stream.
    pub bytes: u64,
    /// SHA-256 of what the stream's end vouches for.
    pub sha256: String,
    /// What is not in the stream, each with the reason.
    pub left_out: Vec<String>,
}

/// Whether an extended attribute goes along. What else there is belongs to the host: labels and signatures of its security
/// modules, and what this project keeps with a volume, which is in the first comment.
fn is_carried(name: &CStr) -> bool {
    let name = name.to_bytes();
    let begins = |prefix: &[u8]| name.starts_with(prefix) && name.len() > prefix.len();
    name == b"security.capability"
        || name == b"system.posix_acl_access"
        || name == b"system.posix_acl_default"
        || begins(b"user.")
        || (begins(b"trusted.") && name != b"trusted.fs-isolator")
}

/// A digest in hexadecimal.
fn hexadecimal(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}
