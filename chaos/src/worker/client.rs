//! One client: one operation after the other, each written down before it is asked for and when it is answered.

use std::{
    collections::BTreeMap,
    future::poll_fn,
    io,
    pin::Pin,
    sync::Arc,
    task::Poll,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use eventstore::{
    Appended, CommandError, Decider, Expected, Id, Position, Running, Store, StoreError, StreamId, Tx, Version,
    Written, event_id, every,
    sqlx::{self, AssertSqlSafe, Connection, PgConnection, SqliteConnection},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};
use tokio::time::{sleep, timeout};
use uuid::Uuid;

use crate::{
    domain::{
        Account, AccountEvent, Balance, Course, Deposit, Issue, NewerCourseEvent, PlainAccount, Reserve, Sponsor,
        Student, Tickets, Withdraw,
    },
    log::{self, Lines, now},
    profile::Log,
    transfers::{Order, PURSES, TransferEvent, Way},
    world::{Dice, World},
};

/// How many accounts everybody writes to.
const ACCOUNTS: u64 = 300;
/// How often all processes try the same command at once.
const TWINS: u64 = 250_000;
/// How long a read waits for a read model to come to what was seen.
const PATIENCE: Duration = Duration::from_secs(2);

/// What is to be appended to one stream.
#[derive(Clone, Serialize, Deserialize)]
struct Part {
    stream: String,
    /// `any`, `none`, `exists`, a version; null where a rule decides.
    expected: Json,
    events: Vec<Planned>,
}

#[derive(Clone, Serialize, Deserialize)]
struct Planned {
    id: Uuid,
    #[serde(rename = "type")]
    name: String,
    data: Json,
}

/// An operation, as it is written down: with all that is needed to ask for it again, also after a kill.
#[derive(Clone, Serialize, Deserialize)]
struct Operation {
    op: Uuid,
    kind: String,
    streams: Vec<Part>,
    /// Of a dropped one: after how many polls, or microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    polls: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    micros: Option<u64>,
    /// Of a command: `deposit`, `withdraw`.
    #[serde(skip_serializing_if = "Option::is_none")]
    command: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    course: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    student: Option<String>,
    /// Of a transaction: what the row in `business` says.
    #[serde(skip_serializing_if = "Option::is_none")]
    amount: Option<i64>,
    /// Of a transaction: whether the row is written before the events.
    #[serde(skip_serializing_if = "Option::is_none")]
    row_first: Option<bool>,
    /// Of a transaction: what else is done on its connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    aside: Option<Aside>,
    /// Whether a decision is made in a transaction.
    #[serde(skip_serializing_if = "Option::is_none")]
    within: Option<bool>,
    /// What is said with the events: who asks, in which conversation, when it happened (microseconds), and a note.
    #[serde(skip_serializing_if = "Option::is_none")]
    said: Option<With>,
}

#[derive(Clone, Serialize, Deserialize)]
struct With {
    actor: String,
    correlation: Uuid,
    occurred_at: u64,
    note: String,
}

/// What the code of a caller does on the connection of a transaction, besides what is recorded.
#[derive(Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Aside {
    /// It begins a transaction of its own, writes, and rolls back.
    NestedRollback,
    /// It begins a transaction of its own, writes the row of `business` there, and commits.
    NestedCommit,
    /// It appends to the log behind a savepoint, and rolls back to it.
    Savepoint,
    /// A statement fails, and nobody minds. The next attempt does without.
    Failure,
}

/// Says with an append or a command what its operation has written down.
macro_rules! with {
    ($asked:expr, $operation:expr) => {{
        let asked = $asked.command_id($operation.op);
        match &$operation.said {
            Some(With { actor, correlation, occurred_at, note }) => asked
                .by(actor)
                .correlation(*correlation)
                .occurred_at(UNIX_EPOCH + Duration::from_micros(*occurred_at))
                .metadata("note", note.as_str()),
            None => asked,
        }
    }};
}

enum Outcome {
    Stored {
        first: u64,
        last: u64,
        streams: BTreeMap<String, u64>,
        repeated: Option<bool>,
        state: Json,
    },
    /// For good.
    Rejected {
        error: String,
        why: &'static str,
        conflict: Json,
    },
    /// The store says that this attempt has recorded nothing.
    Refused(String),
    Unknown(String),
}

impl From<Written> for Outcome {
    fn from(written: Written) -> Self {
        let streams = written.streams.into_iter().map(|(stream, version)| (stream.as_str().to_owned(), version.0));
        let (first, last, repeated) = (written.first.0, written.last.0, Some(written.replayed));
        Self::Stored { first, last, streams: streams.collect(), repeated, state: Json::Null }
    }
}

