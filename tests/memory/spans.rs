//! The spans of what a caller does: which there are, and that no key and no body is in them.

use std::{
    fmt::{Debug, Write},
    sync::{Arc, Mutex},
};

use eventstore::{Expected, Id, StoreError, StreamId, Uuid};
use tracing::{Event, Metadata, Subscriber, field::Visit, span};

use crate::cases::account::*;

/// Each span and what was recorded in it, in the order in which they began.
#[derive(Clone, Default)]
struct Spans(Arc<Mutex<Vec<String>>>);

struct Fields<'a>(&'a mut String);

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn Debug) {
        let _ = write!(self.0, " {}={value:?}", field.name());
    }

    fn record_str(&mut self, field: &tracing::field::Field, value: &str) {
        let _ = write!(self.0, " {}={value}", field.name());
    }
}

impl Subscriber for Spans {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_span() && metadata.target().starts_with("eventstore_core")
    }

    fn new_span(&self, span: &span::Attributes<'_>) -> span::Id {
        let mut spans = self.0.lock().unwrap();
        let mut text = span.metadata().name().to_owned();
        span.record(&mut Fields(&mut text));
        spans.push(text);
        span::Id::from_u64(spans.len() as u64)
    }

    fn record(&self, span: &span::Id, values: &span::Record<'_>) {
        let place = span.into_u64() as usize - 1;
        values.record(&mut Fields(&mut self.0.lock().unwrap()[place]));
    }

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn event(&self, _: &Event<'_>) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

#[tokio::test]
async fn commands_loads_and_appends_have_spans_with_what_came_of_them() -> Result<(), Box<dyn std::error::Error>> {
    let spans = Spans::default();
    let _here = tracing::subscriber::set_default(spans.clone());
    let said = || std::mem::take(&mut *spans.0.lock().unwrap());
    let store = eventstore::connect("memory:").await?;
    let (ann, opens) = (Id::<Account>::from("ann-s-secret"), Uuid::from_u128(7));
    store.execute(&ann, Open { owner: "Ann".into() }).command_id(opens).await?;
    // `outcome` is recorded when it is known, after what the span began with.
    assert_eq!(
        said(),
        [
            "execute aggregate=account outcome=recorded attempts=1",
            "load aggregate=account",
            "append streams=1 events=1 outcome=recorded",
        ]
    );
    store.execute(&ann, Withdraw { amount: 5 }).await.expect_err("there is nothing in it");
    assert_eq!(said(), ["execute aggregate=account outcome=refused attempts=1", "load aggregate=account"]);
    store.execute(&ann, Open { owner: "Ann".into() }).command_id(opens).await?;
    assert_eq!(said()[0], "execute aggregate=account outcome=recorded attempts=0", "it was recorded before");
    store.load(&ann).await?;
    assert_eq!(said(), ["load aggregate=account"]);
    let late =
        store.append(StreamId::from(&ann), Expected::Version(eventstore::Version(7)), [AccountEvent::Closed]).await;
    assert!(matches!(late, Err(StoreError::Conflict(_))), "{late:?}");
    assert_eq!(said(), ["append streams=1 events=1 outcome=conflict"]);
    Ok(())
}
