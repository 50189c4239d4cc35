//! One run: a server, processes, faults for a while, then peace, and the checker.

use std::{
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Stdio,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use eventstore::{
    PgStore, Processors, Saga, SagaInstances, SagaStatus, SqliteStore, Status, Store,
    sqlx::{self, AssertSqlSafe, ConnectOptions, sqlite::SqliteConnectOptions},
};
use serde::Serialize;
use tokio::{
    process::{Child, Command},
    time::{sleep, timeout},
};

use crate::{
    Error, domain,
    log::{self, Lines, now},
    nemesis::{Nemesis, PROCESSORS},
    processes::Process,
    profile::{Log, Profile},
    proxy::Proxy,
    server::Cluster,
    transfers::{Moves, Stepped},
    world::World,
};

/// What to run, and for how long.
#[derive(clap::Args, Clone)]
pub struct Options {
    /// Which faults come, and in which order, follows from it; by the clock unless said.
    #[arg(long)]
    pub seed: Option<u64>,
    /// How many runs, one after the other; each has the seed after that of the one before.
    #[arg(long, default_value_t = 1, conflicts_with = "keep", value_parser = clap::value_parser!(u64).range(1..))]
    pub runs: u64,
    /// How long there are faults, in minutes.
    #[arg(long, conflicts_with = "seconds")]
    pub minutes: Option<u64>,
    /// How long there are faults, in seconds.
    #[arg(long)]
    pub seconds: Option<u64>,
    #[arg(long, value_enum, default_value_t = Log::Postgres)]
    pub store: Log,
    #[arg(long, value_enum, default_value_t = Profile::Smoke)]
    pub profile: Profile,
    /// A folder, not there yet, for everything the run leaves; else it is removed if nothing was found.
    #[arg(long)]
    pub keep: Option<PathBuf>,
    /// How many worker processes.
    #[arg(long)]
    pub workers: Option<usize>,
    /// How many events a second all clients together append at most.
    #[arg(long, default_value_t = 1_500.0)]
    pub rate: f64,
    /// The program the workers are, if not this one: one with a bug planted.
    #[arg(long, hide = true)]
    pub worker: Option<PathBuf>,
    /// The name of the bug that is planted in it.
    #[arg(long, hide = true)]
    pub mutant: Option<String>,
}

impl Options {
    /// How long there are faults; none: until told otherwise.
    pub fn length(&self) -> Option<Duration> {
        let said = self.seconds.or(self.minutes.map(|minutes| 60 * minutes));
        said.map(Duration::from_secs).or(match self.profile {
            Profile::Smoke => Some(Duration::from_secs(35)),
            Profile::Gate => Some(Duration::from_secs(600)),
            Profile::Fork => Some(Duration::from_secs(25)),
            Profile::Soak => None,
        })
    }
}

/// How long everything may take to come to the end of the log, once nothing is in the way.
const SETTLES: Duration = Duration::from_secs(60);

/// Somebody wants it to end.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Whether nothing was found.
pub async fn run(options: &Options) -> Result<bool, Error> {
    let first = options.seed.unwrap_or_else(|| now() % 1_000_000);
    let (mut done, mut clean) = (0, 0);
    tokio::spawn(async {
        while tokio::signal::ctrl_c().await.is_ok() {
            if INTERRUPTED.swap(true, Ordering::SeqCst) {
                std::process::exit(130);
            }
            eprintln!("no more faults; once more ends it at once");
        }
    });
    for seed in first..first + options.runs {
        clean += u64::from(run_one(options, seed).await?);
        done += 1;
        if INTERRUPTED.load(Ordering::SeqCst) {
            break;
        }
    }
    if options.runs > 1 {
        println!("{clean} of {done} runs, with the seeds {first} to {}, have found nothing", first + done - 1);
    }
    Ok(clean == done)
}

async fn run_one(options: &Options, seed: u64) -> Result<bool, Error> {
    let folder = folder(options)?;
    println!("seed {seed}, {:?}, {:?}, in {}", options.store, options.profile, folder.display());
    let mut scene = Scene::new(options, &folder, seed).await?;
    let ran = match options.profile {
        Profile::Fork => scene.fork(options).await,
        _ => scene.run(options).await.map(|()| true),
    };
    scene.end_processes().await;
    let found = match ran {
        Ok(true) if options.profile != Profile::Fork => verdict(&folder).await,
        ran => ran,
    };
    let keep = options.keep.is_some() || !matches!(found, Ok(true));
    scene.end(keep).await?;
    if !keep {
        std::fs::remove_dir_all(&folder)?;
    } else {
        println!("everything is in {}", folder.display());
    }
    found
}

/// Whether nothing is found in what a run has left.
pub async fn check(folder: &Path) -> Result<bool, Error> {
    let folder = folder.canonicalize()?;
    let world = World::read(&folder)?;
    if world.store == Log::Sqlite {
        return verdict(&folder).await;
    }
    let mut cluster = Cluster::at(&folder).await?;
    cluster.watch()?;
    cluster.start().await?;
    let found = verdict(&folder).await;
    cluster.end(true).await?;
    found
}

/// A new folder, where the server may be at home too.
fn folder(options: &Options) -> Result<PathBuf, Error> {
    let folder = match &options.keep {
        Some(folder) => {
            std::fs::create_dir(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
            folder.canonicalize()?
        }
        None => tempfile::Builder::new().prefix("chaos-").tempdir()?.keep(),
    };
    std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o755))?;
    // The path of a socket has 107 bytes at most.
    if folder.as_os_str().len() > 80 {
        return Err(format!("{} is too long a name for the folder of a socket", folder.display()).into());
    }
    for part in ["clients", "subscribers", "workers"] {
        std::fs::create_dir(folder.join(part))?;
    }
    Ok(folder)
}