impl From<StoreError> for Outcome {
    fn from(error: StoreError) -> Self {
        let text = said(&error);
        if error.is_newer() {
            return Self::Rejected { error: text, why: "newer", conflict: Json::Null };
        }
        match error {
            StoreError::Conflict(conflict) => {
                let expected = match conflict.expected {
                    Expected::Any => json!("any"),
                    Expected::Exists => json!("exists"),
                    Expected::Version(version) => json!(version.0),
                };
                let (stream, actual) = (conflict.stream.as_str(), conflict.actual.0);
                let conflict = json!({ "stream": stream, "expected": expected, "actual": actual });
                Self::Rejected { error: text, why: "conflict", conflict }
            }
            StoreError::Duplicate { .. } | StoreError::Reused { .. } | StoreError::Invalid(_) => {
                Self::Rejected { error: text, why: "invalid", conflict: Json::Null }
            }
            StoreError::Busy(_) | StoreError::Unavailable(_) => Self::Refused(text),
            _ => Self::Unknown(text),
        }
    }
}

/// What a statement of the caller's own has come to: not committed yet, and never will be.
fn own(error: sqlx::Error) -> Outcome {
    Outcome::Refused(said(&error))
}

/// An error with all that is below it.
fn said(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut below = error.source();
    while let Some(error) = below {
        text = format!("{text}: {error}");
        below = error.source();
    }
    text
}

fn answered<S: Decider>(answer: Result<Appended<S>, CommandError<S::Error>>, state: impl Fn(&S) -> Json) -> Outcome {
    match answer {
        Ok(done) => {
            let first = done.events.first().map_or(done.position.0, |event| event.position.0);
            let version = done.events.last().map_or(done.version.0, |event| event.version.0);
            let streams = [(done.stream.as_str().to_owned(), version)].into();
            Outcome::Stored { first, last: done.position.0, streams, repeated: None, state: state(&done.state) }
        }
        Err(CommandError::Rejected(refusal)) => {
            Outcome::Rejected { error: refusal.to_string(), why: "rule", conflict: Json::Null }
        }
        Err(CommandError::Conflict(conflict)) => StoreError::from(conflict).into(),
        Err(CommandError::Store(error)) => error.into(),
    }
}

/// One client, with its file.
pub struct Client {
    world: World,
    store: Store,
    lines: Lines,
    dice: Dice,
    /// What the one before was killed in the middle of.
    left: Option<(Operation, u64)>,
    /// How far it has seen.
    head: Position,
}

impl Client {
    pub fn open(world: &World, store: &Store, name: &str, run: u64) -> io::Result<Self> {
        let path = world.folder.join("clients").join(format!("{name}.jsonl"));
        let mut left = None;
        for line in log::tail(&path)? {
            match line["phase"].as_str() {
                Some("invoked") => {
                    let attempt = line["attempt"].as_u64().unwrap_or(1);
                    left = serde_json::from_value::<Operation>(line).ok().map(|operation| (operation, attempt));
                }
                Some("stored" | "rejected" | "given up") => left = None,
                _ => {}
            }
        }
        let dice = Dice::named(world.seed, &format!("{name} {run}"));
        let (world, store, lines) = (world.clone(), store.clone(), Lines::open(&path)?);
        Ok(Self { world, store, lines, dice, left, head: Position(0) })
    }

    fn over(&self) -> bool {
        self.world.quiet().exists()
    }

    /// One operation after the other, at its pace.
    pub async fn run(mut self) {
        if let Some((operation, attempts)) = self.left.take() {
            self.settle(operation, attempts).await;
        }
        let mut due = Instant::now();
        while !self.over() {
            let Some(operation) = self.plan().await else {
                sleep(Duration::from_millis(50)).await;
                continue;
            };
            let events: usize = operation.streams.iter().map(|part| part.events.len()).sum();
            self.settle(operation, 0).await;
            due = due.max(Instant::now() - Duration::from_secs(2))
                + Duration::from_secs_f64(events as f64 / self.world.rate);
            tokio::time::sleep_until(due.into()).await;
        }
    }

