//! A small repository of awkward names, imported by two at once.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::{fs, path::Path, process::Command};

use crate::{Result, by_id, import::import, path, verify::verify};

fn git(repository: &Path, arguments: &[&str]) -> String {
    let mut git = Command::new("git");
    git.arg("-C").arg(repository).args(["-c", "user.name=Ann", "-c", "user.email=ann@example.com"]);
    let done = git.args(["-c", "commit.gpgsign=false"]).args(arguments).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap().trim().to_owned()
}

/// Thirty commits: of a path too long for a key, of one that is called like its hash, and of others.
fn repository() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    git(at, &["init", "--quiet"]);
    let long = vec!["x".repeat(200); 4].join("/");
    let hash = path::key(long.as_bytes()).rsplit(':').next().unwrap().to_owned();
    fs::create_dir_all(at.join(&long).parent().unwrap()).unwrap();
    for n in 0..30 {
        let name = [&*long, &*hash, "a file", "ünïcode"][n % 4];
        fs::write(at.join(name), n.to_string()).unwrap();
        git(at, &["add", "--all"]);
        git(at, &["commit", "--quiet", "--message", &n.to_string()]);
    }
    folder
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_importers_at_once_claim_each_commit_once_and_every_tree_is_gits() -> Result<()> {
    let repository = repository();
    let log = tempfile::tempdir()?;
    let store = eventstore::connect(&format!("sqlite://{}", log.path().join("log.db").display())).await?;
    let (one, other) = tokio::join!(import(&store, repository.path()), import(&store, repository.path()));
    let (one, other) = (one?, other?);
    assert_eq!(one.commits + other.commits, 30, "{one:?} {other:?}");
    assert_eq!((one.commits + one.known, other.commits + other.known), (30, 30));
    assert_eq!(one.events + other.events, store.head().await?.0);
    assert_eq!(store.head().await?.0, 60, "a change and a commit each");
    verify(&store, 1, Some(repository.path().into())).await?;

    let head = git(repository.path(), &["rev-parse", "HEAD"]);
    let position = store.head().await?;
    assert_eq!((by_id(&store, &head).await?, by_id(&store, &head[..7]).await?), (position, position));
    assert!(by_id(&store, &head[..6]).await.is_err() && by_id(&store, "0000000").await.is_err());
    Ok(())
}
