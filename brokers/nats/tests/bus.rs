//! The adapter against a real server: what every bus must do, and what only this one does.

#![allow(clippy::unwrap_used, reason = "tests: they panic")]

mod support;

use eventstore_messaging::{Bus, conformance::Faults};
use eventstore_nats::NatsBus;

use support::{Kept, Server};

/// A topic has one partition.
mod one {
    use super::*;

    async fn fresh() -> (Bus, Faults, Kept) {
        support::bus(NatsBus::options(), 1, support::url(), None).await
    }

    eventstore_messaging::conformance!(fresh);
}

/// A topic has five partitions.
mod five {
    use super::*;

    async fn fresh() -> (Bus, Faults, Kept) {
        support::bus(NatsBus::options(), 5, support::url(), None).await
    }

    eventstore_messaging::conformance!(fresh);
}

/// The server is killed.
mod crashes {
    use super::*;

    async fn fresh() -> (Bus, Faults, Kept) {
        let server = Server::start("").await;
        support::bus(NatsBus::options(), 2, server.url.clone(), Some(server)).await
    }

    eventstore_messaging::conformance! { fresh: r1_a_server_that_crashes_loses_nothing_it_has_confirmed }
}

/// Three servers keep each message; the one that leads is killed.
mod cluster {
    use super::support::cluster as fresh;

    eventstore_messaging::conformance! { fresh:
        r1_a_server_that_crashes_loses_nothing_it_has_confirmed
        r2_messages_of_a_key_are_in_the_order_they_were_published_in
        r2_several_publishers_at_once_keep_the_order_of_keys
        r4_a_batch_that_is_published_again_is_known
    }
}

/// The version of an adapter that comes to mind first; the suite finds what is wrong with it.
mod naive {
    use std::ops::Range;

    use async_nats::{HeaderMap, jetstream};
    use async_trait::async_trait;
    use eventstore_messaging::{Abilities, BusError, Envelope, Last, Outcome, Publisher, conformance as suite};
    use futures::future::join_all;

    use super::*;

    /// Sends all messages, then waits for all confirmations.
    struct Pipelining(NatsBus);

    #[async_trait]
    impl Publisher for Pipelining {
        async fn topic(&self, topic: &str) -> Result<Abilities, BusError> {
            self.0.topic(topic).await
        }

        async fn publish(&self, topic: &str, messages: &[Envelope]) -> Vec<Outcome> {
            let context = jetstream::new(self.0.native());
            let mut acks = vec![];
            for message in messages {
                let mut headers = HeaderMap::new();
                for (name, value) in message.headers("ce-") {
                    headers.insert(name, value);
                }
                headers.insert("Nats-Msg-Id", message.id.clone());
                let subject = format!("{}.0.{}", topic.replace('.', "-"), message.kind);
                acks.push(context.publish_with_headers(subject, headers, message.data.clone().into()).await.unwrap());
            }
            let outcomes = join_all(acks.into_iter().map(IntoFuture::into_future)).await;
            let outcome = |ack| match ack {
                Ok(_) => Outcome::Done,
                Err(error) => Outcome::Failed(BusError::unavailable(error)),
            };
            outcomes.into_iter().map(outcome).collect()
        }

        async fn last(&self, topic: &str, partitions: Range<u16>) -> Result<Vec<Option<Last>>, BusError> {
            self.0.last(topic, partitions).await
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    #[should_panic(expected = "the outcome of")]
    async fn r2_the_suite_finds_plain_pipelining() {
        let (_, faults, _kept) = support::bus(NatsBus::options(), 1, support::url(), None).await;
        let nats = support::connect(NatsBus::options(), &support::url()).await;
        let bus = Bus { publisher: std::sync::Arc::new(Pipelining(nats.clone())), source: std::sync::Arc::new(nats) };
        suite::r2_nothing_of_its_key_is_published_behind_one_that_was_refused(bus, faults).await;
    }
}

mod own {
    use std::time::Duration;

    use async_nats::{HeaderMap, jetstream};
    use eventstore_core::doctor::Severity;
    use eventstore_messaging::{BusError, Envelope, Offset, Order, Outcome, Publisher, Source, Start};
    use futures::StreamExt;

    use super::{
        support::{Proxy, connect, operator, streams, url},
        *,
    };

    fn message(id: &str) -> Envelope {
        Envelope::new(id, "tests", "thing.happened", "k", b"{}".to_vec())
    }

    fn topic() -> String {
        format!("own.t{}", message("").event_id().as_u128() ^ rand())
    }

