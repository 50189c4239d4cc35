//! Dropping what operates projections and runs them, at any await.

use std::{
    pin::pin,
    time::{Duration, Instant},
};

use eventstore::{Expected, Id, Invalid, Processors, Rows, Runner, Running, State, StoreError, prelude::*};
use serde::{Deserialize, Serialize};
use tokio::time::{sleep, timeout};

use super::{EACH, FEW, SOON, Sweep, account, polled};
use crate::cases::{
    account::{Account, AccountEvent::*, *},
    balances::Balance,
    subscriptions::Outside,
};

/// Fails on thirteen, until it is mended.
#[derive(ReadModel, Serialize, Deserialize, Default, Debug, PartialEq)]
struct Wary {
    events: i64,
}

impl Project for Wary {
    type Event = AccountEvent;

    fn project(row: &mut Row<Self>, event: &Recorded<AccountEvent>) {
        assert!(event.data != Deposited { amount: 13 }, "no thirteen");
        row.events += 1;
    }
}

/// Somebody else runs these, over the other store.
async fn run_by_another(sweep: &Sweep) -> Running {
    let runner = Runner::new(&sweep.other).lease(Duration::from_millis(500));
    let runner = runner.read_model::<Balance>().shards(2).read_model::<Wary>().max_parked(10_000).start();
    for n in 0..20 {
        let id = account("owner", n);
        sweep
            .other
            .append(&id, Expected::Any, [Opened { owner: "Ann".into() }, Deposited { amount: 1 }])
            .await
            .unwrap();
    }
    runner.until(sweep.other.head().await.unwrap()).await.unwrap();
    runner
}

/// The rows are the fold of the log, and stay so.
async fn follows(sweep: &Sweep, runner: &Running) {
    let written = sweep.other.append(account("more", 0), Expected::Any, [Deposited { amount: 1 }]).await.unwrap();
    let reached = crate::cases::parked::reached(runner, written.last);
    timeout(Duration::from_secs(30), reached).await.expect("it goes on").unwrap();
    let rows = sweep.other.read_model::<Balance>();
    assert_eq!(rows.list().after(written.last).await.unwrap(), rows.at_position(written.last).list().await.unwrap());
}

