//! The node as a process: what is in its memory, what is in its log, how it starts and how it stops.

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

use std::{
    ffi::OsStr,
    io::{BufRead as _, BufReader, Read as _},
    os::unix::ffi::OsStrExt as _,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use fabstir_protocol::{
    aad::Aad,
    id::Index,
    v1::{ClientSession, Dialect},
};
use serde_json::{Value, json};
use spawned::{BINARY, NodeProcess, base64_forms, forms, fresh_key, node_in, pass_on_coverage};
use support::{edit, message_frame, rng, wallet};

/// Fails unless the key of `session` is in the node's memory.
fn assert_present(node: &NodeProcess, session: &ClientSession, when: &str) {
    let found = node.find_in_memory(&forms(session.expose_key()));
    assert!(found.iter().any(|(form, _)| *form == "all 32 bytes"), "{when}: the key is nowhere: {found:?}");
}

/// Fails unless the key of `session` leaves the node's memory in time.
async fn assert_gone(node: &NodeProcess, session: &ClientSession, when: &str) {
    let forms = forms(session.expose_key());
    let deadline = Instant::now() + Duration::from_secs(15);
    loop {
        let found = node.find_in_memory(&forms);
        if found.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "{when}: still there:\n{found:#?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// A session key is in memory as long as its session, and nothing of it afterwards: not in the heap, not on a
/// stack, not as hex.
#[tokio::test]
async fn session_keys_are_in_memory_while_live_and_gone_after() {
    let node = NodeProcess::start(&[], &[("ALLOW_DEBUGGING", "true")]);
    for dialect in Dialect::ALL {
        let mut peer = node.connect().await;
        let mut session = peer.open_as(&wallet(), "1", dialect).await.session;
        assert_eq!(peer.ask(&mut session, "before the end").await.text, "before the end");
        assert_present(&node, &session, &format!("{dialect:?}, live"));
        peer.socket.close(None).await.unwrap();
        assert_gone(&node, &session, &format!("{dialect:?}, after the close")).await;
    }
}

#[tokio::test]
async fn a_session_key_is_gone_once_it_has_expired() {
    let node = NodeProcess::start(&["--session-key-ttl-seconds", "3"], &[]);
    let mut peer = node.connect().await;
    for dialect in Dialect::ALL {
        let mut session = peer.open_as(&wallet(), &format!("{dialect:?}"), dialect).await.session;
        assert_eq!(peer.ask(&mut session, "hello").await.text, "hello");
        assert_present(&node, &session, "live");
        node.said.wait_for(&format!("Session key expired for session: {dialect:?}"));
        assert_gone(&node, &session, &format!("{dialect:?}, expired")).await;
    }
    assert_eq!(peer.outcome(r#"{"type":"ping"}"#).await, "pong", "the socket stayed open");
}

#[tokio::test]
async fn a_session_key_is_gone_once_it_is_replaced() {
    let node = NodeProcess::start(&[], &[("ALLOW_DEBUGGING", "true")]);
    let mut peer = node.connect().await;
    for dialect in Dialect::ALL {
        let wallet = wallet();
        let id = format!("{dialect:?}");
        let mut first = peer.open_as(&wallet, &id, dialect).await.session;
        assert_eq!(peer.ask(&mut first, "hello").await.text, "hello");
        assert_present(&node, &first, "live");
        let mut second = peer.open_as(&wallet, &id, dialect).await.session;
        assert_gone(&node, &first, &format!("{dialect:?}, replaced")).await;
        assert_eq!(peer.ask(&mut second, "again").await.text, "again");
        assert_present(&node, &second, "the one that replaced it");
    }
}

/// A filter that asks for everything, and by name for what writes frames.
const EVERYTHING: &str = "trace,tungstenite::protocol=trace";

/// At the level that says everything, nothing secret is said.
#[tokio::test]
async fn no_secret_is_in_the_log_at_trace_level() {
    const CANARY: &str = "canary-3f61-yellow-bird";
    let node = NodeProcess::start(&["--allow-plaintext"], &[("RUST_LOG", EVERYTHING)]);
    let secret = node.secret.clone();
    let mut peer = node.connect().await;
    let mut keys = Vec::new();
    let mut heard = String::new();
    for dialect in Dialect::ALL {
        let id = format!("{dialect:?}");
        let mut opened = peer.open_as(&wallet(), &id, dialect).await;
        assert_eq!(peer.ask(&mut opened.session, CANARY).await.text, CANARY);
        let request = json!({"messages": [{"role": "user", "content": CANARY}], "stop": [CANARY]});
        peer.ask(&mut opened.session, &request.to_string()).await;
        keys.push(*opened.session.expose_key());
        // And everything that goes wrong, with the secret words in it.
        let unserved = json!({"prompt": CANARY, "tools": [CANARY], "model": CANARY});
        let refused = message_frame(
            &opened.session,
            &id,
            Aad::Message(Index::new(9)),
            "message_9",
            &unserved.to_string(),
        );
        let forged = message_frame(&opened.session, &id, Aad::Final, "message_10", CANARY);
        let short = edit(&forged, |frame| frame["payload"]["nonceHex"] = json!("00"));
        for frame in [opened.init, refused, forged, short] {
            peer.send(frame).await;
            heard.push_str(&peer.receive().await.to_string());
        }
    }
    peer.send(json!({"type": "session_init", "session_id": "plain"}).to_string()).await;
    peer.receive().await;
    peer.send(json!({"type": "prompt", "session_id": "plain", "prompt": CANARY}).to_string()).await;
    while peer.receive().await["type"] != "stream_end" {}
    peer.send(format!("{{ {CANARY}")).await;
    heard.push_str(&peer.receive().await.to_string());
    for path in ["/metrics", "/v1/version", "/v1/models", "/v1/metrics/session_keys", "/health"] {
        heard.push_str(&node.get(path).await);
    }
    drop(peer);
    let (status, log) = node.stop();
    assert!(status.success());
    assert!(log.contains("DEBUG"), "the log was not at its most talkative");
    assert!(log.contains("Session key stored for session: Deployed"));

    let mut secrets: Vec<Vec<u8>> = vec![CANARY.into(), secret.trim_start_matches("0x").into()];
    secrets.push(const_hex::decode(&secret).unwrap());
    for key in keys {
        secrets.extend([key.to_vec(), const_hex::encode(key).into_bytes()]);
    }
    for secret in secrets {
        let mut shown = base64_forms(&secret);
        shown.extend(std::str::from_utf8(&secret).map(ToOwned::to_owned));
        // As `{:?}` shows bytes.
        shown.push(format!("{secret:?}").trim_matches(['[', ']']).to_owned());
        for form in shown {
            for (place, text) in [("log", &log), ("replies", &heard)] {
                let lower = text.to_lowercase();
                let found = text.find(&form).or_else(|| lower.find(&form.to_lowercase()));
                let around = found.map(|at| text.get(at.saturating_sub(200)..at + 100));
                assert!(found.is_none(), "{form} is in the {place}: {around:?}");
            }
        }
    }
}

/// SIGTERM lets the running answer finish, then ends the process with 0.
#[tokio::test]
async fn sigterm_drains_and_exits_zero() {
    let node = NodeProcess::start(&[], &[("ALLOW_DEBUGGING", "true")]);
    let mut peer = node.connect().await;
    let mut session = peer.open("1").await.session;
    let words = "word ".repeat(400);
    let words = words.trim_end();
    let frame = session.message(words.as_bytes(), &mut rng()).unwrap();
    peer.send(frame).await;
    // Once the message is decrypted its answer runs.
    node.said.wait_for("Encrypted message decrypted successfully");
    node.signal("TERM");
    assert_eq!(peer.hear(&session).await.text, words);
    assert_eq!(peer.close_code().await, Some(1001));
    let (status, log) = node.finish();
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(log.contains("draining") && log.contains("every session key is wiped"), "{log}");
}

/// What a node says that does not start, and its exit code: 0 for one that starts all the same.
fn refused_start<V: AsRef<OsStr>>(env: &[(&str, V)], flags: &[&str]) -> (Option<i32>, String) {
    let dir = tempfile::tempdir().unwrap();
    let mut command = node_in(dir.path());
    command.args(flags).envs(env.iter().map(|(name, value)| (name, value)));
    let mut node = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = String::new();
    for line in BufReader::new(node.stdout.take().unwrap()).lines().map_while(Result::ok) {
        said.push_str(&line);
        said.push('\n');
        if line.contains(" listening ") {
            node.kill().unwrap();
            node.wait().unwrap();
            return (Some(0), said);
        }
    }
    let rest = node.wait_with_output().unwrap();
    said.push_str(&String::from_utf8_lossy(&rest.stderr));
    (rest.status.code(), said)
}

#[test]
fn a_malformed_key_stops_the_start_without_showing_it() {
    let key = fresh_key();
    let zero = format!("0x{}", "0".repeat(64));
    let high = format!("0x{}", "f".repeat(64));
    for wrong in
        [&key[..65], &format!("{key}0"), &format!("{key}0x"), &key.replace(&key[9..10], "g"), &zero, &high]
    {
        let (code, said) = refused_start(&[("HOST_PRIVATE_KEY", wrong)], &[]);
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains("HOST_PRIVATE_KEY"), "{said}");
        for from in (2..50).step_by(8) {
            assert!(!said.contains(&wrong[from..from + 8]), "a part of the key is shown: {said}");
        }
    }
    let (code, said) = refused_start::<&str>(&[], &["--require-encryption"]);
    assert!(code == Some(1) && said.contains("HOST_PRIVATE_KEY"), "{said}");
}

/// A command substitution that brought bytes instead of hex.
#[test]
fn a_key_that_is_not_text_stops_the_start() {
    let (code, said) = refused_start(&[("HOST_PRIVATE_KEY", OsStr::from_bytes(b"\xff\xfe\x01"))], &[]);
    assert_ne!(code, Some(0));
    assert!(said.contains("HOST_PRIVATE_KEY"), "{said}");
}

#[test]
fn an_empty_allow_list_stops_the_start() {
    for setting in ["ALLOWED_CLIENTS", "REQUIRE_ENCRYPTION", "REQUIRE_INIT_TIMESTAMP"] {
        let key = fresh_key();
        let (code, said) = refused_start(&[("HOST_PRIVATE_KEY", key.as_str()), (setting, "")], &[]);
        assert_ne!(code, Some(0), "{setting}: {said}");
    }
}

#[test]
fn an_empty_key_stops_the_start() {
    for empty in ["", " ", "\n"] {
        let (code, said) = refused_start(&[("HOST_PRIVATE_KEY", empty)], &[]);
        assert_eq!(code, Some(1), "{empty:?}");
        assert!(said.contains("HOST_PRIVATE_KEY: the private key is empty"), "{said}");
    }
}

/// The lines that operators are told to look for, at the levels that they are told to set.
#[tokio::test]
async fn the_specification_s_log_lines_are_there() {
    // The second is the specification's, and a word more: without it the port is not told.
    for (rust_log, debug) in [("info", false), ("fabstir_llm_node::crypto=debug,fabstir_llm_node=info", true)]
    {
        let node = NodeProcess::start(&[], &[("RUST_LOG", rust_log)]);
        node.said.wait_for("Private key loaded successfully");
        let mut peer = node.connect().await;
        let wallet = wallet();
        let mut session = peer.open_as(&wallet, "abc-123", Dialect::GuideRust).await.session;
        peer.ask(&mut session, "hello").await;
        let frame = message_frame(&session, "abc-123", Aad::Message(Index::new(5)), "message_5", "x");
        let short = edit(&frame, |frame| frame["payload"]["nonceHex"] = json!("00".repeat(12)));
        assert_eq!(peer.outcome(short).await, "INVALID_NONCE_SIZE");
        drop(peer);
        let (_, log) = node.stop();
        for line in [
            "Session key stored for session: abc-123",
            &format!("Client address recovered: {}", wallet.address()),
            "Encrypted message decrypted successfully",
            "Decryption failed: invalid nonce size",
        ] {
            assert!(log.contains(line), "{line:?} is not in:\n{log}");
        }
        assert_eq!(log.contains("Decrypting encrypted_message"), debug, "{log}");
        assert!(!log.contains("HOST_PRIVATE_KEY not found"), "{log}");
        assert!(!log.contains('\u{1b}'), "colours are for terminals:\n{log}");
    }
    let dir = tempfile::tempdir().unwrap();
    let node = NodeProcess::run(node_in(dir.path()), "");
    let (_, log) = node.stop();
    assert!(log.contains("HOST_PRIVATE_KEY not found"), "{log}");
    assert!(!log.contains("Private key loaded"), "{log}");
}

#[tokio::test]
async fn a_json_log_is_json_line_by_line() {
    let node = NodeProcess::start(&["--log-format", "json"], &[("RUST_LOG", "debug")]);
    let mut peer = node.connect().await;
    let mut session = peer.open("abc \"quoted\"".replace(' ', "-").as_str()).await.session;
    peer.ask(&mut session, "hello").await;
    drop(peer);
    let (_, log) = node.stop();
    let lines: Vec<Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect();
    let stored = lines
        .iter()
        .find(|line| line["message"].as_str().is_some_and(|words| words.starts_with("Session key stored")));
    assert_eq!(stored.expect("the line is there")["event"], "session_key", "fields stand beside the message");
}

/// Every flag is an environment variable of the same name, and the key has no flag.
#[test]
#[expect(clippy::too_many_lines, reason = "a line for each setting")]
fn help_names_every_environment_setting() {
    let output = Command::new(BINARY).arg("--help").env_clear().output().unwrap();
    assert!(output.status.success());
    let help = String::from_utf8(output.stdout).unwrap();
    for setting in [
        "LISTEN_ADDR",
        "MODEL_PATH",
        "MODEL",
        "ENGINE",
        "SESSION_KEY_TTL_SECONDS",
        "SESSION_MAX_SECONDS",
        "CONVERSATION_GRACE_SECONDS",
        "MAX_SEQUENCES",
        "CONTEXT_TOKENS",
        "THREADS",
        "MAX_TOKENS_PER_REQUEST",
        "DEFAULT_SYSTEM_PROMPT",
        "ALLOW_PLAINTEXT",
        "REQUIRE_ENCRYPTION",
        "REQUIRE_INIT_TIMESTAMP",
        "ALLOW_TEST_KEYS",
        "CHALLENGE",
        "CHAIN_ID",
        "ALLOWED_ORIGINS",
        "ALLOWED_CLIENTS",
        "ALLOWED_CLIENTS_FILE",
        "DENIED_CLIENTS_FILE",
        "TRUSTED_PROXIES",
        "PROXY_HEADER",
        "MAX_CONNECTIONS_PER_NETWORK",
        "FIRST_MESSAGE_SECONDS",
        "IDLE_CONNECTION_SECONDS",
        "MAX_SESSIONS_PER_ADDRESS",
        "MAX_ANONYMOUS_SESSIONS_PER_NETWORK",
        "MAX_REQUESTS_PER_ADDRESS",
        "INITS_PER_MINUTE_PER_ADDRESS",
        "MESSAGES_PER_MINUTE",
        "TOKENS_PER_MINUTE",
        "MAX_WAITING",
        "MAX_QUEUED_MESSAGES",
        "MAX_CONNECTIONS",
        "MAX_SESSIONS",
        "MAX_SESSIONS_PER_CONNECTION",
        "INITS_PER_MINUTE",
        "CHALLENGES_PER_MINUTE",
        "MAX_FRAME_BYTES",
        "SEND_TIMEOUT_SECONDS",
        "DRAIN_SECONDS",
        "HOST_PRIVATE_KEY_FILE",
        "HOST_PRIVATE_KEY_COMMAND",
        "HOST_KEYSTORE_FILE",
        "PKCS11_URI",
        "RUST_LOG",
        "LOG_FORMAT",
    ] {
        let flag = format!("--{}", setting.to_lowercase().replace('_', "-"));
        let named = help.split_whitespace().any(|word| {
            word.trim_end_matches(&['[', ']', '='][..]) == flag || word.split('[').next() == Some(&flag)
        });
        assert!(named, "{setting} is not in:\n{help}");
    }
    assert!(help.contains("--listen-addr is LISTEN_ADDR"), "{help}");
    assert!(help.contains("HOST_PRIVATE_KEY") && !help.contains("--host-private-key "), "{help}");
}

/// systemd's journal keeps each line's level where the line says it, and says itself which stream it reads.
#[test]
fn the_journal_is_told_how_bad_a_line_is_and_nobody_else() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let said = |journal: bool| {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let about = rustix::fs::fstat(&writer).unwrap();
        let mut node = Command::new(BINARY);
        node.args(["--engine", "echo", "--listen-addr", &address]).env_clear().current_dir("/");
        node.env("LISTEN_ADRR", "x").stdout(writer.try_clone().unwrap()).stderr(writer);
        if journal {
            node.env("JOURNAL_STREAM", format!("{}:{}", about.st_dev, about.st_ino));
        }
        pass_on_coverage(&mut node);
        let mut child = node.spawn().unwrap();
        // It holds the pipe's other end.
        drop(node);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert!(!child.wait().unwrap().success(), "{text}");
        text
    };
    let told = said(true);
    let begins =
        |mark: &str, word: &str| told.lines().any(|line| line.starts_with(mark) && line.contains(word));
    assert!(begins("<4>", "did you mean LISTEN_ADDR?"), "{told}");
    assert!(begins("<3>Error: ", &address), "{told}");
    assert!(told.lines().all(|line| line.starts_with('<')), "{told}");
    let told = said(false);
    assert!(
        told.contains("did you mean LISTEN_ADDR?") && !told.contains("<4>") && !told.contains("<3>"),
        "{told}"
    );
}