/// The checker, which shares no code with this.
fn checker(what: &str, folder: &Path) -> Command {
    let mut python = Command::new("python3");
    python.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("checker.py")).arg(what).arg(folder);
    python.kill_on_drop(true).stdin(Stdio::null()).process_group(0);
    python
}

async fn verdict(folder: &Path) -> Result<bool, Error> {
    match checker("check", folder).status().await?.code() {
        Some(0) => Ok(true),
        Some(1) => Ok(false),
        code => Err(format!("the checker has ended with {code:?}").into()),
    }
}

/// What `run.json` says.
#[derive(Serialize)]
struct Said {
    seed: u64,
    profile: String,
    store: Log,
    database: String,
    schema: String,
    /// What is added to CLOCK_MONOTONIC, in microseconds: all times are made so, and never go back.
    clock: u64,
    started: u64,
    faults_ended: Option<u64>,
    ended: Option<u64>,
    settled_ms: Option<u64>,
    /// What was not at the end of the log in time, or not done.
    unsettled: Vec<String>,
    seats: usize,
    mutant: Option<String>,
}

struct Scene {
    world: World,
    said: Said,
    nemesis: Nemesis,
    observer: Option<Child>,
    /// When all that waits was last asked to be tried again.
    retried: Option<Instant>,
}

impl Scene {
    async fn new(options: &Options, folder: &Path, seed: u64) -> Result<Self, Error> {
        let workers = options.workers.unwrap_or(if options.store == Log::Postgres { 4 } else { 2 });
        let clients = if options.profile == Profile::Smoke { 3 } else { 6 };
        let rate = options.rate / (workers * clients) as f64;
        let (mut cluster, mut proxy) = (None, None);
        let (url, database, schema) = match options.store {
            Log::Postgres => {
                let server = cluster.insert(Cluster::at(folder).await?);
                // A disk in memory is one that may be filled.
                let small = options.profile != Profile::Fork;
                if !server.create(small).await? && small {
                    println!("no disk can be filled here: `mount -t tmpfs` is not allowed");
                }
                let between = proxy.insert(Proxy::start(&server.server()).await?);
                let url = format!("postgres://postgres@127.0.0.1:{}/postgres?sslmode=disable", between.port);
                let database = format!("host={} user=postgres dbname=postgres", server.server().display());
                (url, database, "chaos".to_owned())
            }
            Log::Sqlite => {
                let file = folder.join("log.db").display().to_string();
                (file.clone(), file, String::new())
            }
        };
        let (folder, store, lease_ms, clock) = (folder.to_owned(), options.store, 1_000, log::offset());
        let world =
            World { folder: folder.clone(), store, url, schema: schema.clone(), seed, clock, lease_ms, clients, rate };
        world.write()?;
        let store = prepare(&world, cluster.as_ref()).await?;
        let program = options.worker.clone().map_or_else(std::env::current_exe, Ok)?;
        let processes = (1..=workers).map(|n| Process::new(format!("w{n}"), &program, &folder)).collect();
        let log = Lines::open(&folder.join("faults.jsonl"))?;
        let nemesis = Nemesis::new(&world, options.profile, processes, cluster, proxy, store, log);
        let said = Said {
            seed,
            profile: format!("{:?}", options.profile).to_lowercase(),
            store: options.store,
            database,
            schema,
            clock,
            started: now(),
            faults_ended: None,
            ended: None,
            settled_ms: None,
            unsettled: vec![],
            seats: domain::SEATS,
            mutant: options.mutant.clone(),
        };
        let scene = Self { world, said, nemesis, observer: None, retried: None };
        scene.say()?;
        Ok(scene)
    }

