//! What is over a limit is refused before anything is written.

use serde_json::json;

use super::support::{Fresh, and, any, event, read, stream, to, whole};
use crate::{
    Append, Condition, Expected, Invalid, Item, NewEvent, Position, Query, Read, StoreError, StreamId, Tag, Version,
    Written, limits,
};

pub async fn a11_what_is_over_a_limit_is_refused_before_anything_is_written(store: Fresh) {
    let long = "x".repeat(limits::NAME_BYTES + 1);
    let with = |change: &dyn Fn(&mut NewEvent)| {
        let mut new = event("x");
        change(&mut new);
        any(&stream("a"), [event("before"), new])
    };
    let twice = event("twice");
    let refused = [
        ("no key", any(&stream(""), [event("x")])),
        ("a long key", any(&stream(&long), [event("x")])),
        ("a control character", any(&stream("a\u{0}b"), [event("x")])),
        ("a category with a dash", any(&StreamId::new("a-b", "c"), [event("x")])),
        ("a category in capitals", any(&StreamId::new("A", "c"), [event("x")])),
        ("no category", any(&StreamId::new("", "c"), [event("x")])),
        ("no name", with(&|event| event.data.name = "".into())),
        ("a long name", with(&|event| event.data.name = long.as_str().into())),
        ("a name of the log itself", with(&|event| event.data.name = "$closed".into())),
        ("a schema version of the log itself", with(&|event| event.schema = 0)),
        ("a name with a control character", with(&|event| event.data.name = "a\u{85}b".into())),
        ("a tag with a control character", with(&|event| event.data.tags = vec![Tag::new("tag", "a\u{7f}b")])),
        ("a long tag", with(&|event| event.data.tags = vec![Tag::new("tag", &long)])),
        ("a tag with a long name", with(&|event| event.data.tags = vec![Tag::new(long.clone(), "key")])),
        ("a tag without a name", with(&|event| event.data.tags = vec![Tag::new("", "key")])),
        ("a tag without a key", with(&|event| event.data.tags = vec![Tag::new("tag", "")])),
        ("a tag with a colon", with(&|event| event.data.tags = vec![Tag::new("a:b", "c")])),
        ("too many tags", with(&|event| event.data.tags = vec![Tag::new("a", "c"); limits::TAGS + 1])),
        ("a large body", with(&|event| event.data.body = vec![b'x'; limits::BODY_BYTES + 1])),
        ("large metadata", with(&|event| event.metadata.actor = Some("x".repeat(limits::METADATA_BYTES)))),
        ("a key of the framework", with(&|event| drop(event.metadata.extra.insert("$x".into(), json!(1))))),
        ("a schema version too far", with(&|event| event.schema = u32::MAX)),
        ("no event", any(&stream("a"), [])),
        ("no stream", Append::default()),
        (
            "a stream again, with an expectation",
            and(any(&stream("a"), [event("x")]), to(&stream("a"), Expected::Version(Version(1)), [event("y")])),
        ),
        ("an id twice", any(&stream("a"), [twice.clone(), twice])),
        (
            "a condition on a category",
            Append {
                condition: Some(Condition {
                    query: Item { category: Some("thing".into()), ..Item::default() }.into(),
                    after: Position(0),
                }),
                ..any(&stream("a"), [event("x")])
            },
        ),
    ];
    for (what, append) in refused {
        // Every store returns the error of `Append::check`.
        let expected = append.check().unwrap_err();
        let mut transaction = store.begin().await.unwrap();
        let within = transaction.append(append.clone()).await;
        transaction.rollback().await.unwrap();
        for result in [store.append(append).await, within] {
            let same = matches!(&result, Err(StoreError::Invalid(invalid)) if *invalid == expected);
            assert!(same, "{what}: {result:?}");
        }
    }
    let tag = |name: &str, key: &str| Item { tags: vec![Tag::new(name.to_owned(), key)], ..Item::default() }.into();
    let name = |name: &str| Item { names: vec![name.to_owned().into()], ..Item::default() }.into();
    let queries: [Query; 8] = [
        Query::of(&stream("a\u{0}")),
        Query::of(&stream(&long)),
        Query::of(&StreamId::new("A", "b")),
        tag("tag", ""),
        tag("a:b", "c"),
        tag("tag", "a\nb"),
        name(""),
        name(&long),
    ];
    for query in queries {
        let refused = Read { query, ..Read::default() };
        let expected = refused.check().unwrap_err();
        let result = store.read(refused.clone()).await;
        assert!(
            matches!(&result, Err(StoreError::Invalid(invalid)) if *invalid == expected),
            "{refused:?}: {result:?}"
        );
    }
    let result = store.read(Read { query: Query::all(), after_version: Version(1), ..Read::default() }).await;
    assert!(matches!(result, Err(StoreError::Invalid(Invalid::Request(_)))));
    assert!(whole(&store).await.is_empty());
}

pub async fn a11_a_hundred_thousand_events_fit_in_one_append(store: Fresh) {
    let events = (0..100_000).map(|_| event("one of many"));
    let written = store.append(any(&stream("a"), events)).await.unwrap();
    assert_eq!((written.first, written.last), (Position(1), Position(100_000)));
    let head = store.read(Read { query: Query::all(), limit: Some(0), ..Read::default() }).await.unwrap().head;
    assert_eq!(head, Position(100_000));
}

pub async fn a11_a_log_has_a_bounded_number_of_event_types(store: Fresh) {
    let name = |n: usize| event(&format!("x{n}"));
    let too_many = |refused: Result<Written, StoreError>| match refused {
        Err(StoreError::Invalid(Invalid::TooLarge { size, limit: limits::TYPES, .. })) => size,
        other => panic!("{other:?}"),
    };
    let all = store.append(any(&stream("a"), (0..limits::TYPES - 1).map(name))).await.unwrap();
    assert_eq!(all.last.0, limits::TYPES as u64 - 1);
    let two = any(&stream("b"), [event("before"), name(limits::TYPES), name(limits::TYPES + 1)]);
    too_many(store.append(two).await);
    store.append(any(&stream("b"), [name(limits::TYPES)])).await.unwrap();
    too_many(store.append(any(&stream("b"), [name(limits::TYPES + 1)])).await);
    // A name in another category is another type.
    too_many(store.append(any(&StreamId::new("other", "b"), [name(1)])).await);
    // In a transaction it is a refusal: the transaction goes on.
    let mut transaction = store.begin().await.unwrap();
    transaction.append(any(&stream("b"), [name(1)])).await.unwrap();
    too_many(transaction.append(any(&stream("b"), [name(2), name(limits::TYPES + 2)])).await);
    transaction.append(any(&stream("b"), [name(3)])).await.unwrap();
    transaction.commit().await.unwrap();
    let found = read(&store, Read { query: Query::of(&stream("b")), ..Read::default() }).await;
    let names: Vec<_> = found.iter().map(|event| &*event.data.name).collect();
    assert_eq!(names, ["x10000", "x1", "x3"]);
}
