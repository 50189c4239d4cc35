//! Messages as AMQP carries them: CloudEvents in binary mode.

use eventstore_messaging::{BusError, Delivery, Envelope, Offset, Unread};
use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable, ShortString},
};
use uuid::Uuid;

/// What the names of headers begin with.
const PREFIX: &str = "cloudEvents:";
/// The bytes of properties beside the headers, at most.
const PROPERTIES: usize = 2_048;
/// The most bytes of a type in a routing key, which has 255.
const KIND_BYTES: usize = 200;

/// Returns the routing key of a message. A long type is cut off; the header has all of it.
pub fn routing_key(message: &Envelope, partition: u16) -> Result<ShortString, BusError> {
    let end = message.kind.floor_char_boundary(KIND_BYTES);
    super::topology::name(format!("{partition}.{}", &message.kind[..end]))
}

/// Returns the id of a message, by which a returned one is known again.
pub fn id(message: &Envelope) -> String {
    message.event_id().to_string()
}

/// Returns the properties of a message. Fails with [`BusError::Refused`] if they do not fit into one frame: the server
/// closes the connection then.
pub fn properties(message: &Envelope, frame_bytes: usize) -> Result<BasicProperties, BusError> {
    let mut headers = FieldTable::default();
    let mut bytes = PROPERTIES;
    let mut properties = BasicProperties::default()
        .with_delivery_mode(2)
        .with_message_id(id(message).into())
        // For those who have the plugin.
        .with_type(super::topology::name(&message.kind[..message.kind.floor_char_boundary(KIND_BYTES)])?);
    for (name, value) in message.headers(PREFIX) {
        bytes += name.len() + value.len() + 8;
        if name.starts_with(PREFIX) {
            headers.insert(super::topology::name(name)?, AMQPValue::LongString(value.into()));
            continue;
        }
        match ShortString::try_new(value.clone()) {
            Ok(content_type) => properties = properties.with_content_type(content_type),
            Err(_) => _ = headers.insert(super::topology::name(name)?, AMQPValue::LongString(value.into())),
        }
    }
    if bytes > frame_bytes {
        let why = format!("the attributes have more than {frame_bytes} bytes, which is the frame of the connection");
        return Err(BusError::Refused(why.into()));
    }
    // For those who have the plugin of that name.
    headers.insert("x-deduplication-header".into(), AMQPValue::LongString(id(message).into()));
    Ok(properties.with_headers(headers))
}

/// Returns the delivery of a message.
pub fn delivery(receipt: String, delivery: lapin::message::Delivery) -> Delivery {
    let mut headers = vec![];
    if let Some(kind) = delivery.properties.content_type() {
        headers.push(("content-type".to_owned(), kind.to_string()));
    }
    for (name, value) in delivery.properties.headers().iter().flat_map(|headers| headers.inner()) {
        if let Some(text) = text(value) {
            headers.push((name.to_string(), text));
        }
    }
    // A queue has no offsets; this one names a message, also when it comes again.
    let id = delivery.properties.message_id().as_ref().map(ToString::to_string);
    let id = id.unwrap_or_else(|| Uuid::new_v5(&Uuid::NAMESPACE_OID, &delivery.data).to_string());
    let message = Envelope::read(&headers, delivery.data.clone());
    let message = message.map_err(|reason| Unread { reason, headers, body: delivery.data });
    Delivery { offset: Offset(id), receipt: Some(receipt), message }
}

/// Returns the value of a header as text; other clients may send numbers.
fn text(value: &AMQPValue) -> Option<String> {
    Some(match value {
        AMQPValue::LongString(text) => String::from_utf8(text.as_bytes().to_vec()).ok()?,
        AMQPValue::ShortString(text) => text.to_string(),
        AMQPValue::Boolean(yes) => yes.to_string(),
        AMQPValue::ShortShortInt(number) => number.to_string(),
        AMQPValue::ShortShortUInt(number) => number.to_string(),
        AMQPValue::ShortInt(number) => number.to_string(),
        AMQPValue::ShortUInt(number) => number.to_string(),
        AMQPValue::LongInt(number) => number.to_string(),
        AMQPValue::LongUInt(number) => number.to_string(),
        AMQPValue::LongLongInt(number) => number.to_string(),
        _ => return None,
    })
}
