//! What it looked like: states, rows and whole read models at a version, a position and an instant.

use std::time::{Duration, SystemTime};

use eventstore::{Append, Expected, Id, Invalid, Position, StoreError, Timestamp, Version, Write, every, prelude::*};
use futures::{StreamExt, TryStreamExt};
use serde::{Deserialize, Serialize};

use super::{
    World,
    account::{AccountEvent::*, *},
    balances::*,
    campus::*,
    raw, world,
};

type Any = Box<dyn std::error::Error>;

#[tokio::test]
async fn t1_a_state_can_be_read_as_it_was() -> Result<(), Any> {
    let world = world().await;
    let store = &world.store;
    let (ann, bob) = (Id::<Account>::from("ann"), Id::<Account>::from("bob"));
    store.execute(&ann, Open { owner: "Ann".into() }).await?;
    let noon = world.noon().await;
    let deposited = store.execute(&ann, Deposit { amount: 100 }).await?;
    store.execute(&bob, Open { owner: "Bob".into() }).await?;
    let evening = world.noon().await;
    store.execute(&ann, Withdraw { amount: 30 }).await?;

    let today = store.load(&ann).await?;
    assert_eq!((today.balance, today.version, today.position), (70, Version(3), Position(4)));
    assert_eq!(store.load(&ann).as_of(noon).await?.balance, 0);
    assert_eq!(store.load(&ann).as_of(SystemTime::from(evening)).await?.balance, 100);
    assert_eq!(store.load(&ann).at(Version(2)).await?.balance, 100);
    assert_eq!(store.load(&ann).at_position(deposited.position).await?.balance, 100);

    let before = store.load(&ann).as_of(noon).await?;
    assert_eq!((before.version, before.position, before.open), (Version(1), Position(1), true));
    let nothing_yet = store.load(&ann).as_of(Timestamp::MIN).await?;
    assert_eq!((nothing_yet.version, nothing_yet.position, nothing_yet.open), (Version(0), Position(0), false));
    assert_eq!(store.load(&ann).at(Version(0)).await?.version, Version(0));
    assert_eq!(store.load(&ann).at(Version(99)).await?.version, Version(3));
    let never = store.load(Id::<Account>::from("nobody")).await?;
    assert_eq!((never.version, never.position), (Version(0), Position(4)));
    let both = store.load(&ann).as_of(evening).at_position(Position(1)).await?;
    assert_eq!(both.version, Version(1), "said more than once, all of it holds");

    // What was read at an instant can be pinned, and stays so for ever.
    let pinned = store.load(&ann).as_of(SystemTime::now() + Duration::from_secs(3_600)).await?;
    store.execute(&ann, Deposit { amount: 1 }).await?;
    let again = store.load(&ann).at_position(pinned.position).await?;
    assert_eq!((&again.state, again.version, again.position), (&pinned.state, pinned.version, pinned.position));
    assert_eq!((pinned.settled, again.settled), (false, true), "the hour is not over");
    Ok(())
}

#[tokio::test]
async fn t1_every_prefix_of_the_log_gives_the_fold_of_that_prefix() -> Result<(), Any> {
    let world = world().await;
    let (store, rust, ann) = (&world.store, Id::<Course>::from("rust"), Id::<Student>::from("ann"));
    store.execute(&rust, OpenCourse { seats: 3 }).await?;
    let mut moments = vec![world.noon().await];
    store.execute(&ann, Join).await?;
    moments.push(world.noon().await);
    store.execute((&rust, &ann), Enrol).await?;
    moments.push(world.noon().await);
    for (position, moment) in (1..).map(Position).zip(moments) {
        let enrolled = u32::from(position >= Position(3));
        for course in [store.load(&rust).at_position(position).await?, store.load(&rust).as_of(moment).await?] {
            assert_eq!((course.state.free(), course.position), (3 - enrolled, position));
        }
        let (course, student) = store.load((&rust, &ann)).at_position(position).await?.state;
        assert_eq!((course.free(), student.courses().len()), (3 - enrolled, enrolled as usize));
        assert_eq!(store.load(every::<Enrolments>()).as_of(moment).await?.count(), enrolled);
    }
    Ok(())
}

