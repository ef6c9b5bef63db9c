//! The command line against a real node, over version 2.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::expect_used,
    reason = "a test is meant to panic"
)]
#![cfg(unix)]

mod support;

use std::{fs, os::unix::fs::PermissionsExt as _};

use fabstir_protocol::{
    identity::PrivateKey,
    v2::{SessionDelegation, SignedDelegation},
};
use serde_json::Value;
use support::{TestNode, User, assert_exit, err, out};

#[test]
fn an_answer_comes_over_a_channel_by_address_alone() {
    let (node, user) = (TestNode::start(&[]), User::new());
    let output = user.ask(&node, &["hello there"]);
    assert_exit(&output, 0);
    assert_eq!(out(&output).trim(), "hello there");
    let output = user.ask(&node, &["--anonymous", "--shape", "off", "and again"]);
    assert_eq!(out(&output).trim(), "and again");
}

#[test]
fn a_capture_of_a_channel_shows_padded_sizes_and_nobody() {
    let (node, user) = (TestNode::start(&[]), User::new());
    let capture = user.file("wire.jsonl");
    let output = user.ask(&node, &["--capture", capture.to_str().unwrap(), "a secret question"]);
    assert_exit(&output, 0);
    let text = fs::read_to_string(&capture).unwrap();
    let wallet: PrivateKey =
        fs::read_to_string(user.file("config/fabstir/client.key")).unwrap().trim().parse().unwrap();
    let address = const_hex::encode(wallet.address().as_bytes());
    assert!(
        !text.contains("secret") && !text.contains(&address),
        "words or the wallet travelled in the clear"
    );
    let shown = out(&user.run(&["inspect", capture.to_str().unwrap()]));
    for part in ["m1", "m2", "m3", "record", "padded to", "Who steals every key later"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
}

#[test]
fn a_wallet_delegates_once_and_need_not_be_there() {
    let (node, user) = (TestNode::start(&[]), User::new());
    let (wallet, delegate) = (user.file("wallet.key"), user.file("delegate.json"));
    assert_exit(&user.run(&["keys", "new", "--out", wallet.to_str().unwrap()]), 0);
    let identity = node.identity.to_string();
    let make = |more: &[&str]| {
        let mut arguments = vec!["keys", "delegate", "--out", delegate.to_str().unwrap()];
        arguments.extend(more);
        user.run(&arguments)
    };
    let made = make(&["--wallet", wallet.to_str().unwrap(), "--for", "30d", "--node", &identity]);
    assert_exit(&made, 0);
    assert_eq!(fs::metadata(&delegate).unwrap().permissions().mode() & 0o777, 0o600);
    fs::remove_file(&wallet).unwrap();
    let delegated = delegate.to_str().unwrap().to_owned();
    let output = user.ask(&node, &["--delegate", &delegated, "hi"]);
    assert_exit(&output, 0);
    assert_eq!(out(&output).trim(), "hi");
    // It is for that node alone.
    let other = TestNode::start(&[]);
    let refused = user.ask(&other, &["--delegate", &delegated, "hi"]);
    assert_exit(&refused, 1);
    assert!(err(&refused).contains("CERTIFICATE_INVALID"), "{}", err(&refused));
    // Never over what is there, the wallet least of all.
    let wallet = wallet.to_str().unwrap();
    assert_exit(&user.run(&["keys", "new", "--out", wallet]), 0);
    assert_exit(&make(&["--wallet", wallet, "--any-node"]), 2);
    let over = ["keys", "delegate", "--out", wallet, "--wallet", wallet, "--any-node", "--force"];
    assert_exit(&user.run(&over), 2);
    assert!(fs::read_to_string(wallet).unwrap().starts_with("0x"));
    assert_exit(&make(&["--wallet", wallet, "--any-node", "--force"]), 0);
    assert_exit(&make(&["--wallet", &delegated, "--for", "31d", "--any-node"]), 2);
    assert_exit(&make(&["--wallet", &delegated, "--for", "1d"]), 2);
}

#[test]
fn a_wallet_elsewhere_signs_what_is_printed() {
    let (node, user) = (TestNode::start(&[]), User::new());
    let wallet = fabstir_client::random_key();
    let (delegate, identity) = (user.file("delegate.json"), node.identity.to_string());
    let path = delegate.to_str().unwrap();
    let address = wallet.address().to_checksum();
    let arguments =
        ["keys", "delegate", "--out", path, "--address", &address, "--node", &identity, "--for", "12h"];
    let printed = user.run(&arguments);
    assert_exit(&printed, 0);
    // Not signed yet: of no use to anybody.
    assert_exit(&user.ask(&node, &["--delegate", path, "hi"]), 2);
    let data: Value = serde_json::from_slice(&printed.stdout).unwrap();
    let message = &data["message"];
    let delegation = SessionDelegation {
        wallet: message["wallet"].as_str().unwrap().parse().unwrap(),
        delegate_key: message["delegateKey"].as_str().unwrap().parse().unwrap(),
        node: Some(message["node"].as_str().unwrap().parse().unwrap()),
        not_before: message["notBefore"].as_u64().unwrap(),
        not_after: message["notAfter"].as_u64().unwrap(),
    };
    let sign =
        |key: &PrivateKey| const_hex::encode_prefixed(key.sign(&delegation.digest()).unwrap().to_bytes());
    let complete = |signature: &str| user.run(&["keys", "delegate", "--out", path, "--signature", signature]);
    assert_exit(&complete(&sign(&fabstir_client::random_key())), 2);
    assert_exit(&complete("0x00"), 2);
    assert_exit(&complete(&sign(&wallet)), 0);
    let output = user.ask(&node, &["--delegate", path, "hi"]);
    assert_exit(&output, 0);
    assert_eq!(out(&output).trim(), "hi");
    let file: Value = serde_json::from_str(&fs::read_to_string(&delegate).unwrap()).unwrap();
    let bytes = const_hex::decode(file["delegation"].as_str().unwrap()).unwrap();
    assert_eq!(SignedDelegation::try_from(&bytes[..]).unwrap().delegation(), &delegation);
}

#[test]
fn first_contact_is_a_decision_and_a_changed_identity_is_refused_loudly() {
    let (node, other, user) = (TestNode::start(&[]), TestNode::start(&[]), User::new());
    let url = node.url();
    assert_exit(&user.run(&["ask", "--node", &url, "hi"]), 4);
    assert_exit(&user.run(&["ask", "--node", &url, "--trust-first-use", "hi"]), 0);
    // Known from then on.
    assert_exit(&user.run(&["ask", "--node", &url, "hi"]), 0);
    let known = user.file("config/fabstir/known_nodes");
    let line = format!("{} {}\n", node.address, other.identity);
    fs::write(&known, line).unwrap();
    let changed = user.run(&["ask", "--node", &url, "hi"]);
    assert_exit(&changed, 4);
    assert!(err(&changed).contains("IS NOT THE ONE THAT IS KNOWN"), "{}", err(&changed));
}

#[test]
fn who_may_not_is_told_so_and_nothing_falls_back() {
    let (node, user) = (TestNode::start(&["--allow-anonymous=false"]), User::new());
    let refused = user.ask(&node, &["--anonymous", "hi"]);
    assert_exit(&refused, 1);
    assert!(err(&refused).contains("CLIENT_NOT_ALLOWED"));
    // A node of version 2 alone: version 1 is refused by our own side.
    let strict = TestNode::start(&["--min-protocol", "2"]);
    let url = strict.url();
    assert_exit(&user.run(&["ask", "--node", &url, "--trust-first-use", "hi"]), 0);
    let old = user.run(&["ask", "--node", &url, "--protocol", "1", "hi"]);
    assert_exit(&old, 4);
    assert!(err(&old).contains("version 2 or newer"), "{}", err(&old));
}
