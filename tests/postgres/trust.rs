//! What the functions, the lock and the schema of a log hold against those who may use them, and those who may not.

use std::{
    process::Command,
    time::{Duration, SystemTime},
};

use eventstore::{
    Append, CommandError, EventStore, Expected, Id, Inline, NewEvent, PgStore, Position, Prefix, RunReadModels, Runner,
    Store, StoreError, StreamId, Timestamp, Write,
    doctor::{Policy, Severity},
    sqlx::{self, AssertSqlSafe, Connection, PgConnection, PgPool},
};
use futures::{TryStreamExt, future::join_all};
use tokio::time::{sleep, timeout};

use crate::{
    account::{Account, AccountEvent::*, *},
    cases::{World, balances::Balance, raw},
    damaged,
    roles::{Hardened, run},
    server::{self, Own},
};

type Any = Box<dyn std::error::Error>;

fn append(stream: StreamId, events: Vec<NewEvent>) -> Append {
    Append { writes: vec![Write { stream, expected: Expected::Any, events }], ..Append::default() }
}

/// What the server says to a statement: its SQLSTATE, if it refuses.
async fn says(connection: &mut PgConnection, sql: &str) -> Result<Option<String>, sqlx::Error> {
    match run(connection, sql).await {
        Ok(()) => Ok(None),
        Err(error) => Ok(Some(error.as_database_error().and_then(|error| error.code()).unwrap_or_default().into())),
    }
}

// X4: callers who lie.

