//! A read returns the events that its query asks for, from both ends of the log, page by page.

use futures::{StreamExt, TryStreamExt};

use super::support::{Fresh, and, any, event, matching, read, stream, tagged, whole};
use crate::{
    Append, Events, Expected, Invalid, Item, Page, Position, Query, Raw, Read, Recorded, StoreError, StreamId, Tag,
    Version, Write,
};

pub async fn events_are_counted(store: Fresh) {
    let (a, b) = (stream("a"), StreamId::new("other", "b"));
    for n in 0..7 {
        let tags: &[_] = if n % 2 == 0 { &[("n", "even")] } else { &[] };
        let append = and(any(&a, [tagged("x", tags), tagged("y", &[])]), any(&b, [tagged("x", tags)]));
        store.append(append).await.unwrap();
    }
    let log = whole(&store).await;
    let item = |names: &[&'static str], tags: &[(&'static str, &str)]| Item {
        names: names.iter().map(|name| (*name).into()).collect(),
        tags: tags.iter().map(|(name, key)| Tag::new(*name, key)).collect(),
        ..Item::default()
    };
    let queries: Vec<Query> = vec![
        Query::all(),
        Query::of(&a),
        Query::of(&stream("none")),
        Query { items: vec![] },
        item(&["x"], &[]).into(),
        item(&["x", "y"], &[("n", "even")]).into(),
        Item { category: Some("other".into()), ..item(&[], &[]) }.into(),
        Item { names: vec!["y".into()], ..Item::of(&a) }.into(),
        Query { items: vec![item(&["y"], &[]), item(&[], &[("n", "even")]), Item::of(&b)] },
    ];
    for query in queries {
        for (after, until, limit) in
            [(0, None, None), (5, Some(15), None), (0, None, Some(3)), (3, Some(900), Some(900)), (9, Some(4), None)]
        {
            let wanted = |event: &&Recorded<Raw>| {
                event.position.0 > after
                    && until.is_none_or(|until| event.position.0 <= until)
                    && query.matches(&event.stream, &event.data)
            };
            let expected = log.iter().filter(wanted).take(limit.unwrap_or(usize::MAX)).count() as u64;
            let until = until.map(Position);
            let some = Read { query: query.clone(), after: Position(after), until, limit, ..Read::default() };
            assert_eq!(store.count(some.clone()).await.unwrap(), expected, "{some:?}");
        }
    }
    let of_versions =
        Read { query: Query::of(&a), after_version: Version(2), until_version: Some(Version(9)), ..Read::default() };
    assert_eq!(store.count(of_versions).await.unwrap(), 7);
    let unheard = Read { until_version: Some(Version(9)), ..Read::default() };
    assert!(matches!(store.count(unheard).await, Err(StoreError::Invalid(Invalid::Request(_)))));
}

