//! Nodes that take a shard over from each other, in every order: who has lost it writes nothing.

use std::{cell::Cell, rc::Rc};

use eventstore::{Changes, Checkpoint, Column, EventStore, Kind, PgStore, Position, Rows, Shard, Table, Tables};
use serde_json::{json, value::to_raw_value};
use uuid::Uuid;

use super::{Actor, Choices, Log, Scene, Turn, Wrong, wrong};

const SUMS: Table = Table { name: "sums", version: 1, columns: &[Column::new("events", Kind::Integer)], shadow: false };

/// What a node knows.
struct Node {
    turn: Turn,
    store: PgStore,
    id: Uuid,
    shard: Shard,
    /// Whether it looks who has the shard.
    looks: bool,
    /// Who has it, by what was committed.
    owner: Rc<Cell<Uuid>>,
    epoch: u64,
}

impl Node {
    /// Processes one event after another, as a runner does (`engine/src/run/shard.rs`): the shard is locked, its epoch
    /// looked at, rows and checkpoint are written, and all is committed, or nothing.
    async fn work(&self, batches: usize) -> Result<(), Wrong> {
        for _ in 0..batches {
            self.turn.locking("locks").await;
            let mut transaction = self.store.begin().await.map_err(wrong)?;
            let at = transaction.lock(&self.shard).await.map_err(wrong)?.ok_or("no such shard")?;
            if self.looks && (at.epoch, at.owner) != (self.epoch, Some(self.id)) {
                transaction.rollback().await.map_err(wrong)?;
                return Ok(());
            }
            self.turn.step("writes").await;
            let keys = Rows::Keys { table: SUMS, keys: vec![self.shard.projection.clone()] };
            let row = transaction.rows(keys).await.map_err(wrong)?;
            let row = row.first().map_or(Ok(json!({ "events": 0 })), |(_, row)| serde_json::from_str(row.get()));
            let events = row.map_err(wrong)?["events"].as_u64().ok_or("no number")? + 1;
            let row = to_raw_value(&json!({ "events": events })).map_err(wrong)?;
            let upserts = vec![(self.shard.projection.clone(), row)];
            transaction.write(Changes { table: SUMS, upserts, deletes: vec![] }).await.map_err(wrong)?;
            transaction.advance(&self.shard, Position(at.position.0 + 1), None).await.map_err(wrong)?;
            self.turn.step("commits").await;
            transaction.commit().await.map_err(wrong)?;
            if self.owner.get() != self.id {
                return Err("it wrote what was another's".into());
            }
        }
        Ok(())
    }

    /// Has the shard from now on, under a new epoch.
    async fn take_over(&mut self) -> Result<(), Wrong> {
        self.turn.locking("locks all").await;
        let mut transaction = self.store.begin().await.map_err(wrong)?;
        let mut shards = transaction.lock_projection(&self.shard.projection).await.map_err(wrong)?;
        self.turn.locking("takes over").await;
        self.epoch = shards[0].1.epoch + 1;
        shards[0].1 = Checkpoint { epoch: self.epoch, owner: Some(self.id), ..shards[0].1 };
        transaction.put_shards(&self.shard.projection, shards).await.map_err(wrong)?;
        self.turn.step("commits").await;
        transaction.commit().await.map_err(wrong)?;
        self.owner.set(self.id);
        Ok(())
    }
}

/// One node works, another one takes its shard over and goes on, and so does a third, in every order.
async fn nodes(looks: bool) -> Result<usize, Wrong> {
    let mut scene = Scene::new(3).await;
    scene.stores[0].create(&SUMS).await.map_err(wrong)?;
    let (mut choices, mut orders) = (Choices::default(), 0);
    loop {
        let [first, second, third] = [1, 2, 3].map(Uuid::from_u128);
        let shard = Shard::whole(format!("sums {orders}"));
        let mut transaction = scene.stores[0].begin().await.map_err(wrong)?;
        transaction.lock_projection(&shard.projection).await.map_err(wrong)?;
        let at = Checkpoint { epoch: 7, owner: Some(first), ..Checkpoint::default() };
        transaction.put_shards(&shard.projection, vec![(shard.clone(), at)]).await.map_err(wrong)?;
        transaction.commit().await.map_err(wrong)?;
        // P1: the row is what the checkpoint says, whenever somebody looks.
        scene.always = Some(format!(
            "SELECT coalesce((SELECT events FROM {0}.\"sums@1\" WHERE key = '{1}'), 0),
                    (SELECT position FROM {0}.checkpoints WHERE projection = '{1}')",
            scene.schema, shard.projection
        ));
        let (log, turns, owner) = (Log::default(), <[Turn; 3]>::default(), Rc::new(Cell::new(first)));
        let node = |n: usize, id| {
            let (turn, store, shard, owner) = (turns[n].clone(), scene.stores[n].clone(), shard.clone(), owner.clone());
            Node { turn, store, id, shard, looks, owner, epoch: 7 }
        };
        let taking_over = |n: usize, id| {
            let mut node = node(n, id);
            async move {
                node.take_over().await?;
                node.work(1).await
            }
        };
        let one = node(0, first);
        let mut actors = [
            Actor::new("one", &turns[0], async move { one.work(1).await }),
            Actor::new("two", &turns[1], taking_over(1, second)),
            Actor::new("three", &turns[2], taking_over(2, third)),
        ];
        let outcome = scene.run(&mut actors, &log, |of| choices.choose(of)).await;
        outcome.map_err(|wrong| format!("{wrong}, when {}", log.borrow().steps.join(", ")))?;
        orders += 1;
        if !choices.another() {
            return Ok(orders);
        }
    }
}

#[tokio::test]
async fn p1_p2_in_every_order_a_node_whose_shard_was_taken_over_writes_neither_rows_nor_checkpoint() {
    let orders = nodes(true).await.unwrap();
    println!("{orders} orders");
    assert!(orders > 50, "{orders}");
}

#[tokio::test]
async fn p2_every_order_finds_the_naive_version_that_does_not_look_at_the_epoch() {
    let wrong = nodes(false).await.unwrap_err();
    assert!(wrong.contains(": it wrote what was another's"), "{wrong}");
}
