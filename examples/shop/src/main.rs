//! The command line of the shop.

use std::{error::Error, process::ExitCode};

use clap::{Args, Parser, Subcommand, ValueEnum};
use shop::{Addresses, DEMOS, Place, SERVICES, Shop};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// A shop of six services behind an API gateway.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run services in this process, until Ctrl-C or SIGTERM.
    Run {
        #[command(flatten)]
        place: PlaceArgs,
        /// Who leads an order from step to step; the same for all services of a shop, for good.
        #[arg(long, value_enum, default_value_t = Saga::Choreography)]
        saga: Saga,
        /// The services; all of them, if none is named.
        #[arg(value_parser = SERVICES)]
        services: Vec<String>,
    },
    /// Show topics and their rates, what is behind, dead letters, and the last orders with their steps.
    Watch {
        #[command(flatten)]
        place: PlaceArgs,
        /// Print once, and do not go on.
        #[arg(long)]
        once: bool,
    },
    /// Show what the shop does in a failure, in a shop of its own, and check that the end is as promised.
    Demo {
        /// What to show.
        #[arg(value_parser = DEMOS)]
        name: String,
        /// Where the stores of the demo are: a URL as for `run`.
        #[arg(long, default_value = "memory:")]
        store: String,
        /// The bus of the demo; by default beside the stores.
        #[arg(long)]
        bus: Option<String>,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Saga {
    /// The services react to each other.
    Choreography,
    /// A saga of the order service asks the others, by command messages.
    Orchestrated,
}

#[derive(Args)]
struct PlaceArgs {
    /// A folder with an SQLite file for each service, or a PostgreSQL database with a schema for each service.
    #[arg(long, default_value = "sqlite://shop-data")]
    store: String,
    /// The bus: sqlite://FILE, postgres://…, nats://…; by default bus.db in the folder of the stores, or the schema
    /// `bus` of the database.
    #[arg(long)]
    bus: Option<String>,
    /// The port of the gateway; the order and customer services have the two ports after it.
    #[arg(long, default_value_t = 3000)]
    port: u16,
}

/// The bus is beside the stores, unless its URL is given.
fn place(store: &str, bus: Option<&str>, addresses: Addresses) -> Place {
    let beside = if store.starts_with("sqlite:") { format!("{store}/bus.db") } else { store.into() };
    Place::new(store, bus.unwrap_or(&beside), addresses)
}

async fn run(place: &Place, services: &[String]) -> Result<(), Box<dyn Error + Send + Sync>> {
    let names: Vec<&str> = services.iter().map(String::as_str).collect();
    let names = if names.is_empty() { SERVICES.to_vec() } else { names };
    let shop = Shop::start(&names, place).await?;
    println!("running: {}", names.join(", "));
    if names.contains(&"gateway") {
        let gateway = place.addresses.gateway;
        println!("gateway: http://{gateway}, with its events at http://{gateway}/orders/events");
        println!(
            "curl -i {gateway}/orders -H 'Idempotency-Key: first' -H 'Content-Type: application/json' \\\n  \
             -d '{{\"customerId\":\"cust-456\",\"items\":[{{\"productId\":\"prod-123\",\"quantity\":2}}]}}'"
        );
    }
    let mut terminated = signal(SignalKind::terminate())?;
    tokio::select! {
        pressed = tokio::signal::ctrl_c() => pressed?,
        _ = terminated.recv() => {}
    }
    println!("stopping");
    shop.stop().await;
    Ok(())
}

#[tokio::main]
async fn main() -> ExitCode {
    let Err(error) = command().await else { return ExitCode::SUCCESS };
    eprintln!("error: {error}");
    let mut source = error.source();
    while let Some(error) = source {
        eprintln!("  because {error}");
        source = error.source();
    }
    ExitCode::FAILURE
}

async fn command() -> Result<(), Box<dyn Error + Send + Sync>> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    match Cli::parse().command {
        Command::Run { place: PlaceArgs { store, bus, port }, saga, services } => {
            let mut place = place(&store, bus.as_deref(), Addresses::from_port(port));
            place.orchestrated = saga == Saga::Orchestrated;
            run(&place, &services).await
        }
        Command::Watch { place: PlaceArgs { store, bus, port }, once } => {
            shop::watch(&place(&store, bus.as_deref(), Addresses::from_port(port)), once).await
        }
        Command::Demo { name, store, bus } => {
            shop::demo(&name, &place(&store, bus.as_deref(), Addresses::free().await?)).await
        }
    }
}
