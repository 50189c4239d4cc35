//! The worker processes: started, killed, frozen, thawed, started again.

use std::{
    fs::OpenOptions,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use tokio::process::{Child, Command};

use crate::Error;

/// One of them, through all its starts.
pub struct Process {
    pub name: String,
    program: PathBuf,
    folder: PathBuf,
    starts: u64,
    child: Option<Child>,
    thaws: Option<Instant>,
}

impl Process {
    pub fn new(name: String, program: &Path, folder: &Path) -> Self {
        Self { name, program: program.into(), folder: folder.into(), starts: 0, child: None, thaws: None }
    }

    pub fn start(&mut self) -> Result<(), Error> {
        let said = self.folder.join("workers").join(format!("{}.log", self.name));
        let said = OpenOptions::new().create(true).append(true).open(said)?;
        let mut command = Command::new(&self.program);
        command.arg("worker").arg(&self.folder).arg(&self.name).arg(self.starts.to_string());
        command.stdin(Stdio::piped()).stdout(said.try_clone()?).stderr(said).kill_on_drop(true);
        // What a terminal sends is for the one that started it.
        command.process_group(0);
        self.child = Some(command.spawn()?);
        self.starts += 1;
        Ok(())
    }

    /// How it ended, if it did so by itself.
    pub fn ended(&mut self) -> Result<Option<String>, Error> {
        let Some(child) = &mut self.child else { return Ok(None) };
        let ended = child.try_wait()?;
        if ended.is_some() {
            (self.child, self.thaws) = (None, None);
        }
        Ok(ended.map(|status| status.to_string()))
    }

    pub fn is_running(&self) -> bool {
        self.child.is_some()
    }

    /// kill -9.
    pub async fn kill(&mut self) -> Result<(), Error> {
        self.thaws = None;
        if let Some(mut child) = self.child.take() {
            child.kill().await?;
        }
        Ok(())
    }

    pub fn is_frozen(&self) -> bool {
        self.thaws.is_some()
    }

    pub async fn freeze(&mut self, length: Duration) -> Result<(), Error> {
        self.signal("STOP").await?;
        self.thaws = Some(Instant::now() + length);
        Ok(())
    }

    /// Goes on, if it is time; or anyway.
    pub async fn thaw(&mut self, anyway: bool) -> Result<bool, Error> {
        let due = self.thaws.is_some_and(|thaws| anyway || thaws <= Instant::now());
        if due {
            self.thaws = None;
            self.signal("CONT").await?;
        }
        Ok(due)
    }

    async fn signal(&self, name: &str) -> Result<(), Error> {
        if let Some(id) = self.child.as_ref().and_then(Child::id) {
            signal(id, name).await?;
        }
        Ok(())
    }

    /// Ends after what is at hand. Says whether it did in time.
    pub async fn stop(&mut self, patience: Duration) -> Result<bool, Error> {
        let Some(mut child) = self.child.take() else { return Ok(true) };
        drop(child.stdin.take());
        let ended = tokio::time::timeout(patience, child.wait()).await;
        if ended.is_err() {
            child.kill().await?;
        }
        Ok(ended.is_ok())
    }
}

/// Sends a signal to a process, which may have ended.
pub async fn signal(process: u32, name: &str) -> Result<(), Error> {
    let mut kill = Command::new("kill");
    kill.arg(format!("-{name}")).arg(process.to_string()).stderr(Stdio::null());
    kill.status().await?;
    Ok(())
}
