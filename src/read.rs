//! Reading files of bounded size.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{Error, ErrorKind, Read, Result};
use std::path::Path;

/// Reads a regular file of at most `limit` bytes.
///
/// # Errors
/// `FileTooLarge` above the limit, `InvalidInput` for anything that is no regular file, or what read(2) answers.
pub fn at_most(file: File, limit: u64) -> Result<Vec<u8>> {
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(Error::new(ErrorKind::InvalidInput, "it is not a regular file"));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(metadata.len().min(limit)).unwrap_or(0) + 1);
    file.take(limit + 1).read_to_end(&mut bytes)?;
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
    let mut buffer = [0; 4096];
    let count = File::open(path)?.read(&mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer[..count]).trim_end().to_owned())
}