    /// The same commands as in all other processes, at the same moments.
    pub async fn twin(mut self) {
        if let Some((operation, attempts)) = self.left.take() {
            self.settle(operation, attempts).await;
        }
        while !self.over() {
            let tick = now() / TWINS + 1;
            sleep(Duration::from_micros(tick * TWINS - now().min(tick * TWINS))).await;
            let mut dice = Dice(self.world.seed ^ tick);
            let (account, amount) = (format!("t{}", dice.roll(10)), 1 + dice.roll(100) as i64);
            // There is mostly less left than was just taken: whoever decides once more, refuses.
            let (kind, event) = match dice.roll(2) {
                0 => ("withdraw", AccountEvent::Withdrawn { amount }),
                _ => ("deposit", AccountEvent::Deposited { amount }),
            };
            let op = Uuid::new_v5(&Uuid::from_u128(u128::from(self.world.seed)), &tick.to_be_bytes());
            let mut operation = Operation::new("command", op);
            operation.part(&account, Json::Null, [event]);
            operation.command = Some(kind.into());
            self.settle(operation, 0).await;
        }
    }

    /// Asks until it is known.
    async fn settle(&mut self, operation: Operation, attempts: u64) {
        let (op, mut unsure) = (operation.op, attempts > 0);
        for attempt in attempts + 1.. {
            let mut line = serde_json::to_value(&operation).expect("JSON of our own");
            line["t"] = json!(now());
            line["phase"] = json!("invoked");
            line["attempt"] = json!(attempt);
            self.lines.write(&line);
            let outcome = self.ask(&operation, attempt).await;
            let t = now();
            match outcome {
                Outcome::Stored { first, last, streams, repeated, state } => {
                    self.head = self.head.max(Position(last));
                    return self.lines.write(&json!({
                        "t": t, "op": op, "phase": "stored", "attempt": attempt, "first": first, "last": last,
                        "streams": streams, "repeated": repeated, "state": state,
                    }));
                }
                Outcome::Rejected { error, why, conflict } => {
                    return self.lines.write(&json!({
                        "t": t, "op": op, "phase": "rejected", "attempt": attempt, "error": error, "why": why,
                        "conflict": conflict,
                    }));
                }
                Outcome::Refused(error) => {
                    let line = json!({ "t": t, "op": op, "phase": "refused", "attempt": attempt, "error": error });
                    self.lines.write(&line);
                    // Nothing was recorded, says the store: then nobody need ask again.
                    if !unsure && self.dice.roll(3) == 0 {
                        return self.lines.write(&json!({ "t": t, "op": op, "phase": "given up" }));
                    }
                }
                Outcome::Unknown(error) => {
                    unsure = true;
                    let line = json!({ "t": t, "op": op, "phase": "unknown", "attempt": attempt, "error": error });
                    self.lines.write(&line);
                    // Some never ask again.
                    if operation.kind == "dropped" && self.dice.roll(2) == 0 {
                        return self.lines.write(&json!({ "t": t, "op": op, "phase": "given up" }));
                    }
                }
            }
            sleep(Duration::from_millis(5 + self.dice.roll(100))).await;
        }
    }

    async fn ask(&mut self, operation: &Operation, attempt: u64) -> Outcome {
        match &*operation.kind {
            "command" | "reserve" | "sponsor" | "ticket" => match operation.within {
                Some(true) => self.within(operation).await.unwrap_or_else(Outcome::from),
                _ => self.decide(&self.store, operation).await,
            },
            "drawn" => self.drawn(operation, attempt).await.unwrap_or_else(Outcome::from),
            "close" => {
                let course = operation.course.clone().unwrap_or_default();
                let stream = StreamId::new("course", &course);
                let closed = self.store.append(stream, Expected::Any, [NewerCourseEvent::Closed { course }]);
                with!(closed, operation).await.map_or_else(Outcome::from, Outcome::from)
            }
            "transaction" => self.transaction(operation, attempt).await.map_or_else(|outcome| outcome, Outcome::from),
            "dropped" if attempt == 1 => {
                let asked = Box::pin(append(&self.store, operation));
                let done = match (operation.polls, operation.micros) {
                    (Some(polls), _) => polled(asked, polls).await,
                    (None, micros) => timeout(Duration::from_micros(micros.unwrap_or(0)), asked).await.ok(),
                };
                match done {
                    Some(done) => done.map_or_else(Outcome::from, Outcome::from),
                    None => Outcome::Unknown("dropped".into()),
                }
            }
            _ => append(&self.store, operation).await.map_or_else(Outcome::from, Outcome::from),
        }
    }

    /// A decision, in a store or in a transaction.
    async fn decide(&self, store: &Store, operation: &Operation) -> Outcome {
        let course = || Id::<Course>::from(operation.course.clone().unwrap_or_default());
        match &*operation.kind {
            "reserve" => {
                let student = Id::<Student>::from(operation.student.clone().unwrap_or_default());
                answered(with!(store.execute((course(), student), Reserve), operation).await, |_| Json::Null)
            }
            "sponsor" => {
                let account = Id::<Account>::from(operation.streams[0].stream.trim_start_matches("account-"));
                answered(with!(store.execute((account, course()), Sponsor), operation).await, |_| Json::Null)
            }
            "ticket" => answered(with!(store.execute(every::<Tickets>(), Issue), operation).await, |_| Json::Null),
            _ => self.command(store, operation).await,
        }
    }

