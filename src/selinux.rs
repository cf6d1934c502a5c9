//! SELinux labels: what one says, and what the policy of container-selinux lets a container's process do with a file. Pure
//! functions; [`host`] asks the host.
#![forbid(unsafe_code)]

pub mod host;

use std::collections::BTreeSet;

use crate::error::shell_word;

/// Types of container-selinux whose processes may use containers' files and hardly any others, and whose categories count.
/// What another type may do, spc_t's among them, is not known here.
const CONFINED: [&str; 6] = [
    "container_t",
    "svirt_lxc_net_t", // container_t's old name
    "container_init_t",
    "container_kvm_t",
    "container_engine_t",
    "container_userns_t",
];

/// Types of files that all of these may write.
const WRITABLE: [&str; 2] = ["container_file_t", "svirt_sandbox_file_t"];

/// Types of files that all of these may read and execute.
const READABLE: [&str; 2] = ["container_ro_file_t", "container_share_t"];

/// Types that whole filesystems have: switches of the policy (virt_use_nfs, ...) decide about these, and chcon can do
/// nothing about them.
const OF_FILESYSTEMS: [&str; 6] = ["fusefs_t", "nfs_t", "cifs_t", "cephfs_t", "ecryptfs_t", "hugetlbfs_t"];

/// As many categories as policies have.
const CATEGORIES: u16 = 1024;

/// A label: `user:role:type`, and `:level` where the policy has levels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Context {
    text: String,
    kind: String,
    level: Level,
}

/// A sensitivity and categories: of a range, its higher end, by which access is decided.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Level {
    text: String,
    sensitivity: u16,
    categories: BTreeSet<u16>,
}

impl Context {
    /// Parses a label as the kernel has it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Context, String> {
        let mut parts = text.splitn(4, ':');
        let mut name = |what: &str| {
            let is_plain = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
            let name = parts.next().filter(|name| !name.is_empty() && name.chars().all(is_plain));
            name.ok_or_else(|| format!("it has no {what}"))
        };
        let (_, _, kind) = (name("user")?, name("role")?, name("type")?);
        let level = Level::highest(parts.next().unwrap_or("s0"))?;
        Ok(Context { text: text.to_owned(), kind: kind.to_owned(), level })
    }

    /// Whether it is of a process of which is known here what it may do.
    #[must_use]
    pub fn is_confined(&self) -> bool {
        CONFINED.contains(&self.kind.as_str())
    }
}

impl Level {
    /// The level, or the higher one of a range.
    fn highest(text: &str) -> Result<Level, String> {
        let Some((low, high)) = text.split_once('-') else { return Level::parse(text) };
        let (low, high) = (Level::parse(low)?, Level::parse(high)?);
        if high.dominates(&low) { Ok(high) } else { Err(format!("{text} is no range of levels")) }
    }

    fn parse(text: &str) -> Result<Level, String> {
        let wrong = || format!("{text:?} is no level");
        let number = |word: &str, letter: char| {
            let digits = word.strip_prefix(letter).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
            digits.and_then(|digits| digits.parse::<u16>().ok()).filter(|number| *number < CATEGORIES).ok_or_else(wrong)
        };
        let (sensitivity, list) = text.split_once(':').map_or((text, None), |(first, list)| (first, Some(list)));
        let mut categories = BTreeSet::new();
        for word in list.iter().flat_map(|list| list.split(',')) {
            let (first, last) = word.split_once('.').unwrap_or((word, word));
            let (first, last) = (number(first, 'c')?, number(last, 'c')?);
            if first > last {
                return Err(wrong());
            }
            categories.extend(first..=last);
        }
        Ok(Level { text: text.to_owned(), sensitivity: number(sensitivity, 's')?, categories })
    }

    fn dominates(&self, other: &Level) -> bool {
        self.sensitivity >= other.sensitivity && self.categories.is_superset(&other.categories)
    }
}

/// What keeps a process from a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// What is wrong, for people.
    pub what: String,
    /// The process's level, where nothing but the file's is wrong.
    level: Option<String>,
}

/// What in the file's label keeps a process with another from using it, as far as that is known; `None` where nothing does.
#[must_use]
pub fn fault(process: &Context, file: &str, write: bool) -> Option<Fault> {
    if !process.is_confined() {
        return None;
    }
    let (kind, categories) = (&process.kind, &process.level);
    let (why, level) = match Context::parse(file) {
        Err(wrong) => (wrong, None),
        Ok(file) => {
            let is = |types: &[&str]| types.contains(&file.kind.as_str());
            let is_readable = is(&READABLE);
            if is_readable && write {
                (format!("{kind} may only read {}", file.kind), None)
            } else if !is_readable && !is(&WRITABLE) && !is(&OF_FILESYSTEMS) {
                (format!("{kind} may not use {}", file.kind), None)
            } else if !categories.dominates(&file.level) {
                (format!("{} does not include {}", categories.text, file.level.text), Some(categories.text.clone()))
            } else {
                return None;
            }
        }
    };
    let what = format!("its SELinux label {file} keeps a container with the label {} out: {why}", process.text);
    Some(Fault { what, level })
}

