//! Where in the container a volume is wanted: the check that needs no kernel.
//!
//! What the path leads to in a real container is checked when it is resolved, in `mountpoint.rs`.
#![forbid(unsafe_code)]

use std::fmt;

use crate::error::{Cause, Error, Result};

/// Longest path the kernel takes, without its NUL (`PATH_MAX`).
const LONGEST: usize = 4095;

/// A checked container path: absolute, or relative to the sandbox.
///
/// Components are plain names: there is no `.`, no `..`, no empty one.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContainerPath {
    absolute: bool,
    components: Vec<String>,
}

impl ContainerPath {
    /// Checks a path. Repeated and trailing slashes are dropped.
    ///
    /// # Errors
    /// [`Cause::ContainerPath`] for an empty path, `/`, a component `.` or `..`, a control character, more
    /// than 4095 bytes, a component of more than 255 bytes, and anything at or below `/proc` or `/sys`.
    pub fn parse(text: &str) -> Result<ContainerPath> {
        let path = ContainerPath::parse_any(text)?;
        if path.absolute && matches!(path.components[0].as_str(), "proc" | "sys") {
            return Err(wrong(text, "lies at or below /proc or /sys"));
        }
        Ok(path)
    }

    fn parse_any(text: &str) -> Result<ContainerPath> {
        if text.is_empty() {
            return Err(wrong(text, "is empty"));
        }
        if text.len() > LONGEST {
            return Err(wrong(&text[..text.floor_char_boundary(32)], "(abridged) is longer than 4095 bytes"));
        }
        if text.chars().any(char::is_control) {
            return Err(wrong(text, "has a control character"));
        }
        let components: Vec<String> = text.split('/').filter(|part| !part.is_empty()).map(str::to_owned).collect();
        if components.is_empty() {
            return Err(wrong(text, "is the root directory"));
        }
        for component in &components {
            if component == "." || component == ".." {
                return Err(wrong(text, "has a component . or .."));
            }
            if component.len() > 255 {
                return Err(wrong(text, "has a component of more than 255 bytes"));
            }
        }
        Ok(ContainerPath { absolute: text.starts_with('/'), components })
    }

    /// Checks a path inside a volume or sandbox: as [`ContainerPath::parse`], and relative.
    ///
    /// # Errors
    /// [`Cause::ContainerPath`].
    pub fn parse_relative(text: &str) -> Result<ContainerPath> {
        let path = ContainerPath::parse_any(text)?;
        if path.absolute { Err(wrong(text, "must be relative")) } else { Ok(path) }
    }

    /// Reads a mount destination of a bundle, which may be anything the runtime accepts: `None` where it is
    /// no path that a volume could be below.
    #[must_use]
    pub fn parse_destination(text: &str) -> Option<ContainerPath> {
        ContainerPath::parse_any(text).ok()
    }

    /// An absolute path of components that are known to be plain names.
    #[must_use]
    pub fn absolute(components: &[&str]) -> ContainerPath {
        ContainerPath { absolute: true, components: components.iter().map(|name| (*name).to_owned()).collect() }
    }

    /// Whether it starts at the container's root.
    #[must_use]
    pub fn is_absolute(&self) -> bool {
        self.absolute
    }

    /// Number of components.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.components.len()
    }

    /// The components, joined, without a leading slash.
    #[must_use]
    pub fn relative(&self) -> String {
        self.components.join("/")
    }

    /// This path below `base`, as an absolute path; an absolute path is returned as it is.
    #[must_use]
    pub fn below(&self, base: &ContainerPath) -> ContainerPath {
        if self.absolute {
            return self.clone();
        }
        let components = base.components.iter().chain(&self.components).cloned().collect();
        ContainerPath { absolute: base.absolute, components }
    }

    /// The rest of this path below `ancestor`, if it lies there: empty when it is the same path.
    #[must_use]
    pub fn within(&self, ancestor: &ContainerPath) -> Option<&[String]> {
        if self.absolute == ancestor.absolute { self.components.strip_prefix(&ancestor.components[..]) } else { None }
    }
}

fn wrong(text: &str, what: &str) -> Error {
    Error::new(Cause::ContainerPath, format!("container path {text:?} {what}"))
}

impl fmt::Display for ContainerPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", if self.absolute { "/" } else { "" }, self.relative())
    }
}

impl serde::Serialize for ContainerPath {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for ContainerPath {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<ContainerPath, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        ContainerPath::parse(&text).map_err(serde::de::Error::custom)
    }
}

impl schemars::JsonSchema for ContainerPath {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "ContainerPath".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        String::json_schema(generator)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_paths_are_normalised() {
        for (text, shown) in [("data", "data"), ("a/b", "a/b"), ("/srv//x/", "/srv/x"), ("a b", "a b"), ("...", "...")]
        {
            assert_eq!(ContainerPath::parse(text).unwrap().to_string(), shown);
        }
    }

    // mesos.md E8: "", ".", "..", "a/b" and "/data" were accepted, skipped or mounted over the runs folder.
    #[test]
    fn e8_bad_paths_are_refused() {
        let long = "a/".repeat(2048) + "b";
        let component = "x".repeat(256);
        for bad in [
            "", ".", "..", "/", "//", "a/../b", "./a", "a/.", "/proc", "/proc/x", "/sys/x", "//sys", "a\0b", "a\nb",
            &long, &component,
        ] {
            assert_eq!(ContainerPath::parse(bad).unwrap_err().cause(), Cause::ContainerPath, "{bad:?}");
        }
        assert!(ContainerPath::parse("/process").is_ok());
        assert!(ContainerPath::parse("proc").is_ok(), "below the sandbox it is a name like any other");
    }

    // mesos.md E12: /tmp and /tmpfoo are not in conflict.
    #[test]
    fn e12_containment_is_by_component() {
        let path = |text| ContainerPath::parse(text).unwrap();
        assert_eq!(path("/tmp/a").within(&path("/tmp")).unwrap(), ["a"]);
        assert!(path("/tmp").within(&path("/tmp")).unwrap().is_empty());
        assert!(path("/tmpfoo").within(&path("/tmp")).is_none());
        assert!(path("tmp").within(&path("/tmp")).is_none());
    }
}
