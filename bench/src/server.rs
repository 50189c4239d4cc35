//! A PostgreSQL of its own, that keeps what it is given: fsync and synchronous_commit are on.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

/// A throwaway server; stopped when dropped.
pub struct Server {
    folder: TempDir,
    script: PathBuf,
    pub url: String,
}

impl Server {
    /// Starts it. On a slow disk a flush takes a millisecond: emulated, by waiting that long before each.
    pub fn start(slow_disk: bool) -> Result<Self, Box<dyn std::error::Error>> {
        let above = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
        let script = above.map(|folder| folder.join("scripts/postgres")).find(|script| script.is_file());
        let script = script.ok_or("scripts/postgres is not there")?;
        let folder = tempfile::Builder::new().prefix("eventstore-bench").tempdir()?;
        #[cfg(unix)]
        std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        let slow = if slow_disk { "-c commit_delay=1000 -c commit_siblings=0" } else { "" };
        let options = format!(
            "-c fsync=on -c full_page_writes=on -c shared_buffers=1GB -c checkpoint_timeout=30min -c max_wal_size=16GB {slow}"
        );
        let started = Command::new(&script)
            .args(["for", &std::process::id().to_string()])
            .env("TMPDIR", folder.path())
            .env("POSTGRES_OPTIONS", options)
            .output()?;
        if !started.status.success() {
            return Err(String::from_utf8_lossy(&started.stderr).into_owned().into());
        }
        Ok(Self { folder, script, url: String::from_utf8(started.stdout)?.trim().to_owned() })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = Command::new(&self.script).arg("stop").env("TMPDIR", self.folder.path()).status();
    }
}
