//! One run: its possible moves, and the steps that are chosen.

use std::{
    fmt::Debug,
    hash::{DefaultHasher, Hash, Hasher},
};

use uuid::Uuid;

use crate::{
    event::{Raw, Recorded},
    process::{Failure, Item, Parked, Process, Terms, TimerId, Todo, Told, Turn, heard_in},
    stream::Position,
    testing::simulate::{
        choices::Choices,
        scenario::{Alternative, Budgets, Simulation},
        world::{World, now},
    },
};

/// A node that owns the shard, or believes that it does.
pub(super) struct Node<P: Process> {
    name: char,
    epoch: u64,
    work: Work<P>,
    /// Whether the node has done something that others can see since it was idle.
    acted: bool,
    /// The end of the log when the node took the shard over, or began a batch again.
    began: Position,
}

/// The work of a node.
enum Work<P: Process> {
    Idle,
    /// Some events; the rows of their instances are not read yet.
    Read {
        events: Vec<Recorded<Raw>>,
        from: Position,
    },
    /// The turns of the instances, and the commit that follows.
    Answer {
        turns: Vec<Turn<P>>,
        commit: Commit,
    },
}

impl<P: Process> Clone for Work<P> {
    fn clone(&self) -> Self {
        match self {
            Self::Idle => Self::Idle,
            Self::Read { events, from } => Self::Read { events: events.clone(), from: *from },
            Self::Answer { turns, commit } => Self::Answer { turns: turns.clone(), commit: commit.clone() },
        }
    }
}

/// The change that is written with the rows in one step.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Commit {
    /// The checkpoint moves.
    Events(Position),
    /// The timers were claimed before.
    Timers,
    /// The dead letters of an instance are removed.
    Letters(String),
    /// Nothing: all was written before.
    #[cfg(test)]
    Nothing,
}

/// A possible move.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Move {
    /// The owner takes up the pending events, or only the first of them.
    TakeUp {
        all: bool,
    },
    /// The owner claims the timers that are due.
    Fire,
    /// The owner tries the dead letters of an instance again.
    Retry(usize),
    /// A node does its next step: for one of its instances, if it is answering.
    Go {
        node: usize,
        turn: usize,
    },
    Crash,
    TakeOver,
    /// The operation of the owner is done, and the answer is lost.
    Lost {
        turn: usize,
    },
    /// The operation of the owner fails: other appends came first at every attempt.
    Conflict {
        turn: usize,
    },
    Meanwhile(usize),
    /// A service answers a message, in one of the ways it can.
    Reply {
        asked: usize,
        way: usize,
    },
    /// The clock goes to the next instant at which something is due.
    Clock,
    End,
}

impl Move {
    fn may_record(self) -> bool {
        matches!(self, Self::Go { .. } | Self::Lost { .. } | Self::Meanwhile(_) | Self::Reply { .. })
    }
}

/// How many steps a run may have.
const STEPS: usize = 2_000;

pub(super) struct Run<'a, P: Process> {
    simulation: &'a Simulation<P>,
    world: World<P>,
    nodes: Vec<Node<P>>,
    names: std::ops::RangeInclusive<char>,
    budgets: Budgets,
    meanwhile: Vec<usize>,
    /// The messages that are not answered yet, and their possible answers.
    asked: Vec<(Recorded<Raw>, Vec<Alternative>)>,
    pub(super) steps: usize,
    /// The story of the run, if it is recorded.
    pub(super) story: Option<Vec<String>>,
}

impl<'a, P: Process> Run<'a, P> {
    pub(super) fn new(simulation: &'a Simulation<P>, tell: bool) -> Self {
        #[allow(unused_mut, reason = "tests plant something into it")]
        let mut world = World::new(&simulation.process);
        #[cfg(test)]
        {
            world.plant = simulation.plant;
        }
        let mut names = 'A'..='Z';
        let began = Position(0);
        let first = Node { name: names.next().unwrap_or('A'), epoch: 1, work: Work::Idle, acted: false, began };
        Self {
            simulation,
            world,
            nodes: vec![first],
            names,
            budgets: simulation.budgets,
            meanwhile: (0..simulation.meanwhile.len()).collect(),
            asked: vec![],
            steps: 0,
            story: tell.then(Vec::new),
        }
    }