impl Fault {
    /// The command that mends it. A volume of one container at a time that has been another's becomes this one's; any other
    /// becomes every container's, as far as SELinux is concerned: categories are new with each container.
    #[must_use]
    pub fn chcon(&self, exclusive: bool, path: &str) -> String {
        let level = self.level.as_deref().filter(|_| exclusive).unwrap_or("s0");
        format!("chcon -R -t container_file_t -l {level} {}", shell_word(path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROCESS: &str = "system_u:system_r:container_t:s0:c1,c2";

    fn context(text: &str) -> Context {
        Context::parse(text).unwrap()
    }

    fn level(text: &str) -> (u16, Vec<u16>) {
        let level = Level::highest(text).unwrap();
        (level.sensitivity, level.categories.into_iter().collect())
    }

    #[test]
    fn labels_are_understood() {
        assert_eq!(context(PROCESS).kind, "container_t");
        assert_eq!(context("u:object_r:my-box.process_t").level, Level::parse("s0").unwrap());
        assert_eq!(level("s0"), (0, vec![]));
        assert_eq!(level("s0:c1,c2"), (0, vec![1, 2]));
        assert_eq!(level("s0-s15:c7.c9,c11"), (15, vec![7, 8, 9, 11]));
        assert_eq!(level("s0-s0:c0.c1023").1.len(), 1024);
        assert_eq!(level("s0:c3-s0:c3,c4"), (0, vec![3, 4]));
    }

    #[test]
    fn what_is_no_label_is_refused() {
        let levels = ["", "s", "s0:", "c1", "s0:c", "s0:1", "s0:c1,", "s0:c2.c1", "s0:c1024", "s0:c1.c2.c3", "s0:c+1"];
        let ranges = ["s1-s0", "s0:c1-s0", "s0-", "-s0", "s0-s0-s0", "s0 ", "SystemLow", "s99999"];
        for wrong in levels.into_iter().chain(ranges) {
            assert!(Context::parse(&format!("u:r:t:{wrong}")).is_err(), "{wrong:?}");
        }
        for wrong in ["", "unlabeled", "u:r", "u:r:", ":r:t", "u::t:s0", "u:r:t t:s0", "u:r:t\n", "u:r:t\0"] {
            assert!(Context::parse(wrong).is_err(), "{wrong:?}");
        }
    }

    /// File, whether it can be read, and whether it can be written.
    const FILES: [(&str, bool, bool); 12] = [
        ("system_u:object_r:container_file_t:s0", true, true),
        ("system_u:object_r:container_file_t", true, true),
        ("system_u:object_r:svirt_sandbox_file_t:s0:c2", true, true),
        ("system_u:object_r:container_file_t:s0:c1,c2", true, true),
        ("system_u:object_r:container_file_t:s0:c1,c3", false, false),
        ("system_u:object_r:container_file_t:s0:c1.c3", false, false),
        ("system_u:object_r:container_ro_file_t:s0", true, false),
        ("system_u:object_r:container_share_t:s0", true, false),
        ("system_u:object_r:nfs_t:s0", true, true),
        ("system_u:object_r:var_lib_t:s0", false, false),
        ("system_u:object_r:unlabeled_t:s0", false, false),
        ("nonsense", false, false),
    ];

    #[test]
    fn who_can_use_what_is_as_in_container_selinux() {
        for (file, read, write) in FILES {
            for kind in CONFINED {
                let process = context(&PROCESS.replace("container_t", kind));
                assert_eq!(fault(&process, file, false).is_none(), read, "{kind} reads {file}");
                assert_eq!(fault(&process, file, true).is_none(), write, "{kind} writes {file}");
            }
            // Nobody here knows what these may do.
            for kind in ["spc_t", "unconfined_t", "my-box.process", "container_logreader_t"] {
                assert_eq!(fault(&context(&PROCESS.replace("container_t", kind)), file, true), None, "{kind} {file}");
            }
        }
        let all = context("system_u:system_r:container_t:s0-s0:c0.c1023");
        assert_eq!(fault(&all, "system_u:object_r:container_file_t:s0:c8,c9", true), None);
        assert!(fault(&all, "system_u:object_r:container_file_t:s1", true).is_some());
    }

    #[test]
    fn the_command_fits_the_fault() {
        let command = |file: &str, exclusive| fault(&context(PROCESS), file, true).unwrap().chcon(exclusive, "/v/a b");
        let (everybodys, this_ones) =
            ("chcon -R -t container_file_t -l s0 '/v/a b'", "chcon -R -t container_file_t -l s0:c1,c2 '/v/a b'");
        assert_eq!(command("u:object_r:var_lib_t:s0", true), everybodys);
        assert_eq!(command("u:object_r:container_ro_file_t:s0", true), everybodys);
        assert_eq!(command("u:object_r:container_file_t:s0:c8,c9", true), this_ones);
        assert_eq!(command("u:object_r:container_file_t:s0:c8,c9", false), everybodys);
        let what = fault(&context(PROCESS), "u:object_r:var_lib_t:s0", true).unwrap().what;
        assert!(what.ends_with("container_t:s0:c1,c2 out: container_t may not use var_lib_t"), "{what}");
    }
}
