//! Reading files of bounded size.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{Error, ErrorKind, Read, Result};
use std::path::Path;

use crate::sys::{self, Stat};

/// Reads a regular file of at most `limit` bytes.
///
/// # Errors
/// `FileTooLarge` above the limit, `InvalidInput` for anything that is no regular file, or what read(2) answers.
pub fn at_most(file: File, limit: u64) -> Result<Vec<u8>> {
    let stat = sys::stat(&file).map_err(|error| Error::from(error.errno))?;
    known(file, &stat, limit)
}

/// The same of a file that was looked at already.
///
/// # Errors
/// As [`at_most`].
pub fn known(file: File, stat: &Stat, limit: u64) -> Result<Vec<u8>> {
    if !stat.is_file() {
        return Err(Error::new(ErrorKind::InvalidInput, "it is not a regular file"));
    }
    let length = usize::try_from(stat.size.min(limit)).unwrap_or(0);
    let mut bytes = Vec::new();
    // A regular file gives all it has at once.
    let count = sys::read_more(&file, &mut bytes, length + 1)?;
    if count != length || length == 0 {
        file.take((limit + 1).saturating_sub(count as u64)).read_to_end(&mut bytes)?;
    }
    if bytes.len() as u64 > limit {
        return Err(Error::new(ErrorKind::FileTooLarge, format!("it is larger than {limit} bytes")));
    }
    Ok(bytes)
}

/// Reads a line that the kernel makes, of at most 4 KiB, in one call.
///
/// # Errors
/// What open(2) or read(2) answer.
pub fn line(path: impl AsRef<Path>) -> Result<String> {
    let line = sys::read_once(File::open(path)?)?;
    Ok(String::from_utf8_lossy(&line).trim_end().to_owned())
}
