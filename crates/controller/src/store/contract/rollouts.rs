//! Rollouts: turns, ends, and what takes them back.

use vpn_node_protocol::update::{DeploymentStatus, UpdateReport};

use super::capabilities::heard;
use super::devices::host;
use super::{NOW, write};
use crate::clock::to_text;
use crate::rules::Effect;
use crate::rules::rollout::report::{DeploymentWrite, From, SoftwareWrite};
use crate::rules::rollout::{Pace, RolloutState};
use crate::rules::state::{OpenDirective, Want};
use crate::store::{
    DeploymentFilter, DeploymentRow, GroupChange, Mirror, NewRollout, ReleaseRow, Rolled,
    RolloutChange, Store, Turn,
};

fn release(update_id: &str, version: &str, arch: &str, counter: i64) -> ReleaseRow {
    ReleaseRow {
        update_id: update_id.into(),
        version: version.into(),
        release_date: to_text(NOW),
        package_hash: update_id.into(),
        signature: "{}".into(),
        update_description: None,
        mandatory: false,
        min_version_required: None,
        target_path: format!("vpn-node/{version}/linux-{arch}.tar.zst"),
        length: 1,
        os: "linux".into(),
        arch: arch.into(),
        channel: "stable".into(),
        counter,
        security_floor: "0.1.0".into(),
        targets_version: 1,
        state: "published".into(),
    }
}

/// Of two packages for one platform the newer counts, and one that is not signed any more does not.
pub(super) async fn publish(store: &dyn Store) {
    let kept = vec![
        release("u-old", "9.1.0", "amd64", 101),
        release("u-new", "9.1.0", "amd64", 102),
        release("u-next", "9.2.0", "amd64", 104),
    ];
    let mut all = kept.clone();
    all.push(release("u-gone", "9.1.0", "arm64", 103));
    for releases in [all, kept] {
        store.mirror_releases(Mirror { releases }).await.unwrap();
    }
}

/// A host that can install releases and was just heard.
async fn managed(store: &dyn Store, n: u8) -> String {
    let id = host(store, n).await;
    hears(store, &id, NOW).await;
    id
}

async fn hears(store: &dyn Store, server_id: &str, at_ms: i64) {
    heard(store, server_id, at_ms, vec![]).await;
    let software = SoftwareWrite {
        report: UpdateReport {
            platform: "linux-amd64".into(),
            managed: true,
            channel: "stable".into(),
            counter: 1,
            blocked: vec!["9.0.0".into()],
            ..UpdateReport::default()
        },
        at_ms,
    };
    let effects = vec![Effect::Software(Box::new(software))];
    write(store, server_id, effects).await.unwrap();
}

fn new(rollout_id: &str, version: &str, chosen: &[&String]) -> NewRollout {
    let update = if version == "9.1.0" {
        "u-new"
    } else {
        "u-next"
    };
    NewRollout {
        rollout_id: rollout_id.into(),
        version: version.into(),
        channel: "stable".into(),
        created_ms: NOW,
        groups: vec![],
        servers: vec![],
        canary: 0,
        percent: 100,
        max_in_flight: 10,
        window: None,
        stop_on_failures: 50,
        mandatory: false,
        notes: None,
        chosen: chosen
            .iter()
            .map(|id| ((*id).clone(), update.into()))
            .collect(),
    }
}

async fn roll(store: &dyn Store, rollout_id: &str, now_ms: i64) -> Rolled {
    let turn = Turn {
        rollout_id: rollout_id.into(),
        after: 0,
        now_ms,
        pace: Pace::of(30),
    };
    store.roll(turn).await.unwrap()
}

async fn taken(store: &dyn Store, server_id: &str) -> Vec<Want> {
    let taken = store.take_directives(server_id, NOW).await.unwrap();
    taken
        .into_iter()
        .map(|OpenDirective { want, .. }| want)
        .collect()
}

async fn row(store: &dyn Store, server_id: &str) -> DeploymentRow {
    let filter = DeploymentFilter {
        server_id: Some(server_id.to_owned()),
        limit: 1,
        ..DeploymentFilter::default()
    };
    store.deployments(filter).await.unwrap().remove(0)
}

fn moves(id: i64, from: From, status: DeploymentStatus, at_ms: i64) -> DeploymentWrite {
    DeploymentWrite {
        id,
        from,
        status,
        progress: Some([5, 10, 1]),
        failure: None,
        previous_version: Some("0.1.0".into()),
        at_ms,
        said: true,
        event: None,
    }
}

async fn says(store: &dyn Store, server_id: &str, new: DeploymentWrite) {
    let effects = vec![Effect::Deployment(Box::new(new))];
    write(store, server_id, effects).await.unwrap();
}

