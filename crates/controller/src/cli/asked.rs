//! What became of connections that were to be ended, in words; and the revocation of devices and
//! personal keys, which ends some.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::bail;
use clap::Args;
use serde::Serialize;
use serde_json::Map;

use super::show;
use super::span::span_ms;
use crate::clock;
use crate::disconnection;
use crate::rules::devices::Revoked;
use crate::store::{Asked, DisconnectionRow, NotAsked, Revocation, Store};

/// How long a command waits, unless asked otherwise. A host that holds its request open hears of it
/// within a second, and a VPN daemon may take six (nine before its reader gives up).
const WAIT: &str = "10s";
/// The longest wait: after the directive's deadline nothing more comes of it.
const MAX_WAIT_MS: i64 = 120_000;

#[derive(Debug, Args)]
pub(super) struct WaitArgs {
    /// For how long to wait for the end, at most 2m; 0s does not wait
    #[arg(long, value_name = "TIME", default_value = WAIT, value_parser = wait)]
    wait: Duration,
}

fn wait(text: &str) -> Result<Duration, String> {
    match span_ms(text)? {
        ms @ 0..=MAX_WAIT_MS => Ok(Duration::from_millis(ms.unsigned_abs())),
        _ => Err("it must be at most 2m".to_owned()),
    }
}

/// What can be refused for ever.
pub(super) trait Revocable: Serialize + Sized {
    /// Its kind in JSON.
    const PLURAL: &'static str;
    /// Who is refused, in a sentence that has named it.
    const REFUSED: &'static str;

    /// The one that an operator means.
    async fn find(store: &dyn Store, named: &str) -> anyhow::Result<Self>;

    fn id(&self) -> &str;

    fn revoked(&self) -> Revoked;

    /// It in a sentence, safe for a terminal.
    fn told(&self) -> String;

    /// Since when its status is what it is.
    fn since(&self) -> Option<&str>;
}

/// Revokes the one of its kind that `named` means, and tells what becomes of its connections.
pub(super) async fn revoke<T: Revocable>(
    store: &dyn Store,
    named: &str,
    reason: String,
    wait: &WaitArgs,
    as_json: bool,
) -> anyhow::Result<ExitCode> {
    let meant = T::find(store, named).await?;
    let revocation = Revocation {
        whom: meant.revoked(),
        reason,
        at_ms: clock::now_ms(),
    };
    let asked = store.revoke(revocation).await?;
    let row = T::find(store, meant.id()).await?;
    let Some(asked) = asked else {
        bail!(
            "{} is revoked already, since {} UTC",
            row.told(),
            show::instant(row.since())
        );
    };
    if !as_json {
        show::line(format_args!(
            "Revoked {}, for ever: {} refused from now on.",
            row.told(),
            T::REFUSED
        ))?;
    }
    let outcome = Outcome::of(store, asked, wait).await?;
    let row = T::find(store, meant.id()).await?;
    store.close().await?;
    outcome.tell(T::PLURAL, &row, as_json)
}

/// Connections that hosts were asked to end, and what is known of that by now.
pub(super) struct Outcome {
    pub(super) rows: Vec<DisconnectionRow>,
    pub(super) not_asked: Vec<NotAsked>,
    pub(super) took: Duration,
    waited: bool,
}

impl Outcome {
    /// Waits as long as the arguments say.
    pub(super) async fn of(
        store: &dyn Store,
        asked: Asked,
        args: &WaitArgs,
    ) -> anyhow::Result<Self> {
        let wait = args.wait;
        if !asked.connections.is_empty() && !wait.is_zero() {
            show::note(format_args!(
                "Waiting for the end of {}, up to {}.",
                show::count(asked.connections.len() as u64, "live connection"),
                seconds(wait)
            ));
        }
        let began = Instant::now();
        let rows = disconnection::wait(store, &asked, wait).await?;
        Ok(Self {
            rows,
            not_asked: asked.not_asked,
            took: began.elapsed(),
            waited: !wait.is_zero(),
        })
    }

