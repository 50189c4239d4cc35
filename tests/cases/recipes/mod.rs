//! The recipes of `docs/recipes.md`: each a small domain, and the races it must win, on every store.

use std::{sync::Arc, time::Duration};

use eventstore::{Event, prelude::*};
use futures::{TryStreamExt, future::join_all};
use tokio::{sync::Barrier, time::timeout};

use super::{Between, World};

pub mod capacity;
pub mod carts;
pub mod invoices;
pub mod payments;
pub mod prices;
pub mod seats;
pub mod tokens;
pub mod usernames;

/// So many stores over one log, each of which waits with its first append until all have come to theirs: nobody knew
/// of another when deciding, and from there on they run as they like.
fn rivals(world: &World, count: usize) -> Vec<Store> {
    let all_decided = Arc::new(Barrier::new(count));
    let rival = |_| {
        let all_decided = all_decided.clone();
        let wait = |_: Store| async move {
            timeout(Duration::from_secs(20), all_decided.wait()).await.expect("all have decided to append");
        };
        Between::new(&world.inner).let_in(wait).into()
    };
    (0..count).map(rival).collect()
}

/// What came of calls that run at once, in parallel.
async fn at_once<C>(calls: impl IntoIterator<Item = C>) -> Vec<C::Output>
where
    C: IntoFuture<IntoFuture: Send + 'static, Output: Send + 'static>,
{
    let tasks: Vec<_> = calls.into_iter().map(|call| tokio::spawn(call.into_future())).collect();
    join_all(tasks).await.into_iter().map(|task| task.unwrap()).collect()
}

/// Everything that happened, in order.
async fn log<E: Event>(world: &World) -> Vec<E> {
    world.store.read().events().map_ok(|event| event.data).try_collect().await.unwrap()
}

#[test]
fn the_page_shows_the_code_that_is_tested() {
    let page = include_str!("../../../docs/recipes.md");
    let code = [
        include_str!("../campus.rs"),
        include_str!("capacity.rs"),
        include_str!("carts.rs"),
        include_str!("invoices.rs"),
        include_str!("payments.rs"),
        include_str!("prices.rs"),
        include_str!("tokens.rs"),
        include_str!("usernames.rs"),
    ];
    let mut shown = [false; 8];
    for block in page.split("```rust,ignore\n").skip(1).map(|rest| rest.split("```").next().unwrap()) {
        let file = code.iter().position(|code| code.contains(block));
        shown[file.unwrap_or_else(|| panic!("no recipe has these lines any more:\n{block}"))] = true;
    }
    assert_eq!(shown, [true; 8]);
}
