//! Plants bugs, one after the other, and says what catches each.
//!
//! A bug is a patch in `chaos/mutants/`, with a head that says which promises it breaks. It is planted in a clone of
//! what is committed, built there, and run until the checker finds something.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    pin::pin,
    process::Stdio,
    time::{Duration, Instant},
};

use futures::{StreamExt, stream};
use serde::Deserialize;
use tokio::{process::Command, time::timeout};

use crate::{
    Error,
    planted::{Change, plant},
};

/// How long there are faults in the first run of a bug, in seconds: most need no more. All that is left is for the second.
const FIRST: u64 = 10;
/// How long one run may take beside its faults, in seconds, and for each second of them: a bug may keep it from ending.
const PATIENCE: (u64, u64) = (150, 8);
/// Quick to build, and not too slow to run: dependencies are built once.
const PROFILE: &str = "profile.dev.package.'*'.opt-level=1";
/// Between these, the table of the README.
const MARKS: [&str; 2] = ["<!-- what was seen -->\n", "<!-- until here -->\n"];

/// Which bugs.
#[derive(clap::Args)]
pub struct Options {
    /// All, unless some are named.
    names: Vec<String>,
    /// The seed of the first run of each; the second has the next one.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// For how many seconds there are faults, all runs of a bug together.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// How many are built or run at the same time.
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// Not the runs without a bug, which are to find nothing.
    #[arg(long)]
    no_honest: bool,
    /// A folder, not there yet, for everything that the runs leave in which something was found.
    #[arg(long)]
    keep: Option<PathBuf>,
    /// Writes what was seen into the table of `chaos/mutants/README.md`.
    #[arg(long)]
    write: bool,
}

/// A bug to be planted.
struct Mutant {
    name: String,
    /// The promises it breaks, and what the checker may say of it.
    breaks: String,
    expected: String,
    /// How it is run: `smoke`, unless its head says another.
    profile: String,
    /// The test that is to fail, where no run could notice: a binary of `tests/`, and the name.
    test: Option<(String, String)>,
    changes: Vec<Change>,
}

/// What became of a build.
enum Seen {
    /// What the checker found, after how many seconds of which run.
    Caught { found: String, seconds: u64, seed: u64 },
    /// Nothing, in so many seconds of faults.
    Nothing { seconds: u64 },
    /// It could not be tried.
    Failed(String),
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Caught { found, seconds, seed } => write!(f, "{found} | {seconds} s, seed {seed}"),
            Self::Nothing { seconds } => write!(f, "**nothing** | {seconds} s"),
            Self::Failed(why) => write!(f, "**{}** | ", why.lines().next().unwrap_or_default()),
        }
    }
}

/// Whether each was caught, and nothing was found without them.
pub async fn mutants(options: &Options) -> Result<bool, Error> {
    let all = all()?;
    if let Some(unknown) = options.names.iter().find(|name| !all.iter().any(|mutant| mutant.name == **name)) {
        let names: Vec<_> = all.iter().map(|mutant| &*mutant.name).collect();
        return Err(format!("there is no mutant `{unknown}`; there are {}", names.join(", ")).into());
    }
    let wanted = |mutant: &&Mutant| options.names.is_empty() || options.names.contains(&mutant.name);
    let wanted: Vec<_> = all.iter().filter(wanted).collect();
    let runs = wanted.iter().filter(|mutant| mutant.test.is_none());
    let profiles: BTreeSet<_> = runs.map(|mutant| &*mutant.profile).collect();
    let honest = profiles.into_iter().filter(|_| !options.no_honest).map(|profile| (None, profile));
    let planted = wanted.into_iter().map(|mutant| (Some(mutant), &*mutant.profile));
    let tree = Tree::new().await?;
    // One is built after the other, while those before run.
    let built = stream::iter(honest.chain(planted));
    let built = built.then(async |(mutant, profile)| (mutant, profile, tree.plant(mutant, profile).await));
    let seen = built.map(async |(mutant, profile, built)| {
        let seen = match (built, mutant.and_then(|mutant| mutant.test.as_ref())) {
            (Ok(program), Some((_, test))) => see_test(&program, test).await,
            (Ok(program), None) => see(&program, mutant, profile, options).await,
            (Err(error), _) => Err(error),
        };
        (mutant, profile, seen.unwrap_or_else(|error| Seen::Failed(error.to_string())))
    });
    let mut seen = pin!(seen.buffer_unordered(options.jobs.max(1)));
    let (mut good, mut rows) = (true, BTreeMap::new());
    while let Some((mutant, profile, seen)) = seen.next().await {
        let Some(Mutant { name, breaks, expected, .. }) = mutant else {
            println!("| none ({profile}) | | nothing | {seen} |");
            good &= matches!(seen, Seen::Nothing { .. });
            continue;
        };
        good &= matches!(seen, Seen::Caught { .. });
        let row = format!("| {name} | {breaks} | {expected} | {seen} |");
        println!("{row}");
        rows.insert(name.clone(), row);
        if options.write {
            write(&rows, &all)?;
        }
    }
    Ok(good)
}

