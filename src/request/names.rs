//! Roles and persistence ids, by Mesos's rules (mesos.md V3, V4).
#![forbid(unsafe_code)]

use std::fmt;

use crate::error::{Cause, Error, Result};

/// A persistence id: names a persistent volume within its role.
#[derive(
    Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize, schemars::JsonSchema,
)]
#[serde(transparent)]
pub struct VolumeId(String);

/// Beginning of names that hooks use for what is being made or deleted.
pub const RESERVED: &str = ".fs-isolator.";

impl VolumeId {
    /// Checks an id: 1 to 255 bytes, not `.` or `..`, no `/`, `\` or control character.
    ///
    /// # Errors
    /// [`Cause::VolumeId`].
    pub fn parse(text: &str) -> Result<VolumeId> {
        let wrong = |what: &str| Err(Error::new(Cause::VolumeId, format!("persistence id {text:?} {what}")));
        match text {
            "" => wrong("is empty"),
            "." | ".." => wrong("is a relative directory"),
            _ if text.starts_with(RESERVED) => wrong("starts with .fs-isolator., which is reserved"),
            _ if text.len() > 255 => wrong("is longer than 255 bytes"),
            _ if text.chars().any(|c| c.is_control() || c == '/' || c == '\\') => {
                wrong("has a slash, backslash or control character")
            }
            _ => Ok(VolumeId(text.to_owned())),
        }
    }

    /// The id, which is also its directory's name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for VolumeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of a secret, as a Mesos `Secret` refers to it: `NAME`, or `NAME/KEY`.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(transparent)]
pub struct SecretName(String);

impl SecretName {
    /// Checks a name: one or two parts, each by the rules of a persistence id.
    ///
    /// # Errors
    /// [`Cause::RequestInvalid`].
    pub fn parse(text: &str) -> Result<SecretName> {
        let mut parts = text.splitn(2, '/');
        if parts.all(|part| VolumeId::parse(part).is_ok()) {
            return Ok(SecretName(text.to_owned()));
        }
        Err(Error::new(Cause::RequestInvalid, format!("{text:?} is not the name of a secret"))
            .remedy("write NAME, or NAME/KEY, as the configuration's \"secrets\" have it"))
    }
}

impl fmt::Display for SecretName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A role: who a volume belongs to. Hierarchical, with `/` between its components.
#[derive(
    Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize, schemars::JsonSchema,
)]
#[serde(transparent)]
pub struct Role(String);

impl Role {
    /// Checks a role. `*`, Mesos's role for what nobody reserved, owns no volumes.
    ///
    /// # Errors
    /// [`Cause::Role`].
    pub fn parse(text: &str) -> Result<Role> {
        let wrong = |what: &str| Err(Error::new(Cause::Role, format!("role {text:?} {what}")));
        if text.len() > 255 {
            return wrong("is longer than 255 bytes");
        }
        for component in text.split('/') {
            match component {
                "" => return wrong("is empty or has an empty component"),
                "." | ".." | "*" => return wrong("has a component . or .. or *"),
                _ if component.starts_with('-') => return wrong("has a component that starts with -"),
                _ if component.chars().any(|c| c == ' ' || c.is_control()) => {
                    return wrong("has a space or a control character");
                }
                _ => {}
            }
        }
        Ok(Role(text.to_owned()))
    }

    /// Mesos's name of its directory: every `/` becomes a space, which no role has (mesos.md B2).
    #[must_use]
    pub fn directory(&self) -> String {
        self.0.replace('/', " ")
    }

    /// The role of a directory below `volumes/roles`.
    ///
    /// # Errors
    /// [`Cause::Role`] where no role has such a directory.
    pub fn from_directory(name: &str) -> Result<Role> {
        Role::parse(&name.replace(' ', "/"))
    }

    /// Whether this is `ancestor` itself or lies below it, by component: `a/b` is below `a`, `ab` is not.
    #[must_use]
    pub fn is_within(&self, ancestor: &str) -> bool {
        self.0.strip_prefix(ancestor).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// The role as Mesos writes it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_follow_mesos_v3() {
        for good in ["db", "a b", "test2#es_data#dd018920", "ü", "%41", "a:b;c", "'\"", &"x".repeat(255)] {
            assert!(VolumeId::parse(good).is_ok(), "{good:?}");
        }
        for bad in ["", ".", "..", ".fs-isolator.x", "a/b", "a\\b", "a\nb", "a\0b", "\u{7f}", &"x".repeat(256)] {
            assert_eq!(VolumeId::parse(bad).unwrap_err().cause(), Cause::VolumeId, "{bad:?}");
        }
    }

    #[test]
    fn a_secret_has_a_name_and_maybe_a_key() {
        assert!(SecretName::parse("db").is_ok() && SecretName::parse("db/password").is_ok());
        for bad in ["", "/", "db/", "/db", "a/b/c", "../x", "a/..", "a\n"] {
            assert_eq!(SecretName::parse(bad).unwrap_err().cause(), Cause::RequestInvalid, "{bad:?}");
        }
    }

    #[test]
    fn roles_follow_mesos_v4() {
        for good in ["ads", "eng/front_end", "a/b/c", "ü", "a-b"] {
            assert!(Role::parse(good).is_ok(), "{good:?}");
        }
        for bad in ["", "*", "/a", "a/", "a//b", "a/./b", "..", "a/*", "-a", "a/-b", "a b", "a\tb", "a\u{7f}"] {
            assert_eq!(Role::parse(bad).unwrap_err().cause(), Cause::Role, "{bad:?}");
        }
    }

    #[test]
    fn a_role_and_its_directory_are_one_to_one() {
        let role = Role::parse("a/b/c").unwrap();
        assert_eq!(role.directory(), "a b c");
        assert_eq!(Role::from_directory("a b c").unwrap(), role);
    }

    // mesos.md E12: prefixes are compared by component.
    #[test]
    fn e12_a_role_is_not_within_its_namesake() {
        assert!(Role::parse("team-a").unwrap().is_within("team-a"));
        assert!(Role::parse("team-a/db").unwrap().is_within("team-a"));
        assert!(!Role::parse("team-ab").unwrap().is_within("team-a"));
        assert!(!Role::parse("team").unwrap().is_within("team-a"));
    }
}
