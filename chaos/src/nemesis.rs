//! What goes wrong, one after the other: which, and in which order, follows from the seed.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use eventstore::{
    Processors, ReadModelVersions, Store, StoreError,
    sqlx::{self, AssertSqlSafe, Connection, PgConnection},
};
use serde_json::json;
use tokio::{
    task::JoinHandle,
    time::{sleep, timeout},
};

use crate::{
    Error, domain,
    log::{Lines, now},
    processes::{Process, signal},
    profile::{Log, Profile},
    proxy::Proxy,
    server::Cluster,
    world::{Dice, World},
};

/// What runs, for changing its shards; the first ones are tables that can be built again.
pub const PROCESSORS: [&str; 7] = ["balance@1", "turnover@1", "activity@1", "ledger", "mailbox", "moves", "stepped"];
/// How long everything may take to go on after a server was away.
const RECOVERY: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    /// kill -9 of a worker.
    Kill,
    /// A worker stands still, for longer than its lease.
    Freeze,
    /// A worker is asked to stop, and started again.
    Stop,
    /// `pg_terminate_backend` of some.
    Terminate,
    /// The same, of all at once.
    TerminateAll,
    /// `pg_cancel_backend` of what runs.
    Cancel,
    /// kill -9 of a process of the server, which then starts all of them again.
    BackendKill,
    /// The server crashes and is started.
    Restart,
    /// All connections are cut.
    Cut,
    /// The same, and the server does not hear of it at once.
    HalfCut,
    /// Connections are cut after an append or commit has reached the server, before its reply comes back; or a commit
    /// reaches it only after its connection was cut.
    LoseReplies,
    /// Nothing comes through for a while, and then everything.
    Stall,
    /// Nothing comes through for a while, and then the connections are cut.
    BlackHole,
    /// Everything comes late.
    Delay,
    /// Somebody takes all connections that are left.
    Exhaust,
    /// Somebody holds the lock of appends.
    HoldAppends,
    /// Somebody locks checkpoints, the other way round.
    LockCheckpoints,
    /// Somebody locks a table first that others lock last.
    Deadlock,
    /// New sessions have other defaults.
    OddSessions,
    /// Some events cannot be taken in for a while.
    Poison,
    /// What waits is tried again, poison or not.
    Retry,
    Reshard,
    /// A table is built again, and put in place.
    Rebuild,
    /// A projection is paused, and goes on.
    Pause,
    /// Nothing more can be written to the disk of the server for a while.
    DiskFull,
    /// The primary crashes, and the standby takes its place.
    FailOver,
}
use Fault::*;

impl Fault {
    fn name(self) -> String {
        let mut name = String::new();
        for (n, letter) in format!("{self:?}").char_indices() {
            if letter.is_uppercase() && n > 0 {
                name.push(' ');
            }
            name.push(letter.to_ascii_lowercase());
        }
        name
    }

    /// How often each comes in a round.
    fn round(store: Log, profile: Profile) -> Vec<Self> {
        let postgres: &[(Self, usize)] = &[
            (Kill, 5),
            (Freeze, 4),
            (Stop, 1),
            (Terminate, 3),
            (TerminateAll, 1),
            (Cancel, 1),
            (BackendKill, 2),
            (Restart, 2),
            (Cut, 2),
            (HalfCut, 1),
            (LoseReplies, 4),
            (Stall, 1),
            (BlackHole, 1),
            (Delay, 1),
            (Exhaust, 1),
            (HoldAppends, 1),
            (LockCheckpoints, 1),
            (Deadlock, 1),
            (OddSessions, 1),
            (Poison, 2),
            (Retry, 1),
            (Reshard, 3),
            (Rebuild, 2),
            (Pause, 1),
            (DiskFull, 1),
            (FailOver, 1),
        ];
        let sqlite: &[(Self, usize)] =
            &[(Kill, 8), (Freeze, 3), (Stop, 1), (Poison, 1), (Retry, 1), (Reshard, 2), (Rebuild, 1), (Pause, 1)];
        let all = if store == Log::Postgres { postgres } else { sqlite };
        let round = all.iter().flat_map(|(fault, times)| std::iter::repeat_n(*fault, *times));
        // In a minute each comes once, about.
        let mut seen = vec![];
        let once = |fault: &Self| {
            let first = profile != Profile::Smoke
                || !seen.contains(fault)
                || matches!(fault, Kill | Freeze | LoseReplies | Reshard);
            seen.push(*fault);
            first
        };
        round.filter(once).collect()
    }
}