#[tokio::test]
async fn t1_a_log_is_read_between_instants() -> Result<(), Any> {
    let world = world().await;
    let (store, ann) = (&world.store, Id::<Account>::from("ann"));
    let mut moments = vec![Timestamp::MIN];
    for amount in [1, 2, 3] {
        // Two with the same instant: a boundary never falls between them.
        store.append(&ann, Expected::Any, [Deposited { amount }, Deposited { amount }]).await?;
        moments.push(world.noon().await);
    }
    let log: Vec<_> = store.read().raw().try_collect().await?;
    moments.extend(log.iter().map(|event| event.recorded_at));
    moments.extend([Timestamp::MAX, Timestamp::from_micros(log[2].recorded_at.as_micros() - 1)]);
    moments.sort();
    for after in &moments {
        for by in &moments {
            let between = || store.read().stream(&ann).recorded_after(*after).as_of(*by);
            let found: Vec<_> = between().raw().try_collect().await?;
            let recorded = |event: &&_| -> bool {
                let event: &eventstore::Recorded<_> = event;
                *after < event.recorded_at && event.recorded_at <= *by
            };
            assert_eq!(found, log.iter().filter(recorded).cloned().collect::<Vec<_>>(), "after {after}, by {by}");
            let mut back: Vec<_> = between().backwards().raw().try_collect().await?;
            back.reverse();
            assert_eq!(back, found);
        }
        // What is left out by one is what the other has.
        let (before, since) = (store.read().as_of(*after).raw(), store.read().recorded_after(*after).raw());
        assert_eq!(before.chain(since).try_collect::<Vec<_>>().await?, log);
        let further = store.read().recorded_after(*after).after(Position(4)).recorded_after(Timestamp::MIN).raw();
        let recorded = log.iter().filter(|event| event.recorded_at > *after && event.position > Position(4));
        assert_eq!(further.try_collect::<Vec<_>>().await?, recorded.cloned().collect::<Vec<_>>(), "all of it holds");
    }
    Ok(())
}

#[tokio::test]
async fn the_last_events_are_read_without_the_others() -> Result<(), Any> {
    let world = world().await;
    let (store, ann, bob) = (&world.store, Id::<Account>::from("ann"), Id::<Account>::from("bob"));
    for amount in 1..=4 {
        store.append(&ann, Expected::Any, [Deposited { amount }]).and(&bob, Expected::Any, [Closed]).await?;
    }
    let amounts = async |read: eventstore::ReadEvents| -> Result<Vec<i64>, StoreError> {
        let events = read.names(["account.deposited"]).events::<AccountEvent>();
        let amount = |event: eventstore::Recorded<_>| match event.data {
            Deposited { amount } => amount,
            other => panic!("{other:?}"),
        };
        events.map_ok(amount).try_collect().await
    };
    assert_eq!(amounts(store.read().backwards().limit(2)).await?, [4, 3]);
    assert_eq!(amounts(store.read().category("account").backwards()).await?, [4, 3, 2, 1]);
    assert_eq!(amounts(store.read().stream(&ann).backwards().until_version(Version(3))).await?, [3, 2, 1]);
    assert_eq!(amounts(store.read().stream(&ann).backwards().after_version(Version(3))).await?, [4]);
    assert_eq!(amounts(store.read().after(Position(2)).until(Position(6)).backwards()).await?, [3, 2]);
    assert_eq!(amounts(store.read().stream(&ann).until_version(Version(2))).await?, [1, 2]);
    // Of several bounds the narrowest holds, whichever was said last.
    let narrowest = store.read().stream(&ann).until_version(Version(2)).until_version(Version(4));
    assert_eq!(amounts(narrowest).await?, [1, 2]);
    let failed = amounts(store.read().category("account").until_version(Version(2))).await;
    assert!(matches!(failed, Err(StoreError::Invalid(Invalid::Request(_)))), "{failed:?}");
    Ok(())
}

