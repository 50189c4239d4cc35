//! A shop of six services behind an API gateway, which one can run, break and watch: `README.md` beside this crate.

mod body;
mod catalogue;
mod contracts;
mod customer;
mod demo;
mod gateway;
mod inventory;
mod notification;
mod order;
mod payment;
mod service;
mod shipping;
mod shop;
mod watch;

pub use demo::{DEMOS, demo};
pub use service::{Addresses, Place, Service};
pub use shop::{SERVICES, Shop};
pub use watch::watch;