/// Whoever does it.
pub struct Nemesis {
    world: World,
    profile: Profile,
    pub processes: Vec<Process>,
    pub cluster: Option<Cluster>,
    pub proxy: Option<Proxy>,
    /// The store, past the proxy: for operating projections.
    pub store: Store,
    log: Arc<Lines>,
    dice: Dice,
    /// What goes on beside.
    asked: Vec<JoinHandle<()>>,
    pub faults: u64,
}

impl Nemesis {
    pub fn new(
        world: &World,
        profile: Profile,
        processes: Vec<Process>,
        cluster: Option<Cluster>,
        proxy: Option<Proxy>,
        store: Store,
        log: Lines,
    ) -> Self {
        let (world, log, dice) = (world.clone(), Arc::new(log), Dice::named(world.seed, "nemesis"));
        Self { world, profile, processes, cluster, proxy, store, log, dice, asked: vec![], faults: 0 }
    }

    pub fn say(&mut self, fault: &str, what: &str) {
        self.faults += 1;
        self.log.write(&json!({ "t": now(), "fault": fault, "what": what }));
    }

    /// One after the other, until it is over.
    pub async fn run(&mut self, over: impl Fn() -> bool) -> Result<(), Error> {
        let mut round: Vec<Fault> = vec![];
        while !over() {
            self.tend().await?;
            if round.is_empty() {
                round = Fault::round(self.world.store, self.profile);
                // The first of a round and the last of the one before differ, mostly.
                for n in (1..round.len()).rev() {
                    round.swap(n, self.dice.roll(n as u64 + 1) as usize);
                }
            }
            let Some(fault) = round.pop() else { continue };
            // All numbers are rolled here, so that the next fault is the same whatever comes of this one.
            let (one, two, three) = (self.dice.roll(1 << 32), self.dice.roll(1 << 32), self.dice.roll(1 << 32));
            let pause = Duration::from_millis(match self.profile {
                Profile::Smoke => self.dice.roll(600),
                _ => self.dice.roll(1_400),
            });
            let begun = Instant::now();
            if let Err(error) = self.inflict(fault, one, two, three).await {
                eprintln!("{}: {error}", fault.name());
                self.log.write(&json!({ "t": now(), "fault": "failed", "what": format!("{}: {error}", fault.name()) }));
            }
            eprintln!("{:>6} ms  {}", begun.elapsed().as_millis(), fault.name());
            sleep(pause).await;
        }
        Ok(())
    }

    /// What is due: those who are frozen go on, those who have ended are started.
    pub async fn tend(&mut self) -> Result<(), Error> {
        self.asked.retain(|asked| !asked.is_finished());
        for process in &mut self.processes {
            if process.thaw(false).await? {
                self.log
                    .write(&json!({ "t": now(), "fault": "recovered", "what": format!("{} goes on", process.name) }));
            }
            if let Some(status) = process.ended()? {
                self.log.write(&json!({ "t": now(), "fault": "ended", "what": format!("{}: {status}", process.name) }));
                eprintln!("{} has ended by itself: {status}", process.name);
                process.start()?;
            }
        }
        Ok(())
    }

    /// As if nothing had ever happened.
    pub async fn peace(&mut self) -> Result<(), Error> {
        if let Some(proxy) = &self.proxy {
            proxy.calm();
        }
        for process in &mut self.processes {
            process.thaw(true).await?;
        }
        let _ = std::fs::remove_file(domain::poison(&self.world.folder));
        // Somebody who puts a table in place and is gone in the middle of it holds its shards for a minute: not that.
        for mut asked in std::mem::take(&mut self.asked) {
            if timeout(RECOVERY, &mut asked).await.is_err() {
                asked.abort();
                let _ = asked.await;
            }
        }
        if let Some(cluster) = &self.cluster {
            cluster.execute("ALTER ROLE postgres RESET ALL").await?;
        }
        for name in PROCESSORS {
            let begun = Instant::now();
            if let Err(error) = Processors::new(&self.store).resume(name).await {
                eprintln!("{name} cannot go on: {error}");
            }
            if begun.elapsed() > Duration::from_secs(2) {
                eprintln!("to let {name} go on took {:?}", begun.elapsed());
            }
        }
        self.tend().await
    }