pub async fn a_log_is_read_by_stream_category_key_name_and_tag(store: Fresh) {
    let (x, y) = (("tag", "x"), ("tag", "y"));
    for (category, key, new) in [
        ("one", "a", tagged("made", &[x])),                // 1
        ("one", "b", tagged("made", &[y])),                // 2
        ("two", "a", tagged("made", &[x, y])),             // 3
        ("two", "a", tagged("changed", &[])),              // 4
        ("one", "a", tagged("changed", &[y, ("x", "x")])), // 5
        ("two", "c", tagged("changed", &[x])),             // 6
    ] {
        store.append(any(&StreamId::new(category, key), [new])).await.unwrap();
    }
    let item = |names: &[&'static str], tags: &[(&'static str, &str)], category: &str, key: &str| Item {
        except: None,
        names: names.iter().map(|name| (*name).into()).collect(),
        tags: tags.iter().map(|(name, key)| Tag::new(*name, key)).collect(),
        category: Some(category.to_owned()).filter(|category| !category.is_empty()),
        key: Some(key.to_owned()).filter(|key| !key.is_empty()),
    };
    let cases: [(Item, &[u64]); 16] = [
        (item(&[], &[], "", ""), &[1, 2, 3, 4, 5, 6]),
        (item(&[], &[], "one", "a"), &[1, 5]),
        (item(&["changed"], &[], "one", "a"), &[5]),
        (item(&[], &[x], "one", "a"), &[1]),
        (item(&[], &[], "one", "z"), &[]),
        (item(&[], &[], "one", ""), &[1, 2, 5]),
        (item(&["made"], &[], "one", ""), &[1, 2]),
        (item(&[], &[y], "one", ""), &[2, 5]),
        (item(&[], &[], "", "a"), &[1, 3, 4, 5]),
        (item(&["changed"], &[], "", "a"), &[4, 5]),
        (item(&["made"], &[], "", ""), &[1, 2, 3]),
        (item(&["made", "changed", "unknown"], &[], "", ""), &[1, 2, 3, 4, 5, 6]),
        (item(&[], &[x], "", ""), &[1, 3, 6]),
        (item(&[], &[x, y], "", ""), &[3]),
        (item(&["changed"], &[x], "", ""), &[6]),
        (item(&[], &[], "three", ""), &[]),
    ];
    for (item, expected) in cases {
        assert_eq!(matching(&store, item.clone()).await, expected, "{item:?}");
    }
    let items = vec![item(&[], &[], "one", "b"), item(&["changed"], &[x], "", ""), item(&[], &[], "", "a")];
    assert_eq!(matching(&store, Query { items: items.clone() }).await, [1, 2, 3, 4, 5, 6]);
    assert_eq!(matching(&store, Query { items: items[..2].to_vec() }).await, [2, 6]);
    assert!(matching(&store, Query { items: vec![] }).await.is_empty());
    let query = Query { items: items.clone() };
    let some = Read { query, after: Position(1), until: Some(Position(5)), limit: Some(3), ..Read::default() };
    let positions: Vec<_> = read(&store, some).await.iter().map(|event| event.position.0).collect();
    assert_eq!(positions, [2, 3, 4]);
}

pub async fn a_read_is_bounded_by_its_head(store: Fresh) {
    for n in 0..2_500 {
        if n % 500 == 0 {
            store.append(any(&stream("a"), (0..500).map(|_| event("x")))).await.unwrap();
        }
    }
    let all = || Read { query: Query::all(), ..Read::default() };
    let opened = [
        store.read(all()).await.unwrap(),
        store.read(Read { query: Query::of(&stream("a")), ..all() }).await.unwrap(),
        store.read(Read { query: Query::names(&["x"]), ..all() }).await.unwrap(),
    ];
    store.append(any(&stream("a"), [event("x")])).await.unwrap();
    for Events { head, events, .. } in opened {
        assert_eq!(head, Position(2_500));
        assert_eq!(events.count().await, 2_500, "the read does not return the event that was recorded after it began");
    }
    let until = store.read(Read { until: Some(Position(7)), ..all() }).await.unwrap();
    assert_eq!((until.head, until.events.count().await), (Position(7), 7));
    let beyond = store.read(Read { until: Some(Position(9_999)), ..all() }).await.unwrap();
    assert_eq!((beyond.head, beyond.events.count().await), (Position(2_501), 2_501));
    let after = store.read(Read { after: Position(9_999), ..all() }).await.unwrap();
    assert_eq!((after.head, after.events.count().await), (Position(2_501), 0));
}

pub async fn a_long_read_comes_in_pages_and_stops_at_its_limit(store: Fresh) {
    let new = |n: usize| if n.is_multiple_of(2) { tagged("even", &[("n", "even")]) } else { event("odd") };
    store.append(any(&stream("a"), (0..3_000).map(new))).await.unwrap();
    let tag = Item { tags: vec![Tag::new("n", "even")], ..Item::default() };
    for (query, count) in [(Query::all(), 3_000), (Query::of(&stream("a")), 3_000), (tag.into(), 1_500)] {
        for limit in [0, 1, 999, 1_000, 1_001, 2_999, 3_000, 10_000] {
            let found = read(&store, Read { query: query.clone(), limit: Some(limit), ..Read::default() }).await;
            assert_eq!(found.len(), limit.min(count), "{query:?}");
            assert!(found.windows(2).all(|pair| pair[0].position < pair[1].position));
        }
    }
}

