//! Examines the server, the session, the role and the log, and reports what is unsafe or slow about them.

use std::time::{Duration, SystemTime};

use eventstore_core::{
    StoreError, Timestamp,
    doctor::{Report, Severity},
};
use sqlx::{PgConnection, Row, postgres::PgRow};

use crate::{
    error,
    functions::functions,
    migrate,
    pooler::Pooler,
    read,
    shared::Shared,
    sql::Sql,
    types::{Instant, array},
};

/// The oldest major release of PostgreSQL that the tests run on.
const TRIED: i32 = 15;
/// Clocks that differ by no more count as equal.
const CLOCK: Duration = Duration::from_secs(1);

/// Runs all checks. The server, the session and the role are reported even if there is no log, or none that can be
/// read.
pub(crate) async fn examine(shared: &Shared) -> Result<Report, StoreError> {
    let mut report = Report::default();
    let mut connection = shared.connection().await?;
    let before = SystemTime::now();
    let server = sqlx::query(shared.sql().doctor_server()).fetch_one(&mut *connection).await.map_err(error::store)?;
    let server = Server::new(&server, (before.into(), SystemTime::now().into())).map_err(error::store)?;
    server.durability(&mut report);
    server.sessions(&mut report, shared.db.pooler);
    let pool = shared.db.pool.options().get_max_connections() as usize
        + shared.connections.limit()
        + usize::from(shared.listener.listens());
    server.connections(&mut report, pool, shared.db.pooler);
    server.upkeep(&mut report);

    let log = sqlx::query(shared.sql().doctor_log()).fetch_optional(&mut *connection).await.map_err(error::store)?;
    let Some(log) = log else {
        report.danger("log", format!("there is none in schema {}", shared.schema()), "Apply the migrations.");
        return Ok(report);
    };
    let log = Log::new(&log).map_err(error::store)?;
    let guard = sqlx::query_scalar(shared.sql().doctor_guard()).fetch_all(&mut *connection).await;
    guard_of(&mut report, &guard.map_err(error::store)?);
    log.table(&mut report, shared.schema());
    log.rights(&mut report, &server, shared.schema());
    let granted = sqlx::query_scalar(shared.sql().doctor_grants()).fetch_all(&mut *connection).await;
    grants(&mut report, &granted.map_err(error::store)?);
    if !log.reads {
        return Ok(report);
    }
    match migrate::is_of_this_release(&mut connection, shared.sql()).await {
        Ok(true) => functions_of(&mut report, shared.sql(), &mut connection).await?,
        Ok(false) => report.ok("functions", "those of another release"),
        Err(StoreError::Schema(_)) => {}
        Err(error) => return Err(error),
    }
    match migrate::missing(&mut connection, shared.sql()).await {
        Ok(missing) if missing.is_empty() => report.ok("migrations", "all are applied"),
        Ok(missing) => report.danger("migrations", format!("missing: {}", missing.join(", ")), "Apply them."),
        Err(StoreError::Schema(why)) => report.danger("migrations", why, "Run the program this log was migrated for."),
        Err(error) => return Err(error),
    }
    let sample = sqlx::query_as(shared.sql().doctor_sample()).fetch_one(&mut *connection).await;
    let sample = sample.map_err(error::store)?;
    positions(&mut report, sample);
    // Read after the head, so that no event appended meanwhile counts as stamped ahead of the clock.
    let over =
        sqlx::query_scalar(shared.sql().doctor_stamps()).bind(CLOCK.as_secs_f64()).fetch_one(&mut *connection).await;
    report.stamps(read::position(over.map_err(error::store)?)?, read::position(sample.0)?);
    Ok(report)
}

/// Reports what is wrong with the triggers, rules and keys that guard the events.
fn guard_of(report: &mut Report, wrong: &[String]) {
    match wrong.is_empty() {
        true => report.ok("guard", "UPDATE, DELETE and TRUNCATE of events are refused, to the owner too"),
        false => report.danger(
            "guard",
            wrong.join("; "),
            "Find out who changed it, and what was changed in the log: compare with a backup. Make it again as the \
             migrations do.",
        ),
    }
}

