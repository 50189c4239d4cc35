//! The adapter against a real server: what every bus must do, and what only this one does.

#![allow(clippy::unwrap_used, reason = "tests: they panic")]

mod support;

use eventstore_messaging::{Bus, conformance::Faults};
use eventstore_rabbitmq::RabbitMqBus;

use support::{Kept, Server};

/// A topic has one partition.
mod one {
    use super::*;

    async fn fresh() -> (Bus, Faults, Kept) {
        support::bus(RabbitMqBus::options(), 1, support::url(), None).await
    }

    eventstore_messaging::conformance!(fresh);
}

/// A topic has three partitions.
mod three {
    use super::*;

    async fn fresh() -> (Bus, Faults, Kept) {
        support::bus(RabbitMqBus::options(), 3, support::url(), None).await
    }

    eventstore_messaging::conformance!(fresh);
}

/// The server is killed.
mod crashes {
    use super::*;

    async fn fresh() -> (Bus, Faults, Kept) {
        let server = Server::start().await;
        support::bus(RabbitMqBus::options(), 2, server.url.clone(), Some(server)).await
    }

    eventstore_messaging::conformance! { fresh: r1_a_server_that_crashes_loses_nothing_it_has_confirmed }
}

/// The version of an adapter that comes to mind first; the suite finds what is wrong with it.
mod naive {
    use async_trait::async_trait;
    use eventstore_messaging::{Abilities, BusError, Delivered, Delivery, Offset, Source, Start, conformance as suite};
    use futures::{StreamExt, stream::BoxStream};
    use lapin::{options::BasicConsumeOptions, types::FieldTable};

    use super::*;

    /// Has the server take for done what it has sent.
    struct AcknowledgingAtOnce(RabbitMqBus);

    #[async_trait]
    impl Source for AcknowledgingAtOnce {
        async fn subscribe(&self, topic: &str, group: &str) -> Result<Abilities, BusError> {
            self.0.subscribe(topic, group).await
        }

        async fn offset(&self, topic: &str, partition: u16, start: Start) -> Result<Option<Offset>, BusError> {
            self.0.offset(topic, partition, start).await
        }

        async fn read(
            &self,
            topic: &str,
            group: &str,
            partition: u16,
            _: Option<Offset>,
        ) -> Result<BoxStream<'static, Result<Delivery, BusError>>, BusError> {
            let channel = self.0.native().await?;
            let queue = format!("{topic}:{group}:{partition}");
            let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
            let consumer = channel.basic_consume(queue.into(), "".into(), options, FieldTable::default()).await;
            let deliveries = consumer.unwrap().map(|delivery| {
                let delivery = delivery.unwrap();
                let headers = delivery.properties.headers().clone().unwrap();
                let text = |value: &lapin::types::AMQPValue| value.as_long_string().unwrap().to_string();
                let headers: Vec<_> =
                    headers.inner().iter().map(|(name, value)| (name.to_string(), text(value))).collect();
                let message = eventstore_messaging::Envelope::read(&headers, delivery.data).unwrap();
                Ok(Delivery { offset: Offset(message.id.clone()), receipt: None, message: Ok(message) })
            });
            Ok(deliveries.boxed())
        }

        async fn done(&self, _: &str, _: &str, _: u16, _: &[Delivered]) -> Result<(), BusError> {
            Ok(())
        }

        async fn lag(&self, topic: &str, group: &str, partition: u16, after: Option<&Offset>) -> Result<u64, BusError> {
            self.0.lag(topic, group, partition, after).await
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    #[should_panic(expected = "again: the messages of the key")]
    async fn i2_the_suite_finds_what_is_acknowledged_before_it_is_recorded() {
        let rabbitmq = RabbitMqBus::connect(&support::url()).await.unwrap();
        let source = std::sync::Arc::new(AcknowledgingAtOnce(rabbitmq.clone()));
        let bus = Bus { publisher: std::sync::Arc::new(rabbitmq), source };
        suite::i2_what_is_not_done_comes_again(bus, Faults::default()).await;
    }
}

mod own {
    use std::time::Duration;

    use eventstore_messaging::{BusError, Envelope, Outcome, Publisher, Source};
    use futures::StreamExt;
    use lapin::{
        BasicProperties,
        options::{BasicPublishOptions, QueueDeclareOptions},
        types::FieldTable,
    };
    use uuid::Uuid;

    use super::{RabbitMqBus, support::url};

    fn message(id: &str) -> Envelope {
        Envelope::new(id, "tests", "thing.happened", id, b"{}".to_vec())
    }

    fn topic() -> String {
        format!("own.t{}", Uuid::now_v7().simple())
    }