    async fn command(&self, store: &Store, operation: &Operation) -> Outcome {
        let part = &operation.streams[0];
        let account = Id::<Account>::from(part.stream.trim_start_matches("account-"));
        let amount = part.events[0].data["amount"].as_i64().unwrap_or(0);
        let state = |account: &Account| json!({ "balance": account.balance, "events": account.events });
        match operation.command.as_deref() {
            Some("withdraw") => {
                let command = store.execute(&account, Withdraw { amount }).retries(20);
                answered(with!(command, operation).await, state)
            }
            _ => {
                let command = store.execute(&account, Deposit { amount }).retries(20);
                answered(with!(command, operation).await, state)
            }
        }
    }

    /// A decision in a transaction, which is the answer's only once it is committed.
    async fn within(&self, operation: &Operation) -> Result<Outcome, StoreError> {
        let tx = self.store.begin().await?;
        let decided = self.decide(&tx, operation).await;
        match decided {
            Outcome::Stored { .. } => {
                tx.commit().await?;
                Ok(decided)
            }
            // What was said in a transaction that is then rolled back has recorded nothing, whatever it was.
            Outcome::Unknown(error) => {
                tx.rollback().await?;
                Ok(Outcome::Refused(error))
            }
            decided => Ok(decided),
        }
    }

    /// A row of one's own and events: both, or neither.
    async fn transaction(&self, operation: &Operation, attempt: u64) -> Result<Written, Outcome> {
        let tx = self.store.begin().await?;
        let row_first = operation.row_first.unwrap_or(true);
        let aside = operation.aside.filter(|aside| *aside != Aside::Failure || attempt == 1);
        let nested = aside == Some(Aside::NestedCommit);
        let refused = |error: StoreError| match aside {
            // It is refused for what failed before, as it must be; nothing was asked of a commit.
            Some(Aside::Failure) => Outcome::Refused(said(&error)),
            _ => error.into(),
        };
        if row_first {
            self.business(&tx, operation, nested).await?;
            self.aside(&tx, operation, aside).await?;
        }
        let written = append(&tx, operation).await.map_err(refused)?;
        if !row_first {
            self.business(&tx, operation, nested).await?;
            self.aside(&tx, operation, aside).await?;
        }
        tx.commit().await.map_err(refused)?;
        Ok(written)
    }

    /// Takes all there is from an account, by what was loaded in the same transaction.
    async fn drawn(&self, operation: &Operation, attempt: u64) -> Result<Outcome, StoreError> {
        // What was decided before may be recorded by now, and would be decided otherwise.
        if attempt > 1
            && let Some(stored) = self.recorded(operation).await?
        {
            return Ok(stored);
        }
        let tx = self.store.begin().await?;
        let account = Id::<PlainAccount>::from(operation.streams[0].stream.trim_start_matches("account-"));
        let amount = tx.load(&account).await?.balance;
        if amount <= 0 {
            tx.rollback().await?;
            // A commit that came late may be what has left nothing.
            let stored = self.recorded(operation).await?;
            let none = || Outcome::Rejected { error: "nothing left".into(), why: "rule", conflict: Json::Null };
            return Ok(stored.unwrap_or_else(none));
        }
        let append = tx.append(account.stream(), Expected::Any, [AccountEvent::Withdrawn { amount }]);
        let written = match with!(append, operation).await {
            Err(error @ StoreError::Duplicate { .. }) => return Ok(Outcome::Unknown(said(&error))),
            written => written?,
        };
        tx.commit().await?;
        Ok(written.into())
    }

    /// The answer, if the one event of an operation is in the log.
    async fn recorded(&self, operation: &Operation) -> Result<Option<Outcome>, StoreError> {
        let event = self.store.event(operation.streams[0].events[0].id).await?;
        Ok(event.map(|event| {
            let streams = [(event.stream.as_str().to_owned(), event.version.0)].into();
            let (first, last) = (event.position.0, event.position.0);
            Outcome::Stored { first, last, streams, repeated: Some(true), state: Json::Null }
        }))
    }

