//! What each class of SQLSTATEs leads to, raised by a real server: who is to blame, what is retried, what is recorded.
//! The table is in `docs/errors.md`.

use std::{error::Error, time::Duration};

use eventstore::{
    BoxError, Expected, Id, PgStore, Position, Projection, Runner, Running, State, Store, StoreError,
    prelude::*,
    sqlx::{self, AssertSqlSafe, Connection, PgConnection},
};
use tokio::time::sleep;

use crate::{
    account::{AccountEvent::*, *},
    server,
};

type Any = Box<dyn Error>;

/// What the next thirteen leads to: a SQLSTATE, or something that a server does by itself.
struct Mood {
    schema: String,
}

impl Mood {
    async fn new(schema: &str) -> Result<Self, Any> {
        let make = format!("CREATE TABLE {schema}.mood (what text); INSERT INTO {schema}.mood VALUES ('')");
        sqlx::raw_sql(AssertSqlSafe(make)).execute(&mut server::connection().await).await?;
        Ok(Self { schema: schema.into() })
    }

    async fn set(&self, what: &str) -> Result<(), Any> {
        let set = format!("UPDATE {}.mood SET what = '{what}'", self.schema);
        sqlx::raw_sql(AssertSqlSafe(set)).execute(&mut server::connection().await).await?;
        Ok(())
    }
}

struct Moody {
    schema: String,
}

impl Projection for Moody {
    const NAME: &'static str = "moody";
    type Event = AccountEvent;
    type Db = sqlx::Postgres;

    async fn prepare(&self, db: &mut PgConnection) -> Result<(), BoxError> {
        let make = format!("CREATE TABLE IF NOT EXISTS {}.moody (amount bigint)", self.schema);
        sqlx::query(AssertSqlSafe(make)).execute(db).await?;
        Ok(())
    }

    async fn project(&self, event: &Recorded<AccountEvent>, db: &mut PgConnection) -> Result<(), BoxError> {
        let Deposited { amount } = event.data else { return Ok(()) };
        let run = async |db: &mut PgConnection, sql: String| sqlx::raw_sql(AssertSqlSafe(sql)).execute(db).await;
        let what: String = sqlx::query_scalar(AssertSqlSafe(format!("SELECT what FROM {}.mood", self.schema)))
            .fetch_one(&mut *db)
            .await?;
        match &*what {
            _ if amount != 13 => {}
            "" => {}
            "statement_timeout" => {
                run(db, "SET LOCAL statement_timeout = '20ms'; SELECT pg_sleep(5)".into()).await?;
            }
            "lock_timeout" => {
                run(db, format!("SET LOCAL lock_timeout = '20ms'; LOCK TABLE {}.locked", self.schema)).await?;
            }
            "terminated" => {
                run(db, "SELECT pg_terminate_backend(pg_backend_pid())".into()).await?;
            }
            "duplicate" => {
                run(db, "CREATE TEMP TABLE one (n int UNIQUE) ON COMMIT DROP; INSERT INTO one VALUES (1), (1)".into())
                    .await?;
            }
            "no such table" => {
                run(db, "SELECT * FROM no_such_table".into()).await?;
            }
            "not a number" => {
                run(db, "SELECT 'x'::int".into()).await?;
            }
            state => {
                let raise = format!("DO $$ BEGIN RAISE EXCEPTION 'raised' USING ERRCODE = '{state}'; END $$");
                run(db, raise).await?;
            }
        }
        run(db, format!("INSERT INTO {}.moody VALUES ({amount})", self.schema)).await?;
        Ok(())
    }
}

async fn rows(schema: &str) -> Result<Vec<i64>, Any> {
    let all = sqlx::query_scalar(AssertSqlSafe(format!("SELECT amount FROM {schema}.moody ORDER BY amount")));
    Ok(all.fetch_all(&mut server::connection().await).await?)
}

