//! Runs the user's process in every order of crashes, take-overs, lost answers, conflicts, timers, and commands and
//! events of others.

mod choices;
#[cfg(test)]
mod plants;
mod run;
mod scenario;
#[cfg(test)]
mod tests;
mod world;

use std::{collections::HashSet, fmt, sync::Arc, time::Duration};

use self::{
    choices::{Choices, Effort, VARIABLE, simpler},
    run::{Move, Run},
    scenario::{Act, Alternative, Budgets},
    world::now,
};
pub use self::{scenario::Simulation, world::World};
use crate::{
    aggregate::Decide,
    append::AppendTo,
    error::CommandError,
    event::{Event, Raw, Recorded},
    execute::Execute,
    process::{Command, Nothing, Process, Reactor, Saga, Stateless, derived_id},
    store::Store,
    stream::{Expected, StreamId},
    target::Target,
};

/// The extent of a simulation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Explored {
    /// The number of runs.
    pub runs: u64,
    /// The number of steps of all runs.
    pub steps: u64,
    /// Whether every order was tried.
    pub complete: bool,
}

/// A run that failed, made as short as possible.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SimulationFailure {
    /// The name of the process.
    pub process: &'static str,
    /// The check that failed.
    pub reason: String,
    /// The steps of the run, in order.
    pub story: Vec<String>,
    /// The choices of the run: `EVENTSTORE_SIMULATE=choices=…` runs it again.
    pub choices: Vec<u32>,
    /// The number of the run, from 1.
    pub run: u64,
    /// The seed of the random choices, if they were random.
    pub seed: Option<u64>,
}

impl fmt::Display for SimulationFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seed = self.seed.map_or_else(String::new, |seed| format!("seed {seed}, "));
        let (run, length) = (self.run, self.choices.len());
        writeln!(f, "{}: {}   ({seed}run {run}; shrunk to {length} choices)", self.process, self.reason)?;
        for (line, n) in self.story.iter().zip(1..) {
            writeln!(f, "{n:>4}. {line}")?;
        }
        let choices: Vec<_> = self.choices.iter().map(u32::to_string).collect();
        write!(f, "again: {VARIABLE}=choices={}", choices.join(","))
    }
}

impl std::error::Error for SimulationFailure {}

impl Simulation<Stateless<Nothing>> {
    /// Returns a simulation of a saga.
    pub fn of<S: Saga>() -> Simulation<S::Process> {
        Simulation::new(S::Process::default())
    }

    /// Returns a simulation of a reactor.
    pub fn of_reactor<R: Reactor>(reactor: R) -> Simulation<Stateless<R>> {
        Simulation::new(Stateless(reactor))
    }
}

impl<P: Process> Simulation<P> {
    fn new(process: P) -> Self {
        Self {
            process: Arc::new(process),
            given: vec![],
            meanwhile: vec![],
            replies: vec![],
            always: vec![],
            finally: vec![],
            budgets: Budgets { crashes: 1, take_overs: 1, lost_answers: 1, conflicts: 1 },
            lasting: None,
            #[cfg(test)]
            plant: None,
        }
    }

    /// Adds a command that is executed before the process runs. If it is refused, the test fails.
    pub fn given<T: Target, C>(mut self, target: T, command: C) -> Self
    where
        T::State: Decide<C>,
        C: Clone + fmt::Debug + Send + Sync + 'static,
    {
        self.given.push(command_of(target, command));
        self
    }

    /// Adds an event that is recorded before the process runs.
    pub fn given_event<E: Event + fmt::Debug>(mut self, stream: impl AppendTo<E>, event: E) -> Self {
        self.given.push(event_of(stream.into_stream(), event));
        self
    }

    /// Adds a command that is executed at any moment, once, or never. It may be refused.
    pub fn meanwhile<T: Target, C>(mut self, target: T, command: C) -> Self
    where
        T::State: Decide<C>,
        C: Clone + fmt::Debug + Send + Sync + 'static,
    {
        self.meanwhile.push(command_of(target, command));
        self
    }

    /// Adds an event that is recorded at any moment, once, or never.
    pub fn meanwhile_event<E: Event + fmt::Debug>(mut self, stream: impl AppendTo<E>, event: E) -> Self {
        self.meanwhile.push(event_of(stream.into_stream(), event));
        self
    }

