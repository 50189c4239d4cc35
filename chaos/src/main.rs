//! Breaks whatever can break under eventstore, and has an independent checker say what that did.

mod domain;
mod log;
mod mutants;
mod nemesis;
mod planted;
mod processes;
mod profile;
mod proxy;
mod run;
mod server;
mod transfers;
mod worker;
mod world;

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};

/// Whatever goes wrong.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// Breaks whatever can break under eventstore, and has an independent checker say what that did.
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Processes that append and project, and faults for a while; then the checker. Fails if a promise was broken.
    Run(run::Options),
    /// Only the checker, over what a run with --keep has left.
    Check {
        /// The folder of the run.
        folder: PathBuf,
    },
    /// Plants bugs, one after the other, and says what catches each.
    Mutants(mutants::Options),
    /// One of the processes of a run.
    #[command(hide = true)]
    Worker(worker::Options),
}

#[tokio::main]
async fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Run(options) => run::run(&options).await,
        Command::Check { folder } => run::check(&folder).await,
        Command::Mutants(options) => mutants::mutants(&options).await,
        Command::Worker(options) => worker::work(&options).await,
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
    }
}
