//! Everything at once, for a while: processes that are killed, frozen, stopped and started, shards that are split and
//! joined, tables that are built again and put in place, events that cannot be taken in. In the end every event counts once.
//!
//! `EVENTSTORE_STRESS_SECONDS=600` makes it longer, `EVENTSTORE_STRESS_SEED=7` does what was done before, as far as
//! processes do; `EVENTSTORE_STRESS_LOUD=1` prints what the processes say.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use eventstore::{Processors, ReadModelVersions, StoreError};
use tokio::{
    task::JoinHandle,
    time::{sleep, timeout},
};

use crate::processes::{LEASE, NAMES, POISON, Process, Scene, until};

const WORKERS: usize = 4;
const SECONDS: u64 = 15;

fn told(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// SplitMix64: what is done, and in which order, follows from the seed.
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }
}

/// Appends until it is over; now and then what nobody can take in.
async fn write(scene: &Scene, seed: u64, over: &AtomicBool) {
    let mut dice = Dice(seed);
    while !over.load(Ordering::SeqCst) {
        let amount = if dice.roll(300) == 0 { POISON } else { dice.roll(1_000) as i64 };
        scene.append(dice.roll(1_000), amount).await;
        sleep(Duration::from_millis(dice.roll(8))).await;
    }
}

/// Builds a table again beside the one there is, and puts it in its place.
async fn rebuild(projections: &Processors, name: &str) -> Result<(), StoreError> {
    let rebuild = projections.rebuild(name).await?;
    rebuild.wait().await?;
    projections.promote(name).await?;
    projections.discard(rebuild.name()).await
}

#[derive(Debug, Default)]
struct Done {
    killed: u32,
    frozen: u32,
    stopped: u32,
    resharded: u32,
    not_resharded: u32,
    asked_and_killed: u32,
    paused: u32,
    rebuilt: u32,
    not_rebuilt: u32,
    looked: u32,
}

