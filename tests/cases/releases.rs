//! Two releases of one program over one log: each can be started and stopped while the other runs.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use eventstore::{
    BoxError, Changes, Column, Event, Expected, Id, Inline, Invalid, Kind, Position, Processors, Runner, Running,
    State, Status, Store, StoreError, StreamId, Table, Timestamp, prelude::*,
};
use serde::{Deserialize, Serialize};
use serde_json::{json, value::to_raw_value};
use tokio::time::{sleep, timeout};

use super::{
    World,
    account::{
        Account,
        AccountEvent::{self, *},
    },
    world,
};

type Any = Box<dyn std::error::Error>;

const LEASE: Duration = Duration::from_millis(300);

/// A row with a column that the release before did not have.
mod noted {
    use super::*;

    #[derive(ReadModel, Serialize, Deserialize, Clone, Default, Debug, PartialEq)]
    #[read_model(name = "holding")]
    pub struct Before {
        pub owner: String,
        pub balance: i64,
    }

    impl Project for Before {
        type Event = AccountEvent;

        fn project(row: &mut Row<Self>, event: &Recorded<AccountEvent>) {
            match &event.data {
                Opened { owner } => row.owner = owner.clone(),
                Deposited { amount } => row.balance += amount,
                Withdrawn { amount } => row.balance -= amount,
                Closed => row.delete(),
            }
        }
    }

    #[derive(ReadModel, Serialize, Deserialize, Clone, Default, Debug, PartialEq)]
    #[read_model(name = "holding")]
    pub struct After {
        pub owner: String,
        pub balance: i64,
        #[read_model(index)]
        pub note: Option<String>,
    }

    impl Project for After {
        type Event = AccountEvent;

        fn project(row: &mut Row<Self>, event: &Recorded<AccountEvent>) {
            match &event.data {
                Opened { owner } => row.owner = owner.clone(),
                Deposited { amount } => {
                    row.balance += amount;
                    row.note = Some(format!("deposit of {amount}"));
                }
                Withdrawn { amount } => row.balance -= amount,
                Closed => row.delete(),
            }
        }
    }
}

/// What was handed over: keys of streams and amounts.
type Got = Arc<Mutex<Vec<(String, i64)>>>;

/// One release of a program: its events, what each adds to a purse, two read models and a subscription.
macro_rules! release {
    ($release:ident { $($variants:tt)* } $($event:pat => $adds:expr),*) => {
        #[allow(dead_code, reason = "not every release has each of them")]
        pub mod $release {
            use super::*;

            #[derive(Event, Clone, Debug, PartialEq)]
            #[event(prefix = "purse")]
            pub enum PurseEvent { $($variants)* }

            #[allow(unused_imports, reason = "not every release has each of them")]
            pub use PurseEvent::*;

            pub fn adds(event: &PurseEvent) -> i64 {
                match event { $($event => $adds),* }
            }

            #[derive(ReadModel, Serialize, Deserialize, Default, Debug, PartialEq)]
            #[read_model(name = "purse")]
            pub struct Purse {
                pub events: i64,
                pub sum: i64,
            }

            impl Project for Purse {
                type Event = PurseEvent;

                fn project(row: &mut Row<Self>, event: &Recorded<PurseEvent>) {
                    row.events += 1;
                    row.sum += adds(&event.data);
                    let poison = adds(&event.data) == super::POISON;
                    assert!(!poison, "nobody can take this in");
                }
            }

            /// One row for all, and one for those of an amount.
            #[derive(ReadModel, Serialize, Deserialize, Default, Debug, PartialEq)]
            #[read_model(name = "amounts", keys = amounts)]
            pub struct Amounts {
                pub events: i64,
                pub sum: i64,
            }

            fn amounts(event: &Recorded<PurseEvent>) -> Vec<String> {
                vec!["all".into(), format!("{}", adds(&event.data).abs() % 7)]
            }

            impl Project for Amounts {
                type Event = PurseEvent;

                fn project(row: &mut Row<Self>, event: &Recorded<PurseEvent>) {
                    row.events += 1;
                    row.sum += adds(&event.data);
                }
            }

            pub struct Till(pub Got);

            impl Subscription for Till {
                const NAME: &'static str = "till";
                type Event = PurseEvent;

                async fn handle(&self, events: &[&Recorded<PurseEvent>]) -> Result<(), BoxError> {
                    let got = events.iter().map(|event| (event.stream.key().to_owned(), adds(&event.data)));
                    self.0.lock().unwrap().extend(got);
                    Ok(())
                }
            }
        }
    };
}

/// An amount that no row can take in.
const POISON: i64 = 666;

release!(first { Filled { amount: i64 }, Spent { amount: i64 } }
    Filled { amount } => *amount, Spent { amount } => -amount);

release!(second { Filled { amount: i64 }, Spent { amount: i64 }, Fee { amount: i64 } }
    Filled { amount } => *amount, Spent { amount } => -amount, Fee { amount } => -amount);