pub async fn a_stream_is_read_after_a_version(store: Fresh) {
    let a = stream("a");
    for n in 0..5 {
        store.append(and(any(&a, [event("a")]), any(&stream("b"), [event("b")]))).await.unwrap();
        store.append(any(&stream(&n.to_string()), [event("c")])).await.unwrap();
    }
    let from = |after_version, until| Read { query: Query::of(&a), after_version, until, ..Read::default() };
    let versions = |events: Vec<Recorded<Raw>>| events.iter().map(|event| event.version.0).collect::<Vec<_>>();
    assert_eq!(versions(read(&store, from(Version(2), None)).await), [3, 4, 5]);
    assert!(versions(read(&store, from(Version(5), None)).await).is_empty());
    assert_eq!(versions(read(&store, from(Version(1), Some(Position(7)))).await), [2, 3]);
    let between = Read { until_version: Some(Version(4)), ..from(Version(1), None) };
    assert_eq!(versions(read(&store, between.clone()).await), [2, 3, 4]);
    assert_eq!(versions(read(&store, Read { until: Some(Position(7)), ..between }).await), [2, 3]);
}

pub async fn a_log_is_read_backwards(store: Fresh) {
    // The log is long enough for the planner of a database to use each index.
    for part in 0..21 {
        let new = |n: usize| {
            tagged(["a", "b", "c"][n % 3], &[("fifth", "x"), ("n", "y")][..usize::from(n % 5 < 2) * (1 + n % 2)])
        };
        let to = |stream, from: usize| any(&stream, (from..from + 250).map(new));
        let two = and(to(StreamId::new("one", "a"), part), to(StreamId::new("two", "a"), part * 2));
        let four = and(two, and(to(StreamId::new("two", "b"), 1), to(StreamId::new("three", &part.to_string()), 2)));
        store.append(four).await.unwrap();
    }
    let item = |names: &[&'static str], tags: &[(&'static str, &str)], category: &str, key: &str| Item {
        except: None,
        names: names.iter().map(|name| (*name).into()).collect(),
        tags: tags.iter().map(|(name, key)| Tag::new(*name, key)).collect(),
        category: Some(category.to_owned()).filter(|category| !category.is_empty()),
        key: Some(key.to_owned()).filter(|key| !key.is_empty()),
    };
    let queries = [
        Query::all(),
        item(&[], &[], "one", "a").into(),
        item(&["b"], &[("fifth", "x")], "two", "b").into(),
        item(&[], &[], "two", "").into(),
        item(&["a", "c"], &[], "", "").into(),
        item(&[], &[], "", "a").into(),
        item(&[], &[("fifth", "x")], "", "").into(),
        item(&["b"], &[("fifth", "x"), ("n", "y")], "three", "").into(),
        Query { items: vec![item(&["a"], &[], "one", ""), item(&[], &[("n", "y")], "", ""), item(&[], &[], "", "b")] },
        Query { items: vec![Item::default(), item(&["a"], &[], "", "")] },
        Query { items: vec![] },
    ];
    let log = whole(&store).await;
    assert_eq!(log.len(), 21_000);
    let bounds = [
        (0, u64::MAX, None),
        (0, 20_999, Some(2_001)),
        (150, 20_500, Some(1)),
        (19_000, 20_500, None),
        (20_990, u64::MAX, Some(5)),
        (0, 3_300, Some(1_000)),
        (7, 7, None),
        (9, 7, None),
        (99_999, u64::MAX, None),
    ];
    for query in queries {
        for (after, until, limit) in bounds {
            let wanted = |event: &&Recorded<Raw>| {
                event.position.0 > after && event.position.0 <= until && query.matches(&event.stream, &event.data)
            };
            let positions = log.iter().rev().filter(wanted).map(|event| event.position);
            let positions: Vec<_> = positions.take(limit.unwrap_or(usize::MAX)).collect();
            let (query, until) = (query.clone(), Some(Position(until)));
            let backwards = Read { query, after: Position(after), until, limit, backwards: true, ..Read::default() };
            let Events { head, events, .. } = store.read(backwards.clone()).await.unwrap();
            let found: Vec<_> = events.map_ok(|event| event.position).try_collect().await.unwrap();
            assert!(found == positions, "{backwards:?}");
            assert_eq!(head, Position(21_000).min(until.unwrap()));
        }
    }
    for (after, until) in [(0, 5_250), (1, 5_249), (3, 4_000), (5_249, 9_999), (9_999, 0)] {
        let query = Query::of(&StreamId::new("two", "a"));
        let (after_version, until_version) = (Version(after), Some(Version(until)));
        let read = Read { query, after_version, until_version, backwards: true, ..Read::default() };
        let found = store.read(read).await.unwrap().events.map_ok(|event| event.version.0);
        let expected: Vec<_> = (after + 1..=until.min(5_250)).rev().collect();
        assert!(found.try_collect::<Vec<_>>().await.unwrap() == expected, "versions {after} to {until}");
    }
    // A read does not return events that are recorded after it began.
    let all = Read { query: Query::all(), backwards: true, ..Read::default() };
    let Events { head, events, .. } = store.read(all).await.unwrap();
    store.append(any(&stream("late"), [event("late")])).await.unwrap();
    assert_eq!((head, events.count().await), (Position(21_000), 21_000));
}

