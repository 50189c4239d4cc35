//! The inventory service. An order of several products is reserved whole, or not at all: the reservation decides, and
//! the stocks of its products are consulted.

use std::collections::BTreeMap;

use eventstore::{BoxError, Expected, StartFrom, Uuid, prelude::*};
use serde::{Deserialize, Serialize};

use crate::{
    catalogue,
    contracts::{InventoryCommand, InventoryMessage, Item, OrderMessage, PaymentMessage},
    service::{Place, Service},
};

#[derive(Event, Clone, Debug, PartialEq)]
pub enum ReservationEvent {
    Reserved {
        #[event(tag)]
        products: Vec<Id<Stock>>,
        items: Vec<Item>,
    },
    Rejected {
        reason: String,
    },
    Released {
        #[event(tag)]
        products: Vec<Id<Stock>>,
        items: Vec<Item>,
    },
    /// The order was cancelled before it was paid: nothing is reserved for it any more.
    Closed,
}

#[derive(Event, Clone, Debug, PartialEq)]
pub enum StockEvent {
    Delivered {
        #[event(tag)]
        product: Id<Stock>,
        pieces: i64,
    },
}

#[derive(Event, Clone, Debug, PartialEq)]
#[event(transparent)]
pub enum WarehouseEvent {
    Stock(StockEvent),
    Reservation(ReservationEvent),
}

/// How many pieces of each product an order has.
fn pieces(items: &[Item]) -> BTreeMap<&str, i64> {
    let mut pieces = BTreeMap::new();
    for item in items {
        *pieces.entry(&*item.product_id).or_default() += i64::from(item.quantity);
    }
    pieces
}

/// The stock of a product: all events that are tagged with it. They are many, so it has snapshots.
#[derive(Aggregate, Serialize, Deserialize)]
#[aggregate(by_tag, snapshot = 100)]
pub struct Stock {
    #[aggregate(id)]
    id: Id<Stock>,
    pieces: i64,
}

impl Evolve for Stock {
    type Event = WarehouseEvent;

    fn evolve(&mut self, event: WarehouseEvent) {
        let of_this = |items: &[Item]| pieces(items).get(self.id.key()).copied().unwrap_or_default();
        match &event {
            WarehouseEvent::Stock(StockEvent::Delivered { pieces, .. }) => self.pieces += pieces,
            WarehouseEvent::Reservation(ReservationEvent::Reserved { items, .. }) => self.pieces -= of_this(items),
            WarehouseEvent::Reservation(ReservationEvent::Released { items, .. }) => self.pieces += of_this(items),
            WarehouseEvent::Reservation(_) => {}
        }
    }
}

/// What is reserved for an order; its id is that of the order.
#[derive(Aggregate)]
pub struct Reservation {
    decided: bool,
    reserved: Vec<Item>,
}

impl Evolve for Reservation {
    type Event = ReservationEvent;

    fn evolve(&mut self, event: ReservationEvent) {
        self.decided = true;
        self.reserved = if let ReservationEvent::Reserved { items, .. } = event { items } else { vec![] };
    }
}

fn products(items: &[Item]) -> Vec<Id<Stock>> {
    pieces(items).into_keys().map(Id::from).collect()
}

#[derive(Clone, Debug, PartialEq)]
struct Reserve(Vec<Item>);

#[derive(Clone, Debug, PartialEq)]
struct Release;

impl Decide<Reserve> for (Reservation, Vec<Stock>) {
    fn decide(&self, Reserve(items): Reserve) -> Decision<Reservation> {
        let (reservation, stocks) = self;
        ensure!(!reservation.decided, "the reservation is decided already");
        let wanted = pieces(&items);
        let short = stocks.iter().find(|stock| wanted.get(stock.id.key()).is_some_and(|wanted| stock.pieces < *wanted));
        Ok(vec![match short {
            Some(stock) => ReservationEvent::Rejected { reason: format!("{} is out of stock", stock.id.key()) },
            None => ReservationEvent::Reserved { products: products(&items), items },
        }])
    }
}

impl Decide<Release> for Reservation {
    fn decide(&self, Release: Release) -> Decision<Self> {
        Ok(match &*self.reserved {
            [] if self.decided => vec![],
            [] => vec![ReservationEvent::Closed],
            items => vec![ReservationEvent::Released { products: products(items), items: items.to_vec() }],
        })
    }
}

impl Publish for InventoryMessage {
    type From = ReservationEvent;