fn root() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here)
}

/// The bugs there are, by name.
fn all() -> Result<Vec<Mutant>, Error> {
    let mut all = vec![];
    for file in fs::read_dir(root().join("chaos/mutants"))? {
        let patch = file?.path();
        let Some(name) = patch.file_name().and_then(|name| name.to_str()?.strip_suffix(".patch")) else { continue };
        let text = fs::read_to_string(&patch)?;
        let said = |what: &str| {
            let head = text.lines().take_while(|line| !line.starts_with("@@ "));
            head.filter_map(|line| line.strip_prefix(what)).next().map(str::to_owned)
        };
        let lacks = |what: &str| format!("the head of `{name}.patch` lacks `{what}`");
        let breaks = said("Breaks: ").ok_or_else(|| lacks("Breaks"))?;
        let expected = said("Caught by: ").ok_or_else(|| lacks("Caught by"))?;
        let profile = said("Profile: ").unwrap_or_else(|| "smoke".into());
        let test = said("Test: ").map(|test| {
            let (binary, test) = test.split_once(' ').ok_or_else(|| lacks("Test, a binary and a name"))?;
            Ok::<_, Error>((binary.to_owned(), test.to_owned()))
        });
        all.push(Mutant {
            name: name.into(),
            breaks,
            expected,
            profile,
            test: test.transpose()?,
            changes: Change::read(&text).map_err(|error| format!("{name}.patch: {error}"))?,
        });
    }
    all.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(all)
}

/// Puts rows in the place of those with their names, and leaves the others of mutants that there are.
fn write(rows: &BTreeMap<String, String>, all: &[Mutant]) -> Result<(), Error> {
    let path = root().join("chaos/mutants/README.md");
    let text = fs::read_to_string(&path)?;
    let parts = text.split_once(MARKS[0]).and_then(|(before, rest)| {
        let (table, after) = rest.split_once(MARKS[1])?;
        Some((before, table, after))
    });
    let (before, table, after) = parts.ok_or("chaos/mutants/README.md has no marks around its table")?;
    let mut lines: BTreeMap<_, _> =
        table.lines().skip(2).filter_map(|row| Some((row.split(' ').nth(1)?, row))).collect();
    lines.retain(|name, _| all.iter().any(|mutant| mutant.name == *name));
    lines.extend(rows.iter().map(|(name, row)| (&**name, &**row)));
    let head = "| planted bug | breaks | expected | caught by | after |\n| --- | --- | --- | --- | --- |";
    let table: Vec<_> = [head].into_iter().chain(lines.into_values()).collect();
    Ok(fs::write(path, [before, MARKS[0], &table.join("\n"), "\n", MARKS[1], after].concat())?)
}

/// A clone of what is committed. It stays, with what was built in it: the next time, only what is new is built.
struct Tree {
    folder: PathBuf,
    target: PathBuf,
}

impl Tree {
    async fn new() -> Result<Self, Error> {
        let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
        let target = std::path::absolute(target)?.join("mutants");
        let tree = Self { folder: target.join("tree"), target };
        fs::create_dir_all(&tree.target)?;
        if !tree.folder.join(".git").is_dir() {
            let clone = Command::new("git")
                .args(["clone", "--quiet", "--shared", "--no-checkout"])
                .arg(root())
                .arg(&tree.folder)
                .status();
            tree.done("git clone", clone.await?.success())?;
        }
        tree.git(&["fetch", "--quiet", "origin", "HEAD"]).await?;
        tree.git(&["checkout", "--quiet", "--force", "--detach", "FETCH_HEAD"]).await?;
        Ok(tree)
    }

    fn done(&self, what: &str, done: bool) -> Result<(), Error> {
        if done { Ok(()) } else { Err(format!("`{what}` failed in {}", self.folder.display()).into()) }
    }

    async fn git(&self, arguments: &[&str]) -> Result<(), Error> {
        let done = Command::new("git").args(arguments).current_dir(&self.folder).stdout(Stdio::null()).status().await?;
        self.done(&format!("git {}", arguments.join(" ")), done.success())
    }