async fn state(store: &dyn Store, rollout_id: &str) -> String {
    let mut rows = store.rollouts().await.unwrap();
    rows.retain(|row| row.rollout_id == rollout_id);
    rows.remove(0).state
}

pub(super) async fn groups_hold_each_host_once(store: &dyn Store) {
    let (one, two) = (managed(store, 140).await, managed(store, 141).await);
    let change = |ids: &[&String]| GroupChange {
        group_name: "eu".into(),
        server_ids: ids.iter().map(|id| (*id).clone()).collect(),
        at_ms: NOW,
    };
    assert_eq!(store.add_to_group(change(&[&one, &two])).await.unwrap(), 2);
    assert_eq!(store.add_to_group(change(&[&two])).await.unwrap(), 0);
    assert_eq!(store.groups().await.unwrap().len(), 2);
    assert_eq!(store.remove_from_group(change(&[&one])).await.unwrap(), 1);
    assert_eq!(store.remove_from_group(change(&[&one])).await.unwrap(), 0);
    assert_eq!(store.groups().await.unwrap()[0].server_id, two);
    let nobody = change(&[&"no such server".to_owned()]);
    assert!(store.add_to_group(nobody).await.is_err());
}

pub(super) async fn a_rollout_goes_from_its_canary_to_its_end(store: &dyn Store) {
    let published = store.published("9.1.0").await.unwrap();
    assert_eq!(published.len(), 1);
    assert_eq!(
        (published[0].update_id.as_str(), published[0].counter),
        ("u-new", 102)
    );
    let (one, two) = (managed(store, 142).await, managed(store, 143).await);
    let fleet = store.fleet().await.unwrap();
    let seen = fleet
        .iter()
        .find(|host| host.host.server_id == one)
        .unwrap();
    assert_eq!(seen.host.software.as_ref().unwrap().blocked, ["9.0.0"]);
    let mut rollout = new("r-1", "9.1.0", &[&one, &two]);
    rollout.canary = 1;
    store.create_rollout(rollout).await.unwrap();
    assert!(
        store
            .rollouts_to_roll()
            .await
            .unwrap()
            .contains(&"r-1".to_owned())
    );
    assert_eq!(roll(store, "r-1", NOW).await.told, 1);
    assert_eq!(roll(store, "r-1", NOW).await, Rolled::default());
    assert!(
        store
            .servers_to_wake(NOW, NOW)
            .await
            .unwrap()
            .contains(&one)
    );
    let deployment = row(store, &one).await;
    assert!(deployment.in_flight && deployment.attempts == 1);
    assert_eq!(
        taken(store, &one).await,
        [Want::Update {
            deployment_id: deployment.deployment_id,
            version: "9.1.0".into(),
            target: "vpn-node/9.1.0/linux-amd64.tar.zst".into(),
            repository: None,
        }]
    );
    assert!(taken(store, &two).await.is_empty());
    let installed = moves(
        deployment.deployment_id,
        From::Open,
        DeploymentStatus::Installed,
        NOW + 1,
    );
    says(store, &one, installed).await;
    let soaked = NOW + 1 + Pace::of(30).soak_ms;
    for id in [&one, &two] {
        hears(store, id, soaked).await;
    }
    assert_eq!(roll(store, "r-1", soaked - 1).await.told, 1);
    let deployment = row(store, &two).await;
    let refused = moves(
        deployment.deployment_id,
        From::Open,
        DeploymentStatus::Refused,
        soaked,
    );
    says(store, &two, refused).await;
    roll(store, "r-1", soaked).await;
    assert_eq!(state(store, "r-1").await, "completed");
    assert!(
        !store
            .rollouts_to_roll()
            .await
            .unwrap()
            .contains(&"r-1".to_owned())
    );
}

