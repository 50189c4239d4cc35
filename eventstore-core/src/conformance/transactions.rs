//! A transaction commits all of its operations or none.

use std::time::Duration;

use serde_json::{json, value::to_raw_value};
use tokio::time::{sleep, timeout};

use super::support::{Fresh, TABLE, and, any, event, lock, matching, rows, stream, tagged, to, whole};
use crate::{Changes, Condition, Expected, Item, Order, Position, Query, Read, Rows, StoreError, Tag, Version};

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
    sure.expect("no lock is held").unwrap();
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
    // From here on the appends of other callers wait.
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

    // A store whose transactions do not lock the log from the beginning has let the append through.
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
