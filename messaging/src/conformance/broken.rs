//! What is promised when connections and servers fail.

use std::time::Duration;

use super::{Faults, left_out, support::*};
use crate::{
    bus::{Bus, BusError, Outcome},
    envelope::Envelope,
};

pub async fn r1_what_was_not_confirmed_is_unavailable_and_never_done(bus: Bus, faults: Faults) {
    let Some(cut) = &faults.cut else { return left_out("cutting connections") };
    let topic = Topic::new(&bus).await;
    let sent = messages(200, 8);
    topic.publish_all(&sent[..50]).await;
    let mut done = 50;
    for n in 0..3 {
        let batch = &sent[done..done + 50];
        // The bus gets the batch; that it has it, the publisher does not learn.
        (cut.begin)(topic.name.clone()).await;
        let end = async {
            tokio::time::sleep(Duration::from_millis(100 + 200 * n)).await;
            (cut.end)(topic.name.clone()).await;
        };
        let (outcomes, ()) = tokio::join!(topic.publish(batch), end);
        assert!(!outcomes.iter().any(is_done), "{outcomes:?}");
        let unavailable = |outcome: &Outcome| matches!(outcome, Outcome::Failed(BusError::Unavailable(_)));
        assert!(outcomes.iter().any(unavailable), "{outcomes:?}");
        topic.publish_all(batch).await;
        done += 50;
    }
    assert_there(&topic, &sent).await;
}

pub async fn r1_connections_that_are_cut_lose_nothing_and_change_no_order(bus: Bus, faults: Faults) {
    let Some(cut) = &faults.cut else { return left_out("cutting connections") };
    let topic = Topic::new(&bus).await;
    let sent = messages(1_000, 16);
    let cuts = async {
        for n in 0..5 {
            tokio::time::sleep(Duration::from_millis(30 + 17 * n)).await;
            (cut.begin)(topic.name.clone()).await;
            tokio::time::sleep(Duration::from_millis(3 * n)).await;
            (cut.end)(topic.name.clone()).await;
        }
    };
    let (read, ()) = tokio::join!(flow(&topic, &sent), cuts);
    assert_read_while_failing(read, &sent);
    if topic.is_log() {
        assert_there(&topic, &sent).await;
    }
}

pub async fn r1_a_server_that_crashes_loses_nothing_it_has_confirmed(bus: Bus, faults: Faults) {
    let Some(restart) = &faults.restart else { return left_out("killing the server") };
    let topic = Topic::new(&bus).await;
    let sent = messages(1_000, 16);
    let crashes = async {
        for _ in 0..2 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            restart(topic.name.clone()).await;
        }
    };
    let (read, ()) = tokio::join!(flow(&topic, &sent), crashes);
    assert_read_while_failing(read, &sent);
    if topic.is_log() {
        assert_there(&topic, &sent).await;
    }
}

/// Publishes and reads at once; returns what was read.
async fn flow(topic: &Topic, sent: &[Envelope]) -> Vec<Envelope> {
    let publish = async {
        for batch in sent.chunks(25) {
            topic.publish_all(batch).await;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let mut missing: std::collections::HashSet<_> = ids(sent).into_iter().collect();
    let mut reader = topic.reader(GROUP);
    let read = reader.until(|_, message| {
        missing.remove(&message.id);
        missing.is_empty()
    });
    let ((), read) = tokio::join!(publish, read);
    without_partitions(read)
}

/// A reader that remembers ids has each message once, in the order of its key.
fn assert_read_while_failing(read: Vec<Envelope>, sent: &[Envelope]) {
    assert_same(&remembered(read), sent, "read");
}
