//! Processes that share the work, and are killed or frozen: this binary starts itself again as a worker.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io::{BufRead, BufReader, Write as _},
    path::PathBuf,
    process::{Child, ChildStdin, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use eventstore::{
    BoxError, EventStore, Expected, Id, PgStore, Position, Processors, Query, Read, Runner, Shard, Store, Tables,
    prelude::*,
    sqlx::{self, AssertSqlSafe, PgConnection, Postgres},
};
use futures::TryStreamExt;
use serde::{Deserialize, Serialize};
use tempfile::TempDir;
use tokio::time::sleep;
use tracing::{Event as Said, Metadata, field::Visit, span};

use crate::{
    account::{
        Account,
        AccountEvent::{self, *},
    },
    server,
};

/// What a worker is told.
const TOLD: &str = "EVENTSTORE_TEST_WORKER";
/// How long a worker may be silent.
pub const LEASE: Duration = Duration::from_millis(500);
/// An amount that no rule takes in, until it is mended.
pub const POISON: i64 = 666_666;
/// An amount at which a process freezes in the middle of its transaction, the first time.
pub const FREEZE: i64 = 555_555;
/// What the workers run.
pub const NAMES: [&str; 3] = ["kept@1", "spread@1", "books"];

#[derive(Clone, Serialize, Deserialize)]
struct Told {
    url: String,
    schema: String,
    folder: PathBuf,
    shards: u16,
}

/// A file in the folder of the world, which says something to all processes.
fn flag(name: &str) -> bool {
    let Ok(told) = std::env::var(TOLD) else { return false };
    serde_json::from_str::<Told>(&told).is_ok_and(|told| told.folder.join(name).exists())
}

fn check(event: &AccountEvent) -> Result<(), BoxError> {
    match event {
        Deposited { amount: POISON } if !flag("mended") => Err("nobody can take this in".into()),
        _ => Ok(()),
    }
}

/// One row a stream.
#[derive(ReadModel, Serialize, Deserialize, Default, Debug, PartialEq)]
pub struct Kept {
    pub events: i64,
    pub balance: i64,
}

impl Project for Kept {
    type Event = AccountEvent;

    fn project(row: &mut Row<Self>, event: &Recorded<AccountEvent>) {
        row.events += 1;
        row.balance += sum(&event.data);
        check(&event.data).expect("it panics, as code does");
    }
}

/// Several rows an event.
#[derive(ReadModel, Serialize, Deserialize, Default, Debug, PartialEq)]
#[read_model(keys = spread)]
pub struct Spread {
    pub events: i64,
    pub sum: i64,
}

fn spread(event: &Recorded<AccountEvent>) -> Vec<String> {
    let (kind, account) = match event.data {
        Opened { .. } | Closed => return vec![],
        Deposited { .. } => ("in", event.stream.key()),
        Withdrawn { .. } => ("out", event.stream.key()),
    };
    let last = &account[account.len() - 2..];
    vec![format!("{kind}-{last}"), format!("all-{last}")]
}

impl Project for Spread {
    type Event = AccountEvent;

    fn project(row: &mut Row<Self>, event: &Recorded<AccountEvent>) {
        row.events += 1;
        row.sum += sum(&event.data);
        check(&event.data).expect("it panics, as code does");
    }
}

fn sum(event: &AccountEvent) -> i64 {
    match event {
        Deposited { amount } => *amount,
        Withdrawn { amount } => -amount,
        Opened { .. } | Closed => 0,
    }
}

/// In SQL of its own. Counting twice is seen.
struct Books {
    schema: String,
    folder: PathBuf,
}

impl Projection for Books {
    const NAME: &'static str = "books";
    type Event = AccountEvent;
    type Db = Postgres;

    async fn prepare(&self, db: &mut PgConnection) -> Result<(), BoxError> {
        let table = format!(
            "CREATE TABLE IF NOT EXISTS {}.books (key text PRIMARY KEY, events bigint NOT NULL, sum bigint NOT NULL)",
            self.schema
        );
        sqlx::query(AssertSqlSafe(table)).execute(db).await?;
        Ok(())
    }

    async fn project(&self, event: &Recorded<AccountEvent>, db: &mut PgConnection) -> Result<(), BoxError> {
        let add = format!(
            "INSERT INTO {}.books AS b VALUES ($1, 1, $2)
             ON CONFLICT (key) DO UPDATE SET events = b.events + 1, sum = b.sum + excluded.sum",
            self.schema
        );
        sqlx::query(AssertSqlSafe(add)).bind(event.stream.key()).bind(sum(&event.data)).execute(db).await?;
        if event.data == (Deposited { amount: FREEZE }) {
            let once = std::fs::File::create_new(self.folder.join("frozen"));
            if once.is_ok() {
                signal(std::process::id(), "STOP");
            }
        }
        check(&event.data)
    }
}

fn signal(process: u32, name: &str) {
    let sent = Command::new("kill").arg(format!("-{name}")).arg(process.to_string()).status();
    assert!(sent.is_ok_and(|sent| sent.success()), "kill -{name} {process}");
}

/// Says aloud what it hears of writes that were refused.
struct Ears;

struct Heard(String);

impl Visit for Heard {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
        let _ = write!(self.0, "{}={value:?} ", field.name());
    }
}

