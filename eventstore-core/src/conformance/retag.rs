//! An event gets other tags and stays what it is.

use uuid::Uuid;

use super::support::{Fresh, any, conflict, event, matching, stream, tagged, unless, whole};
use crate::{Invalid, Item, NewTags, Position, Raw, Recorded, StoreError, StoredSnapshot, Tag, Version};

pub async fn x3_an_event_gets_other_tags_and_stays_what_it_is(store: Fresh) {
    let a = stream("a");
    store
        .append(any(&a, [tagged("one", &[("t", "1")]), tagged("two", &[]), tagged("three", &[("t", "3")])]))
        .await
        .unwrap();
    let before = whole(&store).await;
    let snapshot = |boundary: &str| {
        let event = &before[2];
        let (version, position, event, recorded_at) = (Version(1), event.position, event.id, event.recorded_at);
        let (boundary, kind, state) = (boundary.to_owned(), "kind".to_owned(), b"{}".to_vec());
        let mut snapshot =
            StoredSnapshot { boundary, kind, shape: 1, version, position, event, recorded_at, state, checksum: 0 };
        snapshot.checksum = snapshot.sum();
        snapshot
    };
    let boundaries = ["t:1", "t:a-b*", "thing-a", "thing-a:b", "thing*"];
    for boundary in boundaries {
        assert!(store.keep_snapshot(snapshot(boundary), None).await.unwrap());
    }
    let new = |n: usize, tags: &[(&'static str, &str)]| NewTags {
        position: before[n].position,
        id: before[n].id,
        was: before[n].data.tags.clone(),
        tags: tags.iter().map(|(name, key)| Tag::new(*name, key)).collect(),
    };
    let other = NewTags { id: Uuid::now_v7(), ..new(2, &[("t", "other")]) };
    let beyond = NewTags { position: Position(9), ..new(2, &[("t", "beyond")]) };
    let events = vec![new(0, &[]), new(1, &[("t", "1"), ("é", "ключ \"{,}\\")]), new(2, &[("t", "3")]), other, beyond];
    let refused = store.retag(events.clone()).await;
    assert!(matches!(refused, Err(StoreError::Invalid(Invalid::Name { .. }))), "{refused:?}");
    assert!(whole(&store).await == before, "all or none");
    let events: Vec<_> = events
        .into_iter()
        .map(|mut new| {
            new.tags.iter_mut().filter(|tag| tag.name == "é").for_each(|tag| tag.name = "e".into());
            new
        })
        .collect();
    assert_eq!(store.retag(events.clone()).await.unwrap(), 2);
    assert_eq!(store.retag(events).await.unwrap(), 0);
    assert_eq!(store.retag(vec![new(1, &[("t", "late")])]).await.unwrap(), 0, "its tags are not those that were read");

    let tags = |event: &Recorded<Raw>| event.data.tags.iter().map(Tag::to_string).collect::<Vec<_>>();
    let after = whole(&store).await;
    assert_eq!(after.iter().map(tags).collect::<Vec<_>>(), [vec![], vec!["t:1", "e:ключ \"{,}\\"], vec!["t:3"]]);
    let untagged = |events: &[Recorded<Raw>]| {
        let mut events = events.to_vec();
        events.iter_mut().for_each(|event| event.data.tags.clear());
        events
    };
    assert!(untagged(&after) == untagged(&before), "nothing else has changed");
    let of = |name: &str, key: &str| Item { tags: vec![Tag::new(name.to_owned(), key)], ..Item::default() };
    assert_eq!(matching(&store, of("t", "1")).await, [2]);
    assert_eq!(matching(&store, of("e", "ключ \"{,}\\")).await, [2]);
    let kept = async |boundary: &str| store.snapshot(boundary, "kind").await.unwrap().is_some();
    let mut left = vec![];
    for boundary in boundaries {
        left.push(kept(boundary).await);
    }
    assert_eq!(left, [false, false, true, true, true], "snapshots of tags are gone");
    // Conditions and appends go on with the new tags.
    conflict(store.append(unless(of("t", "1").into(), 0, any(&a, [event("no")]))).await);
    assert_eq!(store.append(any(&a, [event("four")])).await.unwrap().last, Position(4));
    store.keep_snapshot(snapshot("t:1"), None).await.unwrap();
    assert_eq!(store.retag(vec![]).await.unwrap(), 0);
    assert!(!kept("t:1").await);
}
