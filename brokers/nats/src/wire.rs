//! Messages as NATS carries them: CloudEvents in binary mode.
//!
//! The values of headers are percent-encoded, as the binding of CloudEvents says: NATS trims spaces, and clients differ
//! in what else they take.

use async_nats::HeaderMap;
use eventstore_messaging::{BusError, Delivery, Envelope, Offset, Unread};

/// What the names of headers begin with.
const PREFIX: &str = "ce-";
/// The header by which the server knows a message that it has already.
pub const ID: &str = "Nats-Msg-Id";
/// The most bytes of all headers; the limit of the server.
const HEADER_BYTES: usize = (64 << 10) - 1;
/// The bytes of the headers that a chain adds.
const CHAIN_BYTES: usize = 256;

/// A message, as it is sent.
pub struct Wire {
    pub subject: String,
    pub headers: HeaderMap,
    /// The id that the server knows it by.
    pub id: String,
}

impl Wire {
    /// Returns the wire form of a message, without its body. Fails with [`BusError::Refused`] if the server would never
    /// take it.
    pub fn of(message: &Envelope, subject: &str, message_bytes: usize, max_payload: usize) -> Result<Self, BusError> {
        let id = message.event_id().to_string();
        let mut headers = HeaderMap::new();
        let mut bytes = CHAIN_BYTES;
        let all = message.headers(PREFIX);
        let all = all.into_iter().map(|(name, value)| match name.strip_prefix(PREFIX) {
            Some(_) => (name, encode(&value)),
            None => (name, value),
        });
        for (name, value) in all.chain([(ID.to_owned(), id.clone())]) {
            bytes += name.len() + value.len() + 4;
            let refused = || BusError::Refused(format!("the attribute `{name}` cannot be a header").into());
            let key: async_nats::HeaderName = name.parse().map_err(|_| refused())?;
            let value: async_nats::HeaderValue = value.parse().map_err(|_| refused())?;
            headers.insert(key, value);
        }
        if bytes > HEADER_BYTES {
            return Err(BusError::Refused("the attributes have more than 64 KiB as headers".into()));
        }
        if message.bytes() > message_bytes || bytes + message.data.len() > max_payload {
            let why = format!("the message has more than {message_bytes} bytes, or its attributes are long as headers");
            return Err(BusError::Refused(why.into()));
        }
        Ok(Self { subject: format!("{subject}.{}", tokens(&message.kind)), headers, id })
    }
}

/// Returns a type as tokens of a subject. What a subject cannot have becomes `_`; the header has the type as it is.
fn tokens(kind: &str) -> String {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | ':' | '/');
    let token = |token: &str| match token {
        "" => "_".into(),
        token => token.chars().map(|c| if allowed(c) { c } else { '_' }).collect(),
    };
    kind.split('.').map(token).collect::<Vec<String>>().join(".")
}

/// Percent-encodes what is not printable ASCII, and space, `"` and `%`.
fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'!' | b'#' | b'$' | b'&'..=b'~' => encoded.push(char::from(byte)),
            _ => encoded += &format!("%{byte:02X}"),
        }
    }
    encoded
}

/// Decodes what [`encode`] returns. A publisher that does not encode is read as it is, unless what it says looks encoded.
pub fn decode(text: &str) -> String {
    let (bytes, mut decoded, mut n) = (text.as_bytes(), Vec::with_capacity(text.len()), 0);
    while let Some(byte) = bytes.get(n) {
        let hex = |byte: Option<&u8>| byte.and_then(|byte| char::from(*byte).to_digit(16));
        match (byte, hex(bytes.get(n + 1)), hex(bytes.get(n + 2))) {
            (b'%', Some(high), Some(low)) => {
                decoded.push((high * 16 + low) as u8);
                n += 3;
            }
            _ => {
                decoded.push(*byte);
                n += 1;
            }
        }
    }
    String::from_utf8(decoded).unwrap_or_else(|_| text.to_owned())
}

/// Returns the value of an attribute of a message.
pub fn attribute(headers: &HeaderMap, name: &str) -> Option<String> {
    let name = format!("{PREFIX}{name}");
    let found = headers.iter().find(|(header, _)| header.to_string().eq_ignore_ascii_case(&name));
    found.and_then(|(_, values)| values.first()).map(|value| decode(value.as_str()))
}

/// Returns the id by which the server knows a message, or nothing.
pub fn id(headers: Option<&HeaderMap>) -> String {
    headers.and_then(|headers| headers.get(ID)).map(ToString::to_string).unwrap_or_default()
}

/// Returns the delivery of a message.
pub fn delivery(offset: Offset, headers: Option<&HeaderMap>, body: &[u8]) -> Delivery {
    let mut all = vec![];
    for (name, values) in headers.iter().flat_map(|headers| headers.iter()) {
        let name = name.to_string();
        let is_attribute = name.get(..PREFIX.len()).is_some_and(|start| start.eq_ignore_ascii_case(PREFIX));
        for value in values {
            let value = if is_attribute { decode(value.as_str()) } else { value.to_string() };
            all.push((name.clone(), value));
        }
    }
    let message = Envelope::read(&all, body.to_vec());
    let message = message.map_err(|reason| Unread { reason, headers: all, body: body.to_vec() });
    Delivery { offset, receipt: None, message }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn l1_values_of_headers_are_read_as_they_are_written() {
        for text in ["", "plain", " spaces ", "100%", "%25", "%C3%A4", "\u{e4}\u{1F680}\"", "a\tb\u{7f}"] {
            let encoded = encode(text);
            assert!(encoded.bytes().all(|byte| byte.is_ascii_graphic()), "{encoded}");
            assert_eq!(decode(&encoded), text);
        }
        // Of publishers that do not encode.
        for text in ["100%", "50% off", "%zz", "\u{e4}", "%C3"] {
            assert_eq!(decode(text), text);
        }
    }

    #[test]
    fn l1_a_type_is_always_a_subject() {
        for (kind, subject) in
            [("order.placed", "order.placed"), ("a b*>c", "a_b__c"), (".a..b.", "_.a._.b._"), ("\u{e4}\r\n", "___")]
        {
            assert_eq!(tokens(kind), subject);
        }
    }
}
