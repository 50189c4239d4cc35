//! Every order in which two writers and a reader can take their steps; and many, by dice, of more of them.
//!
//! Whoever takes part has a store of its own, with one connection, and takes a step only when it is let. The next one is
//! let go when that step is over, or when the server says that it waits for a lock (`pg_locks`): so an order is what was
//! chosen and nothing else, and choosing the same again runs it again. [`Choices`] goes through all there are; dice take
//! some. In the second kind, the functions of the migrations also have gates, before and behind their lock, at which a
//! call is stopped in the middle.
//!
//!     EVENTSTORE_INTERLEAVINGS=10000 EVENTSTORE_INTERLEAVE_SEED=7 scripts/test orders_of_three_writers
//!     EVENTSTORE_INTERLEAVE_PAGES=2 scripts/test every_order_of_two_writers
//!
//! The tests `…_finds_the_naive_version…` put something simpler in the place of what the store does, and see it found.
//!
//! Here are the stage, and the writers and the reader; decisions, nodes and dice have files of their own.

mod decisions;
mod dice;
mod nodes;

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, HashSet},
    future::poll_fn,
    pin::pin,
    rc::Rc,
    task::Poll,
    time::{Duration, Instant},
};

use eventstore::{
    Append, EventStore, Expected, NewEvent, PgStore, Position, Query, Read, StreamId, Timestamp, Write,
    doctor::Policy,
    sqlx,
    sqlx::{AssertSqlSafe, PgConnection},
};
use futures::{FutureExt, TryStreamExt, future::LocalBoxFuture};
use tokio::time::sleep;
use uuid::Uuid;

use crate::{cases::raw, server};

/// What went wrong.
type Wrong = String;

fn wrong(error: impl std::fmt::Display) -> Wrong {
    error.to_string()
}

// Whoever takes part.

/// The leave to take a step.
#[derive(Clone, Default)]
struct Turn(Rc<Cell<Option<Step>>>);

