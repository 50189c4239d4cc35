//! Append conditions: by names, tags and streams, and by types that were added after the read.

use futures::{TryStreamExt, future::join_all};

use super::support::{Fresh, and, any, conflict, event, matching, read, stream, tagged, to, unless, whole};
use crate::{
    Append, Condition, Conflict, Events, Expected, Item, Position, Query, Read, StoreError, StreamId, Tag, Version,
    Written,
};

pub async fn a14_a_condition_beyond_the_end_of_the_log_is_refused(store: Fresh) {
    let written = store.append(any(&stream("a"), [event("one")])).await.unwrap();
    let after = |position: u64, append: Append| {
        let condition = Some(Condition { query: Query::names(&["never"]), after: Position(position) });
        Append { condition, ..append }
    };
    let forked = |result: Result<Written, StoreError>, beyond: u64| {
        let forked = matches!(result, Err(StoreError::Forked { position: Position(p), event: None }) if p == beyond);
        assert!(forked, "{beyond}: {result:?}");
    };
    for beyond in [2, 9_999, u64::MAX] {
        forked(store.append(after(beyond, any(&stream("b"), [event("no")]))).await, beyond);
        // It comes before a conflict.
        forked(
            store.append(after(beyond, to(&stream("a"), Expected::Version(Version(7)), [event("no")]))).await,
            beyond,
        );
        let mut transaction = store.begin().await.unwrap();
        transaction.append(any(&stream("c"), [event("within")])).await.unwrap();
        // A condition may name the position of an event that the transaction has appended.
        let seen = transaction.read(Read { query: Query::all(), ..Read::default() }).await.unwrap().head;
        forked(transaction.append(after(beyond.max(3), any(&stream("b"), [event("no")]))).await, beyond.max(3));
        transaction.append(after(seen.0, any(&stream("c"), [event("within")]))).await.unwrap();
        transaction.rollback().await.unwrap();
    }
    assert_eq!(whole(&store).await.len(), 1);
    // Many at once, of which a store may send some in one call.
    let appends = (0..20_u64).map(|n| {
        let store = store.clone();
        let append = after(if n % 2 == 0 { 1 } else { 9_999 }, any(&stream(&n.to_string()), [event("x")]));
        tokio::spawn(async move { (n, store.append(append).await) })
    });
    for outcome in join_all(appends).await {
        match outcome.unwrap() {
            (n, Ok(_)) => assert_eq!(n % 2, 0),
            (_, refused) => forked(refused, 9_999),
        }
    }
    // A recorded append gets its first result before the condition is checked.
    let mut again = after(9_999, any(&stream("a"), [event("one")]));
    again.writes[0].events[0].id = whole(&store).await[0].id;
    assert_eq!(store.append(again).await.unwrap(), Written { replayed: true, ..written });
    // A transaction goes on after a refusal.
    let mut transaction = store.begin().await.unwrap();
    transaction.append(any(&stream("c"), [event("within")])).await.unwrap();
    forked(transaction.append(after(9_999, any(&stream("b"), [event("no")]))).await, 9_999);
    transaction.commit().await.unwrap();
    assert_eq!(whole(&store).await.len(), 12);
}

