//! The security tests that the specification names. Where the threat is to the node, the node is attacked:
//! over a real socket, with real frames.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    reason = "a test is meant to panic, and to do so on what it does not expect"
)]

mod support;

use std::collections::HashSet;

use dudect_bencher::{
    BenchRng, Class, CtRunner,
    ctbench::{BenchFn, BenchMetadata, BenchName, BenchOpts, run_benches_console},
    rand::Rng as _,
};
use fabstir_protocol::{
    aad::Aad,
    id::{Index, Nonce, SessionId},
    identity::PrivateKey,
    seal::SessionKey,
    v1::{ClientSession, Dialect, Reply},
};
use serde_json::{Value, json};
use support::{Peer, TestNode, echo, edit, flip, init, message_frame, rng, wallet};

/// A session does not open what belongs to another: not another's messages, not another's answers, not from
/// another connection.
#[tokio::test]
async fn test_session_isolation() {
    let node = TestNode::start(echo()).await;
    let (mut alice, mut bob) = (node.connect().await, node.connect().await);
    let mut hers = alice.open("alice").await.session;
    let mut his = bob.open("bob").await.session;

    let under_her_key = message_frame(&hers, "bob", Aad::Message(Index::new(0)), "message_0", "for bob?");
    assert_eq!(bob.outcome(under_her_key).await, "DECRYPTION_FAILED");
    let from_elsewhere = message_frame(&hers, "alice", Aad::Message(Index::new(0)), "message_0", "hello");
    assert_eq!(bob.outcome(from_elsewhere).await, "SESSION_KEY_NOT_FOUND");

    let answer = alice.ask(&mut hers, "only alice").await;
    assert_eq!(answer.text, "only alice");
    let Reply::Chunk { payload, .. } = Reply::decode(&answer.frames[0].to_string()).unwrap() else {
        panic!()
    };
    assert!(his.open_chunk(&mut his.answer(), &payload).is_err(), "bob's key must not open alice's answer");
    assert_eq!(bob.ask(&mut his, "only bob").await.text, "only bob", "and nothing was lost for bob");
}

/// What is sealed under a wrong key does not open: messages, and inits for another node.
#[tokio::test]
async fn test_wrong_key_decryption() {
    let node = TestNode::start(echo()).await;
    let mut peer = node.connect().await;
    let mut session = peer.open("1").await.session;
    let stranger = ClientSession::with_key(SessionId::try_from("1").unwrap(), SessionKey::random(&mut rng()));
    let forged = message_frame(&stranger, "1", Aad::Message(Index::new(0)), "message_0", "hello");
    assert_eq!(peer.outcome(forged).await, "DECRYPTION_FAILED");
    for dialect in Dialect::ALL {
        let (for_another_node, _) = init(&wallet().public_key(), &wallet(), "2", dialect, true);
        assert_eq!(peer.outcome(for_another_node).await, "DECRYPTION_FAILED", "{dialect:?}");
    }
    assert_eq!(peer.ask(&mut session, "hello").await.text, "hello");
}

/// Nobody signs for an address without its key.
#[tokio::test]
async fn test_signature_forgery_rejected() {
    let node = TestNode::start(echo()).await;
    let mut peer = node.connect().await;
    let victim = wallet();
    for dialect in Dialect::ALL {
        let (genuine, _) = init(&node.key, &victim, "1", dialect, true);
        let random = edit(&genuine, |frame| {
            let signature = victim.sign(&[7; 32]).unwrap();
            frame["payload"]["signatureHex"] = json!(const_hex::encode(signature.to_bytes()));
        });
        assert_eq!(peer.outcome(random).await, "INVALID_SIGNATURE", "{dialect:?}");
        let malleable = edit(&genuine, |frame| high_s(&mut frame["payload"]["signatureHex"]));
        assert_eq!(peer.outcome(malleable).await, "INVALID_SIGNATURE", "{dialect:?}: a high s");
        for bit in [0, 300, 511] {
            let flipped =
                edit(&genuine, |frame| flip(&mut frame["payload"]["signatureHex"], bit / 8, 1 << (bit % 3)));
            assert_eq!(peer.outcome(flipped).await, "INVALID_SIGNATURE", "{dialect:?}: bit {bit}");
        }
        assert_eq!(peer.outcome(genuine).await, "session_init_ack", "{dialect:?}: the genuine one is taken");
    }
}