/// Three deposits, recorded on days that are not those they happened on.
async fn late(world: &World) -> Result<(Id<Account>, [Timestamp; 3]), Any> {
    let (store, ann) = (&world.store, Id::<Account>::from("ann"));
    let days = ["2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z", "2026-01-03T00:00:00Z"].map(|day| day.parse().unwrap());
    let [first, second, third] = days;
    store.execute(&ann, Open { owner: "Ann".into() }).occurred_at(first).await?;
    store.execute(&ann, Deposit { amount: 100 }).occurred_at(third).await?;
    store.execute(&ann, Deposit { amount: 10 }).occurred_at(first).await?;
    store.execute(&ann, Deposit { amount: 1 }).occurred_at(second).await?;
    Ok((ann, days))
}

#[tokio::test]
async fn t2_what_had_happened_by_then_counts_whenever_it_was_recorded() -> Result<(), Any> {
    let world = world().await;
    let (ann, [first, second, third]) = late(&world).await?;
    let store = &world.store;
    let balance = async |by| store.load(&ann).occurred_by(by).await.map(|account| account.balance);
    assert_eq!((balance(first).await?, balance(second).await?, balance(third).await?), (10, 11, 111));
    let before = Timestamp::from_micros(first.as_micros() - 1);
    assert!(!store.load(&ann).occurred_by(before).await?.open);
    // Of the prefix that is chosen, what had happened by then.
    assert_eq!(store.load(&ann).occurred_by(second).at_position(Position(3)).await?.balance, 10);
    assert_eq!(store.load(&ann).occurred_by(second).at(Version(2)).await?.balance, 0);
    Ok(())
}

#[tokio::test]
async fn t2_events_are_folded_in_the_order_they_were_recorded_in() -> Result<(), Any> {
    let world = world().await;
    let (store, ann) = (&world.store, Id::<Account>::from("ann"));
    let (early, late): (Timestamp, Timestamp) = ("2026-01-01T00:00:00Z".parse()?, "2026-01-02T00:00:00Z".parse()?);
    store.append(&ann, Expected::Any, [Opened { owner: "x".into() }]).occurred_at(late).await?;
    store.append(&ann, Expected::Any, [Closed]).occurred_at(early).await?;
    assert!(!store.load(&ann).occurred_by(late).await?.open, "opened, then closed");
    Ok(())
}

#[tokio::test]
async fn a_history_shows_every_event_with_the_state_it_led_to() -> Result<(), Any> {
    let world = world().await;
    let (store, ann) = (&world.store, Id::<Account>::from("ann"));
    store.execute(&ann, Open { owner: "Ann".into() }).await?;
    store.execute(Id::<Account>::from("bob"), Open { owner: "Bob".into() }).await?;
    store.execute(&ann, Deposit { amount: 100 }).await?;
    store.execute(&ann, Withdraw { amount: 30 }).await?;
    let history: Vec<_> = store.history(&ann).try_collect().await?;
    let moments: Vec<_> = history.iter().map(|(event, account)| (event.version.0, account.balance)).collect();
    assert_eq!(moments, [(1, 0), (2, 100), (3, 70)]);
    assert_eq!(history[2].0.data, Withdrawn { amount: 30 });
    Ok(())
}

/// What was one event once is several today.
#[derive(Event, Clone, Debug, PartialEq)]
pub enum PurseEvent {
    #[event(version = 2, upcast(1 => one_by_one))]
    Filled { cents: i64 },
}

fn one_by_one(all: Vec<i64>) -> Vec<PurseEvent> {
    all.into_iter().map(|cents| PurseEvent::Filled { cents }).collect()
}

#[derive(Aggregate, Clone, Debug)]
pub struct Purse {
    cents: i64,
}

impl Evolve for Purse {
    type Event = PurseEvent;

    fn evolve(&mut self, PurseEvent::Filled { cents }: PurseEvent) {
        self.cents += cents;
    }
}

#[derive(ReadModel, Serialize, Deserialize, Default, Debug, PartialEq)]
pub struct Filling {
    cents: i64,
}

impl Project for Filling {
    type Event = PurseEvent;

    fn project(row: &mut Row<Self>, event: &Recorded<PurseEvent>) {
        let PurseEvent::Filled { cents } = event.data;
        row.cents += cents;
    }
}

