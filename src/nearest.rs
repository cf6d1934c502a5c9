//! The right name that is nearest to a wrong one, for the error that tells of it.
#![forbid(unsafe_code)]

/// The nearest of these names, if one is near: at most every third letter differs.
pub fn nearest<'n>(wrong: &str, names: impl IntoIterator<Item = &'n str>) -> Option<&'n str> {
    // What somebody else wrote may be of any length, and the work grows with it.
    let wrong: String = wrong.chars().take(64).collect();
    let distance = |name: &str| strsim::osa_distance(&wrong.to_lowercase(), &name.to_lowercase());
    let best = names.into_iter().map(|name| (distance(name), name)).min_by_key(|(distance, _)| *distance)?;
    let letters = wrong.chars().count().max(best.1.chars().count());
    (best.0 * 3 <= letters).then_some(best.1)
}

/// The same as the beginning of a remedy: a question, or nothing.
pub fn question<'n>(wrong: &str, names: impl IntoIterator<Item = &'n str>) -> String {
    nearest(wrong, names).map_or_else(String::new, |name| format!("did you mean {name:?}? "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_near_is_meant() {
        let names = ["postgres", "redis", "db"];
        for (wrong, meant) in [
            ("postgre", Some("postgres")),
            ("Redsi", Some("redis")),
            ("bd", None),
            ("dbs", Some("db")),
            ("kafka", None),
            ("", None),
        ] {
            assert_eq!(nearest(wrong, names), meant, "{wrong}");
        }
        assert_eq!(question("reids", names), "did you mean \"redis\"? ");
        assert_eq!(question("x", []), "");
    }
}