    fn rand() -> u128 {
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() << 8
            | u128::from(std::process::id() as u8)
    }

    fn all_done(outcomes: &[Outcome]) -> bool {
        outcomes.iter().all(|outcome| matches!(outcome, Outcome::Done))
    }

    async fn ids(context: &jetstream::Context, stream: &str) -> Vec<String> {
        let mut stream = context.get_stream(stream).await.unwrap();
        let state = stream.info().await.unwrap().state.clone();
        let mut ids = vec![];
        for sequence in state.first_sequence..=state.last_sequence {
            let message = stream.get_raw_message(sequence).await.unwrap();
            ids.push(message.headers.get("ce-id").unwrap().to_string());
        }
        ids
    }

    /// Why a chain has two headers: what the server does with each of them.
    #[tokio::test]
    async fn r2_sequences_alone_let_a_message_overtake_one_that_was_refused() {
        let context = operator(&url()).await;
        let name = topic().replace('.', "-");
        let config =
            jetstream::stream::Config { name: name.clone(), subjects: vec![format!("{name}.>")], ..Default::default() };
        context.create_stream(config).await.unwrap();
        let publish = async |id: &str, sequence: u64, last: Option<&str>| {
            let mut headers = HeaderMap::new();
            headers.insert("Nats-Msg-Id", id);
            headers.insert("Nats-Expected-Last-Sequence", sequence.to_string());
            last.into_iter().for_each(|last| headers.insert("Nats-Expected-Last-Msg-Id", last));
            context.publish_with_headers(format!("{name}.x"), headers, "".into()).await.unwrap().await
        };
        // Another program publishes `x` at the moment at which this one publishes `a` and `b`.
        publish("x", 0, None).await.unwrap();
        assert!(publish("a", 0, None).await.is_err());
        let overtaking = publish("b", 1, None).await.unwrap();
        assert_eq!(overtaking.sequence, 2, "it is stored, and `a` is not");
        // With the id of the one before it, it is refused.
        assert!(publish("c", 1, None).await.is_err());
        assert!(publish("d", 2, Some("c")).await.is_err());
        // A known id is answered before anything that is expected is looked at, and the sequence does not move.
        let known = publish("x", 77, Some("nothing")).await.unwrap();
        assert!(known.duplicate && known.sequence == 1);
        assert!(publish("e", 3, None).await.is_err());
        context.delete_stream(name).await.unwrap();
    }

    /// A node was frozen for longer than the server knows ids, and another one has taken its shard.
    #[tokio::test]
    async fn r4_a_frozen_node_publishes_nothing_twice_when_the_window_is_over() {
        let context = operator(&url()).await;
        let (frozen, other) = (connect(NatsBus::options(), &url()).await, connect(NatsBus::options(), &url()).await);
        let topic = topic();
        frozen.topic(&topic).await.unwrap();
        let stream = streams(&topic, 1).remove(0);
        let mut config = context.get_stream(&stream).await.unwrap().cached_info().config.clone();
        config.duplicate_window = Duration::from_millis(200);
        context.update_stream(config).await.unwrap();
        let sent: Vec<_> = (0..10).map(|n| message(&format!("m{n}"))).collect();
        assert!(all_done(&frozen.publish(&topic, &sent[..4]).await));
        // It stops here, and another node goes on.
        assert_eq!(other.last(&topic, 0..1).await.unwrap()[0].as_ref().unwrap().id, "m3");
        assert!(all_done(&other.publish(&topic, &sent[4..8]).await));
        tokio::time::sleep(Duration::from_millis(700)).await;
        // The window is over: an id that was published without a chain would be there twice.
        assert!(all_done(&frozen.publish(&topic, &sent[4..]).await));
        assert_eq!(ids(&context, &stream).await, sent.iter().map(|message| message.id.clone()).collect::<Vec<_>>());
        // The other one had not seen the last two.
        assert!(all_done(&other.publish(&topic, &sent[8..]).await));
        assert_eq!(ids(&context, &stream).await.len(), 10);
    }

