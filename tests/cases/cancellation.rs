//! Dropping any call at any await: it is polled once and dropped, then twice, and so on until it is done.
//!
//! After each drop, nothing of it is open (where there are sessions to look at: of PostgreSQL), and the next call succeeds,
//! on a store of one connection. What it was to write is there whole or not at all, and asking again with the same ids
//! gives the first answer.
//!
//! Swept here, and in `operations.rs` what runs and operates projections, on every store:
//!
//! - `append` to two streams, `execute` on one id, on a tuple, with inline rows, and refused; `import`
//! - `load`, `at`, `as_of`, of a tuple; `history`, `read`, `streams`, `position_at`, `head`, `doctor`
//! - `snapshot`, `verify_snapshots`, a load from a snapshot, an `execute` that keeps one, `finish_snapshots`
//! - `begin` and a transaction of everything with `commit`, the same with `rollback`; each call in a transaction that goes on
//! - of a read model: `get`, `list`, `.after`, `.live`, `.at_position`, `history`, `replay`
//! - `Running`: `until`, `settle`, `stop`, of a read model and of a `Subscription`
//! - `Processors`: `status`, `pause`, `resume`, `throttle`, `reshard`, `rebuild_key`, `rebuild`, `wait`, `compare`, `promote`,
//!   `rollback`, `discard`; of dead letters `list`, `retry`, `retry_all`, `skip`, `try_run`
//!
//! On PostgreSQL alone: opening a log, `migrations`, `apply`, own SQL in a transaction (`tests/postgres/cancellation.rs`).
//! Callers who go while others share their call: `tests/postgres/batches.rs`, and of inline rows `inline.rs`.
//!
//! The calls that wait for others are dropped at each of their first awaits, then at fewer: `EVENTSTORE_SWEEP_ALL=1` has
//! them dropped at each.

mod operations;

use std::{
    future::poll_fn,
    pin::pin,
    task::Poll,
    time::{Duration, Instant},
};

use eventstore::{CommandError, Expected, Id, ImportEvent, Position, Runner, Store, StoreError, Version, prelude::*};
use futures::{FutureExt, TryStreamExt, future::BoxFuture, stream};
use tokio::time::timeout;
use uuid::Uuid;

use super::{
    World,
    account::{Account, AccountEvent::*, *},
    balances::Balance,
    campus::{Course, Enrol, Join, OpenCourse, Student},
    snapshots::{Add, HandTally, Tally},
};

/// How long the next call may take.
const SOON: Duration = Duration::from_secs(10);

/// Comes back when nothing is open.
pub type Idle = Box<dyn Fn() -> BoxFuture<'static, ()>>;

/// A store with as few connections as there can be, and another one over the same log.
pub struct Sweep {
    pub world: World,
    pub other: Store,
    idle: Idle,
}

