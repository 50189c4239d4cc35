//! Reads a repository with git's own command line.

use std::{
    io::{BufRead, BufReader, Read, Write},
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use eventstore::Timestamp;

use crate::Result;

/// A commit of the first-parent history.
#[derive(Clone, Debug)]
pub struct Commit {
    pub id: String,
    pub parents: Vec<String>,
    pub author: String,
    pub time: Timestamp,
}

/// What a commit did to a path, compared with its first parent.
#[derive(Debug)]
pub struct Change {
    pub path: Vec<u8>,
    pub kind: ChangeKind,
}

#[derive(Debug)]
pub enum ChangeKind {
    Added { mode: String, object: String },
    Modified { mode: String, object: String },
    Removed,
}

/// A file of a tree.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    pub path: Vec<u8>,
    pub mode: String,
    pub object: String,
}

fn git(repository: &Path, arguments: &[&str]) -> Command {
    let mut git = Command::new("git");
    // Of the environment nothing that could mean another repository; of the configuration nothing that changes output.
    for variable in ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_NAMESPACE"] {
        git.env_remove(variable);
    }
    git.arg("--no-replace-objects").arg("-C").arg(repository);
    git.args(["-c", "safe.directory=*", "-c", "core.quotePath=off", "-c", "i18n.logOutputEncoding=UTF-8"]);
    git.args(["-c", "log.showSignature=false", "-c", "core.commitGraph=false"]);
    git.args(arguments).stdin(Stdio::null());
    git
}

fn output(mut git: Command) -> Result<Vec<u8>> {
    let output = git.output().map_err(|error| format!("cannot run git: {error}"))?;
    if !output.status.success() {
        return Err(format!("git: {}", String::from_utf8_lossy(&output.stderr).trim()).into());
    }
    Ok(output.stdout)
}

/// The first-parent history, oldest first.
pub fn commits(repository: &Path) -> Result<Vec<Commit>> {
    let format = "--format=%H%n%P%n%an <%ae>%n%ct";
    let log = output(git(repository, &["log", "--first-parent", "--reverse", "-z", format, "HEAD", "--"]))?;
    log.split(|&byte| byte == 0).filter(|commit| !commit.is_empty()).map(commit).collect()
}

fn commit(text: &[u8]) -> Result<Commit> {
    let text = String::from_utf8_lossy(text);
    let [id, parents, author, time] = text.splitn(4, '\n').collect::<Vec<_>>()[..] else {
        return Err("git log is not understood".into());
    };
    let seconds: i64 = time.trim().parse()?;
    let distance = Duration::from_secs(seconds.unsigned_abs());
    let time: SystemTime = if seconds < 0 { UNIX_EPOCH - distance } else { UNIX_EPOCH + distance };
    let parents = parents.split_whitespace().map(str::to_owned).collect();
    Ok(Commit { id: id.into(), parents, author: author.into(), time: time.into() })
}

/// What each of these commits changed, compared with its first parent, handed over in their order until the receiver
/// has had enough.
pub fn changes(
    repository: &Path,
    commits: Vec<Commit>,
    mut hand_over: impl FnMut(Commit, Vec<Change>) -> bool,
) -> Result<()> {
    let arguments = ["diff-tree", "--stdin", "-r", "--root", "--raw", "-z", "--no-renames", "--no-abbrev", "--always"];
    let mut git = git(repository, &arguments);
    let mut child = git.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut stdin = child.stdin.take().ok_or("git has no input")?;
    let stdout = child.stdout.take().ok_or("git has no output")?;
    // A line "commit parent" compares with that parent alone, so that a merge is what it brought to its first parent.
    let lines: Vec<_> = commits
        .iter()
        .map(|commit| format!("{} {}\n", commit.id, commit.parents.first().map_or("", |parent| parent)))
        .collect();
    let writer = thread::spawn(move || lines.iter().try_for_each(|line| stdin.write_all(line.as_bytes())));
    let mut tokens = Tokens { from: BufReader::with_capacity(1 << 16, stdout), peeked: None };
    for commit in commits {
        let header = tokens.next()?.ok_or("git diff-tree ended early")?;
        if String::from_utf8_lossy(&header).trim() != commit.id {
            return Err(format!("git diff-tree is not understood at {}", commit.id).into());
        }
        let mut changes = vec![];
        while let Some(entry) = tokens.next_if(|token| token.starts_with(b":"))? {
            let path = tokens.next()?.ok_or("git diff-tree ended early")?;
            changes.push(Change { path, kind: kind(&entry)? });
        }
        if !hand_over(commit, changes) {
            break;
        }
    }
    drop(tokens);
    // Whoever stopped reading has closed the pipe; git and its writer notice, and end.
    let _ = writer.join();
    child.wait()?;
    Ok(())
}

/// `:100644 100644 4d1a… 9e1b… M`: old mode, new mode, old object, new object, status.
fn kind(entry: &[u8]) -> Result<ChangeKind> {
    let entry = std::str::from_utf8(entry)?;
    let fields: Vec<_> = entry.trim_start_matches(':').split(' ').collect();
    let [_, mode, _, object, status] = fields[..] else { return Err(format!("not a change: {entry}").into()) };
    let (mode, object) = (mode.to_owned(), object.to_owned());
    match status {
        "A" => Ok(ChangeKind::Added { mode, object }),
        "M" | "T" => Ok(ChangeKind::Modified { mode, object }),
        "D" => Ok(ChangeKind::Removed),
        other => Err(format!("git knows a change `{other}` that we do not").into()),
    }
}

/// What git separates by NUL.
struct Tokens<R> {
    from: BufReader<R>,
    peeked: Option<Vec<u8>>,
}

impl<R: Read> Tokens<R> {
    fn next(&mut self) -> Result<Option<Vec<u8>>> {
        if let Some(token) = self.peeked.take() {
            return Ok(Some(token));
        }
        let mut token = vec![];
        let read = self.from.read_until(0, &mut token)?;
        if token.last() == Some(&0) {
            token.pop();
        }
        Ok((read > 0).then_some(token))
    }

    fn next_if(&mut self, wanted: impl FnOnce(&[u8]) -> bool) -> Result<Option<Vec<u8>>> {
        match self.next()? {
            Some(token) if wanted(&token) => Ok(Some(token)),
            other => {
                self.peeked = other;
                Ok(None)
            }
        }
    }
}

/// The tree of a commit, in git's order.
pub fn tree(repository: &Path, commit: &str) -> Result<Vec<Entry>> {
    let listed = output(git(repository, &["ls-tree", "-r", "-z", "--full-tree", commit]))?;
    let entries = listed.split(|&byte| byte == 0).filter(|entry| !entry.is_empty());
    entries.map(|entry| tree_entry(entry).ok_or_else(|| "git ls-tree is not understood".into())).collect()
}

/// `100644 blob 4d1a…<tab>path`
fn tree_entry(entry: &[u8]) -> Option<Entry> {
    let tab = entry.iter().position(|&byte| byte == b'\t')?;
    let (fields, path) = (std::str::from_utf8(&entry[..tab]).ok()?, entry[tab + 1..].to_vec());
    let [mode, _, object] = fields.split(' ').collect::<Vec<_>>()[..] else { return None };
    Some(Entry { path, mode: mode.into(), object: object.into() })
}
