//! The database holds every table, column and index that other programs of the control plane
//! know, by its own name and with its own type.

use std::collections::BTreeSet;

use sqlx::sqlite::{SqliteConnectOptions, SqlitePool};
use sqlx::{Row as _, SqliteConnection};
use vpn_node_controller::store::sqlite::SqliteStore;

const KNOWN: &str = include_str!("../fixtures/control-plane-schema.sql");

/// Tables with their columns (name, type, whether it may be null, place in the primary key), then
/// the indexes.
async fn shape(database: &mut SqliteConnection) -> BTreeSet<String> {
    let objects = sqlx::query(
        "SELECT type, name, tbl_name FROM sqlite_master
         WHERE type IN ('table', 'index') AND name NOT LIKE 'sqlite_%'",
    );
    let mut shape = BTreeSet::new();
    for object in objects.fetch_all(&mut *database).await.unwrap() {
        let [kind, name, table]: [String; 3] = std::array::from_fn(|i| object.get(i));
        if kind == "index" {
            shape.insert(format!("index {name} on {table}"));
            continue;
        }
        let columns = sqlx::query("SELECT name, type, \"notnull\", pk FROM pragma_table_info(?)");
        for column in columns.bind(&name).fetch_all(&mut *database).await.unwrap() {
            let [column_name, kind]: [String; 2] = std::array::from_fn(|i| column.get(i));
            let (required, key): (i64, i64) = (column.get(2), column.get(3));
            shape.insert(format!(
                "{name}.{column_name} {kind} required={required} key={key}"
            ));
        }
    }
    shape
}

#[tokio::test]
async fn every_table_column_and_index_is_there_by_its_own_name() {
    let mut known = SqlitePool::connect("sqlite::memory:")
        .await
        .unwrap()
        .acquire()
        .await
        .unwrap();
    sqlx::raw_sql(KNOWN).execute(&mut *known).await.unwrap();
    let known = shape(&mut known).await;
    assert!(known.len() > 100, "the list of what is known was read");

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("controller.db");
    drop(SqliteStore::create(&path).await.unwrap());
    let ours = SqlitePool::connect_with(SqliteConnectOptions::new().filename(&path))
        .await
        .unwrap();
    let ours = shape(&mut ours.acquire().await.unwrap()).await;

    let missing: Vec<&String> = known.difference(&ours).collect();
    assert!(
        missing.is_empty(),
        "missing or other than known: {missing:#?}"
    );
}
