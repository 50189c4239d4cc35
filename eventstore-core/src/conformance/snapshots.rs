//! A snapshot is read as it was kept, and never replaced by an older one.

use futures::{TryStreamExt, future::join_all};
use uuid::Uuid;

use super::support::{Fresh, any, event, stream, tagged, whole};
use crate::{Events, Position, Raw, Recorded, StoredSnapshot, StreamId, Timestamp, Version};

fn snapshot(boundary: &str, kind: &str, position: u64) -> StoredSnapshot {
    let mut snapshot = StoredSnapshot {
        boundary: boundary.into(),
        kind: kind.into(),
        shape: 7,
        version: Version(position),
        position: Position(position),
        event: Uuid::from_u128(position.into()),
        recorded_at: Timestamp::from_micros(1_000_000 + position as i64),
        state: format!("{{\"at\":{position}}}").into_bytes(),
        checksum: 0,
    };
    snapshot.checksum = snapshot.sum();
    snapshot
}

pub async fn n1_a_snapshot_is_read_as_it_was_kept(store: Fresh) {
    assert_eq!(store.snapshot("thing-a", "Thing").await.unwrap(), None);
    let odd = StoredSnapshot {
        shape: u64::MAX,
        checksum: 1 << 63,
        version: Version(i64::MAX as u64),
        position: Position(i64::MAX as u64),
        recorded_at: Timestamp::from_micros(-1),
        state: (0..=255).cycle().take(100_000).collect(),
        ..snapshot("thing-it's \"here\" 🔑", "Größe", 1)
    };
    let empty = StoredSnapshot { shape: 0, checksum: 0, state: vec![], ..snapshot("thing*", "Thing", 1) };
    // A store keeps one for each boundary and kind.
    let all = [
        odd,
        empty,
        snapshot("thing-a", "Thing", 2),
        snapshot("thing-a", "Other", 1),
        snapshot("thing:a", "Thing", 1),
        snapshot("THING-a", "Thing", 1),
    ];
    for snapshot in &all {
        assert!(store.keep_snapshot(snapshot.clone(), None).await.unwrap());
    }
    for kept in all {
        let found = store.snapshot(&kept.boundary, &kept.kind).await.unwrap();
        assert_eq!(found, Some(kept));
    }
}

pub async fn n1_a_stream_is_read_from_its_snapshot_on(store: Fresh) {
    const EVENTS: u64 = 2_345;
    let (a, b) = (stream("a"), stream("b"));
    let read = async |stream: &StreamId, kind: &str| {
        let (snapshot, Events { head, events, .. }) = store.read_from_snapshot(stream, kind).await.unwrap();
        let events: Vec<_> = events.try_collect().await.unwrap();
        (snapshot, head.0, events)
    };
    // The fields that a state, and a snapshot of it, are made of.
    let said = |event: &Recorded<Raw>| {
        let Recorded { id, stream, version, position, recorded_at, schema, data, .. } = event.clone();
        (id, stream, version, position, recorded_at, schema, data.name, data.body)
    };
    assert_eq!(read(&a, "Thing").await, (None, 0, vec![]));
    for n in 0..EVENTS / 335 {
        let names = ["Opened", "Lent", "Returned"];
        let events = (0..335).map(|at| tagged(names[((n + at) % 3) as usize], &[("book", "1")]));
        store.append(any(&a, events)).await.unwrap();
        store.append(any(&b, [event("Opened")])).await.unwrap();
    }
    let all: Vec<_> = whole(&store).await.into_iter().filter(|event| event.stream == a).collect();
    let head = EVENTS + EVENTS / 335;
    assert_eq!(all.len() as u64, EVENTS);
    let expect = async |kind: &str, snapshot: Option<&StoredSnapshot>, from: u64| {
        let (found, seen, events) = read(&a, kind).await;
        assert_eq!((found.as_ref(), seen), (snapshot, head));
        let expected: Vec<_> = all.iter().filter(|event| event.version.0 >= from).map(said).collect();
        assert_eq!(events.iter().map(said).collect::<Vec<_>>(), expected, "{kind}");
    };
    expect("Thing", None, 1).await;
    for version in [1, 7, 1_344, EVENTS - 1, EVENTS, EVENTS + 1] {
        let kind = format!("Thing{version}");
        let kept = snapshot(a.as_str(), &kind, version);
        assert!(store.keep_snapshot(kept.clone(), None).await.unwrap());
        // A store returns a snapshot whether it fits or not.
        expect(&kind, Some(&kept), version).await;
        expect("Thing", None, 1).await;
    }
    // A snapshot of another stream or of a tag is not returned.
    assert!(store.keep_snapshot(snapshot("thing-b", "Thing", 3), None).await.unwrap());
    assert!(store.keep_snapshot(snapshot("thing:a", "Thing", 3), None).await.unwrap());
    expect("Thing", None, 1).await;
}

