//! An append is atomic and ordered, and a conflict says what stands in its way.

use std::time::Duration;

use futures::{FutureExt, future::join_all, pin_mut};
use tokio::time::timeout;

use super::support::{Fresh, and, any, conflict, event, read, stream, to, whole};
use crate::{Append, Condition, Conflict, Expected, Position, Query, Read, Store, StoreError, Version, Written};

pub async fn a2_an_append_to_several_streams_is_all_or_nothing(store: Fresh) {
    let (a, b, c) = (stream("a"), stream("b"), stream("c"));
    store.append(any(&b, [event("b1")])).await.unwrap();
    let append = and(any(&a, [event("a1"), event("a2")]), any(&b, [event("b2")]));
    let written = store.append(append).await.unwrap();
    assert_eq!(written.streams, [(a.clone(), Version(2)), (b.clone(), Version(2))]);
    assert_eq!((written.first, written.last, written.replayed), (Position(2), Position(4), false));
    let log = whole(&store).await;
    let names: Vec<_> = log.iter().map(|event| &*event.data.name).collect();
    assert_eq!(names, ["b1", "a1", "a2", "b2"]);
    assert!(log[1..].iter().all(|event| event.recorded_at == written.recorded_at));

    // The expectation of the last of three writes does not hold: the first two are not written either.
    let append = and(any(&c, [event("c1")]), any(&a, [event("a3")]));
    let append = and(append, to(&b, Expected::Version(Version(1)), [event("b3")]));
    let failed = conflict(store.append(append).await);
    assert_eq!((failed.stream, failed.actual), (b, Version(2)));
    assert_eq!(whole(&store).await.len(), 4);
}

pub async fn a3_versions_and_positions_have_no_gap_whoever_writes(store: Fresh) {
    let writers = (0..8).map(|writer| {
        let store = store.clone();
        tokio::spawn(async move {
            for n in 0..25 {
                let (own, shared) = (stream(&format!("own-{writer}")), stream("shared"));
                let append = match n % 3 {
                    0 => any(&shared, [event("shared")]),
                    1 => and(any(&own, [event("one"), event("two")]), any(&shared, [event("three")])),
                    // Most of these are refused; a refused append must leave no trace.
                    _ => to(&shared, Expected::Version(Version(n)), [event("exact")]),
                };
                match store.append(append).await {
                    Ok(_) | Err(StoreError::Conflict(_)) => {}
                    Err(other) => panic!("{other:?}"),
                }
            }
        })
    });
    join_all(writers).await.into_iter().for_each(|writer| writer.unwrap());
    let log = whole(&store).await;
    assert!(log.iter().filter(|event| &*event.data.name == "shared").count() == 8 * 9);
    assert!(log.iter().filter(|event| &*event.data.name == "three").count() == 8 * 8);
}

pub async fn a3_a_stream_may_come_again_in_one_append(store: Fresh) {
    let (a, b) = (stream("a"), stream("b"));
    store.append(any(&b, [event("b1")])).await.unwrap();
    let append = and(to(&a, Expected::Version(Version(0)), [event("a1")]), any(&b, [event("b2"), event("b3")]));
    let append = and(append, and(any(&a, [event("a2"), event("a3")]), any(&b, [event("b4")])));
    let written = store.append(append.clone()).await.unwrap();
    assert_eq!(written.streams, [(a.clone(), Version(3)), (b.clone(), Version(4))]);
    assert_eq!((written.first, written.last), (Position(2), Position(7)));
    let log = whole(&store).await;
    let names: Vec<_> = log.iter().map(|event| &*event.data.name).collect();
    assert_eq!(names, ["b1", "a1", "b2", "b3", "a2", "a3", "b4"]);
    let again = store.append(append).await.unwrap();
    assert!(again.replayed);
    assert_eq!(Written { replayed: false, ..again }, written);

    let twice = and(to(&a, Expected::Version(Version(3)), [event("a4")]), any(&a, [event("a5")]));
    assert_eq!(store.append(twice).await.unwrap().streams, [(a.clone(), Version(5))]);
    let late = and(to(&b, Expected::Version(Version(3)), [event("no")]), any(&b, [event("no")]));
    assert_eq!(conflict(store.append(late).await), Conflict::new(b, Expected::Version(Version(3)), Version(4)));
    whole(&store).await;
}

pub async fn a4_a_conflict_names_stream_expected_and_actual_and_writes_nothing(store: Fresh) {
    let a = stream("a");
    store.append(any(&a, [event("one"), event("two")])).await.unwrap();
    let late = store.append(to(&a, Expected::Version(Version(1)), [event("late")])).await;
    assert!(late.as_ref().is_err_and(StoreError::is_conflict));
    assert_eq!(conflict(late), Conflict::new(a, Expected::Version(Version(1)), Version(2)));
    assert_eq!(whole(&store).await.len(), 2);
}

