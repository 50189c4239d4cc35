//! Hardened: the program appends and reads, and can do nothing else to events.

use eventstore::{
    Id, Invalid, PgOptions, PgStore, Runner, Store, StoreError,
    doctor::Severity,
    prelude::*,
    sqlx::{self, AssertSqlSafe, Connection, PgConnection},
};

use futures::TryStreamExt;

use crate::{
    account::{Account, *},
    cases::balances::Balance,
    ledger::Ledger,
    server,
};

type Any = Box<dyn std::error::Error>;

const PASSWORD: &str = "only_for_this_test";

pub async fn run(connection: &mut PgConnection, sql: impl Into<String>) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(AssertSqlSafe(sql.into())).execute(connection).await.map(drop)
}

/// A log with roles, which are gone when the test is over.
pub struct Hardened {
    pub schema: String,
    pub options: PgOptions,
    pub admin: PgConnection,
}

impl Hardened {
    pub async fn new() -> Result<Self, Any> {
        let schema = server::schema();
        let options = PgStore::options().schema(schema.clone()).tables_schema(format!("{schema}_tables"));
        let mut admin = server::connection().await;
        // As somebody would who is careful: roles, tables, and roles again for what the tables need.
        run(&mut admin, options.roles_sql()?).await?;
        run(&mut admin, options.schema_sql()?).await?;
        run(&mut admin, options.roles_sql()?).await?;
        for role in ["owner", "app", "reader"] {
            run(&mut admin, format!("ALTER ROLE {schema}_{role} LOGIN PASSWORD '{PASSWORD}'")).await?;
        }
        Ok(Self { schema, options, admin })
    }

    pub fn url(&self, role: &str) -> String {
        server::url_as(&format!("{}_{role}", self.schema), PASSWORD)
    }

    pub async fn open(&self, role: &str) -> Result<PgStore, StoreError> {
        self.options.clone().connect(&self.url(role)).await
    }

    /// What the server says when a role tries something.
    pub async fn tries(&self, role: &str, sql: &str) -> Result<Option<String>, sqlx::Error> {
        let mut connection = PgConnection::connect(&self.url(role)).await?;
        let sql = sql.replace("{s}", &self.schema);
        Ok(match run(&mut connection, sql).await {
            Ok(()) => None,
            Err(error) => Some(error.as_database_error().and_then(|error| error.code()).unwrap_or_default().into()),
        })
    }

    pub async fn remove(mut self) -> Result<(), Any> {
        for role in ["app", "reader", "owner"] {
            run(&mut self.admin, format!("DROP OWNED BY {0}_{role} CASCADE; DROP ROLE {0}_{role}", self.schema))
                .await?;
        }
        Ok(())
    }
}