/// A log, its mood, and a projection that runs.
async fn moody() -> Result<(PgStore, Store, Mood, Running), Any> {
    let pg = server::fresh().await;
    let (store, mood) = (Store::from(pg.clone()), Mood::new(pg.schema()).await?);
    let runner = Runner::new(&store).projection(Moody { schema: pg.schema().into() }).start();
    store.append(Id::<Account>::from("first"), Expected::Any, [Deposited { amount: 1 }]).await?;
    runner.until(Position(1)).await?;
    Ok((pg, store, mood, runner))
}

/// What the server causes is waited out: nothing is parked, and nothing stops.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p3_an_error_that_the_server_causes_is_waited_out() -> Result<(), Any> {
    let (pg, store, mood, runner) = moody().await?;
    let make = format!("CREATE TABLE {}.locked ()", pg.schema());
    sqlx::raw_sql(AssertSqlSafe(make)).execute(&mut server::connection().await).await?;
    let mut holder = server::connection().await;
    let mut lock = holder.begin().await?;
    let hold = format!("LOCK TABLE {}.locked", pg.schema());
    sqlx::raw_sql(AssertSqlSafe(hold)).execute(&mut *lock).await?;
    let whats = [
        "statement_timeout",
        "lock_timeout",
        "terminated",
        "08006",
        "0A000",
        "25006",
        "25P03",
        "26000",
        "28000",
        "40001",
        "40P01",
        "42501",
        "53000",
        "53100",
        "53200",
        "53300",
        "55006",
        "55P03",
        "57014",
        "57P01",
        "58030",
        "72000",
        "F0000",
        "HV000",
        "XX000",
        "XX001",
    ];
    for (n, what) in whats.iter().enumerate() {
        mood.set(what).await?;
        let account = Id::<Account>::from(format!("account-{n}"));
        let written = store.append(&account, Expected::Any, [Deposited { amount: 13 }]).await?;
        // More often than an event is tried that is to blame.
        let (mut tries, mut told) = (0, None);
        for _ in 0..6_000 {
            let status = &runner.status()[0];
            assert!(!status.stopped && status.state != State::Failed, "{what}: {:?}", status.error);
            let error = status.error.as_ref().map(|error| std::sync::Arc::as_ptr(error).cast::<()>().addr());
            if error.is_some() && error != told {
                (tries, told) = (tries + 1, error);
            }
            if tries > 5 {
                break;
            }
            sleep(Duration::from_millis(5)).await;
        }
        assert!(tries > 5, "{what} was tried {tries} times");
        assert_eq!(runner.dead_letters("moody").list().await?, [], "{what}");
        mood.set("").await?;
        runner.until(written.last).await?;
        assert_eq!(rows(pg.schema()).await?.len(), n + 2, "{what}");
    }
    lock.rollback().await?;
    runner.stop().await;
    Ok(())
}

/// The same where it is kept with each append: what the server causes is retryable, and nothing is recorded.
#[tokio::test]
async fn a6_what_the_server_causes_in_an_inline_projection_is_retryable() -> Result<(), Any> {
    let pg = server::fresh().await;
    let mood = Mood::new(pg.schema()).await?;
    let plain = Store::from(pg.clone());
    let store = plain.clone().with_inline_projection(Moody { schema: pg.schema().into() });
    let ann = Id::<Account>::from("ann");
    store.append(&ann, Expected::Any, [Deposited { amount: 1 }]).await?;
    for what in ["statement_timeout", "terminated", "08006", "25006", "40001", "53100", "55P03", "57014", "58030"] {
        mood.set(what).await?;
        let error = store.append(&ann, Expected::Any, [Deposited { amount: 13 }]).await.expect_err(what);
        assert!(error.is_retryable(), "{what}: {error:?}");
        let tx = store.begin().await?;
        let error = tx.append(&ann, Expected::Any, [Deposited { amount: 13 }]).await.expect_err(what);
        assert!(error.is_retryable(), "{what}, in a transaction: {error:?}");
        tx.commit().await.expect_err(what);
        assert_eq!(plain.head().await?, Position(1), "{what}");
        mood.set("").await?;
    }
    // What an event causes is told with the event, and what the program causes is told of it.
    for (what, event) in [("22003", true), ("42601", false)] {
        mood.set(what).await?;
        let error = store.append(&ann, Expected::Any, [Deposited { amount: 13 }]).await.expect_err(what);
        match event {
            true => assert!(matches!(error, StoreError::NotProjected { .. }), "{what}: {error:?}"),
            false => assert!(
                matches!(error, StoreError::NotProjected { .. } | StoreError::Stopped { .. }),
                "{what}: {error:?}"
            ),
        }
        mood.set("").await?;
    }
    store.append(&ann, Expected::Any, [Deposited { amount: 13 }]).await?;
    assert_eq!(rows(pg.schema()).await?, [1, 13]);
    Ok(())
}