impl tracing::Subscriber for Ears {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && metadata.target().starts_with("eventstore_engine")
    }
    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }
    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn event(&self, event: &Said<'_>) {
        let mut heard = Heard(String::new());
        event.record(&mut heard);
        let fenced = heard.0.contains("another node has taken it over");
        println!("{} {}", if fenced { "fenced" } else { "said" }, heard.0.replace('\n', " "));
    }
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

/// Runs everything until it is told to stop. Not a test: what the tests here start.
#[test]
#[ignore = "a process of its own, which other tests start"]
fn worker() {
    let Ok(told) = std::env::var(TOLD) else { return };
    let Told { url, schema, folder, shards } = serde_json::from_str(&told).unwrap();
    tracing::subscriber::set_global_default(Ears).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let store = PgStore::options().schema(&schema).max_connections(5).connect(&url).await.unwrap();
        let store = Store::from(store);
        let runner = Runner::new(&store).lease(LEASE).read_model::<Kept>().shards(shards).batch(50).max_parked(1_000);
        let runner = runner.read_model::<Spread>().shards(shards).batch(20).max_parked(1_000);
        let books = Books { schema, folder };
        let runner = runner.projection(books).shards(shards).batch(30).max_parked(1_000).start();
        println!("ready");
        let (say, mut said) = tokio::sync::mpsc::unbounded_channel();
        std::thread::spawn(move || {
            for line in std::io::stdin().lines().map_while(Result::ok) {
                let _ = say.send(line);
            }
        });
        // When nobody is there any more who could say something, it ends.
        while let Some(line) = said.recv().await {
            match line.split(' ').collect::<Vec<_>>()[..] {
                ["reshard", name, shards] => {
                    let (projections, name) = (Processors::new(&store), name.to_owned());
                    let shards = shards.parse().unwrap();
                    tokio::spawn(async move { projections.reshard(&name, shards).await });
                }
                _ => break,
            }
        }
        runner.stop().await;
    });
}

/// A worker.
pub struct Process {
    pub name: String,
    child: Child,
    stdin: Option<ChildStdin>,
    ready: Arc<AtomicBool>,
}

impl Process {
    pub fn signal(&self, name: &str) {
        signal(self.child.id(), name);
    }

