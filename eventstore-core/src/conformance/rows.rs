//! Rows are read as they were written, and found by their columns.

use serde_json::{json, value::to_raw_value};
use uuid::Uuid;

use super::support::{Fresh, TABLE, rows, write};
use crate::{Changes, Comparison, Filter, Kind, Order, Rows, Select, SortKey, StoreError, Timestamp, limits};

pub async fn rows_are_what_was_written(store: Fresh) {
    store.create(&TABLE).await.unwrap();
    let full = json!({
        "text": "it's \"quoted\" \\ 🔑", "integer": i64::MIN, "real": 0.1, "bool": true,
        "uuid": "0192a000-0000-7000-8000-000000000001", "time": "2026-11-21T03:40:00.123456Z",
        "order": { "list": [1, 2.5, "x", null], "b": 2, "a": 1 },
    });
    let extreme = json!({
        "text": "", "integer": i64::MAX, "real": -1.7976931348623157e308, "bool": false,
        "uuid": "00000000-0000-0000-0000-000000000000", "time": "1815-06-18T11:35:00Z", "order": [],
    });
    let empty = json!({
        "text": null, "integer": null, "real": null, "bool": null, "uuid": null, "time": null, "order": null,
    });
    write(&store, &[("full", full.clone()), ("empty", empty.clone()), ("it's", extreme.clone())], &[]).await;
    let all = || Rows::Where { table: TABLE, equal: vec![], order: Order::default(), limit: None };
    let found = rows(&store, all()).await;
    assert_eq!(found.iter().map(|(key, _)| key.as_str()).collect::<Vec<_>>(), ["empty", "full", "it's"]);
    let same = |found: &serde_json::Value, written: &serde_json::Value| {
        for column in TABLE.columns {
            let (found, written) = (&found[column.name], &written[column.name]);
            match column.kind {
                // A store may write an instant in another form.
                Kind::Time if !written.is_null() => {
                    let instant = |value: &serde_json::Value| value.as_str().unwrap().parse::<Timestamp>().unwrap();
                    assert_eq!(instant(found), instant(written));
                }
                _ => assert_eq!(found, written, "{}", column.name),
            }
        }
    };
    same(&found[0].1, &empty);
    same(&found[1].1, &full);
    same(&found[2].1, &extreme);

    write(&store, &[("full", extreme.clone()), ("new", empty.clone())], &["empty", "never there"]).await;
    let keys = ["new", "full", "full", "empty", "gone"].map(str::to_owned).to_vec();
    let found = rows(&store, Rows::Keys { table: TABLE, keys }).await;
    assert_eq!(found.iter().map(|(key, _)| key.as_str()).collect::<Vec<_>>(), ["full", "new"]);
    same(&found[0].1, &extreme);

    // A value that does not fit its column is refused, and no row of the batch is written.
    for bad in [json!({ "integer": "twelve" }), json!({ "integer": u64::MAX }), json!({ "time": "noon" })] {
        let upserts = vec![
            ("good".into(), to_raw_value(&json!({ "text": "good" })).unwrap()),
            ("bad".into(), to_raw_value(&bad).unwrap()),
        ];
        let mut transaction = store.begin().await.unwrap();
        let result = transaction.write(Changes { table: TABLE, upserts, deletes: vec![] }).await;
        assert!(matches!(result, Err(StoreError::Row { .. })), "{bad}: {result:?}");
        drop(transaction);
    }
    assert_eq!(rows(&store, all()).await.len(), 3);
}