async fn trouble(scene: &Scene, workers: &mut [Option<Process>; WORKERS], seed: u64, seconds: u64) -> Done {
    let (mut dice, mut done, start) = (Dice(seed), Done::default(), Instant::now());
    let mut frozen: Vec<(usize, Instant)> = vec![];
    let (projections, mut asked) = (Processors::new(&scene.store), vec![]);
    let mut rebuilds: Vec<JoinHandle<Result<(), StoreError>>> = vec![];
    while start.elapsed() < Duration::from_secs(seconds) {
        frozen.retain(|(one, until)| {
            let still = Instant::now() < *until;
            if !still && let Some(worker) = &workers[*one] {
                worker.signal("CONT");
            }
            still
        });
        let one = dice.roll(WORKERS as u64) as usize;
        let name = NAMES[dice.roll(3) as usize];
        let shards = 1 + dice.roll(9) as u16;
        let is_frozen = frozen.iter().any(|(there, _)| *there == one);
        match dice.roll(13) {
            0 | 1 => {
                frozen.retain(|(there, _)| *there != one);
                workers[one].take().expect("a worker").kill();
                workers[one] = Some(scene.start(2));
                done.killed += 1;
            }
            2 | 3 if !is_frozen && frozen.len() < WORKERS - 1 => {
                workers[one].as_ref().expect("a worker").signal("STOP");
                let length = Duration::from_millis(dice.roll(4 * LEASE.as_millis() as u64));
                frozen.push((one, Instant::now() + length));
                done.frozen += 1;
            }
            4 if !is_frozen => {
                let worker = workers[one].take().expect("a worker");
                tokio::task::spawn_blocking(|| worker.stop()).await.expect("it stops");
                workers[one] = Some(scene.start(3));
                done.stopped += 1;
            }
            5 | 6 => {
                let projections = projections.clone();
                asked.push(tokio::spawn(async move { projections.reshard(name, shards).await }));
            }
            // Whoever asked is gone before it is done.
            7 if !is_frozen => {
                let mut worker = workers[one].take().expect("a worker");
                worker.say(&format!("reshard {name} {shards}"));
                sleep(Duration::from_millis(dice.roll(40))).await;
                worker.kill();
                workers[one] = Some(scene.start(1));
                done.asked_and_killed += 1;
            }
            8 => {
                match projections.pause(name).await {
                    Ok(()) => done.paused += 1,
                    // It has never run yet.
                    Err(StoreError::Invalid(_)) => {}
                    Err(error) => panic!("{error}"),
                }
                sleep(Duration::from_millis(dice.roll(200))).await;
                if done.paused > 0 {
                    let _ = projections.resume(name).await;
                }
            }
            9..12 if rebuilds.last().is_none_or(JoinHandle::is_finished) => {
                let (projections, name) = (projections.clone(), NAMES[dice.roll(2) as usize]);
                rebuilds.push(tokio::spawn(async move { rebuild(&projections, name).await }));
            }
            _ => {
                scene.right_now().await;
                done.looked += 1;
            }
        }
        sleep(Duration::from_millis(dice.roll(150))).await;
    }
    for (one, _) in frozen {
        workers[one].as_ref().expect("a worker").signal("CONT");
    }
    for asked in asked {
        match asked.await.expect("no panic") {
            Ok(()) => done.resharded += 1,
            // All that run it may have been frozen; or it was paused, or somebody else asked for other ones.
            Err(StoreError::Behind { .. } | StoreError::Invalid(_)) => done.not_resharded += 1,
            Err(error) => panic!("{error}"),
        }
    }
    for rebuild in rebuilds {
        // Whoever wants it to be done says so later.
        let asked = rebuild.abort_handle();
        let rebuilt = timeout(Duration::from_secs(30), rebuild).await;
        asked.abort();
        match rebuilt.map(|done| done.expect("no panic")) {
            Ok(Ok(())) => done.rebuilt += 1,
            Err(_)
            | Ok(Err(
                StoreError::Behind { .. }
                | StoreError::Building { .. }
                | StoreError::Busy(_)
                | StoreError::Invalid(_)
                | StoreError::Parked { .. }
                | StoreError::Stopped { .. },
            )) => done.not_rebuilt += 1,
            Ok(Err(error)) => panic!("{error}"),
        }
    }
    done
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p1_p2_p3_p4_p6_every_event_counts_once_whatever_happens_to_those_who_take_it_in() {
    let seed = told("EVENTSTORE_STRESS_SEED").unwrap_or_else(|| u64::from(std::process::id()) ^ 0xe5);
    let seconds = told("EVENTSTORE_STRESS_SECONDS").unwrap_or(SECONDS);
    println!("EVENTSTORE_STRESS_SEED={seed} EVENTSTORE_STRESS_SECONDS={seconds}");
    let scene = Scene::new().await;
    let mut workers = std::array::from_fn(|_| Some(scene.start(2)));
    let first = scene.append(0, 1).await;
    scene.all_at(first, Duration::from_secs(30)).await;
    let over = AtomicBool::new(false);
    let trouble = async {
        let done = trouble(&scene, &mut workers, seed, seconds).await;
        over.store(true, Ordering::SeqCst);
        done
    };
    let (done, (), ()) = futures::join!(trouble, write(&scene, seed + 1, &over), write(&scene, seed + 2, &over));

    // Once more, with nobody in the way.
    let projections = Processors::new(&scene.store);
    for name in &NAMES[..2] {
        timeout(Duration::from_secs(60), rebuild(&projections, name)).await.expect("a minute").unwrap();
    }
    let head = scene.store.head().await.unwrap();
    let all_at = scene.all_at(head, Duration::from_secs(40)).await;
    scene.right_now().await;
    // What could not be taken in waits, and is taken in once it can be, in its order.
    let mut letters = 0;
    for name in NAMES {
        letters += projections.dead_letters(name).list().await.unwrap().len();
    }
    std::fs::write(scene.flag("mended"), "").unwrap();
    let empty = async || {
        let mut left = 0;
        for name in NAMES {
            // One that is just being tried by itself may be gone when it is asked for.
            let letters = projections.dead_letters(name);
            let _ = tokio::time::timeout(Duration::from_secs(20), letters.retry_all()).await;
            left += projections.dead_letters(name).list().await.unwrap().len();
        }
        left == 0
    };
    until(Duration::from_secs(60), "all dead letters are taken in", empty).await;
    let fenced = scene.fenced.load(Ordering::SeqCst);
    println!("{head} events, {done:?}, up to date after {all_at:?}, {letters} dead letters, {fenced} writes refused");
    scene.right().await;
    for worker in workers.into_iter().flatten() {
        tokio::task::spawn_blocking(|| worker.stop()).await.expect("it stops");
    }
    scene.right().await;
}
