//! What a decision depends on: lists of ids, events that do not matter, events that this program does not know, and what a
//! transaction has loaded.

use std::time::Duration;

use eventstore::{
    EventError, Expected, Invalid, Position, Raw, StoreError, Timestamp, Version, prelude::*, testing::*,
};
use futures::future::join_all;
use tokio::time::timeout;

use super::{Between, World, world};
use crate::account::{Account, AccountEvent, Deposit, Open};

type Any = Box<dyn std::error::Error>;

/// The events of a newer release.
mod newer {
    use super::*;

    #[derive(Event, Clone, Debug, PartialEq)]
    #[event(prefix = "course")]
    pub enum CourseEvent {
        Opened {
            #[event(tag = "course")]
            course: String,
            seats: u32,
        },
        Enrolled {
            #[event(tag = "course")]
            course: String,
            #[event(tag = "pupil")]
            pupil: String,
        },
        Moved {
            #[event(tag = "course")]
            course: String,
        },
        /// Release 1 does not know it.
        Closed {
            #[event(tag = "course")]
            course: String,
        },
    }
}

use newer::CourseEvent as Newer;

/// The events of release 1.
#[derive(Event, Clone, Debug, PartialEq)]
#[event(prefix = "course")]
pub enum CourseEvent {
    Opened {
        #[event(tag)]
        course: Id<Course>,
        seats: u32,
    },
    Enrolled {
        #[event(tag)]
        course: Id<Course>,
        #[event(tag)]
        pupil: Id<Pupil>,
    },
    Moved {
        #[event(tag)]
        course: Id<Course>,
    },
}

#[derive(Event, Clone, Debug, PartialEq)]
pub enum PupilEvent {
    Joined {
        #[event(tag)]
        pupil: Id<Pupil>,
    },
    /// Tagged like the events of a course, in a category where no event of a course is.
    Advised {
        #[event(tag)]
        pupil: Id<Pupil>,
        #[event(tag)]
        course: Id<Course>,
    },
}

#[derive(Aggregate, Clone, Debug, PartialEq)]
#[aggregate(by_tag)]
pub struct Course {
    #[aggregate(id)]
    id: Id<Course>,
    free: u32,
    moves: u32,
}

#[derive(Aggregate, Clone, Debug, PartialEq)]
#[aggregate(by_tag)]
pub struct Pupil {
    #[aggregate(id)]
    id: Id<Pupil>,
    joined: bool,
}

/// How many places there are anywhere.
#[derive(Aggregate, Clone, Debug, PartialEq)]
#[aggregate(name = "campus")]
pub struct Places(u32);

impl Evolve for Course {
    type Event = CourseEvent;

    fn evolve(&mut self, event: CourseEvent) {
        match event {
            CourseEvent::Opened { seats, .. } => self.free = seats,
            CourseEvent::Enrolled { .. } => self.free -= 1,
            CourseEvent::Moved { .. } => self.moves += 1,
        }
    }
}

impl Evolve for Pupil {
    type Event = PupilEvent;

    fn evolve(&mut self, event: PupilEvent) {
        self.joined |= matches!(event, PupilEvent::Joined { .. });
    }
}

impl Evolve for Places {
    type Event = CourseEvent;

    fn evolve(&mut self, event: CourseEvent) {
        match event {
            CourseEvent::Opened { seats, .. } => self.0 += seats,
            CourseEvent::Enrolled { .. } => self.0 -= 1,
            CourseEvent::Moved { .. } => {}
        }
    }
}

#[derive(Clone)]
struct Offer(u32);

impl Decide<Offer> for Course {
    fn decide(&self, Offer(seats): Offer) -> Decision<Self> {
        Ok(vec![CourseEvent::Opened { course: self.id.clone(), seats }])
    }
}

#[derive(Clone)]
struct Join;

impl Decide<Join> for Pupil {
    fn decide(&self, Join: Join) -> Decision<Self> {
        Ok(vec![PupilEvent::Joined { pupil: self.id.clone() }])
    }
}