#[tokio::test]
async fn t1_of_an_event_that_was_split_each_part_has_its_moment() -> Result<(), Any> {
    let world = world().await;
    let (store, purse) = (&world.store, Id::<Purse>::from("a"));
    let write = Write {
        stream: purse.stream(),
        expected: Expected::Any,
        events: vec![raw("purse.filled", b"[1,2,3]"), raw("purse.filled", b"[4]")],
    };
    world.inner.append(Append { writes: vec![write], ..Append::default() }).await?;
    let states: Vec<_> = store.history(&purse).map_ok(|(_, purse)| purse.cents).try_collect().await?;
    assert_eq!(states, [1, 3, 6, 10]);
    let rows = store.read_model::<Filling>().history(&purse);
    let rows: Vec<_> = rows.map_ok(|(event, row)| (event.version.0, row.map(|row| row.cents))).try_collect().await?;
    assert_eq!(rows, [(1, Some(1)), (1, Some(3)), (1, Some(6)), (2, Some(10))]);
    Ok(())
}

#[tokio::test]
async fn t1_of_moments_said_more_than_once_the_earliest_counts() -> Result<(), Any> {
    let world = world().await;
    let (store, ann) = (&world.store, Id::<Account>::from("ann"));
    let mut moments = vec![];
    store.execute(&ann, Open { owner: "Ann".into() }).await?;
    for _ in 2..=4 {
        moments.push(world.noon().await);
        store.execute(&ann, Deposit { amount: 1 }).await?;
    }
    let (early, late) = (Position(2), Position(4));
    let (first, last) = (moments[0], moments[2]);
    let balances = store.read_model::<Balance>();
    for swapped in [false, true] {
        let either = |a: Position, b: Position| if swapped { (b, a) } else { (a, b) };
        let times = if swapped { (last, first) } else { (first, last) };
        let (a, b) = either(early, late);
        assert_eq!(store.load(&ann).at_position(a).at_position(b).await?.version, Version(2));
        assert_eq!(store.load(&ann).at(Version(a.0)).at(Version(b.0)).await?.version, Version(2));
        assert_eq!(store.load(&ann).as_of(times.0).as_of(times.1).await?.version, Version(1));
        assert_eq!(store.load(&ann).occurred_by(times.0).occurred_by(times.1).await?.version, Version(1));
        assert_eq!(store.read().until(a).until(b).raw().count().await, 2);
        assert_eq!(store.read().as_of(times.0).as_of(times.1).raw().count().await, 1);
        assert_eq!(store.read().after(a).after(b).raw().count().await, 0);
        assert_eq!(store.read().limit(a.0 as usize).limit(b.0 as usize).raw().count().await, 2);
        assert_eq!(balances.at_position(a).get(&ann).at_position(b).await?.unwrap().balance, 1);
        assert_eq!(balances.at_position(a).at_position(b).get(&ann).await?.unwrap().balance, 1);
        assert_eq!(balances.as_of(times.0).get(&ann).as_of(times.1).await?.unwrap().balance, 0);
        assert_eq!(balances.occurred_by(times.0).occurred_by(times.1).list().await?[0].1.balance, 0);
    }
    Ok(())
}

#[tokio::test]
async fn t1_a_row_can_be_read_as_it_was() -> Result<(), Any> {
    let world = world().await;
    let (store, ann, bob) = (&world.store, Id::<Account>::from("ann"), Id::<Account>::from("bob"));
    for (id, owner) in [(&ann, "Ann"), (&bob, "Bob")] {
        store.execute(id, Open { owner: owner.into() }).await?;
    }
    let noon = world.noon().await;
    let deposited = store.execute(&ann, Deposit { amount: 100 }).await?;
    store.execute(&bob, Close).await?;
    let evening = world.noon().await;
    store.execute(&ann, Withdraw { amount: 30 }).await?;

    // The table is not there: the past is folded from the log.
    let balances = store.read_model::<Balance>();
    let row = |balance| Some(Balance { owner: "Ann".into(), balance });
    assert_eq!(balances.get(&ann).as_of(noon).await?, row(0));
    assert_eq!(balances.get(&ann).as_of(evening).await?, row(100));
    assert_eq!(balances.get(&ann).at_position(deposited.position).await?, row(100));
    assert_eq!(balances.get(&ann).at(Version(2)).await?, row(100));
    assert_eq!(balances.get(&ann).at(Version(0)).await?, None);
    assert!(balances.get(&bob).as_of(noon).await?.is_some());
    assert_eq!(balances.get(&bob).as_of(evening).await?, None, "deleted by then");
    let turnover = store.read_model::<Turnover>();
    assert_eq!(turnover.get("all").as_of(evening).await?, Some(Turnover { total: 100 }));
    let failed = turnover.get("all").at(Version(1)).await;
    assert!(matches!(failed, Err(StoreError::Invalid(Invalid::Request(_)))), "{failed:?}");

    let history: Vec<_> = balances.history(&bob).try_collect().await?;
    let rows: Vec<_> = history.into_iter().map(|(event, row)| (event.version.0, row.map(|row| row.balance))).collect();
    assert_eq!(rows, [(1, Some(0)), (2, None)]);
    let history: Vec<_> = turnover.history("all").try_collect().await?;
    assert_eq!(history.into_iter().map(|(_, row)| row.unwrap().total).collect::<Vec<_>>(), [100, 130]);
    Ok(())
}