/// The other s of the same signature: n - s, and the other parity.
fn high_s(field: &mut Value) {
    const ORDER: &str = "fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141";
    let mut bytes = const_hex::decode(field.as_str().unwrap()).unwrap();
    let order = const_hex::decode(ORDER).unwrap();
    let mut borrow = 0_i16;
    for at in (0..32).rev() {
        let digit = i16::from(order[at]) - i16::from(bytes[32 + at]) - borrow;
        borrow = i16::from(digit < 0);
        bytes[32 + at] = u8::try_from(digit.rem_euclid(256)).unwrap();
    }
    bytes[64] ^= if bytes[64] >= 27 { 7 } else { 1 };
    *field = json!(const_hex::encode(bytes));
}

/// A changed ciphertext does not open, wherever it was changed, and changes nothing.
#[tokio::test]
async fn test_tampered_ciphertext_rejected() {
    let node = TestNode::start(echo()).await;
    let mut peer = node.connect().await;
    let mut session = peer.open("1").await.session;
    let genuine = session.message(b"an ordinary question", &mut rng()).unwrap();
    let bytes = "an ordinary question".len() + 16;
    for byte in (0..bytes).step_by(5) {
        let tampered = edit(&genuine, |frame| flip(&mut frame["payload"]["ciphertextHex"], byte, 0));
        assert_eq!(peer.outcome(tampered).await, "DECRYPTION_FAILED", "byte {byte}");
    }
    peer.send(genuine).await;
    assert_eq!(peer.hear(&session).await.text, "an ordinary question", "index and nonce were not spent");
}

/// A signature is good for the init that it was made for, and for no other.
#[tokio::test]
async fn test_signature_cannot_be_reused() {
    let node = TestNode::start(echo()).await;
    let mut peer = node.connect().await;
    let victim = wallet();
    for dialect in Dialect::ALL {
        let (first, _) = init(&node.key, &victim, "1", dialect, true);
        let first: Value = serde_json::from_str(&first).unwrap();
        let (second, _) = init(&node.key, &victim, "1", dialect, true);
        let moved = edit(&second, |frame| {
            frame["payload"]["signatureHex"] = first["payload"]["signatureHex"].clone()
        });
        assert_eq!(peer.outcome(moved).await, "INVALID_SIGNATURE", "{dialect:?}");
    }
    // What the victim signed for one session does not carry an attacker's own.
    let (victims, _) = init(&node.key, &victim, "1", Dialect::GuideRust, true);
    let victims: Value = serde_json::from_str(&victims).unwrap();
    let (attackers, _) = init(&node.key, &wallet(), "1", Dialect::GuideRust, true);
    let spliced = edit(&attackers, |frame| {
        frame["payload"]["signatureHex"] = victims["payload"]["signatureHex"].clone()
    });
    assert_eq!(peer.outcome(spliced).await, "INVALID_SIGNATURE");
}

type Change = fn(&mut Value);

