//! Appends that are made at the same moment, and share a call.

use std::{sync::Arc, time::Duration};

use eventstore::{
    Append, Condition, Durability, EventStore, Expected, Item, PgStore, Position, Query, Store, StoreError, StreamId,
    Tag, Version, Write,
    sqlx::{self, AssertSqlSafe},
};
use futures::{FutureExt, future::join_all};
use tokio::time::timeout;

use crate::{account::AccountEvent::*, cases::raw, server};

fn append(key: &str, expected: Expected) -> Append {
    let stream = StreamId::new("account", key);
    Append { writes: vec![Write { stream, expected, events: vec![raw("opened", b"{}")] }], ..Append::default() }
}

/// The test, for each durability.
macro_rules! both {
    ($test:ident) => {
        mod $test {
            use super::*;

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn strict() {
                super::$test(Durability::Strict).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn pipelined() {
                super::$test(Durability::Pipelined).await;
            }
        }
    };
}

async fn fresh(durability: Durability) -> PgStore {
    PgStore::options().schema(server::schema()).durability(durability).connect(server::url()).await.unwrap()
}

/// A store that knows the event type already, with a transaction open that keeps all others from appending.
async fn held(store: &PgStore) -> Box<dyn eventstore::Transaction> {
    store.append(append("first", Expected::Any)).await.unwrap();
    let mut transaction = store.begin().await.unwrap();
    transaction.append(append("second", Expected::Any)).await.unwrap();
    transaction
}

/// Each has been asked for, in order: the first is under way, the others are in the queue.
fn all_wait<F: Future>(appends: &mut [std::pin::Pin<Box<F>>]) {
    for append in appends {
        assert!(append.as_mut().now_or_never().is_none());
    }
}

both!(a4_a_conflict_does_not_touch_those_it_shares_a_call_with);
async fn a4_a_conflict_does_not_touch_those_it_shares_a_call_with(durability: Durability) {
    let store = fresh(durability).await;
    let open = held(&store).await;
    let expected = |n: usize| Expected::Version(if n.is_multiple_of(3) { Version(7) } else { Version(0) });
    let mut appends: Vec<_> = (0..50).map(|n| Box::pin(store.append(append(&n.to_string(), expected(n))))).collect();
    all_wait(&mut appends);
    open.commit().await.unwrap();
    for (n, outcome) in join_all(appends).await.into_iter().enumerate() {
        match outcome {
            Ok(written) => {
                assert_ne!(n % 3, 0);
                assert_eq!(written.streams, [(StreamId::new("account", &n.to_string()), Version(1))]);
            }
            Err(StoreError::Conflict(conflict)) => {
                assert_eq!(n % 3, 0);
                assert_eq!((conflict.expected, conflict.actual), (Expected::Version(Version(7)), Version(0)));
            }
            Err(error) => panic!("{error:?}"),
        }
    }
}

both!(a4_conflicts_of_a_shared_call_name_each_what_came_in_between);
async fn a4_conflicts_of_a_shared_call_name_each_what_came_in_between(durability: Durability) {
    let pg = fresh(durability).await;
    let store = Store::from(pg.clone());
    let account = |n: u64| StreamId::new("account", &n.to_string());
    let withdrawn = || Withdrawn { amount: 1 };
    for n in 0..30 {
        let opened = [Opened { owner: "Ann".into() }].into_iter();
        store.append(account(n), Expected::Any, opened.chain((0..n % 3).map(|_| withdrawn()))).await.unwrap();
    }
    let open = held(&pg).await;
    let append = |n| store.append(account(n), Expected::Version(Version(1)), [withdrawn()]).into_future();
    let mut appends: Vec<_> = (0..30).map(|n| Box::pin(append(n))).collect();
    all_wait(&mut appends);
    open.commit().await.unwrap();
    for (outcome, n) in join_all(appends).await.into_iter().zip(0_u64..) {
        match outcome {
            Ok(_) => assert_eq!(n % 3, 0),
            Err(StoreError::Conflict(conflict)) => {
                let between = vec!["account.withdrawn"; (n % 3) as usize];
                assert_eq!(conflict.between.iter().map(|name| &**name).collect::<Vec<_>>(), between, "{conflict}");
                assert!(n % 3 > 0);
                assert_eq!(conflict.stream, account(n));
            }
            Err(error) => panic!("{error:?}"),
        }
    }
}

both!(a13_of_conditions_that_share_a_call_one_of_each_kind_wins);
async fn a13_of_conditions_that_share_a_call_one_of_each_kind_wins(durability: Durability) {
    let store = fresh(durability).await;
    let open = held(&store).await;
    let claim = |n: u32| {
        let mut claim = append(&n.to_string(), Expected::Any);
        let name = Tag::new("name", (n % 10).to_string());
        claim.writes[0].events[0].data.tags = vec![name.clone()];
        let query = Query::from(Item { tags: vec![name], ..Item::default() });
        claim.condition = Some(Condition { query, after: Position(1) });
        claim
    };
    let mut claims: Vec<_> = (0..50).map(|n| Box::pin(store.append(claim(n)))).collect();
    all_wait(&mut claims);
    open.commit().await.unwrap();
    let outcomes = join_all(claims).await;
    for name in 0..10 {
        let won = outcomes.iter().skip(name).step_by(10).filter(|outcome| outcome.is_ok()).count();
        assert_eq!(won, 1, "name {name}");
    }
    assert!(outcomes.into_iter().filter_map(Result::err).all(|error| error.is_conflict()));
}

// What comes in while an append waits for the lock, its condition has not seen before: it is looked at again under the
// lock, alone and in a shared call, also where it has no tag.
both!(a13_a_condition_is_checked_under_the_lock_by_its_names_alone_too);
async fn a13_a_condition_is_checked_under_the_lock_by_its_names_alone_too(durability: Durability) {
    let names = |name: &str| Item { names: vec![name.to_owned().into()], ..Item::default() };
    let tags = |key: &str| Item { tags: vec![Tag::new("club", key)], ..Item::default() };
    let both = |name: &str, key: &str| Item { names: names(name).names, ..tags(key) };
    let queries = [
        (Query::from(names("opened")), false),
        (names("closed").into(), true),
        (tags("x").into(), false),
        (tags("y").into(), true),
        (both("opened", "x").into(), false),
        (both("closed", "x").into(), true),
        (Query { items: vec![tags("y"), names("opened")] }, false),
        (Query { items: vec![tags("y"), names("closed")] }, true),
    ];
    // Alone in its call, and behind another one.
    for alone in 0..queries.len() {
        let store = fresh(durability).await;
        // What the appends record is no concern of the others; and its type is known, so they may share a call.
        let asking = |key: &str, condition| {
            let stream = StreamId::new("asking", key);
            let write = Write { stream, expected: Expected::Any, events: vec![raw("asked", b"{}")] };
            Append { writes: vec![write], condition, ..Append::default() }
        };
        store.append(asking("first", None)).await.unwrap();
        store.append(append("first", Expected::Any)).await.unwrap();
        let mut open = store.begin().await.unwrap();
        let mut second = append("second", Expected::Any);
        second.writes[0].events[0].data.tags = vec![Tag::new("club", "x")];
        open.append(second).await.unwrap();
        let asked = |n: usize| {
            let (query, holds) = &queries[(alone + n) % queries.len()];
            let condition = Some(Condition { query: query.clone(), after: Position(2) });
            (asking(&n.to_string(), condition), *holds)
        };
        let mut appends: Vec<_> = (0..queries.len()).map(|n| Box::pin(store.append(asked(n).0))).collect();
        all_wait(&mut appends);
        // The long part of the condition of the first is done by then.
        let commit = async {
            server::waiting_for_the_lock(store.schema(), 1).await;
            open.commit().await.unwrap();
        };
        let (outcomes, ()) = tokio::join!(join_all(appends), commit);
        for (n, outcome) in outcomes.into_iter().enumerate() {
            match outcome {
                Ok(_) => assert!(asked(n).1, "{n} of {alone}: {:?}", queries[(alone + n) % queries.len()]),
                Err(error) => {
                    assert!(error.is_conflict() && !asked(n).1, "{n} of {alone}: {error:?}");
                }
            }
        }
    }
}

both!(a1_appends_of_one_moment_share_a_call);
async fn a1_appends_of_one_moment_share_a_call(durability: Durability) {
    let store = fresh(durability).await;
    let counted = count_calls(&store).await;
    let open = held(&store).await;
    let before = counted.asked().await;
    let mut appends: Vec<_> = (0..50).map(|n| Box::pin(store.append(append(&n.to_string(), Expected::Any)))).collect();
    all_wait(&mut appends);
    open.commit().await.unwrap();
    join_all(appends).await.into_iter().for_each(|outcome| drop(outcome.unwrap()));
    assert_eq!(counted.calls_since(before).await, [1, 49], "the first was under way, the others waited together");
}

/// Counts how often a server is asked to insert events, and how many are inserted each time.
struct CountedCalls(String);

async fn count_calls(store: &PgStore) -> CountedCalls {
    let count = "
        CREATE SEQUENCE {schema}.asked; CREATE TABLE {schema}.calls (asked bigint, events bigint);
        CREATE FUNCTION {schema}.count() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN PERFORM nextval('{schema}.asked'); RETURN NULL; END $$;
        CREATE TRIGGER asked BEFORE INSERT ON {schema}.events FOR EACH STATEMENT EXECUTE FUNCTION {schema}.count();
        CREATE FUNCTION {schema}.called() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            INSERT INTO {schema}.calls SELECT currval('{schema}.asked'), count(*) FROM new_events;
            RETURN NULL;
        END $$;
        CREATE TRIGGER called AFTER INSERT ON {schema}.events REFERENCING NEW TABLE AS new_events
            FOR EACH STATEMENT EXECUTE FUNCTION {schema}.called()";
    let count = count.replace("{schema}", store.schema());
    sqlx::raw_sql(AssertSqlSafe(count)).execute(&mut server::connection().await).await.unwrap();
    CountedCalls(store.schema().to_owned())
}

impl CountedCalls {
    /// How often it was asked.
    async fn asked(&self) -> i64 {
        let asked = format!("SELECT last_value FROM {}.asked", self.0);
        sqlx::query_scalar(AssertSqlSafe(asked)).fetch_one(&mut server::connection().await).await.unwrap()
    }

    /// How many events were inserted by each call after so many.
    async fn calls_since(&self, before: i64) -> Vec<i64> {
        let calls = format!("SELECT events FROM {}.calls WHERE asked > {before} ORDER BY asked", self.0);
        sqlx::query_scalar(AssertSqlSafe(calls)).fetch_all(&mut server::connection().await).await.unwrap()
    }
}

both!(a4_what_must_be_unchanged_is_not_changed_by_the_same_call);
async fn a4_what_must_be_unchanged_is_not_changed_by_the_same_call(durability: Durability) {
    let store = fresh(durability).await;
    let open = held(&store).await;
    let pair = |n: usize| {
        let watcher = Append {
            unchanged: vec![(StreamId::new("account", &n.to_string()), Version(0))],
            ..append(&format!("watcher {n}"), Expected::Any)
        };
        [append(&n.to_string(), Expected::Any), watcher]
    };
    let mut appends: Vec<_> = (0..20).flat_map(pair).map(|append| Box::pin(store.append(append))).collect();
    all_wait(&mut appends);
    open.commit().await.unwrap();
    for pair in join_all(appends).await.chunks(2) {
        let [Ok(changed), watched] = pair else { panic!("{pair:?}") };
        // The watcher came later, and had to see the change.
        match watched {
            Ok(watched) => assert!(watched.first < changed.first),
            Err(error) => assert!(error.is_conflict(), "{error:?}"),
        }
    }
}

both!(a5_an_id_that_is_taken_does_not_touch_those_it_shares_a_call_with);
async fn a5_an_id_that_is_taken_does_not_touch_those_it_shares_a_call_with(durability: Durability) {
    let store = fresh(durability).await;
    let again = append("again", Expected::Any);
    store.append(again.clone()).await.unwrap();
    let mut other = append("other", Expected::Any);
    other.writes[0].events[0].id = again.writes[0].events[0].id;
    let open = held(&store).await;
    let appends = [append("a", Expected::Any), again, append("b", Expected::Any), other];
    let mut appends: Vec<_> = appends.into_iter().map(|append| Box::pin(store.append(append))).collect();
    all_wait(&mut appends);
    open.commit().await.unwrap();
    let [a, again, b, other] = join_all(appends).await.try_into().unwrap();
    assert!(!a.unwrap().replayed && !b.unwrap().replayed);
    let again = again.unwrap();
    assert_eq!((again.replayed, again.first), (true, Position(1)));
    assert!(matches!(other, Err(StoreError::Duplicate { .. })));
}

both!(a8_callers_who_go_leave_the_others_in_the_call);
async fn a8_callers_who_go_leave_the_others_in_the_call(durability: Durability) {
    let store = fresh(durability).await;
    let open = held(&store).await;
    let mut appends: Vec<_> =
        (0..40).map(|n| Box::pin(store.append(append(&n.to_string(), Expected::Version(Version(0)))))).collect();
    all_wait(&mut appends);
    // Also the one that makes the first call, alone.
    let staying: Vec<_> =
        appends.into_iter().enumerate().filter(|(n, _)| n % 2 == 1).map(|(_, append)| append).collect();
    open.commit().await.unwrap();
    for outcome in timeout(Duration::from_secs(10), join_all(staying)).await.expect("nobody waits for who has gone") {
        outcome.unwrap();
    }
    // The queue is as it was: whoever comes next is served.
    timeout(Duration::from_secs(10), store.append(append("next", Expected::Any))).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a11_a_full_queue_is_a_typed_error() {
    let store = PgStore::options().schema(server::schema()).queue(3).connect(server::url()).await.unwrap();
    let open = held(&store).await;
    // One is under way, three wait.
    let mut appends: Vec<_> = (0..4).map(|n| Box::pin(store.append(append(&n.to_string(), Expected::Any)))).collect();
    all_wait(&mut appends);
    let refused = store.append(append("too many", Expected::Any)).await.unwrap_err();
    assert!(matches!(&refused, StoreError::Busy(_)) && refused.is_retryable(), "{refused:?}");
    open.commit().await.unwrap();
    join_all(appends).await.into_iter().for_each(|outcome| drop(outcome.unwrap()));
    store.append(append("now", Expected::Any)).await.unwrap();
}

#[test]
fn a8_a_runtime_that_ends_leaves_the_store_to_the_next() {
    let runtime = || tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let first = runtime();
    let store = Arc::new(first.block_on(server::fresh()));
    let open = first.block_on(held(&store));
    for n in 0..20 {
        let store = store.clone();
        first.spawn(async move { store.append(append(&n.to_string(), Expected::Any)).await });
    }
    // In the middle of a call, with others in the queue.
    first.block_on(server::waiting_for_the_lock(store.schema(), 1));
    first.shutdown_timeout(Duration::ZERO);
    let second = runtime();
    second.block_on(async {
        drop(open);
        let store = PgStore::options().schema(store.schema()).connect(server::url()).await.unwrap();
        timeout(Duration::from_secs(10), store.append(append("next", Expected::Any))).await.unwrap().unwrap();
    });
    // The old handle's connections died with their runtime; it finds others.
    second.block_on(async {
        let outcome = timeout(Duration::from_secs(20), store.append(append("old handle", Expected::Any))).await;
        outcome.expect("it does not hang").unwrap();
    });
}

// Finding B5: what repeats a recorded append is answered by itself, and those it shares a call with are still recorded in
// one. Counted: how often the server was asked to insert, and how many events were inserted each time.
both!(a5_a_repeated_append_does_not_break_the_call_of_its_neighbours);
async fn a5_a_repeated_append_does_not_break_the_call_of_its_neighbours(durability: Durability) {
    let store = fresh(durability).await;
    let counted = count_calls(&store).await;
    let repeated = append("repeated", Expected::Any);
    let first = store.append(repeated.clone()).await.unwrap();
    for round in 0..3 {
        let open = held(&store).await;
        let before = counted.asked().await;
        let mut appends: Vec<_> = (0..50)
            .map(|n| match n {
                // The first of all is alone in its call.
                20 => repeated.clone(),
                n => append(&format!("{round}-{n}"), Expected::Version(Version(0))),
            })
            .map(|append| Box::pin(store.append(append)))
            .collect();
        all_wait(&mut appends);
        open.commit().await.unwrap();
        for (n, outcome) in join_all(appends).await.into_iter().enumerate() {
            let written = outcome.unwrap();
            assert_eq!(written.replayed, n == 20, "round {round}, {n}");
            if n == 20 {
                assert_eq!(
                    (written.first, written.last, written.streams),
                    (first.first, first.last, first.streams.clone())
                );
            }
        }
        assert_eq!(counted.calls_since(before).await, [1, 48], "round {round}");
        let after = counted.asked().await;
        // Once a call was broken by it, each looks before.
        assert_eq!(after - before, if round == 0 { 3 } else { 2 }, "round {round}");
    }
    // The same id with other data is an error, its own only.
    let open = held(&store).await;
    let mut other = append("other", Expected::Any);
    other.writes[0].events[0].id = repeated.writes[0].events[0].id;
    let mut appends: Vec<_> = (0..20)
        .map(|n| if n == 7 { other.clone() } else { append(&format!("last-{n}"), Expected::Any) })
        .map(|append| Box::pin(store.append(append)))
        .collect();
    all_wait(&mut appends);
    open.commit().await.unwrap();
    for (n, outcome) in join_all(appends).await.into_iter().enumerate() {
        match outcome {
            Err(error) => assert!(n == 7 && matches!(error, StoreError::Duplicate { .. }), "{n}: {error:?}"),
            Ok(_) => assert_ne!(n, 7),
        }
    }
}