#[derive(Clone)]
struct Enrol;

impl Decide<Enrol> for (Course, Pupil) {
    /// Where it takes place does not matter.
    const UNAFFECTED_BY: &'static [&'static str] = &["course.moved"];

    fn decide(&self, Enrol: Enrol) -> Decision<Course> {
        let (course, pupil) = self;
        ensure!(pupil.joined, "{} has not joined", pupil.id);
        ensure!(course.free > 0, "{} is full", course.id);
        Ok(vec![CourseEvent::Enrolled { course: course.id.clone(), pupil: pupil.id.clone() }])
    }
}

/// The room holds so many.
#[derive(Clone)]
struct Move {
    room: u32,
}

impl Decide<Move> for (Course, Places) {
    fn decide(&self, Move { room }: Move) -> Decision<Course> {
        let (course, Places(places)) = self;
        ensure!(*places <= room, "there are {places} places");
        Ok(vec![CourseEvent::Moved { course: course.id.clone() }])
    }
}

/// What a rule about seats reads, of all that happens to a course.
#[derive(Event, Clone, Debug, PartialEq)]
#[event(prefix = "course", others(Newer))]
enum SeatEvent {
    Opened {
        #[event(tag)]
        course: Id<Seats>,
        seats: u32,
    },
}

#[derive(Aggregate, Clone, Debug, PartialEq)]
#[aggregate(by_tag, name = "course")]
struct Seats(u32);

impl Evolve for Seats {
    type Event = SeatEvent;

    fn evolve(&mut self, SeatEvent::Opened { seats, .. }: SeatEvent) {
        self.0 += seats;
    }
}

async fn campus() -> (World, Id<Course>, Id<Pupil>) {
    let (world, rust, ann) = (world().await, Id::<Course>::from("rust"), Id::<Pupil>::from("ann"));
    world.store.execute(&rust, Offer(5)).await.unwrap();
    world.store.execute(&ann, Join).await.unwrap();
    (world, rust, ann)
}

async fn close(store: &Store, course: &Id<Course>) {
    let closed = Newer::Closed { course: course.to_string() };
    store.append(course.stream(), Expected::Any, [closed]).await.unwrap();
}

fn assert_newer(error: &StoreError, unknown: &str) {
    assert!(error.is_newer(), "{error:?}");
    let StoreError::Unreadable { reason: EventError::Name(name, _), .. } = error else { panic!("{error:?}") };
    assert_eq!(name, unknown);
}

#[tokio::test]
async fn c5_a_decision_by_tag_does_not_leave_out_an_event_that_this_program_does_not_know() -> Result<(), Any> {
    let (world, rust, ann) = campus().await;
    let (store, go) = (&world.store, Id::<Course>::from("go"));
    store.execute(&go, Offer(5)).await?;
    store.execute((&rust, &ann), Enrol).await?;
    close(store, &rust).await;

    let enrolled = store.execute((&rust, &ann), Enrol).await;
    let Err(CommandError::Store(unknown)) = enrolled else { panic!("a closed course was enrolled into") };
    assert_newer(&unknown, "course.closed");
    assert_newer(
        &store
            .execute(&rust, Offer(1))
            .await
            .map_err(|error| match error {
                CommandError::Store(error) => error,
                other => panic!("{other:?}"),
            })
            .unwrap_err(),
        "course.closed",
    );
    assert_newer(&store.load(&rust).await.unwrap_err(), "course.closed");
    assert_newer(&store.load((&ann, &rust)).await.unwrap_err(), "course.closed");
    assert_newer(&store.load(vec![go.clone(), rust.clone()]).await.unwrap_err(), "course.closed");
    assert_newer(&store.load(every::<Places>()).await.unwrap_err(), "course.closed");
    assert_eq!(store.load(&rust).at_position(Position(4)).await?.free, 4, "as it was before, it is known");

    // Where it does not matter, all goes on.
    store.execute((&go, &ann), Enrol).await?;
    assert!(store.load(&ann).await?.joined);
    assert_eq!(store.load(Id::<Seats>::from("rust")).await?.state, Seats(5), "the type says that it does not matter");
    Ok(())
}

