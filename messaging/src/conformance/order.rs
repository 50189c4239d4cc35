//! The order of keys, and that nothing is there twice.

use std::time::Duration;

use super::{Faults, left_out, support::*};
use crate::{
    bus::{Bus, BusError, Order, Outcome},
    envelope::Envelope,
};

pub async fn r2_messages_of_a_key_are_in_the_order_they_were_published_in(bus: Bus, _: Faults) {
    let topic = Topic::new(&bus).await;
    let sent = messages(2_000, 64);
    for batch in sent.chunks(500) {
        let outcomes = topic.publish(batch).await;
        assert!(all_done(&outcomes), "{outcomes:?}");
    }
    assert_there(&topic, &sent).await;
}

/// One of the messages is refused: by the bus itself if it can be made to, else because it is too large.
pub async fn r2_nothing_of_its_key_is_published_behind_one_that_was_refused(bus: Bus, faults: Faults) {
    let topic = Topic::new(&bus).await;
    if topic.abilities.order == Order::None {
        return left_out("the order of keys: the bus keeps none");
    }
    let mut sent = messages(200, 8);
    let small = std::mem::take(&mut sent[77].data);
    match &faults.refuse {
        Some(refuse) => {
            sent[77].data = vec![b'x'; 20_000];
            (refuse.begin)(topic.name.clone()).await;
        }
        None => {
            left_out("a message that the server refuses: one that is too large instead");
            sent[77].data = vec![b'x'; topic.abilities.message_bytes + 1];
        }
    }
    let outcomes = topic.publish(&sent).await;
    let failed: Vec<_> = (0..sent.len()).filter(|n| matches!(outcomes[*n], Outcome::Failed(_))).collect();
    assert_eq!(failed, [77], "one was refused");
    // What is behind it in its partition, or of its key, is not there.
    let held_back = |message: &Envelope| match topic.abilities.order {
        Order::Prefix => topic.partition(message) == topic.partition(&sent[77]),
        _ => message.key == sent[77].key,
    };
    for (n, outcome) in outcomes.iter().enumerate() {
        assert_eq!(is_done(outcome), n < 77 || !held_back(&sent[n]), "the outcome of {n}");
    }
    let mut reader = topic.reader(GROUP);
    let mut read = without_partitions(reader.drain().await);
    let there: Vec<_> =
        sent.iter().zip(&outcomes).filter(|(_, outcome)| is_done(outcome)).map(|(m, _)| m.clone()).collect();
    assert_same(&remembered(read.clone()), &there, "what is there is what was confirmed");
    // The bus takes it now, and what waited behind it follows.
    match &faults.refuse {
        Some(refuse) => (refuse.end)(topic.name.clone()).await,
        None => sent[77].data = small,
    }
    let waited: Vec<_> =
        sent.iter().zip(&outcomes).filter(|(_, outcome)| !is_done(outcome)).map(|(m, _)| m.clone()).collect();
    topic.publish_all(&waited).await;
    read.extend(without_partitions(reader.drain().await));
    assert_read(&topic, read, &sent);
}

pub async fn r4_a_batch_that_is_published_again_is_known(bus: Bus, _: Faults) {
    let topic = Topic::new(&bus).await;
    let sent = messages(300, 16);
    assert!(all_done(&topic.publish(&sent).await));
    assert!(all_done(&topic.publish(&sent).await));
    // Half of it, and more behind it.
    let more: Vec<_> = sent[150..].iter().cloned().chain(messages(100, 16)).collect();
    assert!(all_done(&topic.publish(&more).await));
    let all: Vec<_> = sent.iter().chain(&more[150..]).cloned().collect();
    assert_there(&topic, &all).await;
}

pub async fn r4_the_last_message_is_the_one_that_is_there(bus: Bus, _: Faults) {
    let topic = Topic::new(&bus).await;
    let partitions = topic.abilities.partitions;
    let last = bus.publisher.last(&topic.name, 0..partitions).await.unwrap();
    assert_eq!(last, vec![None; usize::from(partitions)], "a new topic has no message");
    let mut sent = messages(100, 32);
    for (n, message) in sent.iter_mut().enumerate() {
        message.extensions.insert("relayed".into(), format!("log.0.relay:things/{n}/{}", message.id));
    }
    assert!(all_done(&topic.publish(&sent).await));
    let last = bus.publisher.last(&topic.name, 0..partitions).await.unwrap();
    if last.iter().all(Option::is_none) {
        return left_out("the last message: the bus cannot tell it");
    }
    for (partition, last) in (0..partitions).zip(last) {
        let there = sent.iter().rev().find(|message| topic.partition(message) == partition);
        let there = there.map(|message| (message.id.clone(), message.extensions["relayed"].clone()));
        assert_eq!(last.map(|last| (last.id, last.relayed)), there);
    }
    // Part of them, as a relay with a part of the shards asks.
    let part = bus.publisher.last(&topic.name, partitions - 1..partitions).await.unwrap();
    assert_eq!(part.len(), 1);
}

pub async fn r2_several_publishers_at_once_keep_the_order_of_keys(bus: Bus, faults: Faults) {
    let topic = Topic::new(&bus).await;
    let other = match &faults.another {
        Some(another) => another().await,
        None => {
            left_out("another connection: the same one, used at once");
            bus.clone()
        }
    };
    let other = topic.through(other);
    let mut mine = messages(600, 8);
    mine.iter_mut().for_each(|message| message.key += "-mine");
    let theirs = messages(600, 8);
    let publish = async |topic: &Topic, messages: &[Envelope]| {
        for batch in messages.chunks(60) {
            topic.publish_all(batch).await;
        }
    };
    // Two of them publish the same, as a frozen node and the one that has taken its place.
    tokio::join!(publish(&topic, &mine), publish(&other, &mine), publish(&other, &theirs), publish(&topic, &theirs));
    mine.extend(theirs);
    assert_there(&topic, &mine).await;
}

pub async fn r2_a_publish_that_is_dropped_leaves_nothing_locked(bus: Bus, _: Faults) {
    let topic = Topic::new(&bus).await;
    let sent = messages(400, 8);
    for (n, batch) in sent.chunks(40).enumerate() {
        let dropped = Duration::from_micros([0, 50, 300, 1_000, 3_000][n % 5]);
        let _ = tokio::time::timeout(dropped, topic.publish(batch)).await;
        topic.publish_all(batch).await;
    }
    assert_there(&topic, &sent).await;
}

pub async fn r6_what_is_too_large_is_refused(bus: Bus, _: Faults) {
    let topic = Topic::new(&bus).await;
    let mut sent = messages(3, 3);
    sent[1].data = vec![b' '; topic.abilities.message_bytes + 1];
    let outcomes = topic.publish(&sent[1..2]).await;
    assert!(matches!(outcomes[..], [Outcome::Failed(BusError::Refused(_))]), "{outcomes:?}");
    // The bus is as it was.
    assert!(all_done(&topic.publish(&[sent[0].clone(), sent[2].clone()]).await));
    sent.remove(1);
    assert_there(&topic, &sent).await;
}

pub async fn r6_a_name_that_no_topic_can_have_is_refused(bus: Bus, _: Faults) {
    for name in ["", "a b", "a/b", "A", "a*", "a>", &"a".repeat(201)] {
        let refused = bus.publisher.topic(name).await;
        assert!(matches!(refused, Err(BusError::Refused(_))), "{name}: {refused:?}");
    }
}
