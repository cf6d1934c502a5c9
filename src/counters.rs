//! How often each hook has ended in which way, and how long it took: a file of one size under `runtime_dir`, so that what
//! poststop removes is not forgotten. It begins anew when the machine does.
//!
//! Refusals are always counted. Hooks that succeed are only where the configuration says `"metrics": true`, since counting
//! costs them five system calls.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use nix::fcntl::OFlag;

use crate::config::Config;
use crate::error::Cause;
use crate::hook::stage::Stage;
use crate::{runtime_dir, sys};

/// Its name. Another layout would be another file.
const NAME: &str = "counters";

/// Upper bounds of the times that are told apart, in microseconds; one more has all that take longer.
pub const BOUNDS: [u64; 12] =
    [500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 500_000, 1_000_000, 5_000_000, 30_000_000];

/// Exit codes there can be.
const CODES: usize = 256;

/// Numbers of one hook: one for each exit code, one for each bound and what is beyond, and the sum of all times.
const NUMBERS: usize = CODES + BOUNDS.len() + 2;

/// How often the lock is tried, and how long after the last time. A count that is lost delays nobody.
const TRIES: u32 = 20;
const PAUSE: Duration = Duration::from_micros(100);

/// What is known of one hook since the machine started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counts {
    numbers: [u64; NUMBERS],
}

impl Counts {
    fn from_bytes(bytes: &[u8]) -> Counts {
        let mut numbers = [0; NUMBERS];
        for (number, bytes) in numbers.iter_mut().zip(bytes.as_chunks::<8>().0) {
            *number = u64::from_le_bytes(*bytes);
        }
        Counts { numbers }
    }

    fn to_bytes(&self) -> Vec<u8> {
        self.numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
    }

    fn add(&mut self, code: u8, microseconds: Option<u64>) {
        self.numbers[usize::from(code)] += 1;
        if let Some(time) = microseconds {
            let bucket = BOUNDS.iter().position(|bound| time <= *bound).unwrap_or(BOUNDS.len());
            self.numbers[CODES + bucket] += 1;
            let sum = &mut self.numbers[NUMBERS - 1];
            *sum = sum.wrapping_add(time);
        }
    }

    /// How often it ended for this cause.
    #[must_use]
    pub fn refusals(&self, cause: Cause) -> u64 {
        self.numbers[usize::from(cause.code())]
    }

    /// How often it took how long: for each of [`BOUNDS`], and for what is beyond.
    #[must_use]
    pub fn times(&self) -> &[u64] {
        &self.numbers[CODES..NUMBERS - 1]
    }

    /// Microseconds of all those together.
    #[must_use]
    pub fn sum(&self) -> u64 {
        self.numbers[NUMBERS - 1]
    }
}

/// Where a hook's numbers begin in the file.
fn offset(stage: Stage) -> u64 {
    (stage as u64) * (NUMBERS as u64) * 8
}

/// Counts the end of a hook. What cannot be counted is not: it stops nothing.
pub fn count(config: &Config, stage: Stage, refused: Option<Cause>, microseconds: u64) {
    if refused.is_none() && !config.metrics {
        return;
    }
    let open = || {
        let root = runtime_dir::make_root(&config.runtime_dir).ok()?;
        sys::open_file_at(&root, NAME, OFlag::O_RDWR | OFlag::O_CREAT, 0o600).ok()
    };
    let Some(fd) = open() else { return };
    let locked = (0..TRIES).any(|tried| {
        if tried > 0 {
            std::thread::sleep(PAUSE);
        }
        sys::lock(&fd, false).is_ok()
    });
    if locked {
        let file = File::from(fd);
        let add = || -> io::Result<()> {
            let mut counts = read_one(&file, stage)?;
            counts.add(refused.map_or(0, Cause::code), config.metrics.then_some(microseconds));
            file.write_all_at(&counts.to_bytes(), offset(stage))
        };
        let _ = add();
    }
}

fn read_one(file: &File, stage: Stage) -> io::Result<Counts> {
    let mut bytes = vec![0; NUMBERS * 8];
    // A new file is empty.
    let count = file.read_at(&mut bytes, offset(stage))?;
    Ok(Counts::from_bytes(&bytes[..count]))
}

/// What was counted, for each hook; nothing where nothing was yet.
///
/// # Errors
/// What openat(2) and pread(2) answer.
pub fn read(root: &OwnedFd) -> io::Result<Vec<(Stage, Counts)>> {
    let opened = sys::if_there(sys::open_file_at(root, NAME, OFlag::O_RDONLY, 0));
    let Some(fd) = opened.map_err(|error| io::Error::from(error.errno))? else { return Ok(Vec::new()) };
    let file = File::from(fd);
    Stage::ALL.into_iter().map(|stage| Ok((stage, read_one(&file, stage)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_is_found_again() {
        let mut counts = Counts::from_bytes(&[]);
        counts.add(0, Some(500));
        counts.add(0, Some(501));
        counts.add(71, Some(u64::MAX - 2000));
        counts.add(71, None);
        let again = Counts::from_bytes(&counts.to_bytes());
        assert_eq!(again, counts);
        assert_eq!(again.refusals(Cause::VolumeInUse), 2);
        assert_eq!((again.times()[0], again.times()[1], again.times()[BOUNDS.len()]), (1, 1, 1));
        assert_eq!(again.times().iter().sum::<u64>(), 3);
        assert_eq!(again.sum(), u64::MAX - 999);
    }

    #[test]
    fn hooks_do_not_overlap() {
        let ends: Vec<(u64, u64)> = Stage::ALL
            .map(|stage| (offset(stage), offset(stage) + Counts::from_bytes(&[]).to_bytes().len() as u64))
            .into();
        assert!(ends.windows(2).all(|pair| pair[0].1 == pair[1].0), "{ends:?}");
    }
}
