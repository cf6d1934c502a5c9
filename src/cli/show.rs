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

/// Columns of a terminal, in which every table fits.
pub const WIDTH: usize = 80;

/// A column is not made narrower than this.
const NARROW: usize = 8;

/// Cuts a text in its middle, so that it fits.
pub fn fit(text: &str, width: usize) -> String {
    let plain: Vec<char> = plain(text).chars().collect();
    if plain.len() <= width {
        return plain.into_iter().collect();
    }
    let head = (width - 1) / 2;
    let tail = width - 1 - head;
    plain[..head].iter().chain(&['~']).chain(&plain[plain.len() - tail..]).collect()
}

/// Prints columns under headings, each as wide as it must be. What is too wide for a terminal goes on in the next line:
/// nothing is lost.
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
    while widths.iter().sum::<usize>() + 2 * N.saturating_sub(1) > WIDTH
        && let Some(widest) = widths.iter_mut().max().filter(|widest| **widest > NARROW)
    {
        *widest -= 1;
    }
    let mut text = line(&headings.map(str::to_owned), &widths);
    text.extend(rows.iter().flat_map(|row| line(row, &widths)));
    text
}

/// A row of a table, in as many lines as its longest cell needs.
fn line<const N: usize>(cells: &[String; N], widths: &[usize; N]) -> Vec<String> {
    let mut parts: Vec<_> = cells.iter().zip(widths).map(|(cell, width)| wrap(cell, *width).into_iter()).collect();
    let height = parts.iter().map(ExactSizeIterator::len).max().unwrap_or(0);
    let mut next = |()| {
        let cells =
            parts.iter_mut().zip(widths).map(|(part, width)| format!("{:width$}", part.next().unwrap_or_default()));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    (0..height).map(|_| next(())).collect()
}

/// Breaks a text into lines, between words where that goes.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut rest: Vec<char> = plain(text).chars().collect();
    let mut lines = Vec::new();
    while rest.len() > width {
        let space = rest[..=width].iter().rposition(|c| *c == ' ').filter(|at| *at > 0);
        let tail = rest.split_off(space.unwrap_or(width));
        lines.push(rest.iter().collect());
        rest = tail.into_iter().skip(usize::from(space.is_some())).collect();
    }
    lines.push(rest.into_iter().collect());
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_long_keeps_both_ends() {
        assert_eq!(fit("abc", 3), "abc");
        assert_eq!(fit("/mnt/mesos/sandbox/data", 11), "/mnt/~/data");
    }

    #[test]
    fn a_table_fits_and_loses_nothing() {
        let long = "/var/lib/a/directory/with/a/long/name/and/nothing/to/break/it/at/and/still/more/of/it".to_owned();
        let sentence = "a sentence of some words which is too long for what is left of the line beside it".to_owned();
        let lines = columns(["ID", "PATH", "WHAT"], &[["db".to_owned(), long.clone(), sentence.clone()]]);
        assert!(lines.iter().all(|line| line.chars().count() <= WIDTH), "{lines:#?}");
        assert!(lines.len() < 8, "{lines:#?}");
        let cell = |at: usize, width: usize| {
            let part = |line: &String| line.chars().skip(at).take(width).collect::<String>();
            lines[1..].iter().map(part).collect::<Vec<_>>()
        };
        let path_at = lines[0].find("PATH").unwrap();
        let what_at = lines[0].find("WHAT").unwrap();
        assert_eq!(cell(path_at, what_at - path_at).iter().map(|part| part.trim()).collect::<String>(), long);
        let words: Vec<String> = cell(what_at, WIDTH).iter().map(|part| part.trim().to_owned()).collect();
        assert_eq!(words.join(" ").trim(), sentence);
        assert_eq!(columns(["A", "B"], &[["x\n".to_owned(), "y".to_owned()]]), ["A   B", "x?  y"]);
        assert_eq!(wrap("", 5), [""]);
    }
}
