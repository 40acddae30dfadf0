//! `vpn-node gate status`: the gate, and each service bound to it.

use serde_json::{Value, json};

use super::super::Exit;
use super::super::args::Global;
use super::super::console::{Console, bold, green, red, yellow};
use super::super::reach;
use super::super::text;
use crate::core::report::{AuthorisationAnswer, SCHEMA};
use crate::core::{gate, shown, shown_seconds};
use crate::host::systemd::{GATE, Gated, Gating, ServiceName};

/// What there is to show.
struct Picture {
    /// systemd's word for the gate's service, or why there is none.
    service: Result<String, String>,
    /// The agent's answer, or why there is none.
    heard: Result<AuthorisationAnswer, String>,
    units: Vec<Row>,
    /// Whether any service is gated, shown or not.
    any_gated: bool,
}

struct Row {
    unit: ServiceName,
    gated: Gated,
    active: String,
}

/// Shows every gated service, or `only` that one.
pub(in crate::cli) fn run(
    global: &Global,
    only: Option<ServiceName>,
    json: bool,
    gating: &Gating,
    console: &mut Console<'_>,
) -> Exit {
    let place = match reach::place(global, json, console) {
        Ok(place) => place,
        Err(exit) => return exit,
    };
    let all = match gating.units() {
        Ok(all) => all,
        Err(error) => {
            console.error(error);
            return Exit::Failed;
        }
    };
    let any_gated = all.iter().any(|(_, gated)| *gated != Gated::No);
    let units = match only {
        Some(unit) => vec![(unit.clone(), gating.gated(&unit))],
        None => all,
    };
    let active = |unit: &str| gating.active_state(unit).map_err(|error| error.to_string());
    let picture = Picture {
        service: active(GATE),
        heard: place
            .client
            .with_deadline(gate::ANSWER_WITHIN)
            .authorisation()
            .map_err(|error| error.to_string()),
        units: units
            .into_iter()
            .map(|(unit, gated)| Row {
                active: active(unit.as_str()).unwrap_or_else(|_| "unknown".to_owned()),
                unit,
                gated,
            })
            .collect(),
        any_gated,
    };
    if json {
        console.json(&picture.json());
    } else {
        console.out(&picture.text());
    }
    picture.exit()
}

impl Picture {
    /// None while systemd cannot be asked.
    fn is_open(&self) -> Option<bool> {
        let service = self.service.as_deref().ok()?;
        Some(service == "active")
    }

    /// For monitors. Where nothing is gated, a gate that does not run holds nothing up.
    fn exit(&self) -> Exit {
        let Some(is_open) = self.is_open() else {
            return Exit::Unreachable;
        };
        let is_well = self.units.iter().all(|row| row.gated == Gated::Yes);
        match is_well && (is_open || !self.any_gated) {
            true => Exit::Ok,
            false => Exit::Failed,
        }
    }

    /// Why the gate is as it is, as a sentence.
    fn why(&self) -> String {
        let agent = match &self.heard {
            Ok(answer) => gate::judge(answer).map_err(|closed| closed.to_string()),
            Err(error) => Err(error.clone()),
        };
        match (self.service.as_deref(), agent) {
            (Err(error), _) => format!("{error}."),
            (Ok("active"), Ok(left)) => format!(
                "This host is authorised; without another word from the controller for {}.",
                shown_seconds(left.as_secs())
            ),
            (Ok("activating" | "active"), Err(why)) => sentence(&why),
            (Ok("activating"), Ok(_)) => "It opens in a moment.".to_owned(),
            (Ok(_), _) if !self.any_gated => {
                format!("No service is gated, so {GATE} does not run.")
            }
            (Ok(other), _) => {
                format!("{GATE} is {other}: start it with `systemctl start {GATE}`.")
            }
        }
    }

    fn text(&self) -> String {
        let state = match self.is_open() {
            Some(true) => green("open"),
            Some(false) => red("closed"),
            None => yellow("unknown"),
        };
        let mut all = format!("{}  {state}\n      {}\n", bold("Gate"), self.why());
        if self.units.is_empty() {
            all.push_str("No service is gated. Gate one: `vpn-node gate enable UNIT`\n");
            return all;
        }
        let mut rows = vec![["SERVICE", "GATED", "NOW"].map(str::to_owned).to_vec()];
        rows.extend(self.units.iter().map(|row| {
            vec![
                row.unit.to_string(),
                word(row.gated).to_owned(),
                shown(&row.active).to_string(),
            ]
        }));
        all.push_str(&text::columns(&rows, &[], ""));
        for row in &self.units {
            if let Some(problem) = row.problem() {
                all.push_str(&format!("{} {problem}\n", yellow("!")));
            }
        }
        all
    }

    fn json(&self) -> Value {
        let units: Vec<Value> = self
            .units
            .iter()
            .map(|row| {
                json!({
                    "unit": row.unit.as_str(),
                    "gated": row.gated == Gated::Yes,
                    "bound": matches!(row.gated, Gated::Yes | Gated::BoundOnly),
                    "active": row.active,
                    "problem": row.problem(),
                })
            })
            .collect();
        json!({
            "schema": SCHEMA,
            "gate": {
                "open": self.is_open(),
                "service": self.service.as_deref().ok(),
                "why": self.why(),
            },
            "authorisation": self.heard.as_ref().ok(),
            "units": units,
        })
    }
}

impl Row {
    fn problem(&self) -> Option<String> {
        let unit = &self.unit;
        match self.gated {
            Gated::Yes => None,
            Gated::No => Some(format!(
                "{unit} is not gated: it runs whether this host is authorised or not. Gate it: \
                 `vpn-node gate enable {unit}`"
            )),
            Gated::BoundOnly => Some(format!(
                "{unit} stops with the gate, but does not start again with it (`systemctl \
                 disable` takes that away). To have it back: `vpn-node gate enable {unit}`"
            )),
            Gated::StartedOnly => Some(format!(
                "{unit} starts with the gate, but does not stop with it. Run `vpn-node gate \
                 enable {unit}`, or `vpn-node gate disable {unit}`"
            )),
        }
    }
}

fn word(gated: Gated) -> &'static str {
    match gated {
        Gated::Yes => "yes",
        Gated::BoundOnly => "stops only",
        Gated::StartedOnly => "starts only",
        Gated::No => "no",
    }
}

fn sentence(text: &str) -> String {
    let text = text.trim_end_matches('.');
    // The agent's name stays as it is written everywhere.
    if text.starts_with("vpn-node") {
        return format!("{text}.");
    }
    let mut letters = text.chars();
    match letters.next() {
        Some(first) => format!("{}{}.", first.to_uppercase(), letters.as_str()),
        None => String::new(),
    }
}
