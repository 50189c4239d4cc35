//! A rolling deployment: two releases of a program over one log, each a process of its own, started and stopped in both
//! orders. Release 2 has another event, another version of an event, another column and another version of a read model.
//! Says what each node does, and checks in the end that rows are the fold of the log and that each event was handed over.
//!
//! ```sh
//! cargo run --example rolling_deploy                                            # SQLite, in a temporary folder
//! DATABASE_URL=postgres://localhost/bank cargo run --example rolling_deploy    # in schemas of its own
//! ```

use std::{
    env,
    error::Error,
    path::{Path, PathBuf},
    process::Command,
};

mod scenario;

use scenario::Deployment;

/// Builds both releases, and gives where they are.
fn build(postgres: bool) -> Result<[PathBuf; 2], Box<dyn Error>> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    build.current_dir(env!("CARGO_MANIFEST_DIR")).args([
        "build",
        "--quiet",
        "-p",
        "rolling-deploy-v1",
        "-p",
        "rolling-deploy-v2",
    ]);
    if postgres {
        build.args(["--features", "rolling-deploy-v1/postgres,rolling-deploy-v2/postgres"]);
    }
    // Beside this program: `target/debug/examples/rolling_deploy`.
    let this = env::current_exe()?;
    let folder = this.parent().and_then(Path::parent).ok_or("this program is nowhere")?;
    if folder.ends_with("release") {
        build.arg("--release");
    }
    if !build.status()?.success() {
        return Err("the releases could not be built".into());
    }
    let program = |name: &str| folder.join(format!("{name}{}", env::consts::EXE_SUFFIX));
    let releases = ["rolling-deploy-v1", "rolling-deploy-v2"].map(program);
    releases.iter().try_for_each(|release| scenario::there(release))?;
    Ok(releases)
}

fn main() -> Result<(), Box<dyn Error>> {
    let database = env::var("DATABASE_URL").ok();
    let releases = build(database.is_some())?;
    let folder = tempfile::tempdir()?;
    type Scenario = fn(&Deployment) -> Result<(), Box<dyn Error>>;
    let scenarios: [(&str, Scenario); 2] =
        [("nodes_first", scenario::nodes_first), ("writers_first", scenario::writers_first)];
    for (name, scenario) in scenarios {
        let file = folder.path().join(format!("{name}.db"));
        let store = database.clone().unwrap_or_else(|| format!("sqlite://{}", file.display()));
        let schema = format!("rolling_deploy_{}_{name}", std::process::id());
        let letters = folder.path().join(format!("{name}.letters"));
        scenario(&Deployment { releases: releases.clone(), store, schema, letters })?;
    }
    println!("\nboth releases ran side by side: rows are the fold of the log, and each event has its letter");
    Ok(())
}
