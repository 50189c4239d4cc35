//! Which scheduled commands a program executes, and how one is executed.

use std::{any::TypeId, collections::BTreeMap, panic::AssertUnwindSafe};

use eventstore_core::{Aggregate, Command, CommandError, Decide, Id, Store, StoreError, Timestamp, process::panicked};
use futures::{FutureExt, future::BoxFuture};

use super::{
    names::SCHEDULED_FOR,
    outcome::{Outcome, outcome_of},
    table::{Answer, Claimed, Row, told},
};

/// Commands that an aggregate decides about: a tuple of up to eight types.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no tuple of commands that `{A}` decides about",
    label = "expected a tuple like `(Close,)` or `(Close, Remind)`",
    note = "each of them derives `Command`, and `{A}` implements `Decide` for it"
)]
pub trait ExecutedBy<A: Aggregate> {
    #[doc(hidden)]
    fn add(commands: &mut Executed);
}

macro_rules! tuples {
    ($($all:ident)+) => {
        impl<A: Aggregate $(+ Decide<$all>)+, $($all: Command),+> ExecutedBy<A> for ($($all,)+) {
            fn add(commands: &mut Executed) {
                $(commands.add::<A, $all>();)+
            }
        }
    };
}

tuples!(C1);
tuples!(C1 C2);
tuples!(C1 C2 C3);
tuples!(C1 C2 C3 C4);
tuples!(C1 C2 C3 C4 C5);
tuples!(C1 C2 C3 C4 C5 C6);
tuples!(C1 C2 C3 C4 C5 C6 C7);
tuples!(C1 C2 C3 C4 C5 C6 C7 C8);

/// Executes a command.
pub type Execute = fn(Store, Claimed) -> BoxFuture<'static, Answer>;

/// The commands to one category that a program executes, by their stored names.
#[derive(Default)]
pub struct Executed {
    commands: BTreeMap<&'static str, (TypeId, u32, Execute)>,
    /// A stored name that two types have.
    twice: Option<&'static str>,
}

impl Executed {
    fn add<A: Aggregate + Decide<C>, C: Command>(&mut self) {
        let of = (TypeId::of::<C>(), C::VERSION, execute::<A, C> as Execute);
        if self.commands.insert(C::NAME, of).is_some_and(|(before, ..)| before != of.0) {
            self.twice = Some(C::NAME);
        }
    }

    /// Returns a stored name that two types have.
    pub fn twice(&self) -> Option<&'static str> {
        self.twice
    }

    /// Returns the stored names, each with the newest version that this program reads.
    pub fn versions(&self) -> impl Iterator<Item = (&'static str, u32)> {
        self.commands.iter().map(|(name, (_, version, _))| (*name, *version))
    }

    /// Returns how to execute the command of a row; `None` if this program cannot.
    pub fn of(&self, row: &Row) -> Option<Execute> {
        let (_, version, execute) = self.commands.get(&*row.command)?;
        (row.version <= *version).then_some(*execute)
    }
}

/// Executes a command. A panic in a rule is a failure.
fn execute<A: Aggregate + Decide<C>, C: Command>(store: Store, claimed: Claimed) -> BoxFuture<'static, Answer> {
    let executed = async move { AssertUnwindSafe(decided::<A, C>(&store, &claimed)).catch_unwind().await };
    Box::pin(async move { executed.await.unwrap_or_else(|panic| Answer::Failed(panicked(&*panic))) })
}

/// Executes a command. That it recorded nothing is recorded in its place if a node had claimed it before: that node may
/// be frozen, and would decide on another state when it goes on.
async fn decided<A: Aggregate + Decide<C>, C: Command>(store: &Store, claimed: &Claimed) -> Answer {
    let answer = run::<A, C>(store, claimed).await;
    let outcome = match &answer {
        Answer::Done(None) => Outcome::Nothing,
        Answer::Refused(words) => Outcome::Refused(told(words)),
        _ => return answer,
    };
    if !claimed.before {
        return answer;
    }
    match outcome.record(store, &claimed.id, claimed.row.command_id).await {
        Ok(true) => answer,
        Ok(false) => found(store, claimed).await,
        Err(error) => failed(&error),
    }
}

async fn run<A: Aggregate + Decide<C>, C: Command>(store: &Store, claimed: &Claimed) -> Answer {
    let row = &claimed.row;
    let Some(stream) = row.stream() else { return Answer::Failed(format!("`{}` is no stream", row.target)) };
    let command = match C::decode(row.version, row.body.as_bytes()) {
        Ok(command) => command,
        Err(error) => return Answer::Failed(format!("the command cannot be read: {error}")),
    };
    let mut execute = store.execute(Id::<A>::from(stream.key()), command).command_id(row.command_id);
    execute = execute.metadata(SCHEDULED_FOR, Timestamp::from_micros(row.at).to_string());
    if let Some(actor) = &row.actor {
        execute = execute.by(actor);
    }
    if let Some(correlation) = row.correlation {
        execute = execute.correlation(correlation);
    }
    if let Some(causation) = row.causation {
        execute = execute.causation(causation);
    }
    match execute.await {
        Ok(done) => Answer::Done((!done.events.is_empty()).then_some(done.position)),
        Err(CommandError::Rejected(reason)) => Answer::Refused(reason.to_string()),
        Err(CommandError::Conflict(conflict)) => Answer::Failed(conflict.to_string()),
        Err(CommandError::Store(StoreError::Reused { .. } | StoreError::Duplicate { .. })) => {
            found(store, claimed).await
        }
        Err(CommandError::Store(error)) => failed(&error),
    }
}

fn failed(error: &StoreError) -> Answer {
    if error.is_retryable() { Answer::Outage(error.to_string()) } else { Answer::Failed(error.to_string()) }
}

/// Returns what is recorded under the id of a command.
async fn found(store: &Store, claimed: &Claimed) -> Answer {
    match outcome_of(store, &claimed.id, claimed.row.command_id).await {
        Ok(Some(Outcome::Executed(position))) => Answer::Done(Some(position)),
        Ok(Some(Outcome::Nothing)) => Answer::Done(None),
        Ok(Some(Outcome::Refused(words))) => Answer::Refused(words),
        Ok(Some(Outcome::Cancelled)) => Answer::Cancelled,
        Ok(None) => Answer::Outage("what is recorded under its id cannot be seen yet".into()),
        Err(error) => failed(&error),
    }
}
