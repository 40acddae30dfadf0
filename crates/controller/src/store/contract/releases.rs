//! Rows of releases follow what is signed, and one that was changed is never used again.

use crate::store::{Mirror, MirrorEnd, ReleaseRow, Store};

fn row(version: &str, counter: i64, targets_version: i64) -> ReleaseRow {
    ReleaseRow {
        update_id: format!("id-{version}-{counter}-{targets_version}"),
        version: version.to_owned(),
        release_date: "2026-11-22T12:00:00.000Z".to_owned(),
        package_hash: format!("hash of {version}"),
        signature: "{}".to_owned(),
        update_description: Some("faster".to_owned()),
        mandatory: false,
        min_version_required: None,
        target_path: format!("vpn-node/{version}/linux-amd64.tar.zst"),
        length: 1,
        os: "linux".to_owned(),
        arch: "amd64".to_owned(),
        channel: "stable".to_owned(),
        counter,
        security_floor: "1.0.0".to_owned(),
        targets_version,
        state: "published".to_owned(),
    }
}

async fn mirror(store: &dyn Store, releases: Vec<ReleaseRow>) -> MirrorEnd {
    store.mirror_releases(Mirror { releases }).await.unwrap()
}

async fn states(store: &dyn Store) -> Vec<(String, i64, String)> {
    let mut rows: Vec<_> = store
        .releases()
        .await
        .unwrap()
        .into_iter()
        .map(|row| (row.version, row.counter, row.state))
        .collect();
    rows.sort();
    rows
}

fn state(version: &str, counter: i64, state: &str) -> (String, i64, String) {
    (version.to_owned(), counter, state.to_owned())
}

pub(super) async fn rows_follow_what_is_signed(store: &dyn Store) {
    let added = mirror(store, vec![row("1.5.0", 1, 2), row("1.5.1", 2, 2)]).await;
    assert_eq!(added.added.len(), 2);
    let same = vec![row("1.5.0", 1, 2), row("1.5.1", 2, 2)];
    assert_eq!(mirror(store, same.clone()).await, MirrorEnd::default());
    // The floor of a later list is taken; that of the same list would be somebody's change.
    let mut raised = row("1.5.1", 2, 3);
    raised.security_floor = "1.5.1".to_owned();
    let end = mirror(store, vec![raised.clone()]).await;
    assert_eq!(
        (end.added.len(), end.revoked.len(), end.mismatched.len()),
        (0, 1, 0)
    );
    let kept = store.releases().await.unwrap();
    assert!(
        kept.iter()
            .any(|row| row.security_floor == "1.5.1" && row.targets_version == 3)
    );
    assert_eq!(
        states(store).await,
        [state("1.5.0", 1, "revoked"), state("1.5.1", 2, "published")]
    );
    let mut lower = raised.clone();
    lower.security_floor = "1.0.0".to_owned();
    assert_eq!(mirror(store, vec![lower]).await.mismatched.len(), 1);
    // Refused for good, and told once.
    assert_eq!(mirror(store, vec![raised]).await, MirrorEnd::default());
    let again = mirror(store, vec![row("1.5.1", 3, 4)]).await;
    assert_eq!(again.added.len(), 1);
    let mut other = row("1.5.1", 3, 4);
    other.package_hash = "another".to_owned();
    assert_eq!(mirror(store, vec![other]).await.mismatched.len(), 1);
    assert_eq!(
        states(store).await,
        [
            state("1.5.0", 1, "revoked"),
            state("1.5.1", 2, "refused"),
            state("1.5.1", 3, "refused")
        ]
    );
}
