//! The one thing that matters in containers.conf and crio.conf: an array of strings.
#![forbid(unsafe_code)]

/// The strings of `key = [...]` in `[table]`; `None` where it is not set. Later in the file wins.
pub fn strings(text: &str, table: &str, key: &str) -> Option<Vec<String>> {
    let (mut current, mut found) = (String::new(), None);
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let line = uncommented(line).trim();
        if let Some(name) = line.strip_prefix('[') {
            current = name.trim_end_matches(']').trim().to_owned();
        } else if let Some((name, value)) = line.split_once('=')
            && is_key(name, &current, table, key)
        {
            let mut value = value.trim().to_owned();
            while value.starts_with('[') && !is_closed(&value) {
                let Some(more) = lines.next() else { break };
                value.push(' ');
                value.push_str(uncommented(more));
            }
            found = Some(quoted(&value));
        }
    }
    found
}

fn is_key(name: &str, current: &str, table: &str, key: &str) -> bool {
    let plain = |part: &str| part.trim().trim_matches(['"', '\'']).to_owned();
    let full = if current.is_empty() { String::new() } else { format!("{current}.") } + name;
    full.split('.').map(plain).eq(table.split('.').chain([key]).map(str::to_owned))
}

/// Characters that stand outside of strings, and where.
fn outside(text: &str) -> impl Iterator<Item = (usize, char)> {
    let (mut quote, mut escaped) = (None, false);
    text.char_indices().filter(move |(_, c)| match quote {
        Some('"') if escaped => {
            escaped = false;
            false
        }
        Some(open) => {
            escaped = open == '"' && *c == '\\';
            if *c == open {
                quote = None;
            }
            false
        }
        None => {
            if matches!(c, '"' | '\'') {
                quote = Some(*c);
            }
            true
        }
    })
}

fn uncommented(line: &str) -> &str {
    outside(line).find(|(_, c)| *c == '#').map_or(line, |(at, _)| &line[..at])
}

fn is_closed(array: &str) -> bool {
    outside(array).any(|(_, c)| c == ']')
}

fn quoted(array: &str) -> Vec<String> {
    let opens: Vec<usize> = outside(array).filter(|(_, c)| matches!(c, '"' | '\'')).map(|(at, _)| at).collect();
    opens.into_iter().filter_map(|at| string(&array[at..])).collect()
}

/// The string that a text begins with.
fn string(text: &str) -> Option<String> {
    if let Some(literal) = text.strip_prefix('\'') {
        return literal.split_once('\'').map(|(string, _)| string.to_owned());
    }
    // A basic string's escapes are those of JSON, but for \U, which no path needs.
    let mut parsed = serde_json::Deserializer::from_str(text).into_iter::<String>();
    parsed.next()?.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_array_is_found_in_its_table() {
        let text = "hooks_dir = ['/no']\n[containers]\nhooks_dir = [\"/other\"]\n[engine] # the engine\n# hooks_dir = [\"/off\"]\n\
                    volume = \"hooks_dir = ['/x']\"\nhooks_dir = [ # two\n  \"/a#b\", '/c]d', # \"/e\"\n  \"/q\\\"\"\n]\n[network]\nx = 1\n";
        assert_eq!(strings(text, "engine", "hooks_dir").unwrap(), ["/a#b", "/c]d", "/q\""]);
        assert_eq!(strings("[engine]\n#hooks_dir = [\"/a\"]\n", "engine", "hooks_dir"), None);
        assert_eq!(strings("[engine]\nhooks_dir = []", "engine", "hooks_dir").unwrap(), [""; 0]);
        assert_eq!(strings("engine.hooks_dir = ['/a']", "engine", "hooks_dir").unwrap(), ["/a"]);
        assert_eq!(
            strings("[crio.runtime]\nhooks_dir=['/a',{append=true}]", "crio.runtime", "hooks_dir").unwrap(),
            ["/a"]
        );
    }
}
