//! The commands that the specification prints for operators, run as they are printed: `bash -c`, with the
//! built binary in the place of `cargo run --release`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test is meant to panic"
)]

#[path = "support/process.rs"]
mod spawned;
mod support;

use std::{os::unix::fs::PermissionsExt as _, path::Path, process::Command};

use fabstir_protocol::v1::Dialect;
use serde_json::{Value, json};
use spawned::{NodeProcess, node_in};
use support::{edit, init, wallet};

/// What a line of shell prints, run in `dir`.
fn bash(dir: &Path, line: &str) -> String {
    // Nothing of the tester's own settings: only where the tools are.
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut command = Command::new("bash");
    let output = command.args(["-c", line]).current_dir(dir).env_clear().env("PATH", path).output().unwrap();
    let missing = output.status.code() == Some(127);
    assert!(!missing, "this test runs the guide's commands: install bash, openssl, curl and grep: {line}");
    String::from_utf8(output.stdout).unwrap()
}

/// Steps 1 and 2: a key in `.env`. Gives its text back.
fn make_key(dir: &Path) -> String {
    for tool in ["openssl", "curl"] {
        let found = !bash(dir, &format!("command -v {tool} || true")).is_empty();
        assert!(found, "{tool} is not installed, and the specification's commands use it");
    }
    bash(dir, "openssl rand -hex 32 | sed 's/^/0x/' > .env.test");
    bash(dir, r#"echo "HOST_PRIVATE_KEY=$(cat .env.test)" >> .env"#);
    bash(dir, "chmod 600 .env");
    std::fs::read_to_string(dir.join(".env.test")).unwrap().trim().to_owned()
}

/// `curl -X POST http://…/v1/ws`, as printed, with the payload filled in.
fn post(dir: &Path, node: &NodeProcess, frame: &str) -> Value {
    let line = format!(
        "curl -s -X POST http://{}/v1/ws \\\n  -H \"Content-Type: application/json\" \\\n  -d '{frame}'",
        node.address
    );
    let said = bash(dir, &line);
    serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said:?}"))
}

#[tokio::test]
async fn an_operator_enables_encryption() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let secret = make_key(dir);
    assert_eq!(secret.len(), 66);
    assert!(secret.starts_with("0x"));

    // The key must not lie about for others to read: then the node says what to run, and that helps.
    let env = dir.join(".env");
    std::fs::set_permissions(&env, std::fs::Permissions::from_mode(0o644)).unwrap();
    let refused = node_in(dir).output().unwrap();
    let said = String::from_utf8([refused.stdout, refused.stderr].concat()).unwrap();
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains("chmod 600 .env") && !said.contains(&secret[2..]), "{said}");
    bash(dir, "chmod 600 .env");

    // Step 3: start it, and look for the line.
    let node = NodeProcess::run(node_in(dir), &secret);
    node.said.wait_for("Private key loaded successfully");

    // Step 4: an init by curl.
    for dialect in Dialect::ALL {
        let wallet = wallet();
        let (frame, _) = init(&node.key, &wallet, "test-session", dialect, true);
        let ack = post(dir, &node, &frame);
        assert_eq!(ack["type"], "session_init_ack", "{ack}");
        assert_eq!(ack["session_id"], "test-session");
        assert_eq!(ack["client_address"], wallet.address().to_string());
    }

    // Monitoring: the metrics have these four fields, and count what is live.
    let mut peer = node.connect().await;
    let mut session = peer.open("abc-123").await.session;
    assert_eq!(peer.ask(&mut session, "hello").await.text, "hello");
    let metrics = bash(dir, &format!("curl -s http://{}/v1/metrics/session_keys", node.address));
    let metrics: Value = serde_json::from_str(&metrics).unwrap();
    let mut names: Vec<_> = metrics.as_object().unwrap().keys().map(String::as_str).collect();
    names.sort_unstable();
    assert_eq!(
        names,
        ["active_sessions", "expired_keys_cleaned", "memory_usage_estimate_bytes", "total_keys_stored"]
    );
    assert_eq!((&metrics["active_sessions"], &metrics["total_keys_stored"]), (&json!(1), &json!(1)));
    assert_eq!(metrics["expired_keys_cleaned"], 0);
    assert!(metrics["memory_usage_estimate_bytes"].as_u64().unwrap() > 32);

    // And the log is found by the printed patterns.
    let frame = session.message(b"again", &mut support::rng()).unwrap();
    let short = edit(&frame, |frame| frame["payload"]["nonceHex"] = json!("00"));
    assert_eq!(peer.outcome(short).await, "INVALID_NONCE_SIZE");
    drop(peer);
    let (status, log) = node.stop();
    assert!(status.success());
    std::fs::write(dir.join("node.out"), log).unwrap();
    let found = bash(dir, r#"cat node.out 2>&1 | grep -E "encrypted_session_init|session_key|decryption""#);
    for line in [
        "Session key stored for session: abc-123",
        "Client address recovered: 0x",
        "Encrypted message decrypted successfully",
        "Decryption failed: invalid nonce size",
    ] {
        assert!(found.contains(line), "{line:?} is not among:\n{found}");
    }
    let found = bash(dir, r#"cat node.out 2>&1 | grep "Private key""#);
    assert!(found.contains("Private key loaded successfully"), "{found}");
    assert!(!found.contains(&secret[2..]));
}

/// `grep` has read the line while the node runs: nothing holds the log back in a pipe.
#[test]
fn the_log_goes_through_a_pipe_line_by_line() {
    let dir = tempfile::tempdir().unwrap();
    make_key(dir.path());
    let line = format!(
        "timeout 4 '{}' {} 2>&1 | grep -m1 'Private key'; echo ended by ${{PIPESTATUS[0]}}",
        spawned::BINARY,
        spawned::ECHO.join(" ")
    );
    let started = std::time::Instant::now();
    // The reader leaves after its line; then the node has lost its log, and that must not hurt it. It is
    // ended by `timeout`, whose time bounds this test.
    let found = bash(dir.path(), &format!("{{ {line}; }} & wait $!"));
    assert!(found.contains("Private key loaded successfully"), "{found}");
    assert!(found.contains("ended by 0") || found.contains("ended by 124"), "{found}");
    assert!(started.elapsed() < support::PATIENCE);
}

#[tokio::test]
async fn a_node_without_a_key_serves_plaintext_only() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    make_key(dir);
    bash(dir, "rm .env; unset HOST_PRIVATE_KEY");
    let node = NodeProcess::run(node_in(dir), "");
    node.said.wait_for("HOST_PRIVATE_KEY not found");
    let (frame, _) = init(&node.key, &wallet(), "test-session", Dialect::GuideTypescript, true);
    let refused = post(dir, &node, &frame);
    assert_eq!((&refused["type"], &refused["code"]), (&json!("error"), &json!("ENCRYPTION_NOT_SUPPORTED")));
    let ack = post(dir, &node, r#"{"type": "session_init", "session_id": "test-session"}"#);
    assert_eq!(ack["type"], "session_init_ack", "{ack}");
    assert!(ack["warning"].as_str().unwrap().contains("deprecated"), "{ack}");
}
