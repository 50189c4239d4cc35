//! Compares trees: the read model as of a commit's position, and what git says.

use std::{
    io::{self, Write},
    path::PathBuf,
};

use eventstore::{Recorded, Store};
use futures::TryStreamExt;

use crate::{
    Result, commits,
    events::{File, RepositoryEvent},
    git::{self, Entry},
    path, progress,
};

pub async fn verify(store: &Store, every: u64, repository: Option<PathBuf>) -> Result<()> {
    let commits: Vec<Recorded<RepositoryEvent>> = commits(store).events().try_collect().await?;
    let last = commits.last().ok_or("nothing was imported")?;
    let repository = match repository {
        Some(repository) => repository,
        None => {
            last.metadata.source.as_deref().ok_or("say --git-dir: it is not known where it was imported from")?.into()
        }
    };
    let chosen: Vec<_> = (1..)
        .zip(&commits)
        .filter(|(n, commit)| n % every == 0 || commit.position == last.position)
        .map(|(_, commit)| commit)
        .collect();
    let bar = progress("comparing", chosen.len())?;
    let (mut trees, mut entries, mut wrong) = (0_u64, 0_u64, vec![]);
    let mut files = store.read_model::<File>().replay();
    for commit in &chosen {
        files.until(commit.position).await?;
        let entry = |(key, file): (&str, &File)| {
            let (mode, object) = (file.mode.clone(), file.object.clone());
            Entry { path: file.path(key), mode, object }
        };
        let mut ours: Vec<_> = files.iter().map(entry).collect();
        ours.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        let theirs = git::tree(&repository, commit.data.commit())?;
        if ours == theirs {
            (trees, entries) = (trees + 1, entries + theirs.len() as u64);
        } else {
            wrong.push((commit.data.commit(), first_difference(&ours, &theirs)));
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    let mut out = io::stdout();
    writeln!(out, "{trees} of {} trees agree with git, with {entries} entries in all", chosen.len())?;
    for (commit, difference) in wrong.iter().take(10) {
        writeln!(out, "  {commit}: {difference}")?;
    }
    if wrong.is_empty() { Ok(()) } else { Err(format!("{} trees do not agree", wrong.len()).into()) }
}

fn first_difference(ours: &[Entry], theirs: &[Entry]) -> String {
    let name = |entry: &Entry| String::from_utf8_lossy(&path::quoted(&entry.path)).into_owned();
    let place =
        ours.iter().zip(theirs).position(|(ours, theirs)| ours != theirs).unwrap_or(ours.len().min(theirs.len()));
    match (ours.get(place), theirs.get(place)) {
        (Some(ours), Some(theirs)) => {
            format!("{} {} is not {} {}", ours.object, name(ours), theirs.object, name(theirs))
        }
        (Some(ours), None) => format!("{} is not in git's tree", name(ours)),
        (None, Some(theirs)) => format!("{} is missing", name(theirs)),
        (None, None) => "in nothing".into(),
    }
}
