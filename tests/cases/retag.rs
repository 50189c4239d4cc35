//! A tag that is added to a field later: events get the tags that their type gives them today.

use std::sync::{Arc, Mutex};

use eventstore::{Expected, Position, Retagged, StoreError, Version, doctor::Severity, prelude::*};
use serde::{Deserialize, Serialize};

use super::{raw, world};

type Any = Box<dyn std::error::Error>;

/// As it was.
mod earlier {
    use super::*;

    #[derive(Event, Clone, Debug, PartialEq)]
    #[event(prefix = "parcel")]
    pub enum ParcelEvent {
        Sent { to: String },
        Lost { to: String },
    }
}

/// As another service reads it: by a tag of its own. The first event that it decodes waits for what a test has to do.
mod elsewhere {
    use super::*;

    pub type Meanwhile = Box<dyn FnOnce() + std::marker::Send>;
    pub static MEANWHILE: Mutex<Option<Meanwhile>> = Mutex::new(None);

    #[derive(Deserialize)]
    struct SentV1 {
        to: String,
    }

    fn sent(SentV1 { to }: SentV1) -> ParcelEvent {
        let meanwhile = MEANWHILE.lock().unwrap().take();
        if let Some(meanwhile) = meanwhile {
            meanwhile();
        }
        ParcelEvent::Sent { to }
    }

    #[derive(Event, Clone, Debug, PartialEq)]
    #[event(prefix = "parcel")]
    pub enum ParcelEvent {
        #[event(version = 2, upcast(1 => sent))]
        Sent {
            #[event(tag = "receiver")]
            to: String,
        },
    }
}

/// Whom it is for is a tag now.
#[derive(Event, Clone, Debug, PartialEq)]
#[event(retired("parcel.weighed"))]
enum ParcelEvent {
    Sent {
        #[event(tag)]
        to: Id<Customer>,
    },
    Lost {
        #[event(tag)]
        to: Id<Customer>,
    },
}

#[derive(Aggregate, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[aggregate(by_tag, snapshot = 1)]
struct Customer {
    parcels: u32,
}

impl Evolve for Customer {
    type Event = ParcelEvent;

    fn evolve(&mut self, _: ParcelEvent) {
        self.parcels += 1;
    }
}

#[derive(Clone)]
struct Send;

impl Decide<Send> for Customer {
    fn decide(&self, Send: Send) -> Decision<Self> {
        ensure!(self.parcels < 5, "enough");
        Ok(vec![ParcelEvent::Sent { to: "ann".into() }])
    }
}