/// Whatever somebody in the middle does to a frame, it does not open: flipped, cut, lengthened, re-keyed.
#[tokio::test]
async fn test_mitm_detected() {
    let node = TestNode::start(echo()).await;
    let mut peer = node.connect().await;
    let (genuine, _) = init(&node.key, &wallet(), "1", Dialect::Deployed, true);
    let mut session = peer.open("2").await.session;
    let message = session.message(b"hello", &mut rng()).unwrap();
    for frame in [&genuine, &message] {
        let changes: [(&str, Change); 4] = [
            ("a flipped bit", |frame| flip(&mut frame["payload"]["ciphertextHex"], 3, 3)),
            ("a flipped nonce", |frame| flip(&mut frame["payload"]["nonceHex"], 23, 7)),
            ("a cut end", |frame| {
                let hex = frame["payload"]["ciphertextHex"].as_str().unwrap().to_owned();
                frame["payload"]["ciphertextHex"] = json!(hex[..hex.len() - 2]);
            }),
            ("an added byte", |frame| {
                let hex = frame["payload"]["ciphertextHex"].as_str().unwrap().to_owned();
                frame["payload"]["ciphertextHex"] = json!(hex + "00");
            }),
        ];
        for (what, change) in changes {
            assert_eq!(peer.outcome(edit(frame, change)).await, "DECRYPTION_FAILED", "{what}");
        }
    }
    let own_key =
        edit(&genuine, |frame| frame["payload"]["ephPubHex"] = json!(wallet().public_key().to_string()));
    assert_eq!(peer.outcome(own_key).await, "DECRYPTION_FAILED", "another ephemeral key");
    peer.send(message).await;
    let answer = peer.hear(&session).await;
    assert_eq!(answer.text, "hello");
    // And the other way: what the node sent does not open when it was changed.
    let changed =
        edit(&answer.frames[0].to_string(), |frame| flip(&mut frame["payload"]["ciphertextHex"], 0, 0));
    let Reply::Chunk { payload, .. } = Reply::decode(&changed).unwrap() else { panic!() };
    assert!(session.open_chunk(&mut session.answer(), &payload).is_err());
}

/// The node builds the aad that it expects: what a frame says of itself is compared, never used.
#[tokio::test]
async fn test_aad_integrity_critical() {
    let node = TestNode::start(echo()).await;
    let mut peer = node.connect().await;
    let mut session = peer.open("1").await.session;
    let zero = Aad::Message(Index::new(0));
    for (sealed_as, claimed) in [
        (zero, "message_1"),
        (Aad::Chunk(Index::new(0)), "message_0"),
        (Aad::Final, "message_0"),
        (Aad::Empty, ""),
        (Aad::Chunk(Index::new(0)), "chunk_0"),
        (zero, "message_00"),
        (zero, "message_+0"),
        (zero, "session_init"),
    ] {
        let frame = message_frame(&session, "1", sealed_as, claimed, "hello");
        assert_eq!(peer.outcome(frame).await, "DECRYPTION_FAILED", "sealed as {sealed_as}, said {claimed}");
    }
    let (genuine, _) = init(&node.key, &wallet(), "2", Dialect::GuideRust, true);
    let renamed = edit(&genuine, |frame| frame["payload"]["aadHex"] = json!(const_hex::encode("message_0")));
    assert_eq!(peer.outcome(renamed).await, "DECRYPTION_FAILED");
    assert_eq!(peer.ask(&mut session, "hello").await.text, "hello");
}

/// The ack names the address that signed, in every dialect.
#[tokio::test]
async fn test_client_signature_recovery() {
    let node = TestNode::start(echo()).await;
    let mut peer = node.connect().await;
    for dialect in Dialect::ALL {
        let wallet = wallet();
        let opened = peer.open_as(&wallet, &format!("{dialect:?}"), dialect).await;
        assert_eq!(opened.ack["client_address"], wallet.address().to_string(), "{dialect:?}");
        let (unclaimed, _) = init(&node.key, &wallet, &format!("{dialect:?}-unclaimed"), dialect, false);
        peer.send(unclaimed).await;
        assert_eq!(
            peer.receive().await["client_address"],
            wallet.address().to_string(),
            "{dialect:?} unclaimed"
        );
    }
}