pub async fn a13_a_condition_sees_names_and_tags(store: Fresh) {
    let a = stream("a");
    let rust = ("course", "rust");
    store.append(any(&a, [event("before")])).await.unwrap();
    store.append(any(&a, [tagged("enrolled", &[rust, ("student", "ann")])])).await.unwrap();
    let item = |names: &[&'static str], tags: &[(&'static str, &str)]| Item {
        names: names.iter().map(|name| (*name).into()).collect(),
        tags: tags.iter().map(|(name, key)| Tag::new(*name, key)).collect(),
        ..Item::default()
    };
    for (what, item, matches) in [
        ("everything", item(&[], &[]), true),
        ("the name", item(&["enrolled"], &[]), true),
        ("one of the names", item(&["left", "enrolled"], &[]), true),
        ("another name", item(&["left"], &[]), false),
        ("a name that no event has", item(&["never heard of"], &[]), false),
        ("a tag", item(&[], &[rust]), true),
        ("both tags", item(&[], &[("student", "ann"), rust]), true),
        ("a tag it has and one it has not", item(&[], &[rust, ("student", "bob")]), false),
        ("name and tag", item(&["enrolled"], &[rust]), true),
        ("the tag under another name", item(&["left"], &[rust]), false),
        ("what came before", item(&["before"], &[]), false),
    ] {
        let result = store.append(unless(item.into(), 1, any(&stream(what), [event("decided")]))).await;
        match result {
            Err(StoreError::Conflict(conflict)) if matches => {
                assert_eq!(conflict, Conflict::in_the_way(a.clone(), Version(2)), "{what}");
            }
            Ok(_) if !matches => {}
            other => panic!("{what}: {other:?}"),
        }
    }
    let either = Query { items: vec![item(&["left"], &[]), item(&[], &[("student", "ann")])] };
    conflict(store.append(unless(either.clone(), 1, any(&a, [event("no")]))).await);
    store.append(unless(either, 2, any(&a, [event("yes")]))).await.unwrap();
    whole(&store).await;
}

pub async fn a13_a_condition_sees_the_events_of_a_stream(store: Fresh) {
    let (a, b) = (stream("a"), stream("b"));
    for n in 1..=3 {
        store.append(and(any(&a, [event(&format!("a{n}"))]), any(&b, [event("b")]))).await.unwrap();
    }
    let of = |stream: &StreamId, names: &[&'static str]| {
        let names = names.iter().map(|name| (*name).into()).collect();
        Query::from(Item { names, ..Item::of(stream) })
    };
    let decided = |query, after| unless(query, after, any(&stream("c"), [event("decided")]));
    for (query, after, in_the_way) in [
        (of(&a, &[]), 0, Some((&a, 1))),
        (of(&a, &[]), 3, Some((&a, 3))),
        (of(&a, &[]), 5, None),
        (of(&a, &["a1", "a2"]), 0, Some((&a, 1))),
        (of(&a, &["a1", "a2"]), 1, Some((&a, 2))),
        (of(&a, &["a1", "a2"]), 3, None),
        (of(&a, &["b", "never heard of"]), 0, None),
        (of(&stream("none"), &[]), 0, None),
        (Query { items: vec![of(&a, &["a3"]).items[0].clone(), of(&b, &["b"]).items[0].clone()] }, 4, Some((&a, 3))),
        (Query { items: vec![of(&a, &["a1"]).items[0].clone(), of(&b, &["b"]).items[0].clone()] }, 4, Some((&b, 3))),
    ] {
        // In a transaction, which goes on after a refusal; then without one.
        let mut transaction = store.begin().await.unwrap();
        let within = transaction.append(decided(query.clone(), after)).await;
        transaction.append(any(&stream("d"), [event("goes on")])).await.unwrap();
        transaction.rollback().await.unwrap();
        for result in [within, store.append(decided(query.clone(), after)).await] {
            match (result, in_the_way) {
                (Ok(_), None) => {}
                (Err(StoreError::Conflict(conflict)), Some((stream, version))) => {
                    assert_eq!(conflict, Conflict::in_the_way(stream.clone(), Version(version)), "{query:?} {after}");
                }
                (other, _) => panic!("{query:?} {after}: {other:?}"),
            }
        }
    }
    // The events of an append do not conflict with its own condition; those of other callers do.
    let head = whole(&store).await.len() as u64;
    store.append(unless(of(&a, &["a4"]), head, any(&a, [event("a4")]))).await.unwrap();
    let writers = (0..6).map(|_| {
        let (store, query) = (store.clone(), of(&a, &["a5"]));
        tokio::spawn(async move { store.append(unless(query, head + 1, any(&stream("a"), [event("a5")]))).await })
    });
    let results: Vec<_> = join_all(writers).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1, "{results:?}");
    whole(&store).await;
}

