//! Two releases of a program over one log, each a process: started and stopped in every order that a deployment has.

use std::{
    collections::BTreeMap,
    error::Error,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

type Any = Box<dyn Error>;

/// How long a node may take to say what it is expected to say.
const PATIENCE: Duration = Duration::from_secs(60);

/// The programs, and where they keep everything.
pub struct Deployment {
    pub releases: [PathBuf; 2],
    /// The URL of the store.
    pub store: String,
    /// The schema, on PostgreSQL.
    pub schema: String,
    /// Where letters go to.
    pub letters: PathBuf,
}

/// A process that runs the read models and the subscription of a release.
struct Node {
    name: String,
    child: Child,
    /// What each of them does, as it has said last.
    does: Arc<Mutex<BTreeMap<String, String>>>,
}

impl Deployment {
    fn command(&self, release: usize, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.releases[release - 1]);
        command.args(arguments).env("STORE", &self.store).env("SCHEMA", &self.schema).env("LETTERS", &self.letters);
        command
    }

    fn run(&self, release: usize, arguments: &[&str]) -> Result<(), Any> {
        let said = self.command(release, arguments).output()?;
        let (out, error) = (String::from_utf8_lossy(&said.stdout), String::from_utf8_lossy(&said.stderr));
        if !said.status.success() {
            return Err(format!("release {release} {}: {out}{error}", arguments.join(" ")).into());
        }
        out.lines().for_each(|line| println!("  {line}"));
        Ok(())
    }

    fn write(&self, release: usize, from: i64, to: i64) -> Result<(), Any> {
        println!("a writer of release {release} appends {} events", to - from);
        self.run(release, &["write", &from.to_string(), &to.to_string()])
    }

    fn node(&self, release: usize, name: &str) -> Result<Node, Any> {
        println!("node {name} starts, release {release}");
        let mut command = self.command(release, &["node"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let out = child.stdout.take().ok_or("it says nothing")?;
        let does: Arc<Mutex<BTreeMap<String, String>>> = Arc::default();
        let (said, name) = (does.clone(), name.to_owned());
        let who = name.clone();
        thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                println!("  {who}: {line}");
                if let (Some((processor, does)), Ok(mut said)) = (line.split_once(' '), said.lock()) {
                    said.insert(processor.into(), does.into());
                }
            }
        });
        Ok(Node { name, child, does })
    }
}

impl Node {
    /// Waits until each of these is in this state, with these words in the reason.
    fn expect(&self, processors: &[&str], state: &str) -> Result<(), Any> {
        let start = Instant::now();
        loop {
            let does = self.does.lock().map_err(|_| "a thread panicked")?.clone();
            if processors.iter().all(|name| does.get(*name).is_some_and(|does| does.starts_with(state))) {
                return Ok(());
            }
            if start.elapsed() > PATIENCE {
                return Err(format!("node {}: {processors:?} should be {state}, and are {does:?}", self.name).into());
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Ends it after the batches at hand.
    fn stop(mut self) -> Result<(), Any> {
        println!("node {} stops", self.name);
        drop(self.child.stdin.take());
        let start = Instant::now();
        while self.child.try_wait()?.is_none() {
            if start.elapsed() > PATIENCE {
                return Err(format!("node {} does not stop", self.name).into());
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Nodes are deployed before writers, as they should be; and the release is taken back, and deployed again.
pub fn nodes_first(bank: &Deployment) -> Result<(), Any> {
    println!("\n== nodes first");
    let both = ["balance@1", "letters"];
    let old = bank.node(1, "one")?;
    bank.write(1, 1, 21)?;
    old.expect(&["balance@1", "entries@1", "letters"], "Active")?;
    bank.run(1, &["check"])?;

    // The new node reads more: the old one leaves to it what both have the code of.
    let new = bank.node(2, "two")?;
    old.expect(&both, "Aside")?;
    new.expect(&["balance@1", "entries@2", "letters"], "Active")?;
    bank.write(2, 21, 41)?;
    bank.write(1, 41, 46)?;
    bank.run(2, &["check"])?;
    // What only the old release has the code of cannot go on: a deposit of the new form is newer.
    old.expect(&["entries@1"], "Failed")?;

    // Stopped in the order in which they were started; then the release is taken back.
    old.stop()?;
    bank.write(2, 46, 56)?;
    bank.run(2, &["check"])?;
    new.stop()?;
    let old = bank.node(1, "three")?;
    old.expect(&both, "Failed")?;
    bank.write(1, 56, 61)?;

    // And deployed again: nobody has to say that it may go on.
    let new = bank.node(2, "four")?;
    new.expect(&both, "Active")?;
    old.expect(&both, "Aside")?;
    bank.run(2, &["check"])?;
    // Stopped in the other order.
    new.stop()?;
    old.expect(&both, "Failed")?;
    old.stop()?;
    let new = bank.node(2, "five")?;
    bank.write(2, 61, 66)?;
    bank.run(2, &["check"])?;
    // No program of release 1 is left: the new column can be filled in rows of before.
    println!("an operator has the balances built again");
    bank.run(2, &["rebuild"])?;
    bank.write(2, 66, 71)?;
    bank.run(2, &["check", "whole"])?;
    new.stop()
}

/// Writers are deployed before nodes: the old node passes events of a name that it does not know.
pub fn writers_first(bank: &Deployment) -> Result<(), Any> {
    println!("\n== writers first");
    let old = bank.node(1, "one")?;
    bank.write(1, 1, 11)?;
    old.expect(&["balance@1", "entries@1", "letters"], "Active")?;
    println!("a writer of release 2 appends 6 fees");
    bank.run(2, &["write", "11", "17", "fees"])?;
    bank.write(1, 17, 22)?;
    bank.run(1, &["check"])?;

    // Rows are made anew; of letters, an operator decides.
    let new = bank.node(2, "two")?;
    new.expect(&["balance@1", "entries@2"], "Active")?;
    new.expect(&["letters"], "Failed: `letters` has passed event")?;
    println!("an operator has them handed over");
    bank.run(2, &["deliver"])?;
    new.expect(&["letters"], "Active")?;
    old.expect(&["balance@1", "letters"], "Aside")?;
    bank.write(2, 22, 32)?;
    bank.run(2, &["check"])?;
    new.stop()?;
    old.stop()
}

/// Whether a file is there, said otherwise than by a later error.
pub fn there(path: &Path) -> Result<(), Any> {
    if path.is_file() { Ok(()) } else { Err(format!("{} was not built", path.display()).into()) }
}
