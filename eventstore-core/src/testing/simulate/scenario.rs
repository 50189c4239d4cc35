//! The parts of a simulation: a process, commands and events of others, and checks.

use std::{sync::Arc, time::Duration};

use uuid::Uuid;

use super::world::World;
use crate::{
    event::{Raw, Recorded},
    process::Process,
    store::Store,
};

/// A process, and the world it is simulated in.
///
/// It drives the code that runs in production, over a log in memory, through every order of possible interruptions: by
/// default one crash, one take-over by another node while the owner is frozen, one lost answer and one conflict; and
/// the commands and events that come [`meanwhile`](Self::meanwhile). Each order is a list of choices. All lists are
/// tried depth first, up to 20,000; if there are more, 2,000 random lists are tried too. A list that fails is made as
/// short as possible, and reported as a story.
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
/// `EVENTSTORE_SIMULATE=runs=1000000,seed=7` tries more lists; `EVENTSTORE_SIMULATE=choices=0,2,1` prints the story of
/// one.
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

/// A command or an event of others. Returns its text; fails with its text and why it was not recorded.
pub(super) type Act = Box<dyn Fn(&Store, Uuid) -> Result<String, String>>;
pub(super) type Check<P> = Box<dyn Fn(&World<P>) -> Result<(), String>>;
/// Returns the ways in which a service can answer a message; `None` if it does not answer it.
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

/// How often each kind of interruption may still come.
#[derive(Clone, Copy, Debug, Hash)]
pub(super) struct Budgets {
    pub(super) crashes: u32,
    pub(super) take_overs: u32,
    pub(super) lost_answers: u32,
    pub(super) conflicts: u32,
}
