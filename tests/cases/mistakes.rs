//! Mistakes in rules and calls: each is refused before anything is written, or it is harmless.

use std::{error::Error, panic::AssertUnwindSafe};

use eventstore::{Expected, Id, Position, StoreError, Version, prelude::*};
use futures::FutureExt;
use uuid::Uuid;

use super::{
    Between,
    account::{AccountEvent::*, *},
    campus::*,
    world,
};

type Any = Box<dyn Error>;

#[derive(Event, Clone, Debug, PartialEq)]
pub enum ShelfEvent {
    Put { count: u32 },
    Taken { count: u32 },
}
use ShelfEvent::*;

#[derive(Aggregate, Clone, Debug, PartialEq)]
pub struct Shelf {
    left: u32,
}

impl Evolve for Shelf {
    type Event = ShelfEvent;

    fn evolve(&mut self, event: ShelfEvent) {
        match event {
            Put { count } => self.left += count,
            Taken { count } => self.left = self.left.checked_sub(count).expect("nothing is taken that is not there"),
        }
    }
}

#[derive(Clone)]
pub struct Change(Vec<ShelfEvent>);

/// A rule that checks nothing.
impl Decide<Change> for Shelf {
    fn decide(&self, Change(events): Change) -> Decision<Self> {
        Ok(events)
    }
}

#[tokio::test]
async fn a11_an_event_the_state_cannot_take_in_is_never_written() -> Result<(), Any> {
    let world = world().await;
    let (store, shelf) = (&world.store, Id::<Shelf>::from("a"));
    store.execute(&shelf, Change(vec![Put { count: 2 }])).await?;
    let bad = store.execute(&shelf, Change(vec![Put { count: 1 }, Taken { count: 4 }]));
    assert!(AssertUnwindSafe(bad.into_future()).catch_unwind().await.is_err(), "the panic is the caller's");
    assert_eq!(store.head().await?, Position(1), "and nothing is written");
    let done = store.execute(&shelf, Change(vec![Put { count: 1 }, Taken { count: 3 }])).await?;
    assert_eq!((done.state.left, done.version, done.position), (0, Version(3), Position(3)));
    assert_eq!(store.load(&shelf).await?.state, done.state);
    Ok(())
}

/// Says of whom it speaks, which need not be who decided it.
#[derive(Event, Clone, Debug, PartialEq)]
pub enum NoteEvent {
    Noted {
        #[event(tag)]
        about: Id<Topic>,
    },
}

#[derive(Aggregate, Clone, Debug, PartialEq)]
#[aggregate(by_tag)]
pub struct Topic {
    notes: u32,
}

impl Evolve for Topic {
    type Event = NoteEvent;

    fn evolve(&mut self, _: NoteEvent) {
        self.notes += 1;
    }
}

#[derive(Clone)]
pub struct Note(Id<Topic>);

impl Decide<Note> for Topic {
    fn decide(&self, Note(about): Note) -> Decision<Self> {
        Ok(vec![NoteEvent::Noted { about }])
    }
}

#[tokio::test]
async fn an_acknowledgement_is_what_a_load_would_say_also_of_events_about_somebody_else() -> Result<(), Any> {
    let world = world().await;
    let (store, a, b) = (&world.store, Id::<Topic>::from("a"), Id::<Topic>::from("b"));
    store.execute(&a, Note(a.clone())).await?;
    let (id, note) = (Uuid::now_v7(), Note(b.clone()));
    let done = store.execute(&a, note.clone()).command_id(id).await?;
    let loaded = store.load(&a).await?;
    assert_eq!((done.events.len(), &done.state, done.version), (1, &loaded.state, loaded.version));
    assert_eq!((loaded.notes, store.load(&b).await?.notes), (1, 1));
    let again = store.execute(&a, note).command_id(id).await?;
    assert_eq!((again.events, again.state, again.version), (done.events, done.state, done.version));
    Ok(())
}

#[tokio::test]
async fn p8_an_event_of_another_type_is_named_with_the_type_that_was_tried_and_the_way_out() -> Result<(), Any> {
    let world = world().await;
    let (store, shelf, topic) = (&world.store, Id::<Shelf>::from("a"), Id::<Topic>::from("b"));
    // Only by the name of the stream: `append(&shelf, …)` takes no such event.
    store.append(shelf.stream(), Expected::Any, [NoteEvent::Noted { about: topic }]).await?;
    let failed = store.load(&shelf).await.expect_err("a note is nothing for a shelf");
    let why = failed.to_string();
    assert!(why.starts_with("cannot read event 1 of stream shelf-a: "), "{why}");
    assert!(why.contains("ShelfEvent` has no event called `note.noted`"), "{why}");
    assert!(why.contains("#[event(retired(\"note.noted\"))]"), "{why}");
    Ok(())
}