/// Compares the functions of the log with those of the migrations.
async fn functions_of(report: &mut Report, sql: &Sql, connection: &mut PgConnection) -> Result<(), StoreError> {
    let functions = functions();
    let put = |text: &str| text.replace("{schema}", &sql.quoted_schema());
    let wrong = sqlx::query_scalar(sql.doctor_functions())
        .bind(functions.keys().copied().collect::<Vec<_>>())
        .bind(functions.values().map(|function| put(function.body)).collect::<Vec<_>>())
        .bind(functions.values().map(|function| function.definer).collect::<Vec<_>>())
        .bind(functions.values().map(|function| array(&function.settings)).collect::<Vec<_>>());
    let wrong: Vec<String> = wrong.fetch_all(connection).await.map_err(error::store)?;
    match wrong.is_empty() {
        true => report.ok("functions", "those of the migrations"),
        false => report.danger(
            "functions",
            wrong.join("; "),
            "Find out who replaced them, and what was appended since; create them again with the script of \
             `PgOptions::functions_sql`.",
        ),
    }
    Ok(())
}

/// Reports the rights of roles other than the owner.
fn grants(report: &mut Report, granted: &[String]) {
    match granted.is_empty() {
        true => report.ok("grants", "no other role may do more than read, and append by the functions"),
        false => report.warning(
            "grants",
            granted.join("; "),
            "REVOKE it: a role that may write to the tables of the log can change them or hold up every append.",
        ),
    }
}

/// Logs the problems of a report: dangers as errors, warnings as warnings.
pub(crate) fn log(schema: &str, report: &Report) {
    for finding in report.problems() {
        let (check, found, advice) = (finding.check, &*finding.found, &*finding.advice);
        if finding.severity == Severity::Danger {
            tracing::error!(schema, check, found, advice, "the database is no safe place for a log");
        } else {
            tracing::warn!(schema, check, found, advice, "the database could be a better place for a log");
        }
    }
}

/// The server, and the settings of a session of the store.
struct Server {
    version: String,
    release: i32,
    encoding: String,
    fsync: bool,
    full_page_writes: bool,
    synchronous_commit: String,
    standbys: bool,
    isolation: String,
    read_only: bool,
    replica: bool,
    autovacuum: bool,
    idle_timeout: Duration,
    lock_timeout: Duration,
    connections: i32,
    role_connections: Option<i32>,
    database_connections: Option<i32>,
    connected: i64,
    role: String,
    superuser: bool,
    now: Timestamp,
    /// The clock of this process before and after the server was asked for its clock.
    asked: (Timestamp, Timestamp),
}

impl Server {
    fn new(row: &PgRow, asked: (Timestamp, Timestamp)) -> Result<Self, sqlx::Error> {
        let on = |name| row.try_get::<String, _>(name).map(|value| value == "on");
        let millis = |name| {
            let value: Option<i64> = row.try_get(name)?;
            Ok::<_, sqlx::Error>(Duration::from_millis(value.unwrap_or_default().unsigned_abs()))
        };
        Ok(Self {
            version: row.try_get("version")?,
            release: row.try_get::<i32, _>("version_number")? / 10_000,
            encoding: row.try_get("encoding")?,
            fsync: on("fsync")?,
            full_page_writes: on("full_page_writes")?,
            synchronous_commit: row.try_get("synchronous_commit")?,
            standbys: !row.try_get::<String, _>("synchronous_standbys")?.is_empty(),
            isolation: row.try_get("isolation")?,
            read_only: on("read_only")?,
            replica: row.try_get("replica")?,
            autovacuum: row.try_get("autovacuum")?,
            idle_timeout: millis("idle_timeout_ms")?,
            lock_timeout: millis("lock_timeout_ms")?,
            connections: row.try_get("connections")?,
            role_connections: row.try_get("role_connections")?,
            database_connections: row.try_get("database_connections")?,
            connected: row.try_get::<Option<_>, _>("connected")?.unwrap_or_default(),
            role: row.try_get("role")?,
            superuser: row.try_get::<Option<_>, _>("superuser")?.unwrap_or_default(),
            now: row.try_get::<Instant, _>("now")?.0,
            asked,
        })
    }