/// The arguments of the functions, with which they append two events to one stream.
const EVENTS: &[(&str, &str)] = &[
    ("e_id", "ARRAY[gen_random_uuid(), gen_random_uuid()]"),
    ("e_type", "ARRAY[{type}, {type}]"),
    ("e_schema", "ARRAY[1, 1]"),
    ("e_occurred", "ARRAY[NULL, now()]"),
    ("e_tags", r#"ARRAY['{}', '{"course:a","student:b"}']"#),
    ("e_metadata", "ARRAY['{}', '{}']::bytea[]"),
    ("e_payload", "ARRAY['{}', '{}']::bytea[]"),
    ("t_key", "ARRAY[{type}]"),
    ("t_category", "ARRAY['account']"),
    ("t_name", "ARRAY['account.deposited']"),
];
const ONE: &[(&str, &str)] = &[("p_stream", "'account-ann'"), ("p_expected", "-1")];
const ALL: &[(&str, &str)] = &[
    ("w_stream", "ARRAY['account-ann']"),
    ("w_expected", "ARRAY[-1]::bigint[]"),
    ("e_stream", "ARRAY[1, 1]"),
    ("e_number", "ARRAY[1, 2]"),
    ("u_stream", "'{}'"),
    ("u_version", "'{}'"),
    ("c_after", "NULL"),
    ("c_names", "'{}'"),
    ("c_tags", "'{}'"),
    ("p_look", "true"),
];
const BATCH: &[(&str, &str)] = &[
    ("w_append", "ARRAY[1]"),
    ("w_stream", "ARRAY['account-ann']"),
    ("w_expected", "ARRAY[-1]::bigint[]"),
    ("w_events", "ARRAY[2]"),
    ("e_write", "ARRAY[1, 1]"),
    ("e_number", "ARRAY[1, 2]"),
    ("e_place", "ARRAY[1, 2]"),
    ("c_append", "'{}'"),
    ("c_after", "'{}'"),
    ("c_names", "'{}'"),
    ("c_tags", "'{}'"),
    ("p_pipelined", "false"),
];
const FUNCTIONS: &[(&str, &[(&str, &str)])] = &[("append_one", ONE), ("append", ALL), ("append_batch", BATCH)];

/// What no append may say: each of these for the argument is refused.
const REFUSED: &[(&str, &[&str])] = &[
    (
        "e_id",
        &[
            "'{}'",
            "NULL",
            "ARRAY[gen_random_uuid()]",
            "ARRAY[gen_random_uuid(), gen_random_uuid(), gen_random_uuid()]",
            "ARRAY[gen_random_uuid(), NULL]",
            "array_fill(gen_random_uuid(), ARRAY[2])",
            "ARRAY[[gen_random_uuid(), gen_random_uuid()]]",
            "array_fill(gen_random_uuid(), ARRAY[2], ARRAY[5])",
        ],
    ),
    (
        "e_type",
        &[
            "ARRAY[999, 999]",
            "ARRAY[{type}, 999]",
            "ARRAY[{other}, {other}]",
            "ARRAY[{type}, NULL]",
            "ARRAY[{type}]",
            "ARRAY[{type}, {type}, {type}]",
            "ARRAY[[{type}, {type}]]",
            "NULL",
        ],
    ),
    ("e_schema", &["ARRAY[1, 0]", "ARRAY[-1, 1]", "ARRAY[1, NULL]", "ARRAY[1]", "ARRAY[1, 1, 1]", "NULL"]),
    ("e_occurred", &["ARRAY[now(), 'infinity']", "ARRAY['-infinity', now()]", "ARRAY[now()]", "NULL"]),
    (
        "e_tags",
        &[
            r#"ARRAY['{}', '{{"course:a"},{"student:b"}}']"#,
            r#"ARRAY['{}', '[5:6]={"course:a","student:b"}']"#,
            "ARRAY['{}', '{NULL}']",
            r#"ARRAY['{"colonless"}', '{}']"#,
            r#"ARRAY['{":key"}', '{}']"#,
            r#"ARRAY['{"name:"}', '{}']"#,
            r#"ARRAY['{"Name:key"}', '{}']"#,
            r#"ARRAY['{""}', '{}']"#,
            "ARRAY['{', '{}']",
            "ARRAY[' {}', '{}']",
            "ARRAY['{}', NULL]",
            "ARRAY['{}', array_fill('a:b'::text, ARRAY[129])::text]",
            "ARRAY['{}']",
            "NULL",
        ],
    ),
    ("e_metadata", &["ARRAY['{}']::bytea[]", "ARRAY['{}', NULL]::bytea[]", "NULL"]),
    ("e_payload", &["ARRAY['{}', '{}', '{}']::bytea[]", "ARRAY[NULL, '{}']::bytea[]", "NULL"]),
    ("t_key", &["ARRAY[999]", "ARRAY[{other}]", "'{}'", "'[5:5]={{type}}'::int[]", "ARRAY[[{type}]]", "NULL"]),
    ("t_category", &["ARRAY['other']", "'{}'", "ARRAY[NULL]::text[]", "NULL"]),
    ("t_name", &["ARRAY['account.withdrawn']", "'{}'", "NULL"]),
    (
        "p_stream",
        &["'dashless'", "'-key'", "'account-'", "'Account-a'", "'other-a'", "NULL", "repeat('x', 1030)", "''"],
    ),
    (
        "w_stream",
        &[
            "ARRAY['dashless']",
            "ARRAY['-key']",
            "ARRAY['account-']",
            "ARRAY['other-a']",
            "ARRAY[NULL]::text[]",
            "'{}'",
            "NULL",
            "ARRAY['account-' || repeat('x', 1030)]",
            "'[5:5]={account-ann}'::text[]",
        ],
    ),
    ("e_stream", &["ARRAY[1, 2]", "ARRAY[0, 1]", "ARRAY[-1, 1]", "ARRAY[1, NULL]", "ARRAY[1]", "NULL"]),
    ("e_write", &["ARRAY[1, 2]", "ARRAY[0, 1]", "ARRAY[-1, 1]", "ARRAY[1, NULL]", "ARRAY[1]"]),
];

/// What is not believed: with each of these for the argument, the log is as it would be without.
const IGNORED: &[(&str, &[&str])] = &[
    ("e_number", &["ARRAY[7, 9]", "ARRAY[-1, 0]", "ARRAY[1, 1]", "'{}'", "NULL"]),
    ("e_place", &["ARRAY[1000000, 2000000]", "ARRAY[0, 0]", "ARRAY[-5, 2]", "'{}'", "NULL"]),
    ("w_events", &["ARRAY[0]", "ARRAY[1000000]", "ARRAY[-3]", "'{}'", "NULL"]),
];

/// Counts what breaks the rules of a log.
const BROKEN: &str = r#"
    SELECT count(*) FROM (
        SELECT e.*, t.category, row_number() OVER (ORDER BY e.position) AS place,
               row_number() OVER (PARTITION BY e.stream ORDER BY e.version) AS number,
               lag(e.recorded_at) OVER (ORDER BY e.position) AS before
          FROM {s}.events AS e LEFT JOIN {s}.event_types AS t USING (type_key)) AS e
     WHERE e.position <> e.place OR e.version <> e.number OR e.category IS DISTINCT FROM split_part(e.stream, '-', 1)
        OR e.stream !~ '^[a-z0-9_.]+-.' OR e.schema < 1 OR NOT isfinite(e.occurred_at) OR e.before > e.recorded_at
        OR e.tags <> '{}' AND (array_ndims(e.tags) <> 1 OR array_lower(e.tags, 1) <> 1 OR array_position(e.tags, NULL) > 0
                               OR EXISTS (SELECT FROM unnest(e.tags) AS tag WHERE tag !~ '^[a-z0-9_.]+:.'))"#;

/// The program's own role, with what it needs to call the functions by hand.
struct Liar {
    hardened: Hardened,
    connection: PgConnection,
    /// The keys of a type in the category `account`, and of one in another.
    keys: [i32; 2],
}

impl Liar {
    async fn new() -> Result<Self, Any> {
        let hardened = Hardened::new().await?;
        let store = hardened.open("app").await?;
        for (stream, name) in
            [("account-ann", "account.deposited"), ("account-ann", "account.withdrawn"), ("other-a", "x")]
        {
            store.append(append(stream.parse()?, vec![raw(name, b"{}")])).await?;
        }
        let mut connection = PgConnection::connect(&hardened.url("app")).await?;
        let key = |name| format!("SELECT type_key FROM {}.event_types WHERE name = '{name}'", hardened.schema);
        let mut keys = [0; 2];
        for (key, sql) in keys.iter_mut().zip([key("account.deposited"), key("x")]) {
            *key = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&mut connection).await?;
        }
        Ok(Self { hardened, connection, keys })
    }

    /// Calls a function, with something else in the place of some arguments.
    async fn call(
        &mut self,
        (function, own): (&str, &[(&str, &str)]),
        lies: &[(&str, &str)],
    ) -> Result<Option<String>, Any> {
        let arguments = own.iter().chain(EVENTS).map(|(name, value)| {
            let lie = lies.iter().find(|(lied, _)| lied == name);
            format!("{name} => {}", lie.map_or(*value, |(_, lie)| lie))
        });
        let call = format!("SELECT * FROM {{s}}.{function}({})", arguments.collect::<Vec<_>>().join(", "));
        let call = call.replace("{s}", &self.hardened.schema);
        let call = call.replace("{type}", &self.keys[0].to_string()).replace("{other}", &self.keys[1].to_string());
        Ok(says(&mut self.connection, &call).await?)
    }

    /// How many events there are; none of them breaks a rule.
    async fn events(&mut self) -> Result<i64, Any> {
        let broken = AssertSqlSafe(BROKEN.replace("{s}", &self.hardened.schema));
        let broken: i64 = sqlx::query_scalar(broken).fetch_one(&mut self.hardened.admin).await?;
        assert_eq!(broken, 0, "events that break the rules");
        let count = AssertSqlSafe(format!("SELECT count(*) FROM {}.events", self.hardened.schema));
        Ok(sqlx::query_scalar(count).fetch_one(&mut self.hardened.admin).await?)
    }
}