pub async fn a4_every_expectation_is_checked(store: Fresh) {
    let (old, new) = (stream("old"), stream("new"));
    store.append(to(&old, Expected::Version(Version(0)), [event("one")])).await.unwrap();
    store.append(to(&old, Expected::Exists, [event("two")])).await.unwrap();
    store.append(to(&old, Expected::Version(Version(2)), [event("three")])).await.unwrap();
    store.append(to(&old, Expected::Any, [event("four")])).await.unwrap();
    for (stream, expected, actual) in [
        (&old, Expected::Version(Version(0)), Version(4)),
        (&old, Expected::Version(Version(3)), Version(4)),
        (&old, Expected::Version(Version(5)), Version(4)),
        (&new, Expected::Exists, Version(0)),
        (&new, Expected::Version(Version(1)), Version(0)),
    ] {
        let failed = conflict(store.append(to(stream, expected, [event("no")])).await);
        assert_eq!(failed, Conflict::new(stream.clone(), expected, actual));
    }
    assert_eq!(whole(&store).await.len(), 4);
}

pub async fn a4_a_stream_that_must_be_unchanged_is_checked(store: Fresh) {
    let (a, b, none) = (stream("a"), stream("b"), stream("none"));
    store.append(any(&a, [event("one")])).await.unwrap();
    let unchanged = |version| {
        let unchanged = vec![(a.clone(), Version(version)), (none.clone(), Version(0))];
        Append { unchanged, ..any(&b, [event("decided")]) }
    };
    assert_eq!(
        conflict(store.append(unchanged(0)).await),
        Conflict::new(a.clone(), Expected::Version(Version(0)), Version(1))
    );
    store.append(unchanged(1)).await.unwrap();
    store.append(any(&none, [event("now there is")])).await.unwrap();
    assert_eq!(conflict(store.append(unchanged(1)).await).stream, none);
    assert_eq!(whole(&store).await.len(), 3);
}

pub async fn a4_a_conflict_names_the_events_in_between(store: Fresh) {
    let (a, b) = (stream("a"), stream("b"));
    for n in 1..=25 {
        store.append(and(any(&a, [event(&format!("a{n}"))]), any(&b, [event("other")]))).await.unwrap();
    }
    let names = |range: std::ops::RangeInclusive<u64>| range.map(|n| format!("a{n}")).collect::<Vec<_>>();
    let outer = Store::from(store.clone());
    let explained = async |append| outer.explained(conflict(store.append(append).await)).await;
    let after = |version| Expected::Version(Version(version));
    for (expected, between) in
        [(after(24), names(25..=25)), (after(22), names(23..=25)), (after(5), names(6..=25)), (after(0), names(6..=25))]
    {
        let failed = explained(to(&a, expected, [event("late")])).await;
        assert_eq!(failed.between.iter().map(|name| &**name).collect::<Vec<_>>(), between, "{expected}");
    }
    for (stream, expected) in [(&a, after(26)), (&stream("none"), after(1)), (&stream("none"), Expected::Exists)] {
        let failed = explained(to(stream, expected, [event("late")])).await;
        assert!(failed.between.is_empty(), "{failed}");
    }
    let unchanged = Append { unchanged: vec![(a.clone(), Version(23))], ..any(&b, [event("late")]) };
    let failed = explained(unchanged).await;
    assert_eq!(failed.to_string(), "stream thing-a is at version 25; expected: version 23; in between: `a24`, `a25`");
    let condition = Some(Condition { query: Query::names(&["a7", "a9"]), after: Position(14) });
    let failed = explained(Append { condition, ..any(&b, [event("late")]) }).await;
    assert_eq!(failed.to_string(), "stream thing-a is at version 9; expected: version 8; in between: `a9`");
    let failed = explained(to(&a, after(4), [event("late")])).await;
    assert!(failed.to_string().contains("; in between: …, `a6`, `a7`, "), "{failed}");

    // The stream grows before the names are read.
    let failed = conflict(store.append(to(&a, after(24), [event("late")])).await);
    store.append(any(&a, [event("a26")])).await.unwrap();
    assert_eq!(outer.explained(failed).await.between, ["a25".into()]);

    // In a transaction, the names include the events that it has appended.
    let tx = outer.begin().await.unwrap();
    tx.as_ref().append(any(&a, [event("a27")])).await.unwrap();
    let failed = conflict(tx.as_ref().append(to(&a, after(25), [event("late")])).await);
    assert_eq!(tx.explained(failed).await.between, ["a26".into(), "a27".into()]);
    tx.commit().await.unwrap();
    assert_eq!(read(&store, Read { query: Query::of(&a), ..Read::default() }).await.len(), 27);
}

pub async fn a7_who_began_later_comes_later(store: Fresh) {
    let mut last = Position(0);
    for n in 0..20 {
        let written = store.append(any(&stream(&format!("{n}")), [event("x"), event("y")])).await.unwrap();
        assert!(last < written.first && written.first < written.last);
        last = written.last;
    }
}

pub async fn a8_a_dropped_append_leaves_nothing_open(store: Fresh) {
    let a = stream("a");
    for polls in 0..40 {
        let append = store.append(any(&a, [event("maybe"), event("maybe")]));
        pin_mut!(append);
        for _ in 0..polls {
            if append.as_mut().now_or_never().is_some() {
                break;
            }
            tokio::task::yield_now().await;
        }
    }
    let sure = timeout(Duration::from_secs(10), store.append(any(&a, [event("sure")]))).await;
    sure.expect("no lock is held").unwrap();
    let log = whole(&store).await;
    let maybe = log.iter().filter(|event| &*event.data.name == "maybe").count();
    assert!(maybe % 2 == 0, "half an append was written");
}