    /// Whether every connection is over, by the word of its host at least.
    fn is_done(&self) -> bool {
        self.not_asked.is_empty() && self.rows.iter().all(DisconnectionRow::is_done)
    }

    /// Whether the command did what was asked of it: whoever does not wait did not ask how it went.
    pub(super) fn is_well(&self) -> bool {
        self.is_done() || !self.waited
    }

    /// What a revocation came to; `row` is who was revoked.
    fn tell(&self, plural: &str, row: &impl Serialize, as_json: bool) -> anyhow::Result<ExitCode> {
        if as_json {
            let mut object = Map::new();
            object.insert(plural.to_owned(), serde_json::to_value([row])?);
            let rows = serde_json::to_value(&self.rows)?;
            object.insert("disconnections".to_owned(), rows);
            let not_asked = serde_json::to_value(&self.not_asked)?;
            object.insert("not_asked".to_owned(), not_asked);
            show::object(object)?;
        } else {
            self.show()?;
        }
        Ok(if self.is_well() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }

    /// The connections one by one, after a sentence with their number.
    fn show(&self) -> anyhow::Result<()> {
        let all = self.rows.len() + self.not_asked.len();
        if all == 0 {
            return show::line("No connection of it is up.");
        }
        let done = self.rows.iter().filter(|row| row.is_done()).count();
        show::line(format_args!(
            "{done} of {all} live connections ended within {}:\n",
            seconds(self.took)
        ))?;
        let asked = self.rows.iter().map(|row| {
            vec![
                row.connection_id.clone(),
                show::escaped(&row.hostname),
                show::optional(row.user_name.as_deref()),
                show::optional(row.device_name.as_deref()),
                what_became(row),
            ]
        });
        let not_asked = self.not_asked.iter().map(|one| {
            vec![
                one.connection_id.to_string(),
                show::escaped(&one.hostname),
                "-".to_owned(),
                "-".to_owned(),
                format!(
                    "the host cannot be asked: its server is {}",
                    show::escaped(&one.status)
                ),
            ]
        });
        show::table(
            &["CONNECTION", "HOST", "USER", "DEVICE", "OUTCOME"],
            asked.chain(not_asked).collect(),
            "",
        )?;
        if !self.is_done() {
            show::line(
                "\nThose that are not over are asked for again: when their host is heard, and every ten minutes where it could not do it.",
            )?;
        }
        Ok(())
    }
}

/// A span in seconds, as exact as a person cares.
pub(super) fn seconds(span: Duration) -> String {
    format!("{:.1} s", span.as_secs_f64())
}

/// What became of one of them, by the controller's clock.
pub(super) fn what_became(row: &DisconnectionRow) -> String {
    if row.has_ended() {
        return format!(
            "ended at {} UTC: {} ({})",
            show::instant(row.connection_end.as_deref()),
            show::optional(row.disconnection_reason.as_deref()),
            show::optional(row.end_confidence.as_deref()),
        );
    }
    let detail = show::optional(row.outcome_detail.as_deref());
    match row.directive_status.as_str() {
        "applied" => "over, says the host; its record of the end is on the way".to_owned(),
        "failed" => format!("not ended; the host says: {detail}"),
        "unsupported" => {
            "not ended: the agent on the host is too old for it; update it, or end the session at its VPN daemon".to_owned()
        }
        "late" | "expired" => "not ended: the host did not take it in time".to_owned(),
        _ if row.delivered_at.is_some() => {
            "not ended yet: the host has the order, and has not said how it went".to_owned()
        }
        _ => format!(
            "not ended yet: the host is silent ({}), or the controller does not run; the order goes out when the host is heard, for 2 minutes",
            last_heard(row.last_heartbeat.as_deref())
        ),
    }
}

fn last_heard(at: Option<&str>) -> String {
    at.map_or_else(
        || "it was never heard".to_owned(),
        |at| format!("last heard at {} UTC", show::instant(Some(at))),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_bounded_and_none_is_a_wait_too() {
        assert_eq!(wait("0s"), Ok(Duration::ZERO));
        assert_eq!(wait("2m"), Ok(Duration::from_secs(120)));
        assert!(wait("3m").is_err());
    }
}
