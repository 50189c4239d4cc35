//! Stored rows stay readable.

use uuid::Uuid;

use crate::{
    Event, Position, SagaStatus, Timestamp,
    process::{Ended, Mark, Progress, StepStatus, StoredInstance, stream_of},
};

/// A row as a release has written it: every later release reads it, and writes the same.
const ROW: &str = r#"{
    "key": "t1", "slot": 71, "state": "{\"taking\":{}}", "version": 2, "status": "compensating",
    "due": "1970-01-01T01:00:00Z",
    "timers": [
        {"event": "00000000-0000-0001-0000-000000000000", "part": 1, "place": "0.1", "due": "1970-01-01T01:00:00Z",
         "next": "1970-01-01T01:01:00Z", "name": "expiry", "was": "send(transfer-t1, Expire)",
         "state": [1, "{}"], "awaits": ["00000000-0000-0001-0000-000000000002"], "fired": 1, "error": "conflict"},
        {"event": "00000000-0000-0001-0000-000000000000", "place": "", "due": "1970-01-01T02:00:00Z", "next": null,
         "was": "send(transfer-t1, Expire)", "what a later release adds": true}
    ],
    "heard": [1, 5],
    "plan": {
        "event": "00000000-0000-0001-0000-000000000000", "part": 0,
        "correlation": "00000000-0000-0000-0000-000000000007",
        "steps": [
            {"name": "stock", "group": 1, "status": "done", "order": 1},
            {"name": "payment", "group": 2, "status": "failed", "order": 2, "reason": "card expired"},
            {"name": "invoice", "group": 3, "retriable": true, "status": "waiting", "tries": 1, "resent": 1}
        ],
        "failed": ["payment", "card expired"], "over": false, "waits": "step `stock` cannot be undone"
    },
    "started_at": "1970-01-01T00:00:00Z", "changed_at": "1970-01-01T00:30:00Z", "position": 5, "error": "card expired"
}"#;

#[test]
fn g9_a_row_of_today_is_read_by_every_later_release() {
    let row: StoredInstance = serde_json::from_str(ROW).expect("a row");
    assert_eq!((row.status, row.position, row.heard.len()), (SagaStatus::Compensating, Position(5), 2));
    let [first, second] = &row.timers[..] else { panic!("{:?}", row.timers) };
    assert_eq!(
        (first.part, first.fired, first.next, first.state.clone()),
        (1, 1, Some("1970-01-01T01:01:00Z".parse::<Timestamp>().expect("an instant")), Some((1, "{}".into())),)
    );
    assert_eq!((second.part, second.fired, second.next, &second.name), (0, 0, None, &None));
    let plan = row.plan.as_ref().expect("a plan");
    let status: Vec<_> = plan.steps.iter().map(|step| step.status).collect();
    assert_eq!(status, [StepStatus::Done, StepStatus::Failed, StepStatus::Waiting]);
    let again: StoredInstance = serde_json::from_str(&serde_json::to_string(&row).expect("JSON")).expect("a row");
    assert_eq!(again, row);
    let written = serde_json::to_value(&row).expect("JSON");
    assert_eq!(written["timers"][0]["place"], "0.1");
    assert_eq!(written["plan"]["steps"][1]["reason"], "card expired");
    let least = r#"{"event":"00000000-0000-0001-0000-000000000000","correlation":"00000000-0000-0001-0000-000000000000","steps":[]}"#;
    assert!(serde_json::from_str::<Progress>(least).is_ok(), "what is left out has a default");
}

#[test]
fn g2_marks_are_read_as_they_were_written() {
    for (mark, body) in [
        (Mark { place: "0.1".into(), refused: Some("no".into()) }, r#"{"place":"0.1","refused":"no"}"#),
        (Mark { place: String::new(), refused: None }, r#"{"place":"","refused":null}"#),
    ] {
        assert_eq!((mark.name(), mark.schema()), ("saga.answered", 1));
        assert_eq!(mark.encode().expect("written"), body.as_bytes());
        let mut read = vec![];
        Mark::decode("saga.answered", 1, body.as_bytes(), &mut |mark| read.push(mark)).expect("read");
        assert_eq!(read, [mark]);
    }
    let decode = |name, schema| Mark::decode(name, schema, b"{}", &mut |_| panic!("not a mark")).expect_err("an error");
    assert!(decode("saga.answered", 2).to_string().contains("newer"));
    assert!(decode("saga.other", 1).to_string().contains("no event called `saga.other`"));
    assert_eq!((Ended {}.name(), Ended {}.encode().expect("written")), ("saga.ended", b"{}".to_vec()));
    assert_eq!(stream_of("money_transfer", "t-1").to_string(), "saga.money_transfer-t-1");
    assert_ne!(Uuid::nil(), Uuid::max());
}
