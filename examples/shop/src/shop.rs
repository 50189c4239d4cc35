//! Services of the shop by name.

use eventstore::{BoxError, Store};

use crate::{
    customer, gateway, inventory, notification, order, payment,
    service::{Place, Service},
    shipping,
};

/// The names of all services.
pub const SERVICES: [&str; 7] = ["gateway", "order", "payment", "inventory", "shipping", "notification", "customer"];

/// Starts a service.
pub async fn start(name: &str, place: &Place) -> Result<Service, BoxError> {
    match name {
        "gateway" => gateway::start(place).await,
        "order" => order::start(place).await,
        "payment" => payment::start(place).await,
        "inventory" => inventory::start(place).await,
        "shipping" => shipping::start(place).await,
        "notification" => notification::start(place).await,
        "customer" => customer::start(place).await,
        _ => Err(format!("there is no service `{name}`; there are {}", SERVICES.join(", ")).into()),
    }
}

/// Services that run in this process.
pub struct Shop {
    /// The services.
    pub services: Vec<Service>,
}

impl Shop {
    /// Starts services.
    pub async fn start(names: &[&str], place: &Place) -> Result<Self, BoxError> {
        let mut services = vec![];
        for name in names {
            services.push(start(name, place).await?);
        }
        Ok(Self { services })
    }

    /// A service that runs here.
    pub fn service(&self, name: &str) -> Result<&Service, BoxError> {
        let service = self.services.iter().find(|service| service.name == name);
        Ok(service.ok_or_else(|| format!("{name} does not run"))?)
    }

    /// The store of a service that runs here.
    pub fn store(&self, name: &str) -> Result<&Store, BoxError> {
        Ok(&self.service(name)?.store)
    }

    /// Starts one more service.
    pub async fn start_one(&mut self, name: &str, place: &Place) -> Result<(), BoxError> {
        self.services.push(start(name, place).await?);
        Ok(())
    }

    /// Stops one service; the others go on.
    pub async fn stop_one(&mut self, name: &str) {
        if let Some(at) = self.services.iter().position(|service| service.name == name) {
            self.services.remove(at).stop().await;
        }
    }

    /// Stops all services.
    pub async fn stop(self) {
        for service in self.services {
            service.stop().await;
        }
    }
}
