//! Those who follow the log and write down what they are given: a plain reader, and a subscription.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use eventstore::{BoxError, Position, Recorded, Store, Subscription};
use futures::StreamExt;
use serde_json::{Value as Json, json};

use crate::{
    domain::AccountEvent,
    log::{self, Lines, now},
    world::{Dice, World},
};

/// How many events go into the file at once.
const TOGETHER: usize = 100;

/// Reads the log as it grows, from where its file ends.
pub fn follow(store: &Store, folder: &Path, name: &str, run: u64) -> io::Result<()> {
    let path = folder.join("subscribers").join(format!("{name}-follower.jsonl"));
    let last = log::tail(&path)?.last().and_then(|line| line["position"].as_u64());
    let (lines, mut at) = (Lines::open(&path)?, Position(last.unwrap_or(0)));
    let store = store.clone();
    tokio::spawn(async move {
        loop {
            let mut events = store.read().after(at).raw().ready_chunks(TOGETHER);
            while let Some(chunk) = events.next().await {
                let (mut seen, mut failed) = (Vec::with_capacity(chunk.len()), false);
                for event in chunk {
                    match event {
                        Ok(event) => {
                            at = event.position;
                            seen.push(line("follower", run, &event));
                        }
                        Err(error) => {
                            failed = true;
                            eprintln!("{} follower at {at}: {error}", now());
                            break;
                        }
                    }
                }
                lines.write_all(&seen);
                if failed {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    break;
                }
            }
            store.as_ref().appended(at).await;
        }
    });
    Ok(())
}

fn line<E>(subscription: &str, run: u64, event: &Recorded<E>) -> Json {
    json!({
        "t": now(), "subscription": subscription, "run": run, "position": event.position.0, "id": event.id,
        "stream": event.stream.as_str(), "version": event.version.0,
    })
}

/// A receiver outside of the store: it takes its time, and now and then it fails in the middle.
pub struct Mailbox {
    lines: Lines,
    run: u64,
    dice: Mutex<Dice>,
    /// It does not fail any more once this is there.
    quiet: PathBuf,
}

impl Mailbox {
    pub fn open(world: &World, name: &str, run: u64) -> io::Result<Self> {
        let lines = Lines::open(&world.folder.join("subscribers").join(format!("{name}-mailbox.jsonl")))?;
        let dice = Mutex::new(Dice::named(world.seed, &format!("{name} mailbox {run}")));
        Ok(Self { lines, run, dice, quiet: world.quiet() })
    }
}

impl Subscription for Mailbox {
    const NAME: &'static str = "mailbox";
    type Event = AccountEvent;

    async fn handle(&self, events: &[&Recorded<AccountEvent>]) -> Result<(), BoxError> {
        let (pause, fails) = {
            let mut dice = self.dice.lock().unwrap_or_else(PoisonError::into_inner);
            (Duration::from_millis(dice.roll(25)), dice.roll(30) == 0)
        };
        tokio::time::sleep(pause).await;
        let fails = fails && !self.quiet.exists();
        let taken = if fails { events.len() / 2 } else { events.len() };
        let lines: Vec<_> = events[..taken].iter().map(|event| line(Self::NAME, self.run, event)).collect();
        lines.chunks(TOGETHER).for_each(|lines| self.lines.write_all(lines));
        if fails { Err("the receiver is out of order".into()) } else { Ok(()) }
    }
}
