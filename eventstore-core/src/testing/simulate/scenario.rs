//! What a simulation is made of: a process, what others do meanwhile, and what must hold.

use std::{sync::Arc, time::Duration};

use uuid::Uuid;

use super::world::World;
use crate::{
    event::{Raw, Recorded},
    process::Process,
    store::Store,
};

/// A process, and the world it is tried in.
///
/// Drives what runs in production, over a log in memory, through every order of what can come in between: one crash, one
/// take-over by another process while this one is frozen, one answer that is lost, one conflict, unless said otherwise; and
/// whatever is said to come [`meanwhile`](Self::meanwhile). Each order is a list of choices. All lists are tried depth first,
/// up to 20,000; where that was not all, 2,000 by dice. A list that fails is made as short as it goes, and told as a story.
///
/// ```
/// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/bank.rs"));
/// use eventstore::testing::Simulation;
///
/// /// Whatever is paid in by ann, bob gets one more.
/// struct Bonus;
///
/// impl Reactor for Bonus {
///     const NAME: &'static str = "bonus";
///     type Event = AccountEvent;
///
///     fn react(&self, event: &Recorded<AccountEvent>) -> Commands {
///         match event.data {
///             Deposited { .. } if event.stream.key() == "ann" => send(Id::<Account>::from("bob"), Deposit { amount: 1 }),
///             _ => Commands::none(),
///         }
///     }
/// }
///
/// fn account(name: &str) -> Id<Account> {
///     name.into()
/// }
///
/// # fn main() {
/// Simulation::of_reactor(Bonus)
///     .given(&account("ann"), Deposit { amount: 60 })
///     .meanwhile(&account("ann"), Deposit { amount: 40 })
///     .always(|world| {
///         ensure!(world.load(&account("bob")).balance <= 2, "too much");
///         Ok(())
///     })
///     .finally(|world| {
///         let paid_in = world.events::<AccountEvent>(&account("ann")).len() as i64;
///         let bonus = world.load(&account("bob")).balance;
///         ensure!(bonus == paid_in, "{bonus} for {paid_in}");
///         Ok(())
///     })
///     .run();
/// # }
/// ```
///
/// `EVENTSTORE_SIMULATE=runs=1000000,seed=7` tries more; `EVENTSTORE_SIMULATE=choices=0,2,1` tells one run.
pub struct Simulation<P: Process> {
    pub(super) process: Arc<P>,
    pub(super) given: Vec<Act>,
    pub(super) meanwhile: Vec<Act>,
    pub(super) replies: Vec<Replies>,
    pub(super) always: Vec<Check<P>>,
    pub(super) finally: Vec<Check<P>>,
    pub(super) budgets: Budgets,
    pub(super) lasting: Option<Duration>,
    #[cfg(test)]
    pub(super) plant: Option<super::plants::Plant>,
}

/// Something that others do: what it was, or what it was and why it did not happen.
pub(super) type Act = Box<dyn Fn(&Store, Uuid) -> Result<String, String>>;
pub(super) type Check<P> = Box<dyn Fn(&World<P>) -> Result<(), String>>;
/// The ways in which a service can answer a message, if it is one that it answers.
pub(super) type Replies = Box<dyn Fn(&Recorded<Raw>) -> Option<Vec<Alternative>>>;

/// Appends the answer to a message.
pub(super) type Append = Arc<dyn Fn(&Store, &Recorded<Raw>) -> Result<(), String>>;

/// One way in which a service can answer a message.
#[derive(Clone)]
pub(super) struct Alternative {
    pub(super) said: String,
    pub(super) append: Append,
}

impl Alternative {
    pub(super) fn append(self, store: &Store, asked: &Recorded<Raw>) -> Result<String, String> {
        (self.append)(store, asked)?;
        Ok(self.said)
    }
}

/// How often what goes wrong may still go wrong.
#[derive(Clone, Copy, Debug, Hash)]
pub(super) struct Budgets {
    pub(super) crashes: u32,
    pub(super) take_overs: u32,
    pub(super) lost_answers: u32,
    pub(super) conflicts: u32,
}