/// What one would do next, and whether it may have to wait for a lock.
#[derive(Clone, Copy)]
struct Step(&'static str, bool);

impl Turn {
    /// Waits for it.
    async fn step(&self, name: &'static str) {
        self.wait(Step(name, false)).await;
    }

    /// The same, for a step that takes a lock.
    async fn locking(&self, name: &'static str) {
        self.wait(Step(name, true)).await;
    }

    async fn wait(&self, step: Step) {
        self.0.set(Some(step));
        // Nobody is woken: whoever gives it has all polled.
        poll_fn(|_| if self.0.get().is_none() { Poll::Ready(()) } else { Poll::Pending }).await;
    }
}

struct Actor {
    name: String,
    turn: Turn,
    /// None once it is done.
    task: Option<LocalBoxFuture<'static, Result<(), Wrong>>>,
    /// The gate it stands at.
    gate: Option<i32>,
    /// Whether it only reads.
    reads: bool,
}

impl Actor {
    fn new(name: &str, turn: &Turn, task: impl Future<Output = Result<(), Wrong>> + 'static) -> Self {
        Self { name: name.into(), turn: turn.clone(), task: Some(task.boxed_local()), gate: None, reads: false }
    }

    fn reader(self) -> Self {
        Self { reads: true, ..self }
    }

    fn is_ready(&self) -> bool {
        self.task.is_some() && (self.gate.is_some() || self.turn.0.get().is_some())
    }

    fn is_under_way(&self) -> bool {
        self.task.is_some() && !self.is_ready()
    }
}

// What they say they have done.

#[derive(Default)]
struct Said {
    /// The steps, in their order.
    steps: Vec<String>,
    /// Acknowledged appends: when each was asked for, when it was acknowledged, and its events.
    stored: Vec<(usize, usize, Vec<Uuid>)>,
    /// The version an event was to have.
    expected: Vec<(Uuid, u64)>,
    /// What was rolled back or refused.
    gone: HashSet<Uuid>,
    /// How many transactions have appended and are not over.
    open: usize,
    /// Instants that were asked for when they were over, and the positions that were answered.
    instants: Vec<(Timestamp, Position)>,
    readers: BTreeMap<usize, Reader>,
}

/// What a reader had seen when it saved its checkpoint.
#[derive(Clone)]
struct Reader {
    reads: Reads,
    seen: Vec<(u64, Uuid)>,
    checkpoint: Position,
}

/// How a reader goes on.
#[derive(Clone, Copy, PartialEq)]
enum Reads {
    /// After its checkpoint.
    After,
    /// And no further than the first position that is not there: it may still come.
    UpToAHole,
}

impl Reader {
    /// A page after its checkpoint, or all there is; and the checkpoint behind it.
    async fn page(&self, store: &PgStore, limit: Option<usize>) -> Result<(Vec<(u64, Uuid)>, Position), Wrong> {
        let read = Read { query: Query::all(), after: self.checkpoint, limit, ..Read::default() };
        let read = store.read(read).await.map_err(wrong)?;
        let head = read.head;
        let page: Vec<_> = read.events.try_collect().await.map_err(wrong)?;
        let mut page: Vec<_> = page.into_iter().map(|event| (event.position.0, event.id)).collect();
        let full = limit.is_some_and(|limit| page.len() == limit);
        let mut end = page.last().filter(|_| full).map_or(head, |(last, _)| Position(*last));
        if self.reads == Reads::UpToAHole {
            let whole =
                page.iter().zip(self.checkpoint.0 + 1..).take_while(|((there, _), place)| there == place).count();
            page.truncate(whole);
            end = Position(self.checkpoint.0 + whole as u64);
        }
        Ok((page, end))
    }
}

type Log = Rc<RefCell<Said>>;

fn now(log: &Log) -> usize {
    log.borrow().steps.len()
}

// The order.

/// All orders, one after the other: which of those who could go on did, and how many could.
#[derive(Default)]
struct Choices {
    made: Vec<(usize, usize)>,
    next: usize,
}

impl Choices {
    fn choose(&mut self, of: usize) -> usize {
        if self.next == self.made.len() {
            self.made.push((0, of));
        }
        let (chosen, before) = self.made[self.next];
        assert_eq!(of, before, "the same choices do not lead to the same place");
        self.next += 1;
        chosen
    }

    /// Whether there is another order: the next time, it is chosen.
    fn another(&mut self) -> bool {
        self.next = 0;
        while let Some((chosen, of)) = self.made.pop() {
            if chosen + 1 < of {
                self.made.push((chosen + 1, of));
                return true;
            }
        }
        false
    }
}

const MIGRATION: &str = include_str!("../../eventstore-postgres/migrations/003_trust.sql");
const LOCK: &str = "PERFORM {schema}.lock_appends();";
const GATES: &str = "PERFORM {schema}.gate(1);
    PERFORM {schema}.lock_appends();
    PERFORM {schema}.gate(2);";

/// The gates: 10 times the number of the actor, and which.
const BEFORE: i32 = 1;
const BEHIND: i32 = 2;

/// A function of the migrations, with something else in some places.
fn function(name: &str, changes: &[(&str, &str)]) -> String {
    let start = MIGRATION.find(&format!("CREATE OR REPLACE FUNCTION {{schema}}.{name}(")).expect("a function");
    let length = MIGRATION[start..].find("END $$;").expect("its end") + "END $$;".len();
    changes.iter().fold(MIGRATION[start..][..length].to_owned(), |text, (there, instead)| {
        assert!(text.contains(there), "`{name}` has no `{there}`");
        text.replace(there, instead)
    })
}

/// A log, and those who can take part.
struct Scene {
    schema: String,
    stores: Vec<PgStore>,
    pids: Vec<i32>,
    /// Looks who waits, and opens gates.
    keeper: PgConnection,
    /// A number that is to be the same as another one, at every moment.
    always: Option<String>,
    /// How many plays there were.
    plays: usize,
}

impl Scene {
    async fn new(actors: usize) -> Self {
        let schema = server::schema();
        let (mut stores, mut pids, mut keeper) = (vec![], vec![], server::connection().await);
        for actor in 0..actors {
            let name = format!("interleave_{actor}_{schema}");
            // Longer than the ten seconds of the store: a machine may be busy.
            let url = server::url_with(&format!("application_name={name}&options[lock_timeout]=60s"));
            let store = PgStore::options().schema(&schema).max_connections(1).doctor(Policy::Ignore);
            let store = store.connect(&url).await.unwrap();
            let pid = "SELECT pid FROM pg_stat_activity WHERE application_name = $1";
            pids.push(sqlx::query_scalar(pid).bind(&name).fetch_one(&mut keeper).await.unwrap());
            // From now on it knows the types of events.
            for category in ["play", "dice", "claims"] {
                store.append(append(&StreamId::new(category, &name), Expected::Any, 1)).await.unwrap();
            }
            stores.push(store);
        }
        Self { schema, stores, pids, keeper, always: None, plays: 0 }
    }

    async fn sql(&mut self, text: &str) {
        let text = text.replace("{schema}", &self.schema);
        sqlx::raw_sql(AssertSqlSafe(text)).execute(&mut self.keeper).await.unwrap();
    }

    /// Puts gates before and behind the lock of the functions, and closes them.
    async fn with_gates(mut self) -> Self {
        self.sql(
            "CREATE FUNCTION {schema}.gate(n int) RETURNS void LANGUAGE plpgsql AS $$
             DECLARE
                 gates int := '{schema}'::regnamespace::oid::int4; gate int;
             BEGIN
                 IF current_setting('application_name') LIKE 'interleave_%' THEN
                     gate := 10 * split_part(current_setting('application_name'), '_', 2)::int + n;
                     PERFORM pg_advisory_lock_shared(gates, gate);
                     PERFORM pg_advisory_unlock_shared(gates, gate);
                 END IF;
             END $$",
        )
        .await;
        for name in ["append", "append_one", "append_batch"] {
            self.sql(&function(name, &[(LOCK, GATES)])).await;
        }
        for gate in (0..self.stores.len() as i32).flat_map(|actor| [10 * actor + BEFORE, 10 * actor + BEHIND]) {
            self.sql(&format!("SELECT pg_advisory_lock('{{schema}}'::regnamespace::oid::int4, {gate})")).await;
        }
        self
    }

    /// Lets who stands at a gate through, and closes it behind it.
    async fn open(&mut self, gate: i32) {
        let open = "SELECT pg_advisory_unlock($1::regnamespace::oid::int4, $2),
                           pg_advisory_lock($1::regnamespace::oid::int4, $2)";
        sqlx::query(open).bind(&self.schema).bind(gate).execute(&mut self.keeper).await.unwrap();
    }

    /// Lets them take their steps in the order that is chosen, until all are done.
    async fn run(
        &mut self,
        actors: &mut [Actor],
        log: &Log,
        mut choose: impl FnMut(usize) -> usize,
    ) -> Result<(), Wrong> {
        self.settle(actors, false).await?;
        loop {
            let ready: Vec<usize> = (0..actors.len()).filter(|actor| actors[*actor].is_ready()).collect();
            if ready.is_empty() {
                let waiting = actors.iter().find(|actor| actor.task.is_some());
                return waiting.map_or(Ok(()), |actor| Err(format!("{} waits for ever", actor.name)));
            }
            let actor = &mut actors[ready[choose(ready.len())]];
            let gate = actor.gate.take();
            let Step(step, locks) =
                if gate.is_some() { Step("goes on", true) } else { actor.turn.0.take().expect("ready") };
            log.borrow_mut().steps.push(format!("{} {step}", actor.name));
            if let Some(gate) = gate {
                self.open(gate).await;
            }
            self.settle(actors, locks).await?;
            for actor in actors.iter().filter(|actor| actor.is_under_way()) {
                log.borrow_mut().steps.last_mut().expect("a step").push_str(&format!(" ({} waits)", actor.name));
                if actor.reads {
                    return Err(format!("{} waits for a lock", actor.name));
                }
                // S2: not for somebody who has rolled back.
                let held = actors.iter().any(|other| other.gate.is_some_and(|gate| gate % 10 == BEHIND));
                if log.borrow().open == 0 && !held && self.always.is_none() {
                    return Err(format!("{} waits for nobody", actor.name));
                }
            }
            if let Some(always) = &self.always {
                let query = sqlx::query_as(AssertSqlSafe(always.clone()));
                let (row, checkpoint): (i64, i64) = query.fetch_one(&mut self.keeper).await.map_err(wrong)?;
                if row != checkpoint {
                    return Err(format!("a row has {row} events, its checkpoint is {checkpoint}"));
                }
            }
        }
    }

    /// Polls those under way, until each has come to its next step or waits for a lock.
    async fn settle(&mut self, actors: &mut [Actor], at_once: bool) -> Result<(), Wrong> {
        let start = Instant::now();
        let mut at_once = at_once || actors.iter().any(Actor::is_under_way);
        while actors.iter().any(Actor::is_under_way) {
            let asked = Cell::new(false);
            let (mut moved, mut failed) = (false, Ok(()));
            let waiting = "SELECT pid, CASE WHEN classid = $2::regnamespace::oid THEN objid::int4 END FROM pg_locks
                            WHERE NOT granted AND pid = ANY ($1)
                              AND locktype IN ('advisory', 'transactionid', 'tuple', 'relation')";
            let waiting = sqlx::query_as::<_, (i32, Option<i32>)>(waiting).bind(&self.pids).bind(&self.schema);
            let wait = !at_once;
            let waiting = async {
                if wait {
                    sleep(Duration::from_millis(1)).await;
                }
                asked.set(true);
                waiting.fetch_all(&mut self.keeper).await.unwrap()
            };
            let mut waiting = pin!(waiting);
            let found = poll_fn(|context| {
                let mut under_way = false;
                for actor in &mut *actors {
                    if !actor.is_under_way() {
                        continue;
                    }
                    if let Some(Poll::Ready(done)) = actor.task.as_mut().map(|task| task.as_mut().poll(context)) {
                        actor.task = None;
                        failed = failed.clone().and(done.map_err(|why| format!("{}: {why}", actor.name)));
                    }
                    moved |= !actor.is_under_way();
                    under_way |= actor.is_under_way();
                }
                // A question that was asked is heard to its end: its connection is wanted again.
                if !under_way && !asked.get() {
                    return Poll::Ready(vec![]);
                }
                waiting.as_mut().poll(context)
            });
            let found = found.await;
            failed?;
            at_once = true;
            let place = |actor: usize| found.iter().find(|(pid, _)| *pid == self.pids[actor]);
            // What was found before somebody went on may not be so any more.
            if !moved && (0..actors.len()).all(|actor| !actors[actor].is_under_way() || place(actor).is_some()) {
                for (n, actor) in actors.iter_mut().enumerate().filter(|(_, actor)| actor.is_under_way()) {
                    actor.gate = place(n).and_then(|(_, gate)| *gate);
                }
                return Ok(());
            }
            if start.elapsed() > Duration::from_secs(30) {
                let names: Vec<_> =
                    actors.iter().filter(|actor| actor.is_under_way()).map(|actor| &actor.name).collect();
                return Err(format!("{names:?} neither end nor wait for a lock"));
            }
        }
        Ok(())
    }

    /// What is in the log after a position, as the server has it.
    async fn recorded(&mut self, after: Position) -> Vec<(u64, String, u64, Uuid, Vec<String>)> {
        let log = "SELECT position, stream, version, event_id, tags FROM {schema}.events WHERE position > $1
                    ORDER BY position";
        let log = AssertSqlSafe(log.replace("{schema}", &self.schema));
        let log = sqlx::query_as(log).bind(after.0 as i64).fetch_all(&mut self.keeper).await.unwrap();
        let event = |(position, stream, version, id, tags): (i64, String, i64, Uuid, Vec<String>)| {
            (position as u64, stream, version as u64, id, tags)
        };
        log.into_iter().map(event).collect()
    }

    /// When the events after a position were recorded.
    async fn instants(&mut self, after: Position) -> Vec<Timestamp> {
        let instants =
            "SELECT (extract(epoch FROM recorded_at) * 1000000)::bigint FROM {schema}.events WHERE position > $1";
        let instants = AssertSqlSafe(instants.replace("{schema}", &self.schema));
        let instants = sqlx::query_scalar(instants).bind(after.0 as i64).fetch_all(&mut self.keeper).await.unwrap();
        instants.into_iter().map(Timestamp::from_micros).collect()
    }

    /// Looks whether what is recorded is what they say, and what was seen. The streams had no events before.
    async fn right(&mut self, base: Position, log: &Log) -> Result<(), Wrong> {
        // S1: everything, once, in order, however far each had come.
        let recorded = self.recorded(base).await;
        let instants = self.instants(base).await;
        let readers = log.borrow().readers.clone();
        for (actor, reader) in readers {
            let (rest, end) = reader.page(&self.stores[actor], None).await?;
            let seen: Vec<_> = reader.seen.into_iter().chain(rest).collect();
            let all: Vec<_> = recorded.iter().map(|(position, _, _, id, _)| (*position, *id)).collect();
            match all.iter().find(|event| !seen.contains(event)) {
                Some((position, _)) if *position <= end.0 => {
                    return Err(format!("a reader skipped position {position}"));
                }
                Some((position, _)) => return Err(format!("a reader never comes to position {position}")),
                None if seen != all => return Err(format!("a reader saw {seen:?} of {all:?}")),
                None => {}
            }
        }
        let log = log.borrow();
        // A13: what only one may have, one has.
        let mut tags: Vec<_> = recorded.iter().flat_map(|(.., tags)| tags).collect();
        tags.sort_unstable();
        if let Some(twice) = tags.windows(2).find(|two| two[0] == two[1]) {
            return Err(format!("{} was won twice", twice[0]));
        }
        // A3, S2: no hole, no double.
        let mut versions: BTreeMap<&str, u64> = BTreeMap::new();
        for ((position, stream, version, ..), place) in recorded.iter().zip(base.0 + 1..) {
            let last = versions.entry(stream).or_default();
            if *version != *last + 1 {
                return Err(format!("version {version} of {stream} comes after {last}"));
            }
            *last = *version;
            if *position != place {
                return Err(format!("position {position} in the place of {place}"));
            }
        }
        // T3: an instant has one answer, whatever was open when it was asked for.
        for &(at, answer) in &log.instants {
            let recorded = instants.iter().filter(|recorded_at| **recorded_at <= at).count() as u64 + base.0;
            if answer != Position(recorded) {
                return Err(format!("an instant was position {answer}, and is position {recorded} now"));
            }
        }
        // A2: what was acknowledged and no more.
        let there: HashSet<Uuid> = recorded.iter().map(|(_, _, _, id, _)| *id).collect();
        let stored: HashSet<Uuid> = log.stored.iter().flat_map(|(_, _, ids)| ids).copied().collect();
        if there != stored || !there.is_disjoint(&log.gone) {
            return Err(format!("{} events recorded, {} acknowledged", there.len(), stored.len()));
        }
        // A4: what was recorded is where it had to be.
        let place = |id: &Uuid| recorded.iter().find(|(_, _, _, there, _)| there == id).expect("it is there");
        for (id, version) in log.expected.iter().filter(|(id, _)| there.contains(id)) {
            if place(id).2 != *version {
                return Err(format!("expected at version {version}, recorded at {}", place(id).2));
            }
        }
        // A7: who began later comes later.
        for (_, before, first) in &log.stored {
            for (after, _, second) in &log.stored {
                if before < after && place(&first[0]).0 > place(&second[0]).0 {
                    return Err("an append that began later came earlier".into());
                }
            }
        }
        Ok(())
    }

    async fn head(&mut self) -> Position {
        let head = "SELECT coalesce(max(position), 0) FROM {schema}.events".replace("{schema}", &self.schema);
        let head: i64 = sqlx::query_scalar(AssertSqlSafe(head)).fetch_one(&mut self.keeper).await.unwrap();
        Position(head as u64)
    }

    async fn next(&mut self) -> Play {
        self.plays += 1;
        Play { number: self.plays, base: self.head().await, log: Log::default() }
    }

    /// Runs a play in every order there is; says how many there are, or which one went wrong.
    async fn every_order(&mut self, mut play: impl FnMut(&Self, &Play) -> Vec<Actor>) -> Result<usize, Wrong> {
        let (mut choices, mut orders) = (Choices::default(), 0);
        loop {
            let next = self.next().await;
            let mut actors = play(self, &next);
            self.play(&mut actors, &next, |of| choices.choose(of)).await?;
            orders += 1;
            if !choices.another() {
                return Ok(orders);
            }
        }
    }

    async fn play(
        &mut self,
        actors: &mut [Actor],
        play: &Play,
        choose: impl FnMut(usize) -> usize,
    ) -> Result<(), Wrong> {
        let mut outcome = self.run(actors, &play.log, choose).await;
        if outcome.is_ok() {
            outcome = self.right(play.base, &play.log).await;
        }
        outcome.map_err(|wrong| format!("{wrong}, when {}", play.log.borrow().steps.join(", ")))
    }
}

/// One order, being played.
struct Play {
    /// No other one of its scene has it.
    number: usize,
    /// Where the log ended before.
    base: Position,
    log: Log,
}

impl Play {
    /// A reader has seen nothing of it yet.
    fn begins(&self, actor: usize, reads: Reads) {
        let reader = Reader { reads, seen: vec![], checkpoint: self.base };
        self.log.borrow_mut().readers.insert(actor, reader);
    }

    /// A stream of this play alone.
    fn stream(&self, name: &str) -> StreamId {
        StreamId::new("play", &format!("{}-{name}", self.number))
    }
}

fn append(stream: &StreamId, expected: Expected, events: usize) -> Append {
    let events = (0..events).map(|_| raw("took.place", b"{}")).collect();
    Append { writes: vec![Write { stream: stream.clone(), expected, events }], ..Append::default() }
}

fn ids(append: &Append) -> Vec<Uuid> {
    append.writes.iter().flat_map(|write| &write.events).map(|event: &NewEvent| event.id).collect()
}

/// Begins, appends, and commits or rolls back.
async fn writer(turn: Turn, store: PgStore, log: Log, append: Append, commits: bool) -> Result<(), Wrong> {
    let ids = ids(&append);
    turn.step("begins").await;
    let mut transaction = store.begin().await.map_err(wrong)?;
    turn.locking("appends").await;
    let asked = now(&log);
    transaction.append(append).await.map_err(wrong)?;
    log.borrow_mut().open += 1;
    turn.step(if commits { "commits" } else { "rolls back" }).await;
    log.borrow_mut().open -= 1;
    if commits {
        transaction.commit().await.map_err(wrong)?;
        let acknowledged = now(&log);
        log.borrow_mut().stored.push((asked, acknowledged, ids));
    } else {
        transaction.rollback().await.map_err(wrong)?;
        log.borrow_mut().gone.extend(ids);
    }
    Ok(())
}

/// Reads a page after its checkpoint, and saves the checkpoint; so many times.
async fn reader(turn: Turn, actor: usize, store: PgStore, log: Log, pages: usize) -> Result<(), Wrong> {
    for _ in 0..pages {
        turn.step("reads").await;
        let reader = log.borrow().readers[&actor].clone();
        let (page, end) = reader.page(&store, Some(2)).await?;
        turn.step("saves").await;
        let mut log = log.borrow_mut();
        let reader = log.readers.get_mut(&actor).expect("its own");
        reader.seen.extend(page);
        reader.checkpoint = end;
    }
    Ok(())
}

/// Asks for an instant that is over, twice: what is open when it is asked for the first time may have been stamped by then.
async fn historian(turn: Turn, store: PgStore, log: Log, asks: usize) -> Result<(), Wrong> {
    for _ in 0..asks {
        turn.step("takes an instant").await;
        let at = Timestamp::from(std::time::SystemTime::now());
        // The server's clock is that of this machine, and its stamps are taken to the microsecond.
        sleep(Duration::from_millis(1)).await;
        for _ in 0..2 {
            turn.locking("asks for it").await;
            let prefix = store.prefix_at(at).await.map_err(wrong)?;
            if !prefix.settled {
                return Err("an instant that is over is not settled".into());
            }
            log.borrow_mut().instants.push((at, prefix.position));
        }
    }
    Ok(())
}

fn told(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|number| number.parse().expect("a number"))
}

