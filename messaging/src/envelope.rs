//! A message on its way, with the attributes of CloudEvents 1.0.2.

use std::collections::BTreeMap;

use eventstore_core::{
    EventError, Invalid, Message, Metadata, NewEvent, Position, Raw, Recorded, StreamId, Tag, Timestamp, derived_id,
};
use serde_json::Value as Json;
use uuid::Uuid;

/// The content type of a body that this library writes.
pub(crate) const JSON: &str = "application/json";
/// The most bytes of the name of an attribute; CloudEvents recommends no more.
const ATTRIBUTE_NAME: usize = 20;
/// The most bytes of the value of an attribute.
const ATTRIBUTE_VALUE: usize = 8_192;

/// A message on its way: the attributes of CloudEvents 1.0.2, and the body as bytes.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Envelope {
    /// The id. With the [`source`](Self::source), it tells a message from all others: a receiver records it once.
    pub id: String,
    /// The program that published it.
    pub source: String,
    /// What it is, `order.placed`: on the wire, `type`.
    pub kind: String,
    /// The version of the form of its body, from 1.
    pub version: u32,
    /// When it happened.
    pub time: Option<Timestamp>,
    /// What is kept in order, and chooses the partition: on the wire, `partitionkey`. It should not be personal data: it is
    /// a header, and stays in brokers and logs.
    pub key: String,
    /// What it is about; the key, in a message of a relay.
    pub subject: Option<String>,
    /// The type of the body; `application/json` in a message of a relay.
    pub content_type: Option<String>,
    /// The conversation it belongs to: on the wire, `correlationid`.
    pub correlation_id: Option<Uuid>,
    /// What it answers: on the wire, `causationid`. In a message of a relay, the id of the event it is made of.
    pub causation_id: Option<Uuid>,
    /// All other attributes.
    pub extensions: BTreeMap<String, String>,
    /// The body.
    pub data: Vec<u8>,
}

impl Envelope {
    /// Returns a message without optional attributes.
    pub fn new(id: impl ToString, source: &str, kind: &str, key: &str, data: Vec<u8>) -> Self {
        Self {
            id: id.to_string(),
            source: source.into(),
            kind: kind.into(),
            version: 1,
            time: None,
            key: key.into(),
            subject: Some(key.into()),
            content_type: Some(JSON.into()),
            correlation_id: None,
            causation_id: None,
            extensions: BTreeMap::new(),
            data,
        }
    }

    /// Returns the message that a relay publishes of an event: the `n`th of those with the same name.
    ///
    /// The id is made of the event, the topic, the type and `n`, so it is the same each time. `sequence` is the position
    /// of the event in the log of the publisher, with 20 digits.
    pub(crate) fn of<M: Message, E>(
        message: &M,
        event: &Recorded<E>,
        source: &str,
        key: String,
        n: u32,
    ) -> Result<Self, EventError> {
        let kind = kind_of::<M>(message.name());
        let envelope = Self::of_event(event, M::TOPIC, kind, source, &key, n);
        Ok(Self { version: message.schema(), data: message.encode()?, ..envelope })
    }

    /// Returns the message of a command that another service is asked to execute.
    pub(crate) fn of_command(event: &Recorded<Raw>, topic: &str, kind: &str, source: &str) -> Self {
        let mut envelope = Self::of_event(event, topic, kind, source, event.stream.key(), 1);
        if let Some(Json::String(expires)) = event.metadata.extra.get("expires") {
            envelope.extensions.insert("expires".into(), expires.clone());
        }
        Self { version: event.schema, data: event.data.body.clone(), ..envelope }
    }

    /// Returns a message of an event, without a body.
    fn of_event<E>(event: &Recorded<E>, topic: &str, kind: &str, source: &str, key: &str, n: u32) -> Self {
        let id = derived_id(event.id, [topic, kind, &n.to_string()]);
        let mut extensions = BTreeMap::new();
        extensions.insert("sequence".into(), format!("{:020}", event.position.0));
        for name in ["traceparent", "tracestate"] {
            // An attribute is not empty, and an empty `tracestate` says nothing.
            if let Some(Json::String(text)) = event.metadata.extra.get(name)
                && !text.is_empty()
            {
                extensions.insert(name.into(), text.clone());
            }
        }
        Self {
            time: Some(event.occurred_at),
            correlation_id: Some(event.metadata.correlation_id),
            causation_id: Some(event.id),
            extensions,
            ..Self::new(id, source, kind, key, vec![])
        }
    }

