//! TLS as an operator sets it up: what stops the start, what the log says, what a signal does.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test is meant to panic"
)]

#[path = "support/pki.rs"]
mod pki;
#[path = "support/process.rs"]
mod spawned;
mod support;

use std::{
    os::unix::fs::PermissionsExt as _,
    process::Stdio,
    time::{Duration, Instant},
};

use pki::{Authority, Files, get};
use rcgen::CertificateParams;
use spawned::{NodeProcess, fresh_key, node_in};

/// A certificate that ends after `days`.
fn ends_after(days: i64) -> impl FnOnce(&mut CertificateParams) {
    move |params| {
        params.not_before = time_from_now(-1);
        params.not_after = time_from_now(days);
    }
}

fn time_from_now(days: i64) -> time::OffsetDateTime {
    time::OffsetDateTime::now_utc() + time::Duration::days(days)
}

fn start(files: &Files, more: &[&str]) -> NodeProcess {
    let flags = files.flags(&[]);
    let flags: Vec<&str> = flags.iter().map(String::as_str).chain(more.iter().copied()).collect();
    NodeProcess::start(&flags, &[])
}

/// What a node with these flags says when it does not start.
fn refused(flags: &[&str], env: &[(&str, &str)]) -> String {
    let dir = tempfile::tempdir().unwrap();
    let mut command = node_in(dir.path());
    command.args(flags).env("HOST_PRIVATE_KEY", fresh_key()).envs(env.iter().copied());
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    // One that starts all the same is not waited for.
    let deadline = Instant::now() + Duration::from_secs(20);
    let ended = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break Some(status);
        }
        if Instant::now() > deadline {
            child.kill().unwrap();
            break None;
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(ended.is_some_and(|status| !status.success()), "it started: {said}");
    said
}

#[test]
fn a_key_that_others_may_read_stops_the_start() {
    let files = Files::of(&Authority::new());
    let flags = files.flags(&[]);
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    std::fs::set_permissions(files.path("key.pem"), std::fs::Permissions::from_mode(0o644)).unwrap();
    let said = refused(&flags, &[]);
    assert!(said.contains("chmod 600") && said.contains("key.pem"), "{said}");
    // The check of settings looks at the files as the start does.
    let said = refused(&[&flags[..], &["config", "check"]].concat(), &[]);
    assert!(said.contains("chmod 600"), "{said}");
}

#[test]
fn an_address_that_others_reach_is_not_served_in_the_clear() {
    let said = refused(&["--listen-addr=0.0.0.0:0"], &[]);
    assert!(said.contains("0.0.0.0:0") && said.contains("INSECURE_BIND=true"), "{said}");
    let said = refused(&["--listen-addr=[::]:0"], &[("INSECURE_BIND", "false")]);
    assert!(said.contains("INSECURE_BIND=true"), "{said}");
}

#[test]
fn an_empty_setting_that_asks_for_certificates_stops_the_start() {
    let files = Files::of(&Authority::new());
    let flags = files.flags(&[]);
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    for setting in ["TLS_CLIENT_CA_FILE", "TLS_CLIENT_PINS_FILE", "TLS_CLIENT_AUTH"] {
        let said = refused(&flags, &[(setting, "")]);
        assert!(said.contains(&setting.to_lowercase().replace('_', "-")), "{said}");
    }
}

#[test]
fn the_check_of_settings_warns_of_a_certificate_that_has_ended_or_is_about_to() {
    let authority = Authority::new();
    let files = Files::of(&authority);
    let dir = tempfile::tempdir().unwrap();
    let warned = || {
        let mut check = node_in(dir.path());
        check.args(files.flags(&[])).args(["config", "check"]).env("HOST_PRIVATE_KEY", fresh_key());
        let output = check.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    assert_eq!(warned(), "");
    files.put(&authority.sign_with("localhost", ends_after(3)));
    assert!(warned().contains("TLS_CERT_FILE: the certificate ends in "), "{}", warned());
    files.put(&authority.sign_with("localhost", |params| {
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2021, 1, 1);
    }));
    assert!(warned().contains("the certificate has ended, on Jan  1"), "{}", warned());
    files.put(&authority.sign_with("localhost", |params| {
        params.not_before = rcgen::date_time_ymd(2090, 1, 1);
        params.not_after = rcgen::date_time_ymd(2091, 1, 1);
    }));
    assert!(warned().contains("the certificate is not valid before Jan  1"), "{}", warned());
}

#[tokio::test]
async fn the_end_of_the_certificate_is_said_measured_and_warned_about() {
    let authority = Authority::new();
    let files = Files::of(&authority);
    files.put(&authority.sign_with("localhost", ends_after(10)));
    let node = start(&files, &[]);
    let loaded = node.said.wait_for("TLS certificate loaded");
    assert!(loaded.contains("event=\"tls_certificate\"") && loaded.contains("not_after="), "{loaded}");
    let warned = node.said.wait_for("the TLS certificate ends soon");
    assert!(warned.contains("WARN") && warned.contains(" days="), "{warned}");
    let page = get(node.address, authority.client(), "/metrics").await.unwrap();
    let line = "fabstir_tls_certificate_expires_timestamp_seconds ";
    let measured: f64 = page.lines().find_map(|text| text.strip_prefix(line)).unwrap().parse().unwrap();
    let expected = time_from_now(10).unix_timestamp() as f64;
    assert!((measured - expected).abs() < 100.0, "{measured} {expected}");
    files.put(&authority.sign_with("localhost", ends_after(90)));
    node.said.wait_for("TLS files were read again");
    let (status, said) = node.stop();
    assert!(status.success());
    assert_eq!(said.matches("ends soon").count(), 1, "{said}");
}

#[tokio::test]
async fn sighup_reads_the_files_again_and_what_is_wrong_with_them_is_said() {
    let authority = Authority::new();
    let files = Files::of(&authority);
    let node = start(&files, &[]);
    // Nobody has changed them.
    node.signal("HUP");
    node.said.wait_for("TLS files were read again");
    files.write("cert.pem", &authority.sign("localhost").certificate.pem());
    let warned = node.said.wait_for("what was read before goes on");
    assert!(warned.contains("WARN") && warned.contains("is not the key of"), "{warned}");
    assert!(get(node.address, authority.client(), "/health").await.unwrap().starts_with("HTTP/1.1 200"));
    let (status, _) = node.stop();
    assert!(status.success());
}

#[test]
fn the_key_of_tls_is_in_no_line_of_the_log() {
    let authority = Authority::new();
    let files = Files::of(&authority);
    let shown = authority.sign("localhost");
    files.put(&shown);
    let node = start(&files, &["--rust-log=trace"]);
    node.signal("HUP");
    node.said.wait_for("TLS files were read again");
    let (_, said) = node.stop();
    let pem = shown.key.serialize_pem();
    for line in pem.lines().filter(|line| !line.starts_with('-') && line.len() > 8) {
        assert!(!said.contains(line));
    }
}