    /// Adds the answers of a service to a message of this type: one of these events, at any moment, also after the
    /// process has stopped waiting. The event goes to the stream `in.{service}-{instance}`.
    pub fn replies<C: Command, E: Event + fmt::Debug>(
        mut self,
        service: &'static str,
        reply: impl Fn(&C) -> Vec<E> + 'static,
    ) -> Self {
        self.replies.push(Box::new(move |event| {
            let this = event.stream.category().strip_prefix("service.") == Some(service);
            if !this || event.data.name.strip_prefix("command.") != Some(C::NAME) {
                return None;
            }
            let command = C::decode(event.schema, &event.data.body).ok()?;
            let stream = StreamId::new(&format!("in.{service}"), event.stream.key());
            Some(reply(&command).into_iter().map(|event| alternative(stream.clone(), event)).collect())
        }));
        self
    }

    /// Adds a check after every step. `ensure!(…)` returns its error.
    pub fn always(mut self, check: impl Fn(&World<P>) -> Result<(), String> + 'static) -> Self {
        self.always.push(Box::new(check));
        self
    }

    /// Adds a check at the end, when all events are answered and no timer is left.
    pub fn finally(mut self, check: impl Fn(&World<P>) -> Result<(), String> + 'static) -> Self {
        self.finally.push(Box::new(check));
        self
    }

    /// How often the node that owns the shard crashes; 1 by default.
    pub fn crashes(mut self, times: u32) -> Self {
        self.budgets.crashes = times;
        self
    }

    /// How often another node takes the shard over while the owner is frozen, to go on later; 1 by default.
    pub fn take_overs(mut self, times: u32) -> Self {
        self.budgets.take_overs = times;
        self
    }

    /// How often a command is recorded and its answer is lost; 1 by default.
    pub fn lost_answers(mut self, times: u32) -> Self {
        self.budgets.lost_answers = times;
        self
    }

    /// How often a command has a conflict at every attempt, so that its instance waits; 1 by default.
    pub fn conflicts(mut self, times: u32) -> Self {
        self.budgets.conflicts = times;
        self
    }

    /// How far the clock goes, for a process whose timers never end. Timers that are due later do not fire.
    pub fn lasting(mut self, time: Duration) -> Self {
        self.lasting = Some(time);
        self
    }

    /// Runs the simulation. Panics with the story of a run that fails.
    #[track_caller]
    pub fn run(self) -> Explored {
        self.try_run().unwrap_or_else(|failure| panic!("{failure}"))
    }

    /// Runs the simulation. Fails with the run that fails.
    pub fn try_run(self) -> Result<Explored, SimulationFailure> {
        self.explore(&Effort::from_env())
    }

    fn explore(&self, effort: &Effort) -> Result<Explored, SimulationFailure> {
        if let Some(choices) = &effort.choices {
            let mut run = Run::new(self, true);
            let went = run.go(&mut Choices::straight(choices));
            let story = run.story.unwrap_or_default();
            if let Err(reason) = went {
                return Err(self.failure(reason, story, choices.clone(), 1, None));
            }
            story.iter().zip(1..).for_each(|(line, n)| println!("{n:>4}. {line}"));
            return Ok(Explored { runs: 1, steps: run.steps as u64, complete: false });
        }
        let explored = self.every_order(effort.runs)?;
        if explored.complete { Ok(explored) } else { self.by_dice(effort, explored) }
    }