release!(raised {
        #[event(version = 2, upcast(1 => filled_v1))]
        Filled { amount: i64, by: String },
        Spent { amount: i64 }
    }
    Filled { amount, .. } => *amount, Spent { amount } => -amount);

#[derive(Deserialize)]
struct FilledV1 {
    amount: i64,
}

fn filled_v1(FilledV1 { amount }: FilledV1) -> raised::PurseEvent {
    raised::Filled { amount, by: "nobody".into() }
}

/// A program that is built as another one cannot be: its struct has another column than the table.
mod wrong {
    use super::*;

    #[derive(ReadModel, Serialize, Deserialize, Default, Debug, PartialEq)]
    #[read_model(name = "purse")]
    pub struct Purse {
        pub events: i64,
        pub total: i64,
    }

    impl Project for Purse {
        type Event = second::PurseEvent;

        fn project(row: &mut Row<Self>, event: &Recorded<second::PurseEvent>) {
            row.events += 1;
            row.total += second::adds(&event.data);
        }
    }
}

fn stream(key: &str) -> StreamId {
    StreamId::new("purse", key)
}

async fn append<E: Event>(store: &Store, key: &str, event: E) -> Position {
    store.append(stream(key), Expected::Any, [event]).await.unwrap().last
}

/// A store of its own for each program: one knows nothing of what another one runs.
fn program(world: &World) -> Store {
    Store::from(world.inner.clone())
}

fn start_first(world: &World, got: &Got) -> Running {
    let runner = Runner::new(&program(world)).lease(LEASE).read_model::<first::Purse>().read_model::<first::Amounts>();
    runner.subscription(first::Till(got.clone())).from_beginning().start()
}

fn start_second(world: &World, got: &Got) -> Running {
    let runner =
        Runner::new(&program(world)).lease(LEASE).read_model::<second::Purse>().read_model::<second::Amounts>();
    runner.subscription(second::Till(got.clone())).from_beginning().start()
}

/// Comes back when all that a program runs is in a state.
async fn all_are(running: &Running, state: State) -> Vec<Status> {
    let there = async {
        loop {
            let status = running.status();
            if status.iter().all(|status| status.state == state) {
                return status;
            }
            sleep(Duration::from_millis(5)).await;
        }
    };
    match timeout(Duration::from_secs(20), there).await {
        Ok(status) => status,
        Err(_) => panic!("not {state:?}: {:#?}", running.status()),
    }
}

