//! Commands over one stream: races, retries, refusals, and everything that can be said beside a command.

use std::sync::Arc;

use eventstore::{
    CommandError, Conflict, Event, EventError, EventStore, Expected, Id, Invalid, Position, Query, Store, StoreError,
    StreamId, Timestamp, Version, Write, every, prelude::*,
};
use futures::TryStreamExt;
use serde_json::json;
use uuid::Uuid;

use super::{
    Between,
    account::{AccountEvent::*, *},
    raw, world,
};

type Any = Box<dyn std::error::Error>;

#[test]
fn money_can_be_withdrawn_until_it_runs_out() {
    Account::given([Opened { owner: "Ann".into() }, Deposited { amount: 100 }])
        .when(Withdraw { amount: 60 })
        .then([Withdrawn { amount: 60 }])
        .when(Withdraw { amount: 60 })
        .then_rejected(AccountError::Insufficient(40))
        .when(Withdraw { amount: 40 })
        .then([Withdrawn { amount: 40 }])
        .when(Close)
        .then([Closed]);
}

#[test]
#[should_panic(expected = "amount: 61,\n+             amount: 60,")]
fn a_wrong_expectation_shows_the_lines_that_differ() {
    Account::given([Opened { owner: "Ann".into() }, Deposited { amount: 100 }])
        .when(Withdraw { amount: 60 })
        .then([Withdrawn { amount: 61 }]);
}

async fn opened(store: &Store, deposit: i64) -> Id<Account> {
    let ann = Id::<Account>::new();
    store.execute(&ann, Open { owner: "Ann".into() }).await.unwrap();
    store.execute(&ann, Deposit { amount: deposit }).await.unwrap();
    ann
}

#[tokio::test]
async fn a_refusal_is_a_value_with_the_numbers_in_it() {
    let world = world().await;
    let ann = opened(&world.store, 100).await;
    match world.store.execute(&ann, Withdraw { amount: 150 }).await {
        Err(CommandError::Rejected(AccountError::Insufficient(balance))) => assert_eq!(balance, 100),
        other => panic!("{other:?}"),
    }
    assert_eq!(world.store.head().await.unwrap(), Position(2), "a refusal leaves no trace");
}

#[tokio::test]
async fn an_acknowledgement_says_what_was_recorded_and_what_it_made() -> Result<(), Any> {
    let world = world().await;
    let store = world.store.clone().with_source("branch");
    let ann = Id::<Account>::from("ACC-42");
    store.execute(&ann, Open { owner: "Ann".into() }).await?;
    let conversation = Uuid::now_v7();
    let deposited = store
        .execute(&ann, Deposit { amount: 100 })
        .by("teller-7")
        .correlation(conversation)
        .metadata("branch-office", 12)
        .await?;
    assert_eq!((deposited.version, deposited.position, deposited.state.balance), (Version(2), Position(2), 100));
    assert_eq!(deposited.stream, ann);
    let event = &deposited.events[0];
    assert_eq!((event.version, event.position, &event.data), (Version(2), Position(2), &Deposited { amount: 100 }));
    assert_eq!(event.metadata.actor.as_deref(), Some("teller-7"));
    assert_eq!(event.metadata.source.as_deref(), Some("branch"));
    assert_eq!(event.metadata.correlation_id, conversation);
    assert_eq!(event.metadata.extra["branch-office"], json!(12));

    let answer = store.execute(&ann, Withdraw { amount: 5 }).caused_by(event).await?;
    let metadata = &answer.events[0].metadata;
    assert_eq!((metadata.causation_id, metadata.correlation_id), (Some(event.id), conversation));
    assert_ne!(metadata.command_id, event.metadata.command_id);

    // What was given back is what everybody reads.
    let read: Vec<_> = store.read().stream(&ann).events::<AccountEvent>().try_collect().await?;
    assert_eq!(read[1..], [event.clone(), answer.events[0].clone()]);
    Ok(())
}

