//! `volume_gid_range`, in Mesos's spelling of ranges: `[10000-20000]`, several separated by commas (mesos.md G1).
#![forbid(unsafe_code)]

use std::fmt;

use crate::error::{Cause, Error, Result};

/// Groups that volumes may get, sorted and without overlaps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GidRange {
    ranges: Vec<(u32, u32)>,
}

impl GidRange {
    /// Parses ranges.
    ///
    /// # Errors
    /// [`Cause::ConfigInvalid`] for anything else, an empty or reversed range, group 0 and what is no group.
    pub fn parse(text: &str) -> Result<GidRange> {
        let invalid = |what: &str| {
            Error::new(Cause::ConfigInvalid, format!("volume_gid_range {text:?} {what}; write [FIRST-LAST,...]"))
        };
        let inner = text.trim().strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let inner = inner.ok_or_else(|| invalid("is no list of ranges"))?;
        if inner.trim().is_empty() {
            return Err(invalid("is empty"));
        }
        let mut ranges = Vec::new();
        for part in inner.split(',') {
            let (first, last) = part.split_once('-').ok_or_else(|| invalid("has a part that is no range"))?;
            match (first.trim().parse::<u32>(), last.trim().parse::<u32>()) {
                // The last number is what chown(2) takes for "leave it".
                (Ok(first), Ok(last)) if 0 < first && first <= last && last < u32::MAX => ranges.push((first, last)),
                _ => return Err(invalid("has a range that is none of groups")),
            }
        }
        ranges.sort_unstable();
        if ranges.windows(2).any(|pair| matches!(pair, [(_, last), (first, _)] if first <= last)) {
            return Err(invalid("has ranges that overlap"));
        }
        Ok(GidRange { ranges })
    }

    /// Whether it has this group.
    #[must_use]
    pub fn contains(&self, gid: u32) -> bool {
        self.ranges.iter().any(|(first, last)| (*first..=*last).contains(&gid))
    }

    /// Every group, lowest first.
    pub fn iter(&self) -> impl Iterator<Item = u32> {
        self.ranges.iter().flat_map(|(first, last)| *first..=*last)
    }
}

impl fmt::Display for GidRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ranges: Vec<String> = self.ranges.iter().map(|(first, last)| format!("{first}-{last}")).collect();
        write!(f, "[{}]", ranges.join(","))
    }
}

impl serde::Serialize for GidRange {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // mesos.md G1.
    #[test]
    fn ranges_in_mesos_spelling() {
        let range = GidRange::parse("[ 30-31, 10-12 ]").unwrap();
        assert_eq!(range.iter().collect::<Vec<_>>(), [10, 11, 12, 30, 31]);
        assert!(range.contains(31) && !range.contains(13));
        assert_eq!(range.to_string(), "[10-12,30-31]");
        for bad in ["", "[]", "10-20", "[10]", "[20-10]", "[0-5]", "[1-4294967295]", "[1-x]", "[1-5,5-9]", "[-1-5]"] {
            assert_eq!(GidRange::parse(bad).unwrap_err().cause(), Cause::ConfigInvalid, "{bad:?}");
        }
    }
}