    fn tell_line(&mut self, line: impl FnOnce() -> String) {
        if let Some(story) = &mut self.story {
            story.push(line());
        }
    }

    /// Returns a copy of the run, which goes on by itself and records no story.
    pub(super) fn fork(&self) -> Self {
        let node = |node: &Node<P>| Node {
            name: node.name,
            epoch: node.epoch,
            work: node.work.clone(),
            acted: node.acted,
            began: node.began,
        };
        Self {
            simulation: self.simulation,
            world: self.world.fork(),
            nodes: self.nodes.iter().map(node).collect(),
            names: self.names.clone(),
            budgets: self.budgets,
            meanwhile: self.meanwhile.clone(),
            asked: self.asked.clone(),
            steps: self.steps,
            story: None,
        }
    }

    /// Executes the given commands and events. Fails if one is refused.
    pub(super) fn begin(&mut self) -> Result<(), String> {
        for (act, n) in self.simulation.given.iter().zip(1..) {
            let said = act(&self.world.store, Uuid::from_u128(n));
            let said = said.map_err(|said| format!("what is given is refused: {said}"))?;
            self.tell_line(|| said);
        }
        self.note();
        Ok(())
    }

    /// Goes on until there is a choice, and returns the possible moves; none at the end. Fails if a check fails, or
    /// after 2,000 steps.
    pub(super) fn go_on(&mut self) -> Result<Vec<Move>, String> {
        loop {
            if self.steps == STEPS {
                return Err(format!("it has not come to an end after {STEPS} steps"));
            }
            let moves = self.moves();
            match moves[..] {
                [Move::End] => {
                    self.end()?;
                    return Ok(vec![]);
                }
                [only] => _ = self.choose(only)?,
                _ => return Ok(moves),
            }
        }
    }

    /// Takes a step and runs the checks. Returns whether it was the last step.
    pub(super) fn choose(&mut self, next: Move) -> Result<bool, String> {
        self.steps += 1;
        if next == Move::End {
            return self.end().map(|()| true);
        }
        self.step(next)?;
        if next.may_record() {
            self.note();
        }
        self.simulation.always.iter().try_for_each(|check| check(&self.world))?;
        Ok(false)
    }

    /// Runs from the beginning to the end, by the choices.
    pub(super) fn go(&mut self, choices: &mut Choices<'_>) -> Result<(), String> {
        self.begin()?;
        loop {
            let moves = self.go_on()?;
            if moves.is_empty() || self.choose(moves[choices.choose(moves.len())])? {
                return Ok(());
            }
        }
    }

    /// Ends the run. Fails if an instance or a timer is parked, or if a check at the end fails.
    fn end(&self) -> Result<(), String> {
        for (key, letters) in &self.world.letters {
            if letters.retry_at.is_none() {
                return Err(format!("{key} is parked: {}", letters.reason));
            }
        }
        for (key, row) in &self.world.rows {
            if let Some(error) = row.timers.iter().find_map(|timer| timer.error.as_deref()) {
                return Err(format!("a timer of {key} is parked: {error}"));
            }
        }
        self.simulation.finally.iter().try_for_each(|check| check(&self.world))
    }

    /// Notes the events that were recorded, and the messages that can be answered.
    fn note(&mut self) {
        self.world.note();
        for event in std::mem::take(&mut self.world.messages) {
            let ways: Vec<_> = self.simulation.replies.iter().filter_map(|replies| replies(&event)).flatten().collect();
            if !ways.is_empty() {
                self.asked.push((event, ways));
            }
        }
    }

    fn owner(&self) -> usize {
        self.nodes.iter().position(|node| node.epoch == self.world.epoch).unwrap_or(0)
    }