pub async fn rows_no_database_can_hold_are_refused(store: Fresh) {
    store.create(&TABLE).await.unwrap();
    let long = "x".repeat(limits::NAME_BYTES + 1);
    for (key, row, why) in [
        ("k", json!({ "text": "a\0b" }), "column `text` of row `k` is text and cannot hold U+0000"),
        ("k", json!({ "order": "\0" }), "column `order` of row `k` is jsonb and cannot hold U+0000"),
        ("k", json!({ "order": { "a": [1, "\0"] } }), "column `order` of row `k` is jsonb and cannot hold U+0000"),
        ("k", json!({ "order": { "\0": 1 } }), "column `order` of row `k` is jsonb and cannot hold U+0000"),
        (
            "k",
            json!({ "integer": i64::MAX as u64 + 1 }),
            "column `integer` of row `k` is bigint and cannot hold 9223372036854775808",
        ),
        ("k", json!({ "uuid": "x" }), "column `uuid` of row `k` is uuid and cannot hold \"x\""),
        ("a\0b", json!({}), "row key `a\\0b` has a control character"),
        ("\n", json!({}), "row key `\\n` has a control character"),
        ("", json!({}), "row key `` is empty"),
        (&long, json!({}), "row key `xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx…` is longer than 512 bytes"),
    ] {
        let good = ("good".to_owned(), to_raw_value(&json!({})).unwrap());
        let upserts = vec![good, (key.into(), to_raw_value(&row).unwrap())];
        let mut transaction = store.begin().await.unwrap();
        match transaction.write(Changes { table: TABLE, upserts, deletes: vec![] }).await {
            Err(StoreError::Row { table, reason }) => assert_eq!((&*table, &*reason.to_string()), ("sample@3", why)),
            other => panic!("{why}: {other:?}"),
        }
    }
    let escaped = json!({ "text": "\\u0000", "order": ["\\u0000"] });
    write(&store, &[("k", escaped.clone())], &[]).await;
    let found = rows(&store, Rows::Where { table: TABLE, equal: vec![], order: Order::default(), limit: None }).await;
    assert_eq!(found.len(), 1);
    assert_eq!((&found[0].1["text"], &found[0].1["order"]), (&escaped["text"], &escaped["order"]));
}

pub async fn rows_are_found_by_their_columns(store: Fresh) {
    store.create(&TABLE).await.unwrap();
    let row = |n: i64| {
        let (text, bool, uuid) = (["x", "y"][usize::from(n % 2 == 0)], n % 3 == 0, Uuid::from_u128(n as u128 % 2));
        let time = Timestamp::from_micros(n % 2);
        json!({ "text": text, "integer": n, "real": n as f64 / 2.0, "bool": bool, "uuid": uuid, "time": time })
    };
    let all: Vec<_> = (1..=6).map(|n| (["a", "b", "c", "d", "e", "f"][n as usize - 1], row(n))).collect();
    write(&store, &all, &[]).await;
    let column = |name: &str| TABLE.columns.iter().find(|column| column.name == name).unwrap();
    let find = async |equal: &[(&str, serde_json::Value)], limit| {
        let equal = equal.iter().map(|(name, value)| (column(name), value.clone())).collect();
        let found = rows(&store, Rows::Where { table: TABLE, equal, order: Order::default(), limit }).await;
        found.into_iter().map(|(key, _)| key).collect::<String>()
    };
    assert_eq!(find(&[("text", json!("x"))], None).await, "ace");
    assert_eq!(find(&[("text", json!("x"))], Some(2)).await, "ac");
    assert_eq!(find(&[("integer", json!(4))], None).await, "d");
    assert_eq!(find(&[("real", json!(0.5))], None).await, "a");
    assert_eq!(find(&[("bool", json!(true)), ("text", json!("y"))], None).await, "f");
    assert_eq!(find(&[("uuid", json!(Uuid::from_u128(1)))], None).await, "ace");
    assert_eq!(find(&[("time", json!(Timestamp::from_micros(0)))], None).await, "bdf");
    assert_eq!(find(&[("text", json!("'; --"))], None).await, "");
    let order = async |by: &str, descending, skip, limit| {
        let by = TABLE.columns.iter().find(|column| column.name == by);
        let order = Order { by, descending, skip };
        let found = rows(&store, Rows::Where { table: TABLE, equal: vec![], order, limit }).await;
        found.into_iter().map(|(key, _)| key).collect::<String>()
    };
    for (by, up, down) in [
        ("", "abcdef", "fedcba"),
        ("text", "acebdf", "bdface"),
        ("real", "abcdef", "fedcba"),
        ("bool", "abdecf", "cfabde"),
        ("uuid", "bdface", "acebdf"),
        ("time", "bdface", "acebdf"),
    ] {
        assert_eq!((order(by, false, 0, None).await, order(by, true, 0, None).await), (up.into(), down.into()), "{by}");
        assert_eq!(order(by, true, 2, Some(3)).await, down[2..5], "{by}");
        assert_eq!(order(by, false, 5, Some(3)).await, up[5..], "{by}");
    }
    assert_eq!(find(&[("text", json!(null))], None).await, "");
    write(&store, &[("a", json!({ "integer": 1 }))], &[]).await;
    assert_eq!(find(&[("text", json!(null))], None).await, "a");
    assert_eq!(order("text", false, 0, None).await, "cebdfa", "null is last");
    assert_eq!(order("text", true, 0, None).await, "bdfcea", "in both directions");
    assert_eq!(find(&[], Some(0)).await, "");
}

