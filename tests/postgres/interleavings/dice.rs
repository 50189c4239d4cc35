//! Three writers who do this and that, two readers, and one who asks for instants, in orders by dice.

use eventstore::{Append, EventStore, Expected, PgStore, StoreError, StreamId, Tag, Version};
use futures::future::join_all;
use uuid::Uuid;

use super::{
    Actor, GATES, LOCK, Log, Reads, Scene, Turn, Wrong, append,
    decisions::{ONE_LOOK, claim},
    function, historian, ids, now, reader, told, wrong,
};
use crate::stress::Dice;

/// Somebody who does this and that.
struct Somebody {
    turn: Turn,
    store: PgStore,
    log: Log,
    /// Its streams and names are of this play alone.
    play: usize,
    dice: Dice,
}

impl Somebody {
    /// One to three events for one stream or two of the few there are, some of which are expected to be somewhere.
    fn append(&mut self) -> Append {
        let mut all = Append::default();
        let first = self.dice.roll(3);
        for n in 0..1 + self.dice.roll(4) / 3 {
            let stream = StreamId::new("dice", &format!("{}-{}", self.play, (first + n) % 3));
            let expected = match self.dice.roll(3) {
                0 => Expected::Version(Version(self.dice.roll(3))),
                _ => Expected::Any,
            };
            let events = 1 + self.dice.roll(2) as usize;
            all.writes.extend(append(&stream, expected, events).writes);
        }
        for write in &all.writes {
            if let Expected::Version(version) = write.expected {
                self.log.borrow_mut().expected.push((write.events[0].id, version.0 + 1));
            }
        }
        all
    }

    /// What was acknowledged, and what was not. A conflict is an answer like another.
    fn note(&self, asked: usize, ids: Vec<Uuid>, outcome: Result<(), StoreError>) -> Result<(), Wrong> {
        let acknowledged = now(&self.log);
        match outcome {
            Ok(()) => self.log.borrow_mut().stored.push((asked, acknowledged, ids)),
            Err(StoreError::Conflict(conflict)) if conflict.expected != Expected::Version(conflict.actual) => {
                self.log.borrow_mut().gone.extend(ids);
            }
            Err(error) => return Err(wrong(error)),
        }
        Ok(())
    }

    async fn write(mut self) -> Result<(), Wrong> {
        for _ in 0..1 + self.dice.roll(2) {
            match self.dice.roll(5) {
                0 => {
                    let append = self.append();
                    let ids = ids(&append);
                    self.turn.locking("appends").await;
                    let asked = now(&self.log);
                    let outcome = self.store.append(append).await.map(drop);
                    self.note(asked, ids, outcome)?;
                }
                // The first goes at once, the others wait for it and share a call.
                1 => {
                    let appends: Vec<_> = (0..3).map(|_| self.append()).collect();
                    let ids: Vec<_> = appends.iter().map(ids).collect();
                    self.turn.locking("appends three times").await;
                    let asked = now(&self.log);
                    let outcomes = join_all(appends.into_iter().map(|append| self.store.append(append))).await;
                    for (ids, outcome) in ids.into_iter().zip(outcomes) {
                        self.note(asked, ids, outcome.map(drop))?;
                    }
                }
                2 => {
                    let stream = StreamId::new("claims", &format!("{}-{}", self.play, self.dice.roll(1 << 40)));
                    let name = Tag::new("name", format!("{}-{}", self.play, self.dice.roll(2)));
                    let alone = self.dice.roll(2) == 0;
                    claim(self.turn.clone(), self.store.clone(), self.log.clone(), stream, name, alone).await?;
                }
                _ => self.transaction().await?,
            }
        }
        Ok(())
    }