#[tokio::test]
async fn x4_whatever_a_caller_says_of_an_event_the_log_stays_whole() -> Result<(), Any> {
    let mut liar = Liar::new().await?;
    let mut events = liar.events().await?;
    for function in FUNCTIONS {
        let (name, own) = *function;
        assert_eq!(liar.call((name, own), &[]).await?, None, "{name} without a lie");
        events += 2;
        assert_eq!(liar.events().await?, events);
        let has = |argument: &str| own.iter().chain(EVENTS).any(|(name, _)| *name == argument);
        for (argument, lies) in REFUSED.iter().filter(|(argument, _)| has(argument)) {
            for lie in *lies {
                let refused = liar.call((name, own), &[(argument, lie)]).await?;
                assert!(refused.is_some(), "{name}: {argument} => {lie}");
                assert_eq!(liar.events().await?, events, "{name}: {argument} => {lie}");
            }
        }
        for (argument, lies) in IGNORED.iter().filter(|(argument, _)| has(argument)) {
            for lie in *lies {
                let said = liar.call((name, own), &[(argument, lie)]).await?;
                assert_eq!(said, None, "{name}: {argument} => {lie}");
                events += 2;
                assert_eq!(liar.events().await?, events, "{name}: {argument} => {lie}");
            }
        }
    }
    // Lies that belong together: a type that does not exist, in each place where it is named; a stream given twice.
    let batch = FUNCTIONS[2];
    let no_type = [("e_type", "ARRAY[999, 999]"), ("t_key", "ARRAY[999]")];
    let twice = [
        ("w_append", "ARRAY[1, 2]"),
        ("w_stream", "ARRAY['account-ann', 'account-ann']"),
        ("w_expected", "ARRAY[-1, -1]::bigint[]"),
        ("e_write", "ARRAY[1, 2]"),
    ];
    for (function, lies) in FUNCTIONS.iter().map(|function| (*function, &no_type[..])).chain([(batch, &twice[..])]) {
        assert!(liar.call(function, lies).await?.is_some(), "{lies:?}");
        assert_eq!(liar.events().await?, events, "{lies:?}");
    }
    // Of two appends in a call one is refused: the other one's events follow without a hole.
    let one_refused = [
        ("w_append", "ARRAY[1, 2]"),
        ("w_stream", "ARRAY['account-ann', 'account-bob']"),
        ("w_expected", "ARRAY[7777, -1]::bigint[]"),
        ("e_write", "ARRAY[1, 2]"),
        ("e_place", "ARRAY[1, 9]"),
    ];
    assert_eq!(liar.call(batch, &one_refused).await?, None);
    assert_eq!(liar.events().await?, events + 1);

    // And everything can be read, by everybody.
    let store = Store::from(liar.hardened.open("reader").await?);
    let log: Vec<_> = store.read().raw().try_collect().await?;
    assert_eq!(log.len() as i64, events + 1);
    assert_eq!(store.head().await?, Position(log.len() as u64));
    liar.hardened.remove().await
}

#[tokio::test]
async fn x4_names_of_event_types_are_checked_where_they_are_made() -> Result<(), Any> {
    let mut liar = Liar::new().await?;
    let schema = liar.hardened.schema.clone();
    let count = format!("SELECT count(*) FROM {schema}.event_types");
    let before: i64 = sqlx::query_scalar(AssertSqlSafe(count.clone())).fetch_one(&mut liar.connection).await?;
    for (categories, names) in [
        ("ARRAY['account']", "ARRAY['$closed']"),
        ("ARRAY['account']", "ARRAY['']"),
        ("ARRAY['account']", "ARRAY[E'a\\nb']"),
        ("ARRAY['account']", "ARRAY[NULL]::text[]"),
        ("ARRAY['account']", "ARRAY[repeat('x', 513)]"),
        ("ARRAY['Account']", "ARRAY['x']"),
        ("ARRAY['a-b']", "ARRAY['x']"),
        ("ARRAY['']", "ARRAY['x']"),
        ("ARRAY[NULL]::text[]", "ARRAY['x']"),
        ("ARRAY[repeat('x', 513)]", "ARRAY['x']"),
        ("ARRAY['account', 'account']", "ARRAY['fine']"),
    ] {
        let call = format!("SELECT * FROM {schema}.type_keys({categories}, {names})");
        assert_eq!(says(&mut liar.connection, &call).await?.as_deref(), Some("ES003"), "{categories}, {names}");
    }
    // More than a log may have: none is added.
    let many = format!(
        "SELECT * FROM {schema}.type_keys(array_fill('many'::text, ARRAY[10001]), ARRAY(
                        SELECT 'name' || n FROM generate_series(1, 10001) AS n))"
    );
    assert_eq!(says(&mut liar.connection, &many).await?, None);
    let after: i64 = sqlx::query_scalar(AssertSqlSafe(count)).fetch_one(&mut liar.connection).await?;
    assert_eq!(after, before);
    liar.hardened.remove().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn x4_a3_honest_writers_beside_a_liar_find_a_whole_log() -> Result<(), Any> {
    let mut liar = Liar::new().await?;
    let store = Store::from(liar.hardened.open("app").await?);
    let honest = (0..4).map(|n| {
        let store = store.clone();
        tokio::spawn(async move {
            let (own, shared) = (Id::<Account>::from(format!("own-{n}")), Id::<Account>::from("ann"));
            for _ in 0..25 {
                store.append(&own, Expected::Any, [Deposited { amount: 1 }]).await?;
                let both = store.append(&shared, Expected::Any, [Deposited { amount: 1 }, Deposited { amount: 1 }]);
                both.and(&own, Expected::Any, [Deposited { amount: 1 }]).await?;
            }
            Ok::<_, StoreError>(())
        })
    });
    let honest: Vec<_> = honest.collect();
    for round in 0.. {
        if honest.iter().all(|writer| writer.is_finished()) && round > 2 {
            break;
        }
        for function in FUNCTIONS {
            for (argument, lies) in REFUSED.iter().chain(IGNORED) {
                if function.1.iter().chain(EVENTS).any(|(name, _)| name == argument) {
                    liar.call(*function, &[(argument, lies[round % lies.len()])]).await?;
                }
            }
        }
    }
    for writer in honest {
        writer.await??;
    }
    liar.events().await?;
    for n in 0..4 {
        assert_eq!(store.load(Id::<Account>::from(format!("own-{n}"))).await?.version.0, 50);
    }
    liar.hardened.remove().await
}