/// Two writers, each of whom commits or not, and a reader.
fn two_writers_and_a_reader(
    scene: &Scene,
    play: &Play,
    appends: [Append; 2],
    commits: [bool; 2],
    reads: Reads,
) -> Vec<Actor> {
    let pages = told("EVENTSTORE_INTERLEAVE_PAGES").unwrap_or(1) as usize;
    let turns: [Turn; 3] = Default::default();
    let store = |n: usize| scene.stores[n].clone();
    let (log, turn) = (|| play.log.clone(), |n: usize| turns[n].clone());
    let [first, second] = appends;
    play.begins(2, reads);
    vec![
        Actor::new("one", &turns[0], writer(turn(0), store(0), log(), first, commits[0])),
        Actor::new("two", &turns[1], writer(turn(1), store(1), log(), second, commits[1])),
        Actor::new("reader", &turns[2], reader(turn(2), 2, store(2), log(), pages)).reader(),
    ]
}

/// Both to one stream, the second to another one, too.
fn one_stream(play: &Play) -> [Append; 2] {
    let mut second = append(&play.stream("a"), Expected::Any, 1);
    second.writes.extend(append(&play.stream("b"), Expected::Any, 1).writes);
    [append(&play.stream("a"), Expected::Any, 2), second]
}

fn two_streams(play: &Play) -> [Append; 2] {
    [append(&play.stream("a"), Expected::Any, 1), append(&play.stream("b"), Expected::Any, 1)]
}