    /// Returns its size in bytes, as the limits of brokers count it: attributes and body; up to 40 bytes more than it is.
    pub fn bytes(&self) -> usize {
        // Without the text of each attribute: asked for every message.
        let fixed = "specversion1.0idsourcetypeversion2147483647partitionkey".len();
        let texts = self.id.len() + self.source.len() + self.kind.len() + self.key.len();
        let time = self.time.map_or(0, |_| "time9999-12-31T23:59:59.999999Z".len());
        let subject = self.subject.as_ref().map_or(0, |subject| "subject".len() + subject.len());
        let correlation = self.correlation_id.map_or(0, |_| "correlationid".len() + UUID);
        let causation = self.causation_id.map_or(0, |_| "causationid".len() + UUID);
        let extensions: usize = self.extensions.iter().map(|(name, value)| name.len() + value.len()).sum();
        fixed + texts + time + subject + correlation + causation + extensions + self.data.len()
    }

    /// Returns the id under which a receiver records it: the id of the message, if that is a UUID; else one made of the
    /// source and the id.
    pub fn event_id(&self) -> Uuid {
        match Uuid::try_parse(&self.id) {
            Ok(id) if !id.is_nil() => id,
            _ => {
                let name = format!("{}:{}{}", self.source.len(), self.source, self.id);
                Uuid::new_v5(&Uuid::NAMESPACE_URL, name.as_bytes())
            }
        }
    }

    /// Whether the body is JSON, as the content type says.
    pub(crate) fn is_json(&self) -> bool {
        self.content_type.as_deref().is_none_or(|kind| {
            let kind = kind.split(';').next().unwrap_or_default().trim();
            kind == JSON || kind.ends_with("+json")
        })
    }

    /// Returns the attributes by their names on the wire, without the content type.
    pub fn attributes(&self) -> Vec<(&str, String)> {
        let mut attributes = vec![
            ("specversion", "1.0".to_owned()),
            ("id", self.id.clone()),
            ("source", self.source.clone()),
            ("type", self.kind.clone()),
            ("version", self.version.to_string()),
            ("partitionkey", self.key.clone()),
        ];
        let optional = [
            ("time", self.time.map(|time| time.to_string())),
            ("subject", self.subject.clone()),
            ("correlationid", self.correlation_id.map(|id| id.to_string())),
            ("causationid", self.causation_id.map(|id| id.to_string())),
        ];
        attributes.extend(optional.into_iter().filter_map(|(name, value)| Some((name, value?))));
        attributes.extend(self.extensions.iter().map(|(name, value)| (&**name, value.clone())));
        attributes
    }

    /// Refuses what CloudEvents does not allow, and attributes that are too long. A relay checks each message, so that
    /// one that no receiver could read is not published.
    pub fn check(&self) -> Result<(), Invalid> {
        if let Some(name) = self.extensions.keys().find(|name| RESERVED.contains(&name.as_str())) {
            return Err(Invalid::name("attribute", name, "has a field of its own"));
        }
        let texts = [("id", &self.id), ("source", &self.source), ("type", &self.kind), ("partitionkey", &self.key)];
        let optional = [("subject", &self.subject), ("datacontenttype", &self.content_type)];
        let optional = optional.into_iter().filter_map(|(name, text)| Some((name, text.as_ref()?)));
        let extensions = self.extensions.iter().map(|(name, text)| (name.as_str(), text));
        for (name, value) in texts.into_iter().chain(optional).chain(extensions) {
            let reason = match () {
                () if !is_attribute(name) => "has other characters than a-z and 0-9, or more than 20",
                () if value.is_empty() => "is the name of an attribute that is empty",
                () if value.len() > ATTRIBUTE_VALUE => "is the name of an attribute that has more than 8,192 bytes",
                () if value.chars().any(char::is_control) => "is the name of an attribute with control characters",
                () => continue,
            };
            return Err(Invalid::name("attribute", name, reason));
        }
        Ok(())
    }

    /// Returns the event that a receiver records: its stream, `in.orders-o7`, and what is recorded. `tags` are those of
    /// the receiver's own type.
    pub(crate) fn received(self, topic: &str, tags: Vec<Tag>) -> (StreamId, NewEvent) {
        let stream = StreamId::new(&format!("{RECEIVED}{topic}"), &self.key);
        let name = format!("{topic}:{}", self.kind);
        (stream, self.stored(&name, tags))
    }

