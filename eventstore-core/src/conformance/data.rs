//! What was appended is read as it was: bodies, names, tags and metadata.

use serde_json::json;
use uuid::Uuid;

use super::support::{Fresh, any, event, matching, read, stream, whole};
use crate::{Item, Query, Read, StreamId, Tag, limits};

pub async fn a10_bytes_in_are_bytes_out(store: Fresh) {
    let deep = "[".repeat(8_000) + &"]".repeat(8_000);
    let bodies: Vec<Vec<u8>> = vec![
        vec![],
        b"null".to_vec(),
        br#"{"nul":"\u0000","twice":1,"twice":2,"huge":1e309,"tiny":1.10}"#.to_vec(),
        b"{ \"spaces\" :\t1 }\n".to_vec(),
        deep.into_bytes(),
        (0..=255).collect(),
        vec![0xff, 0xfe, 0x00, 0xc3],
        "\u{202e}\u{0}\u{feff}'; DROP TABLE events; --".into(),
        vec![b'x'; 1 << 20],
    ];
    let events = bodies.iter().map(|body| {
        let mut event = event("bytes");
        event.data.body = body.clone();
        event
    });
    store.append(any(&stream("a"), events)).await.unwrap();
    let read: Vec<_> = whole(&store).await.into_iter().map(|event| event.data.body).collect();
    assert!(read == bodies);
}

pub async fn a10_names_in_are_names_out(store: Fresh) {
    let long = "ß".repeat(limits::NAME_BYTES / 2);
    let names =
        ["x", "X", "x ", "a-b--c", "it's \"quoted\" {}, \\, %_*", "\u{202e}right to left", "ключ/鍵/🔑", " ", &long];
    let hard = [
        "NULL",
        "null",
        "{}",
        "{,}",
        ",",
        "\"",
        "\\",
        "\\\"",
        "'",
        "''",
        "$1",
        "?1",
        ":",
        "é",
        "e\u{301}",
        "\u{10ffff}",
    ];
    for name in names.into_iter().chain(hard) {
        // Event names that begin with `$` are reserved for the log; keys and tags may begin with it.
        let event_name = if name.starts_with('$') { "x" } else { name };
        let mut new = event(event_name);
        new.data.tags = vec![Tag::new("about", name), Tag::new("second.tag_2", "{x,\"y\"}")];
        store.append(any(&stream(name), [new.clone()])).await.unwrap();
        let found = read(&store, Read { query: Query::of(&stream(name)), ..Read::default() }).await;
        assert_eq!(found.len(), 1, "{name}");
        assert_eq!((found[0].stream.clone(), found[0].data.clone()), (stream(name), new.data), "{name}");
        let tag = Item { tags: vec![Tag::new("about", name)], ..Item::default() };
        assert_eq!(matching(&store, tag).await, [found[0].position.0], "{name}");
        let by_name = Item { names: vec![event_name.to_owned().into()], ..Item::default() };
        assert_eq!(matching(&store, by_name).await.last(), Some(&found[0].position.0), "{name}");
    }
    let (category, tag) = ("c".repeat(limits::NAME_BYTES), "t".repeat(limits::NAME_BYTES));
    let mut new = event("x");
    new.data.tags = (0..limits::TAGS).map(|n| Tag::new(tag.clone(), n)).collect();
    let last = store.append(any(&StreamId::new(&category, &long), [new.clone()])).await.unwrap().last;
    let item = Item { tags: new.data.tags.clone(), category: Some(category), key: Some(long), ..Item::default() };
    let found = read(&store, Read { query: item.into(), ..Read::default() }).await;
    assert_eq!((found[0].position, &found[0].data), (last, &new.data));
    whole(&store).await;
}

pub async fn a10_metadata_in_is_metadata_out(store: Fresh) {
    let mut new = event("x");
    new.schema = 7;
    new.occurred_at = Some("1815-06-18T11:35:00.000001Z".parse().unwrap());
    new.metadata.correlation_id = Uuid::from_u128(2);
    new.metadata.causation_id = Some(Uuid::from_u128(3));
    new.metadata.actor = Some("Ann \u{0} \"the\" boss".into());
    new.metadata.source = Some("desk".into());
    new.metadata.extra.insert("n".into(), json!({ "deep": [0.1, u64::MAX, -1, null, "\u{0}"] }));
    store.append(any(&stream("a"), [new.clone()])).await.unwrap();
    let log = whole(&store).await;
    assert_eq!((log[0].id, log[0].schema, &log[0].metadata), (new.id, 7, &new.metadata));
    assert_eq!(Some(log[0].occurred_at), new.occurred_at);

    store.append(any(&stream("a"), [event("y")])).await.unwrap();
    let log = whole(&store).await;
    assert_eq!(log[1].occurred_at, log[1].recorded_at, "an event without an instant has happened when it is recorded");
}