#[tokio::test]
async fn c1_an_id_stands_for_one_request_to_the_same_ids() -> Result<(), Any> {
    let world = world().await;
    let (store, ann, id) = (&world.store, Id::<Account>::from("ann"), Uuid::now_v7());
    store.execute(&ann, Open { owner: "Ann".into() }).await?;
    let first = store.execute(&ann, Deposit { amount: 5 }).command_id(id).await?;
    // The command is not compared: its type may be called otherwise by the time of a retry, and it may hold the time of day.
    assert_eq!(store.execute(&ann, Deposit { amount: 6 }).command_id(id).await?.events, first.events);
    assert_eq!(store.execute(&ann, Withdraw { amount: 5 }).command_id(id).await?.events, first.events);
    let other = store.execute(Id::<Account>::from("bob"), Open { owner: "Bob".into() }).command_id(id).await;
    let Err(CommandError::Store(StoreError::Reused { command, stream })) = other else { panic!("{other:?}") };
    assert_eq!((command, stream), (id, ann.stream()));
    // A refusal has left no trace, so its id is free for another command.
    let id = Uuid::now_v7();
    assert!(store.execute(&ann, Close).command_id(id).await.is_err());
    store.execute(&ann, Deposit { amount: 1 }).command_id(id).await?;

    // Also when another command gets in between: the first recorded answer counts.
    let id = Uuid::now_v7();
    let twin = {
        let ann = ann.clone();
        move |store: Store| async move {
            store.execute(&ann, Withdraw { amount: 1 }).command_id(id).await.unwrap();
        }
    };
    let racing = Store::from(Between::new(&world.inner).let_in(twin));
    let late = racing.execute(&ann, Deposit { amount: 1 }).command_id(id).await?;
    assert_eq!((late.events[0].data.clone(), late.state.balance), (Withdrawn { amount: 1 }, 5));
    assert_eq!(store.load(&ann).await?.balance, 5);
    Ok(())
}

#[tokio::test]
async fn c1_a_command_that_release_0_1_recorded_is_known_again() -> Result<(), Any> {
    let world = world().await;
    let (store, ann, id) = (&world.store, Id::<Account>::from("ann"), Uuid::now_v7());
    // As 0.1 stored it: the fingerprint is a UUIDv5 over the type of the command, too.
    let opened = super::raw("account.opened", br#"{"owner":"Ann"}"#);
    let mut event = eventstore::NewEvent { id: eventstore::event_id(id, 0), ..opened };
    (event.metadata.command_id, event.metadata.correlation_id) = (id, id);
    event.metadata.request = Some("726c7294-40ba-5605-864a-e443fa2fc5d4".parse()?);
    let write = eventstore::Write { stream: ann.stream(), expected: Expected::Any, events: vec![event] };
    world.inner.append(eventstore::Append { writes: vec![write], ..Default::default() }).await?;
    let again = store.execute(&ann, Open { owner: "Ann".into() }).command_id(id).await?;
    assert_eq!((again.version, again.state.open), (Version(1), true));
    let elsewhere = store.execute(Id::<Account>::from("bob"), Open { owner: "Bob".into() }).command_id(id).await;
    assert!(matches!(elsewhere, Err(CommandError::Store(StoreError::Reused { .. }))), "{elsewhere:?}");
    assert_eq!(store.head().await?, Position(1));
    Ok(())
}

#[tokio::test]
async fn c1_an_id_that_was_used_in_another_company_is_refused() -> Result<(), Any> {
    let world = world().await;
    let (store, rust, id) = (&world.store, Id::<Course>::from("rust"), Uuid::now_v7());
    let (ann, bob) = (Id::<Student>::from("ann"), Id::<Student>::from("bob"));
    store.execute(&rust, OpenCourse { seats: 2 }).await?;
    store.execute(&ann, Join).await?;
    store.execute(&bob, Join).await?;
    let first = store.execute((&rust, &ann), Enrol).command_id(id).await?;
    let other = store.execute((&rust, &bob), Enrol).command_id(id).await.err();
    assert!(matches!(other, Some(CommandError::Store(StoreError::Reused { .. }))), "{other:?}");
    assert_eq!(store.execute((&rust, &ann), Enrol).command_id(id).await?.events, first.events);
    Ok(())
}

#[tokio::test]
async fn c1_an_id_that_was_used_for_a_plain_append_is_refused() -> Result<(), Any> {
    let world = world().await;
    let (store, ann, id) = (&world.store, Id::<Account>::from("ann"), Uuid::now_v7());
    store
        .append(&ann, Expected::Any, [Opened { owner: "Ann".into() }])
        .and(Id::<Account>::from("bob"), Expected::Any, [Opened { owner: "Bob".into() }, Deposited { amount: 9 }])
        .command_id(id)
        .await?;
    let other = store.execute(&ann, Deposit { amount: 1 }).command_id(id).await;
    assert!(matches!(other, Err(CommandError::Store(StoreError::Reused { .. }))), "{other:?}");
    Ok(())
}

#[tokio::test]
async fn a5_an_append_with_an_id_is_answered_again_whole_or_not_at_all() -> Result<(), Any> {
    let world = world().await;
    let (store, ann, id) = (&world.store, Id::<Account>::from("ann"), Uuid::now_v7());
    let (opened, deposited) = (Opened { owner: "Ann".into() }, Deposited { amount: 1 });
    let append = |events: &[AccountEvent]| store.append(&ann, Expected::Any, events.to_vec()).command_id(id);
    let first = append(&[opened.clone(), deposited.clone()]).await?;
    let again = append(&[opened.clone(), deposited.clone()]).await?;
    assert!(again.replayed && again.last == first.last);
    for other in [&[opened.clone()][..], &[opened, deposited.clone(), deposited]] {
        let failed = append(other).await;
        assert!(matches!(failed, Err(StoreError::Duplicate { command, .. }) if command == id), "{failed:?}");
    }
    assert_eq!(store.head().await?, Position(2));
    Ok(())
}