#[tokio::test]
async fn s1_s2_a3_in_every_order_of_two_writers_and_a_reader_nothing_is_skipped_and_nobody_waits_for_a_rollback() {
    let (mut scene, mut orders) = (Scene::new(3).await, 0);
    for commits in [[true, true], [true, false], [false, true], [false, false]] {
        let play =
            |scene: &Scene, play: &Play| two_writers_and_a_reader(scene, play, one_stream(play), commits, Reads::After);
        orders += scene.every_order(play).await.unwrap();
    }
    println!("{orders} orders");
    assert!(orders > 1_000, "{orders}");
}

/// Two writers, each of whom commits or not, and one who asks for an instant.
fn two_writers_and_a_historian(scene: &Scene, play: &Play, appends: [Append; 2], commits: [bool; 2]) -> Vec<Actor> {
    let mut actors = two_writers_and_a_reader(scene, play, appends, commits, Reads::After);
    actors.pop();
    play.log.borrow_mut().readers.clear();
    let turn = Turn::default();
    let asks = historian(turn.clone(), scene.stores[2].clone(), play.log.clone(), 1);
    actors.push(Actor::new("historian", &turn, asks));
    actors
}

#[tokio::test]
async fn t3_in_every_order_of_two_writers_an_instant_has_one_answer() {
    let (mut scene, mut orders) = (Scene::new(3).await, 0);
    for commits in [[true, true], [false, true]] {
        let play = |scene: &Scene, play: &Play| two_writers_and_a_historian(scene, play, one_stream(play), commits);
        orders += scene.every_order(play).await.unwrap();
    }
    println!("{orders} orders");
    assert!(orders > 500, "{orders}");
}