    /// Reports whether acknowledged appends survive a crash.
    fn durability(&self, report: &mut Report) {
        match self.release {
            TRIED.. => report.ok("server", format!("PostgreSQL {}", self.version)),
            _ => report.warning(
                "server",
                format!("PostgreSQL {}", self.version),
                format!("Upgrade: this library is tried on {TRIED} and later."),
            ),
        }
        match &*self.encoding {
            "UTF8" => report.ok("encoding", "UTF8"),
            other => report.danger(
                "encoding",
                other,
                "Make a database with ENCODING 'UTF8': names of other alphabets cannot be stored in this one.",
            ),
        }
        match self.fsync {
            true => report.ok("fsync", "on"),
            false => report.danger(
                "fsync",
                "off: a crash of the machine loses acknowledged events, or the whole database",
                "Set fsync = on in postgresql.conf.",
            ),
        }
        match self.full_page_writes {
            true => report.ok("full_page_writes", "on"),
            false => report.danger(
                "full_page_writes",
                "off: a crash of the machine may leave pages that are half old and half new",
                "Set full_page_writes = on, unless the file system never tears a page.",
            ),
        }
        match &*self.synchronous_commit {
            "off" => report.ok("synchronous_commit", "off in this session; appends turn it on for themselves"),
            "local" if self.standbys => report.warning(
                "synchronous_commit",
                "local: an acknowledged append may be missing on the standby that takes over",
                "ALTER ROLE … SET synchronous_commit = 'on'.",
            ),
            other => report.ok("synchronous_commit", other),
        }
        match self.replica {
            false => report.ok("primary", "this server takes writes"),
            true => report.danger(
                "primary",
                "this is a replica: reads work, appends and read models do not",
                "Connect to the primary, unless this program only reads.",
            ),
        }
    }

    /// Reports the defaults of sessions, the pooler, the clocks and the time-outs.
    fn sessions(&self, report: &mut Report, pooler: Pooler) {
        let advice = || format!("ALTER ROLE \"{}\" SET …, or the same in the database.", self.role);
        match &*self.isolation {
            "read committed" => report.ok("isolation", "read committed"),
            other => report.warning(
                "isolation",
                format!("{other} by default: each append takes three round trips instead of one"),
                advice().replace('…', "default_transaction_isolation = 'read committed'"),
            ),
        }
        match self.read_only {
            false => report.ok("read_only", "off by default"),
            true => report.warning(
                "read_only",
                "on by default: each append takes three round trips instead of one",
                advice().replace('…', "default_transaction_read_only = off"),
            ),
        }
        match pooler {
            Pooler::None => report.ok("pooler", "none"),
            Pooler::Keeping => report.ok("pooler", "there is one, and it keeps prepared statements"),
            Pooler::Forgetful => report.warning(
                "pooler",
                "there is one that keeps no prepared statements: each statement takes four round trips instead of one, and \
                 appends share no calls",
                "PgBouncer 1.21 or later with max_prepared_statements = 200; or connect to the server itself.",
            ),
        }
        clock(report, self.asked, self.now);
        let (idle, lock) = (self.idle_timeout, self.lock_timeout);
        let lock = if lock.is_zero() { "none".to_owned() } else { format!("{lock:?}") };
        match idle.is_zero() {
            false => report.ok("timeouts", format!("idle in a transaction: {idle:?}; for locks: {lock}")),
            true => report.warning(
                "timeouts",
                "idle in a transaction: none. A program that vanishes in the middle of one may hold up every append",
                advice().replace('…', "idle_in_transaction_session_timeout = '1min'"),
            ),
        }
    }

    fn connections(&self, report: &mut Report, pool: usize, pooler: Pooler) {
        let limits = [Some(self.connections), self.role_connections, self.database_connections];
        let limit = limits.into_iter().flatten().min().unwrap_or_default().max(0).unsigned_abs() as usize;
        let found = format!("this store may open {pool}, the server takes {limit}, {} are open", self.connected);
        if pooler == Pooler::None && pool > limit {
            let advice = "Lower max_connections of the store (few are enough: appends share one lock), or raise it at \
                          the server, role or database; all nodes together need no more than that.";
            report.warning("connections", found, advice);
        } else {
            report.ok("connections", found);
        }
    }

    fn upkeep(&self, report: &mut Report) {
        match self.autovacuum {
            true => report.ok("autovacuum", "on"),
            false => report.warning(
                "autovacuum",
                "off: reads slow down, and rows of read models pile up",
                "Set autovacuum = on and track_counts = on.",
            ),
        }
    }
}