/// A frame opens once: replayed on the wire, on the same connection, on another, after the session is gone.
#[tokio::test]
async fn test_replay_attack_prevented() {
    let node = TestNode::start(echo()).await;
    let mut peer = node.connect().await;
    let victim = wallet();
    let mut opened = peer.open_as(&victim, "1", Dialect::GuideRust).await;
    let first = opened.session.message(b"first", &mut rng()).unwrap();
    peer.send(first.clone()).await;
    peer.hear(&opened.session).await;
    let second = opened.session.message(b"second", &mut rng()).unwrap();
    peer.send(second.clone()).await;
    peer.hear(&opened.session).await;

    assert_eq!(peer.outcome(second.clone()).await, "REPLAY_DETECTED", "the newest message again");
    assert_eq!(peer.outcome(first.clone()).await, "REPLAY_DETECTED", "an older message again");
    let later = edit(&first, |frame| frame["payload"]["aadHex"] = json!(const_hex::encode("message_9")));
    assert_eq!(
        peer.outcome(later).await,
        "REPLAY_DETECTED",
        "an old message under a new index: its nonce is spent"
    );
    assert_eq!(peer.outcome(opened.init.clone()).await, "REPLAY_DETECTED", "the init again");

    let mut attacker = node.connect().await;
    assert_eq!(attacker.outcome(opened.init.clone()).await, "REPLAY_DETECTED", "the init from elsewhere");
    assert_eq!(attacker.outcome(first.clone()).await, "SESSION_KEY_NOT_FOUND", "a message from elsewhere");
    let mirrored = edit(&opened.init, |frame| {
        let hex = frame["payload"]["ephPubHex"].as_str().unwrap().to_owned();
        let other = if hex.starts_with("02") { "03" } else { "02" };
        frame["payload"]["ephPubHex"] = json!(format!("{other}{}", &hex[2..]));
    });
    assert_eq!(attacker.outcome(mirrored).await, "REPLAY_DETECTED", "-P agrees on the same x");

    drop(peer);
    support::until("the connection to end", || node.node.sessions.metrics().active_sessions == 0).await;
    assert_eq!(attacker.outcome(opened.init).await, "REPLAY_DETECTED", "the init after its session");
}

/// A signature over anything but the init's digest is by nobody that was claimed.
#[tokio::test]
async fn test_wrong_message_hash() {
    let node = TestNode::start(echo()).await;
    let mut peer = node.connect().await;
    let client = wallet();
    for dialect in Dialect::ALL {
        let (genuine, _) = init(&node.key, &client, "1", dialect, true);
        for digest in [[0; 32], [1; 32], client.public_key().x()] {
            let wrong = edit(&genuine, |frame| {
                let signature = client.sign(&digest).unwrap();
                frame["payload"]["signatureHex"] = json!(const_hex::encode(signature.to_bytes()));
            });
            assert_eq!(peer.outcome(wrong).await, "INVALID_SIGNATURE", "{dialect:?}");
        }
    }
}

/// No nonce of the node repeats under a key, and the node takes none twice.
#[tokio::test]
async fn test_nonce_uniqueness_enforcement() {
    let node = TestNode::start(echo()).await;
    let mut peer = node.connect().await;
    let mut session = peer.open("1").await.session;
    let mut nonces = HashSet::new();
    let stateless = json!({"messages": [{"role": "user", "content": "word ".repeat(1000)}]}).to_string();
    for _ in 0..3 {
        for frame in peer.ask(&mut session, &stateless).await.frames {
            let nonce = frame["payload"]["nonceHex"].as_str().unwrap().to_owned();
            assert_eq!(nonce.len(), 2 * Nonce::LEN);
            assert!(nonces.insert(nonce), "a nonce came twice");
        }
    }
    assert!(nonces.len() >= 3000, "{}", nonces.len());

    let frame = message_frame(&session, "1", Aad::Message(Index::new(10)), "message_10", "x");
    peer.send(frame.clone()).await;
    peer.hear(&session).await;
    let reused = edit(&frame, |frame| frame["payload"]["aadHex"] = json!(const_hex::encode("message_11")));
    assert_eq!(peer.outcome(reused).await, "REPLAY_DETECTED");

    // Where the agreed key is the session key, the init has spent a nonce under it already.
    let opened = peer.open_as(&wallet(), "2", Dialect::GuideTypescript).await;
    let of_init: Value = serde_json::from_str(&opened.init).unwrap();
    let frame = message_frame(&opened.session, "2", Aad::Message(Index::new(0)), "message_0", "x");
    let reused = edit(&frame, |frame| frame["payload"]["nonceHex"] = of_init["payload"]["nonceHex"].clone());
    assert_eq!(peer.outcome(reused).await, "REPLAY_DETECTED");
}