    fn all_done(outcomes: &[Outcome]) -> bool {
        outcomes.iter().all(|outcome| matches!(outcome, Outcome::Done))
    }

    fn told(outcome: &Outcome) -> String {
        format!("{outcome:?}")
    }

    /// RabbitMQ confirms a message that no queue gets; it is gone then.
    #[tokio::test]
    async fn r1_a_topic_without_a_group_confirms_nothing() {
        let bus = RabbitMqBus::connect(&url()).await.unwrap();
        let topic = topic();
        bus.topic(&topic).await.unwrap();
        let sent = ["a", "b", "c"].map(message);
        for _ in 0..2 {
            let outcomes = bus.publish(&topic, &sent).await;
            assert!(outcomes.iter().all(|outcome| matches!(outcome, Outcome::Failed(BusError::Unavailable(_)))));
            assert!(told(&outcomes[0]).contains("has no group"), "{outcomes:?}");
        }
        // The first group gets all that waited.
        bus.subscribe(&topic, "first").await.unwrap();
        assert!(all_done(&bus.publish(&topic, &sent).await));
        let mut reading = bus.read(&topic, "first", 0, None).await.unwrap();
        for message in &sent {
            assert_eq!(reading.next().await.unwrap().unwrap().message.unwrap().id, message.id);
        }
        // A queue of others that takes a part of the messages: those that it does not take are told apart.
        let topic = self::topic();
        bus.topic(&topic).await.unwrap();
        let channel = bus.native().await.unwrap();
        let queue = format!("{topic}:other");
        let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        channel.queue_declare(queue.clone().into(), durable, FieldTable::default()).await.unwrap();
        let (exchange, key) = (topic.clone().into(), "0.thing.special".into());
        channel.queue_bind(queue.into(), exchange, key, Default::default(), FieldTable::default()).await.unwrap();
        let mut sent: Vec<_> = (0..100).map(|n| message(&format!("m{n}"))).collect();
        sent.iter_mut().step_by(3).for_each(|message| message.kind = "thing.special".into());
        for (n, outcome) in bus.publish(&topic, &sent).await.iter().enumerate() {
            assert_eq!(matches!(outcome, Outcome::Done), n % 3 == 0, "{n}: {outcome:?}");
        }
    }

    /// The server closes the channel over it, with all that is on its way.
    #[tokio::test]
    async fn r6_one_that_only_the_server_finds_too_large_is_refused_alone() {
        let bus = RabbitMqBus::options().message_bytes(64 << 20).connect(&url()).await.unwrap();
        let topic = topic();
        bus.subscribe(&topic, "g").await.unwrap();
        let mut sent: Vec<_> = (0..5).map(|n| message(&format!("m{n}"))).collect();
        // `scripts/brokers` sets 20,000,000.
        sent[2].data = vec![b' '; 21_000_000];
        let outcomes = bus.publish(&topic, &sent).await;
        for (n, outcome) in outcomes.iter().enumerate() {
            match n {
                2 => assert!(matches!(outcome, Outcome::Failed(BusError::Refused(_))), "{outcome:?}"),
                _ => assert!(matches!(outcome, Outcome::Done), "{n}: {outcome:?}"),
            }
        }
    }

    /// Headers that do not fit into a frame would close the connection.
    #[tokio::test]
    async fn r6_attributes_that_fit_in_no_frame_are_refused() {
        let bus = RabbitMqBus::connect(&url()).await.unwrap();
        let topic = topic();
        bus.subscribe(&topic, "g").await.unwrap();
        let with = |count: usize| {
            let mut message = message("m");
            for n in 0..count {
                message.extensions.insert(format!("a{n}"), "x".repeat(8_192));
            }
            message.check().unwrap();
            message
        };
        assert!(all_done(&bus.publish(&topic, &[with(15)]).await));
        for count in [16, 17, 100] {
            let outcomes = bus.publish(&topic, &[with(count)]).await;
            assert!(matches!(outcomes[..], [Outcome::Failed(BusError::Refused(_))]), "{count}: {outcomes:?}");
        }
        // The connection is as it was. A long type is cut off in the routing key, and whole in the message.
        let mut long = message("long");
        long.kind = format!("thing.{}", "\u{e4}".repeat(200));
        assert!(all_done(&bus.publish(&topic, std::slice::from_ref(&long)).await));
        let mut reading = bus.read(&topic, "g", 0, None).await.unwrap();
        assert_eq!(reading.next().await.unwrap().unwrap().message.unwrap(), with(15));
        assert_eq!(reading.next().await.unwrap().unwrap().message.unwrap(), long);
    }

