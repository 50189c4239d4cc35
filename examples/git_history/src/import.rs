//! Records each commit once: what it did to each path, and last that it was imported.

use std::{
    io::{self, Write},
    path::Path,
    time::Instant,
};

use eventstore::{Expected, Id, RunReadModels, Runner, Store, StoreError, StreamId, Version, Written};
use futures::TryStreamExt;
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::{
    Result, commits,
    events::{Changes, CommitId, File, PathEvent, Repository, RepositoryEvent},
    git::{self, Change, ChangeKind, Commit},
    path, progress,
};

pub async fn import(store: &Store, repository: &Path) -> Result<Imported> {
    let repository = repository.canonicalize().map_err(|error| format!("{}: {error}", repository.display()))?;
    let history = git::commits(&repository)?;
    let root = history.first().ok_or("the repository has no commit")?;
    let id = Id::<Repository>::from(&*root.id);
    if let Some(other) = commits(store).limit(1).raw().try_next().await?
        && other.stream != id
    {
        return Err("the store holds the history of another repository".into());
    }
    let known = store.load(&id).await?;
    if known.commits > 0 && history.get(known.commits - 1).map(|commit| &*commit.id) != Some(&*known.last) {
        return Err(format!("{} was imported and is no longer in the history: it was rewritten", known.last).into());
    }

    // The tables follow while the log grows.
    let runner = Runner::new(store).read_model::<File>().read_model::<Changes>().start();
    let store = store.clone().with_source(&repository.display().to_string());
    let bar = progress("importing", history.len())?;
    bar.set_position(known.commits as u64);
    bar.reset_eta();
    let start = Instant::now();
    let new = history[known.commits..].to_vec();
    let (hand_over, mut changed) = mpsc::channel(16);
    let reader = tokio::task::spawn_blocking(move || {
        git::changes(&repository, new, |commit, changes| hand_over.blocking_send((commit, changes)).is_ok())
    });
    let mut version = known.version;
    let mut imported = Imported { known: known.commits, ..Imported::default() };
    while let Some((commit, changes)) = changed.recv().await {
        let written = record(&store, &id, version, commit, changes).await?;
        if written.replayed {
            // Another importer was faster.
            imported.known += 1;
        } else {
            imported.commits += 1;
            imported.events += written.last.0 - written.first.0 + 1;
        }
        version = Version(version.0 + 1);
        bar.inc(1);
    }
    reader.await??;
    bar.finish_and_clear();

    let Imported { commits, events, known } = imported;
    let (head, seconds) = (store.head().await?, start.elapsed().as_secs_f64());
    let mut out = io::stdout();
    writeln!(
        out,
        "{commits} commits imported with {events} events in {seconds:.1} s ({:.0} events/s); {known} were there already",
        events as f64 / seconds,
    )?;
    runner.until(head).await?;
    runner.stop().await;
    writeln!(out, "the read models are at position {head}, after {:.1} s", start.elapsed().as_secs_f64())?;
    Ok(imported)
}

/// What an import has done.
#[derive(Clone, Copy, Debug, Default)]
pub struct Imported {
    /// Commits that it has recorded.
    pub commits: usize,
    /// With so many events.
    pub events: u64,
    /// Commits that were recorded already, or by another importer meanwhile.
    pub known: usize,
}

/// One append: all of the commit, or nothing of it.
async fn record(
    store: &Store,
    id: &Id<Repository>,
    version: Version,
    commit: Commit,
    changes: Vec<Change>,
) -> std::result::Result<Written, StoreError> {
    let writes = changes.into_iter().map(|Change { path, kind }| {
        let stream = StreamId::new("path", &path::key(&path));
        let event = match kind {
            ChangeKind::Added { mode, object } => PathEvent::Added { mode, object, path: path::remembered(&path) },
            ChangeKind::Modified { mode, object } => PathEvent::Modified { mode, object },
            ChangeKind::Removed => PathEvent::Removed,
        };
        (stream, event)
    });
    let Commit { id: commit, parents, author, time } = commit;
    // Of two importers at once, one records the commit, and the other is given the first result again. The version of the
    // repository's stream refuses a history that has become another.
    let (command, expected) = (command_id(&commit, time), Expected::Version(version));
    let imported =
        RepositoryEvent::Imported { commit: CommitId(commit.clone()), parents, author: author.clone(), time };
    let append = writes.fold(None, |append: Option<eventstore::AppendEvents>, (stream, event)| {
        Some(match append {
            None => store.append(stream, Expected::Any, [event]),
            Some(append) => append.and(stream, Expected::Any, [event]),
        })
    });
    let append = match append {
        None => store.append(id, expected, [imported]),
        Some(append) => append.and(id, expected, [imported]),
    };
    append.by(author).metadata("commit", commit).occurred_at(time).command_id(command).await
}

/// Made of the commit's id, so that a commit is recorded once, whoever imports it; begins with its time, so that ids
/// lie together in their index.
fn command_id(commit: &str, time: eventstore::Timestamp) -> Uuid {
    let hash = Uuid::new_v5(&Uuid::NAMESPACE_OID, commit.as_bytes());
    let mut bytes = *hash.as_bytes();
    let millis = u64::try_from(time.as_micros() / 1_000).unwrap_or_default();
    bytes[..6].copy_from_slice(&millis.to_be_bytes()[2..]);
    uuid::Builder::from_custom_bytes(bytes).into_uuid()
}
