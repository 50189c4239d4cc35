//! Lines of JSON that survive a kill: each goes out in one write.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    path::Path,
    sync::OnceLock,
    time::{SystemTime, UNIX_EPOCH},
};

use rustix::time::ClockId;
use serde::Serialize;
use serde_json::Value as Json;

/// What the clock that is never set back lacks to the time of day.
static OFFSET: OnceLock<u64> = OnceLock::new();

fn monotonic() -> u64 {
    let since = rustix::time::clock_gettime(ClockId::Monotonic);
    u64::try_from(since.tv_sec * 1_000_000 + since.tv_nsec / 1_000).expect("since the start of the machine")
}

/// Microseconds since 1970, as the time of day was when the run began and as the monotonic clock has gone on since.
pub fn now() -> u64 {
    offset() + monotonic()
}

/// For the other processes of the run.
pub fn offset() -> u64 {
    *OFFSET.get_or_init(|| {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
        u64::try_from(since.as_micros()).expect("before the year 586524") - monotonic()
    })
}

/// The same clock as in another process of the run.
pub fn set_offset(offset: u64) {
    let _ = OFFSET.set(offset);
}

/// A file of such lines, to be added to.
pub struct Lines(File);

impl Lines {
    /// Opens it. A line that a kill has torn ends here, and is none.
    pub fn open(path: &Path) -> io::Result<Self> {
        let mut file = OpenOptions::new().create(true).read(true).append(true).open(path)?;
        if file.seek(SeekFrom::End(0))? > 0 {
            file.seek(SeekFrom::End(-1))?;
            let mut last = [0];
            file.read_exact(&mut last)?;
            if last != *b"\n" {
                file.write_all(b"\n")?;
            }
        }
        Ok(Self(file))
    }

    /// Adds a line.
    pub fn write(&self, line: &impl Serialize) {
        self.write_all(std::slice::from_ref(line));
    }

    /// Adds lines, all in one write. What cannot be written down must not be done: then the process ends.
    pub fn write_all(&self, lines: &[impl Serialize]) {
        let mut bytes = vec![];
        for line in lines {
            serde_json::to_writer(&mut bytes, line).expect("JSON of our own");
            bytes.push(b'\n');
        }
        if let Err(error) = (&self.0).write_all(&bytes) {
            eprintln!("cannot write the log of a client: {error}");
            std::process::abort();
        }
    }
}

/// The last lines of a file, of its last 256 KiB.
pub fn tail(path: &Path) -> io::Result<Vec<Json>> {
    let mut file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
        file => file?,
    };
    let length = file.seek(SeekFrom::End(0))?;
    file.seek(SeekFrom::Start(length.saturating_sub(256 << 10)))?;
    let mut bytes = vec![];
    file.read_to_end(&mut bytes)?;
    Ok(bytes.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect())
}
