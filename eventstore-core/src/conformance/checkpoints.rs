//! The checkpoint of a shard moves forward only, from where it is, by one transaction at a time.

use futures::future::join_all;
use serde_json::{json, value::to_raw_value};
use uuid::Uuid;

use super::support::{Fresh, TABLE, any, event, lock, rows, stream, whole};
use crate::{Changes, Checkpoint, Position, Rows, Shard, Step, StoreError};

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
    // A checkpoint may move to an event that its transaction has appended.
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

/// Makes a shard with an owner, at the first of three events, with the rows `k` and `gone`. Returns a step of it to the
/// last event, and the ids of the events.
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
        // The event that was read is no longer in the log.
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
    assert!(!store.step(step.clone()).await.unwrap(), "the shard has left that position");
    // Steps without an event, which do not wait for the disk: one without changes, and one that deletes a missing row.
    let nothing = Changes { table: TABLE, upserts: vec![], deletes: vec![] };
    let onward = Step { from: there, to: (Position(5), None), changes: nothing, lazy: true, ..step };
    assert!(store.step(onward.clone()).await.unwrap());
    let from = Checkpoint { position: Position(5), event: None, ..there };
    let changes = Changes { table: TABLE, upserts: vec![], deletes: vec!["none".into()] };
    assert!(store.step(Step { from, to: (Position(6), None), changes, ..onward }).await.unwrap());
    assert_eq!(store.checkpoint("p").await.unwrap(), Position(6));
    assert_eq!(rows().await, ["k \"second\"", "new \"second\""]);
}

pub async fn g4_rows_are_read_together_with_their_shard_or_not_at_all(store: Fresh) {
    let (Step { shard, from, .. }, ids) = shard_at_one(&store).await;
    let keys = || vec!["k".to_owned(), "none".to_owned()];
    let other = Some(Uuid::from_u128(8));
    let elsewhere = [
        (shard.clone(), Checkpoint { position: Position(2), event: Some(ids[1]), ..from }),
        (shard.clone(), Checkpoint { event: other, ..from }),
        (shard.clone(), Checkpoint { event: None, ..from }),
        (shard.clone(), Checkpoint { epoch: 3, ..from }),
        (shard.clone(), Checkpoint { epoch: 5, ..from }),
        (shard.clone(), Checkpoint { owner: other, ..from }),
        (shard.clone(), Checkpoint { owner: None, ..from }),
        (Shard::whole("q"), from),
        (Shard::new("p", 0..512), from),
    ];
    for (shard, from) in elsewhere {
        assert!(store.rows_of(&shard, &from, TABLE, keys()).await.unwrap().is_none(), "{shard} {from:?}");
    }
    let rows = store.rows_of(&shard, &from, TABLE, keys()).await.unwrap().unwrap();
    let rows: Vec<_> = rows.iter().map(|(key, row)| (key.as_str(), row.get().contains("first"))).collect();
    assert_eq!(rows, [("k", true)]);
    assert_eq!(store.shards(Some("p")).await.unwrap(), [(shard, from)], "it changes nothing");
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