    fn say(&self) -> Result<(), Error> {
        let (new, there) = (self.world.folder.join("run.json.new"), self.world.folder.join("run.json"));
        std::fs::write(&new, serde_json::to_vec_pretty(&self.said)?)?;
        Ok(std::fs::rename(new, there)?)
    }

    async fn run(&mut self, options: &Options) -> Result<(), Error> {
        for process in &mut self.nemesis.processes {
            process.start()?;
        }
        self.begun().await?;
        self.observer = Some(checker("observe", &self.world.folder).spawn()?);
        let (begun, length) = (Instant::now(), options.length());
        let over = || INTERRUPTED.load(Ordering::SeqCst) || length.is_some_and(|length| begun.elapsed() > length);
        self.nemesis.run(over).await?;
        self.nemesis.peace().await?;
        self.said.faults_ended = Some(now());
        self.settle().await;
        self.said.ended = Some(now());
        self.say()?;
        println!(
            "{} faults in {:?}, settled after {:?} ms",
            self.nemesis.faults,
            begun.elapsed(),
            self.said.settled_ms
        );
        for unsettled in &self.said.unsettled {
            println!("not settled: {unsettled}");
        }
        Ok(())
    }

    /// Returns when the workers append and project.
    async fn begun(&self) -> Result<(), Error> {
        let begun = Instant::now();
        loop {
            let shards = self.nemesis.store.as_ref().shards(None).await?;
            let runs = |name: &str| shards.iter().any(|(shard, at)| shard.projection == name && at.position.0 > 0);
            if PROCESSORS.iter().all(|name| runs(name)) {
                return Ok(());
            }
            if begun.elapsed() > SETTLES {
                return Err("the workers have not begun within a minute: see their logs".into());
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until the clients have ended, and all have come to the end of the log.
    async fn settle(&mut self) {
        let begun = Instant::now();
        let _ = std::fs::write(self.world.quiet(), "");
        loop {
            let _ = self.nemesis.tend().await;
            self.said.unsettled = match timeout(Duration::from_secs(5), self.unsettled()).await {
                Ok(Ok(unsettled)) => unsettled,
                Ok(Err(error)) => vec![error.to_string()],
                Err(_) => vec!["the store does not answer".into()],
            };
            if self.said.unsettled.is_empty() {
                self.said.settled_ms = u64::try_from(begun.elapsed().as_millis()).ok();
                return;
            }
            if begun.elapsed() > SETTLES {
                return;
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// What is not at the end of the log, or not done.
    async fn unsettled(&mut self) -> Result<Vec<String>, Error> {
        /// What waits is tried again so often: to ask for it is work, too.
        const AGAIN: Duration = Duration::from_secs(2);
        let mut left = vec![];
        for process in &self.nemesis.processes {
            if !self.world.quiet_of(&process.name).exists() {
                left.push(format!("the clients of {} have not ended", process.name));
            }
        }
        if !left.is_empty() {
            return Ok(left);
        }
        let (store, projections) = (&self.nemesis.store, Processors::new(&self.nemesis.store));
        let head = store.head().await?;
        let again = self.retried.is_none_or(|retried| retried.elapsed() > AGAIN);
        for name in PROCESSORS {
            let letters = projections.dead_letters(name);
            let waiting = letters.list().await?.len();
            if waiting > 0 {
                left.push(format!("{waiting} events wait for {name}"));
                if again {
                    self.retried = Some(Instant::now());
                    let _ = timeout(Duration::from_secs(4), letters.retry_all()).await;
                }
            }
        }
        for (shard, at) in store.as_ref().shards(None).await? {
            if at.position < head && PROCESSORS.contains(&&*shard.projection) {
                left.push(format!("{shard:?} is at {}, and not at {head}: run by {:?}", at.position, at.owner));
            }
        }
        left.extend(unfinished::<Moves>(store).await?);
        left.extend(unfinished::<Stepped>(store).await?);
        for process in &self.nemesis.processes {
            let file = self.world.folder.join("subscribers").join(format!("{}-follower.jsonl", process.name));
            let at = log::tail(&file)?.last().and_then(|line| line["position"].as_u64()).unwrap_or(0);
            if at < head.0 {
                left.push(format!("the follower of {} is at {at}, and not at {head}", process.name));
            }
        }
        Ok(left)
    }

    async fn end_processes(&mut self) {
        if let Some(mut observer) = self.observer.take() {
            let _ = observer.kill().await;
        }
        let stops = self.nemesis.processes.iter_mut().map(async |process| {
            let _ = process.thaw(true).await;
            (process.name.clone(), process.stop(Duration::from_secs(15)).await)
        });
        for (name, stopped) in futures::future::join_all(stops).await {
            if !matches!(stopped, Ok(true)) {
                println!("{name} has not stopped within 15 seconds: {stopped:?}");
            }
        }
    }

    async fn end(&mut self, keep: bool) -> Result<(), Error> {
        if let Some(cluster) = &mut self.nemesis.cluster {
            cluster.end(keep).await?;
        }
        Ok(())
    }

    /// A failover to a standby that lacks the end of the log, which all have taken in by then. With the log, the rows and
    /// the checkpoints are as they were; what the processes still know of the end that was lost must not come into them.
    /// A projection may say that it is forked and write nothing from then on; or it goes on, and its rows are right.
    async fn fork(&mut self, options: &Options) -> Result<bool, Error> {
        for process in &mut self.nemesis.processes {
            process.start()?;
        }
        self.begun().await?;
        let store = self.nemesis.store.clone();
        let projections = Processors::new(&store);
        let (schema, rounds) = (self.world.schema.clone(), options.length().unwrap_or_default().as_secs().div_ceil(5));
        let mut forked: Vec<String> = vec![];
        let mut right = true;
        for round in 1..=rounds.max(1) {
            let cluster = self.nemesis.cluster.as_mut().ok_or("only a server has a standby")?;
            cluster.follow(false).await?;
            sleep(Duration::from_secs(2)).await;
            cluster.leave_behind().await?;
            // What is recorded from here on is lost, after all have taken in some of it.
            let (past, begun) = (store.head().await?.0 + 300, Instant::now());
            loop {
                let all = projections.status().await?;
                let beyond = |status: &&Status| status.shards.iter().all(|(_, at)| at.position.0 > past);
                let ready = |status: &&Status| PROCESSORS.contains(&&*status.name) && beyond(status);
                if all.iter().filter(ready).count() == PROCESSORS.len() {
                    break;
                }
                if begun.elapsed() > SETTLES {
                    return Err(format!("not all have come beyond {past} within {SETTLES:?}").into());
                }
                sleep(Duration::from_millis(20)).await;
            }
            cluster.fall_back().await?;
            let mut connection = cluster.connect().await?;
            let head = format!("SELECT coalesce(max(position), 0) FROM {schema}.events");
            let head: i64 = sqlx::query_scalar(AssertSqlSafe(head)).fetch_one(&mut connection).await?;
            if !(1..past).contains(&head.cast_unsigned()) {
                return Err(
                    format!("the log ends at {head} now, and had gone beyond {past}: not its end was lost").into()
                );
            }
            let last = format!("SELECT coalesce(max(n), 0) FROM {schema}.moves");
            let last: i64 = sqlx::query_scalar(AssertSqlSafe(last)).fetch_one(&mut connection).await?;
            self.nemesis.say("failover", &format!("round {round}: the log ends at {head}, and had gone beyond {past}"));
            if let Some(proxy) = &self.nemesis.proxy {
                proxy.cut(false);
            }
            println!("round {round}: the log ends at {head} now, and had gone beyond {past}");
            sleep(Duration::from_secs(4)).await;
            let begun = Instant::now();
            let status = loop {
                match projections.status().await {
                    Err(error) if error.is_retryable() && begun.elapsed() < SETTLES => {
                        sleep(Duration::from_millis(50)).await
                    }
                    status => break status?,
                }
            };
            for status in status {
                let why = status.error.map(|error| error.to_string()).unwrap_or_default();
                if status.stopped {
                    let moved = format!("SELECT count(*) FROM {schema}.moves WHERE n > $1 AND projection = $2");
                    let moved = sqlx::query_scalar(AssertSqlSafe(moved)).bind(last).bind(&status.name);
                    let moved: i64 = moved.fetch_one(&mut connection).await?;
                    println!("{} has stopped, and had written {moved} times: {why}", status.name);
                    right &= moved == 0 && why.contains("the end of the log was lost");
                    forked.push(status.name);
                }
            }
            if !forked.is_empty() {
                break;
            }
        }
        std::fs::write(self.world.quiet(), "")?;
        let begun = Instant::now();
        loop {
            let mut left = self.unsettled().await?;
            left.retain(|left| !left.contains("follower") && !forked.iter().any(|name| left.contains(&**name)));
            if left.is_empty() {
                break;
            }
            if begun.elapsed() > SETTLES {
                left.iter().for_each(|left| println!("not settled: {left}"));
                right = false;
                break;
            }
            sleep(Duration::from_millis(50)).await;
        }
        let mut connection = self.nemesis.cluster.as_ref().ok_or("no server")?.connect().await?;
        // What has stopped is where it was, and not at the end of the log.
        for (table, wrong) in WRONG.into_iter().filter(|(table, _)| !forked.iter().any(|name| name == table)) {
            let wrong = wrong.replace("S.", &format!("{schema}."));
            let wrong: Vec<String> = sqlx::query_scalar(AssertSqlSafe(wrong)).fetch_all(&mut connection).await?;
            println!("{} rows of {table} are not the fold of the log {:?}", wrong.len(), &wrong[..wrong.len().min(3)]);
            right &= wrong.is_empty();
        }
        Ok(right)
    }
}

/// What is not as it should be in the tables, all of the log taken in.
const WRONG: [(&str, &str); 4] = [
    (
        "balance@1",
        "WITH e AS (SELECT position, split_part(stream, '-', 2) AS key, name, (convert_from(payload, 'UTF8')::json ->> 'amount')::bigint AS amount
                     FROM S.events JOIN S.event_types USING (type_key) WHERE name ^@ 'account.'),
              closed AS (SELECT key, max(position) AS at FROM e WHERE name = 'account.closed' GROUP BY key),
              f AS (SELECT key, count(*) AS n, sum(CASE name WHEN 'account.withdrawn' THEN -amount ELSE amount END) AS s
                      FROM e LEFT JOIN closed USING (key) WHERE position > coalesce(at, 0) GROUP BY key)
         SELECT concat_ws(' ', coalesce(f.key, t.key), f.n, t.events, f.s, t.balance) FROM f FULL JOIN S.\"balance@1\" AS t ON t.key = f.key
          WHERE (f.n, coalesce(f.s, 0)) IS DISTINCT FROM (t.events, t.balance::numeric)",
    ),
    (
        "turnover@1",
        "WITH e AS (SELECT split_part(stream, '-', 2) AS key, name, (convert_from(payload, 'UTF8')::json ->> 'amount')::bigint AS amount
                     FROM S.events JOIN S.event_types USING (type_key)
                    WHERE name IN ('account.deposited', 'account.withdrawn', 'account.poisoned')),
              k AS (SELECT 'amount-' || amount % 97 AS key, name, amount FROM e UNION ALL SELECT 'account-' || right(key, 2), name, amount FROM e),
              f AS (SELECT key, count(*) AS n, sum(CASE name WHEN 'account.withdrawn' THEN -amount ELSE amount END) AS s FROM k GROUP BY key)
         SELECT concat_ws(' ', coalesce(f.key, t.key), f.n, t.events, f.s, t.sum) FROM f FULL JOIN S.\"turnover@1\" AS t ON t.key = f.key
          WHERE (f.n, f.s) IS DISTINCT FROM (t.events, t.sum::numeric)",
    ),
    (
        "activity@1",
        "WITH e AS (SELECT split_part(stream, '-', 2) AS key, name, (convert_from(payload, 'UTF8')::json ->> 'amount')::bigint AS amount
                     FROM S.events JOIN S.event_types USING (type_key) WHERE name ^@ 'account.'),
              f AS (SELECT key, count(*) AS n, coalesce(sum(CASE name WHEN 'account.withdrawn' THEN -amount ELSE amount END), 0) AS s FROM e GROUP BY key)
         SELECT concat_ws(' ', coalesce(f.key, t.key), f.n, t.events, f.s, t.sum) FROM f FULL JOIN S.\"activity@1\" AS t ON t.key = f.key
          WHERE (f.n, f.s) IS DISTINCT FROM (t.events, t.sum::numeric)",
    ),
    (
        "ledger",
        "WITH e AS (SELECT split_part(stream, '-', 2) AS key, name, (convert_from(payload, 'UTF8')::json ->> 'amount')::bigint AS amount
                     FROM S.events JOIN S.event_types USING (type_key) WHERE name ^@ 'account.'),
              f AS (SELECT key, count(*) AS n, coalesce(sum(CASE name WHEN 'account.withdrawn' THEN -amount ELSE amount END), 0) AS s FROM e GROUP BY key)
         SELECT concat_ws(' ', coalesce(f.key, t.account), f.n, t.events, f.s, t.sum) FROM f FULL JOIN S.ledger AS t ON t.account = f.key
          WHERE (f.n, f.s) IS DISTINCT FROM (t.events, t.sum::numeric)",
    ),
];

/// The tables of a run, and the store past the proxy.
async fn prepare(world: &World, cluster: Option<&Cluster>) -> Result<Store, Error> {
    let business = format!("CREATE TABLE {} (op ", world.table("business"));
    let Some(cluster) = cluster else {
        let store = SqliteStore::open(Path::new(&world.url)).await?;
        let options = SqliteConnectOptions::new().filename(&world.url);
        let business = format!("{business} text PRIMARY KEY, amount bigint NOT NULL)");
        sqlx::raw_sql(AssertSqlSafe(business)).execute(&mut options.connect().await?).await?;
        return Ok(store.into());
    };
    let url =
        format!("postgres://postgres@localhost/postgres?host={}&application_name=chaos", cluster.server().display());
    let store = PgStore::options().schema(&world.schema).max_connections(4).connect(&url).await?;
    // Writes down who has moved which shard, from where to where, under which epoch; and which snapshots were replaced.
    let tables = format!(
        "{business} uuid PRIMARY KEY, amount bigint NOT NULL);
         CREATE TABLE S.moves (n bigserial PRIMARY KEY, at timestamptz NOT NULL DEFAULT clock_timestamp(), projection text,
             from_slot int, to_slot int, from_position bigint, to_position bigint, epoch bigint, owner uuid, process text);
         CREATE FUNCTION S.moved() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             INSERT INTO S.moves (projection, from_slot, to_slot, from_position, to_position, epoch, owner, process)
             VALUES (new.projection, new.from_slot, new.to_slot, old.position, new.position, new.epoch, new.owner,
                     current_setting('application_name'));
             RETURN new;
         END $$;
         CREATE TRIGGER moved AFTER UPDATE OF position ON S.checkpoints FOR EACH ROW
         WHEN (old.position <> new.position) EXECUTE FUNCTION S.moved();
         CREATE TABLE S.replaced (n bigserial PRIMARY KEY, boundary text, kind text, same_shape boolean,
             from_position bigint, from_event uuid, to_position bigint);
         CREATE FUNCTION S.replaced() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             INSERT INTO S.replaced (boundary, kind, same_shape, from_position, from_event, to_position)
             VALUES (new.boundary, new.kind, old.shape = new.shape, old.position, old.event_id, new.position);
             RETURN new;
         END $$;
         CREATE TRIGGER replaced AFTER UPDATE ON S.snapshots FOR EACH ROW EXECUTE FUNCTION S.replaced()"
    );
    cluster.execute(&tables.replace("S.", &format!("{}.", world.schema))).await?;
    Ok(store.into())
}

/// Which instances of a saga are not over: some of them, for people.
async fn unfinished<S: Saga>(store: &Store) -> Result<Vec<String>, Error> {
    let mut left = vec![];
    for status in [SagaStatus::Running, SagaStatus::Compensating, SagaStatus::Parked] {
        for one in store.sagas::<S>().list(status, 3).await? {
            left.push(format!("the instance {} of {} is {status:?}, {:?}", one.key, S::NAME, one.error));
        }
    }
    Ok(left)
}
