//! What every store must do, as tests: everything about append, read, order, ids and rows that needs no crash.
//!
//! A store of one's own proves itself with [`conformance!`](crate::conformance!):
//!
//! ```no_run
//! # use std::sync::Arc;
//! # use eventstore_core::{EventStore, MemoryStore as MyStore};
//! async fn fresh() -> (Arc<dyn EventStore>, tempfile::TempDir) {
//!     let folder = tempfile::tempdir().unwrap();
//!     (Arc::new(MyStore::new()), folder)
//! }
//!
//! eventstore_core::conformance!(fresh);
//! ```
//!
//! Each function here is one promise; its name begins with the promise's id in `docs/guarantees.md`. Each is given an
//! empty store and panics if the promise is broken.

#![allow(missing_docs, clippy::unwrap_used, reason = "tests: the name is the sentence they prove, and they panic")]

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures::{FutureExt, StreamExt, TryStreamExt, future::join_all, pin_mut};
use serde_json::{json, value::to_raw_value};
use tokio::time::{sleep, timeout};
use uuid::Uuid;

use crate::{
    Append, Changes, Checkpoint, Column, Comparison, Condition, Conflict, EventStore, Events, Expected, Filter,
    Invalid, Item, Kind, Metadata, NewEvent, NewTags, Order, Page, Position, Prefix, Query, Raw, Read, Recorded, Rows,
    Select, Shard, SortKey, Step, Store, StoreError, StoredSnapshot, StreamHead, StreamId, Table, Tag, Timestamp,
    Transaction, Version, Write, Written, event_id, limits,
};

/// Makes a test of every promise: `conformance!(fresh)`, where `fresh` is an async function that gives an empty store,
/// as an `Arc<dyn EventStore>`, and something to be kept until the test is over.
#[macro_export]
macro_rules! conformance {
    ($fresh:path) => {
        $crate::conformance! { $fresh:
            a2_an_append_to_several_streams_is_all_or_nothing
            a3_versions_and_positions_have_no_gap_whoever_writes
            a3_a_stream_may_come_again_in_one_append
            a4_a_conflict_names_stream_expected_and_actual_and_writes_nothing
            a4_every_expectation_is_checked
            a4_a_stream_that_must_be_unchanged_is_checked
            a4_a_conflict_names_the_events_in_between
            a4_a_read_of_a_table_that_is_not_there_is_no_failure_of_a_transaction
            a5_a_retry_with_the_same_ids_gives_the_first_result
            a5_the_same_append_at_once_is_recorded_once
            a5_an_id_with_other_data_is_a_duplicate
            a5_what_is_recorded_is_found_by_its_ids
            a7_who_began_later_comes_later
            a8_a_dropped_append_leaves_nothing_open
            a8_a_dropped_transaction_leaves_nothing
            a8_an_operation_dropped_in_a_transaction_is_never_half_recorded
            a2_an_operation_that_failed_in_a_transaction_is_never_half_recorded
            a10_bytes_in_are_bytes_out
            a10_names_in_are_names_out
            a10_metadata_in_is_metadata_out
            a11_what_is_over_a_limit_is_refused_before_anything_is_written
            a11_a_hundred_thousand_events_fit_in_one_append
            a11_a_log_has_a_bounded_number_of_event_types
            a14_a_condition_beyond_the_end_of_the_log_is_refused
            a14_a_log_has_an_identity
            a13_a_condition_sees_names_and_tags
            a13_a_condition_sees_the_events_of_a_stream
            a13_of_decisions_that_exclude_each_other_one_wins
            c5_names_that_are_not_named_are_asked_for
            c5_a_condition_asks_for_types_that_were_added_after_the_read
            c6_a_transaction_that_holds_the_log_is_refused_what_has_changed
            s1_a_reader_sees_every_event_once_in_order
            s1_an_open_append_is_never_skipped
            s2_a_rolled_back_append_leaves_no_hole
            s5_a_checkpoint_never_goes_back
            s6_a_checkpoint_moves_only_to_what_is_in_the_log
            p6_shards_are_split_joined_and_moved_one_by_one
            t1_an_instant_is_a_prefix_of_the_log
            t3_an_instant_that_is_over_has_one_answer_whatever_is_open
            c1_a_command_is_found_again
            n1_a_snapshot_is_read_as_it_was_kept
            n1_a_snapshot_that_did_not_fit_is_replaced
            n1_a_stream_is_read_from_its_snapshot_on
            n2_an_older_snapshot_never_replaces_a_newer_one
            n2_of_snapshots_kept_at_once_the_newest_stays
            the_latest_snapshots_of_a_kind_come_first
            p1_rows_checkpoint_and_events_commit_together
            p1_one_at_a_time_moves_a_checkpoint
            p2_a_step_is_made_from_where_the_shard_is_or_not_at_all
            p2_of_steps_from_the_same_place_one_is_made
            a_log_is_read_by_stream_category_key_name_and_tag
            events_are_counted
            x3_an_event_gets_other_tags_and_stays_what_it_is
            a_read_is_bounded_by_its_head
            a_long_read_comes_in_pages_and_stops_at_its_limit
            a_stream_is_read_after_a_version
            a_log_is_read_backwards
            events_of_some_types_are_read_however_far_apart_they_are
            a_bare_read_has_all_that_a_state_is_made_of
            the_streams_of_a_category_come_in_the_order_of_their_keys
            streams_are_listed_page_by_page_each_once
            s10_whoever_reads_slowly_keeps_nobody_waiting
            an_append_wakes_those_who_wait
            rows_are_what_was_written
            rows_no_database_can_hold_are_refused
            rows_are_found_by_their_columns
            rows_are_selected_by_comparison_and_from_a_place
            a_table_is_built_once
            p4_a_table_and_its_shadow_change_names_at_once
            a_table_with_other_columns_is_refused_wherever_it_is_used
        }
    };
    ($fresh:path: $($case:ident)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                let (store, _kept) = $fresh().await;
                $crate::conformance::$case(store).await;
            }
        )*
    };
}

type Fresh = Arc<dyn EventStore>;

fn event(name: &str) -> NewEvent {
    let metadata = Metadata { command_id: Uuid::now_v7(), ..Metadata::default() };
    let metadata = Metadata { correlation_id: metadata.command_id, ..metadata };
    let data = Raw { name: name.into(), tags: vec![], body: b"{}".to_vec() };
    NewEvent { id: Uuid::now_v7(), schema: 1, occurred_at: None, metadata, data }
}

