//! The three forms of a message on the wire: CloudEvents 1.0.2 in binary and in structured mode, and plain JSON.

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::STANDARD};
use eventstore_core::Timestamp;
use serde::Serialize;
use serde_json::{Value as Json, value::RawValue};
use uuid::Uuid;

use crate::envelope::{Envelope, JSON, is_attribute};

/// The content type of a message in structured mode.
pub const STRUCTURED: &str = "application/cloudevents+json";
/// What the names of headers begin with in binary mode: HTTP and NATS, Kafka, AMQP.
const PREFIXES: [&str; 4] = ["ce-", "ce_", "cloudEvents:", "cloudEvents_"];

/// Why bytes are no message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a message: {0}")]
pub struct NotAMessage(pub(crate) String);

fn bad<T>(why: impl ToString) -> Result<T, NotAMessage> {
    Err(NotAMessage(why.to_string()))
}

/// A message in structured mode, in the order of the specification.
#[derive(Serialize)]
struct Structured<'a> {
    #[serde(flatten)]
    attributes: BTreeMap<&'a str, Json>,
    #[serde(skip_serializing_if = "Option::is_none")]
    datacontenttype: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data_base64: Option<String>,
}

/// A message as plain JSON.
#[derive(Serialize)]
struct Plain<'a> {
    id: &'a str,
    r#type: &'a str,
    version: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    timestamp: Option<String>,
    source: &'a str,
    key: &'a str,
    data: &'a RawValue,
}

impl Envelope {
    /// Returns its headers in binary mode: their names are the attributes after a prefix, which the transport says
    /// (`ce-` for HTTP and NATS, `ce_` for Kafka, `cloudEvents:` for AMQP). The body is [`data`](Self::data), as it is.
    pub fn headers(&self, prefix: &str) -> Vec<(String, String)> {
        let mut headers: Vec<_> =
            self.attributes().into_iter().map(|(name, value)| (format!("{prefix}{name}"), value)).collect();
        headers.extend(self.content_type.clone().map(|kind| ("content-type".to_owned(), kind)));
        headers
    }

    /// Returns it in structured mode, as JSON of the type [`STRUCTURED`]. A body that is no JSON is written in base64.
    pub fn structured(&self) -> Result<Vec<u8>, NotAMessage> {
        let json = self.json_data();
        let attributes = self.attributes().into_iter().map(|(name, value)| match name {
            "version" => (name, self.version.into()),
            _ => (name, value.into()),
        });
        let written = Structured {
            attributes: attributes.collect(),
            datacontenttype: self.content_type.as_deref(),
            data: json,
            data_base64: json.is_none().then(|| STANDARD.encode(&self.data)),
        };
        serde_json::to_vec(&written).or_else(bad)
    }

    /// Returns it as plain JSON: `{"id","type","version","timestamp","source","key","data"}`. Other attributes are not
    /// in it. Fails if the body is no JSON.
    pub fn plain(&self) -> Result<Vec<u8>, NotAMessage> {
        let Some(data) = self.json_data() else { return bad("the body is no JSON, and plain JSON has no other place") };
        let timestamp = self.time.map(|time| time.to_string());
        let Self { id, kind, version, source, key, .. } = self;
        let written = Plain { id, r#type: kind, version: *version, timestamp, source, key, data };
        serde_json::to_vec(&written).or_else(bad)
    }

    /// Returns the body, if it is written as JSON and is JSON.
    fn json_data(&self) -> Option<&RawValue> {
        let json: &RawValue = self.is_json().then(|| serde_json::from_slice(&self.data).ok()).flatten()?;
        // Whitespace around a value would be lost.
        (json.get().len() == self.data.len()).then_some(json)
    }

    /// Reads a message in any of the three forms: by its content type and its headers, then by its shape. Names of
    /// headers are compared without regard to case. Fails if it is none of them, or lacks an id, a type or a source.
    pub fn read(headers: &[(String, String)], body: Vec<u8>) -> Result<Self, NotAMessage> {
        let content_type = headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("content-type"));
        let content_type = content_type.map(|(_, value)| value.clone());
        if content_type.as_deref().is_some_and(|kind| kind.starts_with(STRUCTURED)) {
            return read_object(object(&body)?);
        }
        let mut attributes = BTreeMap::new();
        for (name, value) in headers {
            let prefix = PREFIXES
                .iter()
                .find(|prefix| name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix)));
            if let Some(prefix) = prefix {
                attributes.insert(name[prefix.len()..].to_ascii_lowercase(), value.clone());
            }
        }
        match attributes.is_empty() {
            true => read_object(object(&body)?),
            false => of_attributes(attributes, content_type, body),
        }
    }
}

type Object = BTreeMap<String, Box<RawValue>>;

