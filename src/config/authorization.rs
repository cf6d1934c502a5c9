//! Which identity may use which role: the configuration's `authorization`.
//!
//! By default a namespace may use the role of its name and those below it (`team-a`, `team-a/db`), and root of the
//! host, or the user of rootless containers, any. Grants add to that. Denials take away, whatever else is said.
#![forbid(unsafe_code)]

use std::fmt;

use serde::Deserialize;

use crate::container::Identity;
use crate::error::{Cause, Error, Result};
use crate::request::names::Role;

/// Grants and denials.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, schemars::JsonSchema)]
pub struct Authorization {
    /// What is granted beyond the default.
    pub allow: Vec<Rule>,
    /// What is denied whatever else is said.
    pub deny: Vec<Rule>,
}

/// These roles, and all below them, for this identity.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, schemars::JsonSchema)]
pub struct Rule {
    /// Whom it is about.
    #[schemars(with = "String")]
    pub identity: Who,
    /// The roles; each stands for those below it too.
    pub roles: Vec<Role>,
}

/// Whom a rule is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Who {
    /// `*`: everybody.
    Anybody,
    /// `namespace:*`: every Kubernetes namespace.
    AnyNamespace,
    /// One identity: `namespace:NAME`, `root` or `user:UID`.
    One(Identity),
}

/// The answer, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision<'a> {
    /// Root of the host, or the user whose volumes they are.
    Owner,
    /// The namespace's own role, or one below it.
    OwnRole,
    /// Granted.
    Allowed(&'a Rule),
    /// Denied.
    Denied(&'a Rule),
    /// Nothing says that it may.
    NotGranted,
}

impl Decision<'_> {
    /// Whether it may.
    #[must_use]
    pub fn is_allowed(&self) -> bool {
        matches!(self, Decision::Owner | Decision::OwnRole | Decision::Allowed(_))
    }
}

impl fmt::Display for Decision<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Decision::Owner => f.write_str("it may use any role"),
            Decision::OwnRole => f.write_str("a namespace may use the role of its name and those below it"),
            Decision::Allowed(rule) => write!(f, "\"authorization\" allows {rule}"),
            Decision::Denied(rule) => write!(f, "\"authorization\" denies {rule}"),
            Decision::NotGranted => f.write_str("the role is not its own, and nothing in \"authorization\" allows it"),
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let roles: Vec<&str> = self.roles.iter().map(Role::as_str).collect();
        write!(f, "{} the roles {}", self.identity, roles.join(", "))
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Who::Anybody => f.write_str("*"),
            Who::AnyNamespace => f.write_str("namespace:*"),
            Who::One(Identity::Namespace(name)) => write!(f, "namespace:{name}"),
            Who::One(Identity::Root) => f.write_str("root"),
            Who::One(Identity::User(uid)) => write!(f, "user:{uid}"),
        }
    }
}

impl serde::Serialize for Who {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Authorization {
    /// Decides.
    #[must_use]
    pub fn decide(&self, identity: &Identity, role: &Role) -> Decision<'_> {
        let find = |rules: &'_ [Rule]| rules.iter().position(|rule| rule.is_about(identity, role));
        if let Some(rule) = find(&self.deny).and_then(|index| self.deny.get(index)) {
            return Decision::Denied(rule);
        }
        match identity {
            Identity::Root | Identity::User(_) => return Decision::Owner,
            Identity::Namespace(namespace) if role.is_within(namespace) => return Decision::OwnRole,
            Identity::Namespace(_) => {}
        }
        find(&self.allow).and_then(|index| self.allow.get(index)).map_or(Decision::NotGranted, Decision::Allowed)
    }
}

impl Rule {
    fn is_about(&self, identity: &Identity, role: &Role) -> bool {
        let whom = match &self.identity {
            Who::Anybody => true,
            Who::AnyNamespace => matches!(identity, Identity::Namespace(_)),
            Who::One(one) => one == identity,
        };
        whom && self.roles.iter().any(|named| role.is_within(named.as_str()))
    }
}

/// Keys of the whole.
pub(super) const KEYS: [&str; 2] = ["allow", "deny"];

/// Keys of a rule.
pub(super) const RULE_KEYS: [&str; 2] = ["identity", "roles"];

/// Grants and denials.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Authorization")]
pub(super) struct File {
    /// What is granted beyond the default.
    #[serde(default)]
    allow: Vec<RuleFile>,
    /// What is denied whatever else is said.
    #[serde(default)]
    deny: Vec<RuleFile>,
}

/// These roles, and all below them, for this identity.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Rule")]
struct RuleFile {
    /// `*`, `root`, `user:UID`, `namespace:*` or `namespace:NAME`.
    identity: String,
    /// The roles; each stands for those below it too.
    #[schemars(length(min = 1))]
    roles: Vec<String>,
}

