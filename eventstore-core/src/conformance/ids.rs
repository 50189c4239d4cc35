//! Event ids and command ids: a retry gives the first result, and a log has an identity.

use std::time::Duration;

use futures::future::join_all;
use uuid::Uuid;

use super::support::{Fresh, and, any, event, stream, to, whole};
use crate::{Expected, StoreError, Version, Written, event_id};

pub async fn a5_a_retry_with_the_same_ids_gives_the_first_result(store: Fresh) {
    let (a, b) = (stream("a"), stream("b"));
    let append = and(to(&a, Expected::Version(Version(0)), [event("a1"), event("a2")]), any(&b, [event("b1")]));
    let first = store.append(append.clone()).await.unwrap();
    // The streams grow: the expectation no longer holds, and a retry still gets the first result.
    store.append(any(&a, [event("a3")])).await.unwrap();
    let again = store.append(append).await.unwrap();
    assert!(again.replayed);
    assert_eq!(Written { replayed: false, ..again }, first);
    assert_eq!(whole(&store).await.len(), 4);
}

pub async fn a5_the_same_append_at_once_is_recorded_once(store: Fresh) {
    for n in 0..10 {
        let append = to(&stream(&n.to_string()), Expected::Version(Version(0)), [event("one"), event("two")]);
        let tasks = (0..4).map(|_| {
            let (store, append) = (store.clone(), append.clone());
            tokio::spawn(async move { store.append(append).await.unwrap() })
        });
        let written: Vec<_> = join_all(tasks).await.into_iter().map(Result::unwrap).collect();
        assert_eq!(written.iter().filter(|written| !written.replayed).count(), 1);
        assert!(written.iter().all(|other| other.first == written[0].first && other.streams == written[0].streams));
    }
    assert_eq!(whole(&store).await.len(), 20);
}

pub async fn a5_an_id_with_other_data_is_a_duplicate(store: Fresh) {
    let (a, b) = (stream("a"), stream("b"));
    let (one, two, new) = (event("one"), event("two"), event("new"));
    store.append(any(&a, [one.clone(), two.clone()])).await.unwrap();
    let mut other_body = one.clone();
    other_body.data.body = b"[]".to_vec();
    let mut other_name = one.clone();
    other_name.data.name = "other".into();
    for (what, append) in [
        ("another body", any(&a, [other_body, two.clone()])),
        ("another name", any(&a, [other_name, two.clone()])),
        ("another stream", any(&b, [one.clone(), two.clone()])),
        ("another order", any(&a, [two.clone(), one.clone()])),
        ("one more", any(&a, [one.clone(), two.clone(), new.clone()])),
        ("only the last is known", any(&a, [new.clone(), two.clone()])),
        ("before a conflict is told", to(&a, Expected::Version(Version(7)), [new.clone(), two.clone()])),
    ] {
        match store.append(append).await {
            Err(StoreError::Duplicate { event, .. }) => assert!(event == one.id || event == two.id, "{what}"),
            other => panic!("{what}: {other:?}"),
        }
    }
    assert!(store.append(any(&a, [one])).await.unwrap().replayed, "a part, in its order, is a replay of that part");
    assert_eq!(whole(&store).await.len(), 2);
}

pub async fn a5_what_is_recorded_is_found_by_its_ids(store: Fresh) {
    assert!(store.recorded(vec![]).await.unwrap().is_empty());
    assert!(store.recorded(vec![Uuid::nil()]).await.unwrap().is_empty());
    store
        .append(and(any(&stream("a"), (0..1_500).map(|_| event("x"))), any(&stream("b"), [event("y")])))
        .await
        .unwrap();
    let log = whole(&store).await;
    let ids = [1_500, 3, 1_499, 3, 0].map(|place: usize| log[place].id);
    let found = store.recorded([&ids[..], &[Uuid::now_v7()]].concat()).await.unwrap();
    assert_eq!(found, [0, 3, 1_499, 1_500].map(|place: usize| log[place].clone()));
    assert!(store.recorded(log.iter().rev().map(|event| event.id).collect()).await.unwrap() == log);

    let (mut transaction, open) = (store.begin().await.unwrap(), event("open"));
    transaction.append(any(&stream("a"), [open.clone()])).await.unwrap();
    assert!(store.recorded(vec![open.id]).await.unwrap().is_empty(), "it is not recorded yet");
    transaction.rollback().await.unwrap();
    assert!(store.recorded(vec![open.id]).await.unwrap().is_empty());
}

pub async fn a14_a_log_has_an_identity(store: Fresh) {
    let identity = store.identity().await.unwrap();
    assert_eq!((identity.id.is_nil(), identity.epoch), (false, 1));
    assert!(identity.since <= store.now() + Duration::from_secs(1), "{identity:?}");
    store.append(any(&stream("a"), [event("one")])).await.unwrap();
    assert_eq!(store.identity().await.unwrap(), identity);
}

pub async fn c1_a_command_is_found_again(store: Fresh) {
    let commands = [Uuid::now_v7(), Uuid::now_v7()];
    for command in commands {
        let numbered = |numbers: std::ops::Range<u32>| {
            numbers.map(move |n| {
                let mut event = event("x");
                (event.id, event.metadata.command_id) = (event_id(command, n), command);
                event
            })
        };
        let append = and(any(&stream("a"), numbered(0..2)), any(&stream("b"), numbered(2..1_200)));
        store.append(append).await.unwrap();
    }
    for (command, first) in commands.into_iter().zip([1, 1_201]) {
        let found = store.find(command).await.unwrap();
        let positions: Vec<_> = found.iter().map(|event| event.position.0).collect();
        assert_eq!(positions, (first..first + 1_200).collect::<Vec<_>>());
        assert!(found.iter().all(|event| event.metadata.command_id == command));
    }
    assert!(store.find(Uuid::now_v7()).await.unwrap().is_empty());
}