    #[tokio::test]
    async fn b1_a_topic_keeps_its_number_of_partitions() {
        let topic = topic();
        let (three, seven) = (RabbitMqBus::options().partitions(3), RabbitMqBus::options().partitions(7));
        let (three, seven) = (three.connect(&url()).await.unwrap(), seven.connect(&url()).await.unwrap());
        let (one, other) = tokio::join!(three.topic(&topic), seven.topic(&topic));
        assert_eq!(one.unwrap(), other.unwrap());
    }

    #[tokio::test]
    async fn i3_a_queue_that_several_consumers_could_read_at_once_is_not_read() {
        let bus = RabbitMqBus::connect(&url()).await.unwrap();
        let topic = topic();
        bus.topic(&topic).await.unwrap();
        let channel = bus.native().await.unwrap();
        let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        channel.queue_declare(format!("{topic}:g:0").into(), durable, FieldTable::default()).await.unwrap();
        let refused = bus.subscribe(&topic, "g").await;
        assert!(matches!(refused, Err(BusError::Unsupported(_))), "{refused:?}");
    }

    #[tokio::test]
    async fn i4_what_is_no_message_is_handed_over_as_it_is() {
        let bus = RabbitMqBus::connect(&url()).await.unwrap();
        let topic = topic();
        bus.subscribe(&topic, "g").await.unwrap();
        let channel = bus.native().await.unwrap();
        let publish = async |body: &[u8], properties| {
            let options = BasicPublishOptions::default();
            channel.basic_publish(topic.clone().into(), "0.x".into(), options, body, properties).await.unwrap();
        };
        publish(b"\x01no json", BasicProperties::default().with_content_type("text/plain".into())).await;
        publish(&message("s").structured().unwrap(), BasicProperties::default()).await;
        let mut reading = bus.read(&topic, "g", 0, None).await.unwrap();
        let unread = reading.next().await.unwrap().unwrap();
        let offset = unread.offset;
        let unread = unread.message.unwrap_err();
        assert_eq!(
            (&*unread.body, unread.headers),
            (&b"\x01no json"[..], vec![("content-type".into(), "text/plain".into())])
        );
        assert_eq!(reading.next().await.unwrap().unwrap().message.unwrap().id, "s");
        drop(reading);
        // It has the same offset when it comes again: a receiver keeps one row of it.
        let mut reading = bus.read(&topic, "g", 0, None).await.unwrap();
        assert_eq!(reading.next().await.unwrap().unwrap().offset, offset);
    }

    /// A second node reads as well; it gets nothing until the first one stops.
    #[tokio::test]
    async fn i3_one_reader_at_a_time_gets_messages_in_their_order() {
        let (one, two) = (RabbitMqBus::connect(&url()).await.unwrap(), RabbitMqBus::connect(&url()).await.unwrap());
        let topic = topic();
        one.subscribe(&topic, "g").await.unwrap();
        let sent: Vec<_> = (0..200).map(|n| message(&format!("m{n}"))).collect();
        assert!(all_done(&one.publish(&topic, &sent).await));
        let mut first = one.read(&topic, "g", 0, None).await.unwrap();
        let mut second = two.read(&topic, "g", 0, None).await.unwrap();
        for message in &sent[..150] {
            assert_eq!(first.next().await.unwrap().unwrap().message.unwrap().id, message.id);
        }
        assert!(tokio::time::timeout(Duration::from_millis(200), second.next()).await.is_err());
        drop(first);
        // Nothing was done: all of it comes again, to the other one, in its order.
        for message in &sent {
            assert_eq!(second.next().await.unwrap().unwrap().message.unwrap().id, message.id);
        }
    }

    #[tokio::test]
    async fn a_wrong_password_is_denied_and_no_password_is_told() {
        let address = url().rsplit_once('@').unwrap().1.to_owned();
        let wrong = RabbitMqBus::connect(&format!("amqp://guest:hunter2@{address}")).await.unwrap_err();
        assert!(matches!(wrong, BusError::Denied(_)), "{wrong:?}");
        assert!(!format!("{wrong:?}").contains("hunter2"));
        let away = RabbitMqBus::connect("amqp://guest:hunter2@127.0.0.1:1").await.unwrap_err();
        assert!(matches!(away, BusError::Unavailable(_)), "{away:?}");
        assert!(!format!("{away:?}").contains("hunter2"));
        let wrong = RabbitMqBus::connect("http://guest:hunter2@x").await.unwrap_err();
        assert!(matches!(wrong, BusError::Unsupported(_)), "{wrong:?}");
        assert!(!format!("{wrong:?}").contains("hunter2"));
        let reserved = RabbitMqBus::connect(&url()).await.unwrap().topic("amq.topic").await;
        assert!(matches!(reserved, Err(BusError::Refused(_))), "{reserved:?}");
    }
}
