//! Hosts that are told to update, and a release that is published.

use serde_json::Value;
use vpn_node_controller::clock;
use vpn_node_controller::rolling::Scheduler;
use vpn_node_controller::store::{Mirror, ReleaseRow};
use vpn_node_protocol::directive::{Action, Directive};
use vpn_node_protocol::message::{DirectiveAck, DirectiveOutcome};
use vpn_node_protocol::update::{DeploymentReport, DeploymentStatus, UpdateReport};

use super::is_update;
use crate::operator::json;
use crate::support::{Host, World};

/// These versions are signed, each with its counter, and no others are any more.
pub(super) async fn publish(world: &World, versions: &[(&str, i64)]) {
    let release = |&(version, counter): &(&str, i64)| ReleaseRow {
        update_id: format!("update {version}"),
        version: version.into(),
        release_date: clock::to_text(world.now()),
        package_hash: format!("hash of {version}"),
        signature: "{}".into(),
        update_description: None,
        mandatory: false,
        min_version_required: Some("0.1.0".into()),
        target_path: format!("vpn-node/{version}/linux-amd64.tar.zst"),
        length: 1000,
        os: "linux".into(),
        arch: "amd64".into(),
        channel: "stable".into(),
        counter,
        security_floor: "0.1.0".into(),
        targets_version: 1,
        state: "published".into(),
    };
    let releases = versions.iter().map(release).collect();
    let mirrored = world.store.mirror_releases(Mirror { releases }).await;
    mirrored.unwrap();
}

/// What a host says of its software.
pub(super) fn software(deployment: Option<DeploymentReport>) -> UpdateReport {
    UpdateReport {
        platform: "linux-amd64".into(),
        managed: true,
        channel: "stable".into(),
        counter: 1,
        metadata_age_s: Some(60),
        deployment,
        ..UpdateReport::default()
    }
}

pub(super) fn report(id: u64, status: DeploymentStatus, bytes: u64) -> DeploymentReport {
    DeploymentReport {
        id,
        version: "1.5.0".into(),
        status,
        bytes,
        total: 1000,
        bytes_per_s: 100,
        code: None,
        detail: None,
        previous_version: None,
    }
}

pub(super) fn bad(id: u64, status: DeploymentStatus, code: &str, detail: &str) -> DeploymentReport {
    DeploymentReport {
        code: Some(code.into()),
        detail: Some(detail.into()),
        ..report(id, status, 0)
    }
}

/// Deployment and version of a directive `update`.
pub(super) fn update(directive: &Directive) -> (u64, String) {
    let Action::Update {
        deployment_id,
        version,
        ..
    } = &directive.action
    else {
        panic!("{directive:?}");
    };
    (*deployment_id, version.clone())
}

/// A heartbeat, and what its reply carries of updates.
pub(super) async fn beat(
    world: &World,
    host: &mut Host,
    deployment: Option<DeploymentReport>,
    done: &[Directive],
    outcome: DirectiveOutcome,
) -> Vec<Directive> {
    let acks = done.iter().map(|directive| (directive, outcome, None));
    say(world, host, software(deployment), acks.collect()).await
}

/// The same with everything that there is to say.
pub(super) async fn say(
    world: &World,
    host: &mut Host,
    update: UpdateReport,
    acks: Vec<(&Directive, DirectiveOutcome, Option<&str>)>,
) -> Vec<Directive> {
    let mut header = host.header(world);
    header.directive_acks = acks
        .into_iter()
        .map(|(directive, outcome, detail)| DirectiveAck {
            id: directive.id,
            outcome,
            detail: detail.map(str::to_owned),
        })
        .collect();
    let mut body = host.heartbeat();
    body.update = Some(update);
    let envelope = host.sign(header, body);
    let answer = host.send(world, &envelope).await;
    let reply = host.take(world, &envelope, &answer);
    let mut directives = host.directives(world, &reply.directives);
    directives.retain(is_update);
    directives
}

/// One step of the scheduler, as the server does it.
pub(super) async fn schedule(world: &World) -> usize {
    let mut scheduler = Scheduler::new(30);
    scheduler.step(&*world.store, world.now()).await.unwrap()
}

pub(super) async fn row(world: &World, deployment: u64) -> Value {
    let text = world
        .query(&format!(
            "SELECT json_object('status', status, 'bytes', bytes, 'attempts', attempts,
                 'previous_version', previous_version, 'installation_time', installation_time,
                 'failure_reason', failure_reason, 'code', code)
             FROM server_update_deployments WHERE deployment_id = {deployment}"
        ))
        .await;
    serde_json::from_str(&text[0]).unwrap()
}

/// A controller with hosts that are heard, and release 1.5.0.
pub(super) struct Fleet {
    pub(super) world: World,
    pub(super) hosts: Vec<Host>,
}

impl Fleet {
    pub(super) async fn new(hosts: u8) -> Self {
        let world = World::new().await;
        // The commands have the system's clock.
        world.pass(clock::now_ms() - world.now());
        publish(&world, &[("1.5.0", 7)]).await;
        let mut fleet = Self {
            world,
            hosts: vec![],
        };
        for seed in 1..=hosts {
            let host = Host::enrolled(&fleet.world, seed).await;
            fleet.hosts.push(host);
            let n = usize::from(seed) - 1;
            fleet.beat(n, None, &[], DirectiveOutcome::Applied).await;
        }
        fleet
    }

    /// The id of a new rollout.
    pub(super) async fn create(&self, line: &str) -> String {
        let words: Vec<&str> = line.split(' ').collect();
        let made = json(&self.world, &words).await;
        // The command took its time.
        let behind = clock::now_ms() - self.world.now();
        self.world.pass(behind.max(0));
        made["rollout_id"].as_str().unwrap().to_owned()
    }

    pub(super) async fn beat(
        &mut self,
        n: usize,
        deployment: Option<DeploymentReport>,
        done: &[Directive],
        outcome: DirectiveOutcome,
    ) -> Vec<Directive> {
        beat(&self.world, &mut self.hosts[n], deployment, done, outcome).await
    }

    /// A host says how its deployment fares.
    pub(super) async fn says(
        &mut self,
        n: usize,
        deployment: DeploymentReport,
        done: &[Directive],
    ) -> Vec<Directive> {
        self.beat(n, Some(deployment), done, DirectiveOutcome::Applied)
            .await
    }

    /// Time passes, and every host is heard.
    pub(super) async fn pass(&mut self, ms: i64) {
        self.world.pass(ms);
        for n in 0..self.hosts.len() {
            self.beat(n, None, &[], DirectiveOutcome::Applied).await;
        }
    }

    /// A step of the scheduler; then who has a directive, which is acknowledged.
    pub(super) async fn told(&mut self) -> Vec<(usize, Directive)> {
        if schedule(&self.world).await == 0 {
            return vec![];
        }
        let mut told = vec![];
        let open = "SELECT server_id FROM directives
             WHERE kind = 'update' AND status = 'pending' AND delivered_at IS NULL";
        for server_id in self.world.query(open).await {
            let n = self
                .hosts
                .iter()
                .position(|host| host.server_id == server_id);
            let n = n.unwrap();
            let directives = self.beat(n, None, &[], DirectiveOutcome::Applied).await;
            assert_eq!(directives.len(), 1);
            self.beat(n, None, &directives, DirectiveOutcome::Applied)
                .await;
            told.extend(directives.into_iter().map(|directive| (n, directive)));
        }
        told
    }

    pub(super) async fn told_one(&mut self) -> (usize, Directive) {
        let mut told = self.told().await;
        assert_eq!(told.len(), 1, "{told:?}");
        told.remove(0)
    }
}
