//! The doctor: what makes a server, a session or a log unsafe is found, and can stop a store from opening.

use eventstore::{
    Expected, Id, PgStore, Store, StoreError,
    doctor::{Policy, Report, Severity::*},
    sqlx::{self, AssertSqlSafe},
};

use crate::{
    account::{Account, *},
    server,
};

type Any = Box<dyn std::error::Error>;

async fn run(sql: String) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut server::connection().await).await.map(drop)
}

fn found<'a>(report: &'a Report, check: &str) -> (eventstore::doctor::Severity, &'a str) {
    let finding = report.get(check).unwrap_or_else(|| panic!("no {check} in\n{report}"));
    assert_eq!(finding.severity == Ok, finding.advice.is_empty() || check == "rights", "{finding}");
    (finding.severity, &finding.found)
}

#[tokio::test]
async fn a1_a_server_that_would_lose_events_in_a_crash_is_found() -> Result<(), Any> {
    let store = Store::from(server::fresh().await);
    store.execute(Id::<Account>::from("ann"), Open { owner: "Ann".into() }).await?;
    let report = store.doctor().await?;
    // The throwaway server of these tests is such a server.
    for check in ["fsync", "full_page_writes"] {
        let show: String = sqlx::query_scalar(AssertSqlSafe(format!("SHOW {check}")))
            .fetch_one(&mut server::connection().await)
            .await?;
        assert_eq!(found(&report, check).0 == Danger, show == "off", "{report}");
    }
    for check in [
        "server",
        "encoding",
        "synchronous_commit",
        "primary",
        "isolation",
        "read_only",
        "clock",
        "connections",
        "autovacuum",
        "guard",
        "table",
        "grants",
        "functions",
        "migrations",
        "positions",
        "stamps",
    ] {
        assert_eq!(found(&report, check).0, Ok, "{report}");
    }
    assert_eq!(report.findings.len(), 21, "{report}");
    Result::Ok(())
}

#[tokio::test]
async fn a1_sessions_that_do_not_wait_or_begin_oddly_are_found() -> Result<(), Any> {
    let schema = server::schema();
    let with = async |options: &str| {
        let url = server::url_with(&format!("options={}", options.replace(' ', "%20").replace('=', "%3D")));
        PgStore::options().schema(schema.clone()).connect(&url).await?.doctor().await
    };
    let odd = with("-c synchronous_commit=off -c default_transaction_isolation=serializable").await?;
    assert_eq!(found(&odd, "synchronous_commit"), (Ok, "off in this session; appends turn it on for themselves"));
    assert_eq!(found(&odd, "isolation").0, Warning);
    let read_only = with("-c default_transaction_read_only=on -c idle_in_transaction_session_timeout=60s").await?;
    assert_eq!(found(&read_only, "read_only").0, Warning);
    assert_eq!(found(&read_only, "isolation").0, Ok);
    assert_eq!(found(&read_only, "timeouts"), (Ok, "idle in a transaction: 60s; for locks: none"));
    let timeouts = with("-c idle_in_transaction_session_timeout=0").await?;
    assert_eq!(found(&timeouts, "timeouts").0, Warning);
    let many = PgStore::options().schema(schema.clone()).max_connections(200_000).connect(server::url()).await?;
    assert_eq!(found(&many.doctor().await?, "connections").0, Warning);
    Result::Ok(())
}

#[tokio::test]
async fn x3_a_log_whose_guard_is_gone_or_whose_events_were_deleted_is_found_and_refused() -> Result<(), Any> {
    let guard_off = [
        "ALTER TABLE {s}.events DISABLE TRIGGER append_only",
        "ALTER TABLE {s}.events DISABLE TRIGGER ALL",
        // Fires no more where triggers are switched to replication.
        "ALTER TABLE {s}.events ENABLE TRIGGER append_only_truncate",
        "DROP TRIGGER append_only_truncate ON {s}.events",
    ];
    for change in guard_off {
        let store = server::fresh().await;
        run(change.replace("{s}", store.schema())).await?;
        let report = store.doctor().await?;
        assert_eq!(found(&report, "guard").0, Danger, "{change}: {report}");

        let open = |policy| PgStore::options().schema(store.schema()).doctor(policy).connect(server::url());
        let refused = open(Policy::Refuse).await.err();
        let Some(StoreError::Unhealthy(report)) = refused else { panic!("{refused:?}") };
        assert_eq!(found(&report, "guard").0, Danger, "{report}");
        assert!(open(Policy::Warn).await.is_ok() && open(Policy::Ignore).await.is_ok());
    }

    let store = server::fresh().await;
    let schema = store.schema().to_owned();
    let deposits = (0..50).map(|_| AccountEvent::Deposited { amount: 1 });
    Store::from(store.clone()).append(Id::<Account>::from("ann"), Expected::Any, deposits).await?;
    assert_eq!(found(&store.doctor().await?, "positions"), (Ok, "the head is 50; a sample of 50 is without a hole"));
    let delete = "ALTER TABLE {s}.events DISABLE TRIGGER ALL; DELETE FROM {s}.events WHERE position = 17;
                  UPDATE {s}.events SET recorded_at = 'epoch' WHERE position = 23;
                  ALTER TABLE {s}.events ENABLE ALWAYS TRIGGER append_only;
                  ALTER TABLE {s}.events ENABLE ALWAYS TRIGGER append_only_truncate";
    run(delete.replace("{s}", &schema)).await?;
    let report = store.doctor().await?;
    let gone = "of 50 positions up to 50, 1 are missing and 1 go back";
    assert_eq!((found(&report, "guard").0, found(&report, "positions")), (Ok, (Danger, gone)));

    run(format!("ALTER TABLE {schema}.events SET UNLOGGED")).await?;
    assert_eq!(found(&store.doctor().await?, "table").0, Danger);
    run(format!("ALTER TABLE {schema}.events SET LOGGED, SET (autovacuum_enabled = off)")).await?;
    assert_eq!(found(&store.doctor().await?, "table").0, Warning);
    run(format!("DELETE FROM {schema}.migrations")).await?;
    assert_eq!(found(&store.doctor().await?, "migrations").0, Danger);
    run(format!("INSERT INTO {schema}.migrations (version, checksum) VALUES (99, gen_random_uuid())")).await?;
    assert_eq!(found(&store.doctor().await?, "migrations").0, Danger);
    run(format!("DROP SCHEMA {schema} CASCADE")).await?;
    assert_eq!(found(&store.doctor().await?, "log").0, Danger);
    Result::Ok(())
}
