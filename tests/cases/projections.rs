//! Read models in their tables: exactly once, whoever runs them and however often they stop.

use std::{
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    time::Duration,
};

use eventstore::{
    Column, Expected, Id, Invalid, Kind, Position, Query, Runner, Status, Store, StoreError, StreamId, Timestamp,
    Version, prelude::*,
};
use futures::TryStreamExt;
use serde::{Deserialize, Serialize};

use super::{
    Between, Counts,
    account::{AccountEvent::*, *},
    balances::*,
    campus::{CampusEvent, *},
    transfer::{BankEvent, Transfer, TransferCommand},
    world,
};

type Any = Box<dyn std::error::Error>;

#[test]
fn a_closed_account_has_no_balance() {
    let (ann, bob) = (Id::<Account>::from("ann"), Id::<Account>::from("bob"));
    Balance::after(&ann, [Opened { owner: "Ann".into() }, Deposited { amount: 5 }])
        .after(&bob, [Opened { owner: "Bob".into() }])
        .then(&ann, Balance { owner: "Ann".into(), balance: 5 })
        .then(&bob, Balance { owner: "Bob".into(), balance: 0 })
        .after(&bob, [Closed])
        .then_none(&bob);
    Turnover::after(&ann, [Deposited { amount: 5 }, Withdrawn { amount: 2 }])
        .then("in", Turnover { total: 5 })
        .then("all", Turnover { total: 7 });
}

#[tokio::test]
async fn rows_follow_the_log() -> Result<(), Any> {
    let world = world().await;
    let store = &world.store;
    let runner = Runner::new(store).read_model::<Balance>().read_model::<Turnover>().start();

    let (ann, bob) = (Id::<Account>::from("ann"), Id::<Account>::from("bob"));
    store.execute(&ann, Open { owner: "Ann".into() }).await?;
    store.execute(&bob, Open { owner: "Bob".into() }).await?;
    let deposited = store.execute(&ann, Deposit { amount: 100 }).await?;
    let noon = world.noon().await;

    let balances = store.read_model::<Balance>();
    let mine = balances.get(&ann).after(deposited.position).await?;
    assert_eq!(mine, Some(Balance { owner: "Ann".into(), balance: 100 }));
    let closed = store.execute(&bob, Close).await?;
    store.execute(&ann, Withdraw { amount: 30 }).await?;
    let last = store.execute(&ann, Deposit { amount: 1 }).await?;
    runner.until(last.position).await?;
    assert_eq!(balances.get(&bob).after(closed.position).await?, None);
    let row = Balance { owner: "Ann".into(), balance: 71 };
    assert_eq!(balances.list().filter("owner", "Ann").limit(10).await?, [("ann".into(), row)]);
    assert_eq!(balances.list().filter("owner", "Bob").await?, []);
    assert_eq!(balances.get(&ann).as_of(noon).await?.map(|row| row.balance), Some(100));
    assert!(balances.get(&bob).as_of(noon).await?.is_some());
    assert_eq!(store.read_model::<Turnover>().get("all").await?, Some(Turnover { total: 131 }));
    assert!(runner.status().iter().all(|status| status.position == last.position && status.error.is_none()));
    runner.stop().await;
    Ok(())
}

#[tokio::test]
async fn a_thousand_events_are_one_read_and_one_write_of_rows() -> Result<(), Any> {
    let world = world().await;
    let counting = Between::new(&world.inner);
    let counts = counting.counts();
    let store = Store::from(counting);
    let ids: Vec<_> = (0..50).map(|n| Id::<Account>::from(format!("A{n}"))).collect();
    for id in &ids {
        store.append(id, eventstore::Expected::Any, [Opened { owner: "x".into() }]).await?;
    }
    for n in 0..19 {
        let first = store.append(&ids[0], eventstore::Expected::Any, [Deposited { amount: n }]);
        let all =
            |append: eventstore::AppendEvents, id| append.and(id, eventstore::Expected::Any, [Deposited { amount: n }]);
        ids[1..].iter().fold(first, all).await?;
    }
    let runner = Runner::new(&store).read_model::<Balance>().start();
    runner.until(Position(1000)).await?;
    runner.stop().await;
    assert_eq!(*counts.lock().unwrap(), Counts { reads_of_rows: 1, writes_of_rows: 1 });
    assert_eq!(store.read_model::<Balance>().get(&ids[7]).await?.map(|row| row.balance), Some(171));
    Ok(())
}