#[tokio::test]
async fn x3_events_get_the_tags_that_their_type_gives_them_today() -> Result<(), Any> {
    let world = world().await;
    let (store, ann) = (&world.store, Id::<Customer>::from("ann"));
    let stream = |n: u32| Id::<Customer>::from(format!("p{n}")).stream();
    for n in 0..3 {
        let sent = earlier::ParcelEvent::Sent { to: "ann".into() };
        store.append(stream(n), Expected::Any, [sent]).await?;
        let lost = earlier::ParcelEvent::Lost { to: "bob".into() };
        store.append(stream(n), Expected::Any, [lost]).await?;
    }
    // Means nothing any more, and keeps its tags.
    let mut weighed = raw("parcel.weighed", b"7");
    weighed.data.tags = vec![eventstore::Tag::new("scale", "7")];
    let write = eventstore::Write { stream: stream(0), expected: Expected::Any, events: vec![weighed] };
    world.inner.append(eventstore::Append { writes: vec![write], ..Default::default() }).await?;
    store.execute(&ann, Send).await?;
    assert_eq!(store.load(&ann).await?.parcels, 1, "what was sent before is not seen");
    store.finish_snapshots().await;
    let tags =
        async || Ok::<_, StoreError>(store.doctor_of::<ParcelEvent>().await?.get("tags").cloned().expect("looked at"));
    let found = tags().await?;
    assert_eq!(found.severity, Severity::Warning);
    assert!(found.found.starts_with("6 of 8 events") && found.found.ends_with("from position 1 on"), "{found}");
    // To the type of before, one event has a tag that it does not give, and none lacks one.
    let earlier = store.doctor_of::<earlier::ParcelEvent>().await?.get("tags").cloned().expect("looked at");
    assert_eq!(earlier.severity, Severity::Ok);
    assert!(earlier.found.contains("1 of them also tags"), "{earlier}");

    // Interrupted, and started again where it was.
    let seen = Arc::new(Mutex::new(vec![]));
    let note = seen.clone();
    let done = store
        .retag::<ParcelEvent>()
        .after(Position(4))
        .progress(move |so_far| note.lock().unwrap().push(*so_far))
        .await?;
    assert_eq!((done.events, done.changed, done.position, done.until), (4, 2, Position(8), Position(8)));
    assert_eq!(seen.lock().unwrap().last(), Some(&done));
    assert_eq!(store.load(&ann).await?.parcels, 2);
    let done = store.retag::<ParcelEvent>().await?;
    assert_eq!((done.events, done.changed), (8, 4));
    assert_eq!(store.retag::<ParcelEvent>().await?.changed, 0);

    let loaded = store.load(&ann).await?;
    assert_eq!((loaded.parcels, loaded.version), (4, Version(4)), "a snapshot that lacks them is not used");
    assert_eq!(store.load(Id::<Customer>::from("bob")).await?.parcels, 3);
    assert_eq!(tags().await?.severity, Severity::Ok);
    store.execute(&ann, Send).await?;
    assert!(matches!(store.execute(&ann, Send).await, Err(CommandError::Rejected(_))), "five are enough");
    use futures::TryStreamExt;
    let log: Vec<_> = store.read().raw().try_collect().await?;
    assert_eq!(log[6].data.tags[0].to_string(), "scale:7");
    Ok(())
}

