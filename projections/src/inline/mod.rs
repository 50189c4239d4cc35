//! Keeps read models in the transaction of each append, so that a read after an append sees it.

mod kept;
mod store;
mod transaction;

use std::sync::Arc;

use eventstore_core::{ReadModel, Store};

use self::store::keep;
use crate::{
    projection::{Projection, Sql},
    read_model::Folded,
};

/// Read models and projections in SQL that are kept in the transaction of each append.
///
/// Every event that the returned store appends is in their rows when it is recorded, whether by a command or without
/// one, alone or in a caller's transaction: `get` sees it at once, from any process. Every append pays for it: see the
/// [guide](https://docs.rs/eventstore). If they cannot process an event, the append fails with
/// [`StoreError::NotProjected`](eventstore_core::StoreError::NotProjected), and the event is not recorded.
///
/// The name and the checkpoint are those a [`Runner`](eventstore_engine::Runner) has, and a runner of the same read
/// model does no harm: it processes what other stores record. Without a runner, the next append does; if it cannot
/// process an event that is recorded already, it fails with [`StoreError::Stopped`](eventstore_core::StoreError::Stopped), which names the event.
///
/// ```
/// # use eventstore::prelude::*;
/// # use serde::{Deserialize, Serialize};
/// # #[derive(Event, Clone)]
/// # enum AccountEvent { Deposited { amount: i64 } }
/// # #[derive(Aggregate)]
/// # struct Account;
/// # impl Evolve for Account { type Event = AccountEvent; fn evolve(&mut self, _: AccountEvent) {} }
/// # #[derive(Clone)]
/// # struct Deposit { amount: i64 }
/// # impl Decide<Deposit> for Account {
/// #     fn decide(&self, Deposit { amount }: Deposit) -> Decision<Self> { Ok(vec![AccountEvent::Deposited { amount }]) }
/// # }
/// # #[derive(ReadModel, Serialize, Deserialize, Default)]
/// # struct Balance { balance: i64 }
/// # impl Project for Balance {
/// #     type Event = AccountEvent;
/// #     fn project(row: &mut Row<Self>, event: &Recorded<AccountEvent>) {
/// #         let AccountEvent::Deposited { amount } = event.data;
/// #         row.balance += amount;
/// #     }
/// # }
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let store = eventstore::connect("memory:").await?.with_inline::<Balance>();
/// let ann = Id::<Account>::from("ann");
/// store.execute(&ann, Deposit { amount: 100 }).await?;
/// assert_eq!(store.read_model::<Balance>().get(&ann).await?.map(|row| row.balance), Some(100));
/// # Ok(())
/// # }
/// ```
pub trait Inline {
    /// Returns the same store, which keeps the rows of a read model with each append.
    fn with_inline<M: ReadModel>(self) -> Self;

    /// Returns the same store, which runs a projection in SQL with each append.
    fn with_inline_projection<P: Projection>(self, projection: P) -> Self;
}

impl Inline for Store {
    fn with_inline<M: ReadModel>(self) -> Self {
        keep(&self, Arc::new(Folded::<M>::default()))
    }

    fn with_inline_projection<P: Projection>(self, projection: P) -> Self {
        keep(&self, Arc::new(Sql(projection)))
    }
}
