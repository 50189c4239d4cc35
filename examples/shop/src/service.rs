//! What all services have in common: where their stores, their bus and their addresses are, and how one runs.

use std::{collections::BTreeMap, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use axum::Router;
use eventstore::{
    BoxError, Bus, Expected, LogBus, MemoryStore, PgStore, Running, StoreError, StreamId, Uuid, prelude::*,
    testing::Clock,
};
use tokio::{net::TcpListener, sync::Mutex, task::JoinHandle};

/// Where the services that speak HTTP listen.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    /// The gateway.
    pub gateway: SocketAddr,
    /// The order service.
    pub order: SocketAddr,
    /// The customer service.
    pub customer: SocketAddr,
}

impl Addresses {
    /// Returns three ports in a row of this machine.
    pub fn from_port(port: u16) -> Self {
        let address = |n: u16| SocketAddr::from(([127, 0, 0, 1], port.saturating_add(n)));
        Self { gateway: address(0), order: address(1), customer: address(2) }
    }

    /// Returns ports that are free now.
    pub async fn free() -> Result<Self, BoxError> {
        let listen = || TcpListener::bind(("127.0.0.1", 0));
        let (gateway, order, customer) = (listen().await?, listen().await?, listen().await?);
        let (gateway, order) = (gateway.local_addr()?, order.local_addr()?);
        Ok(Self { gateway, order, customer: customer.local_addr()? })
    }
}

/// Where a shop is: its stores, its bus, its addresses.
#[derive(Clone)]
pub struct Place {
    stores: String,
    bus: String,
    /// Where the services that speak HTTP listen.
    pub addresses: Addresses,
    /// Whether a saga of the order service asks the others, in place of services that react to each other.
    pub orchestrated: bool,
    /// The clock of a shop in memory; of another it has no effect.
    pub clock: Clock,
    /// The stores and the bus of a shop in memory, which exist once.
    in_memory: Arc<Mutex<BTreeMap<String, Store>>>,
}

impl Place {
    /// Returns a shop with a store for each service under a URL: a folder, `sqlite://shop-data`; a database,
    /// `postgres://localhost/shop`, with a schema for each service; or `memory:`.
    pub fn new(stores: &str, bus: &str, addresses: Addresses) -> Self {
        Self {
            stores: stores.into(),
            bus: bus.into(),
            addresses,
            orchestrated: false,
            clock: Clock::new(),
            in_memory: Arc::default(),
        }
    }

    /// Returns a shop in a folder, with the bus beside the stores.
    pub fn folder(folder: &Path, addresses: Addresses) -> Self {
        let stores = format!("sqlite://{}", folder.display());
        let bus = format!("{stores}/bus.db");
        Self::new(&stores, &bus, addresses)
    }

    /// Whether the stores are in memory.
    pub fn is_in_memory(&self) -> bool {
        self.stores.starts_with("memory:")
    }

    /// Opens the store of a service, and the bus. They are made if they are not there. Fails if the store is of a shop
    /// whose orders are led in the other way: the messages that services answer differ.
    pub async fn open(&self, service: &str) -> Result<(Store, Bus), BoxError> {
        let store = self.store(service).await?.with_source(service);
        let opened = ShopEvent::Opened { saga: self.saga().into() };
        let opened = store.append(StreamId::new("shop", "shop"), Expected::Any, [opened]);
        match opened.command_id(Uuid::new_v5(&Uuid::NAMESPACE_OID, b"shop.opened")).await {
            // The id is recorded with other data.
            Err(StoreError::Duplicate { .. }) => {
                let saga = self.saga();
                Err(format!(
                    "the store of {service} is of a shop without `--saga {saga}`: that needs stores of its own"
                ))?
            }
            opened => drop(opened?),
        }
        Ok((store, self.bus().await?))
    }

    fn saga(&self) -> &'static str {
        if self.orchestrated { "orchestrated" } else { "choreography" }
    }

    /// Opens the store of a service.
    pub async fn store(&self, service: &str) -> Result<Store, BoxError> {
        if self.is_in_memory() {
            return self.remembered(service).await;
        }
        if let Some(folder) = self.stores.strip_prefix("sqlite://") {
            std::fs::create_dir_all(folder)?;
            let url = format!("sqlite://{folder}/{service}.db");
            return Ok(eventstore::connect(&url).await?);
        }
        let schema = format!("shop_{service}");
        Ok(PgStore::options().schema(&schema).connect(&self.stores).await?.into())
    }

    /// Opens the bus.
    pub async fn bus(&self) -> Result<Bus, BoxError> {
        if self.bus.starts_with("memory:") {
            return Ok(LogBus::new(&self.remembered("bus").await?).into());
        }
        Ok(eventstore::connect_bus(&self.bus).await?)
    }

    async fn remembered(&self, name: &str) -> Result<Store, BoxError> {
        let mut stores = self.in_memory.lock().await;
        if let Some(store) = stores.get(name) {
            return Ok(store.clone());
        }
        let store = Store::from(MemoryStore::with_clock(&self.clock));
        stores.insert(name.into(), store.clone());
        Ok(store)
    }

    /// Returns a runner for a service. After a crash, another process goes on within a second.
    pub fn runner(&self, store: &Store) -> Runner {
        Runner::new(store).lease(Duration::from_secs(1))
    }
}

/// What a service notes of its shop.
#[derive(Event, Clone, Debug, PartialEq)]
enum ShopEvent {
    /// It was started for the first time.
    Opened { saga: String },
}

/// A service that runs.
pub struct Service {
    /// Its name.
    pub name: &'static str,
    /// Its store.
    pub store: Store,
    /// What it runs.
    pub running: Running,
    server: Option<JoinHandle<()>>,
}

impl Service {
    /// Returns a service that does not speak HTTP.
    pub fn new(name: &'static str, store: Store, running: Running) -> Self {
        Self { name, store, running, server: None }
    }

    /// Serves HTTP.
    pub async fn serve(mut self, address: SocketAddr, router: Router) -> Result<Self, BoxError> {
        let listener = TcpListener::bind(address).await.map_err(|error| format!("{address}: {error}"))?;
        self.server = Some(tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, router).await {
                tracing::error!(%error, "a server has ended");
            }
        }));
        Ok(self)
    }

    /// Stops: no request is answered any more, and the batches that run are completed.
    pub async fn stop(mut self) {
        if let Some(server) = self.server.take() {
            server.abort();
        }
        self.running.stop().await;
    }
}