#[tokio::test]
async fn c5_an_event_of_a_category_where_a_state_has_no_event_is_not_taken_for_one_of_it() -> Result<(), Any> {
    let (world, rust, ann) = campus().await;
    let advised = PupilEvent::Advised { pupil: ann.clone(), course: rust.clone() };
    world.store.append(&ann, Expected::Any, [advised]).await?;
    world.store.execute((&rust, &ann), Enrol).await?;
    assert_eq!(world.store.load((&rust, &ann)).await?.state.0.free, 4);
    assert_eq!(world.store.load(&rust).await?.version, Version(2));
    Ok(())
}

#[tokio::test]
async fn c5_a_decision_sees_an_unknown_event_that_comes_between_its_read_and_its_append() -> Result<(), Any> {
    let (world, rust, ann) = campus().await;
    for tuple in [true, false] {
        let (course, early) = (rust.clone(), world.store.head().await?);
        // The first event of a type that nobody had heard of when the decision was made.
        let intrude = move |store: Store| async move { close(&store, &course).await };
        let racing = Store::from(Between::new(&world.inner).let_in(intrude));
        let late = match tuple {
            true => racing.execute((&rust, &ann), Enrol).await.map(drop),
            false => racing.execute(&rust, Offer(1)).retries(0).await.map(drop),
        };
        match (tuple, late) {
            (true, Err(CommandError::Store(unknown))) => assert_newer(&unknown, "course.closed"),
            (false, Err(CommandError::Store(unknown))) => assert_newer(&unknown, "course.closed"),
            (_, other) => panic!("{other:?}"),
        }
        assert!(world.store.head().await? <= Position(early.0 + 1));
    }
    Ok(())
}

#[tokio::test]
async fn c5_in_a_transaction_as_well() -> Result<(), Any> {
    let (world, rust, ann) = campus().await;
    let tx = world.store.begin().await?;
    tx.execute((&rust, &ann), Enrol).await?;
    close(&tx, &rust).await;
    let Err(CommandError::Store(unknown)) = tx.execute((&rust, &ann), Enrol).await else { panic!("it is closed") };
    assert_newer(&unknown, "course.closed");
    drop(tx);
    assert_eq!(world.store.load(&rust).await?.free, 5);
    Ok(())
}

#[tokio::test]
async fn a13_events_that_a_rule_is_unaffected_by_are_no_conflict() -> Result<(), Any> {
    let (world, rust, ann) = campus().await;
    let (course, moved) = (rust.clone(), CourseEvent::Moved { course: rust.clone() });
    let intrude = move |store: Store| async move {
        store.append(&course, Expected::Any, [moved]).await.unwrap();
    };
    let racing = Store::from(Between::new(&world.inner).let_in(intrude));
    let done = racing.execute((&rust, &ann), Enrol).retries(0).await?;
    // The answer has all that was recorded by then.
    assert_eq!((done.state.0.free, done.state.0.moves, done.position), (4, 1, Position(4)));
    assert_eq!(done.state, world.store.load((&rust, &ann)).await?.state);

    // Another event is a conflict.
    let course = rust.clone();
    let intrude = move |store: Store| async move {
        store.execute(&course, Offer(9)).await.unwrap();
    };
    let racing = Store::from(Between::new(&world.inner).let_in(intrude));
    let late = racing.execute((&rust, &ann), Enrol).retries(0).await;
    assert!(late.as_ref().is_err_and(CommandError::is_conflict), "{late:?}");
    Ok(())
}