    /// What nothing must be left of: a row and events that are not those of the operation.
    async fn aside(&self, tx: &Tx, operation: &Operation, aside: Option<Aside>) -> Result<(), Outcome> {
        let Some(aside) = aside else { return Ok(()) };
        let insert = format!("INSERT INTO {} VALUES ('{}', -1)", self.world.table("business"), Uuid::now_v7());
        let statement = |sql: &str| sqlx::raw_sql(AssertSqlSafe(sql.to_owned()));
        macro_rules! on {
            ($Connection:ty) => {
                match aside {
                    Aside::NestedRollback => {
                        let mut connection = tx.connection::<$Connection>().await?;
                        let mut nested = connection.begin().await.map_err(own)?;
                        statement(&insert).execute(&mut *nested).await.map_err(own)?;
                        nested.rollback().await.map_err(own)?;
                    }
                    Aside::Savepoint => {
                        let savepoint = statement("SAVEPOINT aside");
                        savepoint.execute(&mut *tx.connection::<$Connection>().await?).await.map_err(own)?;
                        let stream: StreamId = operation.streams[0].stream.parse().expect("of our own");
                        tx.append(stream, Expected::Any, [AccountEvent::Deposited { amount: 1 }]).await?;
                        let mut connection = tx.connection::<$Connection>().await?;
                        statement(&insert).execute(&mut *connection).await.map_err(own)?;
                        statement("ROLLBACK TO aside").execute(&mut *connection).await.map_err(own)?;
                    }
                    Aside::Failure => {
                        let mut connection = tx.connection::<$Connection>().await?;
                        let _ = statement("SELECT of_what_is_not_there").execute(&mut *connection).await;
                    }
                    Aside::NestedCommit => {}
                }
            };
        }
        match self.world.store {
            Log::Postgres => on!(PgConnection),
            Log::Sqlite => on!(SqliteConnection),
        }
        Ok(())
    }

    /// The row of an operation, once; in a transaction of its own within the other, if it is `nested`.
    async fn business(&self, tx: &Tx, operation: &Operation, nested: bool) -> Result<(), Outcome> {
        let insert = match self.world.store {
            Log::Postgres => "VALUES ($1::uuid, $2)",
            Log::Sqlite => "VALUES ($1, $2)",
        };
        let insert = format!("INSERT INTO {} {insert} ON CONFLICT (op) DO NOTHING", self.world.table("business"));
        let (op, amount) = (operation.op.to_string(), operation.amount);
        macro_rules! on {
            ($Connection:ty) => {{
                let insert = sqlx::query(AssertSqlSafe(insert)).bind(op).bind(amount);
                let mut connection = tx.connection::<$Connection>().await?;
                if nested {
                    let mut inner = connection.begin().await.map_err(own)?;
                    insert.execute(&mut *inner).await.map_err(own)?;
                    inner.commit().await.map_err(own)?;
                } else {
                    insert.execute(&mut *connection).await.map_err(own)?;
                }
            }};
        }
        match self.world.store {
            Log::Postgres => on!(PgConnection),
            Log::Sqlite => on!(SqliteConnection),
        }
        Ok(())
    }

    /// What to do next; nothing, if what has to be known first cannot be read.
    async fn plan(&mut self) -> Option<Operation> {
        let mut operation = self.plan_one().await?;
        if self.dice.roll(2) == 0 {
            operation.said = Some(With {
                actor: format!(
                    "user {} \"{}\"",
                    self.dice.roll(9),
                    ["ü", "\u{1f600}", "\\"][self.dice.roll(3) as usize]
                ),
                correlation: Uuid::from_u128(u128::from(self.dice.roll(1 << 40)) << 64 | 1 << 63 | u128::from(now())),
                occurred_at: now() - self.dice.roll(10_000_000_000),
                note: format!("note {}", self.dice.roll(1_000)),
            });
        }
        Some(operation)
    }

    fn order(&mut self) -> Order {
        let mut purse = || format!("p{}", self.dice.roll(PURSES));
        let (from, to) = (purse(), purse());
        let way = [Way::Free, Way::Steps, Way::Waits][self.dice.roll(3) as usize];
        Order { way, from, to, amount: 1 + self.dice.roll(400) as i64 }
    }