/// What a row or an event causes parks its key; others go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p3_an_error_that_an_event_causes_parks_its_key() -> Result<(), Any> {
    let (pg, store, mood, runner) = moody().await?;
    let whats = [
        "duplicate",
        "not a number",
        "21000",
        "22001",
        "22003",
        "23502",
        "23503",
        "23514",
        "40002",
        "44000",
        "54000",
        "P0001",
        "P0002",
        "U0001",
    ];
    for (n, what) in whats.iter().enumerate() {
        mood.set(what).await?;
        let account = Id::<Account>::from(format!("account-{n}"));
        store.append(&account, Expected::Any, [Deposited { amount: 13 }]).await?;
        let other = store.append(Id::<Account>::from("first"), Expected::Any, [Deposited { amount: 1 }]).await?;
        crate::cases::parked::reached(&runner, other.last).await?;
        let letters = runner.dead_letters("moody").list().await?;
        assert_eq!(letters.len(), 1, "{what}");
        assert_eq!(letters[0].key, account.stream().to_string(), "{what}");
        assert_eq!(rows(pg.schema()).await?.len(), 2 * n + 2, "{what}: others go on");
        mood.set("").await?;
        runner.dead_letters("moody").retry_all().await?;
        assert_eq!(rows(pg.schema()).await?.len(), 2 * n + 3, "{what}: and it is tried again");
    }
    runner.stop().await;
    Ok(())
}

/// What the program causes stops the projection at once: no event is to blame, and no key is parked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p3_an_error_that_the_program_causes_stops_it() -> Result<(), Any> {
    for what in ["no such table", "25001", "2D000", "3B001", "3F000", "42601", "42703", "42883", "55000"] {
        let (_, store, mood, runner) = moody().await?;
        mood.set(what).await?;
        let ann = Id::<Account>::from("ann");
        let written = store.append(&ann, Expected::Any, [Deposited { amount: 13 }]).await?;
        let stopped = runner.until(written.last).await;
        assert!(matches!(stopped, Err(StoreError::Stopped { .. })), "{what}: {stopped:?}");
        assert_eq!(runner.dead_letters("moody").list().await?, [], "{what}");
        runner.stop().await;
    }
    Ok(())
}