    /// Returns the possible moves. The first is the one without a fault.
    fn moves(&self) -> Vec<Move> {
        let owner = self.owner();
        let mut moves = vec![];
        let go = |node: usize, moves: &mut Vec<Move>| match &self.nodes[node].work {
            Work::Idle => {}
            Work::Read { .. } => moves.push(Move::Go { node, turn: 0 }),
            Work::Answer { turns, .. } => {
                let open = (0..turns.len()).filter(|turn| !turns[*turn].is_over());
                moves.extend(open.map(|turn| Move::Go { node, turn }));
                if turns.iter().all(Turn::is_over) {
                    moves.push(Move::Go { node, turn: 0 });
                }
            }
        };
        let idle = matches!(self.nodes[owner].work, Work::Idle);
        if idle {
            let pending = self.world.pending(2).len();
            moves.extend((pending > 0).then_some(Move::TakeUp { all: true }));
            moves.extend((pending > 1).then_some(Move::TakeUp { all: false }));
            let now = self.world.now();
            let due = |letters: &super::world::Letters<P::Event>| letters.retry_at.is_some_and(|at| at <= now);
            let letters = self.world.letters.values().enumerate().filter(|(_, letters)| due(letters));
            moves.extend(letters.map(|(n, _)| Move::Retry(n)));
            moves.extend((self.world.is_due() && self.may_fire(owner)).then_some(Move::Fire));
        } else {
            go(owner, &mut moves);
        }
        let quiet = moves.is_empty();
        (0..self.nodes.len()).filter(|node| *node != owner).for_each(|node| go(node, &mut moves));
        for (asked, (_, ways)) in self.asked.iter().enumerate() {
            moves.extend((0..ways.len()).map(|way| Move::Reply { asked, way }));
        }
        let later = self
            .world
            .next_due()
            .filter(|due| self.simulation.lasting.is_none_or(|end| *due <= self.world.start() + end));
        if quiet {
            moves.extend(later.map(|_| Move::Clock));
            moves.extend((later.is_none() && self.asked.is_empty()).then_some(Move::End));
        }
        if !idle {
            let Budgets { crashes, take_overs, lost_answers, conflicts } = self.budgets;
            // A crash before the node has acted is as if it had never begun.
            moves.extend((crashes > 0 && self.nodes[owner].acted).then_some(Move::Crash));
            moves.extend((take_overs > 0 && self.lives_on(owner)).then_some(Move::TakeOver));
            if let (Work::Answer { turns, .. }, true) = (&self.nodes[owner].work, lost_answers + conflicts > 0) {
                for (turn, todo) in turns.iter().map(Turn::todo).enumerate() {
                    let Some(todo) = todo else { continue };
                    moves.extend((lost_answers > 0).then_some(Move::Lost { turn }));
                    moves.extend((conflicts > 0 && matches!(todo, Todo::Send(..))).then_some(Move::Conflict { turn }));
                }
            }
        }
        moves.extend((0..self.meanwhile.len()).map(Move::Meanwhile));
        // A node at work does not read the clock.
        if idle && !quiet {
            moves.extend(later.map(|_| Move::Clock));
        }
        moves
    }

    /// Whether a node may claim timers: once it has answered all events that its predecessor may have half answered.
    fn may_fire(&self, node: usize) -> bool {
        #[cfg(test)]
        if self.world.plant == Some(super::plants::Plant::TimersFirst) {
            return true;
        }
        self.world.pending(1).first().is_none_or(|event| event.position > self.nodes[node].began)
    }

    /// Whether a node that is frozen now can still act once it goes on. It can then neither read nor write rows.
    fn lives_on(&self, node: usize) -> bool {
        match &self.nodes[node].work {
            Work::Idle => false,
            #[cfg(test)]
            Work::Read { .. } => self.world.plant == Some(super::plants::Plant::UnfencedRead),
            #[cfg(not(test))]
            Work::Read { .. } => false,
            Work::Answer { turns, .. } => !turns.iter().all(Turn::is_over),
        }
    }