#[tokio::test]
async fn x3_the_app_role_can_append_and_read_and_nothing_else() -> Result<(), Any> {
    let hardened = Hardened::new().await?;
    let pg = hardened.open("app").await?;
    let report = pg.doctor().await?;
    let rights = report.get("rights").expect("rights");
    assert!(rights.severity == Severity::Ok && rights.found.starts_with("hardened"), "{rights}");

    // Everything a program does: commands, several streams, a read model, a projection in SQL, the past.
    let (store, ann) = (Store::from(pg), Id::<Account>::from("ann"));
    let ledger = format!("{}_tables.ledger", hardened.schema);
    let runner = Runner::new(&store).read_model::<Balance>().projection(Ledger::new(&ledger)).start();
    store.execute(&ann, Open { owner: "Ann".into() }).await?;
    let deposited = store.execute(&ann, Deposit { amount: 100 }).await?;
    runner.until(deposited.position).await?;
    runner.stop().await;
    assert_eq!(store.read_model::<Balance>().get(&ann).await?.map(|row| row.balance), Some(100));
    assert_eq!(store.load(&ann).as_of(deposited.events[0].recorded_at).await?.balance, 100);

    let forbidden = [
        "UPDATE {s}.events SET version = 2",
        "DELETE FROM {s}.events",
        "TRUNCATE {s}.events",
        "INSERT INTO {s}.events SELECT * FROM {s}.events",
        "UPDATE {s}.event_types SET name = 'other'",
        "DELETE FROM {s}.migrations",
        "ALTER TABLE {s}.events DISABLE TRIGGER ALL",
        "DROP TRIGGER append_only ON {s}.events",
        "CREATE TRIGGER mine BEFORE INSERT ON {s}.events FOR EACH ROW EXECUTE FUNCTION {s}.append_only()",
        "CREATE RULE mine AS ON INSERT TO {s}.events DO INSTEAD NOTHING",
        "ALTER TABLE {s}.events OWNER TO {s}_app",
        "DROP TABLE {s}.events",
        "DROP SCHEMA {s} CASCADE",
        "CREATE TABLE {s}.mine (x int)",
        // Beside the functions of the owner, one that fits a call in them better would run with the owner's rights.
        "CREATE FUNCTION {s}.matching(text[], text[], text[], text[], bigint, bigint, int) RETURNS SETOF bigint
         LANGUAGE sql AS 'SELECT 1::bigint'",
        "CREATE OR REPLACE FUNCTION {s}.append_only() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
        "SELECT {s}.retag(ARRAY[1::bigint], ARRAY[(SELECT event_id FROM {s}.events WHERE position = 1)], ARRAY['{}'], ARRAY['{}'])",
        "SET session_replication_role = replica",
        "SET ROLE {s}_owner",
        "GRANT {s}_owner TO {s}_app",
    ];
    for sql in forbidden {
        for role in ["app", "reader"] {
            let code = hardened.tries(role, sql).await?;
            assert!(matches!(code.as_deref(), Some("42501" | "0LP01")), "{role}: {sql}: {code:?}");
        }
    }
    // The owner can give events other tags, and the guard is on again afterwards.
    let first = store.read().limit(1).raw().try_next().await?.expect("an event");
    let retag =
        format!("SELECT {{s}}.retag(ARRAY[1::bigint], ARRAY['{}'::uuid], ARRAY['{{}}'], ARRAY['{{a:b}}'])", first.id);
    assert_eq!(hardened.tries("owner", &retag).await?, None);
    let first = store.read().limit(1).raw().try_next().await?.expect("an event");
    assert_eq!((first.data.tags[0].to_string(), first.version.0), ("a:b".to_owned(), 1));
    // The owner could change the table, and is stopped by what guards the events.
    for sql in ["UPDATE {s}.events SET version = 2", "DELETE FROM {s}.events", "TRUNCATE {s}.events"] {
        assert_eq!(hardened.tries("owner", sql).await?.as_deref(), Some("ES010"), "{sql}");
    }
    assert_eq!(store.load(&ann).await?.version.0, 2);

    // The reader reads both, and appends nothing.
    for sql in ["SELECT * FROM {s}.log", "SELECT * FROM {s}_tables.\"balance@1\"", "SELECT * FROM {s}_tables.ledger"] {
        assert_eq!(hardened.tries("reader", sql).await?, None, "{sql}");
    }
    let reader = hardened.open("reader").await?;
    let report = reader.doctor().await?;
    assert_eq!(report.get("rights").map(|rights| rights.severity), Some(Severity::Danger), "{report}");
    let reader = Store::from(reader);
    assert_eq!(reader.load(&ann).await?.balance, 100);
    assert_eq!(reader.read_model::<Balance>().get(&ann).await?.map(|row| row.balance), Some(100));
    let refused = reader.execute(&ann, Deposit { amount: 1 }).await;
    assert!(matches!(refused, Err(CommandError::Store(StoreError::Denied(_)))), "{refused:?}");
    hardened.remove().await
}

#[tokio::test]
async fn x3_the_owner_migrates_and_the_program_waits_for_it() -> Result<(), Any> {
    let schema = server::schema();
    let options = PgStore::options().schema(schema.clone()).tables_schema(format!("{schema}_tables"));
    let mut admin = server::connection().await;
    run(&mut admin, options.roles_sql()?).await?;
    for role in ["owner", "app"] {
        run(&mut admin, format!("ALTER ROLE {schema}_{role} LOGIN PASSWORD '{PASSWORD}'")).await?;
    }
    let mut hardened = Hardened { schema, options, admin };
    let refused = hardened.open("app").await.err();
    assert!(matches!(refused, Some(StoreError::Unmigrated { .. })), "{refused:?}");
    hardened.options.migrations(&hardened.url("owner")).await?.apply().await?;
    run(&mut hardened.admin, hardened.options.roles_sql()?).await?;
    let store = Store::from(hardened.open("app").await?);
    store.execute(Id::<Account>::from("ann"), Open { owner: "Ann".into() }).await?;
    hardened.remove().await
}