#[tokio::test]
async fn t3_every_order_finds_the_naive_version_that_does_not_wait_for_what_is_open() {
    let mut scene = Scene::new(3).await;
    scene.sql(&function("position_at", &[("LOCK TABLE {schema}.append_lock IN SHARE MODE;", "")])).await;
    let play = |scene: &Scene, play: &Play| two_writers_and_a_historian(scene, play, two_streams(play), [true, true]);
    let wrong = scene.every_order(play).await.unwrap_err();
    assert!(wrong.starts_with("an instant was position"), "{wrong}");
}

/// Positions come from a sequence, and nobody waits for anybody.
async fn with_a_sequence(actors: usize) -> Scene {
    let mut scene = Scene::new(actors).await;
    let head = scene.head().await;
    scene.sql(&format!("CREATE SEQUENCE {{schema}}.naive START {}", head.0 + 1)).await;
    let next = ("SELECT head + i, befores", "SELECT nextval('{schema}.naive'), befores");
    scene.sql(&function("append", &[(LOCK, ""), next])).await;
    scene
}

#[tokio::test]
async fn s1_every_order_finds_the_naive_version_that_takes_positions_from_a_sequence() {
    let mut scene = with_a_sequence(3).await;
    let play = |scene: &Scene, play: &Play| {
        two_writers_and_a_reader(scene, play, two_streams(play), [true, true], Reads::After)
    };
    let wrong = scene.every_order(play).await.unwrap_err();
    assert!(wrong.starts_with("a reader skipped"), "{wrong}");
}

