//! Records each commit once: what it did to each path, and last that it was imported.

use std::{
    io::{self, Write},
    path::Path,
    time::Instant,
};

use eventstore::{Expected, Id, Runner, Store, StoreError, StreamId, Version};
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::{
    Result, commits,
    events::{Changes, File, PathEvent, Repository, RepositoryEvent},
    git::{self, Change, ChangeKind, Commit},
    path, progress,
};

pub async fn import(store: &Store, repository: &Path) -> Result<()> {
    let repository = repository.canonicalize().map_err(|error| format!("{}: {error}", repository.display()))?;
    let history = git::commits(&repository)?;
    let root = history.first().ok_or("the repository has no commit")?;
    let id = Id::<Repository>::from(&*root.id);
    if let Some(other) = commits(store).await?.first()
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
    let (start, before) = (Instant::now(), store.head().await?);
    let new = history[known.commits..].to_vec();
    let (hand_over, mut changed) = mpsc::channel(16);
    let reader = tokio::task::spawn_blocking(move || {
        git::changes(&repository, new, |commit, changes| hand_over.blocking_send((commit, changes)).is_ok())
    });
    let mut version = known.version;
    while let Some((commit, changes)) = changed.recv().await {
        record(&store, &id, version, commit, changes).await?;
        version = Version(version.0 + 1);
        bar.inc(1);
    }
    reader.await??;
    bar.finish_and_clear();

    let head = store.head().await?;
    let (commits, events, seconds) = (history.len() - known.commits, head.0 - before.0, start.elapsed().as_secs_f64());
    let mut out = io::stdout();
    writeln!(
        out,
        "{commits} commits imported with {events} events in {seconds:.1} s ({:.0} events/s); {} were there already",
        events as f64 / seconds,
        known.commits
    )?;
    runner.until(head).await?;
    runner.stop().await;
    writeln!(out, "the read models are at position {head}, after {:.1} s", start.elapsed().as_secs_f64())?;
    Ok(())
}

/// One append: all of the commit, or nothing of it.
async fn record(
    store: &Store,
    id: &Id<Repository>,
    version: Version,
    commit: Commit,
    changes: Vec<Change>,
) -> std::result::Result<(), StoreError> {
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
    // The version of the repository's stream guards the whole: of two importers at once, one is told to start over.
    let (command, expected) = (command_id(&commit, time), Expected::Version(version));
    let imported = RepositoryEvent::Imported { commit: commit.clone(), parents, author: author.clone(), time };
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
    append.by(author).metadata("commit", commit).occurred_at(time).command_id(command).await?;
    Ok(())
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