/// What an error is by its type, where the framework says so.
fn typed<'a>(error: &'a (dyn std::error::Error + 'static)) -> &'a StoreError {
    let shared = error.downcast_ref::<Arc<dyn std::error::Error + Send + Sync>>().map(|shared| &**shared as _);
    shared.unwrap_or(error).downcast_ref().unwrap_or_else(|| panic!("{error:?}"))
}

/// That rows are the fold of all events, and that each was handed over once, in the order of its stream.
async fn are_right(world: &World, got: &Got) -> Result<(), Any> {
    let store = program(world);
    let purses = store.read_model::<second::Purse>();
    assert_eq!(purses.list().await?, purses.live().list().await?);
    let amounts = store.read_model::<second::Amounts>();
    assert_eq!(amounts.list().await?, amounts.live().list().await?);
    let mut expected: Vec<(String, i64)> = vec![];
    let mut log = store.read().events::<second::PurseEvent>();
    while let Some(event) = futures::TryStreamExt::try_next(&mut log).await? {
        expected.push((event.stream.key().to_owned(), second::adds(&event.data)));
    }
    let mut got = got.lock().unwrap().clone();
    got.sort_by(|(a, _), (b, _)| a.cmp(b));
    expected.sort_by(|(a, _), (b, _)| a.cmp(b));
    assert_eq!(got, expected);
    Ok(())
}

#[tokio::test]
async fn e5_a_node_that_lacks_a_name_stands_aside_and_nothing_is_passed() -> Result<(), Any> {
    let world = world().await;
    let (store, got) = (&world.store, Got::default());
    let old = start_first(&world, &got);
    let mut last = append(store, "ann", first::Filled { amount: 100 }).await;
    old.until(last).await?;
    let new = start_second(&world, &got);
    for status in all_are(&old, State::Aside).await {
        assert!(!status.stopped, "{status:?}");
        let Some(error) = &status.error else { panic!("{status:?}") };
        let StoreError::Newer { projection, events } = typed(&**error) else { panic!("{error}") };
        assert_eq!((projection, &**events), (&status.name, "`purse.fee`"));
    }
    for amount in 1..=5 {
        append(store, "ann", second::Fee { amount }).await;
        last = append(store, "bob", second::Spent { amount }).await;
        // Who waits on the old node is told when the new one has done it.
        old.until(last).await?;
    }
    new.until(last).await?;
    assert_eq!(store.read_model::<second::Purse>().get("ann").after(last).await?.map(|row| row.sum), Some(85));
    are_right(&world, &got).await?;

    // No program that runs reads all: then it has failed, and says why; nothing is passed meanwhile.
    new.stop().await;
    for status in all_are(&old, State::Failed).await {
        let Some(error) = &status.error else { panic!("{status:?}") };
        assert!(matches!(typed(&**error), StoreError::Newer { .. }), "{error}");
    }
    for status in Processors::new(store).status().await? {
        assert_eq!(status.state, State::Failed, "{status:?}");
        let error = status.error.expect("a reason");
        assert!(matches!(typed(&*error), StoreError::Newer { .. }), "{error}");
    }
    let checkpoint = world.inner.checkpoint("purse@1").await?;
    last = append(store, "ann", first::Spent { amount: 1 }).await;
    let behind = old.until(last).await;
    assert!(matches!(behind, Err(StoreError::Stopped { .. })), "{behind:?}");
    assert_eq!(world.inner.checkpoint("purse@1").await?, checkpoint);

    // Once a program is there again that reads all, it goes on, and the old one stands aside.
    let new = start_second(&world, &got);
    new.until(last).await?;
    all_are(&old, State::Aside).await;
    old.stop().await;
    last = append(store, "ann", second::Fee { amount: 1 }).await;
    new.until(last).await?;
    are_right(&world, &got).await?;
    new.stop().await;
    Ok(())
}

#[tokio::test]
async fn e5_a_release_that_is_taken_back_before_it_recorded_anything_new_leaves_nothing_behind() -> Result<(), Any> {
    let world = world().await;
    let (store, got) = (&world.store, Got::default());
    let old = start_first(&world, &got);
    let mut last = append(store, "ann", first::Filled { amount: 100 }).await;
    old.until(last).await?;
    let new = start_second(&world, &got);
    all_are(&old, State::Aside).await;
    last = append(store, "ann", second::Spent { amount: 1 }).await;
    new.until(last).await?;
    new.stop().await;
    last = append(store, "ann", first::Spent { amount: 2 }).await;
    old.until(last).await?;
    all_are(&old, State::Active).await;
    assert!(old.status().iter().all(|status| status.error.is_none()), "{:?}", old.status());
    are_right(&world, &got).await?;
    // And once more forth.
    let new = start_second(&world, &got);
    all_are(&old, State::Aside).await;
    last = append(store, "ann", second::Fee { amount: 3 }).await;
    new.until(last).await?;
    are_right(&world, &got).await?;
    old.stop().await;
    new.stop().await;
    Ok(())
}

/// Writers are deployed before nodes: the old node passes what it does not read.
#[tokio::test]
async fn e5_rows_of_events_that_an_old_program_passed_are_made_anew_and_no_others() -> Result<(), Any> {
    let world = world().await;
    let store = &world.store;
    let start = |fail: bool| {
        let runner = Runner::new(&program(&world)).lease(LEASE).read_model::<first::Purse>().shards(3);
        let runner = runner.max_parked(if fail { 0 } else { 100 });
        runner.read_model::<first::Amounts>().shards(2).start()
    };
    let old = start(false);
    for n in 0..40 {
        append(store, &format!("p{}", n % 8), first::Filled { amount: n }).await;
    }
    for key in ["p1", "p3", "new"] {
        append(store, key, second::Fee { amount: 5 }).await;
    }
    // One key waits behind an event that nobody can take in, with a fee among what waits.
    append(store, "p3", first::Filled { amount: POISON }).await;
    append(store, "p3", second::Fee { amount: 9 }).await;
    let last = append(store, "p3", first::Spent { amount: 4 }).await;
    super::parked::reached(&old, last).await?;
    let row = async |key: &str| Ok::<_, Any>(store.read_model::<second::Purse>().get(key).await?.map(|row| row.sum));
    assert_eq!((row("p1").await?, row("new").await?), (Some(1 + 9 + 17 + 25 + 33), None));
    old.stop().await;
    // A row that has nothing to do with it was changed by hand, and stays so.
    let spoiled = to_raw_value(&json!({ "events": 0, "sum": -1 }))?;
    let mut transaction = world.inner.begin().await?;
    let changes = Changes { table: second::Purse::TABLE, upserts: vec![("p2".into(), spoiled)], deletes: vec![] };
    transaction.write(changes).await?;
    transaction.commit().await?;

    let runner =
        Runner::new(&program(&world)).lease(LEASE).read_model::<second::Purse>().read_model::<second::Amounts>();
    let new = runner.start();
    super::parked::reached(&new, append(store, "p0", first::Filled { amount: 0 }).await).await?;
    assert_eq!(row("p1").await?, Some(1 + 9 + 17 + 25 + 33 - 5));
    assert_eq!(row("new").await?, Some(-5));
    assert_eq!(row("p2").await?, Some(-1), "it had no event that was passed");
    assert_eq!(row("p3").await?, Some(3 + 11 + 19 + 27 + 35 - 5), "up to the event it waits behind");
    let letters = new.dead_letters("purse").list().await?;
    let letters: Vec<_> = letters.iter().map(|letter| (&*letter.key, &*letter.name)).collect();
    assert_eq!(letters, [("p3", "purse.filled"), ("p3", "purse.fee"), ("p3", "purse.spent")]);
    new.dead_letters("purse").skip("p3", "nobody can").await?;
    assert_eq!(row("p3").await?, Some(95 - 5 - 9 - 4));
    let amounts = store.read_model::<second::Amounts>();
    assert_eq!(amounts.list().await?, amounts.live().list().await?);
    new.stop().await;
    // It is done once: started again, nothing is made anew.
    let new = Runner::new(&program(&world)).lease(LEASE).read_model::<second::Purse>().start();
    new.until(append(store, "p1", second::Fee { amount: 1 }).await).await?;
    assert_eq!((row("p1").await?, row("p2").await?), (Some(79), Some(-1)));
    new.stop().await;
    Ok(())
}

fn amounts(got: &Got) -> Vec<i64> {
    got.lock().unwrap().iter().map(|(_, amount)| *amount).collect()
}

fn till(world: &World, got: &Got) -> Running {
    Runner::new(&program(world)).lease(LEASE).subscription(second::Till(got.clone())).start()
}

#[tokio::test]
async fn e5_a_subscription_that_has_passed_events_waits_for_a_decision() -> Result<(), Any> {
    for (decision, expected) in [
        ("accept", vec![1, -3, 4, -5]),
        ("deliver", vec![1, -3, -2, 4, -5]),
        ("rebuild", vec![1, -3, 1, -2, -3, 4, -5]),
    ] {
        let world = world().await;
        let (store, got) = (&world.store, Got::default());
        let runner = Runner::new(&program(&world)).lease(LEASE).subscription(first::Till(got.clone())).shards(2);
        let old = runner.from_beginning().start();
        append(store, "ann", first::Filled { amount: 1 }).await;
        append(store, "ann", second::Fee { amount: 2 }).await;
        old.until(append(store, "ann", first::Spent { amount: 3 }).await).await?;
        old.stop().await;
        let new = till(&world, &got);
        let last = append(store, "ann", first::Filled { amount: 4 }).await;
        let stopped = new.until(last).await;
        let Err(StoreError::Stopped { projection, reason }) = stopped else { panic!("{stopped:?}") };
        let StoreError::Missed { name, stream: of, position, .. } = typed(&*reason) else { panic!("{reason}") };
        assert_eq!((&*projection, &**name, of, *position), ("till", "purse.fee", &stream("ann"), Position(2)));
        // From another process, also with the type.
        let operator = Processors::new(store);
        let status = operator.status().await?.remove(0);
        assert!(matches!(typed(&*status.error.expect("a reason")), StoreError::Missed { .. }));
        assert_eq!(status.state, State::Failed);
        assert_eq!(amounts(&got), [1, -3], "nothing is handed over before somebody decides");

        match decision {
            "accept" => operator.accept("till").await?,
            "deliver" => operator.deliver_missed("till").await?,
            _ => operator.rebuild("till").await?.wait().await?,
        }
        all_are(&new, State::Active).await;
        new.until(last).await?;
        new.until(append(store, "ann", second::Fee { amount: 5 }).await).await?;
        assert_eq!(amounts(&got), expected, "{decision}");
        let nothing = operator.accept("till").await;
        assert!(matches!(nothing, Err(StoreError::Invalid(Invalid::Request(_)))), "{nothing:?}");
        // It is decided once.
        new.stop().await;
        let new = till(&world, &got);
        new.until(append(store, "bob", second::Fee { amount: 6 }).await).await?;
        assert_eq!(amounts(&got), [expected, vec![-6]].concat());
        new.stop().await;
    }
    Ok(())
}

#[tokio::test]
async fn e5_what_waits_for_a_decision_goes_on_in_the_release_before() -> Result<(), Any> {
    let world = world().await;
    let (store, got) = (&world.store, Got::default());
    let runner = Runner::new(&program(&world)).lease(LEASE).subscription(first::Till(got.clone()));
    let old = runner.from_beginning().start();
    append(store, "ann", second::Fee { amount: 2 }).await;
    old.until(append(store, "ann", first::Filled { amount: 3 }).await).await?;
    let new = till(&world, &got);
    all_are(&new, State::Failed).await;
    all_are(&old, State::Failed).await;
    new.stop().await;
    // The new release is taken back: the old one never read what is in question.
    all_are(&old, State::Active).await;
    old.until(append(store, "ann", first::Filled { amount: 4 }).await).await?;
    let new = till(&world, &got);
    all_are(&new, State::Failed).await;
    Processors::new(store).deliver_missed("till").await?;
    all_are(&new, State::Active).await;
    new.until(append(store, "ann", first::Filled { amount: 5 }).await).await?;
    assert_eq!(amounts(&got), [3, 4, -2, 5]);
    new.stop().await;
    old.stop().await;
    Ok(())
}

#[tokio::test]
async fn e5_a_later_version_of_an_event_fails_no_node_that_can_read_it() -> Result<(), Any> {
    let world = world().await;
    let store = &world.store;
    let start_old = || Runner::new(&program(&world)).lease(LEASE).read_model::<first::Purse>().shards(2).start();
    let start_new = || Runner::new(&program(&world)).lease(LEASE).read_model::<raised::Purse>().start();
    let new_fill = |amount| raised::Filled { amount, by: "Ann".into() };
    let old = [start_old(), start_old()];
    let mut last = append(store, "ann", first::Filled { amount: 1 }).await;
    old[0].until(last).await?;
    let new = start_new();
    for old in &old {
        let status = all_are(old, State::Aside).await.remove(0);
        let error = status.error.expect("a reason");
        assert!(error.to_string().contains("version 2 of `purse.filled`"), "{error}");
    }
    last = append(store, "ann", new_fill(10)).await;
    new.until(last).await?;
    assert_eq!(Processors::new(store).status().await?[0].state, State::Active);
    new.stop().await;
    // What is in the rows already is no matter: the old ones go on, until they meet one.
    last = append(store, "ann", first::Spent { amount: 2 }).await;
    old[0].until(last).await?;
    last = append(store, "bob", new_fill(100)).await;
    for old in &old {
        all_are(old, State::Failed).await;
        let stopped = old.until(last).await;
        assert!(matches!(stopped, Err(StoreError::Stopped { .. })), "{stopped:?}");
    }
    let status = Processors::new(store).status().await?.remove(0);
    let error = status.error.expect("a reason");
    assert!(matches!(typed(&*error), StoreError::Newer { .. }), "{error}");
    assert_eq!(status.state, State::Failed);

    // A program that reads it needs nobody to say that it may.
    let new = start_new();
    new.until(last).await?;
    for old in old {
        all_are(&old, State::Aside).await;
        old.stop().await;
    }
    let purses = store.read_model::<raised::Purse>();
    assert_eq!(purses.list().await?, purses.live().list().await?);
    new.stop().await;
    Ok(())
}

#[tokio::test]
async fn e5_a_program_that_cannot_run_a_model_leaves_it_to_those_that_can() -> Result<(), Any> {
    let world = world().await;
    let store = &world.store;
    let start_old = || Runner::new(&program(&world)).lease(LEASE).read_model::<first::Purse>().start();
    let old = start_old();
    old.until(append(store, "ann", first::Filled { amount: 1 }).await).await?;
    let canary = Runner::new(&program(&world)).lease(LEASE).read_model::<wrong::Purse>().start();
    let status = all_are(&canary, State::Aside).await.remove(0);
    assert!(!status.stopped, "{status:?}");
    let error = status.error.expect("a reason");
    assert!(error.to_string().contains("has other columns"), "{error}");
    for amount in 2..=5 {
        let last = append(store, "ann", first::Filled { amount }).await;
        old.until(last).await?;
        canary.until(last).await?;
        assert_eq!(Processors::new(store).status().await?[0].state, State::Active);
    }
    none_has_stopped(&[&old]);
    // Alone, it has failed; and the other one needs nobody to say that it may go on.
    old.stop().await;
    all_are(&canary, State::Failed).await;
    assert_eq!(Processors::new(store).status().await?[0].state, State::Failed);
    let old = start_old();
    old.until(append(store, "ann", first::Filled { amount: 6 }).await).await?;
    all_are(&canary, State::Aside).await;
    assert_eq!(store.read_model::<first::Purse>().get("ann").await?.map(|row| row.sum), Some(21));
    canary.stop().await;
    old.stop().await;
    Ok(())
}

#[tokio::test]
async fn e5_inline_rows_pass_no_event_that_only_a_newer_program_reads() -> Result<(), Any> {
    let world = world().await;
    let plain = &world.store;
    let old = program(&world).with_inline::<first::Purse>().with_inline::<first::Amounts>();
    append(&old, "ann", first::Filled { amount: 100 }).await;
    let new = program(&world).with_inline::<second::Purse>().with_inline::<second::Amounts>();
    let right = async || {
        let (purses, amounts) = (new.read_model::<second::Purse>(), new.read_model::<second::Amounts>());
        assert_eq!(purses.list().await?, purses.live().list().await?);
        assert_eq!(amounts.list().await?, amounts.live().list().await?);
        Ok::<_, Any>(())
    };
    // Side by side, as long as each keeps what it appends.
    for amount in 1..=3 {
        append(&new, "ann", second::Fee { amount }).await;
        append(&old, "ann", first::Spent { amount }).await;
        right().await?;
    }
    // What was appended without the rows is for a program that reads it.
    append(plain, "bob", second::Fee { amount: 7 }).await;
    let head = plain.head().await?;
    let refused = old.append(stream("ann"), Expected::Any, [first::Spent { amount: 1 }]).await;
    let Err(error @ StoreError::Newer { .. }) = refused else { panic!("{refused:?}") };
    assert!(error.is_retryable() && error.is_newer());
    assert!(error.to_string().contains("`purse.fee`"), "{error}");
    assert_eq!(plain.head().await?, head, "nothing is recorded");
    let tx = old.begin().await;
    assert!(tx.is_ok_and(|_| true), "a transaction that appends nothing is nobody's business");
    append(&new, "cem", second::Filled { amount: 1 }).await;
    append(&old, "ann", first::Spent { amount: 1 }).await;
    right().await
}

#[tokio::test]
async fn e5_inline_rows_of_events_that_an_old_program_passed_are_made_anew() -> Result<(), Any> {
    let world = world().await;
    let plain = &world.store;
    let old = program(&world).with_inline::<first::Purse>().with_inline::<first::Amounts>();
    for n in 0..20 {
        let key = format!("p{}", n % 5);
        append(&old, &key, first::Filled { amount: n }).await;
        append(plain, &key, second::Fee { amount: 1 }).await;
    }
    append(&old, "p0", first::Filled { amount: 1 }).await;
    let new = program(&world).with_inline::<second::Purse>().with_inline::<second::Amounts>();
    let (purses, amounts) = (new.read_model::<second::Purse>(), new.read_model::<second::Amounts>());
    append(&new, "p1", second::Filled { amount: 1 }).await;
    assert_eq!(purses.list().await?, purses.live().list().await?);
    assert_eq!(amounts.list().await?, amounts.live().list().await?);
    // Both go on.
    append(&old, "p1", first::Filled { amount: 1 }).await;
    append(&new, "p2", second::Fee { amount: 1 }).await;
    append(&old, "p3", first::Filled { amount: 1 }).await;
    assert_eq!(purses.list().await?, purses.live().list().await?);
    assert_eq!(amounts.list().await?, amounts.live().list().await?);
    Ok(())
}

/// Writes a row of the engine, as a later release may.
async fn of_tomorrow(world: &World, table: Table, key: &str, row: serde_json::Value) -> Result<(), Any> {
    world.inner.create(&table).await?;
    let mut transaction = world.inner.begin().await?;
    // Where it is about a processor: nobody changes that meanwhile.
    transaction.lock_projection(key).await?;
    let upserts = vec![(key.into(), to_raw_value(&row)?)];
    transaction.write(Changes { table, upserts, deletes: vec![] }).await?;
    Ok(transaction.commit().await?)
}

const fn table(name: &'static str, columns: &'static [Column]) -> Table {
    Table { name, version: 0, columns, shadow: false }
}

const REQUESTS: Table = table(
    "requests",
    &[
        Column::new("projection", Kind::Text),
        Column::new("of", Kind::Text),
        Column::new("what", Kind::Json),
        Column::new("asked_at", Kind::Time),
        Column::new("answer", Kind::Json),
        Column::new("error", Kind::Text),
    ],
);

const NODES: Table = table(
    "nodes",
    &[
        Column::new("beat", Kind::Integer),
        Column::new("beat_at", Kind::Time),
        Column::new("started_at", Kind::Time),
        Column::new("process", Kind::Text),
        Column::new("projections", Kind::Json),
    ],
);

const READS: &[Column] = &[Column::optional("reads", Kind::Json)];

#[tokio::test]
async fn e5_rows_of_a_later_release_disturb_no_node() -> Result<(), Any> {
    let world = world().await;
    let (store, got) = (&world.store, Got::default());
    let running = start_first(&world, &got);
    running.until(append(store, "ann", first::Filled { amount: 1 }).await).await?;
    let asked_at = Timestamp::from(std::time::SystemTime::now());
    let request = |what: serde_json::Value, asked_at: Option<Timestamp>| json!({ "projection": "purse@1", "of": "ann", "what": what, "asked_at": asked_at });
    let long_ago: Timestamp = "2001-09-09T01:46:40Z".parse()?;
    let old_id = "00e1a3c0-0000-7000-8000-000000000000";
    for (key, row) in [
        ("01920000-0000-7000-8000-000000000001", request(json!("explode"), Some(asked_at))),
        ("01920000-0000-7000-8000-000000000002", request(json!({ "explode": 1 }), Some(long_ago))),
        (old_id, json!({ "projection": null, "what": 7 })),
        ("no uuid", json!({ "of": null })),
    ] {
        of_tomorrow(&world, REQUESTS, key, row).await?;
    }
    let node = |projections| json!({ "beat": 1, "beat_at": asked_at, "projections": projections });
    of_tomorrow(&world, NODES, "01920000-0000-7000-8000-00000000000a", node(json!({ "purse@1": true }))).await?;
    of_tomorrow(&world, NODES, "a node", node(json!(["purse@1"]))).await?;
    of_tomorrow(&world, NODES, "01920000-0000-7000-8000-00000000000b", json!({ "beat": null })).await?;
    let with_reads = table("nodes", [NODES.columns, READS].concat().leak());
    let strange = json!({ "beat": 1, "beat_at": asked_at, "projections": ["purse@1"], "reads": [1, 2] });
    of_tomorrow(&world, with_reads, "01920000-0000-7000-8000-00000000000c", strange).await?;

    for amount in 2..=4 {
        sleep(LEASE).await;
        running.until(append(store, "ann", first::Filled { amount }).await).await?;
    }
    assert!(running.status().iter().all(|status| status.error.is_none()), "{:?}", running.status());
    running.rebuild_key("purse", "ann").await?;
    // What is older than anybody waits for is gone; the other rows may be asked for by somebody who knows them.
    let left = |rows: Vec<(String, Box<serde_json::value::RawValue>)>| {
        rows.into_iter().map(|(key, _)| key).collect::<Vec<_>>()
    };
    let rows = eventstore::Rows::Where { table: REQUESTS, equal: vec![], order: Default::default(), limit: None };
    assert_eq!(left(world.inner.rows(rows).await?), ["01920000-0000-7000-8000-000000000001", "no uuid"]);
    are_right(&world, &got).await?;
    running.stop().await;
    Ok(())
}

const STATES: Table = table("projections", &[Column::new("state", Kind::Text), Column::optional("word", Kind::Json)]);

/// A state, or an operator's word, that only a later release knows: this one does not run what it is said of.
#[tokio::test]
async fn e5_what_a_later_release_has_said_of_a_processor_is_not_ignored() -> Result<(), Any> {
    for said in [json!({ "state": "sealed" }), json!({ "state": "active", "word": { "what": "explode" } })] {
        let world = world().await;
        let (store, got) = (&world.store, Got::default());
        let running = start_first(&world, &got);
        running.until(append(store, "ann", first::Filled { amount: 1 }).await).await?;
        // The whole row, for a store in memory keeps no columns that are not written.
        let known = eventstore::Rows::Whole {
            table: "projections".into(),
            keys: vec!["purse@1".into()],
            after: String::new(),
            limit: 1,
        };
        let mut row: serde_json::Value = serde_json::from_str(world.inner.rows(known).await?[0].1.get())?;
        row.as_object_mut().ok_or("a row")?.extend(said.as_object().ok_or("said")?.clone());
        of_tomorrow(&world, STATES, "purse@1", row).await?;
        let mut transaction = world.inner.begin().await?;
        let mut shards = transaction.lock_projection("purse@1").await?;
        shards.iter_mut().for_each(|(_, at)| (at.owner, at.epoch) = (None, at.epoch + 1));
        transaction.put_shards("purse@1", shards).await?;
        transaction.commit().await?;
        sleep(LEASE).await;
        let last = append(store, "ann", first::Filled { amount: 2 }).await;
        sleep(LEASE * 2).await;
        assert_eq!(world.inner.checkpoint("purse@1").await?, Position(1), "{said}");
        assert_eq!(world.inner.checkpoint("amounts@1").await?, last, "the others go on");
        if said["state"] == "sealed" {
            for refused in [running.pause("purse").await, running.resume("purse").await] {
                let told =
                    matches!(&refused, Err(StoreError::Invalid(Invalid::Request(why))) if why.contains("`sealed`"));
                assert!(told, "{refused:?}");
            }
            let status = Processors::new(store).status().await?;
            let aside = |status: &Status| status.name == "purse@1" && status.state == State::Aside;
            assert!(status.iter().any(aside), "{status:?}");
        }
        running.stop().await;
    }
    Ok(())
}

#[tokio::test]
async fn e5_while_a_node_of_release_0_1_beats_nothing_runs_beside_it() -> Result<(), Any> {
    let world = world().await;
    let (store, got) = (&world.store, Got::default());
    let last = append(store, "ann", first::Filled { amount: 1 }).await;
    let beat = async |n: i64, beat_at: Timestamp| {
        let row = json!({ "beat": n, "beat_at": beat_at, "started_at": beat_at, "process": "old, process 1", "projections": ["purse@1"] });
        of_tomorrow(&world, NODES, "01920000-0000-7000-8000-00000000000a", row).await
    };
    // One that was stopped long ago keeps nobody.
    beat(1, "2001-09-09T01:46:40Z".parse()?).await?;
    let running = start_first(&world, &got);
    running.until(last).await?;
    running.stop().await;

    beat(2, world.inner.now()).await?;
    let running = start_first(&world, &got);
    for n in 3..10 {
        beat(n, world.inner.now()).await?;
        sleep(LEASE / 4).await;
    }
    let last = append(store, "ann", first::Filled { amount: 2 }).await;
    let stopped = running.until(last).await;
    let Err(StoreError::Stopped { reason, .. }) = stopped else { panic!("{stopped:?}") };
    assert!(matches!(typed(&*reason), StoreError::OldRelease { process } if process == "old, process 1"), "{reason}");
    assert_eq!(world.inner.checkpoint("purse@1").await?, Position(1));
    // It is silent for a lease, and then it is gone.
    let goes_on = async {
        while running.until(last).await.is_err() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(20), goes_on).await?;
    running.stop().await;
    Ok(())
}

fn none_has_stopped(running: &[&Running]) {
    for status in running.iter().flat_map(|running| running.status()) {
        assert!(!status.stopped && status.error.is_none() && status.state != State::Failed, "{status:?}");
    }
}

#[tokio::test]
async fn p4_an_optional_column_is_added_while_programs_without_it_run() -> Result<(), Any> {
    let world = world().await;
    let (store, ann) = (&world.store, Id::<Account>::from("ann"));
    let old = Runner::new(store).lease(LEASE).read_model::<noted::Before>().start();
    let first = store.append(&ann, Expected::Any, [Opened { owner: "Ann".into() }, Deposited { amount: 5 }]).await?;
    old.until(first.last).await?;
    let before = async || store.read_model::<noted::Before>().get(&ann).await;
    let after = async || store.read_model::<noted::After>().get(&ann).await;
    let row = noted::After { owner: "Ann".into(), balance: 5, note: None };
    // A program that reads may be there before the one that adds the column.
    assert_eq!(after().await?, Some(row.clone()));
    let noted = store.read_model::<noted::After>().list().filter("note", "deposit of 5");
    assert_eq!(noted.await?, []);

    let new = Runner::new(store).lease(LEASE).read_model::<noted::After>().start();
    new.until(first.last).await?;
    assert_eq!(after().await?, Some(row));
    for amount in 1..=5 {
        let written = store.append(&ann, Expected::Any, [Deposited { amount }]).await?;
        old.until(written.last).await?;
        new.until(written.last).await?;
    }
    none_has_stopped(&[&old, &new]);
    old.stop().await;
    let written = store.append(&ann, Expected::Any, [Deposited { amount: 6 }]).await?;
    new.until(written.last).await?;
    let row = noted::After { owner: "Ann".into(), balance: 26, note: Some("deposit of 6".into()) };
    assert_eq!(store.read_model::<noted::After>().list().filter("note", "deposit of 6").await?.len(), 1);

    // The release before is started once more, and knows nothing of the column.
    let old = Runner::new(store).lease(LEASE).read_model::<noted::Before>().start();
    let written = store.append(&ann, Expected::Any, [Withdrawn { amount: 1 }]).await?;
    old.until(written.last).await?;
    new.until(written.last).await?;
    assert_eq!(after().await?, Some(noted::After { balance: 25, ..row }));
    assert_eq!(before().await?, Some(noted::Before { owner: "Ann".into(), balance: 25 }));
    none_has_stopped(&[&old, &new]);
    new.stop().await;
    old.stop().await;
    Ok(())
}

#[tokio::test]
async fn p4_an_optional_column_is_added_to_an_inline_model() -> Result<(), Any> {
    let world = world().await;
    let ann = Id::<Account>::from("ann");
    let old = world.store.clone().with_inline::<noted::Before>();
    old.append(&ann, Expected::Any, [Opened { owner: "Ann".into() }, Deposited { amount: 5 }]).await?;
    let new = world.store.clone().with_inline::<noted::After>();
    let get = async || new.read_model::<noted::After>().get(&ann).await;
    assert_eq!(get().await?, Some(noted::After { owner: "Ann".into(), balance: 5, note: None }));
    for store in [&new, &old, &new] {
        store.append(&ann, Expected::Any, [Deposited { amount: 1 }]).await?;
    }
    assert_eq!(get().await?, Some(noted::After { owner: "Ann".into(), balance: 8, note: Some("deposit of 1".into()) }));
    assert_eq!(old.read_model::<noted::Before>().get(&ann).await?.map(|row| row.balance), Some(8));
    Ok(())
}

/// Finding F1: built again, all rows have the column, whichever release began it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p4_a_model_with_an_optional_column_more_is_built_again() -> Result<(), Any> {
    let world = world().await;
    let (store, ann) = (&world.store, Id::<Account>::from("ann"));
    let old = || Runner::new(store).lease(LEASE).read_model::<noted::Before>().start();
    let new = || Runner::new(store).lease(LEASE).read_model::<noted::After>().start();
    let running = old();
    let first = store.append(&ann, Expected::Any, [Opened { owner: "Ann".into() }, Deposited { amount: 5 }]).await?;
    running.until(first.last).await?;
    // The shadow has the columns of the release before.
    running.rebuild("holding").await?.wait().await?;
    running.stop().await;

    let running = new();
    let second = store.append(&ann, Expected::Any, [Deposited { amount: 6 }]).await?;
    running.until(second.last).await?;
    running.promote("holding").await?;
    let get = async || store.read_model::<noted::After>().get(&ann).await;
    let row = noted::After { owner: "Ann".into(), balance: 11, note: Some("deposit of 6".into()) };
    assert_eq!(get().await?, Some(row.clone()));
    let bob = Id::<Account>::from("bob");
    running.rebuild("holding").await?.wait().await?;
    running.promote("holding").await?;
    let third = store.append(&bob, Expected::Any, [Opened { owner: "Bob".into() }, Deposited { amount: 1 }]).await?;
    running.until(third.last).await?;
    assert_eq!(get().await?, Some(row.clone()));
    assert_eq!(store.read_model::<noted::After>().list().filter("note", "deposit of 1").await?.len(), 1);
    none_has_stopped(&[&running]);
    running.stop().await;

    // The release before takes its place again.
    let running = old();
    let fourth = store.append(&ann, Expected::Any, [Withdrawn { amount: 1 }]).await?;
    running.until(fourth.last).await?;
    assert_eq!(get().await?, Some(noted::After { balance: 10, ..row }));
    none_has_stopped(&[&running]);
    running.stop().await;
    Ok(())
}