/// Every session has a key of its own. (That the node takes no key twice from the same owner is shown by the vector
/// "replay: the session key of an earlier init", which `vectors.rs` sends.)
#[tokio::test]
async fn test_key_derivation_uniqueness() {
    let node = TestNode::start(echo()).await;
    let mut peer = node.connect().await;
    let client = wallet();
    let mut keys = HashSet::new();
    for round in 0..20 {
        for dialect in Dialect::ALL {
            let opened = peer.open_as(&client, &format!("{}", round % 7), dialect).await;
            assert!(keys.insert(*opened.session.expose_key()), "{dialect:?}: a key came twice");
        }
    }
    // The agreed key differs from all of its inputs and from its sibling over the whole point.
    let (ours, theirs) = (wallet(), wallet());
    let agreed = ours.agree(&theirs.public_key());
    let x = agreed.derive(fabstir_protocol::identity::KeyMaterial::X).unwrap();
    let point = agreed.derive(fabstir_protocol::identity::KeyMaterial::Point).unwrap();
    assert_ne!(x.expose(), point.expose());
    assert_eq!(
        x.expose(),
        theirs.agree(&ours.public_key()).derive(fabstir_protocol::identity::KeyMaterial::X).unwrap().expose(),
        "both sides derive the same"
    );
}

/// The time that opening, agreeing and reading the node's key take does not tell the secret (dudect, Welch's
/// t over cropped measurements). The control, a comparison that stops at the first difference, must be told
/// apart, or the measurement shows nothing.
#[test]
fn test_timing_attack_resistance_basic() {
    let mut seen = Vec::new();
    for attempt in 1..=3_u32 {
        let measured = measure(attempt);
        let control =
            measured.iter().find(|(name, _)| name == "control_early_exit").expect("the control ran").1;
        let worst = measured
            .iter()
            .filter(|(name, _)| name != "control_early_exit")
            .map(|(_, t)| t.abs())
            .fold(0.0, f64::max);
        println!(
            "attempt {attempt}: |t| at most {worst:.1}, of the control {:.1}: {measured:?}",
            control.abs()
        );
        assert_eq!(measured.len(), 4);
        if worst <= 10.0 && control.abs() >= 100.0 {
            return;
        }
        seen.push(measured);
    }
    panic!("secrets were told apart by time, or the control was not: {seen:?}");
}

/// Runs the measurements in a process of their own and reads what they print.
fn measure(attempt: u32) -> Vec<(String, f64)> {
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "timing_measurements", "--ignored", "--nocapture", "--test-threads=1"])
        .env("TIMING_ATTEMPT", attempt.to_string())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let line = |line: &str| {
        let name = line.split("bench ").nth(1)?.split_whitespace().next()?.to_owned();
        let t = line.split("max t = ").nth(1)?.split(',').next()?.parse().ok()?;
        Some((name, t))
    };
    text.lines().filter_map(line).collect()
}

