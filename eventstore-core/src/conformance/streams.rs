//! The streams of a category are listed in the order of their keys.

use futures::TryStreamExt;

use super::support::{Fresh, and, any, event, read, stream};
use crate::{Invalid, Position, Query, Read, Store, StoreError, StreamHead, StreamId, Version, limits};

pub async fn the_streams_of_a_category_come_in_the_order_of_their_keys(store: Fresh) {
    let keys = ["a", "B", "a-b", "a.b", "a/", "10", "9", "-", "é", "e\u{301}", "ｚ", "😀", "z"];
    for key in keys {
        let [near, far] = ["thin", "thing.x"].map(|category| StreamId::new(category, key));
        let append = and(any(&near, [event("near")]), any(&stream(key), [event("one"), event("two")]));
        store.append(and(append, any(&far, [event("far")]))).await.unwrap();
    }
    store.append(any(&stream("a"), [event("three")])).await.unwrap();
    let mut sorted = keys;
    sorted.sort_unstable();
    let listed = async |category: &str| -> Vec<StreamHead> {
        Store::from(store.clone()).streams(category).try_collect().await.unwrap()
    };
    let heads = listed("thing").await;
    assert_eq!(heads.iter().map(|head| head.stream.key()).collect::<Vec<_>>(), sorted);
    for StreamHead { stream, version, position } in &heads {
        let last = read(&store, Read { query: Query::of(stream), backwards: true, limit: Some(1), ..Read::default() });
        let last = last.await.pop().unwrap();
        assert_eq!((&last.stream, last.version, last.position), (stream, *version, *position));
    }
    assert_eq!(listed("thing.x").await.len(), keys.len());
    assert_eq!(listed("thing.").await, []);
    assert_eq!(listed("nowhere").await, []);
    for bad in ["", "thing-a", "Thing", "%", "a\0", &"x".repeat(limits::NAME_BYTES + 1)] {
        let refused = Store::from(store.clone()).streams(bad).try_next().await;
        assert!(matches!(refused, Err(StoreError::Invalid(Invalid::Name { .. }))), "{bad}: {refused:?}");
    }

    // A transaction lists the streams that it has appended to; other callers list them after its commit.
    let mut transaction = store.begin().await.unwrap();
    transaction.append(and(any(&stream("!"), [event("first")]), any(&stream("z"), [event("third")]))).await.unwrap();
    let within = transaction.streams("thing", "", 2).await.unwrap();
    let first = StreamHead { stream: stream("!"), version: Version(1), position: Position(54) };
    assert_eq!((&within[0], within[1].stream.key()), (&first, "-"));
    let within = transaction.streams("thing", "a/", 2).await.unwrap();
    assert_eq!((within[1].stream.key(), within[1].version), ("z", Version(3)));
    assert_eq!(listed("thing").await, heads);
    transaction.rollback().await.unwrap();
    assert_eq!(listed("thing").await, heads);
}

pub async fn streams_are_listed_page_by_page_each_once(store: Fresh) {
    let all: Vec<_> = (0..2_001).map(|n| stream(&format!("{n:04}"))).collect();
    let append = all.iter().map(|stream| any(stream, [event("one")])).reduce(and).unwrap();
    store.append(append).await.unwrap();
    for n in [999, 1_000, 2_000] {
        store.append(any(&all[n], (0..n).map(|_| event("more")))).await.unwrap();
    }
    let listed: Vec<_> = Store::from(store.clone()).streams("thing").try_collect().await.unwrap();
    assert_eq!(listed.iter().map(|head| &head.stream).collect::<Vec<_>>(), all.iter().collect::<Vec<_>>());
    assert_eq!([998, 999, 1_000, 2_000].map(|n| listed[n].version.0), [1, 1_000, 1_001, 2_001]);
    let page = async |after: &str, limit| {
        let page = store.streams("thing", after, limit).await.unwrap();
        page.iter().map(|head| head.stream.key().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(page("", 2).await, ["0000", "0001"]);
    assert_eq!(page("0001", 1).await, ["0002"]);
    assert_eq!(page("0001x", 1).await, ["0002"]);
    assert_eq!(page("1999", 5).await, ["2000"]);
    assert!(page("2000", 5).await.is_empty());
    assert!(page("", 0).await.is_empty());
}