    /// Builds the program with a bug, or none, and gives where it is.
    async fn plant(&self, mutant: Option<&Mutant>, profile: &str) -> Result<PathBuf, Error> {
        if let Some(Mutant { changes, .. }) = mutant {
            plant(changes, &self.folder, true)?;
        }
        let built = match mutant.and_then(|mutant| mutant.test.as_ref()) {
            Some((binary, _)) => self.build_test(binary).await,
            None => self.build().await,
        };
        self.git(&["checkout", "--quiet", "--force", "."]).await?;
        let programs = self.target.join("planted");
        fs::create_dir_all(&programs)?;
        // Not where another one runs.
        let program = programs.join(format!("{}-{profile}", mutant.map_or("none", |mutant| &mutant.name)));
        fs::copy(built?, &program)?;
        Ok(program)
    }

    async fn build(&self) -> Result<PathBuf, Error> {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut build = Command::new(cargo);
        build.args(["build", "--quiet", "--package", "chaos", "--config", PROFILE]).current_dir(&self.folder);
        let built = build.env("CARGO_TARGET_DIR", &self.target).env("CARGO_INCREMENTAL", "1").output().await?;
        if !built.status.success() {
            eprint!("{}", String::from_utf8_lossy(&built.stderr));
        }
        self.done("cargo build", built.status.success())?;
        Ok(self.target.join("debug/chaos"))
    }
}

impl Tree {
    /// Builds a binary of `tests/`, and gives where it is.
    async fn build_test(&self, binary: &str) -> Result<PathBuf, Error> {
        #[derive(Deserialize)]
        struct Built {
            target: Option<Target>,
            executable: Option<PathBuf>,
        }
        #[derive(Deserialize)]
        struct Target {
            name: String,
        }
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut build = Command::new(cargo);
        build.args(["test", "--quiet", "--package", "eventstore-tests", "--test", binary, "--no-run"]);
        build.args(["--message-format", "json", "--config", PROFILE]).current_dir(&self.folder);
        let built = build.env("CARGO_TARGET_DIR", &self.target).env("CARGO_INCREMENTAL", "1").output().await?;
        self.done("cargo test --no-run", built.status.success())?;
        let said = String::from_utf8_lossy(&built.stdout);
        let of_binary = |built: &Built| built.target.as_ref().is_some_and(|target| target.name == binary);
        let built = said.lines().filter_map(|line| serde_json::from_str::<Built>(line).ok());
        let program = built.filter(of_binary).find_map(|built| built.executable);
        program.ok_or_else(|| format!("cargo has built no test `{binary}`").into())
    }
}

/// Runs a test, which is to fail.
async fn see_test(program: &Path, test: &str) -> Result<Seen, Error> {
    let start = Instant::now();
    let patience = Duration::from_secs(PATIENCE.0);
    let ran = timeout(patience, Command::new(program).arg(test).kill_on_drop(true).output()).await??;
    let (said, seconds) = (String::from_utf8_lossy(&ran.stdout).into_owned(), start.elapsed().as_secs());
    match ran.status.success() {
        true if said.contains(" 0 passed") => Err(format!("there is no test `{test}`").into()),
        true => Ok(Seen::Nothing { seconds }),
        false => Ok(Seen::Caught { found: format!("test `{test}`"), seconds, seed: 0 }),
    }
}

/// Runs a program until something is found.
async fn see(program: &Path, mutant: Option<&Mutant>, profile: &str, options: &Options) -> Result<Seen, Error> {
    let name = mutant.map(|mutant| &*mutant.name);
    let (mut seconds, mut seed) = (0, options.seed);
    while seconds < options.seconds {
        let left = options.seconds - seconds;
        let faults = if seconds == 0 { FIRST.min(left) } else { left };
        if let Some((found, after)) = run(program, name, profile, seed, faults, options.keep.as_deref()).await? {
            return Ok(Seen::Caught { found, seconds: seconds + after, seed });
        }
        (seconds, seed) = (seconds + faults, seed + 1);
    }
    Ok(Seen::Nothing { seconds })
}

/// What is of interest in `report.json`.
#[derive(Deserialize)]
struct Report {
    violations: Vec<Violation>,
}

#[derive(Deserialize)]
struct Violation {
    id: String,
}