    fn step(&mut self, next: Move) -> Result<(), String> {
        let owner = self.owner();
        match next {
            Move::TakeUp { all } => self.take_up(owner, all),
            Move::Fire => self.fire(owner),
            Move::Retry(n) => self.retry(owner, n),
            Move::Go { node, turn } => {
                self.advance(node, turn)?;
                let gone = |node: &usize| self.nodes[*node].epoch != self.world.epoch && !self.lives_on(*node);
                if let Some(node) = (0..self.nodes.len()).find(gone) {
                    self.lose(node);
                }
            }
            Move::Crash => {
                self.budgets.crashes -= 1;
                self.world.epoch += 1;
                let node = &mut self.nodes[owner];
                (node.epoch, node.work, node.acted) = (self.world.epoch, Work::Idle, false);
                node.began = self.world.head();
                let name = node.name;
                self.tell_line(|| format!("{name} crashes, and starts again"));
            }
            Move::TakeOver => {
                self.budgets.take_overs -= 1;
                self.world.epoch += 1;
                let (old, new) = (self.nodes[owner].name, self.names.next().unwrap_or('Z'));
                let began = self.world.head();
                self.nodes.push(Node { name: new, epoch: self.world.epoch, work: Work::Idle, acted: false, began });
                self.tell_line(|| format!("{old} is frozen, and {new} takes over"));
            }
            Move::Lost { turn } => {
                self.budgets.lost_answers -= 1;
                self.advance(owner, turn)?;
                let node = &mut self.nodes[owner];
                (node.work, node.began) = (Work::Idle, self.world.head());
                let name = self.nodes[owner].name;
                self.tell_line(|| format!("{name} does not get that answer, and begins again"));
            }
            Move::Conflict { turn } => {
                self.budgets.conflicts -= 1;
                let Node { name, work: Work::Answer { turns, .. }, .. } = &mut self.nodes[owner] else { return Ok(()) };
                let (name, todo) = (*name, turns[turn].todo());
                turns[turn].failed(Parked { reason: "others were faster again and again".into(), later: true });
                let key = turns[turn].key().to_owned();
                self.tell_line(|| {
                    format!("{name}: {}: others were faster again and again, so {key} waits", said(todo.as_ref()))
                });
            }
            Move::Meanwhile(n) => {
                let act = self.meanwhile.remove(n);
                let id = Uuid::from_u128(1_000 + act as u128);
                let (Ok(said) | Err(said)) = self.simulation.meanwhile[act](&self.world.store, id);
                self.tell_line(|| format!("meanwhile: {said}"));
            }
            Move::Reply { asked, way } => {
                let (event, mut ways) = self.asked.remove(asked);
                let said = ways.remove(way).append(&self.world.store, &event)?;
                self.tell_line(|| format!("answer to {}: {said}", event.data.name));
            }
            Move::Clock => {
                let Some(due) = self.world.next_due() else { return Ok(()) };
                self.world.advance_to(due);
                self.tell_line(|| format!("the clock goes to {due}"));
            }
            Move::End => {}
        }
        Ok(())
    }

    fn terms(&self) -> Terms {
        Terms { now: self.world.now(), keep_finished: None }
    }

    fn take_up(&mut self, owner: usize, all: bool) {
        let events = self.world.pending(if all { usize::MAX } else { 1 });
        let name = self.nodes[owner].name;
        let words = |event: &Recorded<Raw>| format!("{} {}", event.position, event.data.name);
        self.tell_line(|| format!("{name} takes up {}", events.iter().map(words).collect::<Vec<_>>().join(", ")));
        let (node, from) = (&mut self.nodes[owner], self.world.checkpoint);
        (node.work, node.acted) = (Work::Read { events, from }, false);
    }

