//! An order is taken at the price that was shown, if that was the price until ten minutes ago or later.

use std::time::Duration;

use eventstore::{Timestamp, prelude::*, testing::*};

use super::{
    super::{Between, world},
    at_once, log, rivals,
};

const GRACE: Duration = Duration::from_secs(10 * 60);

#[derive(Event, Clone, Debug, PartialEq)]
pub enum ProductEvent {
    Priced { cents: i64, from: Timestamp },
}

#[derive(Event, Clone, Debug, PartialEq)]
pub enum OrderEvent {
    Placed { product: Id<Product>, cents: i64 },
}

/// Whatever happens in the shop, for whoever reads all of it.
#[derive(Event, Clone, Debug, PartialEq)]
#[event(transparent)]
pub enum ShopEvent {
    Product(ProductEvent),
    Order(OrderEvent),
}

/// Its price, and those before, each with the instant until which it was shown.
#[derive(Aggregate)]
pub struct Product {
    #[aggregate(id)]
    id: Id<Product>,
    price: Option<i64>,
    earlier: Vec<(i64, Timestamp)>,
}

#[derive(Aggregate)]
pub struct Order {
    placed: bool,
}

impl Evolve for Product {
    type Event = ProductEvent;

    fn evolve(&mut self, ProductEvent::Priced { cents, from }: ProductEvent) {
        let before = self.price.replace(cents);
        self.earlier.extend(before.map(|cents| (cents, from)));
    }
}

impl Product {
    fn honours(&self, shown: i64, now: Timestamp) -> bool {
        let just_shown = |&(cents, until): &(i64, Timestamp)| cents == shown && now <= until + GRACE;
        self.price == Some(shown) || self.earlier.iter().any(just_shown)
    }
}

impl Evolve for Order {
    type Event = OrderEvent;

    fn evolve(&mut self, OrderEvent::Placed { .. }: OrderEvent) {
        self.placed = true;
    }
}

#[derive(Clone)]
pub struct Place {
    pub shown: i64,
    pub now: Timestamp,
}

/// The order decides, the product is consulted.
impl Decide<Place> for (Order, Product) {
    fn decide(&self, Place { shown, now }: Place) -> Decision<Order> {
        let (order, product) = self;
        ensure!(!order.placed, "it is placed already");
        ensure!(product.honours(shown, now), "{shown} is not the price of {}", product.id);
        Ok(vec![OrderEvent::Placed { product: product.id.clone(), cents: shown }])
    }
}

#[derive(Clone)]
pub struct SetPrice {
    pub cents: i64,
    pub from: Timestamp,
}

impl Decide<SetPrice> for Product {
    fn decide(&self, SetPrice { cents, from }: SetPrice) -> Decision<Self> {
        Ok(vec![ProductEvent::Priced { cents, from }])
    }
}

/// So many minutes after noon.
fn minute(minutes: u64) -> Timestamp {
    "2026-11-21T12:00:00Z".parse::<Timestamp>().unwrap() + Duration::from_secs(60 * minutes)
}

#[test]
fn the_price_shown_holds_for_ten_minutes_more() {
    let (order, product) = (Id::<Order>::from("order"), Id::<Product>::from("tea"));
    let priced = |cents, minutes| ProductEvent::Priced { cents, from: minute(minutes) };
    let shop = || given(&product, [priced(100, 0), priced(120, 20), priced(90, 25)]);
    let place = |shown, minutes| Place { shown, now: minute(minutes) };
    for (shown, minutes) in [(100, 25), (100, 30), (120, 35), (90, 25), (90, 999)] {
        let placed = OrderEvent::Placed { product: product.clone(), cents: shown };
        shop().when((&order, &product), place(shown, minutes)).then([placed]);
    }
    for (shown, minutes) in [(100, 31), (120, 36), (95, 25)] {
        let refused = format!("{shown} is not the price of tea");
        shop().when((&order, &product), place(shown, minutes)).then_rejected(refused);
    }
    shop().when(&product, SetPrice { cents: 80, from: minute(30) }).then([priced(80, 30)]);
}

#[tokio::test]
async fn a13_a_price_that_changes_while_an_order_is_decided_counts() {
    let world = world().await;
    for (minutes, good) in [(30, true), (31, false)] {
        let tea = Id::<Product>::new();
        world.store.execute(&tea, SetPrice { cents: 100, from: minute(0) }).await.unwrap();
        let (product, new) = (tea.clone(), SetPrice { cents: 120, from: minute(20) });
        let intrude = move |store: Store| async move { drop(store.execute(&product, new).await.unwrap()) };
        let store = Store::from(Between::new(&world.inner).let_in(intrude));
        match store.execute((Id::<Order>::new(), &tea), Place { shown: 100, now: minute(minutes) }).await {
            Ok(_) => assert!(good),
            Err(CommandError::Rejected(_)) => assert!(!good),
            Err(other) => panic!("{other}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a13_no_order_follows_the_end_of_its_price() {
    let world = world().await;
    for _ in 0..5 {
        let tea = Id::<Product>::new();
        world.store.execute(&tea, SetPrice { cents: 100, from: minute(0) }).await.unwrap();
        let mut stores = rivals(&world, 9);
        let change = stores.pop().unwrap().execute(&tea, SetPrice { cents: 120, from: minute(20) }).retries(100);
        let change = tokio::spawn(change.into_future());
        let place = Place { shown: 100, now: minute(31) };
        let place = |store: Store| store.execute((Id::<Order>::new(), &tea), place.clone()).retries(100);
        let answers = at_once(stores.into_iter().map(place)).await;
        let change = change.await.unwrap().unwrap();
        for placed in answers.into_iter().filter_map(Result::ok) {
            assert!(
                placed.position < change.position,
                "an order at {}, the price ended at {}",
                placed.position,
                change.position
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a13_orders_of_one_product_do_not_disturb_one_another() {
    let world = world().await;
    let tea = Id::<Product>::from("tea");
    world.store.execute(&tea, SetPrice { cents: 100, from: minute(0) }).await.unwrap();
    let place = Place { shown: 100, now: minute(1) };
    let orders = rivals(&world, 8).into_iter();
    let orders = orders.map(|store| store.execute((Id::<Order>::new(), &tea), place.clone()).retries(0));
    assert!(at_once(orders).await.iter().all(Result::is_ok));
    assert_eq!(log::<ShopEvent>(&world).await.len(), 9);
}
