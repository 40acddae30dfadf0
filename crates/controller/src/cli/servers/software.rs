//! What `server show` says of a host's software and of its newest deployment.

use crate::cli::show;
use crate::store::{DeploymentRow, SoftwareRow};

pub(super) fn fields(row: &SoftwareRow) -> Vec<(&'static str, String)> {
    let blocked: Vec<String> = serde_json::from_str(&row.blocked).unwrap_or_default();
    let blocked: Vec<String> = blocked.iter().map(|one| show::escaped(one)).collect();
    let mut fields = vec![
        ("Platform", show::escaped(&row.platform)),
        (
            "Channel",
            // A host without an updater follows none.
            show::optional(Some(row.channel.as_str()).filter(|channel| !channel.is_empty())),
        ),
        ("Updates", updates(row)),
        (
            "Would go back to",
            show::optional(row.previous_version.as_deref()),
        ),
        ("Release metadata", metadata(row)),
    ];
    if !blocked.is_empty() {
        fields.push(("Blocked versions", blocked.join(", ")));
    }
    fields
}

fn updates(row: &SoftwareRow) -> String {
    match (row.managed, row.disabled, row.pinned.as_deref()) {
        (false, ..) => "not possible: no updater, or it trusts no release keys".to_owned(),
        (true, true, _) => "disabled by root of the host".to_owned(),
        (true, false, Some(version)) => {
            format!("pinned to {} by root of the host", show::escaped(version))
        }
        (true, false, None) => "possible".to_owned(),
    }
}

fn metadata(row: &SoftwareRow) -> String {
    let told = show::instant(Some(&row.reported_at));
    let age = match row.metadata_age_s.map(i64::unsigned_abs) {
        None => return format!("none verified yet, as told at {told} UTC"),
        Some(s @ 0..7_200) => format!("{} min", s / 60),
        Some(s @ 7_200..172_800) => format!("{} h", s / 3600),
        Some(s) => format!("{} days", s / 86_400),
    };
    format!("verified {age} before {told} UTC; counter {}", row.counter)
}

/// Its version, how far it is, and why it ended if it ended badly.
pub(super) fn deployment(row: &DeploymentRow) -> String {
    let mut parts = vec![format!(
        "{}: {}",
        show::optional(row.version.as_deref()),
        show::escaped(&row.status)
    )];
    if row.status == "downloading" && row.total > 0 {
        parts.push(format!(
            "{} of {}",
            show::bytes(row.bytes.unsigned_abs()),
            show::bytes(row.total.unsigned_abs())
        ));
    }
    if let Some(at) = &row.installation_time {
        parts.push(format!("at {} UTC", show::instant(Some(at))));
    }
    if let Some(why) = &row.failure_reason {
        // Escaped when it was stored.
        parts.push(show::identity(why));
    }
    if let Some(rollout) = &row.rollout_id {
        parts.push(format!("rollout {rollout}"));
    }
    parts.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_root_of_a_host_decided_is_said() {
        let row = |managed, disabled, pinned: Option<&str>| SoftwareRow {
            server_id: "s".into(),
            platform: "linux-amd64".into(),
            managed,
            channel: "stable".into(),
            previous_version: None,
            counter: 7,
            metadata_age_s: Some(691_200),
            pinned: pinned.map(str::to_owned),
            disabled,
            blocked: "[]".into(),
            reported_at: "2026-11-22T03:10:24.512Z".into(),
        };
        assert!(updates(&row(false, false, None)).contains("no updater"));
        assert!(updates(&row(true, true, Some("1.4.0"))).contains("disabled"));
        assert!(updates(&row(true, false, Some("1.4.0\u{1b}"))).contains("1.4.0\\u{1b}"));
        assert_eq!(updates(&row(true, false, None)), "possible");
        assert_eq!(
            metadata(&row(true, false, None)),
            "verified 8 days before 2026-11-22 03:10:24 UTC; counter 7"
        );
    }

    #[test]
    fn a_host_that_follows_no_channel_and_verified_nothing_reads_as_such() {
        let row = SoftwareRow {
            server_id: "s".into(),
            platform: "linux-amd64".into(),
            managed: false,
            channel: String::new(),
            previous_version: None,
            counter: 0,
            metadata_age_s: None,
            pinned: None,
            disabled: false,
            blocked: "[]".into(),
            reported_at: "2026-11-22T23:55:36.512Z".into(),
        };
        let fields = fields(&row);
        assert!(fields.contains(&("Channel", "-".into())));
        let told = "none verified yet, as told at 2026-11-22 23:55:36 UTC";
        assert!(fields.contains(&("Release metadata", told.into())));
    }
}