/// A caller who says what it has seen hears of whatever makes the state, whenever it was recorded.
#[tokio::test]
async fn a4_what_a_caller_has_seen_is_checked_for_every_event_of_the_state() -> Result<(), Any> {
    let (world, rust, ann) = campus().await;
    let seen = world.store.load((&rust, &ann)).await?.position;
    let (course, moved) = (rust.clone(), CourseEvent::Moved { course: rust.clone() });
    let intrude = move |store: Store| async move {
        store.append(&course, Expected::Any, [moved]).await.unwrap();
    };
    // Between the read and the append; before the read.
    let racing = Store::from(Between::new(&world.inner).let_in(intrude));
    for store in [&racing, &world.store] {
        let late = store.execute((&rust, &ann), Enrol).expecting_position(seen).await;
        assert!(late.as_ref().is_err_and(CommandError::is_conflict), "{late:?}");
    }
    assert_eq!(world.store.head().await?, Position(3));
    Ok(())
}

#[derive(Clone)]
struct Rename {
    owner: &'static str,
}

impl Decide<Rename> for Account {
    const UNAFFECTED_BY: &'static [&'static str] = &["account.deposited", "account.withdrawn"];

    fn decide(&self, Rename { owner }: Rename) -> Decision<Self> {
        ensure!(self.open, crate::account::AccountError::NotOpen);
        Ok(vec![AccountEvent::Opened { owner: owner.into() }])
    }
}