    /// kill -9.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub fn say(&mut self, line: &str) {
        // It may have just ended.
        let _ = self.stdin.as_mut().map(|stdin| writeln!(stdin, "{line}"));
    }

    /// Has it stop after the batches at hand; fails if it does not.
    pub fn stop(mut self) {
        self.say("stop");
        let start = Instant::now();
        while self.child.try_wait().unwrap().is_none() {
            assert!(start.elapsed() < Duration::from_secs(40), "{} does not stop", self.name);
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub async fn ready(&self) {
        until(Duration::from_secs(60), "it starts", async || self.ready.load(Ordering::SeqCst)).await;
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A log, and those who follow it.
pub struct Scene {
    pub store: Store,
    pub pg: PgStore,
    folder: TempDir,
    schema: String,
    started: AtomicU64,
    /// How many writes of theirs were refused.
    pub fenced: Arc<AtomicUsize>,
}

/// What each key has come to: events, and the sum of them.
type Sums = BTreeMap<String, (i64, i64)>;

impl Scene {
    pub async fn new() -> Self {
        let schema = server::schema();
        let pg = PgStore::options().schema(&schema).max_connections(8).connect(server::url()).await.unwrap();
        let mut connection = server::connection().await;
        // Writes down who moves a checkpoint, and under which epoch.
        let audit = format!(
            "CREATE TABLE {schema}.moves (projection text, from_slot int, epoch bigint, owner uuid, process text);
             CREATE FUNCTION {schema}.moved() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                 INSERT INTO {schema}.moves
                 VALUES (new.projection, new.from_slot, new.epoch, new.owner, current_setting('application_name'));
                 RETURN new;
             END $$;
             CREATE TRIGGER moved AFTER UPDATE OF position ON {schema}.checkpoints FOR EACH ROW
             WHEN (old.position < new.position AND old.epoch = new.epoch) EXECUTE FUNCTION {schema}.moved()"
        );
        sqlx::raw_sql(AssertSqlSafe(audit)).execute(&mut connection).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let (started, fenced) = Default::default();
        Self { store: pg.clone().into(), pg, folder, schema, started, fenced }
    }

    pub fn flag(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn start(&self, shards: u16) -> Process {
        let name = format!("worker{}", self.started.fetch_add(1, Ordering::SeqCst));
        let url = server::url_with(&format!("application_name={name}"));
        let told = Told { url, schema: self.schema.clone(), folder: self.folder.path().into(), shards };
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "processes::worker", "--ignored", "--nocapture", "--test-threads=1"])
            .env(TOLD, serde_json::to_string(&told).unwrap())
            .env_remove("NEXTEST_EXECUTION_MODE")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let ready = Arc::new(AtomicBool::new(false));
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (fenced, is_ready, who) = (self.fenced.clone(), ready.clone(), name.clone());
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if line.starts_with("fenced") {
                    fenced.fetch_add(1, Ordering::SeqCst);
                }
                is_ready.fetch_or(line.contains("ready"), Ordering::SeqCst);
                if std::env::var_os("EVENTSTORE_STRESS_LOUD").is_some() {
                    eprintln!("{who}: {line}");
                }
            }
        });
        let stdin = child.stdin.take();
        Process { name, child, stdin, ready }
    }

    /// Appends some, to any accounts; gives the position of the last one.
    pub async fn append(&self, seed: u64, amount: i64) -> Position {
        let account = Id::<Account>::from(format!("A{:03}", seed % 300));
        let events = [Deposited { amount }, Withdrawn { amount: (seed % 5) as i64 + 1 }];
        self.store.append(&account, Expected::Any, events).await.unwrap().last
    }

    /// Whether all have come to a position.
    pub async fn at(&self, position: Position) -> bool {
        let shards = self.pg.shards(None).await.unwrap();
        NAMES.iter().all(|name| shards.iter().any(|(shard, _)| shard.projection == *name))
            && shards.iter().all(|(_, at)| at.position >= position)
    }

    /// Comes back when all have come to a position.
    pub async fn all_at(&self, position: Position, patience: Duration) -> Duration {
        let start = Instant::now();
        until(patience, "all are up to date", async || self.at(position).await).await;
        start.elapsed()
    }

    /// Who has moved the checkpoint of a projection last.
    pub async fn mover(&self, projection: &str) -> String {
        let mover =
            format!("SELECT process FROM {}.moves WHERE projection = $1 ORDER BY ctid DESC LIMIT 1", self.schema);
        let mover = sqlx::query_scalar(AssertSqlSafe(mover)).bind(projection);
        mover.fetch_one(&mut server::connection().await).await.unwrap()
    }

    /// What the log comes to, without the library's types.
    async fn folded(&self) -> [Sums; 3] {
        let mut sums = [Sums::new(), Sums::new(), Sums::new()];
        let read = Read { query: Query::all(), ..Read::default() };
        let log: Vec<_> = self.pg.read(read).await.unwrap().events.try_collect().await.unwrap();
        for event in log {
            let body: serde_json::Value = serde_json::from_slice(&event.data.body).unwrap();
            let (sign, kind) = if &*event.data.name == "account.deposited" { (1, "in") } else { (-1, "out") };
            let (key, amount) = (event.stream.key(), sign * body["amount"].as_i64().unwrap());
            let last = &key[key.len() - 2..];
            let mut add = |of: usize, key: String| {
                let sum = sums[of].entry(key).or_default();
                *sum = (sum.0 + 1, sum.1 + amount);
            };
            add(0, key.into());
            add(1, format!("{kind}-{last}"));
            add(1, format!("all-{last}"));
            add(2, key.into());
        }
        sums
    }

    async fn tabled(&self) -> [Sums; 3] {
        let mut connection = server::connection().await;
        let mut sums = vec![];
        for table in [
            "SELECT key, events, balance FROM {}.\"kept@1\"",
            "SELECT key, events, sum FROM {}.\"spread@1\"",
            "SELECT key, events, sum FROM {}.books",
        ] {
            let rows = AssertSqlSafe(table.replace("{}", &self.schema));
            let rows: Vec<(String, i64, i64)> = sqlx::query_as(rows).fetch_all(&mut connection).await.unwrap();
            sums.push(rows.into_iter().map(|(key, events, sum)| (key, (events, sum))).collect());
        }
        sums.try_into().expect("three")
    }

    /// Every event counts once, and nobody has moved what was another's.
    pub async fn right(&self) {
        let (tables, log) = (self.tabled().await, self.folded().await);
        for ((name, table), log) in NAMES.iter().zip(tables).zip(log) {
            assert_eq!(table, log, "{name}");
        }
        let moves = format!(
            "SELECT projection, epoch, array_agg(DISTINCT process) FROM {}.moves
              GROUP BY projection, from_slot, epoch, owner HAVING count(DISTINCT process) > 1",
            self.schema
        );
        let two: Vec<(String, i64, Vec<String>)> =
            sqlx::query_as(AssertSqlSafe(moves)).fetch_all(&mut server::connection().await).await.unwrap();
        assert_eq!(two, [], "two processes moved one shard in one epoch");
    }

    /// At one moment: each row is the fold of its key up to the checkpoint of its shard, or up to what it waits for.
    pub async fn right_now(&self) {
        let mut connection = server::connection().await;
        let now = "SELECT json_build_object(
                'rows', (SELECT coalesce(json_object_agg(key, json_build_array(events, balance)), '{}') FROM S.\"kept@1\"),
                'shards', (SELECT json_agg(json_build_array(from_slot, to_slot, position)) FROM S.checkpoints
                            WHERE projection = 'kept@1'),
                'waiting', (SELECT coalesce(json_object_agg(of, first), '{}')
                              FROM (SELECT of, min(position) AS first FROM S.dead_letters
                                     WHERE projection = 'kept@1' GROUP BY of) AS w))::text";
        let now = AssertSqlSafe(now.replace("S.", &format!("{}.", self.schema)));
        let now: String = sqlx::query_scalar(now).fetch_one(&mut connection).await.unwrap();
        #[derive(Deserialize)]
        struct Now {
            rows: Sums,
            shards: Option<Vec<(u16, u16, u64)>>,
            waiting: BTreeMap<String, u64>,
        }
        let now: Now = serde_json::from_str(&now).unwrap();
        let shards = now.shards.unwrap_or_default();
        let mut sums = Sums::new();
        let read = Read { query: Query::all(), ..Read::default() };
        let log: Vec<_> = self.pg.read(read).await.unwrap().events.try_collect().await.unwrap();
        for event in log {
            let key = event.stream.key();
            let has = |(from, to, _): &&(u16, u16, u64)| Shard::new("kept@1", *from..*to).has(key);
            let Some((_, _, until)) = shards.iter().find(has) else { continue };
            let first = now.waiting.get(key).copied().unwrap_or(u64::MAX);
            if event.position.0 <= *until && event.position.0 < first {
                let body: serde_json::Value = serde_json::from_slice(&event.data.body).unwrap();
                let sign = if &*event.data.name == "account.deposited" { 1 } else { -1 };
                let sum = sums.entry(key.to_owned()).or_default();
                *sum = (sum.0 + 1, sum.1 + sign * body["amount"].as_i64().unwrap());
            }
        }
        assert_eq!(now.rows, sums, "at one moment, with the checkpoints {shards:?}");
    }
}