    async fn plan_one(&mut self) -> Option<Operation> {
        let op = Uuid::now_v7();
        let account = self.account();
        let within = (self.dice.roll(4) == 0).then_some(true);
        Some(match self.dice.roll(128) {
            116.. => {
                let mut request = Operation::new("any", op);
                request.request(&self.order());
                request
            }
            0..21 => {
                let mut any = Operation::new("any", op);
                any.part(&account, json!("any"), self.deposits(9));
                any
            }
            21..38 => {
                let loaded = self.store.load(Id::<Account>::from(&*account)).await.ok()?;
                let mut exact = Operation::new("exact", op);
                let events = match self.dice.roll(6) {
                    0 if loaded.open && loaded.balance > 0 => {
                        vec![AccountEvent::Withdrawn { amount: loaded.balance }, AccountEvent::Closed]
                    }
                    1 | 2 if !loaded.open => {
                        let mut events = vec![self.opened()];
                        events.append(&mut self.deposits(3));
                        events
                    }
                    _ => self.deposits(8),
                };
                exact.part(&account, json!(loaded.version.0), events);
                exact
            }
            38..46 => {
                // All that come by at about the same time want to begin it.
                let account = format!("n{}", now() / 400_000 * 3 + self.dice.roll(3));
                let mut none = Operation::new("none", op);
                let mut events = vec![self.opened()];
                events.append(&mut self.deposits(2));
                none.part(&account, json!("none"), events);
                none
            }
            46..56 => {
                let other = self.account();
                let mut multi = Operation::new("multi", op);
                if account == other {
                    multi.part(&account, json!("any"), self.deposits(2));
                } else if self.dice.roll(2) == 0 {
                    let from = self.store.load(Id::<Account>::from(&*account)).await.ok()?;
                    let to = self.store.load(Id::<PlainAccount>::from(&*other)).await.ok()?;
                    let amount = 1 + self.dice.roll(from.balance.clamp(0, 500) as u64) as i64;
                    let (amount, back) = if from.balance >= amount { (amount, false) } else { (amount, true) };
                    let (withdrawn, deposited) =
                        (AccountEvent::Withdrawn { amount }, AccountEvent::Deposited { amount });
                    let first = if back { deposited.clone() } else { withdrawn };
                    multi.part(&account, json!(from.version.0), [first]);
                    multi.part(&other, json!(to.version.0), [deposited]);
                } else {
                    multi.part(&account, json!("any"), self.deposits(3));
                    multi.part(&other, json!("any"), self.deposits(3));
                    multi.part(&format!("m{}", op.simple()), json!("none"), [self.opened()]);
                }
                multi
            }
            56..68 => {
                let number = self.dice.roll(4);
                let course = (now() / 4_000_000 * 4 + number).to_string();
                if number == 3 && self.dice.roll(12) == 0 {
                    let mut close = Operation::new("close", op);
                    close.streams.push(Part {
                        stream: format!("course-{course}"),
                        expected: json!("any"),
                        events: vec![Planned {
                            id: event_id(op, 0),
                            name: "course.closed".into(),
                            data: json!({ "course": course }),
                        }],
                    });
                    close.course = Some(course);
                    return Some(close);
                }
                let student = self.dice.roll(40).to_string();
                let mut reserve = Operation::new("reserve", op);
                reserve.streams.push(Part {
                    stream: format!("course-{course}"),
                    expected: Json::Null,
                    events: vec![Planned {
                        id: event_id(op, 0),
                        name: "course.reserved".into(),
                        data: json!({ "course": course, "student": student }),
                    }],
                });
                (reserve.course, reserve.student, reserve.within) = (Some(course), Some(student), within);
                reserve
            }
            68..80 => {
                let amount = 1 + self.dice.roll(400) as i64;
                let (command, event) = match self.dice.roll(3) {
                    0 => ("deposit", AccountEvent::Deposited { amount }),
                    _ => ("withdraw", AccountEvent::Withdrawn { amount }),
                };
                let mut decided = Operation::new("command", op);
                decided.part(&account, Json::Null, [event]);
                (decided.command, decided.within) = (Some(command.into()), within);
                decided
            }
            80..92 => {
                let mut transaction = Operation::new("transaction", op);
                transaction.part(&account, json!("any"), self.deposits(6));
                transaction.amount = Some(self.dice.roll(1_000) as i64);
                transaction.row_first = Some(self.dice.roll(2) == 0);
                transaction.aside = match self.dice.roll(8) {
                    0 => Some(Aside::NestedRollback),
                    1 => Some(Aside::NestedCommit),
                    2 => Some(Aside::Savepoint),
                    3 => Some(Aside::Failure),
                    _ => None,
                };
                transaction
            }
            100..105 => {
                let course = (now() / 4_000_000 * 4 + self.dice.roll(2)).to_string();
                let mut sponsor = Operation::new("sponsor", op);
                sponsor.decided(&format!("account-{account}"), "account.withdrawn");
                (sponsor.course, sponsor.within) = (Some(course), within);
                sponsor
            }
            105..110 => {
                let mut drawn = Operation::new("drawn", op);
                drawn.decided(&format!("account-{account}"), "account.withdrawn");
                drawn
            }
            110.. => {
                let mut ticket = Operation::new("ticket", op);
                ticket.decided("ticket-$every", "ticket.issued");
                ticket.within = within;
                ticket
            }
            _ => {
                let mut dropped = Operation::new("dropped", op);
                dropped.part(&account, json!("any"), self.deposits(6));
                if self.dice.roll(3) == 0 {
                    dropped.polls = Some(1 + self.dice.roll(3));
                } else {
                    dropped.micros = Some(self.dice.roll(12_000));
                }
                dropped
            }
        })
    }