#[tokio::test]
async fn a13_a_stream_is_checked_for_the_events_that_matter() -> Result<(), Any> {
    let world = world().await;
    let ann = Id::<Account>::from("ann");
    world.store.execute(&ann, Open { owner: "Ann".into() }).await?;
    let intruder = |event: AccountEvent| {
        let ann = ann.clone();
        let intrude = move |store: Store| async move {
            store.append(&ann, Expected::Any, [event]).await.unwrap();
        };
        Store::from(Between::new(&world.inner).let_in(intrude))
    };
    let done =
        intruder(AccountEvent::Deposited { amount: 5 }).execute(&ann, Rename { owner: "Anna" }).retries(0).await?;
    assert_eq!((done.version, done.state.balance), (Version(3), 5), "with what came in between");
    world.store.execute(&ann, Deposit { amount: 1 }).expecting(done.version).await?;

    let late = intruder(AccountEvent::Closed).execute(&ann, Rename { owner: "Anne" }).retries(0).await;
    let Err(CommandError::Conflict(conflict)) = late else { panic!("{late:?}") };
    assert_eq!((conflict.actual, &conflict.between[..]), (Version(5), &["account.closed".into()][..]));
    let late = intruder(AccountEvent::Closed).execute(&ann, Rename { owner: "Anne" }).await;
    assert!(matches!(late, Err(CommandError::Rejected(_))), "decided again: {late:?}");

    // What a caller says it has seen, it has seen all of.
    let bob = Id::<Account>::from("bob");
    world.store.execute(&bob, Open { owner: "Bob".into() }).await?;
    world.store.execute(&bob, Deposit { amount: 1 }).await?;
    let stale = world.store.execute(&bob, Rename { owner: "Rob" }).expecting(Version(1)).await;
    assert!(stale.as_ref().is_err_and(CommandError::is_conflict), "{stale:?}");
    // In a transaction.
    let tx = world.store.begin().await?;
    tx.execute(&bob, Rename { owner: "Rob" }).await?;
    tx.commit().await?;
    assert_eq!(world.store.load(&bob).await?.version, Version(3));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a13_rules_that_do_not_affect_each_other_need_no_retries() {
    let world = world().await;
    let ann = Id::<Account>::from("ann");
    world.store.execute(&ann, Open { owner: "Ann".into() }).await.unwrap();
    // Two processes: neither waits for the turns of the other.
    let other = Store::from(world.inner.clone());
    let renames =
        (0..20).map(|_| tokio::spawn(world.store.execute(&ann, Rename { owner: "Anna" }).retries(0).into_future()));
    let deposits = (0..20).map(|_| {
        tokio::spawn(other.append(&ann, Expected::Any, [AccountEvent::Deposited { amount: 1 }]).into_future())
    });
    let (renames, deposits): (Vec<_>, Vec<_>) = (renames.collect(), deposits.collect());
    for renamed in join_all(renames).await {
        renamed.unwrap().unwrap();
    }
    for deposited in join_all(deposits).await {
        deposited.unwrap().unwrap();
    }
    let loaded = world.store.load(&ann).await.unwrap();
    assert_eq!((loaded.version, loaded.balance), (Version(41), 20));
}

#[derive(Clone)]
struct Spread {
    amount: i64,
}

/// As many accounts as there are: the first pays.
impl Decide<Spread> for Vec<Account> {
    fn decide(&self, Spread { amount }: Spread) -> Result<Vec<AccountEvent>, crate::account::AccountError> {
        let total: i64 = self.iter().map(|account| account.balance).sum();
        ensure!(amount <= total, crate::account::AccountError::Insufficient(total));
        Ok(vec![AccountEvent::Withdrawn { amount }])
    }
}

#[derive(Clone)]
struct Settle;

impl Decide<Settle> for (Course, Vec<Pupil>, Vec<Account>) {
    fn decide(&self, Settle: Settle) -> Decision<Course> {
        let (course, pupils, accounts) = self;
        ensure!(pupils.iter().all(|pupil| pupil.joined), "somebody has not joined");
        let seats = u32::try_from(accounts.iter().map(|account| account.balance).sum::<i64>()).unwrap_or(0);
        Ok(vec![CourseEvent::Opened { course: course.id.clone(), seats: seats + pupils.len() as u32 }])
    }
}

#[test]
fn a_rule_over_a_list_is_tested_like_others() {
    let ids = ["a", "b", "c"].map(Id::<Account>::from);
    let deposited = |amount| [AccountEvent::Deposited { amount }];
    given(&ids[0], deposited(1))
        .given(&ids[1], deposited(2))
        .given(&ids[2], deposited(3))
        .when(ids.to_vec(), Spread { amount: 6 })
        .then([AccountEvent::Withdrawn { amount: 6 }])
        .when(&ids[1..], Spread { amount: 6 })
        .then_rejected(crate::account::AccountError::Insufficient(5))
        .when(&ids, Spread { amount: 6 })
        .then_rejected(crate::account::AccountError::Insufficient(0));
    given(Id::<Pupil>::from("ann"), [PupilEvent::Joined { pupil: "ann".into() }])
        .given(&ids[0], deposited(4))
        .when((Id::<Course>::from("rust"), vec![Id::<Pupil>::from("ann")], &ids), Settle)
        .then([CourseEvent::Opened { course: "rust".into(), seats: 5 }])
        .when((Id::<Course>::from("rust"), [Id::<Pupil>::from("ann"), Id::from("bob")], &ids), Settle)
        .then_rejected("somebody has not joined");
}

#[tokio::test]
async fn a13_a_decision_over_a_list_depends_on_each_of_it() -> Result<(), Any> {
    let world = world().await;
    let store = &world.store;
    let ids: Vec<_> = (0..40).map(|n| Id::<Account>::from(format!("a{n}"))).collect();
    for id in &ids {
        store.append(id, Expected::Any, [AccountEvent::Deposited { amount: 1 }]).await?;
    }
    let loaded = store.load(&ids).await?;
    assert_eq!(loaded.iter().map(|account| account.balance).collect::<Vec<_>>(), [1; 40]);
    assert_eq!((loaded.version, loaded.position, loaded.changed), (Version(40), Position(40), Position(40)));
    let done = store.execute(&ids[..], Spread { amount: 40 }).await?;
    assert_eq!((&done.stream, done.state[0].balance, done.version), (&ids[0].stream(), -39, Version(41)));

    let last = ids[39].clone();
    let intrude = move |store: Store| async move {
        store.append(&last, Expected::Any, [AccountEvent::Withdrawn { amount: 1 }]).await.unwrap();
    };
    let racing = Store::from(Between::new(&world.inner).let_in(intrude));
    let late = racing.execute(&ids, Spread { amount: 0 }).retries(0).await;
    let Err(CommandError::Conflict(conflict)) = late else { panic!("{late:?}") };
    assert_eq!(conflict.stream, ids[39]);

    // A command id is for the whole list.
    let command = eventstore::Uuid::now_v7();
    let first = store.execute(&ids, Spread { amount: -5 }).command_id(command).await?;
    assert_eq!(store.execute(&ids, Spread { amount: -5 }).command_id(command).await?.events, first.events);
    let fewer = store.execute(&ids[..39], Spread { amount: -5 }).command_id(command).await;
    assert!(matches!(fewer, Err(CommandError::Store(StoreError::Reused { .. }))), "{fewer:?}");
    Ok(())
}

#[tokio::test]
async fn a_list_may_be_empty_or_have_an_id_twice() -> Result<(), Any> {
    let (world, rust, ann) = campus().await;
    let store = &world.store;
    let nobody: [Id<Account>; 0] = [];
    let loaded = store.load(&nobody).await?;
    assert_eq!(
        (loaded.len(), loaded.version, loaded.position, loaded.changed),
        (0, Version(0), Position(2), Position(0))
    );
    let refused = store.execute(&nobody, Spread { amount: 0 }).await;
    assert!(matches!(refused, Err(CommandError::Store(StoreError::Invalid(Invalid::Request(_))))), "{refused:?}");
    assert_eq!(store.head().await?, Position(2));
    let none: Vec<Id<Pupil>> = vec![];
    let done = store.execute((&rust, none, &nobody), Settle).await?;
    assert_eq!(done.state.0.free, 0);

    let bob = Id::<Account>::from("bob");
    store.append(&bob, Expected::Any, [AccountEvent::Deposited { amount: 3 }]).await?;
    let twice = vec![bob.clone(), bob.clone()];
    assert_eq!(store.load(&twice).await?.iter().map(|account| account.balance).collect::<Vec<_>>(), [3, 3]);
    let done = store.execute(&twice, Spread { amount: 6 }).await?;
    assert_eq!(done.state.iter().map(|account| account.balance).collect::<Vec<_>>(), [-3, -3]);
    let pupils = vec![ann.clone(), ann.clone()];
    let done = store.execute((&rust, &pupils, &twice), Settle).await?;
    assert_eq!((done.state.0.free, done.state.1.len()), (2, 2), "-6 of the two, and two pupils");
    Ok(())
}

#[tokio::test]
async fn c6_what_a_transaction_has_loaded_is_checked_when_it_is_committed() -> Result<(), Any> {
    // Of a stream, by tag, and over both; with an append at the end, and without.
    for (by_tag, appends) in [(false, true), (false, false), (true, true), (true, false)] {
        let (world, rust, ann) = campus().await;
        let (store, price) = (&world.store, Id::<Account>::from("price"));
        store.execute(&price, Open { owner: "price".into() }).await?;
        let outside = {
            let (store, price, rust, ann) = (store.clone(), price.clone(), rust.clone(), ann.clone());
            async move {
                match by_tag {
                    true => store.execute((&rust, &ann), Enrol).await.map(|_| ()).map_err(|error| error.to_string()),
                    false => store
                        .execute(&price, Deposit { amount: 1 })
                        .await
                        .map(|_| ())
                        .map_err(|error| error.to_string()),
                }
            }
        };
        let tx = store.begin().await?;
        match by_tag {
            true => assert_eq!(tx.load(&rust).await?.free, 5),
            false => assert_eq!(tx.load(&price).await?.balance, 0),
        }
        // Somebody else changes it; or waits until the transaction is over.
        let outside = tokio::spawn(outside);
        timeout(Duration::from_millis(300), async {
            while !outside.is_finished() {
                tokio::time::sleep(Duration::from_millis(5)).await
            }
        })
        .await
        .ok();
        let changed = outside.is_finished();
        let order = Id::<Account>::from("order");
        let appended = match appends {
            true => tx.append(&order, Expected::Any, [AccountEvent::Opened { owner: "x".into() }]).await.map(drop),
            false => Ok(()),
        };
        let committed = tx.commit().await;
        outside.await?.map_err(StoreError::Schema).unwrap();
        let conflict = |result: &Result<(), StoreError>| matches!(result, Err(StoreError::Conflict(_)));
        match changed {
            true if appends => assert!(conflict(&appended) && conflict(&committed), "{appended:?} {committed:?}"),
            true => assert!(conflict(&committed), "{committed:?}"),
            false => assert!(appended.is_ok() && committed.is_ok(), "{appended:?} {committed:?}"),
        }
        assert_eq!(store.load(&order).await?.version, Version(u64::from(!changed && appends)));
    }
    Ok(())
}

#[tokio::test]
async fn c6_what_a_transaction_has_loaded_and_changed_itself_is_no_conflict() -> Result<(), Any> {
    let (world, rust, ann) = campus().await;
    let (store, price) = (&world.store, Id::<Account>::from("price"));
    let tx = store.begin().await?;
    assert!(!tx.load(&price).await?.open);
    assert_eq!(tx.load((&rust, &ann)).await?.state.0.free, 5);
    tx.execute(&price, Open { owner: "x".into() }).await?;
    tx.execute((&rust, &ann), Enrol).await?;
    assert!(tx.load(&price).await?.open);
    assert_eq!(tx.load((&rust, &ann)).await?.state.0.free, 4);
    tx.execute(&price, Deposit { amount: 1 }).await?;
    tx.commit().await?;
    // Nor is what others have recorded since elsewhere, and what was loaded of the past.
    let head = store.head().await?;
    let tx = store.begin().await?;
    tx.load(&price).at_position(Position(1)).await?;
    assert_eq!(tx.load(&price).await?.balance, 1);
    tx.commit().await?;
    assert_eq!(store.head().await?, head);
    Ok(())
}

#[derive(Event, Clone, Debug, PartialEq)]
enum TicketEvent {
    Opened,
    Reopened,
}

#[derive(Aggregate, Clone, Debug, PartialEq)]
struct Ticket {
    events: u32,
    last: Option<(Version, Position, Timestamp, Timestamp, Option<String>)>,
}

impl Evolve for Ticket {
    type Event = TicketEvent;

    fn evolve(&mut self, _: TicketEvent) {
        self.events += 1;
    }

    const RECORDED: bool = true;

    fn evolve_recorded(&mut self, event: TicketEvent, recorded: &Recorded<Raw>) {
        let Recorded { version, position, recorded_at, occurred_at, metadata, .. } = recorded;
        self.last = Some((*version, *position, *recorded_at, *occurred_at, metadata.actor.clone()));
        self.evolve(event);
    }
}

/// No sooner than this after the last.
#[derive(Clone)]
struct Reopen {
    now: Timestamp,
}

impl Decide<Reopen> for Ticket {
    fn decide(&self, Reopen { now }: Reopen) -> Decision<Self> {
        let Some((_, _, _, last, _)) = self.last else { return Ok(vec![TicketEvent::Opened]) };
        ensure!(now - last >= Duration::from_secs(60), "it was opened a moment ago");
        Ok(vec![TicketEvent::Reopened])
    }
}

#[tokio::test]
async fn t1_a_state_may_see_where_and_when_its_events_were_recorded() -> Result<(), Any> {
    let world = world().await;
    let (store, id) = (&world.store, Id::<Ticket>::from("7"));
    let noon: Timestamp = "2026-11-21T12:00:00Z".parse()?;
    let done = store.execute(&id, Reopen { now: noon }).occurred_at(noon).by("ann").await?;
    let event = &done.events[0];
    let last = Some((Version(1), Position(1), event.recorded_at, noon, Some("ann".into())));
    assert_eq!((&done.state.last, done.state.events), (&last, 1), "the answer is what a load gives");
    assert_eq!(store.load(&id).await?.state, done.state);
    let refused = store.execute(&id, Reopen { now: noon + Duration::from_secs(59) }).await;
    assert!(matches!(refused, Err(CommandError::Rejected(_))), "{refused:?}");
    store.execute(&id, Reopen { now: noon + Duration::from_secs(60) }).await?;
    use futures::TryStreamExt;
    let history: Vec<_> = store.history(&id).try_collect().await?;
    assert_eq!((&history[0].1, history[1].1.events), (&done.state, 2));
    Ok(())
}

#[test]
fn a_state_that_sees_instants_is_given_them_in_tests() {
    let noon: Timestamp = "2026-11-21T12:00:00Z".parse().unwrap();
    let id = Id::<Ticket>::from("7");
    GivenLog::default()
        .at(noon)
        .given(&id, [TicketEvent::Opened])
        .when(&id, Reopen { now: noon })
        .then_rejected("it was opened a moment ago")
        .when(&id, Reopen { now: noon + Duration::from_secs(60) })
        .then([TicketEvent::Reopened]);
    Ticket::given([TicketEvent::Opened]).when(Reopen { now: noon }).then([TicketEvent::Reopened]);
}

#[tokio::test]
async fn the_last_own_event_of_a_state_does_not_move_with_others() -> Result<(), Any> {
    let (world, rust, ann) = campus().await;
    let store = &world.store;
    let changed = store.load(&rust).await?.changed;
    assert_eq!(changed, Position(1));
    store.execute(Id::<Course>::from("go"), Offer(1)).await?;
    let loaded = store.load(&rust).await?;
    assert_eq!((loaded.changed, loaded.position), (changed, Position(3)));
    let done = store.execute((&rust, &ann), Enrol).await?;
    assert_eq!((done.changed, done.position), (Position(4), Position(4)));
    assert_eq!(store.load(&rust).await?.changed, Position(4));
    assert_eq!(store.load(&ann).await?.changed, Position(2));
    assert_eq!(store.load(Id::<Account>::from("nobody")).await?.changed, Position(0));
    let bob = Id::<Account>::from("bob");
    store.execute(&bob, Open { owner: "Bob".into() }).await?;
    assert_eq!(store.load(&bob).await?.changed, Position(5));
    assert_eq!(store.load((&bob, &rust)).await?.changed, Position(5));
    Ok(())
}

#[tokio::test]
async fn every_writes_to_a_stream_that_no_id_names() -> Result<(), Any> {
    let world = world().await;
    let store = &world.store;
    let done = store.execute((every::<Places>(), Id::<Course>::from("rust")), Count).await?;
    assert_eq!(done.stream.as_str(), "campus-$every");
    // An id may be called so, and has a stream of its own.
    let other = store.execute(Id::<Places>::from("every"), Count).await?;
    assert_eq!((other.stream.as_str(), other.version), ("campus-every", Version(1)));
    let reserved = store.execute(Id::<Places>::from("$every"), Count).await;
    assert!(matches!(reserved, Err(CommandError::Store(StoreError::Invalid(Invalid::Name { .. })))), "{reserved:?}");
    Ok(())
}

#[derive(Clone)]
struct Count;

impl Decide<Count> for Places {
    fn decide(&self, Count: Count) -> Decision<Self> {
        Ok(vec![CourseEvent::Opened { course: "counted".into(), seats: 1 }])
    }
}

impl Decide<Count> for (Places, Course) {
    fn decide(&self, Count: Count) -> Decision<Places> {
        self.0.decide(Count)
    }
}