#[tokio::test]
async fn c1_a_command_with_an_id_happens_once() -> Result<(), Any> {
    let world = world().await;
    let store = &world.store;
    let ann = Id::<Account>::new();
    let id = Uuid::now_v7();
    let first = store.execute(&ann, Open { owner: "Ann".into() }).command_id(id).await?;
    store.execute(&ann, Deposit { amount: 1 }).await?;
    let again = store.execute(&ann, Open { owner: "Ann".into() }).command_id(id).await?;
    assert_eq!((first.version, first.position, &first.state), (again.version, again.position, &again.state));
    assert_eq!(first.events, again.events);

    let bob = store.execute(Id::<Account>::from("bob"), Open { owner: "Bob".into() }).command_id(id).await;
    let Err(CommandError::Store(StoreError::Reused { command, stream })) = bob else { panic!("{bob:?}") };
    assert_eq!((command, stream), (id, ann.stream()));

    // A refusal leaves no trace: the same id may succeed later.
    let later = Uuid::now_v7();
    let refused = store.execute(&ann, Withdraw { amount: 50 }).command_id(later).await;
    assert!(matches!(refused, Err(CommandError::Rejected(AccountError::Insufficient(1)))));
    store.execute(&ann, Deposit { amount: 99 }).await?;
    store.execute(&ann, Withdraw { amount: 50 }).command_id(later).await?;
    assert_eq!(store.load(&ann).await?.balance, 50);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c1_a_command_that_runs_many_times_at_once_is_recorded_once() {
    let world = world().await;
    let ann = opened(&world.store, 0).await;
    for round in 1..=10 {
        let id = Uuid::now_v7();
        let callers = (0..6).map(|_| {
            let call = world.store.execute(&ann, Deposit { amount: 1 }).command_id(id);
            tokio::spawn(call.into_future())
        });
        let mut answers = vec![];
        for caller in callers.collect::<Vec<_>>() {
            answers.push(caller.await.unwrap().unwrap());
        }
        assert!(answers.iter().all(|answer| answer.events == answers[0].events && answer.state.balance == round));
    }
    assert_eq!(world.store.load(&ann).await.unwrap().balance, 10);
}

#[tokio::test]
async fn c1_the_first_answer_counts_also_after_a_lost_race() {
    let world = world().await;
    let ann = Id::<Account>::new();
    let id = Uuid::now_v7();
    // The same command gets in after this one has decided. Deciding again would refuse: the account is open by then.
    let twin = {
        let ann = ann.clone();
        move |store: Store| async move {
            store.execute(&ann, Open { owner: "first".into() }).command_id(id).await.unwrap();
        }
    };
    let racing = Store::from(Between::new(&world.inner).let_in(twin));
    let answer = racing.execute(&ann, Open { owner: "second".into() }).command_id(id).await.unwrap();
    assert_eq!(answer.events[0].data, Opened { owner: "first".into() });
    assert_eq!(world.store.head().await.unwrap(), Position(1));
}

#[tokio::test]
async fn c2_whoever_loses_a_race_decides_again_on_the_new_state() {
    let world = world().await;
    let quiet = &world.store;
    let ann = opened(quiet, 100).await;
    let racing = |ann: Id<Account>| {
        let intruder = move |store: Store| async move {
            store.execute(&ann, Withdraw { amount: 70 }).await.unwrap();
        };
        Store::from(Between::new(&world.inner).let_in(intruder))
    };
    // Both want 70 of 100: the second is told what is left, not that it lost a race.
    let refused = racing(ann.clone()).execute(&ann, Withdraw { amount: 70 }).await;
    assert!(matches!(refused, Err(CommandError::Rejected(AccountError::Insufficient(30)))), "{refused:?}");

    quiet.execute(&ann, Deposit { amount: 100 }).await.unwrap();
    let lost = racing(ann.clone()).execute(&ann, Withdraw { amount: 1 }).retries(0).await;
    let Err(CommandError::Conflict(conflict)) = lost else { panic!("{lost:?}") };
    let between = "expected: version 4; in between: `account.withdrawn`";
    assert_eq!(conflict.to_string(), format!("stream {} is at version 5; {between}", ann.stream()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c2_fifty_deposits_at_once_all_count() {
    let world = world().await;
    let ann = opened(&world.store, 0).await;
    let call = |_| tokio::spawn(world.store.execute(&ann, Deposit { amount: 1 }).retries(200).into_future());
    for task in (0..50).map(call).collect::<Vec<_>>() {
        task.await.unwrap().unwrap();
    }
    let ann = world.store.load(&ann).await.unwrap();
    assert_eq!((ann.balance, ann.version), (50, Version(52)));
}

#[tokio::test]
async fn a4_whoever_says_what_it_has_seen_is_told_when_that_has_changed() -> Result<(), Any> {
    let world = world().await;
    let store = &world.store;
    let ann = opened(store, 100).await;
    let seen = store.load(&ann).await?;
    store.execute(&ann, Withdraw { amount: 1 }).expecting(seen.version).await?;
    let stale = store.execute(&ann, Withdraw { amount: 1 }).expecting(seen.version).await;
    assert!(stale.as_ref().is_err_and(CommandError::is_conflict));
    let Err(CommandError::Conflict(conflict)) = stale else { panic!("{stale:?}") };
    let between = "expected: version 2; in between: `account.withdrawn`";
    assert_eq!(conflict.to_string(), format!("stream {} is at version 3; {between}", ann.stream()));
    let late = store.append(&ann, Expected::Version(Version(1)), [AccountEvent::Deposited { amount: 1 }]).await;
    let Err(StoreError::Conflict(conflict)) = late else { panic!("{late:?}") };
    assert_eq!(conflict.between, ["account.deposited".into(), "account.withdrawn".into()]);
    let new = Conflict::new(ann.stream(), Expected::Version(Version(0)), Version(3));
    assert_eq!(new.to_string(), format!("stream {} is at version 3; expected: no such stream", ann.stream()));

    let seen = store.load(&ann).await?;
    store.execute(Id::<Account>::from("bob"), Open { owner: "Bob".into() }).await?;
    store.execute(&ann, Withdraw { amount: 1 }).expecting_position(seen.position).await?;
    let stale = store.execute(&ann, Withdraw { amount: 1 }).expecting_position(seen.position).await;
    let Err(CommandError::Conflict(conflict)) = stale else { panic!("{stale:?}") };
    assert_eq!((conflict.stream, conflict.actual), (ann.stream(), Version(4)));
    assert_eq!(conflict.between, ["account.withdrawn".into()]);
    Ok(())
}

#[tokio::test]
async fn events_are_appended_without_any_aggregate() -> Result<(), Any> {
    let world = world().await;
    let store = &world.store;
    let (ann, bob) = (StreamId::new("account", "ann"), Id::<Account>::from("bob"));
    let then: Timestamp = "2001-09-09T01:46:40Z".parse()?;
    let written = store
        .append(&ann, Expected::Version(Version(0)), [Opened { owner: "Ann".into() }, Deposited { amount: 7 }])
        .and(&bob, Expected::Any, [Opened { owner: "Bob".into() }])
        .by("importer")
        .occurred_at(then)
        .command_id(Uuid::from_u128(7))
        .await?;
    assert_eq!(written.streams, [(ann.clone(), Version(2)), (bob.stream(), Version(1))]);
    assert_eq!((written.first, written.last), (Position(1), Position(3)));
    let events: Vec<_> = store.read().events::<AccountEvent>().try_collect().await?;
    assert!(
        events.iter().all(|event| event.occurred_at == then && event.metadata.actor.as_deref() == Some("importer"))
    );
    assert!(events.iter().all(|event| event.recorded_at == written.recorded_at && event.recorded_at > then));

    // a2, a4: the second does not hold, so the first is not written either.
    let failed = store
        .append(&ann, Expected::Exists, [Deposited { amount: 1 }])
        .and(&bob, Expected::Version(Version(0)), [Opened { owner: "Bob".into() }])
        .await;
    assert!(failed.is_err_and(|error| error.is_conflict()));
    assert_eq!(store.load(&bob).await?.version, Version(1));
    assert_eq!(store.head().await?, Position(3));

    // a5: the same command again, and the same id for something else.
    let again = |owner: &str| {
        store
            .append(&ann, Expected::Version(Version(0)), [Opened { owner: owner.into() }, Deposited { amount: 7 }])
            .and(&bob, Expected::Any, [Opened { owner: "Bob".into() }])
            .command_id(Uuid::from_u128(7))
    };
    let replay = again("Ann").await?;
    assert!(replay.replayed && replay.streams == written.streams && replay.last == written.last);
    let other = again("Bea").await;
    assert!(matches!(other, Err(StoreError::Duplicate { command, .. }) if command == Uuid::from_u128(7)));
    Ok(())
}

#[tokio::test]
async fn the_log_is_read_as_one_asks_for_it() -> Result<(), Any> {
    let world = world().await;
    let store = &world.store;
    let (ann, bob) = (opened(store, 1).await, opened(store, 2).await);
    store.append(StreamId::new("audit", "x"), Expected::Any, [Opened { owner: "audit".into() }]).await?;
    let events = async |read: eventstore::ReadEvents| -> Result<Vec<u64>, StoreError> {
        read.events::<AccountEvent>().map_ok(|event| event.position.0).try_collect().await
    };
    assert_eq!(events(store.read()).await?, [1, 2, 3, 4, 5]);
    assert_eq!(events(store.read().stream(&bob)).await?, [3, 4]);
    assert_eq!(events(store.read().stream(bob.stream()).after_version(Version(1))).await?, [4]);
    assert_eq!(events(store.read().category("account")).await?, [1, 2, 3, 4]);
    assert_eq!(events(store.read().category("account").names(["account.opened"])).await?, [1, 3]);
    assert_eq!(events(store.read().names(["account.opened"]).after(Position(1))).await?, [3, 5]);
    assert_eq!(events(store.read().after(Position(1)).until(Position(4)).limit(2)).await?, [2, 3]);
    assert_eq!(events(store.read().stream(Id::<Account>::from("nobody"))).await?, [0_u64; 0]);
    let raw: Vec<_> = store.read().stream(&ann).raw().try_collect().await?;
    assert_eq!(String::from_utf8_lossy(&raw[1].data.body), r#"{"amount":1}"#);
    let bad = events(store.read().category("no such category!")).await;
    assert!(matches!(bad, Err(StoreError::Invalid(Invalid::Name { .. }))));
    Ok(())
}

#[tokio::test]
async fn p8_an_event_that_cannot_be_read_is_named_and_never_skipped() {
    let world = world().await;
    let ann = opened(&world.store, 1).await;
    for (name, schema, body) in
        [("account.deposited", 1, "{\"amount\":\"much\"}"), ("account.deposited", 9, "{}"), ("who.knows", 1, "{}")]
    {
        let stream = Id::<Account>::new().stream();
        let opened = raw("account.opened", br#"{"owner":"x"}"#);
        let bad = eventstore::NewEvent { schema, ..raw(name, body.as_bytes()) };
        let write = Write { stream: stream.clone(), expected: Expected::Any, events: vec![opened, bad] };
        world.inner.append(eventstore::Append { writes: vec![write], ..Default::default() }).await.unwrap();
        let loaded = world.store.load(Id::<Account>::from(stream.key())).await;
        let Err(StoreError::Unreadable { stream: named, version, reason }) = loaded else { panic!("{loaded:?}") };
        assert_eq!((named, version), (stream, Version(2)));
        let fits = match (name, schema) {
            ("who.knows", _) => matches!(&reason, EventError::Name(unknown, _) if unknown == name),
            (_, 9) => matches!(&reason, EventError::Schema(known, 9) if known == name),
            _ => matches!(&reason, EventError::Body(_)),
        };
        assert!(fits, "{reason:?}");
    }
    assert_eq!(world.store.load(&ann).await.unwrap().balance, 1, "others are not disturbed");
}

/// Measures, which may not be numbers.
#[derive(Event, Clone, Debug, PartialEq)]
pub enum ProbeEvent {
    Measured {
        celsius: f64,
    },
    Guessed(Option<f64>),
    Noted(serde_json::Value),
    Renamed {
        #[serde(rename(serialize = "written", deserialize = "read"))]
        name: String,
    },
}

#[derive(Aggregate, Clone, Debug, PartialEq)]
pub struct Probe {
    last: f64,
}

impl Evolve for Probe {
    type Event = ProbeEvent;

    fn evolve(&mut self, event: ProbeEvent) {
        match event {
            ProbeEvent::Measured { celsius } => self.last = celsius,
            ProbeEvent::Guessed(celsius) => self.last = celsius.unwrap_or_default(),
            ProbeEvent::Noted(_) | ProbeEvent::Renamed { .. } => {}
        }
    }
}

#[derive(Clone)]
pub struct Measure(f64);

impl Decide<Measure> for Probe {
    fn decide(&self, Measure(celsius): Measure) -> Decision<Self> {
        Ok(vec![ProbeEvent::Measured { celsius: 0.0 }, ProbeEvent::Guessed(Some(celsius))])
    }
}

#[tokio::test]
async fn a11_an_event_that_could_not_be_read_back_is_never_written() {
    let world = world().await;
    let probe = Id::<Probe>::new();
    for odd in [f64::NAN, f64::INFINITY] {
        let failed = world.store.execute(&probe, Measure(odd)).await;
        let Err(CommandError::Store(StoreError::Unwritable { name, reason })) = failed else { panic!("{failed:?}") };
        assert_eq!((&*name, reason.to_string().as_str()), ("probe.guessed", "a number in it is not finite"));
        let failed = world.store.append(&probe, Expected::Any, [ProbeEvent::Measured { celsius: odd }]).await;
        assert!(matches!(failed, Err(StoreError::Unwritable { .. })));
    }
    // Can be written, and nobody could read it: too deep, or called otherwise on the way back.
    let deep = (0..200).fold(serde_json::Value::Null, |inner, _| serde_json::Value::Array(vec![inner]));
    for one_way in [ProbeEvent::Noted(deep), ProbeEvent::Renamed { name: "x".into() }] {
        let failed = world.store.append(&probe, Expected::Any, [one_way]).await;
        let Err(StoreError::Unwritable { reason, .. }) = failed else { panic!("{failed:?}") };
        assert!(matches!(reason, EventError::OneWay(_)), "{reason:?}");
    }
    assert_eq!(world.store.head().await.unwrap(), Position(0), "nothing is half-written");
    for exact in [0.1, 1e-300, -0.0, f64::MAX, 0.1 + 0.2] {
        world.store.execute(&probe, Measure(exact)).await.unwrap();
        assert_eq!(world.store.load(&probe).await.unwrap().last.to_bits(), exact.to_bits());
    }
}

#[tokio::test]
async fn a11_a_name_no_store_can_keep_is_refused_before_anything_is_asked() {
    let world = world().await;
    for key in ["", "a\nb", &"x".repeat(513)] {
        let id = Id::<Account>::from(key);
        let failed = world.store.execute(&id, Open { owner: "x".into() }).await;
        assert!(matches!(failed, Err(CommandError::Store(StoreError::Invalid(Invalid::Name { .. })))), "{failed:?}");
        let failed = world.store.load(&id).await;
        assert!(matches!(failed, Err(StoreError::Invalid(Invalid::Name { .. }))), "{failed:?}");
    }
    let version = world.store.load(every::<Account>()).at(Version(1)).await;
    assert!(matches!(version, Err(StoreError::Invalid(Invalid::Request(_)))), "{version:?}");
    let nothing = world.store.append(StreamId::new("account", ""), Expected::Any, [] as [AccountEvent; 0]).await;
    assert!(matches!(nothing, Err(StoreError::Invalid(Invalid::Name { .. }))), "{nothing:?}");
}

#[tokio::test]
async fn a11_a_body_over_the_limit_is_refused_as_soon_as_it_is() {
    let world = world().await;
    let huge = "x".repeat(64 << 20);
    let id = Id::<Account>::from("x");
    for failed in [
        world.store.execute(&id, Open { owner: huge.clone() }).await.map(drop).map_err(|error| match error {
            CommandError::Store(error) => error,
            other => panic!("{other:?}"),
        }),
        world.store.append(&id, Expected::Any, [AccountEvent::Opened { owner: huge.clone() }]).await.map(drop),
        eventstore::ImportEvent::new(&id, Uuid::now_v7(), &AccountEvent::Opened { owner: huge.clone() }).map(drop),
    ] {
        let Err(StoreError::Invalid(Invalid::TooLarge { what, size, limit })) = failed else { panic!("{failed:?}") };
        assert_eq!((what, limit), ("the body of an event", eventstore::limits::BODY_BYTES));
        assert!(size > limit);
    }
    let failed = world.store.execute(&id, Open { owner: "x".into() }).metadata("huge", huge).await;
    assert!(matches!(failed, Err(CommandError::Store(StoreError::Invalid(Invalid::TooLarge { .. })))), "{failed:?}");
}

#[tokio::test]
async fn a4_an_append_without_events_records_nothing_and_checks_what_is_expected() -> Result<(), Any> {
    let world = world().await;
    let (store, ann, bob) = (&world.store, Id::<Account>::from("ann"), Id::<Account>::from("bob"));
    let none = || [] as [AccountEvent; 0];
    let one = || [AccountEvent::Deposited { amount: 1 }];
    let written = store.append(&ann, Expected::Any, none()).and(&bob, Expected::Version(Version(0)), none()).await?;
    assert_eq!((written.streams.len(), written.first, written.last), (0, Position(0), Position(0)));
    assert!(!written.replayed);
    store.append(&ann, Expected::Any, one()).await?;

    let written = store.append(&ann, Expected::Version(Version(1)), none()).and(&bob, Expected::Any, one()).await?;
    assert_eq!(written.streams, [(bob.stream(), Version(1))]);
    store.append(&ann, Expected::Exists, none()).and(&bob, Expected::Any, one()).await?;
    for late in [
        store.append(&ann, Expected::Version(Version(0)), none()).await,
        store.append(&ann, Expected::Version(Version(0)), none()).and(&bob, Expected::Any, one()).await,
        store.append(Id::<Account>::from("none"), Expected::Exists, none()).and(&bob, Expected::Any, one()).await,
    ] {
        assert!(late.as_ref().is_err_and(StoreError::is_conflict), "{late:?}");
    }
    assert_eq!(store.head().await?, Position(3));
    // What was asked for again is answered again.
    let command = Uuid::now_v7();
    let append = || store.append(&ann, Expected::Any, one()).and(&bob, Expected::Any, none()).command_id(command);
    let first = append().await?;
    assert_eq!(append().await?.last, first.last);
    assert_eq!(store.head().await?, Position(4));
    Ok(())
}

#[tokio::test]
async fn calls_can_be_spawned_and_stores_are_shared() {
    let world = world().await;
    let inner: Arc<dyn EventStore> = world.inner.clone();
    let store = Store::from(inner);
    let ann = Id::<Account>::new();
    let opened = tokio::spawn(store.execute(&ann, Open { owner: "Ann".into() }).into_future());
    opened.await.unwrap().unwrap();
    let loaded = tokio::spawn(world.store.load(&ann).into_future()).await.unwrap().unwrap();
    assert!(loaded.open);
    let head = store.as_ref().read(eventstore::Read { query: Query::all(), ..Default::default() }).await.unwrap().head;
    assert_eq!(head, Position(1));
}
