//! The history of a real repository as events: one stream a path, one append a commit, and the tree of any commit read
//! back from a read model as of that commit's position in the log.
//!
//! ```sh
//! cargo run --release -p git_history -- import .          # this repository, into git_history.db
//! cargo run --release -p git_history -- tree HEAD-ID      # what `git ls-tree -r` says, from the log
//! cargo run --release -p git_history -- at 2026-11-21T12:00:00Z
//! cargo run --release -p git_history -- log README.md
//! cargo run --release -p git_history -- hot
//! cargo run --release -p git_history -- verify --every 10 # compares with git itself
//! ```
//!
//! With `--store postgres://…` all of it runs on PostgreSQL.

mod events;
mod git;
mod import;
mod path;
#[cfg(test)]
mod tests;
mod verify;

use std::{
    error::Error,
    ffi::OsString,
    io::{self, Write},
    path::PathBuf,
};

use clap::{Parser, Subcommand};
use events::{Changes, CommitId, File, PathEvent, RepositoryEvent};
use eventstore::{Position, ReadEvents, Recorded, RunReadModels, Runner, Store, StreamId, Tag, Timestamp};
use futures::TryStreamExt;
use indicatif::{ProgressBar, ProgressStyle};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// The history of a git repository in an event store.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Where the events are: sqlite://file.db, postgres://…
    #[arg(long, global = true, default_value = "sqlite://git_history.db")]
    store: String,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Records the first-parent history of a repository; what is recorded already is left alone
    Import {
        /// The repository: its work tree, or its .git folder
        git_dir: PathBuf,
    },
    /// Prints the tree of a commit, from the read model as of that commit
    Tree {
        /// The commit's id, or the beginning of it: 7 digits at least
        commit: String,
    },
    /// Prints the tree of the last commit that was made by an instant
    At {
        /// An instant like 2026-11-21T12:00:00Z
        instant: Timestamp,
    },
    /// Prints what happened to a path
    Log { path: OsString },
    /// Prints the paths that changed most often
    Hot {
        /// How many
        #[arg(long, default_value_t = 20)]
        top: usize,
    },
    /// Compares the trees of commits with what git says
    Verify {
        /// Only every N-th commit, and the last
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
        every: u64,
        /// The repository, if it is not where it was imported from
        #[arg(long)]
        git_dir: Option<PathBuf>,
    },
}

#[tokio::main]
async fn main() {
    let Arguments { store, command } = Arguments::parse();
    if let Err(error) = run(&store, command).await {
        // Whoever reads our output has seen enough: `… | head`.
        if error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe) {
            return;
        }
        let mut text = format!("error: {error}");
        let mut cause = error.source();
        while let Some(error) = cause {
            text += &format!("\n  because {error}");
            cause = error.source();
        }
        let _ = writeln!(io::stderr(), "{text}");
        std::process::exit(1);
    }
}

async fn run(url: &str, command: Command) -> Result<()> {
    let store = eventstore::connect(url).await?;
    match command {
        Command::Import { git_dir } => import::import(&store, &git_dir).await.map(drop),
        Command::Tree { commit } => print_tree(&store, by_id(&store, &commit).await?).await,
        Command::At { instant } => {
            // Of instants on a first-parent history, a later commit may have the earlier one.
            let mut latest_first = commits(&store).backwards().events::<RepositoryEvent>();
            let last = loop {
                let commit = latest_first.try_next().await?.ok_or("no commit had been made by then")?;
                if commit.data.time() <= instant {
                    break commit;
                }
            };
            print_tree(&store, last.position).await
        }
        Command::Log { path } => print_log(&store, path.as_encoded_bytes()).await,
        Command::Hot { top } => print_hot(&store, top).await,
        Command::Verify { every, git_dir } => verify::verify(&store, every, git_dir).await,
    }
}

/// The commits that were imported, in the order of their history.
fn commits(store: &Store) -> ReadEvents {
    store.read().category("repository")
}

/// The position of a commit, by its id or the beginning of it.
async fn by_id(store: &Store, id: &str) -> Result<Position> {
    let short = id.get(..CommitId::SHORT).ok_or_else(|| format!("say {} digits of the id", CommitId::SHORT))?;
    let alike: Vec<_> = commits(store).tag(Tag::new("commit", short)).events::<RepositoryEvent>().try_collect().await?;
    let mut found = alike.iter().filter(|commit| commit.data.commit().starts_with(id));
    match (found.next(), found.next()) {
        (Some(commit), None) => Ok(commit.position),
        (Some(_), Some(_)) => Err(format!("more than one commit begins with {id}").into()),
        (None, _) => Err(format!("no commit {id} was imported").into()),
    }
}

async fn print_tree(store: &Store, position: Position) -> Result<()> {
    let files = store.read_model::<File>().at_position(position).list().await?;
    let mut files: Vec<_> = files.into_iter().map(|(key, file)| (file.path(&key), file)).collect();
    files.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
    let mut out = io::BufWriter::new(io::stdout().lock());
    for (path, File { mode, object, .. }) in files {
        write!(out, "{mode} {object}\t")?;
        out.write_all(&path::quoted(&path))?;
        out.write_all(b"\n")?;
    }
    Ok(out.flush()?)
}

async fn print_log(store: &Store, path: &[u8]) -> Result<()> {
    let stream = StreamId::new("path", &path::key(path));
    let events: Vec<Recorded<PathEvent>> = store.read().stream(stream).events().try_collect().await?;
    if events.is_empty() {
        return Err(format!("nothing ever happened to {}", String::from_utf8_lossy(path)).into());
    }
    let mut out = io::stdout().lock();
    for event in events {
        let commit = event.metadata.extra.get("commit").and_then(|commit| commit.as_str()).unwrap_or_default();
        let author = event.metadata.actor.unwrap_or_default();
        writeln!(out, "{} {} {} {}", event.occurred_at, commit, event.data, author)?;
    }
    Ok(())
}

async fn print_hot(store: &Store, top: usize) -> Result<()> {
    let runner = Runner::new(store).read_model::<Changes>().start();
    runner.until(store.head().await?).await?;
    runner.stop().await;
    let mut paths = store.read_model::<Changes>().list().await?;
    paths.sort_by(|(a, x), (b, y)| y.changes.cmp(&x.changes).then_with(|| a.cmp(b)));
    let mut out = io::stdout().lock();
    for (key, row) in paths.into_iter().take(top) {
        write!(out, "{:>7} ", row.changes)?;
        out.write_all(&path::quoted(&row.path(&key)))?;
        out.write_all(b"\n")?;
    }
    Ok(())
}

/// A bar with the rate and the time left; silent where nobody sees it.
fn progress(what: &str, length: usize) -> Result<ProgressBar> {
    let template = "{prefix} [{bar:40}] {human_pos}/{human_len} ({per_sec}, {eta} left)";
    let style = ProgressStyle::with_template(template)?.progress_chars("=> ");
    Ok(ProgressBar::new(length as u64).with_style(style).with_prefix(what.to_owned()))
}