pub async fn rows_are_selected_by_comparison_and_from_a_place(store: Fresh) {
    store.create(&TABLE).await.unwrap();
    let row = |n: i64| {
        let time = Timestamp::from_micros(n / 2 * 500_000);
        json!({ "text": format!("{}", n / 2), "integer": n / 2, "real": n as f64 / 2.0, "bool": n > 2, "time": time })
    };
    let all: Vec<_> = (1..=5).map(|n| (["c", "a", "b", "e", "d"][n as usize - 1], row(n))).collect();
    write(&store, &all, &[]).await;
    write(&store, &[("f", json!({}))], &[]).await;
    let column = |name: &str| TABLE.columns.iter().find(|column| column.name == name).unwrap();
    let select = |filters: Vec<(&str, Comparison)>| {
        let filters = filters.into_iter().map(|(name, comparison)| Filter { column: column(name), comparison });
        Select { table: TABLE, filters: filters.collect(), order: Order::default(), after: None, limit: None }
    };
    let find = async |select: Select| {
        let found = store.select(select.clone()).await.unwrap();
        if select.after.is_none() && select.limit.is_none() && select.order.skip == 0 {
            assert_eq!(store.count_rows(select).await.unwrap(), found.len() as u64);
        }
        found.into_iter().map(|(key, _)| key).collect::<String>()
    };
    let time = |micros| json!(Timestamp::from_micros(micros));
    use Comparison::*;
    for (filters, expected) in [
        (vec![], "abcdef"),
        (vec![("integer", Less(json!(1)))], "c"),
        (vec![("integer", LessOrEqual(json!(1)))], "abc"),
        (vec![("integer", Greater(json!(1)))], "de"),
        (vec![("integer", GreaterOrEqual(json!(1)))], "abde"),
        (vec![("integer", GreaterOrEqual(json!(1))), ("text", Less(json!("2")))], "ab"),
        (vec![("real", Greater(json!(1.0))), ("bool", Equal(json!(true)))], "bde"),
        (vec![("bool", Greater(json!(false)))], "bde"),
        (vec![("time", Less(time(500_000)))], "c"),
        (vec![("time", GreaterOrEqual(time(500_000)))], "abde"),
        (vec![("integer", In(vec![json!(0), json!(2), json!(null)]))], "cdef"),
        (vec![("integer", In(vec![]))], ""),
        (vec![("integer", Equal(json!(null)))], "f"),
        (vec![("text", Greater(json!("'; --")))], "abcde"),
    ] {
        assert_eq!(find(select(filters.clone())).await, expected, "{filters:?}");
    }
    for (by, descending, expected) in [
        ("", false, "abcdef"),
        ("", true, "fedcba"),
        ("integer", false, "cabdef"),
        ("integer", true, "deabcf"),
        ("time", false, "cabdef"),
        ("time", true, "deabcf"),
        ("text", true, "deabcf"),
        ("bool", true, "bdeacf"),
    ] {
        let by = TABLE.columns.iter().find(|column| column.name == by);
        let ordered = |after, limit| Select {
            order: Order { by, descending, skip: 0 },
            after,
            limit,
            ..select(vec![("integer", In(vec![json!(0), json!(1), json!(2), json!(null)]))])
        };
        assert_eq!(find(ordered(None, None)).await, expected, "{by:?}, descending: {descending}");
        for (n, (key, row)) in store.select(ordered(None, None)).await.unwrap().into_iter().enumerate() {
            let value = by.and_then(|column| column.value(&row)).unwrap_or_default();
            let after = Some(SortKey { value, key });
            assert_eq!(find(ordered(after.clone(), None)).await, expected[n + 1..], "{by:?} after {after:?}");
            assert_eq!(
                find(ordered(after.clone(), Some(2))).await,
                expected[n + 1..(n + 3).min(6)],
                "{by:?}, {after:?}"
            );
            let skipped = Select { order: Order { by, descending, skip: 1 }, ..ordered(after.clone(), Some(2)) };
            assert_eq!(find(skipped).await, expected[(n + 2).min(6)..(n + 4).min(6)], "{by:?}, {after:?}");
            assert_eq!(store.count_rows(ordered(after, Some(1))).await.unwrap(), 6);
        }
        assert_eq!(find(ordered(None, Some(3))).await, expected[..3]);
        assert_eq!(find(ordered(None, Some(0))).await, "");
    }
}