    /// Waits until events are recorded again.
    async fn recovered(&mut self, fault: Fault) -> Result<(), Error> {
        let begun = Instant::now();
        let mut first = None;
        loop {
            let head = timeout(Duration::from_secs(2), self.store.head()).await;
            if let Ok(Ok(head)) = head {
                let before = *first.get_or_insert(head);
                if head > before {
                    break;
                }
            }
            if begun.elapsed() > RECOVERY {
                self.log.write(&json!({ "t": now(), "fault": "not recovered", "what": fault.name() }));
                return Err(format!("nothing is recorded for {RECOVERY:?}").into());
            }
            self.tend().await?;
            sleep(Duration::from_millis(10)).await;
        }
        let ms = u64::try_from(begun.elapsed().as_millis())?;
        self.log.write(&json!({ "t": now(), "fault": "recovered", "what": fault.name(), "ms": ms }));
        Ok(())
    }

    fn cluster(&self) -> Result<&Cluster, Error> {
        self.cluster.as_ref().ok_or_else(|| "there is no server".into())
    }

    async fn connect(&self) -> Result<PgConnection, Error> {
        Ok(timeout(Duration::from_secs(5), self.cluster()?.connect()).await??)
    }

    /// The sessions of workers, in an order that follows from a number.
    async fn sessions(&self, order: u64, active: bool) -> Result<Vec<(i32, String)>, Error> {
        let sessions = "SELECT pid, application_name || coalesce(': ' || state || ': ' || left(query, 60), '')
             FROM pg_stat_activity
             WHERE backend_type = 'client backend' AND application_name ~ '^w[0-9]' AND (NOT $2 OR state = 'active')
             ORDER BY hashint8(pid + $1)";
        let sessions = sqlx::query_as(sessions).bind((order >> 1).cast_signed()).bind(active);
        Ok(sessions.fetch_all(&mut self.connect().await?).await?)
    }

