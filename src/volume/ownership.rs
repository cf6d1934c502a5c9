//! Whose a volume is: Mesos's rule where ids are the same inside and out, an idmapped mount where they are not.
//!
//! No file in a volume is ever touched but its root, and that by descriptor (the gid manager, which Mesos's operators
//! may ask for, is [`super::gids`]).
#![forbid(unsafe_code)]

use crate::config::Ownership;
use crate::error::{Cause, Error, Result};
use crate::ids::UserNamespace;
use crate::sys::Stat;

/// What the decision rests on.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// The rule that counts for the volume.
    pub rule: Ownership,
    /// The container's user and group, as they are inside.
    pub user: (u32, u32),
    /// The container's user namespace, where it is not the hook's.
    pub namespace: Option<&'a UserNamespace>,
    /// The volume's root.
    pub root: &'a Stat,
    /// Others hold the volume too.
    pub others: bool,
    /// Volumes get groups of their own.
    pub by_group: bool,
}

/// What is done about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Action {
    /// Whom the volume's root is given to.
    pub give: Option<(u32, u32)>,
    /// The mount maps what is on disk by the container's user namespace: an id on disk is that id inside.
    pub idmap: bool,
    /// The volume gets a group of its own.
    pub group: bool,
}

/// Decides.
///
/// # Errors
/// [`Cause::Ownership`] where the container's user has no id outside its user namespace.
pub fn decide(facts: Facts<'_>) -> Result<Action> {
    let nothing = Action::default();
    let differs = |user: (u32, u32)| (facts.root.uid, facts.root.gid) != user;
    // mesos.md P9: not for root, and not while another container uses it.
    let give = |user: (u32, u32)| (user.0 != 0 && differs(user) && !facts.others).then_some(user);
    if facts.rule == Ownership::Never {
        return Ok(nothing);
    }
    let Some(namespace) = facts.namespace else {
        return Ok(if facts.by_group && facts.user.0 != 0 {
            Action { group: true, ..nothing }
        } else {
            Action { give: give(facts.user), ..nothing }
        });
    };
    let outside = namespace.outside(facts.user).ok_or_else(|| {
        Error::new(
            Cause::Ownership,
            format!("the container's user {}:{} has no id outside its user namespace", facts.user.0, facts.user.1),
        )
        .remedy("map that user in the container's user namespace")
    })?;
    Ok(match facts.rule {
        Ownership::Never => nothing,
        Ownership::Mesos => Action { give: give(outside), ..nothing },
        Ownership::Auto if facts.root.uid == outside.0 => nothing,
        Ownership::Auto | Ownership::Idmap => Action { give: give(facts.user), idmap: true, group: false },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(uid: u32, gid: u32) -> Stat {
        Stat { mode: 0o040_750, uid, gid, ..Stat::default() }
    }

    fn action(rule: Ownership, user: (u32, u32), mapped: bool, owner: (u32, u32), others: bool) -> Action {
        let namespace = UserNamespace::for_test("0 200000 65536");
        let namespace = mapped.then_some(&namespace);
        let root = root(owner.0, owner.1);
        decide(Facts { rule, user, namespace, root: &root, others, by_group: false }).unwrap()
    }

    const NOTHING: Action = Action { give: None, idmap: false, group: false };
    const MAPPED: Action = Action { idmap: true, ..NOTHING };

    fn given(uid: u32, gid: u32) -> Action {
        Action { give: Some((uid, gid)), ..NOTHING }
    }

    // mesos.md P9.
    #[test]
    fn mesos_rule_without_a_user_namespace() {
        for rule in [Ownership::Auto, Ownership::Mesos, Ownership::Idmap] {
            assert_eq!(action(rule, (1000, 100), false, (0, 0), false), given(1000, 100));
            assert_eq!(action(rule, (1000, 100), false, (1000, 0), false), given(1000, 100));
            assert_eq!(action(rule, (1000, 100), false, (1000, 100), false), NOTHING);
            assert_eq!(action(rule, (1000, 100), false, (7, 7), true), NOTHING, "another holder uses it");
            assert_eq!(action(rule, (0, 0), false, (1000, 100), false), NOTHING, "not for root");
        }
        assert_eq!(action(Ownership::Never, (1000, 100), false, (0, 0), false), NOTHING);
    }

    #[test]
    fn with_a_user_namespace_ids_on_disk_are_the_ids_inside() {
        let auto = |user, owner, others| action(Ownership::Auto, user, true, owner, others);
        assert_eq!(auto((0, 0), (0, 0), false), MAPPED);
        assert_eq!(auto((0, 0), (1000, 1000), false), MAPPED, "what is on disk keeps its ids");
        assert_eq!(auto((1000, 100), (0, 0), false), Action { idmap: true, ..given(1000, 100) });
        assert_eq!(auto((1000, 100), (0, 0), true), MAPPED);
        assert_eq!(auto((0, 0), (200_000, 200_000), false), NOTHING, "the owner is the container's user already");
        assert_eq!(auto((1000, 100), (201_000, 7), false), NOTHING);
        assert_eq!(action(Ownership::Idmap, (0, 0), true, (200_000, 200_000), false), MAPPED);
        assert_eq!(action(Ownership::Never, (0, 0), true, (0, 0), false), NOTHING);
    }

    #[test]
    fn mesos_rule_in_a_user_namespace_gives_to_the_user_outside() {
        assert_eq!(action(Ownership::Mesos, (0, 0), true, (0, 0), false), given(200_000, 200_000));
        assert_eq!(action(Ownership::Mesos, (1000, 100), true, (0, 0), true), NOTHING);
    }

    #[test]
    fn a_user_without_an_id_outside_is_refused() {
        let namespace = UserNamespace::for_test("0 200000 10");
        let root = root(0, 0);
        let facts = |rule| Facts {
            rule,
            user: (1000, 0),
            namespace: Some(&namespace),
            root: &root,
            others: false,
            by_group: false,
        };
        assert_eq!(decide(facts(Ownership::Auto)).unwrap_err().cause(), Cause::Ownership);
        assert_eq!(decide(facts(Ownership::Never)).unwrap(), NOTHING);
    }
}