fn tagged(name: &str, tags: &[(&'static str, &str)]) -> NewEvent {
    let mut event = event(name);
    event.data.tags = tags.iter().map(|(name, key)| Tag::new(*name, key)).collect();
    event
}

fn stream(key: &str) -> StreamId {
    StreamId::new("thing", key)
}

fn to(stream: &StreamId, expected: Expected, events: impl IntoIterator<Item = NewEvent>) -> Append {
    let write = Write { stream: stream.clone(), expected, events: events.into_iter().collect() };
    Append { writes: vec![write], ..Append::default() }
}

fn and(mut append: Append, other: Append) -> Append {
    append.writes.extend(other.writes);
    append
}

fn any(stream: &StreamId, events: impl IntoIterator<Item = NewEvent>) -> Append {
    to(stream, Expected::Any, events)
}

async fn read(store: &Fresh, read: Read) -> Vec<Recorded<Raw>> {
    store.read(read).await.unwrap().events.try_collect().await.unwrap()
}

async fn matching(store: &Fresh, query: impl Into<Query>) -> Vec<u64> {
    let found = read(store, Read { query: query.into(), ..Read::default() }).await;
    found.iter().map(|event| event.position.0).collect()
}

/// The whole log; panics if a position or a version is missing, doubled or out of order, or if time goes back.
async fn whole(store: &Fresh) -> Vec<Recorded<Raw>> {
    let Events { head, events, .. } = store.read(Read { query: Query::all(), ..Read::default() }).await.unwrap();
    let log: Vec<_> = events.try_collect().await.unwrap();
    assert_eq!(head, Position(log.len() as u64), "the head is the last position");
    let mut versions = HashMap::<_, u64>::new();
    let mut time = Timestamp::MIN;
    for (event, n) in log.iter().zip(1..) {
        let version = versions.entry(event.stream.clone()).or_default();
        *version += 1;
        assert_eq!((event.position, event.version), (Position(n), Version(*version)), "in {}", event.stream);
        assert!(time <= event.recorded_at, "time goes back at {n}");
        time = event.recorded_at;
    }
    log
}

fn conflict(result: Result<Written, StoreError>) -> Conflict {
    match result {
        Err(StoreError::Conflict(conflict)) => conflict,
        other => panic!("a conflict was expected: {other:?}"),
    }
}

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

    // The last of three does not hold: the first two are not written either.
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
                    // Mostly lost; what is lost must leave no trace.
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

    // The stream moves on before they are read.
    let failed = conflict(store.append(to(&a, after(24), [event("late")])).await);
    store.append(any(&a, [event("a26")])).await.unwrap();
    assert_eq!(outer.explained(failed).await.between, ["a25".into()]);

    // In a transaction: what it has appended itself, too.
    let tx = outer.begin().await.unwrap();
    tx.as_ref().append(any(&a, [event("a27")])).await.unwrap();
    let failed = conflict(tx.as_ref().append(to(&a, after(25), [event("late")])).await);
    assert_eq!(tx.explained(failed).await.between, ["a26".into(), "a27".into()]);
    tx.commit().await.unwrap();
    assert_eq!(read(&store, Read { query: Query::of(&a), ..Read::default() }).await.len(), 27);
}

pub async fn a5_a_retry_with_the_same_ids_gives_the_first_result(store: Fresh) {
    let (a, b) = (stream("a"), stream("b"));
    let append = and(to(&a, Expected::Version(Version(0)), [event("a1"), event("a2")]), any(&b, [event("b1")]));
    let first = store.append(append.clone()).await.unwrap();
    // The streams move on: the expectation does not hold any more, and the answer is the first one all the same.
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
    sure.expect("nobody holds a lock").unwrap();
    let log = whole(&store).await;
    let maybe = log.iter().filter(|event| &*event.data.name == "maybe").count();
    assert!(maybe % 2 == 0, "half an append was written");
}

pub async fn a8_a_dropped_transaction_leaves_nothing(store: Fresh) {
    store.create(&TABLE).await.unwrap();
    for _ in 0..3 {
        let mut transaction = store.begin().await.unwrap();
        let (shard, _) = lock(&mut *transaction, "p").await;
        transaction.append(any(&stream("a"), [event("gone")])).await.unwrap();
        let row = to_raw_value(&json!({ "text": "gone" })).unwrap();
        let changes = Changes { table: TABLE, upserts: vec![("k".into(), row)], deletes: vec![] };
        transaction.write(changes).await.unwrap();
        transaction.advance(&shard, Position(1), None).await.unwrap();
        drop(transaction);
    }
    let sure = timeout(Duration::from_secs(10), store.append(any(&stream("a"), [event("sure")]))).await;
    sure.expect("nobody holds a lock").unwrap();
    assert_eq!(whole(&store).await.len(), 1);
    assert_eq!(store.checkpoint("p").await.unwrap(), Position(0));
    assert!(store.rows(Rows::Keys { table: TABLE, keys: vec!["k".into()] }).await.unwrap().is_empty());
}

pub async fn a8_an_operation_dropped_in_a_transaction_is_never_half_recorded(store: Fresh) {
    store.create(&TABLE).await.unwrap();
    for patience in [0, 1, 3, 9, 27, 81, 243].map(Duration::from_millis) {
        let a = stream(&format!("a-{patience:?}"));
        let mut transaction = store.begin().await.unwrap();
        transaction.append(any(&a, [event("before")])).await.unwrap();
        let append = any(&a, (0..2_000).map(|_| tagged("maybe", &[("n", "x")])));
        let dropped = timeout(patience, transaction.append(append)).await.is_err();
        let kept = transaction.commit().await.is_ok();
        assert!(kept || dropped, "a transaction of whole operations can be committed");
        let found = matching(&store, Query::of(&a)).await.len();
        let whole: &[usize] = if kept { &[1, 2_001] } else { &[0] };
        assert!(whole.contains(&found), "{found} of 2001 events, dropped after {patience:?}");

        let upserts = (0..2_000).map(|n| (format!("{patience:?}-{n}"), to_raw_value(&json!({ "text": "x" })).unwrap()));
        let changes = Changes { table: TABLE, upserts: upserts.collect(), deletes: vec![] };
        let keys = changes.upserts.iter().map(|(key, _)| key.clone()).collect();
        let mut transaction = store.begin().await.unwrap();
        let dropped = timeout(patience, transaction.write(changes)).await.is_err();
        let kept = transaction.commit().await.is_ok();
        assert!(kept || dropped, "a transaction of whole operations can be committed");
        let found = rows(&store, Rows::Keys { table: TABLE, keys }).await.len();
        assert!(found == 0 || kept && found == 2_000, "{found} of 2000 rows, dropped after {patience:?}");
    }
    whole(&store).await;
}

pub async fn a2_an_operation_that_failed_in_a_transaction_is_never_half_recorded(store: Fresh) {
    store.create(&TABLE).await.unwrap();
    let (a, b) = (stream("a"), stream("b"));
    let mut transaction = store.begin().await.unwrap();
    transaction.append(any(&a, [event("before")])).await.unwrap();
    let late = and(any(&b, [event("half")]), to(&a, Expected::Version(Version(7)), [event("half")]));
    assert!(transaction.append(late).await.is_err_and(|error| error.is_conflict()));
    transaction.commit().await.expect("what was refused was not begun");
    assert_eq!(matching(&store, Query::all()).await.len(), 1);

    let mut transaction = store.begin().await.unwrap();
    let row = |key: &str, row| (key.to_owned(), to_raw_value(&row).unwrap());
    let changes = |upserts| Changes { table: TABLE, upserts, deletes: vec![] };
    transaction.write(changes(vec![row("before", json!({ "text": "x" }))])).await.unwrap();
    let half = vec![row("half", json!({ "text": "x" })), row("bad", json!({ "integer": "x" }))];
    transaction.write(changes(half)).await.unwrap_err();
    let kept = transaction.commit().await.is_ok();
    let found = rows(&store, Rows::Where { table: TABLE, equal: vec![], order: Order::default(), limit: None }).await;
    assert_eq!(found.iter().map(|(key, _)| key.as_str()).collect::<Vec<_>>(), &["before"][..usize::from(kept)]);
}

pub async fn a4_a_read_of_a_table_that_is_not_there_is_no_failure_of_a_transaction(store: Fresh) {
    let a = stream("a");
    let mut transaction = store.begin().await.unwrap();
    transaction.append(any(&a, [event("before")])).await.unwrap();
    for rows in [
        Rows::Keys { table: TABLE, keys: vec!["a".into()] },
        Rows::Where { table: TABLE, equal: vec![], order: Order::default(), limit: None },
        Rows::Whole { table: TABLE.to_string(), keys: vec![], after: String::new(), limit: 10 },
    ] {
        let missing = transaction.rows(rows).await;
        assert!(matches!(missing, Err(StoreError::NotBuilt { .. })), "{missing:?}");
    }
    transaction.append(any(&a, [event("after")])).await.unwrap();
    transaction.commit().await.unwrap();
    assert_eq!(matching(&store, Query::all()).await.len(), 2);
}

pub async fn a10_bytes_in_are_bytes_out(store: Fresh) {
    let deep = "[".repeat(8_000) + &"]".repeat(8_000);
    let bodies: Vec<Vec<u8>> = vec![
        vec![],
        b"null".to_vec(),
        br#"{"nul":"\u0000","twice":1,"twice":2,"huge":1e309,"tiny":1.10}"#.to_vec(),
        b"{ \"spaces\" :\t1 }\n".to_vec(),
        deep.into_bytes(),
        (0..=255).collect(),
        vec![0xff, 0xfe, 0x00, 0xc3],
        "\u{202e}\u{0}\u{feff}'; DROP TABLE events; --".into(),
        vec![b'x'; 1 << 20],
    ];
    let events = bodies.iter().map(|body| {
        let mut event = event("bytes");
        event.data.body = body.clone();
        event
    });
    store.append(any(&stream("a"), events)).await.unwrap();
    let read: Vec<_> = whole(&store).await.into_iter().map(|event| event.data.body).collect();
    assert!(read == bodies);
}

pub async fn a10_names_in_are_names_out(store: Fresh) {
    let long = "ß".repeat(limits::NAME_BYTES / 2);
    let names =
        ["x", "X", "x ", "a-b--c", "it's \"quoted\" {}, \\, %_*", "\u{202e}right to left", "ключ/鍵/🔑", " ", &long];
    let hard = [
        "NULL",
        "null",
        "{}",
        "{,}",
        ",",
        "\"",
        "\\",
        "\\\"",
        "'",
        "''",
        "$1",
        "?1",
        ":",
        "é",
        "e\u{301}",
        "\u{10ffff}",
    ];
    for name in names.into_iter().chain(hard) {
        // Names of events that begin with `$` are the log's own; keys and tags may.
        let event_name = if name.starts_with('$') { "x" } else { name };
        let mut new = event(event_name);
        new.data.tags = vec![Tag::new("about", name), Tag::new("second.tag_2", "{x,\"y\"}")];
        store.append(any(&stream(name), [new.clone()])).await.unwrap();
        let found = read(&store, Read { query: Query::of(&stream(name)), ..Read::default() }).await;
        assert_eq!(found.len(), 1, "{name}");
        assert_eq!((found[0].stream.clone(), found[0].data.clone()), (stream(name), new.data), "{name}");
        let tag = Item { tags: vec![Tag::new("about", name)], ..Item::default() };
        assert_eq!(matching(&store, tag).await, [found[0].position.0], "{name}");
        let by_name = Item { names: vec![event_name.to_owned().into()], ..Item::default() };
        assert_eq!(matching(&store, by_name).await.last(), Some(&found[0].position.0), "{name}");
    }
    let (category, tag) = ("c".repeat(limits::NAME_BYTES), "t".repeat(limits::NAME_BYTES));
    let mut new = event("x");
    new.data.tags = (0..limits::TAGS).map(|n| Tag::new(tag.clone(), n)).collect();
    let last = store.append(any(&StreamId::new(&category, &long), [new.clone()])).await.unwrap().last;
    let item = Item { tags: new.data.tags.clone(), category: Some(category), key: Some(long), ..Item::default() };
    let found = read(&store, Read { query: item.into(), ..Read::default() }).await;
    assert_eq!((found[0].position, &found[0].data), (last, &new.data));
    whole(&store).await;
}

pub async fn a10_metadata_in_is_metadata_out(store: Fresh) {
    let mut new = event("x");
    new.schema = 7;
    new.occurred_at = Some("1815-06-18T11:35:00.000001Z".parse().unwrap());
    new.metadata.correlation_id = Uuid::from_u128(2);
    new.metadata.causation_id = Some(Uuid::from_u128(3));
    new.metadata.actor = Some("Ann \u{0} \"the\" boss".into());
    new.metadata.source = Some("desk".into());
    new.metadata.extra.insert("n".into(), json!({ "deep": [0.1, u64::MAX, -1, null, "\u{0}"] }));
    store.append(any(&stream("a"), [new.clone()])).await.unwrap();
    let log = whole(&store).await;
    assert_eq!((log[0].id, log[0].schema, &log[0].metadata), (new.id, 7, &new.metadata));
    assert_eq!(Some(log[0].occurred_at), new.occurred_at);

    store.append(any(&stream("a"), [event("y")])).await.unwrap();
    let log = whole(&store).await;
    assert_eq!(log[1].occurred_at, log[1].recorded_at, "what says nothing of when it happened happened now");
}

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
        // The same everywhere: what core says.
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

fn unless(query: Query, after: u64, append: Append) -> Append {
    Append { condition: Some(Condition { query, after: Position(after) }), ..append }
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
    // In a transaction it is a refusal, which leaves what was done before.
    let mut transaction = store.begin().await.unwrap();
    transaction.append(any(&stream("b"), [name(1)])).await.unwrap();
    too_many(transaction.append(any(&stream("b"), [name(2), name(limits::TYPES + 2)])).await);
    transaction.append(any(&stream("b"), [name(3)])).await.unwrap();
    transaction.commit().await.unwrap();
    let found = read(&store, Read { query: Query::of(&stream("b")), ..Read::default() }).await;
    let names: Vec<_> = found.iter().map(|event| &*event.data.name).collect();
    assert_eq!(names, ["x10000", "x1", "x3"]);
}

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
        // Also where something else does not hold.
        forked(
            store.append(after(beyond, to(&stream("a"), Expected::Version(Version(7)), [event("no")]))).await,
            beyond,
        );
        let mut transaction = store.begin().await.unwrap();
        transaction.append(any(&stream("c"), [event("within")])).await.unwrap();
        // What the transaction has appended itself, it has seen.
        let seen = transaction.read(Read { query: Query::all(), ..Read::default() }).await.unwrap().head;
        forked(transaction.append(after(beyond.max(3), any(&stream("b"), [event("no")]))).await, beyond.max(3));
        transaction.append(after(seen.0, any(&stream("c"), [event("within")]))).await.unwrap();
        transaction.rollback().await.unwrap();
    }
    assert_eq!(whole(&store).await.len(), 1);
    // Many at once, of which some share a call.
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
    // What is recorded already is told before anything else.
    let mut again = after(9_999, any(&stream("a"), [event("one")]));
    again.writes[0].events[0].id = whole(&store).await[0].id;
    assert_eq!(store.append(again).await.unwrap(), Written { replayed: true, ..written });
    // A refusal leaves what a transaction has done before.
    let mut transaction = store.begin().await.unwrap();
    transaction.append(any(&stream("c"), [event("within")])).await.unwrap();
    forked(transaction.append(after(9_999, any(&stream("b"), [event("no")]))).await, 9_999);
    transaction.commit().await.unwrap();
    assert_eq!(whole(&store).await.len(), 12);
}