pub(super) async fn what_ended_stays_and_counts_once(store: &dyn Store) {
    let (mine, other) = (managed(store, 144).await, managed(store, 145).await);
    let mut rollout = new("r-2", "9.1.0", &[&mine, &other]);
    rollout.stop_on_failures = 0;
    store.create_rollout(rollout).await.unwrap();
    assert_eq!(roll(store, "r-2", NOW).await.told, 2);
    let id = row(store, &mine).await.deployment_id;
    let loads = |from| moves(id, from, DeploymentStatus::Downloading, NOW + 1);
    // Another one's, and from where it is not.
    says(store, &other, loads(From::Open)).await;
    says(
        store,
        &mine,
        loads(From::Exactly(DeploymentStatus::Verified)),
    )
    .await;
    assert_eq!(row(store, &mine).await.status, "pending");
    says(
        store,
        &mine,
        loads(From::Exactly(DeploymentStatus::Pending)),
    )
    .await;
    let now = row(store, &mine).await;
    assert_eq!(
        (now.status.as_str(), now.bytes, now.total),
        ("downloading", 5, 10)
    );
    // The reason of a download that is tried again is there as long as the host gives it.
    for failure in [Some(("too_slow".into(), "9 bytes".into())), None] {
        let mut tried = loads(From::Open);
        tried.failure = failure.clone();
        says(store, &mine, tried).await;
        let now = row(store, &mine).await;
        assert_eq!(now.code, failure.map(|(code, _)| code));
    }
    let mut bad = moves(id, From::Open, DeploymentStatus::RolledBack, NOW + 2);
    bad.failure = Some(("crashed".into(), "at once".into()));
    says(store, &mine, bad.clone()).await;
    bad.status = DeploymentStatus::Installed;
    says(store, &mine, bad).await;
    let now = row(store, &mine).await;
    assert_eq!(
        (now.status.as_str(), now.code.as_deref()),
        ("rolled_back", Some("crashed"))
    );
    assert_eq!(now.failure_reason.as_deref(), Some("crashed: at once"));
    assert_eq!(
        (now.previous_version.as_deref(), now.installation_time),
        (Some("0.1.0"), None)
    );
    // Nothing of it is handed out any more; the rollout stops, and takes back what nobody has.
    assert!(taken(store, &mine).await.is_empty());
    assert_eq!(roll(store, "r-2", NOW + 3).await.told, 0);
    assert_eq!(state(store, "r-2").await, "halted");
    assert!(taken(store, &other).await.is_empty());
    assert_eq!(row(store, &other).await.attempts, 0);
    let resume = RolloutChange {
        rollout_id: "r-2".into(),
        to: RolloutState::Running,
        reason: None,
        at_ms: NOW + 4,
    };
    assert!(store.change_rollout(resume.clone()).await.unwrap());
    assert!(!store.change_rollout(resume).await.unwrap());
    assert_eq!(roll(store, "r-2", NOW + 5).await.told, 1);
    let counts = store.rollout_counts("r-2").await.unwrap();
    let counts: Vec<_> = counts
        .iter()
        .map(|one| (one.status.as_str(), one.deployments))
        .collect();
    assert_eq!(counts, [("pending", 1), ("rolled_back", 1)]);
    // A revoked server is waited for no longer.
    assert!(store.revoke_server(&other, "sold", NOW + 6).await.unwrap());
    roll(store, "r-2", NOW + 6).await;
    let now = row(store, &other).await;
    assert_eq!(
        (now.status.as_str(), now.code.as_deref()),
        ("superseded", Some("server_revoked"))
    );
}

pub(super) async fn a_newer_rollout_and_an_abort_take_back_what_they_can(store: &dyn Store) {
    let hosts = [
        managed(store, 146).await,
        managed(store, 147).await,
        managed(store, 148).await,
    ];
    let [loads, tries, waits] = &hosts;
    let mut older = new("r-3", "9.1.0", &[loads, tries, waits]);
    older.max_in_flight = 2;
    store.create_rollout(older).await.unwrap();
    assert_eq!(roll(store, "r-3", NOW).await.told, 2);
    for (id, status) in [
        (loads, DeploymentStatus::Downloading),
        (tries, DeploymentStatus::Probation),
    ] {
        assert_eq!(taken(store, id).await.len(), 1);
        let deployment_id = row(store, id).await.deployment_id;
        says(store, id, moves(deployment_id, From::Open, status, NOW)).await;
    }
    let superseded = row(store, loads).await.deployment_id;
    store
        .create_rollout(new("r-4", "9.2.0", &[loads, tries, waits]))
        .await
        .unwrap();
    let cancel = Want::CancelUpdate {
        deployment_id: superseded,
    };
    assert_eq!(taken(store, loads).await, [cancel]);
    // The one on trial goes on, and the newer one waits for its end.
    assert_eq!(roll(store, "r-4", NOW + 1).await.told, 2);
    assert!(taken(store, tries).await.is_empty());
    assert_eq!(roll(store, "r-3", NOW + 1).await.told, 0);
    let abort = RolloutChange {
        rollout_id: "r-4".into(),
        to: RolloutState::Aborted,
        reason: Some("a bug".into()),
        at_ms: NOW + 2,
    };
    assert!(store.change_rollout(abort.clone()).await.unwrap());
    assert!(!store.change_rollout(abort).await.unwrap());
    // What was never handed out is over; nobody gets a turn.
    roll(store, "r-4", NOW + 3).await;
    for id in [loads, waits] {
        assert!(taken(store, id).await.is_empty());
    }
    for id in &hosts {
        let now = row(store, id).await;
        assert_eq!(
            (now.status.as_str(), now.code.as_deref()),
            ("superseded", Some("aborted"))
        );
    }
    assert!(
        !store
            .rollouts_to_roll()
            .await
            .unwrap()
            .contains(&"r-4".to_owned())
    );
}