#[tokio::test]
async fn s2_every_order_finds_the_naive_version_that_waits_for_a_hole_to_fill() {
    let mut scene = with_a_sequence(3).await;
    let play = |scene: &Scene, play: &Play| {
        two_writers_and_a_reader(scene, play, two_streams(play), [true, false], Reads::UpToAHole)
    };
    let wrong = scene.every_order(play).await.unwrap_err();
    assert!(wrong.starts_with("a reader never comes to"), "{wrong}");
}

#[tokio::test]
async fn a3_every_order_finds_the_naive_version_that_takes_the_last_version_plus_one_without_a_lock() {
    let mut scene = with_a_sequence(3).await;
    scene.sql("ALTER TABLE {schema}.events DROP CONSTRAINT events_stream").await;
    let play = |scene: &Scene, play: &Play| {
        let appends = [1, 2].map(|_| append(&play.stream("a"), Expected::Any, 1));
        // Nobody reads: what a reader would skip is not what this is about.
        let mut actors = two_writers_and_a_reader(scene, play, appends, [true, true], Reads::After);
        actors.pop();
        play.log.borrow_mut().readers.clear();
        actors
    };
    let wrong = scene.every_order(play).await.unwrap_err();
    assert!(wrong.starts_with("version 1 of"), "{wrong}");
}
