//! Messages of [eventstore](https://docs.rs/eventstore) over NATS JetStream.
//!
//! ```no_run
//! # async fn f() -> Result<(), Box<dyn std::error::Error>> {
//! use eventstore_messaging::Bus;
//! use eventstore_nats::NatsBus;
//!
//! let nats = NatsBus::options().replicas(3).connect("nats://localhost:4222").await?;
//! println!("{}", nats.doctor("orders").await?);
//! let bus = Bus::new(nats);
//! # Ok(()) }
//! ```
//!
//! A partition of a topic is a stream. Messages are CloudEvents in binary mode, under the subject
//! `topic.partition.type`. What it promises, and which settings of the server matter: `docs/brokers/nats.md`.

mod chain;
mod connection;
mod doctor;
mod options;
mod source;
mod stream;
mod topic;
mod wire;

use std::{
    collections::HashMap,
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_nats::{Client, ConnectErrorKind, ConnectOptions, Event, ServerAddr, jetstream::context::ContextBuilder};
use async_trait::async_trait;
use eventstore_core::doctor::Report;
use eventstore_messaging::{
    Abilities, BusError, Delivery, Envelope, Last, Offset, Outcome, Publisher, Source, Start, partition,
};
use futures::{future::join_all, stream::BoxStream};

use crate::{connection::Connection, topic::Topic};

pub use options::NatsOptions;

impl NatsOptions {
    /// Connects to a server or a cluster: `nats://localhost:4222`, `tls://…`, several with commas between. A user, a
    /// password or a token is in the URL.
    ///
    /// Fails with [`BusError::Unavailable`] if the server is away. Once it is connected, the bus reconnects by itself.
    pub async fn connect(self, url: &str) -> Result<NatsBus, BusError> {
        self.connect_with(ConnectOptions::new(), url).await
    }

    /// Connects with options of the client, for certificates and credentials.
    pub async fn connect_with(self, options: ConnectOptions, url: &str) -> Result<NatsBus, BusError> {
        let events = connection::Events::default();
        let noted = events.clone();
        let note = move |event: Event| {
            noted.note(&event);
            async {}
        };
        let options = options.event_callback(note).request_timeout(Some(self.confirm_within));
        let (options, servers) = addresses(options, url)?;
        // The text of the error may have the URL in it, and that a password.
        let client = options.connect(servers).await.map_err(|error| match error.kind() {
            ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation => {
                BusError::Denied(error.kind().to_string().into())
            }
            kind => BusError::unavailable(kind.to_string()),
        })?;
        let context = ContextBuilder::new().timeout(self.confirm_within).max_ack_inflight(1 << 18).build(client);
        let connection = Connection::new(context, events, self.confirm_within);
        Ok(NatsBus { inner: Arc::new(Inner { connection, options: self, topics: Mutex::default() }) })
    }
}

/// Returns the servers of a URL, and options with its user: the client takes no user from a URL.
fn addresses(options: ConnectOptions, url: &str) -> Result<(ConnectOptions, Vec<ServerAddr>), BusError> {
    let address = |url: &str| url.trim().parse::<ServerAddr>();
    // Not the error of the client, which may quote it.
    let no_url = |_| BusError::Unsupported("the URL is not one of NATS, `nats://user:password@host:4222`".into());
    let servers: Vec<_> = url.split(',').map(address).collect::<Result<_, _>>().map_err(no_url)?;
    let user = servers.iter().find_map(|server| Some((server.username()?, server.password())));
    let options = match user.map(|(user, password)| (wire::decode(user), password.map(wire::decode))) {
        Some((user, Some(password))) => options.user_and_password(user, password),
        Some((token, None)) => options.token(token),
        None => options,
    };
    Ok((options, servers))
}

/// A bus in the streams of NATS JetStream. Cheap to clone; clones share a connection.
#[derive(Clone)]
pub struct NatsBus {
    inner: Arc<Inner>,
}

struct Inner {
    connection: Connection,
    options: NatsOptions,
    topics: Mutex<HashMap<String, Arc<Topic>>>,
}

impl NatsBus {
    /// Connects to a server; see [`NatsOptions::connect`].
    pub async fn connect(url: &str) -> Result<Self, BusError> {
        Self::options().connect(url).await
    }

    /// Returns the options to connect with.
    pub fn options() -> NatsOptions {
        NatsOptions::default()
    }

    /// Returns the client, for what this crate has no method for.
    pub fn native(&self) -> Client {
        self.inner.connection.context.client()
    }

    /// Checks the streams of a topic: whether messages can be lost that were confirmed, or removed before they are read.
    pub async fn doctor(&self, topic: &str) -> Result<Report, BusError> {
        let topic = self.open(topic).await?;
        doctor::doctor(&self.inner.connection, &topic).await
    }

    /// Returns a topic, which is made unless it exists.
    async fn open(&self, name: &str) -> Result<Arc<Topic>, BusError> {
        if let Some(topic) = locked(&self.inner.topics).get(name) {
            return Ok(topic.clone());
        }
        let topic = Topic::open(&self.inner.connection, &self.inner.options, name).await?;
        Ok(locked(&self.inner.topics).entry(name.into()).or_insert(Arc::new(topic)).clone())
    }

    /// Has a topic looked up again: its streams may be gone.
    fn forget(&self, name: &str) {
        locked(&self.inner.topics).remove(name);
    }

    /// Returns what came of a request, and has the topic looked up again if it failed.
    fn seen<T>(&self, name: &str, result: Result<T, BusError>) -> Result<T, BusError> {
        if matches!(result, Err(BusError::Unavailable(_))) {
            self.forget(name);
        }
        result
    }
}

impl std::fmt::Debug for NatsBus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("NatsBus")
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[async_trait]
impl Publisher for NatsBus {
    async fn topic(&self, topic: &str) -> Result<Abilities, BusError> {
        let opened = self.open(topic).await?;
        if !opened.is_there(&self.inner.connection).await? {
            self.forget(topic);
        }
        Ok(self.open(topic).await?.abilities)
    }

    async fn publish(&self, name: &str, messages: &[Envelope]) -> Vec<Outcome> {
        let mut outcomes: Vec<_> = messages.iter().map(|_| Outcome::NotTried).collect();
        let topic = match self.open(name).await {
            Ok(topic) => topic,
            Err(error) => {
                outcomes.iter_mut().take(1).zip([error]).for_each(|(first, error)| *first = Outcome::Failed(error));
                return outcomes;
            }
        };
        let mut parts: HashMap<u16, Vec<usize>> = HashMap::new();
        for (place, message) in messages.iter().enumerate() {
            parts.entry(partition(&message.key, topic.abilities.partitions)).or_default().push(place);
        }
        let parts = parts.into_iter().map(async |(partition, places)| {
            let of_part: Vec<_> = places.iter().map(|place| &messages[*place]).collect();
            let published = topic.publish(&self.inner.connection, partition, &of_part).await;
            if published.gone {
                self.forget(name);
            }
            (places, published.outcomes)
        });
        for (places, of_part) in join_all(parts).await {
            places.into_iter().zip(of_part).for_each(|(place, outcome)| outcomes[place] = outcome);
        }
        outcomes
    }

    async fn last(&self, name: &str, partitions: Range<u16>) -> Result<Vec<Option<Last>>, BusError> {
        let topic = self.open(name).await?;
        let last = partitions.map(|partition| topic.last(&self.inner.connection, partition));
        self.seen(name, join_all(last).await.into_iter().collect())
    }
}

#[async_trait]
impl Source for NatsBus {
    async fn subscribe(&self, topic: &str, group: &str) -> Result<Abilities, BusError> {
        eventstore_messaging::check_group(group).map_err(|error| BusError::Refused(error.into()))?;
        self.topic(topic).await
    }

    async fn offset(&self, name: &str, partition: u16, start: Start) -> Result<Option<Offset>, BusError> {
        let topic = self.open(name).await?;
        self.seen(name, topic.offset(&self.inner.connection, partition, start).await).map(Some)
    }

    async fn read(
        &self,
        name: &str,
        _: &str,
        partition: u16,
        after: Option<Offset>,
    ) -> Result<BoxStream<'static, Result<Delivery, BusError>>, BusError> {
        let topic = self.open(name).await?;
        self.seen(name, topic.read(&self.inner.connection, partition, after).await)
    }

    async fn lag(&self, name: &str, _: &str, partition: u16, after: Option<&Offset>) -> Result<u64, BusError> {
        let topic = self.open(name).await?;
        self.seen(name, topic.lag(&self.inner.connection, partition, after).await)
    }
}
