//! Owners on the command line: numbers, or names in /etc/passwd and /etc/group. The program is static, so that
//! there is no name service to ask.
#![forbid(unsafe_code)]

/// A user and group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// User id.
    pub uid: u32,
    /// Group id; of a user without one, the user's primary group, or the same number.
    pub gid: u32,
}

/// Parses `USER[:GROUP]`.
///
/// # Errors
/// A sentence for clap to show.
pub fn parse(text: &str) -> Result<Owner, String> {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    parse_with(text, &read("/etc/passwd"), &read("/etc/group"))
}

fn parse_with(text: &str, passwd: &str, group: &str) -> Result<Owner, String> {
    let (user, wanted_group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (text, None),
    };
    let entry = |table: &str, name: &str, by: usize| -> Option<Vec<String>> {
        let line = table.lines().find(|line| line.split(':').nth(by) == Some(name))?;
        Some(line.split(':').map(str::to_owned).collect())
    };
    let number = |fields: Option<Vec<String>>, index: usize| fields?.get(index)?.parse::<u32>().ok();
    let uid = user
        .parse()
        .ok()
        .or_else(|| number(entry(passwd, user, 0), 2))
        .ok_or_else(|| format!("{user:?} is neither a number nor a user in /etc/passwd"))?;
    let gid = match wanted_group {
        Some(name) => name
            .parse()
            .ok()
            .or_else(|| number(entry(group, name, 0), 2))
            .ok_or_else(|| format!("{name:?} is neither a number nor a group in /etc/group"))?,
        None => number(entry(passwd, &uid.to_string(), 2), 3).unwrap_or(uid),
    };
    Ok(Owner { uid, gid })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names() {
        let parse = |text| {
            parse_with(text, "root:x:0:0::/:\nalice:x:1000:100:A:/home/alice:/bin/sh\n", "users:x:100:\ndb:x:70:\n")
        };
        let owner = |uid, gid| Ok(Owner { uid, gid });
        assert_eq!(parse("1001"), owner(1001, 1001));
        assert_eq!(parse("alice"), owner(1000, 100));
        assert_eq!(parse("1000"), owner(1000, 100));
        assert_eq!(parse("alice:db"), owner(1000, 70));
        assert_eq!(parse("7:8"), owner(7, 8));
        assert!(parse("bob").is_err() && parse("").is_err() && parse("alice:nobody").is_err() && parse("-1").is_err());
    }
}