/// What a model that catches up has written it need not read again, whatever became of it.
#[tokio::test]
async fn p1_each_event_counts_once_while_a_model_catches_up_and_commits_are_not_answered() -> Result<(), Any> {
    const EVENTS: u64 = 300;
    let ids: Vec<_> = (0..5).map(|n| Id::<Account>::from(format!("A{n}"))).collect();
    let caught_up = async |between: fn(Between) -> Between| {
        let world = world().await;
        for n in 0..EVENTS {
            let event = if n % 37 == 36 { Closed } else { Deposited { amount: n as i64 } };
            world.store.append(&ids[n as usize % 5], eventstore::Expected::Any, [event]).await?;
        }
        let between = between(Between::new(&world.inner));
        let counts = between.counts();
        let store = Store::from(between);
        let runner = Runner::new(&store).read_model::<Balance>().batch(10).start();
        runner.until(Position(EVENTS)).await?;
        runner.stop().await;
        let rows = store.read_model::<Balance>();
        assert_eq!(rows.list().await?, rows.at_position(Position(EVENTS)).list().await?);
        let counts = *counts.lock().unwrap();
        Ok::<_, Any>(counts)
    };
    let Counts { reads_of_rows, writes_of_rows } = caught_up(|between| between).await?;
    assert_eq!(writes_of_rows as u64, EVENTS / 10);
    assert!((1..=9).contains(&reads_of_rows), "{reads_of_rows}: at first, and of what was deleted");
    caught_up(|between| between.unanswered(3)).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p1_each_event_counts_once_whoever_runs_and_stops() -> Result<(), Any> {
    let world = world().await;
    let store = &world.store;
    let ids: Vec<_> = (0..5).map(|n| Id::<Account>::from(format!("A{n}"))).collect();
    for id in &ids {
        store.execute(id, Open { owner: "x".into() }).await?;
    }
    let writing = AtomicBool::new(true);
    let write = async {
        for n in 0..150 {
            store.execute(&ids[n % 5], Deposit { amount: n as i64 }).await?;
            tokio::task::yield_now().await;
        }
        writing.store(false, Ordering::SeqCst);
        Ok::<_, Any>(())
    };
    // Two at a time, stopped and started again in the middle of everything.
    let run = async {
        while writing.load(Ordering::SeqCst) {
            let one = Runner::new(store).read_model::<Balance>().read_model::<Turnover>().start();
            let other = Runner::new(store).read_model::<Balance>().read_model::<Turnover>().start();
            tokio::time::sleep(Duration::from_millis(5)).await;
            one.stop().await;
            other.stop().await;
        }
    };
    let (written, ()) = futures::join!(write, run);
    written?;
    let runner = Runner::new(store).read_model::<Balance>().read_model::<Turnover>().start();
    runner.until(store.head().await?).await?;
    runner.stop().await;

    let total: i64 = (0..150).sum();
    let rows = store.read_model::<Balance>().list().await?;
    assert_eq!(rows.iter().map(|(_, row)| row.balance).sum::<i64>(), total);
    assert_eq!(store.read_model::<Turnover>().get("in").await?, Some(Turnover { total }));
    // And row by row, it is what a fold of the log says.
    assert_eq!(rows, store.read_model::<Balance>().at_position(store.head().await?).list().await?);
    Ok(())
}

/// How often each student enrolled: one row a tag.
#[derive(ReadModel, Serialize, Deserialize, Clone, Default, Debug, PartialEq)]
#[read_model(tag = "student")]
pub struct Enrolled {
    pub courses: u32,
    pub last: Option<String>,
    pub at: Option<Timestamp>,
    pub all: Vec<String>,
}

impl Project for Enrolled {
    type Event = CampusEvent;

    fn project(row: &mut Row<Self>, event: &Recorded<CampusEvent>) {
        if let CampusEvent::Enrolled { course, .. } = &event.data {
            row.courses += 1;
            row.last = Some(course.to_string());
            row.at = Some(event.occurred_at);
            row.all.push(course.to_string());
        }
    }
}

#[tokio::test]
async fn rows_are_keyed_by_tags_and_hold_what_their_fields_hold() -> Result<(), Any> {
    let world = world().await;
    let (store, ann, bob) = (&world.store, Id::<Student>::from("ann"), Id::<Student>::from("bob"));
    let runner = Runner::new(store).read_model::<Enrolled>().start();
    store.execute(&ann, Join).await?;
    store.execute(&bob, Join).await?;
    let mut last = None;
    for course in ["rust", "sql"].map(Id::<Course>::from) {
        store.execute(&course, OpenCourse { seats: 9 }).await?;
        last = Some(store.execute((&course, &ann), Enrol).await?);
    }
    let last = last.expect("two courses");
    runner.until(last.position).await?;
    let enrolled = store.read_model::<Enrolled>();
    let row = enrolled.get(&ann).await?.expect("a row");
    let all = vec!["rust".to_owned(), "sql".to_owned()];
    assert_eq!(row, Enrolled { courses: 2, last: Some("sql".into()), at: Some(last.events[0].occurred_at), all });
    assert_eq!(enrolled.get(&bob).await?, None, "joined, but nothing was written to the row");
    assert_eq!(enrolled.list().filter("at", last.events[0].occurred_at.to_string()).await?.len(), 1);
    assert_eq!(enrolled.get(&ann).at_position(Position(4)).await?.map(|row| row.courses), Some(1));
    runner.stop().await;
    Ok(())
}

/// Forgets to say which rows it means.
#[derive(ReadModel, Serialize, Deserialize, Default, Debug, PartialEq)]
pub struct Muddle {
    pub events: u32,
}

impl Project for Muddle {
    type Event = BankEvent;

    fn project(row: &mut Row<Self>, _: &Recorded<BankEvent>) {
        row.events += 1;
    }
}

#[tokio::test]
async fn a_model_over_several_categories_must_say_its_keys() -> Result<(), Any> {
    let world = world().await;
    let store = &world.store;
    let ann = Id::<Account>::from("same");
    store.execute(&ann, Open { owner: "Ann".into() }).await?;
    let runner = Runner::new(store).read_model::<Muddle>().read_model::<Balance>().start();
    runner.until(Position(1)).await?;
    let request = TransferCommand::Request { from: ann.clone(), to: ann.clone(), amount: 1 };
    let second = store.execute(Id::<Transfer>::from("same"), request).await?;
    let stopped = runner.until(second.position).await;
    let Err(StoreError::Stopped { projection, reason }) = stopped else { panic!("{stopped:?}") };
    assert_eq!(projection, "muddle@1");
    let why = "event 1 of stream transfer-same (`transfer.requested`, position 2): its events are in streams of \
               `account` and of `transfer`: say `keys` or `tag`";
    assert_eq!(reason.to_string(), why);
    let status = runner.status();
    assert!(status[0].stopped && status[0].position == Position(1));
    assert!(!status[1].stopped, "the others go on");
    assert_eq!(store.read_model::<Muddle>().get("same").await?, Some(Muddle { events: 1 }));
    runner.stop().await;

    // Also when it starts behind: the first event there ever was says which category is meant.
    let again = Runner::new(store).read_model::<Muddle>().start();
    assert!(matches!(again.until(second.position).await, Err(StoreError::Stopped { .. })));
    again.stop().await;
    Ok(())
}

static PANICS: AtomicU32 = AtomicU32::new(3);

/// Panics a few times, as code does.
#[derive(ReadModel, Serialize, Deserialize, Default, Debug, PartialEq)]
pub struct Clumsy {
    pub events: u32,
}

impl Project for Clumsy {
    type Event = AccountEvent;

    fn project(row: &mut Row<Self>, event: &Recorded<AccountEvent>) {
        row.events += 1;
        if let Deposited { amount: 13 } = event.data
            && PANICS.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok()
        {
            panic!("thirteen");
        }
    }
}

#[tokio::test]
async fn a_panic_in_a_rule_is_told_and_tried_again_and_counts_nothing_twice() -> Result<(), Any> {
    let world = world().await;
    let store = &world.store;
    PANICS.store(3, Ordering::SeqCst);
    let ann = Id::<Account>::from("ann");
    let runner = Runner::new(store).read_model::<Clumsy>().start();
    store.execute(&ann, Open { owner: "Ann".into() }).await?;
    let last = store.execute(&ann, Deposit { amount: 13 }).await?;
    let said = async {
        loop {
            if let [Status { error: Some(error), .. }] = &runner.status()[..] {
                return error.to_string();
            }
            tokio::task::yield_now().await;
        }
    };
    assert_eq!(said.await, "event 2 of stream account-ann (`account.deposited`, position 2): it panicked: thirteen");
    runner.until(last.position).await?;
    assert_eq!(store.read_model::<Clumsy>().get(&ann).await?, Some(Clumsy { events: 2 }));
    assert!(runner.status()[0].error.is_none());
    runner.stop().await;
    Ok(())
}

/// One row a stream, by its whole name, and others that several streams share. Does not like thirteen, in one of them.
#[derive(ReadModel, Serialize, Deserialize, Clone, Default, Debug, PartialEq)]
#[read_model(keys = of_stream_and_amount)]
struct Spread {
    events: u64,
}

fn of_stream_and_amount(event: &Recorded<AccountEvent>) -> Vec<String> {
    match event.data {
        Deposited { amount } => vec![event.stream.to_string(), format!("last-{}", amount % 8)],
        _ => vec![],
    }
}

static THIRTEEN: AtomicBool = AtomicBool::new(false);

impl Project for Spread {
    type Event = AccountEvent;

    fn project(row: &mut Row<Self>, event: &Recorded<AccountEvent>) {
        let bad = event.data == Deposited { amount: 13 } && row.key() == event.stream.to_string();
        assert!(!bad || THIRTEEN.load(Ordering::SeqCst), "no thirteen");
        row.events += 1;
    }
}

/// A key that is called as a stream is a key: what waits for it holds up no other row of that stream.
#[tokio::test]
async fn p3_a_parked_row_with_the_name_of_a_stream_is_not_that_stream() -> Result<(), Any> {
    let world = world().await;
    let store = &world.store;
    let ids: Vec<_> = (0..6).map(|n| Id::<Account>::from(format!("A{n}"))).collect();
    for amount in 0..60_i64 {
        store.append(&ids[amount as usize % 6], eventstore::Expected::Any, [Deposited { amount }]).await?;
    }
    let running = Runner::new(store).read_model::<Spread>().shards(4).start();
    let head = store.head().await?;
    super::parked::reached(&running, head).await?;
    let rows = store.read_model::<Spread>();
    let letters = running.dead_letters("spread").list().await?;
    // 13, 19, 25 … 55, for one row.
    assert!(letters.len() == 8 && letters.iter().all(|letter| letter.key == "account-A1"), "{letters:?}");
    let others: Vec<_> = rows.list().await?.into_iter().filter(|(key, _)| key != "account-A1").collect();
    THIRTEEN.store(true, Ordering::SeqCst);
    let all = rows.at_position(head).list().await?;
    assert_eq!(others, all.iter().filter(|(key, _)| key != "account-A1").cloned().collect::<Vec<_>>());
    running.dead_letters("spread").retry_all().await?;
    assert_eq!(rows.list().await?, all);
    running.stop().await;
    Ok(())
}

/// Makes rows no table can hold.
#[derive(ReadModel, Serialize, Deserialize, Default, Debug, PartialEq)]
pub struct Ratio {
    pub value: f64,
}

impl Project for Ratio {
    type Event = AccountEvent;

    fn project(row: &mut Row<Self>, event: &Recorded<AccountEvent>) {
        if let Deposited { amount } = event.data {
            row.value += 1.0 / (amount as f64);
        }
    }
}

#[tokio::test]
async fn p3_an_event_that_cannot_be_taken_in_waits_with_those_behind_it_and_other_keys_go_on() -> Result<(), Any> {
    let world = world().await;
    let store = &world.store;
    let (ann, bob) = (Id::<Account>::from("ann"), Id::<Account>::from("bob"));
    let runner = Runner::new(store).read_model::<Ratio>().read_model::<Turnover>().start();
    store.execute(&ann, Open { owner: "Ann".into() }).await?;
    store.execute(&bob, Open { owner: "Bob".into() }).await?;
    store.execute(&bob, Deposit { amount: 1 }).await?;
    let bad = store.execute(&bob, Deposit { amount: 0 }).await?;
    // A row must be fit for its table when it is written, not in between.
    super::parked::reached(&runner, bad.position).await?;
    let behind = store.execute(&bob, Deposit { amount: 5 }).await?;
    let later = store.execute(&ann, Deposit { amount: 4 }).await?;
    super::parked::reached(&runner, later.position).await?;
    let ratios = store.read_model::<Ratio>();
    assert_eq!(ratios.get(&ann).after(later.position).await?, Some(Ratio { value: 0.25 }), "others go on");
    assert_eq!(ratios.get(&bob).await?, Some(Ratio { value: 1.0 }), "it is as it was before the event");
    assert_eq!(store.read_model::<Turnover>().get("in").await?, Some(Turnover { total: 10 }));

    let letters = runner.dead_letters("ratio").list().await?;
    let places: Vec<_> = letters.iter().map(|letter| (letter.key.as_str(), letter.position)).collect();
    assert_eq!(places, [("bob", bad.position), ("bob", behind.position)]);
    let why =
        "event 3 of stream account-bob (`account.deposited`, position 4): cannot write or read a row of `ratio@1`: ";
    assert!(letters[0].error.starts_with(why), "{}", letters[0].error);
    assert_eq!(letters[0].retry_at, None, "it would fail again, for certain");
    let waited = ratios.get(&bob).after(behind.position).await.err().map(|error| error.to_string());
    let waited = waited.expect("whoever waits for it is told");
    assert!(
        waited
            .starts_with("`ratio@1` lacks events of `bob`, which wait behind one that could not be processed: event 3"),
        "{waited}"
    );
    runner.stop().await;

    // Started again, it waits still; and what comes then waits, too.
    let runner = Runner::new(store).read_model::<Ratio>().start();
    let last = store.execute(&bob, Deposit { amount: 8 }).await?;
    super::parked::reached(&runner, last.position).await?;
    assert_eq!(runner.status()[0].parked, 1);
    let letters = runner.dead_letters("ratio");
    assert_eq!(letters.list().await?.len(), 3);
    let again = letters.retry("bob").await.err().map(|error| error.to_string());
    assert!(again.as_ref().is_some_and(|again| again.contains(why)), "{again:?}");
    assert_eq!(letters.list().await?.iter().map(|letter| letter.attempts).collect::<Vec<_>>(), [1, 0, 0]);
    assert_eq!(ratios.get(&bob).await?, Some(Ratio { value: 1.0 }));

    // Passed over, the others are taken in, in their order.
    let skipped = letters.skip("bob", "nobody deposits nothing").await?;
    assert_eq!(skipped.position, bad.position);
    assert_eq!(ratios.get(&bob).after(last.position).await?, Some(Ratio { value: 1.325 }));
    let left = letters.list().await?;
    assert_eq!(
        left.iter().map(|letter| letter.skipped.as_deref()).collect::<Vec<_>>(),
        [Some("nobody deposits nothing")]
    );
    let next = store.execute(&bob, Deposit { amount: 2 }).await?;
    runner.until(next.position).await?;
    assert_eq!(ratios.get(&bob).after(next.position).await?, Some(Ratio { value: 1.825 }));
    assert_eq!(runner.status()[0].parked, 0);
    assert!(letters.retry("bob").await.is_err(), "nothing waits");
    runner.stop().await;
    Ok(())
}

#[tokio::test]
async fn p3_too_much_that_waits_stops_a_projection_loudly() -> Result<(), Any> {
    let world = world().await;
    let store = &world.store;
    let runner = Runner::new(store).read_model::<Ratio>().max_parked(2).start();
    let mut last = Position(0);
    for n in 0..4 {
        let id = Id::<Account>::from(format!("A{n}"));
        store.execute(&id, Open { owner: "x".into() }).await?;
        last = store.execute(&id, Deposit { amount: 0 }).await?.position;
    }
    let stopped = runner.until(last).await.err().map(|error| error.to_string());
    let why = "`ratio@1` cannot run: 2 keys are parked already, and more would be: event 2 of stream account-A2 ";
    assert!(stopped.as_ref().is_some_and(|stopped| stopped.starts_with(why)), "{stopped:?}");
    assert_eq!(world.inner.checkpoint("ratio@1").await?, Position(5), "everything before it is taken in");
    assert_eq!(runner.dead_letters("ratio").list().await?.len(), 2);
    runner.stop().await;
    Ok(())
}

/// Whoever opens an account decides what is in this row.
#[derive(ReadModel, Serialize, Deserialize, Default, Debug, PartialEq)]
#[read_model(keys = Owner::keys)]
pub struct Owner {
    pub name: String,
}

impl Owner {
    fn keys(event: &Recorded<AccountEvent>) -> Vec<String> {
        match &event.data {
            Opened { owner } => vec![owner.trim_start_matches('k').into()],
            _ => vec![],
        }
    }
}

impl Project for Owner {
    type Event = AccountEvent;

    fn project(row: &mut Row<Self>, event: &Recorded<AccountEvent>) {
        if let Opened { owner } = &event.data {
            row.name = owner.trim_end_matches('-').into();
        }
    }
}

#[tokio::test]
async fn what_no_store_can_hold_stops_a_model_at_once_and_the_event_is_named() -> Result<(), Any> {
    for (owner, why) in [("k\0", "row key `\\0` has a control character"), ("kk", "row key `` is empty")] {
        let world = world().await;
        let store = &world.store;
        store.execute(Id::<Account>::from("ann"), Open { owner: "Ann".into() }).await?;
        let runner = Runner::new(store).read_model::<Owner>().read_model::<Balance>().start();
        runner.until(Position(1)).await?;
        let bad = store.execute(Id::<Account>::from("eve"), Open { owner: owner.into() }).await?;
        let why = format!(
            "`owner@1` cannot run: event 1 of stream account-eve (`account.opened`, position 2): cannot write or read a \
             row of `owner@1`: {why}"
        );
        let stopped = runner.until(bad.position).await.err().map(|error| error.to_string());
        assert_eq!(stopped.as_deref(), Some(&*why));
        // Whoever waits for it in the same process is told, and not kept waiting.
        let waiting = store.read_model::<Owner>().get("Ann").after(bad.position).await;
        assert_eq!(waiting.err().map(|error| error.to_string()).as_deref(), Some(&*why));
        assert_eq!(store.read_model::<Owner>().get("Ann").await?, Some(Owner { name: "Ann".into() }));
        runner.stop().await;
    }

    // In a column, in the middle of a batch: this event is named and waits, not its neighbours.
    let world = world().await;
    let store = &world.store;
    for (n, owner) in ["Ann", "Bob", "\0", "Cem"].into_iter().enumerate() {
        store.execute(Id::<Account>::from(n.to_string()), Open { owner: owner.into() }).await?;
    }
    let runner = Runner::new(store).read_model::<Balance>().start();
    super::parked::reached(&runner, Position(4)).await?;
    let why = "event 1 of stream account-2 (`account.opened`, position 3): cannot write or read a row of `balance@1`: \
               column `owner` of row `2` is text and cannot hold U+0000";
    let letters = runner.dead_letters("balance").list().await?;
    assert_eq!(letters.iter().map(|letter| &*letter.error).collect::<Vec<_>>(), [why]);
    assert_eq!(store.read_model::<Balance>().list().await?.len(), 3);
    runner.stop().await;
    Ok(())
}

#[tokio::test]
async fn a_model_that_does_not_fit_its_table_is_stopped_at_once() -> Result<(), Any> {
    let world = world().await;
    let (store, ann) = (&world.store, Id::<Account>::from("ann"));
    const COLUMNS: &[Column] = &[Column::new("owner", Kind::Text)];
    world.inner.create(&eventstore::Table { name: "balance", version: 1, columns: COLUMNS, shadow: false }).await?;
    let runner = Runner::new(store).read_model::<Balance>().read_model::<Turnover>().start();
    let opened = store.execute(&ann, Open { owner: "Ann".into() }).await?;
    let why = "`balance@1` has other columns than its read model: raise the version of the read model, or give it \
               another name if the table is of another program";
    let stopped = runner.until(opened.position).await.err().map(|error| error.to_string());
    assert_eq!(stopped, Some(format!("`balance@1` cannot run: {why}")));
    let balances = store.read_model::<Balance>();
    assert!(matches!(balances.get(&ann).after(opened.position).await, Err(StoreError::Stopped { .. })));
    for read in [balances.get(&ann).await.map(drop), balances.list().filter("balance", 1).await.map(drop)] {
        assert_eq!(read.err().map(|error| error.to_string()).as_deref(), Some(why));
    }
    let [balance, turnover] = &runner.status()[..] else { panic!("two") };
    assert!(balance.stopped && !turnover.stopped);
    runner.stop().await;
    Ok(())
}

#[tokio::test]
async fn p8_an_event_that_cannot_be_read_stops_a_model_and_is_named() -> Result<(), Any> {
    let world = world().await;
    let write = eventstore::Write {
        stream: StreamId::new("account", "ann"),
        expected: Expected::Any,
        events: vec![super::raw("account.deposited", b"{}")],
    };
    world.inner.append(eventstore::Append { writes: vec![write], ..Default::default() }).await?;
    let runner = Runner::new(&world.store).read_model::<Balance>().start();
    let stopped = runner.until(Position(1)).await;
    let Err(StoreError::Stopped { reason, .. }) = stopped else { panic!("{stopped:?}") };
    let why =
        "event 1 of stream account-ann (`account.deposited`, position 1): cannot read event 1 of stream account-ann: ";
    assert!(reason.to_string().starts_with(why), "{reason}");
    runner.stop().await;
    Ok(())
}

#[tokio::test]
async fn a_read_waits_for_what_runs_and_not_for_what_nobody_has_built() -> Result<(), Any> {
    let world = world().await;
    let (store, ann) = (&world.store, Id::<Account>::from("ann"));
    let opened = store.execute(&ann, Open { owner: "Ann".into() }).await?;
    let balances = store.read_model::<Balance>();
    let at_once = Duration::from_secs(5);
    for result in [
        tokio::time::timeout(at_once, balances.get(&ann).after(opened.position).into_future()).await?.map(drop),
        tokio::time::timeout(at_once, balances.list().after(opened.position).into_future()).await?.map(drop),
    ] {
        assert!(matches!(&result, Err(StoreError::NotBuilt { table }) if table == "balance@1"), "{result:?}");
    }
    // It has only just been started, and its table is not there yet.
    let runner = Runner::new(store).read_model::<Balance>().start();
    assert!(balances.get(&ann).after(opened.position).await?.is_some());
    runner.stop().await;
    Ok(())
}

#[tokio::test]
async fn two_of_a_name_do_not_run_together() -> Result<(), Any> {
    let world = world().await;
    let store = &world.store;
    let opened = store.execute(Id::<Account>::from("ann"), Open { owner: "Ann".into() }).await?;
    let runner = Runner::new(store).read_model::<Balance>().read_model::<Balance>().start();
    let stopped = runner.until(opened.position).await.err().map(|error| error.to_string());
    let why = "`balance@1` cannot run: this runner has one of this name already: take one out, or rename it";
    assert_eq!(stopped.as_deref(), Some(why));
    assert!(store.read_model::<Balance>().get("ann").after(opened.position).await?.is_some(), "the first runs");
    runner.stop().await;
    Ok(())
}

#[tokio::test]
async fn what_cannot_be_asked_is_a_typed_error() -> Result<(), Any> {
    let world = world().await;
    let store = &world.store;
    let balances = store.read_model::<Balance>();
    let not_built = balances.get("ann").await;
    assert!(matches!(&not_built, Err(StoreError::NotBuilt { table }) if table == "balance@1"), "{not_built:?}");
    let runner = Runner::new(store).read_model::<Balance>().start();
    store.execute(Id::<Account>::from("ann"), Open { owner: "Ann".into() }).await?;
    runner.until(Position(1)).await?;
    for (column, value, why) in [
        ("no_such", serde_json::json!(1), "`balance` has no column `no_such`"),
        (
            "balance",
            serde_json::json!("x"),
            "column `balance` of `balance` is bigint and cannot hold the text it is compared with",
        ),
        ("owner", "\0".into(), "column `owner` of `balance` is text and cannot hold the text it is compared with"),
    ] {
        let failed = balances.list().filter(column, value).await;
        assert!(matches!(&failed, Err(StoreError::Invalid(Invalid::Request(said))) if said == why), "{failed:?}");
    }
    for key in ["a\0b", ""] {
        let failed = balances.get(key).await;
        assert!(matches!(failed, Err(StoreError::Invalid(Invalid::Name { .. }))), "{failed:?}");
    }
    runner.stop().await;
    assert_eq!(balances.list().await?.len(), 1, "rows can be read when nothing runs");
    Ok(())
}

#[tokio::test]
async fn a_checkpoint_passes_events_nobody_asked_for() -> Result<(), Any> {
    let world = world().await;
    let store = &world.store;
    let runner = Runner::new(store).read_model::<Balance>().start();
    let course = store.execute(Id::<Course>::from("rust"), OpenCourse { seats: 1 }).await?;
    runner.until(course.position).await?;
    assert_eq!(store.read_model::<Balance>().get("rust").after(course.position).await?, None);
    runner.stop().await;
    Ok(())
}

#[tokio::test]
async fn o3_a_runner_that_is_stopped_has_stopped() -> Result<(), Any> {
    let world = world().await;
    let store = &world.store;
    let runner = Runner::new(store).read_model::<Balance>().start();
    let first = store.execute(Id::<Account>::from("ann"), Open { owner: "Ann".into() }).await?;
    runner.until(first.position).await?;
    tokio::time::timeout(Duration::from_secs(5), runner.stop()).await.expect("it stops at once");
    store.execute(Id::<Account>::from("bob"), Open { owner: "Bob".into() }).await?;
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!(world.inner.checkpoint("balance@1").await?, first.position);
    // And goes on from there when it is started again.
    let again = Runner::new(store).read_model::<Balance>().start();
    again.until(Position(2)).await?;
    assert_eq!(store.read_model::<Balance>().list().await?.len(), 2);
    again.stop().await;
    Ok(())
}

#[tokio::test]
async fn a_status_says_how_far_it_is() -> Result<(), Any> {
    let world = world().await;
    let runner = Runner::new(&world.store).read_model::<Balance>().start();
    let mut reads = world.store.read().stream(StreamId::new("account", "x")).after_version(Version(0)).raw();
    assert!(reads.try_next().await?.is_none());
    world.store.execute(Id::<Account>::from("x"), Open { owner: "x".into() }).await?;
    runner.until(Position(1)).await?;
    let [Status { name, position, stopped, .. }] = &runner.status()[..] else { panic!("one") };
    assert_eq!((name.as_str(), *position, *stopped), ("balance@1", Position(1), false));
    let status = &runner.status()[0];
    assert_eq!((status.lag(), status.lag_time), (0, Duration::ZERO));
    assert!(status.rate() > 0.0, "{}", status.rate());
    assert_eq!(
        world.inner.read(eventstore::Read { query: Query::all(), ..Default::default() }).await?.head,
        Position(1)
    );
    let projections = eventstore::Processors::new(&world.store);
    runner.stop().await;
    // Nobody takes in what comes now, and it grows old.
    world.store.execute(Id::<Account>::from("y"), Open { owner: "y".into() }).await?;
    world.noon().await;
    world.store.execute(Id::<Account>::from("z"), Open { owner: "z".into() }).await?;
    let status = &projections.status().await?[0];
    assert_eq!((status.lag(), status.rate()), (2, 0.0));
    assert!(status.lag_time >= Duration::from_millis(1), "{:?}", status.lag_time);
    Ok(())
}
