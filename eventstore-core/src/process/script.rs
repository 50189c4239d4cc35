//! The answer of a process, of any kind.

use uuid::Uuid;

use crate::{
    event::Event,
    invalid::Invalid,
    process::{
        commands::Commands,
        outcome::{Next, Outcome},
        plan::Plan,
        plan_script::PlanScript,
        walk::{Due, Known, Walk},
    },
};

/// The answer to one event or timer.
#[derive(Clone)]
pub struct Script(Kind);

#[derive(Clone)]
enum Kind {
    /// Commands; if a timer is due, only the part of them that it sends.
    Tree { commands: Commands, timer: Option<Part> },
    /// The steps of a plan.
    Plan(Box<PlanScript>),
}

/// A timer of a tree.
#[derive(Clone)]
struct Part {
    /// The place of the root of the tree; empty if the root has none.
    root: String,
    /// The place of the timer from the root.
    way: String,
}

impl Part {
    /// Returns the part that the timer sends, and the place of its root.
    fn due<'a>(&self, commands: &'a Commands) -> Option<(Due<'a>, String)> {
        let (due, way) = commands.due(&self.way)?;
        let dot = if self.root.is_empty() || way.is_empty() { "" } else { "." };
        Some((due, format!("{}{dot}{way}", self.root)))
    }
}

impl Script {
    /// Returns the answer of a process without steps.
    pub fn commands(commands: Commands) -> Self {
        Self(Kind::Tree { commands, timer: None })
    }

    /// Returns the answer of the timer at a place of other commands; `None` if they have no such timer.
    pub(crate) fn due(commands: Commands, timer: &str) -> Option<Self> {
        Self::due_in(commands, "", timer)
    }

    /// As [`due`](Self::due), for a tree whose root has a place.
    pub(super) fn due_in(commands: Commands, root: &str, way: &str) -> Option<Self> {
        commands.due(way)?;
        Some(Self(Kind::Tree { commands, timer: Some(Part { root: root.into(), way: way.into() }) }))
    }

    /// Returns the answer of a timer among the commands of a step; `None` if the plan has no such timer.
    pub(super) fn due_in_plan<E: Event>(plan: &Plan<E>, place: &str) -> Option<Self> {
        let (prefix, way) = place.split_once('.').unwrap_or((place, ""));
        let (kind, name) = prefix.split_once(':')?;
        let step = plan.get(name.split('#').next().unwrap_or(name))?;
        let commands = if kind == "undo" { step.undo.clone() } else { step.send.clone() };
        Self::due_in(commands, prefix, way)
    }

    pub(super) fn plan(plan: PlanScript) -> Self {
        Self(Kind::Plan(Box::new(plan)))
    }

    /// Whether the answer is empty.
    pub fn is_none(&self) -> bool {
        matches!(&self.0, Kind::Tree { commands, .. } if *commands == Commands::none())
    }

    /// Returns the commands still to be sent of an answer without steps, given some results; for tests.
    pub(super) fn rest(&self, known: &Known) -> Commands {
        match &self.0 {
            Kind::Tree { commands, timer: None } => commands.rest(known),
            Kind::Tree { commands, timer: Some(part) } => {
                part.due(commands).map_or_else(Commands::none, |(due, root)| due.rest(root, known))
            }
            Kind::Plan(_) => Commands::none(),
        }
    }

    pub(super) fn check(&self) -> Result<(), Invalid> {
        match &self.0 {
            Kind::Tree { commands, .. } => commands.check(),
            Kind::Plan(plan) => plan.check(),
        }
    }

    pub(super) fn next(&self, known: &Known) -> Next {
        let (commands, timer) = match &self.0 {
            Kind::Tree { commands, timer } => (commands, timer),
            Kind::Plan(plan) => return plan.next(known),
        };
        let due = timer.as_ref().and_then(|part| part.due(commands));
        let mut walk = Walk::new(known, due.as_ref().map_or("", |(_, root)| root));
        let walked = match &due {
            Some((due, _)) => walk.due(due),
            None => walk.commands(commands, false),
        };
        match walked {
            Err(pending) => Next::Send(pending.into()),
            Ok(_) => Next::Done(Box::new(Outcome { timers: walk.timers, plan: None, refused: walk.refused })),
        }
    }

    /// Returns the event that the ids of the commands are derived from, and its part, for a plan: `None` if it is the
    /// event or timer that is answered.
    pub(super) fn ids(&self) -> Option<(Uuid, u32)> {
        match &self.0 {
            Kind::Tree { .. } => None,
            Kind::Plan(plan) => Some(plan.ids()),
        }
    }

    /// Whether a step waits for an event once its commands are accepted; for tests.
    pub(crate) fn waits(&self, step: &str) -> bool {
        matches!(&self.0, Kind::Plan(plan) if plan.waits(step))
    }

    /// Returns the step that a place belongs to; `None` without a plan.
    pub(super) fn step(&self, place: &str) -> Option<String> {
        match &self.0 {
            Kind::Tree { .. } => None,
            Kind::Plan(_) => Some(PlanScript::step_of(place).to_owned()),
        }
    }
}