    fn publish(event: &Recorded<ReservationEvent>) -> Vec<Self> {
        match event.data.clone() {
            ReservationEvent::Reserved { .. } => vec![Self::Reserved],
            ReservationEvent::Rejected { reason } => vec![Self::Rejected { reason }],
            ReservationEvent::Released { .. } => vec![Self::Released],
            ReservationEvent::Closed => vec![], // private
        }
    }
}

/// What inventory reads: in an orchestrated shop commands, else what payment and order say.
#[derive(Event, Clone, Debug, PartialEq)]
#[event(transparent)]
enum Wish {
    Payment(PaymentMessage),
    Order(OrderMessage),
    Asked(InventoryCommand),
}

impl Wish {
    /// The items to reserve.
    fn items(&self) -> Option<&Vec<Item>> {
        match self {
            Self::Payment(PaymentMessage::Completed { items, .. })
            | Self::Asked(InventoryCommand::ReserveInventory { items }) => Some(items),
            Self::Payment(_) | Self::Order(_) | Self::Asked(_) => None,
        }
    }
}

/// Reserves what is paid, and releases what is cancelled.
struct ReserveItems;

impl Reactor for ReserveItems {
    const NAME: &'static str = "reserve_items";
    const FROM: Option<StartFrom> = Some(StartFrom::Beginning);
    type Event = Wish;

    fn react(&self, event: &Recorded<Wish>) -> Commands {
        let reservation = Id::<Reservation>::from(event.stream.key());
        match &event.data {
            Wish::Order(OrderMessage::Cancelled { .. }) | Wish::Asked(InventoryCommand::ReleaseInventory {}) => {
                send(reservation, Release)
            }
            wish => match wish.items() {
                Some(items) => send((reservation, products(items)), Reserve(items.clone())),
                None => Commands::none(),
            },
        }
    }

    /// Reservations of a product change the same stock, so they are made one after the other. A message with a product
    /// that the shop does not sell waits by itself if it cannot be answered.
    fn key(event: &Recorded<Wish>) -> String {
        let items = event.data.items().map_or(&[][..], Vec::as_slice);
        match items.first() {
            Some(first) if items.iter().all(|item| catalogue::product(&item.product_id).is_some()) => {
                first.product_id.clone()
            }
            _ => event.stream.key().to_owned(),
        }
    }
}

/// The stock of each product.
#[derive(ReadModel, Serialize, Deserialize, Default, Debug, Clone, PartialEq)]
#[read_model(name = "stock", tag = "stock")]
pub struct StockRow {
    /// How many pieces are there and not reserved.
    pub pieces: i64,
    /// How many were delivered.
    pub delivered: i64,
}

impl Project for StockRow {
    type Event = WarehouseEvent;

    fn project(row: &mut Row<Self>, event: &Recorded<WarehouseEvent>) {
        let product = row.key().to_owned();
        let of_this = |items: &[Item]| pieces(items).get(&*product).copied().unwrap_or_default();
        match &event.data {
            WarehouseEvent::Stock(StockEvent::Delivered { pieces, .. }) => {
                row.pieces += pieces;
                row.delivered += pieces;
            }
            WarehouseEvent::Reservation(ReservationEvent::Reserved { items, .. }) => row.pieces -= of_this(items),
            WarehouseEvent::Reservation(ReservationEvent::Released { items, .. }) => row.pieces += of_this(items),
            WarehouseEvent::Reservation(_) => {}
        }
    }
}

/// Starts the service. The first start delivers the first stock.
pub async fn start(place: &Place) -> Result<Service, BoxError> {
    let (store, bus) = place.open("inventory").await?;
    for product in catalogue::PRODUCTS {
        let stock = Id::<Stock>::from(product.id);
        let delivered = StockEvent::Delivered { product: stock, pieces: product.pieces };
        let stream = eventstore::StreamId::new("stock", product.id);
        let command = Uuid::new_v5(&Uuid::NAMESPACE_OID, product.id.as_bytes());
        store.append(stream, Expected::Any, [delivered]).command_id(command).await?;
    }
    let runner = place.runner(&store).relay::<InventoryMessage>(&bus).read_model::<StockRow>();
    let runner = if place.orchestrated {
        runner.inbox::<InventoryCommand>(&bus)
    } else {
        runner.inbox::<PaymentMessage>(&bus).inbox::<OrderMessage>(&bus)
    };
    let running = runner.reactor(ReserveItems).park_unreadable().start();
    Ok(Service::new("inventory", store, running))
}