#[test]
#[ignore = "run by test_timing_attack_resistance_basic, in a process of its own"]
fn timing_measurements() {
    let benches: [(&'static str, BenchFn); 4] = [
        ("agree", agree),
        ("control_early_exit", control_early_exit),
        ("open", open),
        ("read_private_key", read_private_key),
    ];
    let benches =
        benches.map(|(name, benchfn)| BenchMetadata { name: BenchName(name), seed: Some(1), benchfn });
    let options = BenchOpts { continuous: false, filter: None, file_out: None };
    run_benches_console(options, benches.into()).unwrap();
}

/// More samples with each attempt.
fn samples(base: usize) -> usize {
    let attempt =
        std::env::var("TIMING_ATTEMPT").ok().and_then(|text| text.parse::<usize>().ok()).unwrap_or(1);
    base * attempt
}

fn class(rng: &mut BenchRng) -> Class {
    if rng.next_u32() & 1 == 0 { Class::Left } else { Class::Right }
}

/// A wrong tag: wrong in its first byte, or in its last.
fn open(runner: &mut CtRunner, rng: &mut BenchRng) {
    let key = SessionKey::random(&mut support::rng());
    let tampered = |byte: usize| {
        let mut sealed = key.seal(Nonce::random(&mut support::rng()), Aad::Final, &[0; 64]).unwrap();
        sealed.ciphertext[byte] ^= 1;
        sealed
    };
    let (first, last) = (tampered(64), tampered(79));
    for _ in 0..samples(60_000) {
        let class = class(rng);
        let sealed = match class {
            Class::Left => &first,
            Class::Right => &last,
        };
        runner.run_one(class, || key.open(sealed, Aad::Final).is_err());
    }
}

/// A secret scalar of one bit, or any other.
fn agree(runner: &mut CtRunner, rng: &mut BenchRng) {
    let mut sparse = [0; 32];
    sparse[0] = 0x40;
    let sparse = PrivateKey::try_from(&sparse).unwrap();
    let dense = wallet();
    let theirs = wallet().public_key();
    for _ in 0..samples(6_000) {
        let class = class(rng);
        let ours = match class {
            Class::Left => &sparse,
            Class::Right => &dense,
        };
        runner.run_one(class, || ours.agree(&theirs));
    }
}

/// The node's key as hex: digits, or letters.
fn read_private_key(runner: &mut CtRunner, rng: &mut BenchRng) {
    let (digits, letters) = ("17".repeat(32), "ab".repeat(32));
    for _ in 0..samples(6_000) {
        let class = class(rng);
        let text = match class {
            Class::Left => &digits,
            Class::Right => &letters,
        };
        runner.run_one(class, || text.parse::<PrivateKey>().is_ok());
    }
}

/// What constant time is not.
fn control_early_exit(runner: &mut CtRunner, rng: &mut BenchRng) {
    let secret = [7_u8; 4096];
    let (mut early, late) = ([7_u8; 4096], [7_u8; 4096]);
    early[0] = 0;
    for _ in 0..samples(20_000) {
        let class = class(rng);
        let guess = match class {
            Class::Left => &early,
            Class::Right => &late,
        };
        runner.run_one(class, || secret.iter().zip(guess).all(|(ours, theirs)| ours == theirs));
    }
}

/// Sixteen failures in a row end a connection, so that nobody tries keys for long.
#[tokio::test]
async fn too_many_frames_that_do_not_open_end_the_connection() {
    let node = TestNode::start(echo()).await;
    let mut peer: Peer = node.connect().await;
    let mut session = peer.open("1").await.session;
    let forged = |session: &ClientSession| message_frame(session, "1", Aad::Final, "message_9", "x");
    for _ in 0..15 {
        assert_eq!(peer.outcome(forged(&session)).await, "DECRYPTION_FAILED");
    }
    assert_eq!(peer.ask(&mut session, "hello").await.text, "hello", "an open resets the count");
    for _ in 0..16 {
        assert_eq!(peer.outcome(forged(&session)).await, "DECRYPTION_FAILED");
    }
    assert_eq!(peer.close_code().await, Some(1008));
}