pub async fn a14_a_log_has_an_identity(store: Fresh) {
    let identity = store.identity().await.unwrap();
    assert_eq!((identity.id.is_nil(), identity.epoch), (false, 1));
    assert!(identity.since <= store.now() + Duration::from_secs(1), "{identity:?}");
    store.append(any(&stream("a"), [event("one")])).await.unwrap();
    assert_eq!(store.identity().await.unwrap(), identity);
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
        ("a name nobody has used", item(&["never heard of"], &[]), false),
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
        // In a transaction, which is not disturbed by it; then by itself.
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
    // What is appended to the stream itself is not in its own way, and other writers are.
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

/// Asks for a name with a tag, and for what else there may be in its categories.
fn heard(names: &[&'static str], tags: &[(&'static str, &str)], except: &'static [&'static str]) -> Item {
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
        let (found, asked) = asked(vec![heard(names, tags, except)]).await;
        assert_eq!((&found[..], &asked[0][..]), (positions, all), "{names:?} {tags:?} {except:?}");
    }
    let (found, names) = asked(vec![heard(&["opened"], &go, &["moved"]), heard(&["joined"], &rust, &[])]).await;
    assert_eq!((found, names), (vec![3, 4, 6], vec!["opened".to_owned(), "enrolled joined".into()]));
    // A type of yesterday: this handle, and any other, hears of one that is added now.
    store.append(any(&of("course"), [tagged("closed", &rust)])).await.unwrap();
    let (found, names) = asked(vec![heard(&["opened"], &rust, &["moved"])]).await;
    assert_eq!((found, names), (vec![1, 7], vec!["closed opened".to_owned()]));
    // Without `except`, what is named is asked for.
    let named = Item { except: None, ..heard(&["opened"], &rust, &[]) };
    assert_eq!(matching(&store, named).await, [1]);
}