/// Compares the server's clock with the clock of this process before and after the query.
fn clock(report: &mut Report, (before, after): (Timestamp, Timestamp), server: Timestamp) {
    let (before, after, server) = (before.as_micros(), after.as_micros(), server.as_micros());
    // A lower bound of the difference, however long the query took.
    let apart = Duration::from_micros((before - server).max(server - after).max(0).unsigned_abs());
    if apart <= CLOCK {
        return report.ok("clock", "that of the server and that of this machine agree");
    }
    let (seconds, side) = (apart.as_secs_f64(), if server < before { "behind" } else { "ahead of" });
    report.warning(
        "clock",
        format!("the server's is {seconds:.1} s {side} that of this machine; `as_of` goes by the server's"),
        "Let both follow a time server.",
    );
}

/// The table of events, and the rights of the store's role on it.
struct Log {
    logged: bool,
    autovacuum: bool,
    owner: String,
    owns: bool,
    reads: bool,
    changes: bool,
    appends: bool,
}

impl Log {
    fn new(row: &PgRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            logged: row.try_get("logged")?,
            autovacuum: row.try_get("autovacuum")?,
            owner: row.try_get("owner")?,
            owns: row.try_get("owns")?,
            reads: row.try_get("reads")?,
            changes: row.try_get("changes")?,
            appends: row.try_get("appends")?,
        })
    }

    fn table(&self, report: &mut Report, schema: &str) {
        if !self.logged {
            let advice = format!("ALTER TABLE {schema}.events SET LOGGED.");
            report.danger("table", "events is an unlogged table: a crash of the server empties it", advice);
        } else if !self.autovacuum {
            let advice = format!("ALTER TABLE {schema}.events RESET (autovacuum_enabled).");
            report.warning("table", "autovacuum is off for events: reads slow down", advice);
        } else {
            report.ok("table", "events is logged, and vacuumed by itself");
        }
    }

    fn rights(&self, report: &mut Report, server: &Server, schema: &str) {
        let role = &server.role;
        let harden = "`PgOptions::roles_sql` makes roles that can append and nothing else.";
        if !self.reads || !self.appends {
            let cannot = if self.reads { "can read the log, but not append" } else { "cannot read the log" };
            let advice = format!("GRANT \"{schema}_app\" TO \"{role}\", if there are such roles. {harden}");
            report.danger("rights", format!("`{role}` {cannot}"), advice);
        } else if server.superuser {
            report.warning("rights", format!("`{role}` is a superuser: only triggers keep it from the events"), harden);
        } else if self.owns {
            let found = format!("`{role}` is, or may act as, `{}`, which owns the log and its guard", self.owner);
            report.add("rights", Severity::Ok, found, harden);
        } else if self.changes {
            let advice = format!("REVOKE INSERT, UPDATE, DELETE, TRUNCATE, TRIGGER ON {schema}.events FROM …");
            report.warning("rights", format!("`{role}` may write to events without the functions"), advice);
        } else {
            report.ok("rights", format!("hardened: `{role}` can read and append, and nothing else"));
        }
    }
}

/// Reports a sample of the log: the head, and how many positions were looked up, were found, and were recorded before
/// an earlier position.
fn positions(report: &mut Report, (head, wanted, found, back): (i64, i64, i64, i64)) {
    if found < wanted || back > 0 {
        let found = format!("of {wanted} positions up to {head}, {} are missing and {back} go back", wanted - found);
        report.danger("positions", found, "Events were deleted or changed: compare with a backup, restore.");
    } else {
        report.ok("positions", format!("the head is {head}; a sample of {wanted} is without a hole"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_are_compared_by_what_cannot_be_the_way() {
        let found = |before, after, server| {
            let mut report = Report::default();
            let at = |seconds: i64| Timestamp::from_micros(seconds * 1_000_000);
            clock(&mut report, (at(before), at(after)), at(server));
            report.findings.remove(0).found
        };
        assert!(found(100, 100, 100).ends_with("agree"));
        assert!(found(100, 110, 105).ends_with("agree"), "a slow way is no difference");
        assert!(found(100, 110, 97).starts_with("the server's is 3.0 s behind"));
        assert!(found(100, 110, 114).starts_with("the server's is 4.0 s ahead of"));
    }
}