/// Returns an item that asks for names with tags, and for all other names in their categories but those of `except`.
fn item(names: &[&'static str], tags: &[(&'static str, &str)], except: &'static [&'static str]) -> Item {
    Item {
        names: names.iter().map(|name| (*name).into()).collect(),
        tags: tags.iter().map(|(name, key)| Tag::new(*name, key)).collect(),
        except: Some(vec![except]),
        ..Item::default()
    }
}

pub async fn c5_names_that_are_not_named_are_asked_for(store: Fresh) {
    let (rust, go) = ([("course", "rust")], [("course", "go")]);
    let of = |category| StreamId::new(category, "x");
    for (category, name, tags) in [
        ("course", "opened", &rust),   // 1
        ("course", "moved", &rust),    // 2
        ("pupil", "enrolled", &rust),  // 3
        ("pupil", "joined", &rust),    // 4
        ("elsewhere", "other", &rust), // 5
        ("course", "opened", &go),     // 6
    ] {
        store.append(any(&of(category), [tagged(name, tags)])).await.unwrap();
    }
    let asked = async |items: Vec<Item>| {
        let query = Query { items };
        let forwards = Read { query: query.clone(), ..Read::default() };
        let backwards = Read { backwards: true, ..forwards.clone() };
        let Events { events, asked, .. } = store.read(forwards.clone()).await.unwrap();
        let found: Vec<_> = events.map_ok(|event| event.position.0).try_collect().await.unwrap();
        let mut turned = read(&store, backwards).await.iter().map(|event| event.position.0).collect::<Vec<_>>();
        turned.reverse();
        assert_eq!(turned, found);
        let mut transaction = store.begin().await.unwrap();
        let page = transaction.read(forwards.clone()).await.unwrap();
        transaction.rollback().await.unwrap();
        assert_eq!(page.events.iter().map(|event| event.position.0).collect::<Vec<_>>(), found);
        assert_eq!(page.asked, asked);
        assert_eq!(store.count(forwards).await.unwrap(), found.len() as u64);
        let names = |item: Item| {
            let mut names: Vec<_> = item.names.into_iter().map(String::from).collect();
            names.sort();
            names.join(" ")
        };
        (found, asked.unwrap().items.into_iter().map(names).collect::<Vec<_>>())
    };
    for (names, tags, except, positions, all) in [
        (&["opened"][..], &rust[..], &[][..], &[1, 2][..], "moved opened"),
        (&["opened"], &rust, &["moved"], &[1], "opened"),
        (&["opened", "moved"], &rust, &[], &[1, 2], "moved opened"),
        (&["opened", "enrolled"], &rust, &["moved"], &[1, 3, 4], "enrolled joined opened"),
        (&["opened"], &go, &[], &[6], "moved opened"),
        (&["opened"], &[], &[], &[1, 2, 6], "moved opened"),
        (&["never heard of"], &rust, &[], &[], "never heard of"),
    ] {
        let (found, asked) = asked(vec![item(names, tags, except)]).await;
        assert_eq!((&found[..], &asked[0][..]), (positions, all), "{names:?} {tags:?} {except:?}");
    }
    let (found, names) = asked(vec![item(&["opened"], &go, &["moved"]), item(&["joined"], &rust, &[])]).await;
    assert_eq!((found, names), (vec![3, 4, 6], vec!["opened".to_owned(), "enrolled joined".into()]));
    // A query that a caller has asked before finds a type that is added now.
    store.append(any(&of("course"), [tagged("closed", &rust)])).await.unwrap();
    let (found, names) = asked(vec![item(&["opened"], &rust, &["moved"])]).await;
    assert_eq!((found, names), (vec![1, 7], vec!["closed opened".to_owned()]));
    // Without `except`, it asks for the names only.
    let named = Item { except: None, ..item(&["opened"], &rust, &[]) };
    assert_eq!(matching(&store, named).await, [1]);
}

