//! An order over as many products as are in the cart: each must be in stock.

use ShopEvent::*;
use eventstore::{prelude::*, testing::*};

use super::{super::world, at_once, log, rivals};

#[rustfmt::skip]
#[derive(Event, Clone, Debug, PartialEq)]
pub enum ShopEvent {
    Stocked { #[event(tag)] product: Id<Stock>, pieces: u32 },
    Ordered { #[event(tag)] products: Vec<Id<Stock>> }, // one piece of each
}

/// The order, made of its own stream.
#[derive(Aggregate)]
pub struct Order {
    placed: bool,
}

/// What is left of a product, made of what happened to it, in whatever stream.
#[derive(Aggregate)]
#[aggregate(by_tag)]
pub struct Stock {
    #[aggregate(id)]
    id: Id<Stock>,
    left: u32,
}

impl Evolve for Order {
    type Event = ShopEvent;

    fn evolve(&mut self, event: ShopEvent) {
        self.placed |= matches!(event, Ordered { .. });
    }
}

impl Evolve for Stock {
    type Event = ShopEvent;

    fn evolve(&mut self, event: ShopEvent) {
        match event {
            Stocked { pieces, .. } => self.left += pieces,
            Ordered { .. } => self.left -= 1,
        }
    }
}

#[derive(Clone)]
pub struct Place;

/// The order decides, each product in the cart is consulted.
impl Decide<Place> for (Order, Vec<Stock>) {
    fn decide(&self, Place: Place) -> Decision<Order> {
        let (order, products) = self;
        ensure!(!order.placed, "it is placed already");
        ensure!(!products.is_empty(), "the cart is empty");
        for stock in products {
            ensure!(stock.left > 0, "{} is sold out", stock.id);
        }
        Ok(vec![Ordered { products: products.iter().map(|stock| stock.id.clone()).collect() }])
    }
}

#[test]
fn an_order_is_placed_for_all_of_the_cart_or_for_nothing() {
    let (tea, cup) = (Id::<Stock>::from("tea"), Id::<Stock>::from("cup"));
    let stocked = |product: &Id<Stock>, pieces| [Stocked { product: product.clone(), pieces }];
    let order = |number: &str| Id::<Order>::from(number);
    let cart = vec![tea.clone(), cup.clone()];
    given(&tea, stocked(&tea, 2))
        .given(&cup, stocked(&cup, 1))
        .when((order("1"), &cart), Place)
        .then([Ordered { products: cart.clone() }])
        .when((order("1"), &cart), Place)
        .then_rejected("it is placed already")
        .when((order("2"), &cart), Place)
        .then_rejected("cup is sold out")
        .when((order("3"), &cart[..1]), Place)
        .then([Ordered { products: vec![tea] }])
        .when((order("4"), vec![]), Place)
        .then_rejected("the cart is empty");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a13_nothing_is_sold_more_often_than_it_is_there() {
    let world = world().await;
    let products: Vec<_> = (0..6).map(|n| Id::<Stock>::from(format!("p{n}"))).collect();
    for product in &products {
        let stocked = Stocked { product: product.clone(), pieces: 3 };
        world.store.append(product.stream(), eventstore::Expected::Any, [stocked]).await.unwrap();
    }
    // Carts of one to six products, each in another order.
    let carts = (0..18).map(|n| {
        products.iter().cycle().skip(n % 6).step_by(1 + 4 * (n % 2)).take(1 + n % 5).cloned().collect::<Vec<_>>()
    });
    let orders = rivals(&world, 18).into_iter().zip(carts).zip(0..);
    let answers = at_once(
        orders.map(|((store, cart), n)| store.execute((Id::<Order>::from(format!("o{n}")), cart), Place).retries(500)),
    )
    .await;
    assert!(answers.iter().all(|answer| matches!(answer, Ok(_) | Err(CommandError::Rejected(_)))));
    for product in &products {
        let log = log::<ShopEvent>(&world).await;
        let sold =
            log.iter().filter(|event| matches!(event, Ordered { products } if products.contains(product))).count();
        assert!(sold <= 3, "{product} was sold {sold} times");
        let left = world.store.load(product).await.unwrap().left;
        assert_eq!(left as usize, 3 - sold);
    }
}