    /// Returns the event that a log keeps of the message, under a name.
    pub(crate) fn stored(self, name: &str, tags: Vec<Tag>) -> NewEvent {
        let id = self.event_id();
        let mut metadata = Metadata::default();
        metadata.command_id = id;
        metadata.correlation_id = self.correlation_id.unwrap_or(id);
        metadata.causation_id = self.causation_id;
        metadata.source = Some(self.source);
        for (key, value) in self.extensions {
            metadata.extra.insert(key, value.into());
        }
        let known = [
            ("id", Some(self.id).filter(|text| *text != id.to_string())),
            ("subject", self.subject.filter(|subject| *subject != self.key)),
            ("datacontenttype", self.content_type.filter(|kind| kind != JSON)),
        ];
        for (key, value) in known {
            if let Some(value) = value {
                metadata.extra.insert(key.into(), value.into());
            }
        }
        let data = Raw { name: name.into(), tags, body: self.data };
        NewEvent { id, schema: self.version, occurred_at: self.time, metadata, data }
    }

    /// Returns the message that a log keeps as an event under a name.
    pub(crate) fn of_stored(event: Recorded<Raw>, kind: &str) -> Self {
        let Recorded { id, stream, occurred_at, schema, metadata, data, .. } = event;
        let mut extensions = BTreeMap::new();
        let mut taken = BTreeMap::new();
        for (name, value) in metadata.extra {
            let value = if let Json::String(text) = value { text } else { value.to_string() };
            match &*name {
                "id" | "subject" | "datacontenttype" => _ = taken.insert(name, value),
                _ if is_attribute(&name) => _ = extensions.insert(name, value),
                _ => {}
            }
        }
        let key = stream.key().to_owned();
        Self {
            id: taken.remove("id").unwrap_or_else(|| id.to_string()),
            source: metadata.source.unwrap_or_default(),
            kind: kind.into(),
            version: schema,
            time: Some(occurred_at),
            subject: taken.remove("subject").or_else(|| Some(key.clone())),
            content_type: taken.remove("datacontenttype").or_else(|| Some(JSON.into())),
            correlation_id: Some(metadata.correlation_id),
            causation_id: metadata.causation_id,
            key,
            extensions,
            data: data.body,
        }
    }

    /// Returns the position in the log of the publisher, if the message says one.
    pub fn sequence(&self) -> Option<Position> {
        self.extensions.get("sequence")?.parse().ok().map(Position)
    }
}

/// The length of a UUID as text.
const UUID: usize = 36;
/// Attributes that are fields of an envelope.
const RESERVED: [&str; 9] =
    ["specversion", "id", "source", "type", "version", "time", "subject", "partitionkey", "datacontenttype"];

/// The attribute that says how far its relay had come when it published a message.
pub(crate) const RELAYED: &str = "relayed";

/// What the category of a received message begins with; the topic follows.
pub(crate) const RECEIVED: &str = "in.";

/// Whether a text is the name of an attribute.
pub(crate) fn is_attribute(name: &str) -> bool {
    (1..=ATTRIBUTE_NAME).contains(&name.len()) && name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9'))
}

/// Returns the type on the wire of a message with a stored name.
pub(crate) fn kind_of<M: Message>(name: &'static str) -> &'static str {
    name.strip_prefix(M::TOPIC).and_then(|name| name.strip_prefix(':')).unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use eventstore_core::Version;

    use super::*;

    /// The expected ids come from another implementation (SHA-1 of Python's hashlib).
    #[test]
    fn l2_the_id_of_a_message_is_the_same_in_every_release() {
        let id = Uuid::from_u128(0x0192_0000_0000_7000_8000_0000_0000_0001);
        let data = Raw { name: "order.placed".into(), tags: vec![], body: b"{}".to_vec() };
        let new = NewEvent { id, schema: 1, occurred_at: None, metadata: Metadata::default(), data };
        let event = new.recorded(StreamId::new("order", "o7"), Version(1), Position(42), Timestamp::default());
        let message = |n| Envelope::of_event(&event, "orders", "order.placed", "shop", "o7", n);
        assert_eq!(message(1).id, "01920000-0000-7000-bdd0-829017a69a90");
        assert_eq!(message(2).id, "01920000-0000-7000-a4b3-57bf4d7d1595");
        assert_eq!(message(1).event_id().to_string(), message(1).id, "a receiver records it under that id");
        assert_eq!(message(1).sequence(), Some(Position(42)));
        // Of another program, with an id that is no UUID.
        let other = Envelope::new("x-2", "other", "order.placed", "o1", vec![]);
        assert_eq!(other.event_id().to_string(), "a1108730-b94a-55b9-9b50-4571d635a889");
    }
}