    fn account(&mut self) -> String {
        self.dice.roll(ACCOUNTS).to_string()
    }

    fn opened(&mut self) -> AccountEvent {
        const OWNERS: [&str; 5] = ["Ann", "Bärbel \"B\" O'Neill", "Çem\\n", "Дарья\u{0301}", "\u{1f600} \u{7f}\t|"];
        AccountEvent::Opened { owner: OWNERS[self.dice.roll(OWNERS.len() as u64) as usize].into() }
    }

    /// 1 to `most`; now and then one that is poison.
    fn deposits(&mut self, most: u64) -> Vec<AccountEvent> {
        let events = 1 + self.dice.roll(most);
        let mut deposit = |_| {
            let amount = 1 + self.dice.roll(1_000) as i64;
            if self.dice.roll(400) == 0 {
                AccountEvent::Poisoned { amount }
            } else {
                AccountEvent::Deposited { amount }
            }
        };
        (0..events).map(&mut deposit).collect()
    }

    /// Reads states, as they are and as they were.
    pub async fn read(mut self) {
        while !self.over() {
            let _ = self.read_one().await;
            sleep(Duration::from_millis(10 + self.dice.roll(30))).await;
        }
    }

    /// Waits until what its process runs has seen what this has seen, and reads rows then.
    pub async fn until(mut self, running: Arc<Running>) {
        while !self.over() {
            let _ = self.until_one(&running).await;
            sleep(Duration::from_millis(50 + self.dice.roll(100))).await;
        }
    }

    async fn until_one(&mut self, running: &Running) -> Result<(), StoreError> {
        let (key, began) = (self.account(), now());
        let account = Id::<Account>::from(&*key);
        let head = self.store.head().await?;
        timeout(PATIENCE, running.until(head)).await.map_err(|_| StoreError::Busy("until".into()))??;
        let model = self.store.read_model::<Balance>();
        let (row, t) = (model.get(&account).await?, now());
        // Of a key that is parked, the row is older.
        model.get(&account).after(head).within(PATIENCE).await?;
        self.lines.write(&json!({
            "t": t, "op": Uuid::now_v7(), "phase": "read", "kind": "until", "stream": format!("account-{key}"),
            "after": head.0, "began": began, "state": row,
        }));
        Ok(())
    }

    async fn read_one(&mut self) -> Result<(), StoreError> {
        let (key, began) = (self.account(), now());
        let (account, plain) = (Id::<Account>::from(&*key), Id::<PlainAccount>::from(&*key));
        let (mut at, mut at_version, mut after) = (None, None, None);
        let (kind, earlier) = (self.dice.roll(11), Position(1 + self.dice.roll(self.head.0)));
        let (seen, model) = (self.head, self.store.read_model::<Balance>());
        let (kind, loaded) = match kind {
            0 | 1 => ("snapshot", whole(self.store.load(&account).await?, |state| serde_json::to_value(state))),
            2 => ("load", whole(self.store.load(&plain).await?, |state| serde_json::to_value(state))),
            3 => {
                at = Some(earlier.0);
                let loaded = self.store.load(&account).at_position(earlier).await?;
                ("load_at", whole(loaded, |state| serde_json::to_value(state)))
            }
            4 => {
                let version = Version(earlier.0 % 200);
                at_version = Some(version.0);
                let loaded = self.store.load(&account).at(version).await?;
                ("load_version", whole(loaded, |state| serde_json::to_value(state)))
            }
            5 => {
                at = Some(earlier.0);
                let row = self.store.read_model::<Balance>().get(&account).at_position(earlier);
                // It panics where there is poison.
                let Ok(row) = tokio::spawn(row.into_future()).await else { return Ok(()) };
                let row = row?;
                ("row_at", (json!(row), None, earlier))
            }
            6 => {
                after = Some(seen.0);
                let row = model.get(&account).after(seen).within(PATIENCE).await?;
                ("row", (json!(row), None, seen))
            }
            7 => ("row_now", (json!(model.get(&account).await?), None, seen)),
            8 if self.dice.roll(2) == 0 => {
                let events = 2 + self.dice.roll(40);
                let mut list = model.list().filter("events", events);
                if self.dice.roll(2) == 0 {
                    after = Some(seen.0);
                    list = list.after(seen).within(PATIENCE);
                }
                at_version = Some(events);
                ("list", (json!(list.await?), None, seen))
            }
            9 => {
                let ago = 50_000 + self.dice.roll(3_000_000);
                let instant = SystemTime::now() - Duration::from_micros(ago);
                let since = instant.duration_since(UNIX_EPOCH).expect("after 1970").as_micros();
                let micros = u64::try_from(since).expect("before the year 586524");
                at = Some(micros);
                let loaded = self.store.load(&plain).as_of(UNIX_EPOCH + Duration::from_micros(micros)).await?;
                if !loaded.settled {
                    return Ok(());
                }
                ("load_as_of", whole(loaded, |state| serde_json::to_value(state)))
            }
            _ => {
                let head = self.store.head().await?;
                ("head", (Json::Null, None, head))
            }
        };
        let (state, version, position) = loaded;
        self.head = self.head.max(position);
        self.lines.write(&json!({
            "t": now(), "op": Uuid::now_v7(), "phase": "read", "kind": kind, "stream": format!("account-{key}"),
            "at": at, "at_version": at_version, "after": after, "began": began, "state": state, "version": version, "position": position.0,
        }));
        Ok(())
    }
}