    /// Tries all lists of choices, depth first, up to `runs`: at each choice a copy of the run goes on by itself.
    fn every_order(&self, runs: u64) -> Result<Explored, SimulationFailure> {
        let mut explored = Explored::default();
        let mut run = Run::new(self, false);
        let mut seen = HashSet::new();
        // The runs at the choices so far, their possible moves, and the move that was chosen.
        let mut way: Vec<(Run<'_, P>, Vec<Move>, usize)> = vec![];
        let mut went = run.begin();
        while explored.runs < runs {
            let before = run.steps;
            let moves = went.and_then(|()| run.go_on());
            explored.steps += (run.steps - before) as u64;
            let ended = match moves {
                Ok(moves) if moves.is_empty() || !seen.insert(run.digest()) => true,
                Ok(moves) => {
                    way.push((run.fork(), moves, 0));
                    false
                }
                Err(_) => return Err(self.shrunk(chosen(&way), explored.runs + 1, None)),
            };
            if ended {
                explored.runs += 1;
                loop {
                    let Some((at, moves, chosen)) = way.last_mut() else {
                        return Ok(Explored { complete: true, ..explored });
                    };
                    *chosen += 1;
                    if *chosen < moves.len() {
                        run = at.fork();
                        break;
                    }
                    way.pop();
                }
            }
            let Some((_, moves, chosen)) = way.last() else { break };
            explored.steps += 1;
            went = run.choose(moves[*chosen]).map(drop);
        }
        Ok(explored)
    }

    fn by_dice(&self, effort: &Effort, mut explored: Explored) -> Result<Explored, SimulationFailure> {
        for n in 0..effort.dice {
            let (mut run, mut choices) = (Run::new(self, false), Choices::dice(effort.seed, n));
            let went = run.go(&mut choices);
            explored.runs += 1;
            explored.steps += run.steps as u64;
            if went.is_err() {
                return Err(self.shrunk(choices.list(), explored.runs, Some(effort.seed)));
            }
        }
        Ok(explored)
    }

    /// Returns the same failure, or another, with fewer and lower choices.
    fn shrunk(&self, mut choices: Vec<u32>, run: u64, seed: Option<u64>) -> SimulationFailure {
        let fails = |choices: &[u32]| Run::new(self, false).go(&mut Choices::straight(choices)).is_err();
        // The number of tries is bounded: a list that is still long then is reported as it is.
        let mut tries = 10_000;
        'simpler: loop {
            let before = choices.clone();
            for simpler in simpler(&before) {
                tries -= 1;
                if tries == 0 {
                    break 'simpler;
                }
                if fails(&simpler) {
                    choices = simpler;
                    continue 'simpler;
                }
            }
            break;
        }
        let mut told = Run::new(self, true);
        let went = told.go(&mut Choices::straight(&choices));
        let reason = went.err().unwrap_or_else(|| "it fails only sometimes: a rule is not pure".into());
        self.failure(reason, told.story.unwrap_or_default(), choices, run, seed)
    }

    fn failure(
        &self,
        reason: String,
        story: Vec<String>,
        choices: Vec<u32>,
        run: u64,
        seed: Option<u64>,
    ) -> SimulationFailure {
        SimulationFailure { process: self.process.name(), reason, story, choices, run, seed }
    }
}

fn chosen<T, M>(way: &[(T, M, usize)]) -> Vec<u32> {
    way.iter().map(|(.., chosen)| u32::try_from(*chosen).unwrap_or(u32::MAX)).collect()
}

fn command_of<T: Target, C>(target: T, command: C) -> Act
where
    T::State: Decide<C>,
    C: Clone + fmt::Debug + Send + Sync + 'static,
{
    let boundary = target.boundary();
    Box::new(move |store, id| {
        let execute = Execute::<T::State>::new(store.clone(), boundary.clone(), command.clone()).command_id(id);
        let said = format!("send({}, {command:?})", boundary.stream);
        match now(execute.into_future()) {
            Ok(_) => Ok(said),
            Err(CommandError::Rejected(reason)) => Err(format!("{said}: refused, {reason}")),
            Err(error) => Err(format!("{said}: {error}")),
        }
    })
}

fn event_of<E: Event + fmt::Debug>(stream: StreamId, event: E) -> Act {
    Box::new(move |store, id| {
        let append = store.append(&stream, Expected::Any, [event.clone()]).command_id(id);
        let said = format!("{event:?} in {stream}");
        now(append.into_future()).map(|_| said.clone()).map_err(|error| format!("{said}: {error}"))
    })
}

fn alternative<E: Event + fmt::Debug>(stream: StreamId, event: E) -> Alternative {
    let said = format!("{event:?}");
    let append = move |store: &Store, asked: &Recorded<Raw>| {
        // A receiver knows the message by its id.
        let mut cause = asked.with(());
        cause.id = asked.metadata.command_id;
        let append = store.append(&stream, Expected::Any, [event.clone()]).caused_by(&cause);
        let append = append.command_id(derived_id(cause.id, ["reply"]));
        now(append.into_future()).map(drop).map_err(|error| error.to_string())
    };
    Alternative { said, append: Arc::new(append) }
}
