//! A server that crashes while many append.

use std::{collections::HashSet, process::Command, time::Duration};

use eventstore::{
    Append, Durability, EventStore, Expected, PgStore, Position, Query, Read, StoreError, StreamId, Write,
};
use futures::{TryStreamExt, future::join_all};
use tokio::time::sleep;
use uuid::Uuid;

use crate::cases::raw;

/// A server of the test's own, which may be crashed.
struct Server {
    folder: tempfile::TempDir,
}

impl Server {
    fn script(&self, arguments: &[&str]) -> String {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/postgres");
        let mut command = Command::new(script);
        // The log writer of the server does not get round to what a commit did not wait for.
        command.env("TMPDIR", self.folder.path()).env("POSTGRES_OPTIONS", "-c fsync=on -c wal_writer_delay=10s");
        let output = command.args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.script(&["stop"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a1_what_was_acknowledged_survives_a_crash_of_the_server() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let server = Server { folder };
    let url = server.script(&["for", &std::process::id().to_string()]);
    for durability in [Durability::Strict, Durability::Pipelined] {
        let options = || PgStore::options().schema(format!("{durability:?}").to_lowercase()).durability(durability);
        let store = options().connect(&url).await.unwrap();
        let writers: Vec<_> = (0..32)
            .map(|_| {
                let store = store.clone();
                tokio::spawn(async move {
                    let mut acknowledged = vec![];
                    loop {
                        let event = raw("opened", b"{}");
                        let (id, stream) = (event.id, StreamId::new("account", &Uuid::now_v7().to_string()));
                        let write = Write { stream, expected: Expected::Any, events: vec![event] };
                        match store.append(Append { writes: vec![write], ..Append::default() }).await {
                            Ok(written) => acknowledged.push((id, written.first)),
                            Err(StoreError::Unknown(_) | StoreError::Unavailable(_)) => return acknowledged,
                            Err(error) => panic!("{error:?}"),
                        }
                    }
                })
            })
            .collect();
        sleep(Duration::from_millis(700)).await;
        server.script(&["crash"]);
        // Those who were cut off may find the server again and go on: crash it under them until none is left.
        let mut acknowledged = vec![];
        let all = join_all(writers);
        tokio::pin!(all);
        loop {
            tokio::select! {
                outcomes = &mut all => {
                    acknowledged.extend(outcomes.into_iter().flat_map(Result::unwrap));
                    break;
                }
                () = sleep(Duration::from_millis(300)) => drop(server.script(&["crash"])),
            }
        }
        assert!(acknowledged.len() > 100, "{}", acknowledged.len());
        let store = options().connect(&url).await.unwrap();
        let log = store.read(Read { query: Query::all(), ..Read::default() }).await.unwrap().events;
        let log: Vec<_> = log.try_collect().await.unwrap();
        let recorded: HashSet<(Uuid, Position)> = log.iter().map(|event| (event.id, event.position)).collect();
        let lost = acknowledged.iter().filter(|place| !recorded.contains(place)).count();
        assert_eq!(lost, 0, "of {} acknowledged, {durability:?}", acknowledged.len());
        assert_eq!(log.last().map(|last| last.position), Some(Position(log.len() as u64)));
    }
}
