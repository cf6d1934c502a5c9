//! Output.
#![forbid(unsafe_code)]

use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use crate::error::{Cause, Error, Result};

/// Prints a value as indented JSON.
///
/// # Errors
/// [`Cause::Usage`] where standard output cannot be written.
pub fn json<T: serde::Serialize>(value: &T) -> Result<()> {
    let text = serde_json::to_string_pretty(value).map_err(|error| Error::new(Cause::Usage, error.to_string()))?;
    lines(&[text])
}

/// Prints lines. A reader that has gone away is no failure.
///
/// # Errors
/// [`Cause::Usage`] where standard output cannot be written.
pub fn lines<T: AsRef<str>>(lines: &[T]) -> Result<()> {
    let mut out = io::stdout().lock();
    for line in lines {
        match writeln!(out, "{}", line.as_ref()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            answer => answer.map_err(|error| Error::new(Cause::Usage, format!("standard output: {error}")))?,
        }
    }
    Ok(())
}

/// Writes a file that everybody may read, and makes the directories above it. (This process has no umask.)
///
/// # Errors
/// Those of the system.
pub fn file(path: &Path, text: &str) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o755).create(parent)?;
    }
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o644).open(path)?;
    file.write_all(text.as_bytes())
}

/// What a file's name or somebody's text brought in, for a terminal.
#[must_use]
pub fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// Prints columns under headings, each as wide as it must be.
///
/// # Errors
/// As [`lines`].
pub fn table<const N: usize>(headings: [&str; N], rows: &[[String; N]]) -> Result<()> {
    lines(&columns(headings, rows))
}

/// The lines of a table.
pub fn columns<const N: usize>(headings: [&str; N], rows: &[[String; N]]) -> Vec<String> {
    let mut widths = headings.map(|heading| heading.chars().count());
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: Vec<String>| {
        let padded: Vec<String> = cells.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        padded.join("  ").trim_end().to_owned()
    };
    let mut text = vec![line(headings.iter().map(|heading| (*heading).to_owned()).collect())];
    text.extend(rows.iter().map(|row| line(row.iter().map(|cell| plain(cell)).collect())));
    text
}