type Seen = (Json, Option<u64>, Position);

fn whole<S>(loaded: eventstore::Loaded<S>, state: impl Fn(&S) -> serde_json::Result<Json>) -> Seen {
    (state(&loaded.state).expect("JSON of our own"), Some(loaded.version.0), loaded.position)
}

impl Operation {
    fn new(kind: &str, op: Uuid) -> Self {
        Self {
            op,
            kind: kind.into(),
            streams: vec![],
            polls: None,
            micros: None,
            command: None,
            course: None,
            student: None,
            amount: None,
            row_first: None,
            aside: None,
            within: None,
            said: None,
        }
    }

    /// One event, whose data are for the rule to say.
    fn decided(&mut self, stream: &str, name: &str) {
        let event = Planned { id: event_id(self.op, 0), name: name.into(), data: json!("decided") };
        self.streams.push(Part { stream: stream.into(), expected: Json::Null, events: vec![event] });
    }

    /// A transfer is requested.
    fn request(&mut self, order: &Order) {
        let (name, data) = TransferEvent::planned(order);
        let event = Planned { id: event_id(self.op, 0), name: name.into(), data };
        let stream = format!("transfer-{}", self.op.simple());
        self.streams.push(Part { stream, expected: json!("any"), events: vec![event] });
    }

    fn part(&mut self, account: &str, expected: Json, events: impl IntoIterator<Item = AccountEvent>) {
        let before: usize = self.streams.iter().map(|part| part.events.len()).sum();
        let planned = events.into_iter().enumerate().map(|(n, event)| {
            let (name, data) = event.planned();
            let number = u32::try_from(before + n).expect("a few events");
            Planned { id: event_id(self.op, number), name: name.into(), data }
        });
        let part = Part { stream: format!("account-{account}"), expected, events: planned.collect() };
        self.streams.push(part);
    }
}

/// Appends what is planned.
async fn append(store: &Store, operation: &Operation) -> Result<Written, StoreError> {
    let first = &operation.streams[0];
    if let Some(requested) = TransferEvent::from_planned(&first.events[0].name, &first.events[0].data) {
        let stream: StreamId = first.stream.parse().expect("of our own");
        return with!(store.append(stream, Expected::Any, [requested]), operation).await;
    }
    let mut parts = operation.streams.iter().map(|part| {
        let expected = match &part.expected {
            Json::Number(version) => Expected::Version(Version(version.as_u64().unwrap_or(0))),
            Json::String(word) if word == "none" => Expected::Version(Version(0)),
            Json::String(word) if word == "exists" => Expected::Exists,
            _ => Expected::Any,
        };
        let event = |planned: &Planned| AccountEvent::from_planned(&planned.name, &planned.data).expect("of our own");
        let stream: StreamId = part.stream.parse().expect("of our own");
        (stream, expected, part.events.iter().map(event).collect::<Vec<_>>())
    });
    let (stream, expected, events) = parts.next().expect("at least one");
    let append = store.append(stream, expected, events);
    let append = parts.fold(append, |append, (stream, expected, events)| append.and(stream, expected, events));
    with!(append, operation).await
}

/// Polls so many times, and then drops it.
async fn polled<T>(mut future: Pin<Box<impl Future<Output = T>>>, polls: u64) -> Option<T> {
    let mut left = polls;
    poll_fn(|context| {
        left -= 1;
        match future.as_mut().poll(context) {
            Poll::Ready(done) => Poll::Ready(Some(done)),
            Poll::Pending if left == 0 => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}
