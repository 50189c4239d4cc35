//! Two decisions that exclude each other, in every order: one wins.

use eventstore::{Condition, EventStore, Expected, Item, PgStore, Query, Read, StoreError, StreamId, Tag};
use futures::TryStreamExt;

use super::{Actor, Log, Play, Scene, Turn, Wrong, append, function, ids, now, with_a_sequence, writer, wrong};

/// Looks whether a name is taken, and takes it if it is not.
pub(super) async fn claim(
    turn: Turn,
    store: PgStore,
    log: Log,
    stream: StreamId,
    name: Tag,
    alone: bool,
) -> Result<(), Wrong> {
    turn.step("looks").await;
    let query = Query::from(Item { tags: vec![name.clone()], ..Item::default() });
    let seen = store.read(Read { query: query.clone(), ..Read::default() }).await.map_err(wrong)?;
    let after = seen.head;
    if seen.events.try_collect::<Vec<_>>().await.map_err(wrong)?.pop().is_some() {
        return Ok(());
    }
    let mut append = append(&stream, Expected::Any, 1);
    append.writes[0].events[0].data.tags = vec![name];
    append.condition = Some(Condition { query, after });
    let ids = ids(&append);
    turn.locking("claims").await;
    let asked = now(&log);
    let outcome = if alone {
        store.append(append).await.map(drop)
    } else {
        let mut transaction = store.begin().await.map_err(wrong)?;
        match transaction.append(append).await {
            Ok(_) => {
                log.borrow_mut().open += 1;
                turn.step("commits").await;
                log.borrow_mut().open -= 1;
                transaction.commit().await
            }
            Err(refused) => transaction.rollback().await.and(Err(refused)),
        }
    };
    let acknowledged = now(&log);
    match outcome {
        Ok(()) => log.borrow_mut().stored.push((asked, acknowledged, ids)),
        Err(StoreError::Conflict(_)) => log.borrow_mut().gone.extend(ids),
        Err(error) => return Err(wrong(error)),
    }
    Ok(())
}

/// Two who want the same name, and somebody who appends something else, and commits or not.
fn two_claims(scene: &Scene, play: &Play, alone: bool, commits: bool) -> Vec<Actor> {
    let turns: [Turn; 3] = Default::default();
    let name = || Tag::new("name", play.number.to_string());
    let other = append(&play.stream("other"), Expected::Any, 1);
    let store = |n: usize| scene.stores[n].clone();
    let (log, turn) = (|| play.log.clone(), |n: usize| turns[n].clone());
    vec![
        Actor::new("one", &turns[0], claim(turn(0), store(0), log(), play.stream("one"), name(), alone)),
        Actor::new("two", &turns[1], claim(turn(1), store(1), log(), play.stream("two"), name(), false)),
        Actor::new("other", &turns[2], writer(turn(2), store(2), log(), other, commits)),
    ]
}

#[tokio::test]
async fn a13_in_every_order_one_of_two_decisions_that_exclude_each_other_wins() {
    let (mut scene, mut orders) = (Scene::new(3).await, 0);
    for (alone, commits) in [(false, true), (false, false), (true, true)] {
        orders += scene.every_order(|scene, play| two_claims(scene, play, alone, commits)).await.unwrap();
    }
    println!("{orders} orders");
    assert!(orders > 500, "{orders}");
}

/// Looks before the lock, and not again behind it.
pub(super) const ONE_LOOK: (&str, &str) =
    ("IF c_after IS NOT NULL AND in_the_way IS NULL AND head > head_before_lock THEN", "IF false THEN");

#[tokio::test]
async fn a13_every_order_finds_the_naive_version_that_looks_before_the_lock_only() {
    let mut scene = Scene::new(3).await;
    scene.sql(&function("append", &[ONE_LOOK])).await;
    let wrong = scene.every_order(|scene, play| two_claims(scene, play, false, true)).await.unwrap_err();
    assert!(wrong.contains("was won twice"), "{wrong}");
}

#[tokio::test]
async fn a13_every_order_finds_the_naive_version_that_looks_and_appends_without_a_lock() {
    let mut scene = with_a_sequence(3).await;
    let wrong = scene.every_order(|scene, play| two_claims(scene, play, false, true)).await.unwrap_err();
    assert!(wrong.contains("was won twice"), "{wrong}");
}