fn object(body: &[u8]) -> Result<Object, NotAMessage> {
    serde_json::from_slice(body)
        .or_else(|error| bad(format!("neither headers of CloudEvents nor a JSON object: {error}")))
}

/// Reads a message from one JSON object: in structured mode, if it says `specversion`; else plain.
fn read_object(mut object: Object) -> Result<Envelope, NotAMessage> {
    let structured = object.contains_key("specversion");
    let data = match (object.remove("data"), object.remove("data_base64")) {
        (Some(_), Some(_)) => return bad("`data` and `data_base64`"),
        (Some(data), None) => data.get().as_bytes().to_vec(),
        (None, Some(text)) => {
            let text: String = serde_json::from_str(text.get()).or_else(bad)?;
            STANDARD.decode(text).or_else(|error| bad(format!("`data_base64`: {error}")))?
        }
        (None, None) if structured => vec![],
        (None, None) => return bad("no `data`"),
    };
    let (mut attributes, mut content_type) = (BTreeMap::new(), None);
    for (name, value) in object {
        let value = match serde_json::from_str(value.get()).or_else(bad)? {
            Json::Null => continue,
            Json::String(text) => text,
            Json::Bool(yes) => yes.to_string(),
            Json::Number(number) => number.to_string(),
            Json::Array(_) | Json::Object(_) if structured => {
                return bad(format!("the attribute `{name}` is no text"));
            }
            // Plain JSON of others may say more than we know of.
            _ => continue,
        };
        if !structured && (value.is_empty() || value.chars().any(char::is_control)) {
            // What is no attribute is passed over, as other fields are; what is missing is found below.
            continue;
        }
        match (&*name, structured) {
            ("datacontenttype", _) => content_type = Some(value),
            ("timestamp", false) => _ = attributes.insert("time".into(), value),
            ("eventId" | "commandId", false) => _ = attributes.entry("id".into()).or_insert(value),
            ("eventType", false) => _ = attributes.entry("type".into()).or_insert(value),
            ("key", false) => _ = attributes.insert("partitionkey".into(), value),
            ("correlationId" | "causationId", false) => _ = attributes.insert(name.to_ascii_lowercase(), value),
            (_, false) if !is_attribute(&name) => {}
            _ => _ = attributes.insert(name, value),
        }
    }
    if !structured {
        content_type.get_or_insert_with(|| JSON.into());
    }
    of_attributes(attributes, content_type, data)
}