    fn fire(&mut self, owner: usize) {
        let mut turns = vec![];
        for (key, timers) in self.world.claim() {
            let row = self.world.rows.get(&key).cloned();
            for (timer, _) in &timers {
                let was = row.as_ref().and_then(|row| row.timer(timer)).map(|timer| timer.was.clone());
                let name = self.nodes[owner].name;
                self.tell_line(|| format!("{name} fires {}", was.unwrap_or_default()));
            }
            let armed = |(id, event): (TimerId, Uuid)| {
                let part = row.as_ref().and_then(|row| row.timer(&id)).map_or(0, |timer| timer.part);
                Item::Timer(id, self.world.armed(event, part))
            };
            let items: Vec<_> = timers.into_iter().map(armed).collect();
            turns.push(Turn::new(&self.world.process, &key, row, items, false, self.terms()));
        }
        let node = &mut self.nodes[owner];
        (node.work, node.acted) = (Work::Answer { turns, commit: Commit::Timers }, true);
    }

    fn retry(&mut self, owner: usize, n: usize) {
        let Some((key, letters)) = self.world.letters.iter().nth(n) else { return };
        let (key, items) = (key.clone(), letters.events.iter().map(|(event, part)| Item::Event(event.clone(), *part)));
        let row = self.world.rows.get(&key).cloned();
        let turn = Turn::new(&self.world.process, &key, row, items, false, self.terms());
        let name = self.nodes[owner].name;
        self.tell_line(|| format!("{name} tries {key} again"));
        let node = &mut self.nodes[owner];
        (node.work, node.acted) = (Work::Answer { turns: vec![turn], commit: Commit::Letters(key) }, false);
    }

    /// Takes the next step of a node. Fails if the store fails.
    fn advance(&mut self, node: usize, turn: usize) -> Result<(), String> {
        let Node { name, work, acted, .. } = &mut self.nodes[node];
        let name = *name;
        match work {
            Work::Idle => Ok(()),
            Work::Read { .. } => self.read(node),
            Work::Answer { turns, .. } => {
                let Some(todo) = turns.get(turn).and_then(Turn::todo) else {
                    self.write(node);
                    return Ok(());
                };
                #[cfg(test)]
                let todo = super::plants::todo(self.world.plant, todo, turns[turn].answering());
                #[cfg(not(test))]
                let done = now(todo.perform(&self.world.store));
                #[cfg(test)]
                let done = now(super::plants::perform(&self.world, &todo));
                *acted = true;
                let line = match done {
                    Ok(told) => {
                        let line = format!("{name}: {}: {}", said(Some(&todo)), came(&told));
                        turns[turn].told(told);
                        line
                    }
                    Err(Failure::Parked(parked)) => {
                        let line = format!("{name}: {}: {}", said(Some(&todo)), parked.reason);
                        turns[turn].failed(parked);
                        line
                    }
                    Err(Failure::Store(error)) => return Err(format!("{name}: {error}")),
                };
                self.tell_line(|| line);
                Ok(())
            }
        }
    }

    fn read(&mut self, node: usize) -> Result<(), String> {
        let Node { name, epoch, work, .. } = &mut self.nodes[node];
        let (name, epoch) = (*name, *epoch);
        let Work::Read { events, from } = std::mem::replace(work, Work::Idle) else { return Ok(()) };
        let Some(to) = events.last().map(|event| event.position) else { return Ok(()) };
        let mut all = vec![];
        for event in &events {
            let heard =
                heard_in(&*self.world.process, event).map_err(|error| format!("{}: {error}", event.data.name))?;
            all.extend(heard);
        }
        let keys: Vec<_> = all.iter().map(|heard| heard.key.clone()).collect();
        let Some(rows) = self.world.rows_of(epoch, from, &keys) else {
            self.lose(node);
            return Ok(());
        };
        let (process, letters) = (self.world.process.clone(), &self.world.letters);
        let turns = |all, rows| Turn::all(&process, all, rows, |key| letters.contains_key(key), self.terms());
        let commit = Commit::Events(to);
        #[cfg(test)]
        if let Some(results) = super::plants::results_before(self.world.plant, || turns(all.clone(), rows.clone())) {
            let turns = turns(all, rows);
            if self.world.write(epoch, results, None) {
                self.world.checkpoint = to;
                self.nodes[node].work = Work::Answer { turns, commit: Commit::Nothing };
            }
            return Ok(());
        }
        let mut turns = turns(all, rows);
        // A look-up changes nothing, and no move in between changes its result.
        for turn in &mut turns {
            while let Some(todo @ Todo::LookUp(_)) = turn.todo() {
                let Ok(told) = now(todo.perform(&self.world.store)) else {
                    return Err("the log cannot be read".into());
                };
                turn.told(told);
            }
        }
        let silent = turns.iter().all(Turn::is_over);
        self.nodes[node].work = Work::Answer { turns, commit };
        // If nothing is sent between the read and the write, no move in between matters.
        if silent {
            self.write(node);
        } else {
            self.tell_line(|| format!("{name} reads the rows"));
        }
        Ok(())
    }

