//! A table is created once, exchanged with its shadow at once, and refused where its columns differ.

use futures::future::join_all;
use serde_json::{json, value::to_raw_value};

use super::support::{Fresh, TABLE, rows, write};
use crate::{Changes, Column, Kind, Order, Rows, StoreError, Table};

pub async fn a_table_is_built_once(store: Fresh) {
    let keys = || Rows::Keys { table: TABLE, keys: vec!["k".into()] };
    assert!(matches!(store.rows(keys()).await, Err(StoreError::NotBuilt { table }) if table == "sample@3"));
    let creators = (0..6).map(|_| {
        let store = store.clone();
        tokio::spawn(async move { store.create(&TABLE).await })
    });
    join_all(creators).await.into_iter().for_each(|created| created.unwrap().unwrap());
    write(&store, &[("k", json!({ "text": "x" }))], &[]).await;
    store.create(&TABLE).await.unwrap();
    assert_eq!(store.rows(keys()).await.unwrap().len(), 1, "what is in it stays");
    let real = [Column { kind: Kind::Real, ..TABLE.columns[0] }];
    let other = Table { columns: real.to_vec().leak(), ..TABLE };
    assert!(matches!(store.create(&other).await, Err(StoreError::Columns { table }) if table == "sample@3"));
    let next = Table { version: 4, ..other };
    store.create(&next).await.unwrap();
    assert!(store.rows(Rows::Keys { table: next, keys: vec!["k".into()] }).await.unwrap().is_empty());
}

pub async fn p4_a_table_and_its_shadow_change_names_at_once(store: Fresh) {
    let shadow = Table { shadow: true, ..TABLE };
    let text = async |table: Table| {
        let found = store.rows(Rows::Keys { table, keys: vec!["k".into()] }).await.unwrap();
        found.first().map(|(_, row)| serde_json::from_str::<serde_json::Value>(row.get()).unwrap()["text"].clone())
    };
    let put = async |table: Table, text: &str| {
        store.create(&table).await.unwrap();
        let row = to_raw_value(&json!({ "text": text })).unwrap();
        let mut transaction = store.begin().await.unwrap();
        transaction.write(Changes { table, upserts: vec![("k".into(), row)], deletes: vec![] }).await.unwrap();
        transaction.commit().await.unwrap();
    };
    put(TABLE, "old").await;
    let mut transaction = store.begin().await.unwrap();
    let swapped = transaction.swap("sample@3").await;
    assert!(matches!(swapped, Err(StoreError::NotBuilt { .. })), "{swapped:?}");
    drop(transaction);
    put(shadow, "new").await;
    store.index(&shadow).await.unwrap();
    store.index(&TABLE).await.unwrap();

    // The exchange is seen when it is committed, also by statements that were prepared before; three times, to and fro.
    for (round, now) in [(0, "new"), (1, "old"), (2, "new")] {
        let mut transaction = store.begin().await.unwrap();
        transaction.swap("sample@3").await.unwrap();
        transaction.publish("sample@current", "sample@3").await.unwrap();
        match round {
            0 => {
                transaction.rollback().await.unwrap();
                assert_eq!(text(TABLE).await, Some(json!("old")));
                let mut transaction = store.begin().await.unwrap();
                transaction.swap("sample@3").await.unwrap();
                transaction.publish("sample@current", "sample@3").await.unwrap();
                transaction.commit().await.unwrap();
            }
            _ => transaction.commit().await.unwrap(),
        }
        assert_eq!(text(TABLE).await, Some(json!(now)));
        assert_ne!(text(shadow).await, Some(json!(now)));
        put(TABLE, now).await;
    }

    // A caller that does not know the columns reads the table, too.
    write(&store, &[("a", json!({ "integer": 1, "order": { "b": [null] } })), ("z", json!({ "bool": true }))], &[])
        .await;
    let whole = |keys: &[&str], after: &str, limit| Rows::Whole {
        table: "sample@3".into(),
        keys: keys.iter().map(|key| (*key).into()).collect(),
        after: after.into(),
        limit,
    };
    let keys = async |rows| store.rows(rows).await.unwrap().into_iter().map(|(key, _)| key).collect::<Vec<_>>();
    assert_eq!(keys(whole(&[], "", 2)).await, ["a", "k"]);
    assert_eq!(keys(whole(&[], "a", 5)).await, ["k", "z"]);
    assert_eq!(keys(whole(&["z", "a", "y"], "", 5)).await, ["a", "z"]);
    let rows = store.rows(whole(&["a"], "", 1)).await.unwrap();
    let row: serde_json::Value = serde_json::from_str(rows[0].1.get()).unwrap();
    assert_eq!((&row["integer"], &row["order"], row.get("key")), (&json!(1), &json!({ "b": [null] }), None));

    let mut transaction = store.begin().await.unwrap();
    transaction.remove("sample@3~shadow").await.unwrap();
    transaction.remove("nobodys@1").await.unwrap();
    transaction.commit().await.unwrap();
    let gone = store.rows(Rows::Keys { table: shadow, keys: vec![] }).await;
    assert!(matches!(gone, Err(StoreError::NotBuilt { table }) if table == "sample@3~shadow"));
    store.create(&shadow).await.unwrap();
    store.index(&shadow).await.unwrap();
}