impl File {
    pub(super) fn check(self) -> Result<Authorization> {
        let rules = |rules: Vec<RuleFile>| rules.into_iter().map(RuleFile::check).collect::<Result<Vec<Rule>>>();
        Ok(Authorization { allow: rules(self.allow)?, deny: rules(self.deny)? })
    }
}

impl RuleFile {
    fn check(self) -> Result<Rule> {
        let role = |name: &String| Role::parse(name).map_err(|error| error.in_configuration("authorization"));
        if self.roles.is_empty() {
            return Err(Error::new(
                Cause::ConfigInvalid,
                format!("authorization: a rule for {:?} has no roles", self.identity),
            ));
        }
        Ok(Rule { identity: who(&self.identity)?, roles: self.roles.iter().map(role).collect::<Result<_>>()? })
    }
}

/// A namespace's identity; `None` where Kubernetes has no namespace of that name (a DNS label, RFC 1123).
#[must_use]
pub fn namespace(name: &str) -> Option<Identity> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    (!name.is_empty() && name.len() <= 63 && name.chars().all(plain)).then(|| Identity::Namespace(name.to_owned()))
}

fn who(text: &str) -> Result<Who> {
    let found = match text.split_once(':') {
        None if text == "*" => Some(Who::Anybody),
        None if text == "root" => Some(Who::One(Identity::Root)),
        Some(("namespace", "*")) => Some(Who::AnyNamespace),
        Some(("namespace", name)) => namespace(name).map(Who::One),
        Some(("user", uid)) => uid.parse().ok().map(|uid| Who::One(Identity::User(uid))),
        _ => None,
    };
    found.ok_or_else(|| {
        Error::new(
            Cause::ConfigInvalid,
            format!("authorization: {text:?} is none of *, root, user:UID, namespace:* and namespace:NAME"),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn authorization(text: &str) -> Result<Authorization> {
        serde_json::from_str::<File>(text).map_err(|error| Error::new(Cause::ConfigInvalid, error.to_string()))?.check()
    }

    fn decide(text: &str, identity: &Identity, role: &str) -> bool {
        authorization(text).unwrap().decide(identity, &Role::parse(role).unwrap()).is_allowed()
    }

    #[test]
    fn a_namespace_has_its_own_roles_and_root_all() {
        let team = Identity::Namespace("team-a".to_owned());
        for (role, allowed) in [("team-a", true), ("team-a/db", true), ("team-ab", false), ("victim", false)] {
            assert_eq!(decide("{}", &team, role), allowed, "{role}");
        }
        assert!(decide("{}", &Identity::Root, "victim") && decide("{}", &Identity::User(1000), "victim"));
    }

    #[test]
    fn grants_and_denials() {
        let rules = r#"{"allow": [{"identity": "namespace:team-a", "roles": ["common", "team-b/export"]},
                                  {"identity": "namespace:*", "roles": ["public"]}],
                        "deny": [{"identity": "namespace:team-a", "roles": ["common/keys", "team-a/old"]},
                                 {"identity": "*", "roles": ["frozen"]}]}"#;
        let (a, b) = (Identity::Namespace("team-a".to_owned()), Identity::Namespace("team-b".to_owned()));
        for (identity, role, allowed) in [
            (&a, "common", true),
            (&a, "common/x", true),
            (&a, "common/keys", false),
            (&a, "common/keys/x", false),
            (&a, "commons", false),
            (&a, "team-b/export", true),
            (&a, "team-b", false),
            (&a, "team-a/old", false),
            (&a, "team-a/older", true),
            (&b, "common", false),
            (&b, "public", true),
            (&b, "frozen", false),
            (&Identity::Root, "frozen", false),
            (&Identity::Root, "common/keys", true),
        ] {
            assert_eq!(decide(rules, identity, role), allowed, "{identity} {role}");
        }
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for text in [
            r#"{"allowed": []}"#,
            r#"{"allow": [{"identity": "team-a", "roles": ["x"]}]}"#,
            r#"{"allow": [{"identity": "namespace:", "roles": ["x"]}]}"#,
            r#"{"allow": [{"identity": "namespace:A_B", "roles": ["x"]}]}"#,
            r#"{"allow": [{"identity": "user:-1", "roles": ["x"]}]}"#,
            r#"{"allow": [{"identity": "root", "roles": []}]}"#,
            r#"{"allow": [{"identity": "root", "roles": ["*"]}]}"#,
            r#"{"deny": [{"identity": "root", "roles": ["x"], "paths": []}]}"#,
        ] {
            assert_eq!(authorization(text).unwrap_err().cause(), Cause::ConfigInvalid, "{text}");
        }
    }
}