/// What an append is told, and what is recorded: a trigger raises each state in the statement that records.
#[tokio::test]
async fn a6_an_append_says_what_a_state_means_and_records_nothing() -> Result<(), Any> {
    let pg = server::fresh().await;
    let (store, mood) = (Store::from(pg.clone()), Mood::new(pg.schema()).await?);
    let ann = Id::<Account>::from("ann");
    store.append(&ann, Expected::Any, [Deposited { amount: 1 }]).await?;
    let trigger = "
        CREATE FUNCTION {schema}.moody() RETURNS trigger LANGUAGE plpgsql AS $$
        DECLARE state text := (SELECT what FROM {schema}.mood);
        BEGIN
            IF state <> '' THEN
                RAISE EXCEPTION 'raised' USING ERRCODE = state;
            END IF;
            RETURN NULL;
        END $$;
        CREATE TRIGGER moody AFTER INSERT ON {schema}.events FOR EACH STATEMENT EXECUTE FUNCTION {schema}.moody()";
    let trigger = trigger.replace("{schema}", pg.schema());
    sqlx::raw_sql(AssertSqlSafe(trigger)).execute(&mut server::connection().await).await?;
    type Told = fn(&StoreError) -> bool;
    let busy: Told = |error| matches!(error, StoreError::Busy(_)) && error.is_retryable();
    let away: Told = |error| matches!(error, StoreError::Unavailable(_)) && error.is_retryable();
    let unknown: Told = |error| matches!(error, StoreError::Unknown(_)) && error.is_retryable();
    let denied: Told = |error| matches!(error, StoreError::Denied(_)) && !error.is_retryable();
    let damaged: Told = |error| matches!(error, StoreError::Damaged(_)) && !error.is_retryable();
    let rejected: Told = |error| matches!(error, StoreError::Database(_)) && !error.is_retryable();
    for (state, told) in [
        ("40001", busy),
        ("40P01", busy),
        ("55P03", busy),
        ("57014", busy),
        ("53100", away),
        ("53200", away),
        ("58030", away),
        ("25006", away),
        ("57P03", away),
        ("08006", unknown),
        ("57P01", unknown),
        ("40003", unknown),
        ("42501", denied),
        ("28000", denied),
        ("XX001", damaged),
        ("XX002", damaged),
        ("22001", rejected),
        ("23514", rejected),
        ("42601", rejected),
        ("P0001", rejected),
        ("XX000", rejected),
    ] {
        mood.set(state).await?;
        for commands in [false, true] {
            let error = match commands {
                true => match store.execute(&ann, Open { owner: "Ann".into() }).await {
                    Err(eventstore::CommandError::Store(error)) => error,
                    other => panic!("{state}: {other:?}"),
                },
                false => store.append(&ann, Expected::Any, [Deposited { amount: 1 }]).await.expect_err(state),
            };
            assert!(told(&error), "{state}: {error:?}");
            assert!(error.source().is_none() && error.reason().is_some(), "{state}: {error}");
        }
        // In a transaction nothing is unknown before its commit.
        let tx = store.begin().await?;
        let error = tx.append(&ann, Expected::Any, [Deposited { amount: 1 }]).await.expect_err(state);
        assert!(!matches!(error, StoreError::Unknown(_)), "{state}: {error:?}");
        tx.commit().await.expect_err(state);
        assert_eq!(store.head().await?, Position(1), "{state}");
        mood.set("").await?;
        assert_eq!(store.load(&ann).await?.balance, 1, "{state}");
    }
    store.append(&ann, Expected::Any, [Deposited { amount: 1 }]).await?;
    assert_eq!(store.head().await?, Position(2));
    Ok(())
}

/// A role that may have one connection: those that come after it are told to come again.
#[tokio::test]
async fn too_many_connections_are_unavailable_and_not_a_failure() -> Result<(), Any> {
    let (schema, role) = (server::schema(), format!("few_{}", server::schema()));
    PgStore::options().schema(&schema).connect(server::url()).await?;
    let make = format!(
        "CREATE ROLE {role} LOGIN SUPERUSER PASSWORD 'x' CONNECTION LIMIT 1;
         ALTER ROLE {role} NOSUPERUSER;
         GRANT ALL ON SCHEMA {schema} TO {role}; GRANT ALL ON ALL TABLES IN SCHEMA {schema} TO {role};
         GRANT ALL ON ALL FUNCTIONS IN SCHEMA {schema} TO {role}"
    );
    let mut owner = server::connection().await;
    sqlx::raw_sql(AssertSqlSafe(make)).execute(&mut owner).await?;
    let url = server::url_as(&role, "x");
    let held = PgConnection::connect(&url).await?;
    let refused = PgStore::options().schema(&schema).connect(&url).await;
    assert!(matches!(&refused, Err(error @ StoreError::Unavailable(_)) if error.is_retryable()), "{refused:?}");
    held.close().await?;
    let drop = format!("DROP OWNED BY {role}; DROP ROLE {role}");
    sqlx::raw_sql(AssertSqlSafe(drop)).execute(&mut owner).await?;
    Ok(())
}