pub async fn events_of_some_types_are_read_however_far_apart_they_are(store: Fresh) {
    let name = |n: u64| match n {
        1..=3_000 => "early",
        _ if n.is_multiple_of(700) => "rare",
        8_001..=12_000 if n.is_multiple_of(3) => "late",
        13_500.. => "early",
        _ => "other",
    };
    for chunk in 0..14 {
        let to = |category| StreamId::new(category, "x");
        let writes = (chunk * 1_000 + 1..=chunk * 1_000 + 1_000).map(|n| Write {
            stream: to(if n % 4 == 0 { "four" } else { "thing" }),
            expected: Expected::Any,
            events: vec![event(name(n))],
        });
        store.append(Append { writes: writes.collect(), ..Append::default() }).await.unwrap();
    }
    let log = whole(&store).await;
    let names =
        |names: &[&'static str]| Item { names: names.iter().map(|&name| name.into()).collect(), ..Item::default() };
    let of = |category: &str, item| Item { category: Some(category.into()), ..item };
    let items = [
        names(&["early"]),
        names(&["late"]),
        names(&["rare"]),
        names(&["late", "rare", "unread"]),
        names(&["early", "late", "rare", "other"]),
        names(&["unread"]),
        of("four", Item::default()),
        of("four", names(&["late"])),
        of("nowhere", names(&["late"])),
    ];
    let bounds = [
        (0, u64::MAX, None),
        (0, u64::MAX, Some(1_500)),
        (0, 2_500, None),
        (2_900, u64::MAX, Some(101)),
        (2_900, u64::MAX, Some(100)),
        (7_999, 12_001, None),
        (8_500, u64::MAX, Some(1)),
        (13_998, 14_000, Some(0)),
        (14_000, u64::MAX, None),
        (u64::MAX, u64::MAX, None),
    ];
    for item in items {
        for (after, until, limit) in bounds {
            let wanted = |event: &&Recorded<Raw>| {
                event.position.0 > after && event.position.0 <= until && item.matches(&event.stream, &event.data)
            };
            let expected: Vec<_> = log.iter().filter(wanted).take(limit.unwrap_or(usize::MAX)).cloned().collect();
            let until = Some(Position(until));
            let some = Read { query: item.clone().into(), after: Position(after), until, limit, ..Read::default() };
            assert!(read(&store, some.clone()).await == expected, "{some:?}");
            // A transaction returns them in one page.
            let mut transaction = store.begin().await.unwrap();
            assert!(transaction.read(some.clone()).await.unwrap().events == expected, "{some:?}");
            transaction.rollback().await.unwrap();
        }
    }
}

pub async fn a_bare_read_has_all_that_a_state_is_made_of(store: Fresh) {
    let (a, b) = (stream("a"), stream("b"));
    let nothing = Read { query: Query::of(&a), bare: true, ..Read::default() };
    let Events { head, events, .. } = store.read(nothing).await.unwrap();
    assert_eq!((head, events.count().await), (Position(0), 0));

    // The stream is longer than a page, and every third event of the log is of another stream.
    let writes = (0..4_500_u32).map(|n| {
        let mut event = tagged(if n % 2 == 0 { "even" } else { "odd" }, &[("tag", "x")]);
        (event.schema, event.data.body) = (1 + n % 2, n.to_string().into_bytes());
        Write { stream: if n % 3 == 0 { &b } else { &a }.clone(), expected: Expected::Any, events: vec![event] }
    });
    store.append(Append { writes: writes.collect(), ..Append::default() }).await.unwrap();
    let bare = |event: Recorded<Raw>| {
        let place = (event.stream, event.version, event.position);
        (place, event.data.name, event.schema, event.data.body)
    };
    let last = u64::MAX;
    let bounds = [
        (0, last, 0, last, None),
        (0, last, 0, last, Some(2_001)),
        (0, last, 2_990, last, None),
        (0, last, 17, 2_500, Some(5)),
        (1_000, 4_000, 0, last, None),
        (1_000, 4_000, 900, 1_200, None),
        (0, last, 0, last, Some(0)),
        (last, last, last, last, None),
    ];
    for (after, until, after_version, until_version, limit) in bounds {
        let (after, after_version, until_version) =
            (Position(after), Version(after_version), Some(Version(until_version)));
        let query = Query::of(&a);
        let whole =
            Read { query, after, until: Some(Position(until)), after_version, until_version, limit, ..Read::default() };
        for whole in [whole.clone(), Read { backwards: true, ..whole }] {
            let partly = Read { bare: true, ..whole.clone() };
            let (all, some) = (store.read(whole.clone()).await.unwrap(), store.read(partly.clone()).await.unwrap());
            assert_eq!(some.head, all.head, "{partly:?}");
            let all: Vec<_> = all.events.map_ok(bare).try_collect().await.unwrap();
            let some: Vec<_> = some.events.map_ok(bare).try_collect().await.unwrap();
            assert!(some == all, "{partly:?}");
        }
    }
    // A read of anything but one stream returns complete events.
    let of_tag = Query::from(Item { tags: vec![Tag::new("tag", "x")], ..Item::default() });
    for query in [Query::all(), of_tag, Query::names(&["odd"])] {
        let whole = Read { query, limit: Some(1_500), ..Read::default() };
        assert!(read(&store, Read { bare: true, ..whole.clone() }).await == read(&store, whole).await);
    }
    // A transaction sees what it has appended.
    let mut transaction = store.begin().await.unwrap();
    transaction.append(any(&a, [event("new")])).await.unwrap();
    let newer = Read { query: Query::of(&a), after_version: Version(3_000), bare: true, ..Read::default() };
    let Page { head, events, .. } = transaction.read(newer).await.unwrap();
    assert_eq!((head, events.len()), (Position(4_501), 1));
    assert_eq!((events[0].version, &*events[0].data.name), (Version(3_001), "new"));
    transaction.rollback().await.unwrap();
}