    async fn transaction(&mut self) -> Result<(), Wrong> {
        self.turn.step("begins").await;
        let mut transaction = self.store.begin().await.map_err(wrong)?;
        let mut appended = vec![];
        for nth in 0..1 + self.dice.roll(2) {
            let append = self.append();
            let ids = ids(&append);
            self.turn.locking("appends in it").await;
            let asked = now(&self.log);
            let outcome = transaction.append(append).await;
            // Refused or not, it has the lock.
            self.log.borrow_mut().open += usize::from(nth == 0);
            match outcome {
                Ok(_) => appended.push((asked, ids)),
                refused => self.note(asked, ids, refused.map(drop))?,
            }
        }
        let commits = self.dice.roll(3) > 0;
        self.turn.step(if commits { "commits" } else { "rolls back" }).await;
        self.log.borrow_mut().open -= 1;
        if commits {
            transaction.commit().await.map_err(wrong)?;
            appended.into_iter().try_for_each(|(asked, ids)| self.note(asked, ids, Ok(())))?;
        } else {
            transaction.rollback().await.map_err(wrong)?;
            self.log.borrow_mut().gone.extend(appended.into_iter().flat_map(|(_, ids)| ids));
        }
        Ok(())
    }
}

/// How many orders by dice there are, unless somebody says otherwise.
const ORDERS: u64 = 300;

/// So many orders, each by the dice of its number.
async fn by_dice(scene: &mut Scene, seed: u64, orders: u64) -> Result<usize, Wrong> {
    let mut steps = 0;
    for seed in seed..seed + orders {
        let mut dice = Dice(seed);
        let mut roll = || dice.roll(u64::MAX);
        let play = scene.next().await;
        let mut actors = vec![];
        for n in 0..6 {
            let (turn, store, log) = (Turn::default(), scene.stores[n].clone(), play.log.clone());
            if n == 5 {
                let asks = 1 + (roll() % 2) as usize;
                actors.push(Actor::new("historian", &turn, historian(turn.clone(), store, log, asks)));
                continue;
            }
            let name = format!("{} {n}", if n < 3 { "writer" } else { "reader" });
            actors.push(if n < 3 {
                let some = Somebody { turn: turn.clone(), store, log, play: play.number, dice: Dice(roll()) };
                Actor::new(&name, &turn, some.write())
            } else {
                let pages = 1 + (roll() % 4) as usize;
                play.begins(n, Reads::After);
                Actor::new(&name, &turn, reader(turn.clone(), n, store, log, pages)).reader()
            });
        }
        let mut order = Dice(roll());
        let outcome = scene.play(&mut actors, &play, |of| order.roll(of as u64) as usize).await;
        outcome.map_err(|wrong| format!("EVENTSTORE_INTERLEAVE_SEED={seed} EVENTSTORE_INTERLEAVINGS=1: {wrong}"))?;
        steps += play.log.borrow().steps.len();
    }
    Ok(steps)
}

#[tokio::test]
async fn s1_s2_a2_a3_a4_a7_a13_t3_hold_in_orders_of_three_writers_and_two_readers() {
    let seed = told("EVENTSTORE_INTERLEAVE_SEED").unwrap_or_else(|| u64::from(std::process::id()) << 20);
    let orders = told("EVENTSTORE_INTERLEAVINGS").unwrap_or(ORDERS);
    println!("EVENTSTORE_INTERLEAVE_SEED={seed} EVENTSTORE_INTERLEAVINGS={orders}");
    let mut scene = Scene::new(6).await.with_gates().await;
    let steps = by_dice(&mut scene, seed, orders).await.unwrap();
    println!("{steps} steps");
}

#[tokio::test]
async fn a13_orders_by_dice_find_the_naive_version_that_looks_before_the_lock_only() {
    let mut scene = Scene::new(6).await.with_gates().await;
    scene.sql(&function("append", &[(LOCK, GATES), ONE_LOOK])).await;
    let wrong = by_dice(&mut scene, 1, ORDERS).await.unwrap_err();
    assert!(wrong.contains("was won twice"), "{wrong}");
}
