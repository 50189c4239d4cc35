//! Says what is to follow the log, lets it, and tells how far it has come.

use std::{collections::HashSet, sync::Arc, time::Duration};

use eventstore_core::{Position, ReadModel, Store, StoreError};
use tokio::{sync::watch, task::JoinHandle, time::timeout};

use crate::{
    follower::{Follower, follow},
    projection::{Projection, Sql},
    read_model::Folded,
    status::Status,
};

/// How long [`Running::until`] waits.
const PATIENCE: Duration = Duration::from_secs(30);

/// Says what is to follow the log; [`start`](Runner::start) lets it.
///
/// Any number of processes may run the same: each event is taken in once.
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
/// # let store = eventstore::connect("memory:").await?;
/// # let ann = Id::<Account>::new();
/// let runner = Runner::new(&store).read_model::<Balance>().start();
/// let deposited = store.execute(&ann, Deposit { amount: 100 }).await?;
/// runner.until(deposited.position).await?; // all that run have seen it
/// assert_eq!(store.read_model::<Balance>().get(&ann).await?.map(|row| row.balance), Some(100));
/// runner.stop().await;
/// # Ok(())
/// # }
/// ```
#[must_use = "nothing runs until it is started"]
pub struct Runner {
    store: Store,
    followers: Vec<Arc<dyn Follower>>,
}

impl Runner {
    /// Nothing yet.
    pub fn new(store: &Store) -> Self {
        Self { store: store.clone(), followers: vec![] }
    }

    /// Keeps the rows of a read model; its table is made if it is not there.
    pub fn read_model<M: ReadModel>(self) -> Self {
        self.with(Folded::<M>::default())
    }

    /// Runs a projection in the store's own database.
    pub fn projection<P: Projection>(self, projection: P) -> Self {
        self.with(Sql(projection))
    }

    fn with(mut self, follower: impl Follower + 'static) -> Self {
        self.followers.push(Arc::new(follower));
        self
    }

    /// Starts a task for each, on the runtime it is called in. Of two of the same name, the second is stopped at once.
    pub fn start(self) -> Running {
        let (stop, stopped) = watch::channel(false);
        let mut names = HashSet::new();
        let followers = self.followers.into_iter().map(|follower| {
            let name = follower.name();
            if !names.insert(name.clone()) {
                return (watch::channel(Status::twice(name)).1, None);
            }
            // From now on, whoever reads and waits for it is right to wait.
            self.store.runs(&name, None, false);
            let (report, status) = watch::channel(Status::new(name));
            let task = tokio::spawn(follow(self.store.clone(), follower, report, stopped.clone()));
            (status, Some(task))
        });
        Running { followers: followers.collect(), stop }
    }
}

/// What is running. Dropping it lets it run on; [`stop`](Running::stop) ends it after the batch at hand.
pub struct Running {
    followers: Vec<(watch::Receiver<Status>, Option<JoinHandle<()>>)>,
    stop: watch::Sender<bool>,
}

impl Running {
    /// Returns when all have seen everything up to here: then one's own writes can be read from all.
    ///
    /// One that cannot go on is [`StoreError::Stopped`]; one that has not come so far in 30 seconds is
    /// [`StoreError::Behind`], with what holds it up.
    pub async fn until(&self, position: Position) -> Result<(), StoreError> {
        let all = async {
            for (status, _) in &self.followers {
                let mut status = status.clone();
                let there = status.wait_for(|status| status.position >= position || status.stopped).await;
                match there.map(|status| status.clone()) {
                    Ok(status) if status.position >= position => {}
                    Ok(status) => return Err(status.behind(position)),
                    Err(_) => return Err(status.borrow().behind(position)),
                }
            }
            Ok(())
        };
        timeout(PATIENCE, all).await.unwrap_or_else(|_| {
            let late = self.status().into_iter().find(|status| status.position < position);
            late.map_or(Ok(()), |status| Err(status.behind(position)))
        })
    }

    /// How far each has come.
    pub fn status(&self) -> Vec<Status> {
        self.followers.iter().map(|(status, _)| status.borrow().clone()).collect()
    }

    /// Ends all after the batch at hand, and returns when they have ended.
    pub async fn stop(self) {
        self.stop.send_replace(true);
        for task in self.followers.into_iter().filter_map(|(_, task)| task) {
            // A task that panicked has ended too.
            let _ = task.await;
        }
    }
}
