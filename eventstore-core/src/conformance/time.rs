//! An instant is a prefix of the log, and the answer for a past instant is final.

use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::support::{Fresh, any, event, stream, whole};
use crate::{Position, Prefix, Timestamp};

pub async fn t1_an_instant_is_a_prefix_of_the_log(store: Fresh) {
    let before = store.position_at(Timestamp::MAX).await.unwrap();
    assert_eq!(before, Position(0));
    let mut times = vec![];
    for n in 0..30 {
        let written = store.append(any(&stream("a"), (0..=n % 4).map(|_| event("x")))).await.unwrap();
        times.push((written.recorded_at, written.last));
        if n % 5 == 0 {
            sleep(Duration::from_millis(2)).await;
        }
    }
    let log = whole(&store).await;
    assert_eq!(store.position_at(Timestamp::MIN).await.unwrap(), Position(0));
    assert_eq!(store.position_at(Timestamp::MAX).await.unwrap(), Position(log.len() as u64));
    for (time, _) in &times {
        for at in [*time, Timestamp::from_micros(time.as_micros() - 1), *time + Duration::from_micros(1)] {
            let expected = log.iter().filter(|event| event.recorded_at <= at).count() as u64;
            assert_eq!(store.position_at(at).await.unwrap(), Position(expected));
        }
    }
}

pub async fn t3_an_instant_that_is_over_has_one_answer_whatever_is_open(store: Fresh) {
    let prefix = |position, settled| Prefix { position: Position(position), settled };
    let first = store.append(any(&stream("a"), [event("one")])).await.unwrap().recorded_at;
    // The number of committed events. The next transaction is rolled back, the one after it committed.
    let mut committed = 1;
    for commits in [false, true] {
        sleep(Duration::from_millis(2)).await;
        let mut transaction = store.begin().await.unwrap();
        let open = transaction.append(any(&stream("a"), [event("x"), event("y")])).await.unwrap().recorded_at;
        assert_eq!(transaction.prefix_at(first).await.unwrap(), prefix(1, true), "it sees what it has appended");
        while store.now() <= open + Duration::from_millis(1) {
            sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(transaction.prefix_at(open).await.unwrap(), prefix(committed + 2, true));
        // The answer for an instant before a committed event waits for no append.
        let before = Timestamp::from_micros(first.as_micros() - 1);
        let at_once = timeout(Duration::from_secs(5), store.prefix_at(before)).await;
        assert_eq!(at_once.expect("it waits for no append").unwrap(), prefix(0, true));
        // The answer for an instant at or after the open events waits for their transaction, however many callers ask.
        let asked: Vec<_> = [open, open, open + Duration::from_millis(1)]
            .map(|at| {
                let store = store.clone();
                tokio::spawn(async move { store.prefix_at(at).await.unwrap() })
            })
            .into();
        sleep(Duration::from_millis(100)).await;
        assert!(asked.iter().all(|answer| !answer.is_finished()), "it waits for what is open");
        if commits {
            transaction.commit().await.unwrap();
            committed += 2;
        } else {
            transaction.rollback().await.unwrap();
        }
        for answer in asked {
            assert_eq!(answer.await.unwrap(), prefix(committed, true));
        }
        store.append(any(&stream("b"), [event("later")])).await.unwrap();
        committed += 1;
        assert_eq!(store.position_at(open).await.unwrap(), Position(committed - 1), "nor does it change later");
    }
    let head = committed;
    assert_eq!(store.prefix_at(Timestamp::MAX).await.unwrap(), prefix(head, false), "more may come");
    assert_eq!(store.prefix_at(Timestamp::MIN).await.unwrap(), prefix(0, true));
    // A caller that drops its question while it waits blocks no other caller.
    let mut transaction = store.begin().await.unwrap();
    transaction.append(any(&stream("a"), [event("z")])).await.unwrap();
    assert!(timeout(Duration::from_millis(20), store.prefix_at(Timestamp::MAX)).await.is_err());
    transaction.commit().await.unwrap();
    store.append(any(&stream("a"), [event("z")])).await.unwrap();
}

pub async fn m1_timers_are_due_by_the_clock_that_stamps_events(store: Fresh) {
    for _ in 0..20 {
        let before = store.time().await.unwrap();
        let recorded_at = store.append(any(&stream("a"), [event("x")])).await.unwrap().recorded_at;
        let after = store.time().await.unwrap();
        assert!(before <= recorded_at && recorded_at <= after, "{before} {recorded_at} {after}");
        sleep(Duration::from_millis(1)).await;
    }
}