/// Waits for a condition.
pub async fn until(patience: Duration, what: &str, condition: impl AsyncFn() -> bool) {
    let start = Instant::now();
    while !condition().await {
        assert!(start.elapsed() < patience, "{what}: not within {patience:?}");
        sleep(Duration::from_millis(5)).await;
    }
}

/// Appends until it is over.
async fn load(scene: &Scene, over: &AtomicBool) {
    for n in 0.. {
        if over.load(Ordering::SeqCst) {
            break;
        }
        scene.append(n * 7, n as i64).await;
        sleep(Duration::from_millis(3)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p2_a_process_that_is_frozen_beyond_its_lease_writes_nothing_when_it_thaws() {
    let scene = Scene::new().await;
    let mut workers = vec![scene.start(1)];
    workers[0].ready().await;
    scene.all_at(scene.append(0, 1).await, Duration::from_secs(20)).await;
    workers.push(scene.start(1));
    workers[1].ready().await;
    let over = AtomicBool::new(false);
    let freeze = async {
        let mut longest = Duration::ZERO;
        // A thawed process that looks at its shards first tries nothing: then another time.
        for _ in 0..20 {
            let owner = scene.mover("kept@1").await;
            let owner = workers.iter().find(|worker| worker.name == owner).expect("a worker");
            owner.signal("STOP");
            let frozen = Instant::now();
            let head = scene.store.head().await.unwrap();
            let (all_at, patience) = (async || scene.at(Position(head.0 + 20)).await, Duration::from_secs(20));
            until(patience, "others take over", all_at).await;
            longest = longest.max(frozen.elapsed());
            owner.signal("CONT");
            let head = scene.store.head().await.unwrap();
            until(patience, "all go on", async || scene.at(Position(head.0 + 20)).await).await;
            if scene.fenced.load(Ordering::SeqCst) >= 3 {
                break;
            }
        }
        over.store(true, Ordering::SeqCst);
        longest
    };
    let (longest, ()) = futures::join!(freeze, load(&scene, &over));
    let fenced = scene.fenced.load(Ordering::SeqCst);
    println!("taken over after {longest:?} at most, {fenced} writes refused");
    assert!(fenced > 0, "no process has tried to write what was not its own");
    scene.all_at(scene.store.head().await.unwrap(), Duration::from_secs(20)).await;
    scene.right().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p2_a_process_that_is_frozen_in_its_transaction_loses_it_and_others_go_on() {
    let scene = Scene::new().await;
    let first = scene.start(1);
    first.ready().await;
    scene.all_at(scene.append(0, 1).await, Duration::from_secs(20)).await;
    let second = scene.start(1);
    second.ready().await;
    let poison = scene.append(1, FREEZE).await;
    until(Duration::from_secs(10), "it freezes", async || scene.flag("frozen").exists()).await;
    let frozen = Instant::now();
    // It has written a row and holds the lock of a shard: nobody who appends is kept waiting.
    let append = Instant::now();
    let last = scene.append(2, 5).await;
    assert!(append.elapsed() < Duration::from_secs(3), "an append waited for it");
    assert!(poison < last && !scene.at(last).await);
    scene.all_at(last, Duration::from_secs(30)).await;
    println!("gone on after {:?}", frozen.elapsed());
    assert_ne!(scene.mover("books").await, first.name);
    first.signal("CONT");
    let last = scene.append(3, 5).await;
    scene.all_at(last, Duration::from_secs(20)).await;
    // What it had written in that transaction is not there twice, nor is what came after it.
    scene.right().await;
    // And it takes part again: alone, it goes on.
    second.kill();
    scene.all_at(scene.append(4, 5).await, Duration::from_secs(20)).await;
    assert_eq!(scene.mover("books").await, first.name);
    scene.right().await;
    first.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p2_the_work_of_a_process_that_was_killed_is_taken_over_in_about_a_lease() {
    let scene = Scene::new().await;
    let mut workers = vec![scene.start(2)];
    workers[0].ready().await;
    scene.all_at(scene.append(0, 1).await, Duration::from_secs(60)).await;
    let over = AtomicBool::new(false);
    let kill = async {
        let mut took = vec![];
        for _ in 0..4 {
            workers.push(scene.start(2));
            workers[1].ready().await;
            let position = scene.store.head().await.unwrap().0 + 50;
            until(Duration::from_secs(60), "it goes on", async || scene.at(Position(position)).await).await;
            workers.remove(0).kill();
            let (killed, head) = (Instant::now(), scene.store.head().await.unwrap());
            until(Duration::from_secs(60), "others take over", async || scene.at(head).await).await;
            took.push(killed.elapsed());
        }
        over.store(true, Ordering::SeqCst);
        took
    };
    let (took, ()) = futures::join!(kill, load(&scene, &over));
    println!("taken over after {took:?}, the lease is {LEASE:?}");
    // The machine may be busy with other things, but not each time.
    assert!(took.iter().min().is_some_and(|least| *least < LEASE * 8), "{took:?}");
    scene.all_at(scene.store.head().await.unwrap(), Duration::from_secs(60)).await;
    scene.right().await;
    scene.right_now().await;
}