// X5: who may not append.

#[tokio::test]
async fn x5_who_may_not_append_cannot_keep_others_from_it() -> Result<(), Any> {
    let mut hardened = Hardened::new().await?;
    let schema = hardened.schema.clone();
    let stranger = format!("{schema}_stranger");
    run(&mut hardened.admin, format!("CREATE ROLE {stranger} LOGIN PASSWORD 'only_for_this_test'")).await?;
    let store = hardened.open("app").await?;
    let inline = Store::from(store.clone()).with_inline::<Balance>();
    let ann = Id::<Account>::from("ann");
    inline.append(&ann, Expected::Any, [Deposited { amount: 1 }]).await?;

    // Advisory locks have no owner: whatever key is taken, nobody waits for it.
    let mut stranger = PgConnection::connect(&server::url_as(&stranger, "only_for_this_test")).await?;
    let oid: i64 = sqlx::query_scalar("SELECT oid::bigint FROM pg_namespace WHERE nspname = $1")
        .bind(&schema)
        .fetch_one(&mut stranger)
        .await?;
    for key in [1163088689, 1163088691] {
        run(&mut stranger, format!("SELECT pg_advisory_lock({key}, {oid})")).await?;
    }
    run(&mut stranger, format!("SELECT pg_advisory_lock(hashtextextended('balance@1', {oid}))")).await?;

    // The table of the lock is the owner's. Who may read the log can lock it as every reader of a table does, which
    // keeps nobody waiting.
    let modes = [
        "ACCESS SHARE",
        "ROW SHARE",
        "ROW EXCLUSIVE",
        "SHARE UPDATE EXCLUSIVE",
        "SHARE",
        "SHARE ROW EXCLUSIVE",
        "EXCLUSIVE",
        "ACCESS EXCLUSIVE",
    ];
    let mut reader = PgConnection::connect(&hardened.url("reader")).await?;
    let mut app = PgConnection::connect(&hardened.url("app")).await?;
    for (who, connection, reads) in
        [("a stranger", &mut stranger, false), ("the reader", &mut reader, true), ("the program", &mut app, true)]
    {
        for mode in modes {
            let lock = format!("BEGIN; LOCK TABLE {schema}.append_lock IN {mode} MODE");
            let said = says(connection, &lock).await?;
            if reads && mode == "ACCESS SHARE" {
                assert_eq!(said, None, "{who}: {mode}");
                append_at_once(&store, &inline).await?;
            } else {
                assert_eq!(said.as_deref(), Some("42501"), "{who}: {mode}");
            }
            run(connection, "ROLLBACK").await?;
        }
    }

    // An instant that was asked for leaves no lock, in whatever transaction.
    run(&mut reader, format!("BEGIN; SELECT {schema}.position_at(clock_timestamp())")).await?;
    append_at_once(&store, &inline).await?;
    run(&mut reader, "ROLLBACK").await?;

    // A dump by the reader, and appends while its transaction is open.
    let dump = Command::new(server::program("pg_dump"))
        .args(["--schema", &schema, "--dbname", &hardened.url("reader")])
        .output()?;
    let said = String::from_utf8_lossy(&dump.stderr);
    assert!(dump.status.success() && String::from_utf8_lossy(&dump.stdout).contains("append_lock"), "{said}");
    append_at_once(&store, &inline).await?;

    drop(stranger);
    run(&mut hardened.admin, format!("DROP ROLE {schema}_stranger")).await?;
    hardened.remove().await
}

/// Appends, alone and together, with rows and without: all within a moment.
async fn append_at_once(store: &PgStore, inline: &Store) -> Result<(), Any> {
    let plain = Store::from(store.clone());
    let ann = Id::<Account>::from("ann");
    let appends = async {
        inline.append(&ann, Expected::Any, [Deposited { amount: 1 }]).await?;
        let many =
            (0..8).map(|n| plain.append(Id::<Account>::from(n.to_string()), Expected::Any, [Deposited { amount: 1 }]));
        join_all(many.map(IntoFuture::into_future)).await.into_iter().try_for_each(|one| one.map(drop))
    };
    timeout(Duration::from_secs(8), appends).await.expect("nobody is waited for")?;
    Ok(())
}

// X6: the guard.