pub async fn c5_a_condition_asks_for_types_that_were_added_after_the_read(store: Fresh) {
    let tag = [("course", "rust")];
    let course = StreamId::new("course", "rust");
    store.append(any(&course, [tagged("opened", &tag)])).await.unwrap();
    for (round, within) in [(0, false), (1, true)] {
        let head = whole(&store).await.len() as u64;
        let query = Query::from(item(&["opened"], &tag, &["moved"]));
        assert_eq!(
            store.count(Read { query: query.clone(), after: Position(head), ..Read::default() }).await.unwrap(),
            0
        );
        let decided = |query, after| unless(query, after, any(&stream("decided"), [event("decided")]));
        let append = async |append| match within {
            false => store.append(append).await,
            true => {
                let mut transaction = store.begin().await.unwrap();
                let written = transaction.append(append).await;
                transaction.append(any(&stream("d"), [event("goes on")])).await.unwrap();
                transaction.rollback().await.unwrap();
                written
            }
        };
        // These types do not match the condition.
        store.append(any(&course, [tagged("moved", &tag)])).await.unwrap();
        store.append(any(&stream("x"), [tagged(&format!("elsewhere-{round}"), &tag)])).await.unwrap();
        append(decided(query.clone(), head)).await.unwrap();
        // This type matches the condition.
        let head = whole(&store).await.len() as u64;
        store.append(any(&course, [tagged(&format!("closed-{round}"), &tag)])).await.unwrap();
        assert_eq!(conflict(append(decided(query.clone(), head)).await).stream, course);
        assert_eq!(whole(&store).await.len() as u64, head + 1);
    }
    // Many at once, which a store may send in one call.
    let head = whole(&store).await.len() as u64;
    let decisions = (0..20).map(|n| {
        let store = store.clone();
        tokio::spawn(async move {
            if n == 5 {
                let course = StreamId::new("course", "rust");
                return store.append(any(&course, [tagged("the last", &[("course", "rust")])])).await.map(|_| 0);
            }
            let query = Query::from(item(&["opened"], &[("course", "rust")], &["moved"]));
            let own = stream(&format!("own-{n}"));
            store.append(unless(query, head, any(&own, [event("decided")]))).await.map(|written| written.last.0)
        })
    });
    let results = join_all(decisions).await.into_iter().map(Result::unwrap);
    let last = results.filter_map(|result| match result {
        Ok(position) => Some(position),
        Err(StoreError::Conflict(_)) => None,
        Err(other) => panic!("{other:?}"),
    });
    let last = last.max().unwrap();
    let closed = whole(&store).await.into_iter().find(|event| &*event.data.name == "the last").unwrap();
    assert!(last < closed.position.0, "decided at {last}, after {}", closed.position);
}

pub async fn a13_of_decisions_that_exclude_each_other_one_wins(store: Fresh) {
    for round in 0..10 {
        let name = format!("name-{round}");
        let head = whole(&store).await.len() as u64;
        let claims = (0..8).map(|claimant| {
            let (store, name) = (store.clone(), name.clone());
            tokio::spawn(async move {
                let taken = Item { tags: vec![Tag::new("name", &name)], ..Item::default() };
                let user = StreamId::new("user", &format!("{name}-{claimant}"));
                let claim = any(&user, [tagged("claimed", &[("name", &name)])]);
                store.append(unless(taken.into(), head, claim)).await
            })
        });
        let results: Vec<_> = join_all(claims).await.into_iter().map(Result::unwrap).collect();
        assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1, "{results:?}");
        assert!(results.into_iter().filter(Result::is_err).all(|lost| conflict(lost).actual == Version(1)));
    }
    whole(&store).await;
}
