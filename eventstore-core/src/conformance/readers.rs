//! A reader sees every committed event once and in order, and keeps no other caller waiting.

use std::time::Duration;

use futures::{StreamExt, TryStreamExt, future::join_all};
use tokio::time::{sleep, timeout};

use super::support::{Fresh, any, event, read, stream, whole};
use crate::{Events, Position, Query, Read, Version};

pub async fn s1_a_reader_sees_every_event_once_in_order(store: Fresh) {
    let writers: Vec<_> = (0..6)
        .map(|writer| {
            let store = store.clone();
            tokio::spawn(async move {
                for n in 0..30 {
                    let append = any(&stream(&format!("{writer}")), (0..=n % 3).map(|_| event("x")));
                    store.append(append).await.unwrap();
                }
            })
        })
        .collect();
    let mut seen = 0;
    let mut finished = false;
    loop {
        let after = Position(seen);
        let Events { head, mut events, .. } =
            store.read(Read { query: Query::all(), after, ..Read::default() }).await.unwrap();
        while let Some(event) = events.try_next().await.unwrap() {
            seen += 1;
            assert_eq!(event.position, Position(seen), "skipped, or seen twice");
        }
        assert_eq!(head, Position(seen), "the head is what was seen");
        if finished {
            break;
        }
        finished = writers.iter().all(|writer| writer.is_finished());
    }
    join_all(writers).await.into_iter().for_each(|writer| writer.unwrap());
    assert_eq!(seen, 6 * 60);
}

pub async fn s1_an_open_append_is_never_skipped(store: Fresh) {
    store.append(any(&stream("a"), [event("one")])).await.unwrap();
    let mut first = store.begin().await.unwrap();
    first.append(any(&stream("b"), [event("two")])).await.unwrap();
    let second = tokio::spawn({
        let store = store.clone();
        async move { store.append(any(&stream("c"), [event("three")])).await }
    });
    // A reader sees the committed events meanwhile, and none behind the open append.
    for _ in 0..20 {
        let log = whole(&store).await;
        assert_eq!(log.len(), 1, "the second append must not be seen before the first");
        sleep(Duration::from_millis(5)).await;
    }
    first.commit().await.unwrap();
    second.await.unwrap().unwrap();
    let names: Vec<_> = whole(&store).await.iter().map(|event| event.data.name.to_string()).collect();
    assert_eq!(names, ["one", "two", "three"]);
}

pub async fn s2_a_rolled_back_append_leaves_no_hole(store: Fresh) {
    store.append(any(&stream("a"), [event("one")])).await.unwrap();
    let mut transaction = store.begin().await.unwrap();
    let never = event("never");
    transaction.append(any(&stream("a"), [never.clone()])).await.unwrap();
    transaction.rollback().await.unwrap();
    let written = store.append(any(&stream("a"), [event("two")])).await.unwrap();
    assert_eq!((written.first, written.streams[0].1), (Position(2), Version(2)));
    assert!(!store.append(any(&stream("a"), [never])).await.unwrap().replayed, "its id is free again");
    assert_eq!(whole(&store).await.len(), 3);
}

pub async fn s10_whoever_reads_slowly_keeps_nobody_waiting(store: Fresh) {
    store.append(any(&stream("a"), (0..5_000).map(|_| event("x")))).await.unwrap();
    let readers = (0..12).map(|n| Read { query: Query::all(), backwards: n % 2 == 0, ..Read::default() });
    let mut slow = vec![];
    for read in readers {
        let mut events = store.read(read).await.unwrap().events;
        events.try_next().await.unwrap();
        slow.push(events);
    }
    // There are more half-way readers than any store has connections; other callers still get a connection.
    for n in 0..3 {
        let sure = timeout(Duration::from_secs(10), store.append(any(&stream("b"), [event("y")]))).await;
        sure.expect("a connection is free").unwrap();
        let some = Read { query: Query::of(&stream("b")), ..Read::default() };
        let found = timeout(Duration::from_secs(10), read(&store, some)).await;
        assert_eq!(found.expect("a connection is free").len(), n + 1);
    }
    slow.truncate(6);
    for events in slow {
        assert_eq!(events.count().await, 4_999);
    }
}

pub async fn an_append_wakes_those_who_wait(store: Fresh) {
    store.append(any(&stream("a"), [event("one")])).await.unwrap();
    timeout(Duration::from_secs(5), store.appended(Position(0))).await.expect("there is something already");
    let waiting = tokio::spawn({
        let store = store.clone();
        async move {
            while whole(&store).await.len() < 2 {
                store.appended(Position(1)).await;
            }
        }
    });
    store.append(any(&stream("a"), [event("two")])).await.unwrap();
    timeout(Duration::from_secs(5), waiting).await.expect("woken in time").unwrap();
}