/// Checks that the table is read as if it had its last column, with null in it, and that a write is refused.
async fn null_until_made(store: &Fresh, table: Table) {
    let column = table.columns.last().unwrap();
    let null =
        |equal| Rows::Where { table, equal, order: Order { by: Some(column), ..Order::default() }, limit: Some(9) };
    for asked in [Rows::Keys { table, keys: vec!["k".into()] }, null(vec![]), null(vec![(column, json!(null))])] {
        let found = rows(store, asked).await;
        assert_eq!(found.len(), 1);
        assert_eq!((&found[0].1["text"], &found[0].1[column.name]), (&json!("x"), &json!(null)));
    }
    assert_eq!(rows(store, null(vec![(column, json!("x"))])).await, []);
    assert_eq!(rows(store, Rows::Keys { table, keys: vec!["none".into()] }).await, []);
    let mut transaction = store.begin().await.unwrap();
    let upserts = vec![("m".into(), to_raw_value(&json!({ "text": "x" })).unwrap())];
    let written = transaction.write(Changes { table, upserts, deletes: vec![] }).await;
    assert!(matches!(written, Err(StoreError::Columns { .. })), "{written:?}");
    transaction.rollback().await.unwrap();
}

pub async fn a_table_with_other_columns_is_refused_wherever_it_is_used(store: Fresh) {
    store.create(&TABLE).await.unwrap();
    write(&store, &[("k", json!({ "text": "x", "integer": 1 }))], &[]).await;
    let with = |change: &dyn Fn(&mut Vec<Column>)| {
        let mut columns = TABLE.columns.to_vec();
        change(&mut columns);
        Table { columns: columns.leak(), ..TABLE }
    };
    let kinds = [Kind::Text, Kind::Integer, Kind::Real, Kind::Bool, Kind::Uuid, Kind::Time, Kind::Json];
    let retyped = (0..TABLE.columns.len()).flat_map(|n| kinds.map(|kind| (n, kind)));
    let retyped = retyped.filter(|&(n, kind)| TABLE.columns[n].kind != kind);
    let mut others: Vec<_> = retyped.map(|(n, kind)| with(&|columns| columns[n].kind = kind)).collect();
    others.push(with(&|columns| columns.push(Column::new("new", Kind::Text))));
    others.push(with(&|columns| columns[2].name = "renamed"));
    for other in others {
        let refused = |result: Result<(), StoreError>| match result {
            Err(StoreError::Columns { table }) => assert_eq!(table, "sample@3"),
            result => panic!("{result:?} of {other:?}"),
        };
        refused(store.create(&other).await);
        for key in ["k", "none"] {
            refused(store.rows(Rows::Keys { table: other, keys: vec![key.into()] }).await.map(drop));
        }
        let first = (&other.columns[0], json!(null));
        for equal in [vec![], vec![first]] {
            refused(
                store
                    .rows(Rows::Where { table: other, equal, order: Order::default(), limit: Some(0) })
                    .await
                    .map(drop),
            );
        }
        let mut transaction = store.begin().await.unwrap();
        let upserts = vec![("k".into(), to_raw_value(&json!({})).unwrap())];
        refused(transaction.write(Changes { table: other, upserts, deletes: vec![] }).await);
        transaction.rollback().await.unwrap();
    }
    // An optional column is added. A program that does not know it, or another column, goes on reading and writing.
    let more = with(&|columns| columns.push(Column { name: "more", kind: Kind::Text, index: true, optional: true }));
    null_until_made(&store, more).await;
    store.create(&more).await.unwrap();
    store.index(&more).await.unwrap();
    let upserts = vec![("m".into(), to_raw_value(&json!({ "text": "x", "more": "m" })).unwrap())];
    let mut transaction = store.begin().await.unwrap();
    transaction.write(Changes { table: more, upserts, deletes: vec![] }).await.unwrap();
    transaction.commit().await.unwrap();
    let found = rows(&store, Rows::Where { table: more, equal: vec![], order: Order::default(), limit: None }).await;
    assert_eq!(found.iter().map(|(_, row)| row["more"].clone()).collect::<Vec<_>>(), [json!(null), json!("m")]);
    let fewer = with(&|columns| _ = columns.pop());
    store.create(&fewer).await.unwrap();
    // A write of a program that does not know the column leaves its value, unless the row was deleted.
    for (deletes, text, kept) in [(false, "y", json!("m")), (false, "x", json!("m")), (true, "x", json!(null))] {
        let mut transaction = store.begin().await.unwrap();
        if deletes {
            let deletes = vec!["m".into()];
            transaction.write(Changes { table: TABLE, upserts: vec![], deletes }).await.unwrap();
        }
        let upserts = vec![("m".into(), to_raw_value(&json!({ "text": text })).unwrap())];
        transaction.write(Changes { table: TABLE, upserts, deletes: vec![] }).await.unwrap();
        transaction.commit().await.unwrap();
        let found = rows(&store, Rows::Keys { table: more, keys: vec!["m".into()] }).await;
        assert_eq!((&found[0].1["text"], &found[0].1["more"]), (&json!(text), &kept));
    }
    assert_eq!(
        rows(&store, Rows::Where { table: fewer, equal: vec![], order: Order::default(), limit: None }).await.len(),
        2
    );
    let renamed = with(&|columns| {
        columns[6].name = "renamed";
        columns[6].optional = true;
    });
    assert!(matches!(store.create(&renamed).await, Err(StoreError::Columns { .. })), "it may be a new name of another");
    write(&store, &[], &["m"]).await;

    // A table with the same columns in another order, and with other indexes, is the same table.
    let same = with(&|columns| {
        columns.reverse();
        columns.iter_mut().for_each(|column| column.index = !column.index && column.kind != Kind::Json);
    });
    store.create(&same).await.unwrap();
    let upserts = vec![("l".into(), to_raw_value(&json!({ "text": "y", "real": 0.5 })).unwrap())];
    let mut transaction = store.begin().await.unwrap();
    transaction.write(Changes { table: same, upserts, deletes: vec![] }).await.unwrap();
    transaction.commit().await.unwrap();
    for table in [TABLE, same] {
        let found = rows(&store, Rows::Where { table, equal: vec![], order: Order::default(), limit: None }).await;
        assert_eq!(found.iter().map(|(key, _)| key.as_str()).collect::<Vec<_>>(), ["k", "l"]);
        assert_eq!(
            (&found[0].1["integer"], &found[1].1["text"], &found[1].1["real"]),
            (&json!(1), &json!("y"), &json!(0.5))
        );
    }
}