#[tokio::test]
async fn t1_a_whole_read_model_can_be_read_as_it_was() -> Result<(), Any> {
    let world = world().await;
    let store = &world.store;
    let mut moments = vec![];
    for n in 1..=4 {
        let id = Id::<Account>::from(format!("A{n}"));
        store.execute(&id, Open { owner: ["odd", "even"][usize::from(n % 2 == 0)].into() }).await?;
        let last = store.execute(&id, Deposit { amount: n }).await?;
        moments.push((world.noon().await, last.position));
    }
    store.execute(Id::<Account>::from("A1"), Withdraw { amount: 1 }).await?;
    store.execute(Id::<Account>::from("A1"), Close).await?;

    let balances = store.read_model::<Balance>();
    let sum = |rows: Vec<(String, Balance)>| (rows.len(), rows.iter().map(|(_, row)| row.balance).sum::<i64>());
    let mut replay = balances.replay();
    for ((moment, position), n) in moments.into_iter().zip(1..) {
        let expected = (n as usize, n * (n + 1) / 2);
        assert_eq!(sum(balances.as_of(moment).list().await?), expected);
        assert_eq!(sum(balances.at_position(position).list().await?), expected);
        replay.until(position).await?;
        assert_eq!((replay.iter().count(), replay.position()), (expected.0, position));
        assert_eq!(replay.get(format!("A{n}")).map(|row| row.balance), Some(n));
    }
    let then = balances.at_position(Position(8));
    let keys = |rows: Vec<(String, Balance)>| rows.into_iter().map(|(key, _)| key).collect::<Vec<_>>();
    assert_eq!(keys(then.list().await?), ["A1", "A2", "A3", "A4"]);
    assert_eq!(keys(then.list().filter("owner", "odd").await?), ["A1", "A3"]);
    assert_eq!(keys(then.list().filter("balance", 2).await?), ["A2"]);
    assert_eq!(keys(then.list().limit(3).await?), ["A1", "A2", "A3"]);
    assert!(then.list().limit(0).await?.is_empty());
    assert_eq!(then.get("A1").await?.map(|row| row.balance), Some(1));
    replay.finish().await?;
    assert_eq!((replay.get("A1"), replay.position()), (None, Position(10)));
    let back = replay.until(Position(3)).await;
    assert!(matches!(back, Err(StoreError::Invalid(Invalid::Request(_)))), "{back:?}");

    // The live table shows the present all the while.
    let runner = Runner::new(store).read_model::<Balance>().start();
    runner.until(Position(10)).await?;
    assert_eq!(keys(balances.list().await?), ["A2", "A3", "A4"]);
    assert_eq!(keys(then.list().await?), ["A1", "A2", "A3", "A4"]);
    runner.stop().await;
    Ok(())
}

#[tokio::test]
async fn t2_a_read_model_knows_what_had_happened_by_then() -> Result<(), Any> {
    let world = world().await;
    let (ann, [first, second, third]) = late(&world).await?;
    let balances = world.store.read_model::<Balance>();
    for (by, balance) in [(first, 10), (second, 11), (third, 111)] {
        assert_eq!(balances.get(&ann).occurred_by(by).await?.map(|row| row.balance), Some(balance));
        assert_eq!(balances.occurred_by(by).list().await?[0].1.balance, balance);
    }
    Ok(())
}
