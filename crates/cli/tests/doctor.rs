//! `fabstir doctor` on ways to a node that are well, and on ways that are not.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test is meant to panic")]
#![cfg(unix)]

mod support;

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener},
    process::Output,
};

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::Value;
use support::{TestNode, User, assert_exit, err, out, proxy::Proxy};
use tokio_tungstenite::{accept_async, connect_async, tungstenite::Message};

/// `at` is checked for the node with this identity; no proxy runs beside it.
fn doctor(user: &User, at: SocketAddr, identity: &str, more: &[&str]) -> Output {
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let url = format!("ws://{at}/v1/ws");
    let arguments = ["doctor", "--node", &url, "--node-key", identity, "--proxy", &nobody];
    user.run(&[&arguments[..], more].concat())
}

/// The steps in their order, and the one that failed.
fn steps(output: &Output) -> (Vec<String>, Option<String>) {
    let (mut well, mut bad) = (Vec::new(), None);
    for line in out(output).lines() {
        let mut words = line.split_whitespace();
        match (words.next().unwrap(), words.next().unwrap().to_owned()) {
            ("ok", step) => well.push(step),
            (_, step) => bad = Some(step),
        }
    }
    (well, bad)
}

#[test]
fn a_way_that_is_well_is_told_step_by_step() {
    let (node, user) = (TestNode::start(&[]), User::new());
    let identity = node.identity.to_string();
    let output = doctor(&user, node.address, &identity, &[]);
    assert_exit(&output, 0);
    let all = [
        "url",
        "tcp",
        "upgrade",
        "advertisement",
        "pin",
        "certificate",
        "handshake",
        "welcome",
        "answer",
        "resumption",
        "proxy",
    ];
    assert_eq!(steps(&output), (all.map(str::to_owned).to_vec(), None), "{}", out(&output));
    assert_eq!(err(&output), "");

    let output = doctor(&user, node.address, &identity, &["--json"]);
    assert_exit(&output, 0);
    let lines: Vec<Value> = out(&output).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(lines.iter().map(|line| line["step"].as_str().unwrap()).eq(all));
    assert!(lines.iter().all(|line| line["ok"] == true));
    let figures = |step: &str| &lines.iter().find(|line| line["step"] == step).unwrap()["figures"];
    assert_eq!(figures("welcome")["models"][0], "echo");
    assert_eq!(figures("welcome")["limits"]["max_request_bytes"], 1 << 20);
    assert!(figures("answer")["tokens"].as_u64().unwrap() > 0);
    assert!(figures("handshake")["ms"].is_u64());
    assert_eq!(figures("proxy")["runs"], false);
}

#[test]
fn the_proxy_of_this_machine_is_looked_at_where_it_runs() {
    let (node, user) = (TestNode::start(&[]), User::new());
    let proxy = Proxy::start(&user, &node);
    let address = proxy.base.strip_prefix("http://").unwrap().strip_suffix("/v1").unwrap();
    let (url, identity) = (node.url(), node.identity.to_string());
    let arguments = ["doctor", "--node", &url, "--node-key", &identity, "--proxy", address];
    let output = user.run(&arguments);
    assert_exit(&output, 0);
    assert!(out(&output).contains("it answers at"), "{}", out(&output));
    // Somebody with another token.
    let other = User::new();
    let _ = other.run(&["proxy", "--env"]);
    let output = other.run(&arguments);
    assert_exit(&output, 2);
    assert!(err(&output).contains("another user's"), "{}", err(&output));
}

#[test]
fn where_nothing_listens_that_is_said() {
    let user = User::new();
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let output = doctor(&user, nobody, &fabstir_client::random_key().address().to_string(), &[]);
    assert_exit(&output, 3);
    assert_eq!(steps(&output), (vec!["url".to_owned()], Some("tcp".to_owned())));
    assert!(err(&output).contains("check --node, and that the node runs"), "{}", err(&output));
}

#[test]
fn a_server_that_is_no_node_is_told_from_one() {
    let user = User::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n");
        }
    });
    let output = doctor(&user, address, &fabstir_client::random_key().address().to_string(), &["--json"]);
    assert_exit(&output, 3);
    let last: Value = serde_json::from_str(out(&output).lines().last().unwrap()).unwrap();
    assert_eq!((&last["step"], &last["ok"]), (&"upgrade".into(), &false.into()));
    assert!(last["what"].as_str().unwrap().contains("no node"), "{last}");
    assert!(err(&output).contains("ends in /v1/ws"), "{}", err(&output));
}

#[test]
fn a_node_with_another_identity_than_the_pinned_one_fails_at_the_pin() {
    let (node, user) = (TestNode::start(&[]), User::new());
    let output = doctor(&user, node.address, &fabstir_client::random_key().address().to_string(), &[]);
    assert_exit(&output, 4);
    assert_eq!(steps(&output).1.unwrap(), "pin");
    assert!(err(&output).contains(&node.identity.to_string()), "{}", err(&output));
}

#[test]
fn a_middlebox_that_takes_version_2_out_is_found() {
    let (node, user) = (TestNode::start(&[]), User::new());
    let output = doctor(&user, downgrading(node.url()), &node.identity.to_string(), &[]);
    assert_exit(&output, 4);
    assert_eq!(steps(&output).1.unwrap(), "advertisement");
    assert!(err(&output).contains("taken it out on the way"), "{}", err(&output));
}

/// Somebody on the way who leaves version 2 out of the node's first frame.
fn downgrading(node: String) -> SocketAddr {
    let (sender, started) = std::sync::mpsc::sync_channel(1);
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            sender.send(listener.local_addr().unwrap()).unwrap();
            loop {
                let mut program = accept_async(listener.accept().await.unwrap().0).await.unwrap();
                let (mut node, _) = connect_async(&node).await.unwrap();
                let Some(Ok(Message::Text(first))) = node.next().await else { return };
                let changed = first.as_str().replace("[\"2\",\"1\"]", "[\"1\"]");
                assert_ne!(changed, first.as_str());
                let _ = program.send(Message::text(changed)).await;
                let _ = program.close(None).await;
            }
        });
    });
    started.recv().unwrap()
}