    async fn inflict(&mut self, fault: Fault, one: u64, two: u64, three: u64) -> Result<(), Error> {
        let name = fault.name();
        let worker = (one % self.processes.len() as u64) as usize;
        let lease = self.world.lease_ms;
        match fault {
            Kill => {
                let process = &mut self.processes[worker];
                let who = process.name.clone();
                process.kill().await?;
                self.say(&name, &who);
                sleep(Duration::from_millis(two % 300)).await;
                self.processes[worker].start()?;
            }
            Freeze => {
                let free = |process: &Process| process.is_running() && !process.is_frozen();
                let frozen = self.processes.iter().filter(|process| process.is_frozen()).count();
                if !free(&self.processes[worker]) || frozen + 1 >= self.processes.len().max(2) {
                    return Ok(());
                }
                let length = Duration::from_millis(lease / 2 + two % (3 * lease));
                self.processes[worker].freeze(length).await?;
                let who = self.processes[worker].name.clone();
                self.say(&name, &format!("{who} for {length:?}"));
            }
            Stop => {
                self.processes[worker].thaw(true).await?;
                let stopped = self.processes[worker].stop(Duration::from_secs(15)).await?;
                let who = self.processes[worker].name.clone();
                self.say(&name, &format!("{who}{}", if stopped { "" } else { ": not within 15 s, killed" }));
                self.processes[worker].start()?;
            }
            Terminate | TerminateAll | Cancel => {
                let mut sessions = self.sessions(one, fault == Cancel).await?;
                if fault != TerminateAll {
                    sessions.truncate(1 + (two % 3) as usize);
                }
                let function = if fault == Cancel { "pg_cancel_backend" } else { "pg_terminate_backend" };
                let pids: Vec<i32> = sessions.iter().map(|(pid, _)| *pid).collect();
                let sql = format!("SELECT {function}(pid) FROM unnest($1) AS pid");
                sqlx::query(AssertSqlSafe(sql)).bind(pids).execute(&mut self.connect().await?).await?;
                let who: Vec<_> = sessions.into_iter().map(|(_, who)| who).collect();
                self.say(&name, &who.join(", "));
            }
            BackendKill => {
                let sessions = self.sessions(one, two.is_multiple_of(2)).await?;
                let Some((pid, who)) = sessions.into_iter().next() else { return Ok(()) };
                let mut witness = self.connect().await?;
                signal(u32::try_from(pid)?, "KILL").await?;
                self.say(&name, &who);
                // All sessions end when the server notices.
                let ended = async { while witness.ping().await.is_ok() {} };
                timeout(Duration::from_secs(5), ended).await?;
                self.recovered(fault).await?;
            }
            Restart => {
                self.say(&name, "immediate");
                let cluster = self.cluster()?;
                cluster.crash().await?;
                sleep(Duration::from_millis(two % 500)).await;
                cluster.start().await?;
                self.recovered(fault).await?;
            }
            Cut | HalfCut => {
                if let Some(proxy) = &self.proxy {
                    proxy.cut(fault == HalfCut);
                }
                self.say(&name, "all");
            }
            LoseReplies => {
                let (replies, late) = (1 + two % 16, three.is_multiple_of(2));
                let Some(proxy) = self.proxy.clone() else { return Ok(()) };
                let before = proxy.lost();
                let flag = domain::poison(&self.world.folder);
                // Commits that park something, and then those that take it in.
                if late && !std::fs::exists(&flag)? {
                    std::fs::write(&flag, "")?;
                    lose_replies(&proxy, replies, late).await;
                    std::fs::remove_file(&flag)?;
                    self.retry();
                }
                lose_replies(&proxy, replies, late).await;
                let what = if late { "commits came late" } else { "lost" };
                self.say(&name, &format!("{} {what}", proxy.lost() - before));
            }
            Stall | BlackHole | Delay => {
                let Some(proxy) = self.proxy.clone() else { return Ok(()) };
                let length = Duration::from_millis(200 + two % (3 * lease));
                let late = Duration::from_millis(2 + three % 60);
                self.say(
                    &name,
                    &if fault == Delay { format!("{late:?} for {length:?}") } else { format!("{length:?}") },
                );
                if fault == Delay {
                    proxy.delay(late);
                } else {
                    proxy.black(true);
                }
                sleep(length).await;
                if fault == BlackHole {
                    proxy.cut(three.is_multiple_of(2));
                }
                proxy.calm();
            }
            Exhaust => {
                let mut taken = vec![];
                while let Ok(Ok(connection)) = timeout(Duration::from_secs(1), self.cluster()?.connect()).await {
                    taken.push(connection);
                }
                // Whoever needs a new one now has none.
                if let Some(proxy) = self.proxy.as_ref().filter(|_| two.is_multiple_of(2)) {
                    proxy.cut(false);
                }
                self.say(&name, &format!("{} taken", taken.len()));
                sleep(Duration::from_millis(500 + three % 1_500)).await;
            }
            HoldAppends => {
                let mut connection = self.connect().await?;
                let mut holding = connection.begin().await?;
                let hold = format!("LOCK TABLE {}.append_lock IN SHARE UPDATE EXCLUSIVE MODE", self.world.schema);
                sqlx::query(AssertSqlSafe(hold)).execute(&mut *holding).await?;
                let length = Duration::from_millis(300 + two % 1_700);
                self.say(&name, &format!("{length:?}"));
                sleep(length).await;
                holding.rollback().await?;
            }
            LockCheckpoints => {
                let schema = self.world.schema.clone();
                let shards = format!("SELECT projection, from_slot FROM {schema}.checkpoints ORDER BY 1 DESC, 2 DESC");
                let mut connection = self.connect().await?;
                let shards: Vec<(String, i32)> =
                    sqlx::query_as(AssertSqlSafe(shards)).fetch_all(&mut connection).await?;
                self.say(&name, &format!("{} one by one, backwards", shards.len()));
                let mut holding = connection.begin().await?;
                let lock =
                    format!("SELECT FROM {schema}.checkpoints WHERE projection = $1 AND from_slot = $2 FOR UPDATE");
                for (projection, slot) in shards {
                    let lock = sqlx::query(AssertSqlSafe(lock.clone())).bind(projection).bind(slot);
                    // Whose deadlock it is, the server decides.
                    if !matches!(timeout(Duration::from_secs(3), lock.execute(&mut *holding)).await, Ok(Ok(_))) {
                        break;
                    }
                    sleep(Duration::from_millis(two % 150)).await;
                }
            }
            Deadlock => {
                let schema = self.world.schema.clone();
                let mut connection = self.connect().await?;
                let mut holding = connection.begin().await?;
                let sql = format!("SET LOCAL deadlock_timeout = '10s'; LOCK TABLE {schema}.business IN EXCLUSIVE MODE");
                sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut *holding).await?;
                self.say(&name, "the table `business` first, the lock of appends then");
                sleep(Duration::from_millis(100 + two % 400)).await;
                let lock = format!("LOCK TABLE {schema}.append_lock IN SHARE UPDATE EXCLUSIVE MODE");
                let _ = timeout(Duration::from_secs(4), sqlx::query(AssertSqlSafe(lock)).execute(&mut *holding)).await;
            }
            OddSessions => {
                const ODD: [&str; 5] = [
                    "default_transaction_isolation = 'serializable'",
                    "default_transaction_isolation = 'repeatable read'",
                    "synchronous_commit = off",
                    "default_transaction_read_only = on",
                    "lock_timeout = '20ms'",
                ];
                let odd = ODD[(two % 5) as usize];
                let cluster = self.cluster()?;
                cluster.execute(&format!("ALTER ROLE postgres SET {odd}")).await?;
                if let Some(proxy) = &self.proxy {
                    proxy.cut(false);
                }
                self.say(&name, odd);
                sleep(Duration::from_millis(500 + three % 2_000)).await;
                self.cluster()?.execute("ALTER ROLE postgres RESET ALL").await?;
                if let Some(proxy) = &self.proxy {
                    proxy.cut(false);
                }
            }
            Poison => {
                let flag = domain::poison(&self.world.folder);
                if std::fs::exists(&flag)? {
                    std::fs::remove_file(flag)?;
                    self.say("no poison", "");
                    self.retry();
                } else {
                    std::fs::write(flag, "")?;
                    self.say(&name, "");
                }
            }
            Retry => {
                self.say(&name, "all");
                self.retry();
            }
            Reshard => {
                let (projection, few) = (PROCESSORS[(two % 7) as usize], 1 + (three % 3) as u16);
                self.say(&name, &format!("{projection} 8, and then {few}"));
                let holder = match self.world.store {
                    Log::Postgres => Some((self.connect().await?, self.world.schema.clone())),
                    Log::Sqlite => None,
                };
                let (projections, log) = (Processors::new(&self.store), self.log.clone());
                self.asked.push(tokio::spawn(async move {
                    let mut done = projections.reshard(projection, 8).await;
                    if done.is_ok() {
                        sleep(Duration::from_millis(200 + one % 500)).await;
                        done = join(&projections, projection, few, holder).await;
                    }
                    let what = format!("reshard {projection}: {}", came(done));
                    log.write(&json!({ "t": now(), "fault": "recovered", "what": what }));
                }));
            }
            Rebuild => {
                let projection = PROCESSORS[(two % 3) as usize];
                self.say(&name, projection);
                let (projections, log) = (Processors::new(&self.store), self.log.clone());
                self.asked.push(tokio::spawn(async move {
                    let done = timeout(Duration::from_secs(120), rebuild(&projections, projection)).await;
                    let done = done.map_or_else(|_| "not within 120 s".into(), came);
                    log.write(
                        &json!({ "t": now(), "fault": "recovered", "what": format!("rebuild {projection}: {done}") }),
                    );
                }));
            }
            Pause => {
                let projection = PROCESSORS[(two % 7) as usize];
                let projections = Processors::new(&self.store);
                projections.pause(projection).await?;
                self.say(&name, projection);
                sleep(Duration::from_millis(three % 1_000)).await;
                while let Err(error) = projections.resume(projection).await {
                    if !error.is_retryable() {
                        return Err(error.into());
                    }
                    sleep(Duration::from_millis(50)).await;
                }
            }
            DiskFull => {
                let length = Duration::from_millis(500 + two % 2_000);
                if !self.cluster()?.fill_disk(length).await? {
                    return Ok(());
                }
                self.say(&name, &format!("{length:?}"));
                self.recovered(fault).await?;
            }
            FailOver => {
                let Some(mut cluster) = self.cluster.take() else { return Ok(()) };
                let done = self.fail_over(&mut cluster).await;
                self.cluster = Some(cluster);
                done?;
            }
        }
        Ok(())
    }

    /// To a standby that has everything that was acknowledged.
    async fn fail_over(&mut self, cluster: &mut Cluster) -> Result<(), Error> {
        if !cluster.standby {
            cluster.follow(true).await?;
        }
        let begun = Instant::now();
        while !cluster.is_synchronous().await {
            if begun.elapsed() > Duration::from_secs(20) {
                return Err("the standby does not follow".into());
            }
            sleep(Duration::from_millis(50)).await;
        }
        // It is to be of use for a while.
        sleep(Duration::from_millis(self.dice.clone().roll(1_500))).await;
        self.say(&FailOver.name(), "failover to the synchronous standby");
        cluster.fail_over().await?;
        if let Some(proxy) = &self.proxy {
            proxy.cut(false);
        }
        self.recovered(FailOver).await
    }

    /// What waits is tried again, beside.
    fn retry(&mut self) {
        let projections = Processors::new(&self.store);
        self.asked.push(tokio::spawn(async move {
            for name in PROCESSORS {
                let _ = timeout(Duration::from_secs(20), projections.dead_letters(name).retry_all()).await;
            }
        }));
    }
}