/// A service that reads the events of another, and only a part of their fields.
#[tokio::test]
async fn x3_a_type_that_reads_less_of_an_event_does_not_take_its_tags_away() -> Result<(), Any> {
    let world = world().await;
    let (store, ann) = (&world.store, Id::<Customer>::from("ann"));
    for _ in 0..3 {
        store.execute(&ann, Send).await?;
    }
    let done = store.retag::<earlier::ParcelEvent>().await?;
    assert_eq!((done.events, done.changed), (3, 0));
    assert_eq!(store.load(&ann).await?.parcels, 3);
    assert_eq!(store.doctor_of::<ParcelEvent>().await?.get("tags").map(|tags| tags.severity), Some(Severity::Ok));
    // Nor does one that gives another.
    let done = store.retag::<elsewhere::ParcelEvent>().await?;
    assert_eq!((done.events, done.changed), (3, 3));
    assert_eq!(store.load(&ann).await?.parcels, 3);
    use futures::TryStreamExt;
    let log: Vec<_> = store.read().raw().try_collect().await?;
    let tags: Vec<_> = log[0].data.tags.iter().map(ToString::to_string).collect();
    assert_eq!(tags, ["customer:ann", "receiver:ann"]);
    // The tag was removed from the field, and the program of before runs no more.
    let done = store.retag::<earlier::ParcelEvent>().remove_others().await?;
    assert_eq!((done.events, done.changed), (3, 3));
    assert_eq!(store.load(&ann).await?.parcels, 0);
    assert_eq!(store.retag::<earlier::ParcelEvent>().remove_others().await?.changed, 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn x3_of_two_jobs_at_once_neither_takes_the_tags_of_the_other_away() -> Result<(), Any> {
    let world = world().await;
    let (store, stream) = (&world.store, Id::<Customer>::from("p").stream());
    for _ in 0..3 {
        store.append(&stream, Expected::Any, [earlier::ParcelEvent::Sent { to: "ann".into() }]).await?;
    }
    let (other, runtime) = (store.clone(), tokio::runtime::Handle::current());
    // It has read the events, and writes nothing before the other has written all.
    *elsewhere::MEANWHILE.lock().unwrap() = Some(Box::new(move || {
        let (done, wait) = std::sync::mpsc::channel();
        runtime.spawn(async move { done.send(other.retag::<ParcelEvent>().await.map(|done| done.changed)) });
        assert_eq!(wait.recv().unwrap().unwrap(), 3);
    }));
    let done = store.retag::<elsewhere::ParcelEvent>().await?;
    assert_eq!((done.events, done.changed, done.position), (3, 3, Position(3)));
    use futures::TryStreamExt;
    let log: Vec<_> = store.read().raw().try_collect().await?;
    for event in log {
        let tags: Vec<_> = event.data.tags.iter().map(ToString::to_string).collect();
        assert_eq!(tags, ["customer:ann", "receiver:ann"]);
    }
    assert_eq!(store.load(Id::<Customer>::from("ann")).await?.parcels, 3);
    Ok(())
}

#[tokio::test]
async fn a11_an_event_that_cannot_get_one_more_tag_is_named_and_none_is_changed() -> Result<(), Any> {
    let world = world().await;
    let (store, stream) = (&world.store, Id::<Customer>::from("p").stream());
    let sent = earlier::ParcelEvent::Sent { to: "ann".into() };
    store.append(&stream, Expected::Any, [sent]).await?;
    let mut full = raw("parcel.sent", br#"{"to":"ann"}"#);
    full.data.tags = (0..eventstore::limits::TAGS).map(|n| eventstore::Tag::new("n", n.to_string())).collect();
    let write = eventstore::Write { stream, expected: Expected::Any, events: vec![full] };
    world.inner.append(eventstore::Append { writes: vec![write], ..Default::default() }).await?;
    let refused = store.retag::<ParcelEvent>().await.expect_err("129 tags");
    assert!(refused.to_string().contains("the event at position 2 cannot get its tags"), "{refused}");
    assert_eq!(store.load(Id::<Customer>::from("ann")).await?.parcels, 0, "its batch is all or nothing");
    assert_eq!(store.retag::<ParcelEvent>().remove_others().await?.changed, 2);
    assert_eq!(store.load(Id::<Customer>::from("ann")).await?.parcels, 2);
    Ok(())
}

#[tokio::test]
async fn c5_a_snapshot_by_tag_of_release_0_1_is_not_used() -> Result<(), Any> {
    let world = world().await;
    let (store, ann) = (&world.store, Id::<Customer>::from("ann"));
    store.execute(&ann, Send).await?;
    store.execute(&ann, Send).await?;
    store.finish_snapshots().await;
    // As 0.1 wrote it: with the shape of the type. It may lack events that its program did not know.
    let policy = Customer::SNAPSHOT.expect("snapshots");
    let mut old = world.inner.snapshot("customer:ann", policy.kind).await?.expect("it was taken");
    assert_ne!(old.shape, policy.shape);
    let checksum = old.checksum;
    (old.shape, old.state) = (policy.shape, br#"{"parcels":1}"#.to_vec());
    old.checksum = old.sum();
    assert!(world.inner.keep_snapshot(old, Some(checksum)).await?);
    assert_eq!(store.load(&ann).await?.parcels, 2);
    assert_eq!(store.verify_snapshots::<Customer>(10).await?.differences, []);
    Ok(())
}

#[tokio::test]
async fn x3_an_event_that_cannot_be_decoded_ends_it_and_is_named() -> Result<(), Any> {
    let world = world().await;
    let (store, stream) = (&world.store, Id::<Customer>::from("p").stream());
    let sent = earlier::ParcelEvent::Sent { to: "ann".into() };
    store.append(&stream, Expected::Any, [sent.clone()]).await?;
    let write =
        eventstore::Write { stream: stream.clone(), expected: Expected::Any, events: vec![raw("parcel.sent", b"{}")] };
    world.inner.append(eventstore::Append { writes: vec![write], ..Default::default() }).await?;
    store.append(&stream, Expected::Any, [sent]).await?;
    let ended = store.retag::<ParcelEvent>().await;
    assert!(matches!(ended, Err(StoreError::Unreadable { version: Version(2), .. })), "{ended:?}");
    // What is behind it.
    let Retagged { events, changed, .. } = store.retag::<ParcelEvent>().after(Position(2)).await?;
    assert_eq!((events, changed), (1, 1));
    Ok(())
}
