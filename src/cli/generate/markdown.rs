//! The little Markdown in which `docs/man` is written, as roff: headings, paragraphs, indented code, lists of `-`, and
//! inside a paragraph `code`, **strong** and links.
#![forbid(unsafe_code)]

use clap_mangen::roff::{Inline, Roff, bold, roman};

/// Appends a text without its title. What has a heading `## X` becomes the section X.
pub fn append(roff: &mut Roff, text: &str) {
    let mut paragraph: Vec<&str> = Vec::new();
    let mut code: Vec<&str> = Vec::new();
    // The first paragraph after a heading or an item needs no macro of its own.
    let mut open = true;
    for line in text.lines().chain([""]) {
        let is_code = line.starts_with("    ") && paragraph.is_empty();
        if !code.is_empty() && !is_code && !line.is_empty() {
            end_code(roff, &mut code);
            open = false;
        }
        if is_code || (line.is_empty() && !code.is_empty()) {
            if code.is_empty() && !open {
                roff.control("PP", []);
            }
            code.push(line.strip_prefix("    ").unwrap_or_default());
            continue;
        }
        let item = line.strip_prefix("- ");
        if line.is_empty() || item.is_some() || line.starts_with('#') {
            end_paragraph(roff, &mut paragraph, &mut open);
        }
        if let Some(heading) = line.strip_prefix("## ") {
            roff.control("SH", [heading.to_uppercase().as_str()]);
            open = true;
        } else if let Some(heading) = line.strip_prefix("### ") {
            roff.control("SS", [heading.replace('`', "").as_str()]);
            open = true;
        } else if let Some(item) = item {
            roff.control("IP", ["\\(bu", "2"]);
            paragraph.push(item);
            open = true;
        } else if !line.is_empty() {
            paragraph.push(line.trim_start());
        }
    }
    end_code(roff, &mut code);
}

fn end_paragraph(roff: &mut Roff, paragraph: &mut Vec<&str>, open: &mut bool) {
    if paragraph.is_empty() {
        return;
    }
    if !*open {
        roff.control("PP", []);
    }
    roff.text(inline(&paragraph.join(" ")));
    paragraph.clear();
    *open = false;
}

fn end_code(roff: &mut Roff, code: &mut Vec<&str>) {
    while code.last().is_some_and(|line| line.is_empty()) {
        code.pop();
    }
    if !code.is_empty() {
        example(roff, code);
    }
    code.clear();
}

/// Lines as they are, indented.
pub fn example(roff: &mut Roff, lines: &[&str]) {
    roff.control("RS", ["4"]);
    roff.control("nf", []);
    for line in lines {
        roff.text([roman(*line)]);
    }
    roff.control("fi", []);
    roff.control("RE", []);
}

/// The parts of a paragraph.
#[must_use]
pub fn inline(text: &str) -> Vec<Inline> {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some(start) = rest.find(['`', '*', '[']) {
        let (before, marked) = rest.split_at(start);
        let found = ["`", "**"]
            .into_iter()
            .find_map(|mark| {
                let (inside, after) = marked.strip_prefix(mark)?.split_once(mark)?;
                Some((bold(inside), after))
            })
            .or_else(|| {
                let (shown, after) = marked.strip_prefix('[')?.split_once("](")?;
                Some((roman(shown), after.split_once(')')?.1))
            });
        match found {
            Some((part, after)) => {
                parts.extend([roman(before), part]);
                rest = after;
            }
            None => {
                let width = marked.chars().next().map_or(0, char::len_utf8);
                parts.push(roman(&rest[..start + width]));
                rest = &rest[start + width..];
            }
        }
    }
    parts.push(roman(rest));
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn roff(text: &str) -> String {
        let mut roff = Roff::new();
        append(&mut roff, text);
        roff.to_roff()
    }

    #[test]
    fn blocks() {
        let text = "One\ntwo.\n\nThree.\n\n## Keys\n\n### `work_dir`\n\nFour.\n\n    code\n\n      deeper\n\n- item\n  goes on\n- last\n";
        assert_eq!(
            roff(text),
            "One two.\n.PP\nThree.\n.SH KEYS\n.SS work_dir\nFour.\n.PP\n.RS 4\n.nf\ncode\n\n  deeper\n.fi\n.RE\n\
             .IP \\(bu 2\nitem goes on\n.IP \\(bu 2\nlast\n"
        );
    }

    #[test]
    fn marks() {
        assert_eq!(roff("a `b` **c** [d](e.md) f* [g] 'h'"), "a \\fBb\\fR \\fBc\\fR d f* [g] 'h'\n");
    }
}