/// Loses some replies, if so many come within half a second.
async fn lose_replies(proxy: &Proxy, replies: u64, late: bool) {
    let before = proxy.lost();
    proxy.lose_replies(replies, late);
    for _ in 0..100 {
        if proxy.lost() >= before + replies {
            break;
        }
        sleep(Duration::from_millis(5)).await;
    }
    proxy.lose_replies(0, false);
}

fn came(done: Result<(), StoreError>) -> String {
    done.map_or_else(|error| error.to_string(), |()| "done".into())
}

/// Asks until the store is there.
macro_rules! again {
    ($ask:expr) => {
        loop {
            match $ask.await {
                Err(error) if error.is_retryable() => sleep(Duration::from_millis(100)).await,
                answer => break answer,
            }
        }
    };
}

/// Makes a few shards of many. One of them is held where it is, if it can be, and the others go on: they are at different
/// positions when they are to become one.
async fn join(
    projections: &Processors,
    projection: &str,
    few: u16,
    holder: Option<(PgConnection, String)>,
) -> Result<(), StoreError> {
    let Some((mut connection, schema)) = holder else { return projections.reshard(projection, few).await };
    let hold = format!("SELECT FROM {schema}.checkpoints WHERE projection = $1 ORDER BY from_slot LIMIT 1 FOR UPDATE");
    let hold = sqlx::query(AssertSqlSafe(hold)).bind(projection);
    let holding = async {
        let mut holding = connection.begin().await?;
        hold.execute(&mut *holding).await?;
        Ok::<_, sqlx::Error>(holding)
    };
    let holding = timeout(Duration::from_secs(3), holding).await;
    sleep(Duration::from_millis(400)).await;
    let let_go = async {
        sleep(Duration::from_millis(20)).await;
        if let Ok(Ok(holding)) = holding {
            let _ = holding.rollback().await;
        }
    };
    tokio::join!(projections.reshard(projection, few), let_go).0
}

/// Builds a table again beside the one there is, and puts it in its place.
async fn rebuild(projections: &Processors, name: &str) -> Result<(), StoreError> {
    let rebuild = again!(projections.rebuild(name))?;
    again!(rebuild.wait())?;
    again!(projections.promote(name))?;
    again!(projections.discard(rebuild.name()))
}