fn done_or_done_before(outcome: Result<(), StoreError>) {
    match outcome {
        Ok(()) | Err(StoreError::Invalid(Invalid::Request(_))) => {}
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a8_operating_a_projection_dropped_at_any_await_can_be_said_again() {
    let sweep = crate::sweep().await;
    let runner = run_by_another(&sweep).await;
    let projections = Processors::new(sweep.store());
    let state = async || {
        let all = projections.status().await.unwrap();
        all.into_iter().find(|status| status.name == "balance@1").expect("it is there").state
    };
    let status = |_| projections.status();
    sweep.each("status", EACH, status, async |_, outcome| drop(outcome.map(Result::unwrap))).await;

    let pause = |_| projections.pause("balance");
    sweep
        .each("pause", EACH, pause, async |_, outcome| {
            assert!(outcome.is_none_or(|outcome| outcome.is_ok()));
            projections.pause("balance").await.unwrap();
            assert_eq!(state().await, State::Paused);
            projections.resume("balance").await.unwrap();
        })
        .await;
    follows(&sweep, &runner).await;

    let resume = |_| async {
        projections.pause("balance").await?;
        projections.resume("balance").await
    };
    sweep
        .each("pause and resume", EACH, resume, async |_, outcome| {
            assert!(outcome.is_none_or(|outcome| outcome.is_ok()));
            projections.resume("balance").await.unwrap();
            assert_eq!(state().await, State::Active);
        })
        .await;
    follows(&sweep, &runner).await;

    let throttle = |times| projections.throttle("balance", Some(1_000 + times as u64));
    sweep
        .each("throttle", EACH, throttle, async |times, outcome| {
            assert!(outcome.is_none_or(|outcome| outcome.is_ok()));
            throttle(times).await.unwrap();
        })
        .await;
    projections.throttle("balance", None).await.unwrap();

    let reshard = |times| projections.reshard("balance", 1 + times as u16 % 4);
    sweep
        .each("reshard", FEW, reshard, async |times, outcome| {
            assert!(outcome.is_none_or(|outcome| outcome.is_ok()));
            reshard(times).await.unwrap();
            let shards = sweep.world.inner.shards(Some("balance@1")).await.unwrap();
            assert_eq!(shards.len(), 1 + times % 4);
            follows(&sweep, &runner).await;
        })
        .await;

    let rebuild = |_| projections.rebuild_key("balance", "owner-3");
    sweep
        .each("rebuild_key", FEW, rebuild, async |_, outcome| {
            assert!(outcome.is_none_or(|outcome| outcome.is_ok()));
            rebuild(0).await.unwrap();
            follows(&sweep, &runner).await;
        })
        .await;
    runner.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a8_rebuilding_dropped_at_any_await_can_be_said_again() {
    let sweep = crate::sweep().await;
    let runner = run_by_another(&sweep).await;
    let projections = Processors::new(sweep.store());
    let shadow = "balance@1~shadow";
    let built = async || runner.rebuild("balance").await.unwrap().wait().await.unwrap();
    let gone = async || {
        // It may have been changed meanwhile.
        while projections.status().await.unwrap().iter().any(|status| status.name == shadow) {
            done_or_done_before(projections.discard(shadow).await);
        }
    };

    let rebuild = |_| async {
        let rebuild = projections.rebuild("balance").await?;
        rebuild.wait().await?;
        rebuild.progress().await
    };
    sweep
        .each("rebuild, wait and progress", FEW, rebuild, async |_, outcome| {
            assert!(outcome.is_none_or(|outcome| outcome.unwrap().is_built()));
            assert!(rebuild(0).await.unwrap().is_built());
            gone().await;
        })
        .await;

    built().await;
    let compare = |_| projections.compare("balance");
    sweep
        .each("compare", FEW, compare, async |_, outcome| {
            assert!(outcome.is_none_or(|outcome| outcome.unwrap().is_same()));
            assert!(compare(0).await.unwrap().is_same());
            follows(&sweep, &runner).await;
        })
        .await;
    gone().await;

    sweep
        .each_with(
            "promote",
            FEW,
            async |_| built().await,
            |_| projections.promote("balance"),
            async |_, outcome| {
                assert!(outcome.is_none_or(|outcome| outcome.is_ok()));
                done_or_done_before(projections.promote("balance").await);
                follows(&sweep, &runner).await;
                gone().await;
            },
        )
        .await;

    let promoted = async |_| {
        built().await;
        runner.promote("balance").await.unwrap();
    };
    sweep
        .each_with(
            "rollback",
            FEW,
            promoted,
            |_| projections.rollback("balance"),
            async |_, outcome| {
                assert!(outcome.is_none_or(|outcome| outcome.is_ok()));
                done_or_done_before(projections.rollback("balance").await);
                follows(&sweep, &runner).await;
                gone().await;
            },
        )
        .await;

    sweep
        .each_with(
            "discard",
            FEW,
            async |_| built().await,
            |_| projections.discard(shadow),
            async |_, outcome| {
                outcome.into_iter().for_each(done_or_done_before);
                gone().await;
                follows(&sweep, &runner).await;
            },
        )
        .await;
    runner.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a8_p4_a_promote_dropped_while_it_holds_others_up_lets_them_go_on() {
    let sweep = crate::sweep().await;
    let runner = run_by_another(&sweep).await;
    runner.rebuild("balance").await.unwrap().wait().await.unwrap();
    // It will not be where the other is for a long time.
    runner.throttle("balance@1~shadow", Some(1)).await.unwrap();
    loop {
        let deposits = (0..20).map(|amount| Deposited { amount });
        let last = sweep.other.append(account("more", 0), Expected::Any, deposits).await.unwrap().last;
        crate::cases::parked::reached(&runner, last).await.unwrap();
        if sweep.world.inner.checkpoint("balance@1~shadow").await.unwrap().0 + 40 < last.0 {
            break;
        }
    }
    let held = async || {
        let table = "reshards".into();
        let all = Rows::Whole { table, keys: vec![], after: String::new(), limit: 1 };
        sweep.other.as_ref().rows(all).await.is_ok_and(|rows| !rows.is_empty())
    };
    let projections = Processors::new(sweep.store());
    {
        let mut promote = pin!(projections.promote("balance"));
        while !held().await {
            assert!(polled(1, &mut promote).await.is_none(), "it had nothing to wait for");
            sleep(Duration::from_millis(1)).await;
        }
    }
    sweep.over("promote", 0).await;
    timeout(SOON, follows(&sweep, &runner)).await.expect("they go on");
    runner.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a8_p3_seeing_to_dead_letters_dropped_at_any_await_loses_none() {
    let sweep = crate::sweep().await;
    let runner = run_by_another(&sweep).await;
    let projections = Processors::new(sweep.store());
    let letters = projections.dead_letters("wary");
    let waiting = async |key: &str| {
        let all = letters.list().await.unwrap().into_iter();
        all.filter(|letter| letter.key.ends_with(key)).map(|letter| letter.skipped).collect::<Vec<_>>()
    };
    let parked = async |key: &str| {
        let events = [Deposited { amount: 13 }, Deposited { amount: 1 }];
        let written = sweep.other.append(Id::<Account>::from(key.to_owned()), Expected::Any, events).await.unwrap();
        crate::cases::parked::reached(&runner, written.last).await.unwrap();
    };
    parked("eve").await;
    let key = letters.list().await.unwrap()[0].key.clone();
    sweep
        .each(
            "list of dead letters",
            EACH,
            |_| letters.list(),
            async |_, outcome| {
                assert!(outcome.is_none_or(|outcome| outcome.unwrap().len() == 2));
            },
        )
        .await;
    sweep
        .each(
            "try_run",
            FEW,
            |_| letters.try_run(&key),
            async |_, outcome| {
                assert!(outcome.is_none_or(|outcome| outcome.unwrap().taken == 0));
                assert_eq!(waiting("eve").await, [None, None]);
            },
        )
        .await;
    sweep
        .each(
            "retry",
            FEW,
            |_| letters.retry(&key),
            async |_, outcome| {
                assert!(outcome.is_none_or(|outcome| matches!(outcome, Err(StoreError::Parked { .. }))));
                assert_eq!(waiting("eve").await, [None, None]);
            },
        )
        .await;
    sweep
        .each(
            "retry_all",
            FEW,
            |_| letters.retry_all(),
            async |_, outcome| {
                assert!(outcome.is_none_or(|outcome| outcome.unwrap() == (0, 1)));
                assert_eq!(waiting("eve").await, [None, None]);
            },
        )
        .await;
    let name = |times| format!("skip-{times}");
    let key = |times| key.replace("eve", &name(times));
    let (letters, key) = (&letters, &key);
    let skip = |times| async move { letters.skip(&key(times), "it is known").await };
    sweep
        .each_with(
            "skip",
            FEW,
            async |times| parked(&name(times)).await,
            skip,
            async |times, outcome| {
                assert!(outcome.is_none_or(|outcome| outcome.is_ok()));
                // The first waits, or it is passed over.
                if waiting(&name(times)).await[0].is_none() {
                    skip(times).await.unwrap();
                }
                // It stays there, for people; what is behind it is taken in.
                let until = Instant::now() + SOON;
                while waiting(&name(times)).await != [Some("it is known".to_owned())] {
                    assert!(Instant::now() < until, "{:?}", waiting(&name(times)).await);
                    sleep(Duration::from_millis(5)).await;
                }
            },
        )
        .await;
    runner.stop().await;
}

/// What is asked is answered over the connections there are: a node of one connection answers, and whoever is in a
/// transaction waits for no other one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn o2_p3_what_is_asked_of_a_node_needs_one_connection() {
    let sweep = crate::sweep().await;
    let runner = Runner::new(sweep.store()).read_model::<Wary>().max_parked(100).start();
    let events = [Deposited { amount: 13 }, Deposited { amount: 1 }];
    let written = sweep.other.append(Id::<Account>::from("eve"), Expected::Any, events).await.unwrap();
    crate::cases::parked::reached(&runner, written.last).await.unwrap();
    let letters = Processors::new(&sweep.other).dead_letters("wary");
    let key = letters.list().await.unwrap()[0].key.clone();
    let asked = (0..12).map(|_| letters.try_run(&key));
    let tried = timeout(SOON, futures::future::try_join_all(asked)).await.expect("it is answered").unwrap();
    assert!(tried.iter().all(|tried| (tried.waiting, tried.taken) == (2, 0)), "{tried:?}");
    timeout(SOON, runner.rebuild_key("wary", "ann")).await.expect("it is answered").unwrap();
    runner.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a8_o3_waiting_for_a_runner_and_stopping_it_dropped_at_any_await_leave_it_whole() {
    let sweep = crate::sweep().await;
    let store = sweep.store();
    let outside = Outside::failing(0);
    let start = || {
        let runner = Runner::new(store).lease(Duration::from_millis(500)).read_model::<Balance>();
        runner.subscription(outside.clone()).start()
    };
    let append = async || {
        let append = store.append(Id::<Account>::from("ann"), Expected::Any, [Deposited { amount: 1 }]);
        append.await.unwrap().last
    };
    let runner = start();
    let until = |_| async { runner.until(append().await).await };
    sweep.each("until", FEW, until, async |_, outcome| assert!(outcome.is_none_or(|outcome| outcome.is_ok()))).await;
    let settle = |_| async {
        append().await;
        runner.settle().await
    };
    sweep.each("settle", FEW, settle, async |_, outcome| assert!(outcome.is_none_or(|outcome| outcome.is_ok()))).await;
    runner.until(append().await).await.unwrap();
    runner.stop().await;

    let stop = |_| async {
        let runner = start();
        runner.until(append().await).await.unwrap();
        append().await;
        runner.stop().await;
    };
    sweep
        .each("stop", FEW, stop, async |_, _| {
            // It ends, though nobody waits for it; whoever comes next has all to do.
            let next = start();
            timeout(Duration::from_secs(20), next.until(append().await)).await.expect("it goes on").unwrap();
            next.stop().await;
        })
        .await;
    let rows = store.read_model::<Balance>();
    assert_eq!(rows.list().await.unwrap(), rows.live().list().await.unwrap());
    // Handed over at least once, in order.
    let (mut positions, head) = (outside.positions(), store.head().await.unwrap());
    positions.sort_unstable();
    positions.dedup();
    assert_eq!(positions, (1..=head.0).collect::<Vec<_>>());
}
