//! A PostgreSQL cluster of the run's own, that keeps what it is given, and its standby.

use std::{
    io::Write,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use eventstore::sqlx::{
    self, AssertSqlSafe, ConnectOptions, PgConnection,
    postgres::{PgConnectOptions, PgSslMode},
};
use tokio::{
    process::{Child, Command},
    time::sleep,
};

use crate::Error;

/// How long the server may take to do anything.
const PATIENCE: Duration = Duration::from_secs(30);

/// Nobody flushes the log in the background: what was not waited for is lost with the server.
const OPTIONS: &str = "-c fsync=on -c full_page_writes=on -c max_connections=70 -c shared_buffers=256MB \
    -c wal_level=replica -c max_wal_senders=6 -c wal_keep_size=256MB -c max_wal_size=1GB -c checkpoint_timeout=120s \
    -c wal_writer_delay=10s -c wal_writer_flush_after=1GB \
    -c hot_standby=on -c wal_retrieve_retry_interval=100ms -c idle_in_transaction_session_timeout=8s \
    -c log_min_messages=log -c log_min_error_statement=panic -c log_line_prefix='%m [%p] %a ' -c restart_after_crash=on -c listen_addresses=''";

/// Two servers, of which one is the primary; `server` in the folder of the run is a link to the folder of its socket.
pub struct Cluster {
    folder: PathBuf,
    bin: PathBuf,
    /// Whom the server runs as, where it may not run as us.
    owner: Option<String>,
    primary: char,
    /// Whether the other one follows.
    pub standby: bool,
    /// Whether both are on a small disk of their own, in memory.
    small: bool,
    /// Ends what this process leaves, if it cannot do so itself.
    watch: Option<Child>,
}

impl Cluster {
    /// The cluster of a run that was, or is to be.
    pub async fn at(folder: &Path) -> Result<Self, Error> {
        let above = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
        let script = above.map(|folder| folder.join("scripts/postgres")).find(|script| script.is_file());
        let bin = Command::new(script.ok_or("scripts/postgres is not there")?).arg("bin").output().await?;
        if !bin.status.success() {
            return Err(String::from_utf8_lossy(&bin.stderr).into_owned().into());
        }
        let bin = PathBuf::from(String::from_utf8(bin.stdout)?.trim());
        let root = said("id", &["-u"]).await? == "0";
        let owner = match root {
            true if said("id", &["-u", "postgres"]).await.is_ok() => Some("postgres".into()),
            true => Some("nobody".into()),
            false => None,
        };
        let there = std::fs::read_link(folder.join("server")).ok();
        let primary = if there.is_some_and(|there| there.ends_with("b")) { 'b' } else { 'a' };
        Ok(Self { folder: folder.into(), bin, owner, primary, standby: false, small: false, watch: None })
    }

    /// Makes the primary, and starts it: on a disk that can be filled, if that is wanted and allowed.
    pub async fn create(&mut self, small: bool) -> Result<bool, Error> {
        self.watch()?;
        let disk = self.folder.join("pg");
        std::fs::create_dir(&disk)?;
        if small {
            let disk = disk.display().to_string();
            self.small = said("mount", &["-t", "tmpfs", "-o", "size=3g,mode=755", "tmpfs", &disk]).await.is_ok();
        }
        for side in ['a', 'b'] {
            let folder = self.socket(side);
            std::fs::create_dir_all(&folder)?;
            std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o755))?;
            if let Some(owner) = &self.owner {
                said("chown", &[owner, &folder.display().to_string()]).await?;
            }
        }
        let data = self.data('a').display().to_string();
        self.run("initdb", &["-D", &data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"])
            .await?;
        self.lead('a')?;
        self.start().await?;
        Ok(self.small)
    }

    /// From now on the servers and the observer end with this process, however it ends. The small disk is given back then,
    /// and what was on it is gone.
    pub fn watch(&mut self) -> Result<(), Error> {
        // Its input ends when nobody holds the other end of the pipe. A server that was just being started has its file
        // a second later.
        const WATCH: &str = "read _
            touch \"$0/ended\"
            for n in $(seq 120); do
                sleep 1
                for server in \"$0\"/pg/*/data/postmaster.pid; do kill -QUIT $(head -n 1 \"$server\"); done
                umount \"$0/pg\"
                ls \"$0\"/pg/*/data/postmaster.pid || mountpoint -q \"$0/pg\" || break
            done";
        let mut watch = Command::new("sh");
        watch.args(["-c", WATCH]).arg(&self.folder).process_group(0).current_dir("/");
        self.watch = Some(watch.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?);
        Ok(())
    }

    /// Where the socket of a server is; its data is below.
    fn socket(&self, side: char) -> PathBuf {
        self.folder.join("pg").join(side.to_string())
    }

    fn data(&self, side: char) -> PathBuf {
        self.socket(side).join("data")
    }

    /// The folder everybody finds the primary's socket in.
    pub fn server(&self) -> PathBuf {
        self.folder.join("server")
    }

    fn lead(&mut self, side: char) -> Result<(), Error> {
        let new = self.folder.join("server.new");
        let _ = std::fs::remove_file(&new);
        symlink(self.socket(side), &new)?;
        std::fs::rename(new, self.server())?;
        self.primary = side;
        Ok(())
    }

    fn other(&self) -> char {
        if self.primary == 'a' { 'b' } else { 'a' }
    }

    async fn run(&self, program: &str, arguments: &[&str]) -> Result<(), Error> {
        let program = self.bin.join(program);
        let mut command = match &self.owner {
            Some(owner) => {
                let mut command = Command::new("setpriv");
                command.args(["--reuid", owner, "--regid", owner, "--clear-groups", "--"]).arg(&program);
                command
            }
            None => Command::new(&program),
        };
        command.args(arguments).current_dir("/").stdin(Stdio::null()).stdout(Stdio::null());
        // The server keeps what it inherits: a pipe would never end.
        let errors = self.folder.join("workers").join("programs.log");
        let errors = std::fs::OpenOptions::new().create(true).append(true).open(errors)?;
        let status = command.stderr(errors).status().await?;
        if status.success() { Ok(()) } else { Err(format!("{} {arguments:?}: {status}", program.display()).into()) }
    }

    async fn pg_ctl(&self, side: char, arguments: &[&str]) -> Result<(), Error> {
        let data = self.data(side).display().to_string();
        let mut all = vec!["-D", &data, "-w", "-t", "60"];
        all.extend(arguments);
        self.run("pg_ctl", &all).await
    }

    async fn launch(&self, side: char) -> Result<(), Error> {
        let socket = self.socket(side);
        let options = format!("{OPTIONS} -k {}", socket.display());
        self.pg_ctl(side, &["-l", &socket.join("log").display().to_string(), "-o", &options, "start"]).await
    }

    /// Starts the primary.
    pub async fn start(&self) -> Result<(), Error> {
        self.launch(self.primary).await
    }

    /// Stops the primary as a crash would.
    pub async fn crash(&self) -> Result<(), Error> {
        self.pg_ctl(self.primary, &["-m", "immediate", "stop"]).await
    }

    /// Stops all there is, forgives what cannot be stopped, and gives the small disk back. What was on it stays, if it is
    /// wanted.
    pub async fn end(&mut self, keep: bool) -> Result<(), Error> {
        for side in [self.other(), self.primary] {
            if self.data(side).join("postmaster.pid").exists() {
                let _ = self.pg_ctl(side, &["-m", "fast", "-t", "20", "stop"]).await;
            }
        }
        self.unmount(keep).await?;
        // Whoever starts a server in this folder from now on is no concern of it.
        if let Some(mut watch) = self.watch.take() {
            watch.kill().await?;
        }
        Ok(())
    }

    /// Nothing more can be written for a while; false if there is no disk that may be filled.
    pub async fn fill_disk(&self, length: Duration) -> Result<bool, Error> {
        if !self.small {
            return Ok(false);
        }
        let ballast = self.folder.join("pg/ballast");
        let free = said("df", &["--output=avail", "-B1", &ballast.with_file_name("").display().to_string()]).await?;
        let free: u64 = free.lines().last().unwrap_or("0").trim().parse()?;
        // Whatever the server leaves meanwhile is taken too.
        let most = free.saturating_sub(64 << 20).to_string();
        said("fallocate", &["-l", &most, &ballast.display().to_string()]).await?;
        let mut rest = std::fs::OpenOptions::new().append(true).open(&ballast)?;
        let (begun, block) = (Instant::now(), [0; 65_536]);
        while begun.elapsed() < length {
            if rest.write_all(&block).is_err() {
                sleep(Duration::from_millis(1)).await;
            }
        }
        // An open file takes its place until it is closed.
        drop(rest);
        std::fs::remove_file(&ballast)?;
        // If it could not write its log, it has crashed, and perhaps ended.
        let begun = Instant::now();
        while self.connect().await.is_err() {
            if begun.elapsed() > Duration::from_secs(2) {
                let _ = self.crash().await;
                self.start().await?;
            }
            sleep(Duration::from_millis(50)).await;
        }
        Ok(true)
    }

    async fn unmount(&mut self, keep: bool) -> Result<(), Error> {
        if !std::mem::take(&mut self.small) {
            return Ok(());
        }
        let (pg, kept) = (self.folder.join("pg").display().to_string(), self.folder.join("pg.kept"));
        if keep {
            said("cp", &["-a", &pg, &kept.display().to_string()]).await?;
        }
        // A process of the server may still be on its way out.
        let begun = Instant::now();
        while let Err(error) = said("umount", &[&pg]).await {
            if begun.elapsed() > Duration::from_secs(10) {
                return Err(error);
            }
            sleep(Duration::from_millis(100)).await;
        }
        if keep {
            std::fs::remove_dir(&pg)?;
            std::fs::rename(kept, &pg)?;
        }
        Ok(())
    }

    /// The standby sees nothing more of the primary.
    pub async fn leave_behind(&mut self) -> Result<(), Error> {
        self.pg_ctl(self.other(), &["-m", "fast", "stop"]).await
    }

    /// The primary is gone for good, and what the standby has not seen with it.
    pub async fn fall_back(&mut self) -> Result<(), Error> {
        let (old, new) = (self.primary, self.other());
        self.pg_ctl(old, &["-m", "immediate", "stop"]).await?;
        self.standby = false;
        self.launch(new).await?;
        self.pg_ctl(new, &["promote"]).await?;
        self.lead(new)
    }

    /// A connection to the primary, past the proxy.
    pub async fn connect(&self) -> Result<PgConnection, sqlx::Error> {
        let options = PgConnectOptions::new_without_pgpass().host(&self.server().display().to_string()).port(5432);
        let options = options.username("postgres").database("postgres").ssl_mode(PgSslMode::Disable);
        // Whatever the role's defaults are just now.
        options.application_name("chaos").options([("default_transaction_read_only", "off")]).connect().await
    }

    /// One statement, as soon as the server takes it.
    pub async fn execute(&self, sql: &str) -> Result<(), Error> {
        let start = Instant::now();
        loop {
            let done = async { sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut self.connect().await?).await };
            match done.await {
                Ok(_) => return Ok(()),
                Err(error) if start.elapsed() > PATIENCE => return Err(error.into()),
                Err(_) => sleep(Duration::from_millis(50)).await,
            }
        }
    }

    /// Makes the other server a standby; if `strict`, the primary waits for it at each commit.
    pub async fn follow(&mut self, strict: bool) -> Result<(), Error> {
        let (side, start) = (self.other(), Instant::now());
        if self.data(side).join("postmaster.pid").exists() {
            let _ = self.pg_ctl(side, &["-m", "immediate", "stop"]).await;
        }
        let (data, primary) = (self.data(side), self.socket(self.primary).display().to_string());
        if data.exists() {
            std::fs::remove_dir_all(&data)?;
        }
        let data = data.display().to_string();
        // A server that is crashed meanwhile is asked again.
        while let Err(error) = self
            .run(
                "pg_basebackup",
                &["-h", &primary, "-U", "postgres", "-D", &data, "-R", "-X", "stream", "-c", "fast", "--no-sync"],
            )
            .await
        {
            if start.elapsed() > 2 * PATIENCE {
                return Err(error);
            }
            let _ = std::fs::remove_dir_all(&data);
            sleep(Duration::from_millis(200)).await;
        }
        self.launch(side).await?;
        self.standby = true;
        if strict {
            self.execute("ALTER SYSTEM SET synchronous_standby_names = '*'").await?;
            self.execute("SELECT pg_reload_conf()").await?;
        }
        Ok(())
    }

    /// Whether what the primary acknowledges is on the standby too.
    pub async fn is_synchronous(&self) -> bool {
        let sync =
            "SELECT count(*) FROM pg_stat_replication WHERE sync_state IN ('sync', 'quorum') AND state = 'streaming'";
        let Ok(mut connection) = self.connect().await else { return false };
        sqlx::query_scalar::<_, i64>(sync).fetch_one(&mut connection).await.is_ok_and(|standbys| standbys > 0)
    }

    /// The primary crashes, and the standby is the primary from then on.
    pub async fn fail_over(&mut self) -> Result<(), Error> {
        let (old, new) = (self.primary, self.other());
        self.pg_ctl(old, &["-m", "immediate", "stop"]).await?;
        self.standby = false;
        self.pg_ctl(new, &["promote"]).await?;
        self.lead(new)?;
        // It waits for no standby before it has one.
        self.execute("ALTER SYSTEM RESET synchronous_standby_names").await?;
        self.execute("SELECT pg_reload_conf()").await
    }
}

/// What a program says.
async fn said(program: &str, arguments: &[&str]) -> Result<String, Error> {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output().await?;
    if !output.status.success() {
        return Err(format!("{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}
