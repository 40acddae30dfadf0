//! Looking into the controller's database.

use sqlx::sqlite::SqlitePool;
use sqlx::{AssertSqlSafe, Row as _};

use super::World;

impl World {
    pub(crate) async fn database(&self) -> SqlitePool {
        let url = format!("sqlite://{}", self.config.database().display());
        SqlitePool::connect(&url).await.unwrap()
    }

    pub(crate) async fn query(&self, sql: &str) -> Vec<String> {
        let pool = self.database().await;
        let rows = sqlx::query(AssertSqlSafe(sql.to_owned()))
            .fetch_all(&pool)
            .await
            .unwrap();
        pool.close().await;
        rows.iter().map(|row| row.get::<String, _>(0)).collect()
    }

    pub(crate) async fn count(&self, from: &str) -> usize {
        let counted = self
            .query(&format!("SELECT CAST(COUNT(*) AS TEXT) FROM {from}"))
            .await;
        counted[0].parse().unwrap()
    }

    /// Every table but those that record rejected requests. A request that was refused as ahead is
    /// remembered by its digest, and by nothing else.
    pub(crate) async fn dump(&self) -> String {
        let tables = self
            .query(
                "SELECT name FROM sqlite_master WHERE type = 'table'
                 AND name NOT IN ('security_events', 'ahead_digests', 'sqlite_sequence')",
            )
            .await;
        let mut dump = String::new();
        for table in tables {
            let columns = self
                .query(&format!(
                    "SELECT 'quote(\"' || name || '\")' FROM pragma_table_info('{table}')"
                ))
                .await
                .join(" || ',' || ");
            let only = if table == "heartbeats" {
                "WHERE signature_valid"
            } else {
                ""
            };
            let rows = self
                .query(&format!(
                    "SELECT {columns} FROM \"{table}\" {only} ORDER BY 1"
                ))
                .await;
            dump.push_str(&format!("{table}\n{}\n", rows.join("\n")));
        }
        dump
    }
}