/// One run: what was found, if anything was, and after how many seconds it ended.
async fn run(
    program: &Path,
    name: Option<&str>,
    profile: &str,
    seed: u64,
    seconds: u64,
    keep: Option<&Path>,
) -> Result<Option<(String, u64)>, Error> {
    let folder = tempfile::Builder::new().prefix("mutant-").tempdir()?;
    // The server of the run may be another user's.
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
    let left = folder.path().join("run");
    let found = run_in(&left, program, name, profile, seed, seconds).await?;
    if let (Some(keep), Some(_)) = (keep, &found) {
        fs::create_dir_all(keep)?;
        fs::rename(folder.keep(), keep.join(format!("{}-{seed}", name.unwrap_or("none"))))?;
    }
    Ok(found)
}

/// The same, in a folder.
async fn run_in(
    left: &Path,
    program: &Path,
    name: Option<&str>,
    profile: &str,
    seed: u64,
    seconds: u64,
) -> Result<Option<(String, u64)>, Error> {
    let mut run = Command::new(program);
    run.args(["run", "--profile", profile, "--seed", &seed.to_string(), "--seconds", &seconds.to_string(), "--keep"]);
    run.arg(left).args(name.into_iter().flat_map(|name| ["--mutant", name]));
    let start = Instant::now();
    let said = left.with_file_name("said");
    let file = fs::File::create(&said)?;
    let mut run = run.stdout(file.try_clone()?).stderr(file).kill_on_drop(true).spawn()?;
    let Ok(ended) = timeout(Duration::from_secs(PATIENCE.0 + PATIENCE.1 * seconds), run.wait()).await else {
        // By its name for it: so it has the time to end what it has started.
        let id = run.id().map(|id| id.to_string()).unwrap_or_default();
        Command::new("kill").args(["-INT", &id]).status().await?;
        let _ = timeout(Duration::from_secs(20), run.wait()).await;
        return Ok(Some(("it did not end".into(), start.elapsed().as_secs())));
    };
    let code = ended?.code();
    let said = fs::read(said)?;
    let said = String::from_utf8_lossy(&said);
    match code {
        Some(0) => Ok(None),
        // Where the run itself has looked, and not the checker.
        Some(1) if profile == "fork" => {
            let wrong = said.lines().filter(|line| {
                line.contains("are not the fold") && !line.starts_with("0 ") || line.starts_with("not settled: ")
            });
            let found: Vec<_> = wrong.filter_map(|line| line.split(" are ").next()).collect();
            Ok(Some((format!("the run: {}", found.join(", ")), start.elapsed().as_secs())))
        }
        Some(1) => {
            let report: Report = serde_json::from_slice(&fs::read(left.join("report.json"))?)?;
            let mut counts: Vec<(String, u64)> = vec![];
            // In a short run there may have been nothing to look at for some rule.
            for id in report.violations.into_iter().map(|violation| violation.id).filter(|id| id != "checked") {
                match counts.iter_mut().find(|(there, _)| *there == id) {
                    Some((_, count)) => *count += 1,
                    None => counts.push((id, 1)),
                }
            }
            let found: Vec<_> = counts.into_iter().map(|(id, count)| format!("{id} ×{count}")).collect();
            Ok((!found.is_empty()).then(|| (found.join(", "), start.elapsed().as_secs())))
        }
        code => {
            let last = said.lines().last().unwrap_or_default();
            Err(format!("the run with seed {seed} ended with {code:?}: {last}").into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_planted_bug_applies_to_the_tree() {
        let mutants = all().expect("the patches");
        assert!(mutants.len() >= 24, "{}", mutants.len());
        let wrong = mutants.iter().filter_map(|Mutant { name, changes, .. }| {
            plant(changes, root(), false).err().map(|error| format!("{name}: {error}"))
        });
        let wrong: Vec<_> = wrong.collect();
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }

    #[test]
    fn every_planted_bug_breaks_a_promise_by_a_few_lines_of_the_product() {
        let promises = fs::read_to_string(root().join("docs/guarantees.md")).expect("the promises");
        for Mutant { name, breaks, changes, .. } in all().expect("the patches") {
            for promise in breaks.split(", ") {
                assert!(promises.contains(&format!("\n| {promise} | ")), "{name}: there is no promise {promise}");
            }
            let (removed, added) = changes.iter().map(Change::size).fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1));
            let lines = removed.max(added);
            assert!((1..=15).contains(&lines), "{name}: {lines} lines");
            for Change { file, .. } in changes {
                let product = [
                    "eventstore-core/src/",
                    "eventstore-postgres/",
                    "eventstore-sqlite/",
                    "engine/src/",
                    "projections/src/",
                    "sagas/src/",
                    "messaging/src/",
                    "brokers/",
                    "macros/src/",
                ];
                assert!(product.iter().any(|folder| file.starts_with(folder)), "{name} changes {file}");
            }
        }
    }
}