pub async fn c5_a_condition_asks_for_types_that_were_added_after_the_read(store: Fresh) {
    let tag = [("course", "rust")];
    let course = StreamId::new("course", "rust");
    store.append(any(&course, [tagged("opened", &tag)])).await.unwrap();
    for (round, within) in [(0, false), (1, true)] {
        let head = whole(&store).await.len() as u64;
        let query = Query::from(heard(&["opened"], &tag, &["moved"]));
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
        // Types that do not matter.
        store.append(any(&course, [tagged("moved", &tag)])).await.unwrap();
        store.append(any(&stream("x"), [tagged(&format!("elsewhere-{round}"), &tag)])).await.unwrap();
        append(decided(query.clone(), head)).await.unwrap();
        // And one that may.
        let head = whole(&store).await.len() as u64;
        store.append(any(&course, [tagged(&format!("closed-{round}"), &tag)])).await.unwrap();
        assert_eq!(conflict(append(decided(query.clone(), head)).await).stream, course);
        assert_eq!(whole(&store).await.len() as u64, head + 1);
    }
    // Many at once, which a store may take together.
    let head = whole(&store).await.len() as u64;
    let decisions = (0..20).map(|n| {
        let store = store.clone();
        tokio::spawn(async move {
            if n == 5 {
                let course = StreamId::new("course", "rust");
                return store.append(any(&course, [tagged("the last", &[("course", "rust")])])).await.map(|_| 0);
            }
            let query = Query::from(heard(&["opened"], &[("course", "rust")], &["moved"]));
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

pub async fn c6_a_transaction_that_holds_the_log_is_refused_what_has_changed(store: Fresh) {
    let (a, b) = (stream("a"), stream("b"));
    store.append(any(&a, [tagged("x", &[("t", "1")])])).await.unwrap();
    let at = |version| vec![(a.clone(), Version(version)), (b.clone(), Version(0))];
    let quiet = |after| {
        let tag = Item { tags: vec![Tag::new("t", "1")], ..Item::default() };
        Some(Condition { query: tag.into(), after: Position(after) })
    };
    let mut transaction = store.begin().await.unwrap();
    transaction.hold(at(1), quiet(1)).await.unwrap();
    // From here on others wait.
    let outside = tokio::spawn({
        let (store, a) = (store.clone(), a.clone());
        async move { store.append(any(&a, [tagged("x", &[("t", "1")])])).await }
    });
    sleep(Duration::from_millis(50)).await;
    assert!(!outside.is_finished());
    transaction.append(any(&b, [event("held")])).await.unwrap();
    transaction.commit().await.unwrap();
    let written = outside.await.unwrap().unwrap();
    assert_eq!((written.first, written.streams), (Position(3), vec![(a.clone(), Version(2))]));

    // What a store that does not keep others out from the beginning has let in.
    let mut transaction = store.begin().await.unwrap();
    let head = transaction.read(Read { limit: Some(0), ..Read::default() }).await.unwrap().head;
    assert_eq!(head, Position(3));
    let (writer, again) = (store.clone(), any(&a, [tagged("x", &[("t", "1")])]));
    let outside = tokio::spawn(async move { writer.append(again).await });
    let _ = timeout(Duration::from_millis(200), async {
        while !outside.is_finished() {
            sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    if outside.is_finished() {
        for stale in [transaction.hold(at(2), None).await, transaction.hold(vec![], quiet(3)).await] {
            assert!(matches!(stale, Err(StoreError::Conflict(_))), "{stale:?}");
        }
        let unchanged = vec![(b.clone(), Version(1))];
        transaction.hold(unchanged, quiet(4)).await.unwrap();
        transaction.append(any(&b, [event("goes on")])).await.unwrap();
    }
    transaction.commit().await.unwrap();
    outside.await.unwrap().unwrap();
    whole(&store).await;
}

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
    // The log goes on.
    conflict(store.append(unless(of("t", "1").into(), 0, any(&a, [event("no")]))).await);
    assert_eq!(store.append(any(&a, [event("four")])).await.unwrap().last, Position(4));
    store.keep_snapshot(snapshot("t:1"), None).await.unwrap();
    assert_eq!(store.retag(vec![]).await.unwrap(), 0);
    assert!(!kept("t:1").await);
}

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
    // Whoever reads meanwhile sees what is committed, and nothing beyond a hole.
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

/// Locks all of a projection, which it makes if it is not there.
async fn lock(transaction: &mut dyn Transaction, projection: &str) -> (Shard, Position) {
    if transaction.lock_projection(projection).await.unwrap().is_empty() {
        let new = vec![(Shard::whole(projection), Checkpoint::default())];
        transaction.put_shards(projection, new).await.unwrap();
    }
    let shard = Shard::whole(projection);
    let at = transaction.lock(&shard).await.unwrap().expect("it is there");
    (shard, at.position)
}

pub async fn s5_a_checkpoint_never_goes_back(store: Fresh) {
    store.append(any(&stream("a"), [(); 9].map(|()| event("one")))).await.unwrap();
    let ids: Vec<_> = whole(&store).await.iter().map(|event| event.id).collect();
    let step = async |to: u64| {
        let mut transaction = store.begin().await.unwrap();
        let (shard, at) = lock(&mut *transaction, "p@1").await;
        transaction.advance(&shard, Position(to), Some(ids[to as usize - 1])).await.unwrap();
        transaction.commit().await.unwrap();
        at
    };
    assert_eq!(store.checkpoint("p@1").await.unwrap(), Position(0));
    assert_eq!(step(7).await, Position(0));
    assert_eq!(step(3).await, Position(7));
    assert_eq!(store.checkpoint("p@1").await.unwrap(), Position(7));
    assert_eq!(store.checkpoint("p@2").await.unwrap(), Position(0));
    let mut transaction = store.begin().await.unwrap();
    let (shard, _) = lock(&mut *transaction, "p@1").await;
    let [nine, eight] = [9, 8].map(|n: usize| (Position(n as u64), Some(ids[n - 1])));
    transaction.advance(&shard, nine.0, nine.1).await.unwrap();
    transaction.advance(&shard, eight.0, eight.1).await.unwrap();
    assert_eq!(lock(&mut *transaction, "p@1").await.1, Position(9), "it sees what it has written");
    transaction.commit().await.unwrap();
    let at = Checkpoint { position: nine.0, event: nine.1, epoch: 0, owner: None };
    assert_eq!(store.shards(Some("p@1")).await.unwrap(), [(shard, at)]);
}

pub async fn s6_a_checkpoint_moves_only_to_what_is_in_the_log(store: Fresh) {
    store.append(any(&stream("a"), [event("one"), event("two")])).await.unwrap();
    let log = whole(&store).await;
    let lost = Uuid::now_v7();
    for (position, event) in [(1, lost), (1, log[1].id), (2, log[0].id), (3, lost)] {
        let mut transaction = store.begin().await.unwrap();
        let (shard, _) = lock(&mut *transaction, "p@1").await;
        let moved = transaction.advance(&shard, Position(position), Some(event)).await;
        assert!(
            matches!(moved, Err(StoreError::Forked { position: Position(there), event: lost })
            if (there, lost) == (position, Some(event))),
            "{moved:?}"
        );
        transaction.rollback().await.unwrap();
    }
    assert_eq!(store.checkpoint("p@1").await.unwrap(), Position(0));
    // What the transaction has appended itself is there.
    let mut transaction = store.begin().await.unwrap();
    let (shard, _) = lock(&mut *transaction, "p@1").await;
    let mine = event("three");
    transaction.append(any(&stream("a"), [mine.clone()])).await.unwrap();
    transaction.advance(&shard, Position(3), Some(mine.id)).await.unwrap();
    transaction.commit().await.unwrap();
    assert_eq!(store.checkpoint("p@1").await.unwrap(), Position(3));
}

pub async fn p6_shards_are_split_joined_and_moved_one_by_one(store: Fresh) {
    let owner = Some(Uuid::from_u128(1));
    let at = |position, epoch, owner| Checkpoint { position: Position(position), event: None, epoch, owner };
    let put = async |projection: &str, shards: Vec<(Shard, Checkpoint)>| {
        let mut transaction = store.begin().await.unwrap();
        let before = transaction.lock_projection(projection).await.unwrap();
        transaction.put_shards(projection, shards.clone()).await.unwrap();
        assert_eq!(transaction.lock_projection(projection).await.unwrap(), shards, "it sees what it has written");
        transaction.commit().await.unwrap();
        before
    };
    let whole = vec![(Shard::whole("p@1"), at(5, 1, owner))];
    assert_eq!(put("p@1", whole.clone()).await, []);
    let other = vec![(Shard::whole("a@1"), at(3, 0, None))];
    put("a@1", other.clone()).await;
    let [low, high] = &Shard::parts("p@1", 2)[..] else { panic!("two") };
    let halves = vec![(low.clone(), at(5, 2, owner)), (high.clone(), at(5, 2, None))];
    assert_eq!(put("p@1", halves).await, whole);

    let mut transaction = store.begin().await.unwrap();
    assert_eq!(transaction.lock(&Shard::whole("p@1")).await.unwrap(), None, "it was split");
    assert_eq!(transaction.lock(high).await.unwrap(), Some(at(5, 2, None)));
    transaction.advance(high, Position(8), None).await.unwrap();
    transaction.advance(&Shard::whole("p@1"), Position(99), None).await.unwrap();
    transaction.commit().await.unwrap();
    assert_eq!(store.checkpoint("p@1").await.unwrap(), Position(5), "all of it has come as far as its last shard");
    let halves = vec![(low.clone(), at(5, 2, owner)), (high.clone(), at(8, 2, None))];
    assert_eq!(store.shards(Some("p@1")).await.unwrap(), halves);
    assert_eq!(store.shards(None).await.unwrap(), [other, halves].concat());
    put("p@1", whole.clone()).await;
    assert_eq!(store.shards(Some("p@1")).await.unwrap(), whole);
    assert_eq!(store.shards(Some("p")).await.unwrap(), []);
}

pub async fn t1_an_instant_is_a_prefix_of_the_log(store: Fresh) {
    let before = store.position_at(Timestamp::MAX).await.unwrap();
    assert_eq!(before, Position(0));
    let mut times = vec![];
    for n in 0..30 {
        let written = store.append(any(&stream("a"), (0..=n % 4).map(|_| event("x")))).await.unwrap();
        times.push((written.recorded_at, written.last));
        if n % 5 == 0 {
            sleep(Duration::from_millis(2)).await;
        }
    }
    let log = whole(&store).await;
    assert_eq!(store.position_at(Timestamp::MIN).await.unwrap(), Position(0));
    assert_eq!(store.position_at(Timestamp::MAX).await.unwrap(), Position(log.len() as u64));
    for (time, _) in &times {
        for at in [*time, Timestamp::from_micros(time.as_micros() - 1), *time + Duration::from_micros(1)] {
            let expected = log.iter().filter(|event| event.recorded_at <= at).count() as u64;
            assert_eq!(store.position_at(at).await.unwrap(), Position(expected));
        }
    }
}

pub async fn t3_an_instant_that_is_over_has_one_answer_whatever_is_open(store: Fresh) {
    let prefix = |position, settled| Prefix { position: Position(position), settled };
    let first = store.append(any(&stream("a"), [event("one")])).await.unwrap().recorded_at;
    // So many are committed; the next transaction is rolled back, and the one after it committed.
    let mut committed = 1;
    for commits in [false, true] {
        sleep(Duration::from_millis(2)).await;
        let mut transaction = store.begin().await.unwrap();
        let open = transaction.append(any(&stream("a"), [event("x"), event("y")])).await.unwrap().recorded_at;
        assert_eq!(transaction.prefix_at(first).await.unwrap(), prefix(1, true), "it sees what it has appended");
        while store.now() <= open + Duration::from_millis(1) {
            sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(transaction.prefix_at(open).await.unwrap(), prefix(committed + 2, true));
        // An instant before an event that is there waits for nobody.
        let before = Timestamp::from_micros(first.as_micros() - 1);
        let at_once = timeout(Duration::from_secs(5), store.prefix_at(before)).await;
        assert_eq!(at_once.expect("it waits for nobody").unwrap(), prefix(0, true));
        // One that the open events are of waits for them, however often it is asked.
        let asked: Vec<_> = [open, open, open + Duration::from_millis(1)]
            .map(|at| {
                let store = store.clone();
                tokio::spawn(async move { store.prefix_at(at).await.unwrap() })
            })
            .into();
        sleep(Duration::from_millis(100)).await;
        assert!(asked.iter().all(|answer| !answer.is_finished()), "it waits for what is open");
        if commits {
            transaction.commit().await.unwrap();
            committed += 2;
        } else {
            transaction.rollback().await.unwrap();
        }
        for answer in asked {
            assert_eq!(answer.await.unwrap(), prefix(committed, true));
        }
        store.append(any(&stream("b"), [event("later")])).await.unwrap();
        committed += 1;
        assert_eq!(store.position_at(open).await.unwrap(), Position(committed - 1), "nor does it change later");
    }
    let head = committed;
    assert_eq!(store.prefix_at(Timestamp::MAX).await.unwrap(), prefix(head, false), "more may come");
    assert_eq!(store.prefix_at(Timestamp::MIN).await.unwrap(), prefix(0, true));
    // A question that was dropped while it waited keeps nobody waiting.
    let mut transaction = store.begin().await.unwrap();
    transaction.append(any(&stream("a"), [event("z")])).await.unwrap();
    assert!(timeout(Duration::from_millis(20), store.prefix_at(Timestamp::MAX)).await.is_err());
    transaction.commit().await.unwrap();
    store.append(any(&stream("a"), [event("z")])).await.unwrap();
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

const TABLE: Table = Table {
    shadow: false,
    name: "sample",
    version: 3,
    columns: &[
        Column { name: "text", kind: Kind::Text, index: true, optional: false },
        Column::new("integer", Kind::Integer),
        Column::new("real", Kind::Real),
        Column { name: "bool", kind: Kind::Bool, index: true, optional: false },
        Column::new("uuid", Kind::Uuid),
        Column::new("time", Kind::Time),
        Column::new("order", Kind::Json),
    ],
};

async fn write(store: &Fresh, rows: &[(&str, serde_json::Value)], deletes: &[&str]) {
    let upserts = rows.iter().map(|(key, row)| ((*key).to_owned(), to_raw_value(row).unwrap())).collect();
    let deletes = deletes.iter().map(|key| (*key).to_owned()).collect();
    let mut transaction = store.begin().await.unwrap();
    transaction.write(Changes { table: TABLE, upserts, deletes }).await.unwrap();
    transaction.commit().await.unwrap();
}

async fn rows(store: &Fresh, rows: Rows) -> Vec<(String, serde_json::Value)> {
    let rows = store.rows(rows).await.unwrap();
    rows.into_iter().map(|(key, row)| (key, serde_json::from_str(row.get()).unwrap())).collect()
}

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
    // One for each boundary and kind.
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
    // What a state, and a snapshot of it, are made of.
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
        // Whether it fits is for others to see.
        expect(&kind, Some(&kept), version).await;
        expect("Thing", None, 1).await;
    }
    // That of another stream, or of a tag, is not this one's.
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
    // One of another shape is of no use to whoever keeps this one.
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
            // In no order: 5 makes a round of 12.
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

pub async fn p1_rows_checkpoint_and_events_commit_together(store: Fresh) {
    store.create(&TABLE).await.unwrap();
    let keys = || Rows::Keys { table: TABLE, keys: vec!["k".into()] };
    let mut transaction = store.begin().await.unwrap();
    let (shard, at) = lock(&mut *transaction, "p").await;
    assert_eq!(at, Position(0));
    let written = transaction.append(any(&stream("a"), [event("x")])).await.unwrap();
    let upserts = vec![("k".into(), to_raw_value(&json!({ "text": "x" })).unwrap())];
    transaction.write(Changes { table: TABLE, upserts, deletes: vec![] }).await.unwrap();
    transaction.advance(&shard, written.last, None).await.unwrap();
    assert_eq!(transaction.rows(keys()).await.unwrap().len(), 1, "it sees what it has written");
    assert_eq!(whole(&store).await.len(), 0);
    assert_eq!(store.checkpoint("p").await.unwrap(), Position(0));
    assert_eq!(store.rows(keys()).await.unwrap().len(), 0);
    transaction.commit().await.unwrap();
    assert_eq!(whole(&store).await.len(), 1);
    assert_eq!(store.checkpoint("p").await.unwrap(), Position(1));
    assert_eq!(store.rows(keys()).await.unwrap().len(), 1);
}

pub async fn p1_one_at_a_time_moves_a_checkpoint(store: Fresh) {
    let workers = (0..6).map(|_| {
        let store = store.clone();
        tokio::spawn(async move {
            for _ in 0..10 {
                let mut transaction = store.begin().await.unwrap();
                let (shard, at) = lock(&mut *transaction, "p").await;
                tokio::task::yield_now().await;
                transaction.advance(&shard, Position(at.0 + 1), None).await.unwrap();
                transaction.commit().await.unwrap();
            }
        })
    });
    join_all(workers).await.into_iter().for_each(|worker| worker.unwrap());
    assert_eq!(store.checkpoint("p").await.unwrap(), Position(60), "two saw the same checkpoint");
}

/// A shard that somebody has, at the first of three events, with the rows `k` and `gone`.
async fn shard_at_one(store: &Fresh) -> (Step, Vec<Uuid>) {
    store.create(&TABLE).await.unwrap();
    store.append(any(&stream("a"), ["one", "two", "three"].map(event))).await.unwrap();
    let ids: Vec<_> = whole(store).await.iter().map(|event| event.id).collect();
    let (shard, owner) = (Shard::whole("p"), Some(Uuid::from_u128(7)));
    let from = Checkpoint { position: Position(1), event: Some(ids[0]), epoch: 4, owner };
    let mut transaction = store.begin().await.unwrap();
    transaction.lock_projection("p").await.unwrap();
    transaction.put_shards("p", vec![(shard.clone(), from)]).await.unwrap();
    let row = |text: &str| to_raw_value(&json!({ "text": text })).unwrap();
    let upserts = vec![("k".into(), row("first")), ("gone".into(), row("first"))];
    transaction.write(Changes { table: TABLE, upserts, deletes: vec![] }).await.unwrap();
    transaction.commit().await.unwrap();
    let upserts = vec![("k".into(), row("second")), ("new".into(), row("second"))];
    let changes = Changes { table: TABLE, upserts, deletes: vec!["gone".into()] };
    (Step { shard, from, to: (Position(3), Some(ids[2])), changes, lazy: false }, ids)
}

pub async fn p2_a_step_is_made_from_where_the_shard_is_or_not_at_all(store: Fresh) {
    let (step, ids) = shard_at_one(&store).await;
    let rows = async || {
        let keys = ["gone", "k", "new"].map(Into::into).to_vec();
        let rows = rows(&store, Rows::Keys { table: TABLE, keys }).await;
        rows.into_iter().map(|(key, row)| format!("{key} {}", row["text"])).collect::<Vec<_>>()
    };
    let (from, other) = (step.from, Some(Uuid::from_u128(8)));
    let elsewhere = [
        Step { from: Checkpoint { position: Position(2), event: Some(ids[1]), ..from }, ..step.clone() },
        Step { from: Checkpoint { position: Position(0), event: None, ..from }, ..step.clone() },
        Step { from: Checkpoint { event: other, ..from }, ..step.clone() },
        Step { from: Checkpoint { event: None, ..from }, ..step.clone() },
        Step { from: Checkpoint { epoch: 3, ..from }, ..step.clone() },
        Step { from: Checkpoint { epoch: 5, ..from }, ..step.clone() },
        Step { from: Checkpoint { owner: other, ..from }, ..step.clone() },
        Step { from: Checkpoint { owner: None, ..from }, ..step.clone() },
        Step { shard: Shard::whole("q"), ..step.clone() },
        Step { shard: Shard::new("p", 0..512), ..step.clone() },
        // What was read is not in the log any more.
        Step { to: (Position(3), other), ..step.clone() },
        Step { to: (Position(4), Some(ids[2])), ..step.clone() },
    ];
    for step in elsewhere {
        assert!(!store.step(step.clone()).await.unwrap(), "{step:?}");
        assert_eq!(rows().await, ["gone \"first\"", "k \"first\""], "{step:?}");
        assert_eq!(store.shards(Some("p")).await.unwrap(), [(Shard::whole("p"), from)], "{step:?}");
    }
    assert!(store.step(step.clone()).await.unwrap());
    assert_eq!(rows().await, ["k \"second\"", "new \"second\""]);
    let there = Checkpoint { position: Position(3), event: Some(ids[2]), ..from };
    assert_eq!(store.shards(Some("p")).await.unwrap(), [(Shard::whole("p"), there)]);
    assert!(!store.step(step.clone()).await.unwrap(), "it is not there any more");
    // Nothing to be written, and one row that is not there to be deleted; neither with an event nor waiting for the disk.
    let nothing = Changes { table: TABLE, upserts: vec![], deletes: vec![] };
    let onward = Step { from: there, to: (Position(5), None), changes: nothing, lazy: true, ..step };
    assert!(store.step(onward.clone()).await.unwrap());
    let from = Checkpoint { position: Position(5), event: None, ..there };
    let changes = Changes { table: TABLE, upserts: vec![], deletes: vec!["nobody".into()] };
    assert!(store.step(Step { from, to: (Position(6), None), changes, ..onward }).await.unwrap());
    assert_eq!(store.checkpoint("p").await.unwrap(), Position(6));
    assert_eq!(rows().await, ["k \"second\"", "new \"second\""]);
}

pub async fn p2_of_steps_from_the_same_place_one_is_made(store: Fresh) {
    let (step, _) = shard_at_one(&store).await;
    for n in 0..20 {
        let from = Checkpoint { position: Position(1 + n), event: None, ..step.from };
        let from = if n == 0 { step.from } else { from };
        let steps = (0..6).map(|_| {
            let (store, step) = (store.clone(), Step { from, to: (Position(2 + n), None), ..step.clone() });
            tokio::spawn(async move { store.step(step).await })
        });
        let made = join_all(steps).await.into_iter().map(|made| matches!(made.unwrap(), Ok(true)));
        assert_eq!(made.filter(|made| *made).count(), 1, "from position {}", from.position);
    }
    assert_eq!(store.checkpoint("p").await.unwrap(), Position(21));
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
        assert_eq!(events.count().await, 2_500, "what came after the reading began is not in it");
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
    // So long that a store has reason to look into every index it has.
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
    // What came after the reading began is not in it.
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
        names(&["late", "rare", "nobody's"]),
        names(&["early", "late", "rare", "other"]),
        names(&["nobody's"]),
        of("four", Item::default()),
        of("four", names(&["late"])),
        of("nobody", names(&["late"])),
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
            // All in one page.
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

    // Longer than a page, and every third event is another stream's.
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
    // Of anything else than one stream, nothing may be missing.
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
    assert_eq!(listed("nobody").await, []);
    for bad in ["", "thing-a", "Thing", "%", "a\0", &"x".repeat(limits::NAME_BYTES + 1)] {
        let refused = Store::from(store.clone()).streams(bad).try_next().await;
        assert!(matches!(refused, Err(StoreError::Invalid(Invalid::Name { .. }))), "{bad}: {refused:?}");
    }

    // A transaction lists what it has appended, and nobody else does until it is committed.
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

pub async fn s10_whoever_reads_slowly_keeps_nobody_waiting(store: Fresh) {
    store.append(any(&stream("a"), (0..5_000).map(|_| event("x")))).await.unwrap();
    let readers = (0..12).map(|n| Read { query: Query::all(), backwards: n % 2 == 0, ..Read::default() });
    let mut slow = vec![];
    for read in readers {
        let mut events = store.read(read).await.unwrap().events;
        events.try_next().await.unwrap();
        slow.push(events);
    }
    // More readers than any store has connections, each half-way: and still others get theirs.
    for n in 0..3 {
        let sure = timeout(Duration::from_secs(10), store.append(any(&stream("b"), [event("y")]))).await;
        sure.expect("nobody holds a connection").unwrap();
        let some = Read { query: Query::of(&stream("b")), ..Read::default() };
        let found = timeout(Duration::from_secs(10), read(&store, some)).await;
        assert_eq!(found.expect("nobody holds a connection").len(), n + 1);
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

pub async fn rows_are_what_was_written(store: Fresh) {
    store.create(&TABLE).await.unwrap();
    let full = json!({
        "text": "it's \"quoted\" \\ 🔑", "integer": i64::MIN, "real": 0.1, "bool": true,
        "uuid": "0192a000-0000-7000-8000-000000000001", "time": "2026-11-21T03:40:00.123456Z",
        "order": { "list": [1, 2.5, "x", null], "b": 2, "a": 1 },
    });
    let extreme = json!({
        "text": "", "integer": i64::MAX, "real": -1.7976931348623157e308, "bool": false,
        "uuid": "00000000-0000-0000-0000-000000000000", "time": "1815-06-18T11:35:00Z", "order": [],
    });
    let empty = json!({
        "text": null, "integer": null, "real": null, "bool": null, "uuid": null, "time": null, "order": null,
    });
    write(&store, &[("full", full.clone()), ("empty", empty.clone()), ("it's", extreme.clone())], &[]).await;
    let all = || Rows::Where { table: TABLE, equal: vec![], order: Order::default(), limit: None };
    let found = rows(&store, all()).await;
    assert_eq!(found.iter().map(|(key, _)| key.as_str()).collect::<Vec<_>>(), ["empty", "full", "it's"]);
    let same = |found: &serde_json::Value, written: &serde_json::Value| {
        for column in TABLE.columns {
            let (found, written) = (&found[column.name], &written[column.name]);
            match column.kind {
                // The instant counts, not how it is written.
                Kind::Time if !written.is_null() => {
                    let instant = |value: &serde_json::Value| value.as_str().unwrap().parse::<Timestamp>().unwrap();
                    assert_eq!(instant(found), instant(written));
                }
                _ => assert_eq!(found, written, "{}", column.name),
            }
        }
    };
    same(&found[0].1, &empty);
    same(&found[1].1, &full);
    same(&found[2].1, &extreme);

    write(&store, &[("full", extreme.clone()), ("new", empty.clone())], &["empty", "never there"]).await;
    let keys = ["new", "full", "full", "empty", "gone"].map(str::to_owned).to_vec();
    let found = rows(&store, Rows::Keys { table: TABLE, keys }).await;
    assert_eq!(found.iter().map(|(key, _)| key.as_str()).collect::<Vec<_>>(), ["full", "new"]);
    same(&found[0].1, &extreme);

    // What does not fit its column is refused, and nothing of the batch is written.
    for bad in [json!({ "integer": "twelve" }), json!({ "integer": u64::MAX }), json!({ "time": "noon" })] {
        let upserts = vec![
            ("good".into(), to_raw_value(&json!({ "text": "good" })).unwrap()),
            ("bad".into(), to_raw_value(&bad).unwrap()),
        ];
        let mut transaction = store.begin().await.unwrap();
        let result = transaction.write(Changes { table: TABLE, upserts, deletes: vec![] }).await;
        assert!(matches!(result, Err(StoreError::Row { .. })), "{bad}: {result:?}");
        drop(transaction);
    }
    assert_eq!(rows(&store, all()).await.len(), 3);
}

pub async fn rows_no_database_can_hold_are_refused(store: Fresh) {
    store.create(&TABLE).await.unwrap();
    let long = "x".repeat(limits::NAME_BYTES + 1);
    for (key, row, why) in [
        ("k", json!({ "text": "a\0b" }), "column `text` of row `k` is text and cannot hold U+0000"),
        ("k", json!({ "order": "\0" }), "column `order` of row `k` is jsonb and cannot hold U+0000"),
        ("k", json!({ "order": { "a": [1, "\0"] } }), "column `order` of row `k` is jsonb and cannot hold U+0000"),
        ("k", json!({ "order": { "\0": 1 } }), "column `order` of row `k` is jsonb and cannot hold U+0000"),
        (
            "k",
            json!({ "integer": i64::MAX as u64 + 1 }),
            "column `integer` of row `k` is bigint and cannot hold 9223372036854775808",
        ),
        ("k", json!({ "uuid": "x" }), "column `uuid` of row `k` is uuid and cannot hold \"x\""),
        ("a\0b", json!({}), "row key `a\\0b` has a control character"),
        ("\n", json!({}), "row key `\\n` has a control character"),
        ("", json!({}), "row key `` is empty"),
        (&long, json!({}), "row key `xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx…` is longer than 512 bytes"),
    ] {
        let good = ("good".to_owned(), to_raw_value(&json!({})).unwrap());
        let upserts = vec![good, (key.into(), to_raw_value(&row).unwrap())];
        let mut transaction = store.begin().await.unwrap();
        match transaction.write(Changes { table: TABLE, upserts, deletes: vec![] }).await {
            Err(StoreError::Row { table, reason }) => assert_eq!((&*table, &*reason.to_string()), ("sample@3", why)),
            other => panic!("{why}: {other:?}"),
        }
    }
    let escaped = json!({ "text": "\\u0000", "order": ["\\u0000"] });
    write(&store, &[("k", escaped.clone())], &[]).await;
    let found = rows(&store, Rows::Where { table: TABLE, equal: vec![], order: Order::default(), limit: None }).await;
    assert_eq!(found.len(), 1);
    assert_eq!((&found[0].1["text"], &found[0].1["order"]), (&escaped["text"], &escaped["order"]));
}

pub async fn rows_are_found_by_their_columns(store: Fresh) {
    store.create(&TABLE).await.unwrap();
    let row = |n: i64| {
        let (text, bool, uuid) = (["x", "y"][usize::from(n % 2 == 0)], n % 3 == 0, Uuid::from_u128(n as u128 % 2));
        let time = Timestamp::from_micros(n % 2);
        json!({ "text": text, "integer": n, "real": n as f64 / 2.0, "bool": bool, "uuid": uuid, "time": time })
    };
    let all: Vec<_> = (1..=6).map(|n| (["a", "b", "c", "d", "e", "f"][n as usize - 1], row(n))).collect();
    write(&store, &all, &[]).await;
    let column = |name: &str| TABLE.columns.iter().find(|column| column.name == name).unwrap();
    let find = async |equal: &[(&str, serde_json::Value)], limit| {
        let equal = equal.iter().map(|(name, value)| (column(name), value.clone())).collect();
        let found = rows(&store, Rows::Where { table: TABLE, equal, order: Order::default(), limit }).await;
        found.into_iter().map(|(key, _)| key).collect::<String>()
    };
    assert_eq!(find(&[("text", json!("x"))], None).await, "ace");
    assert_eq!(find(&[("text", json!("x"))], Some(2)).await, "ac");
    assert_eq!(find(&[("integer", json!(4))], None).await, "d");
    assert_eq!(find(&[("real", json!(0.5))], None).await, "a");
    assert_eq!(find(&[("bool", json!(true)), ("text", json!("y"))], None).await, "f");
    assert_eq!(find(&[("uuid", json!(Uuid::from_u128(1)))], None).await, "ace");
    assert_eq!(find(&[("time", json!(Timestamp::from_micros(0)))], None).await, "bdf");
    assert_eq!(find(&[("text", json!("'; --"))], None).await, "");
    let order = async |by: &str, descending, skip, limit| {
        let by = TABLE.columns.iter().find(|column| column.name == by);
        let order = Order { by, descending, skip };
        let found = rows(&store, Rows::Where { table: TABLE, equal: vec![], order, limit }).await;
        found.into_iter().map(|(key, _)| key).collect::<String>()
    };
    for (by, up, down) in [
        ("", "abcdef", "fedcba"),
        ("text", "acebdf", "bdface"),
        ("real", "abcdef", "fedcba"),
        ("bool", "abdecf", "cfabde"),
        ("uuid", "bdface", "acebdf"),
        ("time", "bdface", "acebdf"),
    ] {
        assert_eq!((order(by, false, 0, None).await, order(by, true, 0, None).await), (up.into(), down.into()), "{by}");
        assert_eq!(order(by, true, 2, Some(3)).await, down[2..5], "{by}");
        assert_eq!(order(by, false, 5, Some(3)).await, up[5..], "{by}");
    }
    assert_eq!(find(&[("text", json!(null))], None).await, "");
    write(&store, &[("a", json!({ "integer": 1 }))], &[]).await;
    assert_eq!(find(&[("text", json!(null))], None).await, "a");
    assert_eq!(order("text", false, 0, None).await, "cebdfa", "null is last");
    assert_eq!(order("text", true, 0, None).await, "bdfcea", "in both directions");
    assert_eq!(find(&[], Some(0)).await, "");
}

pub async fn rows_are_selected_by_comparison_and_from_a_place(store: Fresh) {
    store.create(&TABLE).await.unwrap();
    let row = |n: i64| {
        let time = Timestamp::from_micros(n / 2 * 500_000);
        json!({ "text": format!("{}", n / 2), "integer": n / 2, "real": n as f64 / 2.0, "bool": n > 2, "time": time })
    };
    let all: Vec<_> = (1..=5).map(|n| (["c", "a", "b", "e", "d"][n as usize - 1], row(n))).collect();
    write(&store, &all, &[]).await;
    write(&store, &[("f", json!({}))], &[]).await;
    let column = |name: &str| TABLE.columns.iter().find(|column| column.name == name).unwrap();
    let select = |filters: Vec<(&str, Comparison)>| {
        let filters = filters.into_iter().map(|(name, comparison)| Filter { column: column(name), comparison });
        Select { table: TABLE, filters: filters.collect(), order: Order::default(), after: None, limit: None }
    };
    let find = async |select: Select| {
        let found = store.select(select.clone()).await.unwrap();
        if select.after.is_none() && select.limit.is_none() && select.order.skip == 0 {
            assert_eq!(store.count_rows(select).await.unwrap(), found.len() as u64);
        }
        found.into_iter().map(|(key, _)| key).collect::<String>()
    };
    let time = |micros| json!(Timestamp::from_micros(micros));
    use Comparison::*;
    for (filters, expected) in [
        (vec![], "abcdef"),
        (vec![("integer", Less(json!(1)))], "c"),
        (vec![("integer", LessOrEqual(json!(1)))], "abc"),
        (vec![("integer", Greater(json!(1)))], "de"),
        (vec![("integer", GreaterOrEqual(json!(1)))], "abde"),
        (vec![("integer", GreaterOrEqual(json!(1))), ("text", Less(json!("2")))], "ab"),
        (vec![("real", Greater(json!(1.0))), ("bool", Equal(json!(true)))], "bde"),
        (vec![("bool", Greater(json!(false)))], "bde"),
        (vec![("time", Less(time(500_000)))], "c"),
        (vec![("time", GreaterOrEqual(time(500_000)))], "abde"),
        (vec![("integer", In(vec![json!(0), json!(2), json!(null)]))], "cdef"),
        (vec![("integer", In(vec![]))], ""),
        (vec![("integer", Equal(json!(null)))], "f"),
        (vec![("text", Greater(json!("'; --")))], "abcde"),
    ] {
        assert_eq!(find(select(filters.clone())).await, expected, "{filters:?}");
    }
    for (by, descending, expected) in [
        ("", false, "abcdef"),
        ("", true, "fedcba"),
        ("integer", false, "cabdef"),
        ("integer", true, "deabcf"),
        ("time", false, "cabdef"),
        ("time", true, "deabcf"),
        ("text", true, "deabcf"),
        ("bool", true, "bdeacf"),
    ] {
        let by = TABLE.columns.iter().find(|column| column.name == by);
        let ordered = |after, limit| Select {
            order: Order { by, descending, skip: 0 },
            after,
            limit,
            ..select(vec![("integer", In(vec![json!(0), json!(1), json!(2), json!(null)]))])
        };
        assert_eq!(find(ordered(None, None)).await, expected, "{by:?}, descending: {descending}");
        for (n, (key, row)) in store.select(ordered(None, None)).await.unwrap().into_iter().enumerate() {
            let value = by.and_then(|column| column.value(&row)).unwrap_or_default();
            let after = Some(SortKey { value, key });
            assert_eq!(find(ordered(after.clone(), None)).await, expected[n + 1..], "{by:?} after {after:?}");
            assert_eq!(
                find(ordered(after.clone(), Some(2))).await,
                expected[n + 1..(n + 3).min(6)],
                "{by:?}, {after:?}"
            );
            let skipped = Select { order: Order { by, descending, skip: 1 }, ..ordered(after.clone(), Some(2)) };
            assert_eq!(find(skipped).await, expected[(n + 2).min(6)..(n + 4).min(6)], "{by:?}, {after:?}");
            assert_eq!(store.count_rows(ordered(after, Some(1))).await.unwrap(), 6);
        }
        assert_eq!(find(ordered(None, Some(3))).await, expected[..3]);
        assert_eq!(find(ordered(None, Some(0))).await, "");
    }
}

pub async fn a_table_is_built_once(store: Fresh) {
    let keys = || Rows::Keys { table: TABLE, keys: vec!["k".into()] };
    assert!(matches!(store.rows(keys()).await, Err(StoreError::NotBuilt { table }) if table == "sample@3"));
    let creators = (0..6).map(|_| {
        let store = store.clone();
        tokio::spawn(async move { store.create(&TABLE).await })
    });
    join_all(creators).await.into_iter().for_each(|created| created.unwrap().unwrap());
    write(&store, &[("k", json!({ "text": "x" }))], &[]).await;
    store.create(&TABLE).await.unwrap();
    assert_eq!(store.rows(keys()).await.unwrap().len(), 1, "what is in it stays");
    let real = [Column { kind: Kind::Real, ..TABLE.columns[0] }];
    let other = Table { columns: real.to_vec().leak(), ..TABLE };
    assert!(matches!(store.create(&other).await, Err(StoreError::Columns { table }) if table == "sample@3"));
    let next = Table { version: 4, ..other };
    store.create(&next).await.unwrap();
    assert!(store.rows(Rows::Keys { table: next, keys: vec!["k".into()] }).await.unwrap().is_empty());
}

pub async fn p4_a_table_and_its_shadow_change_names_at_once(store: Fresh) {
    let shadow = Table { shadow: true, ..TABLE };
    let text = async |table: Table| {
        let found = store.rows(Rows::Keys { table, keys: vec!["k".into()] }).await.unwrap();
        found.first().map(|(_, row)| serde_json::from_str::<serde_json::Value>(row.get()).unwrap()["text"].clone())
    };
    let put = async |table: Table, text: &str| {
        store.create(&table).await.unwrap();
        let row = to_raw_value(&json!({ "text": text })).unwrap();
        let mut transaction = store.begin().await.unwrap();
        transaction.write(Changes { table, upserts: vec![("k".into(), row)], deletes: vec![] }).await.unwrap();
        transaction.commit().await.unwrap();
    };
    put(TABLE, "old").await;
    let mut transaction = store.begin().await.unwrap();
    let swapped = transaction.swap("sample@3").await;
    assert!(matches!(swapped, Err(StoreError::NotBuilt { .. })), "{swapped:?}");
    drop(transaction);
    put(shadow, "new").await;
    store.index(&shadow).await.unwrap();
    store.index(&TABLE).await.unwrap();

    // Not before it is committed, and back again: statements that were prepared before find what is there now.
    for (round, now) in [(0, "new"), (1, "old"), (2, "new")] {
        let mut transaction = store.begin().await.unwrap();
        transaction.swap("sample@3").await.unwrap();
        transaction.publish("sample@current", "sample@3").await.unwrap();
        match round {
            0 => {
                transaction.rollback().await.unwrap();
                assert_eq!(text(TABLE).await, Some(json!("old")));
                let mut transaction = store.begin().await.unwrap();
                transaction.swap("sample@3").await.unwrap();
                transaction.publish("sample@current", "sample@3").await.unwrap();
                transaction.commit().await.unwrap();
            }
            _ => transaction.commit().await.unwrap(),
        }
        assert_eq!(text(TABLE).await, Some(json!(now)));
        assert_ne!(text(shadow).await, Some(json!(now)));
        put(TABLE, now).await;
    }

    // Whoever does not know its columns reads it, too.
    write(&store, &[("a", json!({ "integer": 1, "order": { "b": [null] } })), ("z", json!({ "bool": true }))], &[])
        .await;
    let whole = |keys: &[&str], after: &str, limit| Rows::Whole {
        table: "sample@3".into(),
        keys: keys.iter().map(|key| (*key).into()).collect(),
        after: after.into(),
        limit,
    };
    let keys = async |rows| store.rows(rows).await.unwrap().into_iter().map(|(key, _)| key).collect::<Vec<_>>();
    assert_eq!(keys(whole(&[], "", 2)).await, ["a", "k"]);
    assert_eq!(keys(whole(&[], "a", 5)).await, ["k", "z"]);
    assert_eq!(keys(whole(&["z", "a", "y"], "", 5)).await, ["a", "z"]);
    let rows = store.rows(whole(&["a"], "", 1)).await.unwrap();
    let row: serde_json::Value = serde_json::from_str(rows[0].1.get()).unwrap();
    assert_eq!((&row["integer"], &row["order"], row.get("key")), (&json!(1), &json!({ "b": [null] }), None));

    let mut transaction = store.begin().await.unwrap();
    transaction.remove("sample@3~shadow").await.unwrap();
    transaction.remove("nobodys@1").await.unwrap();
    transaction.commit().await.unwrap();
    let gone = store.rows(Rows::Keys { table: shadow, keys: vec![] }).await;
    assert!(matches!(gone, Err(StoreError::NotBuilt { table }) if table == "sample@3~shadow"));
    store.create(&shadow).await.unwrap();
    store.index(&shadow).await.unwrap();
}

/// The table is read as if it had its last column already, and not written.
async fn null_until_made(store: &Fresh, table: Table) {
    let column = table.columns.last().unwrap();
    let null =
        |equal| Rows::Where { table, equal, order: Order { by: Some(column), ..Order::default() }, limit: Some(9) };
    for asked in [Rows::Keys { table, keys: vec!["k".into()] }, null(vec![]), null(vec![(column, json!(null))])] {
        let found = rows(store, asked).await;
        assert_eq!(found.len(), 1);
        assert_eq!((&found[0].1["text"], &found[0].1[column.name]), (&json!("x"), &json!(null)));
    }
    assert_eq!(rows(store, null(vec![(column, json!("x"))])).await, []);
    assert_eq!(rows(store, Rows::Keys { table, keys: vec!["none".into()] }).await, []);
    let mut transaction = store.begin().await.unwrap();
    let upserts = vec![("m".into(), to_raw_value(&json!({ "text": "x" })).unwrap())];
    let written = transaction.write(Changes { table, upserts, deletes: vec![] }).await;
    assert!(matches!(written, Err(StoreError::Columns { .. })), "{written:?}");
    transaction.rollback().await.unwrap();
}

pub async fn a_table_with_other_columns_is_refused_wherever_it_is_used(store: Fresh) {
    store.create(&TABLE).await.unwrap();
    write(&store, &[("k", json!({ "text": "x", "integer": 1 }))], &[]).await;
    let with = |change: &dyn Fn(&mut Vec<Column>)| {
        let mut columns = TABLE.columns.to_vec();
        change(&mut columns);
        Table { columns: columns.leak(), ..TABLE }
    };
    let kinds = [Kind::Text, Kind::Integer, Kind::Real, Kind::Bool, Kind::Uuid, Kind::Time, Kind::Json];
    let retyped = (0..TABLE.columns.len()).flat_map(|n| kinds.map(|kind| (n, kind)));
    let retyped = retyped.filter(|&(n, kind)| TABLE.columns[n].kind != kind);
    let mut others: Vec<_> = retyped.map(|(n, kind)| with(&|columns| columns[n].kind = kind)).collect();
    others.push(with(&|columns| columns.push(Column::new("new", Kind::Text))));
    others.push(with(&|columns| columns[2].name = "renamed"));
    for other in others {
        let refused = |result: Result<(), StoreError>| match result {
            Err(StoreError::Columns { table }) => assert_eq!(table, "sample@3"),
            result => panic!("{result:?} of {other:?}"),
        };
        refused(store.create(&other).await);
        for key in ["k", "none"] {
            refused(store.rows(Rows::Keys { table: other, keys: vec![key.into()] }).await.map(drop));
        }
        let first = (&other.columns[0], json!(null));
        for equal in [vec![], vec![first]] {
            refused(
                store
                    .rows(Rows::Where { table: other, equal, order: Order::default(), limit: Some(0) })
                    .await
                    .map(drop),
            );
        }
        let mut transaction = store.begin().await.unwrap();
        let upserts = vec![("k".into(), to_raw_value(&json!({})).unwrap())];
        refused(transaction.write(Changes { table: other, upserts, deletes: vec![] }).await);
        transaction.rollback().await.unwrap();
    }
    // One that a row may be without is added; and whoever does not know it, or another, reads and writes on.
    let more = with(&|columns| columns.push(Column { name: "more", kind: Kind::Text, index: true, optional: true }));
    null_until_made(&store, more).await;
    store.create(&more).await.unwrap();
    store.index(&more).await.unwrap();
    let upserts = vec![("m".into(), to_raw_value(&json!({ "text": "x", "more": "m" })).unwrap())];
    let mut transaction = store.begin().await.unwrap();
    transaction.write(Changes { table: more, upserts, deletes: vec![] }).await.unwrap();
    transaction.commit().await.unwrap();
    let found = rows(&store, Rows::Where { table: more, equal: vec![], order: Order::default(), limit: None }).await;
    assert_eq!(found.iter().map(|(_, row)| row["more"].clone()).collect::<Vec<_>>(), [json!(null), json!("m")]);
    let fewer = with(&|columns| _ = columns.pop());
    store.create(&fewer).await.unwrap();
    // What a program writes that does not know the column leaves it as it was, unless the row was deleted.
    for (deletes, text, kept) in [(false, "y", json!("m")), (false, "x", json!("m")), (true, "x", json!(null))] {
        let mut transaction = store.begin().await.unwrap();
        if deletes {
            let deletes = vec!["m".into()];
            transaction.write(Changes { table: TABLE, upserts: vec![], deletes }).await.unwrap();
        }
        let upserts = vec![("m".into(), to_raw_value(&json!({ "text": text })).unwrap())];
        transaction.write(Changes { table: TABLE, upserts, deletes: vec![] }).await.unwrap();
        transaction.commit().await.unwrap();
        let found = rows(&store, Rows::Keys { table: more, keys: vec!["m".into()] }).await;
        assert_eq!((&found[0].1["text"], &found[0].1["more"]), (&json!(text), &kept));
    }
    assert_eq!(
        rows(&store, Rows::Where { table: fewer, equal: vec![], order: Order::default(), limit: None }).await.len(),
        2
    );
    let renamed = with(&|columns| {
        columns[6].name = "renamed";
        columns[6].optional = true;
    });
    assert!(matches!(store.create(&renamed).await, Err(StoreError::Columns { .. })), "it may be a new name of another");
    write(&store, &[], &["m"]).await;

    // In which order the columns come, and which are looked for, is no difference.
    let same = with(&|columns| {
        columns.reverse();
        columns.iter_mut().for_each(|column| column.index = !column.index && column.kind != Kind::Json);
    });
    store.create(&same).await.unwrap();
    let upserts = vec![("l".into(), to_raw_value(&json!({ "text": "y", "real": 0.5 })).unwrap())];
    let mut transaction = store.begin().await.unwrap();
    transaction.write(Changes { table: same, upserts, deletes: vec![] }).await.unwrap();
    transaction.commit().await.unwrap();
    for table in [TABLE, same] {
        let found = rows(&store, Rows::Where { table, equal: vec![], order: Order::default(), limit: None }).await;
        assert_eq!(found.iter().map(|(key, _)| key.as_str()).collect::<Vec<_>>(), ["k", "l"]);
        assert_eq!(
            (&found[0].1["integer"], &found[1].1["text"], &found[1].1["real"]),
            (&json!(1), &json!("y"), &json!(0.5))
        );
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use crate::{EventStore, MemoryStore};

    async fn fresh() -> (Arc<dyn EventStore>, ()) {
        (Arc::new(MemoryStore::new()), ())
    }

    crate::conformance!(fresh);

    #[test]
    fn every_promise_of_this_file_is_in_the_macro() {
        let file = include_str!("conformance.rs");
        let promises = file.lines().filter_map(|line| line.strip_prefix("pub async fn ")?.split('(').next());
        for promise in promises {
            assert!(file.lines().any(|line| line.trim() == promise), "{promise} is not run");
        }
    }
}
