//! `server show`: one host in full.

use std::process::ExitCode;

use serde::Serialize;

use super::{find, software};
use crate::cli::show;
use crate::store::{
    CapabilityRow, DeploymentFilter, DeploymentRow, GapRow, ServerRow, SoftwareRow, Store,
};

/// Gaps that are shown with a host; 'connections gaps' has all.
const GAPS: u32 = 10;

/// A host with its VPN backends, and with what it lost.
#[derive(Serialize)]
struct Full {
    #[serde(flatten)]
    server: ServerRow,
    capabilities: Vec<CapabilityRow>,
    gaps: Vec<GapRow>,
    software: Option<SoftwareRow>,
    /// The newest one.
    deployment: Option<DeploymentRow>,
}

pub(super) async fn one(store: &dyn Store, name: &str, as_json: bool) -> anyhow::Result<ExitCode> {
    let server = find(store, name).await?;
    let capabilities = store.capabilities(&server.server_id).await?;
    let gaps = store.gaps(Some(&server.server_id), GAPS).await?;
    let software = store.software(&server.server_id).await?;
    let filter = DeploymentFilter {
        server_id: Some(server.server_id.clone()),
        limit: 1,
        ..DeploymentFilter::default()
    };
    let deployment = store.deployments(filter).await?.into_iter().next();
    if as_json {
        let full = Full {
            server,
            capabilities,
            gaps,
            software,
            deployment,
        };
        show::json("servers", &[full])?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut fields = fields(&server);
    fields.extend(software.iter().flat_map(software::fields));
    fields.extend(
        deployment
            .iter()
            .map(|one| ("Deployment", software::deployment(one))),
    );
    fields.extend(capabilities.iter().map(|one| ("Backend", backend(one))));
    fields.extend(gaps.iter().map(|one| ("Lost records", gap(one))));
    let lines: Vec<String> = fields
        .iter()
        .map(|(name, value)| format!("{name:<20} {value}"))
        .collect();
    show::line(lines.join("\n"))?;
    Ok(ExitCode::SUCCESS)
}

/// One VPN backend: what it is, how busy it is, and what it offers.
fn backend(row: &CapabilityRow) -> String {
    let mut parts = vec![format!(
        "{} {}: {}",
        show::escaped(&row.capability_type),
        show::escaped(&row.instance),
        if row.enabled { "up" } else { "down" },
    )];
    if let Some(counts) = row.counts.filter(|_| row.enabled) {
        parts.push(format!(
            "{} active, {} started, {} ended",
            counts.active, counts.started, counts.ended
        ));
        parts.push(format!(
            "in {} ({}/s), out {} ({}/s)",
            show::bytes(counts.rx_bytes),
            show::bytes(counts.rx_bytes_per_s),
            show::bytes(counts.tx_bytes),
            show::bytes(counts.tx_bytes_per_s),
        ));
    }
    if !row.enabled {
        parts.push(format!(
            "last told of at {} UTC",
            show::instant(row.seen_at.as_deref())
        ));
    }
    let details = row.capability_details.as_object();
    for (name, value) in details.into_iter().flatten() {
        let value = value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_owned);
        parts.push(format!("{} {}", show::escaped(name), show::escaped(&value)));
    }
    parts.join("; ")
}

fn gap(row: &GapRow) -> String {
    format!(
        "{} from number {} on ({}), reported at {} UTC",
        row.records(),
        row.first_seq,
        show::escaped(&row.reason),
        show::instant(Some(&row.reported_at))
    )
}

fn fields(server: &ServerRow) -> Vec<(&'static str, String)> {
    vec![
        ("Host", show::escaped(&server.hostname)),
        ("Server", server.server_id.clone()),
        // What `vpn-node enroll` and `vpn-node status` show on the host: to be compared.
        ("Key", show::escaped(&server.identity_key_id)),
        ("Key epoch", server.key_epoch.to_string()),
        // Accepted, and not used by the host yet.
        ("Next key", show::optional(server.next_key_id.as_deref())),
        ("Status", show::escaped(&server.status)),
        ("Status since", show::instant(Some(since(server)))),
        (
            "Status reason",
            show::optional(server.status_reason.as_deref()),
        ),
        ("Verdict", super::verdict(server)),
        ("Reason", show::optional(server.verdict_reason.as_deref())),
        ("Available", show::yes_no(server.available).to_owned()),
        ("Says of itself", show::escaped(&server.authorisation)),
        (
            "Hardware",
            show::escaped(&server.hardware_verification_status),
        ),
        (
            "Hardware verified",
            show::instant(server.last_hardware_verification_at.as_deref()),
        ),
        ("Connections", server.active_connections.to_string()),
        ("Address", show::escaped(&server.public_ip)),
        ("Location", show::optional(server.location.as_deref())),
        ("Version", show::escaped(&server.version)),
        (
            "Operating system",
            show::optional(server.os_version.as_deref()),
        ),
        ("Enrolled", show::instant(Some(&server.registration_date))),
        (
            "Last heartbeat",
            show::instant(server.last_heartbeat.as_deref()),
        ),
        ("Clock offset", show::clock_offset(server.clock_offset_ms)),
        (
            "Rehost permitted",
            server.rehost_permitted_until.as_deref().map_or_else(
                || "no".to_owned(),
                |until| format!("until {}", show::instant(Some(until))),
            ),
        ),
        (
            "Grace periods used",
            server.grace_period_usage_count.to_string(),
        ),
        ("Public key", show::escaped(&server.public_key)),
        ("Fingerprint", show::escaped(&server.verification_hash)),
    ]
}

/// Since its enrolment, when nothing changed the status after it.
fn since(server: &ServerRow) -> &str {
    let changed = server.status_changed_at.as_deref();
    changed.unwrap_or(&server.registration_date)
}

#[cfg(test)]
mod tests {
    use super::super::tests::server;
    use super::*;

    #[test]
    fn the_key_that_the_host_shows_is_shown_here_too() {
        let server = server("0199-a", "honest");
        assert!(fields(&server).contains(&("Key", "6b86b273".to_owned())));
        let json = serde_json::to_value(&server).unwrap();
        assert_eq!(json["identity_key_id"], "6b86b273");
    }
}