#[tokio::test]
async fn x3_every_function_of_the_owner_is_safe_to_call_and_every_table_is_somebody_s() -> Result<(), Any> {
    let mut hardened = Hardened::new().await?;
    // A function with the owner's rights: finds nothing but what it names, and is not for everybody.
    let definer = "SELECT proname::text, proconfig @> ARRAY['search_path=pg_catalog, pg_temp'],
                          has_function_privilege('public', oid, 'EXECUTE'), proowner = $2::text::regrole
                     FROM pg_proc WHERE prosecdef AND pronamespace = $1::text::regnamespace";
    let owner = format!("{}_owner", hardened.schema);
    let definer: Vec<(String, bool, bool, bool)> =
        sqlx::query_as(definer).bind(&hardened.schema).bind(&owner).fetch_all(&mut hardened.admin).await?;
    assert!(definer.len() >= 2);
    for (name, own_path, public, owned) in definer {
        // Whoever may read may ask for the position of an instant, which writes nothing and leaves no lock.
        assert_eq!((own_path, public, owned), (true, name == "position_at", true), "{name}");
    }
    // Whoever adds a table says in `roles.sql` whether the program may write to it.
    let tables = "SELECT relname::text, has_table_privilege($2, oid, 'INSERT') FROM pg_class
                   WHERE relnamespace = $1::text::regnamespace AND relkind = 'r' ORDER BY 1";
    let app = format!("{}_app", hardened.schema);
    let tables: Vec<(String, bool)> =
        sqlx::query_as(tables).bind(&hardened.schema).bind(&app).fetch_all(&mut hardened.admin).await?;
    for (table, written) in tables {
        let log = ["append_lock", "event_types", "events", "identity", "migrations"].contains(&&*table);
        assert_eq!(written, !log, "{table}: does the program write to it?");
    }
    hardened.remove().await
}

#[tokio::test]
async fn x3_a_log_that_has_no_roles_yet_is_hardened_with_its_read_models() -> Result<(), Any> {
    let pg = server::fresh().await;
    let schema = pg.schema().to_owned();
    let (store, ann) = (Store::from(pg), Id::<Account>::from("ann"));
    let runner = Runner::new(&store).read_model::<Balance>().start();
    let opened = store.execute(&ann, Open { owner: "Ann".into() }).await?;
    runner.until(opened.position).await?;
    runner.stop().await;

    let options = PgStore::options().schema(schema.clone()).tables_schema(format!("{schema}_tables"));
    let mut admin = server::connection().await;
    run(&mut admin, options.roles_sql()?).await?;
    run(&mut admin, format!("ALTER ROLE {schema}_app PASSWORD '{PASSWORD}'")).await?;
    let hardened = Hardened { schema, options, admin };
    let store = Store::from(hardened.open("app").await?);
    let runner = Runner::new(&store).read_model::<Balance>().start();
    let deposited = store.execute(&ann, Deposit { amount: 7 }).await?;
    let row = store.read_model::<Balance>().get(&ann).after(deposited.position).await?;
    assert_eq!(row.map(|row| (row.owner.clone(), row.balance)), Some(("Ann".into(), 7)));
    runner.stop().await;
    hardened.remove().await
}

#[test]
fn roles_are_named_after_the_schema_and_need_another_for_rows() {
    let same = PgStore::options().roles_sql();
    assert!(matches!(same, Err(StoreError::Invalid(Invalid::Request(_)))), "{same:?}");
    let long = PgStore::options().schema("x".repeat(60)).tables_schema("rows").roles_sql();
    assert!(matches!(long, Err(StoreError::Invalid(Invalid::Name { .. }))), "{long:?}");
    let roles = PgStore::options().schema("bank").tables_schema("bank_rows").roles_sql();
    assert!(roles.is_ok_and(|sql| sql.contains("CREATE ROLE \"bank_app\" LOGIN") && !sql.contains(['{', '}'])));
}