#[tokio::test]
async fn x6_a_guard_that_was_changed_in_any_way_is_found() -> Result<(), Any> {
    let allow = "CREATE OR REPLACE FUNCTION {s}.append_only() RETURNS trigger LANGUAGE plpgsql
                 SET search_path = pg_catalog, pg_temp AS $$ BEGIN RETURN NULL; END $$";
    let narrowed =
        "DROP TRIGGER append_only ON {s}.events; CREATE TRIGGER append_only BEFORE UPDATE OF schema OR DELETE
                    ON {s}.events FOR EACH STATEMENT EXECUTE FUNCTION {s}.append_only();
                    ALTER TABLE {s}.events ENABLE ALWAYS TRIGGER append_only";
    let never =
        "DROP TRIGGER append_only ON {s}.events; CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON {s}.events
                 FOR EACH STATEMENT WHEN (false) EXECUTE FUNCTION {s}.append_only();
                 ALTER TABLE {s}.events ENABLE ALWAYS TRIGGER append_only";
    let another = "CREATE FUNCTION {s}.harmless() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
                   DROP TRIGGER append_only ON {s}.event_types; CREATE TRIGGER append_only BEFORE UPDATE OR DELETE
                   ON {s}.event_types FOR EACH STATEMENT EXECUTE FUNCTION {s}.harmless();
                   ALTER TABLE {s}.event_types ENABLE ALWAYS TRIGGER append_only";
    let swallowing = "CREATE FUNCTION {s}.swallow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
                      CREATE TRIGGER swallow BEFORE INSERT ON {s}.events FOR EACH ROW EXECUTE FUNCTION {s}.swallow()";
    let believing = "CREATE OR REPLACE FUNCTION {s}.position_at(p_time timestamptz) RETURNS bigint LANGUAGE plpgsql
                     AS $$ BEGIN RETURN 0; END $$";
    let beside = "CREATE FUNCTION {s}.matching(text[], text[], text[], text[], bigint, bigint, int)
                  RETURNS SETOF bigint LANGUAGE sql AS 'SELECT 1::bigint'";
    let changes = [
        (allow, "functions", "append_only was replaced"),
        (narrowed, "guard", "trigger append_only of events is not as it was made"),
        (never, "guard", "trigger append_only of events is not as it was made"),
        (another, "guard", "trigger append_only of event_types is not as it was made"),
        (
            "DROP TRIGGER append_only_truncate ON {s}.event_types",
            "guard",
            "trigger append_only_truncate of event_types is gone",
        ),
        (
            "ALTER TABLE {s}.event_types DISABLE TRIGGER append_only",
            "guard",
            "trigger append_only of event_types is not as it was made",
        ),
        (swallowing, "guard", "trigger swallow of events is not of this library"),
        (
            "CREATE RULE swallow AS ON INSERT TO {s}.events DO INSTEAD NOTHING",
            "guard",
            "rule swallow of events is not of this library",
        ),
        (
            "ALTER TABLE {s}.events ENABLE ROW LEVEL SECURITY",
            "guard",
            "row security of events hides rows from some roles",
        ),
        (
            "CREATE TABLE {s}.more () INHERITS ({s}.events)",
            "guard",
            "table {s}.more inherits from events, and its rows are read with it",
        ),
        ("ALTER TABLE {s}.events DROP CONSTRAINT events_event_id", "guard", "key events_event_id is gone"),
        (believing, "functions", "position_at was replaced"),
        (beside, "functions", "matching is there more than once"),
        ("ALTER FUNCTION {s}.append SECURITY INVOKER", "functions", "append runs with other rights or settings"),
        (
            "ALTER FUNCTION {s}.append_one RESET search_path",
            "functions",
            "append_one runs with other rights or settings",
        ),
        ("DROP FUNCTION {s}.append_batch", "functions", "append_batch is gone"),
    ];
    for (sql, check, found) in changes {
        let store = server::fresh().await;
        let report = store.doctor().await?;
        for check in ["guard", "functions", "grants"] {
            assert_eq!(report.get(check).map(|finding| finding.severity), Some(Severity::Ok), "{report}");
        }
        run(&mut server::connection().await, sql.replace("{s}", store.schema())).await?;
        let report = store.doctor().await?;
        let finding = report.get(check).expect(check);
        assert_eq!(
            (finding.severity, &*finding.found),
            (Severity::Danger, &*found.replace("{s}", store.schema())),
            "{sql}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn x6_rights_beyond_those_of_the_roles_are_found() -> Result<(), Any> {
    let mut hardened = Hardened::new().await?;
    let (schema, app) = (hardened.schema.clone(), format!("{}_app", hardened.schema));
    let store = hardened.open("app").await?;
    let grants = async || -> Result<(Severity, String), Any> {
        let report = store.doctor().await?;
        let grants = report.get("grants").expect("grants");
        Ok((grants.severity, grants.found.clone()))
    };
    assert_eq!(grants().await?.0, Severity::Ok);
    for (grant, revoke, found) in [
        (
            "GRANT UPDATE ON {s}.append_lock TO {s}_reader",
            "REVOKE UPDATE ON {s}.append_lock FROM {s}_reader",
            "{s}_reader has UPDATE on append_lock",
        ),
        (
            "GRANT INSERT, DELETE ON {s}.events TO {s}_app",
            "REVOKE INSERT, DELETE ON {s}.events FROM {s}_app",
            "{s}_app has DELETE, INSERT on events",
        ),
        (
            "GRANT TRIGGER ON {s}.event_types TO PUBLIC",
            "REVOKE TRIGGER ON {s}.event_types FROM PUBLIC",
            "PUBLIC has TRIGGER on event_types",
        ),
        (
            "GRANT CREATE ON SCHEMA {s} TO {s}_app",
            "REVOKE CREATE ON SCHEMA {s} FROM {s}_app",
            "{s}_app has CREATE on the schema",
        ),
        (
            "GRANT EXECUTE ON FUNCTION {s}.append TO PUBLIC",
            "REVOKE EXECUTE ON FUNCTION {s}.append FROM PUBLIC",
            "PUBLIC has EXECUTE on append",
        ),
        (
            "GRANT pg_write_all_data TO {s}_reader",
            "REVOKE pg_write_all_data FROM {s}_reader",
            "{s}_reader is a member of pg_write_all_data",
        ),
    ] {
        run(&mut hardened.admin, grant.replace("{s}", &schema)).await?;
        assert_eq!(grants().await?, (Severity::Warning, found.replace("{s}", &schema)), "{grant}");
        run(&mut hardened.admin, revoke.replace("{s}", &schema)).await?;
    }
    assert_eq!(grants().await?.0, Severity::Ok, "{app}");
    hardened.remove().await
}

// X8: whose functions, whose rows.

#[tokio::test]
async fn x8_a_schema_that_was_renamed_is_refused_until_its_functions_are_its_own() -> Result<(), Any> {
    let (old, new) = (server::schema(), format!("{}_archive", server::schema()));
    let store = Store::from(PgStore::options().schema(&old).connect(server::url()).await?);
    let ann = Id::<Account>::from("ann");
    store.append(&ann, Expected::Any, [Deposited { amount: 1 }, Deposited { amount: 2 }]).await?;
    let identity = store.identity().await?;
    let mut admin = server::connection().await;
    run(&mut admin, format!("ALTER SCHEMA {old} RENAME TO {new}")).await?;
    // Another log gets the old name: what is appended through the archive would be in it.
    let other = Store::from(PgStore::options().schema(&old).connect(server::url()).await?);
    let archive = PgStore::options().schema(&new).tables_schema(format!("{new}_rows"));
    for options in [archive.clone(), archive.clone().migrate(false), archive.clone().doctor(Policy::Ignore)] {
        let refused = options.connect(server::url()).await.err();
        let Some(StoreError::Schema(why)) = refused else { panic!("{refused:?}") };
        assert!(why.contains("works on another schema") && why.contains("functions_sql"), "{why}");
    }
    run(&mut admin, archive.functions_sql()?).await?;
    let pg = archive.connect(server::url()).await?;
    let report = pg.doctor().await?;
    assert_eq!(report.get("functions").map(|finding| finding.severity), Some(Severity::Ok), "{report}");
    let archive = Store::from(pg);
    archive.append(&ann, Expected::Any, [Deposited { amount: 4 }]).await?;
    assert_eq!((archive.load(&ann).await?.balance, archive.identity().await?), (7, identity));
    assert_eq!(archive.position_at(SystemTime::now()).await?, Position(3));
    assert_eq!(other.head().await?, Position(0));
    Ok(())
}

#[tokio::test]
async fn x8_a_log_of_the_first_release_that_was_renamed_is_refused_before_it_is_migrated() -> Result<(), Any> {
    let (old, new) = (server::schema(), format!("{}_archive", server::schema()));
    let first = include_str!("../../eventstore-postgres/migrations/001_log.sql");
    let mut admin = server::connection().await;
    let made = first.replace("{schema}", &format!("\"{old}\""));
    run(&mut admin, format!("CREATE SCHEMA {old}; {made}; ALTER SCHEMA {old} RENAME TO {new}")).await?;
    let refused = PgStore::options().schema(&new).connect(server::url()).await.err();
    assert!(
        matches!(&refused, Some(StoreError::Schema(why)) if why.contains("works on another schema")),
        "{refused:?}"
    );
    let migrated = "SELECT count(*) FROM pg_class WHERE relname = 'identity' AND relnamespace = to_regnamespace($1)";
    let migrated: i64 = sqlx::query_scalar(migrated).bind(&new).fetch_one(&mut admin).await?;
    assert_eq!(migrated, 0);
    Ok(())
}

#[tokio::test]
async fn x8_two_logs_do_not_write_to_the_same_rows() -> Result<(), Any> {
    let (one, two, rows) = (server::schema(), server::schema(), server::schema());
    let open = async |schema: &str, tables: &str| {
        PgStore::options().schema(schema).tables_schema(tables).connect(server::url()).await.map(Store::from)
    };
    let refused = |opened: Result<Store, StoreError>, why: &str| match opened {
        Err(StoreError::Schema(said)) => {
            assert!(said.contains(why) && said.contains("`tables_schema` of its own"), "{said}");
        }
        other => panic!("{other:?}"),
    };
    let first = open(&one, &rows).await?;
    let ann = Id::<Account>::from("ann");
    let runner = Runner::new(&first).read_model::<Balance>().start();
    let written = first.append(&ann, Expected::Any, [Opened { owner: "Ann".into() }, Deposited { amount: 7 }]).await?;
    runner.until(written.last).await?;
    runner.stop().await;
    let id = first.identity().await?.id;
    refused(open(&two, &rows).await, &format!("it has the rows of log {id}, in schema `{one}`"));
    refused(open(&two, &one).await, "it is the schema of another log");
    // Rows first, in what becomes the schema of another log then.
    let three = server::schema();
    open(&two, &three).await?;
    refused(open(&three, &three).await, "it has the rows of another log");
    // Each with rows of its own, and again.
    for _ in 0..2 {
        open(&one, &rows).await?;
        open(&two, &three).await?;
    }
    assert_eq!(first.read_model::<Balance>().get(&ann).await?.map(|row| row.balance), Some(7));

    // A log that was renamed keeps its rows; a copy of it does not get them.
    let mut admin = server::connection().await;
    let renamed = format!("{one}_renamed");
    run(&mut admin, format!("ALTER SCHEMA {one} RENAME TO {renamed}")).await?;
    let options = PgStore::options().schema(&renamed).tables_schema(&rows);
    run(&mut admin, options.functions_sql()?).await?;
    let first = open(&renamed, &rows).await?;
    assert_eq!(first.read_model::<Balance>().get(&ann).await?.map(|row| row.balance), Some(7));
    let copy = server::schema();
    PgStore::options().schema(&copy).connect(server::url()).await?;
    run(&mut admin, format!("UPDATE {copy}.identity SET id = '{id}'")).await?;
    refused(open(&copy, &rows).await, "of which this is a copy");
    Ok(())
}

#[tokio::test]
async fn x8_a_program_whose_rights_are_older_than_its_log_says_so() -> Result<(), Any> {
    let mut hardened = Hardened::new().await?;
    run(&mut hardened.admin, format!("REVOKE SELECT ON {0}.identity FROM {0}_app", hardened.schema)).await?;
    let refused = hardened.open("app").await.err();
    assert!(
        matches!(&refused, Some(StoreError::Unmigrated { missing }) if missing[0].contains("roles_sql")),
        "{refused:?}"
    );
    run(&mut hardened.admin, hardened.options.roles_sql()?).await?;
    hardened.open("app").await?;
    hardened.remove().await
}

// T3: instants.

#[tokio::test]
async fn t3_a_session_with_other_defaults_gets_the_same_answer() -> Result<(), Any> {
    let ann = Id::<Account>::from("ann");
    for odd in [
        "options[default_transaction_isolation]=repeatable%20read",
        "options[default_transaction_isolation]=serializable",
        "options[default_transaction_read_only]=on",
    ] {
        let store = server::fresh().await;
        let (url, what) = (server::url_with(odd), odd);
        let odd = Store::from(PgStore::options().schema(store.schema()).connect(&url).await?);
        let plain = Store::from(store.clone());
        plain.append(&ann, Expected::Any, [Deposited { amount: 1 }]).await?;
        let tx = plain.begin().await?;
        let open = tx.append(&ann, Expected::Any, [Deposited { amount: 2 }]).await?.recorded_at;
        sleep(Duration::from_millis(2)).await;
        let asked = tokio::spawn({
            let (odd, ann) = (odd.clone(), ann.clone());
            async move { odd.load(&ann).as_of(open).await }
        });
        server::waiting_for_the_lock(store.schema(), 1).await;
        tx.commit().await?;
        let loaded = asked.await??;
        assert_eq!((loaded.balance, loaded.settled), (3, true), "{what}");
    }
    Ok(())
}

#[tokio::test]
async fn t3_what_stays_open_for_too_long_is_busy_and_a_transaction_asks_without_a_lock() -> Result<(), Any> {
    let ann = Id::<Account>::from("ann");
    let store = server::fresh().await;
    let url = server::url_with("options[lock_timeout]=200ms");
    let impatient = Store::from(PgStore::options().schema(store.schema()).connect(&url).await?);
    let plain = Store::from(store.clone());
    plain.append(&ann, Expected::Any, [Deposited { amount: 1 }]).await?;
    let tx = plain.begin().await?;
    tx.append(&ann, Expected::Any, [Deposited { amount: 2 }]).await?;
    let busy = impatient.load(&ann).as_of(SystemTime::now()).await;
    assert!(matches!(&busy, Err(error @ StoreError::Busy(_)) if error.is_retryable()), "{busy:?}");
    // The past is not waited for.
    assert_eq!(impatient.load(&ann).as_of(SystemTime::UNIX_EPOCH).await?.balance, 0);
    tx.commit().await?;

    // A transaction that has asked, and stays open: others append, and it sees what they did.
    let tx = plain.begin().await?;
    assert_eq!(tx.load(&ann).as_of(SystemTime::now()).await?.balance, 3);
    timeout(Duration::from_secs(5), plain.append(&ann, Expected::Any, [Deposited { amount: 4 }]).into_future())
        .await
        .expect("nobody is waited for")?;
    assert_eq!(tx.load(&ann).as_of(SystemTime::now()).await?.balance, 7);
    let connection = tx.connection::<PgConnection>().await?;
    drop(connection);
    tx.rollback().await?;
    Ok(())
}

#[tokio::test]
async fn t3_neither_an_append_nor_a_question_changes_the_time_outs_of_a_transaction() -> Result<(), Any> {
    let ann = Id::<Account>::from("ann");
    let store = Store::from(server::fresh().await);
    store.append(&ann, Expected::Any, [Deposited { amount: 1 }]).await?;
    let tx = store.begin().await?;
    tx.load(&ann).as_of(SystemTime::now()).await?;
    tx.append(&ann, Expected::Any, [Deposited { amount: 2 }]).await?;
    tx.append(StreamId::new("other", "a"), Expected::Any, [Deposited { amount: 2 }]).await?;
    let mut connection = tx.connection::<PgConnection>().await?;
    let timeout: String = sqlx::query_scalar("SHOW lock_timeout").fetch_one(&mut *connection).await?;
    assert_eq!(timeout, "0");
    drop(connection);
    tx.commit().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t3_instants_a_moment_ago_beside_many_writers_have_one_answer_each() -> Result<(), Any> {
    let pg = PgStore::options().schema(server::schema()).connect(server::url()).await?;
    let store = Store::from(pg.clone());
    let reader = Store::from(PgStore::options().schema(pg.schema()).connect(server::url()).await?);
    let writers = (0..16).map(|n| {
        let store = store.clone();
        tokio::spawn(async move {
            let own = Id::<Account>::from(n.to_string());
            for round in 0..40 {
                if round % 8 == n % 8 {
                    let tx = store.begin().await?;
                    tx.append(&own, Expected::Any, [Deposited { amount: 1 }]).await?;
                    sleep(Duration::from_millis(2)).await;
                    if round % 16 == n % 16 { tx.rollback().await? } else { tx.commit().await? }
                } else {
                    store.append(&own, Expected::Any, [Deposited { amount: 1 }]).await?;
                }
            }
            Ok::<_, StoreError>(())
        })
    });
    let writers: Vec<_> = writers.collect();
    let mut answers: Vec<(Timestamp, Prefix)> = vec![];
    while !writers.iter().all(|writer| writer.is_finished()) || answers.len() < 50 {
        let at = Timestamp::from(SystemTime::now() - Duration::from_millis(1));
        let asked = (0..4).map(|_| reader.prefix_at(at));
        for answer in join_all(asked).await {
            answers.push((at, answer?));
        }
    }
    for writer in writers {
        writer.await??;
    }
    let log: Vec<_> = store.read().raw().try_collect().await?;
    for (at, answer) in &answers {
        let recorded = log.partition_point(|event| event.recorded_at <= *at) as u64;
        assert_eq!(*answer, Prefix { position: Position(recorded), settled: true }, "{at}");
    }
    println!("{} answers, {} events", answers.len(), log.len());
    Ok(())
}

#[tokio::test]
async fn t3_a_replica_says_that_an_answer_is_not_settled() -> Result<(), Any> {
    let (own, url) = Own::start();
    let primary = Store::from(PgStore::connect(&url).await?);
    let ann = Id::<Account>::from("ann");
    primary.append(&ann, Expected::Any, [Deposited { amount: 1 }]).await?;
    let standby = own.script(&["standby"]);
    let replica = Store::from(PgStore::options().doctor(Policy::Ignore).connect(&standby).await?);
    let first = primary.append(&ann, Expected::Any, [Deposited { amount: 2 }]).await?;
    while replica.head().await? < first.last {
        sleep(Duration::from_millis(10)).await;
    }
    let loaded = replica.load(&ann).as_of(first.recorded_at).await?;
    assert_eq!((loaded.balance, loaded.settled), (3, false), "what is open on the primary cannot be waited for here");
    sleep(Duration::from_millis(2)).await;
    let second = primary.append(&ann, Expected::Any, [Deposited { amount: 4 }]).await?;
    while replica.head().await? < second.last {
        sleep(Duration::from_millis(10)).await;
    }
    let loaded = replica.load(&ann).as_of(first.recorded_at).await?;
    assert_eq!((loaded.balance, loaded.settled), (3, true), "a later event shows that nothing else can come");
    assert!(replica.load(&ann).at_position(first.last).await?.settled);
    Ok(())
}

#[tokio::test]
async fn t3_stamps_ahead_of_the_clock_are_found() -> Result<(), Any> {
    let store = server::fresh().await;
    let ann = Id::<Account>::from("ann");
    Store::from(store.clone()).append(&ann, Expected::Any, [Deposited { amount: 1 }, Deposited { amount: 2 }]).await?;
    let stamps = async || -> Result<(Severity, String), Any> {
        let report = store.doctor().await?;
        let stamps = report.get("stamps").expect("stamps");
        Ok((stamps.severity, stamps.found.clone()))
    };
    assert_eq!(stamps().await?.0, Severity::Ok);
    // As a clock that was ahead would have stamped it.
    let ahead = format!(
        "ALTER TABLE {0}.events DISABLE TRIGGER append_only;
         UPDATE {0}.events SET recorded_at = now() + interval '10 years' WHERE position = 2;
         ALTER TABLE {0}.events ENABLE ALWAYS TRIGGER append_only",
        store.schema()
    );
    run(&mut server::connection().await, ahead).await?;
    Store::from(store.clone()).append(&ann, Expected::Any, [Deposited { amount: 3 }]).await?;
    let (severity, found) = stamps().await?;
    assert_eq!(severity, Severity::Warning);
    assert!(found.starts_with("positions 2 to 3 are stamped ahead of the clock"), "{found}");
    Ok(())
}

#[tokio::test]
async fn t1_stamps_never_go_back_when_the_clock_does() -> Result<(), Any> {
    let store = server::fresh().await;
    let log = Store::from(store.clone());
    let (ann, bob) = (Id::<Account>::from("ann"), Id::<Account>::from("bob"));
    log.append(&ann, Expected::Any, [Deposited { amount: 1 }]).await?;
    // As a clock that has been set back since would have stamped it.
    let ahead = format!(
        "ALTER TABLE {0}.events DISABLE TRIGGER append_only;
         UPDATE {0}.events SET recorded_at = now() + interval '1 hour' WHERE position = 1;
         ALTER TABLE {0}.events ENABLE ALWAYS TRIGGER append_only",
        store.schema()
    );
    run(&mut server::connection().await, ahead).await?;
    let deposit = || [Deposited { amount: 1 }];
    // To one stream; to two; in a transaction; and several that share a call, behind a transaction that is open.
    log.append(&ann, Expected::Any, deposit()).await?;
    log.append(&ann, Expected::Any, deposit()).and(&bob, Expected::Any, deposit()).await?;
    let tx = log.begin().await?;
    tx.append(&ann, Expected::Any, deposit()).await?;
    let shared = (0..9).map(|n| log.append(Id::<Account>::from(n.to_string()), Expected::Any, deposit()).into_future());
    let (committed, shared) = tokio::join!(tx.commit(), futures::future::join_all(shared));
    committed?;
    shared.into_iter().try_for_each(|written| written.map(drop))?;
    let events: Vec<_> = log.read().raw().try_collect().await?;
    let (head, stamps): (_, Vec<_>) = (events.len(), events.iter().map(|event| event.recorded_at).collect());
    assert_eq!(head, 14);
    assert!(stamps[0] > log.as_ref().now(), "the first is ahead of the clock");
    assert!(stamps.is_sorted(), "{stamps:?}");
    Ok(())
}

// P8: what something else than this library wrote.

#[tokio::test]
async fn p8_an_event_that_breaks_the_rules_stops_what_hears_of_it_and_nothing_else() -> Result<(), Any> {
    let store = server::fresh().await;
    let schema = store.schema().to_owned();
    let world = World::new(std::sync::Arc::new(store), None, ());
    let pool = world.inner.database().downcast_ref::<PgPool>().expect("PostgreSQL").clone();
    let insert = async |stream: &str, name: Option<&str>, tags: &str, metadata: &[u8]| {
        let insert = "INSERT INTO {s}.events (position, version, recorded_at, occurred_at, event_id, type_key, schema, stream,
                                              tags, metadata, payload)
                      SELECT max(position) + 1, (SELECT count(*) + 1 FROM {s}.events WHERE stream = $1), max(recorded_at), now(),
                             gen_random_uuid(), coalesce((SELECT min(type_key) FROM {s}.event_types WHERE name = $2), 999), 1,
                             $1, $3::text[], $4, '{\"amount\":1000}'
                        FROM {s}.events";
        let tags = match tags {
            "" => "{}".to_owned(),
            tags => format!("{{{tags}}}"),
        };
        let insert = sqlx::query(AssertSqlSafe(insert.replace("{s}", &schema))).bind(stream).bind(name).bind(tags);
        insert.bind(metadata).execute(&pool).await.map(drop)
    };
    damaged::events_that_break_the_rules(&world, insert).await
}

#[tokio::test]
async fn a14_a_command_beyond_the_end_is_refused_by_each_way_to_append() -> Result<(), Any> {
    // Over a pooler that forgets, in a batch, alone: whatever the way, the same refusal. The suite has the stores' own.
    let store =
        Store::from(PgStore::options().schema(server::schema()).max_connections(1).connect(server::url()).await?);
    let ann = Id::<Account>::from("ann");
    store.execute(&ann, Open { owner: "Ann".into() }).await?;
    let refused = store.execute(&ann, Deposit { amount: 1 }).expecting_position(Position(9_999)).await;
    let forked =
        matches!(refused, Err(CommandError::Store(StoreError::Forked { position: Position(9_999), event: None })));
    assert!(forked, "{refused:?}");
    Ok(())
}