/// Polls so many times, and drops.
pub async fn polled<F: Future>(times: usize, future: F) -> Option<F::Output> {
    let (mut future, mut polls) = (pin!(future), 0);
    poll_fn(|context| {
        polls += 1;
        match future.as_mut().poll(context) {
            Poll::Ready(done) => Poll::Ready(Some(done)),
            Poll::Pending if polls == times => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// How often to poll next, of what is dropped at each await up to so many.
pub fn next(times: usize, each: usize) -> usize {
    let all = std::env::var_os("EVENTSTORE_SWEEP_ALL").is_some();
    if times < each || all { times + 1 } else { times + 1 + (times - each) / 2 }
}

/// For what does not wait for others.
const EACH: usize = 1_000;
/// For what is read in many pieces.
const SOME: usize = 25;
/// For what does.
const FEW: usize = 3;

impl Sweep {
    pub fn new(world: World, other: Store, idle: Idle) -> Self {
        Self { world, other, idle }
    }

    fn store(&self) -> &Store {
        &self.world.store
    }

    /// Nothing is open, and the next call succeeds.
    pub async fn over(&self, what: &str, times: usize) {
        let over = async {
            (self.idle)().await;
            self.store().head().await.unwrap();
        };
        timeout(SOON, over)
            .await
            .unwrap_or_else(|_| panic!("{what}, dropped after {times} polls, leaves something open"));
    }

    /// Drops a call at its awaits; then looks at what has come of it, with what it gave if it was done.
    async fn each<F: Future>(
        &self,
        what: &str,
        each: usize,
        call: impl Fn(usize) -> F,
        then: impl AsyncFn(usize, Option<F::Output>),
    ) {
        self.each_with(what, each, async |_| {}, call, then).await;
    }

    /// The same, each time with something done before it.
    async fn each_with<F: Future>(
        &self,
        what: &str,
        each: usize,
        before: impl AsyncFn(usize),
        call: impl Fn(usize) -> F,
        then: impl AsyncFn(usize, Option<F::Output>),
    ) {
        let (mut times, start) = (1, Instant::now());
        loop {
            before(times).await;
            let outcome = polled(times, call(times)).await;
            let done = outcome.is_some();
            self.over(what, times).await;
            then(times, outcome).await;
            if done {
                println!("{what}: {times} polls, {:?}", start.elapsed());
                return;
            }
            times = next(times, each);
        }
    }

    /// How many events a key has.
    async fn events(&self, key: impl AsRef<str>) -> usize {
        let all = self.store().read().raw().try_collect::<Vec<_>>().await.unwrap();
        all.into_iter().filter(|event| event.stream.key() == key.as_ref()).count()
    }
}

fn account(of: &str, times: usize) -> Id<Account> {
    Id::from(format!("{of}-{times}"))
}

/// The same for the same.
fn command(of: &str, times: usize) -> Uuid {
    Uuid::new_v5(&Uuid::NAMESPACE_OID, format!("{of}-{times}").as_bytes())
}

fn open() -> Open {
    Open { owner: "Ann".into() }
}

#[tokio::test]
async fn a8_a5_an_append_or_a_command_dropped_at_any_await_is_recorded_whole_or_not_and_answered_when_asked_again() {
    let sweep = crate::sweep().await;
    let store = sweep.store();

    let append = |times| {
        let (ann, bob) = (account("ann", times), account("bob", times));
        let events = [Opened { owner: "Ann".into() }, Deposited { amount: 1 }];
        let append = store.append(&ann, Expected::Version(Version(0)), events);
        append.and(&bob, Expected::Any, [Deposited { amount: 1 }]).command_id(command("append", times)).into_future()
    };
    sweep
        .each("append", EACH, append, async |times, outcome| {
            let before = (sweep.events(&account("ann", times)).await, sweep.events(&account("bob", times)).await);
            assert!([(0, 0), (2, 1)].contains(&before), "{before:?} events after {times} polls");
            let again = append(times).await.unwrap();
            assert!(before == (0, 0) || again.replayed, "it was recorded twice");
            if let Some(first) = outcome {
                let first = first.unwrap();
                assert_eq!((first.first, first.last, &first.streams), (again.first, again.last, &again.streams));
            }
            assert_eq!(again.streams.iter().map(|(_, version)| version.0).collect::<Vec<_>>(), [2, 1]);
            assert_eq!(sweep.events(&account("ann", times)).await, 2);
        })
        .await;

    let execute = |times| store.execute(account("eve", times), open()).command_id(command("one", times)).into_future();
    sweep
        .each("execute on one id", EACH, execute, async |times, outcome| {
            let again = execute(times).await.unwrap();
            assert_eq!((again.version, again.events.len()), (Version(1), 1));
            assert!(outcome.is_none_or(|first| first.unwrap().events == again.events));
            assert_eq!(sweep.events(&account("eve", times)).await, 1);
        })
        .await;

    let refused = |times| store.execute(account("nobody", times), Deposit { amount: 1 }).into_future();
    sweep
        .each("execute, refused", EACH, refused, async |times, outcome| {
            assert!(
                outcome.is_none_or(|outcome| matches!(outcome, Err(CommandError::Rejected(AccountError::NotOpen))))
            );
            assert_eq!(sweep.events(&account("nobody", times)).await, 0);
        })
        .await;

    let pair = |times| (Id::<Course>::from(format!("course-{times}")), Id::<Student>::from(format!("student-{times}")));
    for times in 1..60 {
        let (course, student) = pair(times);
        sweep.other.execute(&course, OpenCourse { seats: 1 }).await.unwrap();
        sweep.other.execute(&student, Join).await.unwrap();
    }
    let enrol = |times| {
        let (course, student) = pair(times);
        let execute = store.execute((&course, &student), Enrol);
        execute.command_id(command("tuple", times)).into_future()
    };
    sweep
        .each("execute on a tuple", EACH, enrol, async |times, outcome| {
            let again = enrol(times).await.unwrap();
            assert!(outcome.is_none_or(|first| first.unwrap().events == again.events));
            let (course, student) = pair(times);
            assert_eq!(store.load(&course).await.unwrap().free(), 0);
            assert_eq!(store.load(&student).await.unwrap().courses(), [course]);
        })
        .await;

    let inline = store.clone().with_inline::<Balance>();
    let execute =
        |times| inline.execute(account("fay", times), open()).command_id(command("inline", times)).into_future();
    sweep
        .each("execute with inline rows", EACH, execute, async |times, outcome| {
            let rows = inline.read_model::<Balance>();
            let fay = account("fay", times);
            let (row, events) = (rows.get(&fay).await.unwrap(), sweep.events(&fay).await);
            assert_eq!(row.is_some(), events == 1, "a row and {events} events");
            let again = execute(times).await.unwrap();
            assert!(outcome.is_none_or(|first| first.unwrap().events == again.events));
            assert_eq!(sweep.events(&fay).await, 1);
            assert_eq!(rows.get(&fay).await.unwrap(), rows.get(&fay).at_position(again.position).await.unwrap());
        })
        .await;
    let rows = inline.read_model::<Balance>();
    assert_eq!(rows.list().await.unwrap(), rows.live().list().await.unwrap());

    let import = |times| {
        let entry = move |n: i64| {
            let (account, id) = (account("old", times), command(&format!("entry {times}"), n as usize));
            ImportEvent::new(&account, id, &Deposited { amount: n })
        };
        store.import(stream::iter((0..30).map(entry)))
    };
    sweep
        .each("import", EACH, import, async |times, outcome| {
            let before = sweep.events(&account("old", times)).await as u64;
            let again = import(times).await.unwrap();
            assert_eq!((again.known, again.recorded), (before, 30 - before));
            assert!(outcome.is_none_or(|first| first.unwrap().recorded == 30));
            assert_eq!(sweep.events(&account("old", times)).await, 30);
        })
        .await;
}

/// Each gives what it gives when nobody drops it.
macro_rules! same {
    ($sweep:ident, $($what:literal: $call:expr;)*) => {
        $({
            let call = || $call;
            let expected = call().await.unwrap();
            $sweep.each($what, SOME, |_| call(), async |_, outcome| {
                let answer = outcome.map_or(call().await.unwrap(), |outcome| outcome.unwrap());
                assert_eq!(answer, expected, $what);
            }).await;
        })*
    };
}

#[tokio::test]
async fn a8_a_read_dropped_at_any_await_leaves_the_connection_to_the_next() {
    let sweep = crate::sweep().await;
    let store = sweep.store();
    let (ann, bob) = (Id::<Account>::from("ann"), Id::<Account>::from("bob"));
    store.execute(&ann, open()).await.unwrap();
    let noon = sweep.world.noon().await;
    store.execute(&bob, open()).await.unwrap();
    // More than a page, so that another one is fetched while it is read.
    store.append(&ann, Expected::Any, (0..2_500).map(|_| Deposited { amount: 1 })).await.unwrap();
    let head = store.head().await.unwrap();
    let runner = Runner::new(&sweep.other).read_model::<Balance>().start();
    runner.until(head).await.unwrap();
    let rows = store.read_model::<Balance>();
    same! { sweep,
        "load": store.load(&ann).into_future();
        "load at a version": store.load(&ann).at(Version(7)).into_future();
        "load as of an instant": store.load(&ann).as_of(noon).into_future();
        "load of a tuple": store.load((&ann, &bob)).into_future();
        "history": store.history(&ann).map_ok(|(_, state)| state).try_collect::<Vec<_>>();
        "read": store.read().raw().try_collect::<Vec<_>>();
        "read backwards": store.read().backwards().limit(5).raw().try_collect::<Vec<_>>();
        "streams": store.streams("account").try_collect::<Vec<_>>();
        "position_at": store.position_at(noon);
        "head": store.head();
        "doctor": store.doctor().map(|report| report.map(|report| report.severity()));
        "get": rows.get(&ann).into_future();
        "get after a position": rows.get(&ann).after(head).into_future();
        "get at a position": rows.get(&ann).at_position(Position(5)).into_future();
        "list": rows.list().into_future();
        "list after a position": rows.list().filter("owner", "Ann").after(head).into_future();
        "list of the past": rows.at_position(Position(2)).list().into_future();
        "list live": rows.live().list().into_future();
        "history of a row": rows.history(&ann).map_ok(|(_, row)| row).try_collect::<Vec<_>>();
        "replay": async {
            let mut replay = store.read_model::<Balance>().replay();
            replay.until(Position(100)).await?;
            replay.finish().await?;
            Ok::<_, StoreError>(replay.position())
        };
    }
    runner.stop().await;
}

#[tokio::test]
async fn a8_n2_a_snapshot_dropped_at_any_await_changes_no_answer() {
    let sweep = crate::sweep().await;
    let store = sweep.store();
    let (tally, hand) = (Id::<Tally>::from("one"), Id::<HandTally>::from("one"));
    store.execute(&tally, Add { amount: 2, club: None }).await.unwrap();
    let add =
        |times| store.execute(&tally, Add { amount: 2, club: None }).command_id(command("add", times)).into_future();
    sweep
        .each("execute that keeps a snapshot", EACH, add, async |times, outcome| {
            let again = add(times).await.unwrap();
            assert!(outcome.is_none_or(|first| first.unwrap().events == again.events));
            timeout(SOON, store.finish_snapshots()).await.expect("nobody keeps the connection");
            let verified = store.verify_snapshots::<Tally>(10).await.unwrap();
            assert!(verified.differences.is_empty(), "{verified:?}");
        })
        .await;
    same! { sweep,
        "load from a snapshot": store.load(&tally).into_future();
        "snapshot": store.snapshot(&hand);
        "verify_snapshots": store.verify_snapshots::<HandTally>(10).map(|verified| verified.map(|verified| verified.differences));
        "finish_snapshots": store.finish_snapshots().map(Ok::<_, StoreError>);
    }
    assert_eq!(store.snapshot_counts().failed, 0);
}

#[tokio::test]
async fn a8_a2_a_transaction_dropped_at_any_await_is_there_whole_or_not_at_all() {
    let sweep = crate::sweep().await;
    let store = sweep.store();
    let noon = sweep.world.noon().await;
    let whole = |of: &'static str, times, commits| async move {
        let (first, second) = (account(of, times), account(&format!("{of}-second"), times));
        let tx = store.begin().await?;
        tx.execute(&first, open()).command_id(command(of, times)).await.map_err(|error| match error {
            CommandError::Store(error) => error,
            error => panic!("{error}"),
        })?;
        let append = tx.append(&second, Expected::Any, [Deposited { amount: 1 }]);
        append.command_id(command(of, times + EACH)).await?;
        assert!(tx.load(&first).await?.open);
        assert!(tx.read().raw().try_collect::<Vec<_>>().await?.len() >= 2);
        assert!(!tx.streams("account").try_collect::<Vec<_>>().await?.is_empty());
        assert_eq!(tx.position_at(noon).await?, Position(0));
        if commits { tx.commit().await } else { tx.rollback().await }
    };
    let events = async |of: &str, times| {
        let (first, second) = (account(of, times), account(&format!("{of}-second"), times));
        (sweep.events(&first).await, sweep.events(&second).await)
    };
    sweep
        .each(
            "a transaction with commit",
            EACH,
            |times| whole("tx", times, true),
            async |times, outcome| {
                let there = events("tx", times).await;
                assert!([(0, 0), (1, 1)].contains(&there), "{there:?} events after {times} polls");
                if let Some(outcome) = outcome {
                    outcome.unwrap();
                    assert_eq!(there, (1, 1), "it was acknowledged");
                }
                whole("tx", times, true).await.unwrap();
                assert_eq!(events("tx", times).await, (1, 1));
            },
        )
        .await;
    sweep
        .each(
            "a transaction with rollback",
            EACH,
            |times| whole("gone", times, false),
            async |times, outcome| {
                assert!(outcome.is_none_or(|outcome| outcome.is_ok()));
                assert_eq!(events("gone", times).await, (0, 0));
            },
        )
        .await;
}

/// What is done in a transaction, and dropped.
#[derive(Clone, Copy, Debug)]
enum Within {
    Append,
    Execute,
    Load,
    Read,
    Streams,
    PositionAt,
}

#[tokio::test]
async fn a8_a_call_dropped_in_a_transaction_is_done_whole_or_its_commit_is_refused() {
    let sweep = crate::sweep().await;
    let store = sweep.store();
    let noon = sweep.world.noon().await;
    for what in [Within::Append, Within::Execute, Within::Load, Within::Read, Within::Streams, Within::PositionAt] {
        let mut times = 1;
        loop {
            let (first, then) = (account(&format!("{what:?}-first"), times), account(&format!("{what:?}"), times));
            let tx = store.begin().await.unwrap();
            tx.append(&first, Expected::Any, [Deposited { amount: 1 }]).await.unwrap();
            let call = async {
                match what {
                    Within::Append => {
                        let events = (0..50).map(|amount| Deposited { amount });
                        tx.append(&then, Expected::Any, events).await.map(drop).unwrap();
                    }
                    Within::Execute => tx.execute(&then, open()).await.map(drop).unwrap(),
                    Within::Load => tx.load(&then).await.map(drop).unwrap(),
                    Within::Read => tx.read().raw().try_collect::<Vec<_>>().await.map(drop).unwrap(),
                    Within::Streams => tx.streams("account").try_collect::<Vec<_>>().await.map(drop).unwrap(),
                    Within::PositionAt => tx.position_at(noon).await.map(drop).unwrap(),
                }
            };
            let done = polled(times, call).await.is_some();
            let committed = timeout(SOON, tx.commit()).await.expect("it does not hang");
            sweep.over(&format!("{what:?} in a transaction"), times).await;
            let there = (sweep.events(&first).await, sweep.events(&then).await);
            let all = match what {
                Within::Append => 50,
                Within::Execute => 1,
                _ => 0,
            };
            match committed {
                Ok(()) if done => assert_eq!(there, (1, all)),
                Ok(()) => assert!(there == (1, 0) || there == (1, all), "{there:?} after {times} polls of {what:?}"),
                Err(error) => assert_eq!((there, done), ((0, 0), false), "{error}"),
            }
            if done {
                println!("{what:?} in a transaction: {times} polls");
                break;
            }
            times = next(times, EACH);
        }
    }
}
