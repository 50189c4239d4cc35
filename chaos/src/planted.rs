//! A planted bug as text: what it replaces, in which file and in which function.
//!
//! A change begins with `@@ file` or `@@ file function`. Behind it are lines that begin with a blank (left as they are),
//! `-` (removed) or `+` (added). Blanks at both ends of a line do not count when lines are compared, nor does where the
//! function is in its file: a change fits for as long as its function has its lines, once.

use std::{fs, ops::Range, path::Path};

use crate::Error;

/// A change of one function, or of a file outside of its functions.
pub struct Change {
    pub file: String,
    function: Option<String>,
    lines: Vec<(Kind, String)>,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Kept,
    Removed,
    Added,
}

impl Change {
    /// The changes behind the head of a patch.
    pub fn read(patch: &str) -> Result<Vec<Self>, Error> {
        let mut changes: Vec<Self> = vec![];
        for line in patch.lines() {
            if let Some(place) = line.strip_prefix("@@ ") {
                let (file, function) = match place.split_once(' ') {
                    Some((file, function)) => (file, Some(function.to_owned())),
                    None => (place, None),
                };
                changes.push(Self { file: file.to_owned(), function, lines: vec![] });
                continue;
            }
            let Some(change) = changes.last_mut() else { continue };
            let kind = match line.as_bytes().first() {
                Some(b'-') => Kind::Removed,
                Some(b'+') => Kind::Added,
                Some(b' ') | None => Kind::Kept,
                Some(_) => {
                    return Err(format!("a line of a change begins with ` `, `-` or `+`, and not as `{line}`").into());
                }
            };
            change.lines.push((kind, line.get(1..).unwrap_or_default().to_owned()));
        }
        for change in &mut changes {
            while change.lines.last().is_some_and(|(kind, text)| *kind == Kind::Kept && text.trim().is_empty()) {
                change.lines.pop();
            }
        }
        if changes.is_empty() { Err("nothing is changed".into()) } else { Ok(changes) }
    }

    /// How many lines it adds or removes: the larger number.
    #[cfg(test)]
    pub fn size(&self) -> (usize, usize) {
        let count = |wanted| self.lines.iter().filter(|(kind, _)| *kind == wanted).count();
        (count(Kind::Removed), count(Kind::Added))
    }

    /// The text of the file with the change.
    fn made(&self, text: &str) -> Result<String, Error> {
        let lines: Vec<_> = text.lines().collect();
        let before: Vec<_> =
            self.lines.iter().filter(|(kind, _)| *kind != Kind::Added).map(|(_, text)| text.trim()).collect();
        let within = match &self.function {
            Some(function) => functions(&lines, function),
            None => std::iter::once(0..lines.len()).collect(),
        };
        let starts = |range: &Range<usize>| range.start..(range.end + 1).saturating_sub(before.len());
        let fits = |at: &usize| before.iter().zip(&lines[*at..]).all(|(before, line)| *before == line.trim());
        let fitting: Vec<_> = within.iter().flat_map(starts).filter(fits).collect();
        let [at] = fitting[..] else {
            let place = self.function.as_ref().map_or_else(String::new, |function| format!(" in `{function}`"));
            let count = fitting.len();
            return Err(format!("{}{place} has the lines {count} times: {}", self.file, before.join(" ⏎ ")).into());
        };
        let mut there = lines[at..].iter();
        let mut changed = vec![];
        for (kind, text) in &self.lines {
            match kind {
                Kind::Kept => changed.extend(there.next().copied()),
                Kind::Removed => drop(there.next()),
                Kind::Added => changed.push(text.as_str()),
            }
        }
        let all = lines[..at].iter().copied().chain(changed).chain(lines[at + before.len()..].iter().copied());
        Ok(all.flat_map(|line| [line, "\n"]).collect())
    }
}

/// Plants what a patch says in a tree, or nothing of it: with `write` only.
pub fn plant(changes: &[Change], tree: &Path, write: bool) -> Result<(), Error> {
    let mut files: Vec<(&str, String)> = vec![];
    for change in changes {
        let at = match files.iter().position(|(file, _)| *file == change.file) {
            Some(at) => at,
            None => {
                let text = fs::read_to_string(tree.join(&change.file))?;
                files.push((&change.file, text));
                files.len() - 1
            }
        };
        files[at].1 = change.made(&files[at].1)?;
    }
    for (file, text) in files.iter().filter(|_| write) {
        fs::write(tree.join(file), text)?;
    }
    Ok(())
}

/// The lines of the functions of a name, in Rust or in SQL, as they are when they are formatted.
fn functions(lines: &[&str], name: &str) -> Vec<Range<usize>> {
    let begins = |line: &str| {
        let line = line.trim_start();
        let rest = match line.strip_prefix("CREATE ").map(|rest| rest.trim_start_matches("OR REPLACE ")) {
            Some(rest) => rest.strip_prefix("FUNCTION {schema}."),
            None => line.split_once("fn ").filter(|(before, _)| !before.starts_with("//")).map(|(_, rest)| rest),
        };
        let rest = rest.and_then(|rest| rest.strip_prefix(name));
        rest.is_some_and(|rest| rest.starts_with(['(', '<']))
    };
    let end = |start: usize| {
        let first = lines[start];
        let indent = &first[..first.len() - first.trim_start().len()];
        let is_sql = first.starts_with("CREATE ");
        let closes = |line: &str| match is_sql {
            true => line.starts_with("END $$") || line.starts_with("$$"),
            false => line.strip_prefix(indent).is_some_and(|rest| rest == "}"),
        };
        if !is_sql && first.ends_with(['}', ';']) {
            return start + 1;
        }
        (start..lines.len()).find(|line| closes(lines[*line])).map_or(lines.len(), |line| line + 1)
    };
    (0..lines.len()).filter(|line| begins(lines[*line])).map(|start| start..end(start)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "impl A {\n    fn one(&self) {\n        same();\n        other();\n    }\n\n    async fn two<T>() {\n        \
                        same();\n    }\n}\n";

    fn planted(patch: &str) -> Result<String, Error> {
        let [change] = &Change::read(patch)?[..] else { panic!("one change") };
        change.made(FILE)
    }

    #[test]
    fn a_change_is_made_in_its_function_wherever_that_is() {
        let planted = planted("Breaks: A1\n\n@@ a.rs two\n-  same();\n+        never();\n\n").expect("it fits");
        assert_eq!(planted, FILE.replace("two<T>() {\n        same", "two<T>() {\n        never"));
    }

    #[test]
    fn what_is_kept_stays_as_it_is() {
        let planted = planted("@@ a.rs one\n same();\n+        more();\n other();\n").expect("it fits");
        assert_eq!(planted, FILE.replace("same();\n        other", "same();\n        more();\n        other"));
    }

    #[test]
    fn what_fits_nowhere_or_twice_is_an_error() {
        for patch in
            ["@@ a.rs\n-same();\n", "@@ a.rs three\n-same();\n", "@@ a.rs two\n-other();\n", "no change", "@@ a.rs\nx"]
        {
            planted(patch).expect_err(patch);
        }
    }
}
