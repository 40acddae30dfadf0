//! `vpn-node healthcheck`: one line and an exit code, for monitors.

use super::Exit;
use super::args::Global;
use super::console::{Console, green, red};
use super::reach;
use crate::core::shown;
use crate::status::{HealthAnswer, Scope};

/// Asks and says it.
pub(super) fn run(global: &Global, console: &mut Console<'_>) -> Exit {
    let place = match reach::place(global, false, console) {
        Ok(place) => place,
        Err(exit) => return exit,
    };
    match place.client.health() {
        Ok((scope, health)) => {
            let (line, exit) = line(scope, &health);
            console.out(&format!("{line}\n"));
            exit
        }
        Err(error) => reach::explain(&place, &error, false, console),
    }
}

fn line(scope: Scope, health: &HealthAnswer) -> (String, Exit) {
    if !health.enrolled {
        let line = format!(
            "{}: run `vpn-node enroll` as root with a token from the controller",
            red("not enrolled")
        );
        return (line, Exit::NotEnrolled);
    }
    let remarks = health.remarks.join("; ");
    if health.ok {
        let line = match remarks.as_str() {
            "" => green("healthy"),
            remarks => format!("{}; {}", green("healthy"), shown(remarks)),
        };
        return (line, Exit::Ok);
    }
    let reasons = match scope {
        Scope::Full => health.reasons.join(" "),
        Scope::Public => "root and the group vpn-node may see the reasons".to_owned(),
    };
    let also = match remarks.as_str() {
        "" => String::new(),
        remarks => format!(" Also: {}.", shown(remarks)),
    };
    let line = format!("{}: {}{also}", red("unhealthy"), shown(&reasons));
    (line, Exit::Failed)
}
