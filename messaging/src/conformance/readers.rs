//! What readers get: all groups everything, to the byte, from where they want, and none of it twice.

use std::time::Duration;

use eventstore_core::Timestamp;
use futures::StreamExt;
use uuid::Uuid;

use super::{Faults, left_out, support::*};
use crate::{
    bus::{Bus, BusError, Kind, Offset, Start},
    envelope::Envelope,
};

pub async fn l1_bytes_and_attributes_in_are_bytes_and_attributes_out(bus: Bus, _: Faults) {
    let topic = Topic::new(&bus).await;
    let bodies: [(&[u8], Option<&str>); 6] = [
        (b"", Some("application/json")),
        (b"{\"a\":1}", Some("application/json")),
        (b" { \"b\" : 1.0, \"big\": 12345678901234567890.123 }\n", Some("application/json; charset=utf-8")),
        (&[0, 255, 254, 13, 10, 13, 10, 0], Some("application/octet-stream")),
        (b"\r\n\r\n+OK\r\n", Some("text/plain")),
        ("schön \u{1F680}".as_bytes(), Some("text/plain")),
    ];
    let keys = ["k", "ключ-\u{1F680}", "with space", " spaces ", "100%25", "a/b.c*>:", "\"quoted\""];
    let mut sent = vec![];
    for (n, key) in keys.iter().enumerate() {
        for (m, (body, kind)) in bodies.iter().enumerate() {
            let id = if m == 0 { format!("{n}-not a uuid/\u{fc}%20") } else { Uuid::now_v7().to_string() };
            let mut message = Envelope::new(id, "tests", "thing.happened", key, body.to_vec());
            message.version = 1 + m as u32;
            message.time = Some(Timestamp::from_micros(1_790_000_000_123_456));
            message.subject = Some(if m == 1 { "another subject".into() } else { key.to_string() });
            message.content_type = kind.map(str::to_owned);
            message.correlation_id = Some(Uuid::now_v7());
            message.causation_id = Some(Uuid::now_v7());
            message
                .extensions
                .insert("traceparent".into(), "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into());
            message.extensions.insert("note".into(), format!("{key} = \u{e4}\u{6f22} 50% \"{n}\""));
            sent.push(message);
        }
    }
    // As large as it may be, and nearly.
    for less in [0, 1, 100] {
        let mut message = sent[1].clone();
        message.id = Uuid::now_v7().to_string();
        message.key = "large".into();
        message.subject = Some("large".into());
        message.data.clear();
        message.data = (0..topic.abilities.message_bytes - message.bytes() - less).map(|n| n as u8).collect();
        message.content_type = Some("application/octet-stream".into());
        assert_eq!(message.bytes(), topic.abilities.message_bytes - less);
        sent.push(message);
    }
    for message in &sent {
        message.check().unwrap();
    }
    topic.publish_all(&sent).await;
    let mut read = remembered(without_partitions(topic.drain(GROUP).await));
    assert_same(&read, &sent, "read");
    let place = |message: &Envelope| sent.iter().position(|sent| sent.id == message.id);
    read.sort_by_key(place);
    for (read, sent) in read.iter().zip(&sent) {
        // Not by `assert_eq!` of both: that would print megabytes.
        assert!(read.data == sent.data, "the body of {}", sent.id);
        let bare = |message: &Envelope| Envelope { data: vec![], ..message.clone() };
        assert_eq!(bare(read), bare(sent));
    }
}

pub async fn b1_every_group_gets_every_message(bus: Bus, _: Faults) {
    let groups = ["one", "two", "three.of_them"];
    let topic = Topic::with_groups(&bus, &groups).await;
    let sent = messages(100, 10);
    topic.publish_all(&sent[..50]).await;
    let mut first = topic.reader(groups[0]);
    let mut read = without_partitions(first.drain().await);
    topic.publish_all(&sent[50..]).await;
    read.extend(without_partitions(first.drain().await));
    assert_read(&topic, read, &sent);
    // A group that was away gets what it missed.
    for group in &groups[1..] {
        let mut read = without_partitions(topic.drain(group).await);
        read.retain(|message| message.kind != "tests.end");
        assert_read(&topic, read, &sent);
    }
}

pub async fn b1_a_topic_and_a_group_are_made_once_and_are_no_others(bus: Bus, _: Faults) {
    let topic = Topic::new(&bus).await;
    // Names that a careless separator takes for the same.
    let name = format!("{}.a", topic.name);
    let other = Topic { name: name.clone(), ..topic.clone() };
    bus.source.subscribe(&name, "b").await.unwrap();
    bus.source.subscribe(&topic.name, "a.b").await.unwrap();
    for _ in 0..2 {
        assert_eq!(bus.publisher.topic(&name).await.unwrap(), topic.abilities);
        assert_eq!(bus.source.subscribe(&name, "b").await.unwrap(), topic.abilities);
    }
    let (these, those) = (messages(20, 5), messages(20, 5));
    topic.publish_all(&these).await;
    other.publish_all(&those).await;
    assert_read(&topic, without_partitions(topic.drain("a.b").await), &these);
    assert_read(&other, without_partitions(other.drain("b").await), &those);
    assert_there(&topic, &these).await;
}

pub async fn b3_a_group_begins_where_it_wants(bus: Bus, _: Faults) {
    let topic = Topic::new(&bus).await;
    if topic.abilities.kind == Kind::Queue {
        return left_out("where a group begins: the bus is a queue");
    }
    let partitions = topic.abilities.partitions;
    let offsets = async |start: Start| {
        let mut offsets = vec![];
        for partition in 0..partitions {
            offsets.push(bus.source.offset(&topic.name, partition, start.clone()).await.unwrap());
        }
        offsets
    };
    let latest_of_nothing = offsets(Start::Latest).await;
    let sent = messages(90, 30);
    topic.publish_all(&sent[..30]).await;
    let pause = Duration::from_millis(20);
    tokio::time::sleep(pause).await;
    let instant = Timestamp::now();
    tokio::time::sleep(pause).await;
    topic.publish_all(&sent[30..60]).await;
    let latest = offsets(Start::Latest).await;
    let late = offsets(Start::Since(Timestamp::now() + Duration::from_secs(3_600))).await;
    topic.publish_all(&sent[60..]).await;
    let cases = [
        ("earliest", offsets(Start::Earliest).await, &sent[..]),
        ("latest of an empty topic", latest_of_nothing, &sent[..]),
        ("since", offsets(Start::Since(instant)).await, &sent[30..]),
        ("since long ago", offsets(Start::Since(Timestamp::from_micros(1_000_000))).await, &sent[..]),
        ("latest", latest, &sent[60..]),
        ("since an instant that has not come", late, &sent[60..]),
    ];
    for (what, at, expected) in cases {
        let mut reader = topic.reader(GROUP);
        reader.at = at;
        let read = without_partitions(reader.drain().await);
        assert_same(&read, expected, what);
    }
}

pub async fn b3_a_reader_reads_on_after_its_offset(bus: Bus, _: Faults) {
    let topic = Topic::new(&bus).await;
    let sent = messages(300, 20);
    let mut reader = topic.reader(GROUP);
    let mut read = vec![];
    for (batch, take) in sent.chunks(100).zip([1, 60, 101]) {
        topic.publish_all(batch).await;
        let mut left = take;
        read.extend(
            reader
                .until(|_, _| {
                    left -= 1;
                    left == 0
                })
                .await,
        );
    }
    read.extend(reader.drain().await);
    assert_read(&topic, without_partitions(read), &sent);
}

pub async fn b3_a_reader_at_the_end_gets_what_comes(bus: Bus, _: Faults) {
    let topic = Topic::new(&bus).await;
    let sent = messages(30, 10);
    let mut reader = topic.reader(GROUP);
    let (mut left, publishing) = (sent.len(), topic.clone());
    let publish = async {
        for message in &sent {
            tokio::time::sleep(Duration::from_millis(5)).await;
            publishing.publish_all(std::slice::from_ref(message)).await;
        }
    };
    let read = reader.until(|_, _| {
        left -= 1;
        left == 0
    });
    let (_, read) = tokio::join!(publish, read);
    assert_read(&topic, without_partitions(read), &sent);
}

pub async fn b4_the_lag_is_what_a_group_has_not_read(bus: Bus, _: Faults) {
    let topic = Topic::new(&bus).await;
    let partitions = topic.abilities.partitions;
    let lag = async |at: &[Option<Offset>]| {
        let mut lag = 0;
        for (partition, at) in (0..partitions).zip(at) {
            lag += bus.source.lag(&topic.name, GROUP, partition, at.as_ref()).await.unwrap();
        }
        lag
    };
    let mut reader = topic.reader(GROUP);
    assert_eq!(lag(&reader.at).await, 0, "of a new topic");
    topic.publish_all(&messages(50, 10)).await;
    // A queue counts with a delay.
    let mut counted = lag(&reader.at).await;
    for _ in 0..100 {
        if topic.is_log() || counted == 50 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        counted = lag(&reader.at).await;
    }
    assert_eq!(counted, 50);
    reader.drain().await;
    counted = lag(&reader.at).await;
    for n in 1..100 {
        if topic.is_log() || counted == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        // What was reported done just before a reading ended may come again.
        if n % 20 == 0 {
            reader.drain().await;
        }
        counted = lag(&reader.at).await;
    }
    assert_eq!(counted, 0);
}

pub async fn b4_a_reading_that_is_dropped_leaves_nothing_locked(bus: Bus, _: Faults) {
    let topic = Topic::new(&bus).await;
    let sent = messages(200, 10);
    topic.publish_all(&sent).await;
    for n in 0..20 {
        for partition in 0..topic.abilities.partitions {
            let reading = async {
                let mut stream = bus.source.read(&topic.name, GROUP, partition, None).await.unwrap();
                while let Some(delivery) = stream.next().await {
                    delivery.unwrap();
                }
            };
            let dropped = Duration::from_micros([0, 100, 1_000, 5_000][n % 4]);
            let _ = tokio::time::timeout(dropped, reading).await;
        }
    }
    assert_there(&topic, &sent).await;
}

pub async fn i2_what_is_not_done_comes_again(bus: Bus, _: Faults) {
    let topic = Topic::new(&bus).await;
    let partitions = topic.abilities.partitions;
    let sent = messages(100, 10);
    topic.publish_all(&sent).await;
    let mut done = vec![];
    for partition in 0..partitions {
        let of_partition: Vec<_> = sent.iter().filter(|message| topic.partition(message) == partition).collect();
        let mut stream = bus.source.read(&topic.name, GROUP, partition, None).await.unwrap();
        let mut deliveries = vec![];
        for _ in &of_partition {
            deliveries.push(stream.next().await.unwrap().unwrap());
        }
        // Half of them are recorded, then the reader crashes.
        deliveries.truncate(of_partition.len() / 2);
        let recorded: Vec<_> = deliveries.iter().map(delivered).collect();
        bus.source.done(&topic.name, GROUP, partition, &recorded).await.unwrap();
        done.extend(deliveries.into_iter().map(message));
        drop(stream);
    }
    let again = without_partitions(topic.drain(GROUP).await);
    let expected: Vec<_> = match topic.abilities.kind {
        // A log keeps no place of a group: all of it comes again.
        Kind::Log => sent.clone(),
        Kind::Queue => sent.iter().filter(|message| !ids(&done).contains(&message.id)).cloned().collect(),
    };
    assert_same(&again, &expected, "again");
}

pub async fn i7_an_offset_whose_next_messages_were_removed_is_trimmed(bus: Bus, faults: Faults) {
    let Some(trim) = &faults.trim else { return left_out("removing messages") };
    let topic = Topic::new(&bus).await;
    topic.publish_all(&topic.messages_of_each(200)).await;
    let (first, last) = ends(&topic).await;
    let begun = first_offsets(&topic).await;
    trim(topic.name.clone()).await;
    for partition in 0..topic.abilities.partitions {
        let n = usize::from(partition);
        assert_trimmed(&topic, partition, first[n].clone()).await;
        // A group that began before the first message has lost it as well, if the bus can tell.
        if let Some(offset) = &begun[n] {
            assert_trimmed(&topic, partition, offset.clone()).await;
        }
    }
    // What is there is read.
    let more = topic.messages_of_each(20);
    topic.publish_all(&more).await;
    let mut reader = topic.reader(GROUP);
    reader.at = last.into_iter().map(Some).collect();
    assert_read(&topic, without_partitions(reader.drain().await), &more);
}

pub async fn i7_an_offset_of_a_topic_that_was_made_anew_is_trimmed(bus: Bus, faults: Faults) {
    let Some(remake) = &faults.remake else { return left_out("making a topic anew") };
    let topic = Topic::new(&bus).await;
    topic.publish_all(&topic.messages_of_each(200)).await;
    let (first, last) = ends(&topic).await;
    remake(topic.name.clone()).await;
    topic.bus.publisher.topic(&topic.name).await.unwrap();
    for partition in 0..topic.abilities.partitions {
        assert_trimmed(&topic, partition, last[usize::from(partition)].clone()).await;
    }
    // Others are there in their place now, and more.
    let sent = topic.messages_of_each(400);
    topic.publish_all(&sent).await;
    for partition in 0..topic.abilities.partitions {
        assert_trimmed(&topic, partition, first[usize::from(partition)].clone()).await;
        assert_trimmed(&topic, partition, last[usize::from(partition)].clone()).await;
    }
    assert_there(&topic, &sent).await;
}

/// Returns the offsets of the first and the last message of each partition.
async fn ends(topic: &Topic) -> (Vec<Offset>, Vec<Offset>) {
    let mut reader = topic.reader(GROUP);
    let mut first = vec![];
    for partition in 0..topic.abilities.partitions {
        let mut stream = topic.bus.source.read(&topic.name, GROUP, partition, None).await.unwrap();
        first.push(stream.next().await.unwrap().unwrap().offset);
    }
    reader.drain().await;
    (first, reader.at.into_iter().flatten().collect())
}

async fn first_offsets(topic: &Topic) -> Vec<Option<Offset>> {
    let mut offsets = vec![];
    for partition in 0..topic.abilities.partitions {
        offsets.push(topic.bus.source.offset(&topic.name, partition, Start::Earliest).await.unwrap());
    }
    offsets
}

/// A bus may find out at once, or when it is read.
async fn assert_trimmed(topic: &Topic, partition: u16, offset: Offset) {
    let error = match topic.bus.source.read(&topic.name, GROUP, partition, Some(offset.clone())).await {
        Err(error) => error,
        Ok(mut stream) => match stream.next().await {
            Some(Err(error)) => error,
            other => panic!("after {}: {:?}", offset.0, other.map(|delivery| delivery.map(|delivery| delivery.offset))),
        },
    };
    assert!(matches!(&error, BusError::Trimmed { offset: at } if *at == offset), "{}", told(&error));
}
