//! A host whose clock is ten years off enrols, is verified and beats; its offset is a number on
//! both sides.
//!
//! The programs run under libfaketime, which moves CLOCK_REALTIME and nothing else. `cargo xtask
//! test` installs it and names its library in `VPN_NODE_TEST_FAKETIME`. Without the variable
//! nothing is checked here, and the test says so.

use std::ffi::OsString;
use std::fs;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    date_time_ymd,
};
use vpn_node_protocol::token::Token;

use crate::support::controller::Controller;
use crate::support::host::Host;
use crate::support::{read, wait_for};

const FAKETIME: &str = "VPN_NODE_TEST_FAKETIME";
/// Ten years as libfaketime counts them (of 365 days), in milliseconds.
const TEN_YEARS_MS: i64 = 10 * 365 * 86_400_000;
/// A minute: what a slow machine may add between two readings.
const TOLERANCE_MS: i64 = 60_000;
/// What the agent logs, once a streak, when it does not believe the dates.
const NOT_BELIEVED: &str = "are not believed";

fn library() -> Option<OsString> {
    let library = std::env::var_os(FAKETIME);
    if library.is_none() {
        eprintln!(
            "SKIPPED: {FAKETIME} is not set, so no clock was moved; 'cargo xtask test' sets it"
        );
    }
    library
}

/// A host that lives this far from the present.
fn host(config: &str, library: OsString, years: &str) -> Host {
    let mut host = Host::new(config);
    host.set("LD_PRELOAD", library);
    host.set("FAKETIME", years);
    // Durations are measured by CLOCK_MONOTONIC and CLOCK_BOOTTIME, which no wrong date moves.
    host.set("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    host
}

/// Enrols the host, waits until it is verified and has beaten, and compares the offset on both
/// sides with the true one.
fn enrols_is_verified_and_beats(
    controller: &Controller,
    host: &mut Host,
    token: &str,
    offset_ms: i64,
) {
    let output = host.command(&["enroll"], token);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    host.start();
    let status = wait_for("the verdict and an accepted heartbeat", || {
        let status = host.status();
        let verified = status["verification"]["state"] == "verified";
        (verified && status["last_heartbeat"]["accepted"] == true).then_some(status)
    });
    let near =
        |found: Option<i64>| found.is_some_and(|found| (found - offset_ms).abs() < TOLERANCE_MS);
    let on_the_host = status["clock_offset_ms"].as_i64();
    assert!(near(on_the_host), "{on_the_host:?} on the host");
    wait_for("the offset at the controller", || {
        near(controller.servers()[0].clock_offset_ms).then_some(())
    });
    let before = controller.heartbeats().len();
    wait_for("two more heartbeats", || {
        (controller.heartbeats().len() >= before + 2).then_some(())
    });
    let server = &controller.servers()[0];
    assert_eq!(
        (server.status.as_str(), server.verdict.as_str()),
        ("active", "verified")
    );
    assert!(
        controller
            .heartbeats()
            .iter()
            .all(|row| row.signature_valid)
    );
    assert_eq!(host.status()["verification"]["state"], "verified");
}

#[test]
fn a_host_ten_years_back_or_ahead_is_enrolled_verified_and_beats() {
    let Some(library) = library() else { return };
    for (years, offset_ms) in [("-10y", -TEN_YEARS_MS), ("+10y", TEN_YEARS_MS)] {
        let controller = Controller::start();
        let mut host = host("", library.clone(), years);
        enrols_is_verified_and_beats(&controller, &mut host, &controller.token(), offset_ms);
        assert!(
            !read(&host.log()).contains(NOT_BELIEVED),
            "a pinned key has no dates"
        );
    }
}

#[test]
fn so_is_one_whose_controller_has_a_certificate_of_an_authority() {
    let Some(library) = library() else { return };
    let controller = Controller::start();
    let dir = tempfile::tempdir().unwrap();
    let (ca, certificate, key) = ["ca.pem", "tls.pem", "tls.key"]
        .map(|name| dir.path().join(name))
        .into();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let own_key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    // Ten years from here, in either direction, it is not valid.
    params.not_before = date_time_ymd(2026, 1, 1);
    params.not_after = date_time_ymd(2033, 1, 1);
    let issued = params.signed_by(&own_key, &issuer).unwrap();
    fs::write(&ca, issuer.pem()).unwrap();
    fs::write(&certificate, issued.pem()).unwrap();
    fs::write(&key, own_key.serialize_pem()).unwrap();
    let proxy = controller.proxy(&certificate, &key);
    let mut token = Token::parse(&controller.token()).unwrap();
    token.url = proxy.url();
    token.server_pin = None;

    let config = format!("[controller]\nca_file = {ca:?}");
    let mut host = host(&config, library, "-10y");
    enrols_is_verified_and_beats(&controller, &mut host, &token.to_text(), -TEN_YEARS_MS);
    let told = read(&host.log()).matches(NOT_BELIEVED).count();
    assert_eq!(told, 1, "once a streak, not with every connection");
    // From the past into the future, and the chain goes on.
    host.kill();
    host.set("FAKETIME", "+10y");
    host.start();
    wait_for("the verdict in the future", || {
        (host.status()["verification"]["state"] == "verified").then_some(())
    });
    assert_eq!(read(&host.log()).matches(NOT_BELIEVED).count(), 2);
}