    fn write(&mut self, node: usize) {
        let Node { name, epoch, work, .. } = &mut self.nodes[node];
        let (name, epoch) = (*name, *epoch);
        let Work::Answer { turns, commit } = std::mem::replace(work, Work::Idle) else { return };
        #[cfg(test)]
        if commit == Commit::Nothing {
            return;
        }
        #[cfg(test)]
        if super::plants::checkpoint_first(&mut self.world, epoch, &commit) {
            self.tell_line(|| format!("{name} writes the checkpoint"));
            self.nodes[node].work = Work::Answer { turns, commit };
            return;
        }
        let retried = if let Commit::Letters(key) = &commit { Some(&**key) } else { None };
        let results: Vec<_> = turns.into_iter().map(Turn::result).collect();
        if !self.world.write(epoch, results, retried) {
            self.lose(node);
            return;
        }
        if let Commit::Events(to) = commit {
            self.world.checkpoint = to;
            self.tell_line(|| format!("{name} writes the rows, and checkpoint {to}"));
        } else {
            self.tell_line(|| format!("{name} writes the rows"));
        }
    }

    /// A node finds that another node owns the shard.
    fn lose(&mut self, node: usize) {
        let name = self.nodes[node].name;
        self.tell_line(|| format!("{name} has lost the shard, and stops"));
        if self.nodes[node].epoch == self.world.epoch {
            self.nodes[node].work = Work::Idle;
        } else {
            self.nodes.remove(node);
        }
    }

    /// Returns a hash of all that decides what can come next.
    pub(super) fn digest(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.world.digest(&mut hasher);
        (self.budgets, &self.meanwhile).hash(&mut hasher);
        self.asked.iter().for_each(|(event, _)| event.position.hash(&mut hasher));
        for node in &self.nodes {
            (node.epoch == self.world.epoch, node.acted, node.began).hash(&mut hasher);
            match &node.work {
                Work::Idle => 0.hash(&mut hasher),
                Work::Read { events, from } => (1, events.len(), from).hash(&mut hasher),
                Work::Answer { turns, commit } => {
                    (2, commit).hash(&mut hasher);
                    turns.iter().for_each(|turn| turn.digest(&mut hasher));
                }
            }
        }
        hasher.finish()
    }
}

/// Returns the text of an operation.
fn said(todo: Option<&Todo>) -> String {
    match todo {
        Some(Todo::Send(sending, _)) => format!("{sending:?}"),
        Some(Todo::Mark(mark, delivery)) => {
            let what = if mark.refused.is_some() { "that it was refused" } else { "that there was nothing to do" };
            format!("writes down at {} {what}", delivery.marks())
        }
        Some(Todo::LookUp(delivery)) => format!("looks whether {} was over", delivery.key),
        None => String::new(),
    }
}

/// Returns the text of a result.
fn came(told: &Told) -> String {
    match told {
        Told::Recorded => "recorded".into(),
        Told::Nothing => "nothing to do".into(),
        Told::Refused(words) => format!("refused, {words}"),
        Told::Marked(Some(words)) => format!("was refused before, {words}"),
        Told::Marked(None) => "there was nothing to do before".into(),
        Told::Taken => "another was first".into(),
        Told::Over(over) => if *over { "it was" } else { "it was not" }.into(),
    }
}