pub async fn n1_a_snapshot_that_did_not_fit_is_replaced(store: Fresh) {
    let found = async || store.snapshot("thing-a", "Thing").await.unwrap();
    let ahead = snapshot("thing-a", "Thing", 9);
    let damaged = StoredSnapshot { state: b"other".to_vec(), ..ahead.clone() };
    let good = snapshot("thing-a", "Thing", 3);
    for bad in [ahead, damaged] {
        assert!(store.keep_snapshot(bad.clone(), None).await.unwrap());
        assert!(!store.keep_snapshot(good.clone(), None).await.unwrap());
        assert!(!store.keep_snapshot(good.clone(), Some(1)).await.unwrap(), "it is another one that did not fit");
        assert_eq!(found().await, Some(bad.clone()));
        assert!(store.keep_snapshot(good.clone(), Some(bad.checksum)).await.unwrap());
        assert_eq!(found().await, Some(good.clone()));
    }
    // A snapshot replaces one of another shape, whatever its position.
    let other = StoredSnapshot { shape: 8, ..snapshot("thing-a", "Thing", 2) };
    assert!(store.keep_snapshot(other.clone(), None).await.unwrap());
    assert_eq!(found().await, Some(other));
}

pub async fn n2_an_older_snapshot_never_replaces_a_newer_one(store: Fresh) {
    let found = async || store.snapshot("thing-a", "Thing").await.unwrap();
    let (older, newer, newest) =
        (snapshot("thing-a", "Thing", 1), snapshot("thing-a", "Thing", 2), snapshot("thing-a", "Thing", 3));
    assert!(store.keep_snapshot(newer.clone(), None).await.unwrap());
    assert!(!store.keep_snapshot(older.clone(), None).await.unwrap());
    assert!(!store.keep_snapshot(newer.clone(), None).await.unwrap(), "it is there already");
    assert_eq!(found().await, Some(newer));
    assert!(store.keep_snapshot(newest.clone(), None).await.unwrap());
    assert!(
        !store.keep_snapshot(older.clone(), Some(older.checksum)).await.unwrap(),
        "what did not fit is gone by now"
    );
    assert_eq!(found().await, Some(newest));
}

pub async fn n2_of_snapshots_kept_at_once_the_newest_stays(store: Fresh) {
    for round in 0..5 {
        let boundary = format!("thing-{round}");
        let keepers = (1..=12).map(|n| {
            // Out of order: multiples of 5 modulo 12 are all of 0 to 11.
            let (store, snapshot) = (store.clone(), snapshot(&boundary, "Thing", n * 5 % 12 + 1));
            tokio::spawn(async move { store.keep_snapshot(snapshot, None).await })
        });
        join_all(keepers).await.into_iter().for_each(|kept| _ = kept.unwrap().unwrap());
        let found = store.snapshot(&boundary, "Thing").await.unwrap();
        assert_eq!(found, Some(snapshot(&boundary, "Thing", 12)));
    }
}

pub async fn the_latest_snapshots_of_a_kind_come_first(store: Fresh) {
    for (boundary, position) in [("thing-a", 2), ("thing-b", 9), ("thing:c", 5), ("thing*", 5)] {
        store.keep_snapshot(snapshot(boundary, "Thing", position), None).await.unwrap();
    }
    store.keep_snapshot(snapshot("thing-a", "Other", 99), None).await.unwrap();
    assert_eq!(store.snapshots("Thing", 10).await.unwrap(), ["thing-b", "thing*", "thing:c", "thing-a"]);
    assert_eq!(store.snapshots("Thing", 2).await.unwrap(), ["thing-b", "thing*"]);
    assert!(store.snapshots("Nothing", 10).await.unwrap().is_empty());
    assert!(store.snapshots("Thing", 0).await.unwrap().is_empty());
}