/// Makes a message of its attributes.
fn of_attributes(
    mut attributes: BTreeMap<String, String>,
    content_type: Option<String>,
    data: Vec<u8>,
) -> Result<Envelope, NotAMessage> {
    if let Some(version) = attributes.remove("specversion")
        && !version.starts_with("1.")
    {
        return bad(format!("version {version} of CloudEvents"));
    }
    // Some programs write attributes that have no value.
    attributes.retain(|_, value| !value.is_empty());
    let content_type = content_type.filter(|kind| !kind.is_empty());
    let mut required = |name: &str| match attributes.remove(name) {
        Some(value) if !value.is_empty() => Ok(value),
        _ => bad(format!("no `{name}`")),
    };
    let (id, kind, source) = (required("id")?, required("type")?, required("source")?);
    let version = match attributes.remove("version") {
        None => 1,
        Some(text) => match text.parse() {
            Ok(version @ 1..=2_147_483_647) => version,
            _ => return bad(format!("`version` is `{text}`, and is a number from 1")),
        },
    };
    let time = match attributes.remove("time") {
        Some(text) => Some(text.parse::<Timestamp>().or_else(|error| bad(format!("`time`: {error}")))?),
        None => None,
    };
    let subject = attributes.remove("subject").filter(|subject| !subject.is_empty());
    let key = attributes.remove("partitionkey").filter(|key| !key.is_empty());
    let key = key.or_else(|| subject.clone()).unwrap_or_else(|| source.clone());
    // An id of another form stays an attribute.
    let mut uuid = |name: &str| {
        let id = attributes.get(name).and_then(|text| Uuid::try_parse(text).ok());
        if id.is_some() {
            attributes.remove(name);
        }
        id
    };
    let (correlation_id, causation_id) = (uuid("correlationid"), uuid("causationid"));
    if let Some(name) = attributes.keys().find(|name| !is_attribute(name)) {
        return bad(format!("the name of the attribute `{name}` is not 1 to 20 of a-z and 0-9"));
    }
    let extensions = attributes;
    let envelope = Envelope {
        version,
        time,
        subject,
        content_type,
        correlation_id,
        causation_id,
        extensions,
        ..Envelope::new(id, &source, &kind, &key, data)
    };
    envelope.check().or_else(bad)?;
    Ok(envelope)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(data: &[u8]) -> Envelope {
        let mut message = Envelope::new(Uuid::from_u128(7), "order-service", "order.placed", "o-7 ä", data.to_vec());
        message.version = 2;
        message.time = "2026-11-29T14:35:00.123456Z".parse().ok();
        (message.correlation_id, message.causation_id) = (Some(Uuid::from_u128(8)), Some(Uuid::from_u128(9)));
        message.subject = Some("elsewhere".into());
        message
            .extensions
            .insert("traceparent".into(), "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".into());
        message.extensions.insert("unknown".into(), "kept".into());
        message
    }

    const BODIES: [&[u8]; 6] = [
        br#"{"total":0.1,"big":12345678901234567890,"escaped":"\u00e4\n"}"#,
        br#"{ "spaces" : [ 1 , 2.50 ] }"#,
        br#"{"twice":1,"twice":2}"#,
        b"null",
        b"\0\xff no JSON",
        b" 1 ",
    ];

    #[test]
    fn l1_what_is_read_in_binary_mode_is_what_was_written_to_the_byte() {
        for body in BODIES.into_iter().chain([&b""[..]]) {
            let message = message(body);
            for prefix in ["ce-", "ce_", "cloudEvents:", "CE-"] {
                assert_eq!(Envelope::read(&message.headers(prefix), body.to_vec()).as_ref(), Ok(&message));
            }
        }
    }

    #[test]
    fn l1_what_is_read_in_structured_mode_is_what_was_written_to_the_byte() {
        for body in BODIES.into_iter().chain([&b""[..]]) {
            let message = message(body);
            let written = message.structured().expect("JSON");
            let headers = [("Content-Type".to_owned(), format!("{STRUCTURED}; charset=utf-8"))];
            assert_eq!(Envelope::read(&headers, written.clone()).as_ref(), Ok(&message), "{}", body.escape_ascii());
            assert_eq!(Envelope::read(&[], written).as_ref(), Ok(&message), "by its shape");
        }
    }

    #[test]
    fn l1_plain_json_keeps_its_fields_and_the_body_to_the_byte() {
        for body in &BODIES[..4] {
            let message = message(body);
            let read = Envelope::read(&[], message.plain().expect("JSON")).expect("a message");
            assert_eq!((&read.id, &read.kind, read.version), (&message.id, &message.kind, message.version));
            assert_eq!((read.time, &read.source, &read.key), (message.time, &message.source, &message.key));
            assert_eq!(read.data, message.data);
        }
        assert!(message(b"\0").plain().is_err(), "there is no place for other bytes");
    }

    #[test]
    fn l1_the_json_of_others_is_read() {
        let seed = br#"{"eventId":"e-1","eventType":"order.created","version":"2","timestamp":"2026-11-29T14:35:00Z",
            "source":"order-service","correlationId":"not a uuid","data":{"orderId":"order-789"},"note":{"a":1}}"#;
        let read = Envelope::read(&[], seed.to_vec()).expect("a message");
        assert_eq!((&*read.id, &*read.kind, read.version, &*read.key), ("e-1", "order.created", 2, "order-service"));
        assert_eq!(read.data, br#"{"orderId":"order-789"}"#);
        assert_eq!(read.extensions["correlationid"], "not a uuid");
        assert_ne!(read.event_id(), Uuid::nil());
        assert_eq!(read.event_id(), read.clone().event_id());
    }

    #[test]
    fn i4_what_is_no_message_is_told_apart() {
        type Case<'a> = (&'a [(&'a str, &'a str)], &'a [u8], &'a str);
        let cases: [Case<'_>; 9] = [
            (&[], b"", "neither headers"),
            (&[], b"[]", "neither headers"),
            (&[], br#"{"id":"1","type":"t","source":"s"}"#, "no `data`"),
            (&[], br#"{"type":"t","source":"s","data":1}"#, "no `id`"),
            (&[("ce-id", "1"), ("ce-source", "s")], b"", "no `type`"),
            (&[("ce-specversion", "2.0"), ("ce-id", "1"), ("ce-type", "t"), ("ce-source", "s")], b"", "version 2.0"),
            (&[("ce-id", "1"), ("ce-type", "t"), ("ce-source", "s"), ("ce-version", "0")], b"", "`version` is `0`"),
            (&[("ce-id", "1"), ("ce-type", "t"), ("ce-source", "s"), ("ce-time", "noon")], b"", "`time`"),
            (&[("ce-id", "1"), ("ce-type", "t"), ("ce-source", "s"), ("ce-a_b", "x")], b"", "attribute `a_b`"),
        ];
        for (headers, body, why) in cases {
            let headers: Vec<_> = headers.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
            let error = Envelope::read(&headers, body.to_vec()).expect_err(why).to_string();
            assert!(error.contains(why), "{error}");
        }
        let json = br#"{"specversion":"1.0","id":"1","type":"t","source":"s","data":1,"data_base64":"AA=="}"#;
        assert!(Envelope::read(&[], json.to_vec()).is_err());
    }
}