    /// What a publisher did not know to be stored is not sent again, though it does not ask for the last message.
    #[tokio::test]
    async fn r4_a_chain_goes_on_behind_what_was_stored_unseen() {
        let proxy = Proxy::to(&url()).await;
        let bus = connect(NatsBus::options().confirm_within(Duration::from_millis(500)), &proxy.url).await;
        let topic = topic();
        bus.topic(&topic).await.unwrap();
        let sent: Vec<_> = (0..300).map(|n| message(&format!("m{n}"))).collect();
        let cut = proxy.cut();
        (cut.begin)(topic.clone()).await;
        let outcomes = bus.publish(&topic, &sent).await;
        assert!(matches!(outcomes[0], Outcome::Failed(BusError::Unavailable(_))), "{:?}", outcomes[0]);
        assert!(!outcomes.iter().any(|outcome| matches!(outcome, Outcome::Done)));
        (cut.end)(topic.clone()).await;
        while !all_done(&bus.publish(&topic, &sent).await) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let context = operator(&url()).await;
        let there = ids(&context, &streams(&topic, 1)[0]).await;
        assert_eq!(there, sent.iter().map(|message| message.id.clone()).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn i7_messages_that_are_removed_under_a_slow_reader_are_trimmed() {
        let bus = connect(NatsBus::options(), &url()).await;
        let topic = topic();
        bus.topic(&topic).await.unwrap();
        let sent: Vec<_> = (0..1_000).map(|n| message(&format!("m{n}"))).collect();
        assert!(all_done(&bus.publish(&topic, &sent).await));
        let mut reading = bus.read(&topic, "g", 0, None).await.unwrap();
        assert_eq!(reading.next().await.unwrap().unwrap().message.unwrap().id, "m0");
        let context = operator(&url()).await;
        context.get_stream(&streams(&topic, 1)[0]).await.unwrap().purge().sequence(901).await.unwrap();
        let mut read = 1;
        let error = loop {
            match reading.next().await.unwrap() {
                Ok(delivery) => {
                    assert_eq!(delivery.message.unwrap().id, format!("m{read}"));
                    read += 1;
                }
                Err(error) => break error,
            }
        };
        assert!(matches!(error, BusError::Trimmed { .. }), "{error:?} after {read}");
        assert!(read < 900, "what was on its way came");
        assert!(reading.next().await.is_none(), "it ends after an error");
    }

    /// An operator removes one message; that is no hole in what is behind it.
    #[tokio::test]
    async fn i7_a_message_that_an_operator_deleted_is_passed() {
        let bus = connect(NatsBus::options(), &url()).await;
        let topic = topic();
        bus.topic(&topic).await.unwrap();
        assert!(all_done(&bus.publish(&topic, &["a", "b", "c", "d"].map(message)).await));
        let mut reading = bus.read(&topic, "g", 0, None).await.unwrap();
        reading.next().await.unwrap().unwrap();
        let at = reading.next().await.unwrap().unwrap().offset;
        let context = operator(&url()).await;
        let stream = context.get_stream(&streams(&topic, 1)[0]).await.unwrap();
        // The one it is at, and the one behind it.
        for sequence in [2, 3] {
            stream.delete_message(sequence).await.unwrap();
        }
        let mut reading = bus.read(&topic, "g", 0, Some(at)).await.unwrap();
        assert_eq!(reading.next().await.unwrap().unwrap().message.unwrap().id, "d");
    }

    #[tokio::test]
    async fn i7_an_offset_of_another_message_is_trimmed_and_nonsense_is_refused() {
        let bus = connect(NatsBus::options(), &url()).await;
        let topic = topic();
        bus.topic(&topic).await.unwrap();
        assert!(all_done(&bus.publish(&topic, &["a", "b"].map(message)).await));
        let offset = bus.offset(&topic, 0, Start::Latest).await.unwrap().unwrap();
        let forged = |offset: &str| bus.read(&topic, "g", 0, Some(Offset(offset.into())));
        let other =
            offset.0.replace(message("b").event_id().to_string().as_str(), &message("x").event_id().to_string());
        assert_ne!(other, offset.0);
        assert!(matches!(forged(&other).await.err(), Some(BusError::Trimmed { .. })));
        let beyond = offset.0.replacen("2/", "3/", 1);
        assert!(matches!(forged(&beyond).await.err(), Some(BusError::Trimmed { .. })));
        for nonsense in ["", "2", "2/x/y", "-1/0/a"] {
            assert!(matches!(forged(nonsense).await.err(), Some(BusError::Unsupported(_))), "{nonsense}");
        }
    }

    #[tokio::test]
    async fn b1_a_topic_keeps_its_number_of_partitions() {
        let topic = topic();
        let (three, seven) = (NatsBus::options().partitions(3), NatsBus::options().partitions(7));
        let (three, seven) = (connect(three, &url()).await, connect(seven, &url()).await);
        // Both make it at once.
        let (one, other) = tokio::join!(three.topic(&topic), seven.topic(&topic));
        assert_eq!(one.as_ref().unwrap(), other.as_ref().unwrap());
        assert_eq!(one.unwrap().order, Order::Prefix);
    }

    #[tokio::test]
    async fn i4_what_is_no_message_is_handed_over_as_it_is() {
        let bus = connect(NatsBus::options(), &url()).await;
        let topic = topic();
        bus.topic(&topic).await.unwrap();
        let subject = format!("{}.0.other", topic.replace('.', "-"));
        let context = operator(&url()).await;
        let mut headers = HeaderMap::new();
        headers.insert("x-of", "others");
        context.publish_with_headers(subject.clone(), headers, "\u{1}no json".into()).await.unwrap().await.unwrap();
        // No headers at all; a body in structured mode.
        let structured = message("s").structured().unwrap();
        context.publish(subject.clone(), structured.into()).await.unwrap().await.unwrap();
        assert!(all_done(&bus.publish(&topic, &[message("m")]).await));
        let mut reading = bus.read(&topic, "g", 0, None).await.unwrap();
        let first = reading.next().await.unwrap().unwrap();
        let unread = first.message.unwrap_err();
        assert_eq!(
            (&*unread.body, unread.headers),
            ("\u{1}no json".as_bytes(), vec![("x-of".into(), "others".into())])
        );
        assert_eq!(reading.next().await.unwrap().unwrap().message.unwrap().id, "s");
        assert_eq!(reading.next().await.unwrap().unwrap().message.unwrap().id, "m");
        // It is a place as any other.
        let mut reading = bus.read(&topic, "g", 0, Some(first.offset)).await.unwrap();
        assert_eq!(reading.next().await.unwrap().unwrap().message.unwrap().id, "s");
    }

    #[tokio::test]
    async fn the_doctor_finds_what_loses_messages() {
        let bus = connect(NatsBus::options(), &url()).await;
        let topic = topic();
        bus.topic(&topic).await.unwrap();
        let found = |report: &eventstore_core::doctor::Report, severity| {
            let found = report.findings.iter().filter(|finding| finding.severity == severity);
            found.map(|finding| finding.check).collect::<Vec<_>>()
        };
        let report = bus.doctor(&topic).await.unwrap();
        assert_eq!(found(&report, Severity::Danger), Vec::<&str>::new());
        assert_eq!(found(&report, Severity::Warning), ["replicas"]);
        // One that an operator has made by hand.
        let topic = self::topic();
        let context = operator(&url()).await;
        let name = streams(&topic, 1).remove(0);
        let config = jetstream::stream::Config {
            name: name.clone(),
            description: Some("partition 0 of 1".into()),
            subjects: vec![format!("{}.0.>", topic.replace('.', "-"))],
            storage: jetstream::stream::StorageType::Memory,
            max_messages: 100,
            ..Default::default()
        };
        context.create_stream(config).await.unwrap();
        let report = bus.doctor(&topic).await.unwrap();
        assert_eq!(found(&report, Severity::Danger), ["storage", "discard"]);
        println!("{report}");
    }

    #[tokio::test]
    async fn a_user_without_rights_is_denied_and_no_password_is_told() {
        let server = Server::start(
            "authorization {\n  users = [\n    {user: all, password: secret}\n    {user: reader, password: secret, permissions: {\n      publish: {deny: \"denied.>\"}\n    }}\n  ]\n}",
        )
        .await;
        let as_user = |user: &str| server.url.replace("nats://", &format!("nats://{user}@"));
        let wrong = NatsBus::connect(&as_user("all:hunter2")).await.unwrap_err();
        assert!(matches!(wrong, BusError::Denied(_)), "{wrong:?}");
        assert!(!format!("{wrong:?}").contains("hunter2"));
        let away = NatsBus::connect("nats://all:hunter2@127.0.0.1:1").await.unwrap_err();
        assert!(matches!(away, BusError::Unavailable(_)), "{away:?}");
        assert!(!format!("{away:?} {away}").contains("hunter2"));
        let wrong = NatsBus::connect("no url: hunter2").await.unwrap_err();
        assert!(!format!("{wrong:?}").contains("hunter2"));
        let bus = NatsBus::connect(&as_user("all:secret")).await.unwrap();
        bus.topic("denied").await.unwrap();
        let options = NatsBus::options().confirm_within(Duration::from_millis(500));
        let reader = options.connect(&as_user("reader:secret")).await.unwrap();
        let outcomes = reader.publish("denied", &["a", "b"].map(message)).await;
        // The stream is named `denied-0`, its subjects begin with `denied.0`.
        assert!(matches!(outcomes[0], Outcome::Failed(BusError::Denied(_))), "{outcomes:?}");
    }
}
